//! Small messages for tests of this crate.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::{Batch, EncodingId, NO_TTL, Record, RecordFlags, Span};

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
    Arc::new(Batch::new(EncodingId::AMQP_0_9_1, Bytes::from(chunk), records))
}

/// How many cases a property is tested with: `ISTHMUS_CASES` multiplies what a developer waits
/// for.
pub(crate) fn cases(count: u32) -> u32 {
    let factor = std::env::var("ISTHMUS_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    count.saturating_mul(factor)
}
