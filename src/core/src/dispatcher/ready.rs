//! Which messages of a queue are ready, and in which order.

use std::collections::{BTreeMap, VecDeque};

use isthmus_model::Sequence;

use super::cursors::Cursor;
use super::passed::Passed;
use super::ranges::Ranges;

/// Consecutive sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: Sequence,
    pub(super) len: u64,
    /// Their priority.
    pub(super) priority: u8,
    pub(super) lies: Lies,
}

/// Where ready messages lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lies {
    /// Where they came in.
    Fresh,
    /// A consumer that chooses has looked at them and left them, at this place.
    Passed(u64),
    /// They were delivered before in this term and came back.
    Returned,
}

impl Range {
    /// Whether they were delivered before in this term and came back.
    pub(super) fn returned(&self) -> bool {
        self.lies == Lies::Returned
    }

    /// A part of it, which must lie within it.
    pub(super) fn part(self, offset: u64, len: u64) -> Range {
        debug_assert!(len > 0 && offset + len <= self.len, "a part beyond a range");
        let lies = match self.lies {
            Lies::Passed(place) => Lies::Passed(place + offset),
            other => other,
        };
        Range { first: self.first + offset, len, lies, ..self }
    }
}

/// Ready sequences: those of the highest priority first; of each priority those that came in, in
/// the order of their becoming visible, and those that came back, each at its old place. Kept in
/// ranges, so that ten million ready messages that came in one after the other cost as much as
/// one. Queues that look at no priorities have everything at 0 and pay nothing for the others.
///
/// Consumers that **choose** look at one message after the other, each once, and take or leave it.
/// What the first of them leaves moves from `fresh` to `passed`, which is before all that is fresh
/// for everybody; so nobody has looked at what is fresh, and of what is passed each has looked at
/// all up to some place. What comes back is told to each.
#[derive(Debug, Default)]
pub(super) struct Ready {
    lowest: Level,
    len: u64,
    /// What most queues have nothing of.
    more: Option<Box<More>>,
    /// Whether there is something to look at that was not there when it was last asked.
    has_news: bool,
}

/// What queues have that look at priorities, or that somebody chooses from.
#[derive(Debug, Default)]
struct More {
    /// Priorities above 0; none of them is empty.
    higher: BTreeMap<u8, Level>,
    /// How far those have looked that choose, by their places in the table of consumers.
    cursors: BTreeMap<usize, Cursor>,
}

/// The ready messages of one priority.
#[derive(Debug, Default)]
struct Level {
    fresh: VecDeque<(Sequence, u64)>,
    /// What somebody who chooses has left, if ever.
    passed: Option<Box<Passed>>,
    returned: Ranges,
}

