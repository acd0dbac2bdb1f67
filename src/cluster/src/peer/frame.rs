//! Frames: what a connection carries once the handshake is done.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::wire::Malformed;

/// Bytes of a frame before its body: length, kind, request id.
pub(super) const HEADER: usize = 4 + 1 + 8;
/// The largest body of an append: a message's payload is 1 MiB and at most one entry, whose limit in
/// the log is 64 MiB, beyond that.
pub(super) const APPEND_MAX: usize = 72 << 20;
/// The largest piece of a snapshot in one frame.
pub(super) const DATA_MAX: usize = 1 << 20;
/// The largest request or answer of [`Purpose::Control`](super::Purpose::Control).
pub(super) const CONTROL_MAX: usize = 1 << 20;
/// The largest reason in words.
pub(super) const REASON_MAX: usize = 4 << 10;
/// The largest header of a client's connection.
pub(super) const CLIENT_HEADER_MAX: usize = 64 << 10;
/// Payloads from this size on are written from where they are; smaller ones are gathered.
const SHARED_MIN: usize = 2 << 10;
/// How much is read at once.
const READ: usize = 64 << 10;

macro_rules! kinds {
    ($($name:ident = $number:literal, $limit:expr;)*) => {
        /// What a frame is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Kind { $($name = $number),* }

        impl Kind {
            pub(super) fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($number => Some(Self::$name),)* _ => None }
            }

            /// The largest body, in bytes.
            pub(super) fn limit(self) -> usize {
                match self { $(Self::$name => $limit),* }
            }
        }
    };
}

kinds! {
    Append = 1, APPEND_MAX;
    Appended = 2, 256;
    Vote = 3, 256;
    Voted = 4, 256;
    PreVote = 5, 256;
    PreVoted = 6, 256;
    Transfer = 7, 256;
    Transferred = 8, 256;
    SnapshotBegin = 9, 1 << 20;
    SnapshotData = 10, DATA_MAX;
    SnapshotEnd = 11, 0;
    SnapshotAbort = 12, REASON_MAX;
    SnapshotInstalled = 13, 256;
    AtWork = 14, 0;
    ControlRequest = 15, CONTROL_MAX;
    ControlAnswer = 16, CONTROL_MAX;
    ClientHeader = 17, CLIENT_HEADER_MAX;
    ClientAccepted = 18, 0;
    Failed = 19, REASON_MAX;
}

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) request: u64,
    pub(super) body: Bytes,
}

/// Bytes that were received and are no whole frame yet.
#[derive(Debug, Default)]
pub(super) struct Inbox(BytesMut);

impl Inbox {
    /// Takes the next frame; `None` if it is not there as a whole. After an error nothing behind it
    /// means anything.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(head) = self.0.first_chunk::<HEADER>() else { return Ok(None) };
        let [l0, l1, l2, l3, byte, request @ ..] = *head;
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let kind = Kind::from_byte(byte)
            .ok_or(Malformed::Unknown { what: "the kind of a frame", value: byte })?;
        let len = len.checked_sub(HEADER - 4).ok_or(Malformed::Short)?;
        if len > kind.limit() {
            return Err(Malformed::TooLong { kind: byte, len, max: kind.limit() });
        }
        if self.0.len() < HEADER + len {
            return Ok(None);
        }
        self.0.advance(HEADER);
        let body = self.0.split_to(len).freeze();
        Ok(Some(Frame { kind, request: u64::from_le_bytes(request), body }))
    }

    /// Where to read into. Grows with what was received, never with what was announced.
    pub(super) fn space(&mut self) -> &mut BytesMut {
        if self.0.capacity() - self.0.len() < READ / 4 {
            self.0.reserve(READ.max(self.0.len()));
        }
        &mut self.0
    }

    /// What was received and not taken.
    pub(super) fn into_rest(self) -> Bytes {
        self.0.freeze()
    }
}

