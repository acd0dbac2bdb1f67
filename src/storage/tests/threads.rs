//! Simulated threads, without any runtime.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{contents, payload, shared, tiny};
use isthmus_storage::{
    EntryMeta, Log, LogWriter, SimStorage, Threads, WriterEvent, WriterOptions,
    threads::{Host, Next, Simulation, pause},
};
use parking_lot::Mutex;

/// A clock that is set by hand.
#[derive(Clone, Default)]
struct Clock(Arc<Mutex<Duration>>);

impl Host for Clock {
    fn now(&self) -> Duration {
        *self.0.lock()
    }

    // Whoever steps looks by itself.
    fn wake(&self) {}

    fn run(&self, body: Box<dyn FnOnce() + Send>) {
        body();
    }
}

struct World {
    clock: Clock,
    simulation: Simulation,
    threads: Threads,
}

impl World {
    fn new(seed: u64) -> World {
        let clock = Clock::default();
        let simulation = Simulation::new(seed, clock.clone());
        let threads = Threads::simulated(&simulation);
        World { clock, simulation, threads }
    }

    /// Goes on until nothing happens any more, or `end` has come.
    fn go_on(&self, end: Duration) {
        loop {
            match self.simulation.step() {
                Next::Step => {}
                Next::StepAt(at) if at <= end => *self.clock.0.lock() = at,
                Next::StepAt(_) | Next::Nothing => return,
            }
        }
    }
}

const LONG: Duration = Duration::from_secs(3600);

/// In which order three threads say three words each.
fn words(seed: u64) -> Vec<(usize, usize)> {
    let world = World::new(seed);
    let said = Arc::new(Mutex::new(Vec::new()));
    for thread in 0..3 {
        let said = Arc::clone(&said);
        let speak = move || {
            for word in 0..3 {
                said.lock().push((thread, word));
                pause();
            }
        };
        world.threads.spawn("speaker", speak).unwrap();
    }
    world.go_on(LONG);
    world.simulation.finish().unwrap();
    Arc::into_inner(said).unwrap().into_inner()
}

#[test]
fn a_seed_chooses_the_order_and_always_the_same() {
    let orders: BTreeSet<_> = (0..100).map(words).collect();
    assert!(orders.len() > 80, "only {} orders", orders.len());
    for seed in 0..10 {
        assert_eq!(words(seed), words(seed));
    }
}

#[test]
fn time_passes_for_those_who_wait_and_for_nobody_else() {
    let world = World::new(1);
    let (signal, lock) = (world.threads.signal(), Mutex::new(()));
    let threads = world.threads.clone();
    let begin = threads.wall_clock();
    let wait = move || {
        let mut guard = lock.lock();
        let timed_out = signal.wait_for(&mut guard, Duration::from_secs(60));
        (timed_out, threads.wall_clock())
    };
    let thread = world.threads.spawn("waits", wait).unwrap();
    let real = SystemTime::now();
    world.go_on(LONG);
    assert!(real.elapsed().unwrap() < Duration::from_secs(30));
    let (timed_out, end) = thread.join().unwrap();
    assert!(timed_out);
    let passed = end.duration_since(begin).unwrap();
    assert!((60_000..60_100).contains(&passed.as_millis()), "{passed:?}");
}

#[test]
fn who_waits_for_what_never_comes_is_named() {
    let world = World::new(1);
    let (sender, receiver) = world.threads.channel::<()>();
    world.threads.spawn("forlorn", move || receiver.recv()).unwrap();
    world.threads.spawn("at ease", || ()).unwrap();
    world.go_on(LONG);
    assert_eq!(world.simulation.finish(), Err(vec!["forlorn".to_owned()]));
    drop(sender);
    world.simulation.finish().unwrap();
}

#[test]
fn a_panic_is_told_to_whoever_joins() {
    let world = World::new(1);
    let thread = world.threads.spawn("fails", || panic!("on purpose")).unwrap();
    assert!(thread.join().is_err());
}

/// A log written by simulated threads; what the disk was asked for, and when groups were durable.
fn write(seed: u64) -> (u64, u64, Vec<(Duration, u64)>) {
    let world = World::new(seed);
    let sim = SimStorage::new(7);
    let (log, _) = Log::open(shared(&sim), tiny()).unwrap();
    let durable = Arc::new(Mutex::new(Vec::new()));
    let (heard, clock) = (Arc::clone(&durable), world.clock.clone());
    let on_event = move |event| match event {
        WriterEvent::Durable(group) => heard.lock().push((clock.now(), group.index)),
        WriterEvent::Failed(error) => panic!("{error}"),
    };
    let options = WriterOptions { threads: world.threads.clone(), ..WriterOptions::default() };
    let writer = LogWriter::start(log, options, on_event).unwrap();
    for index in 1..=200 {
        let meta = EntryMeta { group: 0, term: 1, index, kind: 7 };
        writer.append(vec![(meta, payload(index, 1, 100))], Box::new(|_| {}));
        world.go_on(Duration::from_millis(index));
    }
    world.go_on(Duration::from_millis(500));
    // The host's own thread waits here, and lets the writer end by itself.
    writer.shutdown().unwrap();
    world.simulation.finish().unwrap();
    let (log, recovered) = Log::open(shared(&sim.crash(seed)), tiny()).unwrap();
    assert!(recovered.clean);
    assert_eq!(contents(&log.reader()).len(), 200);
    let durable = durable.lock().clone();
    (sim.digest(), world.simulation.digest(), durable)
}

#[test]
fn a_log_is_written_the_same_way_again() {
    let mut ways = BTreeSet::new();
    for seed in 0..20 {
        let first = write(seed);
        assert_eq!(first, write(seed));
        assert!(first.2.len() > 2, "one group took them all");
        ways.insert(first.0);
    }
    assert!(ways.len() > 15, "only {} ways", ways.len());
}
