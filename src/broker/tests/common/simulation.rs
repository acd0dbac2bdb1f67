//! A run whose order a seed alone decides: one runtime on one thread with virtual time, and beside
//! it the threads of brokers, simulated.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use isthmus_broker::storage::threads::{Host, Next, Simulation, Threads};
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

/// How the brokers of this test run their threads: simulated within [`simulated`].
pub(crate) fn threads() -> Threads {
    SIMULATION.with_borrow(|simulation| {
        simulation.as_ref().map_or_else(Threads::real, Threads::simulated)
    })
}

/// Virtual time since the simulation began; zero outside of one.
pub(crate) fn virtual_time() -> Duration {
    SIMULATION.with_borrow(|simulation| simulation.as_ref().map_or(Duration::ZERO, Simulation::now))
}

/// Runs a test in virtual time, with simulated threads; `seed` chooses when they go on. Returns
/// what comes of the test, and a number for all that was chosen until then.
pub(crate) fn simulated<T>(seed: u64, test: impl Future<Output = T>) -> (T, u64) {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let wake = Arc::new(Notify::new());
    let handle = runtime.handle().clone();
    let start = {
        let _entered = handle.enter();
        Instant::now()
    };
    let host = Runtime { handle, start, wake: Arc::clone(&wake) };
    let simulation = Simulation::new(seed, host);
    SIMULATION.set(Some(simulation.clone()));
    let result = runtime.block_on(async {
        tokio::spawn(drive(simulation.clone(), start, wake));
        let result = test.await;
        (result, simulation.digest())
    });
    drop(runtime);
    SIMULATION.set(None);
    if let Err(names) = simulation.finish() {
        panic!("these threads wait for what never comes: {names:?}");
    }
    result
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

/// How long something has taken: in virtual time where threads are simulated, otherwise by the
/// real clock, for then virtual time jumps while they work.
pub(crate) struct Patience {
    real: std::time::Instant,
    virtual_time: Instant,
    is_simulated: bool,
}

impl Patience {
    pub(crate) fn begin() -> Patience {
        let is_simulated = threads().is_simulated();
        Patience { real: std::time::Instant::now(), virtual_time: Instant::now(), is_simulated }
    }

    pub(crate) fn is_over(&self) -> bool {
        let passed =
            if self.is_simulated { self.virtual_time.elapsed() } else { self.real.elapsed() };
        passed > super::PATIENCE
    }
}
