//! One queue as the dispatcher knows it.

use std::collections::VecDeque;
use std::sync::Arc;

use isthmus_model::{
    DeathReason, Encodings, Lifetime, NO_TTL, QueueDef, QueueId, QueueOptions, Sequence, Time,
};

use super::checkouts::Checkouts;
use super::delayed::Held;
use super::ready::Ready;
use super::turns::Turns;
use crate::dedup::DedupOptions;
use crate::ledger::QueueLedger;
use crate::policy::Effective;
use crate::{Ledger, Part, Run, RunMap};

/// Order, consumers and volatile messages of one queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) id: QueueId,
    pub(super) vhost: Arc<str>,
    pub(super) def: Arc<QueueDef>,
    /// The policies that apply to it.
    pub(super) policies: Effective,
    /// What holds for it now, where policies make that something else than what is declared.
    governed: Option<Box<QueueOptions>>,
    /// If messages that were seen before are not to come in.
    pub(super) dedup: Option<Arc<DedupOptions>>,
    /// The sequence of the next message.
    pub(super) next: Sequence,
    /// When its messages are due, if it holds what an exchange delays: none of them is ever ready.
    pub(super) held: Option<Box<Held>>,
    /// Messages that are not in the log.
    volatile: Option<Box<RunMap>>,
    pub(super) ready: Ready,
    /// Bytes of bodies that are ready.
    pub(super) ready_bytes: u64,
    /// Messages on their way in: through the log, or behind others that are.
    pub(super) pending: u64,
    /// Bytes of their bodies.
    pub(super) pending_bytes: u64,
    pub(super) checkouts: Checkouts,
    /// Places in the table of consumers, in the order of their coming.
    pub(super) consumers: Vec<usize>,
    /// Those that may have credit, in the order of their turns. One that is found to have none is
    /// taken out until its credit grows: however many wait, they cost a delivery nothing.
    pub(super) turns: Turns,
    /// The consumer that has the queue for itself.
    pub(super) exclusive_consumer: Option<usize>,
    /// The one that gets messages, if only one at a time does.
    pub(super) active_consumer: Option<usize>,
    /// Messages whose failed delivery is on its way into the log.
    pub(super) returning: u64,
    /// Whether a consumer may have credit that it is to be told of when it ends.
    pub(super) drains: bool,
    seldom: Option<Box<Seldom>>,
    /// Whether anybody ever consumed; an auto-delete queue waits for its first consumer.
    pub(super) had_consumer: bool,
    /// Whether lasting sessions held it, and none does any more.
    pub(super) was_let_go: bool,
    /// Whether a message that can expire ever came in.
    pub(super) can_expire: bool,
    /// Messages from this sequence on have come in since the queue was last served. They do not
    /// expire before those who wait for them have had their chance, so that a time to live of
    /// zero means "to whoever is waiting now".
    pub(super) new_from: Sequence,
    /// When a queue that expires was last used.
    pub(super) used_at: Time,
    /// When the timer for that is set, [`Time::NEVER`] if it is not.
    pub(super) expiry_at: Time,
    /// When the timer for the front message is set.
    pub(super) timer_at: Time,
    /// In the dispatcher's list of queues to look at.
    pub(super) dirty: bool,
}

/// What few queues have, and those not for long.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    /// Places in the table of consumers of those that only take what is there.
    pub(super) looks: Vec<usize>,
    /// Messages that are to leave the queue and whose page is being read: the first sequence, how
    /// many sequences, and why.
    pub(super) dying: VecDeque<(Sequence, u64, DeathReason)>,
    /// Messages dropped because they were delivered as often as the queue allows.
    pub(super) undeliverable: u64,
}

/// How a queue is, for operators.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueStatus {
    /// Its id.
    pub id: QueueId,
    /// Its virtual host.
    pub vhost: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// As it was declared.
    pub def: Arc<QueueDef>,
    /// Whether it outlives a restart.
    pub durable: bool,
    /// Messages that wait for a consumer.
    pub ready: u64,
    /// Bytes of bodies that are ready.
    pub ready_bytes: u64,
    /// Messages that are delivered and not settled.
    pub unacked: u64,
    /// Its consumers.
    pub consumers: usize,
    /// The policy that applies to it.
    pub policy: Option<Arc<str>>,
    /// The operator policy that applies to it.
    pub operator_policy: Option<Arc<str>>,
}

/// What queues have together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueTotals {
    /// Messages that wait for a consumer.
    pub ready: u64,
    /// Bytes of bodies that are ready.
    pub ready_bytes: u64,
    /// Messages that are delivered and not settled.
    pub unacked: u64,
}

