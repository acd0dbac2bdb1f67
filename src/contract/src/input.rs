//! Bytes that came from a client and are not decoded yet.

use bytes::Bytes;

/// The read side of a connection: whoever owns the socket fills it, the session takes whole
/// frames off its front as reference-counted chunks.
#[derive(Debug, Default)]
pub struct Input {
    buf: Vec<u8>,
    start: usize,
}

impl Input {
    /// Chunks below this many bytes are copied out, so that a quiet publisher's message does not
    /// pin a whole read buffer; above it the buffer itself becomes the chunk. Copying 8 KiB takes
    /// a fraction of the read that brought them.
    const COPY_MAX_BYTES: usize = 8 * 1024;

    /// An empty input. It allocates nothing until it is filled.
    pub fn new() -> Input {
        Input::default()
    }

    /// The bytes not taken yet.
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start..]
    }

    /// How many bytes are not taken yet.
    pub fn len(&self) -> usize {
        self.buf.len() - self.start
    }

    /// Whether every byte has been taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `bytes`; for tests, and for what was read elsewhere.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// The buffer with room for at least `room` bytes behind what it holds, to read into.
    ///
    /// The reader appends to the vector and must not change what is in it.
    pub fn buffer(&mut self, room: usize) -> &mut Vec<u8> {
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        } else if self.start > 0 && self.buf.capacity() - self.buf.len() < room {
            self.buf.drain(..self.start);
            self.start = 0;
        }
        self.buf.reserve(room);
        &mut self.buf
    }

    /// Takes the first `len` bytes as a chunk of their own.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn take(&mut self, len: usize) -> Bytes {
        assert!(len <= self.len(), "took {len} bytes of {}", self.len());
        let end = self.start + len;
        // Mostly unused capacity would be pinned with the chunk: copy then, too.
        if len < Self::COPY_MAX_BYTES || len * 2 < self.buf.capacity() {
            let chunk = Bytes::copy_from_slice(&self.buf[self.start..end]);
            self.skip(len);
            return chunk;
        }
        let rest = self.buf[end..].to_vec();
        let mut whole = std::mem::replace(&mut self.buf, rest);
        let start = std::mem::replace(&mut self.start, 0);
        whole.truncate(end);
        Bytes::from(whole).slice(start..)
    }

    /// Drops the first `len` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn skip(&mut self, len: usize) {
        assert!(len <= self.len(), "skipped {len} bytes of {}", self.len());
        self.start += len;
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        }
    }

    /// Gives the memory of an empty input back.
    pub fn release(&mut self) {
        if self.is_empty() {
            self.buf = Vec::new();
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_takes_give_the_same_bytes() {
        let data: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        for step in [1usize, 7, 4096, 8191, 8192, 60_000] {
            let mut input = Input::new();
            let mut taken = Vec::new();
            for part in data.chunks(step) {
                input.buffer(part.len()).extend_from_slice(part);
                let whole = input.len() / 3 * 3;
                taken.extend_from_slice(&input.take(whole));
            }
            taken.extend_from_slice(&input.take(input.len()));
            assert_eq!(taken, data, "step {step}");
            assert!(input.is_empty());
        }
    }
}
