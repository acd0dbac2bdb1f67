//! Properties of AMQP 0-9-1 messages in no protocol's own form, and heads for messages of other
//! protocols. What the property list has no field for goes into headers whose names begin with
//! `isthmus-`, so that a message that comes back says what it said; the table is in
//! `docs/interop.md`.

use isthmus_model::{Properties, Value};

use crate::codec::fields::Fields;
use crate::codec::table;

/// Octets of a short string (specification section 4.2.5.3), and of a header's name.
const SHORT_MAX: usize = 255;

const MESSAGE_ID: &str = "isthmus-message-id";
const CORRELATION_ID: &str = "isthmus-correlation-id";
const REPLY_TO: &str = "isthmus-reply-to";
const EXPIRY: &str = "isthmus-expiry";
const TYPE: &str = "isthmus-type";
const CONTENT_TYPE: &str = "isthmus-content-type";
const CONTENT_ENCODING: &str = "isthmus-content-encoding";
const GROUP_ID: &str = "isthmus-group-id";
const USER_ID: &str = "isthmus-user-id";
const APP_ID: &str = "isthmus-app-id";
const TIMESTAMP: &str = "isthmus-timestamp";
const BODY_IS_TEXT: &str = "isthmus-body-is-text";
/// What class basic keeps in `cluster-id`, which nothing else has.
const CLUSTER_ID: &str = "isthmus-cluster-id";
/// Headers whose names are longer than a short string: a list of lists of a name and a value.
const HEADERS: &str = "isthmus-headers";

/// Headers that receivers do not see (<https://www.rabbitmq.com/docs/sender-selected>).
const BCC: &str = "BCC";

/// The properties in `head`; the default ones if it cannot be read.
pub fn to_neutral(head: &[u8]) -> Properties {
    let Ok(fields) = Fields::read(head) else { return Properties::default() };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut neutral = Properties {
        message_id: fields.message_id.map(text_or_bytes),
        correlation_id: fields.correlation_id.map(text_or_bytes),
        reply_to: fields.reply_to.map(text),
        expiry_ms: fields.expiration.and_then(|ms| std::str::from_utf8(ms).ok()?.parse().ok()),
        durable: fields.delivery_mode == Some(2),
        priority: fields.priority,
        subject: fields.kind.map(text),
        content_type: fields.content_type.map(text),
        content_encoding: fields.content_encoding.map(text),
        user_id: fields.user_id.map(text),
        app_id: fields.app_id.map(text),
        timestamp_ms: fields.timestamp_s.and_then(|s| i64::try_from(s).ok()?.checked_mul(1000)),
        ..Properties::default()
    };
    let headers = fields.headers.and_then(|headers| table::read(headers).ok()).unwrap_or_default();
    for (name, value) in headers.0 {
        if name == BCC {
            continue;
        }
        if let Some((name, value)) = take_back(&mut neutral, name, value) {
            neutral.headers.0.push((name, value));
        }
    }
    if let Some(id) = fields.cluster_id {
        neutral.headers.0.push((CLUSTER_ID.to_owned(), Value::String(text(id))));
    }
    neutral
}

fn text_or_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => Value::Binary(bytes.to_owned()),
    }
}

/// Puts what a header has carried back into its field; gives the header back if it is not one of
/// the broker's own, holds what its field cannot, or if the field is taken.
fn take_back(neutral: &mut Properties, name: String, value: Value) -> Option<(String, Value)> {
    let field = match name.as_str() {
        MESSAGE_ID => return fill(&mut neutral.message_id, name, value, Ok),
        CORRELATION_ID => return fill(&mut neutral.correlation_id, name, value, Ok),
        EXPIRY => {
            let ms =
                |value: Value| value.as_i64().and_then(|ms| u64::try_from(ms).ok()).ok_or(value);
            return fill(&mut neutral.expiry_ms, name, value, ms);
        }
        TIMESTAMP => {
            // More exact than the field.
            neutral.timestamp_ms.take_if(|_| value.as_i64().is_some());
            return fill(&mut neutral.timestamp_ms, name, value, |v| v.as_i64().ok_or(v));
        }
        BODY_IS_TEXT => {
            return fill(&mut neutral.body_is_text, name, value, |value| match value {
                Value::Bool(is_text) => Ok(is_text),
                value => Err(value),
            });
        }
        HEADERS => return take_back_headers(neutral, name, value),
        REPLY_TO => &mut neutral.reply_to,
        TYPE => &mut neutral.subject,
        CONTENT_TYPE => &mut neutral.content_type,
        CONTENT_ENCODING => &mut neutral.content_encoding,
        GROUP_ID => &mut neutral.group_id,
        USER_ID => &mut neutral.user_id,
        APP_ID => &mut neutral.app_id,
        _ => return Some((name, value)),
    };
    fill(field, name, value, |value| match value {
        Value::String(text) => Ok(text),
        value => Err(value),
    })
}

