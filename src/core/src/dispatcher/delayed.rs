//! Messages that are delayed.
//!
//! Each exchange that delays has a queue that clients do not see. Topology routes a message with
//! a delay there, so that it is logged, confirmed and recovered as in any other queue. When it is
//! due it is routed through the exchange as if it had just been published, and moved.
//!
//! A virtual host has such a queue, too, once it is needed, for messages that are to be held whatever
//! they are published to ([`RecordFlags::DELAYED`]). They are routed at once as well, so that their
//! publisher is told if that cannot be done.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::{
    Annotations, Encodings, QueueDef, QueueId, Record, RecordFlags, Sequence, Time,
};

use super::Dispatcher;
use super::deadletter::Origin;
use super::publish::{Head, headers_of};
use crate::dedup::WindowOf;
use crate::topology::{HOLDING_PREFIX, Properties, delay_ms, holding_queue};
use crate::{Ledger, Part, Run};

/// What a queue holds for an exchange.
pub(super) struct Held {
    /// Empty where they were published to one or the other.
    exchange: Arc<str>,
    encodings: Encodings,
    /// When each message is due, in log time; of those due at the same time, the first to have
    /// come is the first to go.
    due: BinaryHeap<Reverse<(Time, Sequence)>>,
    /// Messages whose page must be read to know when they are due: the first sequence, how many.
    unread: Vec<(Sequence, u64)>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} messages of exchange {}", self.due.len(), self.exchange)
    }
}

impl Held {
    /// What a queue is to hold; `None` if it is a queue like others.
    pub(super) fn of(def: &QueueDef, encodings: Encodings) -> Option<Held> {
        let exchange = def.name.strip_prefix(HOLDING_PREFIX)?.into();
        Some(Held { exchange, encodings, due: BinaryHeap::new(), unread: Vec::new() })
    }

    /// Messages came in. Their delay counts from then.
    pub(super) fn hold(&mut self, part: &Part) {
        let paged = match part {
            Part::Here(run) => return self.hold_run(run),
            Part::Paged(paged) => paged,
        };
        let is_moved = paged.over.as_ref().is_some_and(|over| over.moved.is_some());
        let (false, Some(delays)) = (is_moved, &paged.page.delays) else {
            return self.unread.push((paged.first, part.len()));
        };
        for (offset, sequence) in (paged.first..paged.end()).enumerate() {
            let ms = delays.get(paged.position + offset as u32);
            let due = paged.page.enqueued_from + Duration::from_millis(ms.into());
            self.due.push(Reverse((due, sequence)));
        }
    }

    fn hold_run(&mut self, run: &Run) {
        let records = &run.batch.records[run.record as usize..(run.record + run.len) as usize];
        for (sequence, record) in (run.first..).zip(records) {
            let ms = delay_ms(&headers_of(self.encodings, &run.batch, record)).unwrap_or(0);
            self.due.push(Reverse((run.enqueued_at + Duration::from_millis(ms), sequence)));
        }
    }

    fn first(&self) -> Option<(Time, Sequence)> {
        self.due.peek().map(|Reverse(first)| *first)
    }
}

impl Dispatcher {
    /// Finds out when messages are due whose pages have been read since.
    fn read_delays(&mut self, ledger: &Ledger, id: QueueId) {
        loop {
            let Some(queue) = self.queues.get_mut(&id) else { return };
            let Some(held) = &mut queue.held else { return };
            let Some((first, len)) = held.unread.pop() else { return };
            let Some(part) = queue.find(ledger, first, len) else { continue };
            let run = self.fetch(id, part);
            let Some(held) = self.queues.get_mut(&id).and_then(|q| q.held.as_mut()) else { return };
            let Some(run) = run else { return held.unread.push((first, len)) };
            held.hold_run(&run);
            if run.end() < first + len {
                held.unread.push((run.end(), first + len - run.end()));
            }
        }
    }

