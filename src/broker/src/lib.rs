//! The running whole: shard, drivers, connections, authentication, recovery and checkpoints.
//!
//! - [`Broker`] is what the server starts, hands connections to, asks for figures and stops.
//! - A [`Connection`](connection) owns a socket and a protocol's session; it is one task.
//! - The [`Shard`] holds ledger and dispatcher. It works in turns: a turn takes what has come in,
//!   lets it take effect, proposes what must be logged and posts what there is to say.
//! - A [`Driver`] decides on which thread a turn runs. [`Combining`] is the one in use; see
//!   `docs/adr/0002-threading.md`.

mod broker;
mod checkpointer;
mod clock;
mod connection;
mod driver;
mod mailbox;
mod peer;
mod pressure;
mod recovery;
mod shard;

pub use isthmus_cluster as cluster;
pub use isthmus_storage as storage;

pub use broker::{Authenticate, Broker, BrokerOptions, Figures, Login};
pub use driver::{Combining, Driver, abort_on_panic};
pub use peer::{CertificateIdentity, Peer, TlsPeer};
pub use recovery::RecoveryError;
pub use shard::{Input, Shard, Wakes};
