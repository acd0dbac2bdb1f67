//! The heads of STOMP messages, for whoever must see a property of one.

use isthmus_model::{Encoding, Properties, Table};

use super::properties::{header_of, timestamp_ms, to_neutral, user_headers};
use super::stored::read_head;
use crate::destination::address_of;

/// Reads heads of stored STOMP messages
/// ([`EncodingId::STOMP`](isthmus_model::EncodingId::STOMP)).
#[derive(Clone, Copy, Debug, Default)]
pub struct StompEncoding;

impl Encoding for StompEncoding {
    fn headers(&self, head: &[u8]) -> Table {
        user_headers(head)
    }

    fn more_routing_keys(&self, _head: &[u8]) -> Vec<String> {
        Vec::new()
    }

    fn property(&self, head: &[u8], name: &str) -> Option<String> {
        let headers = read_head(head)?;
        match name {
            "delivery_mode" => {
                let durable = headers.get("persistent").is_some_and(|value| value == "true");
                Some(if durable { "2" } else { "1" }.to_owned())
            }
            "timestamp" => {
                let ms = timestamp_ms(&headers.get("timestamp")?)?;
                Some(ms.div_euclid(1000).to_string())
            }
            "reply_to" => Some(address_of(&headers.get("reply-to")?).into_owned()),
            name => Some(headers.get(header_of(name)?)?.into_owned()),
        }
    }

    fn properties(&self, head: &[u8]) -> Properties {
        to_neutral(head).unwrap_or_default()
    }
}
