//! A disk in memory that behaves as badly as a real one is allowed to.
//!
//! What was written is read back at once, as from a page cache, but is on the platter only after a
//! sync of the file; a name is there only after a sync of the directory. [`SimStorage::crash`]
//! yields the disk after a power cut: each unsynced write may be there, be lost, or be torn
//! between sectors, in any order; unsynced directory operations may be lost. A sync that fails
//! drops dirty data from the platter's view while it still reads back, as Linux does.
//!
//! Every operation that changes something is numbered, and a [`Fault`] can be put on a number. The
//! same seed and the same calls give the same disk; [`SimStorage::digest`] tells whether two were
//! used alike. Before each operation a [simulated thread](crate::threads) lets others go first.

mod disk;

use std::{fmt, io, sync::Arc};

use parking_lot::Mutex;

use self::disk::{Disk, InodeId};
use super::{File, Lock, Storage};
use crate::threads::pause;

pub use self::disk::{CountedOp, Fault, OpKind, SyncSite};

/// What a disk writes in one piece, in bytes: a torn write is cut between two of these.
pub const SECTOR_BYTES: usize = 512;

/// A small seeded generator (SplitMix64), so that a seed replays on every machine and release.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator that gives the same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0 if the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A simulated disk. Clones share it, as processes on one machine share a disk.
#[derive(Clone)]
pub struct SimStorage {
    disk: Arc<Mutex<Disk>>,
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStorage").field("operations", &self.operations()).finish()
    }
}

impl SimStorage {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { disk: Arc::new(Mutex::new(Disk::new(seed))) }
    }

    /// The disk after a power cut now. This disk stays as it is.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        Self { disk: Arc::new(Mutex::new(self.disk.lock().crash(seed))) }
    }

    /// A copy of the disk as it is, unsynced data included, with nothing scheduled.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { disk: Arc::new(Mutex::new(self.disk.lock().fork())) }
    }

    /// Schedules `fault` for operation `number`, counted from 0 since the disk was made.
    pub fn inject(&self, number: u64, fault: Fault) {
        self.disk.lock().faults.insert(number, fault);
    }

    /// What was scheduled and has not happened does not happen any more.
    pub fn forget_faults(&self) {
        let mut disk = self.disk.lock();
        disk.faults.clear();
        disk.read_faults.clear();
    }

    /// Schedules EIO for the read with this number, counted from 0 since the disk was made.
    pub fn inject_read_error(&self, number: u64) {
        self.disk.lock().read_faults.insert(number);
    }

    /// Makes every sync for which `ignored` says so return success and do nothing: the bug that a
    /// test of the tests plants.
    pub fn ignore_syncs(&self, ignored: impl Fn(&SyncSite<'_>) -> bool + Send + 'static) {
        self.disk.lock().ignored_syncs = Some(Box::new(ignored));
    }

    /// How many operations that change something were asked for so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// How many reads were asked for so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.disk.lock().reads
    }

    /// A number for all that was asked of the disk so far, reads included, in its order.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.disk.lock().digest
    }

    /// All operations so far, by number.
    #[must_use]
    pub fn trace(&self) -> Vec<CountedOp> {
        self.disk.lock().trace.clone()
    }

    /// Whether a scheduled power cut has happened.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.disk.lock().cut
    }

    /// The content of a file as it reads back.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        self.disk.lock().contents(name)
    }

    /// Changes a file on the platter itself (damage, or a test's preparation). Returns whether
    /// there is such a file; bytes beyond its end are ignored.
    pub fn overwrite(&self, name: &str, offset: u64, bytes: &[u8]) -> bool {
        self.disk.lock().overwrite(name, offset, bytes)
    }

    /// Flips one bit of a file on the platter. Returns whether there is such a bit.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) -> bool {
        self.disk.lock().flip_bit(name, offset, bit)
    }
}

impl Storage for SimStorage {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        pause();
        let inode = self.disk.lock().create(name)?;
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.disk), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        pause();
        let inode = self.disk.lock().open(name)?;
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.disk), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        pause();
        self.disk.lock().rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        pause();
        self.disk.lock().remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        pause();
        self.disk.lock().list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        pause();
        self.disk.lock().sync_dir()
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        let mut disk = self.disk.lock();
        if disk.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        disk.locked = true;
        Ok(Box::new(SimLock { disk: Arc::clone(&self.disk) }))
    }

    fn entropy(&self) -> u64 {
        self.disk.lock().rng.next_u64()
    }

    fn location(&self) -> String {
        "simulated disk".to_owned()
    }
}

struct SimLock {
    disk: Arc<Mutex<Disk>>,
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimLock")
    }
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.lock().locked = false;
    }
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    inode: InodeId,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.inode)
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        pause();
        self.disk.lock().read_at(self.inode, buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        pause();
        self.disk.lock().write_at(self.inode, buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        pause();
        self.disk.lock().sync_data(self.inode)
    }

    fn size(&self) -> io::Result<u64> {
        pause();
        self.disk.lock().size(self.inode)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        pause();
        self.disk.lock().preallocate(self.inode, len)
    }
}
