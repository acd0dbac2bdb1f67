//! Messages of one queue by sequence, kept in runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::{Annotations, Batch, NO_TTL, RecordFlags, Sequence, Time};

use crate::paging::{Page, PagedRun, Written};

/// What a run takes in memory beside its messages, about, in bytes.
const RUN_BYTES: u64 = 160;

/// What a message takes in memory beside its head and body, about, in bytes.
const RECORD_BYTES: u64 = 72;

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
    /// The index of the log entry that holds their bodies as messages of this queue; 0 if none
    /// does, or not known to.
    pub logged_at: u64,
}

impl Run {
    /// The sequence just past the last.
    pub fn end(&self) -> Sequence {
        self.first + u64::from(self.len)
    }

    /// The part of the run within `first..first + len`, which must not be empty.
    pub(crate) fn part(&self, first: Sequence, len: u64) -> Run {
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

    /// About what it takes in memory, in bytes.
    pub fn footprint(&self) -> u64 {
        self.payload_bytes() + u64::from(self.len) * RECORD_BYTES + RUN_BYTES
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

/// Messages as a queue has them: in memory, or in a page.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// In memory.
    Here(Run),
    /// In a page, which may have to be read.
    Paged(PagedRun),
}

impl Part {
    /// The first sequence.
    pub fn first(&self) -> Sequence {
        match self {
            Part::Here(run) => run.first,
            Part::Paged(run) => run.first,
        }
    }

    /// The sequence just past the last.
    pub fn end(&self) -> Sequence {
        match self {
            Part::Here(run) => run.end(),
            Part::Paged(run) => run.end(),
        }
    }

    /// How many messages.
    pub fn len(&self) -> u64 {
        match self {
            Part::Here(run) => u64::from(run.len),
            Part::Paged(run) => u64::from(run.left()),
        }
    }

    /// Never: a part has a message.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of their bodies.
    pub fn body_bytes(&self) -> u64 {
        match self {
            Part::Here(run) => run.body_bytes(),
            Part::Paged(run) => run.body_bytes(),
        }
    }

    /// The priority of the message `offset` places in.
    pub fn priority(&self, offset: u32) -> u8 {
        match self {
            Part::Here(run) => run.batch.records[(run.record + offset) as usize].priority,
            Part::Paged(run) => run.priority(offset),
        }
    }

    /// Deliveries known to have failed of the message `offset` places in.
    pub fn delivery_count(&self, offset: u32) -> u32 {
        match self {
            Part::Here(run) => run.delivery_count,
            Part::Paged(run) => run.delivery_count(offset),
        }
    }

    /// What is not in a page as it is here, in bytes.
    fn footprint(&self) -> u64 {
        match self {
            Part::Here(run) => run.footprint(),
            Part::Paged(run) => paged_footprint(run),
        }
    }

    /// Whether a page says all there is to say.
    pub(crate) fn is_paged(&self) -> bool {
        matches!(self, Part::Paged(run) if run.over.is_none())
    }
}

fn paged_len(part: &Part) -> u64 {
    if matches!(part, Part::Paged(_)) { part.len() } else { 0 }
}

/// What stands beside a page is to go into a page of its own one day.
fn paged_footprint(run: &PagedRun) -> u64 {
    if run.over.is_some() { RUN_BYTES + u64::from(run.len) } else { 0 }
}

/// The messages of a queue. Work is counted in runs; taking from the front costs the same
/// however many are behind.
#[derive(Clone, Debug, Default)]
pub struct RunMap {
    /// By their first sequence; none reaches into another.
    runs: BTreeMap<Sequence, Part>,
    len: u64,
    /// How many of them are in pages.
    paged_len: u64,
    unpaged_bytes: u64,
    /// Runs below this sequence have been looked at for sparse batches.
    swept: Sequence,
}

impl RunMap {
    /// No messages.
    pub(crate) const EMPTY: RunMap =
        RunMap { runs: BTreeMap::new(), len: 0, paged_len: 0, unpaged_bytes: 0, swept: 0 };

    /// How many messages.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many messages are in pages.
    pub fn paged_len(&self) -> u64 {
        self.paged_len
    }

    /// About what is in memory alone, in bytes.
    pub fn unpaged_bytes(&self) -> u64 {
        self.unpaged_bytes
    }

    /// Adds a run that overlaps no other.
    pub fn insert(&mut self, run: Run) {
        debug_assert!(run.len > 0);
        self.insert_part(Part::Here(run));
    }

    /// Adds messages that overlap no others.
    pub(crate) fn insert_part(&mut self, part: Part) {
        self.len += part.len();
        self.paged_len += paged_len(&part);
        self.unpaged_bytes += part.footprint();
        let key = part.first();
        let old = self.runs.insert(key, part);
        assert!(old.is_none(), "sequence {key} is in the queue already");
    }

    fn take(&mut self, key: Sequence) -> Option<Part> {
        let part = self.runs.remove(&key)?;
        self.len -= part.len();
        self.paged_len -= paged_len(&part);
        self.unpaged_bytes -= part.footprint();
        Some(part)
    }

    /// The key of the first run that ends past `at`: the one that holds it, or the next.
    fn next_from(&self, at: Sequence) -> Option<Sequence> {
        let before = self.runs.range(..=at).next_back().filter(|(_, r)| r.end() > at);
        before.or_else(|| self.runs.range(at..).next()).map(|(key, _)| *key)
    }

    /// The first sequence from `at` on that is here.
    pub fn first_from(&self, at: Sequence) -> Option<Sequence> {
        // A run ends with a message, so that one that ends past `at` has one from `at` on.
        let key = self.next_from(at)?;
        match &self.runs[&key] {
            Part::Here(_) => Some(key.max(at)),
            Part::Paged(run) => run.first_from(key.max(at)),
        }
    }

    /// The messages from `first` on, `len` at the most, as far as they lie in one run. `None` if
    /// `first` is not here.
    pub fn find(&self, first: Sequence, len: u64) -> Option<Part> {
        match self.runs.range(..=first).next_back()?.1 {
            Part::Here(run) => (run.end() > first).then(|| Part::Here(run.part(first, len))),
            Part::Paged(run) => run.part(first, len).map(Part::Paged),
        }
    }

    /// The messages from `first` on, `len` at the most, as far as they lie in one run in memory.
    /// `None` if `first` is not here.
    pub fn slice(&self, first: Sequence, len: u64) -> Option<Run> {
        self.run(first).map(|run| run.part(first, len))
    }

    /// The run in memory that holds `sequence`.
    pub fn run(&self, sequence: Sequence) -> Option<&Run> {
        match self.runs.range(..=sequence).next_back()?.1 {
            Part::Here(run) => Some(run).filter(|run| run.end() > sequence),
            Part::Paged(_) => None,
        }
    }

    /// Every run, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Part> {
        self.runs.values()
    }

    /// Every run that ends past `at`, in order.
    pub fn iter_from(&self, at: Sequence) -> impl Iterator<Item = &Part> {
        let from = self.next_from(at).unwrap_or(Sequence::MAX);
        self.runs.range(from..).map(|(_, part)| part)
    }

    /// Takes out what is there of `first..first + len` and passes it to `gone`, in order.
    pub fn remove(&mut self, first: Sequence, len: u64, mut gone: impl FnMut(Part)) {
        let end = first.saturating_add(len);
        let mut at = first;
        while at < end {
            let Some(key) = self.next_from(at).filter(|key| *key < end) else { break };
            at = self.remove_from(key, at, end, &mut gone);
        }
        self.sweep(first);
    }

    /// Takes what is there of `from..end` out of one run; returns where the next one may begin.
    /// What stays is not counted again: a long run may lose its messages one by one.
    fn remove_from(
        &mut self,
        key: Sequence,
        from: Sequence,
        end: Sequence,
        gone: &mut impl FnMut(Part),
    ) -> Sequence {
        if let Some(Part::Paged(_)) = self.runs.get(&key) {
            return self.remove_paged(key, from, end, gone);
        }
        let Some(Part::Here(run)) = self.runs.get_mut(&key) else { return end };
        let from = from.max(key);
        let next = run.end().min(end);
        let part = run.part(from, next - from);
        let tail = (next < run.end()).then(|| run.part(next, u64::MAX));
        let keeps_front = key < from;
        if keeps_front {
            run.len = (from - key) as u32;
        } else {
            self.runs.remove(&key);
        }
        let pieces = u64::from(keeps_front) + u64::from(tail.is_some());
        if let Some(tail) = tail {
            self.runs.insert(tail.first, Part::Here(tail));
        }
        self.len -= u64::from(part.len);
        // As many runs as there are pieces in the place of one.
        self.unpaged_bytes = self.unpaged_bytes + RUN_BYTES * pieces - part.footprint();
        gone(Part::Here(part));
        next
    }

    fn remove_paged(
        &mut self,
        key: Sequence,
        from: Sequence,
        end: Sequence,
        gone: &mut impl FnMut(Part),
    ) -> Sequence {
        let Some(Part::Paged(mut run)) = self.take(key) else { return end };
        let next = run.end().min(end);
        if run.remove(from, end, |part| gone(Part::Paged(part))) > 0 {
            self.insert_part(Part::Paged(run));
        }
        next
    }

    /// Lets a run begin at `at`, if any reaches over it.
    fn split_at(&mut self, at: Sequence) {
        let reaches_over = self.runs.range(..at).next_back().filter(|(_, part)| part.end() > at);
        let Some(key) = reaches_over.map(|(key, _)| *key) else { return };
        match self.runs.remove(&key) {
            Some(Part::Here(run)) => {
                self.runs.insert(at, Part::Here(run.part(at, u64::MAX)));
                self.runs.insert(key, Part::Here(run.part(key, at - key)));
                self.unpaged_bytes += RUN_BYTES;
            }
            Some(Part::Paged(run)) => {
                self.unpaged_bytes -= paged_footprint(&run);
                self.len -= u64::from(run.left());
                self.paged_len -= u64::from(run.left());
                let (head, tail) = run.split(at);
                let halves = [head, tail].into_iter().flatten();
                halves.for_each(|run| self.insert_part(Part::Paged(run)));
            }
            None => {}
        }
    }

    /// One more delivery of what is there of `first..first + len` has failed.
    pub fn count_failed(&mut self, first: Sequence, len: u64) {
        let end = first.saturating_add(len);
        self.split_at(first);
        self.split_at(end);
        let keys: Vec<Sequence> = self.runs.range(first..end).map(|(key, _)| *key).collect();
        for key in keys {
            match self.runs.get_mut(&key) {
                Some(Part::Here(run)) => run.delivery_count += 1,
                Some(Part::Paged(_)) => {
                    if let Some(Part::Paged(run)) = self.take(key) {
                        self.count_paged(&run);
                    }
                }
                None => {}
            }
        }
    }

    /// Puts a run back with one failed delivery more, in stretches that had as many before.
    fn count_paged(&mut self, run: &PagedRun) {
        for part in run.parts() {
            let mut at = part.first;
            while let Some(rest) = part.part(at, u64::MAX) {
                let count = rest.delivery_count(0);
                let alike = (1..rest.len).take_while(|i| rest.delivery_count(*i) == count).count();
                let Some(alike) = rest.part(at, alike as u64 + 1) else { break };
                at = alike.end();
                self.insert_part(Part::Paged(alike.with_count(count + 1)));
            }
        }
    }

    /// Lets a page say what was written to it, as far as it is still here.
    ///
    /// `written` are the runs as they were when the page was written, in order; nothing else of
    /// this queue lies between them. What has happened to them since stands beside the page.
    pub(crate) fn page_out(&mut self, page: &Arc<Page>, written: &[Written]) {
        // Position, how many, and the count that the page does not know of.
        let mut found: Vec<(u32, u32, Option<u32>)> = Vec::new();
        for run in written {
            self.remove(run.first, u64::from(run.len), |part| {
                let position = (part.first() - page.first) as u32;
                let len = (part.end() - part.first()) as u32;
                let count = Some(part.delivery_count(0)).filter(|c| *c != run.delivery_count);
                found.push((position, len, count));
            });
        }
        // What differs stands by itself; between two of those, what is gone costs a bit.
        for group in found.chunk_by(|a, b| a.2.is_none() && b.2.is_none()) {
            let ranges: Vec<(u32, u32)> = group.iter().map(|(at, len, _)| (*at, *len)).collect();
            let run = PagedRun::whole(Arc::clone(page), &ranges);
            let run = match group[0].2 {
                Some(count) => run.with_count(count),
                None => run,
            };
            self.insert_part(Part::Paged(run));
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
            let Some((_, part)) = self.runs.range_mut(self.swept..reached).next() else { return };
            let next = part.end();
            if next > reached {
                return;
            }
            if let Part::Here(run) = part
                && is_sparse(run)
            {
                run.batch = Arc::new(run.batch.compacted(run.record, run.len));
                run.record = 0;
            }
            self.swept = next;
        }
    }
}

/// Whether a run keeps a large batch alive of which it uses little.
pub(crate) fn is_sparse(run: &Run) -> bool {
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
            logged_at: 0,
        }
    }

    /// (sequence, body, delivery count) of everything in the map.
    fn contents(map: &RunMap) -> Vec<(u64, Vec<u8>, u32)> {
        map.iter()
            .flat_map(|part| {
                let Part::Here(r) = part else { panic!("there are no pages here") };
                (0..r.len).map(move |i| {
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
                        map.remove(first, len, |part| {
                            gone.extend(part.first()..part.end());
                        });
                        let expected: Vec<u64> =
                            model.range(first..first + len).map(|(s, _)| *s).collect();
                        prop_assert_eq!(&gone, &expected);
                        model.retain(|s, _| *s < first || *s >= first + len);
                    }
                    _ => {
                        map.count_failed(first, len);
                        for (_, v) in model.range_mut(first..first + len) {
                            v.1 += 1;
                        }
                    }
                }
                let expected: Vec<_> =
                    model.iter().map(|(s, (b, c))| (*s, b.clone(), *c)).collect();
                prop_assert_eq!(contents(&map), expected);
                prop_assert_eq!(map.len(), model.len() as u64);
                let footprint: u64 = map.iter().map(Part::footprint).sum();
                prop_assert_eq!(map.unpaged_bytes(), footprint);
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
