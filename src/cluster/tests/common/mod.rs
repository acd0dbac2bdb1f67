//! What the tests and the bench of consensus share.

// Not every one of them uses everything.
#![allow(dead_code)]

pub(crate) mod fold;
pub(crate) mod network;
pub(crate) mod nodes;
pub(crate) mod peers;
pub(crate) mod staged;
