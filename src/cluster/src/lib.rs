//! Consensus: proposals, commits, leadership.
