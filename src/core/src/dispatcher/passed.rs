//! Messages that somebody has looked at and left, in the order in which they became visible.

use std::collections::BTreeMap;

use isthmus_model::Sequence;

/// Consecutive sequences at consecutive places. A place is never given twice, so that whoever has
/// looked at all up to one finds what it has not looked at behind it.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// First sequence and how many, by the place of the first.
    ranges: BTreeMap<u64, (Sequence, u64)>,
    /// The place of the next.
    end: u64,
}

/// Where something lies: its place, its first sequence, how many.
pub(super) type Found = (u64, Sequence, u64);

impl Passed {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The place of what is passed next.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Adds what was passed last.
    pub(super) fn push(&mut self, first: Sequence, len: u64) {
        let end = self.end;
        self.end += len;
        if let Some((at, (before, before_len))) = self.ranges.iter_mut().next_back()
            && *at + *before_len == end
            && *before + *before_len == first
        {
            *before_len += len;
            return;
        }
        self.ranges.insert(end, (first, len));
    }

    /// What is here from `place` on, as far as it is consecutive.
    pub(super) fn next_from(&self, place: u64) -> Option<Found> {
        if let Some((at, (first, len))) = self.ranges.range(..=place).next_back()
            && *at + *len > place
        {
            let offset = place - at;
            return Some((place, *first + offset, *len - offset));
        }
        self.ranges.range(place..).next().map(|(at, (first, len))| (*at, *first, *len))
    }

    /// Takes out `len` messages from `place` on.
    ///
    /// # Panics
    /// If they are not there together.
    pub(super) fn take(&mut self, place: u64, len: u64) {
        let found = self.ranges.range(..=place).next_back().map(|(at, range)| (*at, *range));
        let found = found.filter(|(at, (_, of))| place + len <= at + of);
        let Some((at, (first, of))) = found else {
            panic!("took {len} messages at place {place} that are not there");
        };
        self.ranges.remove(&at);
        if at < place {
            self.ranges.insert(at, (first, place - at));
        }
        let (behind, end) = (place + len, at + of);
        if behind < end {
            self.ranges.insert(behind, (first + (behind - at), end - behind));
        }
    }
}
