//! What clients did and were told, and what must hold of it whatever goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::runtime::virtual_time;

/// A broken promise.
pub type Broken = String;

/// What became of a message, as its publisher knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing, or nothing any more.
    Nothing,
    Confirmed,
    /// It was never taken.
    Refused,
}

#[derive(Debug)]
struct Message {
    queue: usize,
    publisher: usize,
    told: Told,
    deliveries: u32,
    /// It may be delivered once, whatever happens.
    exactly_once: bool,
    /// A consumer has asked to settle it.
    settling: bool,
    /// It was told that it is settled.
    settled: bool,
    /// For whoever reads of a broken promise.
    history: Vec<String>,
}

#[derive(Default)]
struct State {
    messages: BTreeMap<u64, Message>,
    /// The latest message of each publisher that each connection has got from each queue for the
    /// first time.
    first_seen: BTreeMap<(u64, usize, usize), u64>,
    /// Connections of consumers.
    connections: u64,
    /// Who leads which consensus term.
    leaders: BTreeMap<u64, u64>,
    broken: Option<Broken>,
    /// A number for all that was told, and when.
    digest: u64,
    /// For whoever looks for what was not enough.
    redeliveries: u64,
    spoken: u64,
}

/// Watches what clients do. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Oracle(Arc<Mutex<State>>);

/// What was done in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages published.
    pub published: u64,
    /// Messages that their publishers know to be stored.
    pub confirmed: u64,
    /// Messages that were refused as never taken.
    pub refused: u64,
    /// Messages that were settled for certain.
    pub settled: u64,
    /// Deliveries that were not the message's first.
    pub redeliveries: u64,
    /// Messages that their publishers know to be stored, and published over AMQP or STOMP.
    pub spoken: u64,
    /// Messages of QoS 2 that were delivered.
    pub exactly_once: u64,
    /// Nodes that were taken in, having no data.
    pub joined: u64,
    /// Consensus terms that somebody led.
    pub terms: u64,
    /// Snapshots that a node got from another.
    pub snapshots: u64,
    /// Checkpoints that were written.
    pub checkpoints: u64,
    /// Page files that were written.
    pub page_files: u64,
    /// Disks that lost the tail of the log.
    pub tails_lost: u64,
}

impl Oracle {
    fn with(&self, what: impl Hash, then: impl FnOnce(&mut State) -> Option<Broken>) {
        let state = &mut *self.0.lock();
        let mut hasher = DefaultHasher::new();
        (state.digest, virtual_time(), what).hash(&mut hasher);
        state.digest = hasher.finish();
        if let Some(broken) = then(state) {
            state.broken.get_or_insert(format!("at {:?}: {broken}", virtual_time()));
        }
    }

