//! MQTT 3.1, 3.1.1 and 5.0: codec, session, conversion.
//!
//! [`codec`] reads and writes every packet of the three versions, for both ends of a connection.
//! It is strict: what a specification forbids is refused with the reason code that it names, and
//! a text that says which packet and which field. Nothing is allocated to read a packet; what is
//! read refers to the bytes that it was read from.
//!
//! [`MqttSession`] is a sans-IO server session ([`isthmus_contract::Session`]): sessions that last,
//! wills, QoS 0 to 2, retained messages, shared subscriptions, flow control, topic aliases,
//! authentication beyond name and password. What outlives a connection is the broker's.
//!
//! [`convert`] tells how an MQTT message lies in a batch, how topics and routing keys stand for
//! each other, and what the properties of a message mean to other protocols.

pub mod codec;
pub mod convert;
mod fault;
mod reason;
mod session;

pub use convert::MqttEncoding;
pub use fault::{Fault, Problem, TooLong};
pub use reason::ReasonCode;
pub use session::{MqttSession, OwnConfig, SessionConfig};
