//! Group commit, and the simulated disk held against the real one.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use common::{contents, payload, seeds, shared, tiny};
use isthmus_storage::{
    EncodeEntry, EntryMeta, Error, HardState, Log, LogId, LogWriter, RealStorage, RecordingStorage,
    SimStorage, Storage, WriterEvent, WriterOptions,
    fs::{Fault, Op, Recording, Rng},
};

fn meta(index: u64) -> EntryMeta {
    EntryMeta { group: 0, term: 1, index, kind: 7 }
}

fn body(index: u64) -> Vec<u8> {
    payload(index, 1, 16 + (index as usize * 131) % 700)
}

fn start(
    storage: Arc<dyn Storage>,
    on_event: impl FnMut(WriterEvent) + Send + 'static,
) -> LogWriter<Vec<u8>> {
    let (log, _) = Log::open(storage, tiny()).unwrap();
    LogWriter::start(log, WriterOptions::default(), on_event).unwrap()
}

#[test]
fn jobs_complete_in_order_and_after_their_sync() {
    let sim = SimStorage::new(1);
    let durable = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&durable);
    let writer = start(shared(&sim), move |event| match event {
        WriterEvent::Durable(d) => seen.store(d.index, Ordering::SeqCst),
        WriterEvent::Failed(e) => panic!("{e}"),
    });
    let (done, completed) = mpsc::channel();
    for index in 1..=500 {
        let done = done.clone();
        let durable = Arc::clone(&durable);
        let complete = Box::new(move |result: isthmus_storage::Result<_>| {
            result.unwrap();
            assert!(durable.load(Ordering::SeqCst) >= index);
            done.send(index).unwrap();
        });
        writer.append(vec![(meta(index), body(index))], complete);
    }
    let hard = HardState { term: 1, voted_for: Some(1), vote_committed: true, committed: 300 };
    let tell = done.clone();
    writer.save_hard_state(hard, Box::new(move |r| tell.send(r.map(|_| 501).unwrap()).unwrap()));
    let tell = done.clone();
    writer.truncate_from(401, Box::new(move |r| tell.send(r.unwrap().index + 102).unwrap()));
    let tell = done;
    let purged = LogId { term: 1, index: 250 };
    writer.purge_to(purged, Box::new(move |r| tell.send(r.map(|_| 503).unwrap()).unwrap()));
    for expected in 1..=503 {
        let got = completed.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(got == expected || expected == 502, "{got} instead of {expected}");
    }
    assert_eq!(writer.reader().last_log_id().index, 400);
    writer.shutdown().unwrap();
    let (log, recovered) = Log::open(shared(&sim.crash(3)), tiny()).unwrap();
    assert!(recovered.clean);
    assert_eq!(recovered.hard_state, hard);
    assert_eq!(contents(&log.reader()).len(), 150);
}

#[test]
fn an_idle_log_is_sealed() {
    let sim = SimStorage::new(1);
    let writer = start(shared(&sim), |_| {});
    let (done, completed) = mpsc::channel();
    writer.append(vec![(meta(1), body(1))], Box::new(move |r| done.send(r.unwrap()).unwrap()));
    completed.recv_timeout(Duration::from_secs(10)).unwrap();
    let segment = sim.list().unwrap().into_iter().find(|n| n.starts_with("log-")).unwrap();
    let sealed = || isthmus_storage::reader::scan(&sim.contents(&segment).unwrap()).unwrap().seals;
    let waited = std::time::Instant::now();
    while sealed() == 0 {
        assert!(waited.elapsed() < Duration::from_secs(10), "no seal");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(sealed(), 1, "one seal is enough");
}

#[test]
fn a_failure_is_told_once_and_to_everybody() {
    for at in 0..60 {
        let sim = SimStorage::new(at);
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&events);
        let writer = start(shared(&sim), move |event| told.lock().unwrap().push(event));
        sim.inject(sim.operations() + at, Fault::Eio);
        let results = Arc::new(Mutex::new(Vec::new()));
        for index in 1..=100 {
            let results = Arc::clone(&results);
            let complete = move |result| results.lock().unwrap().push((index, result));
            writer.append(vec![(meta(index), body(index))], Box::new(complete));
            if index % 10 == 0 {
                std::thread::yield_now();
            }
        }
        let outcome = writer.shutdown();
        let results = results.lock().unwrap();
        assert_eq!(results.len(), 100, "each job completes once");
        let events = events.lock().unwrap();
        let failed = events.iter().filter(|e| matches!(e, WriterEvent::Failed(_))).count();
        assert_eq!(failed, usize::from(outcome.is_err()), "{events:?}");
        if failed == 1 {
            assert!(matches!(events.last(), Some(WriterEvent::Failed(_))), "{events:?}");
        }
        let mut results: Vec<_> = results.iter().collect();
        results.sort_by_key(|(index, _)| *index);
        let durable = results.iter().take_while(|(_, result)| result.is_ok()).count();
        assert!(results[durable..].iter().all(|(_, result)| result.is_err()));
        let (_, recovered) = Log::open(shared(&sim.crash(at)), tiny()).unwrap();
        assert!(recovered.last.index >= durable as u64, "{durable} were reported durable");
    }
}