    /// What was broken first.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.0.lock().broken.clone()
    }

    /// Notes a broken promise that somebody else has noticed.
    pub(crate) fn break_with(&self, broken: Broken) {
        self.with("broken", |_| Some(broken));
    }

    pub(crate) fn digest(&self) -> u64 {
        self.0.lock().digest
    }

    pub(crate) fn tally(&self) -> Tally {
        let state = self.0.lock();
        let count = |is_so: fn(&Message) -> bool| {
            state.messages.values().map(|message| u64::from(is_so(message))).sum()
        };
        Tally {
            published: state.messages.len() as u64,
            confirmed: count(|message| message.told == Told::Confirmed),
            refused: count(|message| message.told == Told::Refused),
            settled: count(|message| message.settled),
            redeliveries: state.redeliveries,
            spoken: state.spoken,
            exactly_once: count(|message| message.exactly_once && message.deliveries > 0),
            terms: state.leaders.len() as u64,
            ..Tally::default()
        }
    }

    /// Messages are about to be published; returns their numbers.
    pub(crate) fn publishing(&self, publisher: usize, queue: usize, count: u64) -> Vec<u64> {
        let mut ids = Vec::new();
        self.with(("publishing", publisher, queue, count), |state| {
            let first = state.messages.len() as u64 + 1;
            ids = (first..first + count).collect();
            for id in &ids {
                let message = Message {
                    queue,
                    publisher,
                    told: Told::Nothing,
                    deliveries: 0,
                    exactly_once: false,
                    settling: false,
                    settled: false,
                    history: vec![format!("{:?}: published by {publisher}", virtual_time())],
                };
                state.messages.insert(*id, message);
            }
            None
        });
        ids
    }

    /// A message is promised to be delivered exactly once.
    pub(crate) fn exactly_once(&self, id: u64) {
        self.with(("exactly once", id), |state| {
            state.messages.get_mut(&id)?.exactly_once = true;
            None
        });
    }

    /// A publisher was told that its messages are stored, or that they were never taken.
    pub(crate) fn told(&self, ids: &[u64], is_stored: bool) {
        self.with(("told", ids, is_stored), |state| {
            for id in ids {
                let Some(message) = state.messages.get_mut(id) else { continue };
                message.told = if is_stored { Told::Confirmed } else { Told::Refused };
                message.note(if is_stored { "confirmed" } else { "refused" });
            }
            let delivered = ids.iter().find(|id| {
                !is_stored && state.messages.get(id).is_some_and(|message| message.deliveries > 0)
            });
            delivered.map(|id| format!("{id} was delivered, and then refused"))
        });
    }

    /// So many messages were published in a protocol, and stored.
    pub(crate) fn spoken(&self, messages: usize) {
        self.0.lock().spoken += messages as u64;
    }

    /// A consumer has connected; returns a number for its connection.
    pub(crate) fn connected(&self) -> u64 {
        let state = &mut *self.0.lock();
        state.connections += 1;
        state.connections
    }

    /// A consumer has got a message.
    pub(crate) fn delivered(&self, connection: u64, id: u64, queue: usize, redelivered: bool) {
        self.with(("delivered", connection, id, queue, redelivered), |state| {
            let Some(message) = state.messages.get_mut(&id) else {
                return Some(format!("{id} was delivered and never published"));
            };
            message.note(if redelivered { "delivered again" } else { "delivered" });
            message.deliveries += 1;
            let problem = if message.queue != queue {
                Some("was delivered from another queue")
            } else if message.told == Told::Refused {
                Some("was refused, and delivered")
            } else if message.settled {
                Some("was settled, and delivered again")
            } else if message.exactly_once && message.deliveries > 1 {
                Some("was to be delivered exactly once, and was delivered again")
            } else if message.deliveries > 1 && !redelivered {
                Some("was delivered twice and not flagged")
            } else {
                None
            };
            let (deliveries, publisher) = (message.deliveries, message.publisher);
            let mut broken = problem.map(|problem| format!("{id} {problem}: {message:?}"));
            if deliveries > 1 {
                state.redeliveries += 1;
            }
            // One that is flagged may have been on its way to somebody who never got it.
            if !redelivered {
                let last = state.first_seen.entry((connection, publisher, queue)).or_default();
                if *last > id {
                    broken.get_or_insert(format!("{id} was delivered behind {last}"));
                }
                *last = id.max(*last);
            }
            broken
        });
    }

    /// A consumer is about to settle a message.
    pub(crate) fn settling(&self, id: u64) {
        self.with(("settling", id), |state| {
            let message = state.messages.get_mut(&id)?;
            message.note("settling");
            message.settling = true;
            None
        });
    }

    /// A consumer was told that a message is settled.
    pub(crate) fn settled(&self, id: u64) {
        self.with(("settled", id), |state| {
            let message = state.messages.get_mut(&id)?;
            message.note("settled");
            message.settled = true;
            None
        });
    }

    /// Somebody leads.
    pub(crate) fn leads(&self, term: u64, member: u64) {
        self.with(("leads", term, member), |state| {
            let known = *state.leaders.entry(term).or_insert(member);
            (known != member).then(|| format!("{known} and {member} both lead term {term}"))
        });
    }

    /// At the end: what each queue holds, in its order. What is of none of them must have been
    /// delivered.
    pub(crate) fn finish(&self, held: &[Vec<u64>]) {
        self.with("finish", |state| {
            for (queue, ids) in held.iter().enumerate() {
                if let Some(broken) = state.check_held(queue, ids) {
                    return Some(broken);
                }
            }
            let queues = held.len();
            let held: BTreeSet<u64> = held.iter().flatten().copied().collect();
            let lost = state.messages.iter().find(|(id, message)| {
                let may_be_gone = match message.queue < queues {
                    true => message.settling || held.contains(id),
                    false => message.deliveries > 0,
                };
                message.told == Told::Confirmed && !may_be_gone
            });
            lost.map(|(id, message)| format!("{id} was confirmed, and is gone: {message:?}"))
        });
    }
}

impl State {
    fn check_held(&self, queue: usize, ids: &[u64]) -> Option<Broken> {
        let mut last: BTreeMap<usize, u64> = BTreeMap::new();
        for id in ids {
            let Some(message) = self.messages.get(id) else {
                return Some(format!("queue {queue} holds {id}, which nobody has published"));
            };
            let last = last.entry(message.publisher).or_default();
            let problem = if message.queue != queue {
                "is in another queue"
            } else if message.settled {
                "was settled, and is back"
            } else if message.told == Told::Refused {
                "was refused, and is there"
            } else if *last == *id {
                "is there twice"
            } else if *last > *id {
                "is behind a later one of its publisher"
            } else {
                *last = *id;
                continue;
            };
            return Some(format!("{id} {problem}: {message:?}; the queue holds {ids:?}"));
        }
        None
    }
}

impl Message {
    fn note(&mut self, what: &str) {
        self.history.push(format!("{:?}: {what}", virtual_time()));
    }
}

impl Tally {
    /// The sum of two.
    #[must_use]
    pub fn and(self, other: Tally) -> Tally {
        Tally {
            published: self.published + other.published,
            confirmed: self.confirmed + other.confirmed,
            refused: self.refused + other.refused,
            settled: self.settled + other.settled,
            redeliveries: self.redeliveries + other.redeliveries,
            spoken: self.spoken + other.spoken,
            exactly_once: self.exactly_once + other.exactly_once,
            joined: self.joined + other.joined,
            terms: self.terms + other.terms,
            snapshots: self.snapshots + other.snapshots,
            checkpoints: self.checkpoints + other.checkpoints,
            page_files: self.page_files + other.page_files,
            tails_lost: self.tails_lost + other.tails_lost,
        }
    }
}