impl Queue {
    pub(super) fn new(
        vhost: &Arc<str>,
        def: Arc<QueueDef>,
        id: QueueId,
        encodings: Encodings,
    ) -> Queue {
        Queue {
            id,
            vhost: Arc::clone(vhost),
            can_expire: def.options.message_ttl_ms.is_some(),
            policies: Effective::default(),
            governed: None,
            held: Held::of(&def, encodings).map(Box::new),
            // Arguments that make no sense are refused before; an older log may hold some.
            dedup: DedupOptions::of(&def.arguments).ok().flatten().map(Arc::new),
            def,
            next: 1,
            volatile: None,
            ready: Ready::default(),
            ready_bytes: 0,
            pending: 0,
            pending_bytes: 0,
            checkouts: Checkouts::default(),
            consumers: Vec::new(),
            turns: Turns::default(),
            exclusive_consumer: None,
            active_consumer: None,
            returning: 0,
            drains: false,
            seldom: None,
            had_consumer: false,
            was_let_go: false,
            new_from: Sequence::MAX,
            used_at: Time(0),
            expiry_at: Time::NEVER,
            timer_at: Time::NEVER,
            dirty: false,
        }
    }

    /// Takes over what the ledger holds, at the beginning of a term.
    pub(super) fn recover(&mut self, held: &QueueLedger) {
        self.next = held.next;
        for part in held.runs.iter() {
            self.note_ttl(part);
            self.ready_bytes += part.body_bytes();
            match part {
                Part::Here(_) => self.line_up(part),
                // Where something is gone, there is nothing to line up.
                Part::Paged(run) => {
                    run.parts().for_each(|stretch| self.line_up(&Part::Paged(stretch)));
                }
            }
        }
    }

    /// Lets policies hold, unless the queue is the broker's own.
    pub(super) fn set_policies(&mut self, policies: Effective) {
        if self.held.is_some() {
            return;
        }
        let options = policies.options(&self.def);
        self.governed = (options != *self.def.options).then(|| Box::new(options));
        self.policies = policies;
        self.can_expire |= self.options().message_ttl_ms.is_some();
    }

    /// What holds for it now.
    pub(super) fn options(&self) -> &QueueOptions {
        self.governed.as_deref().unwrap_or(&self.def.options)
    }

    /// Messages that are not in the log.
    pub(super) fn volatile(&self) -> &RunMap {
        static NONE: RunMap = RunMap::EMPTY;
        self.volatile.as_deref().unwrap_or(&NONE)
    }

    /// The same, to be changed.
    pub(super) fn volatile_mut(&mut self) -> &mut RunMap {
        self.volatile.get_or_insert_default()
    }

    /// What few queues have, to look at; see [`Seldom`].
    pub(super) fn seldom(&self) -> Option<&Seldom> {
        self.seldom.as_deref()
    }

    /// The same, to be changed.
    pub(super) fn seldom_mut(&mut self) -> &mut Seldom {
        self.seldom.get_or_insert_default()
    }

    /// Lets a consumer be one of the queue's.
    pub(super) fn add_consumer(&mut self, key: usize, exclusive: bool) {
        // Most have one: by itself a vector begins with room for four.
        self.consumers.reserve_exact(usize::from(self.consumers.is_empty()));
        self.consumers.push(key);
        self.had_consumer = true;
        if exclusive {
            self.exclusive_consumer = Some(key);
        }
        if self.options().single_active_consumer {
            self.active_consumer.get_or_insert(key);
        }
    }

    /// Everybody who may be delivered to: its consumers, and those who only look.
    pub(super) fn receivers(&self) -> Vec<usize> {
        let looks = self.seldom().map_or(&[][..], |seldom| &seldom.looks);
        [&self.consumers[..], looks].concat()
    }

    /// Whether a consumer of this queue may get messages.
    pub(super) fn serves(&self, consumer: usize) -> bool {
        !self.options().single_active_consumer || self.active_consumer == Some(consumer)
    }

    /// Whether deliveries wait for messages that are on their way back: with a single consumer at
    /// a time, whoever takes over gets them in the queue's order.
    pub(super) fn waits_for_returns(&self) -> bool {
        self.options().single_active_consumer && self.returning > 0
    }

    pub(super) fn is_durable(&self) -> bool {
        self.def.lifetime == Lifetime::Durable
    }

    pub(super) fn status(&self) -> QueueStatus {
        let (policy, operator_policy) = self.policies.names();
        QueueStatus {
            policy,
            operator_policy,
            id: self.id,
            vhost: Arc::clone(&self.vhost),
            name: Arc::clone(&self.def.name),
            def: Arc::clone(&self.def),
            durable: self.is_durable(),
            ready: self.ready.len(),
            ready_bytes: self.ready_bytes,
            unacked: self.checkouts.len(),
            consumers: self.consumers.len(),
        }
    }

    /// Gives out the sequences of `len` messages; returns the first.
    pub(super) fn number(&mut self, len: u32) -> Sequence {
        let first = self.next;
        self.next += u64::from(len);
        first
    }

