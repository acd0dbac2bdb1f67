//! The dispatcher over a ledger, from the outside: by feature, and against a simple model.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod choose;
mod clients;
mod clients_model;
mod credit;
mod deadletter;
mod dedup;
mod delayed;
mod holding;
mod kept;
mod lifetime;
mod limits;
mod model;
mod order;
mod own;
mod pages;
mod priority;
mod publish;
mod restart;
mod rig;
mod settle;
mod single_active;
mod transaction;
mod vhost;
mod wills;
