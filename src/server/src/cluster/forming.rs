//! How a node without data becomes a member.
//!
//! - If a cluster has begun, as any of the nodes that it knows says, it asks its leader to be taken
//!   in. It is another member than it was in an earlier life, if it had one.
//! - If none has, and every node of the configuration is there and is without data as well, the one
//!   with the lowest number begins it: it has each of the others write down that it belongs to the
//!   cluster, then itself, and only then does consensus begin.
//!
//! Nothing that was acknowledged can be lost by this: a cluster begins only if nobody has any data,
//! and who has lost its data is never taken for who had it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use isthmus_broker::cluster::peer::{ClusterId, Dialer, Identity, MemberId};
use isthmus_broker::storage::{Error as StorageError, SharedStorage};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::control::{Answer, Hello, Question, ask};
use super::identity;
use crate::config::Config;

/// How often the others are asked.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How long one of them may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// After how many rounds it is said what is waited for.
const ROUNDS_BEFORE_WORD: u32 = 25;

/// A node that is becoming a member, or has become one.
pub(crate) struct Forming {
    node: u16,
    addr: String,
    /// The nodes of the configuration, this one included: number and address.
    nodes: Vec<(u16, String)>,
    /// Further addresses to ask, from an operator.
    more: Mutex<Vec<String>>,
    storage: SharedStorage,
    dialer: Dialer,
    /// Who it is, once that is written down.
    decided: watch::Sender<Option<Identity>>,
    /// Held while it is written down.
    deciding: Mutex<()>,
    /// It begins a cluster by itself.
    is_alone: AtomicBool,
}

impl Forming {
    pub(super) fn new(config: &Config, storage: SharedStorage, dialer: Dialer) -> Forming {
        let cluster = &config.cluster;
        let nodes = cluster.nodes.0.iter().map(|node| (node.number, node.addr.to_string()));
        let own = dialer.local().directory.own();
        let is_known = own.member != MemberId::NONE;
        Forming {
            node: cluster.node as u16,
            addr: cluster.own().map(ToString::to_string).unwrap_or_default(),
            nodes: nodes.collect(),
            more: Mutex::default(),
            storage,
            dialer,
            decided: watch::channel(is_known.then_some(own)).0,
            deciding: Mutex::new(()),
            is_alone: AtomicBool::new(cluster.nodes.0.len() == 1),
        }
    }

    /// The nodes of the configuration: number and address.
    pub(super) fn nodes(&self) -> &[(u16, String)] {
        &self.nodes
    }

    /// Where peers reach this node.
    pub(super) fn addr(&self) -> &str {
        &self.addr
    }

    /// Whether this node is the one that begins a cluster.
    pub(super) fn is_first(&self) -> bool {
        self.nodes.iter().all(|(number, _)| *number >= self.node)
    }

    /// Who this node is, if that is decided.
    pub(super) fn identity(&self) -> Option<Identity> {
        *self.decided.borrow()
    }

    /// The directory has it.
    pub(super) fn decided(&self) {
        let own = self.dialer.local().directory.own();
        self.decided.send_replace(Some(own));
    }

