//! The codec on generated packets, on damaged ones, and against `mqttbytes`.

#![allow(clippy::unwrap_used)] // a failed test may panic

#[path = "common/seed.rs"]
mod seed;

use bytes::{Bytes, BytesMut};
use isthmus_mqtt::codec::topic::Filter;
use isthmus_mqtt::codec::{Packet, Qos, Sender, Version, frame};
use mqttbytes::v4;
use proptest::prelude::*;
use seed::{seed, topic_name};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// Every packet of `bytes`, or the fault, as text; `None` at the end for what is not whole.
fn read_all(bytes: &[u8], version: Version, sender: Sender) -> (Vec<String>, usize) {
    let mut at = 0;
    let mut read = Vec::new();
    loop {
        match frame::next(&bytes[at..], 1000) {
            Ok(None) => return (read, at),
            Ok(Some(frame)) => {
                read.push(format!("{:?}", Packet::read(&frame, version, sender)));
                at += frame.wire_len();
            }
            Err(fault) => {
                read.push(fault.to_string());
                return (read, at);
            }
        }
    }
}

/// The version that writes a packet so that it reads the same: a CONNECT has its own.
fn version_of(packet: &Packet<'_>, version: Version) -> Version {
    match packet {
        Packet::Connect(connect) => connect.version,
        _ => version,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_written_reads_the_same(seed in seed()) {
        let (bytes, sender) = seed.bytes();
        let frame = frame::next(&bytes, frame::PACKET_BYTES_MAX).unwrap().unwrap();
        prop_assert_eq!(frame.wire_len(), bytes.len());
        let read = Packet::read(&frame, seed.version, sender).unwrap();
        seed.with_packet(|packet, _| {
            prop_assert_eq!(packet, read);
            Ok(())
        })?;
        let mut again = Vec::new();
        read.write(seed.version, &mut again).unwrap();
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn where_the_input_is_split_changes_nothing(
        seeds in prop::collection::vec(seed(), 1..4),
        cuts in prop::collection::vec(1usize..9, 1..40),
    ) {
        let version = seeds[0].version;
        let mut bytes = Vec::new();
        for mut seed in seeds {
            seed.version = version;
            bytes.extend(seed.bytes().0);
        }
        let whole = read_all(&bytes, version, Sender::Client);
        // As it arrives: the rest of what was there, and a piece more.
        let (mut arrived, mut at, mut read) = (0, 0, Vec::new());
        for cut in cuts.iter().cycle() {
            arrived = (arrived + cut).min(bytes.len());
            let (packets, len) = read_all(&bytes[at..arrived], version, Sender::Client);
            read.extend(packets);
            at += len;
            if arrived == bytes.len() || read.len() > whole.0.len() {
                break;
            }
        }
        prop_assert_eq!((read, at), whole);
    }

    #[test]
    fn damage_never_breaks_the_reader(
        seed in seed(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..4),
    ) {
        let (mut bytes, _) = seed.bytes();
        for (at, byte, how) in damage {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes[at] ^= byte,
            }
        }
        for (version, sender) in VERSIONS.into_iter().flat_map(|v| {
            [(v, Sender::Client), (v, Sender::Server)]
        }) {
            let Ok(Some(frame)) = frame::next(&bytes, 1000) else { continue };
            let Ok(packet) = Packet::read(&frame, version, sender) else { continue };
            // What is taken can be told again.
            let version = version_of(&packet, version);
            let mut written = Vec::new();
            packet.write(version, &mut written).unwrap();
            let frame = frame::next(&written, 2000).unwrap().unwrap();
            prop_assert_eq!(Packet::read(&frame, version, sender), Ok(packet));
        }
    }

    #[test]
    fn noise_never_breaks_the_reader(
        first in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..60), client: bool,
    ) {
        let sender = if client { Sender::Client } else { Sender::Server };
        let mut bytes = vec![first, body.len() as u8];
        bytes.extend(body);
        for version in VERSIONS {
            if let Ok(Some(frame)) = frame::next(&bytes, 1000) {
                let _ = format!("{:?}", Packet::read(&frame, version, sender));
            }
        }
    }

    #[test]
    fn publishes_of_3_1_1_are_those_of_mqttbytes(mut seed in seed()) {
        (seed.version, seed.kind) = (Version::V3_1_1, 0);
        let (bytes, _) = seed.bytes();
        let theirs = v4::read(&mut BytesMut::from(&bytes[..]), 10_000).unwrap();
        seed.with_publish(|packet| {
            let v4::Packet::Publish(publish) = &theirs else { panic!("{theirs:?}") };
            prop_assert_eq!(publish.dup, packet.dup);
            prop_assert_eq!(publish.qos as u8, packet.qos.bits());
            prop_assert_eq!(publish.retain, packet.retain);
            prop_assert_eq!(publish.topic.as_str(), packet.topic);
            prop_assert_eq!(publish.pkid, packet.packet_id);
            prop_assert_eq!(&publish.payload[..], packet.payload);
            let mut written = BytesMut::new();
            publish.write(&mut written).unwrap();
            prop_assert_eq!(&written[..], &bytes[..]);
            Ok(())
        })?;
    }

    #[test]
    fn publishes_of_5_0_are_those_of_mqttbytes(mut seed in seed()) {
        use isthmus_mqtt::codec::Property;
        (seed.version, seed.kind) = (Version::V5, 0);
        let (bytes, _) = seed.bytes();
        let theirs = mqttbytes::v5::read(&mut BytesMut::from(&bytes[..]), 10_000).unwrap();
        seed.with_publish(|packet| {
            let mqttbytes::v5::Packet::Publish(publish) = theirs else { panic!("{theirs:?}") };
            prop_assert_eq!(publish.topic.as_str(), packet.topic);
            prop_assert_eq!(&publish.payload[..], packet.payload);
            let Some(theirs) = publish.properties else {
                prop_assert!(packet.properties.is_empty());
                return Ok(());
            };
            let mut users = theirs.user_properties.iter();
            for property in packet.properties {
                match property {
                    Property::PayloadFormatIndicator(n) => {
                        prop_assert_eq!(theirs.payload_format_indicator, Some(n));
                    }
                    Property::MessageExpiryInterval(n) => {
                        prop_assert_eq!(theirs.message_expiry_interval, Some(n));
                    }
                    Property::ContentType(text) => {
                        prop_assert_eq!(theirs.content_type.as_deref(), Some(text));
                    }
                    Property::ResponseTopic(text) => {
                        prop_assert_eq!(theirs.response_topic.as_deref(), Some(text));
                    }
                    Property::CorrelationData(data) => {
                        prop_assert_eq!(theirs.correlation_data.as_deref(), Some(data));
                    }
                    Property::TopicAlias(n) => prop_assert_eq!(theirs.topic_alias, Some(n)),
                    Property::UserProperty(name, value) => {
                        let (n, v) = users.next().unwrap();
                        prop_assert_eq!((n.as_str(), v.as_str()), (name, value));
                    }
                    other => panic!("{other:?}"),
                }
            }
            prop_assert!(users.next().is_none());
            Ok(())
        })?;
    }

    #[test]
    fn requests_of_3_1_1_are_those_of_mqttbytes(mut seed in seed()) {
        seed.version = Version::V3_1_1;
        seed.kind = [3, 6, 7, 8, 9, 10, 12, 14, 15][usize::from(seed.packet_id) % 9];
        // It takes no password but text, and the user's name with it, and forgets empty ones.
        seed.text.push('u');
        seed.data.push(b'p');
        seed.flags[1] = seed.flags[2];
        seed.data.retain(|byte| matches!(byte, 1..0x80));
        let (bytes, _) = seed.bytes();
        let theirs = v4::read(&mut BytesMut::from(&bytes[..]), 10_000).unwrap();
        let mut written = BytesMut::new();
        match theirs {
            v4::Packet::Connect(p) => drop(p.write(&mut written).unwrap()),
            v4::Packet::PubAck(p) => drop(p.write(&mut written).unwrap()),
            v4::Packet::PubRec(p) => drop(p.write(&mut written).unwrap()),
            v4::Packet::PubRel(p) => drop(p.write(&mut written).unwrap()),
            v4::Packet::PubComp(p) => drop(p.write(&mut written).unwrap()),
            v4::Packet::Subscribe(p) => drop(p.write(&mut written).unwrap()),
            v4::Packet::Unsubscribe(p) => drop(p.write(&mut written).unwrap()),
            v4::Packet::PingReq => drop(v4::PingReq.write(&mut written).unwrap()),
            v4::Packet::PingResp => drop(v4::PingResp.write(&mut written).unwrap()),
            other => panic!("{other:?}"),
        }
        prop_assert_eq!(&written[..], &bytes[..]);
    }

    #[test]
    fn filters_match_as_mqttbytes_matches_them(
        name in "[ab$]{1,2}(/[ab]{0,2}){0,3}",
        filter in prop_oneof![
            "[ab+]/[+]/#", "[ab]{1,2}(/([ab]{0,2}|[+])){0,3}(/#)?", Just("#".to_owned()),
        ],
    ) {
        let matches = Filter::parse(&filter).unwrap().matches(&name);
        // It knows the rule for `$` only as the first character of the name.
        prop_assert_eq!(matches, mqttbytes::matches(&name, &filter), "{} {}", filter, name);
    }

    #[test]
    fn a_whole_packet_of_any_topic_is_one_frame(topic in topic_name(), len in 0usize..40_000) {
        let payload = Bytes::from(vec![1; len]);
        let publish = v4::Publish::from_bytes(&topic, mqttbytes::QoS::AtMostOnce, payload);
        let mut bytes = BytesMut::new();
        publish.write(&mut bytes).unwrap();
        let frame = frame::next(&bytes, frame::PACKET_BYTES_MAX).unwrap().unwrap();
        let Packet::Publish(read) =
            Packet::read(&frame, Version::V3_1_1, Sender::Client).unwrap() else { panic!() };
        prop_assert_eq!((read.topic, read.payload.len()), (&topic[..], len));
        prop_assert_eq!(read.qos, Qos::AtMostOnce);
    }
}
