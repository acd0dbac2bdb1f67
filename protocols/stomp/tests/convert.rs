//! Messages as they are stored, and what their headers mean to other protocols.

#![allow(clippy::unwrap_used)] // a failed test may panic

use bytes::Bytes;
use isthmus_model::{Batch, Encoding, EncodingId, NO_TTL, Properties, RecordFlags, Table, Value};
use isthmus_stomp::StompEncoding;
use isthmus_stomp::codec::{Command, Decoder, Limits, Rules, Version, header};
use isthmus_stomp::convert::properties::{from_neutral, to_neutral};
use isthmus_stomp::convert::stored::{Draft, Drafts, place_of, read_head};
use proptest::prelude::*;

/// The batch that the SENDs in `bytes` become, each to the exchange `x` with its destination as
/// the key.
fn stored(bytes: &[u8], version: Version) -> Batch {
    let (mut at, mut drafts) = (0, Drafts::default());
    while at < bytes.len() {
        let mut decoder = Decoder::default();
        let next = decoder.next(&bytes[at..], Some(version), &Limits::default()).unwrap();
        let frame = next.unwrap();
        let key = frame.headers.get("destination").unwrap_or_default();
        let place = place_of(frame.headers, &key);
        let draft = Draft {
            exchange: "x",
            routing_key: &key,
            ttl_ms: NO_TTL,
            flags: RecordFlags::DURABLE,
            ..Draft::default()
        };
        drafts.push(&frame, at, version, draft, place);
        at += frame.wire_len;
    }
    drafts.seal(Bytes::copy_from_slice(bytes), version)
}

fn head_of(lines: &str, version: Version) -> Vec<u8> {
    let batch = stored(format!("SEND\n{lines}\n\0").as_bytes(), version);
    assert_eq!(batch.encoding, EncodingId::STOMP);
    batch.head(&batch.records[0]).to_vec()
}

#[test]
fn a_message_lies_where_it_came() {
    let bytes =
        b"SEND\ndestination:k1\na:b\n\none\0SEND\r\ndestination:k\\c2\r\n\r\ntwo\0SEND\n\n\0";
    let batch = stored(bytes, Version::V1_2);
    let told: Vec<(&str, &str, &[u8])> = batch
        .records
        .iter()
        .map(|r| (batch.exchange(r), batch.routing_key(r), batch.body(r)))
        .collect();
    assert_eq!(told, [("x", "k1", &b"one"[..]), ("x", "k:2", b"two"), ("x", "", b"")]);
    let head = read_head(batch.head(&batch.records[0])).unwrap();
    assert_eq!((head.rules(), head.get("a").as_deref()), (Rules::V1_2, Some("b")));
    assert_eq!(read_head(batch.head(&batch.records[2])).unwrap().raw().count(), 0);
    // What is left of a batch is as good as the whole.
    let kept = batch.compacted(1, 1);
    assert_eq!(kept.routing_key(&kept.records[0]), "k:2");
    assert_eq!(read_head(b""), None);
    assert_eq!(read_head(b"\x09a:b\n"), None);
}

#[test]
fn headers_are_properties_to_others() {
    let head = head_of(
        "destination:/queue/a\nreceipt:r\ncontent-length:0\npersistent:true\npriority:7\n\
         correlation-id:c\nreply-to:/reply-queue/answers\nexpiration:500\namqp-message-id:m\n\
         message-id:of-a-delivery\ntype:t\ncontent-type:text/plain\nJMSXGroupID:g\n\
         user-id:u\napp-id:p\ntimestamp:1700000000000\nown:1\nown:2\nisthmus-header-type:h\n",
        Version::V1_1,
    );
    let text = |text: &str| Some(text.to_owned());
    let header = |name: &str, value: &str| (name.to_owned(), Value::String(value.to_owned()));
    let expected = Properties {
        message_id: Some(Value::String("m".to_owned())),
        correlation_id: Some(Value::String("c".to_owned())),
        reply_to: text("answers"),
        expiry_ms: Some(500),
        durable: true,
        priority: Some(7),
        subject: text("t"),
        content_type: text("text/plain"),
        content_encoding: None,
        group_id: text("g"),
        user_id: text("u"),
        app_id: text("p"),
        timestamp_ms: Some(1_700_000_000_000),
        body_is_text: Some(false),
        headers: Table(vec![header("own", "1"), header("own", "2"), header("type", "h")]),
    };
    assert_eq!(to_neutral(&head), Some(expected));
    let property = |name| StompEncoding.property(&head, name);
    assert_eq!(property("message_id").as_deref(), Some("m"));
    assert_eq!(property("reply_to").as_deref(), Some("answers"));
    assert_eq!(property("delivery_mode").as_deref(), Some("2"));
    assert_eq!(property("timestamp").as_deref(), Some("1700000000"));
    assert_eq!(property("cluster_id"), None);
}

