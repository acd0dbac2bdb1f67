//! How far a member's own log is on stable storage.
//!
//! An entry is committed, and applied, once a majority has it there, which need not include this
//! node. A checkpoint that is ahead of the node's log after a power cut could not be used: bodies it
//! refers to would be missing.

use std::sync::Arc;
use std::time::Duration;

use isthmus_cluster::raft::RaftLogReader;
use isthmus_storage::threads::Signal;
use parking_lot::Mutex;

/// After this it is looked whether waiting still makes sense.
const PATIENCE: Duration = Duration::from_millis(100);

/// See the module's documentation.
pub(crate) struct Durable {
    log: RaftLogReader,
    waiting: Mutex<()>,
    /// Notified when more of the log is durable.
    news: Arc<Signal>,
}

impl Durable {
    pub(crate) fn new(log: RaftLogReader, news: Arc<Signal>) -> Durable {
        Durable { log, waiting: Mutex::new(()), news }
    }

    /// Waits until entry `index` is on stable storage here; returns whether it is. Blocks.
    pub(crate) fn wait(&self, index: u64, is_in_vain: impl Fn() -> bool) -> bool {
        let mut waiting = self.waiting.lock();
        while self.log.durable() < index {
            if is_in_vain() {
                return false;
            }
            // A notice that comes between is made up for by the limit.
            self.news.wait_for(&mut waiting, PATIENCE);
        }
        true
    }
}
