//! How far consumers that choose have looked.

use std::collections::BTreeMap;

use isthmus_model::Sequence;

use super::ranges::Ranges;

/// Ranges that came back and are remembered for a cursor. One that has more looks at everything
/// from the first of them on: memory is bounded, and what it costs is a look too many.
const AGAIN_MAX: usize = 4096;

/// What a consumer has not looked at. It says nothing of what is ready: what has gone since stays
/// named until it is come to.
#[derive(Debug)]
pub(super) struct Cursor {
    levels: BTreeMap<u8, Unseen>,
    /// It looks at nothing from this sequence on.
    pub(super) end: Sequence,
}

/// The part of one priority.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    /// It has looked at all that is passed before this place.
    pub(super) passed_upto: u64,
    /// Of what came back it has looked at all below this sequence, but for what is in `again`.
    returned_upto: Sequence,
    again: Ranges,
}

impl Cursor {
    pub(super) fn new(end: Sequence) -> Cursor {
        Cursor { levels: BTreeMap::new(), end }
    }

    pub(super) fn level(&mut self, priority: u8) -> &mut Unseen {
        self.levels.entry(priority).or_default()
    }

    /// Nothing of this priority is ready any more; it has looked at nothing of what will be.
    pub(super) fn forget(&mut self, priority: u8) {
        self.levels.remove(&priority);
    }
}

impl Unseen {
    /// Messages came back.
    pub(super) fn returned(&mut self, first: Sequence, len: u64) {
        let end = (first + len).min(self.returned_upto);
        if first >= end {
            return;
        }
        self.again.add(first, end - first);
        if self.again.count() > AGAIN_MAX
            && let Some((first, _)) = self.again.first()
        {
            self.returned_upto = first;
            self.again.clear();
        }
    }

    /// What [`Unseen::next_returned`] has found is looked at, or the beginning of it.
    pub(super) fn saw_returned(&mut self, first: Sequence, len: u64) {
        if !self.again.is_empty() {
            self.again.cut(first, len);
        }
        self.returned_upto = self.returned_upto.max(first + len);
    }

    /// The first of `returned` that is not looked at, as far as it is consecutive.
    pub(super) fn next_returned(&mut self, returned: &Ranges) -> Option<(Sequence, u64)> {
        while let Some((first, len)) = self.again.first() {
            let end = first + len;
            match returned.next_from(first).filter(|(at, _)| *at < end) {
                Some((at, left)) => {
                    self.again.cut(first, at - first);
                    return Some((at, left.min(end - at)));
                }
                None => {
                    self.again.cut(first, len);
                }
            }
        }
        returned.next_from(self.returned_upto)
    }
}