impl Ready {
    /// How many messages are ready.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn level(&mut self, priority: u8) -> &mut Level {
        if priority == 0 {
            return &mut self.lowest;
        }
        self.more.get_or_insert_default().higher.entry(priority).or_default()
    }

    /// Messages became visible for the first time.
    pub(super) fn push(&mut self, priority: u8, first: Sequence, len: u64) {
        self.len += len;
        self.has_news = true;
        let fresh = &mut self.level(priority).fresh;
        match fresh.back_mut() {
            Some((f, l)) if *f + *l == first => *l += len,
            _ => fresh.push_back((first, len)),
        }
    }

    /// Delivered messages came back.
    pub(super) fn put_back(&mut self, priority: u8, first: Sequence, len: u64) {
        self.len += len;
        self.has_news = true;
        self.level(priority).returned.add(first, len);
        for cursor in self.more.iter_mut().flat_map(|more| more.cursors.values_mut()) {
            cursor.level(priority).returned(first, len);
        }
    }

    /// The next messages, as far as they are consecutive.
    pub(super) fn peek(&self) -> Option<Range> {
        self.peek_up_to(u8::MAX)
    }

    /// The first messages of the highest priority that is not above `priority`.
    pub(super) fn peek_up_to(&self, priority: u8) -> Option<Range> {
        if let Some(more) = &self.more
            && let Some((priority, level)) = more.higher.range(..=priority).next_back()
        {
            return level.peek(*priority);
        }
        self.lowest.peek(0)
    }

    /// Takes the first `len` messages of `priority`, not more than are consecutive.
    pub(super) fn take(&mut self, priority: u8, len: u64) {
        self.level(priority).take(len);
        self.took(priority, len);
    }

    fn took(&mut self, priority: u8, len: u64) {
        self.len -= len;
        if priority > 0
            && let Some(more) = &mut self.more
            && more.higher.get(&priority).is_some_and(Level::is_empty)
        {
            more.higher.remove(&priority);
            // The places of what is passed will begin anew.
            more.cursors.values_mut().for_each(|cursor| cursor.forget(priority));
        }
    }

    // Consumers that choose.

    /// A consumer chooses from now on: from what is below `end`.
    pub(super) fn begin_choosing(&mut self, consumer: usize, end: Sequence) {
        self.more.get_or_insert_default().cursors.insert(consumer, Cursor::new(end));
    }

    /// A consumer is gone, whether it chose or not.
    pub(super) fn end_choosing(&mut self, consumer: usize) {
        if let Some(more) = &mut self.more {
            more.cursors.remove(&consumer);
        }
    }

    /// Whether anybody chooses.
    pub(super) fn is_chosen_from(&self) -> bool {
        self.more.as_ref().is_some_and(|more| !more.cursors.is_empty())
    }

    /// Whether this consumer chooses.
    pub(super) fn is_choosing(&self, consumer: usize) -> bool {
        self.more.as_ref().is_some_and(|more| more.cursors.contains_key(&consumer))
    }

    /// Who chooses.
    pub(super) fn choosing(&self) -> Vec<usize> {
        self.more.iter().flat_map(|more| more.cursors.keys().copied()).collect()
    }

    /// Whether something became ready since this was last asked.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// The next messages that a consumer which chooses has not looked at, as far as they are
    /// consecutive.
    pub(super) fn peek_unseen(&mut self, consumer: usize) -> Option<Range> {
        let More { higher, cursors } = self.more.as_deref_mut()?;
        let cursor = cursors.get_mut(&consumer)?;
        let levels = higher.iter().rev().map(|(priority, level)| (*priority, level));
        for (priority, level) in levels.chain(std::iter::once((0, &self.lowest))) {
            let end = cursor.end;
            let unseen = cursor.level(priority);
            let returned = unseen.next_returned(&level.returned);
            let next = earlier(level.in_order_from(unseen.passed_upto), returned);
            let Some((first, len, lies)) = next.filter(|(first, ..)| *first < end) else {
                continue;
            };
            return Some(Range { first, len: len.min(end - first), priority, lies });
        }
        None
    }

    /// A consumer has looked at what [`Ready::peek_unseen`] has shown it, or at the beginning of
    /// it, and leaves it.
    pub(super) fn leave(&mut self, consumer: usize, mut range: Range) {
        if range.lies == Lies::Fresh {
            let level = self.level(range.priority);
            level.take_fresh(range.first, range.len);
            let passed = level.passed.get_or_insert_default();
            range.lies = Lies::Passed(passed.end());
            passed.push(range.first, range.len);
        }
        self.saw(consumer, range);
    }

    /// As [`Ready::leave`], but it takes it.
    pub(super) fn choose(&mut self, consumer: usize, range: Range) {
        let Range { first, len, priority, lies } = range;
        self.level(priority).take_part(first, len, lies);
        self.saw(consumer, range);
        self.took(priority, len);
    }

    fn saw(&mut self, consumer: usize, range: Range) {
        let cursor = self.more.as_mut().and_then(|more| more.cursors.get_mut(&consumer));
        let Some(cursor) = cursor else { return };
        let unseen = cursor.level(range.priority);
        match range.lies {
            // It is nowhere any more, and all before it was looked at.
            Lies::Fresh => {}
            Lies::Passed(place) => unseen.passed_upto = place + range.len,
            Lies::Returned => unseen.saw_returned(range.first, range.len),
        }
    }
}

/// Messages that lie together: the first sequence, how many, and where.
type Stretch = (Sequence, u64, Lies);

/// Of what came in and what came back, what is next.
fn earlier(came_in: Option<Stretch>, came_back: Option<(Sequence, u64)>) -> Option<Stretch> {
    match (came_in, came_back) {
        (Some(came_in), Some((first, _))) if came_in.0 < first => Some(came_in),
        (_, Some((first, len))) => Some((first, len, Lies::Returned)),
        (came_in, None) => came_in,
    }
}

impl Level {
    fn is_empty(&self) -> bool {
        let has_passed = self.passed.as_ref().is_some_and(|passed| !passed.is_empty());
        self.fresh.is_empty() && !has_passed && self.returned.is_empty()
    }

