//! What comes before a protocol's own bytes.
//!
//! [`first`] tells by a client's first bytes what it speaks, [`proxy`] reads the header by which a
//! proxy says who its client is, [`upgrade`] answers the request of a WebSocket, and [`frames`] makes
//! a stream of bytes of what comes in one. [`messages`] cuts what STOMP sends there into the
//! messages that its clients expect. Nothing here knows the broker.

pub mod first;
pub mod frames;
pub mod messages;
pub mod proxy;
pub mod upgrade;
