//! The log: checksummed entries in recycled segments, and what a damaged end means.
//!
//! Every record (an entry, a truncation, a seal) has a *sequence*: it counts up over all segments
//! and is never reused within what is live, whereas an entry's *index* is consensus' number and
//! comes back after a truncation. Durability is therefore told in sequences.
//!
//! # Torn tail or damage
//!
//! A power cut leaves an arbitrary part of what was written since the last sync: also a whole
//! record behind a torn one. Damage by the medium looks the same. What tells them apart is how far
//! the log is *known to have been durable*, the highest sequence D that anything testifies:
//!
//! 1. every whole record header of the last segment, in the chain or behind its end, states the
//!    last sequence that was durable when it was written;
//! 2. a seal, written when the log falls idle and at a clean shutdown, states the same about
//!    everything before it;
//! 3. a segment is opened only after everything before it was synced, so its header states that
//!    all earlier sequences are durable, and with which checksum they end;
//! 4. the state file repeats D, the committed index and the purged index, whenever it is saved.
//!
//! Headers behind the end are believed although the chain to them is broken: each has a checksum
//! of its own, seeded with a salt that this incarnation of the file alone has, so neither an
//! earlier life of the file nor a payload that imitates a record passes.
//!
//! If the chain of whole records ends at or beyond D, what follows was never reported durable: it
//! is cut off, *also if it holds whole records*. They were written, some of them reached the disk,
//! and the sync that covers them is not known to have returned. They could not be used anyway, for
//! the record between is gone. If the chain ends before D, something durable is missing: the log
//! does not open, names file and offset, and changes nothing. In a segment that has a successor
//! every record up to that successor's first sequence is below D.
//!
//! What remains: damage to the last sync's records, before anything else was written, looks like a
//! torn tail. The window closes with the next batch or, on an idle log, with the seal; a peer that
//! has the entries sends them again.
//!
//! # What recovery does
//!
//! It never appends behind a cut: it opens a new segment whose header names the sequence and the
//! checksum where the cut one ends, and what lies behind that means nothing from then on. Only
//! behind a clean seal with nothing after it does the log go on in the same segment.
//!
//! What it read may be in the page cache only, and marked clean there although a failed sync lost
//! it. So before it is believed, everything above D is written again, in place and unchanged, and
//! synced; the state file is saved again; and the directory is synced.
//!
//! # Truncation and purge
//!
//! Truncating appends a record that makes the entries from an index on void, so it is as safe in a
//! crash as any append. Purging first saves the purged id in the state file, then turns segments
//! that hold nothing live into spares.

mod examine;
mod index;
mod read;
mod record;
mod recovery;
mod scan;
mod segment;
mod spare;
mod state;

use std::sync::Arc;

use parking_lot::RwLock;

use self::{
    index::{Index, Placed},
    record::{HEADER_BYTES, HeaderBytes, RecordHeader, checksum, record_bytes},
    segment::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name},
    state::StateFile,
};
use crate::{
    error::{Error, Result},
    fs::{self, Lock, SharedStorage},
};

pub(crate) use self::{
    examine::examine,
    record::RecordKind,
    scan::scan_segment,
    segment::{Segment, parse_segment_name},
    spare::is_spare_name,
    state::{STATE_NAME, Saved},
};
pub use self::{
    read::{Entry, LogReader},
    recovery::{Cut, Extent, Recovered},
    segment::HeaderError,
    spare::Spares,
    state::HardState,
};

/// The buffer is written out when it reaches this, in bytes.
const WRITE_BYTES: usize = 1 << 20;
/// A buffer that grew beyond this for a large entry is given back, in bytes.
const BUFFER_KEPT_BYTES: usize = 8 << 20;

/// The position of an entry in the log of its consensus group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Its index; the first entry has 1.
    pub index: u64,
}

impl LogId {
    /// Before the first entry.
    pub const ZERO: Self = Self { term: 0, index: 0 };
}

/// What the log knows of an entry besides its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EntryMeta {
    /// The consensus group; 0 while there is one.
    pub group: u32,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// One more than that of the entry before it.
    pub index: u64,
    /// A tag for the caller's use.
    pub kind: u8,
}

/// An entry to append, with its payload in pieces.
#[derive(Debug, Clone, Copy)]
pub struct AppendEntry<'a> {
    /// What is to be known of it.
    pub meta: EntryMeta,
    /// The payload is these, one behind the other.
    pub payload: &'a [&'a [u8]],
}

