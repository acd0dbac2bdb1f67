//! Properties (section 2.2.2): which packets have which, what values they may have, and how they
//! are read and written.

use std::fmt;

use super::Sender;
use super::frame::{Kind, with_length, write_varint};
use super::reader::{Reader, VARINT_MAX, write_binary};
use super::topic;
use crate::fault::{Fault, Problem, TooLong};

/// A packet that has properties, and, where it matters, who sends it: a bit of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(u16);

impl Owner {
    pub(super) const CONNECT: Owner = Owner(1);
    pub(super) const WILL: Owner = Owner(1 << 1);
    pub(super) const CONNACK: Owner = Owner(1 << 2);
    pub(super) const ACK: Owner = Owner(1 << 5);
    pub(super) const SUBSCRIBE: Owner = Owner(1 << 6);
    pub(super) const SUBACK: Owner = Owner(1 << 7);
    pub(super) const UNSUBSCRIBE: Owner = Owner(1 << 8);
    pub(super) const UNSUBACK: Owner = Owner(1 << 9);
    pub(super) const AUTH: Owner = Owner(1 << 12);
    const PUBLISH_CLIENT: Owner = Owner(1 << 3);
    const PUBLISH_SERVER: Owner = Owner(1 << 4);
    const DISCONNECT_CLIENT: Owner = Owner(1 << 10);
    const DISCONNECT_SERVER: Owner = Owner(1 << 11);

    #[inline]
    pub(super) fn publish(sender: Sender) -> Owner {
        match sender {
            Sender::Client => Owner::PUBLISH_CLIENT,
            Sender::Server => Owner::PUBLISH_SERVER,
        }
    }

    pub(super) fn disconnect(sender: Sender) -> Owner {
        match sender {
            Sender::Client => Owner::DISCONNECT_CLIENT,
            Sender::Server => Owner::DISCONNECT_SERVER,
        }
    }

    /// The same packet from the other side; nothing where only one side sends it.
    fn other_side(self) -> u16 {
        match self {
            Owner::PUBLISH_CLIENT => Owner::PUBLISH_SERVER.0,
            Owner::PUBLISH_SERVER => Owner::PUBLISH_CLIENT.0,
            Owner::DISCONNECT_CLIENT => Owner::DISCONNECT_SERVER.0,
            Owner::DISCONNECT_SERVER => Owner::DISCONNECT_CLIENT.0,
            _ => 0,
        }
    }
}

