//! STOMP 1.0, 1.1 and 1.2 (<https://stomp.github.io>): codec, session, conversion.
//!
//! [`codec`] reads and writes frames of the three versions, however they are split on their way;
//! what is read refers to the bytes that it was read from. [`destination`] tells where the names
//! lead that clients of RabbitMQ and of ActiveMQ use. [`StompSession`] is a sans-IO server session
//! ([`isthmus_contract::Session`]). [`convert`] tells how a STOMP message lies in a batch and what
//! its headers mean to other protocols.

pub mod codec;
pub mod convert;
pub mod destination;
mod fault;
mod session;

pub use convert::StompEncoding;
pub use fault::Fault;
pub use session::{SessionConfig, StompSession};
