//! From the data directory to a ledger.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_cluster::member::MemberId;
use isthmus_cluster::raft::{EntryKind, OpenError, RaftLog, RaftLogOptions, alone};
use isthmus_cluster::{SingleOptions, StartError, Started};
use isthmus_core::codec::DecodeError;
use isthmus_core::{Entry, Fact, Ledger, Members, Place, codec};
use isthmus_storage::checkpoint::{CheckpointMeta, CheckpointReader};
use isthmus_storage::damage::NOTE_NAME;
use isthmus_storage::{
    Error as StorageError, Extent, LogId, LogReader, Recovered, SharedStorage, WriterEvent,
    checkpoint, pages,
};
use thiserror::Error;

use crate::noted;
use crate::pager::Pager;
use crate::transfer;

/// Why the data cannot be recovered. Nothing has been changed.
#[derive(Debug, Error)]
pub enum RecoveryError {
    /// The log or a checkpoint cannot be read, or is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A checkpoint holds something that cannot be understood.
    #[error("checkpoint at {index}: {error}")]
    Checkpoint {
        /// The checkpoint's index.
        index: u64,
        /// What is wrong.
        error: DecodeError,
    },
    /// A checkpoint could not be read to its end.
    #[error("checkpoint at {index}: {error}")]
    CheckpointRead {
        /// The checkpoint's index.
        index: u64,
        /// What the system says.
        error: std::io::Error,
    },
    /// A log entry holds something that cannot be understood.
    #[error("log entry {index}: {error}")]
    Entry {
        /// The entry's index.
        index: u64,
        /// What is wrong.
        error: DecodeError,
    },
    /// A log entry is of a kind that this release does not know.
    #[error("log entry {index} is of kind {kind}: a newer Isthmus wrote it")]
    Kind {
        /// The entry's index.
        index: u64,
        /// Its kind, as it is stored.
        kind: u8,
    },
    /// The log of a member of a cluster cannot be used.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// Consensus does not start.
    #[error("the member does not start: {0}")]
    Member(String),
    /// The log begins behind what the checkpoint holds.
    #[error(
        "the log begins at entry {first}, but the newest checkpoint ends at {checkpoint}: \
         a checkpoint file is missing; restore it or the whole data directory from a backup"
    )]
    Gap {
        /// The log's first entry.
        first: u64,
        /// The checkpoint's last.
        checkpoint: u64,
    },
    /// The log ends before the checkpoint does.
    #[error(
        "the log ends at entry {last}, but the newest checkpoint holds entries up to {checkpoint}: \
         the files of the log are missing; restore the whole data directory from a backup"
    )]
    Short {
        /// The log's last entry.
        last: u64,
        /// The checkpoint's last.
        checkpoint: u64,
    },
    /// The checkpoint speaks of messages that neither a page nor the log has.
    #[error(
        "checkpoint at {index}: {what}: the files of the data directory do not belong together; \
         restore all of it from a backup"
    )]
    Missing {
        /// The checkpoint's index.
        index: u64,
        /// What is missing.
        what: String,
    },
    /// Damage that was met while the broker ran is still there.
    #[error("{0}. It was met while the broker ran, and is noted in {NOTE_NAME}")]
    Noted(StorageError),
    /// The log's thread did not start, or the vote could not be saved.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The thread that reads pages did not start.
    #[error("cannot start the thread that reads pages: {0}")]
    Thread(#[from] std::io::Error),
}

/// What was recovered.
pub(crate) struct RecoveredLedger {
    pub(crate) ledger: Ledger,
    /// The last entry it holds.
    pub(crate) applied: LogId,
    /// The checkpoint it was made from.
    pub(crate) checkpoint: Option<CheckpointMeta>,
    /// What the log takes on disk, oldest first.
    pub(crate) extents: Vec<Extent>,
    /// Bytes of the log that came after the checkpoint.
    pub(crate) log_bytes: u64,
    /// The page files that the ledger refers to.
    pub(crate) pager: Pager,
    /// Those of the page files that were verified.
    pub(crate) verified: BTreeSet<u64>,
    /// The number of the next page file.
    pub(crate) next_file: u64,
}

/// A ledger as the log leaves it, whose pages were not looked at.
pub(crate) struct ReadLedger {
    pub(crate) ledger: Ledger,
    /// The last entry it holds.
    pub(crate) applied: LogId,
    /// The checkpoint it was made from.
    checkpoint: Option<CheckpointMeta>,
    /// Bytes of the entries that came after it.
    log_bytes: u64,
}

/// The log as it was found.
struct Found<'a> {
    reader: LogReader,
    recovered: &'a Recovered,
    /// The last entry that is known to be committed.
    committed: u64,
}

