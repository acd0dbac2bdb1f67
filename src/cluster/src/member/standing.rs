//! What a node is at the moment.

use std::sync::Arc;

use openraft::Instant as _;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Lease, MemberId, Raft};

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It leads, or will once what came before is applied.
    Leader,
    /// Another one leads, or nobody does.
    #[default]
    Follower,
    /// It follows without a vote.
    Learner,
}

/// What a node is, and what it knows of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What it is.
    pub role: Role,
    /// The consensus term.
    pub term: u64,
    /// Who leads, and where its peers reach it.
    pub leader: Option<(MemberId, String)>,
    /// openraft has ended: the log has failed, or the node is shutting down.
    pub ended: bool,
}

/// Watches openraft: what changes of its standing is told, and the lease renewed.
pub(super) fn watch(raft: &Raft, lease: &Arc<Lease>) -> watch::Receiver<Standing> {
    let (tell, told) = watch::channel(Standing::default());
    let mut metrics = raft.metrics();
    let lease = Arc::clone(lease);
    tokio::spawn(async move {
        loop {
            let standing = {
                let metrics = metrics.borrow_watched();
                let leads = metrics.state == ServerState::Leader && metrics.running_state.is_ok();
                let acknowledged = metrics.last_quorum_acked.filter(|_| leads);
                // Before its own entries of the term, it says that it leads term 0.
                let leads = leads && metrics.current_term > 0;
                // openraft goes on as the leader until somebody else is elected, but refuses all.
                let leads = leads && !lease.is_given_up(metrics.current_term);
                let members = metrics.membership_config.membership();
                if leads && members.voter_ids().eq([metrics.id]) {
                    lease.keep();
                } else {
                    let heard = acknowledged.filter(|_| leads);
                    lease.renew(heard.map(|at| Instant::now() - at.elapsed()));
                }
                let leader = metrics.current_leader.and_then(|id| {
                    let node = members.get_node(&id)?;
                    Some((MemberId(id), node.addr.clone()))
                });
                Standing {
                    role: match metrics.state {
                        _ if leads => Role::Leader,
                        ServerState::Learner => Role::Learner,
                        _ => Role::Follower,
                    },
                    term: metrics.current_term,
                    leader: leader.filter(|_| metrics.running_state.is_ok()),
                    ended: metrics.running_state.is_err(),
                }
            };
            tell.send_if_modified(|known| {
                let is_new = *known != standing;
                *known = standing;
                is_new
            });
            tokio::select! {
                // In this order, so that a simulation replays.
                biased;
                changed = metrics.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                () = lease.news.notified() => {}
            }
        }
        lease.renew(None);
        tell.send_modify(|standing| {
            *standing = Standing { term: standing.term, ended: true, ..Standing::default() };
        });
    });
    told
}
