//! Bytes that came from a client and are not decoded yet.

use bytes::Bytes;

/// The read side of a connection: whoever owns the socket fills it, the session takes whole
/// frames off its front as reference-counted chunks.
#[derive(Debug, Default)]
pub struct Input {
    /// What is left of the buffer that was taken last, where that is much. While there is any, `buf`
    /// is empty: it is copied there when more is read, and not before it is known how much.
    rest: Bytes,
    buf: Vec<u8>,
    start: usize,
    /// How many bytes the unit has in all that the input begins with; 0 if that is not known.
    expected: usize,
}

impl Input {
    /// Chunks below this many bytes are copied out, so that a quiet publisher's message does not
    /// pin a whole read buffer; above it the buffer itself becomes the chunk. Copying 8 KiB takes
    /// a fraction of the read that brought them.
    const COPY_MAX_BYTES: usize = 8 * 1024;

    /// Units from this many bytes on are read one at a time.
    const ALONE_MIN_BYTES: usize = 16 * 1024;

    /// What is read beyond such a unit: enough to tell how long the next one is.
    const AHEAD_BYTES: usize = 512;

    /// An empty input. It allocates nothing until it is filled.
    pub fn new() -> Input {
        Input::default()
    }

    /// The bytes not taken yet.
    pub fn bytes(&self) -> &[u8] {
        if self.rest.is_empty() { &self.buf[self.start..] } else { &self.rest }
    }

    /// How many bytes are not taken yet.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether every byte has been taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `bytes`; for tests, and for what was read elsewhere.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.gather(bytes.len());
        self.buf.extend_from_slice(bytes);
    }

    /// Says that the input begins with a unit of `len` bytes in all, some of which are still to
    /// come. A large one is then read up to its end and not much further: what is read of the next
    /// one would have to be copied to be behind each other, when its end comes.
    pub fn expect(&mut self, len: usize) {
        self.expected = len;
    }

    /// The buffer with room for up to `room` bytes behind what it holds, to read into.
    ///
    /// The reader appends to the vector and must not change what is in it.
    pub fn buffer(&mut self, room: usize) -> &mut Vec<u8> {
        let missing = self.expected.saturating_sub(self.len());
        let room = if self.expected >= Self::ALONE_MIN_BYTES && missing > 0 {
            room.min(missing + Self::AHEAD_BYTES)
        } else {
            room
        };
        self.gather(room);
        &mut self.buf
    }

    /// Has all bytes in `buf`, with room for `room` more.
    fn gather(&mut self, room: usize) {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            self.buf = Vec::with_capacity(rest.len() + room);
            self.buf.extend_from_slice(&rest);
            self.start = 0;
        } else if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        } else if self.start > 0 && self.buf.capacity() - self.buf.len() < room {
            self.buf.drain(..self.start);
            self.start = 0;
        }
        self.buf.reserve_exact(room);
    }

    /// Takes the first `len` bytes as a chunk of their own.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn take(&mut self, len: usize) -> Bytes {
        assert!(len <= self.len(), "took {len} bytes of {}", self.len());
        self.expected = 0;
        if len < Self::COPY_MAX_BYTES {
            let chunk = Bytes::copy_from_slice(&self.bytes()[..len]);
            self.skip(len);
            return chunk;
        }
        if !self.rest.is_empty() {
            return self.rest.split_to(len);
        }
        // Mostly unused capacity would be pinned with the chunk: copy then, too.
        if len * 2 < self.buf.capacity() {
            let chunk = Bytes::copy_from_slice(&self.buf[self.start..self.start + len]);
            self.skip(len);
            return chunk;
        }
        let start = std::mem::take(&mut self.start);
        self.rest = Bytes::from(std::mem::take(&mut self.buf));
        let chunk = self.rest.split_to(start + len).slice(start..);
        if self.rest.len() < Self::ALONE_MIN_BYTES {
            // Nobody else refers to the chunk then, and its owner may write in it.
            self.gather(0);
        }
        chunk
    }

    /// Drops the first `len` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn skip(&mut self, len: usize) {
        assert!(len <= self.len(), "skipped {len} bytes of {}", self.len());
        self.expected = 0;
        if !self.rest.is_empty() {
            self.rest = self.rest.split_off(len);
            return;
        }
        self.start += len;
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        }
    }

    /// Gives memory back that an input holds for little or nothing.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Input::default();
        } else if !self.rest.is_empty() && self.rest.len() < Self::COPY_MAX_BYTES {
            self.gather(0);
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

    #[test]
    fn a_large_unit_is_read_to_its_end_and_not_much_further() {
        let mut input = Input::new();
        input.extend(&[1; 600]);
        input.expect(70_000);
        // No more than is asked for, and no more than is missing and a little.
        assert_eq!(input.buffer(4096).capacity(), 600 + 4096);
        assert_eq!(input.buffer(1 << 20).capacity(), 70_000 + Input::AHEAD_BYTES);
        input.extend(&[2; 69_400]);
        input.extend(&[3; 100]);
        let unit = input.take(70_000);
        assert_eq!((unit.len(), unit[599], unit[600]), (70_000, 1, 2));
        assert_eq!(input.bytes(), [3; 100], "what was read ahead");
        assert!(unit.is_unique());
        input.release();
        assert_eq!((input.bytes(), input.buf.capacity()), (&[3; 100][..], 100), "and no more");
        // Nothing is known of the next one: reads are as large as asked for.
        assert_eq!(input.buffer(100_000).capacity(), 100_100);
        input.expect(200);
        assert!(input.buffer(100_000).capacity() >= 100_100, "small ones are read together");
    }

    #[test]
    fn what_is_left_of_a_buffer_is_taken_and_skipped_where_it_lies() {
        let data: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        let mut input = Input::new();
        input.extend(&data);
        assert_eq!(input.take(60_000), data[..60_000]);
        assert_eq!(input.take(10_000), data[60_000..70_000]);
        input.skip(10_000);
        assert_eq!(input.take(100), data[80_000..80_100]);
        input.extend(b"more");
        assert_eq!(input.len(), 19_904);
        assert_eq!(input.take(19_900), data[80_100..]);
        assert_eq!(input.take(4), b"more"[..]);
        input.release();
        assert_eq!(input.buf.capacity(), 0);
    }
}
