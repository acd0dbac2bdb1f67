//! A directory that is looked at as if it were opened for writing.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{File, Lock, SharedStorage, Storage};

/// What is written is kept in pieces of this size, in bytes.
const BLOCK_BYTES: usize = 4096;

/// Another storage, in which nothing is changed: what is written stays in memory, and is gone with
/// this. So recovery itself can be run on data that must stay as it is.
///
/// The lock of the storage below is for the caller to hold.
#[derive(Debug, Clone)]
pub struct OverlayStorage {
    below: Arc<Below>,
}

struct Below {
    storage: SharedStorage,
    /// Files that were opened, and `None` for those that were removed or renamed.
    files: Mutex<BTreeMap<String, Option<Arc<OverlayFile>>>>,
}

impl std::fmt::Debug for Below {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Below").field("location", &self.storage.location()).finish_non_exhaustive()
    }
}

impl OverlayStorage {
    /// Over `storage`, which should not change meanwhile.
    #[must_use]
    pub fn new(storage: SharedStorage) -> Self {
        Self { below: Arc::new(Below { storage, files: Mutex::default() }) }
    }

    fn find(&self, name: &str) -> io::Result<Arc<OverlayFile>> {
        let mut files = lock(&self.below.files);
        match files.get(name) {
            Some(Some(file)) => return Ok(Arc::clone(file)),
            Some(None) => return Err(io::ErrorKind::NotFound.into()),
            None => {}
        }
        let below = self.below.storage.open(name)?;
        let len = below.size()?;
        let state = State { len, below_len: len, blocks: BTreeMap::new() };
        let file = Arc::new(OverlayFile { below: Some(below), state: Mutex::new(state) });
        files.insert(name.to_owned(), Some(Arc::clone(&file)));
        Ok(file)
    }
}

/// Nothing that is held here can be half-way when a thread panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Storage for OverlayStorage {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        match self.find(name) {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let file = Arc::new(OverlayFile { below: None, state: Mutex::default() });
        lock(&self.below.files).insert(name.to_owned(), Some(Arc::clone(&file)));
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.find(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.find(from)?;
        let mut files = lock(&self.below.files);
        files.insert(from.to_owned(), None);
        files.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.find(name)?;
        lock(&self.below.files).insert(name.to_owned(), None);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.below.storage.list()?;
        let files = lock(&self.below.files);
        names.retain(|name| !files.contains_key(name));
        names.extend(files.iter().filter(|(_, file)| file.is_some()).map(|(name, _)| name.clone()));
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        Ok(Box::new(NoLock))
    }

    fn entropy(&self) -> u64 {
        self.below.storage.entropy()
    }

    fn location(&self) -> String {
        self.below.storage.location()
    }
}

#[derive(Debug)]
struct NoLock;

impl Lock for NoLock {}

#[derive(Debug, Default)]
struct State {
    len: u64,
    /// What of the file below shows through.
    below_len: u64,
    /// Blocks that were written to, by their numbers.
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
}

#[derive(Debug)]
struct OverlayFile {
    below: Option<Arc<dyn File>>,
    state: Mutex<State>,
}

impl OverlayFile {
    /// Reads what is below, and zeros behind its end.
    fn read_below(&self, state: &State, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.fill(0);
        let shown = state.below_len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while let Some(below) = self.below.as_ref().filter(|_| done < shown) {
            match below.read_at(&mut buf[done..shown], offset + done as u64)? {
                0 => break,
                read => done += read,
            }
        }
        Ok(())
    }
}

impl File for OverlayFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = lock(&self.state);
        let len = state.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        if len == 0 {
            return Ok(0);
        }
        let (block, within) = (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
        if let Some(bytes) = state.blocks.get(&block) {
            let len = len.min(BLOCK_BYTES - within);
            buf[..len].copy_from_slice(&bytes[within..within + len]);
            return Ok(len);
        }
        // Up to the next block that was written to.
        let next = state.blocks.range(block..).next().map(|(next, _)| next * BLOCK_BYTES as u64);
        let len = next.map_or(len, |next| (next - offset).min(len as u64) as usize);
        self.read_below(&state, &mut buf[..len], offset)?;
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = lock(&self.state);
        let (block, within) = (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
        let len = buf.len().min(BLOCK_BYTES - within);
        let mut bytes = match state.blocks.remove(&block) {
            Some(bytes) => bytes,
            None => {
                let mut bytes = Box::new([0; BLOCK_BYTES]);
                self.read_below(&state, &mut bytes[..], block * BLOCK_BYTES as u64)?;
                bytes
            }
        };
        bytes[within..within + len].copy_from_slice(&buf[..len]);
        state.blocks.insert(block, bytes);
        state.len = state.len.max(offset + len as u64);
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.state).len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.len = state.len.max(len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{SimStorage, read_whole, write_all_at};

    #[test]
    fn what_is_written_is_read_back_and_nothing_below_has_changed() {
        let below = SimStorage::new(1);
        let content: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        for name in ["kept", "renamed", "removed"] {
            let file = below.create(name).expect("created");
            write_all_at(&*file, name, &content, 0).expect("written");
        }
        let over = OverlayStorage::new(Arc::new(below.clone()));
        let file = over.open("kept").expect("there");
        write_all_at(&*file, "kept", &[255; 5000], 4000).expect("written");
        write_all_at(&*file, "kept", &[7; 10], 20_000).expect("written");
        let mut expected = content.clone();
        expected[4000..9000].fill(255);
        expected.resize(20_000, 0);
        expected.extend([7; 10]);
        let again = over.open("kept").expect("there");
        assert_eq!(read_whole(&*again, "kept").expect("read"), expected);
        over.rename("renamed", "new").expect("renamed");
        over.remove("removed").expect("removed");
        assert!(over.create("kept").is_err());
        over.create("made").expect("created").preallocate(9000).expect("longer");
        assert_eq!(over.open("made").and_then(|file| file.size()).expect("there"), 9000);
        assert_eq!(over.list().expect("listed"), ["kept", "made", "new"]);
        assert!(over.open("removed").is_err());
        assert_eq!(below.list().expect("listed"), ["kept", "removed", "renamed"]);
        assert_eq!(below.contents("kept"), Some(content));
    }
}
