//! Bytes that are to go to a client.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// The write side of a connection: small things are encoded into one buffer, large bodies are
/// referred to where they lie, and both leave in one vectored write.
#[derive(Debug, Default)]
pub struct Outbox {
    /// What is encoded, in order; `shared` says where other bytes go in between.
    buf: Vec<u8>,
    /// How much of `buf` is written.
    start: usize,
    /// (offset in `buf` that these bytes stand before, the bytes), by offset.
    shared: VecDeque<(usize, Bytes)>,
    /// Bytes in `shared`.
    shared_bytes: usize,
}

impl Outbox {
    /// Bodies below this many bytes are copied: a slice of their own in a vectored write costs
    /// about as much as copying a few KiB, and a reference pins the chunk until it is written.
    pub const COPY_MAX_BYTES: usize = 4 * 1024;

    /// An empty outbox.
    pub fn new() -> Outbox {
        Outbox::default()
    }

    /// The buffer to encode into; append only.
    #[inline]
    pub fn buf(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    /// Appends `span` of `chunk`, by reference if it is large.
    #[inline]
    pub fn push_slice(&mut self, chunk: &Bytes, span: isthmus_model::Span) {
        let range = span.start as usize..span.end() as usize;
        if range.len() < Self::COPY_MAX_BYTES {
            self.buf.extend_from_slice(&chunk[range]);
        } else {
            self.push_shared(chunk.slice(range));
        }
    }

    /// Appends `bytes` by reference.
    pub fn push_shared(&mut self, bytes: Bytes) {
        self.shared_bytes += bytes.len();
        self.shared.push_back((self.buf.len(), bytes));
    }

    /// Bytes waiting to be written.
    #[inline]
    pub fn len(&self) -> usize {
        self.buf.len() - self.start + self.shared_bytes
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `slices` with what waits, from the front; returns how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut at = self.start;
        let mut fill = |bytes: &'a [u8]| {
            if bytes.is_empty() {
                return true;
            }
            let Some(slot) = slices.get_mut(filled) else { return false };
            *slot = IoSlice::new(bytes);
            filled += 1;
            true
        };
        for (before, bytes) in &self.shared {
            if !fill(&self.buf[at..*before]) || !fill(bytes) {
                return filled;
            }
            at = *before;
        }
        fill(&self.buf[at..]);
        filled
    }

    /// Drops the first `written` bytes.
    ///
    /// # Panics
    /// If fewer wait.
    pub fn advance(&mut self, mut written: usize) {
        assert!(written <= self.len(), "wrote {written} bytes of {}", self.len());
        while let Some((before, bytes)) = self.shared.front_mut() {
            let owned = (*before - self.start).min(written);
            self.start += owned;
            written -= owned;
            if self.start < *before || written == 0 {
                return;
            }
            let part = bytes.len().min(written);
            bytes.advance(part);
            self.shared_bytes -= part;
            written -= part;
            if !bytes.is_empty() {
                return;
            }
            self.shared.pop_front();
        }
        self.start += written;
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        }
    }

    /// Gives the memory of an empty outbox back.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Outbox::default();
        }
    }

    /// Everything that waits, copied; for tests.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        let mut at = self.start;
        for (before, bytes) in &self.shared {
            out.extend_from_slice(&self.buf[at..*before]);
            out.extend_from_slice(bytes);
            at = *before;
        }
        out.extend_from_slice(&self.buf[at..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::Span;

    use super::*;

    fn sample() -> (Outbox, Vec<u8>) {
        let mut outbox = Outbox::new();
        let mut expected = Vec::new();
        let chunk: Bytes = (0..20_000u32).map(|i| (i * 7) as u8).collect::<Vec<_>>().into();
        for (start, len) in [(0, 5_000), (5_000, 10), (5_010, 9_000), (14_010, 4_096), (3, 1)] {
            outbox.buf().extend_from_slice(b"head");
            outbox.push_slice(&chunk, Span::new(start, len));
            expected.extend_from_slice(b"head");
            expected.extend_from_slice(&chunk[start..start + len]);
        }
        (outbox, expected)
    }

    #[test]
    fn written_in_pieces_of_any_size_it_is_the_same() {
        for step in [1usize, 3, 4, 5_000, 5_003, 100_000] {
            let (mut outbox, expected) = sample();
            assert_eq!(outbox.to_vec(), expected);
            let mut got = Vec::new();
            while !outbox.is_empty() {
                let mut slices = [IoSlice::new(&[]); 4];
                let n = outbox.slices(&mut slices);
                let all: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
                let part = all.len().min(step);
                got.extend_from_slice(&all[..part]);
                outbox.advance(part);
            }
            assert_eq!(got, expected, "step {step}");
        }
    }
}
