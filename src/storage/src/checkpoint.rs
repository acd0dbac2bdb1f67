//! Checkpoints: the state at an index of the log, in one file.
//!
//! A checkpoint is written to a temporary file, synced, renamed, and the directory synced; only
//! then are older ones removed, and only then may the log be purged up to its index. So the newest
//! file that has a checkpoint's name is whole, and any damage to it is damage by the medium: it is
//! refused, never skipped in favour of an older one, whose log is gone.
//!
//! ```text
//! header, 40 bytes           block header, 32 bytes, then the content
//! offset size                offset size
//!      0    8  "ISTHCKP\0"        0    4  checksum of bytes 4..32 and the content
//!      8    4  format version     4    4  length of the content in bytes; 0 ends the file
//!     12    4  checksum of        8    8  number of the block
//!              the rest          16    8  bytes of content before this block
//!     16    8  index             24    8  index of the checkpoint
//!     24    8  term
//!     32    8  salt
//! ```
//!
//! Checksums are CRC32C, those of blocks seeded with the header's.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use crate::{
    error::{Error, Result},
    fs::{self, File, Storage},
};

const MAGIC: [u8; 8] = *b"ISTHCKP\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 40;
const BLOCK_HEADER_BYTES: usize = 32;
/// Content of a block in bytes, except the last.
const BLOCK_BYTES: usize = 256 << 10;

/// Which checkpoint it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointMeta {
    /// The last index whose effects are in it.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// Size of the content in bytes.
    pub bytes: u64,
}

fn name_of(index: u64) -> String {
    format!("checkpoint-{index:020}.ckp")
}

/// The index in the name of a checkpoint.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let index = name.strip_prefix("checkpoint-")?.strip_suffix(".ckp")?.parse().ok()?;
    (name_of(index) == name).then_some(index)
}

/// Index and name of the checkpoints, oldest first.
pub(crate) fn checkpoints(storage: &dyn Storage) -> Result<Vec<(u64, String)>> {
    let names = storage.list().map_err(|e| Error::io("list", &storage.location(), e))?;
    let mut found: Vec<_> =
        names.into_iter().filter_map(|name| Some((parse_name(&name)?, name))).collect();
    found.sort_unstable();
    Ok(found)
}

/// Writes the checkpoint at `index`, whose content `content` writes, and removes older ones. It is
/// durable when this returns.
///
/// # Errors
/// What `content` returned, and what the operating system says; a full disk leaves no trace. Then
/// older checkpoints are still there. After [`Error::Io`] from a sync the process should stop.
pub fn write(
    storage: &dyn Storage,
    index: u64,
    term: u64,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<CheckpointMeta> {
    let older = checkpoints(storage)?;
    if let Some((newest, _)) = older.last().filter(|(newest, _)| *newest > index) {
        let reason = format!("a checkpoint at {index} is older than the one at {newest}");
        return Err(Error::misuse(reason));
    }
    let name = name_of(index);
    let temporary = format!("{name}.tmp");
    let file = fs::create_temporary(storage, &temporary)?;
    let written = write_file(storage, &*file, &temporary, index, term, content);
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(e) => {
            // Gives the space back; if that fails too, the next checkpoint does it.
            drop(storage.remove(&temporary));
            return Err(e);
        }
    };
    storage.rename(&temporary, &name).map_err(|e| Error::io("rename", &temporary, e))?;
    fs::sync_dir(storage)?;
    let leftover = |n: &String| n.starts_with("checkpoint-") && n.ends_with(".ckp.tmp");
    let names = storage.list().map_err(|e| Error::io("list", &storage.location(), e))?;
    let older = older.into_iter().map(|(_, old)| old).filter(|old| *old != name);
    for old in older.chain(names.into_iter().filter(leftover)) {
        storage.remove(&old).map_err(|e| Error::io("remove", &old, e))?;
    }
    Ok(CheckpointMeta { index, term, bytes })
}

