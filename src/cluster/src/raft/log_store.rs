//! openraft's log store over [`LogWriter`] and [`LogReader`].

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use futures_util::{Stream, stream};
use isthmus_storage::{
    Error, Log, LogId, LogOptions, LogReader, LogWriter, Recovered, SharedStorage, WriterEvent,
    WriterOptions,
};
use openraft::{
    LogState, OptionalSend,
    async_runtime::OneshotSender,
    storage::{IOFlushed, RaftLogStorage},
    type_config::TypeConfigExt,
};
use parking_lot::Mutex;

use super::{
    Entry, RaftLogId, RaftTypes, Vote,
    convert::{
        Body, entry_from_log, id_from_log, id_to_log, index_to_log, invalid, vote_from_hard,
        vote_to_hard,
    },
    tail::{Part, SharedState, State, payload_bytes},
};

/// How the log store works.
#[derive(Debug, Clone)]
pub struct RaftLogOptions {
    /// The log's files.
    pub log: LogOptions,
    /// The log's writer.
    pub writer: WriterOptions,
    /// How much of the end of the log is kept in memory, in bytes; 32 MiB by default. What is not
    /// yet durable is kept beyond this.
    pub memory_bytes: usize,
    /// Payload of one message to a follower, in bytes, exceeded by at most one entry; 1 MiB by
    /// default.
    pub message_bytes: usize,
}

impl Default for RaftLogOptions {
    fn default() -> Self {
        Self {
            log: LogOptions::default(),
            writer: WriterOptions::default(),
            memory_bytes: 32 << 20,
            message_bytes: 1 << 20,
        }
    }
}

/// Why the log store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The log or the hard state cannot be read or written.
    #[error(transparent)]
    Log(#[from] Error),
    /// The hard state holds what this release never writes.
    #[error("the hard state is not usable: {0}")]
    HardState(#[source] io::Error),
    /// The operating system has no more threads.
    #[error("cannot start the log writer: {0}")]
    Threads(#[source] io::Error),
}

/// The log of a node, as openraft writes it. Clones are handles of the same log.
///
/// Dropping the last handle closes the log cleanly and waits for that; [`RaftLog::close`] tells how
/// it went.
#[derive(Clone, Debug)]
pub struct RaftLog {
    writer: Arc<LogWriter<Body>>,
    reader: RaftLogReader,
}

/// The log of a node, as openraft reads it.
///
/// It does not keep the writer alive: a completion on the writer's thread holds the state too, and
/// must never be the one that joins that thread.
#[derive(Clone, Debug)]
pub struct RaftLogReader {
    file: LogReader,
    state: SharedState,
    message_bytes: usize,
}

impl RaftLog {
    /// Opens the log of a data directory, or creates one in an empty directory, and starts its
    /// writer. `on_event` is called on the writer's thread and must not block; after
    /// [`WriterEvent::Failed`], which comes before any completion that tells openraft, the process
    /// should abort.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        storage: SharedStorage,
        options: RaftLogOptions,
        on_event: impl FnMut(WriterEvent) + Send + 'static,
    ) -> Result<(Self, Recovered), OpenError> {
        Self::open_behind(storage, options, None, on_event)
    }

    /// As [`RaftLog::open`], for a node that was about to put a snapshot up to `behind` in the place
    /// of what it had: the log goes on behind that.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_behind(
        storage: SharedStorage,
        options: RaftLogOptions,
        behind: Option<LogId>,
        on_event: impl FnMut(WriterEvent) + Send + 'static,
    ) -> Result<(Self, Recovered), OpenError> {
        let (mut log, mut recovered) = Log::open(storage, options.log)?;
        if let Some(behind) = behind {
            // What is not known to be committed may contradict what the snapshot holds.
            if log.reader().term_of(behind.index).is_some_and(|term| term != behind.term) {
                log.truncate_from(recovered.hard_state.committed.max(recovered.purged.index) + 1)?;
            }
            log.purge_to(behind)?;
            recovered.last = log.last_log_id();
            recovered.purged = log.last_purged();
        }
        vote_from_hard(&recovered.hard_state).map_err(OpenError::HardState)?;
        let Recovered { hard_state, last, purged, .. } = recovered;
        let state = State::new(hard_state, last, purged, options.memory_bytes);
        let reader = RaftLogReader {
            file: log.reader(),
            state: Arc::new(Mutex::new(state)),
            message_bytes: options.message_bytes,
        };
        let writer = LogWriter::start(log, options.writer, on_event).map_err(OpenError::Threads)?;
        Ok((Self { writer: Arc::new(writer), reader }, recovered))
    }

    /// A reader for any thread.
    #[must_use]
    pub fn reader(&self) -> RaftLogReader {
        self.reader.clone()
    }

    /// Reads what is in the files: all that is durable.
    #[must_use]
    pub fn file(&self) -> LogReader {
        self.reader.file.clone()
    }

    /// Closes the log if this is its last handle: does what was submitted, and writes a seal.
    ///
    /// # Errors
    /// The error that ended the log, or why sealing failed.
    pub fn close(self) -> isthmus_storage::Result<()> {
        Arc::into_inner(self.writer).map_or(Ok(()), LogWriter::shutdown)
    }

    /// Submits work to the writer and waits until it is durable.
    async fn durable(
        &self,
        submit: impl FnOnce(&LogWriter<Body>, isthmus_storage::Completion),
    ) -> io::Result<()> {
        let (tx, rx) = RaftTypes::oneshot();
        submit(
            &self.writer,
            // Whoever asked may be gone, as when openraft is shut down.
            Box::new(move |result| drop(tx.send(result))),
        );
        let result = rx.await.map_err(|_| io::Error::other(Error::Stopped))?;
        result.map(drop).map_err(io::Error::other)
    }
}

