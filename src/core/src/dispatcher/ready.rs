//! Which messages of a queue are ready, and in which order.

use std::collections::{BTreeMap, VecDeque};

use isthmus_model::Sequence;

/// Consecutive sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: Sequence,
    pub(super) len: u64,
    /// Their priority.
    pub(super) priority: u8,
    /// They were delivered before in this term and came back.
    pub(super) returned: bool,
}

/// Ready sequences: those of the highest priority first; of each priority those that came in, in
/// the order of their becoming visible, and those that came back, each at its old place. Kept in
/// ranges, so that ten million ready messages that came in one after the other cost as much as
/// one. Queues that look at no priorities have everything at 0 and pay nothing for the others.
#[derive(Debug, Default)]
pub(super) struct Ready {
    lowest: Level,
    /// Priorities above 0; none of them is empty.
    higher: BTreeMap<u8, Level>,
    len: u64,
}

/// The ready messages of one priority.
#[derive(Debug, Default)]
struct Level {
    fresh: VecDeque<(Sequence, u64)>,
    returned: BTreeMap<Sequence, u64>,
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
        if priority == 0 { &mut self.lowest } else { self.higher.entry(priority).or_default() }
    }

    /// Messages became visible for the first time.
    pub(super) fn push(&mut self, priority: u8, first: Sequence, len: u64) {
        self.len += len;
        let fresh = &mut self.level(priority).fresh;
        match fresh.back_mut() {
            Some((f, l)) if *f + *l == first => *l += len,
            _ => fresh.push_back((first, len)),
        }
    }

    /// Delivered messages came back.
    pub(super) fn put_back(&mut self, priority: u8, first: Sequence, len: u64) {
        self.len += len;
        let returned = &mut self.level(priority).returned;
        let before = returned.range_mut(..first).next_back();
        match before {
            Some((f, l)) if *f + *l == first => *l += len,
            _ => {
                returned.insert(first, len);
            }
        }
    }

    /// The next messages, as far as they are consecutive.
    pub(super) fn peek(&self) -> Option<Range> {
        self.peek_up_to(u8::MAX)
    }

    /// The first messages of the highest priority that is not above `priority`.
    pub(super) fn peek_up_to(&self, priority: u8) -> Option<Range> {
        if let Some((priority, level)) = self.higher.range(..=priority).next_back() {
            return level.peek(*priority);
        }
        self.lowest.peek(0)
    }

    /// Takes the first `len` messages of `priority`, not more than are consecutive.
    pub(super) fn take(&mut self, priority: u8, len: u64) {
        self.level(priority).take(len);
        self.len -= len;
        if priority > 0 && self.higher.get(&priority).is_some_and(Level::is_empty) {
            self.higher.remove(&priority);
        }
    }
}

impl Level {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.returned.is_empty()
    }

    fn peek(&self, priority: u8) -> Option<Range> {
        let fresh = self.fresh.front().map(|(f, l)| (*f, *l));
        let returned = self.returned.first_key_value().map(|(f, l)| (*f, *l));
        let ((first, len), returned) = match (fresh, returned) {
            (Some(f), Some(r)) if r.0 < f.0 => (r, true),
            (Some(f), _) => (f, false),
            (None, Some(r)) => (r, true),
            (None, None) => return None,
        };
        Some(Range { first, len, priority, returned })
    }

    fn take(&mut self, len: u64) {
        let range = self.peek(0).filter(|range| len <= range.len);
        let Some(range) = range else { panic!("took {len} ready messages of fewer") };
        if range.returned {
            self.returned.remove(&range.first);
            if len < range.len {
                self.returned.insert(range.first + len, range.len - len);
            }
        } else if len == range.len {
            self.fresh.pop_front();
        } else if let Some(front) = self.fresh.front_mut() {
            *front = (range.first + len, range.len - len);
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
        assert!(ready.higher.is_empty());
    }
}
