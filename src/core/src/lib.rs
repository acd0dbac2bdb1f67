//! Routing, ledger and dispatcher: the pure heart of the broker.
//!
//! Everything here is synchronous, reads no clock, opens no file and starts no thread.

pub mod codec;
mod fact;
mod runs;
#[cfg(test)]
mod testing;

pub use fact::{Entry, Fact, Placement};
pub use runs::{Run, RunMap};
