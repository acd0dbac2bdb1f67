//! The log in fair weather, and what it refuses.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;

use common::{append, contents, payload, shared, tiny};
use isthmus_storage::{
    Error, HardState, Log, LogId, LogOptions, RealStorage, SimStorage, Storage, fs::Fault,
};

fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

fn fill(log: &mut Log, term: u64, indexes: std::ops::RangeInclusive<u64>, len: usize) {
    for index in indexes {
        append(log, id(term, index), &payload(index, term, len)).unwrap();
    }
}

#[test]
fn entries_come_back_over_segments_and_restarts() {
    let sim = SimStorage::new(1);
    let (mut log, recovered) = Log::open(shared(&sim), tiny()).unwrap();
    assert!(recovered.clean);
    fill(&mut log, 1, 1..=200, 300);
    assert_eq!(log.durable_index(), 199 - 199 % 11, "all segments but the last were synced");
    assert_eq!(log.sync().unwrap(), 200);
    let before = contents(&log.reader());
    assert_eq!(before.len(), 200);
    assert_eq!(before[99], (id(1, 100), payload(100, 1, 300)));
    log.close().unwrap();
    let (mut log, recovered) = Log::open(shared(&sim), tiny()).unwrap();
    assert!(recovered.clean && recovered.cut.is_none());
    assert_eq!(recovered.last, id(1, 200));
    assert_eq!(contents(&log.reader()), before);
    fill(&mut log, 2, 201..=203, 300);
    drop(log);
    let (log, recovered) = Log::open(shared(&sim), tiny()).unwrap();
    assert!(!recovered.clean);
    assert_eq!(recovered.last, id(2, 203));
    let read = log.reader().read(150, 160, usize::MAX).unwrap();
    assert_eq!(
        read.iter().map(|e| e.meta.index).collect::<Vec<_>>(),
        (150..160).collect::<Vec<_>>()
    );
    assert_eq!(log.reader().read(150, 160, 1).unwrap().len(), 1, "one entry whatever the budget");
    assert_eq!(log.reader().read(204, 300, 1).unwrap(), []);
}

#[test]
fn a_truncated_entry_is_replaced() {
    let sim = SimStorage::new(1);
    let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
    fill(&mut log, 1, 1..=60, 300);
    log.truncate_from(30).unwrap();
    assert_eq!(log.last_log_id(), id(1, 29));
    fill(&mut log, 3, 30..=40, 300);
    log.truncate_from(40).unwrap();
    fill(&mut log, 4, 40..=41, 100);
    log.sync().unwrap();
    let before = contents(&log.reader());
    assert_eq!(before.len(), 41);
    assert_eq!(before[28].0, id(1, 29));
    assert_eq!(before[38].0, id(3, 39));
    assert_eq!(before[39], (id(4, 40), payload(40, 4, 100)));
    drop(log);
    let (log, _) = Log::open(shared(&sim), tiny()).unwrap();
    assert_eq!(contents(&log.reader()), before);
}

#[test]
fn purging_recycles_segments_and_is_remembered() {
    let sim = SimStorage::new(1);
    let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
    fill(&mut log, 1, 1..=100, 300);
    // Segments that grew are removed; prepared ones come back as spares.
    assert!(log.prepare_spare().unwrap());
    assert!(!log.prepare_spare().unwrap(), "one spare is enough");
    fill(&mut log, 1, 101..=130, 300);
    let segments =
        |sim: &SimStorage| sim.list().unwrap().iter().filter(|n| n.starts_with("log-")).count();
    let before = segments(&sim);
    log.purge_to(id(1, 125)).unwrap();
    assert!(segments(&sim) < before);
    assert_eq!(log.spares().ready(), 1, "the prepared segment was recycled");
    assert_eq!(log.reader().term_of(125), Some(1));
    assert_eq!(log.reader().term_of(124), None);
    assert!(matches!(log.reader().read(125, 126, 1), Err(Error::Purged { purged: 125, .. })));
    fill(&mut log, 1, 131..=200, 300);
    drop(log);
    let (log, recovered) = Log::open(shared(&sim), tiny()).unwrap();
    assert_eq!((recovered.purged, recovered.last), (id(1, 125), id(1, 200)));
    assert_eq!(contents(&log.reader()).len(), 75);
}

