//! Reading entries, from any thread, while the log is written.

use std::{ops::ControlFlow, sync::Arc};

use parking_lot::RwLock;

use super::{
    EntryMeta, LogId,
    index::{Index, Run},
    record::{HEADER_BYTES, RecordHeader, RecordKind, checksum, record_bytes},
};
use crate::{
    error::{Error, Result},
    fs,
};

/// Read ahead in one piece, in bytes.
const CHUNK_BYTES: usize = 128 << 10;

/// An entry read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was said about it when it was appended.
    pub meta: EntryMeta,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Reads entries of a log that is being written, also those that are written but not yet durable.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(super) index: Arc<RwLock<Index>>,
}

impl LogReader {
    /// The last entry, durable or not; the last purged one if the log is empty.
    #[must_use]
    pub fn last_log_id(&self) -> LogId {
        self.index.read().last
    }

    /// The last entry that was purged, [`LogId::ZERO`] if none was.
    #[must_use]
    pub fn last_purged(&self) -> LogId {
        self.index.read().purged
    }

    /// The term of an entry that is in the log or is the last purged one.
    #[must_use]
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.index.read().term_of(index)
    }

    /// Reads the entries `from..to` in order, as many as there are, and stops once the payloads
    /// read reach `bytes_max`; at least one entry is read if there is one.
    ///
    /// # Errors
    /// [`Error::Purged`] if `from` was purged, [`Error::Corrupt`] if an entry is damaged.
    pub fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        self.visit(from, to, |meta, payload| {
            entries.push(Entry { meta, payload: payload.to_vec() });
            bytes += payload.len();
            if bytes >= bytes_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(entries)
    }

    /// Shows the entries `from..to` in order to `visitor`, as many as there are, until it breaks.
    ///
    /// # Errors
    /// [`Error::Purged`] if `from` was purged, [`Error::Corrupt`] if an entry is damaged.
    pub fn visit(
        &self,
        from: u64,
        to: u64,
        mut visitor: impl FnMut(EntryMeta, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut next = from;
        let mut buffer = Buffer::default();
        while next < to {
            let run = {
                let index = self.index.read();
                if next <= index.purged.index {
                    // Purged before it was asked for, or since the last run was read.
                    return Err(Error::Purged { asked: next, purged: index.purged.index });
                }
                index.run_of(next).cloned()
            };
            // The clone holds the segment, so the file is not recycled while it is read.
            let Some(run) = run else { return Ok(()) };
            let last = run.last.min(to - 1);
            if visit_run(&run, next, last, &mut buffer, &mut visitor)?.is_break() {
                return Ok(());
            }
            next = last + 1;
        }
        Ok(())
    }
}

/// Shows the entries `from..=last` of a run.
fn visit_run(
    run: &Run,
    from: u64,
    last: u64,
    buffer: &mut Buffer,
    visitor: &mut impl FnMut(EntryMeta, &[u8]) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let segment = &*run.segment;
    let mut at = run.offset_before(from);
    buffer.clear();
    loop {
        let damaged = |reason: &str| Error::corrupt(&segment.name, at, reason);
        let bytes = buffer.fill(&*segment.file, &segment.name, at, HEADER_BYTES)?;
        let Some((header, _)) = RecordHeader::decode_at(segment.seed, bytes, 0) else {
            return Err(damaged("a record header does not match its checksum"));
        };
        let len = header.payload_len as usize;
        if header.record == RecordKind::Entry && header.index >= from {
            let bytes = buffer.fill(&*segment.file, &segment.name, at, HEADER_BYTES + len)?;
            let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + len);
            let Some(payload) = payload.filter(|p| checksum(segment.seed, p) == header.payload_crc)
            else {
                return Err(damaged("an entry's payload does not match its checksum"));
            };
            let meta = EntryMeta {
                group: header.group,
                term: header.term,
                index: header.index,
                kind: header.kind,
            };
            if visitor(meta, payload).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if header.index >= last {
                return Ok(ControlFlow::Continue(()));
            }
        }
        at += record_bytes(len) as u64;
    }
}

/// A piece of a segment in memory.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    offset: u64,
}

impl Buffer {
    fn clear(&mut self) {
        self.bytes.clear();
    }

    /// What is at `at`: `need` bytes or more, fewer at the end of the file.
    fn fill(&mut self, file: &dyn fs::File, name: &str, at: u64, need: usize) -> Result<&[u8]> {
        let have = at
            .checked_sub(self.offset)
            .and_then(|skip| usize::try_from(skip).ok())
            .filter(|skip| skip + need <= self.bytes.len());
        let skip = match have {
            Some(skip) => skip,
            None => {
                self.bytes.resize(need.max(CHUNK_BYTES), 0);
                let read = fs::read_full_at(file, name, &mut self.bytes, at)?;
                self.bytes.truncate(read);
                self.offset = at;
                0
            }
        };
        Ok(&self.bytes[skip..])
    }
}
