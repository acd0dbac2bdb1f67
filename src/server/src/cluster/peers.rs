//! What this node does for its peers.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isthmus_broker::Broker;
use isthmus_broker::cluster::member::{ChangeError, Peer as Member, Role, end_of};
use isthmus_broker::cluster::peer::{
    ClientHeader, ClientStream, Handler, Identity, MemberId, PeerError, SnapshotMeta,
};
use isthmus_broker::cluster::raft::{Chunks, Install};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::clients::{Serve, peer_of};
use super::control::{Answer, Hello, Question};
use super::forming::{Forming, parse};

/// After how long it is said again that a peer is refused, if it keeps asking.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How many different things are said of refused peers in that time.
const SAID_MAX: usize = 64;

/// Answers peers.
pub(super) struct Handling {
    forming: Arc<Forming>,
    /// Once the broker has started.
    broker: OnceLock<Broker>,
    /// Once clients are served: whether they are now, and how.
    serve: OnceLock<(watch::Receiver<bool>, Serve)>,
    /// What was said of refused peers, and when.
    said: Mutex<HashMap<String, Instant>>,
    /// Members that this node sees to until they vote.
    joining: Arc<Mutex<HashSet<MemberId>>>,
}

impl Handling {
    pub(super) fn new(forming: Arc<Forming>) -> Handling {
        Handling {
            forming,
            broker: OnceLock::new(),
            serve: OnceLock::new(),
            said: Mutex::default(),
            joining: Arc::default(),
        }
    }

    pub(super) fn set_broker(&self, broker: Broker) {
        // Set once, when the broker has started.
        self.broker.set(broker).ok();
    }

    pub(super) fn set_serve(&self, serves: watch::Receiver<bool>, serve: Serve) {
        // Set once, when clients are served.
        self.serve.set((serves, serve)).ok();
    }

    /// Whether that was not said of the peer for a while.
    fn is_news(&self, remote: &str, error: &PeerError) -> bool {
        let host = remote.rsplit_once(':').map_or(remote, |(host, _)| host);
        let mut said = self.said.lock();
        said.retain(|_, at| at.elapsed() < SAY_AGAIN_AFTER);
        said.len() < SAID_MAX && said.insert(format!("{host} {error}"), Instant::now()).is_none()
    }

    fn hello(&self) -> Hello {
        let cluster = self.forming.identity().map(|identity| identity.cluster.to_string());
        let membership = self.broker.get().and_then(Broker::membership);
        let status = membership.map(|membership| membership.status());
        let leader = status.as_ref().and_then(|status| {
            let leader = status.leader?;
            let peer = status.peers.iter().find(|peer| peer.peer.id == leader)?;
            Some(peer.peer.addr.clone())
        });
        Hello { cluster, has_begun: status.is_some_and(|status| status.last > 0), leader }
    }

