//! Messages of one queue by sequence, kept in runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::{Annotations, Batch, NO_TTL, RecordFlags, Sequence, Time};

/// Consecutive sequences whose messages are consecutive records of one batch and share all that
/// the broker knows about them.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The first sequence.
    pub first: Sequence,
    /// How many messages, at least one.
    pub len: u32,
    /// Where they are.
    pub batch: Arc<Batch>,
    /// The first message's record in the batch.
    pub record: u32,
    /// When they came into the queue, in log time.
    pub enqueued_at: Time,
    /// Deliveries known to have failed.
    pub delivery_count: u32,
    /// What the broker wrote beside them.
    pub annotations: Option<Arc<Annotations>>,
}

impl Run {
    /// The sequence just past the last.
    pub fn end(&self) -> Sequence {
        self.first + u64::from(self.len)
    }

    /// The part of the run within `first..first + len`, which must not be empty.
    fn part(&self, first: Sequence, len: u64) -> Run {
        let from = self.first.max(first);
        let to = self.end().min(first.saturating_add(len));
        debug_assert!(from < to, "an empty part of a run");
        Run {
            first: from,
            len: (to - from) as u32,
            record: self.record + (from - self.first) as u32,
            batch: Arc::clone(&self.batch),
            annotations: self.annotations.clone(),
            ..*self
        }
    }

    /// Bytes of heads and bodies: what memory and the log hold.
    pub fn payload_bytes(&self) -> u64 {
        self.batch.payload_bytes(self.record, self.len)
    }

    /// Bytes of bodies alone, which is what the limits of queues count.
    pub fn body_bytes(&self) -> u64 {
        self.batch.body_bytes(self.record, self.len)
    }

    /// When the message `offset` places into the run expires, given its queue's own limit.
    pub fn expires_at(&self, offset: u32, queue_ttl_ms: Option<u64>) -> Time {
        let record = &self.batch.records[(self.record + offset) as usize];
        let own = (record.ttl_ms != NO_TTL
            && !record.flags.has(RecordFlags::TTL_SPENT)
            && self.annotations.as_ref().is_none_or(|a| a.deaths.is_empty()))
        .then_some(u64::from(record.ttl_ms));
        let ttl_ms = match (own, queue_ttl_ms) {
            (Some(a), Some(b)) => a.min(b),
            (Some(ms), None) | (None, Some(ms)) => ms,
            (None, None) => return Time::NEVER,
        };
        Time(self.enqueued_at.0.saturating_add(ttl_ms.saturating_mul(1_000_000)))
    }
}

/// The messages of a queue. Work is counted in runs; taking from the front costs the same
/// however many are behind.
#[derive(Clone, Debug, Default)]
pub struct RunMap {
    /// By their first sequence.
    runs: BTreeMap<Sequence, Run>,
    len: u64,
    bytes: u64,
    /// Runs below this sequence have been looked at for sparse batches.
    swept: Sequence,
}

impl RunMap {
    /// How many messages.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of their heads and bodies.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a run that overlaps no other.
    pub fn insert(&mut self, run: Run) {
        debug_assert!(run.len > 0);
        self.len += u64::from(run.len);
        self.bytes += run.payload_bytes();
        let key = run.first;
        let old = self.runs.insert(key, run);
        assert!(old.is_none(), "sequence {key} is in the queue already");
    }

    /// The key of the first run that ends past `at`: the one that holds it, or the next.
    fn next_from(&self, at: Sequence) -> Option<Sequence> {
        let before = self.runs.range(..=at).next_back().filter(|(_, r)| r.end() > at);
        before.or_else(|| self.runs.range(at..).next()).map(|(key, _)| *key)
    }

    /// The first sequence from `at` on that is here.
    pub fn first_from(&self, at: Sequence) -> Option<Sequence> {
        self.next_from(at).map(|key| key.max(at))
    }

    /// The messages from `first` on, `len` at the most, as far as they lie in one run. `None` if
    /// `first` is not here.
    pub fn slice(&self, first: Sequence, len: u64) -> Option<Run> {
        self.run(first).map(|run| run.part(first, len))
    }

    /// The run that holds `sequence`.
    pub fn run(&self, sequence: Sequence) -> Option<&Run> {
        self.runs.range(..=sequence).next_back().map(|(_, run)| run).filter(|r| r.end() > sequence)
    }

    /// Every run, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// Takes out what is there of `first..first + len` and passes it to `gone`, in order.
    pub fn remove(&mut self, first: Sequence, len: u64, mut gone: impl FnMut(Run)) {
        let end = first.saturating_add(len);
        let mut at = first;
        while at < end {
            let Some(key) = self.next_from(at) else { break };
            let Some(run) = self.runs.get_mut(&key).filter(|r| r.first < end) else { break };
            let part = run.part(at, end - at);
            let tail = (part.end() < run.end()).then(|| run.part(part.end(), u64::MAX));
            if run.first < part.first {
                run.len = (part.first - run.first) as u32;
            } else {
                self.runs.remove(&key);
            }
            if let Some(tail) = tail {
                self.runs.insert(tail.first, tail);
            }
            at = part.end();
            self.len -= u64::from(part.len);
            self.bytes -= part.payload_bytes();
            gone(part);
        }
        self.sweep(first);
    }

