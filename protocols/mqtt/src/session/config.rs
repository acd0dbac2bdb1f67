//! What a session is told about its node.

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::{Encodings, NEVER_EXPIRES, Overflow, SessionId};

/// Settings of one session. Cloning costs a few reference counts.
#[derive(Clone)]
pub struct SessionConfig {
    /// The session's id, the owner of its queues.
    pub id: SessionId,
    /// The virtual host that clients enter.
    pub vhost: Arc<str>,
    /// The topic exchange that they publish to and subscribe at.
    pub exchange: Arc<str>,
    /// The topic exchange of topics that begin with `$`: a filter that begins with a wildcard is
    /// no binding of it [MQTT-4.7.2-1].
    pub system_exchange: Arc<str>,
    /// The largest packet that is taken, in bytes.
    pub packet_bytes_max: u32,
    /// The largest packet that is taken before a CONNECT has been, in bytes.
    pub connect_bytes_max: u32,
    /// How long a client may take from connecting to being accepted.
    pub connect_timeout: Duration,
    /// The longest keep alive, in seconds, that a client of 5.0 may choose: who chooses more, or
    /// none, is given this one; 0 for any.
    pub keep_alive_s_max: u16,
    /// How long a session may outlive its connection, in milliseconds.
    pub session_expiry_ms_max: u64,
    /// Subscriptions of one client at the most.
    pub subscriptions_max: usize,
    /// QoS 1 and 2 deliveries at the most that a client has not acknowledged, whatever it allows.
    pub inflight_max: u16,
    /// QoS 1 and 2 publishes at the most of a client that are not answered to the end (Receive
    /// Maximum); at least 1.
    pub receive_max: u16,
    /// The highest topic alias that is taken, and that is given.
    pub topic_alias_max: u16,
    /// What response topics are made of, for clients of 5.0 that ask; empty for nothing.
    pub response_information: Arc<str>,
    /// Messages at the most that wait for a client in each of its queues of QoS 1 and 2.
    pub queue_length_max: u64,
    /// Bytes of bodies at the most that do.
    pub queue_bytes_max: u64,
    /// What becomes of those that are too many: older ones are dropped, or new ones refused.
    pub queue_overflow: Overflow,
    /// Messages at the most that wait for a connected client that is to get them with QoS 0.
    pub qos0_length_max: u64,
    /// Bytes of bodies at the most that do.
    pub qos0_bytes_max: u64,
    /// How long the queue of a shared subscription lasts that nobody uses, in milliseconds.
    pub shared_expires_ms: u64,
    /// Whether the client has shown a certificate that was verified.
    pub has_certificate: bool,
    /// From which client identifiers are made for those who have none: unpredictable, and of this
    /// session alone.
    pub name_secret: u128,
    /// If another server serves clients: what they reach it by (Server Reference of 5.0), empty if
    /// that is not known. They are told so, and nothing else.
    pub elsewhere: Option<Arc<str>>,
    /// What messages of other protocols are read with.
    pub encodings: Encodings,
}

/// What is one session's own, where the rest of a [`SessionConfig`] is shared by many: its fields of
/// the same names.
#[derive(Clone, Copy, Debug)]
pub struct OwnConfig {
    /// See [`SessionConfig::id`].
    pub id: SessionId,
    /// See [`SessionConfig::connect_timeout`].
    pub connect_timeout: Duration,
    /// See [`SessionConfig::has_certificate`].
    pub has_certificate: bool,
    /// See [`SessionConfig::name_secret`].
    pub name_secret: u128,
}

impl OwnConfig {
    /// That of settings for one session alone.
    pub fn of(config: &SessionConfig) -> OwnConfig {
        let SessionConfig { id, connect_timeout, has_certificate, name_secret, .. } = *config;
        OwnConfig { id, connect_timeout, has_certificate, name_secret }
    }
}

impl SessionConfig {
    /// The default settings for the session called `id`.
    pub fn new(id: SessionId) -> SessionConfig {
        SessionConfig {
            id,
            vhost: Arc::from("/"),
            exchange: Arc::from("amq.topic"),
            system_exchange: Arc::from("amq.mqtt.system"),
            packet_bytes_max: 16 * 1024 * 1024,
            connect_bytes_max: 64 * 1024,
            connect_timeout: Duration::from_secs(10),
            keep_alive_s_max: 0,
            session_expiry_ms_max: NEVER_EXPIRES,
            subscriptions_max: 10_000,
            inflight_max: 1_000,
            receive_max: 1_000,
            topic_alias_max: 16,
            response_information: Arc::from(""),
            queue_length_max: 100_000,
            queue_bytes_max: 1 << 30,
            queue_overflow: Overflow::DropHead,
            qos0_length_max: 10_000,
            qos0_bytes_max: 64 << 20,
            shared_expires_ms: 60 * 60 * 1000,
            has_certificate: false,
            name_secret: 0,
            elsewhere: None,
            encodings: Encodings(&[]),
        }
    }
}
