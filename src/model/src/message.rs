//! A message as its publisher encoded it, and what the broker writes beside it.

use std::sync::Arc;

use bytes::Bytes;

use crate::{EncodingId, Forms, Time};

/// A range of bytes of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte's offset in the chunk.
    pub start: u32,
    /// How many bytes.
    pub len: u32,
}

impl Span {
    /// The span of `len` bytes from `start`.
    ///
    /// # Panics
    /// If the span ends past 4 GiB: chunks are bounded far below that.
    pub fn new(start: usize, len: usize) -> Span {
        assert!(start + len <= u32::MAX as usize, "a chunk is smaller than 4 GiB");
        Span { start: start as u32, len: len as u32 }
    }

    /// The bytes of `chunk` in this span.
    ///
    /// # Panics
    /// If the chunk is not the one that the span was made for.
    #[inline]
    pub fn of(self, chunk: &[u8]) -> &[u8] {
        &chunk[self.start as usize..self.start as usize + self.len as usize]
    }

    /// The offset just past the last byte.
    #[inline]
    pub fn end(self) -> u32 {
        self.start + self.len
    }
}

/// Yes-or-no properties of a message that the broker acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordFlags(u8);

impl RecordFlags {
    /// To be kept through a restart where the queue is durable.
    pub const DURABLE: RecordFlags = RecordFlags(1);
    /// To be returned to its publisher if no queue takes it.
    pub const MANDATORY: RecordFlags = RecordFlags(2);
    /// [`Record::ttl_ms`] has been spent: a dead-lettered message does not expire again.
    pub const TTL_SPENT: RecordFlags = RecordFlags(4);
    /// Its head names more routing keys ([`Encoding::more_routing_keys`]), by which it is routed
    /// as well.
    ///
    /// [`Encoding::more_routing_keys`]: crate::Encoding::more_routing_keys
    pub const MORE_KEYS: RecordFlags = RecordFlags(8);
    /// To be kept by its exchange as the latest message of its routing key, for those who ask for
    /// it later ([`Recall`](crate::Recall)); one with an empty body removes what is kept.
    pub const RETAIN: RecordFlags = RecordFlags(16);
    /// To be held by its virtual host for as long as its header `x-delay` says
    /// ([`Value::held_for_ms`](crate::Value::held_for_ms)), whatever it is published to: exchanges
    /// that delay look at the header alone.
    pub const DELAYED: RecordFlags = RecordFlags(32);

    /// Whether every flag of `other` is set.
    #[inline]
    pub fn has(self, other: RecordFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of flags.
    #[inline]
    #[must_use]
    pub fn with(self, other: RecordFlags) -> RecordFlags {
        RecordFlags(self.0 | other.0)
    }

    /// The flags as they are stored.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The flags of stored bits; `None` if bits are set that this version does not know.
    pub fn from_bits(bits: u8) -> Option<RecordFlags> {
        (bits < 64).then_some(RecordFlags(bits))
    }
}

/// [`Record::ttl_ms`] of a message that does not expire by itself.
pub const NO_TTL: u32 = u32::MAX;

/// One message: offsets into its batch's chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The exchange that it was published to (UTF-8); empty for the default exchange.
    pub exchange: Span,
    /// The routing key that it was published with (UTF-8).
    pub routing_key: Span,
    /// The publisher's own encoding of its properties; the batch's [`EncodingId`] tells how to
    /// read it.
    pub head: Span,
    /// The body.
    pub body: Span,
    /// Milliseconds from its arrival in a queue after which it expires; [`NO_TTL`] for never.
    pub ttl_ms: u32,
    /// Higher is delivered sooner in a queue with priorities.
    pub priority: u8,
    /// Durable, mandatory and so on.
    pub flags: RecordFlags,
}

/// Messages that arrived together: one chunk of bytes, and records of offsets into it.
///
/// Reference counts are held on the whole and move a batch at a time; see
/// [`Batch::compacted`] for what keeps a few survivors from pinning a large chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// How the records' heads are encoded.
    pub encoding: EncodingId,
    /// The bytes that the records point into.
    pub chunk: Bytes,
    /// The messages, in the order of their publishing.
    pub records: Vec<Record>,
    /// What protocols have made of it.
    pub forms: Forms,
}

impl Batch {
    /// A batch of `records` that point into `chunk`, whose heads are encoded in `encoding`.
    pub fn new(encoding: EncodingId, chunk: Bytes, records: Vec<Record>) -> Batch {
        Batch { encoding, chunk, records, forms: Forms::default() }
    }

    /// The exchange that `record` was published to; spans of a batch are checked to be UTF-8
    /// when it is made, so what is not reads as empty.
    pub fn exchange(&self, record: &Record) -> &str {
        std::str::from_utf8(record.exchange.of(&self.chunk)).unwrap_or_default()
    }

    /// The routing key that `record` was published with.
    pub fn routing_key(&self, record: &Record) -> &str {
        std::str::from_utf8(record.routing_key.of(&self.chunk)).unwrap_or_default()
    }

    /// The publisher's encoding of the properties of `record`.
    pub fn head(&self, record: &Record) -> &[u8] {
        record.head.of(&self.chunk)
    }

