//! How far consumers that choose have looked.

use std::collections::BTreeMap;

use isthmus_model::Sequence;

use super::ranges::Ranges;

/// Ranges that a cursor remembers to look at again. One that has more looks at everything from the
/// first of them on: memory is bounded, and what it costs is a look too many.
const AGAIN_MAX: usize = 4096;

/// What a consumer has not looked at. It says nothing of what is ready: what has gone since stays
/// named until it is come to.
#[derive(Debug)]
pub(super) struct Cursor {
    levels: BTreeMap<u8, Unseen>,
    /// It looks at nothing from here on.
    pub(super) end: Sequence,
}

/// The part of one priority.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    /// Sequences below `from`: they came in late, or came back.
    again: Ranges,
    /// Everything from here on.
    from: Sequence,
}

impl Cursor {
    pub(super) fn new(end: Sequence) -> Cursor {
        Cursor { levels: BTreeMap::new(), end }
    }

    pub(super) fn level(&mut self, priority: u8) -> &mut Unseen {
        self.levels.entry(priority).or_default()
    }
}

impl Unseen {
    /// There is something to look at that may have been looked at before.
    pub(super) fn add(&mut self, first: Sequence, len: u64) {
        let end = (first + len).min(self.from);
        if first >= end {
            return;
        }
        self.again.add(first, end - first);
        if self.again.count() > AGAIN_MAX
            && let Some((first, _)) = self.again.first()
        {
            self.from = first;
            self.again.clear();
        }
    }

    /// These were looked at, and of what is ready nothing before them is left to look at.
    pub(super) fn seen(&mut self, first: Sequence, len: u64) {
        if !self.again.is_empty() {
            self.again.cut(first, len);
        }
        self.from = self.from.max(first + len);
    }

    /// The first of what is not looked at that `ready` finds from a sequence on, as far as it is
    /// consecutive.
    pub(super) fn next<T>(
        &mut self,
        ready: impl Fn(Sequence) -> Option<(Sequence, u64, T)>,
    ) -> Option<(Sequence, u64, T)> {
        while let Some((first, len)) = self.again.first() {
            let end = first + len;
            match ready(first).filter(|(at, ..)| *at < end) {
                Some((at, left, which)) => {
                    self.again.cut(first, at - first);
                    return Some((at, left.min(end - at), which));
                }
                None => {
                    self.again.cut(first, len);
                }
            }
        }
        ready(self.from)
    }
}
