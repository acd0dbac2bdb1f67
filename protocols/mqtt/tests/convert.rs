//! MQTT messages as they are stored, delivered, and told to other protocols.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;
#[path = "common/seed.rs"]
mod seed;

use bytes::Bytes;
use common::{p, props, read, s};
use isthmus_contract::Outbox;
use isthmus_model::{
    Batch, Encoding, EncodingId, NO_TTL, Properties as Neutral, RecordFlags, Span, Table, Value,
};
use isthmus_mqtt::MqttEncoding;
use isthmus_mqtt::codec::publish::{Outgoing, TopicName};
use isthmus_mqtt::codec::topic::{Filter, check_filter};
use isthmus_mqtt::codec::{
    Packet, Properties, PropertiesBuf, Property, Publish, Qos, Sender, Version, Will, frame,
};
use isthmus_mqtt::convert::properties::{from_neutral, to_neutral};
use isthmus_mqtt::convert::stored::{Draft, Head, Message, seal, store};
use isthmus_mqtt::convert::topic::{is_topic_name, swap, swapped_text};
use proptest::prelude::*;
use seed::{Seed, seed};

const EXCHANGE: &str = "amq.topic";

/// Reads the publishes of `bytes` where they lie, into one batch.
fn batch(bytes: &[u8], version: Version) -> Batch {
    let (mut at, mut drafts) = (0, Vec::new());
    while let Some(frame) = frame::next(&bytes[at..], frame::PACKET_BYTES_MAX).unwrap() {
        let publish = Publish::read(&frame, version, Sender::Client).unwrap();
        drafts.push(Draft::new(&publish, &frame, at));
        at += frame.wire_len();
    }
    assert_eq!(at, bytes.len());
    seal(Bytes::copy_from_slice(bytes), EXCHANGE, drafts)
}

/// Whether an AMQP 0-9-1 topic exchange takes `key` for `binding`, word by word.
fn amqp_matches(binding: &[&str], key: &[&str]) -> bool {
    match (binding.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => {
            amqp_matches(rest, key) || !key.is_empty() && amqp_matches(binding, &key[1..])
        }
        (Some((&word, rest)), Some((&first, key))) => {
            (word == "*" || word == first) && amqp_matches(rest, key)
        }
        _ => false,
    }
}

#[test]
fn topics_and_routing_keys_change_separators() {
    for (topic, key) in [
        ("x.y/z", "x/y.z"),
        ("a/b/c", "a.b.c"),
        ("/", "."),
        ("a/*", "a.+"),
        ("é.+/#", "é/*.#"),
        ("", ""),
    ] {
        assert_eq!(swapped_text(topic), key);
        assert_eq!(swapped_text(key), topic);
    }
    for (key, is_topic) in [("a.b", true), ("a.+", true), ("a.*", false), ("#", false), ("", false)]
    {
        assert_eq!(is_topic_name(key), is_topic, "{key}");
    }
    assert!(!is_topic_name("a\0") && !is_topic_name(&"k".repeat(65_536)));
}

