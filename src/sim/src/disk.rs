//! A disk that is slow from time to time, or loses what it had synced.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use isthmus_storage::SimStorage;
use isthmus_storage::fs::{File, Lock, Storage};
use isthmus_storage::threads::{Simulation, pause};
use parking_lot::Mutex;

/// Where the records of a segment begin, in bytes.
const SEGMENT_HEADER: usize = 4 << 10;

/// Until when a disk is slow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slowness(Arc<Mutex<Duration>>);

impl Slowness {
    /// Nothing gets done before `until` in virtual time.
    pub(crate) fn set(&self, until: Duration) {
        *self.0.lock() = until;
    }
}

/// A simulated disk that keeps whoever syncs waiting when it is slow.
#[derive(Clone, Debug)]
pub(crate) struct SlowDisk {
    pub(crate) disk: SimStorage,
    pub(crate) slowness: Slowness,
    pub(crate) simulation: Simulation,
}

impl SlowDisk {
    fn wait(&self) {
        // Each pause is a moment of virtual time on a simulated thread, and nothing on another.
        for _ in 0..1_000 {
            if self.simulation.now() >= *self.slowness.0.lock() {
                return;
            }
            pause();
        }
    }
}

impl Storage for SlowDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.disk.create(name)?;
        Ok(Arc::new(SlowFile { file, disk: self.clone() }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.disk.open(name)?;
        Ok(Arc::new(SlowFile { file, disk: self.clone() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.wait();
        self.disk.sync_dir()
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.disk.lock()
    }

    fn entropy(&self) -> u64 {
        self.disk.entropy()
    }

    fn location(&self) -> String {
        self.disk.location()
    }
}

#[derive(Debug)]
struct SlowFile {
    file: Arc<dyn File>,
    disk: SlowDisk,
}

impl File for SlowFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.wait();
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.file.preallocate(len)
    }
}

/// Zeroes the last `bytes` of the log, or what there is of them in its last segment, as if the disk had
/// never written them. Where it did.
pub(crate) fn lose_tail(disk: &SimStorage, bytes: u64) -> Option<(String, usize)> {
    let names = disk.list().unwrap_or_default();
    let ends = |name: String| {
        let contents = disk.contents(&name)?;
        let end = contents.iter().rposition(|byte| *byte != 0)? + 1;
        (end > SEGMENT_HEADER).then_some((name, end))
    };
    let segments = names.into_iter().filter(|name| name.starts_with("log-"));
    let (name, end) = segments.filter_map(ends).max()?;
    let from = end.saturating_sub(bytes as usize).max(SEGMENT_HEADER);
    disk.overwrite(&name, from as u64, &vec![0; end - from]);
    Some((name, from))
}
