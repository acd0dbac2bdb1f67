//! Numbers, texts and positions on the wire.

use std::io;

use bytes::{Buf, BufMut, Bytes};
use isthmus_storage::LogId;

use crate::raft::{
    RaftLogId, Vote,
    convert::{id_from_log, id_to_log},
};

/// Why bytes from a peer are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Malformed {
    #[error("it ends too early")]
    Short,
    #[error("{0} bytes follow behind its end")]
    Long(usize),
    #[error("{what} is {value}, which this version does not know")]
    Unknown { what: &'static str, value: u8 },
    #[error("a text is not UTF-8")]
    Text,
    #[error("a frame of kind {kind} with {len} bytes is longer than the {max} that are allowed")]
    TooLong { kind: u8, len: usize, max: usize },
    #[error("{0}")]
    Content(String),
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, format!("what the peer sent: {malformed}"))
    }
}

/// Reads a body from its beginning to its end; what it returns shares the body's memory.
pub(super) struct Reader(Bytes);

impl Reader {
    pub(super) fn new(body: Bytes) -> Self {
        Self(body)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<Bytes, Malformed> {
        if len > self.0.len() {
            return Err(Malformed::Short);
        }
        Ok(self.0.split_to(len))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let head = *self.0.first_chunk().ok_or(Malformed::Short)?;
        self.0.advance(N);
        Ok(head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bool(&mut self, what: &'static str) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Malformed::Unknown { what, value }),
        }
    }

    /// A length of 32 bits and that many bytes.
    pub(super) fn long(&mut self) -> Result<Bytes, Malformed> {
        let len = usize::try_from(self.u32()?).map_err(|_| Malformed::Short)?;
        self.bytes(len)
    }

    /// A length of 16 bits and that many bytes of UTF-8.
    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        let len = self.u16()?.into();
        text(&self.bytes(len)?)
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn end(self) -> Result<(), Malformed> {
        match self.0.len() {
            0 => Ok(()),
            rest => Err(Malformed::Long(rest)),
        }
    }

    pub(super) fn vote(&mut self) -> Result<Vote, Malformed> {
        let (term, member) = (self.u64()?, self.u64()?);
        let committed = self.bool("whether a quorum granted the vote")?;
        Ok(if committed { Vote::new_committed(term, member) } else { Vote::new(term, member) })
    }

    pub(super) fn position(&mut self) -> Result<Option<RaftLogId>, Malformed> {
        let (term, index) = (self.u64()?, self.u64()?);
        if index == 0 && term != 0 {
            return Err(Malformed::Content(format!("position 0 is in term {term}")));
        }
        Ok(id_from_log(LogId { term, index }))
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed::Text)
}

/// `text` up to `len_max` bytes, cut between characters.
pub(super) fn cut(text: &str, len_max: usize) -> &str {
    &text[..text.floor_char_boundary(len_max)]
}

/// Writes what [`Reader`] reads.
pub(super) trait Writer: BufMut {
    /// At most 65,535 bytes of `text`.
    fn put_text(&mut self, text: &str) {
        let text = cut(text, usize::from(u16::MAX));
        self.put_u16_le(text.len() as u16);
        self.put_slice(text.as_bytes());
    }

    fn put_vote(&mut self, vote: &Vote) {
        self.put_u64_le(vote.leader_id.term);
        self.put_u64_le(vote.leader_id.voted_for);
        self.put_u8(vote.committed.into());
    }

    fn put_position(&mut self, position: Option<&RaftLogId>) {
        let LogId { term, index } = position.map_or(LogId::ZERO, id_to_log);
        self.put_u64_le(term);
        self.put_u64_le(index);
    }
}

impl<B: BufMut> Writer for B {}
