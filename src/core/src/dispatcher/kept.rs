//! What exchanges keep: coming in, going, and recalled.
//!
//! The dispatcher has a view of its own, with what is not committed yet: a message that came before
//! a recall is either in the queue already or among what is recalled, and what comes after it lies
//! behind it in the queue. What an exchange keeps that is not durable is nowhere else.

use std::collections::BTreeSet;
use std::sync::Arc;

use isthmus_model::{
    Annotations, Batch, CommandError, ExchangeDef, ExchangeKind, QueueId, Recall, RecordFlags,
    Reply, SessionId, Time, Token,
};

use super::publish::Routed;
use super::session::Deferred;
use super::{Dispatcher, Note};
use crate::kept::{Cursor, Kept, KeptMessage, Pattern};
use crate::topology::{TopologyError, WORDS_MAX};
use crate::{Fact, Ledger, Run};

/// About what a fact of what is kept costs in the log beside key and message.
const FACT_BYTES: u64 = 64;

/// Messages recalled in one step, so that there is an end to a turn.
const RECALLED_MAX: usize = 2_000;

/// Bytes recalled in one step, about.
const RECALLED_BYTES_ENOUGH: usize = 4 << 20;

/// Comparisons of words in one step: where a pattern begins with `#`, all has to be looked at.
const WORK_MAX: u64 = 200_000;

/// The dispatcher's view of what is kept.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    kept: Kept,
    /// Exactly what is kept and expires: what is replaced leaves nothing behind.
    expiry: BTreeSet<Timer>,
}

/// When something that is kept expires.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    /// In log time.
    at: Time,
    vhost: Arc<str>,
    exchange: Arc<str>,
    key: Arc<str>,
}

impl Timer {
    fn new(at: Time, vhost: &Arc<str>, exchange: &Arc<str>, key: &Arc<str>) -> Timer {
        let (vhost, exchange) = (Arc::clone(vhost), Arc::clone(exchange));
        Timer { at, vhost, exchange, key: Arc::clone(key) }
    }
}

/// That an exchange keeps a message.
pub(super) struct Keeps {
    vhost: Arc<str>,
    exchange: Arc<ExchangeDef>,
    key: Arc<str>,
}

impl Keeps {
    /// If an exchange keeps a message with such a key and flags.
    pub(super) fn of(
        vhost: &Arc<str>,
        exchange: &Arc<ExchangeDef>,
        key: &str,
        flags: RecordFlags,
    ) -> Option<Keeps> {
        (flags.has(RecordFlags::RETAIN) && exchange.kind == ExchangeKind::Topic).then(|| Keeps {
            vhost: Arc::clone(vhost),
            exchange: Arc::clone(exchange),
            key: key.into(),
        })
    }
}

/// A recall, and how far it has come.
#[derive(Debug)]
pub(super) struct Recalling {
    token: Token,
    exchange: Arc<str>,
    pattern: Pattern,
    queue: Arc<str>,
    cursor: Cursor,
    /// How many messages came into the queue.
    count: u64,
}

impl Keeping {
    /// What the ledger holds, at the beginning of a term.
    pub(super) fn recover(ledger: &Ledger) -> Keeping {
        let kept = ledger.kept().clone();
        let expiring = kept.iter_expiring();
        let timer = |(at, vhost, exchange, key): (_, _, _, String)| {
            Timer::new(at, vhost, exchange, &key.into())
        };
        let expiry = expiring.map(timer).collect();
        Keeping { kept, expiry }
    }

    fn keep(&mut self, keeps: &Keeps, message: KeptMessage) {
        let Keeps { vhost, exchange, key } = keeps;
        let exchange = &exchange.name;
        let expires_at = message.expires_at();
        let before = self.kept.keep(vhost, exchange, key, message);
        if let Some(before) = before {
            self.unset_timer(vhost, exchange, key, &before);
        }
        if expires_at != Time::NEVER {
            self.expiry.insert(Timer::new(expires_at, vhost, exchange, key));
        }
    }

    /// Keeps nothing under a key any more; returns whether it did.
    fn remove(&mut self, vhost: &Arc<str>, exchange: &Arc<str>, key: &Arc<str>) -> bool {
        let Some(message) = self.kept.remove(vhost, exchange, key) else { return false };
        self.unset_timer(vhost, exchange, key, &message);
        true
    }

    fn unset_timer(
        &mut self,
        vhost: &Arc<str>,
        exchange: &Arc<str>,
        key: &Arc<str>,
        message: &KeptMessage,
    ) {
        let at = message.expires_at();
        if at != Time::NEVER {
            self.expiry.remove(&Timer::new(at, vhost, exchange, key));
        }
    }

