//! Messages that leave a queue without having been accepted.

use std::sync::Arc;

use isthmus_model::{
    Annotations, Death, DeathReason, NO_TTL, QueueId, RecordFlags, Sequence, Time,
};

use super::publish::Head;
use super::{After, Dispatcher};
use crate::{Fact, Ledger, Part, Placement, Run};

/// Where a message that dies has been until now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// In its queue, as the ledger knows it.
    Log,
    /// In its queue, unknown to the ledger.
    Memory,
    /// Not in the queue, which refused it.
    Publisher,
}

/// Messages that are dead-lettered in one step, so that there is an end to a turn.
const MOVES_MAX: u64 = 64;

impl Dispatcher {
    /// Takes up to `len` messages, as far as they lie in one run, off the front of the ready ones
    /// of the highest priority up to `priority`, and drops or dead-letters them: only some, if
    /// each is to be moved by itself. Returns how many; `None` if a page must be read first.
    pub(super) fn take_front(
        &mut self,
        ledger: &Ledger,
        id: QueueId,
        priority: u8,
        len: u64,
        reason: DeathReason,
    ) -> Option<u64> {
        let queue = self.queues.get(&id)?;
        let range = queue.ready.peek_up_to(priority)?;
        let moves = queue.options().dead_letter_exchange.is_some();
        let len = if moves { len.min(MOVES_MAX) } else { len };
        let Some(mut part) = queue.find(ledger, range.first, range.len.min(len)) else {
            panic!("queue {id}: message {} is ready and nowhere", range.first);
        };
        if moves {
            part = Part::Here(self.fetch(id, part)?);
        }
        let queue = self.queues.get_mut(&id)?;
        queue.ready.take(range.priority, part.len());
        queue.ready_bytes -= part.body_bytes();
        match &part {
            Part::Here(run) => self.discard(id, run, reason),
            Part::Paged(run) => self.drop_range(id, run.first, part.len()),
        }
        Some(part.len())
    }

    /// Drops messages that are neither ready nor checked out.
    pub(super) fn drop_range(&mut self, id: QueueId, first: Sequence, len: u64) {
        self.counters.dropped += len;
        self.gone(id, first, len);
    }

    /// Drops or dead-letters messages that are neither ready nor checked out.
    pub(super) fn discard(&mut self, id: QueueId, run: &Run, reason: DeathReason) {
        let Some(queue) = self.queues.get(&id) else { return };
        if queue.options().dead_letter_exchange.is_none() {
            return self.drop_range(id, run.first, u64::from(run.len));
        }
        for i in 0..run.len {
            let one = Run {
                first: run.first + u64::from(i),
                len: 1,
                record: run.record + i,
                ..run.clone()
            };
            let from = match self.queues.get(&id) {
                Some(queue) if queue.volatile().run(one.first).is_some() => Origin::Memory,
                _ => Origin::Log,
            };
            self.dead_letter(id, &one, from, reason);
        }
    }

    /// Moves one message to where the queue's dead-letter exchange routes it.
    pub(super) fn dead_letter(
        &mut self,
        id: QueueId,
        run: &Run,
        from: Origin,
        reason: DeathReason,
    ) {
        let Some(queue) = self.queues.get(&id) else { return };
        let annotations = buried(run, &queue.def.name, reason, self.clock.log, queue.options());
        let vhost = Arc::clone(&queue.vhost);
        // The keys that a message names beside its own count as long as none was put in its
        // place.
        let record = &run.batch.records[run.record as usize];
        let keeps_keys = queue.options().dead_letter_routing_key.is_none()
            && annotations.routing_key.as_deref() == Some(run.batch.routing_key(record));
        let targets = self.dead_letter_targets(&vhost, run, &annotations, keeps_keys);
        if targets.is_empty() {
            self.counters.dropped += 1;
        } else {
            self.counters.dead_lettered += 1;
        }
        let annotations = Arc::new(annotations);
        let is_held = self.is_held(&targets);
        self.carry(id, run, from, targets, &annotations);
        if let (Some(exchange), Some(key)) = (&annotations.exchange, &annotations.routing_key)
            && !is_held
        {
            self.keep_moved(&vhost, exchange, key, run, &annotations);
        }
    }

