//! Packets of every kind from generated seeds.

#![allow(clippy::unwrap_used)] // a failed test may panic
#![allow(dead_code, unreachable_pub)] // each test uses its part

use isthmus_mqtt::ReasonCode;
use isthmus_mqtt::codec::{
    Ack, AckKind, Auth, ConnAck, Connect, Disconnect, FiltersBuf, Packet, PropertiesBuf, Property,
    Publish, Qos, RetainHandling, Sender, SubAck, Subscribe, Subscription, SubscriptionsBuf,
    UnsubAck, Unsubscribe, Version, Will,
};
use proptest::prelude::*;

/// What a packet is made of; each kind takes what it has.
#[derive(Clone, Debug)]
pub struct Seed {
    pub kind: u8,
    pub version: Version,
    pub flags: [bool; 5],
    pub qos: u8,
    pub packet_id: u16,
    pub reason: prop::sample::Index,
    pub topic: String,
    pub text: String,
    pub data: Vec<u8>,
    pub properties: Vec<PropertySeed>,
    pub filters: Vec<(String, u8)>,
}

pub type PropertySeed = (prop::sample::Index, u32, String, Vec<u8>);

fn text() -> impl Strategy<Value = String> {
    ".{0,12}".prop_map(|text| text.replace('\0', "0"))
}

pub fn topic_name() -> impl Strategy<Value = String> {
    "[a-c/.*é$]{1,10}"
}

fn filter() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c+]/[+]/#", "[a-c]{1,3}(/[a-c*.]{0,2}){0,3}", Just("#".to_owned())]
}

pub fn seed() -> impl Strategy<Value = Seed> {
    let version = prop::sample::select(vec![Version::V3_1, Version::V3_1_1, Version::V5]);
    let data = prop::collection::vec(any::<u8>(), 0..200);
    let property = (
        any::<prop::sample::Index>(),
        any::<u32>(),
        text(),
        prop::collection::vec(any::<u8>(), 0..9),
    );
    let head = (0u8..18, version, any::<[bool; 5]>(), 0u8..3, 1u16.., any::<prop::sample::Index>());
    let filters = prop::collection::vec((filter(), any::<u8>()), 1..5);
    let body = (topic_name(), text(), data, prop::collection::vec(property, 0..8), filters);
    (head, body).prop_map(|(head, (topic, text, data, properties, filters))| {
        let (kind, version, flags, qos, packet_id, reason) = head;
        Seed {
            kind,
            version,
            flags,
            qos,
            packet_id,
            reason,
            topic,
            text,
            data,
            properties,
            filters,
        }
    })
}

const PUBLISH_IDS: &[u8] = &[0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26];
const CONNECT_IDS: &[u8] = &[0x11, 0x15, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27];
const CONNACK_IDS: &[u8] = &[
    0x11, 0x12, 0x13, 0x15, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A,
];
const ACK_IDS: &[u8] = &[0x1F, 0x26];