    /// Goes on until it is decided who this node is.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub(super) async fn run(&self) -> Result<Identity, StorageError> {
        let mut decided = self.decided.subscribe();
        let mut rounds = 0;
        loop {
            if let Some(identity) = self.identity() {
                return Ok(identity);
            }
            let waits_for = self.try_once().await?;
            rounds += 1;
            if let Some(what) = waits_for
                && rounds % ROUNDS_BEFORE_WORD == 0
            {
                tracing::info!("this node is no member of a cluster yet: {what}");
            }
            // Who waits in vain asks again.
            tokio::time::timeout(ASK_EVERY, decided.changed()).await.map(drop).unwrap_or_default();
        }
    }

    /// Asks everybody once, and acts on it; says what is waited for, if it is not decided yet.
    async fn try_once(&self) -> Result<Option<String>, StorageError> {
        let mut addrs: Vec<String> = self
            .nodes
            .iter()
            .filter(|(number, _)| *number != self.node)
            .map(|n| n.1.clone())
            .collect();
        let configured = addrs.len();
        addrs.extend(self.more.lock().iter().cloned());
        let answers = join_all(addrs.iter().map(|addr| self.hello(addr))).await;
        let begun = answers.iter().zip(&addrs).find_map(|(answer, addr)| {
            let hello = answer.as_ref().ok().filter(|hello| hello.has_begun)?;
            Some(hello.leader.clone().unwrap_or_else(|| addr.clone()))
        });
        if let Some(leader) = begun {
            return self.join(&leader).await;
        }
        if !self.is_first() {
            // Why those do not answer that may know of a cluster.
            let errors = answers.iter().filter_map(|answer| answer.as_ref().err().cloned());
            let what = std::iter::once("the first of cluster.nodes has not begun it".to_owned());
            return Ok(Some(what.chain(errors).collect::<Vec<_>>().join("; ")));
        }
        let missing = answers.iter().take(configured).find_map(|answer| answer.as_ref().err());
        if let Some(error) = missing {
            return Ok(Some(format!("a cluster begins when all of its nodes are there: {error}")));
        }
        let cluster = answers.iter().flatten().find_map(|hello| parse(hello.cluster.as_deref()?));
        let cluster = cluster.unwrap_or_else(new_id);
        let found = Question::Found { cluster: cluster.to_string() };
        for addr in addrs.iter().take(configured) {
            match self.ask(addr, &found).await {
                Ok(Answer::Founding) => {}
                Ok(Answer::Refused { reason, .. }) => return Ok(Some(reason)),
                Ok(_) => return Ok(Some(format!("{addr} gave an answer to something else"))),
                Err(error) => return Ok(Some(error)),
            }
        }
        self.found(cluster)?;
        Ok(None)
    }

    async fn hello(&self, addr: &str) -> Result<Hello, String> {
        match self.ask(addr, &Question::Hello).await? {
            Answer::Hello(hello) => Ok(hello),
            Answer::Refused { reason, .. } => Err(format!("{addr}: {reason}")),
            _ => Err(format!("{addr} gave an answer to something else")),
        }
    }

    async fn ask(&self, addr: &str, question: &Question) -> Result<Answer, String> {
        let asked = tokio::time::timeout(PATIENCE, ask(&self.dialer, addr, question)).await;
        asked.unwrap_or_else(|_| Err(format!("{addr} does not answer"))).map(|(_, answer)| answer)
    }

    /// Asks the leader to take this node in.
    async fn join(&self, leader: &str) -> Result<Option<String>, StorageError> {
        let (node, addr) = (self.node, self.addr.clone());
        let question = Question::Join { node, addr, member: None };
        match self.ask(leader, &question).await {
            Ok(Answer::Joined { cluster, member }) => {
                let Some(cluster) = parse(&cluster) else {
                    return Ok(Some(format!("{leader} gave a cluster id that is none")));
                };
                self.decide(Identity { cluster, member: MemberId(member), node })?;
                Ok(None)
            }
            Ok(Answer::Refused { reason, .. }) => Ok(Some(format!("{leader}: {reason}"))),
            Ok(_) => Ok(Some(format!("{leader} gave an answer to something else"))),
            Err(error) => Ok(Some(error)),
        }
    }

    /// This node is one of those that begin `cluster`.
    ///
    /// # Errors
    /// If that cannot be written down.
    pub(super) fn found(&self, cluster: ClusterId) -> Result<Identity, StorageError> {
        self.decide(Identity { cluster, member: MemberId(self.node.into()), node: self.node })
    }

    /// Writes down who this node is, unless that was decided before; returns who it is.
    fn decide(&self, identity: Identity) -> Result<Identity, StorageError> {
        let _deciding = self.deciding.lock();
        if let Some(decided) = self.identity() {
            return Ok(decided);
        }
        identity::save(&*self.storage, &identity)?;
        self.decided.send_replace(Some(identity));
        Ok(identity)
    }

    /// An operator has this node begin a cluster by itself.
    ///
    /// # Errors
    /// Why it does not, in words.
    pub(super) fn begin_alone(&self) -> Result<(), String> {
        if self.identity().is_some() {
            return Err("this node is a member of a cluster already".to_owned());
        }
        self.is_alone.store(true, Ordering::Release);
        self.found(new_id()).map(drop).map_err(|error| error.to_string())
    }

    /// Whether this node begins a cluster by itself.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone.load(Ordering::Acquire)
    }

    /// An operator names a node of the cluster that this one is to join.
    ///
    /// # Errors
    /// Why that makes no sense, in words.
    pub(super) fn also_ask(&self, addr: String) -> Result<(), String> {
        if self.identity().is_some() {
            return Err("this node is a member of a cluster already".to_owned());
        }
        self.more.lock().push(addr);
        Ok(())
    }
}

fn new_id() -> ClusterId {
    let mut id = [0; 16];
    super::fill(&mut id);
    ClusterId(id)
}

/// The cluster of 32 hexadecimal digits.
pub(super) fn parse(hex: &str) -> Option<ClusterId> {
    let digits = hex.as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (id != [0; 16]).then_some(ClusterId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_from_words() {
        let id = ClusterId(*b"0123456789abcdef");
        assert_eq!(parse(&id.to_string()), Some(id));
        for wrong in ["", "00", "0123456789abcdef0123456789abcdeg", &ClusterId::NONE.to_string()] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
