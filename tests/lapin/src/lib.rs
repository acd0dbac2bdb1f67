//! Starts a broker for the tests of this crate.
