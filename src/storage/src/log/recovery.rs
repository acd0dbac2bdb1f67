//! Opening the log: what is there, what of it can be believed, and where to go on. The rules are
//! argued in the documentation of [`super`].

use std::{io, sync::Arc};

use parking_lot::RwLock;

use super::{
    Log, LogId, LogOptions, activate,
    index::{Index, Placed},
    record::{RecordHeader, RecordKind, record_bytes},
    scan::{ScanEnd, Whole, scan_segment},
    segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader, parse_segment_name},
    spare::{Spares, is_spare_name},
    state::{HardState, STATE_NAME, Saved, StateFile},
};
use crate::{
    error::{Error, Result},
    format,
    fs::{self, SharedStorage, Storage},
};

/// What was found when the log was opened. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The vote, and the highest index known to be committed.
    pub hard_state: HardState,
    /// The last entry; the last purged one if the log is empty.
    pub last: LogId,
    /// The last entry that was purged: replay begins behind it, from a checkpoint that holds it.
    pub purged: LogId,
    /// Whether the log was closed cleanly (or is new). Otherwise `cut` says where it ended.
    pub clean: bool,
    /// Where the log was cut, if it was not closed cleanly.
    pub cut: Option<Cut>,
    /// What the log takes on disk, oldest first; the last one is the segment that is written to.
    pub extents: Vec<Extent>,
}

/// A segment as a piece of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The last entry up to its end; that of an earlier one if it has none.
    pub last: u64,
    /// Bytes that it takes on disk, however few of them hold entries; of the segment that is
    /// written to, those that are written.
    pub bytes: u64,
}

/// Where a log that was not closed cleanly ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Name of the last segment.
    pub file: String,
    /// Offset in bytes behind the last whole record.
    pub offset: u64,
    /// Whole records behind it that were never reported durable and were given up.
    pub dropped: u64,
}

/// The files of a data directory.
#[derive(Default)]
pub(super) struct Listing {
    /// Name and incarnation, ascending.
    pub(super) segments: Vec<(String, u64)>,
    pub(super) spares: Vec<String>,
    pub(super) has_state: bool,
}

pub(super) fn list(storage: &dyn Storage) -> Result<Listing> {
    let names = storage.list().map_err(|e| Error::io("list", &storage.location(), e))?;
    let mut listing = Listing::default();
    for name in names {
        if let Some(incarnation) = parse_segment_name(&name) {
            listing.segments.push((name, incarnation));
        } else if is_spare_name(&name) {
            listing.spares.push(name);
        } else if name == STATE_NAME {
            listing.has_state = true;
        }
    }
    listing.segments.sort_by_key(|&(_, incarnation)| incarnation);
    Ok(listing)
}

pub(super) fn open(storage: SharedStorage, mut options: LogOptions) -> Result<(Log, Recovered)> {
    if options.segment_bytes < 2 * SEGMENT_HEADER_BYTES as u64 {
        return Err(Error::misuse("segments must have 8 KiB or more"));
    }
    // The length of a payload is stored in 32 bits.
    options.entry_bytes_max = options.entry_bytes_max.min(u32::MAX as usize);
    let lock = storage.lock().map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => Error::Locked { dir: storage.location() },
        _ => Error::io("lock", &storage.location(), e),
    })?;
    // What an earlier process renamed may be in memory only; from here on it is relied upon.
    fs::sync_dir(&*storage)?;
    let listing = list(&*storage)?;
    let has_data = listing.has_state || !listing.segments.is_empty();
    let stated = format::check(&*storage, has_data)?;
    let spares = Spares::new(
        Arc::clone(&storage),
        options.segment_bytes,
        options.spares,
        options.spares_max,
    );
    let state = StateFile::open(&*storage)?;
    // Everything is read and found good before anything is changed.
    let replayed = state.map(|state| replay(&storage, &listing, state)).transpose()?;
    format::state(&*storage, stated)?;
    for name in &listing.spares {
        spares.adopt(name)?;
    }
    let replayed = match replayed {
        Some(replayed) => replayed,
        None => initialise(&storage, &listing, &spares)?,
    };
    go_on(storage, options, spares, replayed, lock)
}

