//! Pages: messages that were written out of memory, and what is remembered of them.

use std::sync::Arc;

use isthmus_model::{Annotations, QueueId, Sequence, Time};

use super::Column;
use crate::Run;

/// Where a page is, for whoever keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageKey {
    /// The number of the file.
    pub file: u64,
    /// The offset in it, in bytes.
    pub offset: u64,
    /// The length of the content, in bytes.
    pub len: u32,
}

/// What is known of a page without reading it. Shared by all who refer to it.
///
/// A position counts from the page's first message by sequence; at positions that were empty when
/// the page was written, columns say 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where it is.
    pub key: PageKey,
    /// The queue whose messages these were when it was written.
    pub queue: QueueId,
    /// The first message's sequence there.
    pub first: Sequence,
    /// Sequences from the first message to the last, both included.
    pub span: u32,
    /// The messages that were written.
    pub count: u32,
    /// Bytes of each body.
    pub sizes: Column,
    /// The priority of each.
    pub priorities: Column,
    /// Deliveries known to have failed when it was written, of each.
    pub delivery_counts: Column,
    /// For how long an exchange holds each, in milliseconds from `enqueued_from`; for queues that
    /// hold such messages.
    pub delays: Option<Column>,
    /// When the first of them came into the queue, in log time.
    pub enqueued_from: Time,
    /// When the first of them expires by its own time to live; [`Time::NEVER`] if none does.
    pub expires_from: Time,
}

/// What happened to messages since their page was written, and stands in the place of what the
/// page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// Deliveries known to have failed.
    pub delivery_count: u32,
    /// What holds since they came into another queue; `None` if they did not.
    pub moved: Option<Moved>,
}

/// How messages came on into the queue where they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// When, in log time.
    pub enqueued_at: Time,
    /// What is written beside them.
    pub annotations: Arc<Annotations>,
}

/// Consecutive sequences of a queue whose messages stand at consecutive positions of a page. Some
/// may be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagedRun {
    /// The first sequence.
    pub first: Sequence,
    /// How many sequences, at least one.
    pub len: u32,
    /// Where they are.
    pub page: Arc<Page>,
    /// The position of the first.
    pub position: u32,
    /// What the page does not know of them.
    pub over: Option<Arc<Over>>,
    /// Positions of the page whose messages are gone, a bit each; those outside of this run mean
    /// nothing. `None` if none is.
    gone: Option<Box<[u64]>>,
    /// Messages that are not gone.
    left: u32,
}

const BITS: u32 = u64::BITS;

impl PagedRun {
    /// Everything that was written to `page`, in its own queue. `written` are the positions that
    /// have a message, in ascending ranges (position, how many).
    ///
    /// # Panics
    /// If nothing was written.
    pub fn whole(page: Arc<Page>, written: &[(u32, u32)]) -> PagedRun {
        let (first, span) = (page.first, page.span);
        let mut run =
            PagedRun { first, len: span, page, position: 0, over: None, gone: None, left: span };
        let mut at = 0;
        for (position, len) in written {
            run.mark_gone(at, position - at);
            at = position + len;
        }
        run.mark_gone(at, span - at);
        assert!(run.left > 0, "a page without a message");
        run.trim();
        run
    }

    /// A run as it was kept: `gone` are the bits of its positions that are gone, counted from the
    /// page's first; `None` if that does not fit the page.
    pub(crate) fn restored(
        first: Sequence,
        len: u32,
        page: Arc<Page>,
        position: u32,
        over: Option<Arc<Over>>,
        gone: Option<Box<[u64]>>,
    ) -> Option<PagedRun> {
        let fits = len > 0
            && position.checked_add(len).is_some_and(|end| end <= page.span)
            && gone.as_ref().is_none_or(|bits| bits.len() == words(page.span));
        let mut run = PagedRun { first, len, page, position, over, gone, left: len };
        run.left = if fits { (0..len).filter(|i| !run.is_gone(*i)).count() as u32 } else { 0 };
        (run.left > 0).then(|| {
            run.trim();
            run
        })
    }

    /// The sequence just past the last.
    pub fn end(&self) -> Sequence {
        self.first + u64::from(self.len)
    }

    /// How many messages are not gone.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// The bits of positions that are gone, for keeping.
    pub(crate) fn gone(&self) -> Option<&[u64]> {
        self.gone.as_deref()
    }

