//! How an MQTT message lies in a batch.
//!
//! The head of a message ([`EncodingId::MQTT`]) is
//!
//! - one byte: RETAIN in bit 0, the publisher's QoS in bits 1 and 2, as in the first byte of its
//!   PUBLISH; the others are 0;
//! - in 5.0 the properties behind their length, as they were sent. Nothing before 5.0.
//!
//! Its routing key is the topic with separators and wildcards swapped ([`super::topic`]).
//!
//! Nearly all of it lies in the PUBLISH as it was read, so that [`seal`] changes the chunk where
//! it lies: swaps the topic's characters and writes the first byte in front of the properties.
//! With QoS 1 and 2 the packet identifier stood there, which nobody needs any more; with QoS 0 the
//! topic stands there, and moves up by one, over the end of its own length.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use isthmus_model::{Batch, EncodingId, NO_TTL, Record, RecordFlags, Span};

use super::topic::swap;
use crate::codec::frame::write_varint;
use crate::codec::property::WILL_DELAY_INTERVAL;
use crate::codec::{Frame, Properties, Publish, Qos, Will};

/// The bits of the first byte of a PUBLISH that the head keeps.
const KEPT: u8 = 0b0111;
const QOS_SHIFT: u32 = 1;

/// The head of a stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The QoS that it was published with.
    pub qos: Qos,
    /// Whether it was published to be retained.
    pub retain: bool,
    /// Its properties; none before 5.0.
    pub properties: Properties<'a>,
}

impl<'a> Head<'a> {
    /// Reads the head of a record; `None` if it is not one that was stored by this module.
    #[inline]
    pub fn read(head: &'a [u8]) -> Option<Head<'a>> {
        let (&flags, rest) = head.split_first()?;
        let qos = Qos::from_bits(flags >> QOS_SHIFT)?;
        // The properties are all the rest: of their length, only its own length is of interest.
        let mut properties = rest;
        while let Some((&byte, behind)) = properties.split_first() {
            properties = behind;
            if byte < 0x80 {
                break;
            }
        }
        let properties = Properties::stored(properties);
        Some(Head { qos, retain: flags & 1 != 0, properties })
    }
}

/// A message whose bytes still lie as they came, until [`seal`].
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    /// As it will be; its priority, which MQTT has none of, holds the first byte of the head.
    record: Record,
}

impl Draft {
    /// The message of `publish`, which was read from `frame`, which begins at `at`. Its topic must
    /// not be empty: a topic alias stands for another place ([`store`]).
    #[inline]
    pub fn new(publish: &Publish<'_>, frame: &Frame<'_>, at: usize) -> Draft {
        debug_assert!(!publish.topic.is_empty(), "the session knows what an alias stands for");
        let layout = publish.layout(frame);
        let moved = usize::from(publish.qos == Qos::AtMostOnce);
        let span = |span: Span, before: usize| {
            Span::new(at + span.start as usize - before, span.len as usize + before)
        };
        let key_at = at + layout.topic.start as usize - moved;
        let record = Record {
            exchange: Span::default(),
            routing_key: Span::new(key_at, layout.topic.len as usize),
            head: span(layout.properties, 1),
            body: span(layout.payload, 0),
            ttl_ms: ttl_ms(publish.properties),
            priority: publish.first_byte() & KEPT,
            flags: flags(publish.qos),
        };
        Draft { record }
    }
}

/// The batch of `drafts`, messages that lie in `chunk`, which is changed where it lies if nobody
/// else refers to it. They are published to `exchange`.
pub fn seal(chunk: Bytes, exchange: &str, drafts: Vec<Draft>) -> Batch {
    let mut chunk = chunk.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    let exchange_at = chunk.len();
    chunk.extend_from_slice(exchange.as_bytes());
    let exchange = Span::new(exchange_at, exchange.len());
    let records = drafts
        .into_iter()
        .map(|Draft { mut record }| {
            let first = std::mem::take(&mut record.priority);
            let key = record.routing_key.start as usize..record.routing_key.end() as usize;
            if first >> QOS_SHIFT == 0 {
                chunk.copy_within(key.start + 1..key.end + 1, key.start);
            }
            swap(&mut chunk[key]);
            chunk[record.head.start as usize] = first;
            Record { exchange, ..record }
        })
        .collect();
    Batch::new(EncodingId::MQTT, chunk.freeze(), records)
}

