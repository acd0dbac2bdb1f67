//! Matching ready messages with credit.

use std::time::Duration;

use isthmus_model::{AttachMode, DeathReason, Delivery, LeaseEpoch, QueueId, Sequence, Time};

use super::checkouts::{Checkout, Holder};
use super::choose::Served;
use super::{Dispatcher, Fact, Output};
use crate::{Ledger, Part, Run};

/// Bytes gathered for the log by one call of [`Dispatcher::dispatch`] at which queues are left for
/// the next: what a million messages that expire at once come to is not to be one entry, nor one
/// turn.
const GATHERED_BYTES_ENOUGH: u64 = 8 << 20;

/// Messages moved one by one (dead letters, and what exchanges delayed) at which the same is done:
/// they cost time even where they do not cost the log anything.
const MOVED_ENOUGH: u64 = 10_000;

/// What a delivery costs in a session's outbox beside its head and body: frames, consumer tag,
/// exchange and routing key, about.
pub(super) const DELIVERY_OVERHEAD_BYTES: u64 = 64;

impl Dispatcher {
    /// Delivers what can be delivered, expires and drops what is due. Called once at the end of
    /// every turn.
    pub fn dispatch(&mut self, ledger: &Ledger) {
        self.fire_timers(ledger);
        // Deliveries of one call share an epoch: no message is delivered twice within it.
        self.next_epoch += 1;
        self.begin_slice();
        self.look_after_clients();
        self.expire_kept();
        self.begin_slice();
        self.looked = 0;
        while !self.has_gathered_enough()
            && !self.has_looked_enough()
            && let Some(id) = self.dirty.pop()
        {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.dirty = false;
                self.serve(ledger, id);
            }
        }
        if !self.to_look_at.is_empty() {
            // The last of the list is served first.
            let others = std::mem::take(&mut self.dirty);
            self.dirty = std::mem::take(&mut self.to_look_at);
            self.dirty.extend(others);
        }
        if !self.unfinished.is_empty() {
            // Apart from what queues did: neither is to wait for the other for ever.
            self.begin_slice();
            self.go_on(ledger);
        }
        self.trim_pages();
    }

    fn begin_slice(&mut self) {
        self.gathered_before = self.gather.bytes;
        self.moved = 0;
    }

    /// Whether what is left to do is left for the next turn.
    pub(super) fn has_gathered_enough(&self) -> bool {
        self.gather.bytes - self.gathered_before >= GATHERED_BYTES_ENOUGH
            || self.moved >= MOVED_ENOUGH
    }

    /// Delivers from one queue until it is empty or nobody has credit.
    fn serve(&mut self, ledger: &Ledger, id: QueueId) {
        self.discard_waiting(ledger, id);
        if self.queues.get(&id).is_some_and(|q| q.held.is_some()) {
            return self.release_due(ledger, id);
        }
        let served = if self.queues.get(&id).is_some_and(|q| q.ready.is_chosen_from()) {
            self.serve_choosing(ledger, id)
        } else {
            self.serve_in_order(ledger, id)
        };
        match (served, self.queues.get_mut(&id)) {
            (Served::Enough, _) => return self.mark_dirty(id),
            // What came in just now had its chance with those who were waiting for it.
            (Served::Fully, Some(queue)) => queue.new_from = Sequence::MAX,
            (Served::InPart, Some(queue)) if !queue.dirty => {
                queue.dirty = true;
                self.to_look_at.push(id);
            }
            _ => {}
        }
        self.expire_front(ledger, id);
        self.drop_overflow(ledger, id);
        self.tell_credit(id);
    }

    /// Delivers from the front of a queue.
    fn serve_in_order(&mut self, ledger: &Ledger, id: QueueId) -> Served {
        loop {
            if self.has_gathered_enough() {
                return Served::Enough;
            }
            self.expire_front(ledger, id);
            if self.queues.get(&id).is_none_or(|q| q.ready.is_empty() || q.waits_for_returns()) {
                return Served::Fully;
            }
            // Nothing is read for a queue that nobody wants anything of.
            if self.queues.get(&id).is_none_or(|q| q.turns.is_empty())
                || !self.front_is_here(ledger, id)
            {
                return Served::Fully;
            }
            let Some((key, credit, room)) = self.next_consumer(id) else { return Served::Fully };
            self.deliver(ledger, id, key, credit, room);
        }
    }

    /// The next consumer that can take something, with its credit and the room in its outbox:
    /// those of the highest priority in turn, those of the next where none of them can.
    pub(super) fn next_consumer(&mut self, id: QueueId) -> Option<(usize, u32, u64)> {
        loop {
            let key = self.queues.get_mut(&id)?.turns.pop()?;
            let (credit, room) = self.credit_of(key);
            let consumer = &mut self.consumers[key];
            if credit > 0 && room > 0 {
                self.queues.get_mut(&id)?.turns.push(consumer.priority, key);
                return Some((key, credit, room));
            }
            consumer.has_turn = false;
        }
    }

    /// Delivers one run to the consumer.
    pub(super) fn deliver(
        &mut self,
        ledger: &Ledger,
        id: QueueId,
        key: usize,
        credit: u32,
        room: u64,
    ) {
        let now = self.clock.log;
        let goes_on = self.clients.lasting.is_held(id);
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(range) = queue.ready.peek() else { return };
        let below = queue.redelivered_below(ledger);
        let turns = fair_turn(queue.ready.len(), queue.consumers.len());
        let mut len = range.len.min(u64::from(credit)).min(turns);
        if range.first < below {
            len = len.min(below - range.first);
        }
        let Some(part) = queue.find(ledger, range.first, len) else {
            panic!("queue {id}: message {} is ready and nowhere", range.first);
        };
        let is_paged = matches!(part, Part::Paged(_));
        let Some(run) = self.fetch(id, part) else { return };
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let ttl_ms = queue.options().message_ttl_ms;
        let may_expire = queue.can_expire && !(goes_on && range.returned());
        let live = if may_expire && run.first < queue.new_from {
            // The front one is live; what has expired behind it is left for the next look.
            (1..run.len).take_while(|i| run.expires_at(*i, ttl_ms) > now).count() as u32 + 1
        } else {
            run.len
        };
        let (len, cost) = fits(&run, live, room);
        let run = Run { len, ..run };
        queue.ready.take(range.priority, u64::from(len));
        let bytes = run.body_bytes();
        queue.ready_bytes -= bytes;
        self.counters.delivered_bytes += bytes;
        self.spend(key, len, cost);
        self.counters.delivered += u64::from(len);
        self.hand_over(id, key, range.returned() || run.first < below, run, cost);
        if is_paged {
            self.read_ahead(ledger, id);
        }
    }

    /// Checks the run out, or settles it, and passes it to the consumer's session.
    pub(super) fn hand_over(
        &mut self,
        id: QueueId,
        key: usize,
        redelivered: bool,
        run: Run,
        bytes: u64,
    ) {
        let epoch = LeaseEpoch::new(self.term, self.next_epoch);
        let consumer = &self.consumers[key];
        let session = consumer.session;
        let lease = consumer.lease_ms.filter(|_| consumer.mode == AttachMode::Consume);
        let now = self.clock.monotonic;
        let deadline = lease.map_or(Time::NEVER, |ms| now + Duration::from_millis(ms));
        self.timers.look_at(deadline, id);
        if redelivered && consumer.mode != AttachMode::Browse {
            self.counters.redelivered += u64::from(run.len);
        }
        match consumer.mode {
            AttachMode::Consume => {
                let holder = Holder {
                    session,
                    consumer: key,
                    consumer_number: consumer.number,
                    window: consumer.window(),
                };
                if let Some(queue) = self.queues.get_mut(&id) {
                    let (first, len) = (run.first, run.len);
                    queue.checkouts.insert(Checkout { first, len, epoch, deadline, holder });
                }
                self.note_checkout(session, id);
            }
            AttachMode::ConsumeSettled => {
                self.counters.acknowledged += u64::from(run.len);
                self.gone(id, run.first, u64::from(run.len));
            }
            AttachMode::Browse => {}
        }
        let delivery = Delivery {
            consumer: self.consumers[key].id,
            queue: id,
            first: run.first,
            len: run.len,
            epoch,
            deadline,
            batch: run.batch,
            record: run.record,
            redelivered,
            delivery_count: run.delivery_count,
            waited_ms: self.clock.log.since(run.enqueued_at).as_millis() as u64,
            annotations: run.annotations,
        };
        self.say(session, Output::Deliver { delivery, bytes });
    }

    /// Messages that are neither ready nor checked out leave the queue for good.
    pub(super) fn gone(&mut self, id: QueueId, first: Sequence, len: u64) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        for (first, len, durable) in queue.by_durability(first, len) {
            if !durable {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.volatile_mut().remove(first, len, drop);
                }
                continue;
            }
            // Acknowledgements mostly come in order: neighbours are one fact.
            if let Some(Fact::Settle { queue, first: f, len: l }) = self.gather.facts.last_mut()
                && *queue == id
                && *f + *l == first
            {
                *l += len;
                self.gather.written += 1;
                continue;
            }
            self.propose(Fact::Settle { queue: id, first, len }, 24);
        }
    }

    /// Drops or dead-letters from the front what is over the queue's limits.
    fn drop_overflow(&mut self, ledger: &Ledger, id: QueueId) {
        loop {
            if self.has_gathered_enough() {
                return self.mark_dirty(id);
            }
            let Some(queue) = self.queues.get(&id) else { return };
            let options = queue.options();
            let excess = options.length_max.map_or(0, |max| queue.ready.len().saturating_sub(max));
            let bytes_over = options.bytes_max.is_some_and(|max| queue.ready_bytes > max);
            let excess = excess.max(u64::from(bytes_over && !queue.ready.is_empty()));
            if excess == 0 {
                return;
            }
            if self.take_front(ledger, id, u8::MAX, excess, DeathReason::MaxLength).is_none() {
                return;
            }
        }
    }
}

/// How many messages a consumer gets before it is another's turn: one while few are ready, so
/// that work is spread as users of the peers expect, more when there is plenty for everybody.
pub(super) fn fair_turn(ready: u64, consumers: usize) -> u64 {
    if consumers <= 1 { u64::MAX } else { (ready / (2 * consumers as u64)).clamp(1, 64) }
}

/// How many of the first `len` messages of `run` fit in `room` bytes of an outbox, one at least,
/// and what they count there.
fn fits(run: &Run, len: u32, room: u64) -> (u32, u64) {
    let mut cost = 0;
    let records = &run.batch.records[run.record as usize..(run.record + len) as usize];
    for (i, record) in records.iter().enumerate() {
        let own = u64::from(record.head.len) + u64::from(record.body.len) + DELIVERY_OVERHEAD_BYTES;
        if i > 0 && cost + own > room {
            return (i as u32, cost);
        }
        cost += own;
    }
    (len, cost)
}