proptest! {
    #[test]
    fn swapping_twice_changes_nothing(text in "[a.*+#/é$ ]{0,20}") {
        let mut bytes = text.clone().into_bytes();
        swap(&mut bytes);
        let swapped = swapped_text(&text);
        prop_assert_eq!(&bytes[..], swapped.as_bytes());
        swap(&mut bytes);
        prop_assert_eq!(bytes, text.into_bytes());
    }

    #[test]
    fn a_filter_matches_what_its_binding_matches(
        name in "[ab*.]{1,2}(/[ab*.]{0,2}){0,3}",
        filter in "([ab*.]{0,2}|[+])(/([ab*.]{0,2}|[+])){0,3}(/#)?",
    ) {
        prop_assume!(check_filter(&filter).is_ok());
        let (key, binding) = (swapped_text(&name), swapped_text(&filter));
        let words = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        let (key, binding) = (words(&key), words(&binding));
        let [key, binding] =
            [&key, &binding].map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        let matches = Filter::parse(&filter).unwrap().matches(&name);
        prop_assert_eq!(matches, amqp_matches(&binding, &key), "{} {}", filter, name);
    }

    #[test]
    fn a_sealed_batch_says_what_its_publishes_said(
        mut seeds in prop::collection::vec(seed(), 1..5), v5: bool,
    ) {
        let version = if v5 { Version::V5 } else { Version::V3_1_1 };
        let mut bytes = Vec::new();
        for seed in &mut seeds {
            (seed.version, seed.kind) = (version, 0);
            bytes.extend(seed.bytes().0);
        }
        let sealed = batch(&bytes, version);
        prop_assert_eq!(sealed.encoding, EncodingId::MQTT);
        for (i, (seed, record)) in seeds.iter().zip(&sealed.records).enumerate() {
            seed.with_publish(|publish| {
                let key = swapped_text(publish.topic);
                prop_assert_eq!(sealed.exchange(record), EXCHANGE);
                prop_assert_eq!(sealed.routing_key(record), key.as_str());
                prop_assert_eq!(sealed.body(record), publish.payload);
                let Publish { qos, retain, properties, .. } = publish;
                let head = Head { qos, retain, properties };
                prop_assert_eq!(Head::read(sealed.head(record)), Some(head));
                prop_assert_eq!(record.flags.has(RecordFlags::DURABLE), seed.qos > 0);
                prop_assert_eq!(record.priority, 0);
                // A copy of it alone says the same, and so does one that was put together.
                let message = Message::published(&publish, publish.topic);
                for other in [&sealed.compacted(i as u32, 1), &*store(&message, EXCHANGE)] {
                    let copied = &other.records[0];
                    prop_assert_eq!(other.routing_key(copied), key.as_str());
                    prop_assert_eq!(Head::read(other.head(copied)), Some(head));
                    prop_assert_eq!(other.body(copied), publish.payload);
                    prop_assert_eq!(copied.ttl_ms, record.ttl_ms);
                    prop_assert_eq!(copied.flags, record.flags);
                }
                Ok(())
            })?;
        }
    }

    #[test]
    fn what_is_delivered_is_what_was_published(
        seed in seed(), expiry_left_s in prop::option::of(any::<u32>()),
        ids in prop::collection::vec(1u32..268_435_456, 0..3), max in 0u32..300,
    ) {
        let seed = Seed { version: Version::V5, kind: 0, ..seed };
        let batch = batch(&seed.bytes().0, Version::V5);
        let record = &batch.records[0];
        let head = Head::read(batch.head(record)).unwrap();
        let outgoing = Outgoing {
            version: Version::V5,
            dup: seed.flags[0],
            qos: head.qos,
            retain: head.retain,
            topic: TopicName::RoutingKey(batch.routing_key(record).as_bytes()),
            packet_id: 7,
            expiry_left_s,
            subscription_ids: &ids,
            properties: head.properties,
            chunk: &batch.chunk,
            payload: record.body,
        };
        let mut out = Outbox::new();
        prop_assert!(outgoing.write(&mut out, frame::PACKET_BYTES_MAX));
        let bytes = out.to_vec();
        let Packet::Publish(read) = read(&bytes, Version::V5, Sender::Server).unwrap() else {
            panic!()
        };
        // Order and duplicates of what goes on; the alias stays behind.
        let expected = expiry_left_s.map(Property::MessageExpiryInterval).into_iter()
            .chain(head.properties.iter().filter(|p| match p {
                Property::TopicAlias(_) => false,
                Property::MessageExpiryInterval(_) => expiry_left_s.is_none(),
                _ => true,
            }))
            .chain(ids.iter().map(|id| Property::SubscriptionIdentifier(*id)));
        prop_assert_eq!(read.properties.iter().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        prop_assert_eq!((read.topic, read.payload), (&seed.topic[..], &seed.data[..]));
        prop_assert_eq!(read.packet_id, if seed.qos > 0 { 7 } else { 0 });
        prop_assert_eq!(read.dup, seed.flags[0] && seed.qos > 0);
        prop_assert_eq!((read.qos, read.retain), (head.qos, head.retain));
        // And not at all to whom it is too large for.
        let mut limited = Outbox::new();
        let fits = bytes.len() <= max as usize;
        prop_assert_eq!(outgoing.write(&mut limited, max), fits);
        prop_assert_eq!(limited.is_empty(), !fits);
        // 3.1.1 gets topic and payload.
        let mut old = Outbox::new();
        let old_outgoing = Outgoing { version: Version::V3_1_1, ..outgoing };
        prop_assert!(old_outgoing.write(&mut old, frame::PACKET_BYTES_MAX));
        let bytes = old.to_vec();
        let packet = common::read(&bytes, Version::V3_1_1, Sender::Server).unwrap();
        let Packet::Publish(read) = packet else { panic!() };
        prop_assert_eq!((read.topic, read.payload), (&seed.topic[..], &seed.data[..]));
    }

    #[test]
    fn neutral_properties_come_back_as_they_went(expected in neutral()) {
        let properties = from_neutral(&expected).unwrap();
        let message = Message {
            qos: if expected.durable { Qos::AtLeastOnce } else { Qos::AtMostOnce },
            retain: false,
            topic: "t",
            properties: properties.as_properties(),
            payload: b"",
        };
        // A receiver takes them, too.
        let publish = Publish {
            dup: false, qos: message.qos, retain: false, topic: "t", packet_id: 1,
            properties: message.properties, payload: b"",
        };
        let mut bytes = Vec::new();
        publish.write(Version::V5, &mut bytes).unwrap();
        prop_assert!(read(&bytes, Version::V5, Sender::Server).is_ok());
        let batch = store(&message, EXCHANGE);
        prop_assert_eq!(to_neutral(batch.head(&batch.records[0])), Some(expected));
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::Uint),
        any::<f32>().prop_filter("not a number", |x| !x.is_nan()).prop_map(Value::Float),
        any::<f64>().prop_filter("not a number", |x| !x.is_nan()).prop_map(Value::Double),
        (any::<u8>(), any::<u32>())
            .prop_map(|(scale, unscaled)| Value::Decimal { scale, unscaled }),
        any::<i64>().prop_map(Value::Timestamp),
        "[^\0]{0,9}".prop_map(Value::String),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::Binary),
    ]
}