/// Properties of `ids` from seeds; none twice but user properties.
fn properties(version: Version, seeds: &[PropertySeed], ids: &[u8]) -> PropertiesBuf {
    let mut out = PropertiesBuf::new();
    let mut seen = Vec::new();
    for (id, n, text, data) in seeds.iter().filter(|_| version == Version::V5) {
        let id = *id.get(ids);
        if id != 0x26 && seen.contains(&id) {
            continue;
        }
        seen.push(id);
        let (bit, short, one) = ((n & 1) as u8, *n as u16, *n as u16 | 1);
        let property = match id {
            0x01 => Property::PayloadFormatIndicator(bit),
            0x02 => Property::MessageExpiryInterval(*n),
            0x03 => Property::ContentType(text),
            0x08 => Property::ResponseTopic("answers/x"),
            0x09 => Property::CorrelationData(data),
            0x0B => Property::SubscriptionIdentifier(n % 268_435_455 + 1),
            0x11 => Property::SessionExpiryInterval(*n),
            0x12 => Property::AssignedClientIdentifier(text),
            0x13 => Property::ServerKeepAlive(short),
            0x15 => Property::AuthenticationMethod(text),
            0x17 => Property::RequestProblemInformation(bit),
            0x18 => Property::WillDelayInterval(*n),
            0x19 => Property::RequestResponseInformation(bit),
            0x1A => Property::ResponseInformation(text),
            0x1C => Property::ServerReference(text),
            0x1F => Property::ReasonString(text),
            0x21 => Property::ReceiveMaximum(one),
            0x22 => Property::TopicAliasMaximum(short),
            0x23 => Property::TopicAlias(one),
            0x24 => Property::MaximumQos(bit),
            0x25 => Property::RetainAvailable(bit),
            0x26 => Property::UserProperty(text, "value"),
            0x27 => Property::MaximumPacketSize(*n | 1),
            0x28 => Property::WildcardSubscriptionAvailable(bit),
            0x29 => Property::SubscriptionIdentifierAvailable(bit),
            _ => Property::SharedSubscriptionAvailable(bit),
        };
        out.push(property).unwrap();
    }
    out
}

impl Seed {
    fn reason(&self, codes: &[u8]) -> ReasonCode {
        ReasonCode(if self.version == Version::V5 { *self.reason.get(codes) } else { 0 })
    }

    fn properties(&self, ids: &[u8]) -> PropertiesBuf {
        properties(self.version, &self.properties, ids)
    }

