//! Properties of MQTT messages, and what they mean to other protocols.
//!
//! | MQTT 5.0 | neutral |
//! |-|-|
//! | Content Type | content type |
//! | Correlation Data | correlation id: text where it is UTF-8, else bytes |
//! | Response Topic | reply-to: the routing key that stands for it ([`super::topic`]) |
//! | Message Expiry Interval (s) | expiry (ms); up to the next second on the way to MQTT |
//! | Payload Format Indicator | whether the body is text |
//! | QoS 1 or 2 | durable |
//! | User Property | header, in order, duplicates kept |
//!
//! What MQTT has no field for goes into user properties whose names begin with `isthmus-`
//! ([`Carried`]), so that a message that comes back says what it said: `isthmus-message-id`,
//! `isthmus-content-encoding`, `isthmus-priority`, `isthmus-type`, `isthmus-user-id`,
//! `isthmus-app-id`, `isthmus-group-id`, `isthmus-timestamp` (milliseconds since 1970),
//! `isthmus-reply-to` (an address that no topic stands for), `isthmus-expiry` (milliseconds that
//! whole seconds do not say). A header that is not text is written as text, behind a user
//! property `isthmus-type-of:NAME` that tells its type: `null`, `bool`, `int`, `uint`, `float`,
//! `double`, `decimal`, `timestamp`, `binary` (in hexadecimal digits), `list` or `table`. Items of
//! a list are `TYPE:BYTES:TEXT` one behind the other, with no type for text; those of a table have
//! `BYTES:NAME` before that. What is nested more than 16 levels deep is left out. In 3.1.1, which
//! has no properties, only the body arrives.

use std::borrow::Cow;

use isthmus_contract::typed::{as_text, typed};
use isthmus_model::{Encoding, Properties as Neutral, Value};

use super::stored::Head;
use super::topic::{is_valid_name, swapped_text};
use crate::codec::{Properties, PropertiesBuf, Property, Qos};
use crate::fault::TooLong;

/// What all names of the broker's own user properties begin with.
const PREFIX: &str = "isthmus-";
/// Announces the type of the header whose name follows.
const TYPE_OF: &str = "isthmus-type-of:";

/// A field that MQTT carries in a user property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// The message's id.
    MessageId,
    /// What the body is compressed with.
    ContentEncoding,
    /// The priority.
    Priority,
    /// The type or subject.
    Type,
    /// Who sent it.
    UserId,
    /// What sent it.
    AppId,
    /// The group that it belongs to.
    GroupId,
    /// When it was made.
    Timestamp,
    /// An address that no topic stands for.
    ReplyTo,
    /// Milliseconds of an expiry that is no number of seconds.
    Expiry,
}

impl Carried {
    /// Each, by the name of its user property behind `isthmus-` and its name in AMQP 0-9-1.
    const NAMES: [(Carried, &'static str, &'static str); 10] = [
        (Carried::MessageId, "message-id", "message_id"),
        (Carried::ContentEncoding, "content-encoding", "content_encoding"),
        (Carried::Priority, "priority", "priority"),
        (Carried::Type, "type", "type"),
        (Carried::UserId, "user-id", "user_id"),
        (Carried::AppId, "app-id", "app_id"),
        (Carried::GroupId, "group-id", "group_id"),
        (Carried::Timestamp, "timestamp", "timestamp"),
        (Carried::ReplyTo, "reply-to", ""),
        (Carried::Expiry, "expiry", ""),
    ];

    /// The field that AMQP 0-9-1 calls `name`.
    pub(super) fn of_property(name: &str) -> Option<Carried> {
        Carried::NAMES.iter().find(|(_, _, property)| *property == name).map(|(field, ..)| *field)
    }

    /// The field that the user property `name` carries.
    fn of_user_property(name: &str) -> Option<Carried> {
        let name = name.strip_prefix(PREFIX)?;
        Carried::NAMES.iter().find(|(_, own, _)| *own == name).map(|(field, ..)| *field)
    }