struct Bomb;

impl EncodeEntry for Bomb {
    fn encode(&self, _: &mut Vec<u8>) {
        panic!("an encoder with a bug");
    }
}

#[test]
fn a_panic_in_an_encoder_fails_the_jobs() {
    let (log, _) = Log::open(shared(&SimStorage::new(1)), tiny()).unwrap();
    let writer = LogWriter::start(log, WriterOptions::default(), |_| {}).unwrap();
    let (done, completed) = mpsc::channel();
    let tell = done.clone();
    writer.append(vec![(meta(1), Bomb)], Box::new(move |r| tell.send(r).unwrap()));
    assert!(matches!(
        completed.recv_timeout(Duration::from_secs(10)).unwrap(),
        Err(Error::Stopped)
    ));
    writer.append(vec![(meta(1), Bomb)], Box::new(move |r| done.send(r).unwrap()));
    assert!(matches!(
        completed.recv_timeout(Duration::from_secs(10)).unwrap(),
        Err(Error::Stopped)
    ));
    assert!(writer.shutdown().is_err());
}

/// What the real storage does under load, done again to the simulated disk and cut anywhere: what
/// was reported durable until then is there.
#[test]
fn a_recording_of_the_real_disk_survives_any_cut() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = RecordingStorage::new(RealStorage::open(dir.path()).unwrap());
    let recording = recorder.recording();
    let notes = recording.clone();
    let writer = start(Arc::new(recorder), move |event| match event {
        WriterEvent::Durable(durable) => notes.note(durable.index),
        WriterEvent::Failed(e) => panic!("{e}"),
    });
    let (done, completed) = mpsc::channel();
    let last = 400;
    for index in 1..=last {
        let done = done.clone();
        let complete = move |r: isthmus_storage::Result<_>| done.send(r.map(drop)).unwrap();
        writer.append(vec![(meta(index), body(index))], Box::new(complete));
        if index % 16 == 0 {
            completed.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
        }
        if index == 200 {
            let purged = LogId { term: 1, index: 100 };
            writer.purge_to(purged, Box::new(|r| assert!(r.is_ok())));
            let hard = HardState { term: 1, voted_for: Some(1), ..HardState::default() };
            writer.save_hard_state(hard, Box::new(|r| assert!(r.is_ok())));
        }
    }
    writer.shutdown().unwrap();
    let ops = recording.ops();
    assert!(ops.iter().any(|op| matches!(op, Op::Note(index) if *index == last)));
    assert!(ops.iter().filter(|op| matches!(op, Op::Rename { .. })).count() > 10);

    for seed in seeds(600) {
        let mut rng = Rng::new(seed);
        let cut = rng.below(ops.len() as u64 + 1) as usize;
        let disk = SimStorage::new(seed);
        Recording::replay(&ops[..cut], &disk).unwrap();
        let durable = ops[..cut].iter().filter_map(|op| match op {
            Op::Note(index) => Some(*index),
            _ => None,
        });
        let durable = durable.max().unwrap_or(0);
        let (log, recovered) = Log::open(shared(&disk.crash(seed)), tiny())
            .unwrap_or_else(|e| panic!("seed {seed}, cut at {cut}: {e}"));
        assert!(
            recovered.last.index >= durable,
            "seed {seed}, cut at {cut}: {durable} was durable"
        );
        for (id, bytes) in contents(&log.reader()) {
            assert_eq!(bytes, body(id.index), "seed {seed}");
        }
    }
}