/// Fills an empty field with what `read` makes of `value`, or gives the header back.
fn fill<T>(
    field: &mut Option<T>,
    name: String,
    value: Value,
    read: impl FnOnce(Value) -> Result<T, Value>,
) -> Option<(String, Value)> {
    if field.is_some() {
        return Some((name, value));
    }
    match read(value) {
        Ok(value) => {
            *field = Some(value);
            None
        }
        Err(value) => Some((name, value)),
    }
}

fn take_back_headers(
    neutral: &mut Properties,
    name: String,
    value: Value,
) -> Option<(String, Value)> {
    let Value::List(items) = value else { return Some((name, value)) };
    let is_pair = |item: &Value| matches!(item, Value::List(pair) if matches!(&pair[..], [Value::String(_), _]));
    if !items.iter().all(is_pair) {
        return Some((name, Value::List(items)));
    }
    for item in items {
        let Value::List(pair) = item else { continue };
        let mut pair = pair.into_iter();
        if let (Some(Value::String(name)), Some(value)) = (pair.next(), pair.next()) {
            neutral.headers.0.push((name, value));
        }
    }
    None
}

/// Headers that carry what no field can.
#[derive(Default)]
struct Carried(Vec<u8>);

impl Carried {
    fn add(&mut self, name: &str, value: &Value) {
        table::write_entry(&mut self.0, name, value);
    }

    /// A text for its field, if it is a short one; else it is carried.
    fn short<'a>(&mut self, text: &'a Option<String>, name: &str) -> Option<&'a [u8]> {
        let text = text.as_ref()?;
        if text.len() <= SHORT_MAX {
            return Some(text.as_bytes());
        }
        self.add(name, &Value::String(text.clone()));
        None
    }

    /// As [`Carried::short`], of an id, which may be no text at all.
    fn id<'a>(&mut self, id: &'a Option<Value>, name: &str) -> Option<&'a [u8]> {
        match id.as_ref()? {
            Value::String(text) if text.len() <= SHORT_MAX => Some(text.as_bytes()),
            other => {
                self.add(name, other);
                None
            }
        }
    }

    /// Whole seconds for the field; if they do not say all, the milliseconds are carried.
    fn timestamp(&mut self, ms: i64) -> Option<u64> {
        if ms < 0 || ms % 1000 != 0 {
            self.add(TIMESTAMP, &Value::Int(ms));
        }
        u64::try_from(ms).ok().map(|ms| ms / 1000)
    }

    /// Text for the field, or carried if no 32 bits hold it: published again, it would be refused.
    fn expiry(&mut self, ms: u64) -> Option<String> {
        if u32::try_from(ms).is_ok() {
            return Some(ms.to_string());
        }
        self.add(EXPIRY, &Value::Uint(ms));
        None
    }
}

/// `neutral` as property flags and list of a content header.
///
/// Who has sent it stands in a header: for the field this protocol's publishers are held to
/// account, and those of others are not.
pub fn from_neutral(neutral: &Properties) -> Vec<u8> {
    let (mut headers, mut long, mut cluster_id) = (Vec::new(), Vec::new(), None);
    for (name, value) in &neutral.headers.0 {
        match value {
            Value::String(id) if name == CLUSTER_ID && id.len() <= SHORT_MAX => {
                cluster_id = Some(id.as_bytes());
            }
            _ if name.len() > SHORT_MAX => {
                long.push(Value::List(vec![Value::String(name.clone()), value.clone()]));
            }
            _ => table::write_entry(&mut headers, name, value),
        }
    }
    let mut carried = Carried::default();
    let expiration = neutral.expiry_ms.and_then(|ms| carried.expiry(ms));
    let fields = Fields {
        content_type: carried.short(&neutral.content_type, CONTENT_TYPE),
        content_encoding: carried.short(&neutral.content_encoding, CONTENT_ENCODING),
        headers: None,
        delivery_mode: Some(if neutral.durable { 2 } else { 1 }),
        priority: neutral.priority,
        correlation_id: carried.id(&neutral.correlation_id, CORRELATION_ID),
        reply_to: carried.short(&neutral.reply_to, REPLY_TO),
        expiration: expiration.as_ref().map(String::as_bytes),
        message_id: carried.id(&neutral.message_id, MESSAGE_ID),
        timestamp_s: neutral.timestamp_ms.and_then(|ms| carried.timestamp(ms)),
        kind: carried.short(&neutral.subject, TYPE),
        user_id: None,
        app_id: carried.short(&neutral.app_id, APP_ID),
        cluster_id,
    };
    for (text, name) in [(&neutral.user_id, USER_ID), (&neutral.group_id, GROUP_ID)] {
        if let Some(text) = text {
            carried.add(name, &Value::String(text.clone()));
        }
    }
    if let Some(is_text) = neutral.body_is_text {
        carried.add(BODY_IS_TEXT, &Value::Bool(is_text));
    }
    if !long.is_empty() {
        carried.add(HEADERS, &Value::List(long));
    }
    headers.extend_from_slice(&carried.0);
    Fields { headers: (!headers.is_empty()).then_some(&headers), ..fields }.write()
}

