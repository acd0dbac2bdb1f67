//! Sets of sequences, kept in ranges.

use std::collections::BTreeMap;

use isthmus_model::Sequence;

/// Sequences in order: neighbours cost as much as one.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(BTreeMap<Sequence, u64>);

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ranges.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The first range.
    pub(super) fn first(&self) -> Option<(Sequence, u64)> {
        self.0.first_key_value().map(|(first, len)| (*first, *len))
    }

    /// What is here from `at` on, as far as it is consecutive.
    pub(super) fn next_from(&self, at: Sequence) -> Option<(Sequence, u64)> {
        if let Some((first, len)) = self.0.range(..=at).next_back()
            && *first + *len > at
        {
            return Some((at, *first + *len - at));
        }
        self.0.range(at..).next().map(|(first, len)| (*first, *len))
    }

    /// Adds sequences of which some may be here.
    pub(super) fn add(&mut self, first: Sequence, len: u64) {
        let (mut from, mut end) = (first, first + len);
        if let Some((before, len)) = self.0.range_mut(..=first).next_back()
            && *before + *len >= first
        {
            if *before + *len >= end {
                return;
            }
            from = *before;
        }
        while let Some((next, len)) = self.0.range(from..=end).next() {
            let next = *next;
            end = end.max(next + *len);
            self.0.remove(&next);
        }
        self.0.insert(from, end - from);
    }

    /// Takes out what is here of `first..first + len`; returns how many these were.
    pub(super) fn cut(&mut self, first: Sequence, len: u64) -> u64 {
        let end = first.saturating_add(len);
        let mut cut = 0;
        while let Some((at, left)) = self.next_from(first).filter(|(at, _)| *at < end) {
            let to = (at + left).min(end);
            cut += to - at;
            // The range begins at `at`, or before it if it is the first.
            if let Some((start, _)) = self.0.range(..=at).next_back().map(|(s, l)| (*s, *l)) {
                self.0.remove(&start);
                if start < at {
                    self.0.insert(start, at - start);
                }
            }
            if at + left > to {
                self.0.insert(to, at + left - to);
            }
        }
        cut
    }

    /// Takes out sequences that are here.
    ///
    /// # Panics
    /// If they are not.
    pub(super) fn take(&mut self, first: Sequence, len: u64) {
        let cut = self.cut(first, len);
        assert!(cut == len, "took {len} messages at {first}, of which {cut} are there");
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_what_a_set_holds(
            ops in vec((any::<bool>(), 0u64..40, 1u64..8), 1..60),
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (adds, first, len) in ops {
                let named = first..first + len;
                if adds {
                    ranges.add(first, len);
                    set.extend(named);
                } else {
                    let there = set.range(named.clone()).count() as u64;
                    prop_assert_eq!(ranges.cut(first, len), there);
                    set.retain(|s| !named.contains(s));
                }
                let held: Vec<u64> = ranges.0.iter().flat_map(|(f, l)| *f..*f + *l).collect();
                prop_assert!(held.iter().eq(set.iter()));
                let apart = ranges.0.iter().zip(ranges.0.iter().skip(1));
                prop_assert!(apart.into_iter().all(|((f, l), (next, _))| f + l < *next));
                for at in 0..50 {
                    let next = ranges.next_from(at).map(|(first, _)| first);
                    prop_assert_eq!(next, set.range(at..).next().copied());
                }
            }
        }
    }
}
