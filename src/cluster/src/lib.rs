//! Consensus: proposals, commits, leadership.

pub mod raft;
