//! PUBLISH (section 3.3): read where it lies, and written straight into an [`Outbox`].

use bytes::Bytes;
use isthmus_contract::Outbox;
use isthmus_model::Span;

use super::connect::read_properties;
use super::frame::{self, Frame, Kind, varint_len, write_varint};
use super::property::{
    MESSAGE_EXPIRY_INTERVAL, Owner, Properties, SUBSCRIPTION_IDENTIFIER, TOPIC_ALIAS,
};
use super::reader::{Reader, VARINT_MAX, write_binary};
use super::{Qos, Sender, Version, topic};
use crate::convert::topic::swap;
use crate::fault::{Fault, Problem, TooLong};

const DUP: u8 = 0x08;
const QOS_SHIFT: u32 = 1;
const RETAIN: u8 = 0x01;

const TOPIC: &str = "Topic Name";

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Whether it may have been sent before.
    pub dup: bool,
    /// How it is acknowledged.
    pub qos: Qos,
    /// Whether it is (to be) retained.
    pub retain: bool,
    /// The topic's name; empty if a topic alias stands for it.
    pub topic: &'a str,
    /// Names the acknowledgement; 0 for QoS 0, which has none.
    pub packet_id: u16,
    /// None before 5.0.
    pub properties: Properties<'a>,
    /// What it says.
    pub payload: &'a [u8],
}

/// Where the parts of a PUBLISH lie, as offsets from the start of its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The topic's name.
    pub topic: Span,
    /// The properties with their length, up to the payload; empty before 5.0.
    pub properties: Span,
    /// The payload, up to the end of the packet.
    pub payload: Span,
}

impl<'a> Publish<'a> {
    /// Reads the PUBLISH of `frame`.
    ///
    /// # Errors
    /// If it breaks the specification in a way that can be seen in it alone; whether its topic
    /// alias is known and not too high is for the session to see.
    #[inline]
    pub fn read(frame: &Frame<'a>, version: Version, sender: Sender) -> Result<Publish<'a>, Fault> {
        let mut r = Reader::new(frame.body, Kind::Publish);
        let bits = frame.first >> QOS_SHIFT & 3;
        let Some(qos) = Qos::from_bits(bits) else {
            return Err(r.malformed("QoS", Problem::Value(3)));
        };
        let dup = frame.first & DUP != 0;
        if dup && qos == Qos::AtMostOnce {
            return Err(r.malformed("DUP flag", Problem::Conflict("with QoS 0")));
        }
        if version == Version::V5 && !frame.is_minimal() {
            return Err(r.malformed("Remaining Length", Problem::NotMinimal));
        }
        let topic = r.string(TOPIC)?;
        let packet_id = if qos == Qos::AtMostOnce { 0 } else { r.packet_id()? };
        let properties = read_properties(&mut r, version, Owner::publish(sender))?;
        if topic.is_empty() && version == Version::V5 {
            let without = || r.protocol(TOPIC, Problem::Without("Topic Alias"));
            properties.topic_alias().ok_or_else(without)?;
        } else {
            topic::check_name(topic, Kind::Publish, TOPIC)?;
        }
        let retain = frame.first & RETAIN != 0;
        Ok(Publish { dup, qos, retain, topic, packet_id, properties, payload: r.rest() })
    }

    /// Where its parts lie in `frame`, which it was read from.
    #[inline]
    pub fn layout(&self, frame: &Frame<'_>) -> Layout {
        let topic = Span::new(frame.header_len + 2, self.topic.len());
        let id_len = if self.qos == Qos::AtMostOnce { 0 } else { 2 };
        let properties_at = topic.end() as usize + id_len;
        let payload_at = frame.wire_len() - self.payload.len();
        Layout {
            topic,
            properties: Span::new(properties_at, payload_at - properties_at),
            payload: Span::new(payload_at, self.payload.len()),
        }
    }

    /// The first byte of its packet.
    #[inline]
    pub fn first_byte(&self) -> u8 {
        first_byte(self.dup, self.qos, self.retain)
    }

    /// Appends it.
    ///
    /// # Errors
    /// If it is too long for a packet; `out` is then as it was.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), TooLong> {
        frame::write(out, self.first_byte(), |out| {
            write_binary(out, self.topic.as_bytes(), TOPIC)?;
            if self.qos != Qos::AtMostOnce {
                out.extend_from_slice(&self.packet_id.to_be_bytes());
            }
            if version.has_properties() {
                self.properties.write(out)?;
            }
            out.extend_from_slice(self.payload);
            Ok(())
        })
    }
}

