//! The dispatcher over a ledger, from the outside: by feature, and against a simple model.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod limits;
mod order;
mod restart;
mod rig;
mod settle;