/// The log as it was read.
struct Replayed {
    state: StateFile,
    index: Index,
    /// Where the last segment ends.
    end: ScanEnd,
    /// Highest committed index that anything states.
    committed: u64,
    /// Whether the last segment can be appended to.
    clean: bool,
    /// Segments before the first one needed.
    unneeded: Vec<Arc<Segment>>,
}

/// A new data directory. The first segment comes before the state file, so a state file without
/// segments is damage; and the state file comes before the first record, so records without a
/// state file are damage too.
fn initialise(storage: &SharedStorage, listing: &Listing, spares: &Spares) -> Result<Replayed> {
    let segment = match listing.segments.as_slice() {
        [] => {
            let header = SegmentHeader {
                incarnation: 1,
                salt: storage.entropy(),
                first_sequence: 1,
                previous_crc: 0,
                previous_index: 0,
                previous_term: 0,
            };
            activate(storage, spares, header)?
        }
        // A power cut between the two.
        [(name, 1)] => open_segment(&**storage, name, 1)?,
        _ => return Err(Error::corrupt(STATE_NAME, 0, "the file is missing beside log segments")),
    };
    let segment = Arc::new(segment);
    let bytes = fs::read_whole(&*segment.file, &segment.name)?;
    let scanned = scan_segment(&bytes, None, |_| -> Result<()> {
        Err(Error::corrupt(STATE_NAME, 0, "the file is missing beside log entries"))
    });
    let (_, end) = scanned.map_err(|e| e.at(&segment.name))??;
    let state = StateFile::create(&**storage)?;
    let index = Index::new(LogId::ZERO, [segment].into());
    // Nothing was ever written to the segment, so it can be used.
    Ok(Replayed { state, index, end, committed: 0, clean: true, unneeded: Vec::new() })
}

pub(super) fn open_segment(storage: &dyn Storage, name: &str, incarnation: u64) -> Result<Segment> {
    let file = storage.open(name).map_err(|e| Error::io("open", name, e))?;
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    let read = fs::read_full_at(&*file, name, &mut bytes, 0)?;
    let header = SegmentHeader::decode(&bytes[..read]).map_err(|e| e.at(name))?;
    if header.incarnation != incarnation {
        let reason = format!("the header is that of incarnation {}", header.incarnation);
        return Err(Error::corrupt(name, 0, reason));
    }
    Ok(Segment::new(name.to_owned(), file, header))
}

/// Reads all segments that are needed.
fn replay(storage: &SharedStorage, listing: &Listing, state: StateFile) -> Result<Replayed> {
    let purged = state.saved.purged;
    let mut segments = Vec::new();
    for (name, incarnation) in &listing.segments {
        segments.push(Arc::new(open_segment(&**storage, name, *incarnation)?));
    }
    let first = first_needed(&segments, purged.index)?;
    let unneeded: Vec<_> = segments.drain(..first).collect();
    let mut replay = Replay {
        index: Index::new(purged, segments.into()),
        committed: state.saved.hard.committed.max(purged.index),
        last_record: None,
    };
    let head = replay.index.segments[0].header;
    replay.index.last = LogId { term: head.previous_term, index: head.previous_index };
    let mut end = None;
    for at in 0..replay.index.segments.len() {
        let segment = Arc::clone(&replay.index.segments[at]);
        let next = replay.index.segments.get(at + 1).map(Arc::clone);
        end = Some(replay.segment(&segment, next.as_deref(), &state.saved)?);
    }
    let end = end.expect("there is at least the segment that was found first");
    // A purge beyond the end that was interrupted needs a new segment: only its header can say that
    // the indexes jump.
    let clean = replay.last_record == Some(RecordKind::CleanSeal)
        && end.beyond == 0
        && replay.index.last.index >= purged.index;
    let Replay { mut index, committed, .. } = replay;
    index.purge(purged);
    Ok(Replayed { state, index, end, committed, clean, unneeded })
}

/// Which segment is the first one needed. Those before the last one that follows on purged entries
/// were being recycled when the power went; some of them may be gone already, in any order.
pub(super) fn first_needed(segments: &[Arc<Segment>], purged: u64) -> Result<usize> {
    let found = segments.iter().rposition(|s| s.header.previous_index <= purged);
    found.ok_or_else(|| {
        let (file, had) = segments
            .first()
            .map_or((STATE_NAME, 0), |s| (s.name.as_str(), s.header.previous_index));
        let reason = format!(
            "the log should begin behind entry {purged} and begins behind entry {had}: segments \
             are missing"
        );
        Error::corrupt(file, 0, reason)
    })
}