fn write_file(
    storage: &dyn Storage,
    file: &dyn File,
    name: &str,
    index: u64,
    term: u64,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<u64> {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&index.to_le_bytes());
    header[24..32].copy_from_slice(&term.to_le_bytes());
    header[32..40].copy_from_slice(&storage.entropy().to_le_bytes());
    let seed = header_crc(&header);
    header[12..16].copy_from_slice(&seed.to_le_bytes());
    fs::write_all_at(file, name, &header, 0)?;
    let mut writer = BlockWriter {
        file,
        name,
        seed,
        index,
        offset: HEADER_BYTES as u64,
        number: 0,
        bytes: 0,
        buffer: vec![0; BLOCK_HEADER_BYTES],
        error: None,
    };
    let result = content(&mut writer);
    // The error with file and offset, rather than what came out of it by way of the caller.
    if let Some(e) = writer.error.take() {
        return Err(e);
    }
    result.map_err(|e| Error::io("write the content of", name, e))?;
    if writer.buffer.len() > BLOCK_HEADER_BYTES {
        writer.block()?;
    }
    writer.block()?;
    file.sync_data().map_err(|e| Error::io("sync", name, e))?;
    Ok(writer.bytes)
}

fn header_crc(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

struct BlockWriter<'a> {
    file: &'a dyn File,
    name: &'a str,
    seed: u32,
    index: u64,
    offset: u64,
    number: u64,
    bytes: u64,
    /// A block header's space, then content.
    buffer: Vec<u8>,
    error: Option<Error>,
}

