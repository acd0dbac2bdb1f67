//! Snapshots on their way between nodes.
//!
//! What is sent is what a backup holds, as one stream:
//!
//! ```text
//! for each page file   u8 1, u64 its number, u64 its length, its bytes as they are
//! then                 u8 2, and the entries of a checkpoint that needs no log, each behind its
//!                      length, four bytes
//! ```
//!
//! Numbers are little-endian. Numbers of page files are given out by the member that wrote them, so
//! no two of a cluster are the same and a file keeps its own.
//!
//! The receiver writes page files beside its own and the entries into a file that no start looks
//! at; both are removed by the next start unless a checkpoint was made of them. Then, in this order,
//! each step durable before the next:
//! 1. a note says that the log is to go on behind the snapshot;
//! 2. the checkpoint is written: from here on the snapshot counts;
//! 3. the ledger takes the place of the other, and the log forgets what came before.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use isthmus_cluster::raft::{Chunk, Chunks};
use isthmus_core::Ledger;
use isthmus_storage::fs::{Pace, Storage};
use isthmus_storage::pages::{PageFile, PageReceiver};
use isthmus_storage::threads::{Receiver, Threads};
use isthmus_storage::{Error as StorageError, LogId, SharedStorage, Spool, checkpoint, small};
use tokio::sync::{mpsc, watch};

use crate::backup::Source;
use crate::blocking::blocking;
use crate::checkpointer::{ENTRY_BYTES, write_entries};
use crate::recovery::{RecoveryError, read_checkpoint};
use crate::shard::Snapshot;

#[cfg(test)]
mod tests;

/// Bytes of a chunk, about.
const CHUNK_BYTES: usize = 256 << 10;

/// Chunks that wait to be sent.
const CHUNKS_MAX: usize = 4;

const PAGE_FILE: u8 = 1;
const ENTRIES: u8 = 2;

/// Where the entries of a snapshot are until they are a checkpoint.
const SPOOL: &str = "snapshot.tmp";

/// Says that the log is to go on behind a snapshot: u64 index, u64 term.
const NOTE: &str = "snapshot-installing";

impl Source {
    /// Sends all of it, on a thread of its own.
    pub(crate) fn send(self, threads: Threads, stop: watch::Receiver<bool>) -> Chunks {
        let (mut out, chunks) = ChunkWriter::start(&threads);
        tokio::spawn(async move {
            let write = move || {
                if let Err(error) = self.write_to(&mut out, &stop) {
                    // If nobody listens any more, that is why.
                    out.put(Err(error)).ok();
                }
            };
            blocking(&threads, "snapshot", write).await
        });
        chunks
    }

    fn write_to(&self, out: &mut ChunkWriter, stop: &watch::Receiver<bool>) -> io::Result<()> {
        let mut piece = vec![0; CHUNK_BYTES];
        for file in &self.files {
            out.write_all(&[PAGE_FILE])?;
            out.write_all(&file.number().to_le_bytes())?;
            out.write_all(&file.bytes().to_le_bytes())?;
            let mut offset = 0;
            while offset < file.bytes() {
                if *stop.borrow() {
                    return Err(io::Error::other("the broker stops"));
                }
                let left = usize::try_from(file.bytes() - offset).unwrap_or(CHUNK_BYTES);
                let piece = &mut piece[..left.min(CHUNK_BYTES)];
                let read = file.read_raw(piece, offset).map_err(io::Error::other)?;
                if read < piece.len() {
                    return Err(io::Error::other(format!("{} has become shorter", file.name())));
                }
                out.write_all(piece)?;
                offset += read as u64;
            }
        }
        out.write_all(&[ENTRIES])?;
        write_entries(self.snapshot.ledger.entries_without_log(ENTRY_BYTES), out, stop)?;
        out.end()
    }
}

/// Gathers what is written into chunks. It waits for room as threads wait, real or simulated; a
/// task hands the chunks on.
struct ChunkWriter {
    sender: mpsc::UnboundedSender<io::Result<Chunk>>,
    /// One for each chunk there is room for; disconnected if nobody takes any more.
    room: Receiver<()>,
    buffer: BytesMut,
}

impl ChunkWriter {
    fn start(threads: &Threads) -> (ChunkWriter, Chunks) {
        let (to, chunks) = mpsc::channel(1);
        let (sender, mut from) = mpsc::unbounded_channel();
        let (give, room) = threads.channel();
        (0..CHUNKS_MAX).for_each(|_| give.send(()).unwrap_or_default());
        tokio::spawn(async move {
            while let Some(chunk) = from.recv().await {
                if to.send(chunk).await.is_err() {
                    return;
                }
                // Nobody waits for room behind the last: what is still here goes on all the same.
                give.send(()).ok();
            }
        });
        (ChunkWriter { sender, room, buffer: BytesMut::new() }, chunks)
    }

    fn put(&self, chunk: io::Result<Chunk>) -> io::Result<()> {
        let room = self.room.recv().is_ok();
        let sent = room && self.sender.send(chunk).is_ok();
        if sent { Ok(()) } else { Err(io::Error::other("the other node takes no more")) }
    }

    fn end(&mut self) -> io::Result<()> {
        self.flush()?;
        self.put(Ok(Chunk::End))
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = self.buffer.split().freeze();
        if chunk.is_empty() { Ok(()) } else { self.put(Ok(Chunk::Data(chunk))) }
    }
}

