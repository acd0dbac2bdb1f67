//! Bytes that are to go to a client.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// The write side of a connection: small things are encoded into buffers, large bodies are referred
/// to where they lie, and both leave in one vectored write.
///
/// A buffer that is nearly full is set aside and another one begun, so that what waits for a client
/// that does not read is never copied into one twice as large, and costs little more memory than it
/// has bytes.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The one that is encoded into.
    last: Part,
    /// Those before it, if it ever was full since the outbox was last at rest.
    before: Option<Box<Before>>,
}

/// Buffers that are set aside.
#[derive(Debug, Default)]
struct Before {
    /// Full ones, from the front; none is empty.
    full: VecDeque<Part>,
    /// Bytes that wait in the full ones.
    bytes: usize,
    /// An empty buffer that was used before.
    spare: Vec<u8>,
}

impl Outbox {
    /// Bodies below this many bytes are copied: a slice of their own in a vectored write costs
    /// about as much as copying a few KiB, and a reference pins the chunk until it is written.
    pub const COPY_MAX_BYTES: usize = 4 * 1024;

    /// Bytes of a buffer.
    const BUFFER_BYTES: usize = 32 * 1024;

    /// A buffer with as many bytes has no room for a body that is copied and what stands around it.
    const FULL_BYTES: usize = Self::BUFFER_BYTES - Self::COPY_MAX_BYTES - 1024;

    /// An empty outbox.
    pub fn new() -> Outbox {
        Outbox::default()
    }

    /// The buffer to encode into; append only.
    #[inline]
    pub fn buf(&mut self) -> &mut Vec<u8> {
        if self.last.buf.len() >= Self::FULL_BYTES {
            self.set_aside();
        }
        &mut self.last.buf
    }

    #[cold]
    fn set_aside(&mut self) {
        let before = self.before.get_or_insert_default();
        let mut buf = std::mem::take(&mut before.spare);
        buf.reserve_exact(Self::BUFFER_BYTES);
        let full = std::mem::replace(&mut self.last, Part { buf, ..Part::default() });
        // What is written of it stays written.
        if full.len() > 0 {
            before.bytes += full.len();
            before.full.push_back(full);
        }
    }

    /// Appends `span` of `chunk`, by reference if it is large.
    #[inline]
    pub fn push_slice(&mut self, chunk: &Bytes, span: isthmus_model::Span) {
        let range = span.start as usize..span.end() as usize;
        if range.len() < Self::COPY_MAX_BYTES {
            self.buf().extend_from_slice(&chunk[range]);
        } else {
            self.push_shared(chunk.slice(range));
        }
    }

    /// Appends `bytes` by reference.
    pub fn push_shared(&mut self, bytes: Bytes) {
        self.last.shared_bytes += bytes.len();
        self.last.shared.push_back((self.last.buf.len(), bytes));
    }

    /// Bytes waiting to be written.
    #[inline]
    pub fn len(&self) -> usize {
        self.before.as_ref().map_or(0, |before| before.bytes) + self.last.len()
    }

    /// All buffers, from the front.
    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.before.iter().flat_map(|before| &before.full).chain([&self.last])
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `slices` with what waits, from the front; returns how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for part in self.parts() {
            filled += part.slices(&mut slices[filled..]);
        }
        filled
    }

    /// Drops the first `written` bytes.
    ///
    /// # Panics
    /// If fewer wait.
    pub fn advance(&mut self, mut written: usize) {
        assert!(written <= self.len(), "wrote {written} bytes of {}", self.len());
        if let Some(before) = &mut self.before {
            written = before.advance(written);
        }
        if written > 0 {
            self.last.advance(written);
        }
    }

    /// Gives the memory of an empty outbox back.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Outbox::default();
        } else if let Some(before) = &mut self.before {
            before.spare = Vec::new();
        }
    }

    /// Everything that waits, copied; for tests.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts().flat_map(Part::to_vec).collect()
    }
}

impl Before {
    /// Drops the first `written` bytes, as far as they are here; returns how many are not.
    fn advance(&mut self, mut written: usize) -> usize {
        while let Some(part) = self.full.front_mut() {
            let of_it = written.min(part.len());
            part.advance(of_it);
            self.bytes -= of_it;
            written -= of_it;
            if part.len() > 0 {
                return written;
            }
            if let Some(part) = self.full.pop_front()
                && self.spare.capacity() == 0
            {
                self.spare = part.buf;
            }
        }
        written
    }
}

/// A buffer, with what other bytes go in between.
#[derive(Debug, Default)]
struct Part {
    /// What is encoded, in order; `shared` says where other bytes go in between.
    buf: Vec<u8>,
    /// How much of `buf` is written.
    start: usize,
    /// (offset in `buf` that these bytes stand before, the bytes), by offset.
    shared: VecDeque<(usize, Bytes)>,
    /// Bytes in `shared`.
    shared_bytes: usize,
}

impl Part {
    fn len(&self) -> usize {
        self.buf.len() - self.start + self.shared_bytes
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
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

    /// Drops the first `written` bytes, which are no more than it has.
    fn advance(&mut self, mut written: usize) {
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

    fn to_vec(&self) -> Vec<u8> {
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

    /// As long as many buffers, most of it in small messages.
    fn long_sample() -> (Outbox, Vec<u8>) {
        let mut outbox = Outbox::new();
        let mut expected = Vec::new();
        let chunk: Bytes = (0..9_000u32).map(|i| (i * 11) as u8).collect::<Vec<_>>().into();
        for number in 0..1_000usize {
            let (start, len) = (number * 7 % 900, if number % 50 == 0 { 8_000 } else { number });
            outbox.buf().extend_from_slice(b"head");
            outbox.push_slice(&chunk, Span::new(start, len));
            expected.extend_from_slice(b"head");
            expected.extend_from_slice(&chunk[start..start + len]);
        }
        (outbox, expected)
    }

    #[test]
    fn what_waits_costs_little_more_than_its_bytes() {
        let mut outbox = Outbox::new();
        let chunk: Bytes = vec![7; 1_000].into();
        for _ in 0..1_000 {
            outbox.buf().extend_from_slice(b"head");
            outbox.push_slice(&chunk, Span::new(0, 1_000));
        }
        let reserved: usize = outbox.parts().map(|p| p.buf.capacity()).sum();
        assert!(reserved < outbox.len() * 5 / 4 + Outbox::BUFFER_BYTES, "{reserved}");
        // Half of it is written, and so half of the memory is free, but for one buffer.
        outbox.advance(outbox.len() / 2);
        let still: usize = outbox.parts().map(|p| p.buf.capacity()).sum();
        assert!(still < reserved / 2 + 2 * Outbox::BUFFER_BYTES, "{still} of {reserved}");
    }

    #[test]
    fn written_in_pieces_of_any_size_it_is_the_same() {
        let short = [1usize, 3, 4, 5_000, 5_003, 100_000].map(|step| (step, sample()));
        let long = [997usize, 5_003, 100_000].map(|step| (step, long_sample()));
        for (step, (mut outbox, expected)) in short.into_iter().chain(long) {
            assert_eq!(outbox.len(), expected.len());
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
