//! The segment file: a header of 4 KiB, then records.
//!
//! ```text
//! offset size
//!      0    8  magic "ISTHLOG\0"
//!      8    4  format version
//!     12    4  consensus group (0: one group)
//!     16    8  incarnation: counts up over the life of the log, never used twice by live segments
//!     24    8  salt: drawn at random for each incarnation
//!     32    8  first sequence: that of the first record to be written here
//!     40    4  checksum field of the last record before this segment
//!     48    8  previous index: last index of the log when this segment was opened
//!     56    8  previous term
//!     64   16  reserved for the cluster's id (zeros)
//!   4092    4  checksum of bytes 0..4092
//! ```
//!
//! The header has 4 KiB to itself, so no torn write of a record can touch it. It is synced before
//! the file gets its name as a live segment; a live segment with a bad header is therefore damage,
//! never a torn write. And it is written after everything before it was synced, so its existence
//! proves that its predecessor is durable, up to the sequence it names and no further.

use std::sync::Arc;

use super::record::checksum;
use crate::{
    error::{Error, Result},
    fs::File,
};

/// Size of a segment header in bytes; records begin here.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 4096;
/// The version of the format of segments.
pub(crate) const SEGMENT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"ISTHLOG\0";
const CRC_AT: usize = SEGMENT_HEADER_BYTES - 4;

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) incarnation: u64,
    pub(crate) salt: u64,
    pub(crate) first_sequence: u64,
    pub(crate) previous_crc: u32,
    pub(crate) previous_index: u64,
    pub(crate) previous_term: u64,
}

/// Why a segment header was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file ends within the header.
    #[error("the segment header is cut short")]
    Short,
    /// The file does not begin with the magic of a segment.
    #[error("this is not a log segment")]
    Magic,
    /// The header does not match its checksum.
    #[error("the segment header does not match its checksum")]
    Checksum,
    /// The format is of a version this build does not know.
    #[error("the segment has the unknown format version {0}")]
    Version(u32),
}

fn field<const N: usize>(bytes: &[u8; SEGMENT_HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; SEGMENT_HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        out[24..32].copy_from_slice(&self.salt.to_le_bytes());
        out[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        out[40..44].copy_from_slice(&self.previous_crc.to_le_bytes());
        out[48..56].copy_from_slice(&self.previous_index.to_le_bytes());
        out[56..64].copy_from_slice(&self.previous_term.to_le_bytes());
        let crc = checksum(0, &out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes: &[u8; SEGMENT_HEADER_BYTES] = bytes.first_chunk().ok_or(HeaderError::Short)?;
        if field(bytes, 0) != MAGIC {
            return Err(HeaderError::Magic);
        }
        // Every version keeps its checksum where it is, so that damage is never taken for a version.
        if checksum(0, &bytes[..CRC_AT]) != u32::from_le_bytes(field(bytes, CRC_AT)) {
            return Err(HeaderError::Checksum);
        }
        let version = u32::from_le_bytes(field(bytes, 8));
        if version != SEGMENT_VERSION {
            return Err(HeaderError::Version(version));
        }
        Ok(Self {
            incarnation: u64::from_le_bytes(field(bytes, 16)),
            salt: u64::from_le_bytes(field(bytes, 24)),
            first_sequence: u64::from_le_bytes(field(bytes, 32)),
            previous_crc: u32::from_le_bytes(field(bytes, 40)),
            previous_index: u64::from_le_bytes(field(bytes, 48)),
            previous_term: u64::from_le_bytes(field(bytes, 56)),
        })
    }

    /// The seed of the checksums of this incarnation's records.
    pub(crate) fn seed(&self) -> u32 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[8..].copy_from_slice(&self.salt.to_le_bytes());
        checksum(0, &bytes)
    }
}

impl HeaderError {
    /// Says in which file.
    pub(crate) fn at(self, file: &str) -> Error {
        match self {
            Self::Version(found) => Error::UnknownVersion {
                file: file.to_owned(),
                found: found.to_string(),
                supported: SEGMENT_VERSION,
            },
            other => Error::corrupt(file, 0, other.to_string()),
        }
    }
}

/// A live segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: SegmentHeader,
    pub(crate) seed: u32,
}

impl Segment {
    pub(crate) fn new(name: String, file: Arc<dyn File>, header: SegmentHeader) -> Self {
        Self { name, file, header, seed: header.seed() }
    }
}

/// The name of a live segment.
pub(crate) fn segment_name(incarnation: u64) -> String {
    format!("log-{incarnation:016x}.seg")
}

/// The incarnation in the name of a live segment.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    let incarnation = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(incarnation) == name).then_some(incarnation)
}
