//! The simulated disk with a name for each place at which its user can be cut off: what is done, in
//! the course of what.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;

use isthmus_broker::storage::fs::{Fault, File, Lock};
use isthmus_broker::storage::{SimStorage, Storage};
use parking_lot::Mutex;

use super::disk::When;

/// The name of a failpoint.
pub(crate) type Name = &'static str;

/// Where the power is cut: around the `nth` time, counted from 0, that the failpoint is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) name: Name,
    pub(crate) nth: u64,
    pub(crate) when: When,
}

#[derive(Default)]
struct State {
    /// How often each failpoint was passed.
    hits: BTreeMap<Name, u64>,
    cut: Option<Cut>,
    is_cut: bool,
    /// What each thread changed last in the directory, which its next sync makes durable.
    changed: HashMap<ThreadId, Name>,
    /// Page files whose end record was written.
    ended: Vec<String>,
    /// Whether pages were read to be written anew.
    is_compacting: bool,
    /// Whether a checkpoint is durable and the log not yet purged.
    is_purging: bool,
}

/// A simulated disk whose failpoints have names.
#[derive(Clone)]
pub(crate) struct Named {
    sim: SimStorage,
    state: Arc<Mutex<State>>,
    /// Whether what goes into the log is a transaction's commit.
    is_committing: Arc<AtomicBool>,
    /// The names of open files, which change.
    files: Arc<Mutex<HashMap<String, Arc<Mutex<String>>>>>,
}

