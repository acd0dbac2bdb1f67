//! Consumers that choose: those with a filter take what they want and leave the rest to others,
//! and those that browse take nothing.
//!
//! Each has a cursor ([`super::ready::Ready`]) and looks at each message once, in the order of the
//! queue, and again at what has come back. What lies in a page is read for it, within the bound of
//! pages in memory. A turn looks at so many messages and no more.

use isthmus_model::{AttachMode, Candidate, DeathReason, QueueId, Sequence};

use super::deliver::{DELIVERY_OVERHEAD_BYTES, fair_turn};
use super::ready::Range;
use super::{Dispatcher, Ledger};
use crate::{Part, Run};

/// Messages of one queue that are looked at in one turn: with a microsecond or two for each, what
/// others notice of a deep backlog that somebody looks through.
pub(super) const LOOKS_OF_QUEUE: u64 = 500;

/// Queues that may be looked through in one turn to their bound.
const QUEUES_LOOKED_THROUGH: u64 = 4;

/// What came of serving a queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// Nobody can take anything more now.
    Fully,
    /// There is more to look at, when others have had their turn.
    InPart,
    /// As much was gathered for the log as a turn may.
    Enough,
}

/// What came of a consumer's turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Used,
    /// There is nothing that it has not looked at.
    HasSeenAll,
    /// A page is to be read first.
    WaitsForPage,
}

/// What a consumer makes of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Take,
    Leave,
    Expired,
}

/// Neighbours of which a consumer makes the same.
#[derive(Clone, Copy)]
struct Stretch {
    verdict: Verdict,
    len: u32,
    /// What they count in an outbox, in bytes.
    cost: u64,
}

/// How much one turn of a consumer may deliver.
#[derive(Clone, Copy)]
struct Allowance {
    messages: u64,
    bytes: u64,
}

impl Dispatcher {
    /// Whether queues that are still to be looked through are left for the next turn.
    pub(super) fn has_looked_enough(&self) -> bool {
        self.looked >= self.looks_of_queue * QUEUES_LOOKED_THROUGH
    }

