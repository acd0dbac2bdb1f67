//! The codec against its grammar and against `amq-protocol`, on generated input.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::basic::AMQPProperties;
use amq_protocol::types::{AMQPValue, FieldTable};
use isthmus_amqp091::Amqp091Encoding;
use isthmus_amqp091::codec::head::Head;
use isthmus_amqp091::codec::publish::{Limits, Peeked, peek};
use isthmus_amqp091::codec::{frame, method, table};
use isthmus_model::{Encoding, NO_TTL, RecordFlags, Table, Value};
use proptest::prelude::*;

/// Values that come back from the wire as they went.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f32>().prop_filter("not a number", |x| !x.is_nan()).prop_map(Value::Float),
        any::<f64>().prop_filter("not a number", |x| !x.is_nan()).prop_map(Value::Double),
        (any::<u8>(), any::<u32>())
            .prop_map(|(scale, unscaled)| Value::Decimal { scale, unscaled }),
        any::<i32>().prop_map(|s| Value::Timestamp(i64::from(s) * 1000)),
        ".{0,20}".prop_map(Value::String),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Binary),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            entries(inner).prop_map(Value::Map),
        ]
    })
}

fn entries(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Table> {
    prop::collection::vec((".{0,8}", value), 0..6).prop_map(Table)
}

fn short() -> impl Strategy<Value = String> {
    "[a-zé.*#]{0,30}"
}

fn properties() -> impl Strategy<Value = AMQPProperties> {
    let headers = prop::collection::btree_map("[a-z]{1,9}", any::<i32>(), 0..4);
    (
        (prop::option::of(short()), prop::option::of(headers), prop::option::of(any::<u8>())),
        (prop::option::of(any::<u8>()), prop::option::of(short()), prop::option::of(0u32..)),
        (prop::option::of(any::<u64>()), prop::option::of(short())),
    )
        .prop_map(
            |((content_type, headers, mode), (priority, id, expiration), (time, app))| {
                let mut properties = AMQPProperties::default();
                if let Some(text) = content_type {
                    properties = properties.with_content_type(text.as_str().into());
                }
                if let Some(headers) = headers {
                    let mut table = FieldTable::default();
                    for (name, n) in headers {
                        table.insert(name.as_str().into(), AMQPValue::LongInt(n));
                    }
                    properties = properties.with_headers(table);
                }
                if let Some(mode) = mode {
                    properties = properties.with_delivery_mode(mode);
                }
                if let Some(priority) = priority {
                    properties = properties.with_priority(priority);
                }
                if let Some(id) = id {
                    properties = properties.with_correlation_id(id.as_str().into());
                }
                if let Some(ms) = expiration {
                    properties = properties.with_expiration(ms.to_string().as_str().into());
                }
                if let Some(time) = time {
                    properties = properties.with_timestamp(time);
                }
                if let Some(app) = app {
                    properties = properties.with_app_id(app.as_str().into());
                }
                properties
            },
        )
}

proptest! {
    #[test]
    fn tables_come_back_as_they_went(expected in entries(value())) {
        let mut bytes = Vec::new();
        table::write(&mut bytes, &expected);
        prop_assert!(table::validate(&bytes[4..]).is_ok());
        prop_assert_eq!(table::read(&bytes[4..]).unwrap(), expected);
    }

    #[test]
    fn what_reads_is_valid_and_what_is_valid_reads(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        prop_assert_eq!(table::validate(&bytes).is_ok(), table::read(&bytes).is_ok());
    }

    #[test]
    fn damaged_tables_are_judged_alike(
        expected in entries(value()), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = Vec::new();
        table::write(&mut bytes, &expected);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        prop_assert_eq!(table::validate(&bytes[4..]).is_ok(), table::read(&bytes[4..]).is_ok());
    }

    #[test]
    fn publishes_read_as_amq_protocol_reads_them(
        exchange in short(), key in short(), mandatory: bool,
        properties in properties(), body in prop::collection::vec(any::<u8>(), 0..200),
        before in 0usize..9,
    ) {
        let to = amq_protocol::protocol::basic::Publish {
            mandatory, ..common::to(&exchange, &key)
        };
        let mut bytes = vec![0; before];
        bytes.extend(common::publish_with(9, to, properties.clone(), &body, 1000));
        let limits = Limits { payload_max: 131_072, body_max: 1000 };
        let first = frame::next(&bytes[before..], limits.payload_max).unwrap().unwrap();
        let Peeked::Whole { record, end } = peek(&bytes, before, &first, limits) else {
            panic!("irregular");
        };
        prop_assert_eq!(end, bytes.len());
        prop_assert_eq!(record.exchange.of(&bytes), exchange.as_bytes());
        prop_assert_eq!(record.routing_key.of(&bytes), key.as_bytes());
        prop_assert_eq!(record.body.of(&bytes), &body[..]);
        prop_assert_eq!(record.flags.has(RecordFlags::MANDATORY), mandatory);
        let durable = *properties.delivery_mode() == Some(2);
        prop_assert_eq!(record.flags.has(RecordFlags::DURABLE), durable);
        prop_assert_eq!(record.priority, properties.priority().unwrap_or(0));
        let ttl = properties.expiration().as_ref().map_or(NO_TTL, |text| {
            text.as_str().parse::<u32>().unwrap().min(NO_TTL - 1)
        });
        prop_assert_eq!(record.ttl_ms, ttl);
        let (_, AMQPFrame::Header(9, header)) =
            parse_frame(&bytes[before + first.wire_len()..]).unwrap() else { panic!() };
        prop_assert_eq!(&header.properties, &properties);
        let head = record.head.of(&bytes);
        let read = Amqp091Encoding.headers(head);
        let expected = properties.headers().as_ref().map(|t| t.inner().len()).unwrap_or(0);
        prop_assert_eq!(read.0.len(), expected);
        // Any cut of it is waited for.
        for cut in before + first.wire_len()..bytes.len() {
            prop_assert_eq!(peek(&bytes[..cut], before, &first, limits), Peeked::Short);
        }
    }

    #[test]
    fn rewriting_a_head_changes_nothing_else(properties in properties(), keep: bool) {
        let sent = common::publish_with(1, common::to("", "q"), properties.clone(), b"", 1);
        let first = frame::next(&sent, 1 << 20).unwrap().unwrap();
        let header = frame::next(&sent[first.wire_len()..], 1 << 20).unwrap().unwrap();
        let head = &header.payload[12..];
        let known = Head::read(head).unwrap();
        let mut headers = Vec::new();
        table::write_entry(&mut headers, "new", &Value::Bool(true));
        let rewritten = known.rewritten(head, &headers, keep);
        let again = Head::read(&rewritten).unwrap();
        prop_assert_eq!(&rewritten[again.headers.clone().unwrap()], &headers[..]);
        prop_assert_eq!((again.durable, again.priority), (known.durable, known.priority));
        let expected = if keep { known.ttl_ms(head) } else { Ok(NO_TTL) };
        prop_assert_eq!(again.ttl_ms(&rewritten), expected);
    }

    #[test]
    fn no_method_breaks_the_reader(payload in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = method::read(&payload);
        for ids in [[0, 10, 0, 11], [0, 40, 0, 10], [0, 50, 0, 10], [0, 60, 0, 20]] {
            let _ = method::read(&[&ids[..], &payload[..]].concat());
        }
    }
}

#[test]
fn every_type_of_the_errata_is_read() {
    let cases: [(u8, &[u8], Value); 18] = [
        (b't', &[1], Value::Bool(true)),
        (b'b', &[0xFF], Value::Int(-1)),
        (b'B', &[0xFF], Value::Uint(255)),
        (b's', &[0xFF, 0xFE], Value::Int(-2)),
        (b'U', &[0xFF, 0xFE], Value::Int(-2)),
        (b'u', &[0xFF, 0xFE], Value::Uint(65_534)),
        (b'I', &[0xFF, 0xFF, 0xFF, 0xFD], Value::Int(-3)),
        (b'i', &[0xFF, 0xFF, 0xFF, 0xFF], Value::Uint(u64::from(u32::MAX))),
        (b'l', &[0xFF; 8], Value::Int(-1)),
        (b'L', &[0xFF; 8], Value::Int(-1)),
        (b'f', &[0x3F, 0x80, 0, 0], Value::Float(1.0)),
        (b'd', &[0x3F, 0xF0, 0, 0, 0, 0, 0, 0], Value::Double(1.0)),
        (b'D', &[2, 0, 0, 1, 0], Value::Decimal { scale: 2, unscaled: 256 }),
        (b'T', &[0, 0, 0, 0, 0, 0, 0, 2], Value::Timestamp(2000)),
        (b'S', &[0, 0, 0, 1, b'x'], Value::String("x".to_owned())),
        (b'x', &[0, 0, 0, 1, b'x'], Value::Binary(b"x".to_vec())),
        (b'A', &[0, 0, 0, 1, b'V'], Value::List(vec![Value::Null])),
        (b'V', &[], Value::Null),
    ];
    for (kind, bytes, expected) in cases {
        let mut entry = vec![1, b'k', kind];
        entry.extend(bytes);
        assert!(table::validate(&entry).is_ok(), "{}", char::from(kind));
        assert_eq!(table::read(&entry).unwrap().0, [("k".to_owned(), expected)]);
    }
    assert!(table::validate(&[1, b'k', b'?', 0]).is_err());
}

/// `depth` arrays in each other, as one entry of a table.
fn nested(depth: usize) -> Vec<u8> {
    let mut entry = vec![1, b'k'];
    for left in (0..depth).rev() {
        entry.push(b'A');
        entry.extend((5 * left as u32).to_be_bytes());
    }
    entry
}

#[test]
fn nesting_ends_at_its_limit_and_never_at_the_stacks() {
    assert!(table::validate(&nested(table::DEPTH_MAX - 1)).is_ok());
    assert!(table::read(&nested(table::DEPTH_MAX - 1)).is_ok());
    for depth in [table::DEPTH_MAX, 2000, 100_000] {
        assert!(table::validate(&nested(depth)).is_err());
        assert!(table::read(&nested(depth)).is_err());
    }
}

#[test]
fn order_and_duplicates_of_arguments_are_kept() {
    let mut payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
    table::with_length(&mut payload, |out| {
        for (name, n) in [("z", 1), ("a", 2), ("z", 3)] {
            table::write_entry(out, name, &Value::Int(n));
        }
    });
    let arguments = method::read(&payload).unwrap().arguments().unwrap();
    let expected = [("z", 1), ("a", 2), ("z", 3)].map(|(n, v)| (n.to_owned(), Value::Int(v)));
    assert_eq!(arguments.0, expected);
}
