//! Who takes part, as operators see and change it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{BasicNode, ChangeMembers, Instant};
use thiserror::Error;

use super::{Member, MemberId, Role};

/// How many entries a node may lack that is given a vote: what is on its way under load.
const LEARNER_LAG_MAX: u64 = 256;

/// A member, and where its peers reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub id: MemberId,
    /// Host and port.
    pub addr: String,
}

/// A member as the leader sees it, or as a follower knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who, and where.
    pub peer: Peer,
    /// Whether its vote counts.
    pub is_voter: bool,
    /// The last entry of the log that it is known to have; the leader knows.
    pub matched: Option<u64>,
    /// How long it has not been heard of; the leader knows.
    pub silent: Option<Duration>,
}

/// The cluster as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub id: MemberId,
    /// What it is.
    pub role: Role,
    /// The consensus term.
    pub term: u64,
    /// Who leads.
    pub leader: Option<MemberId>,
    /// Its last entry of the log; 0 if it has none.
    pub last: u64,
    /// The last entry that it knows to be committed.
    pub committed: u64,
    /// Everybody, by id.
    pub peers: Vec<PeerStatus>,
}

/// Why the membership was not changed.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// Only the leader can.
    #[error("this node does not lead: ask the leader")]
    NotLeader,
    /// It makes no sense.
    #[error("{0}")]
    Refused(String),
    /// openraft has ended.
    #[error("this node is shutting down")]
    Ended,
}

impl Member {
    /// Makes `peers` a cluster. Every one of them may say so, in the same words.
    ///
    /// # Errors
    /// If the node's log is not empty.
    pub async fn initialize(&self, peers: &[Peer]) -> Result<(), ChangeError> {
        let nodes: BTreeMap<u64, BasicNode> =
            peers.iter().map(|peer| (peer.id.0, BasicNode::new(peer.addr.clone()))).collect();
        let done = self.raft.initialize(nodes).await;
        done.map_err(|error| ChangeError::Refused(error.to_string()))
    }

    /// Whether the node belongs to a cluster.
    pub async fn is_initialized(&self) -> bool {
        self.raft.is_initialized().await.unwrap_or(false)
    }

    /// Takes `peer` in: without a vote until it has what the others have, then with one in the
    /// place of earlier lives of the same node.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn join(&self, peer: &Peer) -> Result<(), ChangeError> {
        let node = BasicNode::new(peer.addr.clone());
        self.raft.add_learner(peer.id.0, node, false).await.map_err(refused)?;
        let status = self.caught_up(peer.id).await?;
        let earlier: BTreeSet<u64> = status
            .peers
            .iter()
            .map(|other| other.peer.id)
            .filter(|id| id.node() == peer.id.node() && *id != peer.id)
            .map(|id| id.0)
            .collect();
        let mut voters: BTreeSet<u64> =
            status.peers.iter().filter(|peer| peer.is_voter).map(|peer| peer.peer.id.0).collect();
        voters.retain(|id| !earlier.contains(id));
        voters.insert(peer.id.0);
        // In one step: nobody is without a replacement in between.
        self.raft.change_membership(voters, false).await.map_err(refused)?;
        Ok(())
    }

    /// Waits until a learner has what the others have, but for what is on its way. What openraft
    /// would wait for is a lag of a few thousand entries, which here are batches of up to megabytes,
    /// and which a node without anything may have as well.
    async fn caught_up(&self, id: MemberId) -> Result<Status, ChangeError> {
        let mut metrics = self.raft.metrics();
        loop {
            // Seen from here on, so that no change is missed.
            drop(metrics.borrow_and_update());
            let status = self.status();
            if status.role != Role::Leader {
                return Err(ChangeError::NotLeader);
            }
            let Some(peer) = status.peers.iter().find(|peer| peer.peer.id == id) else {
                return Err(ChangeError::Refused(format!("member {id} was removed")));
            };
            let is_there = |matched: u64| matched + LEARNER_LAG_MAX >= status.last;
            if peer.matched.is_some_and(is_there) {
                return Ok(status);
            }
            metrics.changed().await.map_err(|_| ChangeError::Ended)?;
        }
    }

    /// Takes a member out for good.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn remove(&self, id: MemberId) -> Result<(), ChangeError> {
        let status = self.status();
        let Some(known) = status.peers.iter().find(|peer| peer.peer.id == id) else {
            return Err(ChangeError::Refused(format!("there is no member {id}")));
        };
        let gone = BTreeSet::from([id.0]);
        let change = if known.is_voter {
            ChangeMembers::RemoveVoters(gone)
        } else {
            ChangeMembers::RemoveNodes(gone)
        };
        self.raft.change_membership(change, false).await.map_err(refused)?;
        Ok(())
    }

    /// Asks another member to lead, if this one does. From here on it does not act as the leader,
    /// whether or not the other one is elected; if it is not, somebody will be.
    ///
    /// # Errors
    /// If openraft has ended.
    pub async fn transfer(&self, to: MemberId) -> io::Result<()> {
        let standing = self.standing.borrow().clone();
        if standing.role == Role::Leader {
            self.lease.give_up(standing.term);
        }
        self.raft.trigger().transfer_leader(to.0).await.map_err(io::Error::other)
    }

    /// Stands for election at once: the only voter need not wait for anybody.
    ///
    /// # Errors
    /// If openraft has ended.
    pub async fn elect(&self) -> io::Result<()> {
        self.raft.trigger().elect(false).await.map_err(io::Error::other)
    }

    /// The cluster as this node sees it.
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let standing = self.standing.borrow();
        let stored = &metrics.membership_config;
        let voters: BTreeSet<u64> = stored.membership().voter_ids().collect();
        let matched = |id: &u64| {
            let log_id = (*metrics.replication.as_ref()?.get(id)?)?;
            Some(log_id.index + 1)
        };
        let silent = |id: &u64| {
            let heard = (*metrics.heartbeat.as_ref()?.get(id)?)?;
            Some(heard.elapsed())
        };
        let peers = stored.membership().nodes().map(|(id, node)| PeerStatus {
            peer: Peer { id: MemberId(*id), addr: node.addr.clone() },
            is_voter: voters.contains(id),
            matched: matched(id),
            silent: silent(id),
        });
        Status {
            id: self.id,
            role: standing.role,
            term: metrics.current_term,
            leader: metrics.current_leader.map(MemberId),
            last: metrics.last_log_index.map_or(0, |index| index + 1),
            committed: metrics.local_committed.map_or(0, |id| id.index + 1),
            peers: peers.collect(),
        }
    }
}

fn refused(
    error: openraft::errors::RaftError<
        crate::raft::RaftTypes,
        openraft::errors::ClientWriteError<crate::raft::RaftTypes>,
    >,
) -> ChangeError {
    use openraft::errors::{ClientWriteError, RaftError};
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => ChangeError::NotLeader,
        RaftError::APIError(error) => ChangeError::Refused(error.to_string()),
        RaftError::Fatal(_) => ChangeError::Ended,
    }
}
