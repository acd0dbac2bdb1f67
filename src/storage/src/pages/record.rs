//! The bytes of a page file besides the content of its pages.

use std::ops::ControlFlow;

use crate::error::Error;

/// Size of the header of a page file in bytes.
pub(super) const FILE_HEADER_BYTES: usize = 32;
/// Size of the header of a page in bytes; the end record is one without content.
pub(super) const RECORD_BYTES: usize = 40;

const MAGIC: [u8; 8] = *b"ISTHPAG\0";
const VERSION: u32 = 1;
const PAGE: [u8; 4] = *b"PAGE";
const END: [u8; 4] = *b"PEND";

/// What a page file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) number: u64,
    pub(super) salt: u64,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut out = [0; FILE_HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.salt.to_le_bytes());
        let crc = header_crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes the header of the file with this name and number.
    pub(super) fn decode(
        bytes: &[u8; FILE_HEADER_BYTES],
        name: &str,
        number: u64,
    ) -> Result<Self, Error> {
        if field(bytes, 0) != MAGIC {
            return Err(Error::corrupt(name, 0, "this is not a page file"));
        }
        if field(bytes, 12) != header_crc(bytes).to_le_bytes() {
            return Err(Error::corrupt(name, 0, "the header does not match its checksum"));
        }
        let version = u32::from_le_bytes(field(bytes, 8));
        if version != VERSION {
            let found = version.to_string();
            return Err(Error::UnknownVersion { file: name.to_owned(), found, supported: VERSION });
        }
        let header = Self {
            number: u64::from_le_bytes(field(bytes, 16)),
            salt: u64::from_le_bytes(field(bytes, 24)),
        };
        if header.number != number {
            return Err(Error::corrupt(name, 16, "the number is not the one in the file's name"));
        }
        Ok(header)
    }

    /// The seed of the checksums of what lies at `offset`.
    pub(super) fn seed(&self, offset: u64) -> u32 {
        let place = [self.number, self.salt, offset].map(u64::to_le_bytes);
        crc32c::crc32c(place.as_flattened())
    }
}

fn header_crc(header: &[u8; FILE_HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    Page,
    End,
}

/// The header of a page, or the end record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: RecordKind,
    /// Length of the content in bytes.
    pub(super) len: u32,
    pub(super) content_crc: u32,
    /// Pages in the file before this.
    pub(super) pages: u64,
}

impl Record {
    pub(super) fn encode(&self, header: &FileHeader, offset: u64) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[4..8].copy_from_slice(match self.kind {
            RecordKind::Page => &PAGE,
            RecordKind::End => &END,
        });
        out[8..12].copy_from_slice(&self.len.to_le_bytes());
        out[12..16].copy_from_slice(&self.content_crc.to_le_bytes());
        out[16..24].copy_from_slice(&offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.pages.to_le_bytes());
        out[32..40].copy_from_slice(&header.salt.to_le_bytes());
        let crc = crc32c::crc32c_append(header.seed(offset), &out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes what lies at `offset`, if it is a record of this file at this place.
    pub(super) fn decode(
        bytes: &[u8; RECORD_BYTES],
        header: &FileHeader,
        offset: u64,
    ) -> Option<Self> {
        // The cheap comparisons first: a search for records asks at every byte.
        let kind = match field(bytes, 4) {
            PAGE => RecordKind::Page,
            END => RecordKind::End,
            _ => return None,
        };
        let in_place = field(bytes, 16) == offset.to_le_bytes()
            && field(bytes, 32) == header.salt.to_le_bytes();
        let crc = u32::from_le_bytes(field(bytes, 0));
        if !in_place || crc32c::crc32c_append(header.seed(offset), &bytes[4..]) != crc {
            return None;
        }
        Some(Self {
            kind,
            len: u32::from_le_bytes(field(bytes, 8)),
            content_crc: u32::from_le_bytes(field(bytes, 12)),
            pages: u64::from_le_bytes(field(bytes, 24)),
        })
    }

    /// The first page's header in `bytes`, which lie at `offset`: where it is in them.
    pub(super) fn search(bytes: &[u8], header: &FileHeader, offset: u64) -> Option<usize> {
        let found = bytes.windows(RECORD_BYTES).enumerate().try_for_each(|(at, window)| {
            let record = window
                .first_chunk()
                .and_then(|window| Self::decode(window, header, offset + at as u64));
            match record {
                Some(record) if record.kind == RecordKind::Page => ControlFlow::Break(at),
                _ => ControlFlow::Continue(()),
            }
        });
        found.break_value()
    }
}