/// Why a segment cannot follow on a log that ends with entry `last`, if it cannot.
pub(super) fn wrong_jump(head: &SegmentHeader, last: u64, purged: u64) -> Option<String> {
    // A snapshot may have been installed beyond the end of the log; its index is in the state file.
    (head.previous_index > last && head.previous_index > purged).then(|| {
        format!(
            "the segment follows on entry {}, but the log before it ends with {last}",
            head.previous_index
        )
    })
}

/// Why a whole record cannot follow on a log that ends with entry `last`, if it cannot.
pub(super) fn wrong_record(header: &RecordHeader, last: u64) -> Option<String> {
    match header.record {
        RecordKind::Entry if header.index != last + 1 => {
            Some(format!("entry {} is behind entry {last}", header.index))
        }
        RecordKind::Truncate if header.index == 0 || header.index > last => Some(format!(
            "entries from {} on are truncated, but the last one is {last}",
            header.index
        )),
        _ => None,
    }
}

/// Why the chain of a segment that has the successor `next` must not end there, if it must not.
pub(super) fn wrong_end(end: &ScanEnd, next: &SegmentHeader, next_name: &str) -> Option<String> {
    let expected = (next.first_sequence.saturating_sub(1), next.previous_crc);
    ((end.last_sequence, end.last_crc) != expected).then(|| {
        format!(
            "{} does not match its checksum, yet {next_name} says that the segment was durable up \
             to record {} and the last one here is {} (or a segment between them is missing)",
            end.what(),
            expected.0,
            end.last_sequence
        )
    })
}

/// Why the log must not end at `end` of its last segment, if it must not: what makes it damage and
/// no torn tail.
pub(super) fn wrong_tail(end: &ScanEnd, last_index: u64, committed: u64) -> Option<String> {
    (end.last_sequence < end.durable || last_index < committed).then(|| {
        format!(
            "{} does not match its checksum, yet the log is known to have been durable up to \
             record {} and the last one here is {} (entry {last_index}, {committed} is committed)",
            end.what(),
            end.durable,
            end.last_sequence
        )
    })
}

/// The fold over the records of all segments.
struct Replay {
    index: Index,
    committed: u64,
    last_record: Option<RecordKind>,
}

impl Replay {
    /// Reads a segment; `next` is the one behind it.
    fn segment(
        &mut self,
        segment: &Arc<Segment>,
        next: Option<&Segment>,
        saved: &Saved,
    ) -> Result<ScanEnd> {
        let head = &segment.header;
        self.last_record = None;
        if let Some(reason) = wrong_jump(head, self.index.last.index, saved.purged.index) {
            return Err(Error::corrupt(&segment.name, 0, reason));
        }
        if head.previous_index > self.index.last.index {
            let previous = LogId { term: head.previous_term, index: head.previous_index };
            self.index.truncate(1, previous);
        }
        let bytes = fs::read_whole(&*segment.file, &segment.name)?;
        let until = next.map(|next| next.header.first_sequence.saturating_sub(1));
        let scanned = scan_segment(&bytes, until, |whole| self.record(segment, &whole));
        let (_, mut end) = scanned.map_err(|e| e.at(&segment.name))??;
        let damaged = |reason| Err(Error::corrupt(&segment.name, end.offset, reason));
        if let Some(next) = next {
            return wrong_end(&end, &next.header, &next.name).map_or(Ok(end), damaged);
        }
        end.durable = end.durable.max(saved.durable);
        let last = self.index.last.index.max(saved.purged.index);
        if let Some(reason) = wrong_tail(&end, last, self.committed) {
            return damaged(reason);
        }
        self.rewrite_tail(segment, &bytes, &end)?;
        Ok(end)
    }