    /// Moves one message from a queue into others, if there are any; it leaves the queue in either
    /// case.
    pub(super) fn carry(
        &mut self,
        id: QueueId,
        run: &Run,
        from: Origin,
        targets: Vec<QueueId>,
        annotations: &Arc<Annotations>,
    ) {
        self.moved += 1;
        let durable = run.batch.records[run.record as usize].flags.has(RecordFlags::DURABLE);
        let (logged, volatile): (Vec<QueueId>, Vec<QueueId>) = targets
            .into_iter()
            .partition(|t| durable && self.queues.get(t).is_some_and(|q| q.is_durable()));
        let to: Vec<(QueueId, Sequence)> = logged
            .into_iter()
            .filter_map(|t| {
                let queue = self.queues.get_mut(&t)?;
                queue.pending += 1;
                queue.pending_bytes += run.body_bytes();
                Some((t, queue.number(1)))
            })
            .collect();
        if !to.is_empty() {
            let fact = match from {
                Origin::Log => Fact::Move {
                    queue: id,
                    sequence: run.first,
                    to: to.clone(),
                    annotations: Arc::clone(annotations),
                },
                Origin::Memory | Origin::Publisher => Fact::Enqueue {
                    batch: Arc::new(run.batch.compacted(run.record, 1)),
                    placements: to
                        .iter()
                        .map(|(queue, first)| Placement {
                            queue: *queue,
                            first: *first,
                            record: 0,
                            len: 1,
                        })
                        .collect(),
                    annotations: Some(Arc::clone(annotations)),
                },
            };
            self.propose(fact, 128 + run.payload_bytes());
            for (queue, first) in &to {
                self.gather.after.push(After::Ready { queue: *queue, first: *first, len: 1 });
            }
        }
        let leaves = match from {
            Origin::Log => to.is_empty(), // else the move says so
            Origin::Memory => true,
            Origin::Publisher => false,
        };
        if leaves {
            self.gone(id, run.first, 1);
        }
        for queue in volatile {
            let run = Run {
                enqueued_at: self.clock.log,
                delivery_count: 0,
                annotations: Some(Arc::clone(annotations)),
                ..run.clone()
            };
            if let Some(queue) = self.queues.get_mut(&queue) {
                queue.pending += 1;
                queue.pending_bytes += run.body_bytes();
            }
            // What leaves the log leaves it with the entry that says so.
            if from == Origin::Log {
                self.gather.after.push(After::Volatile { queue, run });
            } else {
                self.enter_volatile(queue, run);
            }
        }
    }

    /// The queues that a dead message goes to. Ones that it has died in before are left out
    /// where nothing but the broker itself moved it round in a circle.
    fn dead_letter_targets(
        &self,
        vhost: &str,
        run: &Run,
        annotations: &Annotations,
        keeps_keys: bool,
    ) -> Vec<QueueId> {
        let (Some(exchange), Some(key)) = (&annotations.exchange, &annotations.routing_key) else {
            return Vec::new();
        };
        let record = &run.batch.records[run.record as usize];
        let mut head = Head::of(self.options.encodings, &run.batch, record);
        let more = if keeps_keys { head.more_keys() } else { Vec::new() };
        let keys: Vec<&str> = std::iter::once(&**key).chain(more.iter().map(|k| &**k)).collect();
        let mut targets = Vec::new();
        let routed = if annotations.delay_spent {
            self.topology.route_now(vhost, exchange, &keys, &mut head, &mut targets)
        } else {
            self.topology.route(vhost, exchange, &keys, &mut head, &mut targets)
        };
        if routed.is_err() {
            return Vec::new();
        }
        targets.retain(|id| {
            self.queues.get(id).is_some_and(|q| !is_cycle(&q.def.name, &annotations.deaths))
        });
        targets
    }
}

/// Whether a message that died as `deaths` tell (latest first) comes back to `queue` without a
/// consumer ever having rejected it on the way.
fn is_cycle(queue: &str, deaths: &[Death]) -> bool {
    deaths.iter().take_while(|d| d.reason != DeathReason::Rejected).any(|d| &*d.queue == queue)
}

/// What is written beside a message that died in `queue`: deaths in the same queue for the same
/// reason are counted, the latest kind stands first.
fn buried(
    run: &Run,
    queue: &Arc<str>,
    reason: DeathReason,
    now: Time,
    options: &isthmus_model::QueueOptions,
) -> Annotations {
    let record = &run.batch.records[run.record as usize];
    let old = run.annotations.as_deref().cloned().unwrap_or_default();
    let exchange = old.exchange.unwrap_or_else(|| run.batch.exchange(record).into());
    let key = old.routing_key.unwrap_or_else(|| run.batch.routing_key(record).into());
    let mut deaths = old.deaths;
    let first_death = deaths.is_empty();
    let known = deaths.iter().position(|d| d.queue == *queue && d.reason == reason);
    let death = match known {
        Some(i) => {
            let death = deaths.remove(i);
            Death { count: death.count + 1, ..death }
        }
        None => Death {
            queue: Arc::clone(queue),
            reason,
            count: 1,
            first_at: now,
            exchange,
            routing_keys: vec![Arc::clone(&key)],
            original_ttl_ms: (first_death && record.ttl_ms != NO_TTL).then_some(record.ttl_ms),
        },
    };
    deaths.insert(0, death);
    Annotations {
        exchange: options.dead_letter_exchange.clone(),
        routing_key: Some(options.dead_letter_routing_key.clone().unwrap_or(key)),
        deaths,
        delay_spent: old.delay_spent,
        // What dies is news to whoever gets it now.
        recalled: false,
    }
}
