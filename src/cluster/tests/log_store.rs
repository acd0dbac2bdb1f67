//! The log store on a disk that loses power or fails.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use isthmus_cluster::raft::{Entry, RaftLog, RaftLogId, RaftLogOptions, RaftTypes, Vote};
use isthmus_storage::{LogOptions, SimStorage, WriterEvent, fs::Fault};
use openraft::{
    EntryPayload, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage, RaftLogStorageExt},
    type_config::TypeConfigExt,
    vote::leader_id_std::CommittedLeaderId,
};

fn id(term: u64, index: u64) -> RaftLogId {
    RaftLogId::new(CommittedLeaderId::new(term), index)
}

fn entry(term: u64, index: u64) -> Entry {
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(vec![7; 100].into()) }
}

/// Small segments: a simulated disk is in memory.
fn options() -> RaftLogOptions {
    let log = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
    RaftLogOptions { log, ..RaftLogOptions::default() }
}

fn open(disk: &SimStorage) -> RaftLog {
    let opened = RaftLog::open(Arc::new(disk.clone()), options(), |_| {});
    opened.expect("the log opens").0
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(test);
}

#[test]
fn what_was_answered_survives_a_power_cut() {
    block_on(async {
        for seed in 0..50 {
            let disk = SimStorage::new(seed);
            let mut log = open(&disk);
            log.save_vote(&Vote::new(3, 9)).await.expect("saved");
            log.save_vote(&Vote::new_committed(3, 2)).await.expect("another won the term");
            log.blocking_append((0..5).map(|i| entry(3, i))).await.expect("durable");
            log.save_committed(Some(id(3, 3))).await.expect("saved");
            log.truncate_after(Some(id(3, 3))).await.expect("truncated");
            // Not waited for, so it may be there or not.
            log.append([entry(3, 4)], IOFlushed::noop()).await.expect("submitted");

            let mut log = open(&disk.crash(seed));
            let vote = log.get_log_reader().await.read_vote().await.expect("a vote");
            assert_eq!(vote, Some(Vote::new_committed(3, 2)));
            let last = log.get_log_state().await.expect("a state").last_log_id;
            assert!([Some(id(3, 3)), Some(id(3, 4))].contains(&last), "the log ends at {last:?}");
            let committed = log.read_committed().await.expect("readable");
            assert!(committed <= Some(id(3, 3)), "committed is {committed:?}");
        }
    });
}

#[test]
fn committed_is_never_beyond_what_is_durable() {
    block_on(async {
        let mut log = open(&SimStorage::new(1));
        log.blocking_append((0..3).map(|i| entry(1, i))).await.expect("durable");
        // A majority can have what this node is still to write.
        log.save_committed(Some(id(1, 9))).await.expect("saved");
        assert_eq!(log.read_committed().await.expect("readable"), Some(id(1, 2)));
    });
}

#[test]
fn a_failed_write_is_told_first_to_the_owner_and_then_to_openraft() {
    block_on(async {
        let disk = SimStorage::new(1);
        let failed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&failed);
        let opened = RaftLog::open(Arc::new(disk.clone()), options(), move |event| {
            if matches!(event, WriterEvent::Failed(_)) {
                told.store(true, Ordering::SeqCst);
            }
        });
        let mut log = opened.expect("the log opens").0;
        let next = disk.operations();
        (next..next + 100).for_each(|number| disk.inject(number, Fault::Eio));
        for index in 0..2 {
            let (tx, rx) = RaftTypes::oneshot::<Result<(), io::Error>>();
            log.append([entry(1, index)], IOFlushed::signal(tx)).await.expect("submitted");
            rx.await.expect("completed").expect_err("the write failed");
            assert!(failed.load(Ordering::SeqCst), "openraft heard of it before the owner");
        }
        log.save_vote(&Vote::new(1, 1)).await.expect_err("the log is over");
        let vote = log.get_log_reader().await.read_vote().await.expect("readable");
        assert_eq!(vote, None, "a vote that was not saved is not shown");
        log.close().expect_err("the log is over");
    });
}

#[test]
fn a_gap_is_refused_and_ends_nothing() {
    block_on(async {
        let mut log = open(&SimStorage::new(1));
        log.blocking_append([entry(1, 1)]).await.expect_err("the first index is 0");
        log.blocking_append([entry(1, 0)]).await.expect("the writer goes on");
    });
}
