//! openraft's own tests of log stores, over our log on real files and on a simulated disk.

mod common;

use std::{fmt::Debug, io, sync::Arc};

use common::fold::Fold;
use isthmus_cluster::raft::{
    Entry, RaftLog, RaftLogId, RaftLogOptions, RaftLogReader, RaftTypes, Vote,
};
use isthmus_storage::{LogOptions, RealStorage, SharedStorage, SimStorage};
use openraft::{
    LogState, OptionalSend, StorageError,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
    testing::log::{StoreBuilder, Suite},
    vote::leader_id_std::CommittedLeaderId,
};
use tempfile::TempDir;

/// The log store as the suite uses it. Many of its tests begin an empty log with index 1 or 2,
/// which openraft itself never does and our log refuses as a gap. Such a log is told here that what
/// comes before was purged, as if it had begun from a snapshot.
///
/// And it purges what its state machine has never applied. Our log takes what is purged for
/// committed, so that openraft refuses to start when the checkpoint with it is lost; the suite is
/// told of a committed index only when it has saved one.
struct Suited {
    log: RaftLog,
    has_committed: bool,
}

impl RaftLogStorage<RaftTypes> for Suited {
    type LogReader = RaftLogReader;

    async fn get_log_state(&mut self) -> Result<LogState<RaftTypes>, io::Error> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> RaftLogReader {
        self.log.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.log.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.has_committed = committed.is_some();
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        let committed = self.log.read_committed().await?;
        Ok(committed.filter(|_| self.has_committed))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<RaftTypes>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let is_empty = self.log.get_log_state().await?.last_log_id.is_none();
        if let Some(before) = entries.first().and_then(|first| first.index().checked_sub(1))
            && is_empty
        {
            self.log.purge(RaftLogId::new(CommittedLeaderId::new(0), before)).await?;
        }
        self.log.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last).await
    }

    async fn purge(&mut self, id: RaftLogId) -> Result<(), io::Error> {
        self.log.purge(id).await
    }
}

/// Builds a store on a fresh storage for each test of the suite.
struct Builder<F> {
    storage: F,
    /// 0 to read everything from the file that is in it.
    memory_bytes: usize,
}

impl<G, F> StoreBuilder<RaftTypes, Suited, Fold, G> for Builder<F>
where
    G: Send + Sync + 'static,
    F: Fn() -> (G, SharedStorage) + Send + Sync,
{
    async fn build(&self) -> Result<(G, Suited, Fold), StorageError<RaftTypes>> {
        let (guard, storage) = (self.storage)();
        let log = LogOptions { segment_bytes: 16 << 10, ..LogOptions::default() };
        let options =
            RaftLogOptions { log, memory_bytes: self.memory_bytes, ..RaftLogOptions::default() };
        let opened = RaftLog::open(storage, options, |_| {});
        let (log, _) = opened.expect("an empty directory opens");
        Ok((guard, Suited { log, has_committed: false }, Fold::default()))
    }
}

fn run<G, F>(storage: F, memory_bytes: usize)
where
    G: Debug + Send + Sync + 'static,
    F: Fn() -> (G, SharedStorage) + Send + Sync,
{
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let builder = Builder { storage, memory_bytes };
    let result = runtime.expect("a runtime").block_on(Suite::test_all(builder));
    result.expect("the suite passes");
}

fn real() -> (TempDir, SharedStorage) {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = RealStorage::open(dir.path()).expect("the directory opens");
    (dir, Arc::new(storage))
}

#[test]
fn suite_on_real_files_from_memory() {
    run(real, RaftLogOptions::default().memory_bytes);
}

#[test]
fn suite_on_real_files_from_the_file() {
    run(real, 0);
}

#[test]
fn suite_on_a_simulated_disk() {
    run(|| ((), Arc::new(SimStorage::new(7)) as SharedStorage), 0);
}