/// Reads what is in chunks. It waits for them as threads wait, real or simulated; a task hands them
/// on.
pub(crate) struct ChunkReader {
    chunks: Receiver<io::Result<Chunk>>,
    /// Asks for another one.
    wanted: mpsc::UnboundedSender<()>,
    rest: Bytes,
    ended: bool,
}

impl ChunkReader {
    /// Reads `chunks`, handed on by a task of the current runtime.
    pub(crate) fn start(threads: &Threads, mut chunks: Chunks) -> ChunkReader {
        let (sender, handed) = threads.channel();
        let (wanted, mut asked) = mpsc::unbounded_channel();
        (0..CHUNKS_MAX).for_each(|_| wanted.send(()).unwrap_or_default());
        tokio::spawn(async move {
            while asked.recv().await.is_some()
                && let Some(chunk) = chunks.recv().await
                && sender.send(chunk).is_ok()
            {}
        });
        ChunkReader { chunks: handed, wanted, rest: Bytes::new(), ended: false }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.ended {
            match self.chunks.recv() {
                Ok(Ok(Chunk::Data(bytes))) => self.rest = bytes,
                Ok(Ok(Chunk::End)) => self.ended = true,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            // Nobody hears it behind the last.
            self.wanted.send(()).ok();
        }
        let len = self.rest.len().min(buf.len());
        buf[..len].copy_from_slice(&self.rest[..len]);
        self.rest.advance(len);
        Ok(len)
    }
}

/// A snapshot that was received as a whole, and is durable but for names.
pub(crate) struct Received {
    storage: SharedStorage,
    files: Vec<Arc<PageFile>>,
    entries: Spool,
}

/// Receives a snapshot. Blocks. Whoever calls it has the turn to write page files, and keeps it
/// until the snapshot is installed or dropped.
pub(crate) fn receive(storage: &SharedStorage, mut input: ChunkReader) -> io::Result<Received> {
    let mut files = Vec::new();
    loop {
        let mut tag = [0];
        input.read_exact(&mut tag)?;
        match tag[0] {
            PAGE_FILE => files.push(receive_page_file(storage, &mut input)?),
            ENTRIES => break,
            tag => return Err(invalid(format!("a snapshot with an unknown part, {tag}"))),
        }
    }
    let mut entries = Spool::create(storage, SPOOL).map_err(io::Error::other)?;
    io::copy(&mut input, &mut entries)?;
    entries.sync().map_err(io::Error::other)?;
    Ok(Received { storage: Arc::clone(storage), files, entries })
}

fn receive_page_file(
    storage: &SharedStorage,
    input: &mut ChunkReader,
) -> io::Result<Arc<PageFile>> {
    let mut number = [0; 8];
    input.read_exact(&mut number)?;
    let mut len = [0; 8];
    input.read_exact(&mut len)?;
    let (number, len) = (u64::from_le_bytes(number), u64::from_le_bytes(len));
    if let Ok(file) = PageFile::open(&**storage, number)
        && file.bytes() == len
        && file.verify().is_ok()
    {
        // It never changes: what an earlier snapshot has brought is there already.
        io::copy(&mut input.take(len), &mut io::sink())?;
        return Ok(file);
    }
    let pace = Pace { rest_percent: 0, ..Pace::default() };
    let mut receiver = PageReceiver::create(storage, number, pace).map_err(io::Error::other)?;
    let mut left = len;
    let mut piece = vec![0; CHUNK_BYTES];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let read = input.read(&mut piece[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        receiver.append(&piece[..read]).map_err(io::Error::other)?;
        left -= read as u64;
    }
    receiver.finish().map_err(io::Error::other)
}

impl Received {
    /// Makes the snapshot, which stands at `at`, the newest checkpoint, and reads it. Blocks.
    ///
    /// # Errors
    /// If it makes no sense, before anything was changed; later what the disk says, after which the
    /// process should end: the next start finishes it.
    pub(crate) fn install(
        self,
        at: LogId,
    ) -> Result<(Snapshot, Vec<Arc<PageFile>>), RecoveryError> {
        let storage = &*self.storage;
        let (index, term) = (at.index, at.term);
        let mut ledger = Ledger::new();
        read_checkpoint(self.entries.read(), index, &mut ledger)?;
        ledger.restored().map_err(|what| RecoveryError::Missing { index, what })?;
        let mut note = index.to_le_bytes().to_vec();
        note.extend(term.to_le_bytes());
        small::write(storage, NOTE, &note)?;
        let mut entries = self.entries.read();
        checkpoint::write(storage, index, term, |out| io::copy(&mut entries, out).map(drop))?;
        Ok((Snapshot { ledger, index, term }, self.files))
    }
}

/// Whether a snapshot was about to take the place of what the node had, and its checkpoint is the
/// newest, `checkpoint`: then the log goes on behind it.
///
/// # Errors
/// If the note is damaged, and what the operating system says.
pub(crate) fn was_installing(
    storage: &dyn Storage,
    checkpoint: LogId,
) -> Result<bool, StorageError> {
    let mut expected = checkpoint.index.to_le_bytes().to_vec();
    expected.extend(checkpoint.term.to_le_bytes());
    Ok(small::read(storage, NOTE)?.is_some_and(|note| note == expected))
}

/// The log goes on where it should: removes what an installation, or one that never was, has left.
///
/// # Errors
/// What the operating system says.
pub(crate) fn has_installed(storage: &dyn Storage) -> Result<(), StorageError> {
    small::remove(storage, NOTE)?;
    // As large as all messages that are in no page.
    small::remove(storage, SPOOL)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
