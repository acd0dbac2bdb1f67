//! Deliveries that the client has not settled, by the tag that it knows them under.

use std::collections::VecDeque;

use isthmus_model::{ConsumerId, Delivery, LeaseEpoch, Outcome, QueueId, Sequence, Settlement};

/// Unsettled deliveries in the order of their tags, kept in runs.
///
/// Tags are handed out consecutively from 1, also for deliveries that need no settlement.
#[derive(Debug, Default)]
pub struct Unacked {
    /// By `tag`, which ascend; runs never touch a tag twice.
    runs: VecDeque<Run>,
    /// The tag handed out last.
    last_tag: u64,
    /// Messages in `runs`.
    len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    tag: u64,
    len: u32,
    consumer: ConsumerId,
    queue: QueueId,
    first: Sequence,
    epoch: LeaseEpoch,
}

impl Run {
    fn settle(&self, outcome: Outcome) -> Settlement {
        Settlement {
            queue: self.queue,
            first: self.first,
            len: self.len,
            epoch: self.epoch,
            outcome,
        }
    }

    /// The part of the run from `offset` on.
    fn tail(&self, offset: u32) -> Run {
        Run {
            tag: self.tag + u64::from(offset),
            len: self.len - offset,
            first: self.first + u64::from(offset),
            ..*self
        }
    }
}

/// A tag that stands for no unsettled delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnackedTag(pub u64);

impl Unacked {
    /// Nothing delivered yet.
    pub fn new() -> Unacked {
        Unacked::default()
    }

    /// Hands out tags for a run of deliveries and remembers them; returns the first tag.
    pub fn delivered(&mut self, delivery: &Delivery) -> u64 {
        let tag = self.skip(delivery.len);
        self.len += u64::from(delivery.len);
        self.runs.push_back(Run {
            tag,
            len: delivery.len,
            consumer: delivery.consumer,
            queue: delivery.queue,
            first: delivery.first,
            epoch: delivery.epoch,
        });
        tag
    }

    /// Hands out tags for `len` deliveries that need no settlement; returns the first.
    pub fn skip(&mut self, len: u32) -> u64 {
        let tag = self.last_tag + 1;
        self.last_tag += u64::from(len);
        tag
    }

    /// Unsettled deliveries.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is unsettled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tag that was handed out last; 0 before the first.
    pub fn last_tag(&self) -> u64 {
        self.last_tag
    }

    /// Whether an unsettled delivery has this tag.
    pub fn contains(&self, tag: u64) -> bool {
        let after = self.runs.partition_point(|r| r.tag <= tag);
        after.checked_sub(1).is_some_and(|i| tag - self.runs[i].tag < u64::from(self.runs[i].len))
    }

    /// Settles the delivery under `tag`.
    ///
    /// # Errors
    /// If no unsettled delivery has that tag.
    pub fn settle_one(&mut self, tag: u64, outcome: Outcome) -> Result<Settlement, UnackedTag> {
        let after = self.runs.partition_point(|r| r.tag <= tag);
        let run = after
            .checked_sub(1)
            .map(|i| self.runs[i])
            .filter(|r| tag - r.tag < u64::from(r.len))
            .ok_or(UnackedTag(tag))?;
        let i = after - 1;
        let offset = (tag - run.tag) as u32;
        let one = Run { len: 1, ..run.tail(offset) };
        self.len -= 1;
        match (offset, run.len) {
            (0, 1) => {
                self.runs.remove(i);
            }
            (0, _) => self.runs[i] = run.tail(1),
            (_, len) => {
                self.runs[i].len = offset;
                if offset + 1 < len {
                    self.runs.insert(i + 1, run.tail(offset + 1));
                }
            }
        }
        Ok(one.settle(outcome))
    }

    /// Settles every delivery up to and including `tag`; 0 stands for all.
    ///
    /// # Errors
    /// If `tag` was never handed out, or nothing up to it is unsettled (a tag settled twice).
    pub fn settle_up_to(
        &mut self,
        tag: u64,
        outcome: Outcome,
    ) -> Result<Vec<Settlement>, UnackedTag> {
        let named = tag;
        let tag = if named == 0 { self.last_tag } else { named };
        if tag > self.last_tag {
            return Err(UnackedTag(named));
        }
        let mut settlements: Vec<Settlement> = Vec::new();
        while let Some(run) = self.runs.front().copied().filter(|r| r.tag <= tag) {
            let covered = (tag - run.tag + 1).min(u64::from(run.len)) as u32;
            push_merged(&mut settlements, Run { len: covered, ..run }.settle(outcome));
            self.len -= u64::from(covered);
            if covered == run.len {
                self.runs.pop_front();
            } else {
                self.runs[0] = run.tail(covered);
            }
        }
        if settlements.is_empty() && named != 0 {
            return Err(UnackedTag(named));
        }
        Ok(settlements)
    }

