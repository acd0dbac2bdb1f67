//! The heads of MQTT messages, for whoever must see a property of one.

use isthmus_model::{Encoding, Properties, Table};

use super::properties::{Carried, delivery_mode, reply_to};
use super::stored::Head;
use crate::codec::Property;

/// Reads heads of stored MQTT messages
/// ([`EncodingId::MQTT`](isthmus_model::EncodingId::MQTT)).
#[derive(Clone, Copy, Debug, Default)]
pub struct MqttEncoding;

impl Encoding for MqttEncoding {
    fn headers(&self, head: &[u8]) -> Table {
        super::properties::to_neutral(head).map(|neutral| neutral.headers).unwrap_or_default()
    }

    fn more_routing_keys(&self, _head: &[u8]) -> Vec<String> {
        Vec::new()
    }

    fn property(&self, head: &[u8], name: &str) -> Option<String> {
        let head = Head::read(head)?;
        let find = |pick: fn(Property<'_>) -> Option<String>| head.properties.find(pick);
        match name {
            "content_type" => find(|p| match p {
                Property::ContentType(text) => Some(text.to_owned()),
                _ => None,
            }),
            "correlation_id" => find(|p| match p {
                Property::CorrelationData(data) => Some(String::from_utf8_lossy(data).into_owned()),
                _ => None,
            }),
            "reply_to" => find(|p| match p {
                Property::ResponseTopic(topic) => Some(reply_to(topic)),
                _ => None,
            })
            .or_else(|| Carried::ReplyTo.find(head.properties)),
            "expiration" => find(|p| match p {
                Property::MessageExpiryInterval(s) => Some((u64::from(s) * 1000).to_string()),
                _ => None,
            }),
            "delivery_mode" => Some(delivery_mode(head.qos).to_string()),
            _ => Carried::of_property(name)?.find(head.properties),
        }
    }

    fn properties(&self, head: &[u8]) -> Properties {
        super::properties::to_neutral(head).unwrap_or_default()
    }
}