    async fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Hello => Answer::Hello(self.hello()),
            Question::Found { cluster } => {
                let Some(cluster) = parse(&cluster) else {
                    return refused("that is no cluster id");
                };
                match self.forming.found(cluster) {
                    Ok(identity) if identity.cluster == cluster => Answer::Founding,
                    Ok(identity) => {
                        refused(format!("this node belongs to cluster {}", identity.cluster))
                    }
                    Err(error) => refused(error.to_string()),
                }
            }
            Question::Join { node, addr, member } => self.take_in(node, addr, member).await,
        }
    }

    /// Takes a node in, which goes on for as long as it takes to send it everything.
    async fn take_in(&self, node: u16, addr: String, member: Option<u64>) -> Answer {
        let Some(broker) = self.broker.get() else { return refused("this node starts") };
        let (Some(membership), Some(own)) = (broker.membership(), self.forming.identity()) else {
            return refused("this node is no member of a cluster");
        };
        let status = membership.status();
        if status.role != Role::Leader {
            let leader = self.hello().leader;
            let reason = "this node does not lead: ask the leader".to_owned();
            return Answer::Refused { reason, leader };
        }
        let id = match member {
            Some(member) => MemberId(member),
            None => {
                // The log is longer at each join, so no two lives of a node are the same.
                let known = status.peers.iter().map(|peer| peer.peer.id);
                let is_new = known.into_iter().all(|id| id.node() != node);
                let life = if is_new && status.last < 2 { 0 } else { status.last };
                match MemberId::new(node, life) {
                    Some(id) => id,
                    None => return refused("there have been too many lives of this node"),
                }
            }
        };
        if id.node() != node {
            return refused("the member is of another node");
        }
        // Taken in, it would take the place of the one that has replaced it.
        let known = status.peers.iter().map(|peer| peer.peer.id);
        if known.into_iter().any(|other| other.node() == node && other > id) {
            return refused("the member has been replaced: empty its data directory");
        }
        let peer = Member { id, addr };
        let cluster = own.cluster.to_string();
        if !self.joining.lock().insert(id) {
            // It asks again, and is seen to already.
            return Answer::Joined { cluster, member: id.0 };
        }
        let (member, joining) = (membership.member().clone(), Arc::clone(&self.joining));
        tokio::spawn(async move {
            let joined = member.join(&peer).await;
            joining.lock().remove(&peer.id);
            match joined {
                Ok(()) => tracing::info!(member = %peer.id, "a node has joined"),
                // It asks again.
                Err(ChangeError::NotLeader) => {}
                Err(error) => tracing::warn!(member = %peer.id, %error, "a node does not join"),
            }
        });
        Answer::Joined { cluster, member: id.0 }
    }
}

fn refused(reason: impl Into<String>) -> Answer {
    Answer::Refused { reason: reason.into(), leader: None }
}

impl Handler for Handling {
    fn stage_snapshot(
        &self,
        meta: SnapshotMeta,
        chunks: Chunks,
    ) -> BoxFuture<'_, io::Result<Install>> {
        Box::pin(async move {
            let broker = self.broker.get().and_then(Broker::membership);
            let membership = broker.ok_or_else(|| io::Error::other("this node starts"))?;
            let at = end_of(&meta);
            tracing::info!(index = at.index, "receiving a snapshot");
            membership.stage(at, chunks).await
        })
    }

    fn control(&self, _peer: Identity, request: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(async move {
            let answer = match serde_json::from_slice(&request) {
                Ok(question) => self.answer(question).await,
                Err(error) => refused(format!("a question that cannot be read: {error}")),
            };
            // What it is made of can always be written.
            serde_json::to_vec(&answer).unwrap_or_default().into()
        })
    }

    fn admit(&self, _peer: Identity, _header: &ClientHeader) -> Result<(), String> {
        match self.serve.get() {
            Some((serves, _)) if *serves.borrow() => Ok(()),
            _ => Err("this node does not lead".to_owned()),
        }
    }

    fn client(&self, header: ClientHeader, stream: ClientStream) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some((_, serve)) = self.serve.get() else { return };
            match header.client.parse::<SocketAddr>() {
                Ok(address) => {
                    let peer = peer_of(address, &header.tls);
                    serve(&header.listener, Box::new(stream), peer).await;
                }
                Err(_) => {
                    let client = header.client;
                    tracing::warn!(
                        client,
                        "a client was passed through with an address that is none"
                    );
                }
            }
        })
    }

    fn failed(&self, remote: &str, error: &PeerError) {
        match error {
            // Nodes come and go.
            PeerError::Io(_) => tracing::debug!(peer = remote, %error, "a peer's connection ended"),
            // Most often a mistake in a configuration; whoever it is may ask many times a second.
            _ if self.is_news(remote, error) => {
                tracing::warn!(peer = remote, %error, "a peer is not let in");
            }
            _ => tracing::debug!(peer = remote, %error, "a peer is not let in"),
        }
    }
}