    /// The body of `record`.
    pub fn body(&self, record: &Record) -> &[u8] {
        record.body.of(&self.chunk)
    }

    /// Bytes of the bodies of `len` records from `first`: what queues are measured in.
    pub fn body_bytes(&self, first: u32, len: u32) -> u64 {
        let records = &self.records[first as usize..(first + len) as usize];
        records.iter().map(|r| u64::from(r.body.len)).sum()
    }

    /// Bytes of heads and bodies of `len` records from `first`: what memory and the log hold.
    pub fn payload_bytes(&self, first: u32, len: u32) -> u64 {
        let records = &self.records[first as usize..(first + len) as usize];
        records.iter().map(|r| u64::from(r.head.len) + u64::from(r.body.len)).sum()
    }

    /// A copy of `len` records from `first` with a chunk of just their bytes.
    ///
    /// Used where few messages of a large batch are left, so that 16 bytes never pin 64 KiB.
    #[must_use]
    pub fn compacted(&self, first: u32, len: u32) -> Batch {
        Batch::joined(self.encoding, std::iter::once((self, first, len)))
    }

    /// A batch with copies of the records of others, each given as (batch, first record, how
    /// many), and a chunk of just their bytes. All must be of `encoding`.
    #[must_use]
    pub fn joined<'b>(
        encoding: EncodingId,
        parts: impl Iterator<Item = (&'b Batch, u32, u32)> + Clone,
    ) -> Batch {
        let kept = parts.flat_map(|(batch, first, len)| {
            let records = &batch.records[first as usize..(first + len) as usize];
            records.iter().map(move |record| (batch, record))
        });
        let bytes = kept
            .clone()
            .map(|(_, r)| (r.exchange.len + r.routing_key.len + r.head.len + r.body.len) as usize)
            .sum();
        let mut chunk = Vec::with_capacity(bytes);
        let records = kept
            .map(|(batch, r)| {
                let mut keep = |span: Span| {
                    let start = chunk.len();
                    chunk.extend_from_slice(span.of(&batch.chunk));
                    Span::new(start, span.len as usize)
                };
                Record {
                    exchange: keep(r.exchange),
                    routing_key: keep(r.routing_key),
                    head: keep(r.head),
                    body: keep(r.body),
                    ..*r
                }
            })
            .collect();
        Batch::new(encoding, chunk.into(), records)
    }
}

/// Why a message left a queue for a dead-letter exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeathReason {
    /// A consumer rejected it.
    Rejected,
    /// Its time to live ran out.
    Expired,
    /// The queue was over its length limit.
    MaxLength,
    /// It was delivered more often than the queue allows.
    DeliveryLimit,
}

/// One kind of death of a message, as RabbitMQ's `x-death` tells it: deaths in the same queue for
/// the same reason are counted, not listed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The queue's name.
    pub queue: Arc<str>,
    /// Why.
    pub reason: DeathReason,
    /// How often.
    pub count: u64,
    /// When first, in Unix time.
    pub first_at: Time,
    /// The exchange through which it had come to that queue.
    pub exchange: Arc<str>,
    /// The routing keys with which it had come.
    pub routing_keys: Vec<Arc<str>>,
    /// The time to live that was taken off it, in milliseconds.
    pub original_ttl_ms: Option<u32>,
}

/// What the broker writes beside a message that it moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// The exchange it went through last, where that is not the publisher's.
    pub exchange: Option<Arc<str>>,
    /// The routing key it went with last, where that is not the publisher's.
    pub routing_key: Option<Arc<str>>,
    /// Its deaths, latest first.
    pub deaths: Vec<Death>,
    /// Whether an exchange has held it for as long as it asked for: it is not held again.
    pub delay_spent: bool,
    /// Whether it is not news but what an exchange has kept ([`RecordFlags::RETAIN`]).
    pub recalled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compacted_batch_says_the_same_and_holds_no_more() {
        let chunk = Bytes::from_static(b"..ex.key.head.body..ex2.k2.h2.b2....................");
        let record = |ex: (usize, usize), key, head, body| {
            let span = |(s, l): (usize, usize)| Span::new(s, l);
            Record {
                exchange: span(ex),
                routing_key: span(key),
                head: span(head),
                body: span(body),
                ttl_ms: 5,
                priority: 3,
                flags: RecordFlags::DURABLE,
            }
        };
        let batch = Batch::new(
            EncodingId::AMQP_0_9_1,
            chunk,
            vec![
                record((2, 2), (5, 3), (9, 4), (14, 4)),
                record((20, 3), (24, 2), (27, 2), (30, 2)),
            ],
        );
        let kept = batch.compacted(1, 1);
        let r = &kept.records[0];
        assert_eq!((kept.exchange(r), kept.routing_key(r)), ("ex2", "k2"));
        assert_eq!((kept.head(r), kept.body(r)), (&b"h2"[..], &b"b2"[..]));
        assert_eq!((r.ttl_ms, r.priority, r.flags), (5, 3, RecordFlags::DURABLE));
        assert_eq!(kept.chunk.len(), 9);
    }
}