#[cfg(test)]
mod tests {
    use isthmus_model::Table;
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;

    use super::*;

    /// Text, now and then longer than a short string.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![4 => "[a-zé0-9.]{0,8}", 1 => "x{250,260}"]
    }

    /// Values as this protocol has them: numbers are signed, and times whole seconds.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (0.0..1e9f64).prop_map(Value::Double),
            (-1_000_000..1_000_000i64).prop_map(|s| Value::Timestamp(s * 1000)),
            text().prop_map(Value::String),
            vec(any::<u8>(), 0..9).prop_map(Value::Binary),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::List),
                vec(("[a-z]{0,4}", inner), 0..4).prop_map(|entries| Value::Map(Table(entries))),
            ]
        })
    }

    fn id() -> impl Strategy<Value = Value> {
        prop_oneof![
            text().prop_map(Value::String),
            any::<i64>().prop_map(Value::Int),
            vec(any::<u8>(), 0..9).prop_map(Value::Binary),
        ]
    }

    /// Properties; headers with long names come last, as they come back.
    fn properties() -> impl Strategy<Value = Properties> {
        let times = (of(any::<u64>().prop_map(|ms| ms >> 20)), of(-5000..1i64 << 45));
        let texts = (of(text()), of(text()), of(text()), of(text()), of(text()), of(text()));
        let rest = (any::<bool>(), of(any::<u8>()), of(any::<bool>()), of(text()));
        let headers = (vec(("[a-z]{1,5}", value()), 0..4), vec(("y{256,300}", value()), 0..2));
        ((of(id()), of(id())), times, texts, rest, headers).prop_map(
            |((message_id, correlation_id), (expiry_ms, timestamp_ms), texts, rest, headers)| {
                let (reply_to, subject, content_type, content_encoding, user_id, app_id) = texts;
                let (durable, priority, body_is_text, group_id) = rest;
                let headers = Table(headers.0.into_iter().chain(headers.1).collect());
                Properties {
                    message_id,
                    correlation_id,
                    reply_to,
                    expiry_ms,
                    durable,
                    priority,
                    subject,
                    content_type,
                    content_encoding,
                    group_id,
                    user_id,
                    app_id,
                    timestamp_ms,
                    body_is_text,
                    headers,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn properties_come_back_as_they_went(properties in properties()) {
            let head = from_neutral(&properties);
            prop_assert!(crate::codec::head::Head::read(&head).is_ok());
            prop_assert_eq!(to_neutral(&head), properties);
        }

        #[test]
        fn any_head_is_read(head in vec(any::<u8>(), 0..60)) {
            let neutral = to_neutral(&head);
            prop_assert!(neutral.headers.0.len() <= head.len());
        }
    }

    #[test]
    fn a_field_is_not_replaced_by_a_header_of_its_name() {
        let mut headers = Vec::new();
        for (name, value) in [
            (MESSAGE_ID, Value::String("other".to_owned())),
            (TYPE, Value::Int(1)),
            (HEADERS, Value::List(vec![Value::Int(1)])),
            (BCC, Value::List(vec![Value::String("hidden".to_owned())])),
        ] {
            table::write_entry(&mut headers, name, &value);
        }
        let fields = Fields {
            message_id: Some(b"own"),
            headers: Some(&headers),
            correlation_id: Some(b"\xFF"),
            cluster_id: Some(b"c"),
            user_id: Some(b"ann"),
            ..Fields::default()
        };
        let neutral = to_neutral(&fields.write());
        assert_eq!(neutral.message_id, Some(Value::String("own".to_owned())));
        assert_eq!(neutral.correlation_id, Some(Value::Binary(vec![0xFF])));
        let names: Vec<&str> = neutral.headers.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [MESSAGE_ID, TYPE, HEADERS, CLUSTER_ID]);
        let head = from_neutral(&neutral);
        let again = Fields::read(&head).expect("read");
        assert_eq!((again.cluster_id, again.user_id), (Some(&b"c"[..]), None));
        assert_eq!(to_neutral(&head).user_id.as_deref(), Some("ann"), "it stands in a header");
    }
}
