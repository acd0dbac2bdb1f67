//! How the properties of a message are read, whichever protocol wrote them.

use std::fmt;

use crate::{Properties, Table, Value};

/// Names the encoding of a message's head, in memory and in the log: never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EncodingId(pub u8);

impl EncodingId {
    /// Flags and property list of an AMQP 0-9-1 content header (section 2.3.5.2).
    pub const AMQP_0_9_1: EncodingId = EncodingId(1);
    /// QoS, RETAIN and, from MQTT 5.0 on, the properties of a PUBLISH (5.0, section 3.3).
    pub const MQTT: EncodingId = EncodingId(2);
    /// The version of STOMP, and the header lines of a SEND as they came.
    pub const STOMP: EncodingId = EncodingId(3);
}

/// Reads the heads that one protocol writes. Implemented by protocols, used by the core where it
/// must see a property (headers exchanges) and by other protocols when they convert.
pub trait Encoding: Send + Sync {
    /// The user's headers in `head`, in their order; empty if there are none.
    fn headers(&self, head: &[u8]) -> Table;

    /// The routing keys that `head` names beside the message's own
    /// ([`RecordFlags::MORE_KEYS`](crate::RecordFlags::MORE_KEYS)): CC and BCC of AMQP 0-9-1.
    fn more_routing_keys(&self, head: &[u8]) -> Vec<String>;

    /// The property of `head` called `name` as AMQP 0-9-1 names it (`message_id`,
    /// `correlation_id`, `timestamp` …), as text; `None` if it is not there.
    fn property(&self, head: &[u8], name: &str) -> Option<String>;

    /// What `head` says in no protocol's own form, for a receiver of another protocol: everything
    /// that receivers are to see.
    fn properties(&self, head: &[u8]) -> Properties {
        let text = |name| self.property(head, name);
        Properties {
            message_id: text("message_id").map(Value::String),
            correlation_id: text("correlation_id").map(Value::String),
            reply_to: text("reply_to"),
            expiry_ms: text("expiration").and_then(|ms| ms.parse().ok()),
            durable: text("delivery_mode").is_some_and(|mode| mode == "2"),
            priority: text("priority").and_then(|priority| priority.parse().ok()),
            subject: text("type"),
            content_type: text("content_type"),
            content_encoding: text("content_encoding"),
            group_id: text("group_id"),
            user_id: text("user_id"),
            app_id: text("app_id"),
            timestamp_ms: text("timestamp").and_then(|s| s.parse::<i64>().ok()?.checked_mul(1000)),
            body_is_text: None,
            headers: self.headers(head),
        }
    }
}

/// Every encoding that this node knows, by id.
#[derive(Clone, Copy)]
pub struct Encodings(pub &'static [(EncodingId, &'static dyn Encoding)]);

impl fmt::Debug for Encodings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

impl Encodings {
    /// The encoding called `id`.
    pub fn get(&self, id: EncodingId) -> Option<&'static dyn Encoding> {
        self.0.iter().find(|(i, _)| *i == id).map(|(_, e)| *e)
    }
}
