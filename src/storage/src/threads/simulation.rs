//! Threads that go on one at a time, in an order that a seed chooses.
//!
//! Each is a thread of the operating system, so that its body needs no other form than in
//! production; but it moves only while it has the baton, and gives it back where it waits and
//! before every operation of the simulated disk. Then it is chosen by the seed, and at which
//! virtual time, that it goes on: before, after and between the others.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt, io,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::fs::Rng;

/// The wall clock's time when virtual time begins, in seconds after 1970.
const EPOCH_SECONDS: u64 = 1_700_000_000;

/// Times that one end of a simulation lets threads go on before it takes them for stuck.
const LAST_STEPS_MAX: u64 = 1_000_000;

/// What a simulation lives in: a runtime with virtual time, on one thread.
pub trait Host: Send + Sync + 'static {
    /// Virtual time since the beginning.
    fn now(&self) -> Duration;
    /// A simulated thread can go on: [`Simulation::step`] is to be called again, whatever it said
    /// last. May be called on any thread, and within a step.
    fn wake(&self);
    /// Calls `body` on the current thread, within whatever code finds the host by.
    fn run(&self, body: Box<dyn FnOnce() + Send>);
}

/// What is to be done after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next step.
    Step,
    /// The next step, at this virtual time.
    StepAt(Duration),
    /// Nothing, before something happens.
    Nothing,
}

/// The simulated threads of a whole run. Clones are the same.
///
/// All that happens must happen on the host's thread or on simulated ones: then it happens in one
/// order, which the seed alone decides.
#[derive(Clone)]
pub struct Simulation(Arc<Inner>);

struct Inner {
    host: Box<dyn Host>,
    state: Mutex<State>,
}

struct State {
    rng: Rng,
    /// By their numbers, in the order of their starts.
    threads: BTreeMap<u64, Simulated>,
    next_thread: u64,
    next_signal: u64,
    /// The host's own thread waits on this signal.
    outside: Option<u64>,
    /// Virtual time is not before this.
    not_before: Duration,
    digest: u64,
}

/// A thread, while somebody else goes on.
struct Simulated {
    name: String,
    baton: Arc<Baton>,
    rests: Rests,
    timed_out: bool,
}

/// Why a thread rests.
#[derive(Clone, Copy)]
enum Rests {
    /// It goes on at this time.
    Until(Duration),
    /// It waits on a signal, and not beyond a time.
    On(u64, Option<Duration>),
}

