//! What becomes of deliveries.

use std::sync::Arc;

use isthmus_model::{
    DeathReason, Outcome, QueueId, Reply, Sequence, SessionId, Settlement, Time, Token,
    TransactionId,
};

use super::checkouts::Checkout;
use super::session::Deferred;
use super::{After, Dispatcher, Note};
use crate::{Fact, Ledger};

/// Queues that a session may have taken messages from before it is asked whether they still exist.
const CHECKED_OUT_MIN: usize = 64;

/// Messages that are rejected or returned before it is asked whether that is enough for a turn.
const SLICE: u32 = 1000;

impl Dispatcher {
    /// Settles deliveries. What is settled already, or was delivered under another epoch, is
    /// passed over.
    pub fn settle(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        settlements: Vec<Settlement>,
        transaction: Option<TransactionId>,
    ) {
        let request = Deferred::Settle { token, settlements, transaction };
        if let Some(Deferred::Settle { token, settlements, transaction }) =
            self.defer(ledger, session, request)
        {
            self.do_settle(ledger, session, token, settlements, transaction);
        }
    }

    pub(super) fn do_settle(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        settlements: Vec<Settlement>,
        transaction: Option<TransactionId>,
    ) {
        let written = self.gather.written;
        let result = match transaction {
            Some(transaction) => self.settle_in(session, transaction, settlements),
            None => {
                let rest = self.settle_slice(ledger, session, settlements);
                if !rest.is_empty() {
                    let rest = Deferred::Settle { token, settlements: rest, transaction };
                    return self.go_on_later(session, rest);
                }
                Ok(Reply::Ok)
            }
        };
        self.answer_since(ledger, written, session, token, result);
    }

    /// Settles as much as one turn may take, and returns the rest. What is accepted costs next to
    /// nothing; each message that goes elsewhere is moved by itself.
    fn settle_slice(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        settlements: Vec<Settlement>,
    ) -> Vec<Settlement> {
        let all_at_once = self.sessions.get(&session).is_none_or(|s| s.closing)
            || settlements.iter().all(|s| s.outcome == Outcome::Accept);
        if all_at_once {
            self.settle_now(ledger, session, &settlements);
            return Vec::new();
        }
        let mut left = settlements.into_iter();
        while let Some(next) = left.next() {
            let mut next = next;
            while next.len > 0 {
                if self.has_gathered_enough() {
                    return std::iter::once(next).chain(left).collect();
                }
                let len =
                    if next.outcome == Outcome::Accept { next.len } else { next.len.min(SLICE) };
                let slice = [Settlement { len, ..next }];
                if self.lacks_pages(ledger, &slice) {
                    return std::iter::once(next).chain(left).collect();
                }
                self.settle_now(ledger, session, &slice);
                next.first += u64::from(len);
                next.len -= len;
            }
        }
        Vec::new()
    }

    /// What is accepted does not hold back what its session does next: it is out of everybody's
    /// sight already. What goes back, or to other queues, is in order with what comes after it.
    pub(super) fn settle_now(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        settlements: &[Settlement],
    ) {
        let written = self.gather.written;
        for s in settlements {
            let Some(queue) = self.queues.get_mut(&s.queue) else { continue };
            for checkout in queue.checkouts.take(s.first, s.len, s.epoch) {
                self.give_credit_back(s.queue, &checkout);
                self.end_checkout(ledger, s.queue, &checkout, s.outcome);
            }
        }
        if settlements.iter().any(|s| s.outcome != Outcome::Accept) {
            self.touch_log_since(written, session);
        }
    }

    /// Moves the deadlines of deliveries that are still checked out under the epochs named.
    pub fn extend(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        deliveries: &[Settlement],
        deadline: Time,
    ) {
        for d in deliveries {
            let Some(queue) = self.queues.get_mut(&d.queue) else { continue };
            for checkout in queue.checkouts.take(d.first, d.len, d.epoch) {
                queue.checkouts.insert(Checkout { deadline, ..checkout });
            }
            self.timers.look_at(deadline, d.queue);
        }
        self.answer(ledger, session, token, Ok(Reply::Ok));
    }

    /// Leases that have run out end as failed deliveries.
    pub(super) fn end_leases(&mut self, ledger: &Ledger, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        for checkout in queue.checkouts.take_due(self.clock.monotonic) {
            self.give_credit_back(id, &checkout);
            self.end_checkout(ledger, id, &checkout, Outcome::Requeue);
        }
    }