/// Bytes that are to be sent. Large payloads are not copied.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Outbox {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds the header of a frame, whose body of `len` bytes follows by [`Outbox::put`].
    ///
    /// # Panics
    /// If `len` is beyond the limit of `kind`: the caller has checked what may be.
    pub(super) fn header(&mut self, kind: Kind, request: u64, len: usize) {
        assert!(len <= kind.limit(), "a frame {kind:?} of {len} bytes");
        self.tail.put_u32_le((HEADER - 4 + len) as u32);
        self.tail.put_u8(kind as u8);
        self.tail.put_u64_le(request);
        self.len += HEADER;
    }

    /// Adds a part of a body.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.tail.put_slice(bytes);
        self.len += bytes.len();
    }

    /// Adds a part of a body that is shared if it is large.
    pub(super) fn share(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED_MIN {
            return self.put(&bytes);
        }
        self.seal();
        self.len += bytes.len();
        self.pieces.push_back(bytes);
    }

    /// Adds a frame whose body is one piece.
    pub(super) fn frame(&mut self, kind: Kind, request: u64, body: Bytes) {
        self.header(kind, request, body.len());
        self.share(body);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// Fills `slices` with what comes next and returns how many it filled.
    pub(super) fn slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.seal();
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// `sent` bytes were written.
    pub(super) fn advance(&mut self, mut sent: usize) {
        self.len -= sent;
        while let Some(piece) = self.pieces.front_mut() {
            if sent < piece.len() {
                piece.advance(sent);
                return;
            }
            sent -= piece.len();
            self.pieces.pop_front();
        }
        assert_eq!(sent, 0, "more was written than there was");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(outbox: &mut Outbox) -> Vec<u8> {
        let mut all = Vec::new();
        while outbox.len() > 0 {
            let mut slices = [IoSlice::new(&[]); 2];
            let filled = outbox.slices(&mut slices);
            // Half of it at a time, as a socket may do.
            let first = slices[..filled].iter().flat_map(|s| s.to_vec()).collect::<Vec<_>>();
            let half = first.len().div_ceil(2);
            all.extend_from_slice(&first[..half]);
            outbox.advance(half);
        }
        all
    }

    #[test]
    fn frames_pass_at_every_split() {
        let mut outbox = Outbox::default();
        let bodies: Vec<Bytes> = [0, 1, SHARED_MIN, 3 * SHARED_MIN + 1, 7]
            .iter()
            .map(|&len| vec![len as u8; len].into())
            .collect();
        for (id, body) in bodies.iter().enumerate() {
            outbox.frame(Kind::ControlRequest, id as u64, body.clone());
        }
        let bytes = sent(&mut outbox);
        for piece in [1, 2, 12, 13, 14, 4096, bytes.len()] {
            let (mut inbox, mut frames) = (Inbox::default(), Vec::new());
            for part in bytes.chunks(piece) {
                inbox.space().extend_from_slice(part);
                while let Some(frame) = inbox.next().expect("valid") {
                    assert_eq!(frame.request, frames.len() as u64);
                    frames.push(frame.body);
                }
            }
            assert_eq!(frames, bodies, "in pieces of {piece}");
            assert!(inbox.into_rest().is_empty());
        }
    }

    #[test]
    fn a_declared_length_is_not_believed() {
        let head = |len: u32, kind: u8| {
            let mut inbox = Inbox::default();
            inbox.space().put_u32_le(len);
            inbox.space().put_u8(kind);
            inbox.space().put_u64_le(1);
            let capacity = inbox.space().capacity();
            let next = inbox.next();
            assert_eq!(inbox.space().capacity(), capacity);
            next
        };
        assert_eq!(head(9 + 256, 2), Ok(None));
        assert_eq!(head(9 + 257, 2), Err(Malformed::TooLong { kind: 2, len: 257, max: 256 }));
        assert_eq!(head(8, 2), Err(Malformed::Short));
        assert!(matches!(head(9, 0), Err(Malformed::Unknown { value: 0, .. })));
        assert!(matches!(head(u32::MAX, 1), Err(Malformed::TooLong { .. })));
        assert_eq!(head(9 + APPEND_MAX as u32, 1), Ok(None));
    }
}
