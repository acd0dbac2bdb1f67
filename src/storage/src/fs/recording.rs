//! Records what is done to a storage, so that it can be done again to the simulated disk.

use std::{collections::BTreeMap, io, sync::Arc};

use parking_lot::Mutex;

use super::{File, Lock, SimStorage, Storage};

/// One recorded operation. Files are numbered in the order in which they were opened or created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A file was created.
    Create {
        /// Its number.
        file: u64,
        /// Its name then.
        name: String,
    },
    /// An existing file was opened.
    Open {
        /// The handle's number.
        file: u64,
        /// Its name then.
        name: String,
    },
    /// Bytes were written.
    Write {
        /// Where.
        file: u64,
        /// Offset in bytes.
        offset: u64,
        /// What, as far as the write got.
        bytes: Vec<u8>,
    },
    /// The file was extended with zeros to this length in bytes.
    Preallocate {
        /// Which.
        file: u64,
        /// The new length.
        len: u64,
    },
    /// The file was synced: what was written before this is durable.
    Sync {
        /// Which.
        file: u64,
    },
    /// A file was renamed.
    Rename {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
    /// A file was removed.
    Remove {
        /// Its name.
        name: String,
    },
    /// The directory was synced.
    SyncDir,
    /// Something failed, or a sync that did not return success: no effect on replay.
    Nothing,
    /// A remark of the test between the operations, such as the index reported durable.
    Note(u64),
}

/// A recording, shared between the recorder and whoever reads or annotates it.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Recording {
    /// Puts a remark between the operations.
    pub fn note(&self, value: u64) {
        self.push(Op::Note(value));
    }

    /// A copy of what was recorded so far.
    #[must_use]
    pub fn ops(&self) -> Vec<Op> {
        self.ops.lock().clone()
    }

    /// Does the recorded operations `ops` to a simulated disk.
    ///
    /// # Errors
    /// What the simulated disk says, such as a power cut scheduled on it.
    pub fn replay(ops: &[Op], onto: &SimStorage) -> io::Result<()> {
        let mut files: BTreeMap<u64, Arc<dyn File>> = BTreeMap::new();
        let missing = || io::Error::other("the recording uses a file that it never opened");
        for op in ops {
            match op {
                Op::Create { file, name } => {
                    files.insert(*file, onto.create(name)?);
                }
                Op::Open { file, name } => {
                    files.insert(*file, onto.open(name)?);
                }
                Op::Write { file, offset, bytes } => {
                    files.get(file).ok_or_else(missing)?.write_at(bytes, *offset)?;
                }
                Op::Preallocate { file, len } => {
                    files.get(file).ok_or_else(missing)?.preallocate(*len)?;
                }
                Op::Sync { file } => files.get(file).ok_or_else(missing)?.sync_data()?,
                Op::Rename { from, to } => onto.rename(from, to)?,
                Op::Remove { name } => onto.remove(name)?,
                Op::SyncDir => onto.sync_dir()?,
                Op::Nothing | Op::Note(_) => {}
            }
        }
        Ok(())
    }

    fn push(&self, op: Op) {
        self.ops.lock().push(op);
    }

    /// Records a sync at the moment it starts, because it covers only what was written before
    /// that; strikes it out again if it fails.
    fn sync(&self, op: Op, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let at = {
            let mut ops = self.ops.lock();
            ops.push(op);
            ops.len() - 1
        };
        let result = run();
        if result.is_err() {
            self.ops.lock()[at] = Op::Nothing;
        }
        result
    }
}

/// Records what is done to the storage `S`.
#[derive(Debug)]
pub struct RecordingStorage<S> {
    inner: S,
    recording: Recording,
    files: Mutex<u64>,
}

impl<S: Storage> RecordingStorage<S> {
    /// Starts recording what is done to `inner` from now on.
    #[must_use]
    pub fn new(inner: S) -> Self {
        Self { inner, recording: Recording::default(), files: Mutex::new(0) }
    }

    /// The recording, which goes on while this storage is used.
    #[must_use]
    pub fn recording(&self) -> Recording {
        self.recording.clone()
    }

    fn wrap(&self, inner: Arc<dyn File>, op: impl FnOnce(u64) -> Op) -> Arc<dyn File> {
        let mut files = self.files.lock();
        *files += 1;
        self.recording.push(op(*files));
        Arc::new(RecordingFile { inner, number: *files, recording: self.recording.clone() })
    }
}

impl<S: Storage> Storage for RecordingStorage<S> {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let inner = self.inner.create(name)?;
        Ok(self.wrap(inner, |file| Op::Create { file, name: name.to_owned() }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let inner = self.inner.open(name)?;
        Ok(self.wrap(inner, |file| Op::Open { file, name: name.to_owned() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)?;
        self.recording.push(Op::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)?;
        self.recording.push(Op::Remove { name: name.to_owned() });
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.recording.sync(Op::SyncDir, || self.inner.sync_dir())
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.inner.lock()
    }

    fn entropy(&self) -> u64 {
        self.inner.entropy()
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

#[derive(Debug)]
struct RecordingFile {
    inner: Arc<dyn File>,
    number: u64,
    recording: Recording,
}

impl File for RecordingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let written = self.inner.write_at(buf, offset)?;
        let bytes = buf[..written].to_vec();
        self.recording.push(Op::Write { file: self.number, offset, bytes });
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.recording.sync(Op::Sync { file: self.number }, || self.inner.sync_data())
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.inner.preallocate(len)?;
        self.recording.push(Op::Preallocate { file: self.number, len });
        Ok(())
    }
}