#[test]
fn a_reader_keeps_its_segment_while_it_is_purged() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(RealStorage::open(dir.path()).unwrap());
    let (mut log, _) = Log::open(storage, tiny()).unwrap();
    log.prepare_spare().unwrap();
    fill(&mut log, 1, 1..=60, 300);
    let reader = log.reader();
    let mut seen = 0;
    reader
        .visit(1, 12, |meta, bytes| {
            if seen == 0 {
                log.purge_to(id(1, 60)).unwrap();
                fill(&mut log, 1, 61..=120, 300);
            }
            seen += 1;
            assert_eq!(bytes, payload(meta.index, 1, 300));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, 11);
}

#[test]
fn a_purge_beyond_the_end_moves_the_log() {
    let sim = SimStorage::new(1);
    let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
    fill(&mut log, 1, 1..=10, 300);
    log.purge_to(id(5, 1000)).unwrap();
    assert_eq!(log.last_log_id(), id(5, 1000));
    fill(&mut log, 5, 1001..=1003, 300);
    log.sync().unwrap();
    drop(log);
    let (log, recovered) = Log::open(shared(&sim), tiny()).unwrap();
    assert_eq!((recovered.purged, recovered.last), (id(5, 1000), id(5, 1003)));
    assert_eq!(contents(&log.reader()).len(), 3);
}

#[test]
fn the_hard_state_is_kept_and_never_goes_back() {
    let sim = SimStorage::new(1);
    let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
    let vote = HardState { term: 4, voted_for: Some(2), vote_committed: false, committed: 0 };
    log.save_hard_state(vote).unwrap();
    let second = HardState { voted_for: Some(3), ..vote };
    assert!(matches!(log.save_hard_state(second), Err(Error::Misuse { .. })));
    log.save_hard_state(HardState { vote_committed: true, ..second }).unwrap();
    fill(&mut log, 4, 1..=3, 10);
    log.sync().unwrap();
    let operations = sim.operations();
    log.save_hard_state(HardState { vote_committed: true, committed: 2, ..second }).unwrap();
    assert_eq!(sim.operations(), operations, "a committed index alone costs nothing");
    assert!(matches!(log.truncate_from(2), Err(Error::Misuse { .. })), "2 is committed");
    log.seal().unwrap();
    drop(log);
    let (log, recovered) = Log::open(shared(&sim.crash(7)), tiny()).unwrap();
    assert_eq!(recovered.hard_state, HardState { vote_committed: true, committed: 2, ..second });
    assert_eq!(log.hard_state(), recovered.hard_state);
}

#[test]
fn what_does_not_follow_is_refused_and_changes_nothing() {
    let sim = SimStorage::new(1);
    let options = LogOptions { entry_bytes_max: 1000, ..tiny() };
    let (mut log, _) = Log::open(shared(&sim), options).unwrap();
    fill(&mut log, 2, 1..=2, 100);
    for (wrong, len) in [(id(2, 4), 10), (id(2, 2), 10), (id(1, 3), 10), (id(2, 3), 1001)] {
        let refused = append(&mut log, wrong, &payload(1, 1, len));
        assert!(matches!(refused, Err(Error::Misuse { .. })), "{wrong:?}");
    }
    log.begin().extend_from_slice(b"given up");
    fill(&mut log, 2, 3..=3, 1000);
    log.sync().unwrap();
    drop(log);
    let (log, _) = Log::open(shared(&sim), tiny()).unwrap();
    assert_eq!(contents(&log.reader()).len(), 3);
}

#[test]
fn an_entry_larger_than_a_segment_has_its_own() {
    let sim = SimStorage::new(1);
    let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
    fill(&mut log, 1, 1..=3, 100);
    fill(&mut log, 1, 4..=4, 100_000);
    fill(&mut log, 1, 5..=6, 100);
    log.sync().unwrap();
    let before = contents(&log.reader());
    drop(log);
    let (log, _) = Log::open(shared(&sim), tiny()).unwrap();
    assert_eq!(contents(&log.reader()), before);
    assert_eq!(before[3].1.len(), 100_000);
}

#[test]
fn restarts_do_not_pile_up_segments() {
    let sim = SimStorage::new(1);
    for _ in 0..20 {
        let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
        log.seal().unwrap();
        drop(log);
    }
    assert_eq!(sim.list().unwrap().iter().filter(|n| n.ends_with(".seg")).count(), 1);
}