    fn peek(&self, priority: u8) -> Option<Range> {
        let next = earlier(self.in_order_from(0), self.returned.first());
        next.map(|(first, len, lies)| Range { first, len, priority, lies })
    }

    /// The next of those that came in, of the passed ones from `place` on.
    fn in_order_from(&self, place: u64) -> Option<Stretch> {
        match self.passed.as_ref().and_then(|passed| passed.next_from(place)) {
            Some((place, first, len)) => Some((first, len, Lies::Passed(place))),
            None => self.fresh.front().map(|(first, len)| (*first, *len, Lies::Fresh)),
        }
    }

    fn take(&mut self, len: u64) {
        let range = self.peek(0).filter(|range| len <= range.len);
        let Some(range) = range else { panic!("took {len} ready messages of fewer") };
        self.take_part(range.first, len, range.lies);
    }

    fn take_part(&mut self, first: Sequence, len: u64, lies: Lies) {
        match lies {
            Lies::Fresh => self.take_fresh(first, len),
            Lies::Passed(place) => self.passed.get_or_insert_default().take(place, len),
            Lies::Returned => self.returned.take(first, len),
        }
    }

    /// Takes what came in first of what nobody has looked at.
    fn take_fresh(&mut self, first: Sequence, len: u64) {
        let front = self.fresh.front_mut().filter(|(f, l)| *f == first && *l >= len);
        let Some(front) = front else { panic!("took {len} fresh messages that are not first") };
        if front.1 == len {
            self.fresh.pop_front();
        } else {
            *front = (first + len, front.1 - len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(ready: &mut Ready, step: u64) -> Vec<Sequence> {
        let mut out = Vec::new();
        while let Some(range) = ready.peek() {
            let len = step.min(range.len);
            ready.take(range.priority, len);
            out.extend(range.first..range.first + len);
        }
        assert!(ready.is_empty());
        out
    }

    #[test]
    fn what_came_back_goes_to_its_old_place() {
        for step in [1, 2, 100] {
            let mut ready = Ready::default();
            ready.push(0, 1, 10);
            ready.take(0, 6);
            ready.put_back(0, 5, 1);
            ready.put_back(0, 2, 1);
            ready.put_back(0, 3, 1);
            assert_eq!(drain(&mut ready, step), [2, 3, 5, 7, 8, 9, 10]);
        }
    }

    #[test]
    fn first_deliveries_go_in_the_order_of_becoming_visible() {
        let mut ready = Ready::default();
        ready.push(0, 5, 2); // transient, ahead of a durable one that waited for its commit
        ready.push(0, 3, 2);
        assert_eq!(drain(&mut ready, 9), [5, 6, 3, 4]);
    }

    #[test]
    fn who_chooses_sees_what_comes_after_all_of_a_priority_was_taken() {
        let mut ready = Ready::default();
        let (leaves, takes) = (1, 2);
        for consumer in [leaves, takes] {
            ready.begin_choosing(consumer, Sequence::MAX);
        }
        for sequence in 1..4 {
            ready.push(2, sequence, 1);
            for (consumer, is_wanted) in [(leaves, false), (takes, true)] {
                let range = ready.peek_unseen(consumer).expect("one of them has not seen it");
                assert_eq!((range.first, range.len), (sequence, 1));
                match is_wanted {
                    true => ready.choose(consumer, range),
                    false => ready.leave(consumer, range),
                }
            }
            assert!(ready.is_empty() && ready.peek_unseen(leaves).is_none());
        }
    }

    #[test]
    fn higher_priorities_go_first_and_what_came_back_keeps_its_own() {
        let mut ready = Ready::default();
        ready.push(0, 1, 2);
        ready.push(5, 3, 2);
        ready.push(9, 5, 1);
        ready.take(9, 1);
        ready.take(5, 1);
        ready.put_back(5, 3, 1);
        ready.push(5, 6, 1);
        ready.put_back(9, 5, 1);
        assert_eq!(ready.peek_up_to(8).map(|r| (r.priority, r.first)), Some((5, 3)));
        assert_eq!(ready.peek_up_to(4).map(|r| (r.priority, r.first)), Some((0, 1)));
        assert_eq!(drain(&mut ready, 9), [5, 3, 4, 6, 1, 2]);
        assert!(ready.more.is_some_and(|more| more.higher.is_empty()));
    }
}