    /// An exchange is gone.
    pub(super) fn forget_exchange(&mut self, vhost: &str, exchange: &str) {
        if self.kept.forget_exchange(vhost, exchange).messages > 0 {
            self.expiry.retain(|timer| (&*timer.vhost, &*timer.exchange) != (vhost, exchange));
        }
    }

    /// A virtual host is gone.
    pub(super) fn forget_vhost(&mut self, vhost: &str) {
        self.kept.forget_vhost(vhost);
        self.expiry.retain(|timer| &*timer.vhost != vhost);
    }

    /// The log time at which something that is kept expires; [`Time::NEVER`] if nothing does.
    pub(super) fn next_expiry(&self) -> Time {
        self.expiry.first().map_or(Time::NEVER, |timer| timer.at)
    }
}

impl Dispatcher {
    /// What exchanges keep, with what is not committed yet.
    pub fn kept(&self) -> &Kept {
        &self.keeping.kept
    }

    /// Whether a message that is routed so is held by its exchange, which keeps it when it lets it
    /// go.
    pub(super) fn is_held(&self, routes: &[QueueId]) -> bool {
        let is_held = |id: &QueueId| self.queues.get(id).is_some_and(|q| q.held.is_some());
        routes.first().is_some_and(is_held)
    }

    /// Whether a virtual host may keep so much more.
    pub(super) fn has_room_to_keep(&self, keeps: &Keeps, batch: &Batch, record: u32) -> bool {
        let record = &batch.records[record as usize];
        if record.body.len == 0 {
            return true;
        }
        let Keeps { vhost, exchange, key } = keeps;
        let kept = &self.keeping.kept;
        let before = kept.get(vhost, &exchange.name, key).map_or(0, |m| m.bytes_under(key));
        let bytes = KeptMessage::bytes_of(record, key);
        let all = kept.size_of_vhost(vhost).bytes - before + bytes;
        bytes <= before || all <= self.options.retained_bytes_max
    }

    /// Lets an exchange keep a message, or nothing if its body is empty; returns what the log is
    /// to say of it.
    pub(super) fn keep(
        &mut self,
        keeps: &Keeps,
        batch: &Arc<Batch>,
        record: u32,
        annotations: Option<&Arc<Annotations>>,
    ) -> Option<Fact> {
        let (vhost, exchange) = (Arc::clone(&keeps.vhost), Arc::clone(&keeps.exchange.name));
        let key = Arc::clone(&keeps.key);
        if batch.records[record as usize].body.len == 0 {
            let is_news = self.keeping.remove(&vhost, &exchange, &key) && keeps.exchange.durable;
            return is_news.then_some(Fact::Unkept { vhost, exchange, key });
        }
        let now = self.clock.log;
        let message = KeptMessage::new(batch, record, now, annotations.cloned());
        let batch = Arc::clone(&message.batch);
        let annotations = message.annotations.clone();
        self.keeping.keep(keeps, message);
        keeps.exchange.durable.then_some(Fact::Kept {
            vhost,
            exchange,
            key,
            batch,
            record: None,
            since: now,
            annotations,
        })
    }

    /// Gathers a fact of what is kept.
    pub(super) fn log_kept(&mut self, fact: Fact) {
        let bytes = match &fact {
            Fact::Kept { batch, record: None, .. } => batch.chunk.len() as u64,
            _ => 0,
        };
        self.propose(fact, FACT_BYTES + bytes);
    }

    /// Lets an exchange keep a message that the broker itself has sent there: a dead letter, or
    /// what was delayed. Nobody waits for an answer who could be told that there is no room.
    pub(super) fn keep_moved(
        &mut self,
        vhost: &Arc<str>,
        exchange: &str,
        key: &str,
        run: &Run,
        annotations: &Arc<Annotations>,
    ) {
        let flags = run.batch.records[run.record as usize].flags;
        let Ok(def) = self.topology.exchange(vhost, exchange) else { return };
        let Some(keeps) = Keeps::of(vhost, def, key, flags) else { return };
        if !self.has_room_to_keep(&keeps, &run.batch, run.record) {
            self.not_kept += 1;
            let (vhost, exchange) = (Arc::clone(vhost), Arc::clone(&keeps.exchange.name));
            return self.notes.push(Note::NotKept { vhost, exchange, total: self.not_kept });
        }
        if let Some(fact) = self.keep(&keeps, &run.batch, run.record, Some(annotations)) {
            self.log_kept(fact);
        }
    }

