//! Where the entries are: a sparse index in memory, shared with readers.
//!
//! One point every 16 KiB of log, not one an entry: 64 MiB of log cost at most 64 KiB of memory,
//! and a reader skips at most 16 KiB of headers to find its entry.

use std::{collections::VecDeque, sync::Arc};

use super::{LogId, segment::Segment};

/// Bytes of log between two points of the index.
const POINT_BYTES: u64 = 16 << 10;

/// Consecutive entries that lie one behind the other in one segment.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) first: u64,
    /// Inclusive.
    pub(crate) last: u64,
    pub(crate) segment: Arc<Segment>,
    /// Index and offset of some entries, the first included, ascending.
    points: Vec<(u64, u64)>,
}

impl Run {
    /// The offset of the last known entry at or before `index`.
    pub(crate) fn offset_before(&self, index: u64) -> u64 {
        assert!(self.first <= index && index <= self.last, "a run is asked for another's entry");
        let behind = self.points.partition_point(|&(i, _)| i <= index);
        // The first point is that of the run's first entry, so at least one is not behind.
        self.points[behind - 1].1
    }
}

/// An entry that was placed in a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) id: LogId,
    pub(crate) offset: u64,
}

/// The live entries of the log. Runs are consecutive: each begins behind the end of the one before.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) purged: LogId,
    pub(crate) last: LogId,
    /// Live segments, oldest first; the last one is written to.
    pub(crate) segments: VecDeque<Arc<Segment>>,
    pub(crate) runs: VecDeque<Run>,
    /// First index of each term that is in the log.
    terms: VecDeque<(u64, u64)>,
    /// Whether the last run was cut by a truncation. Void entries lie behind it, so the next entry
    /// begins a run of its own even in the same segment.
    cut: bool,
}

impl Index {
    /// An index of segments whose entries are still to be published.
    pub(crate) fn new(purged: LogId, segments: VecDeque<Arc<Segment>>) -> Self {
        Self { purged, segments, ..Self::default() }
    }

    /// Adds entries that were written to `segment`.
    pub(crate) fn publish(&mut self, segment: &Arc<Segment>, placed: &[Placed]) {
        for &Placed { id, offset } in placed {
            self.last = id;
            if self.terms.back().is_none_or(|&(_, term)| term != id.term) {
                self.terms.push_back((id.index, id.term));
            }
            match self.runs.back_mut() {
                Some(run) if !self.cut && Arc::ptr_eq(&run.segment, segment) => {
                    assert_eq!(run.last + 1, id.index, "a run of entries has a gap");
                    run.last = id.index;
                    let far = run.points.last().is_none_or(|&(_, at)| offset - at >= POINT_BYTES);
                    if far {
                        run.points.push((id.index, offset));
                    }
                }
                _ => {
                    self.cut = false;
                    self.runs.push_back(Run {
                        first: id.index,
                        last: id.index,
                        segment: Arc::clone(segment),
                        points: vec![(id.index, offset)],
                    });
                }
            }
        }
    }

    /// Makes the entries from `index` on void. `previous` is the id of the entry before them.
    pub(crate) fn truncate(&mut self, index: u64, previous: LogId) {
        self.cut = true;
        while let Some(run) = self.runs.back_mut() {
            if run.first < index {
                run.last = run.last.min(index - 1);
                run.points.retain(|&(i, _)| i < index);
                break;
            }
            self.runs.pop_back();
        }
        while self.terms.back().is_some_and(|&(first, _)| first >= index) {
            self.terms.pop_back();
        }
        self.last = previous;
    }

    /// Forgets the entries up to `purged`.
    pub(crate) fn purge(&mut self, purged: LogId) {
        self.purged = purged;
        while self.runs.front().is_some_and(|run| run.last <= purged.index) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut()
            && run.first <= purged.index
        {
            let behind = run.points.partition_point(|&(i, _)| i <= purged.index + 1);
            // The point before the first live entry stays: reading starts there.
            run.points.drain(..behind.saturating_sub(1));
        }
        while self.terms.get(1).is_some_and(|&(first, _)| first <= purged.index + 1) {
            self.terms.pop_front();
        }
        if self.last.index <= purged.index {
            self.last = purged;
            self.runs.clear();
            self.terms.clear();
        }
    }

    /// The segments no live entry can lie in, oldest first, taken out of the index. The argument:
    /// when a segment is opened, all entries before it have indexes up to its `previous_index`;
    /// if those are purged, nothing before it is needed.
    pub(crate) fn take_purged(&mut self) -> Vec<Arc<Segment>> {
        let purged = self.purged.index;
        let first = self.segments.iter().rposition(|s| s.header.previous_index <= purged);
        self.segments.drain(..first.unwrap_or(0)).collect()
    }

    /// The term of the entry `index`, if it is in the log or the last purged one.
    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.purged.index {
            return Some(self.purged.term);
        }
        if index < self.purged.index || index > self.last.index {
            return None;
        }
        let behind = self.terms.partition_point(|&(first, _)| first <= index);
        self.terms.get(behind.checked_sub(1)?).map(|&(_, term)| term)
    }

    /// The run that holds the entry `index`.
    pub(crate) fn run_of(&self, index: u64) -> Option<&Run> {
        let at = self.runs.partition_point(|run| run.last < index);
        self.runs.get(at).filter(|run| run.first <= index)
    }
}
