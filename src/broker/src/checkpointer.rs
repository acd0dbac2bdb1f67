//! Keeping the log short: from time to time what the ledger holds is written as a checkpoint, and
//! the log forgets what came before.

use std::io::{self, Write};
use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use isthmus_core::{Ledger, codec};
use isthmus_storage::{Error, SharedStorage, checkpoint};
use tokio::sync::Notify;

use crate::driver::Driver;
use crate::shard::Input;

/// How often it is asked whether a checkpoint is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Bytes of bodies in one entry of a checkpoint, about.
const ENTRY_BYTES: u64 = 1 << 20;

/// Writes a checkpoint whenever `after_bytes` (at the least) have gone into the log since the
/// last one, until the driver is gone or `stop` is notified.
pub(crate) async fn run(
    driver: Weak<dyn Driver>,
    storage: SharedStorage,
    after_bytes: u64,
    stop: Arc<Notify>,
) {
    let mut due = after_bytes;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.notified() => return,
        }
        let Some(driver) = driver.upgrade() else { return };
        let Some((ledger, index)) = snapshot(&driver, due).await else { continue };
        let storage = storage.clone();
        let written = tokio::task::spawn_blocking(move || write(&storage, &ledger, index)).await;
        match written {
            Ok(Ok((bytes, term))) => {
                tracing::debug!(index, bytes, "checkpoint");
                // A checkpoint holds all survivors: with a large backlog it is worth its I/O
                // only after as much has gone into the log.
                due = after_bytes.max(bytes);
                driver.submit(Input::Inspect(Box::new(move |shard| shard.purge_log(index, term))));
            }
            Ok(Err(error)) => {
                // The log still holds everything; the next one may have the room it needs.
                tracing::error!(%error, "no checkpoint was written, the log goes on growing");
            }
            Err(_) => return,
        }
    }
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
fn write(storage: &SharedStorage, ledger: &Ledger, index: u64) -> Result<(u64, u64), Error> {
    let term = ledger.term();
    let meta = checkpoint::write(&**storage, index, term, |out| write_entries(ledger, out))?;
    Ok((meta.bytes, term))
}

fn write_entries(ledger: &Ledger, out: &mut dyn Write) -> io::Result<()> {
    let mut payload = Vec::new();
    for entry in ledger.entries(ENTRY_BYTES) {
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
    inspect: impl FnOnce(&mut crate::Shard) -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = mpsc::sync_channel(1);
    driver.submit(Input::Inspect(Box::new(move |shard| drop(tell.send(inspect(shard))))));
    told.recv().ok()
}
