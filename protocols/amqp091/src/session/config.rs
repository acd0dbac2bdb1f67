//! What a session is told about its node.

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::{Encodings, SessionId};

use crate::codec::frame;

/// Settings of one session. Cloning costs a few reference counts.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The session's id, the owner of its exclusive queues.
    pub id: SessionId,
    /// The largest frame in octets that is offered to clients; at least 4,096.
    pub frame_max: u32,
    /// The highest channel number that is offered to clients.
    pub channel_max: u16,
    /// The heartbeat that is offered to clients, in seconds; 0 for none.
    pub heartbeat_s: u16,
    /// The largest message body, in octets.
    pub message_bytes_max: u64,
    /// How long a client may take from connecting to `connection.open`.
    pub handshake_timeout: Duration,
    /// How long a client may take to answer `connection.close`.
    pub close_timeout: Duration,
    /// Whether the client has shown a certificate that was verified, so that EXTERNAL is offered.
    pub has_certificate: bool,
    /// From which the names of reply queues are made: unpredictable, and of this session alone.
    pub name_secret: u128,
    /// What messages of other protocols are read with.
    pub encodings: Encodings,
    /// The product's name, in the server properties.
    pub product: Arc<str>,
    /// The product's version, in the server properties.
    pub version: Arc<str>,
    /// The cluster's name, in the server properties.
    pub cluster_name: Arc<str>,
    /// The node's host, in the server properties.
    pub host: Arc<str>,
}

impl SessionConfig {
    /// The default settings for the session called `id`.
    pub fn new(id: SessionId) -> SessionConfig {
        SessionConfig {
            id,
            frame_max: 131_072,
            channel_max: 2047,
            heartbeat_s: 60,
            message_bytes_max: 128 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(10),
            has_certificate: false,
            name_secret: 0,
            encodings: Encodings(&[]),
            product: Arc::from("Isthmus"),
            version: Arc::from(env!("CARGO_PKG_VERSION")),
            cluster_name: Arc::from("isthmus"),
            host: Arc::from("localhost"),
        }
    }

    /// The frame size that is offered, whatever was configured.
    pub(super) fn frame_max(&self) -> u32 {
        self.frame_max.max(frame::MIN_MAX_BYTES)
    }
}
