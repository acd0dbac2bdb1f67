//! The running whole: shard, drivers, connections, authentication, recovery and checkpoints.
//!
//! - [`Broker`] is what the server starts, hands connections to, asks for figures and stops.
//! - A [`Connection`](connection) owns a socket and a protocol's session; it is one task.
//! - An [`Authenticate`] finds out who a client is, an [`Access`] what he may do; every command is
//!   compared with it before it reaches the shard.
//! - A [`Client`] is a session without a socket, for what acts within the process.
//! - The [`Shard`] holds ledger and dispatcher. It works in turns: a turn takes what has come in,
//!   lets it take effect, proposes what must be logged and posts what there is to say.
//! - A [`Driver`] decides on which thread a turn runs. [`Combining`] is the one in use; see
//!   `docs/adr/0002-threading.md`.

mod access;
mod backup;
mod blocking;
mod broker;
mod checkpointer;
mod client;
mod clock;
mod connection;
mod driver;
mod durable;
mod mailbox;
mod marks;
mod member;
mod noted;
pub mod offline;
mod owned;
mod pager;
mod peer;
#[cfg(feature = "planted-bugs")]
pub mod planted;
mod pressure;
mod quota;
mod recovery;
mod registry;
mod rounds;
mod scrub;
mod shard;
mod transfer;

pub use isthmus_cluster as cluster;
pub use isthmus_storage as storage;

pub use access::{
    Access, Asking, Authenticate, Denied, Entering, Limits, Login, Rates, Unrestricted, User,
};
pub use backup::{Backup, BackupError};
pub use blocking::blocking;
pub use broker::{Broker, BrokerOptions, Figures};
pub use checkpointer::PagingOptions;
pub use client::Client;
pub use driver::{Combining, Driver, abort_on_panic};
pub use member::{ClusterOptions, HandOverError, Membership};
pub use peer::{CertificateIdentity, Peer, TlsPeer};
pub use recovery::RecoveryError;
pub use registry::ConnectionStatus;
pub use scrub::ScrubOptions;
pub use shard::{Input, Leader, OnSettings, Shard, Wakes};
