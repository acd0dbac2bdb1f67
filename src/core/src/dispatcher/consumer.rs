//! Consumers and their credit.

use isthmus_model::{
    Attach, AttachMode, CommandError, ConsumerId, Credit, DetachReason, QueueId, Reply, Sequence,
    SessionId, SharedFilter, Time, Token, WindowId,
};

use super::session::Deferred;
use super::{Dispatcher, Output};
use crate::Ledger;

/// One consumer.
#[derive(Debug)]
pub(super) struct Consumer {
    /// Never given twice, unlike its place in the table.
    pub(super) number: u64,
    pub(super) session: SessionId,
    pub(super) id: ConsumerId,
    pub(super) queue: QueueId,
    pub(super) mode: AttachMode,
    /// Whether it only takes what is there: no consumer in the eyes of anybody.
    pub(super) look: bool,
    /// Whether what its session publishes passes its queue by.
    pub(super) no_local: bool,
    /// Higher ones are served first.
    pub(super) priority: i64,
    pub(super) credit: Credit,
    /// How long it may hold a message, in milliseconds.
    pub(super) lease_ms: Option<u64>,
    /// Deliveries that it has not settled.
    pub(super) unsettled: u32,
    /// Whether it is among the queue's turns.
    pub(super) has_turn: bool,
    /// What it wants; `None` for everything.
    pub(super) filter: Option<SharedFilter>,
    /// Whether it chooses, and has looked at all that was there when its queue was last served.
    pub(super) has_seen_all: bool,
}

/// Credit that consumers of a session share.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    pub(super) limit: Option<u32>,
    pub(super) used: u32,
}

impl Window {
    /// Deliveries that it allows now.
    pub(super) fn left(self) -> u32 {
        self.limit.map_or(u32::MAX, |limit| limit.saturating_sub(self.used))
    }
}

impl Consumer {
    /// The window it shares with others.
    pub(super) fn window(&self) -> Option<WindowId> {
        match self.credit {
            Credit::Window { shared, .. } if self.mode == AttachMode::Consume => shared,
            _ => None,
        }
    }

    /// Deliveries that its own credit allows now.
    pub(super) fn own_credit(&self) -> u32 {
        match self.credit {
            Credit::Window { limit: Some(limit), .. } if self.mode == AttachMode::Consume => {
                limit.saturating_sub(self.unsettled)
            }
            Credit::Window { .. } | Credit::Unlimited => u32::MAX,
            Credit::Explicit { credit, .. } => credit,
        }
    }

    /// Whether it gives up at `now` the credit that it cannot use.
    fn drains_at(&self, now: Time) -> bool {
        matches!(self.credit, Credit::Explicit { credit, drain: true, deadline }
            if credit > 0 && deadline <= now)
    }
}

/// The priority that a consumer asks for.
fn priority_of(attach: &Attach) -> Result<i64, CommandError> {
    let Some(value) = attach.arguments.get("x-priority") else { return Ok(0) };
    value.as_i64().ok_or_else(|| {
        CommandError::Precondition(format!(
            "invalid arg 'x-priority' for consumer '{}': it must be an integer",
            attach.tag
        ))
    })
}

impl Dispatcher {
    /// Begins to deliver from a queue.
    pub fn attach(&mut self, ledger: &Ledger, session: SessionId, attach: Attach) {
        if let Some(Deferred::Attach(attach)) =
            self.defer(ledger, session, Deferred::Attach(attach))
        {
            self.do_attach(ledger, session, &attach);
        }
    }

    pub(super) fn do_attach(&mut self, ledger: &Ledger, session: SessionId, attach: &Attach) {
        let token = attach.token;
        let result = self.try_attach(session, attach);
        let queue = result.as_ref().ok().copied();
        self.answer(ledger, session, token, result.map(|_| Reply::Attached));
        if let Some(queue) = queue {
            self.mark_dirty(queue);
        }
    }

