//! What a selector sees of a message: JMS names its fields, everything else is a header.

use isthmus_model::{Candidate, Encodings, Filter, Properties, Value as Header};
use isthmus_selector::{Selector, Value};

/// The priority of messages that give none, as JMS has it.
const PRIORITY: i64 = 4;

/// What a subscription wants of a queue that it shares with others.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) selector: Selector,
    /// What messages of every protocol are read with.
    pub(super) encodings: Encodings,
}

impl Filter for Selected {
    fn wants(&self, candidate: &Candidate<'_>) -> bool {
        let Candidate { batch, record, redelivered, .. } = *candidate;
        let encoding = self.encodings.get(batch.encoding);
        let properties = encoding.map(|encoding| encoding.properties(batch.head(record)));
        let properties = properties.unwrap_or_default();
        self.selector.matches(&|name| value(&properties, redelivered, name))
    }
}

/// The value that a selector compares under `name`; `None` if the message has none.
pub(super) fn value(properties: &Properties, redelivered: bool, name: &str) -> Option<Value> {
    let text = |text: &Option<String>| text.clone().map(Value::String);
    match name {
        "JMSPriority" => Some(Value::Int(properties.priority.map_or(PRIORITY, i64::from))),
        "JMSMessageID" => properties.message_id.as_ref().and_then(of_header),
        "JMSCorrelationID" => properties.correlation_id.as_ref().and_then(of_header),
        "JMSType" => text(&properties.subject),
        "JMSTimestamp" => properties.timestamp_ms.map(Value::Int),
        "JMSXGroupID" => text(&properties.group_id),
        "JMSRedelivered" => Some(Value::Bool(redelivered)),
        "JMSDeliveryMode" => {
            let mode = if properties.durable { "PERSISTENT" } else { "NON_PERSISTENT" };
            Some(Value::String(mode.to_owned()))
        }
        name => properties.headers.get(name).and_then(of_header),
    }
}

fn of_header(value: &Header) -> Option<Value> {
    Some(match value {
        Header::Bool(b) => Value::Bool(*b),
        Header::Int(n) | Header::Timestamp(n) => Value::Int(*n),
        Header::Uint(n) => i64::try_from(*n).map_or(Value::Float(*n as f64), Value::Int),
        Header::Float(x) => Value::Float(f64::from(*x)),
        Header::Double(x) => Value::Float(*x),
        Header::Decimal { scale, unscaled } => {
            Value::Float(f64::from(*unscaled) / 10f64.powi(i32::from(*scale)))
        }
        // Headers of STOMP have no types: what looks like a number can be compared with one.
        Header::String(text) => Value::Untyped(text.clone()),
        Header::Binary(bytes) => Value::Untyped(String::from_utf8(bytes.clone()).ok()?),
        Header::Null | Header::List(_) | Header::Map(_) => return None,
    })
}
