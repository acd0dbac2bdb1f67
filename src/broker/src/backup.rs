//! A consistent copy of a running broker, in another directory.
//!
//! In one turn the ledger is copied, at the index of its last entry, and the page files that it
//! names are held. Everything else is written beside the broker, which goes on meanwhile:
//! 1. copies of the page files, which never change; one that is removed meanwhile can still be read;
//! 2. a checkpoint that has all bodies that are in no page, so that nothing of the log is needed;
//! 3. a log that is empty and begins behind the index.
//!
//! A broker that starts on the copy finds what was committed up to that index.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_storage::fs::Pace;
use isthmus_storage::pages::PageFile;
use isthmus_storage::threads::Threads;
use isthmus_storage::{Error as StorageError, Log, LogId, LogOptions, SharedStorage, checkpoint};
use thiserror::Error;
use tokio::sync::watch;

use crate::blocking::blocking;
use crate::checkpointer::{ENTRY_BYTES, write_entries};
use crate::driver::Driver;
use crate::pager::Pager;
use crate::shard::{Input, Snapshot};

/// Size of the copy's only segment, in bytes: it holds nothing, and the next one is as large as the
/// broker that starts on it wants.
const SEGMENT_BYTES: u64 = 64 << 10;

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The last entry of the log whose effects are in it.
    pub index: u64,
    /// Page files in it.
    pub page_files: u64,
    /// Bytes of page files and of the checkpoint.
    pub bytes: u64,
}

/// Why there is no backup.
#[derive(Debug, Error)]
pub enum BackupError {
    /// One at a time.
    #[error("another backup is being made; ask again when it has ended")]
    Busy,
    /// Nothing is committed yet, or not any more.
    #[error("the broker is starting or stopping; ask again")]
    Unavailable,
    /// What the directory of the copy says, or a page file that cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Makes backups, one at a time.
pub(crate) struct Backups {
    pager: Arc<Pager>,
    stop: watch::Receiver<bool>,
    is_busy: Arc<AtomicBool>,
    threads: Threads,
}

/// What a copy is made of.
pub(crate) struct Source {
    pub(crate) snapshot: Snapshot,
    /// The page files that the ledger names.
    pub(crate) files: Vec<Arc<PageFile>>,
}

/// Lets the next one begin when dropped.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Backups {
    pub(crate) fn new(pager: Arc<Pager>, stop: watch::Receiver<bool>, threads: Threads) -> Backups {
        Backups { pager, stop, is_busy: Arc::default(), threads }
    }

    /// Makes a copy in `target`, an empty directory.
    pub(crate) async fn make(
        &self,
        driver: &dyn Driver,
        target: SharedStorage,
    ) -> Result<Backup, BackupError> {
        if self.is_busy.swap(true, Ordering::Acquire) {
            return Err(BackupError::Busy);
        }
        let busy = Busy(Arc::clone(&self.is_busy));
        let source = hold(driver, &self.pager).await.ok_or(BackupError::Unavailable)?;
        let stop = self.stop.clone();
        let write = move || {
            // Also if whoever asked has gone: two never write at once.
            let _busy = busy;
            source.write(&target, &stop)
        };
        let written = blocking(&self.threads, "backup", write).await;
        written.unwrap_or(Err(BackupError::Unavailable))
    }
}

/// Copies the ledger and holds the files that it names: in one turn, for a round gives up files
/// that a later ledger does not name.
pub(crate) async fn hold(driver: &dyn Driver, pager: &Arc<Pager>) -> Option<Source> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let pager = Arc::clone(pager);
    driver.submit(Input::Inspect(Box::new(move |shard| {
        let source = shard.copy().map(|snapshot| {
            let files = pager.files(snapshot.ledger.page_files().into_keys());
            Source { snapshot, files }
        });
        // Whoever asked may have gone.
        tell.send(source).ok();
    })));
    told.await.ok()?
}

impl Source {
    fn write(
        &self,
        target: &SharedStorage,
        stop: &watch::Receiver<bool>,
    ) -> Result<Backup, BackupError> {
        let Snapshot { ledger, index, term } = &self.snapshot;
        // It takes the directory for itself.
        let options = LogOptions {
            segment_bytes: SEGMENT_BYTES,
            spares: 0,
            spares_max: 0,
            ..LogOptions::default()
        };
        let (mut log, _) = Log::open(Arc::clone(target), options)?;
        let mut bytes = 0;
        for file in &self.files {
            if *stop.borrow() {
                return Err(BackupError::Unavailable);
            }
            file.copy_to(&**target, Pace::default())?;
            bytes += file.bytes();
        }
        // Syncs the directory, and so the names of the page files as well.
        let entries = ledger.entries_without_log(ENTRY_BYTES);
        let content = |out: &mut dyn Write| write_entries(entries, out, stop);
        let meta = checkpoint::write(&**target, *index, *term, content)?;
        log.purge_to(LogId { term: *term, index: *index })?;
        log.close()?;
        bytes += meta.bytes;
        Ok(Backup { index: *index, page_files: self.files.len() as u64, bytes })
    }
}