    fn try_attach(&mut self, id: SessionId, attach: &Attach) -> Result<QueueId, CommandError> {
        let (queue_id, _) = self.usable_queue(id, &attach.queue)?;
        let priority = priority_of(attach)?;
        if attach.exclusive && self.holds(id, queue_id) {
            self.reclaim(id, queue_id);
        }
        let (Some(queue), Some(session)) =
            (self.queues.get_mut(&queue_id), self.sessions.get_mut(&id))
        else {
            return Err(CommandError::Invalid("the session is over".into()));
        };
        if session.consumers.get(attach.consumer).is_some() {
            return Err(CommandError::Invalid(format!(
                "consumer {} is attached already",
                attach.consumer
            )));
        }
        let one_at_a_time = queue.options().single_active_consumer;
        let taken = queue.exclusive_consumer.is_some()
            || (attach.exclusive && (one_at_a_time || !queue.consumers.is_empty()));
        if taken && !attach.look {
            return Err(CommandError::Refused(format!(
                "queue '{}' in vhost '{}' in exclusive use",
                attach.queue, session.vhost
            )));
        }
        let key = self.consumers.insert(Consumer {
            number: self.next_consumer_number,
            session: id,
            id: attach.consumer,
            queue: queue_id,
            mode: attach.mode,
            look: attach.look,
            no_local: attach.no_local,
            priority,
            credit: attach.credit,
            lease_ms: attach.lease_ms,
            unsettled: 0,
            has_turn: false,
            filter: attach.filter.clone(),
            has_seen_all: false,
        });
        if attach.mode == AttachMode::Browse {
            // What comes in later is not shown: there is an end to it.
            queue.ready.begin_choosing(key, queue.next);
        } else if attach.filter.is_some() {
            queue.ready.begin_choosing(key, Sequence::MAX);
        }
        self.next_consumer_number += 1;
        session.consumers.insert(attach.consumer, key);
        if attach.no_local {
            session.no_local.insert(queue_id);
        }
        if attach.look {
            queue.seldom_mut().looks.push(key);
            self.in_use(queue_id);
        } else {
            queue.add_consumer(key, attach.exclusive);
        }
        self.watch_drain(key);
        self.give_turn(key);
        Ok(queue_id)
    }

    /// A session that comes back to a queue that it holds has it for itself: whoever consumed from
    /// it meanwhile is told that this is over, and may still settle what he has.
    fn reclaim(&mut self, id: SessionId, queue: QueueId) {
        let Some(queue) = self.queues.get(&queue) else { return };
        let is_other = |key: &usize| self.consumers[*key].session != id;
        for key in queue.consumers.iter().copied().filter(is_other).collect::<Vec<_>>() {
            self.cancel_consumer(key, DetachReason::Reclaimed);
        }
    }

    /// A consumer's credit may have grown: it has its turn, and its queue is looked at.
    pub(super) fn give_turn(&mut self, key: usize) {
        self.line_up_consumer(key);
        self.mark_dirty(self.consumers[key].queue);
    }

    /// A consumer waits for its turn, unless it does already or is not to have one.
    pub(super) fn line_up_consumer(&mut self, key: usize) {
        let consumer = &mut self.consumers[key];
        let (id, priority) = (consumer.queue, consumer.priority);
        if let Some(queue) = self.queues.get_mut(&id)
            && (consumer.look || queue.serves(key))
            && !std::mem::replace(&mut consumer.has_turn, true)
        {
            queue.turns.push(priority, key);
        }
    }

    /// Of a queue that serves one consumer at a time, another takes over from one that is gone:
    /// that of the highest priority, and of several the one that came first.
    fn activate_next(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let candidates = queue.consumers.iter().copied();
        queue.active_consumer = candidates.max_by_key(|key| {
            let consumer = &self.consumers[*key];
            (consumer.priority, std::cmp::Reverse(consumer.number))
        });
        if let Some(key) = queue.active_consumer {
            self.give_turn(key);
        }
    }

    /// Sees to it that credit which is given up is told of, and when.
    fn watch_drain(&mut self, key: usize) {
        let consumer = &self.consumers[key];
        let Credit::Explicit { drain: true, deadline, .. } = consumer.credit else { return };
        if let Some(queue) = self.queues.get_mut(&consumer.queue) {
            queue.drains = true;
        }
        if deadline > self.clock.monotonic {
            self.timers.look_at(deadline, consumer.queue);
        }
    }

    /// Stops delivering to a consumer. What it has checked out stays so.
    pub fn detach(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        consumer: ConsumerId,
    ) {
        if self.defer(ledger, session, Deferred::Detach { token, consumer }).is_some() {
            self.do_detach(ledger, session, token, consumer);
        }
    }

    pub(super) fn do_detach(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        consumer: ConsumerId,
    ) {
        let key = self.sessions.get_mut(&session).and_then(|s| s.consumers.remove(consumer));
        let queue = key.map(|key| self.end_consumer(key));
        self.answer(ledger, session, token, Ok(Reply::Ok));
        if let Some(queue) = queue {
            self.delete_if_abandoned(queue);
        }
    }

    /// Takes a consumer off its queue and out of the table. Whoever calls has taken it from its
    /// session.
    pub(super) fn end_consumer(&mut self, key: usize) -> QueueId {
        let consumer = self.consumers.remove(key);
        if consumer.no_local {
            self.end_no_local(&consumer);
        }
        let mut was_active = false;
        if let Some(queue) = self.queues.get_mut(&consumer.queue) {
            let alike = match consumer.look {
                true => &mut queue.seldom_mut().looks,
                false => &mut queue.consumers,
            };
            if let Some(place) = alike.iter().position(|k| *k == key) {
                alike.remove(place);
            }
            queue.turns.remove(consumer.priority, key);
            queue.ready.end_choosing(key);
            if queue.exclusive_consumer == Some(key) {
                queue.exclusive_consumer = None;
            }
            was_active = queue.active_consumer == Some(key);
        }
        if was_active {
            self.activate_next(consumer.queue);
        }
        self.in_use(consumer.queue);
        consumer.queue
    }

