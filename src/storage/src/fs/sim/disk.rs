//! The model of the disk: what reads back, what is on the platter, and what lies between.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{Rng, SECTOR_BYTES};

/// Number of a file, whatever its names.
pub(super) type InodeId = u64;

/// What goes wrong at an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power goes before the operation: it and all later ones fail.
    PowerCut,
    /// The operation fails with EIO. A sync loses an arbitrary part of what was dirty, which still
    /// reads back and counts as clean.
    Eio,
    /// The operation fails with ENOSPC. A write may have written a part.
    Enospc,
    /// A write stops half way; the next one goes on normally.
    ShortWrite,
    /// A write stops half way because the disk is full: the next write fails with ENOSPC.
    ShortWriteThenFull,
}

/// The kind of an operation that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// A file was created.
    Create,
    /// A file was written to.
    Write,
    /// A file was extended with zeros.
    Preallocate,
    /// A file was synced.
    Sync,
    /// A file was renamed.
    Rename,
    /// A file was removed.
    Remove,
    /// The directory was synced.
    SyncDir,
}

/// An operation that changes something, as the simulated disk numbered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedOp {
    /// Its number, counted from 0.
    pub number: u64,
    /// What it was.
    pub kind: OpKind,
    /// The file it was about, by its name then (the old one of a rename); empty for the directory.
    pub file: String,
    /// Where it began, in bytes, if it wrote to the file or extended it.
    pub offset: u64,
    /// How many bytes it was asked to write; the new length if it extended the file.
    pub len: u64,
    /// CRC-32C of the bytes; of the new name if it was a rename.
    pub content: u32,
}

/// What an operation is about beside a file.
#[derive(Clone, Copy, Default)]
struct About<'a> {
    offset: u64,
    len: u64,
    content: &'a [u8],
}

/// A sync about to happen, for a test that decides whether to ignore it.
#[derive(Debug)]
pub enum SyncSite<'a> {
    /// Of the file with this name.
    File(&'a str),
    /// Of the directory, with the names that its unsynced operations create, rename to or remove.
    Directory(&'a [&'a str]),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    name: String,
    /// What reads back.
    cache: Vec<u8>,
    /// What a power cut leaves for certain.
    platter: Vec<u8>,
    /// Written since the last sync, in order.
    dirty: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum DirOp {
    Link(String, InodeId),
    Rename(String, String, InodeId),
    Remove(String, InodeId),
}

impl DirOp {
    fn name(&self) -> &str {
        match self {
            Self::Link(name, _) | Self::Rename(_, name, _) | Self::Remove(name, _) => name,
        }
    }
}

type Names = BTreeMap<String, InodeId>;
type IgnoredSyncs = Box<dyn Fn(&SyncSite<'_>) -> bool + Send>;

pub(super) struct Disk {
    pub(super) rng: Rng,
    pub(super) operations: u64,
    pub(super) reads: u64,
    pub(super) faults: BTreeMap<u64, Fault>,
    pub(super) read_faults: BTreeSet<u64>,
    pub(super) ignored_syncs: Option<IgnoredSyncs>,
    pub(super) trace: Vec<CountedOp>,
    pub(super) locked: bool,
    pub(super) cut: bool,
    /// Of all operations, reads included.
    pub(super) digest: u64,
    /// Whether a short write left the disk full for the next write.
    full: bool,
    inodes: BTreeMap<InodeId, Inode>,
    names: Names,
    platter_names: Names,
    dirty_names: Vec<DirOp>,
}

fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// Puts `bytes` at `offset` of `content`, extending it with zeros as needed.
fn put(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).expect("a simulated file fits in memory");
    let end = start + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

/// Cuts a write between sectors of the file.
fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == bytes.len() {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % SECTOR_BYTES as u64) as usize;
        let len = (SECTOR_BYTES - within).min(bytes.len() - done);
        let piece = &bytes[done..done + len];
        done += len;
        Some((at, piece))
    })
}

