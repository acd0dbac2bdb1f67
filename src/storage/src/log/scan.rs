//! Reading a segment from its bytes: the chain of whole records, and what lies behind its end.

use super::{
    record::{ALIGN_BYTES, HEADER_BYTES, RecordHeader, checksum, record_bytes},
    segment::{HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader},
};

/// Where the chain of whole records ends, and what testifies about durability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScanEnd {
    /// Offset behind the last whole record.
    pub(crate) offset: u64,
    /// Sequence of the last whole record (or of the last before the segment).
    pub(crate) last_sequence: u64,
    /// Its checksum.
    pub(crate) last_crc: u32,
    /// Whether the record at `offset` has a whole header, so that its payload is what is damaged.
    pub(crate) payload_damaged: bool,
    /// The highest sequence that any whole header in the segment states to be durable.
    pub(crate) durable: u64,
    /// Whole headers of this incarnation behind the end.
    pub(crate) beyond: u64,
}

/// A whole record: its header and checksum, its offset in the segment and its payload.
pub(crate) struct Whole<'a> {
    pub(crate) header: RecordHeader,
    pub(crate) offset: u64,
    pub(crate) payload: &'a [u8],
}

/// What is at an offset.
enum Found {
    Whole { header: RecordHeader, crc: u32, next: usize },
    BadPayload,
    Nothing,
}

fn look(seed: u32, bytes: &[u8], at: usize) -> Found {
    let Some((header, crc)) = RecordHeader::decode_at(seed, bytes, at) else {
        return Found::Nothing;
    };
    let body = at + HEADER_BYTES;
    // Checked against the bytes that are there before anything is done with the length.
    let payload = bytes.get(body..).and_then(|rest| rest.get(..header.payload_len as usize));
    match payload {
        Some(payload) if checksum(seed, payload) == header.payload_crc => {
            Found::Whole { header, crc, next: at + record_bytes(payload.len()) }
        }
        _ => Found::BadPayload,
    }
}

/// Walks the chain of records of a segment. Stops behind the record with sequence `until` if there
/// is one: what follows there was given up by a recovery and means nothing.
pub(crate) fn scan_segment<E>(
    bytes: &[u8],
    until: Option<u64>,
    visit: impl FnMut(Whole<'_>) -> Result<(), E>,
) -> Result<Result<(SegmentHeader, ScanEnd), E>, HeaderError> {
    let header = SegmentHeader::decode(bytes)?;
    let seed = header.seed();
    let begin = ScanEnd::beginning(&header);
    Ok(scan_chain(seed, bytes, begin, until, visit).map(|mut end| {
        if until != Some(end.last_sequence) {
            search_beyond(seed, bytes, &mut end);
        }
        (header, end)
    }))
}

impl ScanEnd {
    /// What is damaged at the end.
    pub(crate) fn what(&self) -> &'static str {
        if self.payload_damaged { "the payload of a record" } else { "a record" }
    }

    /// Before the first record of a segment.
    fn beginning(header: &SegmentHeader) -> Self {
        Self {
            offset: SEGMENT_HEADER_BYTES as u64,
            last_sequence: header.first_sequence.saturating_sub(1),
            last_crc: header.previous_crc,
            payload_damaged: false,
            // The header was written when everything before it was durable.
            durable: header.first_sequence.saturating_sub(1),
            beyond: 0,
        }
    }
}

/// Walks the chain on from `end`.
fn scan_chain<E>(
    seed: u32,
    bytes: &[u8],
    mut end: ScanEnd,
    until: Option<u64>,
    mut visit: impl FnMut(Whole<'_>) -> Result<(), E>,
) -> Result<ScanEnd, E> {
    let mut at = usize::try_from(end.offset).unwrap_or(usize::MAX);
    end.payload_damaged = false;
    while until != Some(end.last_sequence) {
        match look(seed, bytes, at) {
            Found::Whole { header, crc, next }
                if header.previous_crc == end.last_crc
                    && end.last_sequence.checked_add(1) == Some(header.sequence) =>
            {
                let body = at + HEADER_BYTES;
                let payload = &bytes[body..body + header.payload_len as usize];
                visit(Whole { header, offset: at as u64, payload })?;
                end.last_sequence = header.sequence;
                end.last_crc = crc;
                end.durable = end.durable.max(header.durable);
                // The padding of a last record may be missing in a file cut short.
                at = next;
                end.offset = at as u64;
            }
            found => {
                end.payload_damaged = matches!(found, Found::BadPayload);
                break;
            }
        }
    }
    Ok(end)
}

/// Goes on behind the place where the chain ended, at the next record whose header is whole: what
/// is read from there cannot be relied on, but shows what else is damaged. `None` if there is no
/// such record.
pub(crate) fn scan_on(
    seed: u32,
    bytes: &[u8],
    mut end: ScanEnd,
    until: Option<u64>,
    mut visit: impl FnMut(Whole<'_>),
) -> Option<ScanEnd> {
    let mut at = usize::try_from(end.offset).ok()?;
    if end.payload_damaged {
        let (header, _) = RecordHeader::decode_at(seed, bytes, at)?;
        at = at.checked_add(record_bytes(header.payload_len as usize))?;
    }
    let header = loop {
        // The end of the file, or too little before it.
        bytes.get(at..)?.get(..HEADER_BYTES)?;
        match RecordHeader::decode_at(seed, bytes, at) {
            Some((header, _)) if header.sequence > end.last_sequence => break header,
            _ => at += ALIGN_BYTES,
        }
    };
    if until.is_some_and(|until| header.sequence > until) {
        return None;
    }
    end.offset = at as u64;
    end.last_sequence = header.sequence - 1;
    end.last_crc = header.previous_crc;
    let Ok(end) = scan_chain(seed, bytes, end, until, |whole| {
        visit(whole);
        Ok::<_, std::convert::Infallible>(())
    });
    Some(end)
}

/// Looks at every place behind the end where a header may be. Only headers are checked, so this is
/// linear in the size of the segment whatever lengths the bytes claim.
fn search_beyond(seed: u32, bytes: &[u8], end: &mut ScanEnd) {
    let mut at = usize::try_from(end.offset).unwrap_or(usize::MAX);
    while at.saturating_add(HEADER_BYTES) <= bytes.len() {
        if let Some((header, _)) = RecordHeader::decode_at(seed, bytes, at) {
            end.beyond += 1;
            end.durable = end.durable.max(header.durable);
        }
        at += ALIGN_BYTES;
    }
}