/// Opens the log of a node that is alone and brings a ledger up to its last entry, with the pages
/// that it needs, of which `verified_bytes` are verified.
pub(crate) fn recover(
    storage: &SharedStorage,
    options: SingleOptions,
    verified_bytes: u64,
) -> Result<(RecoveredLedger, Started), RecoveryError> {
    let (read, started) = read_ledger(storage, options)?;
    Ok((with_pages(storage, read, started.recovered(), MemberId(0), verified_bytes)?, started))
}

/// Opens the log of a node that is alone and brings a ledger up to its last entry.
pub(crate) fn read_ledger(
    storage: &SharedStorage,
    options: SingleOptions,
) -> Result<(ReadLedger, Started), RecoveryError> {
    let started = Started::open(SharedStorage::clone(storage), options)?;
    let checkpoint = checkpoint::open_latest(&**storage)?;
    let recovered = started.recovered();
    // Nobody else can contradict it.
    let committed = recovered.last.index;
    let found = Found { reader: started.reader(), recovered, committed };
    Ok((fold(checkpoint, &found)?, started))
}

/// Opens the log of a member of a cluster and brings a ledger up to the last entry that it knows to
/// be committed. `on_event` is told of the log's writer, on its thread.
pub(crate) fn recover_member(
    storage: &SharedStorage,
    options: RaftLogOptions,
    member: MemberId,
    verified_bytes: u64,
    on_event: impl FnMut(WriterEvent) + Send + 'static,
) -> Result<(RecoveredLedger, RaftLog), RecoveryError> {
    let checkpoint = checkpoint::open_latest(&**storage)?;
    let at = checkpoint.as_ref().map(|reader| reader.meta());
    let at = at.map(|meta| LogId { index: meta.index, term: meta.term });
    let behind = match at {
        Some(at) if transfer::was_installing(&**storage, at)? => Some(at),
        _ => None,
    };
    let opened = RaftLog::open_behind(SharedStorage::clone(storage), options, behind, on_event);
    let (log, recovered) = opened?;
    transfer::has_installed(&**storage)?;
    let least = at.map_or(0, |at| at.index);
    let committed = recovered.hard_state.committed.clamp(least, recovered.last.index.max(least));
    let found = Found { reader: log.file(), recovered: &recovered, committed };
    let mut read = fold(checkpoint, &found)?;
    if read.ledger.members().is_none() && read.applied.index > 0 {
        // The node was alone before.
        let members = Members { index: 1, term: 0, members: alone(member).into() };
        let facts = vec![Fact::Members(members.into())];
        read.ledger.apply(&Entry { time: read.ledger.time(), facts });
    }
    Ok((with_pages(storage, read, &recovered, member, verified_bytes)?, log))
}

fn with_pages(
    storage: &SharedStorage,
    read: ReadLedger,
    recovered: &Recovered,
    member: MemberId,
    verified_bytes: u64,
) -> Result<RecoveredLedger, RecoveryError> {
    let ReadLedger { ledger, applied, checkpoint, log_bytes } = read;
    let (pager, verified, next_file) = open_pages(storage, &ledger, member, verified_bytes)?;
    let extents = recovered.extents.clone();
    let checkpointed = checkpoint.map_or(0, |meta| meta.index);
    let log_bytes = log_bytes.max(bytes_behind(&extents, checkpointed));
    Ok(RecoveredLedger {
        ledger,
        applied,
        checkpoint,
        extents,
        log_bytes,
        pager,
        verified,
        next_file,
    })
}

/// Brings a ledger up to the last committed entry.
fn fold(
    checkpoint: Option<CheckpointReader>,
    found: &Found<'_>,
) -> Result<ReadLedger, RecoveryError> {
    let mut ledger = Ledger::new();
    let mut applied = LogId::ZERO;
    let checkpoint = match checkpoint {
        Some(reader) => {
            let meta = reader.meta();
            applied = LogId { index: meta.index, term: meta.term };
            read_checkpoint(reader, meta.index, &mut ledger)?;
            Some(meta)
        }
        None => None,
    };
    let (purged, last) = (found.recovered.purged.index, found.recovered.last.index);
    let index = applied.index;
    if purged > index {
        return Err(RecoveryError::Gap { first: purged + 1, checkpoint: index });
    }
    if last < index {
        return Err(RecoveryError::Short { last, checkpoint: index });
    }
    if let Some(from) = ledger.awaited_from().filter(|from| *from > purged) {
        visit(&found.reader, from, index, |read| {
            if let Content::Entry(_, entry) = read.content {
                ledger.recall(read.index, &entry);
            }
        })?;
    }
    ledger.restored().map_err(|what| RecoveryError::Missing { index, what })?;
    let mut log_bytes = 0;
    visit(&found.reader, index + 1, found.committed, |read| {
        applied = LogId { index: read.index, term: read.term };
        log_bytes += read.bytes;
        match read.content {
            Content::Entry(Some(place), entry) => {
                ledger.apply_placed(read.index, place, &entry);
            }
            Content::Entry(None, entry) => ledger.apply_at(read.index, &entry),
            Content::Members(members) => {
                let members = Members { index: read.index, term: read.term, members };
                let facts = vec![Fact::Members(members.into())];
                ledger.apply(&Entry { time: ledger.time(), facts });
            }
            Content::Blank => {}
        }
    })?;
    Ok(ReadLedger { ledger, applied, checkpoint, log_bytes })
}