impl BlockWriter<'_> {
    /// Writes the buffer as a block.
    fn block(&mut self) -> Result<()> {
        let len = self.buffer.len() - BLOCK_HEADER_BYTES;
        assert!(len <= BLOCK_BYTES, "a checkpoint block is too long");
        self.buffer[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        self.buffer[8..16].copy_from_slice(&self.number.to_le_bytes());
        self.buffer[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        self.buffer[24..32].copy_from_slice(&self.index.to_le_bytes());
        let crc = crc32c::crc32c_append(self.seed, &self.buffer[4..]);
        self.buffer[..4].copy_from_slice(&crc.to_le_bytes());
        fs::write_all_at(self.file, self.name, &self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.number += 1;
        self.bytes += len as u64;
        self.buffer.truncate(BLOCK_HEADER_BYTES);
        Ok(())
    }
}

impl Write for BlockWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(e) = &self.error {
            return Err(io::Error::other(e.clone()));
        }
        let room = BLOCK_BYTES - (self.buffer.len() - BLOCK_HEADER_BYTES);
        let taken = room.min(bytes.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if taken == room
            && let Err(e) = self.block()
        {
            self.error = Some(e.clone());
            return Err(io::Error::other(e));
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the newest checkpoint and verifies all of it; `None` if there is none. It is durable.
///
/// # Errors
/// [`Error::Corrupt`] with file and offset if it is damaged, [`Error::UnknownVersion`], and what
/// the operating system says.
pub fn open_latest(storage: &dyn Storage) -> Result<Option<CheckpointReader>> {
    // Its name may have been seen in memory only, by a process that died before the directory was
    // synced; from here on the log may be purged on the strength of it.
    fs::sync_dir(storage)?;
    let Some((index, name)) = checkpoints(storage)?.pop() else { return Ok(None) };
    let mut reader = CheckpointReader::open(storage, name, index)?;
    while reader.next_block()? {}
    let bytes = reader.bytes;
    reader.rewind();
    reader.meta.bytes = bytes;
    Ok(Some(reader))
}

/// Reads the content of a checkpoint; everything is verified again as it is read.
#[derive(Debug)]
pub struct CheckpointReader {
    file: Arc<dyn File>,
    name: String,
    meta: CheckpointMeta,
    seed: u32,
    offset: u64,
    number: u64,
    bytes: u64,
    /// The content of the current block.
    buffer: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl CheckpointReader {
    /// Which checkpoint it is.
    #[must_use]
    pub fn meta(&self) -> CheckpointMeta {
        self.meta
    }

    /// Opens a checkpoint; the header alone is verified.
    pub(crate) fn open(storage: &dyn Storage, name: String, index: u64) -> Result<Self> {
        let file = storage.open(&name).map_err(|e| Error::io("open", &name, e))?;
        let mut header = [0; HEADER_BYTES];
        let read = fs::read_full_at(&*file, &name, &mut header, 0)?;
        let number = |at: usize| {
            let mut out = [0; 8];
            out.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(out)
        };
        let seed = header_crc(&header);
        let word = number(8);
        if read < HEADER_BYTES || header[..8] != MAGIC || (word >> 32) as u32 != seed {
            return Err(Error::corrupt(&name, 0, "the header does not match its checksum"));
        }
        if word as u32 != VERSION {
            let found = (word as u32).to_string();
            return Err(Error::UnknownVersion { file: name, found, supported: VERSION });
        }
        if number(16) != index {
            return Err(Error::corrupt(&name, 16, "the index is not the one in the file's name"));
        }
        let meta = CheckpointMeta { index, term: number(24), bytes: 0 };
        let mut reader = Self {
            file,
            name,
            meta,
            seed,
            offset: 0,
            number: 0,
            bytes: 0,
            buffer: Vec::new(),
            taken: 0,
            ended: false,
        };
        reader.rewind();
        Ok(reader)
    }

    fn rewind(&mut self) {
        self.offset = HEADER_BYTES as u64;
        self.number = 0;
        self.bytes = 0;
        self.buffer.clear();
        self.taken = 0;
        self.ended = false;
    }

    /// Passes over a block that is damaged, if another may follow: all are of one size, except the
    /// last.
    pub(crate) fn skip_block(&mut self) -> Result<bool> {
        let size = self.file.size().map_err(|e| Error::io("measure", &self.name, e))?;
        self.offset += (BLOCK_HEADER_BYTES + BLOCK_BYTES) as u64;
        self.number += 1;
        self.bytes += BLOCK_BYTES as u64;
        Ok(self.offset < size)
    }

    /// Reads and verifies the next block; false at the end.
    pub(crate) fn next_block(&mut self) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let damaged = |reason: &str| Error::corrupt(&self.name, self.offset, reason);
        let mut header = [0; BLOCK_HEADER_BYTES];
        let read = fs::read_full_at(&*self.file, &self.name, &mut header, self.offset)?;
        if read < BLOCK_HEADER_BYTES {
            return Err(damaged("the file ends within the checkpoint"));
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, ..] = header;
        let crc = u32::from_le_bytes([c0, c1, c2, c3]);
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if len > BLOCK_BYTES {
            return Err(damaged("a block is longer than blocks are"));
        }
        self.buffer.resize(len, 0);
        let body = self.offset + BLOCK_HEADER_BYTES as u64;
        let read = fs::read_full_at(&*self.file, &self.name, &mut self.buffer, body)?;
        let computed = crc32c::crc32c_append(self.seed, &header[4..]);
        let damaged = |reason: &str| Error::corrupt(&self.name, self.offset, reason);
        if read < len || crc32c::crc32c_append(computed, &self.buffer) != crc {
            return Err(damaged("a block does not match its checksum"));
        }
        let expected = [self.number.to_le_bytes(), self.bytes.to_le_bytes()].concat();
        if header[8..24] != expected || header[24..] != self.meta.index.to_le_bytes() {
            return Err(damaged("a block is out of place"));
        }
        self.offset = body + len as u64;
        self.number += 1;
        self.bytes += len as u64;
        self.taken = 0;
        self.ended = len == 0;
        if self.ended {
            let size = self.file.size().map_err(|e| Error::io("measure", &self.name, e))?;
            if size != self.offset {
                return Err(Error::corrupt(
                    &self.name,
                    self.offset,
                    "there is data behind its end",
                ));
            }
        }
        Ok(!self.ended)
    }
}

impl Read for CheckpointReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.buffer.len() && !self.next_block().map_err(io::Error::other)? {
            return Ok(0);
        }
        let len = out.len().min(self.buffer.len() - self.taken);
        out[..len].copy_from_slice(&self.buffer[self.taken..self.taken + len]);
        self.taken += len;
        Ok(len)
    }
}