    fn is_gone(&self, offset: u32) -> bool {
        let at = self.position + offset;
        self.gone.as_ref().is_some_and(|bits| bits[(at / BITS) as usize] >> (at % BITS) & 1 == 1)
    }

    /// The first offset from `offset` on that is not gone; the run's length if there is none.
    fn next_left(&self, offset: u32) -> u32 {
        self.next_where(offset, false)
    }

    /// The first offset from `offset` on that is gone, or the run's length.
    fn next_gone(&self, offset: u32) -> u32 {
        self.next_where(offset, true)
    }

    fn next_where(&self, offset: u32, gone: bool) -> u32 {
        let Some(bits) = &self.gone else { return if gone { self.len } else { offset } };
        let end = self.position + self.len;
        let mut at = self.position + offset;
        while at < end {
            let word = bits[(at / BITS) as usize];
            let word = (if gone { word } else { !word }) >> (at % BITS);
            if word != 0 {
                return (at + word.trailing_zeros()).min(end) - self.position;
            }
            at = (at / BITS + 1) * BITS;
        }
        self.len
    }

    /// The first sequence from `at` on that is here.
    pub fn first_from(&self, at: Sequence) -> Option<Sequence> {
        let offset = at.saturating_sub(self.first);
        if offset >= u64::from(self.len) {
            return None;
        }
        let next = self.next_left(offset as u32);
        (next < self.len).then(|| self.first + u64::from(next))
    }

    /// The messages from `first` on, `len` at the most, up to the next that is gone; `None` if
    /// `first` is not here.
    pub fn part(&self, first: Sequence, len: u64) -> Option<PagedRun> {
        let offset = u32::try_from(first.checked_sub(self.first)?).ok()?;
        if offset >= self.len || self.is_gone(offset) {
            return None;
        }
        let end = self.next_gone(offset);
        let len = u64::from(end - offset).min(len) as u32;
        Some(PagedRun {
            first,
            len,
            page: Arc::clone(&self.page),
            position: self.position + offset,
            over: self.over.clone(),
            gone: None,
            left: len,
        })
    }

    /// Cuts the run in two at `at`, which lies within; either half may be empty.
    pub(crate) fn split(mut self, at: Sequence) -> (Option<PagedRun>, Option<PagedRun>) {
        let offset = (at - self.first) as u32;
        let mut tail = self.clone();
        tail.first = at;
        tail.len -= offset;
        tail.position += offset;
        self.len = offset;
        let count = |run: &mut PagedRun| {
            let mut left = 0;
            let mut at = run.next_left(0);
            while at < run.len {
                let end = run.next_gone(at);
                left += end - at;
                at = run.next_left(end);
            }
            run.left = left;
            run.trim();
        };
        count(&mut self);
        count(&mut tail);
        ((self.left > 0).then_some(self), (tail.left > 0).then_some(tail))
    }

    /// The messages of `len` offsets from `offset` are gone.
    fn mark_gone(&mut self, offset: u32, len: u32) {
        if len == 0 {
            return;
        }
        let bits =
            self.gone.get_or_insert_with(|| vec![0; words(self.page.span)].into_boxed_slice());
        let (mut at, end) = (self.position + offset, self.position + offset + len);
        while at < end {
            let from = at % BITS;
            let to = (from + (end - at)).min(BITS);
            let mask = (u64::MAX << from) & (u64::MAX >> (BITS - to));
            let word = &mut bits[(at / BITS) as usize];
            self.left -= (mask & !*word).count_ones();
            *word |= mask;
            at += to - from;
        }
    }

    /// Takes out what is here of `first..end` and passes it to `gone`, in order; returns how many
    /// are left.
    pub(crate) fn remove(
        &mut self,
        first: Sequence,
        end: Sequence,
        mut gone: impl FnMut(PagedRun),
    ) -> u32 {
        let mut at = first.max(self.first);
        let end = end.min(self.end());
        let from = at;
        while let Some(next) = self.first_from(at).filter(|next| *next < end) {
            let Some(part) = self.part(next, end - next) else { break };
            at = part.end();
            gone(part);
        }
        // From the front or the end no bits are needed.
        if from == self.first && end > from {
            let offset = (end - from) as u32;
            let taken = self.count_left(0, offset);
            self.left -= taken;
            self.first = end;
            self.position += offset;
            self.len -= offset;
        } else if end == self.end() && end > from {
            let offset = (from - self.first) as u32;
            self.left -= self.count_left(offset, self.len - offset);
            self.len = offset;
        } else if end > from {
            self.mark_gone((from - self.first) as u32, (end - from) as u32);
        }
        if self.left > 0 {
            self.trim();
        }
        self.left
    }

