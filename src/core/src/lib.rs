//! Routing, ledger and dispatcher: the pure heart of the broker.
pub mod topology;