impl Rests {
    fn until(self) -> Option<Duration> {
        match self {
            Rests::Until(at) => Some(at),
            Rests::On(_, until) => until,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Host,
    Thread,
}

/// Says who goes on, a thread or the host.
struct Baton {
    holder: Mutex<Holder>,
    passed: Condvar,
}

impl Baton {
    fn pass_to(&self, to: Holder) {
        *self.holder.lock() = to;
        self.passed.notify_all();
    }

    fn await_as(&self, wanted: Holder) {
        let mut holder = self.holder.lock();
        while *holder != wanted {
            self.passed.wait(&mut holder);
        }
    }

    /// From the host: lets the thread go on until it rests.
    fn lend(&self) {
        self.pass_to(Holder::Thread);
        self.await_as(Holder::Host);
    }

    /// From the thread: rests.
    fn give_back(&self) {
        self.pass_to(Holder::Host);
        self.await_as(Holder::Thread);
    }
}

#[derive(Clone)]
struct Current {
    simulation: Simulation,
    thread: u64,
    baton: Arc<Baton>,
}

thread_local! {
    /// Which simulated thread this is.
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

fn current() -> Option<Current> {
    CURRENT.with_borrow(Clone::clone)
}

/// Lets others go on first, if the current thread is a simulated one.
pub(super) fn pause() {
    if let Some(current) = current() {
        current.rest(|state, now| {
            let delay = state.delay();
            Rests::Until(now + delay)
        });
    }
}

/// The virtual time of the current thread, if it is a simulated one.
pub(super) fn now() -> Option<Duration> {
    current().map(|current| current.simulation.now())
}

/// Lets virtual time pass, if the current thread is a simulated one; returns whether it is.
pub(super) fn rest(time: Duration) -> bool {
    let Some(current) = current() else { return false };
    current.rest(|_, now| Rests::Until(now + time));
    true
}

impl Current {
    /// Gives the baton back; returns whether what it waited for did not come in time.
    fn rest(&self, rests: impl FnOnce(&mut State, Duration) -> Rests) -> bool {
        {
            let (mut state, now) = self.simulation.state();
            let rests = rests(&mut state, now);
            if let Some(simulated) = state.threads.get_mut(&self.thread) {
                simulated.rests = rests;
                simulated.timed_out = false;
            }
        }
        self.baton.give_back();
        let (state, _) = self.simulation.state();
        state.threads.get(&self.thread).is_some_and(|simulated| simulated.timed_out)
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").finish_non_exhaustive()
    }
}

impl Simulation {
    /// A simulation without threads, whose order `seed` chooses.
    #[must_use]
    pub fn new(seed: u64, host: impl Host) -> Self {
        Self(Arc::new(Inner {
            host: Box::new(host),
            state: Mutex::new(State {
                rng: Rng::new(seed),
                threads: BTreeMap::new(),
                next_thread: 0,
                next_signal: 0,
                outside: None,
                not_before: Duration::ZERO,
                digest: 0,
            }),
        }))
    }

    /// Lets one thread go on, from where it rests to where it rests next, if it is time for one.
    /// To be called on the host's thread.
    pub fn step(&self) -> Next {
        let (mut state, now) = self.state();
        match state.choose(now) {
            Ok(thread) => {
                self.lend(state, thread, now);
                Next::Step
            }
            Err(Some(at)) => Next::StepAt(at),
            Err(None) => Next::Nothing,
        }
    }

    /// Lets threads go on until all have ended, however far ahead of virtual time. To be called on
    /// the host's thread, when nothing else of the host goes on any more.
    ///
    /// # Errors
    /// The names of the threads that wait for what never comes.
    pub fn finish(&self) -> Result<(), Vec<String>> {
        for _ in 0..LAST_STEPS_MAX {
            if !self.step_ahead() {
                break;
            }
        }
        let names: Vec<_> =
            self.0.state.lock().threads.values().map(|thread| thread.name.clone()).collect();
        if names.is_empty() { Ok(()) } else { Err(names) }
    }

    /// A number for all that was chosen so far: which thread went on when.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.0.state.lock().digest
    }

    /// Virtual time since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.state().1
    }

    pub(super) fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS) + self.now()
    }

    pub(super) fn new_signal(&self) -> u64 {
        let mut state = self.0.state.lock();
        state.next_signal += 1;
        state.next_signal
    }

    pub(super) fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        let baton = Arc::new(Baton { holder: Mutex::new(Holder::Host), passed: Condvar::new() });
        let (mut state, now) = self.state();
        let number = state.next_thread;
        state.next_thread += 1;
        let rests = Rests::Until(now + state.delay());
        let current =
            Current { simulation: self.clone(), thread: number, baton: Arc::clone(&baton) };
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let Current { simulation, thread, baton } = current.clone();
            baton.await_as(Holder::Thread);
            CURRENT.set(Some(current));
            simulation.0.host.run(body);
            CURRENT.set(None);
            simulation.0.state.lock().threads.remove(&thread);
            drop(simulation);
            baton.pass_to(Holder::Host);
        })?;
        let simulated = Simulated { name: name.to_owned(), baton, rests, timed_out: false };
        state.threads.insert(number, simulated);
        drop(state);
        self.0.host.wake();
        Ok(())
    }

    /// Waits on a signal; returns whether `time` has passed.
    ///
    /// The host's own thread can wait only for what the simulated threads do without it.
    pub(super) fn wait(&self, signal: u64, time: Option<Duration>) -> bool {
        if let Some(current) = current() {
            return current.rest(|_, now| Rests::On(signal, time.map(|time| now + time)));
        }
        let (mut state, begin) = self.state();
        state.outside = Some(signal);
        drop(state);
        loop {
            if self.0.state.lock().outside.is_none() {
                return false;
            }
            if time.is_some_and(|time| self.now() >= begin + time) || !self.step_ahead() {
                assert!(time.is_some(), "this waits for what never comes");
                self.0.state.lock().outside = None;
                return true;
            }
        }
    }

    /// Wakes `count` of those who wait on a signal.
    pub(super) fn notify(&self, signal: u64, count: usize) {
        let (mut state, now) = self.state();
        state.outside.take_if(|waited| *waited == signal);
        let waiting: Vec<u64> = state
            .threads
            .iter()
            .filter(|(_, simulated)| matches!(simulated.rests, Rests::On(on, _) if on == signal))
            .map(|(number, _)| *number)
            .take(count)
            .collect();
        for number in &waiting {
            let delay = state.delay();
            if let Some(simulated) = state.threads.get_mut(number) {
                simulated.rests = Rests::Until(now + delay);
            }
        }
        drop(state);
        if !waiting.is_empty() {
            self.0.host.wake();
        }
    }

    fn state(&self) -> (MutexGuard<'_, State>, Duration) {
        let now = self.0.host.now();
        let state = self.0.state.lock();
        let now = now.max(state.not_before);
        (state, now)
    }

    fn lend(&self, mut state: MutexGuard<'_, State>, thread: u64, now: Duration) {
        state.digest = mix(mix(state.digest, thread), now.as_nanos() as u64);
        let Some(simulated) = state.threads.get_mut(&thread) else { return };
        simulated.timed_out = matches!(simulated.rests, Rests::On(..));
        let baton = Arc::clone(&simulated.baton);
        drop(state);
        baton.lend();
    }

    /// Lets the thread go on that is the first to, without waiting for virtual time.
    fn step_ahead(&self) -> bool {
        let (mut state, now) = self.state();
        let until = |simulated: &Simulated| simulated.rests.until();
        let first = state
            .threads
            .iter()
            .filter_map(|(number, simulated)| Some((until(simulated)?, *number)))
            .min();
        let Some((at, thread)) = first else { return false };
        let now = now.max(at);
        state.not_before = now;
        self.lend(state, thread, now);
        true
    }
}

impl State {
    /// Chooses who goes on now; or says when somebody will.
    fn choose(&mut self, now: Duration) -> Result<u64, Option<Duration>> {
        let times = || self.threads.iter().filter_map(|(n, t)| Some((*n, t.rests.until()?)));
        let due: Vec<u64> = times().filter(|(_, at)| *at <= now).map(|(n, _)| n).collect();
        if due.is_empty() {
            return Err(times().map(|(_, at)| at).min());
        }
        Ok(due[self.rng.below(due.len() as u64) as usize])
    }

    /// For how long somebody rests who could go on: mostly not at all, now and then for as long as
    /// a slow disk takes.
    fn delay(&mut self) -> Duration {
        Duration::from_millis(match self.rng.below(10) {
            0..6 => 0,
            6..9 => 1,
            _ => 2 + self.rng.below(8),
        })
    }
}

fn mix(digest: u64, with: u64) -> u64 {
    Rng::new(digest ^ with.rotate_left(32)).next_u64()
}
