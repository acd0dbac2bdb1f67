//! A file that is written once and read a few times, and that no start looks at.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use crate::{
    error::{Error, Result},
    fs::{self, File, SharedStorage},
};

/// A spool. Dropping it gives the space back.
#[derive(Debug)]
pub struct Spool {
    storage: SpoolStorage,
    name: &'static str,
    file: Arc<dyn File>,
    len: u64,
}

struct SpoolStorage(SharedStorage);

impl std::fmt::Debug for SpoolStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.location())
    }
}

impl Spool {
    /// An empty spool in the file `name`, in the place of one that a crash has left.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create(storage: &SharedStorage, name: &'static str) -> Result<Spool> {
        let file = fs::create_temporary(&**storage, name)?;
        Ok(Spool { storage: SpoolStorage(Arc::clone(storage)), name, file, len: 0 })
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("sync", self.name, e))
    }

    /// Reads what was written, from its beginning.
    pub fn read(&self) -> impl Read + use<> {
        SpoolReader { file: Arc::clone(&self.file), offset: 0, len: self.len }
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.len)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What is left over is written over by the next one.
        drop(self.storage.0.remove(self.name));
    }
}

struct SpoolReader {
    file: Arc<dyn File>,
    offset: u64,
    len: u64,
}

impl Read for SpoolReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len - self.offset).unwrap_or(usize::MAX);
        let most = buf.len().min(left);
        let read = self.file.read_at(&mut buf[..most], self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed test may panic
mod tests {
    use super::*;
    use crate::{SimStorage, fs::Storage};

    #[test]
    fn what_is_written_is_read_more_than_once_and_leaves_nothing() {
        let sim = SimStorage::new(1);
        let storage: SharedStorage = Arc::new(sim.clone());
        let mut spool = Spool::create(&storage, "spool.tmp").unwrap();
        spool.write_all(&[7; 100_000]).unwrap();
        spool.write_all(b"end").unwrap();
        spool.sync().unwrap();
        for _ in 0..2 {
            let mut read = Vec::new();
            spool.read().read_to_end(&mut read).unwrap();
            assert_eq!(read.len(), 100_003);
            assert!(read.ends_with(b"\x07end"));
        }
        drop(spool);
        assert_eq!(sim.list().unwrap(), [""; 0]);
    }
}
