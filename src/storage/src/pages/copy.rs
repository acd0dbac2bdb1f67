//! Page files as they are, on their way to another node.

use super::{PageFile, file_name};
use crate::{
    error::{Error, Result},
    fs::{self, Pace, PacedWriter, SharedStorage},
};
use std::sync::Arc;

impl PageFile {
    /// Reads the bytes of the file from `offset` on into `buf`, as they are; returns how many there
    /// were. Whoever receives them verifies them.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn read_raw(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        fs::read_full_at(&*self.file, &self.name, buf, offset)
    }
}

/// Receives a page file. Unless it is finished, dropping it gives the space back.
pub struct PageReceiver {
    storage: SharedStorage,
    number: u64,
    writer: PacedWriter,
    is_finished: bool,
}

impl PageReceiver {
    /// Begins the page file `number`, in the place of one that has it: an earlier transfer that was
    /// broken off.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create(storage: &SharedStorage, number: u64, pace: Pace) -> Result<PageReceiver> {
        super::remove(&**storage, [number])?;
        let name = file_name(number);
        let created = storage.create(&name).map_err(|e| Error::io("create", &name, e))?;
        let writer = PacedWriter::new(created, name, pace);
        Ok(PageReceiver { storage: Arc::clone(storage), number, writer, is_finished: false })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.append(bytes)
    }

    /// Makes the content durable, and verifies every page. The name is durable once the directory
    /// is synced, as the checkpoint does that names the file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what has come is no whole page file, and what the operating system
    /// says.
    pub fn finish(mut self) -> Result<Arc<PageFile>> {
        self.writer.sync()?;
        let file = PageFile::open(&*self.storage, self.number)?;
        file.verify()?;
        self.is_finished = true;
        Ok(file)
    }
}

impl Drop for PageReceiver {
    fn drop(&mut self) {
        if !self.is_finished {
            // If that fails, the next start does it: no checkpoint names the file.
            drop(super::remove(&*self.storage, [self.number]));
        }
    }
}