#[inline]
fn first_byte(dup: bool, qos: Qos, retain: bool) -> u8 {
    let dup = if dup { DUP } else { 0 };
    Kind::Publish.first_byte() | dup | qos.bits() << QOS_SHIFT | u8::from(retain)
}

/// Writes `packet_id` into the PUBLISH that `packet` is, which has one: QoS 1 or 2. What is no whole
/// PUBLISH stays as it is.
#[inline]
pub(crate) fn set_packet_id(packet: &mut [u8], packet_id: u16) {
    // Behind the first byte, the Remaining Length, and the topic with its length.
    let Some(last) = packet.iter().skip(1).position(|byte| byte & 0x80 == 0) else { return };
    let topic_at = last + 4;
    let Some(&[len0, len1]) = packet.get(topic_at - 2..topic_at) else { return };
    let at = topic_at + usize::from(u16::from_be_bytes([len0, len1]));
    if let Some(id) = packet.get_mut(at..at + 2) {
        id.copy_from_slice(&packet_id.to_be_bytes());
    }
}

/// What a receiver is told the topic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicName<'a> {
    /// A topic's name as it is.
    Name(&'a [u8]),
    /// A routing key, which becomes a topic's name as it is written
    /// ([`crate::convert::topic`]).
    RoutingKey(&'a [u8]),
    /// As [`TopicName::RoutingKey`], and an alias that stands for it from now on (section
    /// 3.3.2.3.4); 5.0 only.
    NewAlias(&'a [u8], u16),
    /// An alias that the receiver knows; 5.0 only.
    Alias(u16),
}

impl<'a> TopicName<'a> {
    /// The name's bytes, as they lie in the PUBLISH or with separators swapped.
    fn bytes(&self) -> &'a [u8] {
        match *self {
            TopicName::Name(topic)
            | TopicName::RoutingKey(topic)
            | TopicName::NewAlias(topic, _) => topic,
            TopicName::Alias(_) => &[],
        }
    }

    fn alias(&self) -> Option<u16> {
        match *self {
            TopicName::NewAlias(_, alias) | TopicName::Alias(alias) => Some(alias),
            _ => None,
        }
    }
}

/// A stored message on its way to a receiver.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// What the receiver speaks.
    pub version: Version,
    /// Whether it may have been delivered before; not told with QoS 0, where it has no place
    /// [MQTT-3.3.1-2].
    pub dup: bool,
    /// The QoS of the delivery.
    pub qos: Qos,
    /// Whether it is delivered as a retained message.
    pub retain: bool,
    /// Where it was published to.
    pub topic: TopicName<'a>,
    /// Names the acknowledgement; looked at for QoS 1 and 2 only.
    pub packet_id: u16,
    /// Seconds that are left of its life, in place of those it was published with
    /// [MQTT-3.3.2-6]; `None` leaves these.
    pub expiry_left_s: Option<u32>,
    /// The identifiers of the subscriptions that it is delivered for [MQTT-3.3.4-4].
    pub subscription_ids: &'a [u32],
    /// The properties that it was published with. Their order is kept; a topic alias, which is
    /// the publisher's own, is left out.
    pub properties: Properties<'a>,
    /// The bytes that the payload lies in.
    pub chunk: &'a Bytes,
    /// The payload.
    pub payload: Span,
}

/// How long a PUBLISH is, in bytes.
struct Lengths {
    /// Its properties.
    properties: usize,
    /// All behind the fixed header.
    remaining: usize,
    /// All of it.
    packet: usize,
}

/// Payloads up to here are given room together with what stands before them.
const INLINE_PAYLOAD_BYTES_MAX: u32 = Outbox::COPY_MAX_BYTES as u32;

