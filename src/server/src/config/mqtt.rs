//! `[mqtt]`: what MQTT clients are served by.

use std::time::Duration;

use isthmus_contract::model::Overflow;

use super::cluster::Nodes;
use super::units::{ByteSize, TimeSpan};
use super::value::{Setting, Value, read_word};

/// MQTT.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mqtt {
    /// The virtual host of clients whose user name names none; empty for that of AMQP.
    pub(crate) vhost: String,
    /// The topic exchange that clients publish to and subscribe at.
    pub(crate) exchange: String,
    /// The largest packet.
    pub(crate) packet_bytes_max: ByteSize,
    /// The largest CONNECT.
    pub(crate) connect_bytes_max: ByteSize,
    /// The highest topic alias that clients may use.
    pub(crate) topic_alias_max: u32,
    /// Deliveries of QoS 1 and 2 at the most that a client has not acknowledged.
    pub(crate) inflight_max: u32,
    /// Publishes of QoS 1 and 2 at the most that a client has no answer to.
    pub(crate) receive_max: u32,
    /// Subscriptions per client.
    pub(crate) subscriptions_max: u32,
    /// The longest keep alive of a client of 5.0; 0s for any.
    pub(crate) keep_alive_max: TimeSpan,
    /// How long a session is kept at the most whose client stays away.
    pub(crate) session_expiry_max: SessionExpiry,
    /// Messages at the most that wait for a client with QoS 1 or 2.
    pub(crate) queue_messages_max: u32,
    /// Bytes of their bodies at the most.
    pub(crate) queue_bytes_max: ByteSize,
    /// What becomes of those that are too many.
    pub(crate) queue_overflow: QueueOverflow,
    /// Messages at the most that wait for a connected client with QoS 0.
    pub(crate) qos0_messages_max: u32,
    /// Bytes of their bodies at the most.
    pub(crate) qos0_bytes_max: ByteSize,
    /// How long the queue of a shared subscription lasts that nobody uses.
    pub(crate) shared_expires: TimeSpan,
    /// What response topics are made of, for clients of 5.0 that ask.
    pub(crate) response_information: String,
    /// How often the topics below `$SYS` are published.
    pub(crate) sys_interval: SysInterval,
    /// Where clients reach the nodes of the cluster.
    pub(crate) servers: Nodes,
    /// The same, over TLS.
    pub(crate) tls_servers: Nodes,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            vhost: String::new(),
            exchange: "amq.topic".to_owned(),
            packet_bytes_max: ByteSize::mib(16),
            connect_bytes_max: ByteSize::kib(64),
            topic_alias_max: 16,
            inflight_max: 1000,
            receive_max: 1000,
            subscriptions_max: 10_000,
            keep_alive_max: TimeSpan::secs(0),
            session_expiry_max: SessionExpiry(None),
            queue_messages_max: 100_000,
            queue_bytes_max: ByteSize::gib(1),
            queue_overflow: QueueOverflow(Overflow::DropHead),
            qos0_messages_max: 10_000,
            qos0_bytes_max: ByteSize::mib(64),
            shared_expires: TimeSpan::secs(3600),
            response_information: String::new(),
            sys_interval: SysInterval(Some(Duration::from_secs(10))),
            servers: Nodes::default(),
            tls_servers: Nodes::default(),
        }
    }
}

/// What becomes of messages that are too many for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueOverflow(pub(crate) Overflow);

impl std::str::FromStr for QueueOverflow {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "drop-head" => Ok(Self(Overflow::DropHead)),
            "reject-publish" => Ok(Self(Overflow::RejectPublish)),
            _ => Err(()),
        }
    }
}

impl Setting for QueueOverflow {
    fn read(value: &Value) -> Result<Self, String> {
        read_word(value, "\"drop-head\" or \"reject-publish\"")
    }
}

/// How long a session is kept at the most; `None` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionExpiry(pub(crate) Option<Duration>);

/// What is kept longer than any client would ask for is kept for ever, and says so.
const EXPIRY_MAX: TimeSpan = TimeSpan::secs(100 * 365 * 86_400);

impl Setting for SessionExpiry {
    fn read(value: &Value) -> Result<Self, String> {
        let span = span_or(value, "never")?;
        match span {
            Some(span) if span > EXPIRY_MAX => {
                Err(format!("must be from 0s to {EXPIRY_MAX}, or \"never\", not {span}"))
            }
            span => Ok(Self(span.map(|span| span.0))),
        }
    }
}

/// How often something is done; `None` for not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SysInterval(pub(crate) Option<Duration>);

/// The shortest interval, and the longest.
const INTERVAL: (TimeSpan, TimeSpan) = (TimeSpan(Duration::from_millis(100)), TimeSpan::secs(3600));

impl Setting for SysInterval {
    fn read(value: &Value) -> Result<Self, String> {
        let (min, max) = INTERVAL;
        match span_or(value, "off")? {
            Some(span) if span < min || span > max => {
                Err(format!("must be from {min} to {max}, or \"off\", not {span}"))
            }
            span => Ok(Self(span.map(|span| span.0))),
        }
    }
}

/// A time, or nothing for `word`.
fn span_or(value: &Value, word: &str) -> Result<Option<TimeSpan>, String> {
    if let Value::Text(text) | Value::Given(text) = value
        && text.trim() == word
    {
        return Ok(None);
    }
    TimeSpan::read(value).map(Some).map_err(|why| format!("{why}, or \"{word}\""))
}

/// Whether `text` can begin a topic: clients are to make response topics of it.
pub(super) fn topic_prefix(text: &str) -> Result<(), String> {
    let is_bad = |c: char| matches!(c, '+' | '#' | '\0');
    if text.len() > 1024 || text.contains(is_bad) || text.starts_with('$') {
        let text = "must be the beginning of a topic: up to 1024 bytes without +, # or U+0000, and \
                    no $ at its start";
        return Err(text.to_owned());
    }
    Ok(())
}
