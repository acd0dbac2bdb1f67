//! The running whole: shard, sessions, authentication.