    /// Delivers from a queue of which somebody chooses.
    pub(super) fn serve_choosing(&mut self, ledger: &Ledger, id: QueueId) -> Served {
        self.wake_choosing(id);
        let looks_end = self.looked + self.looks_of_queue;
        let mut waiting = Vec::new();
        let served = loop {
            if self.has_gathered_enough() {
                break Served::Enough;
            }
            self.expire_front(ledger, id);
            let Some(queue) = self.queues.get(&id) else { return Served::Fully };
            if queue.ready.is_empty() || queue.waits_for_returns() {
                break Served::Fully;
            }
            if self.looked >= looks_end {
                break Served::InPart;
            }
            let Some((key, credit, room)) = self.next_consumer(id) else { break Served::Fully };
            let chooses = self.queues.get(&id).is_some_and(|queue| queue.ready.is_choosing(key));
            let turn = if chooses {
                let allowance = Allowance { messages: u64::from(credit), bytes: room };
                self.choose(ledger, id, key, allowance, looks_end)
            } else if self.front_is_here(ledger, id) {
                self.deliver(ledger, id, key, credit, room);
                Turn::Used
            } else {
                Turn::WaitsForPage
            };
            if turn == Turn::Used {
                continue;
            }
            let priority = self.consumers[key].priority;
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.turns.take_back(priority);
            }
            if turn == Turn::WaitsForPage {
                waiting.push((priority, key));
            } else {
                self.consumers[key].has_turn = false;
                self.consumers[key].has_seen_all = true;
            }
        };
        if let Some(queue) = self.queues.get_mut(&id) {
            waiting.into_iter().for_each(|(priority, key)| queue.turns.push(priority, key));
        }
        served
    }

    /// Gives those who had seen all that was there their turns, if there is more.
    fn wake_choosing(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if !queue.ready.take_news() {
            return;
        }
        for key in queue.ready.choosing() {
            self.consumers[key].has_seen_all = false;
            self.line_up_consumer(key);
        }
    }

    /// Lets one consumer look at what it has not seen, as far as it lies together.
    fn choose(
        &mut self,
        ledger: &Ledger,
        id: QueueId,
        key: usize,
        allowance: Allowance,
        looks_end: u64,
    ) -> Turn {
        let Some(queue) = self.queues.get_mut(&id) else { return Turn::HasSeenAll };
        let Some(range) = queue.ready.peek_unseen(key) else { return Turn::HasSeenAll };
        let below = queue.redelivered_below(ledger);
        let mut len = range.len.min(looks_end - self.looked);
        if range.first < below {
            len = len.min(below - range.first);
        }
        let turns = fair_turn(queue.ready.len(), queue.consumers.len());
        let Some(part) = queue.find(ledger, range.first, len) else {
            panic!("queue {id}: message {} is ready and nowhere", range.first);
        };
        let is_paged = matches!(part, Part::Paged(_));
        let Some(run) = self.fetch(id, part) else {
            self.read_ahead_from(ledger, id, range.first);
            return Turn::WaitsForPage;
        };
        let redelivered = range.returned() || run.first < below;
        let goes_on = range.returned() && self.clients.lasting.is_held(id);
        let allowance = Allowance { messages: allowance.messages.min(turns), ..allowance };
        let mut at = 0;
        for stretch in self.judge(id, key, &run, redelivered, goes_on, allowance) {
            let range = range.part(at, u64::from(stretch.len));
            let run = run.part(range.first, range.len);
            at += range.len;
            self.carry_verdict_out(id, key, range, run, redelivered, stretch);
        }
        self.looked += at;
        if is_paged {
            self.read_ahead_from(ledger, id, range.first + at);
        }
        Turn::Used
    }

    /// What a consumer makes of the messages of `run`, one at least, until it may take no more.
    fn judge(
        &self,
        id: QueueId,
        key: usize,
        run: &Run,
        redelivered: bool,
        goes_on: bool,
        mut allowance: Allowance,
    ) -> Vec<Stretch> {
        let Some(queue) = self.queues.get(&id) else { return Vec::new() };
        let consumer = &self.consumers[key];
        let ttl_ms = queue.options().message_ttl_ms;
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut takes_any = false;
        let records = &run.batch.records[run.record as usize..(run.record + run.len) as usize];
        for (i, record) in records.iter().enumerate() {
            let expires = queue.can_expire
                && !goes_on
                && run.first + (i as Sequence) < queue.new_from
                && run.expires_at(i as u32, ttl_ms) <= self.clock.log;
            let candidate = Candidate {
                batch: &run.batch,
                record,
                redelivered,
                delivery_count: run.delivery_count,
                annotations: run.annotations.as_deref(),
            };
            let is_wanted = |filter: &isthmus_model::SharedFilter| filter.0.wants(&candidate);
            let verdict = if expires {
                Verdict::Expired
            } else if consumer.filter.as_ref().is_none_or(is_wanted) {
                Verdict::Take
            } else {
                Verdict::Leave
            };
            let mut cost = 0;
            if verdict == Verdict::Take {
                cost = u64::from(record.head.len)
                    + u64::from(record.body.len)
                    + DELIVERY_OVERHEAD_BYTES;
                // The first goes however large it is.
                if takes_any && cost > allowance.bytes {
                    break;
                }
                takes_any = true;
                allowance.messages -= 1;
                allowance.bytes = allowance.bytes.saturating_sub(cost);
            }
            match stretches.last_mut() {
                Some(last) if last.verdict == verdict => {
                    last.len += 1;
                    last.cost += cost;
                }
                _ => stretches.push(Stretch { verdict, len: 1, cost }),
            }
            if allowance.messages == 0 {
                break;
            }
        }
        stretches
    }

    fn carry_verdict_out(
        &mut self,
        id: QueueId,
        key: usize,
        range: Range,
        run: Run,
        redelivered: bool,
        stretch: Stretch,
    ) {
        let browses = self.consumers[key].mode == AttachMode::Browse;
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if browses || stretch.verdict == Verdict::Leave {
            queue.ready.leave(key, range);
        } else {
            queue.ready.choose(key, range);
            queue.ready_bytes -= run.body_bytes();
        }
        match stretch.verdict {
            Verdict::Leave => {}
            Verdict::Expired if browses => {}
            Verdict::Expired => {
                self.counters.expired += range.len;
                self.discard(id, &run, DeathReason::Expired);
            }
            Verdict::Take => {
                self.spend(key, run.len, stretch.cost);
                if !browses {
                    self.counters.delivered += range.len;
                }
                self.hand_over(id, key, redelivered, run, stretch.cost);
            }
        }
    }
}