fn neutral() -> impl Strategy<Value = Neutral> {
    let text = || prop::option::of("[^\0]{1,9}");
    let id = || {
        let binary = (128u8..).prop_map(|byte| Value::Binary(vec![byte, b'x']));
        prop::option::of(prop_oneof!["[^\0]{0,9}".prop_map(Value::String), binary])
    };
    let value = scalar().prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::vec(("[^\0]{0,3}", inner), 0..4)
                .prop_map(|entries| Value::Map(Table(entries))),
        ]
    });
    let headers = prop::collection::vec(("[a-z]{1,3}", value), 0..5).prop_map(Table);
    (
        (prop::option::of(scalar()), id(), text(), prop::option::of(0u64..4_000_000_000_000)),
        (any::<bool>(), any::<Option<u8>>(), text(), text(), text()),
        (text(), text(), text(), any::<Option<i64>>(), any::<Option<bool>>(), headers),
    )
        .prop_map(|(a, b, c)| Neutral {
            message_id: a.0,
            correlation_id: a.1,
            reply_to: a.2,
            expiry_ms: a.3,
            durable: b.0,
            priority: b.1,
            subject: b.2,
            content_type: b.3,
            content_encoding: b.4,
            group_id: c.0,
            user_id: c.1,
            app_id: c.2,
            timestamp_ms: c.3,
            body_is_text: c.4,
            headers: c.5,
        })
}

/// `levels` lists within each other.
fn nested(levels: usize) -> Value {
    (1..levels).fold(Value::List(Vec::new()), |inner, _| Value::List(vec![inner]))
}

#[test]
fn nesting_ends_at_its_limit_and_never_at_the_stacks() {
    for (levels, is_told) in [(17, true), (18, false), (2_000, false)] {
        let headers = Table(vec![("l".to_owned(), nested(levels))]);
        let neutral = Neutral { headers, ..Neutral::default() };
        let properties = from_neutral(&neutral).unwrap();
        assert_eq!(!properties.as_properties().is_empty(), is_told, "{levels}");
    }
    // What somebody else has written so is text, however deep it seems to be.
    let mut text = String::new();
    for _ in 0..5_000 {
        text = format!("list:{}:{text}", text.len());
    }
    let mut properties = PropertiesBuf::new();
    properties.push(Property::UserProperty("isthmus-type-of:l", "list")).unwrap();
    properties.push(Property::UserProperty("l", &text)).unwrap();
    let properties = properties.as_properties();
    let message =
        Message { qos: Qos::AtMostOnce, retain: false, topic: "t", properties, payload: b"" };
    let batch = store(&message, EXCHANGE);
    let headers = MqttEncoding.headers(batch.head(&batch.records[0]));
    assert_eq!(headers.0, [("l".to_owned(), Value::String(text))]);
}

#[test]
fn what_mqtt_cannot_write_is_replaced() {
    let header = ("n\0".to_owned(), Value::String("v\0".to_owned()));
    let neutral = Neutral {
        content_type: Some("a\0b".to_owned()),
        reply_to: Some("no.topic.#".to_owned()),
        headers: Table(vec![header]),
        ..Neutral::default()
    };
    let properties = from_neutral(&neutral).unwrap();
    let expected = [
        Property::ContentType("a\u{FFFD}b"),
        Property::UserProperty("isthmus-reply-to", "no.topic.#"),
        Property::UserProperty("n\u{FFFD}", "v\u{FFFD}"),
    ];
    assert_eq!(properties.as_properties().iter().collect::<Vec<_>>(), expected);
    let long = Neutral { content_type: Some("x".repeat(65_536)), ..Neutral::default() };
    assert!(from_neutral(&long).is_err());
}

