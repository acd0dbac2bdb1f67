//! The file system as storage needs it: one flat directory of files, read and written by offset.
//!
//! Everything else in this crate goes through [`Storage`], so the same code runs on real files
//! ([`RealStorage`]), on a simulated disk that loses, reorders and tears what was not synced
//! ([`SimStorage`]), and under a recorder whose recording can be replayed onto the simulated disk
//! and cut at any point ([`RecordingStorage`]). [`OverlayStorage`] lets recovery run on data that
//! must stay as it is.

mod overlay;
mod paced;
mod real;
mod recording;
mod sim;

use std::{fmt::Debug, io, sync::Arc};

pub use overlay::OverlayStorage;
pub use paced::Pace;
pub(crate) use paced::PacedWriter;
pub use real::RealStorage;
pub use recording::{Op, Recording, RecordingStorage};
pub use sim::{CountedOp, Fault, OpKind, Rng, SECTOR_BYTES, SimStorage, SyncSite};

use crate::error::{Error, Result};

/// A storage shared by log, checkpoints and pages.
pub type SharedStorage = Arc<dyn Storage>;

/// One directory of files. Names are flat: letters, digits, `-`, `_` and `.`.
///
/// A file operation is durable after [`File::sync_data`]; a creation, rename or removal is durable
/// after [`Storage::sync_dir`] and not before, whatever was synced in the file itself.
pub trait Storage: Send + Sync + 'static {
    /// Creates an empty file for reading and writing; fails with `AlreadyExists` if it is there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading and writing; fails with `NotFound` if it is not there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Renames a file, replacing what had the new name, in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Handles that are open keep working.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Takes the directory for this process until the guard is dropped; fails with `WouldBlock`
    /// if another has it.
    fn lock(&self) -> io::Result<Box<dyn Lock>>;
    /// An unpredictable number (a seeded one in simulation), for salting checksums.
    fn entropy(&self) -> u64;
    /// Where this is, for messages.
    fn location(&self) -> String;
}

/// An open file.
pub trait File: Send + Sync + Debug {
    /// Reads at `offset` into `buf`; returns the bytes read, 0 at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; may write less than asked, and returns how much.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes content and length durable. A failure means that unsynced data may be gone although
    /// it still reads back: never retry, never go on.
    fn sync_data(&self) -> io::Result<()>;
    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Extends the file to `len` bytes with zeros that are really written, so that later writes
    /// neither allocate nor change metadata.
    fn preallocate(&self, len: u64) -> io::Result<()>;
}

/// Holds a data directory for one process; dropping it lets go.
pub trait Lock: Send + Sync + Debug {}

impl<S: Storage + ?Sized> Storage for Arc<S> {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        (**self).create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        (**self).open(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (**self).rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        (**self).remove(name)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        (**self).list()
    }
    fn sync_dir(&self) -> io::Result<()> {
        (**self).sync_dir()
    }
    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        (**self).lock()
    }
    fn entropy(&self) -> u64 {
        (**self).entropy()
    }
    fn location(&self) -> String {
        (**self).location()
    }
}

/// Writes all of `buf`. A short write is continued: the kernel reports why it stopped, if it was
/// for a reason, on the next call.
pub(crate) fn write_all_at(file: &dyn File, name: &str, buf: &[u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset + done as u64;
        match file.write_at(&buf[done..], at) {
            Ok(0) => {
                return Err(Error::io_at("write", name, at, io::ErrorKind::WriteZero.into()));
            }
            Ok(n) => {
                assert!(n <= buf.len() - done, "a write reported more than it was given");
                done += n;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io_at("write", name, at, e)),
        }
    }
    Ok(())
}

/// Reads until `buf` is full or the file ends; returns the bytes read.
pub(crate) fn read_full_at(
    file: &dyn File,
    name: &str,
    buf: &mut [u8],
    offset: u64,
) -> Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => {
                assert!(n <= buf.len() - done, "a read reported more than was asked for");
                done += n;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io_at("read", name, offset + done as u64, e)),
        }
    }
    Ok(done)
}

/// Reads a whole file of ours, whose size we chose when we wrote it.
pub(crate) fn read_whole(file: &dyn File, name: &str) -> Result<Vec<u8>> {
    let size = file.size().map_err(|e| Error::io("measure", name, e))?;
    let size = usize::try_from(size).map_err(|_| Error::corrupt(name, 0, "larger than memory"))?;
    let mut bytes = vec![0; size];
    let read = read_full_at(file, name, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces `name` by `content` in one durable step: temporary file, sync, rename, directory sync.
pub(crate) fn replace(storage: &dyn Storage, name: &str, content: &[u8]) -> Result<()> {
    let temporary = format!("{name}.tmp");
    let file = create_temporary(storage, &temporary)?;
    write_all_at(&*file, &temporary, content, 0)?;
    file.sync_data().map_err(|e| Error::io("sync", &temporary, e))?;
    storage.rename(&temporary, name).map_err(|e| Error::io("rename", &temporary, e))?;
    sync_dir(storage)
}

/// Creates a temporary file, over one that a crash may have left.
pub(crate) fn create_temporary(storage: &dyn Storage, name: &str) -> Result<Arc<dyn File>> {
    match storage.create(name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            storage.remove(name).map_err(|e| Error::io("remove", name, e))?;
            storage.create(name).map_err(|e| Error::io("create", name, e))
        }
        other => other.map_err(|e| Error::io("create", name, e)),
    }
}

/// Syncs the directory.
pub(crate) fn sync_dir(storage: &dyn Storage) -> Result<()> {
    storage.sync_dir().map_err(|e| Error::io("sync directory", &storage.location(), e))
}