    fn end_checkout(&mut self, ledger: &Ledger, id: QueueId, c: &Checkout, outcome: Outcome) {
        let (first, len) = (c.first, u64::from(c.len));
        match outcome {
            Outcome::Accept => {
                self.counters.acknowledged += len;
                self.gone(id, first, len);
            }
            Outcome::Requeue => self.give_back_counted(ledger, id, first, len),
            Outcome::Modify { delivery_failed: true, .. } => {
                self.give_back_counted(ledger, id, first, len);
            }
            Outcome::Modify { .. } => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.came_back(ledger, first, len);
                }
                self.mark_dirty(id);
            }
            Outcome::Reject => {
                self.discard_range(ledger, id, first, len, DeathReason::Rejected);
            }
        }
    }

    /// Messages go back to their places with one failed delivery more, or leave the queue if that
    /// is one more than it allows. The count of a durable
    /// one is a fact: the message is ready again once that is committed, so that no delivery
    /// shows a count that a failover could take back.
    fn give_back_counted(&mut self, ledger: &Ledger, id: QueueId, first: Sequence, len: u64) {
        let Some(queue) = self.queues.get(&id) else { return };
        if queue.options().delivery_limit.is_none() {
            return self.count_and_return(ledger, id, first, len);
        }
        let mut at = first;
        while at < first + len {
            let Some(queue) = self.queues.get_mut(&id) else { return };
            let Some(part) = queue.find(ledger, at, first + len - at) else {
                panic!("queue {id}: message {at} is checked out and nowhere");
            };
            let count = part.delivery_count(0);
            let rest = (part.end() - at) as u32;
            let alike =
                (1..rest).take_while(|i| part.delivery_count(*i) == count).count() as u64 + 1;
            let from = at;
            at += alike;
            let failed = u64::from(count) + 1;
            if queue.options().delivery_limit.is_none_or(|limit| failed <= limit) {
                self.count_and_return(ledger, id, from, alike);
                continue;
            }
            if queue.options().dead_letter_exchange.is_none() {
                let undeliverable = &mut queue.seldom_mut().undeliverable;
                *undeliverable += alike;
                let total = *undeliverable;
                self.counters.dropped_undeliverable += alike;
                self.notes.push(Note::Undeliverable {
                    vhost: Arc::clone(&queue.vhost),
                    queue: Arc::clone(&queue.def.name),
                    total,
                });
            }
            self.discard_range(ledger, id, from, alike, DeathReason::DeliveryLimit);
        }
    }

    fn count_and_return(&mut self, ledger: &Ledger, id: QueueId, first: Sequence, len: u64) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        for (first, len, durable) in queue.by_durability(first, len) {
            if durable {
                self.propose(Fact::Count { queue: id, first, len }, 24);
                self.gather.after.push(After::Returned { queue: id, first, len });
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.returning += len;
                }
            } else if let Some(queue) = self.queues.get_mut(&id) {
                queue.volatile_mut().count_failed(first, len);
                queue.came_back(ledger, first, len);
                self.mark_dirty(id);
            }
        }
    }

    /// Returns everything that a session has checked out from a queue.
    pub(super) fn return_all_of(&mut self, ledger: &Ledger, id: QueueId, session: SessionId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        for checkout in queue.checkouts.take_of(session) {
            self.end_checkout(ledger, id, &checkout, Outcome::Requeue);
        }
    }

    /// Remembers that a session has messages of a queue to settle. Queues that are gone are
    /// forgotten as the set grows: a session may outlive any number of them.
    pub(super) fn note_checkout(&mut self, id: SessionId, queue: QueueId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.checked_out_from.insert(queue)
            && session.checked_out_from.len() > session.checked_out_max
        {
            session.checked_out_from.retain(|id| self.queues.contains_key(id));
            session.checked_out_max = 2 * session.checked_out_from.len() + CHECKED_OUT_MIN;
        }
    }

    pub(super) fn give_credit_back(&mut self, queue: QueueId, c: &Checkout) {
        let holder = c.holder;
        if let Some(consumer) = self.consumers.get_mut(holder.consumer)
            && consumer.number == holder.consumer_number
        {
            consumer.unsettled -= c.len;
            self.give_turn(holder.consumer);
        }
        self.mark_dirty(queue);
        let Some(window) = holder.window else { return };
        let Some(session) = self.sessions.get_mut(&holder.session) else { return };
        if let Some(window) = session.windows.get_mut(window) {
            let was_full = window.left() == 0;
            window.used = window.used.saturating_sub(c.len);
            // Others that share the window may deliver now.
            if was_full {
                self.give_turns(holder.session);
            }
        }
    }
}
