//! What is done as the cluster changes: who leads, who takes part.

use std::sync::Arc;
use std::time::Duration;

use isthmus_admin::Status;
use isthmus_broker::Broker;
use isthmus_broker::cluster::member::{Peer, PeerStatus, Role, Status as MemberStatus};
use isthmus_broker::cluster::peer::{Dialer, MemberId};
use tokio::time::Instant;

use super::Peers;
use super::control::{Answer, Question, ask};

/// How often it is looked at who takes part.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A node that was taken in is sent everything before it votes. If it does not in this time, the one
/// that saw to it may have ceased to lead.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// After how long without a leader, or without a word of a member, it is said why, and how often then.
const SAY_AFTER: Duration = Duration::from_secs(3);
const SAY_EVERY: Duration = Duration::from_secs(30);

/// How long one of them may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

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
    let mut say_at = Instant::now() + SAY_AFTER;
    loop {
        let is_leading = *leads.borrow_and_update();
        let now = standing.borrow_and_update().clone();
        let is_led = is_leading || (now.leader.is_some() && now.role != Role::Leader);
        health.set_cluster(is_leading, is_led);
        let status = member.status();
        let missed = missed(&status, is_leading, is_led);
        if missed.is_empty() {
            say_at = Instant::now() + SAY_AFTER;
        } else if Instant::now() >= say_at {
            say_at = Instant::now() + SAY_EVERY;
            // Not waited for: who leads is to be told at once.
            tokio::spawn(say_why(peers.dialer.clone(), missed, is_led));
        }
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

/// Those that this node misses: while it leads, who has not answered for a while; while nobody does,
/// all others.
fn missed(status: &MemberStatus, is_leading: bool, is_led: bool) -> Vec<Peer> {
    let others = status.peers.iter().filter(|peer| peer.peer.id != status.id);
    let is_missed = |peer: &&PeerStatus| match is_leading {
        true => peer.silent.is_none_or(|silent| silent > SAY_AFTER),
        false => !is_led,
    };
    others.filter(is_missed).map(|peer| peer.peer.clone()).collect()
}

/// Says what those answer that are missed.
async fn say_why(dialer: Dialer, missed: Vec<Peer>, is_led: bool) {
    let own = dialer.local().directory.own();
    let what = if is_led { "a member does not follow" } else { "nobody leads the cluster" };
    for Peer { id, addr } in missed {
        let asked = tokio::time::timeout(PATIENCE, ask(&dialer, &addr, &Question::Hello)).await;
        let says = match asked {
            Err(_) => "it does not answer".to_owned(),
            Ok(Err(error)) => error,
            Ok(Ok((other, _))) if other.cluster != own.cluster => {
                format!("it belongs to cluster {}, and this node to {}", other.cluster, own.cluster)
            }
            Ok(Ok((other, _))) if other.member != id => format!("it is member {}", other.member),
            Ok(Ok(_)) => "it answers".to_owned(),
        };
        tracing::warn!(member = %id, addr, "{what}: {says}");
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