    /// Calls `test` with the packet and who sends it.
    pub fn with_packet<T>(&self, test: impl FnOnce(Packet<'_>, Sender) -> T) -> T {
        let (v5, id) = (self.version == Version::V5, self.packet_id);
        let [a, b, c, d, client] = self.flags;
        let side = if client { Sender::Client } else { Sender::Server };
        let acks = self.properties(ACK_IDS);
        let properties = acks.as_properties();
        let ack = |kind, codes: &[u8]| {
            Packet::Ack(kind, Ack { packet_id: id, reason: self.reason(codes), properties })
        };
        match self.kind {
            0..=2 => self.with_publish(|packet| test(Packet::Publish(packet), side)),
            3 | 4 => self.with_connect(|packet| test(Packet::Connect(packet), Sender::Client)),
            5 => {
                let properties = self.properties(CONNACK_IDS);
                let reason = if v5 { self.reason(&[0, 0x80, 0x9F]) } else { self.connect_code() };
                let session_present =
                    a && reason == ReasonCode::SUCCESS && self.version != Version::V3_1;
                let properties = properties.as_properties();
                test(
                    Packet::ConnAck(ConnAck { session_present, reason, properties }),
                    Sender::Server,
                )
            }
            6 => test(ack(AckKind::PubAck, &[0, 0x10, 0x97]), side),
            7 => test(ack(AckKind::PubRec, &[0, 0x91]), side),
            8 => test(ack(AckKind::PubRel, &[0, 0x92]), side),
            9 => test(ack(AckKind::PubComp, &[0, 0x92]), side),
            10 => {
                let properties = self.properties(&[0x0B, 0x26]);
                let mut list = SubscriptionsBuf::default();
                for (filter, n) in &self.filters {
                    list.push(&Subscription {
                        filter,
                        qos: Qos::from_bits(n % 3).unwrap(),
                        no_local: v5 && b,
                        retain_as_published: v5 && c,
                        retain_handling: match n >> 4 & 1 {
                            1 if v5 && d => RetainHandling::SendIfNew,
                            1 if v5 => RetainHandling::DoNotSend,
                            _ => RetainHandling::Send,
                        },
                    })
                    .unwrap();
                }
                let packet = Subscribe {
                    packet_id: id,
                    properties: properties.as_properties(),
                    subscriptions: list.as_subscriptions(),
                };
                test(Packet::Subscribe(packet), Sender::Client)
            }
            11 => {
                let reasons = if v5 { &[0u8, 1, 2, 0xA2][..] } else { &[0, 1, 2, 0x80] };
                test(Packet::SubAck(SubAck { packet_id: id, properties, reasons }), Sender::Server)
            }
            12 => {
                let properties = self.properties(&[0x26]);
                let mut list = FiltersBuf::default();
                self.filters.iter().for_each(|(filter, _)| list.push(filter).unwrap());
                let packet = Unsubscribe {
                    packet_id: id,
                    properties: properties.as_properties(),
                    filters: list.as_filters(),
                };
                test(Packet::Unsubscribe(packet), Sender::Client)
            }
            13 => {
                let reasons = if v5 { &[0u8, 0x11, 0x87][..] } else { &[] };
                let packet = UnsubAck { packet_id: id, properties, reasons };
                test(Packet::UnsubAck(packet), Sender::Server)
            }
            14 => test(Packet::PingReq, Sender::Client),
            15 => test(Packet::PingResp, Sender::Server),
            16 => {
                let ids: &[u8] =
                    if client { &[0x11, 0x1C, 0x1F, 0x26] } else { &[0x1C, 0x1F, 0x26] };
                let properties = self.properties(ids);
                let codes: &[u8] = if client { &[0, 4, 0x81] } else { &[0x80, 0x8B] };
                let (reason, properties) = (self.reason(codes), properties.as_properties());
                let sender = if v5 { side } else { Sender::Client };
                test(Packet::Disconnect(Disconnect { reason, properties }), sender)
            }
            _ => self.with_auth(side, test),
        }
    }

    fn with_auth<T>(&self, side: Sender, test: impl FnOnce(Packet<'_>, Sender) -> T) -> T {
        // Only 5.0 has it.
        if self.version != Version::V5 {
            return test(Packet::PingReq, Sender::Client);
        }
        let mut properties = self.properties(ACK_IDS);
        properties.push(Property::AuthenticationMethod(&self.text)).unwrap();
        properties.push(Property::AuthenticationData(&self.data)).unwrap();
        let properties = properties.as_properties();
        test(Packet::Auth(Auth { reason: ReasonCode(0x18), properties }), side)
    }

    fn connect_code(&self) -> ReasonCode {
        *self.reason.get(&[ReasonCode::SUCCESS, ReasonCode::NOT_AUTHORIZED])
    }

    pub fn with_publish<T>(&self, test: impl FnOnce(Publish<'_>) -> T) -> T {
        let properties = self.properties(PUBLISH_IDS);
        let qos = Qos::from_bits(self.qos).unwrap();
        test(Publish {
            dup: self.flags[0] && self.qos > 0,
            qos,
            retain: self.flags[1],
            topic: &self.topic,
            packet_id: if self.qos > 0 { self.packet_id } else { 0 },
            properties: properties.as_properties(),
            payload: &self.data,
        })
    }

    pub fn with_connect<T>(&self, test: impl FnOnce(Connect<'_>) -> T) -> T {
        let [clean, user, password, will, retain] = self.flags;
        let properties = self.properties(CONNECT_IDS);
        let will_properties = self.properties(&[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26]);
        let will = will.then(|| Will {
            qos: Qos::from_bits(self.qos).unwrap(),
            retain,
            properties: will_properties.as_properties(),
            topic: &self.topic,
            payload: &self.data,
        });
        test(Connect {
            version: self.version,
            clean_start: clean,
            keep_alive_s: self.packet_id,
            properties: properties.as_properties(),
            client_id: &self.topic,
            will,
            user_name: user.then_some(&self.text),
            password: (password && (user || self.version == Version::V5)).then_some(&self.data),
        })
    }

    /// The packet's bytes.
    pub fn bytes(&self) -> (Vec<u8>, Sender) {
        self.with_packet(|packet, sender| {
            let mut bytes = Vec::new();
            packet.write(self.version, &mut bytes).unwrap();
            (bytes, sender)
        })
    }
}
