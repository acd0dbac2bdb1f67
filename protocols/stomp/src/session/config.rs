//! What a session is told about its node.

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::{Encodings, SessionId};

use crate::codec::{Limits, Version};

/// Settings of one session. Cloning costs a few reference counts.
#[derive(Clone)]
pub struct SessionConfig {
    /// The session's id, the owner of its queues.
    pub id: SessionId,
    /// The virtual host of clients who name none.
    pub vhost: Arc<str>,
    /// Whether the header `host` of a CONNECT names a virtual host. ActiveMQ does not look at it,
    /// and its clients put the name of the machine there.
    pub host_is_vhost: bool,
    /// The versions that are spoken, the latest first; fewer where a client's transport has agreed
    /// on one.
    pub versions: &'static [Version],
    /// What of a frame is taken.
    pub limits: Limits,
    /// How long a client may take from connecting to being accepted.
    pub connect_timeout: Duration,
    /// The shortest time between heart-beats, to a client and from it.
    pub heartbeat_min: Duration,
    /// Subscriptions of one client at the most.
    pub subscriptions_max: usize,
    /// Transactions of one client at the most that are open at once.
    pub transactions_max: usize,
    /// Whether the client has shown a certificate that was verified.
    pub has_certificate: bool,
    /// From which names of queues are made that nobody is to guess: unpredictable, and of this
    /// session alone.
    pub name_secret: u128,
    /// Milliseconds from 1970 to the zero of the session's time, by which `expires` is understood.
    pub unix_ms_at_zero: i64,
    /// What messages of other protocols are read with.
    pub encodings: Encodings,
}

impl SessionConfig {
    /// The default settings for the session called `id`.
    pub fn new(id: SessionId) -> SessionConfig {
        SessionConfig {
            id,
            vhost: Arc::from("/"),
            host_is_vhost: true,
            versions: &Version::ALL,
            limits: Limits::default(),
            connect_timeout: Duration::from_secs(10),
            heartbeat_min: Duration::from_millis(500),
            subscriptions_max: 10_000,
            transactions_max: 100,
            has_certificate: false,
            name_secret: 0,
            unix_ms_at_zero: 0,
            encodings: Encodings(&[]),
        }
    }
}
