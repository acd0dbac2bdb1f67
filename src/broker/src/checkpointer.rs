//! Keeping the log short: from time to time what the ledger holds is written as a checkpoint, and
//! the log forgets what came before.

use std::io::{self, Write};
use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use isthmus_core::{Ledger, codec};
use isthmus_storage::{Error, SharedStorage, checkpoint};
use tokio::sync::watch;

use crate::broker::OnFailure;
use crate::driver::Driver;
use crate::shard::{Input, Shard};

/// How often it is asked whether a checkpoint is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Bytes of bodies in one entry of a checkpoint, about.
const ENTRY_BYTES: u64 = 1 << 20;

/// What the checkpointer works with.
pub(crate) struct Checkpointer {
    pub(crate) driver: Weak<dyn Driver>,
    pub(crate) storage: SharedStorage,
    /// A checkpoint is written whenever this has gone into the log since the last one, or as much
    /// as the last one was, if that is more.
    pub(crate) after_bytes: u64,
    /// Bytes of the checkpoint there is.
    pub(crate) last_bytes: u64,
    /// True once the broker stops; gone if it was dropped.
    pub(crate) stop: watch::Receiver<bool>,
    /// Called if the disk cannot be relied on any more.
    pub(crate) on_failure: Arc<OnFailure>,
    /// Dropped at the end, when nothing is written any more.
    pub(crate) running: mpsc::Sender<()>,
}

impl Checkpointer {
    /// Works until the driver is gone or the broker stops.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = self.stop.wait_for(|stop| *stop) => return,
            }
            // A checkpoint holds all survivors: with a large backlog it is worth its I/O only
            // after as much has gone into the log.
            let due = self.after_bytes.max(self.last_bytes);
            let Some(driver) = self.driver.upgrade() else { return };
            let Some((ledger, index)) = snapshot(&driver, due).await else { continue };
            drop(driver);
            let (storage, stop) = (self.storage.clone(), self.stop.clone());
            // Not given up before it has ended, also if this task is.
            let running = self.running.clone();
            let written = tokio::task::spawn_blocking(move || {
                let written = write(&storage, &ledger, index, &stop);
                drop(running);
                written
            });
            match written.await {
                Ok(Ok((bytes, term))) => {
                    tracing::debug!(index, bytes, "checkpoint");
                    self.last_bytes = bytes;
                    let Some(driver) = self.driver.upgrade() else { return };
                    let purge = move |shard: &mut Shard| shard.purge_log(index, term);
                    driver.submit(Input::Inspect(Box::new(purge)));
                }
                Ok(Err(_)) if *self.stop.borrow() => return,
                Ok(Err(error)) if is_final(&error) => return self.fail(error),
                Ok(Err(error)) => {
                    // The log still holds everything; the next one may have the room it needs.
                    tracing::error!(%error, "no checkpoint was written, the log goes on growing");
                }
                Err(_) => return,
            }
        }
    }

    /// The disk has failed: nothing is confirmed any more.
    fn fail(self, error: Error) {
        let Some(driver) = self.driver.upgrade() else { return };
        driver.submit(Input::Inspect(Box::new(move |shard| {
            shard.fail();
            self.on_failure.call(error);
        })));
    }
}

/// Whether nothing can be relied on after `error`: what a failed sync was to make durable may be
/// lost and count as clean, and the directory is the log's as well. A full disk loses nothing but
/// the checkpoint.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Io { action: "sync" | "sync directory", .. }) && !error.is_disk_full()
}

async fn snapshot(driver: &Arc<dyn Driver>, bytes_min: u64) -> Option<(Ledger, u64)> {
    let (tell, told) = tokio::sync::oneshot::channel();
    driver.submit(Input::Inspect(Box::new(move |shard| {
        // Nobody listens any more only if this task is gone.
        drop(tell.send(shard.snapshot_if_due(bytes_min)));
    })));
    told.await.ok().flatten()
}

/// Writes the checkpoint; returns its size in bytes and the term of its last entry.
fn write(
    storage: &SharedStorage,
    ledger: &Ledger,
    index: u64,
    stop: &watch::Receiver<bool>,
) -> Result<(u64, u64), Error> {
    let term = ledger.term();
    let content = |out: &mut dyn Write| write_entries(ledger, out, stop);
    let meta = checkpoint::write(&**storage, index, term, content)?;
    Ok((meta.bytes, term))
}

fn write_entries(
    ledger: &Ledger,
    out: &mut dyn Write,
    stop: &watch::Receiver<bool>,
) -> io::Result<()> {
    let mut payload = Vec::new();
    for entry in ledger.entries(ENTRY_BYTES) {
        if *stop.borrow() {
            return Err(io::Error::other("the broker stops"));
        }
        payload.clear();
        codec::encode(&entry, &mut payload);
        let len = u32::try_from(payload.len())
            .map_err(|_| io::Error::other("an entry of a checkpoint is larger than 4 GiB"))?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(&payload)?;
    }
    Ok(())
}

/// Runs `inspect` on the shard and waits for what it says; from a thread that may block.
pub(crate) fn ask<T: Send + 'static>(
    driver: &dyn Driver,
    inspect: impl FnOnce(&mut Shard) -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = mpsc::sync_channel(1);
    driver.submit(Input::Inspect(Box::new(move |shard| drop(tell.send(inspect(shard))))));
    told.recv().ok()
}