#[test]
fn properties_are_read_by_their_names_in_amqp() {
    let list = [
        &[0x02, 0, 0, 0, 60, 0x03][..],
        &s("text/plain"),
        &[0x08],
        &s("answers/here"),
        &[0x09],
        &s("42"),
        &[0x26],
        &s("tenant"),
        &s("blue"),
        &[0x26],
        &s("isthmus-message-id"),
        &s("m-1"),
        &[0x26],
        &s("isthmus-timestamp"),
        &s("5000"),
        &[0x26],
        &s("tenant"),
        &s("red"),
    ]
    .concat();
    let bytes = p(0x32, &[&s("t"), &[0, 9], &props(&[&list]), b"body"]);
    let batch = batch(&bytes, Version::V5);
    let head = batch.head(&batch.records[0]);
    for (name, expected) in [
        ("content_type", Some("text/plain")),
        ("correlation_id", Some("42")),
        ("reply_to", Some("answers.here")),
        ("expiration", Some("60000")),
        ("delivery_mode", Some("2")),
        ("message_id", Some("m-1")),
        ("timestamp", Some("5")),
        ("app_id", None),
        ("no such property", None),
    ] {
        assert_eq!(MqttEncoding.property(head, name).as_deref(), expected, "{name}");
    }
    let text = |text: &str| Value::String(text.to_owned());
    let headers = [("tenant".to_owned(), text("blue")), ("tenant".to_owned(), text("red"))];
    assert_eq!(MqttEncoding.headers(head).0, headers);
    assert!(MqttEncoding.more_routing_keys(head).is_empty());
    assert_eq!(batch.records[0].ttl_ms, 60_000);
    assert_eq!(MqttEncoding.property(&[], "content_type"), None);
    assert!(MqttEncoding.headers(&[0xFF]).is_empty());
}

#[test]
fn an_expiry_beyond_what_is_counted_never_ends() {
    for (s, ttl_ms) in [(0u32, 0), (4_294_967, 4_294_967_000), (4_294_968, NO_TTL), (!0, NO_TTL)] {
        let list = [&[0x02][..], &s.to_be_bytes()].concat();
        let bytes = p(0x30, &[&common::s("t"), &props(&[&list])]);
        assert_eq!(batch(&bytes, Version::V5).records[0].ttl_ms, ttl_ms);
    }
}

#[test]
fn a_will_is_stored_without_what_only_wills_have() {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::ContentType("a")).unwrap();
    properties.push(Property::WillDelayInterval(9)).unwrap();
    properties.push(Property::UserProperty("a", "b")).unwrap();
    let will = Will {
        qos: Qos::ExactlyOnce,
        retain: true,
        properties: properties.as_properties(),
        topic: "gone/x.y",
        payload: b"bye",
    };
    let batch = store(&Message::of_will(&will), EXCHANGE);
    let record = &batch.records[0];
    let head = Head::read(batch.head(record)).unwrap();
    let kept = [Property::ContentType("a"), Property::UserProperty("a", "b")];
    assert_eq!(head.properties.iter().collect::<Vec<_>>(), kept);
    assert_eq!((head.qos, head.retain), (Qos::ExactlyOnce, true));
    assert_eq!((batch.routing_key(record), batch.body(record)), ("gone.x/y", &b"bye"[..]));
}

#[test]
fn large_payloads_are_referred_to_where_they_lie() {
    let chunk = Bytes::from(vec![7; 20_000]);
    for len in [4_095, 4_096, 16_000] {
        let outgoing = Outgoing {
            version: Version::V3_1_1,
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic: TopicName::Name(b"t"),
            packet_id: 0,
            expiry_left_s: None,
            subscription_ids: &[],
            properties: Properties::NONE,
            chunk: &chunk,
            payload: Span::new(0, len),
        };
        let mut out = Outbox::new();
        assert!(outgoing.write(&mut out, 30_000));
        assert_eq!(out.buf().len(), if len < 4_096 { len + 6 } else { 6 });
        let bytes = out.to_vec();
        let Packet::Publish(read) = read(&bytes, Version::V3_1_1, Sender::Server).unwrap() else {
            panic!()
        };
        assert_eq!(read.payload.len(), len);
    }
}

#[test]
fn a_topic_that_is_too_long_is_not_delivered() {
    let key = vec![b'k'; 65_536];
    let chunk = Bytes::new();
    let outgoing = Outgoing {
        version: Version::V5,
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic: TopicName::RoutingKey(&key),
        packet_id: 0,
        expiry_left_s: None,
        subscription_ids: &[],
        properties: Properties::NONE,
        chunk: &chunk,
        payload: Span::default(),
    };
    assert!(!outgoing.write(&mut Outbox::new(), frame::PACKET_BYTES_MAX));
}