/// How to lay out the log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Size of a segment in bytes; 64 MiB by default. A larger entry gets a segment of its own.
    pub segment_bytes: u64,
    /// Largest payload of an entry in bytes; 64 MiB by default.
    pub entry_bytes_max: usize,
    /// How many spare segments are made ahead; 2 by default.
    pub spares: usize,
    /// How many spare segments are kept when recycling; 8 by default.
    pub spares_max: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, entry_bytes_max: 64 << 20, spares: 2, spares_max: 8 }
    }
}

/// The log of one node, open for writing. It holds the lock of the data directory.
///
/// Entries are buffered, written, and then synced; they can be read when they are written, and are
/// durable when [`Log::sync`] has returned.
pub struct Log {
    storage: SharedStorage,
    options: LogOptions,
    index: Arc<RwLock<Index>>,
    spares: Spares,
    state: StateFile,
    current: Arc<Segment>,
    /// Where the buffer will be written in the current segment.
    written: u64,
    /// Records not yet written.
    buffer: Vec<u8>,
    /// Where the entry that is being encoded begins in the buffer.
    open_at: Option<usize>,
    /// The entries in the buffer.
    placed: Vec<Placed>,
    /// The last entry, also if it is only in the buffer.
    last: LogId,
    /// Sequence of the last record, also if it is only in the buffer.
    sequence: u64,
    /// Checksum of the last record.
    crc: u32,
    /// Last sequence known to be durable.
    durable: u64,
    /// Last index known to be durable.
    durable_index: u64,
    /// The vote as saved, with the committed index as last heard.
    hard: HardState,
    /// Whether something was written and not synced.
    dirty: bool,
    /// Whether the last record is a seal.
    sealed: bool,
    poison: Option<Error>,
    _lock: Box<dyn Lock>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("last", &self.last)
            .field("sequence", &self.sequence)
            .field("durable", &self.durable)
            .field("segment", &self.current.name)
            .field("poison", &self.poison)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log of a data directory, recovering what is there, or creates one in an empty
    /// directory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if something that was durable is missing or damaged,
    /// [`Error::UnknownVersion`] for the data of another release, [`Error::Locked`] if another
    /// process has the directory, and what the operating system says.
    pub fn open(storage: SharedStorage, options: LogOptions) -> Result<(Self, Recovered)> {
        recovery::open(storage, options)
    }