#[test]
fn a_body_of_no_told_length_is_text() {
    let is_text = |lines| to_neutral(&head_of(lines, Version::V1_2)).unwrap().body_is_text;
    assert_eq!(is_text("a:b\n"), Some(true));
    assert_eq!(is_text("content-length:0\n"), Some(false));
    assert_eq!(is_text("content-length:0\nisthmus-body-is-text:true\n"), Some(true));
}

#[test]
fn a_delay_is_a_number_to_exchanges() {
    for name in ["AMQ_SCHEDULED_DELAY", "x-delay"] {
        let headers = StompEncoding.headers(&head_of(&format!("{name}:1500\n"), Version::V1_2));
        assert_eq!(headers.get("x-delay"), Some(&Value::Int(1500)), "{name}");
    }
    let headers = StompEncoding.headers(&head_of("x-delay:soon\n", Version::V1_2));
    assert_eq!(headers.get("x-delay"), Some(&Value::String("soon".to_owned())));
}

#[test]
fn what_would_end_a_line_or_a_frame_does_not() {
    let written = |rules, name, value| {
        let mut out = Vec::new();
        header::write(&mut out, rules, name, value);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(written(Rules::V1_2, "a\0:", "b\0\r\n\\"), "a\u{FFFD}\\c:b\u{FFFD}\\r\\n\\\\\n");
    assert_eq!(written(Rules::V1_1, "a", "b\r\nc"), "a:b \\nc\n");
    assert_eq!(written(Rules::V1_0, "a", "b:\r\n\\c"), "a:b:  \\c\n");
    assert_eq!(written(Rules::V1_0, "a:b", "c"), "", "there is no way to write it");
}

#[test]
fn timestamps_of_both_families_are_understood() {
    let ms = |text: &str| {
        to_neutral(&head_of(&format!("timestamp:{text}\n"), Version::V1_2)).unwrap().timestamp_ms
    };
    assert_eq!(ms("1700000000"), Some(1_700_000_000_000), "seconds");
    assert_eq!(ms("1700000000123"), Some(1_700_000_000_123), "milliseconds");
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zä:\\\\\n\r %/]{0,12}", "[0-9]{1,3}"]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::Uint),
        (-1e9f64..1e9).prop_map(Value::Double),
        any::<i64>().prop_map(Value::Timestamp),
        text().prop_map(Value::String),
        proptest::collection::vec(any::<u8>(), 0..8).prop_map(Value::Binary),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
            proptest::collection::vec((text(), inner), 0..3).prop_map(|t| Value::Map(Table(t))),
        ]
    })
}

fn headers() -> impl Strategy<Value = Table> {
    let name = prop_oneof![
        "[a-z:\\\\\n\r]{0,8}",
        Just("type".to_owned()),
        Just("destination".to_owned()),
        Just("content-length".to_owned()),
        Just("isthmus-header-x".to_owned()),
        Just("isthmus-type-of-x".to_owned()),
        Just("x".to_owned()),
        Just("x-delay".to_owned()),
        Just("AMQ_SCHEDULED_DELAY".to_owned()),
    ];
    proptest::collection::vec((name, value()), 0..5).prop_map(Table)
}

fn properties() -> impl Strategy<Value = Properties> {
    let id = || proptest::option::of(value());
    let words = || proptest::option::of(text());
    let small = (any::<bool>(), proptest::option::of(any::<bool>()), any::<Option<u8>>());
    (
        (id(), id(), words(), any::<Option<u64>>(), small),
        (words(), words(), words(), words(), words(), words()),
        (any::<Option<i64>>(), headers()),
    )
        .prop_map(|(first, second, (timestamp_ms, headers))| {
            let (message_id, correlation_id, reply_to, expiry_ms, small) = first;
            let (durable, body_is_text, priority) = small;
            let (subject, content_type, content_encoding, group_id, user_id, app_id) = second;
            Properties {
                message_id,
                correlation_id,
                reply_to,
                expiry_ms,
                durable,
                priority,
                subject,
                content_type,
                content_encoding,
                group_id,
                user_id,
                app_id,
                timestamp_ms,
                // Nothing said comes back as bytes: STOMP has two states for it.
                body_is_text: Some(body_is_text.unwrap_or(false)),
                headers,
            }
        })
}

proptest! {
    /// What a client of 1.2 gets of a message of another protocol and sends again says the same.
    #[test]
    fn properties_come_back(properties in properties(), has_nul in any::<bool>()) {
        let body: &[u8] = if has_nul { b"a\0b" } else { b"ab" };
        let told = from_neutral(&properties, body);
        let mut bytes = format!("{}\n", Command::Send).into_bytes();
        for (name, value) in &told.headers {
            header::write(&mut bytes, Rules::V1_2, name, value);
        }
        if told.content_length {
            header::write(&mut bytes, Rules::V1_2, "content-length", &body.len().to_string());
        }
        bytes.push(b'\n');
        bytes.extend_from_slice(body);
        bytes.push(0);
        let batch = stored(&bytes, Version::V1_2);
        prop_assert_eq!(batch.body(&batch.records[0]), body);
        prop_assert_eq!(to_neutral(batch.head(&batch.records[0])), Some(properties));
    }
}