/// What the segments take on disk that begin behind entry `index`. A process that is killed leaves
/// a segment behind, nearly empty as it may be, and each is read by the next start: counted by
/// their entries, a node that is killed again and again would never have reason for a checkpoint.
fn bytes_behind(extents: &[Extent], index: u64) -> u64 {
    let within = extents.partition_point(|extent| extent.last <= index);
    extents.iter().skip(within + 1).map(|extent| extent.bytes).sum()
}

/// Opens the page files that the ledger refers to and removes the others, which a crash has left;
/// returns which were verified, up to so many bytes, and the number that none of them has.
fn open_pages(
    storage: &SharedStorage,
    ledger: &Ledger,
    member: MemberId,
    verified_bytes: u64,
) -> Result<(Pager, BTreeSet<u64>, u64), RecoveryError> {
    let needed = ledger.page_files();
    let mut verified = noted::verify(storage, ledger)?;
    let pager = Pager::open(storage, needed.keys().copied())?;
    verified.extend(pager.verify(verified_bytes)?);
    let files = pages::list(&**storage)?;
    let own = first_file(member)..first_file(member) + (1 << FILE_BITS);
    let last = files.iter().rfind(|file| own.contains(file));
    let next_file = last.map_or(own.start + 1, |last| last + 1);
    let left_over = files.into_iter().filter(|file| !needed.contains_key(file));
    pages::remove(&**storage, left_over.collect::<Vec<u64>>())?;
    Ok((pager, verified, next_file))
}

/// Page files that a member can number: more than it writes in a lifetime.
const FILE_BITS: u32 = 24;

/// Before the first number of the page files that a member writes. A file that was sent to another
/// node keeps its number there, so each member numbers its own, and each of its lives. A node that
/// is alone has the lowest numbers.
fn first_file(member: MemberId) -> u64 {
    // The low 24 bits: lives of one node that are so many apart have no files in common.
    let life = member.incarnation() & 0xff_ffff;
    (life << 16 | u64::from(member.node())) << FILE_BITS
}

/// An entry of the log.
struct LogEntry {
    index: u64,
    term: u64,
    /// Bytes of its payload.
    bytes: u64,
    content: Content,
}

enum Content {
    Blank,
    Entry(Option<Place>, Entry),
    Members(Arc<[u8]>),
}

/// Reads entries of the log from `from` to `last`.
fn visit(
    reader: &LogReader,
    from: u64,
    last: u64,
    mut each: impl FnMut(LogEntry),
) -> Result<(), RecoveryError> {
    let mut failed = None;
    reader.visit(from, last + 1, |meta, payload| {
        let content = match EntryKind::from_byte(meta.kind) {
            Some(EntryKind::Normal) => {
                match codec::decode_placed(&Bytes::copy_from_slice(payload)) {
                    Ok((place, entry)) => Content::Entry(place, entry),
                    Err(error) => {
                        failed = Some(RecoveryError::Entry { index: meta.index, error });
                        return ControlFlow::Break(());
                    }
                }
            }
            Some(EntryKind::Membership) => Content::Members(payload.into()),
            Some(EntryKind::Blank) => Content::Blank,
            None => {
                failed = Some(RecoveryError::Kind { index: meta.index, kind: meta.kind });
                return ControlFlow::Break(());
            }
        };
        let bytes = payload.len() as u64;
        each(LogEntry { index: meta.index, term: meta.term, bytes, content });
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(()), Err)
}

/// Reads the entries of a checkpoint: each behind its length, four bytes, low ones first.
pub(crate) fn read_checkpoint(
    mut reader: impl io::Read,
    index: u64,
    ledger: &mut Ledger,
) -> Result<(), RecoveryError> {
    let failed = |error| RecoveryError::CheckpointRead { index, error };
    loop {
        let mut len = [0; 4];
        match reader.read(&mut len[..1]).map_err(failed)? {
            0 => return Ok(()),
            _ => reader.read_exact(&mut len[1..]).map_err(failed)?,
        }
        let mut payload = Vec::new();
        let len = u64::from(u32::from_le_bytes(len));
        // Read through `take`: a length is never trusted with an allocation.
        (&mut reader).take(len).read_to_end(&mut payload).map_err(failed)?;
        let entry = codec::decode(&Bytes::from(payload))
            .map_err(|error| RecoveryError::Checkpoint { index, error })?;
        ledger.apply(&entry);
    }
}