    /// Settles everything, latest first (so that what goes back is put in front of what is
    /// already back), and forgets it.
    pub fn settle_all(&mut self, outcome: Outcome) -> Vec<Settlement> {
        self.len = 0;
        self.runs.drain(..).rev().map(|r| r.settle(outcome)).collect()
    }

    /// Unsettled deliveries of `consumer`.
    pub fn of_consumer(&self, consumer: ConsumerId) -> u64 {
        self.runs.iter().filter(|r| r.consumer == consumer).map(|r| u64::from(r.len)).sum()
    }
}

/// Appends `next`, as part of the last settlement where they are neighbours.
fn push_merged(settlements: &mut Vec<Settlement>, next: Settlement) {
    if let Some(last) = settlements.last_mut()
        && last.queue == next.queue
        && last.epoch == next.epoch
        && last.first + u64::from(last.len) == next.first
    {
        last.len += next.len;
        return;
    }
    settlements.push(next);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed test may panic
mod tests {
    use std::sync::Arc;

    use isthmus_model::{Batch, EncodingId, Time};

    use super::*;

    fn delivery(first: Sequence, len: u32, epoch: u64) -> Delivery {
        Delivery {
            consumer: ConsumerId(1),
            queue: QueueId(7),
            first,
            len,
            epoch: LeaseEpoch(epoch),
            deadline: Time::NEVER,
            batch: Arc::new(Batch::new(EncodingId::AMQP_0_9_1, bytes::Bytes::new(), Vec::new())),
            record: 0,
            redelivered: false,
            delivery_count: 0,
            waited_ms: 0,
            annotations: None,
        }
    }

    fn spans(settlements: &[Settlement]) -> Vec<(u64, u32)> {
        settlements.iter().map(|s| (s.first, s.len)).collect()
    }

    #[test]
    fn tags_are_consecutive_over_settled_and_unsettled_deliveries() {
        let mut unacked = Unacked::new();
        assert_eq!(unacked.delivered(&delivery(100, 3, 1)), 1);
        assert_eq!(unacked.skip(2), 4);
        assert_eq!(unacked.delivered(&delivery(200, 1, 2)), 6);
        assert_eq!(unacked.len(), 4);
        assert_eq!(unacked.settle_one(4, Outcome::Accept), Err(UnackedTag(4)));
        assert_eq!(unacked.settle_one(7, Outcome::Accept), Err(UnackedTag(7)));
        assert_eq!(spans(&[unacked.settle_one(6, Outcome::Accept).unwrap()]), [(200, 1)]);
    }

    #[test]
    fn one_settled_in_the_middle_leaves_both_sides() {
        let mut unacked = Unacked::new();
        unacked.delivered(&delivery(10, 5, 1));
        assert_eq!(unacked.settle_one(3, Outcome::Accept).unwrap().first, 12);
        assert_eq!(unacked.settle_one(3, Outcome::Accept), Err(UnackedTag(3)));
        assert_eq!(
            spans(&unacked.settle_up_to(4, Outcome::Accept).unwrap()),
            [(10, 2), (13, 1)],
            "neighbours only where nothing is missing between them"
        );
        assert_eq!(unacked.settle_up_to(4, Outcome::Accept), Err(UnackedTag(4)));
        assert_eq!(spans(&unacked.settle_up_to(0, Outcome::Accept).unwrap()), [(14, 1)]);
        assert_eq!(unacked.settle_up_to(0, Outcome::Accept), Ok(vec![]), "zero means all of none");
        assert_eq!(unacked.settle_up_to(9, Outcome::Accept), Err(UnackedTag(9)));
        assert!(unacked.is_empty());
    }

    #[test]
    fn runs_that_touch_settle_as_one() {
        let mut unacked = Unacked::new();
        unacked.delivered(&delivery(1, 2, 5));
        unacked.delivered(&delivery(3, 2, 5));
        unacked.delivered(&delivery(5, 2, 6));
        assert_eq!(
            spans(&unacked.settle_up_to(0, Outcome::Accept).unwrap()),
            [(1, 4), (5, 2)],
            "another epoch is another run"
        );
    }

    #[test]
    fn everything_goes_back_latest_first() {
        let mut unacked = Unacked::new();
        unacked.delivered(&delivery(1, 2, 1));
        unacked.delivered(&delivery(9, 1, 1));
        assert_eq!(spans(&unacked.settle_all(Outcome::Requeue)), [(9, 1), (1, 2)]);
        assert!(unacked.is_empty());
    }
}
