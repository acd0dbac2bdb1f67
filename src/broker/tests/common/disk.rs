//! The simulated disk with somebody looking on: to cut the power at a chosen kind of operation, or
//! to hold an operation up.

use std::fmt;
use std::io;
use std::sync::Arc;

use isthmus_broker::storage::fs::{Fault, File, Lock, OpKind};
use isthmus_broker::storage::threads::Signal;
use isthmus_broker::storage::{SimStorage, Storage};
use parking_lot::Mutex;

use super::threads;

/// When the onlooker is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Before,
    After,
}

/// Called around every sync, directory sync and rename.
type Onlooker = Arc<dyn Fn(When, OpKind) + Send + Sync>;

/// A simulated disk with an onlooker.
#[derive(Clone)]
pub(crate) struct Watched {
    sim: SimStorage,
    onlooker: Onlooker,
}

impl Watched {
    pub(crate) fn new(
        sim: &SimStorage,
        onlooker: impl Fn(When, OpKind) + Send + Sync + 'static,
    ) -> Watched {
        Watched { sim: sim.clone(), onlooker: Arc::new(onlooker) }
    }

    /// A disk whose power is cut right before or after the operation of this kind that comes
    /// `skip` operations of the kind after now.
    pub(crate) fn cut_at(sim: &SimStorage, kind: OpKind, skip: u64, when: When) -> Watched {
        let left = Mutex::new(Some(skip));
        let cut = sim.clone();
        Watched::new(sim, move |w, k| {
            if (w, k) != (when, kind) {
                return;
            }
            let mut left = left.lock();
            match *left {
                Some(0) => {
                    cut.inject(cut.operations(), Fault::PowerCut);
                    *left = None;
                }
                Some(n) => *left = Some(n - 1),
                None => {}
            }
        })
    }

    /// A disk whose syncs of files wait while the gate is shut.
    pub(crate) fn gated(sim: &SimStorage, gate: &Arc<Gate>) -> Watched {
        let gate = Arc::clone(gate);
        Watched::new(sim, move |when, kind| {
            if (when, kind) == (When::Before, OpKind::Sync) {
                gate.pass();
            }
        })
    }

    /// A disk whose syncs of files wait while the gate is shut, on the thread of this name.
    pub(crate) fn held_up(sim: &SimStorage, thread: &'static str, gate: &Arc<Gate>) -> Watched {
        let gate = Arc::clone(gate);
        Watched::new(sim, move |when, kind| {
            let is_it = std::thread::current().name() == Some(thread);
            if is_it && (when, kind) == (When::Before, OpKind::Sync) {
                gate.pass();
            }
        })
    }

    fn around<T>(&self, kind: OpKind, op: impl FnOnce() -> T) -> T {
        (self.onlooker)(When::Before, kind);
        let result = op();
        (self.onlooker)(When::After, kind);
        result
    }

    fn watch(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(WatchedFile { file, disk: self.clone() })
    }
}

impl Storage for Watched {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.watch(self.sim.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.watch(self.sim.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.around(OpKind::Rename, || self.sim.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.sim.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.sim.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.around(OpKind::SyncDir, || self.sim.sync_dir())
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.sim.lock()
    }

    fn entropy(&self) -> u64 {
        self.sim.entropy()
    }

    fn location(&self) -> String {
        self.sim.location()
    }
}

struct WatchedFile {
    file: Arc<dyn File>,
    disk: Watched,
}

impl fmt::Debug for WatchedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl File for WatchedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.around(OpKind::Sync, || self.file.sync_data())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.file.preallocate(len)
    }
}

/// Holds up whoever passes while it is shut.
pub(crate) struct Gate {
    shut: Mutex<bool>,
    opened: Signal,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { shut: Mutex::new(false), opened: threads().signal() }
    }
}

impl Gate {
    pub(crate) fn shut(&self) {
        *self.shut.lock() = true;
    }

    pub(crate) fn open(&self) {
        *self.shut.lock() = false;
        self.opened.notify_all();
    }

    pub(crate) fn is_shut(&self) -> bool {
        *self.shut.lock()
    }

    pub(crate) fn pass(&self) {
        let mut shut = self.shut.lock();
        while *shut {
            self.opened.wait(&mut shut);
        }
    }
}
