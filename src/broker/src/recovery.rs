//! From the data directory to a ledger.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::ControlFlow;

use bytes::Bytes;
use isthmus_cluster::raft::EntryKind;
use isthmus_cluster::{SingleOptions, StartError, Started};
use isthmus_core::codec::DecodeError;
use isthmus_core::{Entry, Ledger, codec};
use isthmus_storage::damage::NOTE_NAME;
use isthmus_storage::{Error as StorageError, Extent, SharedStorage, checkpoint, pages};
use thiserror::Error;

use crate::noted;
use crate::pager::Pager;

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
    pub(crate) applied: u64,
    /// Bytes of the checkpoint it was made from; 0 if there was none.
    pub(crate) checkpoint_bytes: u64,
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
    pub(crate) started: Started,
}

/// A ledger as the log leaves it, whose pages were not looked at.
pub(crate) struct ReadLedger {
    pub(crate) ledger: Ledger,
    /// The last entry it holds.
    pub(crate) applied: u64,
    /// Bytes of the checkpoint it was made from; 0 if there was none.
    checkpoint_bytes: u64,
    /// The index of the checkpoint; 0 if there was none.
    checkpoint: u64,
    /// Bytes of the entries that came after it.
    log_bytes: u64,
    started: Started,
}

/// Opens the log and brings a ledger up to its last entry, with the pages that it needs, of which
/// `verified_bytes` are verified.
pub(crate) fn recover(
    storage: &SharedStorage,
    options: SingleOptions,
    verified_bytes: u64,
) -> Result<RecoveredLedger, RecoveryError> {
    let read = read_ledger(storage, options)?;
    let ReadLedger { ledger, applied, checkpoint_bytes, checkpoint, log_bytes, started } = read;
    let (pager, verified, next_file) = open_pages(storage, &ledger, verified_bytes)?;
    let extents = started.recovered().extents.clone();
    let log_bytes = log_bytes.max(bytes_behind(&extents, checkpoint));
    Ok(RecoveredLedger {
        ledger,
        applied,
        checkpoint_bytes,
        extents,
        log_bytes,
        pager,
        verified,
        next_file,
        started,
    })
}

/// Opens the log and brings a ledger up to its last entry.
pub(crate) fn read_ledger(
    storage: &SharedStorage,
    options: SingleOptions,
) -> Result<ReadLedger, RecoveryError> {
    let started = Started::open(SharedStorage::clone(storage), options)?;
    let mut ledger = Ledger::new();
    let (mut applied, mut checkpoint_bytes, mut log_bytes) = (0, 0, 0);
    if let Some(reader) = checkpoint::open_latest(&**storage)? {
        (applied, checkpoint_bytes) = (reader.meta().index, reader.meta().bytes);
        read_checkpoint(reader, applied, &mut ledger)?;
    }
    let recovered = started.recovered();
    if recovered.purged.index > applied {
        return Err(RecoveryError::Gap { first: recovered.purged.index + 1, checkpoint: applied });
    }
    let last = recovered.last.index;
    if last < applied {
        return Err(RecoveryError::Short { last, checkpoint: applied });
    }
    if let Some(from) = ledger.awaited_from().filter(|from| *from > recovered.purged.index) {
        visit(&started, from, applied, |index, _, entry| ledger.recall(index, &entry))?;
    }
    let index = applied;
    ledger.restored().map_err(|what| RecoveryError::Missing { index, what })?;
    visit(&started, applied + 1, last, |index, bytes, entry| {
        log_bytes += bytes;
        ledger.apply_at(index, &entry);
    })?;
    let (checkpoint, applied) = (applied, last);
    Ok(ReadLedger { ledger, applied, checkpoint_bytes, checkpoint, log_bytes, started })
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
    verified_bytes: u64,
) -> Result<(Pager, BTreeSet<u64>, u64), RecoveryError> {
    let needed = ledger.page_files();
    let mut verified = noted::verify(storage, ledger)?;
    let pager = Pager::open(storage, needed.keys().copied())?;
    verified.extend(pager.verify(verified_bytes)?);
    let files = pages::list(&**storage)?;
    let next_file = files.last().map_or(1, |last| last + 1);
    let left_over = files.into_iter().filter(|file| !needed.contains_key(file));
    pages::remove(&**storage, left_over.collect::<Vec<u64>>())?;
    Ok((pager, verified, next_file))
}

/// Reads entries of the log from `from` to `last`: index, bytes, and what is in it. Who votes, and
/// blank entries, are the consensus' own affair.
fn visit(
    started: &Started,
    from: u64,
    last: u64,
    mut each: impl FnMut(u64, u64, Entry),
) -> Result<(), RecoveryError> {
    let mut failed = None;
    started.reader().visit(from, last + 1, |meta, payload| {
        if meta.kind != EntryKind::Normal as u8 {
            return ControlFlow::Continue(());
        }
        match codec::decode(&Bytes::copy_from_slice(payload)) {
            Ok(entry) => {
                each(meta.index, payload.len() as u64, entry);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(RecoveryError::Entry { index: meta.index, error });
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// Reads the entries of a checkpoint: each behind its length, four bytes, low ones first.
fn read_checkpoint(
    mut reader: impl Read,
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
