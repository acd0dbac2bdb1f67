//! The properties of a message in no protocol's own form: what one protocol reads out of its
//! heads and another writes into its own.

use crate::{Table, Value};

/// Properties of a message, as AMQP 1.0 has them (part 3, sections 3.2.1 to 3.2.5), the hub of all
/// conversions: a protocol that converts to and from these converts to and from all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// The message's id: text, bytes or a number.
    pub message_id: Option<Value>,
    /// What it answers: text, bytes or a number.
    pub correlation_id: Option<Value>,
    /// Where answers go: a routing key or an address, as the broker has it.
    pub reply_to: Option<String>,
    /// Milliseconds that it lives, from when it was published.
    pub expiry_ms: Option<u64>,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Higher is delivered sooner.
    pub priority: Option<u8>,
    /// What it is about; the type of AMQP 0-9-1 and JMS.
    pub subject: Option<String>,
    /// The body's media type.
    pub content_type: Option<String>,
    /// What the body is compressed with.
    pub content_encoding: Option<String>,
    /// Messages of one group stay in order.
    pub group_id: Option<String>,
    /// The user that sent it.
    pub user_id: Option<String>,
    /// The application that sent it.
    pub app_id: Option<String>,
    /// When it was made, in milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// Whether the body is text (UTF-8) or bytes, where the publisher has said so.
    pub body_is_text: Option<bool>,
    /// The user's headers, in order, duplicates kept.
    pub headers: Table,
}

impl Properties {
    /// Tells that the message has been held for as long as its header `x-delay` asked: the number
    /// is negative from then on, as RabbitMQ's plugin has it, so that who sends it on does not have
    /// it held again.
    pub fn spend_delay(&mut self) {
        for (_, value) in self.headers.0.iter_mut().filter(|(name, _)| name == "x-delay") {
            if let Some(ms) = value.held_for_ms() {
                *value = Value::Int(-i64::from(ms));
            }
        }
    }
}
