//! From the data directory to a ledger.

use std::io::Read;
use std::ops::ControlFlow;

use bytes::Bytes;
use isthmus_cluster::raft::EntryKind;
use isthmus_cluster::{SingleOptions, StartError, Started};
use isthmus_core::codec::DecodeError;
use isthmus_core::{Ledger, codec};
use isthmus_storage::{Error as StorageError, SharedStorage, checkpoint};
use thiserror::Error;

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
    /// The log's thread did not start, or the vote could not be saved.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// What was recovered.
pub(crate) struct RecoveredLedger {
    pub(crate) ledger: Ledger,
    /// The last entry it holds.
    pub(crate) applied: u64,
    /// Bytes of the checkpoint it was made from; 0 if there was none.
    pub(crate) checkpoint_bytes: u64,
    /// Bytes of the entries that came after the checkpoint.
    pub(crate) log_bytes: u64,
    pub(crate) started: Started,
}

/// Opens the log and brings a ledger up to its last entry.
pub(crate) fn recover(
    storage: &SharedStorage,
    options: SingleOptions,
) -> Result<RecoveredLedger, RecoveryError> {
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
    let mut failed = None;
    started.reader().visit(applied + 1, last + 1, |meta, payload| {
        log_bytes += payload.len() as u64;
        // Who votes, and blank entries, are the consensus' own affair.
        if meta.kind != EntryKind::Normal as u8 {
            applied = meta.index;
            return ControlFlow::Continue(());
        }
        match codec::decode(&Bytes::copy_from_slice(payload)) {
            Ok(entry) => {
                ledger.apply(&entry);
                applied = meta.index;
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(RecoveryError::Entry { index: meta.index, error });
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(RecoveredLedger { ledger, applied, checkpoint_bytes, log_bytes, started })
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