/// What is done with a file.
enum Op<'a> {
    Create,
    Write(&'a [u8], u64),
    Preallocate,
    Sync,
    Rename(&'a str),
    Remove,
}

impl Named {
    pub(crate) fn new(sim: &SimStorage, cut: Option<Cut>) -> Named {
        let state = State { cut, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        Named { sim: sim.clone(), state, is_committing: Arc::default(), files: Arc::default() }
    }

    /// How often each failpoint was passed.
    pub(crate) fn hits(&self) -> BTreeMap<Name, u64> {
        self.state.lock().hits.clone()
    }

    /// Whether the power was cut where it should be.
    pub(crate) fn is_cut(&self) -> bool {
        self.state.lock().is_cut
    }

    /// Says whether what goes into the log from now on is a transaction's commit.
    pub(crate) fn set_committing(&self, is_committing: bool) {
        self.is_committing.store(is_committing, Ordering::SeqCst);
    }

    fn around<T>(&self, name: Name, op: impl FnOnce() -> T) -> T {
        let nth = {
            let mut state = self.state.lock();
            let hits = state.hits.entry(name).or_default();
            *hits += 1;
            *hits - 1
        };
        self.cut_if(Cut { name, nth, when: When::Before });
        let result = op();
        self.cut_if(Cut { name, nth, when: When::After });
        result
    }

    fn cut_if(&self, here: Cut) {
        let mut state = self.state.lock();
        if state.cut == Some(here) {
            state.is_cut = true;
            self.sim.inject(self.sim.operations(), Fault::PowerCut);
        }
    }

    /// Names what is about to be done with a file.
    fn name(&self, file: &str, op: &Op<'_>) -> Name {
        let mut state = self.state.lock();
        let name = match file.split('-').next() {
            Some("log") => self.log_name(op, state.is_purging),
            Some("spare") => spare_name(file, op),
            Some("pages") => state.page_name(file, op),
            Some("checkpoint") => checkpoint_name(op),
            Some("state") => match op {
                Op::Write(..) if state.is_purging => "log purge: write state",
                Op::Sync if state.is_purging => "log purge: sync state",
                _ => "term and vote: save state",
            },
            _ => "new directory: state its format",
        };
        match op {
            // The files that a round read are those that it moves messages out of.
            Op::Create if file.starts_with("checkpoint-") => state.is_compacting = false,
            Op::Create | Op::Rename(_) | Op::Remove => {
                state.changed.insert(std::thread::current().id(), name);
            }
            _ => {}
        }
        name
    }

    fn log_name(&self, op: &Op<'_>, is_purging: bool) -> Name {
        let is_committing = self.is_committing.load(Ordering::SeqCst);
        match op {
            Op::Write(..) if is_committing => "transaction commit: write entry",
            Op::Sync if is_committing => "transaction commit: sync log",
            Op::Write(..) => "log: write records",
            Op::Sync => "log: sync records",
            Op::Rename(_) if is_purging => "segment recycle: rename to spare",
            Op::Remove => "segment delete: remove",
            _ => "log: other",
        }
    }

    /// Names a sync of the directory by what its thread changed in it.
    fn dir_name(&self) -> Name {
        let mut state = self.state.lock();
        match state.changed.remove(&std::thread::current().id()) {
            Some("segment roll: rename to segment") => "segment roll: sync directory",
            Some("segment recycle: rename to spare" | "segment delete: remove") => {
                state.is_purging = false;
                "log purge: sync directory"
            }
            Some("checkpoint: rename") => {
                state.is_purging = true;
                "checkpoint: sync directory"
            }
            Some("page file: create") => "page file: sync directory",
            Some("compaction: create page file") => "compaction: sync directory",
            Some("new directory: state its format") => "new directory: sync directory",
            _ => "directory: other sync",
        }
    }

    fn open_file(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        let mut files = self.files.lock();
        let known =
            files.entry(name.to_owned()).or_insert_with(|| Arc::new(Mutex::new(name.into())));
        Arc::new(NamedFile { file, name: Arc::clone(known), disk: self.clone() })
    }
}

fn spare_name(file: &str, op: &Op<'_>) -> Name {
    match (file.ends_with(".tmp"), op) {
        (true, Op::Create) => "spare segment: create",
        (true, Op::Preallocate) => "spare segment: fill",
        (true, Op::Sync) => "spare segment: sync",
        (true, Op::Rename(_)) => "spare segment: rename",
        (false, Op::Create) => "segment roll: create, none is spare",
        (false, Op::Write(..)) => "segment roll: write header",
        (false, Op::Sync) => "segment roll: sync header",
        (false, Op::Rename(to)) if to.starts_with("log-") => "segment roll: rename to segment",
        (_, Op::Remove) => "spare segment: remove",
        _ => "spare segment: other",
    }
}

fn checkpoint_name(op: &Op<'_>) -> Name {
    match op {
        Op::Create => "checkpoint: create",
        Op::Write(_, 0) => "checkpoint: write header",
        Op::Write(..) => "checkpoint: write block",
        Op::Sync => "checkpoint: sync",
        Op::Rename(_) => "checkpoint: rename",
        Op::Remove => "checkpoint: remove older",
        Op::Preallocate => "checkpoint: other",
    }
}

impl State {
    fn page_name(&mut self, file: &str, op: &Op<'_>) -> Name {
        let has_end = self.ended.iter().any(|ended| ended == file);
        let (name, when_compacting) = match op {
            Op::Create => ("page file: create", "compaction: create page file"),
            Op::Write(_, 0) => ("page file: write header", "compaction: write header"),
            Op::Write(bytes, _) if bytes.len() == 40 && bytes[4..8] == *b"PEND" => {
                self.ended.push(file.to_owned());
                ("page file: write end record", "compaction: write end record")
            }
            Op::Write(..) => ("page file: write page", "compaction: write page"),
            Op::Sync if has_end => ("page file: sync end record", "compaction: sync end record"),
            Op::Sync => ("page file: sync pages", "compaction: sync pages"),
            Op::Remove => ("page file: remove", "page file: remove"),
            Op::Rename(_) | Op::Preallocate => ("page file: other", "page file: other"),
        };
        if self.is_compacting { when_compacting } else { name }
    }
}

impl Storage for Named {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.around(self.name(name, &Op::Create), || self.sim.create(name))?;
        self.files.lock().remove(name);
        Ok(self.open_file(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.open_file(name, self.sim.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.around(self.name(from, &Op::Rename(to)), || self.sim.rename(from, to))?;
        let mut files = self.files.lock();
        if let Some(known) = files.remove(from) {
            to.clone_into(&mut known.lock());
            files.insert(to.to_owned(), known);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.around(self.name(name, &Op::Remove), || self.sim.remove(name))?;
        self.files.lock().remove(name);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.sim.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.around(self.dir_name(), || self.sim.sync_dir())
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

struct NamedFile {
    file: Arc<dyn File>,
    name: Arc<Mutex<String>>,
    disk: Named,
}

impl NamedFile {
    fn around<T>(&self, op: &Op<'_>, run: impl FnOnce() -> T) -> T {
        let name = self.name.lock().clone();
        self.disk.around(self.disk.name(&name, op), run)
    }
}

impl fmt::Debug for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl File for NamedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        // The thread of this name reads for consumers, a round for what it writes anew.
        let is_for_consumers = std::thread::current().name() == Some("pages");
        if !is_for_consumers && self.name.lock().starts_with("pages-") {
            self.disk.state.lock().is_compacting = true;
        }
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.around(&Op::Write(buf, offset), || self.file.write_at(buf, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.around(&Op::Sync, || self.file.sync_data())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.around(&Op::Preallocate, || self.file.preallocate(len))
    }
}
