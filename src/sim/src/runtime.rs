//! A run whose order a seed alone decides: one runtime on one thread with virtual time, and beside
//! it the threads of all nodes, simulated.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use isthmus_cluster::raft::draw_from;
use isthmus_storage::fs::Rng;
use isthmus_storage::threads::{Host, Next, Simulation};
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The runtime, as simulated threads see it.
struct Runtime {
    handle: Handle,
    start: Instant,
    wake: Arc<Notify>,
}

impl Host for Runtime {
    fn now(&self) -> Duration {
        // Whoever asks may be a thread that has not entered the runtime yet.
        let _entered = self.handle.enter();
        self.start.elapsed()
    }

    fn wake(&self) {
        self.wake.notify_one();
    }

    fn run(&self, body: Box<dyn FnOnce() + Send>) {
        let _entered = self.handle.enter();
        body();
    }
}

thread_local! {
    static SIMULATION: RefCell<Option<Simulation>> = const { RefCell::new(None) };
}

/// Virtual time since the simulation of this thread began; zero outside of one.
pub(crate) fn virtual_time() -> Duration {
    SIMULATION.with_borrow(|simulation| simulation.as_ref().map_or(Duration::ZERO, Simulation::now))
}

/// Runs `test` in virtual time; `seed` chooses when threads go on and what elections draw. Returns
/// what comes of it, and a number for all that was chosen until then.
///
/// # Errors
/// The names of threads that wait for what never comes.
pub(crate) fn simulated<T, F: Future<Output = T>>(
    seed: u64,
    test: impl FnOnce(Simulation) -> F,
) -> Result<(T, u64), String> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let wake = Arc::new(Notify::new());
    let handle = runtime.handle().clone();
    let start = {
        let _entered = handle.enter();
        Instant::now()
    };
    let host = Runtime { handle, start, wake: Arc::clone(&wake) };
    let simulation = Simulation::new(seed, host);
    SIMULATION.set(Some(simulation.clone()));
    let mut drawn = Rng::new(!seed);
    draw_from(Some(Box::new(move || drawn.next_u64())));
    let result = runtime.block_on(async {
        tokio::spawn(drive(simulation.clone(), start, wake));
        let result = test(simulation.clone()).await;
        (result, simulation.digest())
    });
    drop(runtime);
    draw_from(None);
    SIMULATION.set(None);
    let finished = simulation.finish();
    finished.map_err(|names| format!("these threads wait for what never comes: {names:?}"))?;
    Ok(result)
}

/// Lets the threads go on, whenever it is time for one, in turns with the runtime's tasks.
async fn drive(simulation: Simulation, start: Instant, wake: Arc<Notify>) {
    loop {
        match simulation.step() {
            Next::Step => tokio::task::yield_now().await,
            Next::StepAt(at) => tokio::select! {
                biased;
                () = wake.notified() => {}
                () = tokio::time::sleep_until(start + at) => {}
            },
            Next::Nothing => wake.notified().await,
        }
    }
}
