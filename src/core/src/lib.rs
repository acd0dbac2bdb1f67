//! Routing, ledger and dispatcher: the pure heart of the broker.
//!
//! Everything here is synchronous, reads no clock, opens no file and starts no thread.
//!
//! - [`topology`]: exchanges, bindings and queues by name; where a message goes.
//! - [`Entry`], [`Fact`]: what the log says; [`codec`]: as bytes.
//! - [`clients`]: sessions that outlive their connections.
//! - [`paging`]: messages that were written out of memory.
//! - [`Ledger`]: what is true on every replica, a fold over the log.
//! - [`Dispatcher`]: what the leader decides; it proposes facts and delivers what is committed.

pub mod clients;
pub mod codec;
pub mod dedup;
mod dispatcher;
mod fact;
mod few;
pub mod kept;
mod ledger;
pub mod paging;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod policy;
mod runs;
#[cfg(test)]
mod testing;
pub mod topology;

pub use dispatcher::{
    ClientStatus, Clock, Counters, Dispatcher, DispatcherOptions, Note, Output, QueueStatus,
    QueueTotals,
};
pub use fact::{Entry, Fact, Members, Place, Placement};
pub use ledger::{Ledger, QueueLedger, Settings, Wanted};
pub use runs::{Part, Run, RunMap};
