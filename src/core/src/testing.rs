//! Small messages for tests of this crate.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::{Batch, EncodingId, NO_TTL, Record, RecordFlags, Span};

/// Messages published to `exchange` with `key`, each body different.
pub(crate) fn batch_to(exchange: &str, key: &str, count: usize, flags: RecordFlags) -> Arc<Batch> {
    let mut chunk = Vec::new();
    let mut put = |bytes: &[u8]| {
        let start = chunk.len();
        chunk.extend_from_slice(bytes);
        Span::new(start, bytes.len())
    };
    let records = (0..count)
        .map(|i| Record {
            exchange: put(exchange.as_bytes()),
            routing_key: put(key.as_bytes()),
            head: put(b"\0\0"),
            body: put(format!("{key}/{i}").as_bytes()),
            ttl_ms: NO_TTL,
            priority: 0,
            flags,
        })
        .collect();
    Arc::new(Batch { encoding: EncodingId::AMQP_0_9_1, chunk: chunk.into(), records })
}

/// `count` transient messages with bodies of `size` bytes, each different.
pub(crate) fn batch(count: usize, size: usize) -> Arc<Batch> {
    let mut chunk = Vec::new();
    let mut records = Vec::new();
    for i in 0..count {
        let start = chunk.len();
        chunk.resize(start + size, i as u8);
        records.push(Record {
            exchange: Span::new(0, 0),
            routing_key: Span::new(0, 0),
            head: Span::new(0, 0),
            body: Span::new(start, size),
            ttl_ms: NO_TTL,
            priority: 0,
            flags: RecordFlags::default(),
        });
    }
    Arc::new(Batch { encoding: EncodingId::AMQP_0_9_1, chunk: Bytes::from(chunk), records })
}
