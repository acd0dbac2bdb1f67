//! The tests of this crate look at the workspace itself.