    /// Keeps no longer what has expired.
    pub(super) fn expire_kept(&mut self) {
        while self.keeping.next_expiry() <= self.clock.log && !self.has_gathered_enough() {
            let Some(timer) = self.keeping.expiry.pop_first() else { return };
            let Timer { vhost, exchange, key, .. } = timer;
            self.moved += 1;
            self.keeping.remove(&vhost, &exchange, &key);
            if self.topology.exchange(&vhost, &exchange).is_ok_and(|def| def.durable) {
                self.log_kept(Fact::Unkept { vhost, exchange, key });
            }
        }
    }

    /// Puts copies of what an exchange keeps into a queue.
    pub fn recall(&mut self, ledger: &Ledger, session: SessionId, recall: &Recall) {
        let request = Deferred::Recall(Box::new(Recalling {
            token: recall.token,
            exchange: Arc::clone(&recall.exchange),
            pattern: Pattern::new(&recall.pattern),
            queue: Arc::clone(&recall.queue),
            cursor: Cursor::default(),
            count: 0,
        }));
        if let Some(Deferred::Recall(recalling)) = self.defer(ledger, session, request) {
            self.do_recall(ledger, session, recalling);
        }
    }

    pub(super) fn do_recall(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        mut recalling: Box<Recalling>,
    ) {
        let result = self.recall_some(ledger, session, &mut recalling);
        if result.is_ok() && !recalling.cursor.is_done {
            return self.go_on_later(session, Deferred::Recall(recalling));
        }
        let Recalling { token, count, .. } = *recalling;
        self.answer(ledger, session, token, result.map(|()| Reply::Messages(count)));
    }

    /// Goes on with a recall as far as one turn may.
    fn recall_some(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        recalling: &mut Recalling,
    ) -> Result<(), CommandError> {
        let vhost = self.vhost_of(session)?;
        let def = Arc::clone(self.topology.exchange(&vhost, &recalling.exchange)?);
        if def.kind != ExchangeKind::Topic {
            return Err(CommandError::Precondition(format!(
                "exchange '{}' in vhost '{vhost}' keeps no messages: only topic exchanges do",
                def.name
            )));
        }
        let words = recalling.pattern.words();
        if words > WORDS_MAX {
            return Err(TopologyError::TooManyWords { words }.into());
        }
        let (queue, _) = self.usable_queue(session, &recalling.queue)?;
        if self.has_gathered_enough() {
            return Ok(());
        }
        let (now, mut found, mut bytes) = (self.clock.log, Vec::new(), 0);
        let Recalling { pattern, cursor, .. } = recalling;
        let (kept, place) = self.keeping_of(&vhost, &def.name);
        kept.search(place, pattern, cursor, WORK_MAX, |message| {
            if message.expires_at() > now {
                bytes += message.batch.chunk.len();
                found.push(message.clone());
            }
            found.len() < RECALLED_MAX && bytes < RECALLED_BYTES_ENOUGH
        });
        self.moved += found.len() as u64;
        if def.durable && !found.is_empty() {
            // What is not committed yet is not seen by anybody before it is. A message that is
            // kept later waits for its own entry, so it does not overtake these.
            self.wait_for_everybody(session);
        }
        for alike in found.chunk_by(is_alike) {
            recalling.count += self.put_recalled(ledger, session, queue, alike);
        }
        Ok(())
    }

    /// Puts copies of messages that are alike into a queue, as far as its limits allow; returns how
    /// many.
    fn put_recalled(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        queue: QueueId,
        messages: &[KeptMessage],
    ) -> u64 {
        let Some(first) = messages.first() else { return 0 };
        let parts = messages.iter().map(|message| (&*message.batch, 0, 1));
        let mut batch = Batch::joined(first.batch.encoding, parts);
        for (record, message) in batch.records.iter_mut().zip(messages) {
            let expires_at = message.expires_at();
            if expires_at != Time::NEVER {
                // Less than the time to live that the message came with, which is 32 bits wide.
                record.ttl_ms = expires_at.since(self.clock.log).as_millis() as u32;
            }
        }
        let old = first.annotations.as_deref().cloned().unwrap_or_default();
        let annotations = Arc::new(Annotations { recalled: true, ..old });
        let (batch, len) = (Arc::new(batch), messages.len() as u32);
        let written = self.gather.written;
        let mut routed = Routed::annotated(annotations);
        self.place_all(queue, &batch, 0, len, &mut routed);
        let refused = self.carry_out_routed(ledger, session, written, &batch, routed);
        u64::from(len) - refused.len() as u64
    }
}

/// Whether messages can go into one batch, and the log or not together.
fn is_alike(a: &KeptMessage, b: &KeptMessage) -> bool {
    let is_durable =
        |message: &KeptMessage| message.batch.records[0].flags.has(RecordFlags::DURABLE);
    a.batch.encoding == b.batch.encoding
        && is_durable(a) == is_durable(b)
        && a.annotations == b.annotations
}