    fn count_left(&self, offset: u32, len: u32) -> u32 {
        if self.gone.is_none() {
            return len;
        }
        (offset..offset + len).filter(|at| !self.is_gone(*at)).count() as u32
    }

    /// Lets the run begin and end with messages that are here.
    fn trim(&mut self) {
        let front = self.next_left(0);
        self.first += u64::from(front);
        self.position += front;
        self.len -= front;
        while self.len > 0 && self.is_gone(self.len - 1) {
            self.len -= 1;
        }
        if self.left == self.len {
            self.gone = None;
        }
    }

    /// Bytes of the bodies that are left.
    pub fn body_bytes(&self) -> u64 {
        self.over_left(|position, len| self.page.sizes.sum(position, len))
    }

    fn over_left(&self, mut each: impl FnMut(u32, u32) -> u64) -> u64 {
        let mut sum = 0;
        let mut at = self.next_left(0);
        while at < self.len {
            let end = self.next_gone(at);
            sum += each(self.position + at, end - at);
            at = self.next_left(end);
        }
        sum
    }

    /// The stretches without a gap, in order.
    pub fn parts(&self) -> impl Iterator<Item = PagedRun> + '_ {
        let mut at = self.first;
        std::iter::from_fn(move || {
            let part = self.part(self.first_from(at)?, u64::MAX)?;
            at = part.end();
            Some(part)
        })
    }

    /// The priority of the message `offset` places into the run.
    pub fn priority(&self, offset: u32) -> u8 {
        self.page.priorities.get(self.position + offset).min(u32::from(u8::MAX)) as u8
    }

    /// Deliveries known to have failed of the message `offset` places into the run.
    pub fn delivery_count(&self, offset: u32) -> u32 {
        match &self.over {
            Some(over) => over.delivery_count,
            None => self.page.delivery_counts.get(self.position + offset),
        }
    }

    /// No message of the run expires before this, in log time, given its queue's own limit.
    pub fn expires_from(&self, queue_ttl_ms: Option<u64>) -> Time {
        let moved = self.over.as_ref().and_then(|over| over.moved.as_ref());
        let enqueued = moved.map_or(self.page.enqueued_from, |moved| moved.enqueued_at);
        let by_queue = queue_ttl_ms.map_or(Time::NEVER, |ms| {
            Time(enqueued.0.saturating_add(ms.saturating_mul(1_000_000)))
        });
        // A message that came on from another queue keeps its own time to live and begins it anew,
        // so the page's time is too early for it, which costs a look and nothing else.
        by_queue.min(self.page.expires_from)
    }

    /// The run, with another count of failed deliveries than its page says.
    #[must_use]
    pub(crate) fn with_count(self, delivery_count: u32) -> PagedRun {
        let moved = self.over.as_ref().and_then(|over| over.moved.clone());
        PagedRun { over: Some(Arc::new(Over { delivery_count, moved })), ..self }
    }

    /// The run as it comes on into another queue, from `first` on.
    #[must_use]
    pub(crate) fn moved(self, first: Sequence, moved: Moved) -> PagedRun {
        let over = Over { delivery_count: 0, moved: Some(moved) };
        PagedRun { first, over: Some(Arc::new(over)), ..self }
    }

    /// The message as it is in memory, from the page's content; as many as lie in one run there.
    /// `None` if the content is not this page's.
    pub fn read(&self, content: &PageContent) -> Option<Run> {
        let own = self.page.first + u64::from(self.position);
        let run = content.slice(own, self.len)?;
        let mut run = Run { first: self.first, ..run };
        if let Some(over) = &self.over {
            run.delivery_count = over.delivery_count;
            if let Some(moved) = &over.moved {
                run.enqueued_at = moved.enqueued_at;
                run.annotations = Some(Arc::clone(&moved.annotations));
            }
        }
        Some(run)
    }
}

fn words(span: u32) -> usize {
    span.div_ceil(BITS) as usize
}

