//! Properties survive the way from one protocol to another and back.

use isthmus_amqp091::{Amqp091Encoding, convert as amqp};
use isthmus_model::{Encoding, EncodingId, Properties, Table, Value};
use isthmus_mqtt::MqttEncoding;
use isthmus_mqtt::codec::Qos;
use isthmus_mqtt::convert::properties as mqtt;
use isthmus_mqtt::convert::stored::{Message, store};
use isthmus_stomp::StompEncoding;
use isthmus_stomp::codec::{Decoder, Limits, Rules, Version, header};
use isthmus_stomp::convert::properties as stomp;
use isthmus_stomp::convert::stored::{Draft, Drafts};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

/// Text, now and then longer than a short string of AMQP 0-9-1.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-zé0-9./*#+]{1,8}", 1 => "x{250,260}"]
}

/// Values that both protocols have; numbers of 64 bits with a sign, times in whole seconds.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (0.0..1e9f64).prop_map(Value::Double),
        (any::<u8>(), any::<u32>())
            .prop_map(|(scale, unscaled)| Value::Decimal { scale, unscaled }),
        (-1_000_000..1_000_000i64).prop_map(|s| Value::Timestamp(s * 1000)),
        text().prop_map(Value::String),
        vec(any::<u8>(), 0..9).prop_map(Value::Binary),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::List),
            vec(("[a-z]{0,4}", inner), 0..4).prop_map(|entries| Value::Map(Table(entries))),
        ]
    })
}

fn properties() -> impl Strategy<Value = Properties> {
    let texts = (of(text()), of(text()), of(text()), of(text()), of(text()), of(text()));
    let ids = (of(text()), of(text()), of(text()));
    let times = (of(0..1u64 << 40), of(-5000..1i64 << 45));
    let rest = (any::<bool>(), of(any::<u8>()), of(any::<bool>()));
    let headers = (vec(("[a-z]{1,5}", value()), 0..4), vec(("y{256,300}", value()), 0..2));
    (texts, ids, times, rest, headers).prop_map(|(texts, ids, times, rest, headers)| {
        let (reply_to, subject, content_type, content_encoding, user_id, app_id) = texts;
        Properties {
            message_id: ids.0.map(Value::String),
            correlation_id: ids.1.map(Value::String),
            reply_to,
            expiry_ms: times.0,
            durable: rest.0,
            priority: rest.1,
            subject,
            content_type,
            content_encoding,
            group_id: ids.2,
            user_id,
            app_id,
            timestamp_ms: times.1,
            body_is_text: rest.2,
            headers: Table(headers.0.into_iter().chain(headers.1).collect()),
        }
    })
}

/// The head of an MQTT message that says `properties`, as it lies in a batch.
fn mqtt_head(properties: &Properties) -> Vec<u8> {
    let told = mqtt::from_neutral(properties).expect("short texts");
    let message = Message {
        qos: if properties.durable { Qos::AtLeastOnce } else { Qos::AtMostOnce },
        retain: false,
        topic: "t",
        properties: told.as_properties(),
        payload: b"",
    };
    let batch = store(&message, "amq.topic");
    assert_eq!(batch.encoding, EncodingId::MQTT);
    batch.head(&batch.records[0]).to_vec()
}

/// The head of a STOMP message that says `properties`, as it lies in a batch.
fn stomp_head(properties: &Properties) -> Vec<u8> {
    let told = stomp::from_neutral(properties, b"body");
    let mut bytes = b"SEND\n".to_vec();
    for (name, value) in &told.headers {
        header::write(&mut bytes, Rules::V1_2, name, value);
    }
    if told.content_length {
        header::write(&mut bytes, Rules::V1_2, "content-length", "4");
    }
    bytes.extend_from_slice(b"\nbody\0");
    let mut decoder = Decoder::default();
    let next = decoder.next(&bytes, Some(Version::V1_2), &Limits::default());
    let frame = next.expect("a frame").expect("a whole one");
    let mut drafts = Drafts::default();
    drafts.push(&frame, 0, Version::V1_2, Draft::default(), None);
    let batch = drafts.seal(bytes.clone().into(), Version::V1_2);
    assert_eq!(batch.encoding, EncodingId::STOMP);
    batch.head(&batch.records[0]).to_vec()
}

/// STOMP knows text and bytes, and nothing between.
fn text_or_bytes(properties: Properties) -> Properties {
    Properties { body_is_text: properties.body_is_text.or(Some(false)), ..properties }
}

proptest! {
    #[test]
    fn amqp_to_stomp_and_back(properties in properties()) {
        let sent = amqp::from_neutral(&properties);
        let received = stomp_head(&Amqp091Encoding.properties(&sent));
        let back = amqp::from_neutral(&StompEncoding.properties(&received));
        prop_assert_eq!(Amqp091Encoding.properties(&back), text_or_bytes(properties));
    }

    #[test]
    fn stomp_to_amqp_and_back(properties in properties()) {
        let sent = stomp_head(&properties);
        let received = amqp::from_neutral(&StompEncoding.properties(&sent));
        let back = stomp_head(&Amqp091Encoding.properties(&received));
        prop_assert_eq!(StompEncoding.properties(&back), text_or_bytes(properties));
    }

    #[test]
    fn mqtt_to_stomp_and_back(properties in properties()) {
        let sent = mqtt_head(&properties);
        let received = stomp_head(&MqttEncoding.properties(&sent));
        let back = mqtt_head(&StompEncoding.properties(&received));
        prop_assert_eq!(MqttEncoding.properties(&back), text_or_bytes(properties));
    }

    #[test]
    fn amqp_to_mqtt_and_back(properties in properties()) {
        let sent = amqp::from_neutral(&properties);
        let received = mqtt_head(&Amqp091Encoding.properties(&sent));
        let back = amqp::from_neutral(&MqttEncoding.properties(&received));
        prop_assert_eq!(Amqp091Encoding.properties(&back), properties);
    }

    #[test]
    fn mqtt_to_amqp_and_back(properties in properties()) {
        let sent = mqtt_head(&properties);
        let received = amqp::from_neutral(&MqttEncoding.properties(&sent));
        let back = mqtt_head(&Amqp091Encoding.properties(&received));
        prop_assert_eq!(MqttEncoding.properties(&back), properties);
    }
}

#[test]
fn what_is_exact_in_milliseconds_stays_so() {
    let properties = Properties {
        expiry_ms: Some(1_500),
        timestamp_ms: Some(1_700_000_000_123),
        ..Properties::default()
    };
    let back = MqttEncoding.properties(&mqtt_head(&properties));
    assert_eq!(back, properties);
    assert_eq!(Amqp091Encoding.properties(&amqp::from_neutral(&back)), properties);
}
