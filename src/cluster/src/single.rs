//! A group of one: a proposal is committed when it is on this node's own stable storage.

use std::io;

use isthmus_storage::{
    AppendEntry, EncodeEntry, Error, HardState, Log, LogId, LogOptions, LogReader, LogWriter,
    Recovered, SharedStorage, WriterEvent, WriterOptions,
};
use thiserror::Error as ThisError;

use crate::raft::convert::{first_entry, proposal_meta};

/// The only voter's id.
const SELF_ID: u64 = 1;

/// How the node's log is kept.
#[derive(Clone, Debug, Default)]
pub struct SingleOptions {
    /// The log's layout.
    pub log: LogOptions,
    /// The writer's ways.
    pub writer: WriterOptions,
}

/// Why a node could not start.
#[derive(Debug, ThisError)]
pub enum StartError {
    /// What the log says.
    #[error(transparent)]
    Storage(#[from] Error),
    /// No thread could be started for the log.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[from] io::Error),
}

/// A node whose log is open and whose entries are to be applied before it leads.
pub struct Started {
    log: Log,
    options: SingleOptions,
    recovered: Recovered,
}

/// The leader of a group of one.
pub struct SingleNode<P: EncodeEntry> {
    writer: LogWriter<P>,
    term: u64,
    next: u64,
}

impl Started {
    /// Opens the log in `storage`.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open(storage: SharedStorage, options: SingleOptions) -> Result<Started, Error> {
        let (mut log, mut recovered) = Log::open(storage, options.log.clone())?;
        if recovered.last == LogId::ZERO {
            let (meta, payload) = first_entry(SELF_ID);
            log.append(&[AppendEntry { meta, payload: &[&payload] }])?;
            log.sync()?;
            recovered.last = log.last_log_id();
        }
        Ok(Started { log, options, recovered })
    }

    /// What was found. Every entry of a group of one counts as committed once it is durable, and
    /// whatever was recovered is.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Reads the entries to apply.
    pub fn reader(&self) -> LogReader {
        self.log.reader()
    }

    /// Begins a new term: votes for itself, durably, and leads. `on_event` hears what is committed
    /// from the writer's thread, and must not block.
    ///
    /// # Errors
    /// If the vote cannot be saved or the writer's thread not started.
    pub fn lead<P: EncodeEntry>(
        mut self,
        on_event: impl FnMut(WriterEvent) + Send + 'static,
    ) -> Result<SingleNode<P>, StartError> {
        let last = self.log.last_log_id();
        let term = self.recovered.hard_state.term.max(last.term) + 1;
        self.log.save_hard_state(HardState {
            term,
            voted_for: Some(SELF_ID),
            vote_committed: true,
            committed: last.index,
        })?;
        let writer = LogWriter::start(self.log, self.options.writer, on_event)?;
        Ok(SingleNode { writer, term, next: last.index + 1 })
    }
}

impl<P: EncodeEntry> SingleNode<P> {
    /// The term that this node leads.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Proposes an entry; returns its index. It is committed when the writer's event names that
    /// index or a higher one.
    pub fn propose(&mut self, payload: P) -> u64 {
        let index = self.next;
        self.next += 1;
        let meta = proposal_meta(self.term, index);
        // The writer's event reports success and failure alike; there is nothing to add here.
        self.writer.append(vec![(meta, payload)], Box::new(|_| {}));
        index
    }

    /// Lets the log forget the entries up to `index`, which a durable checkpoint holds.
    pub fn purge_to(&self, index: u64, term: u64) {
        self.writer.purge_to(LogId { index, term }, Box::new(|_| {}));
    }

    /// Reads the log.
    pub fn reader(&self) -> LogReader {
        self.writer.reader()
    }

    /// Writes what was proposed, seals the log and stops.
    ///
    /// # Errors
    /// What ended the log.
    pub fn shutdown(self) -> Result<(), Error> {
        self.writer.shutdown()
    }
}