/// A message that lies in no packet as it is to be stored: one whose topic is told by an alias,
/// or a will.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its QoS.
    pub qos: Qos,
    /// Whether it is retained.
    pub retain: bool,
    /// Its topic's name.
    pub topic: &'a str,
    /// Its properties. Those that only a will has are left out.
    pub properties: Properties<'a>,
    /// What it says.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The message of `publish`, whose topic is `topic`.
    pub fn published(publish: &Publish<'a>, topic: &'a str) -> Message<'a> {
        let &Publish { qos, retain, properties, payload, .. } = publish;
        Message { qos, retain, topic, properties, payload }
    }

    /// The message that `will` is.
    pub fn of_will(will: &Will<'a>) -> Message<'a> {
        let &Will { qos, retain, properties, topic, payload } = will;
        Message { qos, retain, topic, properties, payload }
    }
}

/// A batch of `message` alone, published to `exchange`.
pub fn store(message: &Message<'_>, exchange: &str) -> Arc<Batch> {
    let Message { topic, properties, payload, .. } = *message;
    let property_bytes = properties.as_bytes();
    let len = exchange.len() + topic.len() + 5 + property_bytes.len() + payload.len();
    let mut chunk = Vec::with_capacity(len);
    let mut append = |write: &mut dyn FnMut(&mut Vec<u8>)| {
        let start = chunk.len();
        write(&mut chunk);
        Span::new(start, chunk.len() - start)
    };
    let exchange = append(&mut |out| out.extend_from_slice(exchange.as_bytes()));
    let routing_key = append(&mut |out| {
        let start = out.len();
        out.extend_from_slice(topic.as_bytes());
        swap(&mut out[start..]);
    });
    let head = append(&mut |out| write_head(out, message));
    let body = append(&mut |out| out.extend_from_slice(payload));
    let record = Record {
        exchange,
        routing_key,
        head,
        body,
        ttl_ms: ttl_ms(properties),
        priority: 0,
        flags: flags(message.qos),
    };
    Arc::new(Batch::new(EncodingId::MQTT, chunk.into(), vec![record]))
}

fn write_head(out: &mut Vec<u8>, message: &Message<'_>) {
    write_head_of(out, message.qos, message.retain, message.properties);
}

/// Appends the head of a message with `properties`.
pub(crate) fn write_head_of(out: &mut Vec<u8>, qos: Qos, retain: bool, properties: Properties<'_>) {
    out.push(qos.bits() << QOS_SHIFT | u8::from(retain));
    let kept = || properties.raw().filter(|(id, _)| *id != WILL_DELAY_INTERVAL);
    let len = kept().map(|(_, property)| property.len()).sum::<usize>();
    if len > 0 {
        write_varint(out, len as u32);
        kept().for_each(|(_, property)| out.extend_from_slice(property));
    }
}

/// Message Expiry Interval in milliseconds. One that does not fit, above 49 days, never ends: to
/// keep a message too long loses nothing.
#[inline]
fn ttl_ms(properties: Properties<'_>) -> u32 {
    properties.message_expiry_s().and_then(|s| s.checked_mul(1000)).unwrap_or(NO_TTL)
}

/// What a client wants acknowledged is to survive a restart.
#[inline]
fn flags(qos: Qos) -> RecordFlags {
    match qos {
        Qos::AtMostOnce => RecordFlags::default(),
        Qos::AtLeastOnce | Qos::ExactlyOnce => RecordFlags::DURABLE,
    }
}