/// A property with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property<'a> {
    /// 0x01: whether the payload is UTF-8 (section 3.3.2.3.2).
    PayloadFormatIndicator(u8),
    /// 0x02: seconds that the message lives (section 3.3.2.3.3).
    MessageExpiryInterval(u32),
    /// 0x03.
    ContentType(&'a str),
    /// 0x08: where answers go.
    ResponseTopic(&'a str),
    /// 0x09: tells the asker what is answered.
    CorrelationData(&'a [u8]),
    /// 0x0B: the number that a subscription was given.
    SubscriptionIdentifier(u32),
    /// 0x11: seconds that the session outlives its connection.
    SessionExpiryInterval(u32),
    /// 0x12: the client identifier that the server chose.
    AssignedClientIdentifier(&'a str),
    /// 0x13: seconds of the keep alive that the server wants.
    ServerKeepAlive(u16),
    /// 0x15.
    AuthenticationMethod(&'a str),
    /// 0x16.
    AuthenticationData(&'a [u8]),
    /// 0x17: whether failures are explained to the client.
    RequestProblemInformation(u8),
    /// 0x18: seconds before the will is published.
    WillDelayInterval(u32),
    /// 0x19: whether the client wants a Response Information.
    RequestResponseInformation(u8),
    /// 0x1A: what response topics are made of.
    ResponseInformation(&'a str),
    /// 0x1C: another server to use.
    ServerReference(&'a str),
    /// 0x1F: what happened, for people.
    ReasonString(&'a str),
    /// 0x21: QoS 1 and 2 publishes that may be unacknowledged.
    ReceiveMaximum(u16),
    /// 0x22: the highest topic alias that is taken.
    TopicAliasMaximum(u16),
    /// 0x23: a number for a topic.
    TopicAlias(u16),
    /// 0x24: the highest QoS that the server takes.
    MaximumQos(u8),
    /// 0x25: whether the server retains messages.
    RetainAvailable(u8),
    /// 0x26: a name and a value.
    UserProperty(&'a str, &'a str),
    /// 0x27: bytes of the largest packet that is taken.
    MaximumPacketSize(u32),
    /// 0x28: whether the server takes wildcards in filters.
    WildcardSubscriptionAvailable(u8),
    /// 0x29: whether the server takes subscription identifiers.
    SubscriptionIdentifierAvailable(u8),
    /// 0x2A: whether the server takes shared subscriptions.
    SharedSubscriptionAvailable(u8),
}

const PUBLISHED: u16 = Owner::PUBLISH_CLIENT.0 | Owner::PUBLISH_SERVER.0 | Owner::WILL.0;
const AUTHENTICATED: u16 = Owner::CONNECT.0 | Owner::CONNACK.0 | Owner::AUTH.0;
const DISCONNECTS: u16 = Owner::DISCONNECT_CLIENT.0 | Owner::DISCONNECT_SERVER.0;
const ANSWERS: u16 = Owner::CONNACK.0
    | Owner::ACK.0
    | Owner::SUBACK.0
    | Owner::UNSUBACK.0
    | Owner::AUTH.0
    | DISCONNECTS;
const EVERYWHERE: u16 = (1 << 13) - 1;

/// Identifiers that are looked for in stored properties.
pub(crate) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
pub(crate) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
pub(crate) const WILL_DELAY_INTERVAL: u8 = 0x18;
pub(crate) const TOPIC_ALIAS: u8 = 0x23;

/// Identifiers lie below this.
const IDS: usize = 0x2B;

/// Name, and the packets that may have it, by identifier (table 2-4); nothing is not a property.
const TABLE: [(&str, u16); IDS] = {
    let mut table = [("", 0); IDS];
    table[0x01] = ("Payload Format Indicator", PUBLISHED);
    table[0x02] = ("Message Expiry Interval", PUBLISHED);
    table[0x03] = ("Content Type", PUBLISHED);
    table[0x08] = ("Response Topic", PUBLISHED);
    table[0x09] = ("Correlation Data", PUBLISHED);
    // From a client to the server never in a PUBLISH [MQTT-3.3.4-6].
    table[0x0B] = ("Subscription Identifier", Owner::PUBLISH_SERVER.0 | Owner::SUBSCRIBE.0);
    // Never in a DISCONNECT of the server [MQTT-3.14.2-2].
    table[0x11] = (
        "Session Expiry Interval",
        Owner::CONNECT.0 | Owner::CONNACK.0 | Owner::DISCONNECT_CLIENT.0,
    );
    table[0x12] = ("Assigned Client Identifier", Owner::CONNACK.0);
    table[0x13] = ("Server Keep Alive", Owner::CONNACK.0);
    table[0x15] = ("Authentication Method", AUTHENTICATED);
    table[0x16] = ("Authentication Data", AUTHENTICATED);
    table[0x17] = ("Request Problem Information", Owner::CONNECT.0);
    table[0x18] = ("Will Delay Interval", Owner::WILL.0);
    table[0x19] = ("Request Response Information", Owner::CONNECT.0);
    table[0x1A] = ("Response Information", Owner::CONNACK.0);
    table[0x1C] = ("Server Reference", Owner::CONNACK.0 | DISCONNECTS);
    table[0x1F] = ("Reason String", ANSWERS);
    table[0x21] = ("Receive Maximum", Owner::CONNECT.0 | Owner::CONNACK.0);
    table[0x22] = ("Topic Alias Maximum", Owner::CONNECT.0 | Owner::CONNACK.0);
    table[0x23] = ("Topic Alias", PUBLISHED & !Owner::WILL.0);
    table[0x24] = ("Maximum QoS", Owner::CONNACK.0);
    table[0x25] = ("Retain Available", Owner::CONNACK.0);
    table[0x26] = ("User Property", EVERYWHERE);
    table[0x27] = ("Maximum Packet Size", Owner::CONNECT.0 | Owner::CONNACK.0);
    table[0x28] = ("Wildcard Subscription Available", Owner::CONNACK.0);
    table[0x29] = ("Subscription Identifier Available", Owner::CONNACK.0);
    table[0x2A] = ("Shared Subscription Available", Owner::CONNACK.0);
    table
};

impl<'a> Property<'a> {
    /// Its identifier.
    #[inline]
    pub fn id(&self) -> u8 {
        match self {
            Property::PayloadFormatIndicator(_) => 0x01,
            Property::MessageExpiryInterval(_) => 0x02,
            Property::ContentType(_) => 0x03,
            Property::ResponseTopic(_) => 0x08,
            Property::CorrelationData(_) => 0x09,
            Property::SubscriptionIdentifier(_) => 0x0B,
            Property::SessionExpiryInterval(_) => 0x11,
            Property::AssignedClientIdentifier(_) => 0x12,
            Property::ServerKeepAlive(_) => 0x13,
            Property::AuthenticationMethod(_) => 0x15,
            Property::AuthenticationData(_) => 0x16,
            Property::RequestProblemInformation(_) => 0x17,
            Property::WillDelayInterval(_) => 0x18,
            Property::RequestResponseInformation(_) => 0x19,
            Property::ResponseInformation(_) => 0x1A,
            Property::ServerReference(_) => 0x1C,
            Property::ReasonString(_) => 0x1F,
            Property::ReceiveMaximum(_) => 0x21,
            Property::TopicAliasMaximum(_) => 0x22,
            Property::TopicAlias(_) => 0x23,
            Property::MaximumQos(_) => 0x24,
            Property::RetainAvailable(_) => 0x25,
            Property::UserProperty(..) => 0x26,
            Property::MaximumPacketSize(_) => 0x27,
            Property::WildcardSubscriptionAvailable(_) => 0x28,
            Property::SubscriptionIdentifierAvailable(_) => 0x29,
            Property::SharedSubscriptionAvailable(_) => 0x2A,
        }
    }

    /// Its name in the specification.
    pub fn name(&self) -> &'static str {
        TABLE[usize::from(self.id())].0
    }

    /// Reads the property at the front.
    #[inline]
    fn read(r: &mut Reader<'a>) -> Result<Property<'a>, Fault> {
        let id = r.u8("property identifier")?;
        let field = TABLE.get(usize::from(id)).map_or("", |(name, _)| name);
        Ok(match id {
            0x01 => Property::PayloadFormatIndicator(r.u8(field)?),
            0x02 => Property::MessageExpiryInterval(r.u32(field)?),
            0x03 => Property::ContentType(r.string(field)?),
            0x08 => Property::ResponseTopic(r.string(field)?),
            0x09 => Property::CorrelationData(r.binary(field)?),
            0x0B => Property::SubscriptionIdentifier(r.varint(field)?),
            0x11 => Property::SessionExpiryInterval(r.u32(field)?),
            0x12 => Property::AssignedClientIdentifier(r.string(field)?),
            0x13 => Property::ServerKeepAlive(r.u16(field)?),
            0x15 => Property::AuthenticationMethod(r.string(field)?),
            0x16 => Property::AuthenticationData(r.binary(field)?),
            0x17 => Property::RequestProblemInformation(r.u8(field)?),
            0x18 => Property::WillDelayInterval(r.u32(field)?),
            0x19 => Property::RequestResponseInformation(r.u8(field)?),
            0x1A => Property::ResponseInformation(r.string(field)?),
            0x1C => Property::ServerReference(r.string(field)?),
            0x1F => Property::ReasonString(r.string(field)?),
            0x21 => Property::ReceiveMaximum(r.u16(field)?),
            0x22 => Property::TopicAliasMaximum(r.u16(field)?),
            0x23 => Property::TopicAlias(r.u16(field)?),
            0x24 => Property::MaximumQos(r.u8(field)?),
            0x25 => Property::RetainAvailable(r.u8(field)?),
            0x26 => Property::UserProperty(r.string(field)?, r.string(field)?),
            0x27 => Property::MaximumPacketSize(r.u32(field)?),
            0x28 => Property::WildcardSubscriptionAvailable(r.u8(field)?),
            0x29 => Property::SubscriptionIdentifierAvailable(r.u8(field)?),
            0x2A => Property::SharedSubscriptionAvailable(r.u8(field)?),
            _ => {
                return Err(r.malformed("property identifier", Problem::Value(u64::from(id))));
            }
        })
    }

    /// Whether its value is one that it may have; the problem if not. All of them are Protocol
    /// Errors by the property's own section.
    #[inline]
    fn check(&self) -> Result<(), Problem> {
        match *self {
            Property::PayloadFormatIndicator(n)
            | Property::RequestProblemInformation(n)
            | Property::RequestResponseInformation(n)
            | Property::MaximumQos(n)
            | Property::RetainAvailable(n)
            | Property::WildcardSubscriptionAvailable(n)
            | Property::SubscriptionIdentifierAvailable(n)
            | Property::SharedSubscriptionAvailable(n)
                if n > 1 =>
            {
                Err(Problem::Value(u64::from(n)))
            }
            Property::ReceiveMaximum(0)
            | Property::MaximumPacketSize(0)
            | Property::SubscriptionIdentifier(0)
            | Property::TopicAlias(0) => Err(Problem::Value(0)),
            // Of at least one character and without wildcards, as every topic name is
            // ([MQTT-3.3.2-14], [MQTT-4.7.3-1]).
            Property::ResponseTopic("") => Err(Problem::Empty),
            Property::ResponseTopic(name) if topic::has_wildcard(name) => Err(Problem::Wildcard),
            _ => Ok(()),
        }
    }

    /// Appends it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let field = self.name();
        out.push(self.id());
        match *self {
            Property::PayloadFormatIndicator(n)
            | Property::RequestProblemInformation(n)
            | Property::RequestResponseInformation(n)
            | Property::MaximumQos(n)
            | Property::RetainAvailable(n)
            | Property::WildcardSubscriptionAvailable(n)
            | Property::SubscriptionIdentifierAvailable(n)
            | Property::SharedSubscriptionAvailable(n) => out.push(n),
            Property::ServerKeepAlive(n)
            | Property::ReceiveMaximum(n)
            | Property::TopicAliasMaximum(n)
            | Property::TopicAlias(n) => out.extend_from_slice(&n.to_be_bytes()),
            Property::MessageExpiryInterval(n)
            | Property::SessionExpiryInterval(n)
            | Property::WillDelayInterval(n)
            | Property::MaximumPacketSize(n) => out.extend_from_slice(&n.to_be_bytes()),
            Property::SubscriptionIdentifier(n) if n > VARINT_MAX => {
                return Err(TooLong { field, len: n as usize });
            }
            Property::SubscriptionIdentifier(n) => write_varint(out, n),
            Property::ContentType(text)
            | Property::ResponseTopic(text)
            | Property::AssignedClientIdentifier(text)
            | Property::AuthenticationMethod(text)
            | Property::ResponseInformation(text)
            | Property::ServerReference(text)
            | Property::ReasonString(text) => write_binary(out, text.as_bytes(), field)?,
            Property::CorrelationData(data) | Property::AuthenticationData(data) => {
                write_binary(out, data, field)?;
            }
            Property::UserProperty(name, value) => {
                write_binary(out, name.as_bytes(), field)?;
                write_binary(out, value.as_bytes(), field)?;
            }
        }
        Ok(())
    }
}

/// The properties of a packet, as they lie in it without their length, and found to be valid.
/// Their order is kept, and with it the order of user properties and their duplicates.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    bytes: &'a [u8],
}

impl<'a> Properties<'a> {
    /// No properties.
    pub const NONE: Properties<'static> = Properties { bytes: &[] };

    /// Reads the length of the properties and them, of a packet of `owner`.
    #[inline]
    pub(super) fn read(r: &mut Reader<'a>, owner: Owner) -> Result<Properties<'a>, Fault> {
        const FIELD: &str = "Property Length";
        let len = r.varint(FIELD)?;
        let bytes = r.take(len as usize, FIELD)?;
        if !bytes.is_empty() {
            validate(Reader::new(bytes, r.packet()), owner)?;
        }
        Ok(Properties { bytes })
    }

    /// Properties that were validated when they were stored.
    pub(crate) fn stored(bytes: &'a [u8]) -> Properties<'a> {
        Properties { bytes }
    }

    /// As they lie in a packet, without their length.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Each of them, in order.
    #[inline]
    pub fn iter(&self) -> Iter<'a> {
        // They are read a second time here: the kind of packet is in errors only.
        Iter { r: Reader::new(self.bytes, Kind::Reserved) }
    }

    /// Each of them as it lies there: its identifier, and all of its bytes. Nothing is looked at
    /// again but lengths, so that it costs a fraction of [`Properties::iter`].
    #[inline]
    pub(crate) fn raw(&self) -> Raw<'a> {
        Raw { rest: self.bytes }
    }

    /// Seconds of the Message Expiry Interval.
    #[inline]
    pub fn message_expiry_s(&self) -> Option<u32> {
        let (_, bytes) = self.raw().find(|(id, _)| *id == MESSAGE_EXPIRY_INTERVAL)?;
        bytes[1..].try_into().ok().map(u32::from_be_bytes)
    }

    /// The Topic Alias.
    #[inline]
    pub fn topic_alias(&self) -> Option<u16> {
        let (_, bytes) = self.raw().find(|(id, _)| *id == TOPIC_ALIAS)?;
        bytes[1..].try_into().ok().map(u16::from_be_bytes)
    }

    /// The first that `pick` picks.
    #[inline]
    pub fn find<T>(&self, pick: impl FnMut(Property<'a>) -> Option<T>) -> Option<T> {
        self.iter().find_map(pick)
    }

    /// Appends them behind their length.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        with_length(out, "Property Length", |out| {
            out.extend_from_slice(self.bytes);
            Ok(())
        })
    }
}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for Properties<'a> {
    type Item = Property<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Iterates over [`Properties`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    r: Reader<'a>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Property<'a>;

    #[inline]
    fn next(&mut self) -> Option<Property<'a>> {
        if self.r.is_empty() { None } else { Property::read(&mut self.r).ok() }
    }
}

/// Iterates over the bytes of [`Properties`].
#[derive(Clone, Debug)]
pub(crate) struct Raw<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Raw<'a> {
    type Item = (u8, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&id, value) = self.rest.split_first()?;
        let (property, rest) = self.rest.split_at_checked(1 + value_len(id, value)?)?;
        self.rest = rest;
        Some((id, property))
    }
}

/// Bytes of the value that `bytes` begin with, of the property `id`.
#[inline]
fn value_len(id: u8, bytes: &[u8]) -> Option<usize> {
    let text_len = |at: usize| {
        let len = bytes.get(at..at + 2)?;
        Some(at + 2 + usize::from(u16::from_be_bytes([len[0], len[1]])))
    };
    match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2A => Some(1),
        0x13 | 0x21..=0x23 => Some(2),
        0x02 | 0x11 | 0x18 | 0x27 => Some(4),
        0x0B => bytes.iter().position(|byte| *byte < 0x80).map(|last| last + 1),
        0x26 => text_len(0).and_then(text_len),
        _ => text_len(0),
    }
}

