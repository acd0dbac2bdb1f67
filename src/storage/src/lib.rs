//! The log, pages and checkpoints, over real or simulated files.
//!
//! Synchronous, without a runtime: [`Log`] is the machine, [`LogWriter`] runs it on a thread with
//! group commit, [`threads`] are real or simulated, [`pages`] hold what survives the log, [`checkpoint`] writes and reads what says
//! where everything is, and [`fs`] is the file system below all of them, real or simulated.
//!
//! What holds:
//! - Nothing is reported durable before the sync that made it so has returned.
//! - A write or sync that failed is the end of the log: every later call fails with the same
//!   error, nothing more is reported durable, and the process is expected to abort.
//! - Nothing that was reported durable is cut off. A torn tail is cut; damage anywhere else is an
//!   error that names file and offset, and the data stays as it is.

pub mod checkpoint;
pub mod damage;
mod error;
mod format;
pub mod fs;
mod log;
pub mod pages;
pub mod reader;
pub mod small;
mod spool;
pub mod threads;
pub mod verify;
mod writer;

pub use error::{Error, Result};
pub use format::FORMAT_VERSION;
pub use fs::{RealStorage, RecordingStorage, SharedStorage, SimStorage, Storage};
pub use log::{
    AppendEntry, Cut, Entry, EntryMeta, Extent, HardState, Log, LogId, LogOptions, LogReader,
    Recovered, Spares,
};
pub use spool::Spool;
pub use threads::Threads;
pub use writer::{Completion, Durable, EncodeEntry, LogWriter, WriterEvent, WriterOptions};