    /// What a session publishes goes into a queue again, unless another of its consumers there
    /// does not want it.
    fn end_no_local(&mut self, gone: &Consumer) {
        let Some(session) = self.sessions.get_mut(&gone.session) else { return };
        let mut others = session.consumers.values().filter_map(|key| self.consumers.get(*key));
        if !others.any(|other| other.no_local && other.queue == gone.queue) {
            session.no_local.remove(&gone.queue);
        }
    }

    /// Ends a consumer whose queue goes away or is another's, and tells its session.
    pub(super) fn cancel_consumer(&mut self, key: usize, reason: DetachReason) {
        let (session, id) = (self.consumers[key].session, self.consumers[key].id);
        if let Some(s) = self.sessions.get_mut(&session) {
            s.consumers.remove(id);
        }
        self.end_consumer(key);
        self.say(session, Output::Detached { consumer: id, reason });
    }

    /// Changes a consumer's credit.
    pub fn set_credit(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        consumer: ConsumerId,
        credit: Credit,
    ) {
        if self.defer(ledger, session, Deferred::Credit { consumer, credit }).is_some() {
            self.do_set_credit(session, consumer, credit);
        }
    }

    pub(super) fn do_set_credit(
        &mut self,
        session: SessionId,
        consumer: ConsumerId,
        credit: Credit,
    ) {
        let key = self.sessions.get(&session).and_then(|s| s.consumers.get(consumer)).copied();
        let Some(key) = key else { return };
        self.consumers[key].credit = credit;
        self.watch_drain(key);
        self.give_turn(key);
    }

    /// Sets the size of a shared window.
    pub fn set_window(&mut self, session: SessionId, window: WindowId, limit: Option<u32>) {
        let Some(s) = self.sessions.get_mut(&session) else { return };
        s.windows.get_or_default(window).limit = limit;
        self.give_turns(session);
    }

    /// Deliveries that a consumer may get now: what its own credit, its shared window and its
    /// session's outbox allow.
    pub(super) fn credit_of(&mut self, key: usize) -> (u32, u64) {
        let consumer = &self.consumers[key];
        let window = consumer.window();
        let own = consumer.own_credit();
        let Some(session) = self.sessions.get_mut(&consumer.session) else { return (0, 0) };
        let shared = window.and_then(|w| session.windows.get(w)).map_or(u32::MAX, |w| w.left());
        let room = self.options.outbox_bytes_max.saturating_sub(session.outbox_bytes);
        let credit = own.min(shared);
        if credit > 0 && room == 0 {
            session.passed_over = true;
        }
        (credit, room)
    }

    /// Counts `len` deliveries of `bytes` bytes against the consumer's credit.
    pub(super) fn spend(&mut self, key: usize, len: u32, bytes: u64) {
        let consumer = &mut self.consumers[key];
        let window = consumer.window();
        if consumer.mode == AttachMode::Consume {
            consumer.unsettled += len;
        }
        if let Credit::Explicit { credit, .. } = &mut consumer.credit {
            *credit = credit.saturating_sub(len);
        }
        if let Some(session) = self.sessions.get_mut(&consumer.session) {
            session.outbox_bytes += bytes;
            if let Some(window) = window {
                session.windows.get_or_default(window).used += len;
            }
        }
    }

    /// Tells consumers of `queue` that spent or gave up their explicit credit.
    pub(super) fn tell_credit(&mut self, queue: QueueId) {
        let Some(q) = self.queues.get(&queue).filter(|q| q.drains) else { return };
        let ready = q.ready.len();
        let now = self.clock.monotonic;
        let mut drains = false;
        for key in q.receivers() {
            let consumer = &mut self.consumers[key];
            let drained = (ready == 0 || consumer.has_seen_all) && consumer.drains_at(now);
            let Credit::Explicit { credit, drain: drain @ true, .. } = &mut consumer.credit else {
                continue;
            };
            if !drained && *credit > 0 {
                drains = true;
                continue;
            }
            // Told once.
            *credit = 0;
            *drain = false;
            let (session, consumer) = (consumer.session, consumer.id);
            self.say(session, Output::CreditState { consumer, credit: 0, drained, ready });
        }
        if let Some(q) = self.queues.get_mut(&queue) {
            q.drains = drains;
        }
    }
}