/// Reads every property and refuses what `owner` may not have, has twice or with a wrong value.
fn validate(mut r: Reader<'_>, owner: Owner) -> Result<(), Fault> {
    /// Authentication Method and Data.
    const METHOD: u64 = 1 << 0x15;
    const DATA: u64 = 1 << 0x16;
    let mut seen = 0u64;
    while !r.is_empty() {
        let property = Property::read(&mut r)?;
        let id = property.id();
        let (name, owners) = TABLE[usize::from(id)];
        if owners & owner.0 == 0 {
            return Err(if owners & owner.other_side() != 0 {
                r.protocol(name, Problem::WrongSide)
            } else {
                r.malformed(name, Problem::ForeignProperty)
            });
        }
        let may_repeat = match property {
            Property::UserProperty(..) => true,
            // One for each subscription that the message comes for (section 3.3.2.3.8).
            Property::SubscriptionIdentifier(_) => owner == Owner::PUBLISH_SERVER,
            _ => false,
        };
        if seen & 1 << id != 0 && !may_repeat {
            return Err(r.protocol(name, Problem::Twice));
        }
        seen |= 1 << id;
        property.check().map_err(|problem| match property {
            Property::TopicAlias(_) => {
                let reason = crate::ReasonCode::TOPIC_ALIAS_INVALID;
                Fault::because(reason, r.packet(), name, problem)
            }
            _ => r.protocol(name, problem),
        })?;
    }
    if seen & DATA != 0 && seen & METHOD == 0 {
        let without = Problem::Without("Authentication Method");
        return Err(r.protocol("Authentication Data", without));
    }
    Ok(())
}

