//! Which messages of a queue are ready, and in which order.

use std::collections::{BTreeMap, VecDeque};

use isthmus_model::Sequence;

/// Consecutive sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: Sequence,
    pub(super) len: u64,
    /// They were delivered before in this term and came back.
    pub(super) returned: bool,
}

/// Ready sequences: those that came in, in the order of their becoming visible, and those that
/// came back, each at its old place. Kept in ranges, so that ten million ready messages that came
/// in one after the other cost as much as one.
#[derive(Debug, Default)]
pub(super) struct Ready {
    fresh: VecDeque<(Sequence, u64)>,
    returned: BTreeMap<Sequence, u64>,
    len: u64,
}

impl Ready {
    /// How many messages are ready.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Messages became visible for the first time.
    pub(super) fn push(&mut self, first: Sequence, len: u64) {
        self.len += len;
        match self.fresh.back_mut() {
            Some((f, l)) if *f + *l == first => *l += len,
            _ => self.fresh.push_back((first, len)),
        }
    }

    /// Delivered messages came back.
    pub(super) fn put_back(&mut self, first: Sequence, len: u64) {
        self.len += len;
        let before = self.returned.range_mut(..first).next_back();
        match before {
            Some((f, l)) if *f + *l == first => *l += len,
            _ => {
                self.returned.insert(first, len);
            }
        }
    }

    /// The next messages, as far as they are consecutive.
    pub(super) fn peek(&self) -> Option<Range> {
        let fresh = self.fresh.front().map(|(f, l)| (*f, *l));
        let returned = self.returned.first_key_value().map(|(f, l)| (*f, *l));
        let ((first, len), returned) = match (fresh, returned) {
            (Some(f), Some(r)) if r.0 < f.0 => (r, true),
            (Some(f), _) => (f, false),
            (None, Some(r)) => (r, true),
            (None, None) => return None,
        };
        Some(Range { first, len, returned })
    }

    /// Takes `len` of the messages that [`Ready::peek`] shows.
    pub(super) fn take(&mut self, len: u64) {
        let Some(range) = self.peek() else { return };
        assert!(len <= range.len, "took {len} ready messages of {}", range.len);
        self.len -= len;
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
            ready.take(len);
            out.extend(range.first..range.first + len);
        }
        assert!(ready.is_empty());
        out
    }

    #[test]
    fn what_came_back_goes_to_its_old_place() {
        for step in [1, 2, 100] {
            let mut ready = Ready::default();
            ready.push(1, 10);
            ready.take(6);
            ready.put_back(5, 1);
            ready.put_back(2, 1);
            ready.put_back(3, 1);
            assert_eq!(drain(&mut ready, step), [2, 3, 5, 7, 8, 9, 10]);
        }
    }

    #[test]
    fn first_deliveries_go_in_the_order_of_becoming_visible() {
        let mut ready = Ready::default();
        ready.push(5, 2); // transient, ahead of a durable one that waited for its commit
        ready.push(3, 2);
        assert_eq!(drain(&mut ready, 9), [5, 6, 3, 4]);
    }
}
