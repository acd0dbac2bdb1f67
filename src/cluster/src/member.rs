//! A node of a cluster: openraft over the node's log, with what the broker needs around it.
//!
//! - [`Replica`] is what the broker puts in: it takes the entries that are committed, and gives and
//!   takes snapshots.
//! - [`Member`] is what it gets: [`Member::propose`], [`Member::standing`] and the [`Lease`], and what
//!   operators ask for: membership, handing over.
//!
//! openraft's tasks run on the runtime that [`Member::start`] is called in. It is meant to be one
//! of a single thread, which nothing else keeps busy: an election is a matter of milliseconds.
//!
//! What holds:
//! - Entries reach the replica once, in order, and only when a majority has them.
//! - A proposal is accepted or refused as a whole, and those of one node keep their order; but one
//!   in the middle may be refused (openraft refuses while its lease is in doubt), and then those
//!   behind it may still be accepted. So entries say where they stand, and the fold skips those
//!   that do not follow on the one before: the embedder's affair.

mod lease;
mod machine;
mod membership;
mod proposer;
mod standing;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isthmus_storage::LogId;
use openraft::network::{NetSnapshot, RaftNetworkFactory};
use openraft::{Config, SnapshotPolicy};
use tokio::sync::watch;

use crate::raft::convert::id_to_log;
use crate::raft::{Chunks, RaftLog, RaftTypes, SnapshotData, settings};

pub use self::lease::Lease;
use self::machine::Machine;
pub use self::membership::{ChangeError, Peer, PeerStatus, Status};
pub use self::proposer::{Encode, Proposer};
pub use self::standing::{Role, Standing};
pub use crate::peer::MemberId;

/// openraft with the machine that hands entries to a [`Replica`].
pub type Raft = openraft::Raft<RaftTypes, Machine>;

/// A committed entry of the log.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its index; the first entry of a log has 1.
    pub index: u64,
    /// Its consensus term.
    pub term: u64,
    /// What is in it.
    pub content: Content,
}

/// What is in a committed entry.
#[derive(Clone, Debug)]
pub enum Content {
    /// Nothing: a new leader's first entry.
    Blank,
    /// What somebody proposed.
    Proposal(Bytes),
    /// Who takes part from here on, encoded.
    Members(Bytes),
}

/// Where a ledger stands in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// The last entry that it holds; 0 if none.
    pub index: u64,
    /// The consensus term of that entry.
    pub term: u64,
    /// Who takes part, as of that entry: index, term, and who, encoded.
    pub members: Option<(u64, u64, Bytes)>,
}

/// The last entry that a snapshot holds.
pub fn end_of(meta: &crate::peer::SnapshotMeta) -> LogId {
    meta.last_log_id.as_ref().map_or(LogId::ZERO, id_to_log)
}

/// What the broker does with what is committed.
pub trait Replica: Send + Sync + 'static {
    /// Where it stands when the member starts; what is committed behind that is applied first.
    fn start(&self) -> Point;

    /// Takes entries, in order. Done when there is room for more, which need not be after they
    /// have been applied.
    fn apply(&self, entries: Vec<Committed>) -> BoxFuture<'_, ()>;

    /// The newest checkpoint that is durable, if there is one: the log may forget what it holds.
    fn checkpoint(&self) -> Option<Point>;

    /// What a node needs that has nothing: a copy of all that was applied so far.
    fn send_snapshot(&self) -> BoxFuture<'_, io::Result<(Point, Chunks)>>;
}

/// How a member is run.
#[derive(Clone, Copy, Debug)]
pub struct MemberOptions {
    /// This node.
    pub id: MemberId,
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    /// A leader that has not been heard of for 1.3 to 1.6 times this is replaced. One that has no
    /// majority's word for 0.8 times this stops acting as a leader.
    pub election_timeout: Duration,
}

/// A node of a cluster. Clones share it.
#[derive(Clone)]
pub struct Member {
    raft: Raft,
    id: MemberId,
    standing: watch::Receiver<Standing>,
    lease: Arc<Lease>,
}

impl MemberOptions {
    /// How long followers keep to a leader: they do not vote for another one, and do not stand
    /// themselves. Behind that each waits a random time, of this at the most.
    fn lease(&self) -> Duration {
        self.election_timeout * 4 / 5
    }

    fn config(&self) -> io::Result<Arc<Config>> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let config = Config {
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_timeout / 2),
            election_timeout_max: ms(self.lease()),
            snapshot_policy: SnapshotPolicy::Never,
            ..settings()
        };
        config.validate().map(Arc::new).map_err(io::Error::other)
    }
}

impl Member {
    /// Starts openraft on the current runtime.
    ///
    /// # Errors
    /// If the log or the settings are not usable.
    pub async fn start<N>(
        options: MemberOptions,
        network: N,
        log: RaftLog,
        replica: Arc<dyn Replica>,
    ) -> io::Result<Member>
    where
        N: RaftNetworkFactory<RaftTypes>,
        N::Network: NetSnapshot<RaftTypes, SnapshotData = SnapshotData>,
    {
        let config = options.config()?;
        let is_built = Arc::new(AtomicBool::new(false));
        let machine = Machine::new(replica, Arc::clone(&is_built));
        let id = options.id.0;
        let raft = Raft::build(id, config, network, log, machine).await;
        let raft = raft.map_err(io::Error::other)?;
        is_built.store(true, Ordering::Release);
        let lease = Arc::new(Lease::new(options.lease()));
        let standing = standing::watch(&raft, &lease);
        raft.run();
        Ok(Member { raft, id: options.id, standing, lease })
    }

    /// This node.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// openraft, for the transport.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// What the node is at the moment.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Until when it may act as the leader.
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The way in for what this node proposes; to be made once for each time that it leads.
    /// `on_refused` is told if one was refused, after which none is proposed any more.
    pub fn proposer<E: Encode>(&self, on_refused: impl FnOnce() + Send + 'static) -> Proposer<E> {
        Proposer::start(self.raft.clone(), on_refused)
    }

    /// A checkpoint at `index` is durable, and entries up to `kept_from`, if that is not 0, are
    /// needed no more, here or by those who lag.
    ///
    /// # Errors
    /// If openraft has ended.
    pub async fn checkpointed(&self, index: u64, purged_to: u64) -> io::Result<()> {
        use openraft::async_runtime::watch::WatchReceiver;
        let Some(index) = index.checked_sub(1) else { return Ok(()) };
        self.raft.trigger().snapshot().await.map_err(io::Error::other)?;
        let mut metrics = self.raft.metrics();
        while metrics.borrow_watched().snapshot.is_none_or(|id| id.index < index) {
            metrics.changed().await.map_err(io::Error::other)?;
        }
        if let Some(upto) = purged_to.checked_sub(1) {
            self.raft.trigger().purge_log(upto).await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Ends openraft. The log is closed by its last handle.
    ///
    /// # Errors
    /// If one of its tasks has panicked.
    pub async fn shutdown(self) -> io::Result<()> {
        self.raft.shutdown().await.map_err(io::Error::other)
    }
}