impl Outgoing<'_> {
    /// Appends it as a PUBLISH; small payloads are copied, large ones referred to where they lie.
    /// Returns whether it was: one that takes more than `packet_max` bytes, or more than any
    /// packet may have, is not [MQTT-3.1.2-24], and counts as delivered [MQTT-3.1.2-25].
    #[inline]
    pub fn write(&self, out: &mut Outbox, packet_max: u32) -> bool {
        let Some(lengths) = self.lengths(packet_max) else { return false };
        let buf = out.buf();
        let is_inline = self.payload.len < INLINE_PAYLOAD_BYTES_MAX;
        buf.reserve(lengths.packet - if is_inline { 0 } else { self.payload.len as usize });
        self.write_head(buf, &lengths);
        if is_inline {
            buf.extend_from_slice(self.payload.of(self.chunk));
        } else {
            out.push_slice(self.chunk, self.payload);
        }
        true
    }

    /// Appends it as a PUBLISH, payload and all, unless that is more than any packet may have.
    pub fn write_whole(&self, buf: &mut Vec<u8>) {
        if let Some(lengths) = self.lengths(u32::MAX) {
            self.write_head(buf, &lengths);
            buf.extend_from_slice(self.payload.of(self.chunk));
        }
    }

    /// How long it is, unless that is too long.
    #[inline]
    fn lengths(&self, packet_max: u32) -> Option<Lengths> {
        let topic_len = self.topic.bytes().len();
        let properties = self.properties_len();
        let mut remaining = 2 + topic_len + self.payload.len as usize;
        if self.qos != Qos::AtMostOnce {
            remaining += 2;
        }
        if self.version.has_properties() {
            remaining += varint_len(properties) + properties;
        }
        let packet = 1 + varint_len(remaining) + remaining;
        let fits = topic_len <= usize::from(u16::MAX)
            && remaining <= VARINT_MAX as usize
            && packet <= packet_max as usize;
        fits.then_some(Lengths { properties, remaining, packet })
    }

    /// Appends all that stands before the payload.
    #[inline]
    fn write_head(&self, buf: &mut Vec<u8>, lengths: &Lengths) {
        let topic = self.topic.bytes();
        let dup = self.dup && self.qos != Qos::AtMostOnce;
        buf.push(first_byte(dup, self.qos, self.retain));
        write_varint(buf, lengths.remaining as u32);
        buf.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        let topic_at = buf.len();
        buf.extend_from_slice(topic);
        if let TopicName::RoutingKey(_) | TopicName::NewAlias(..) = self.topic {
            swap(&mut buf[topic_at..]);
        }
        if self.qos != Qos::AtMostOnce {
            buf.extend_from_slice(&self.packet_id.to_be_bytes());
        }
        if self.version.has_properties() {
            write_varint(buf, lengths.properties as u32);
            if lengths.properties > 0 {
                self.write_properties(buf);
            }
        }
    }

    /// Bytes of all its properties.
    #[inline]
    fn properties_len(&self) -> usize {
        if !self.version.has_properties() {
            return 0;
        }
        let ids = self.subscription_ids.iter().map(|id| 1 + varint_len(*id as usize));
        let mut len = ids.sum::<usize>() + if self.expiry_left_s.is_some() { 5 } else { 0 };
        len += if self.topic.alias().is_some() { 3 } else { 0 };
        self.for_kept(|kept| len += kept.len());
        len
    }

    fn write_properties(&self, buf: &mut Vec<u8>) {
        if let Some(left_s) = self.expiry_left_s {
            buf.push(MESSAGE_EXPIRY_INTERVAL);
            buf.extend_from_slice(&left_s.to_be_bytes());
        }
        if let Some(alias) = self.topic.alias() {
            buf.push(TOPIC_ALIAS);
            buf.extend_from_slice(&alias.to_be_bytes());
        }
        self.for_kept(|kept| buf.extend_from_slice(kept));
        for &id in self.subscription_ids {
            buf.push(SUBSCRIPTION_IDENTIFIER);
            write_varint(buf, id.min(VARINT_MAX));
        }
    }

    /// Calls `keep` with the bytes of the properties that go on to the receiver, in runs.
    #[inline]
    fn for_kept(&self, mut keep: impl FnMut(&[u8])) {
        let bytes = self.properties.as_bytes();
        if bytes.is_empty() {
            return;
        }
        let (mut run_at, mut at) = (0, 0);
        for (id, property) in self.properties.raw() {
            let end = at + property.len();
            let is_dropped = match id {
                TOPIC_ALIAS | SUBSCRIPTION_IDENTIFIER => true,
                MESSAGE_EXPIRY_INTERVAL => self.expiry_left_s.is_some(),
                _ => false,
            };
            if is_dropped {
                keep(&bytes[run_at..at]);
                run_at = end;
            }
            at = end;
        }
        keep(&bytes[run_at..at]);
    }
}
