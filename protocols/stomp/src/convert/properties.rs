//! Headers of STOMP messages, and what they mean to other protocols.
//!
//! The names are those of RabbitMQ's STOMP plugin, where it has one:
//!
//! | header | neutral |
//! |-|-|
//! | `amqp-message-id` | message id; `message-id` is the delivery's own |
//! | `correlation-id`, `content-type`, `content-encoding`, `type`, `app-id`, `user-id` | the same |
//! | `reply-to` | reply-to: a queue's name for what a queue's name reaches ([`crate::destination`]) |
//! | `expiration` (ms from its publishing) | expiry |
//! | `persistent` | durable |
//! | `priority` | priority |
//! | `JMSXGroupID` | group |
//! | `timestamp` | when it was made: in milliseconds since 1970 from 10¹¹ on (1973), below that in seconds, which RabbitMQ's clients write |
//! | no `content-length` | the body is text; with it, it is bytes (as JMS bridges have it) |
//! | `AMQ_SCHEDULED_DELAY` (ms) | header `x-delay`, a number; `x-delay` with a negative one once the message has been held |
//! | any other | header, in order, duplicates kept |
//!
//! A header that is not text is written as text, behind a header `isthmus-type-of-NAME` that tells
//! its type ([`isthmus_contract::typed`]). What has a name that means something else in STOMP is
//! written as `isthmus-header-NAME`; an id that is not text behind `isthmus-type-of-amqp-message-id`
//! or `isthmus-type-of-correlation-id`; `isthmus-body-is-text` where `content-length` would say the
//! other thing; `isthmus-timestamp` (ms) holds what `timestamp` cannot say.

use std::borrow::Cow;

use isthmus_contract::typed::{as_text, typed};
use isthmus_model::{Properties as Neutral, Table, Value};

use super::stored::read_head;
use crate::codec::Headers;
use crate::destination::{address_of, reply_to_of};

/// Headers that are about one frame or one delivery and not about the message.
const OF_FRAME: [&str; 9] = [
    "destination",
    "receipt",
    "transaction",
    "content-length",
    "message-id",
    "subscription",
    "ack",
    "redelivered",
    "x-delivery-count",
];

/// Headers that are properties.
const OF_PROPERTIES: [&str; 17] = [
    MESSAGE_ID,
    CORRELATION_ID,
    "reply-to",
    "expiration",
    "expires",
    "persistent",
    "priority",
    "type",
    "content-type",
    "content-encoding",
    GROUP_ID,
    "user-id",
    "app-id",
    "timestamp",
    TIMESTAMP,
    BODY_IS_TEXT,
    DELAY,
];

const MESSAGE_ID: &str = "amqp-message-id";
const CORRELATION_ID: &str = "correlation-id";
const GROUP_ID: &str = "JMSXGroupID";
const TIMESTAMP: &str = "isthmus-timestamp";
const BODY_IS_TEXT: &str = "isthmus-body-is-text";
/// ActiveMQ's delay, in milliseconds.
pub(crate) const DELAY: &str = "AMQ_SCHEDULED_DELAY";
/// The header that exchanges look at which hold messages back.
pub(crate) const X_DELAY: &str = "x-delay";
/// In front of the name of a header that means something else in STOMP.
const ESCAPED: &str = "isthmus-header-";
/// Announces the type of the header whose name follows.
const TYPE_OF: &str = "isthmus-type-of-";

/// Timestamps from here on are in milliseconds.
const MS_FROM: i64 = 100_000_000_000;

/// Whether a header is about one frame or one delivery: it is not passed on with the message.
pub fn is_of_frame(name: &str) -> bool {
    OF_FRAME.contains(&name)
}

/// Whether a header of this name would not be taken for the user's own.
fn means_something_else(name: &str) -> bool {
    is_of_frame(name)
        || OF_PROPERTIES.contains(&name)
        || name.starts_with(ESCAPED)
        || name.starts_with(TYPE_OF)
        || name.is_empty()
}

/// The header that holds the property called `name` in AMQP 0-9-1.
pub(super) fn header_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "message_id" => MESSAGE_ID,
        "correlation_id" => CORRELATION_ID,
        "reply_to" => "reply-to",
        "expiration" => "expiration",
        "priority" => "priority",
        "type" => "type",
        "content_type" => "content-type",
        "content_encoding" => "content-encoding",
        "group_id" => GROUP_ID,
        "user_id" => "user-id",
        "app_id" => "app-id",
        _ => return None,
    })
}

/// Milliseconds since 1970 of a header `timestamp`.
pub(super) fn timestamp_ms(text: &str) -> Option<i64> {
    let n: i64 = text.trim().parse().ok()?;
    if (-MS_FROM < n) && (n < MS_FROM) { n.checked_mul(1000) } else { Some(n) }
}

/// The properties of a stored STOMP message, for a receiver of another protocol; `None` if `head`
/// is no such message's.
pub fn to_neutral(head: &[u8]) -> Option<Neutral> {
    read_head(head).map(of_headers)
}

fn of_headers(headers: Headers<'_>) -> Neutral {
    let mut neutral = Neutral { body_is_text: Some(true), ..Neutral::default() };
    let mut said_text = None;
    // The type that was announced for the header of this name.
    let mut announced: Option<(String, String)> = None;
    for (name, value) in headers.iter() {
        if let Some(of) = name.strip_prefix(TYPE_OF) {
            announced = Some((of.to_owned(), value.into_owned()));
            continue;
        }
        let kind = announced.take().filter(|(of, _)| *of == *name).map(|(_, kind)| kind);
        match &*name {
            "content-length" => neutral.body_is_text = Some(false),
            BODY_IS_TEXT => said_text = said_text.or(value.parse().ok()),
            name if is_of_frame(name) => {}
            name => {
                if !take_property(&mut neutral, name, &value, kind.as_deref()) {
                    let own = name.strip_prefix(ESCAPED).unwrap_or(name);
                    neutral.headers.0.push((own.to_owned(), typed(&value, kind.as_deref())));
                }
            }
        }
    }
    neutral.body_is_text = said_text.or(neutral.body_is_text);
    neutral
}