    /// Lets go what is due of what a queue holds, and sets its timer for the next.
    pub(super) fn release_due(&mut self, ledger: &Ledger, id: QueueId) {
        self.read_delays(ledger, id);
        loop {
            if self.has_gathered_enough() {
                return self.mark_dirty(id);
            }
            let Some(queue) = self.queues.get_mut(&id) else { return };
            let Some(held) = &mut queue.held else { return };
            let Some((due, sequence)) = held.first() else { return };
            if due > self.clock.log {
                if due < queue.timer_at {
                    queue.timer_at = due;
                    self.timers.expiry_at(due, id);
                }
                return;
            }
            let exchange = Arc::clone(&held.exchange);
            let Some(part) = queue.find(ledger, sequence, 1) else {
                panic!("queue {id}: message {sequence} is due and nowhere");
            };
            let Some(run) = self.fetch(id, part) else { return };
            let Some(queue) = self.queues.get_mut(&id) else { return };
            if let Some(held) = &mut queue.held {
                held.due.pop();
            }
            queue.ready_bytes -= run.body_bytes();
            self.release(id, &exchange, &run);
        }
    }

    /// Routes one message that is due; it is dropped where nothing takes it.
    fn release(&mut self, id: QueueId, exchange: &str, run: &Run) {
        let Some(queue) = self.queues.get(&id) else { return };
        let vhost = Arc::clone(&queue.vhost);
        let is_volatile = queue.volatile().run(run.first).is_some();
        let old = run.annotations.as_deref().cloned().unwrap_or_default();
        let record = &run.batch.records[run.record as usize];
        let exchange = if exchange.is_empty() { run.batch.exchange(record) } else { exchange };
        let mut head = Head::of(self.options.encodings, &run.batch, record);
        let own = run.batch.routing_key(record);
        let key = old.routing_key.as_deref().unwrap_or(own);
        // As with dead letters, a key that was put in the place of its own is the only one.
        let more = if key == own { head.more_keys() } else { Vec::new() };
        let keys: Vec<&str> = std::iter::once(key).chain(more.iter().map(|k| &**k)).collect();
        let mut routes = Vec::new();
        // If it fails, the exchange is being deleted.
        let _ = self.topology.route_now(&vhost, exchange, &keys, &mut head, &mut routes);
        if routes.is_empty() {
            self.counters.unroutable += 1;
        }
        routes.retain(|target| self.admits(*target, run));
        let from = if is_volatile { Origin::Memory } else { Origin::Log };
        let annotations = Arc::new(Annotations { delay_spent: true, ..old.clone() });
        self.carry(id, run, from, routes, &annotations);
        self.keep_moved(&vhost, exchange, key, run, &annotations);
    }

    /// Whether the virtual host holds a message, which an exchange that delays would hold itself.
    pub(super) fn is_to_wait(record: &Record, head: &mut Head<'_>, delays: bool) -> bool {
        record.flags.has(RecordFlags::DELAYED) && !delays && delay_ms(&head.headers()).is_some()
    }

    /// The queue in which a virtual host holds messages itself.
    pub(super) fn own_holding(&self, vhost: &str) -> Option<QueueId> {
        self.topology.queue(vhost, &holding_queue("")).ok().map(|entry| entry.id)
    }

    /// Whether a queue takes a message that comes late, when its publisher was answered long ago:
    /// one that is full, or has seen it before, does not.
    fn admits(&mut self, id: QueueId, run: &Run) -> bool {
        let Some(queue) = self.queues.get(&id) else { return false };
        let (window, durable) = (WindowOf::Queue(id), queue.is_durable());
        let record = &run.batch.records[run.record as usize];
        let dedup = queue.dedup.clone();
        let has_room = queue.room_for(&run.batch, run.record, 1) > 0;
        let key = dedup.as_ref().and_then(|options| self.dedup_key(options, &run.batch, record));
        if key.is_some_and(|(key, _)| self.has_seen(&window, &key)) {
            self.counters.deduplicated += 1;
            return false;
        }
        if !has_room {
            self.turn_away(id, &run.batch, run.record);
            return false;
        }
        if let (Some(key), Some(options)) = (key, dedup) {
            self.remember(&window, options.size, key, record, durable);
        }
        true
    }
}