    /// A reader for any thread.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader { index: Arc::clone(&self.index) }
    }

    /// What makes spare segments, for use on another thread.
    #[must_use]
    pub fn spares(&self) -> Spares {
        self.spares.clone()
    }

    /// Makes one spare segment if there are fewer than wanted. Returns whether it made one.
    ///
    /// # Errors
    /// What the operating system says; the log is as it was.
    pub fn prepare_spare(&self) -> Result<bool> {
        self.spares.prepare()
    }

    pub(crate) fn spares_wanted(&self) -> bool {
        self.spares.ready() < self.options.spares
    }

    /// The last entry, also if it is only in the buffer.
    #[must_use]
    pub fn last_log_id(&self) -> LogId {
        self.last
    }

    /// The last entry that was purged.
    #[must_use]
    pub fn last_purged(&self) -> LogId {
        self.state.saved.purged
    }

    /// The last index known to be durable.
    #[must_use]
    pub fn durable_index(&self) -> u64 {
        self.durable_index
    }

    /// The hard state as last saved.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard
    }

    /// Appends entries and writes them, without syncing.
    ///
    /// # Errors
    /// [`Error::Misuse`] if an entry does not follow on the one before it, otherwise why the write
    /// failed; then the log is over.
    pub fn append(&mut self, entries: &[AppendEntry<'_>]) -> Result<()> {
        for entry in entries {
            let buffer = self.begin();
            for piece in entry.payload {
                buffer.extend_from_slice(piece);
            }
            self.finish(entry.meta)?;
        }
        self.flush()
    }

    /// Begins an entry: its payload is to be appended to the buffer returned, which must not be
    /// changed otherwise. [`Log::finish`] ends it; beginning another one discards it.
    pub fn begin(&mut self) -> &mut Vec<u8> {
        let at = self.open_at.unwrap_or(self.buffer.len());
        self.buffer.truncate(at);
        self.open_at = Some(at);
        self.buffer.resize(at + HEADER_BYTES, 0);
        &mut self.buffer
    }

    /// Ends the entry begun last. It is written with the buffer, by [`Log::flush`] at the latest.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the entry does not follow on the last one or is too large: then it is
    /// discarded. Otherwise why a write failed; then the log is over.
    pub fn finish(&mut self, meta: EntryMeta) -> Result<()> {
        self.alive()?;
        let Some(start) = self.open_at.take() else {
            return Err(Error::misuse("an entry is finished that was not begun"));
        };
        assert!(self.buffer.len() >= start + HEADER_BYTES, "the log's buffer was cut while in use");
        let payload_len = self.buffer.len() - start - HEADER_BYTES;
        let follows = meta.index == self.last.index + 1 && meta.term >= self.last.term;
        if !follows || payload_len > self.options.entry_bytes_max {
            self.buffer.truncate(start);
            return Err(Error::misuse(if follows {
                format!(
                    "entry {} has {payload_len} bytes, {} are allowed",
                    meta.index, self.options.entry_bytes_max
                )
            } else {
                format!(
                    "entry {} of term {} does not follow on entry {} of term {}",
                    meta.index, meta.term, self.last.index, self.last.term
                )
            }));
        }
        let result = self.finish_record(start, RecordKind::Entry, meta);
        self.guard(result)
    }

    /// Writes what is in the buffer, so that it can be read, without syncing.
    ///
    /// # Errors
    /// Why the write failed; then the log is over.
    pub fn flush(&mut self) -> Result<()> {
        self.alive()?;
        let result = self.write_buffer();
        self.guard(result)
    }

    /// Writes and syncs everything appended. Returns the last index, which is durable now.
    ///
    /// # Errors
    /// Why the write or sync failed. Then nothing since the last sync may be reported durable, and
    /// the log is over.
    pub fn sync(&mut self) -> Result<u64> {
        self.alive()?;
        let result = self.sync_all();
        self.guard(result)?;
        Ok(self.durable_index)
    }

    /// Writes a seal if there is none yet, so that damage to what is durable cannot be taken for a
    /// torn tail; for a log that falls idle.
    ///
    /// # Errors
    /// Why the write or sync failed; then the log is over.
    pub fn seal(&mut self) -> Result<()> {
        self.alive()?;
        let result = self.write_seal(RecordKind::IdleSeal);
        self.guard(result)
    }

    /// Makes the entries from `index` on void; the next one to append has that index. Durable with
    /// the next sync.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the entry is purged or committed, otherwise why the write failed; then
    /// the log is over.
    pub fn truncate_from(&mut self, index: u64) -> Result<()> {
        self.alive()?;
        if index > self.last.index {
            return Ok(());
        }
        if index <= self.last_purged().index || index <= self.hard.committed {
            return Err(Error::misuse(format!(
                "entry {index} is to be truncated, but entries up to {} are committed or purged",
                self.hard.committed.max(self.last_purged().index)
            )));
        }
        let result = self.write_truncation(index);
        self.guard(result)
    }

    /// Forgets the entries up to `id`, which a checkpoint holds, and recycles segments that hold
    /// nothing else. An `id` beyond the last entry, as after a snapshot of another node, empties
    /// the log; the next entry then follows on `id`. Durable when it returns.
    ///
    /// # Errors
    /// Why a write or sync failed; then the log is over.
    pub fn purge_to(&mut self, id: LogId) -> Result<()> {
        self.alive()?;
        if id.index <= self.last_purged().index {
            return Ok(());
        }
        let result = self.purge(id);
        self.guard(result)
    }

    /// Saves the hard state. Vote and term are durable when it returns; if only the committed index
    /// is new, it is written with the next record, which costs nothing.
    ///
    /// # Errors
    /// [`Error::Misuse`] if term or vote go back, otherwise why a write or sync failed; then the
    /// log is over.
    pub fn save_hard_state(&mut self, hard: HardState) -> Result<()> {
        self.alive()?;
        let old = self.hard;
        // Within a term a vote may only give way to the node that a quorum voted for.
        let second_vote = hard.term == old.term
            && old.voted_for.is_some()
            && hard.voted_for != old.voted_for
            && !hard.vote_committed;
        if hard.term < old.term || second_vote {
            return Err(Error::misuse(format!(
                "the vote {hard:?} does not follow on the saved {old:?}"
            )));
        }
        self.hard = HardState { committed: hard.committed.max(old.committed), ..hard };
        if hard.same_vote(&old) {
            return Ok(());
        }
        let result = self.save_state(self.last_purged());
        self.guard(result)
    }

    /// Closes the log cleanly: syncs everything, writes a seal and lets go of the directory.
    ///
    /// # Errors
    /// Why a write or sync failed. What was reported durable before is still durable.
    pub fn close(mut self) -> Result<()> {
        self.alive()?;
        self.write_seal(RecordKind::CleanSeal)?;
        self.save_state(self.last_purged())
    }

    fn alive(&self) -> Result<()> {
        self.poison.clone().map_or(Ok(()), Err)
    }

    /// After a failure nothing is known about the files, so the log ends here.
    fn guard(&mut self, result: Result<()>) -> Result<()> {
        if let Err(e) = &result
            && !e.is_harmless()
        {
            self.poison = Some(e.clone());
        }
        result
    }

    /// Completes the record at `start` of the buffer, whose payload is there: header, checksums
    /// and padding. Opens another segment first if it does not fit.
    fn finish_record(
        &mut self,
        mut start: usize,
        record: RecordKind,
        meta: EntryMeta,
    ) -> Result<()> {
        let payload_len = self.buffer.len() - start - HEADER_BYTES;
        let end = self.written + (start + record_bytes(payload_len)) as u64;
        let is_first = self.written + start as u64 == SEGMENT_HEADER_BYTES as u64;
        if end > self.options.segment_bytes && !is_first {
            let record_so_far = self.buffer.split_off(start);
            self.sync_all()?;
            self.open_segment(self.last)?;
            self.buffer = record_so_far;
            start = 0;
        }
        let payload_len =
            u32::try_from(payload_len).expect("entry_bytes_max was clamped to 32 bits");
        let (header, payload) = self.buffer[start..].split_at_mut(HEADER_BYTES);
        let header: &mut HeaderBytes =
            header.try_into().expect("the slice was split at the size of a header");
        let fields = RecordHeader {
            record,
            kind: meta.kind,
            payload_len,
            payload_crc: checksum(self.current.seed, payload),
            previous_crc: self.crc,
            group: meta.group,
            sequence: self.sequence + 1,
            durable: self.durable,
            index: meta.index,
            term: meta.term,
            committed: self.hard.committed.min(self.durable_index),
        };
        assert!(fields.durable < fields.sequence, "a record is durable before it is written");
        self.crc = fields.encode(self.current.seed, header);
        self.sequence = fields.sequence;
        self.buffer.resize(start + record_bytes(payload_len as usize), 0);
        self.sealed = matches!(record, RecordKind::IdleSeal | RecordKind::CleanSeal);
        if record == RecordKind::Entry {
            self.last = LogId { term: meta.term, index: meta.index };
            let offset = self.written + start as u64;
            self.placed.push(Placed { id: self.last, offset });
        }
        if self.buffer.len() >= WRITE_BYTES { self.write_buffer() } else { Ok(()) }
    }

    /// Adds a record without payload.
    fn write_control(&mut self, record: RecordKind, index: u64) -> Result<()> {
        // An entry that was begun and not finished is discarded.
        if let Some(at) = self.open_at.take() {
            self.buffer.truncate(at);
        }
        let start = self.buffer.len();
        self.buffer.resize(start + HEADER_BYTES, 0);
        self.finish_record(start, record, EntryMeta { index, ..EntryMeta::default() })
    }

    fn write_buffer(&mut self) -> Result<()> {
        let end = self.open_at.unwrap_or(self.buffer.len());
        if end == 0 {
            return Ok(());
        }
        let segment = &self.current;
        fs::write_all_at(&*segment.file, &segment.name, &self.buffer[..end], self.written)?;
        self.dirty = true;
        self.written += end as u64;
        // Readers see entries once they are written, a buffer at a time under one lock.
        self.index.write().publish(segment, &self.placed);
        self.placed.clear();
        self.buffer.drain(..end);
        if self.open_at.is_some() {
            self.open_at = Some(0);
        } else if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn sync_all(&mut self) -> Result<()> {
        self.write_buffer()?;
        if self.dirty {
            let segment = &self.current;
            segment.file.sync_data().map_err(|e| Error::io("sync", &segment.name, e))?;
            self.dirty = false;
        }
        self.durable = self.sequence;
        self.durable_index = self.last.index;
        Ok(())
    }

    fn write_seal(&mut self, kind: RecordKind) -> Result<()> {
        self.sync_all()?;
        // The header of a segment without records testifies as much as a seal would. Restarts of an
        // idle node would otherwise leave a segment each.
        let is_empty = self.written == SEGMENT_HEADER_BYTES as u64;
        if (self.sealed || is_empty) && kind == RecordKind::IdleSeal {
            return Ok(());
        }
        self.write_control(kind, self.last.index)?;
        self.sync_all()
    }

    fn write_truncation(&mut self, index: u64) -> Result<()> {
        self.write_buffer()?;
        let term = self.index.read().term_of(index - 1);
        let term = term.ok_or_else(|| Error::misuse("the entry before a truncation is unknown"))?;
        self.write_control(RecordKind::Truncate, index)?;
        self.write_buffer()?;
        let previous = LogId { term, index: index - 1 };
        self.index.write().truncate(index, previous);
        self.last = previous;
        self.durable_index = self.durable_index.min(previous.index);
        Ok(())
    }

    fn purge(&mut self, id: LogId) -> Result<()> {
        self.sync_all()?;
        self.hard.committed = self.hard.committed.max(id.index);
        self.save_state(id)?;
        self.index.write().purge(id);
        if id.index > self.last.index {
            // The entries jump: only the header of a segment can say so.
            self.last = id;
            self.durable_index = id.index;
            self.open_segment(id)?;
        }
        self.recycle()
    }

    /// Turns segments that hold nothing live into spares.
    fn recycle(&mut self) -> Result<()> {
        let taken = self.index.write().take_purged();
        if taken.is_empty() {
            return Ok(());
        }
        let retired = taken.into_iter().map(|segment| match Arc::try_unwrap(segment) {
            Ok(segment) => (segment.name, segment.file, false),
            // A reader is at work in it: its file must not change under it.
            Err(held) => (held.name.clone(), Arc::clone(&held.file), true),
        });
        self.spares.recycle(retired.collect())
    }

    fn save_state(&mut self, purged: LogId) -> Result<()> {
        // An index is committed once a majority has it; that this node is of it is not said. What
        // is stored must be here after a power cut, so it is clamped to what is durable here.
        let committed = self.hard.committed.min(self.durable_index.max(purged.index));
        let hard = HardState { committed, ..self.hard };
        self.state.save(Saved { hard, purged, durable: self.durable })
    }

    /// Opens a new segment behind the current one, which must be synced. `previous` is the entry
    /// that the next one follows on.
    fn open_segment(&mut self, previous: LogId) -> Result<()> {
        assert!(!self.dirty && self.durable == self.sequence, "a segment is left before its sync");
        assert!(self.buffer.is_empty(), "a segment is left with records to write");
        let header = SegmentHeader {
            incarnation: self.current.header.incarnation + 1,
            salt: self.storage.entropy(),
            first_sequence: self.sequence + 1,
            previous_crc: self.crc,
            previous_index: previous.index,
            previous_term: previous.term,
        };
        let segment = Arc::new(activate(&self.storage, &self.spares, header)?);
        self.index.write().segments.push_back(Arc::clone(&segment));
        self.current = segment;
        self.written = SEGMENT_HEADER_BYTES as u64;
        self.sealed = false;
        Ok(())
    }
}

/// Makes a spare the live segment that `header` describes. The header is durable before the file
/// has its name, and the name is durable before anything is written behind the header.
fn activate(storage: &SharedStorage, spares: &Spares, header: SegmentHeader) -> Result<Segment> {
    let spare = spares.take()?;
    fs::write_all_at(&*spare.file, &spare.name, &header.encode(), 0)?;
    spare.file.sync_data().map_err(|e| Error::io("sync", &spare.name, e))?;
    let name = segment_name(header.incarnation);
    storage.rename(&spare.name, &name).map_err(|e| Error::io("rename", &spare.name, e))?;
    fs::sync_dir(&**storage)?;
    Ok(Segment::new(name, spare.file, header))
}
