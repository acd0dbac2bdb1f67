//! Frames that the broker has not carried out, and the receipts that clients asked for with them
//! (1.2, "RECEIPT").
//!
//! Receipts leave in the order of the frames: whoever gets one knows that everything before is
//! done, too, though the specification promises less.

use std::collections::{HashMap, VecDeque};

use isthmus_model::{ConsumerId, Token};

/// A frame's place among all of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameNumber(u64);

/// What follows from the answer to a command, beside the receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Nothing.
    Done,
    /// The broker has stopped a consumer.
    Detached(ConsumerId),
    /// The queue that a SEND waits for is there.
    Declared,
    /// The queue that a SUBSCRIBE waits for is there, and bound.
    Ready,
}

/// A receipt that a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    /// The first record of the frame, in the batch of its run; 0 for a frame that publishes none.
    pub(super) first: u32,
    /// The last one.
    pub(super) last: u32,
    pub(super) id: String,
}

/// Frames in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: VecDeque<Entry>,
    /// The number of the first entry.
    first: u64,
    tokens: HashMap<Token, (FrameNumber, Purpose)>,
}

#[derive(Debug, Default)]
struct Entry {
    receipts: Vec<Receipt>,
    /// The receipt of a frame that waits for this and comes behind it: named if this fails.
    in_case: Option<String>,
    /// Commands that are not answered.
    left: u32,
}

impl Pending {
    /// Frames that wait.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a frame, or a run of them with the receipts asked for.
    pub(super) fn add(&mut self, receipts: Vec<Receipt>) -> FrameNumber {
        self.push(Entry { receipts, ..Entry::default() })
    }

    /// Adds what a frame with this receipt needs that is not taken yet.
    pub(super) fn add_before(&mut self, receipt: Option<String>) -> FrameNumber {
        self.push(Entry { in_case: receipt, ..Entry::default() })
    }

    fn push(&mut self, entry: Entry) -> FrameNumber {
        self.entries.push_back(entry);
        FrameNumber(self.first + self.entries.len() as u64 - 1)
    }

    fn entry(&mut self, FrameNumber(number): FrameNumber) -> Option<&mut Entry> {
        let at = number.checked_sub(self.first)?;
        self.entries.get_mut(usize::try_from(at).ok()?)
    }

    /// Notes that the frame waits for the answer to `token`.
    pub(super) fn wait(&mut self, frame: FrameNumber, token: Token, purpose: Purpose) {
        if let Some(entry) = self.entry(frame) {
            entry.left += 1;
        }
        self.tokens.insert(token, (frame, purpose));
    }

    /// The frame that waits for `token`, which is answered now.
    pub(super) fn answered(&mut self, token: Token) -> Option<(FrameNumber, Purpose)> {
        let (frame, purpose) = self.tokens.remove(&token)?;
        if let Some(entry) = self.entry(frame) {
            entry.left = entry.left.saturating_sub(1);
        }
        Some((frame, purpose))
    }

    /// The receipts of a frame before the one of `record`, and that one, if they were asked for.
    pub(super) fn receipts_up_to(
        &mut self,
        frame: FrameNumber,
        record: u32,
    ) -> (Vec<String>, Option<String>) {
        let Some(entry) = self.entry(frame).map(std::mem::take) else { return (Vec::new(), None) };
        let mut receipts = entry.receipts.into_iter().peekable();
        let mut before = Vec::new();
        while let Some(Receipt { id, .. }) = receipts.next_if(|receipt| receipt.last < record) {
            before.push(id);
        }
        let own = receipts.next().filter(|r| r.first <= record).map(|r| r.id);
        (before, own.or(entry.in_case))
    }

    /// Whether no frame before this one waits.
    pub(super) fn is_first(&self, FrameNumber(number): FrameNumber) -> bool {
        number == self.first
    }

    /// The receipts of the frames at the front that wait for nothing any more.
    pub(super) fn ready(&mut self) -> Vec<String> {
        let mut ready = Vec::new();
        while self.entries.front().is_some_and(|entry| entry.left == 0) {
            let receipts = self.entries.pop_front().map(|entry| entry.receipts);
            ready.extend(receipts.unwrap_or_default().into_iter().map(|receipt| receipt.id));
            self.first += 1;
        }
        ready
    }
}