impl RaftLogReader {
    /// The last entry that is on this node's stable storage, or was purged.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.state.lock().durable
    }

    fn vote(&self) -> io::Result<Option<Vote>> {
        vote_from_hard(&self.state.lock().hard)
    }

    /// Reads the entries `from..to` by the log's indexes, as many as there are, until their
    /// payloads reach `bytes_max`; at least one if there is one. The second value is the end of
    /// what could have been read.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<(Vec<Entry>, u64)> {
        loop {
            // What is in memory first: what is not there any more is in the file for certain, but
            // not the other way round.
            let part = self.state.lock().read(from, to, bytes_max);
            let Part { from, to, memory_from, entries: memory } = part;
            if from >= memory_from {
                return Ok((memory, to));
            }
            let stored = match self.file.read(from, memory_from, bytes_max) {
                // Purged meanwhile, so the state says so by now.
                Err(Error::Purged { .. }) => continue,
                stored => stored.map_err(io::Error::other)?,
            };
            let mut entries =
                stored.into_iter().map(entry_from_log).collect::<io::Result<Vec<_>>>()?;
            let mut bytes = entries.iter().map(payload_bytes).sum::<usize>();
            // Nothing from memory behind a gap: the file's part may have been cut at `bytes_max`,
            // or truncated since the part in memory was read.
            if entries.len() as u64 == memory_from - from {
                for entry in memory {
                    if bytes >= bytes_max {
                        break;
                    }
                    bytes += payload_bytes(&entry);
                    entries.push(entry);
                }
            }
            return Ok((entries, to));
        }
    }
}

