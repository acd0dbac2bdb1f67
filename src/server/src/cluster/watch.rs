//! What is done as the cluster changes: who leads, who takes part.

use std::sync::Arc;
use std::time::Duration;

use isthmus_admin::Status;
use isthmus_broker::Broker;
use isthmus_broker::cluster::member::{Peer, Role};
use isthmus_broker::cluster::peer::MemberId;

use tokio::time::Instant;

use super::Peers;
use super::control::{Answer, Question, ask};

/// How often it is looked at who takes part.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A node that was taken in is sent everything before it votes. If it does not in this time, the one
/// that saw to it may have ceased to lead.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What `/health/ready` says of the cluster.
pub(crate) type Health = Arc<Status>;

/// Follows the cluster for as long as it is polled: begins it if that is this node's to do, tells
/// health, learns of members, and asks again to be taken in where this node does not vote.
pub(crate) async fn follow(peers: Arc<Peers>, broker: Broker, health: Health) {
    let Some(membership) = broker.membership() else { return std::future::pending().await };
    let member = membership.member().clone();
    begin(&peers, &member).await;
    let (mut leads, mut standing) = (broker.leads(), member.standing());
    let mut asked_at = Instant::now();
    loop {
        let is_leading = *leads.borrow_and_update();
        let now = standing.borrow_and_update().clone();
        let is_led = is_leading || (now.leader.is_some() && now.role != Role::Leader);
        health.set_cluster(is_leading, is_led);
        let status = member.status();
        for peer in &status.peers {
            peers.dialer.local().directory.learn(peer.peer.id);
        }
        let votes = status.peers.iter().any(|peer| peer.is_voter && peer.peer.id == member.id());
        if !votes
            && let Some((_, leader)) = &now.leader
            && asked_at.elapsed() >= ASK_AGAIN_AFTER
        {
            asked_at = Instant::now();
            ask_again(&peers, member.id(), leader).await;
        }
        tokio::select! {
            biased;
            _ = leads.changed() => {}
            changed = standing.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Begins the cluster if this node is the first of those that found it, and its log is empty; a sole
/// voter is elected at once.
async fn begin(peers: &Peers, member: &isthmus_broker::cluster::member::Member) {
    let forming = peers.forming();
    let is_founder = member.id().incarnation() == 0 && forming.is_first();
    if is_founder && !member.is_initialized().await {
        let founders: Vec<Peer> = if forming.is_alone() {
            vec![Peer { id: member.id(), addr: forming.addr().to_owned() }]
        } else {
            let nodes = forming.nodes().iter();
            nodes
                .map(|(node, addr)| Peer { id: MemberId((*node).into()), addr: addr.clone() })
                .collect()
        };
        match member.initialize(&founders).await {
            Ok(()) => tracing::info!(nodes = founders.len(), "the cluster begins"),
            Err(error) => tracing::error!(%error, "the cluster does not begin"),
        }
    }
    let status = member.status();
    let mut voters = status.peers.iter().filter(|peer| peer.is_voter);
    if let (Some(only), None) = (voters.next(), voters.next())
        && only.peer.id == member.id()
        && let Err(error) = member.elect().await
    {
        tracing::error!(%error, "this node cannot stand for election");
    }
}

async fn ask_again(peers: &Peers, member: MemberId, leader: &str) {
    let addr = peers.forming().addr().to_owned();
    let question = Question::Join { node: member.node(), addr, member: Some(member.0) };
    match ask(&peers.dialer, leader, &question).await {
        Ok((_, Answer::Refused { reason, .. })) => {
            tracing::debug!(reason, "this node does not vote yet");
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(error, "this node does not vote yet"),
    }
}