    /// Remembers that messages of a part expire, if any does.
    fn note_ttl(&mut self, part: &Part) {
        if self.can_expire {
            return;
        }
        self.can_expire = match part {
            Part::Here(run) => {
                let end = (run.record + run.len) as usize;
                run.batch.records[run.record as usize..end].iter().any(|r| r.ttl_ms != NO_TTL)
            }
            Part::Paged(run) => run.page.expires_from != Time::NEVER,
        };
    }

    /// Messages that are not in the log come in. Their sequences are given out here.
    pub(super) fn enter_volatile(&mut self, mut run: Run) {
        run.first = self.number(run.len);
        self.new_from = self.new_from.min(run.first);
        self.pending -= u64::from(run.len);
        self.pending_bytes -= run.body_bytes();
        self.ready_bytes += run.body_bytes();
        let part = Part::Here(run);
        self.note_ttl(&part);
        self.line_up(&part);
        self.volatile_mut().insert_part(part);
    }

    /// Durable messages are committed.
    pub(super) fn came_in(&mut self, ledger: &Ledger, first: Sequence, len: u64) {
        self.new_from = self.new_from.min(first);
        self.pending -= len;
        let as_one = self.options().priority_max.is_none() && self.held.is_none();
        if as_one {
            self.ready.push(0, first, len);
        }
        self.each_part(ledger, first, len, |queue, part| {
            queue.note_ttl(&part);
            if !as_one {
                queue.line_up(&part);
            }
            let bytes = part.body_bytes();
            queue.pending_bytes -= bytes;
            queue.ready_bytes += bytes;
        });
    }

    /// Delivered messages are ready again.
    pub(super) fn came_back(&mut self, ledger: &Ledger, first: Sequence, len: u64) {
        if self.options().priority_max.is_none() {
            self.ready.put_back(0, first, len);
        }
        self.each_part(ledger, first, len, |queue, part| {
            queue.ready_bytes += part.body_bytes();
            for (priority, first, len) in queue.by_priority(&part) {
                queue.ready.put_back(priority, first, len);
            }
        });
    }

    /// Messages become visible, each behind those of its priority, or wait until they are due.
    fn line_up(&mut self, part: &Part) {
        if let Some(held) = &mut self.held {
            return held.hold(part);
        }
        if self.options().priority_max.is_none() {
            return self.ready.push(0, part.first(), part.len());
        }
        for (priority, first, len) in self.by_priority(part) {
            self.ready.push(priority, first, len);
        }
    }

    /// The part, which has no gap, cut where priorities change: (priority, first sequence, how
    /// many). Nothing of a queue that looks at no priorities.
    fn by_priority(&self, part: &Part) -> Vec<(u8, Sequence, u64)> {
        let Some(max) = self.options().priority_max else { return Vec::new() };
        let mut cut: Vec<(u8, Sequence, u64)> = Vec::new();
        for (offset, sequence) in (part.first()..part.end()).enumerate() {
            let priority = part.priority(offset as u32).min(max);
            match cut.last_mut() {
                Some((p, _, len)) if *p == priority => *len += 1,
                _ => cut.push((priority, sequence, 1)),
            }
        }
        cut
    }

    fn each_part(
        &mut self,
        ledger: &Ledger,
        first: Sequence,
        len: u64,
        mut each: impl FnMut(&mut Queue, Part),
    ) {
        let end = first + len;
        let mut at = first;
        while at < end {
            let Some(part) = self.find(ledger, at, end - at) else {
                panic!("queue {}: message {at} is ready and nowhere", self.id);
            };
            at = part.end();
            each(self, part);
        }
    }

    /// The messages from `first` on, `len` at the most, as far as they lie in one run.
    pub(super) fn find(&self, ledger: &Ledger, first: Sequence, len: u64) -> Option<Part> {
        if !self.volatile().is_empty()
            && let Some(run) = self.volatile().slice(first, len)
        {
            return Some(Part::Here(run));
        }
        ledger.queue(self.id)?.runs.find(first, len)
    }

    /// Whether messages that may have been delivered in an earlier term are below this sequence.
    pub(super) fn redelivered_below(&self, ledger: &Ledger) -> Sequence {
        ledger.queue(self.id).map_or(0, |q| q.redelivered_below)
    }

    /// `first..first + len` cut where durable and volatile messages meet.
    pub(super) fn by_durability(&self, first: Sequence, len: u64) -> Vec<(Sequence, u64, bool)> {
        if self.volatile().is_empty() {
            return vec![(first, len, self.is_durable())];
        }
        if !self.is_durable() {
            return vec![(first, len, false)];
        }
        let end = first + len;
        let mut parts = Vec::new();
        let mut at = first;
        while at < end {
            let (part, durable) = match self.volatile().slice(at, end - at) {
                Some(run) => (u64::from(run.len), false),
                None => {
                    (self.volatile().first_from(at).map_or(end, |next| next.min(end)) - at, true)
                }
            };
            parts.push((at, part, durable));
            at += part;
        }
        parts
    }
}