#[test]
fn a_directory_has_one_process() {
    let sim = SimStorage::new(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let real = || Arc::new(RealStorage::open(&path).unwrap());
    let held = [Log::open(shared(&sim), tiny()).unwrap(), Log::open(real(), tiny()).unwrap()];
    assert!(matches!(Log::open(shared(&sim), tiny()), Err(Error::Locked { .. })));
    let refused = Log::open(real(), tiny()).unwrap_err();
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    drop(held);
    Log::open(real(), tiny()).unwrap();
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn an_unknown_version_is_refused_by_name() {
    let sim = SimStorage::new(1);
    drop(Log::open(shared(&sim), tiny()).unwrap());
    let line = sim.contents("FORMAT").unwrap();
    assert_eq!(line, b"isthmus data directory, format 2\n");
    assert!(sim.overwrite("FORMAT", line.len() as u64 - 2, b"9"));
    let refused = Log::open(shared(&sim), tiny()).unwrap_err();
    assert!(matches!(&refused, Error::UnknownVersion { found, .. } if found == "9"), "{refused}");
    assert!(refused.to_string().contains("start the release that wrote it"), "{refused}");
}

/// An older format is replaced in one step, before anything of the newer one can be written, and
/// whenever the power goes the directory opens.
#[test]
fn an_older_format_is_upgraded_whenever_the_power_goes() {
    let sim = SimStorage::new(1);
    let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
    append(&mut log, LogId { term: 1, index: 1 }, b"kept").unwrap();
    log.close().unwrap();
    let line = sim.contents("FORMAT").unwrap();
    assert!(sim.overwrite("FORMAT", line.len() as u64 - 2, b"1"));
    let undisturbed = sim.fork();
    drop(Log::open(shared(&undisturbed), tiny()).unwrap());
    assert_eq!(undisturbed.contents("FORMAT").unwrap(), line);
    assert_eq!(undisturbed.crash(1).contents("FORMAT").unwrap(), line, "it is durable");
    for cut in 0..undisturbed.operations() {
        for seed in 0..8 {
            let disk = sim.fork();
            disk.inject(cut, Fault::PowerCut);
            drop(Log::open(shared(&disk), tiny()));
            let disk = disk.crash(seed);
            let (log, recovered) = Log::open(shared(&disk), tiny()).unwrap();
            assert_eq!(recovered.last.index, 1);
            drop(log);
            assert_eq!(disk.contents("FORMAT").unwrap(), line);
        }
    }
    // A directory that does not open is left as it is.
    let segment = sim.list().unwrap().into_iter().find(|n| n.starts_with("log-")).unwrap();
    assert!(sim.flip_bit(&segment, 4096 + 65, 1));
    drop(Log::open(shared(&sim), tiny()).unwrap_err());
    assert!(sim.contents("FORMAT").unwrap().ends_with(b"1\n"));
}

#[test]
fn an_error_is_the_end_of_the_log() {
    let sim = SimStorage::new(1);
    let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
    fill(&mut log, 1, 1..=1, 100);
    sim.inject(sim.operations(), Fault::Eio);
    let failed = log.sync().unwrap_err();
    assert!(failed.to_string().starts_with("cannot sync log-"), "{failed}");
    let operations = sim.operations();
    let later = [
        log.sync().map(drop),
        log.flush(),
        log.seal(),
        log.purge_to(id(1, 1)),
        log.truncate_from(1),
        log.save_hard_state(HardState { term: 1, ..HardState::default() }),
        append(&mut log, id(1, 2), b"later"),
        log.close(),
    ];
    for result in later {
        assert_eq!(result.unwrap_err().to_string(), failed.to_string());
    }
    assert_eq!(sim.operations(), operations, "nothing is tried again");
}

#[test]
fn what_was_read_from_the_cache_is_written_again() {
    // A sync fails and loses the data, which still reads back; the process aborts and starts again
    // without a power cut, and what it finds must be durable before it is reported as found.
    for seed in 0..200 {
        let sim = SimStorage::new(seed);
        let (mut log, _) = Log::open(shared(&sim), tiny()).unwrap();
        fill(&mut log, 1, 1..=4, 700);
        log.sync().unwrap();
        fill(&mut log, 1, 5..=8, 700);
        sim.inject(sim.operations(), Fault::Eio);
        log.sync().unwrap_err();
        drop(log);
        let (log, recovered) = Log::open(shared(&sim), tiny()).unwrap();
        assert_eq!(recovered.last.index, 8);
        drop(log);
        let (_, recovered) = Log::open(shared(&sim.crash(seed)), tiny()).unwrap();
        assert_eq!(recovered.last.index, 8, "seed {seed}");
    }
}