/// Puts a header into the field that it stands for, unless it is taken: the first counts. Returns
/// whether there is one; a value that the field cannot have stays a header.
fn take_property(neutral: &mut Neutral, name: &str, value: &str, kind: Option<&str>) -> bool {
    fn fill<T>(field: &mut Option<T>, value: Option<T>) -> bool {
        let fits = value.is_some();
        if field.is_none() {
            *field = value;
        }
        fits
    }
    let text = || Some(value.to_owned());
    match name {
        MESSAGE_ID => fill(&mut neutral.message_id, Some(typed(value, kind))),
        CORRELATION_ID => fill(&mut neutral.correlation_id, Some(typed(value, kind))),
        "reply-to" => fill(&mut neutral.reply_to, Some(address_of(value).into_owned())),
        "expiration" => fill(&mut neutral.expiry_ms, value.trim().parse().ok()),
        // A point in time; the message's own time to live was made of it.
        "expires" => true,
        "persistent" => {
            neutral.durable |= value == "true";
            true
        }
        "priority" => fill(&mut neutral.priority, value.trim().parse().ok()),
        "type" => fill(&mut neutral.subject, text()),
        "content-type" => fill(&mut neutral.content_type, text()),
        "content-encoding" => fill(&mut neutral.content_encoding, text()),
        GROUP_ID => fill(&mut neutral.group_id, text()),
        "user-id" => fill(&mut neutral.user_id, text()),
        "app-id" => fill(&mut neutral.app_id, text()),
        "timestamp" => fill(&mut neutral.timestamp_ms, timestamp_ms(value)),
        TIMESTAMP => fill(&mut neutral.timestamp_ms, value.parse().ok()),
        DELAY | X_DELAY if kind.is_none() => match value.trim().parse() {
            Ok(ms) => {
                // Of several the first counts, and ActiveMQ's before RabbitMQ's.
                let at = if name == DELAY { 0 } else { neutral.headers.0.len() };
                neutral.headers.0.insert(at, (X_DELAY.to_owned(), Value::Int(ms)));
                true
            }
            Err(_) => false,
        },
        _ => false,
    }
}

/// The user's headers in a stored message's `head`, as exchanges compare them.
pub(super) fn user_headers(head: &[u8]) -> Table {
    to_neutral(head).map(|neutral| neutral.headers).unwrap_or_default()
}

/// Headers for a STOMP client.
#[derive(Debug, Default, PartialEq)]
pub struct Told<'a> {
    /// Name and value of each, in order.
    pub headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Whether `content-length` is to be among them: without it the body counts as text.
    pub content_length: bool,
}

impl<'a> Told<'a> {
    fn push(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.headers.push((name.into(), value.into()));
    }

    fn push_typed(&mut self, name: impl Into<Cow<'a, str>>, value: &Value) {
        let name = name.into();
        let Some((text, kind)) = as_text(value) else { return };
        if !kind.is_empty() {
            self.push(format!("{TYPE_OF}{name}"), kind);
        }
        self.push(name, text);
    }
}

/// The headers of a message of another protocol with these properties.
pub fn from_neutral<'a>(neutral: &'a Neutral, body: &[u8]) -> Told<'a> {
    let mut told = Told::default();
    let is_text = neutral.body_is_text == Some(true);
    // Without it the body would end at the NUL.
    told.content_length = !is_text || memchr::memchr(0, body).is_some();
    if is_text && told.content_length {
        told.push(BODY_IS_TEXT, "true");
    }
    if neutral.durable {
        told.push("persistent", "true");
    }
    for (name, id) in [(MESSAGE_ID, &neutral.message_id), (CORRELATION_ID, &neutral.correlation_id)]
    {
        if let Some(id) = id {
            told.push_typed(name, id);
        }
    }
    if let Some(address) = &neutral.reply_to {
        told.push("reply-to", reply_to_of(address));
    }
    if let Some(ms) = neutral.expiry_ms {
        told.push("expiration", ms.to_string());
    }
    if let Some(priority) = neutral.priority {
        told.push("priority", priority.to_string());
    }
    for (name, text) in [
        ("type", &neutral.subject),
        ("content-type", &neutral.content_type),
        ("content-encoding", &neutral.content_encoding),
        (GROUP_ID, &neutral.group_id),
        ("user-id", &neutral.user_id),
        ("app-id", &neutral.app_id),
    ] {
        if let Some(text) = text {
            told.push(name, &**text);
        }
    }
    if let Some(ms) = neutral.timestamp_ms {
        let text = ms.to_string();
        if timestamp_ms(&text) == Some(ms) {
            told.push("timestamp", text);
        } else if ms % 1000 == 0 {
            told.push("timestamp", (ms / 1000).to_string());
        } else {
            told.push(TIMESTAMP, text);
        }
    }
    for (name, value) in &neutral.headers.0 {
        match value {
            Value::Int(ms) if name == X_DELAY => told.push(X_DELAY, ms.to_string()),
            // It would come back as a number.
            Value::String(text) if name == X_DELAY && text.trim().parse::<i64>().is_ok() => {
                told.push(format!("{ESCAPED}{name}"), &**text);
            }
            _ if means_something_else(name) => told.push_typed(format!("{ESCAPED}{name}"), value),
            _ => told.push_typed(&**name, value),
        }
    }
    told
}
