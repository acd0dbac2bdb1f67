//! What happens when its time has come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use isthmus_model::{DeathReason, QueueId, Time};

use super::Dispatcher;
use crate::{Ledger, Part};

/// Times at which queues and consumers want to be looked at. An entry that is out of date does
/// no harm: what it names is looked at and found not to be due.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// In log time: the front message of a queue may have expired.
    expiry: BinaryHeap<Reverse<(Time, QueueId)>>,
    /// In monotonic time: a consumer of the queue gives its credit up, a lease ends, or the
    /// queue itself.
    other: BinaryHeap<Reverse<(Time, QueueId)>>,
}

impl Timers {
    /// At log time `at`, the front message of the queue expires.
    pub(super) fn expiry_at(&mut self, at: Time, queue: QueueId) {
        self.expiry.push(Reverse((at, queue)));
    }

    /// At monotonic time `at`, a consumer's credit or a lease of the queue runs out.
    pub(super) fn look_at(&mut self, at: Time, queue: QueueId) {
        if at != Time::NEVER {
            self.other.push(Reverse((at, queue)));
        }
    }
}

impl Dispatcher {
    /// The monotonic time at which [`Dispatcher::dispatch`] has something to do even if nothing
    /// is asked of it; [`Time::NEVER`] if nothing is due.
    pub fn next_timeout(&self) -> Time {
        if !self.dirty.is_empty() || !self.unfinished.is_empty() {
            return self.clock.monotonic;
        }
        let expiry = self.timers.expiry.peek().map_or(Time::NEVER, |Reverse((at, _))| *at);
        let expiry = match expiry.min(self.keeping.next_expiry()) {
            Time::NEVER => Time::NEVER,
            at => self.clock.monotonic + at.since(self.clock.log),
        };
        let other = self.timers.other.peek().map_or(Time::NEVER, |Reverse((at, _))| *at);
        let clients = match self.clients.next_due() {
            Time::NEVER => Time::NEVER,
            at => self.clock.monotonic + at.since(self.clock.log),
        };
        expiry.min(other).min(clients)
    }

    /// Marks the queues whose time has come.
    pub(super) fn fire_timers(&mut self, ledger: &Ledger) {
        while let Some(Reverse((at, queue))) = self.timers.expiry.peek().copied()
            && at <= self.clock.log
        {
            self.timers.expiry.pop();
            if let Some(q) = self.queues.get_mut(&queue)
                && q.timer_at == at
            {
                q.timer_at = Time::NEVER;
            }
            self.mark_dirty(queue);
        }
        while let Some(Reverse((at, queue))) = self.timers.other.peek().copied()
            && at <= self.clock.monotonic
        {
            self.timers.other.pop();
            self.end_leases(ledger, queue);
            self.end_if_unused(queue);
            self.mark_dirty(queue);
        }
    }

    /// Takes expired messages off the front of the queue and sets its timer for the next. Like
    /// RabbitMQ's queues, it looks at the front only: what expires behind a message that does not
    /// waits for it, so that no scan is needed however long the queue is. Each priority has a
    /// front of its own. What came back to a queue that a lasting session holds does not expire: a
    /// delivery that was begun goes on when its client is back.
    pub(super) fn expire_front(&mut self, ledger: &Ledger, id: QueueId) {
        let mut priority = u8::MAX;
        let goes_on = self.clients.lasting.is_held(id);
        loop {
            if self.has_gathered_enough() {
                return self.mark_dirty(id);
            }
            let Some(queue) = self.queues.get_mut(&id).filter(|q| q.can_expire) else { return };
            let Some(range) = queue.ready.peek_up_to(priority) else { return };
            if goes_on && range.returned() {
                let Some(lower) = range.priority.checked_sub(1) else { return };
                priority = lower;
                continue;
            }
            let Some(part) = queue.find(ledger, range.first, range.len) else { return };
            let ttl_ms = queue.options().message_ttl_ms;
            let now = self.clock.log;
            let is_new = part.first() >= queue.new_from;
            let Some((at, expired)) = self.expired(id, part, ttl_ms, now) else { return };
            let Some(queue) = self.queues.get_mut(&id) else { return };
            if is_new || expired == 0 {
                if !is_new && at < queue.timer_at {
                    queue.timer_at = at;
                    self.timers.expiry_at(at, id);
                }
                let Some(lower) = range.priority.checked_sub(1) else { return };
                priority = lower;
                continue;
            }
            let reason = DeathReason::Expired;
            let taken = self.take_front(ledger, id, priority, u64::from(expired), reason);
            let Some(taken) = taken else { return };
            self.counters.expired += taken;
        }
    }

    /// When the first message of a part expires, or a time before, and how many from there on have
    /// by `now`. What is in a page is not read before something in it may have; `None` if it has
    /// to be read first.
    fn expired(
        &mut self,
        id: QueueId,
        part: Part,
        ttl_ms: Option<u64>,
        now: Time,
    ) -> Option<(Time, u32)> {
        if let Part::Paged(paged) = &part {
            let from = paged.expires_from(ttl_ms);
            if from > now {
                return Some((from, 0));
            }
        }
        let run = self.fetch(id, part)?;
        let expired = (0..run.len).take_while(|i| run.expires_at(*i, ttl_ms) <= now).count();
        Some((run.expires_at(0, ttl_ms), expired as u32))
    }

    /// A queue that expires is in use: its time begins anew.
    pub(super) fn in_use(&mut self, id: QueueId) {
        let now = self.clock.monotonic;
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(expires_ms) = queue.options().expires_ms else { return };
        queue.used_at = now;
        // One timer a queue, however often it is used: when it runs out, it is set anew.
        if queue.expiry_at == Time::NEVER {
            queue.expiry_at = now + Duration::from_millis(expires_ms);
            self.timers.look_at(queue.expiry_at, id);
        }
    }

    /// Deletes a queue that nobody has used for as long as it is to last.
    fn end_if_unused(&mut self, id: QueueId) {
        let now = self.clock.monotonic;
        let Some(queue) = self.queues.get_mut(&id).filter(|q| q.expiry_at <= now) else { return };
        let Some(expires_ms) = queue.options().expires_ms else { return };
        let due = queue.used_at + Duration::from_millis(expires_ms);
        let is_used = !queue.consumers.is_empty() || self.clients.lasting.is_held(id);
        if !is_used && due <= now {
            self.remove_queue(id);
            return;
        }
        // With consumers, or held, it does not end before they do, which counts as a use and sets
        // a timer.
        queue.expiry_at = if is_used { Time::NEVER } else { due };
        self.timers.look_at(queue.expiry_at, id);
    }
}
