//! Reads a segment from bytes alone, for fuzzing and for tools that look into a data directory.

use std::convert::Infallible;

pub use crate::log::HeaderError;
use crate::log::{RecordKind, scan_segment};

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// The incarnation of the segment.
    pub incarnation: u64,
    /// Entries, including those that were truncated later.
    pub entries: u64,
    /// Payload of the entries in bytes.
    pub payload_bytes: u64,
    /// Truncations.
    pub truncations: u64,
    /// Seals, idle or clean.
    pub seals: u64,
    /// Offset in bytes behind the last whole record.
    pub end_offset: u64,
    /// The sequence of the last whole record.
    pub last_sequence: u64,
    /// The highest sequence stated to be durable anywhere in the segment.
    pub durable_sequence: u64,
    /// Whole record headers behind the end, which were not in the chain.
    pub beyond: u64,
}

impl Summary {
    /// Whether something that was known to be durable is missing.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.last_sequence < self.durable_sequence
    }
}

/// Reads a whole segment. Any bytes are allowed; memory used does not depend on them.
///
/// # Errors
/// If the segment's header is not valid.
pub fn scan(bytes: &[u8]) -> Result<Summary, HeaderError> {
    let mut summary = Summary::default();
    let scanned = scan_segment(bytes, None, |whole| -> Result<(), Infallible> {
        match whole.header.record {
            RecordKind::Entry => {
                summary.entries += 1;
                summary.payload_bytes += whole.payload.len() as u64;
            }
            RecordKind::Truncate => summary.truncations += 1,
            RecordKind::IdleSeal | RecordKind::CleanSeal => summary.seals += 1,
        }
        Ok(())
    })?;
    let Ok((header, end)) = scanned;
    let records = summary.entries + summary.truncations + summary.seals;
    assert_eq!(
        end.last_sequence,
        header.first_sequence.saturating_sub(1) + records,
        "the chain of records has a gap"
    );
    summary.incarnation = header.incarnation;
    summary.end_offset = end.offset;
    summary.last_sequence = end.last_sequence;
    summary.durable_sequence = end.durable;
    summary.beyond = end.beyond;
    Ok(summary)
}
