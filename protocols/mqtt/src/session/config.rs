//! What a session is told about its node.

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::{Encodings, SessionId};

/// Settings of one session. Cloning costs a few reference counts.
#[derive(Clone)]
pub struct SessionConfig {
    /// The session's id, the owner of its queues.
    pub id: SessionId,
    /// The virtual host that clients enter.
    pub vhost: Arc<str>,
    /// The topic exchange that they publish to and subscribe at.
    pub exchange: Arc<str>,
    /// The largest packet that is taken, in bytes.
    pub packet_bytes_max: u32,
    /// The largest packet that is taken before a CONNECT has been, in bytes.
    pub connect_bytes_max: u32,
    /// How long a client may take from connecting to being accepted.
    pub connect_timeout: Duration,
    /// Subscriptions of one client at the most.
    pub subscriptions_max: usize,
    /// QoS 1 deliveries at the most that a client has not acknowledged, whatever it allows.
    pub inflight_max: u16,
    /// The highest topic alias that is taken.
    pub topic_alias_max: u16,
    /// Whether the client has shown a certificate that was verified.
    pub has_certificate: bool,
    /// From which client identifiers are made for those who have none: unpredictable, and of this
    /// session alone.
    pub name_secret: u128,
    /// What messages of other protocols are read with.
    pub encodings: Encodings,
}

impl SessionConfig {
    /// The default settings for the session called `id`.
    pub fn new(id: SessionId) -> SessionConfig {
        SessionConfig {
            id,
            vhost: Arc::from("/"),
            exchange: Arc::from("amq.topic"),
            packet_bytes_max: 16 * 1024 * 1024,
            connect_bytes_max: 64 * 1024,
            connect_timeout: Duration::from_secs(10),
            subscriptions_max: 10_000,
            inflight_max: 1_000,
            topic_alias_max: 16,
            has_certificate: false,
            name_secret: 0,
            encodings: Encodings(&[]),
        }
    }
}
