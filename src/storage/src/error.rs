//! What can go wrong, always with the file and the offset, and what to do about it.

use std::{fmt, io, sync::Arc};

/// The result of a storage operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the storage layer. Cheap to clone: a failed log hands the same error to everybody.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation. After a failed write or sync the log is over:
    /// what the kernel still holds is unknown, so the process must stop and recover from disk.
    #[error("cannot {action} {file}{}: {source}", At(*.offset))]
    Io {
        /// What was attempted, as a verb: "write", "sync".
        action: &'static str,
        /// Name of the file within the data directory.
        file: String,
        /// Byte offset within the file, where there is one.
        offset: Option<u64>,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// What was written and known to be durable does not read back. Nothing is cut or repaired.
    #[error(
        "{file} is damaged at offset {offset}: {reason}. Nothing was changed. Restore the data \
         directory from a backup, or move it away and let this node rejoin its cluster under a \
         new id"
    )]
    Corrupt {
        /// Name of the file within the data directory.
        file: String,
        /// Byte offset of the damage within the file.
        offset: u64,
        /// What was found there.
        reason: String,
    },
    /// The file was written by a release this build does not know.
    #[error(
        "{file} has format version {found}, this build knows version {supported}: start the \
         release that wrote it, or a newer one"
    )]
    UnknownVersion {
        /// Name of the file within the data directory.
        file: String,
        /// The version it states.
        found: String,
        /// The version this build reads and writes.
        supported: u32,
    },
    /// Another process has the data directory open.
    #[error("data directory {dir} is in use by another process: stop it first")]
    Locked {
        /// The directory.
        dir: String,
    },
    /// The entry asked for was purged; it lives on in a checkpoint only.
    #[error("entry {asked} was purged, the log begins after {purged}: read the checkpoint")]
    Purged {
        /// The index asked for.
        asked: u64,
        /// The last index that was purged.
        purged: u64,
    },
    /// The caller broke a rule of the interface; nothing was written.
    #[error("refused: {reason}")]
    Misuse {
        /// Which rule.
        reason: String,
    },
    /// The log writer's thread is gone, after a shutdown or a panic.
    #[error("the log writer has stopped")]
    Stopped,
}

impl Error {
    /// Wraps what the operating system said about `file`.
    pub(crate) fn io(action: &'static str, file: &str, source: io::Error) -> Self {
        Self::Io { action, file: file.to_owned(), offset: None, source: Arc::new(source) }
    }

    /// Wraps what the operating system said about `file` at `offset`.
    pub(crate) fn io_at(action: &'static str, file: &str, offset: u64, source: io::Error) -> Self {
        let offset = Some(offset);
        Self::Io { action, file: file.to_owned(), offset, source: Arc::new(source) }
    }

    /// Damage in `file` at `offset`.
    pub(crate) fn corrupt(file: &str, offset: u64, reason: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), offset, reason: reason.into() }
    }

    /// A broken rule of the interface.
    pub(crate) fn misuse(reason: impl Into<String>) -> Self {
        Self::Misuse { reason: reason.into() }
    }

    /// Whether the disk is full, which an operator mends by making room.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(libc::ENOSPC))
    }

    /// Whether the error leaves the log as it was, so that it may go on.
    pub(crate) fn is_harmless(&self) -> bool {
        matches!(self, Self::Misuse { .. } | Self::Purged { .. })
    }
}

struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " at offset {offset}"),
            None => Ok(()),
        }
    }
}
