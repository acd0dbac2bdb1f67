//! How much of the log lies behind which entry.

use std::collections::VecDeque;

use isthmus_storage::Extent;

/// Bytes of the log between two marks, about: how exactly an entry's age is known.
const STEP_BYTES: u64 = 4 << 20;

/// Marks at the most; the oldest are forgotten, which makes entries look older than they are.
const MARKS_MAX: usize = 1024;

/// A count of the bytes that go into the log, and which entry was the last at some of them.
#[derive(Debug)]
pub(crate) struct Marks {
    bytes: u64,
    /// (entry, bytes up to its end), ascending.
    marks: VecDeque<(u64, u64)>,
}

impl Marks {
    /// A log that lies in `extents`.
    pub(crate) fn new(extents: &[Extent]) -> Marks {
        let mut marks = Marks { bytes: 0, marks: VecDeque::new() };
        for extent in extents {
            marks.bytes += extent.bytes;
            marks.marks.push_back((extent.last, marks.bytes));
        }
        let surplus = marks.marks.len().saturating_sub(MARKS_MAX);
        marks.marks.drain(..surplus);
        marks
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entry `index` follows, with so many bytes.
    pub(crate) fn add(&mut self, index: u64, bytes: u64) {
        self.bytes += bytes;
        if self.marks.back().is_none_or(|(_, at)| self.bytes - at >= STEP_BYTES) {
            self.marks.push_back((index, self.bytes));
            if self.marks.len() > MARKS_MAX {
                self.marks.pop_front();
            }
        }
    }

    /// The last marked entry that has at least `bytes` behind it; 0 if none has.
    pub(crate) fn index_before(&self, bytes: u64) -> u64 {
        let Some(upto) = self.bytes.checked_sub(bytes) else { return 0 };
        let after = self.marks.partition_point(|(_, at)| *at <= upto);
        after.checked_sub(1).and_then(|i| self.marks.get(i)).map_or(0, |(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_is_what_has_enough_behind_it() {
        let mut marks = Marks::new(&[Extent { last: 10, bytes: 0 }]);
        for index in 11..=100 {
            marks.add(index, 1 << 20);
        }
        assert_eq!(marks.bytes(), 90 << 20);
        assert_eq!(marks.index_before(200 << 20), 0);
        let old = marks.index_before(50 << 20);
        assert!((46..=50).contains(&old), "{old}");
        assert!(marks.index_before(0) > 96);
        for index in 101..10_000 {
            marks.add(index, STEP_BYTES);
        }
        assert_eq!(marks.marks.len(), MARKS_MAX);
    }

    #[test]
    fn what_a_segment_takes_makes_the_entries_before_it_old() {
        let segment = |last| Extent { last, bytes: 64 << 20 };
        let marks = Marks::new(&[segment(3), segment(6), Extent { last: 9, bytes: 4096 }]);
        assert_eq!(marks.bytes(), (128 << 20) + 4096);
        assert_eq!(marks.index_before(0), 9);
        assert_eq!(marks.index_before(4096), 6);
        assert_eq!(marks.index_before(4097), 3);
        assert_eq!(marks.index_before(64 << 20), 3);
        assert_eq!(marks.index_before(129 << 20), 0);
    }
}
