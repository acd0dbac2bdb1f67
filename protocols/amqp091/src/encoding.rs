//! The heads of AMQP 0-9-1 messages, for whoever must see a property of one.

use isthmus_model::{Encoding, Properties, Table, Value};

use crate::codec::head::Head;
use crate::codec::table;
use crate::convert;

/// Reads flags and property lists of content headers
/// ([`EncodingId::AMQP_0_9_1`](isthmus_model::EncodingId::AMQP_0_9_1)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Amqp091Encoding;

impl Encoding for Amqp091Encoding {
    fn headers(&self, head: &[u8]) -> Table {
        Head::read(head)
            .ok()
            .and_then(|known| known.headers)
            .and_then(|range| table::read(&head[range]).ok())
            .unwrap_or_default()
    }

    fn more_routing_keys(&self, head: &[u8]) -> Vec<String> {
        let headers = self.headers(head);
        let lists = ["CC", "BCC"].into_iter().filter_map(|name| headers.get(name));
        let keys = lists.flat_map(|list| match list {
            Value::List(keys) => keys.as_slice(),
            _ => &[],
        });
        keys.filter_map(|key| key.as_str().map(str::to_owned)).collect()
    }

    fn property(&self, head: &[u8], name: &str) -> Option<String> {
        Head::property(head, name).ok().flatten()
    }

    fn properties(&self, head: &[u8]) -> Properties {
        convert::to_neutral(head)
    }
}
