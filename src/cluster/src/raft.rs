//! openraft over our own log.
//!
//! [`RaftLog`] is openraft's log store and the broker's log at once: an entry is written once, by
//! the thread of [`isthmus_storage::LogWriter`], and the completion of its sync is what openraft
//! waits for. [`RaftTypes`] names the types openraft is run with, [`settings`] the settings that
//! keep the promise of the log.
//!
//! What holds:
//! - An entry is readable once `append` has returned, from memory until the file has it; it counts
//!   for a majority only after the sync that covers it.
//! - A vote is durable before `save_vote` returns, so before anybody hears of it.
//! - The committed index that a restart sees is never beyond what was durable here.
//! - Indexes: openraft counts entries from 0, the log and everybody above it from 1. Only the
//!   `convert` module knows.

pub(crate) mod convert;
mod log_store;
pub(crate) mod membership;
mod runtime;
mod settings;
mod snapshot;
mod tail;
mod watch;

use std::fmt;

use bytes::Bytes;

#[cfg(feature = "planted-bugs")]
pub(crate) use self::runtime::drawn;
pub use self::{
    convert::{EntryKind, alone},
    log_store::{OpenError, RaftLog, RaftLogOptions, RaftLogReader},
    runtime::{Runtime, draw_from},
    settings::settings,
    snapshot::{Chunk, Chunks, Install, SnapshotData},
};

openraft::declare_raft_types!(
    /// The types openraft is run with.
    ///
    /// Leader ids are the standard ones, of which there is one a term: a log id is (term, index),
    /// which is what the log stores of an entry.
    pub RaftTypes:
        D = Proposal,
        R = (),
        NodeId = u64,
        Node = openraft::impls::BasicNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

/// An entry as openraft sees it.
pub type Entry = openraft::type_config::alias::EntryOf<RaftTypes>;
/// The position of an entry as openraft counts, from 0.
pub type RaftLogId = openraft::type_config::alias::LogIdOf<RaftTypes>;
/// A vote as openraft sees it.
pub type Vote = openraft::type_config::alias::VoteOf<RaftTypes>;
/// Who takes part.
pub type Membership = openraft::Membership<u64, openraft::impls::BasicNode>;

/// What an entry carries for the ledger; consensus does not look into it. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal(pub Bytes);

impl From<Vec<u8>> for Proposal {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

/// The size only: messages are not for logs.
impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