/// Properties that are put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertiesBuf {
    bytes: Vec<u8>,
}

impl PropertiesBuf {
    /// None yet.
    pub fn new() -> PropertiesBuf {
        PropertiesBuf::default()
    }

    /// Adds `property`. Whether the packet may have it is the caller's to know.
    ///
    /// # Errors
    /// If it holds more than 65,535 bytes of text or data; nothing is added then.
    pub fn push(&mut self, property: Property<'_>) -> Result<(), TooLong> {
        let len = self.bytes.len();
        let result = property.write(&mut self.bytes);
        if result.is_err() {
            self.bytes.truncate(len);
        }
        result
    }

    /// What was added.
    pub fn as_properties(&self) -> Properties<'_> {
        Properties { bytes: &self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_is_as_long_as_it_is_read() {
        let all = [
            Property::PayloadFormatIndicator(1),
            Property::MessageExpiryInterval(60),
            Property::ContentType("text"),
            Property::ResponseTopic("a/b"),
            Property::CorrelationData(&[1, 2, 3]),
            Property::SubscriptionIdentifier(1),
            Property::SubscriptionIdentifier(VARINT_MAX),
            Property::SessionExpiryInterval(1),
            Property::AssignedClientIdentifier(""),
            Property::ServerKeepAlive(1),
            Property::AuthenticationMethod("m"),
            Property::AuthenticationData(&[]),
            Property::RequestProblemInformation(0),
            Property::WillDelayInterval(1),
            Property::RequestResponseInformation(0),
            Property::ResponseInformation("i"),
            Property::ServerReference("s"),
            Property::ReasonString("r"),
            Property::ReceiveMaximum(1),
            Property::TopicAliasMaximum(1),
            Property::TopicAlias(7),
            Property::MaximumQos(1),
            Property::RetainAvailable(1),
            Property::UserProperty("name", ""),
            Property::MaximumPacketSize(1),
            Property::WildcardSubscriptionAvailable(1),
            Property::SubscriptionIdentifierAvailable(1),
            Property::SharedSubscriptionAvailable(1),
        ];
        let mut buf = PropertiesBuf::new();
        all.iter().for_each(|property| buf.push(*property).expect("short"));
        let properties = buf.as_properties();
        assert!(properties.iter().eq(all));
        for ((id, bytes), property) in properties.raw().zip(all) {
            let mut own = Vec::new();
            property.write(&mut own).expect("short");
            assert_eq!((id, bytes), (property.id(), &own[..]), "{property:?}");
        }
        assert_eq!(properties.raw().count(), all.len());
        assert_eq!((properties.message_expiry_s(), properties.topic_alias()), (Some(60), Some(7)));
        // Each is named, and no other.
        let ids: std::collections::BTreeSet<u8> = all.iter().map(Property::id).collect();
        assert_eq!(TABLE.iter().filter(|(name, _)| !name.is_empty()).count(), ids.len());
        assert!(ids.iter().all(|id| !TABLE[usize::from(*id)].0.is_empty()));
    }
}
