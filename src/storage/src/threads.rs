//! What runs beside whoever submits work: the threads of the log, of pages and of checkpoints.
//!
//! Whoever embeds the storage chooses once how they are executed. [`Threads::real`] gives threads
//! of the operating system. [`Threads::simulated`] gives the same bodies to a [`Simulation`], which
//! lets one of them go on at a time, chosen by a seed, and switches between them wherever a thread
//! waits and before every operation of a [simulated disk](crate::SimStorage): so the same seed
//! replays the same run, whatever the scheduler of the operating system does.
//!
//! A body knows nothing of this as long as it waits only here: on a [`Signal`], on a [`Receiver`],
//! for a [`Thread`] to end. It must not hold a lock that somebody else wants across an operation of
//! the disk, which is a rule for real threads too.

mod channel;
mod simulation;

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

pub use self::channel::{Receiver, Sender};
pub use self::simulation::{Host, Next, Simulation};

/// How threads are executed; real by default. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Threads {
    simulation: Option<Simulation>,
    /// By how much the wall clock is ahead of the simulation's.
    ahead: Duration,
}

impl Threads {
    /// Threads of the operating system.
    #[must_use]
    pub fn real() -> Self {
        Self::default()
    }

    /// Threads that `simulation` runs, one at a time.
    #[must_use]
    pub fn simulated(simulation: &Simulation) -> Self {
        Self { simulation: Some(simulation.clone()), ahead: Duration::ZERO }
    }

    /// The same threads, on a machine whose wall clock is ahead of the others by `ahead`. Without
    /// effect on real ones.
    #[must_use]
    pub fn with_clock_ahead(self, ahead: Duration) -> Self {
        Self { ahead, ..self }
    }

    /// Whether they are simulated.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        self.simulation.is_some()
    }

    /// Starts a thread. Dropping what is returned leaves it to itself.
    ///
    /// # Errors
    /// If the operating system has no more threads.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Thread<T>> {
        let Some(simulation) = &self.simulation else {
            let handle = thread::Builder::new().name(name.to_owned()).spawn(body)?;
            return Ok(Thread(Handle::Real(handle)));
        };
        let end = Arc::new((Mutex::new(None), self.signal()));
        let ended = Arc::clone(&end);
        let body = move || {
            let result = catch_unwind(AssertUnwindSafe(body));
            *ended.0.lock() = Some(result);
            ended.1.notify_all();
        };
        simulation.spawn(name, Box::new(body))?;
        Ok(Thread(Handle::Simulated(end)))
    }

    /// Something to wait on.
    #[must_use]
    pub fn signal(&self) -> Signal {
        Signal(match &self.simulation {
            None => Wakes::Real(Condvar::new()),
            Some(simulation) => {
                Wakes::Simulated { simulation: simulation.clone(), id: simulation.new_signal() }
            }
        })
    }

    /// A queue without a bound, with one who takes from it.
    #[must_use]
    pub fn channel<T>(&self) -> (Sender<T>, Receiver<T>) {
        channel::channel(self.signal())
    }

    /// The time of the wall clock. A simulation's goes with its virtual time.
    #[must_use]
    pub fn wall_clock(&self) -> SystemTime {
        let simulated = self.simulation.as_ref();
        simulated.map_or_else(SystemTime::now, |simulation| simulation.wall_clock() + self.ahead)
    }
}

/// A thread that was started.
pub struct Thread<T>(Handle<T>);

enum Handle<T> {
    Real(thread::JoinHandle<T>),
    Simulated(Arc<(Mutex<Option<thread::Result<T>>>, Signal)>),
}

impl<T> fmt::Debug for Thread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").finish_non_exhaustive()
    }
}

impl<T> Thread<T> {
    /// Waits for its end.
    ///
    /// # Errors
    /// What it panicked with.
    pub fn join(self) -> thread::Result<T> {
        match self.0 {
            Handle::Real(handle) => handle.join(),
            Handle::Simulated(end) => {
                let (result, ended) = &*end;
                let mut result = result.lock();
                loop {
                    if let Some(result) = result.take() {
                        return result;
                    }
                    ended.wait(&mut result);
                }
            }
        }
    }
}

/// A condition variable.
pub struct Signal(Wakes);

enum Wakes {
    Real(Condvar),
    Simulated { simulation: Simulation, id: u64 },
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal").finish_non_exhaustive()
    }
}

impl Signal {
    /// Gives `guard` back, waits until it is notified, and takes it again. It may also return for
    /// no reason.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        match &self.0 {
            Wakes::Real(condvar) => condvar.wait(guard),
            Wakes::Simulated { simulation, id } => {
                MutexGuard::unlocked(guard, || simulation.wait(*id, None));
            }
        }
    }

    /// As [`Signal::wait`], for `time` at the most; returns whether that has passed.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, time: Duration) -> bool {
        match &self.0 {
            Wakes::Real(condvar) => condvar.wait_for(guard, time).timed_out(),
            Wakes::Simulated { simulation, id } => {
                MutexGuard::unlocked(guard, || simulation.wait(*id, Some(time)))
            }
        }
    }

    /// Wakes one who waits.
    pub fn notify_one(&self) {
        match &self.0 {
            Wakes::Real(condvar) => {
                condvar.notify_one();
            }
            Wakes::Simulated { simulation, id } => simulation.notify(*id, 1),
        }
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        match &self.0 {
            Wakes::Real(condvar) => {
                condvar.notify_all();
            }
            Wakes::Simulated { simulation, id } => simulation.notify(*id, usize::MAX),
        }
    }
}

/// Lets others go on first, if the current thread is a simulated one.
pub fn pause() {
    simulation::pause();
}

/// Measures how long the current thread takes, in the time that it lives in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stopwatch {
    Real(Instant),
    Simulated(Duration),
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        simulation::now().map_or_else(|| Self::Real(Instant::now()), Self::Simulated)
    }

    pub(crate) fn elapsed(self) -> Duration {
        match self {
            Self::Real(begun) => begun.elapsed(),
            Self::Simulated(begun) => simulation::now().unwrap_or(begun).saturating_sub(begun),
        }
    }
}

/// Lets `time` pass on the current thread, in the time that it lives in.
pub(crate) fn rest(time: Duration) {
    if !simulation::rest(time) {
        thread::sleep(time);
    }
}