    /// Changes what is there of `first..first + len`; `change` must leave where the messages are.
    pub fn modify(&mut self, first: Sequence, len: u64, mut change: impl FnMut(&mut Run)) {
        let mut parts = Vec::new();
        let swept = self.swept;
        self.remove(first, len, |part| parts.push(part));
        self.swept = swept;
        for mut part in parts {
            change(&mut part);
            self.insert(part);
        }
    }

    /// Copies sparse survivors out of large batches, so that a few bytes do not pin a large chunk.
    ///
    /// Consumption mostly moves from front to back; runs that it has left behind are looked at
    /// once, two for every removal, which keeps the cost of each removal constant.
    fn sweep(&mut self, reached: Sequence) {
        for _ in 0..2 {
            if self.swept >= reached {
                return;
            }
            let Some((_, run)) = self.runs.range_mut(self.swept..reached).next() else { return };
            let next = run.end();
            if run.end() > reached {
                return;
            }
            if is_sparse(run) {
                run.batch = Arc::new(run.batch.compacted(run.record, run.len));
                run.record = 0;
            }
            self.swept = next;
        }
    }
}

/// Whether a run keeps a large batch alive of which it uses little.
fn is_sparse(run: &Run) -> bool {
    const CHUNK_MIN_BYTES: usize = 4 * 1024;
    let chunk = run.batch.chunk.len();
    chunk >= CHUNK_MIN_BYTES && run.payload_bytes() * 4 < chunk as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed test may panic
mod tests {
    use std::collections::BTreeMap as Model;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::batch;

    fn run(first: Sequence, len: u32, batch: &Arc<Batch>, record: u32) -> Run {
        Run {
            first,
            len,
            batch: Arc::clone(batch),
            record,
            enqueued_at: Time(0),
            delivery_count: 0,
            annotations: None,
        }
    }

    /// (sequence, body, delivery count) of everything in the map.
    fn contents(map: &RunMap) -> Vec<(u64, Vec<u8>, u32)> {
        map.iter()
            .flat_map(|r| {
                (0..r.len).map(|i| {
                    let record = &r.batch.records[(r.record + i) as usize];
                    (r.first + u64::from(i), r.batch.body(record).to_vec(), r.delivery_count)
                })
            })
            .collect()
    }

    proptest! {
        #[test]
        fn is_what_a_map_by_sequence_is(
            sizes in proptest::collection::vec(1u32..20, 1..12),
            ops in proptest::collection::vec((0u8..3, 0u64..160, 1u64..40), 0..60),
        ) {
            let mut map = RunMap::default();
            let mut model: Model<u64, (Vec<u8>, u32)> = Model::new();
            let mut next = 1;
            for len in sizes {
                let batch = batch(len as usize, 700);
                map.insert(run(next, len, &batch, 0));
                for (i, record) in batch.records.iter().enumerate() {
                    model.insert(next + i as u64, (batch.body(record).to_vec(), 0));
                }
                next += u64::from(len) + 2; // a gap
            }
            for (op, first, len) in ops {
                match op {
                    0 | 1 => {
                        let mut gone = Vec::new();
                        map.remove(first, len, |r| {
                            gone.extend(r.first..r.end());
                        });
                        let expected: Vec<u64> =
                            model.range(first..first + len).map(|(s, _)| *s).collect();
                        prop_assert_eq!(&gone, &expected);
                        model.retain(|s, _| *s < first || *s >= first + len);
                    }
                    _ => {
                        map.modify(first, len, |r| r.delivery_count += 1);
                        for (_, v) in model.range_mut(first..first + len) {
                            v.1 += 1;
                        }
                    }
                }
                let expected: Vec<_> =
                    model.iter().map(|(s, (b, c))| (*s, b.clone(), *c)).collect();
                prop_assert_eq!(contents(&map), expected);
                prop_assert_eq!(map.len(), model.len() as u64);
                prop_assert_eq!(map.bytes(), map.iter().map(Run::payload_bytes).sum::<u64>());
            }
        }
    }

    #[test]
    fn a_survivor_left_behind_does_not_pin_its_batch() {
        let mut map = RunMap::default();
        let large: Vec<_> = (0..4).map(|_| batch(100, 700)).collect();
        for (i, batch) in large.iter().enumerate() {
            map.insert(run(1 + 100 * i as u64, 100, batch, 0));
        }
        for sequence in (1..=400).filter(|s| *s != 50) {
            map.remove(sequence, 1, drop);
        }
        assert_eq!(map.len(), 1);
        assert!(map.run(50).unwrap().batch.chunk.len() < 1000);
        assert!(large.iter().all(|b| Arc::strong_count(b) == 1));
    }
}
