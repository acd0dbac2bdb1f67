//! Segments that wait for use: recycled ones, and new ones filled with zeros.
//!
//! Writing into a file whose blocks are there and written costs one sync without metadata; a file
//! that grows costs more than twice that. So spares are made ahead, by whoever has time, and the
//! append path only renames one.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    fs::{File, SharedStorage, create_temporary},
    threads::{Stopwatch, rest},
};

/// Zeros written between two rests, in bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// A file of a segment's size without live content.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
}

#[derive(Debug, Default)]
struct Pool {
    ready: VecDeque<Spare>,
    /// Spares being made now, by other threads.
    coming: usize,
    next_number: u64,
}

/// Makes spare segments; a clone can be used on another thread while the log is written.
#[derive(Clone)]
pub struct Spares {
    storage: SharedStorage,
    segment_bytes: u64,
    /// As many are made ahead.
    wanted: usize,
    /// More than these are removed instead of kept.
    kept_max: usize,
    pool: Arc<Mutex<Pool>>,
}

impl std::fmt::Debug for Spares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spares").field("ready", &self.ready()).finish_non_exhaustive()
    }
}

fn spare_name(number: u64) -> String {
    format!("spare-{number:016x}.seg")
}

/// Whether the file is a spare, finished or not.
pub(crate) fn is_spare_name(name: &str) -> bool {
    name.starts_with("spare-") && (name.ends_with(".seg") || name.ends_with(".seg.tmp"))
}

impl Spares {
    pub(crate) fn new(
        storage: SharedStorage,
        segment_bytes: u64,
        wanted: usize,
        kept_max: usize,
    ) -> Self {
        let pool = Arc::default();
        Self { storage, segment_bytes, wanted, kept_max: kept_max.max(wanted), pool }
    }

    /// How many spares are ready: the reserve that remains when the disk fills.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.pool.lock().ready.len()
    }

    /// Makes one spare if there are fewer than wanted. Returns whether it made one.
    ///
    /// # Errors
    /// What the operating system says, such as a full disk. Nothing is lost by that, and it may be
    /// tried again later.
    pub fn prepare(&self) -> Result<bool> {
        let name = {
            let mut pool = self.pool.lock();
            if pool.ready.len() + pool.coming >= self.wanted {
                return Ok(false);
            }
            pool.coming += 1;
            pool.next_number += 1;
            spare_name(pool.next_number)
        };
        let made = self.make(&name);
        let mut pool = self.pool.lock();
        pool.coming -= 1;
        pool.ready.push_back(Spare { name, file: made? });
        Ok(true)
    }

    fn make(&self, name: &str) -> Result<Arc<dyn File>> {
        let temporary = format!("{name}.tmp");
        let file = create_temporary(&*self.storage, &temporary)?;
        let filled = self.fill(&*file, &temporary).and_then(|()| {
            let renamed = self.storage.rename(&temporary, name);
            renamed.map_err(|e| Error::io("rename", &temporary, e))
        });
        if let Err(e) = filled {
            // Gives the space back to a full disk. If even that fails, the next start does it.
            drop(self.storage.remove(&temporary));
            return Err(e);
        }
        Ok(file)
    }

    /// Fills a file with zeros piece by piece, and leaves the disk to others for as long as each
    /// piece took: one large write would hold up the log's syncs for half a second.
    ///
    /// Each piece is synced, so that the first sync of the segment has none of the zeros to write.
    fn fill(&self, file: &dyn File, name: &str) -> Result<()> {
        let mut filled = 0;
        while filled < self.segment_bytes {
            let begun = Stopwatch::start();
            filled = (filled + PIECE_BYTES).min(self.segment_bytes);
            file.preallocate(filled).map_err(|e| Error::io("preallocate", name, e))?;
            file.sync_data().map_err(|e| Error::io("sync", name, e))?;
            if filled < self.segment_bytes {
                rest(begun.elapsed());
            }
        }
        Ok(())
    }

    /// Takes a spare for use, or creates an empty file if there is none.
    pub(crate) fn take(&self) -> Result<Spare> {
        let number = {
            let mut pool = self.pool.lock();
            if let Some(spare) = pool.ready.pop_front() {
                return Ok(spare);
            }
            pool.next_number += 1;
            pool.next_number
        };
        let name = spare_name(number);
        let file = self.storage.create(&name).map_err(|e| Error::io("create", &name, e))?;
        Ok(Spare { name, file })
    }

    /// Takes over a file found at the start under a spare's name.
    pub(crate) fn adopt(&self, name: &str) -> Result<()> {
        if let Some(digits) = name.strip_prefix("spare-").and_then(|n| n.get(..16))
            && let Ok(number) = u64::from_str_radix(digits, 16)
        {
            let mut pool = self.pool.lock();
            pool.next_number = pool.next_number.max(number);
        }
        if name.ends_with(".tmp") {
            return self.remove(name);
        }
        let file = self.storage.open(name).map_err(|e| Error::io("open", name, e))?;
        if self.is_full(&*file, name)? && self.keep_one_more() {
            self.pool.lock().ready.push_back(Spare { name: name.to_owned(), file });
            return Ok(());
        }
        self.remove(name)
    }

    /// Renames segments that hold nothing live to spares, or removes those that are of the wrong
    /// size, too many or still being read.
    ///
    /// The new names are made durable before a spare may be taken: otherwise a power cut could
    /// bring back the old name with the header of the file's next life in it.
    pub(crate) fn recycle(&self, retired: Vec<(String, Arc<dyn File>, bool)>) -> Result<()> {
        let mut renamed = Vec::new();
        for (name, file, still_read) in retired {
            let room = self.pool.lock().ready.len() + renamed.len() < self.kept_max;
            if still_read || !room || !self.is_full(&*file, &name)? {
                self.remove(&name)?;
                continue;
            }
            let number = {
                let mut pool = self.pool.lock();
                pool.next_number += 1;
                pool.next_number
            };
            let spare = spare_name(number);
            self.storage.rename(&name, &spare).map_err(|e| Error::io("rename", &name, e))?;
            renamed.push(Spare { name: spare, file });
        }
        crate::fs::sync_dir(&*self.storage)?;
        self.pool.lock().ready.extend(renamed);
        Ok(())
    }

    fn keep_one_more(&self) -> bool {
        self.pool.lock().ready.len() < self.kept_max
    }

    fn is_full(&self, file: &dyn File, name: &str) -> Result<bool> {
        let size = file.size().map_err(|e| Error::io("measure", name, e))?;
        Ok(size == self.segment_bytes)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.storage.remove(name).map_err(|e| Error::io("remove", name, e))
    }
}