    /// Its user property's name.
    fn user_property(self) -> String {
        let name = Carried::NAMES.iter().find(|(field, ..)| *field == self).map(|(_, own, _)| *own);
        format!("{PREFIX}{}", name.unwrap_or_default())
    }

    /// The value of it that `properties` carry, as AMQP 0-9-1 has it: a timestamp in seconds.
    pub(super) fn find(self, properties: Properties<'_>) -> Option<String> {
        let value = properties.find(|p| match p {
            Property::UserProperty(name, value) => {
                (Carried::of_user_property(name) == Some(self)).then_some(value)
            }
            _ => None,
        })?;
        match self {
            Carried::Timestamp => Some((value.parse::<i64>().ok()? / 1000).to_string()),
            _ => Some(value.to_owned()),
        }
    }
}

/// The delivery mode of AMQP 0-9-1 for a message of `qos`.
pub(super) fn delivery_mode(qos: Qos) -> u8 {
    if qos == Qos::AtMostOnce { 1 } else { 2 }
}

/// The reply-to address that a response topic is.
pub(super) fn reply_to(topic: &str) -> String {
    swapped_text(topic)
}

/// The properties of a stored MQTT message, for a receiver of another protocol; `None` if `head`
/// is no such message's.
pub fn to_neutral(head: &[u8]) -> Option<Neutral> {
    let head = Head::read(head)?;
    let mut neutral = Neutral { durable: head.qos != Qos::AtMostOnce, ..Neutral::default() };
    // The type that was announced for the header of this name.
    let mut announced: Option<(&str, &str)> = None;
    for property in head.properties {
        match property {
            Property::PayloadFormatIndicator(n) => neutral.body_is_text = Some(n == 1),
            Property::MessageExpiryInterval(s) => {
                // More exact, if the milliseconds came before.
                neutral.expiry_ms.get_or_insert(u64::from(s) * 1000);
            }
            Property::ContentType(text) => neutral.content_type = Some(text.to_owned()),
            Property::ResponseTopic(topic) => neutral.reply_to = Some(reply_to(topic)),
            Property::CorrelationData(data) => neutral.correlation_id = Some(text_or_bytes(data)),
            Property::UserProperty(name, value) => {
                if let Some(of) = name.strip_prefix(TYPE_OF) {
                    announced = Some((of, value));
                } else if let Some(field) = Carried::of_user_property(name) {
                    take_back(&mut neutral, field, value, announced.take());
                } else {
                    let kind = announced.take().filter(|(of, _)| *of == name).map(|(_, kind)| kind);
                    neutral.headers.0.push((name.to_owned(), typed(value, kind)));
                }
            }
            _ => {}
        }
    }
    Some(neutral)
}

fn text_or_bytes(data: &[u8]) -> Value {
    match std::str::from_utf8(data) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => Value::Binary(data.to_owned()),
    }
}

/// Puts what a user property has carried back into its field; a value that the field cannot have
/// stays a header.
fn take_back(neutral: &mut Neutral, field: Carried, value: &str, announced: Option<(&str, &str)>) {
    let own = || Some(value.to_owned());
    let number = value.parse::<i64>().ok();
    match field {
        Carried::MessageId => {
            let kind = announced.filter(|(of, _)| *of == "message-id").map(|(_, kind)| kind);
            neutral.message_id = Some(typed(value, kind));
        }
        Carried::ContentEncoding => neutral.content_encoding = own(),
        Carried::Type => neutral.subject = own(),
        Carried::UserId => neutral.user_id = own(),
        Carried::AppId => neutral.app_id = own(),
        Carried::GroupId => neutral.group_id = own(),
        Carried::ReplyTo => neutral.reply_to = own(),
        Carried::Priority if value.parse::<u8>().is_ok() => neutral.priority = value.parse().ok(),
        Carried::Timestamp if number.is_some() => neutral.timestamp_ms = number,
        Carried::Expiry if value.parse::<u64>().is_ok() => neutral.expiry_ms = value.parse().ok(),
        _ => neutral.headers.0.push((field.user_property(), Value::String(value.to_owned()))),
    }
}

