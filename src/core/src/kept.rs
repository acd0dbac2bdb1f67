//! What topic exchanges keep: the latest retained message of each routing key.
//!
//! Keys are looked up by the patterns of topic bindings. They stand in one ordered map, so that a
//! copy of it costs nothing (a checkpoint is written from one) and a search that is interrupted
//! goes on from a key. The order is that of their words: all that begins with the same words lies
//! together, and a search jumps over what cannot match with one descent from the root.

mod pattern;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use isthmus_model::{Annotations, Batch, NO_TTL, Record, Time};
use rpds::RedBlackTreeMapSync;

pub(crate) use self::pattern::Pattern;
use self::pattern::{Look, States};
use crate::Run;

/// What a message that is kept takes in memory beside its key and its bytes, about: nodes, counts
/// and lengths.
const OVERHEAD_BYTES: u64 = 256;

/// A message that an exchange keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptMessage {
    /// The message alone.
    pub batch: Arc<Batch>,
    /// When it came, in log time.
    pub since: Time,
    /// What was written beside it.
    pub annotations: Option<Arc<Annotations>>,
}

impl KeptMessage {
    /// A record of a batch, with no more than its own bytes.
    pub(crate) fn new(
        batch: &Arc<Batch>,
        record: u32,
        since: Time,
        annotations: Option<Arc<Annotations>>,
    ) -> KeptMessage {
        let r = &batch.records[record as usize];
        let is_alone = batch.records.len() == 1 && batch.chunk.len() == own_bytes(r) as usize;
        let batch = if is_alone { Arc::clone(batch) } else { Arc::new(batch.compacted(record, 1)) };
        KeptMessage { batch, since, annotations }
    }

    /// When it is not to be recalled any more; [`Time::NEVER`] if it does not expire.
    pub fn expires_at(&self) -> Time {
        if self.batch.records[0].ttl_ms == NO_TTL {
            return Time::NEVER;
        }
        self.run().expires_at(0, None)
    }

    /// About what a record would take in memory under `key`, in bytes.
    pub(crate) fn bytes_of(record: &Record, key: &str) -> u64 {
        key.len() as u64 + u64::from(own_bytes(record)) + OVERHEAD_BYTES
    }

    /// As a message that came into a queue when it was kept.
    fn run(&self) -> Run {
        Run {
            first: 0,
            len: 1,
            batch: Arc::clone(&self.batch),
            record: 0,
            enqueued_at: self.since,
            delivery_count: 0,
            annotations: self.annotations.clone(),
            logged_at: 0,
        }
    }

    /// About what it takes in memory under `key`, in bytes.
    pub(crate) fn bytes_under(&self, key: &str) -> u64 {
        key.len() as u64 + self.batch.chunk.len() as u64 + OVERHEAD_BYTES
    }
}

/// The bytes of a chunk that a record needs.
fn own_bytes(r: &Record) -> u32 {
    r.exchange.len + r.routing_key.len + r.head.len + r.body.len
}

/// What the exchanges of every virtual host keep. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    vhosts: RedBlackTreeMapSync<Arc<str>, OfVhost>,
}

#[derive(Clone, Debug, Default)]
struct OfVhost {
    exchanges: RedBlackTreeMapSync<Arc<str>, OfExchange>,
    size: Size,
}

#[derive(Clone, Debug, Default)]
struct OfExchange {
    /// By their turned keys ([`turned`]).
    messages: RedBlackTreeMapSync<Arc<str>, KeptMessage>,
    size: Size,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// How many messages.
    pub messages: u64,
    /// About what they take in memory, in bytes.
    pub bytes: u64,
}

impl Size {
    fn add(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn sub(&mut self, size: Size) {
        self.messages -= size.messages;
        self.bytes -= size.bytes;
    }
}

/// Where a search has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The turned key from which on it goes on.
    from: String,
    /// Whether nothing is left to find.
    pub(crate) is_done: bool,
}

impl Kept {
    /// Keeps a message as the latest of its key; returns the one before.
    pub(crate) fn keep(
        &mut self,
        vhost: &Arc<str>,
        exchange: &Arc<str>,
        key: &str,
        message: KeptMessage,
    ) -> Option<KeptMessage> {
        let before = self.remove(vhost, exchange, key);
        if !self.vhosts.contains_key(vhost) {
            self.vhosts.insert_mut(Arc::clone(vhost), OfVhost::default());
        }
        let of_vhost = self.vhosts.get_mut(vhost)?;
        if !of_vhost.exchanges.contains_key(exchange) {
            of_vhost.exchanges.insert_mut(Arc::clone(exchange), OfExchange::default());
        }
        let bytes = message.bytes_under(key);
        of_vhost.size.add(bytes);
        let of_exchange = of_vhost.exchanges.get_mut(exchange)?;
        of_exchange.size.add(bytes);
        of_exchange.messages.insert_mut(turned(key).into(), message);
        before
    }

    /// Keeps nothing under a key any more; returns what was there.
    pub(crate) fn remove(&mut self, vhost: &str, exchange: &str, key: &str) -> Option<KeptMessage> {
        let message = self.get(vhost, exchange, key)?.clone();
        let size = Size { messages: 1, bytes: message.bytes_under(key) };
        let of_vhost = self.vhosts.get_mut(vhost)?;
        of_vhost.size.sub(size);
        let of_exchange = of_vhost.exchanges.get_mut(exchange)?;
        of_exchange.size.sub(size);
        of_exchange.messages.remove_mut(&*turned(key));
        Some(message)
    }