    fn record(&mut self, segment: &Arc<Segment>, whole: &Whole<'_>) -> Result<()> {
        let header = &whole.header;
        self.last_record = Some(header.record);
        self.committed = self.committed.max(header.committed);
        if let Some(reason) = wrong_record(header, self.index.last.index) {
            return Err(Error::corrupt(&segment.name, whole.offset, reason));
        }
        match header.record {
            RecordKind::Entry => {
                let id = LogId { term: header.term, index: header.index };
                self.index.publish(segment, &[Placed { id, offset: whole.offset }]);
            }
            RecordKind::Truncate => {
                // Where the entry before it lies in a segment that was purged, its term is not
                // needed: the id of the last purged entry is in the state file.
                let index = header.index - 1;
                let term = self.index.term_of(index).unwrap_or(0);
                self.index.truncate(header.index, LogId { term, index });
            }
            RecordKind::IdleSeal | RecordKind::CleanSeal => {}
        }
        Ok(())
    }

    /// Writes what is not known to be durable again, unchanged, and syncs it: it may have been read
    /// from a page cache that is clean only because an earlier sync failed.
    fn rewrite_tail(&self, segment: &Segment, bytes: &[u8], end: &ScanEnd) -> Result<()> {
        let mut at = SEGMENT_HEADER_BYTES;
        let stop = usize::try_from(end.offset).unwrap_or(usize::MAX).min(bytes.len());
        while at < stop {
            match RecordHeader::decode_at(segment.seed, bytes, at) {
                Some((header, _)) if header.sequence <= end.durable => {
                    at += record_bytes(header.payload_len as usize);
                }
                _ => break,
            }
        }
        if at < stop {
            fs::write_all_at(&*segment.file, &segment.name, &bytes[at..stop], at as u64)?;
        }
        segment.file.sync_data().map_err(|e| Error::io("sync", &segment.name, e))
    }
}

/// Makes the log writable again: in the same segment behind a clean seal, else in a new one.
fn go_on(
    storage: SharedStorage,
    options: LogOptions,
    spares: Spares,
    replayed: Replayed,
    lock: Box<dyn fs::Lock>,
) -> Result<(Log, Recovered)> {
    let Replayed { state, mut index, end, committed, clean, unneeded } = replayed;
    let current = Arc::clone(index.segments.back().expect("replay leaves at least one segment"));
    let purged = state.saved.purged;
    let last = index.last;
    let hard = HardState { committed, ..state.saved.hard };
    let was_empty = end.last_sequence + 1 == current.header.first_sequence;
    for segment in unneeded.into_iter().rev() {
        index.segments.push_front(segment);
    }
    let mut log = Log {
        storage,
        options,
        index: Arc::new(RwLock::new(index)),
        spares,
        state,
        written: end.offset,
        buffer: Vec::new(),
        open_at: None,
        placed: Vec::new(),
        last,
        sequence: end.last_sequence,
        crc: end.last_crc,
        durable: end.last_sequence,
        durable_index: last.index,
        hard,
        dirty: false,
        sealed: clean,
        poison: None,
        current: Arc::clone(&current),
        _lock: lock,
    };
    let cut = (!clean).then(|| Cut {
        file: current.name.clone(),
        offset: end.offset,
        dropped: end.beyond,
    });
    // Both slots, so that a damaged one is mended and what was read is durable.
    log.save_state(purged)?;
    if !clean {
        log.open_segment(last)?;
        if was_empty {
            // The new one says the same, so that restarts do not pile up empty segments.
            log.index.write().segments.retain(|segment| !Arc::ptr_eq(segment, &current));
            log.spares.recycle(vec![(current.name.clone(), Arc::clone(&current.file), false)])?;
        }
    }
    log.recycle()?;
    let extents = log.extents()?;
    let recovered = Recovered { hard_state: hard, last, purged, clean, cut, extents };
    Ok((log, recovered))
}

impl Log {
    /// What the log takes on disk.
    fn extents(&self) -> Result<Vec<Extent>> {
        let index = self.index.read();
        let nexts = index.segments.iter().skip(1).map(Some).chain([None]);
        let extents = index.segments.iter().zip(nexts).map(|(segment, next)| match next {
            Some(next) => {
                let bytes = segment.file.size();
                let bytes = bytes.map_err(|e| Error::io("measure", &segment.name, e))?;
                Ok(Extent { last: next.header.previous_index, bytes })
            }
            None => Ok(Extent { last: self.last.index, bytes: self.written }),
        });
        extents.collect()
    }
}