fn apply(names: &mut Names, op: &DirOp) {
    match op {
        DirOp::Link(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        // The file's creation may itself have been lost: then there is nothing to rename or to
        // remove, and an older file of that name is another file.
        DirOp::Rename(from, to, inode) => {
            if names.get(from) == Some(inode) {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
        DirOp::Remove(name, inode) => {
            if names.get(name) == Some(inode) {
                names.remove(name);
            }
        }
    }
}

impl Inode {
    /// Lets an arbitrary part of what is dirty reach the platter.
    fn leak(&mut self, rng: &mut Rng) {
        let dirty = std::mem::take(&mut self.dirty);
        match rng.below(4) {
            0 => {}
            1 => {
                for (offset, bytes) in &dirty {
                    put(&mut self.platter, *offset, bytes);
                }
            }
            2 => {
                // In order up to some write, which is torn.
                let whole = rng.below(dirty.len() as u64 + 1) as usize;
                for (offset, bytes) in &dirty[..whole] {
                    put(&mut self.platter, *offset, bytes);
                }
                if let Some((offset, bytes)) = dirty.get(whole) {
                    let count = bytes.len().div_ceil(SECTOR_BYTES) as u64;
                    let keep = rng.below(count + 1) as usize;
                    for (at, piece) in sectors(*offset, bytes).take(keep) {
                        put(&mut self.platter, at, piece);
                    }
                }
            }
            _ => {
                // Any sector of any write, older or newer.
                let percent = [10, 50, 90][rng.below(3) as usize];
                for (offset, bytes) in &dirty {
                    for (at, piece) in sectors(*offset, bytes) {
                        if rng.chance(percent) {
                            put(&mut self.platter, at, piece);
                        }
                    }
                }
            }
        }
    }
}

impl Disk {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            operations: 0,
            reads: 0,
            faults: BTreeMap::new(),
            read_faults: BTreeSet::new(),
            ignored_syncs: None,
            trace: Vec::new(),
            locked: false,
            cut: false,
            digest: 0,
            full: false,
            inodes: BTreeMap::new(),
            names: Names::new(),
            platter_names: Names::new(),
            dirty_names: Vec::new(),
        }
    }

    pub(super) fn crash(&self, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut names = self.platter_names.clone();
        if rng.chance(50) {
            // A journalling file system: in order, up to some operation.
            let kept = rng.below(self.dirty_names.len() as u64 + 1) as usize;
            self.dirty_names[..kept].iter().for_each(|op| apply(&mut names, op));
        } else {
            let percent = [0, 50, 90, 100][rng.below(4) as usize];
            for op in &self.dirty_names {
                if rng.chance(percent) {
                    apply(&mut names, op);
                }
            }
        }
        let mut after = Self::new(rng.next_u64());
        for (name, id) in names {
            let Some(mut inode) = self.inodes.get(&id).cloned() else { continue };
            inode.leak(&mut rng);
            inode.cache.clone_from(&inode.platter);
            inode.name.clone_from(&name);
            after.inodes.insert(id, inode);
            after.names.insert(name, id);
        }
        after.platter_names.clone_from(&after.names);
        after
    }

    pub(super) fn fork(&self) -> Self {
        let mut copy = Self::new(self.rng.clone().next_u64());
        copy.inodes.clone_from(&self.inodes);
        copy.names.clone_from(&self.names);
        copy.platter_names.clone_from(&self.platter_names);
        copy.dirty_names.clone_from(&self.dirty_names);
        copy
    }

    /// Numbers an operation and says what goes wrong with it.
    fn begin(&mut self, kind: OpKind, file: &str, about: About<'_>) -> io::Result<Option<Fault>> {
        let number = self.operations;
        self.operations += 1;
        let About { offset, len, content } = about;
        let content = crc32c::crc32c(content);
        self.note(kind as u64, file, [offset, len, u64::from(content)]);
        self.trace.push(CountedOp { number, kind, file: file.to_owned(), offset, len, content });
        let fault = self.faults.remove(&number);
        if fault == Some(Fault::PowerCut) {
            self.cut = true;
        }
        if self.cut {
            return Err(io::Error::other("the power was cut"));
        }
        Ok(fault)
    }

    /// Begins an operation that happens whole or not at all.
    fn begin_whole(&mut self, kind: OpKind, file: &str, about: About<'_>) -> io::Result<()> {
        match self.begin(kind, file, about)? {
            Some(Fault::Eio) => Err(os_error(libc::EIO)),
            Some(Fault::Enospc) => Err(os_error(libc::ENOSPC)),
            _ => Ok(()),
        }
    }

    /// Takes an operation into the digest.
    fn note(&mut self, what: u64, file: &str, numbers: [u64; 3]) {
        let name = u64::from(crc32c::crc32c(file.as_bytes()));
        for number in [what, name].into_iter().chain(numbers) {
            self.digest = Rng::new(self.digest ^ number.rotate_left(32)).next_u64();
        }
    }

    fn begin_read(&mut self, file: &str, offset: u64, len: usize) -> io::Result<()> {
        self.note(u64::MAX, file, [offset, len as u64, 0]);
        let number = self.reads;
        self.reads += 1;
        if self.cut {
            return Err(io::Error::other("the power was cut"));
        }
        if self.read_faults.remove(&number) { Err(os_error(libc::EIO)) } else { Ok(()) }
    }

    fn inode(&mut self, id: InodeId) -> &mut Inode {
        self.inodes.get_mut(&id).expect("an open file keeps its inode")
    }

    fn name_of(&self, id: InodeId) -> String {
        self.inodes.get(&id).map(|inode| inode.name.clone()).unwrap_or_default()
    }

    fn record(&mut self, op: DirOp) {
        apply(&mut self.names, &op);
        self.dirty_names.push(op);
    }

    pub(super) fn create(&mut self, name: &str) -> io::Result<InodeId> {
        self.begin_whole(OpKind::Create, name, About::default())?;
        if self.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = self.inodes.last_key_value().map_or(1, |(last, _)| last + 1);
        self.inodes.insert(id, Inode { name: name.to_owned(), ..Inode::default() });
        self.record(DirOp::Link(name.to_owned(), id));
        Ok(id)
    }

    pub(super) fn open(&mut self, name: &str) -> io::Result<InodeId> {
        self.begin_read(name, 0, 0)?;
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let about = About { content: to.as_bytes(), ..About::default() };
        self.begin_whole(OpKind::Rename, from, about)?;
        let id = *self.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        self.inode(id).name = to.to_owned();
        self.record(DirOp::Rename(from.to_owned(), to.to_owned(), id));
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        self.begin_whole(OpKind::Remove, name, About::default())?;
        let id = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.record(DirOp::Remove(name.to_owned(), id));
        Ok(())
    }

    pub(super) fn list(&mut self) -> io::Result<Vec<String>> {
        self.begin_read("", 0, 0)?;
        Ok(self.names.keys().cloned().collect())
    }

    pub(super) fn sync_dir(&mut self) -> io::Result<()> {
        self.begin_whole(OpKind::SyncDir, "", About::default())?;
        let touched: Vec<&str> = self.dirty_names.iter().map(DirOp::name).collect();
        if self.ignored_syncs.as_ref().is_some_and(|f| f(&SyncSite::Directory(&touched))) {
            return Ok(());
        }
        for op in self.dirty_names.drain(..) {
            apply(&mut self.platter_names, &op);
        }
        Ok(())
    }

    pub(super) fn read_at(
        &mut self,
        id: InodeId,
        buf: &mut [u8],
        offset: u64,
    ) -> io::Result<usize> {
        let name = self.name_of(id);
        self.begin_read(&name, offset, buf.len())?;
        let content = &self.inode(id).cache;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let len = buf.len().min(content.len() - start);
        buf[..len].copy_from_slice(&content[start..start + len]);
        Ok(len)
    }

    pub(super) fn write_at(&mut self, id: InodeId, buf: &[u8], offset: u64) -> io::Result<usize> {
        let name = self.name_of(id);
        let about = About { offset, len: buf.len() as u64, content: buf };
        let fault = self.begin(OpKind::Write, &name, about)?;
        if std::mem::take(&mut self.full) {
            return Err(os_error(libc::ENOSPC));
        }
        let len = match fault {
            Some(Fault::Eio) => return Err(os_error(libc::EIO)),
            Some(Fault::Enospc | Fault::ShortWrite | Fault::ShortWriteThenFull) => buf.len() / 2,
            _ => buf.len(),
        };
        self.full = fault == Some(Fault::ShortWriteThenFull);
        let inode = self.inode(id);
        put(&mut inode.cache, offset, &buf[..len]);
        inode.dirty.push((offset, buf[..len].to_vec()));
        if fault == Some(Fault::Enospc) { Err(os_error(libc::ENOSPC)) } else { Ok(len) }
    }

    pub(super) fn preallocate(&mut self, id: InodeId, len: u64) -> io::Result<()> {
        let name = self.name_of(id);
        let have = self.inode(id).cache.len() as u64;
        let about = About { offset: have, len, ..About::default() };
        self.begin_whole(OpKind::Preallocate, &name, about)?;
        let inode = self.inode(id);
        if have < len {
            let zeros = vec![0; (len - have) as usize];
            put(&mut inode.cache, have, &zeros);
            inode.dirty.push((have, zeros));
        }
        Ok(())
    }

    pub(super) fn sync_data(&mut self, id: InodeId) -> io::Result<()> {
        let name = self.name_of(id);
        let fault = self.begin(OpKind::Sync, &name, About::default())?;
        if let Some(Fault::Eio | Fault::Enospc) = fault {
            let mut rng = self.rng.clone();
            self.inode(id).leak(&mut rng);
            self.rng = rng;
            let code = if fault == Some(Fault::Eio) { libc::EIO } else { libc::ENOSPC };
            return Err(os_error(code));
        }
        if self.ignored_syncs.as_ref().is_some_and(|f| f(&SyncSite::File(&name))) {
            return Ok(());
        }
        let inode = self.inode(id);
        for (offset, bytes) in std::mem::take(&mut inode.dirty) {
            put(&mut inode.platter, offset, &bytes);
        }
        Ok(())
    }

    pub(super) fn size(&mut self, id: InodeId) -> io::Result<u64> {
        let name = self.name_of(id);
        self.begin_read(&name, 0, 0)?;
        Ok(self.inode(id).cache.len() as u64)
    }

    pub(super) fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let id = self.names.get(name)?;
        self.inodes.get(id).map(|inode| inode.cache.clone())
    }

    pub(super) fn overwrite(&mut self, name: &str, offset: u64, bytes: &[u8]) -> bool {
        let Some(&id) = self.names.get(name) else { return false };
        let inode = self.inode(id);
        for content in [&mut inode.cache, &mut inode.platter] {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
            let len = bytes.len().min(content.len() - start);
            content[start..start + len].copy_from_slice(&bytes[..len]);
        }
        true
    }

    pub(super) fn flip_bit(&mut self, name: &str, offset: u64, bit: u8) -> bool {
        let Some(mut content) = self.contents(name) else { return false };
        let Some(byte) = usize::try_from(offset).ok().and_then(|at| content.get_mut(at)) else {
            return false;
        };
        let flipped = [*byte ^ (1 << (bit % 8))];
        self.overwrite(name, offset, &flipped)
    }
}