/// What a page holds, in memory: runs by the sequences that they had when it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct PageContent {
    runs: Vec<Run>,
}

impl PageContent {
    /// Runs in the order of their sequences.
    pub(super) fn new(runs: Vec<Run>) -> PageContent {
        PageContent { runs }
    }

    fn slice(&self, first: Sequence, len: u32) -> Option<Run> {
        let after = self.runs.partition_point(|run| run.first <= first);
        let run = self.runs.get(after.checked_sub(1)?).filter(|run| run.end() > first)?;
        Some(run.part(first, u64::from(len)))
    }

    /// About what it takes in memory, in bytes.
    pub fn footprint(&self) -> u64 {
        self.runs.iter().map(Run::footprint).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SPAN: u32 = 200;

    fn page() -> Arc<Page> {
        Arc::new(Page {
            key: PageKey { file: 1, offset: 0, len: 1 },
            queue: QueueId(1),
            first: 1000,
            span: SPAN,
            count: SPAN,
            sizes: Column::of(&(0..SPAN).collect::<Vec<u32>>()),
            priorities: Column::Uniform(0),
            delivery_counts: Column::Uniform(0),
            delays: None,
            enqueued_from: Time(0),
            expires_from: Time::NEVER,
        })
    }

    /// Every sequence that is left, with its position.
    fn contents(run: &PagedRun) -> Vec<(Sequence, u32)> {
        run.parts()
            .flat_map(|part| {
                (0..part.len).map(move |i| (part.first + u64::from(i), part.position + i))
            })
            .collect()
    }

    fn check(runs: &[PagedRun], model: &BTreeSet<Sequence>) -> Result<(), TestCaseError> {
        let found: Vec<_> = runs.iter().flat_map(contents).collect();
        let expected: Vec<_> = model.iter().map(|s| (*s, (*s - 1000) as u32)).collect();
        prop_assert_eq!(found, expected);
        for run in runs {
            let own: Vec<u64> = model.range(run.first..run.end()).map(|s| *s - 1000).collect();
            prop_assert_eq!(run.left() as usize, own.len());
            prop_assert_eq!(run.body_bytes(), own.iter().sum::<u64>());
            prop_assert_eq!(run.first_from(0), Some(run.first), "it begins with a message");
            prop_assert!(run.part(run.end() - 1, 1).is_some(), "it ends with a message");
            for at in run.first..run.end() {
                prop_assert_eq!(run.first_from(at), model.range(at..run.end()).next().copied());
            }
            let gone = run.gone().map(Into::into);
            let (page, position) = (Arc::clone(&run.page), run.position);
            let kept = PagedRun::restored(run.first, run.len, page, position, None, gone);
            prop_assert_eq!(kept.as_ref(), Some(run));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn is_what_a_set_of_sequences_is(
            written in proptest::collection::vec((0u32..20, 1u32..60), 1..6),
            ops in proptest::collection::vec((any::<bool>(), 995u64..1210, 1u64..90), 0..25),
        ) {
            let (mut ranges, mut model, mut at) = (Vec::new(), BTreeSet::new(), 0);
            for (gap, len) in written {
                let (first, end) = ((at + gap).min(SPAN), (at + gap + len).min(SPAN));
                if first < end {
                    ranges.push((first, end - first));
                    model.extend((first..end).map(|p| 1000 + u64::from(p)));
                }
                at = end;
            }
            let mut runs = vec![PagedRun::whole(page(), &ranges)];
            check(&runs, &model)?;
            for (splits, first, len) in ops {
                let mut next = Vec::new();
                for mut run in runs {
                    if splits {
                        if (run.first..run.end()).contains(&first) {
                            let (head, tail) = run.split(first);
                            next.extend(head.into_iter().chain(tail));
                        } else {
                            next.push(run);
                        }
                        continue;
                    }
                    let mut gone = Vec::new();
                    let (from, end) = (first.max(run.first), (first + len).min(run.end()));
                    let left = if from < end {
                        run.remove(first, first + len, |part| gone.extend(contents(&part)))
                    } else {
                        run.left()
                    };
                    for (sequence, position) in gone {
                        prop_assert!(model.remove(&sequence));
                        prop_assert_eq!(u64::from(position), sequence - 1000);
                    }
                    if left > 0 {
                        next.push(run);
                    }
                }
                runs = next;
                check(&runs, &model)?;
            }
        }
    }
}
