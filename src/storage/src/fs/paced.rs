//! Writing a large file beside a log that syncs all the time.

use std::{sync::Arc, time::Duration};

use super::{File, write_all_at};
use crate::{
    error::{Error, Result},
    threads::{Stopwatch, rest},
};

/// How a large file is written, so that the log's own syncs on the same disk do not wait long.
///
/// What the kernel has not written yet when the sync comes is one long burst, and a sync of the
/// log that is asked for meanwhile stands behind it. So the file is synced every few MiB, and the
/// disk is left to others for a while in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Synced whenever this many bytes were written; 4 MiB by default. 0 is taken for 1.
    pub sync_bytes: u64,
    /// How long to rest behind each such sync, in percent of the time that writing and syncing
    /// took; 100 by default. 0 is as fast as the disk allows.
    pub rest_percent: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { sync_bytes: 4 << 20, rest_percent: 100 }
    }
}

/// Appends to a file at a [`Pace`].
#[derive(Debug)]
pub(crate) struct PacedWriter {
    file: Arc<dyn File>,
    name: String,
    pace: Pace,
    offset: u64,
    /// Bytes written since the last sync.
    unsynced: u64,
    /// How long writing and syncing them took.
    busy: Duration,
}

impl PacedWriter {
    /// Writes to the beginning of `file`, which is new.
    pub(crate) fn new(file: Arc<dyn File>, name: String, pace: Pace) -> Self {
        Self { file, name, pace, offset: 0, unsynced: 0, busy: Duration::ZERO }
    }

    /// The file written to.
    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The name of the file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the next byte will be.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes `bytes`, in pieces with syncs between them if they are many.
    pub(crate) fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        let limit = self.pace.sync_bytes.max(1);
        while !bytes.is_empty() {
            let room = usize::try_from(limit - self.unsynced).unwrap_or(usize::MAX);
            let (piece, left) = bytes.split_at(room.min(bytes.len()));
            let begun = Stopwatch::start();
            write_all_at(&*self.file, &self.name, piece, self.offset)?;
            self.offset += piece.len() as u64;
            self.unsynced += piece.len() as u64;
            bytes = left;
            let is_due = self.unsynced >= limit;
            if is_due {
                self.sync()?;
            }
            self.busy += begun.elapsed();
            if is_due {
                rest(self.busy * self.pace.rest_percent / 100);
                self.busy = Duration::ZERO;
            }
        }
        Ok(())
    }

    /// Makes durable what was written.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("sync", &self.name, e))?;
        self.unsynced = 0;
        Ok(())
    }
}