/// The properties of a message of another protocol, as far as its `encoding` tells them, as the
/// properties of a PUBLISH of 5.0. `is_spent` says that it has been held for as long as it asked.
///
/// # Errors
/// If a text in it is longer than 65,535 bytes.
pub fn of_encoding(
    encoding: &dyn Encoding,
    head: &[u8],
    is_spent: bool,
) -> Result<PropertiesBuf, TooLong> {
    let mut neutral = encoding.properties(head);
    if is_spent {
        neutral.spend_delay();
    }
    from_neutral(&neutral)
}

/// `neutral` as the properties of a PUBLISH of 5.0, for a receiver that speaks it.
///
/// # Errors
/// If a text in it is longer than 65,535 bytes.
pub fn from_neutral(neutral: &Neutral) -> Result<PropertiesBuf, TooLong> {
    let mut out = PropertiesBuf::new();
    if let Some(is_text) = neutral.body_is_text {
        out.push(Property::PayloadFormatIndicator(u8::from(is_text)))?;
    }
    if let Some(ms) = neutral.expiry_ms {
        if ms % 1000 != 0 {
            carry(&mut out, Carried::Expiry, &ms.to_string())?;
        }
        let s = u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX);
        out.push(Property::MessageExpiryInterval(s))?;
    }
    if let Some(text) = neutral.content_type.as_deref() {
        out.push(Property::ContentType(&clean(text)))?;
    }
    if let Some(address) = neutral.reply_to.as_deref() {
        let topic = swapped_text(address);
        if is_valid_name(&topic) {
            out.push(Property::ResponseTopic(&topic))?;
        } else {
            carry(&mut out, Carried::ReplyTo, address)?;
        }
    }
    match &neutral.correlation_id {
        None => {}
        Some(Value::Binary(data)) => out.push(Property::CorrelationData(data))?,
        Some(id) => {
            let (text, _) = as_text(id).unwrap_or_default();
            out.push(Property::CorrelationData(text.as_bytes()))?;
        }
    }
    if let Some((text, kind)) = neutral.message_id.as_ref().and_then(as_text) {
        announce(&mut out, "message-id", kind)?;
        carry(&mut out, Carried::MessageId, &text)?;
    }
    let texts = [
        (Carried::ContentEncoding, &neutral.content_encoding),
        (Carried::Type, &neutral.subject),
        (Carried::UserId, &neutral.user_id),
        (Carried::AppId, &neutral.app_id),
        (Carried::GroupId, &neutral.group_id),
    ];
    for (field, text) in texts {
        text.as_deref().map_or(Ok(()), |text| carry(&mut out, field, text))?;
    }
    if let Some(priority) = neutral.priority {
        carry(&mut out, Carried::Priority, &priority.to_string())?;
    }
    if let Some(ms) = neutral.timestamp_ms {
        carry(&mut out, Carried::Timestamp, &ms.to_string())?;
    }
    for (name, value) in &neutral.headers.0 {
        let Some((text, kind)) = as_text(value) else { continue };
        announce(&mut out, name, kind)?;
        push_user(&mut out, name, &text)?;
    }
    Ok(out)
}

/// `text` without what MQTT cannot write, U+0000 [MQTT-1.5.4-2].
fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}").into() } else { text.into() }
}

fn push_user(out: &mut PropertiesBuf, name: &str, value: &str) -> Result<(), TooLong> {
    out.push(Property::UserProperty(&clean(name), &clean(value)))
}

fn carry(out: &mut PropertiesBuf, field: Carried, value: &str) -> Result<(), TooLong> {
    push_user(out, &field.user_property(), value)
}

/// Tells the type of the header `name`, which follows, if it is not text.
fn announce(out: &mut PropertiesBuf, name: &str, kind: &str) -> Result<(), TooLong> {
    if kind.is_empty() { Ok(()) } else { push_user(out, &format!("{TYPE_OF}{name}"), kind) }
}