    /// Forgets what an exchange keeps, and that it keeps anything; returns how much it was.
    pub(crate) fn forget_exchange(&mut self, vhost: &str, exchange: &str) -> Size {
        let Some(size) = self.of_exchange(vhost, exchange).map(|e| e.size) else {
            return Size::default();
        };
        if let Some(of_vhost) = self.vhosts.get_mut(vhost) {
            of_vhost.exchanges.remove_mut(exchange);
            of_vhost.size.sub(size);
        }
        size
    }

    /// Forgets what the exchanges of a virtual host keep.
    pub(crate) fn forget_vhost(&mut self, vhost: &str) {
        self.vhosts.remove_mut(vhost);
    }

    fn of_exchange(&self, vhost: &str, exchange: &str) -> Option<&OfExchange> {
        self.vhosts.get(vhost)?.exchanges.get(exchange)
    }

    /// What an exchange keeps under a routing key.
    pub fn get(&self, vhost: &str, exchange: &str, key: &str) -> Option<&KeptMessage> {
        self.of_exchange(vhost, exchange)?.messages.get(&*turned(key))
    }

    /// How much is kept in all.
    pub fn size(&self) -> Size {
        self.vhosts.values().fold(Size::default(), |sum, of_vhost| Size {
            messages: sum.messages + of_vhost.size.messages,
            bytes: sum.bytes + of_vhost.size.bytes,
        })
    }

    /// How much the exchanges of a virtual host keep.
    pub fn size_of_vhost(&self, vhost: &str) -> Size {
        self.vhosts.get(vhost).map(|of_vhost| of_vhost.size).unwrap_or_default()
    }

    /// How much an exchange keeps.
    pub fn size_of_exchange(&self, vhost: &str, exchange: &str) -> Size {
        self.of_exchange(vhost, exchange).map(|e| e.size).unwrap_or_default()
    }

    /// All that is kept, as (virtual host, exchange, routing key, message): in the order of the
    /// first two, and of the words of the third.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, String, &KeptMessage)> {
        self.vhosts.iter().flat_map(|(vhost, of_vhost)| {
            of_vhost.exchanges.iter().flat_map(move |(exchange, of_exchange)| {
                let messages = of_exchange.messages.iter();
                messages.map(move |(key, message)| (vhost, exchange, turned_back(key), message))
            })
        })
    }

    /// What expires, as (when, virtual host, exchange, routing key).
    pub(crate) fn iter_expiring(
        &self,
    ) -> impl Iterator<Item = (Time, &Arc<str>, &Arc<str>, String)> {
        self.vhosts.iter().flat_map(|(vhost, of_vhost)| {
            of_vhost.exchanges.iter().flat_map(move |(exchange, of_exchange)| {
                let messages = of_exchange.messages.iter();
                let timed = messages.map(|(key, message)| (message.expires_at(), key));
                let expiring = timed.filter(|(at, _)| *at != Time::NEVER);
                expiring.map(move |(at, key)| (at, vhost, exchange, turned_back(key)))
            })
        })
    }

    /// What an exchange keeps under the keys behind `after`, in the order of their words; all of
    /// it if `after` is not given.
    pub fn iter_from(
        &self,
        vhost: &str,
        exchange: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (String, &KeptMessage)> {
        let from: Arc<str> = after.map(|key| turned(key) + FIRST).unwrap_or_default().into();
        let messages = self.of_exchange(vhost, exchange).map(|e| e.messages.range(from..));
        messages.into_iter().flatten().map(|(key, message)| (turned_back(key), message))
    }

    /// Goes on with a search, for `work` steps at the most, each about the comparison of a word.
    /// What is found is given to `found` in the order of the words of its key, until that says
    /// no.
    pub(crate) fn search(
        &self,
        (vhost, exchange): (&str, &str),
        pattern: &Pattern,
        cursor: &mut Cursor,
        work: u64,
        mut found: impl FnMut(&KeptMessage) -> bool,
    ) {
        let Some(of_exchange) = self.of_exchange(vhost, exchange) else {
            cursor.is_done = true;
            return;
        };
        let mut states = States::default();
        let mut work_left = work;
        'jump: while !cursor.is_done {
            let from: Arc<str> = cursor.from.as_str().into();
            for (key, message) in of_exchange.messages.range(from..) {
                let look = pattern.look(key, &mut states, &mut work_left);
                let goes_on = match look {
                    Look::Matches => found(message),
                    Look::Passes => true,
                    Look::Jump(to) => {
                        cursor.from = to;
                        if work_left == 0 {
                            return;
                        }
                        continue 'jump;
                    }
                    Look::Ends => break,
                };
                if !goes_on || work_left == 0 {
                    cursor.from = format!("{key}{FIRST}");
                    return;
                }
            }
            cursor.is_done = true;
        }
    }
}

/// The first of all characters, which stands between words of turned keys: with it behind a key,
/// one has the next key that there could be.
const FIRST: &str = "\0";

/// The second of all characters: with it behind some words, one has a bound behind all keys that
/// begin with them.
const SECOND: &str = "\u{1}";

/// A key in the order of its words: the dot comes before all other characters, which make room for
/// it.
fn turned(key: &str) -> String {
    let turn = |c| match c {
        '.' => '\0',
        '\0'..'.' => char::from(c as u8 + 1),
        _ => c,
    };
    key.chars().map(turn).collect()
}

/// The key that was [`turned`].
fn turned_back(key: &str) -> String {
    let turn = |c| match c {
        '\0' => '.',
        '\u{1}'..='.' => char::from(c as u8 - 1),
        _ => c,
    };
    key.chars().map(turn).collect()
}
