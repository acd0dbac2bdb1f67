//! The record: a header of 64 bytes, the payload, zeros up to a multiple of eight bytes.
//!
//! ```text
//! offset size
//!      0    4  checksum of bytes 4..64
//!      4    2  magic
//!      6    1  kind of record: 1 entry, 2 truncation, 3 idle seal, 4 clean seal
//!      7    1  kind of entry, the caller's business
//!      8    4  length of the payload in bytes
//!     12    4  checksum of the payload
//!     16    4  checksum field of the previous record (of the segment header for the first)
//!     20    4  consensus group
//!     24    8  sequence: one more than that of the previous record, over all segments
//!     32    8  durable: last sequence known to be on stable storage when this was written
//!     40    8  index
//!     48    8  term
//!     56    8  committed: last index known to be committed when this was written
//! ```
//!
//! All numbers are little-endian. Both checksums are CRC32C, seeded with the segment's seed, which
//! is drawn anew for each incarnation of a segment: a record that an earlier life of the file left
//! behind does not pass. The header has its own checksum so that a header whose payload is damaged
//! can still testify what was durable, and so that no length is believed before it is checked.

/// Size of a record header in bytes.
pub(crate) const HEADER_BYTES: usize = 64;
/// Records begin at multiples of this, in bytes.
pub(crate) const ALIGN_BYTES: usize = 8;

const MAGIC: u16 = 0x5249;

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// A log entry with its payload.
    Entry,
    /// Entries from `index` on are void.
    Truncate,
    /// Everything before is durable; written when the log falls idle.
    IdleSeal,
    /// Everything before is durable; written by a clean shutdown.
    CleanSeal,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Entry),
            2 => Some(Self::Truncate),
            3 => Some(Self::IdleSeal),
            4 => Some(Self::CleanSeal),
            _ => None,
        }
    }

    fn to_byte(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Truncate => 2,
            Self::IdleSeal => 3,
            Self::CleanSeal => 4,
        }
    }
}

/// A decoded record header, without its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) record: RecordKind,
    pub(crate) kind: u8,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
    pub(crate) previous_crc: u32,
    pub(crate) group: u32,
    pub(crate) sequence: u64,
    pub(crate) durable: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) committed: u64,
}

/// A header as a fixed array.
pub(crate) type HeaderBytes = [u8; HEADER_BYTES];

/// CRC32C of `bytes` under the segment's `seed`.
pub(crate) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(seed, bytes)
}

/// The space a record with this payload takes, in bytes.
pub(crate) fn record_bytes(payload_len: usize) -> usize {
    (HEADER_BYTES + payload_len).next_multiple_of(ALIGN_BYTES)
}

/// Reads `N` bytes at `at`; callers pass constants within the fixed array.
fn field<const N: usize>(bytes: &HeaderBytes, at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl RecordHeader {
    /// Encodes the header; returns its checksum, which the next record repeats.
    pub(crate) fn encode(&self, seed: u32, out: &mut HeaderBytes) -> u32 {
        out[4..6].copy_from_slice(&MAGIC.to_le_bytes());
        out[6] = self.record.to_byte();
        out[7] = self.kind;
        out[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[16..20].copy_from_slice(&self.previous_crc.to_le_bytes());
        out[20..24].copy_from_slice(&self.group.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out[32..40].copy_from_slice(&self.durable.to_le_bytes());
        out[40..48].copy_from_slice(&self.index.to_le_bytes());
        out[48..56].copy_from_slice(&self.term.to_le_bytes());
        out[56..64].copy_from_slice(&self.committed.to_le_bytes());
        let crc = checksum(seed, &out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Decodes a header if it is one of the incarnation with this seed; returns its checksum too.
    pub(crate) fn decode(seed: u32, bytes: &HeaderBytes) -> Option<(Self, u32)> {
        // The magic first: it is cheap, and a search for headers looks at every eighth byte.
        if field(bytes, 4) != MAGIC.to_le_bytes() {
            return None;
        }
        let crc = u32::from_le_bytes(field(bytes, 0));
        if checksum(seed, &bytes[4..]) != crc {
            return None;
        }
        let header = Self {
            record: RecordKind::from_byte(bytes[6])?,
            kind: bytes[7],
            payload_len: u32::from_le_bytes(field(bytes, 8)),
            payload_crc: u32::from_le_bytes(field(bytes, 12)),
            previous_crc: u32::from_le_bytes(field(bytes, 16)),
            group: u32::from_le_bytes(field(bytes, 20)),
            sequence: u64::from_le_bytes(field(bytes, 24)),
            durable: u64::from_le_bytes(field(bytes, 32)),
            index: u64::from_le_bytes(field(bytes, 40)),
            term: u64::from_le_bytes(field(bytes, 48)),
            committed: u64::from_le_bytes(field(bytes, 56)),
        };
        Some((header, crc))
    }

    /// Decodes the header at `at` of `bytes`, if a whole one is there.
    pub(crate) fn decode_at(seed: u32, bytes: &[u8], at: usize) -> Option<(Self, u32)> {
        let header: &HeaderBytes = bytes.get(at..)?.first_chunk()?;
        Self::decode(seed, header)
    }
}
