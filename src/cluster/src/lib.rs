//! Consensus: proposals, commits, leadership.
//!
//! What is proposed is committed once it is on the stable storage of a majority, and only then
//! takes effect. One group holds everything; a single node is a group of one and goes the same
//! way: propose, committed, apply. Its log is what a cluster's log is, entry for entry
//! ([`raft`]), so that it can become one.

pub mod member;
pub mod peer;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod raft;
mod single;

pub use openraft::network::{NetSnapshot, RaftNetworkFactory};
pub use single::{SingleNode, SingleOptions, StartError, Started};
