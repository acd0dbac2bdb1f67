//! A whole cluster in one thread, replayed from a seed.
//!
//! The nodes run the production crates: core, storage, consensus with its transport, and broker.
//! Exchanged are only what they stand on: the disk ([`SimStorage`](isthmus_storage::SimStorage)), the
//! streams below the transport and of clients, the clock and the threads, and where random numbers
//! come from.
//!
//! [`run`] lets clients publish, consume and settle, in bytes of AMQP 0-9-1, MQTT 5.0 and STOMP or in
//! commands, while nodes lose power, are killed and come back, lose their data or join, while the
//! network is cut in halves, in one direction or around a bridge, connections break, disks are slow
//! or fail, wall clocks jump and leadership is handed over. Then all is healed, and what the clients
//! were told is compared with what is there:
//!
//! - what was confirmed was settled or is still held; what was refused never appears;
//! - order for each queue and publisher; nothing twice without a flag, and nothing of QoS 2 twice;
//! - what is settled for certain does not come back;
//! - one leader for each term, and never two that may act at once;
//! - every node has the same ledger in the end.
//!
//! A seed replays: the same operations of the same disks, the same events at the same times.

mod client;
mod cluster;
mod disk;
mod disturb;
mod net;
mod node;
mod oracle;
mod run;
mod runtime;
mod spoken;
mod work;

pub use oracle::{Broken, Tally};
pub use run::{Faults, Plan, Trace, run};