/// The log's indexes `from..to` of a range of openraft's.
fn log_range(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&first) => index_to_log(first),
        Bound::Excluded(&before) => index_to_log(before) + 1,
        Bound::Unbounded => 1,
    };
    let to = match range.end_bound() {
        Bound::Included(&last) => index_to_log(last).saturating_add(1),
        Bound::Excluded(&behind) => index_to_log(behind),
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl openraft::RaftLogReader<RaftTypes> for RaftLogReader {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = log_range(&range);
        let (entries, end) = self.read(from, to, usize::MAX)?;
        let complete = entries.last().is_none_or(|e| id_to_log(&e.log_id).index + 1 == end);
        if !complete {
            return Err(io::Error::other("the log was truncated while it was read"));
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = log_range(&(start..end));
        Ok(self.read(from, to, self.message_bytes)?.0)
    }

    /// Reads piece by piece: a node that catches up applies more than fits into memory.
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = log_range(&range);
        let start = (self.clone(), VecDeque::new(), from);
        stream::try_unfold(start, move |(reader, mut piece, mut next)| async move {
            if piece.is_empty() && next < to {
                piece = reader.read(next, to, reader.message_bytes)?.0.into();
            }
            let Some(entry): Option<Entry> = piece.pop_front() else { return Ok(None) };
            next = id_to_log(&entry.log_id).index + 1;
            Ok(Some((entry, (reader, piece, next))))
        })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.vote()
    }
}

impl RaftLogStorage<RaftTypes> for RaftLog {
    type LogReader = RaftLogReader;

    async fn get_log_state(&mut self) -> Result<LogState<RaftTypes>, io::Error> {
        let state = self.reader.state.lock();
        Ok(LogState {
            last_purged_log_id: id_from_log(state.purged),
            last_log_id: id_from_log(state.last),
        })
    }

    async fn get_log_reader(&mut self) -> RaftLogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let committed = self.reader.state.lock().hard.committed;
        let hard = vote_to_hard(vote, committed);
        self.durable(|writer, done| writer.save_hard_state(hard, done)).await?;
        self.reader.state.lock().hard = hard;
        Ok(())
    }

    /// Costs no write: the index travels in the header of the next record, the seal of an idle log
    /// at the latest. So it is not waited for.
    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        let Some(committed) = committed.map(|id| id_to_log(&id).index) else { return Ok(()) };
        let hard = {
            let mut state = self.reader.state.lock();
            state.hard.committed = state.hard.committed.max(committed);
            state.hard
        };
        // A failure ends the log, and every append after it says so.
        self.writer.save_hard_state(hard, Box::new(drop));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        let index = {
            let state = self.reader.state.lock();
            // An index is committed once a majority has it, which need not include this node.
            let index = state.hard.committed.min(state.durable);
            if index <= state.purged.index {
                return Ok(id_from_log(state.purged));
            }
            index
        };
        let term = self.reader.file.term_of(index);
        let term =
            term.ok_or_else(|| invalid(format!("entry {index} is committed and not in the log")))?;
        Ok(id_from_log(LogId { term, index }))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<RaftTypes>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let (records, last) = {
            let mut state = self.reader.state.lock();
            let records = state.append(entries)?;
            (records, state.last.index)
        };
        let state = Arc::clone(&self.reader.state);
        let done = move |result: isthmus_storage::Result<_>| {
            if result.is_ok() {
                state.lock().durable(last);
            }
            callback.io_completed(result.map(drop).map_err(io::Error::other));
        };
        self.writer.append(records, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        let last = last.map_or(0, |id| id_to_log(&id).index);
        if last >= self.reader.state.lock().last.index {
            return Ok(());
        }
        self.durable(|writer, done| writer.truncate_from(last + 1, done)).await?;
        // Everything submitted before is done, so the file's end is the log's.
        let last = self.reader.file.last_log_id();
        self.reader.state.lock().truncate(last);
        Ok(())
    }

    /// Does not wait: what is forgotten is in a checkpoint that is durable, and purging writes and
    /// syncs the state file.
    async fn purge(&mut self, id: RaftLogId) -> Result<(), io::Error> {
        let id = id_to_log(&id);
        {
            let mut state = self.reader.state.lock();
            if id.index <= state.purged.index {
                return Ok(());
            }
            state.purge(id);
        }
        // A failure ends the log, and every append after it says so.
        self.writer.purge_to(id, Box::new(drop));
        Ok(())
    }
}
