//! Every error: its scope, reply code, class and method id, and its words.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, basic, channel, connection, exchange, queue, tx};
use amq_protocol::types::{AMQPValue, FieldTable};
use common::*;
use isthmus_amqp091::SessionConfig;
use isthmus_contract::Session;
use isthmus_model::SessionId;

#[derive(Debug, PartialEq)]
enum Closed {
    Channel(u16, u16, (u16, u16)),
    Connection(u16, (u16, u16)),
}

/// The first close among `frames`, and its text.
fn closed(frames: &[AMQPFrame]) -> (Closed, String) {
    for frame in frames {
        match frame {
            AMQPFrame::Method(n, AMQPClass::Channel(channel::AMQPMethod::Close(c))) => {
                let ids = (c.class_id, c.method_id);
                return (Closed::Channel(*n, c.reply_code, ids), c.reply_text.to_string());
            }
            AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(c))) => {
                let ids = (c.class_id, c.method_id);
                return (Closed::Connection(c.reply_code, ids), c.reply_text.to_string());
            }
            _ => {}
        }
    }
    panic!("nothing closed: {frames:?}");
}

fn on_channel(code: u16, class: u16, method: u16) -> Closed {
    Closed::Channel(1, code, (class, method))
}

fn on_connection(code: u16, class: u16, method: u16) -> Closed {
    Closed::Connection(code, (class, method))
}

/// A frame as it never comes from a well-behaved client.
fn raw(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes.push(0xCE);
    bytes
}

fn basic_1(method: basic::AMQPMethod) -> Vec<u8> {
    basic_method(1, method)
}

fn with_argument(name: &str, value: AMQPValue) -> Vec<u8> {
    declare_queue(1, "args", table(&[(name, value)]))
}

fn text(s: &str) -> AMQPValue {
    AMQPValue::LongString(s.into())
}

fn properties(properties: basic::AMQPProperties) -> Vec<u8> {
    publish_with(1, to("", "q"), properties, b"m", 10)
}

fn passive(name: &str) -> Vec<u8> {
    queue_method(
        1,
        queue::AMQPMethod::Declare(queue::Declare {
            queue: name.into(),
            passive: true,
            durable: false,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: FieldTable::default(),
        }),
    )
}

fn content_cases() -> Vec<(&'static str, Vec<u8>, Closed, &'static str)> {
    let immediate = basic::Publish { immediate: true, ..to("", "q") };
    let publish_only = basic_1(basic::AMQPMethod::Publish(to("", "q")));
    let header = |size: u64, head: &[u8]| {
        let mut payload = vec![0, 60, 0, 0];
        payload.extend(size.to_be_bytes());
        payload.extend(head);
        raw(2, 1, &payload)
    };
    vec![
        (
            "missing exchange",
            publish(1, "missing", "k", b"m"),
            on_channel(404, 60, 40),
            "NOT_FOUND - no exchange 'missing' in vhost '/'",
        ),
        (
            "internal exchange",
            publish(1, "internal", "k", b"m"),
            on_channel(403, 60, 40),
            "cannot publish to internal exchange 'internal' in vhost '/'",
        ),
        (
            "immediate",
            publish_with(1, immediate, persistent(), b"m", 10),
            on_connection(540, 60, 40),
            "NOT_IMPLEMENTED - immediate=true",
        ),
        (
            "expiration",
            properties(persistent().with_expiration("soon".into())),
            on_channel(406, 60, 40),
            "PRECONDITION_FAILED - invalid expiration 'soon'",
        ),
        (
            "negative expiration",
            properties(persistent().with_expiration("-1".into())),
            on_channel(406, 60, 40),
            "invalid expiration '-1'",
        ),
        (
            "large expiration",
            properties(persistent().with_expiration("4294967296".into())),
            on_channel(406, 60, 40),
            "invalid expiration '4294967296'",
        ),
        (
            "user id",
            properties(persistent().with_user_id("root".into())),
            on_channel(406, 60, 40),
            "user_id property set to 'root' but authenticated user was 'guest'",
        ),
        (
            "too large",
            [publish_only.clone(), header(1 << 40, &[0, 0])].concat(),
            on_channel(406, 60, 40),
            "message size 1099511627776 is larger than configured max size 134217728",
        ),
        (
            "content without method",
            header(1, &[0, 0]),
            on_connection(505, 0, 0),
            "UNEXPECTED_FRAME",
        ),
        (
            "body before header",
            [publish_only.clone(), raw(3, 1, b"x")].concat(),
            on_connection(505, 0, 0),
            "expected content header for class 60",
        ),
        (
            "two headers",
            [publish_only.clone(), header(1, &[0, 0]), header(1, &[0, 0])].concat(),
            on_connection(505, 0, 0),
            "expected content body",
        ),
        (
            "method for content",
            [publish_only.clone(), ack(1, 1, false)].concat(),
            on_connection(505, 60, 80),
            "UNEXPECTED_FRAME",
        ),
        (
            "publish for content",
            [publish_only.clone(), publish_only.clone()].concat(),
            on_connection(505, 60, 40),
            "UNEXPECTED_FRAME",
        ),
        (
            "too much body",
            [publish_only.clone(), header(2, &[0, 0]), raw(3, 1, b"xyz")].concat(),
            on_connection(501, 0, 0),
            "more content",
        ),
        (
            "header of another class",
            [publish_only.clone(), raw(2, 1, &[0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0])]
                .concat(),
            on_connection(505, 60, 40),
            "class 50",
        ),
        (
            "short header",
            [publish_only.clone(), raw(2, 1, &[0, 60, 0])].concat(),
            on_connection(502, 60, 40),
            "SYNTAX_ERROR",
        ),
        (
            "unknown property flags",
            [publish_only.clone(), header(1, &[0, 1])].concat(),
            on_connection(502, 60, 40),
            "property flags",
        ),
        (
            "cut property list",
            [publish_only.clone(), header(1, &[0x80, 0, 5, b'a'])].concat(),
            on_connection(502, 60, 40),
            "SYNTAX_ERROR",
        ),
        (
            "long property list",
            [publish_only, header(1, &[0, 0, 7])].concat(),
            on_connection(502, 60, 40),
            "property list",
        ),
    ]
}

fn channel_cases() -> Vec<(&'static str, Vec<u8>, Closed, &'static str)> {
    let qos = [0, 60, 0, 10, 0, 0, 0, 9, 0, 1, 0];
    let flow = channel::AMQPMethod::Flow(channel::Flow { active: false });
    let recover = basic::AMQPMethod::Recover(basic::Recover { requeue: false });
    let reject = basic::AMQPMethod::Reject(basic::Reject { delivery_tag: 9, requeue: true });
    let twice = [
        declare_queue(1, "q", FieldTable::default()),
        consume(1, "q", "t", false),
        consume(1, "q", "t", false),
    ]
    .concat();
    let delete = exchange::Delete { exchange: "".into(), if_unused: false, nowait: false };
    vec![
        (
            "unknown tag",
            ack(1, 7, false),
            on_channel(406, 60, 80),
            "PRECONDITION_FAILED - unknown delivery tag 7",
        ),
        ("unknown tags", ack(1, 7, true), on_channel(406, 60, 80), "unknown delivery tag 7"),
        (
            "unknown nack",
            nack(1, 3, false, true),
            on_channel(406, 60, 120),
            "unknown delivery tag 3",
        ),
        ("unknown reject", basic_1(reject), on_channel(406, 60, 90), "unknown delivery tag 9"),
        ("recover without requeue", basic_1(recover), on_connection(540, 60, 110), "requeue=false"),
        ("prefetch size", raw(1, 1, &qos), on_connection(540, 60, 10), "prefetch_size!=0 (9)"),
        ("flow off", channel_method(1, flow), on_connection(540, 20, 20), "active=false"),
        ("second open", channel_open(1), on_connection(504, 20, 10), "second 'channel.open' seen"),
        (
            "channel not open",
            ack(2, 1, false),
            on_connection(504, 60, 80),
            "expected 'channel.open'",
        ),
        ("channel number", channel_open(2048), on_connection(504, 20, 10), "CHANNEL_ERROR"),
        ("consumer tag", twice, on_connection(530, 60, 20), "attempt to reuse consumer tag 't'"),
        (
            "consume from nothing",
            consume(1, "none", "", false),
            on_channel(404, 60, 20),
            "NOT_FOUND - no queue 'none' in vhost '/'",
        ),
        (
            "consume without a queue",
            consume(1, "", "", false),
            on_channel(404, 60, 20),
            "no previously declared queue",
        ),
        (
            "get from nothing",
            get(1, "none"),
            on_channel(404, 60, 70),
            "no queue 'none' in vhost '/'",
        ),
        (
            "passive declare",
            passive("none"),
            on_channel(404, 50, 10),
            "no queue 'none' in vhost '/'",
        ),
        (
            "locked queue",
            declare_queue(1, "locked", FieldTable::default()),
            on_channel(405, 50, 10),
            "RESOURCE_LOCKED - cannot obtain exclusive access",
        ),
        (
            "other queue",
            declare_queue(1, "other", FieldTable::default()),
            on_channel(406, 50, 10),
            "PRECONDITION_FAILED - inequivalent arg",
        ),
        (
            "default exchange",
            declare_exchange(1, "", "direct"),
            on_channel(403, 40, 10),
            "operation not permitted on the default exchange",
        ),
        (
            "delete default exchange",
            exchange_method(1, exchange::AMQPMethod::Delete(delete)),
            on_channel(403, 40, 20),
            "default exchange",
        ),
        (
            "exchange type",
            declare_exchange(1, "x", "odd"),
            on_connection(503, 40, 10),
            "COMMAND_INVALID - unknown exchange type 'odd'",
        ),
        (
            "commit without tx",
            tx_method(1, tx::AMQPMethod::Commit(tx::Commit {})),
            on_channel(406, 90, 20),
            "channel is not transactional",
        ),
        (
            "rollback without tx",
            tx_method(1, tx::AMQPMethod::Rollback(tx::Rollback {})),
            on_channel(406, 90, 30),
            "channel is not transactional",
        ),
        (
            "tx then confirm",
            [tx_method(1, tx::AMQPMethod::Select(tx::Select {})), confirm_select(1)].concat(),
            on_channel(406, 85, 10),
            "cannot switch from tx to confirm mode",
        ),
        (
            "confirm then tx",
            [confirm_select(1), tx_method(1, tx::AMQPMethod::Select(tx::Select {}))].concat(),
            on_channel(406, 90, 10),
            "cannot switch from confirm to tx mode",
        ),
        (
            "ttl type",
            with_argument("x-message-ttl", text("1")),
            on_channel(406, 50, 10),
            "invalid arg 'x-message-ttl' for queue 'args' in vhost '/': {unacceptable_type,longstr}",
        ),
        (
            "ttl sign",
            with_argument("x-message-ttl", AMQPValue::LongInt(-1)),
            on_channel(406, 50, 10),
            "{value_negative,-1}",
        ),
        (
            "max length type",
            with_argument("x-max-length", AMQPValue::Boolean(true)),
            on_channel(406, 50, 10),
            "invalid arg 'x-max-length'",
        ),
        (
            "overflow",
            with_argument("x-overflow", text("odd")),
            on_channel(406, 50, 10),
            "invalid arg 'x-overflow'",
        ),
        (
            "key without exchange",
            with_argument("x-dead-letter-routing-key", text("k")),
            on_channel(406, 50, 10),
            "routing_key_but_no_dlx_defined",
        ),
        (
            "stream",
            with_argument("x-queue-type", text("stream")),
            on_connection(540, 50, 10),
            "NOT_IMPLEMENTED - queue type 'stream'",
        ),
        (
            "expires",
            with_argument("x-expires", AMQPValue::LongInt(0)),
            on_channel(406, 50, 10),
            "invalid arg 'x-expires' for queue 'args' in vhost '/'",
        ),
    ]
}

fn frame_cases() -> Vec<(&'static str, Vec<u8>, Closed, &'static str)> {
    let mut bad_end = channel_open(2);
    *bad_end.last_mut().unwrap() = 0;
    let mut deep = vec![0, 60, 0, 20, 0, 0, 1, b'q', 0, 0];
    let mut nested = vec![];
    for _ in 0..2000 {
        let mut outer = vec![b'A'];
        outer.extend((nested.len() as u32).to_be_bytes());
        outer.append(&mut nested);
        nested = outer;
    }
    nested.splice(0..0, [1, b'a']);
    deep.extend((nested.len() as u32).to_be_bytes());
    deep.extend(nested);
    vec![
        ("frame end", bad_end, on_connection(501, 0, 0), "FRAME_ERROR"),
        ("frame type", raw(7, 1, b""), on_connection(501, 0, 0), "unknown frame type 7"),
        ("frame size", raw(3, 1, &[0; 140_000]), on_connection(501, 0, 0), "frame_too_large"),
        ("heartbeat on a channel", raw(8, 1, b""), on_connection(501, 0, 0), "heartbeat"),
        ("no method", raw(1, 1, &[0]), on_connection(502, 0, 0), "SYNTAX_ERROR"),
        ("unknown method", raw(1, 1, &[0, 99, 0, 1]), on_connection(540, 99, 1), "method 99.1"),
        (
            "a server's method",
            raw(1, 1, &[0, 60, 0, 60]),
            on_connection(540, 60, 60),
            "method 60.60",
        ),
        (
            "cut method",
            raw(1, 1, &[0, 50, 0, 10, 0, 0, 9]),
            on_connection(502, 50, 10),
            "SYNTAX_ERROR",
        ),
        (
            "long method",
            raw(1, 1, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]),
            on_connection(502, 60, 80),
            "method arguments",
        ),
        ("nesting", raw(1, 1, &deep), on_connection(502, 60, 20), "nesting depth"),
        ("start again", start_ok("guest", "guest"), on_connection(503, 10, 11), "COMMAND_INVALID"),
        (
            "channel method on 0",
            raw(1, 0, &[0, 20, 0, 40, 0, 0, 0, 0, 0, 0, 0]),
            on_connection(503, 20, 40),
            "channel 0",
        ),
        (
            "connection method on 1",
            raw(1, 1, &[0, 10, 0, 51]),
            on_connection(503, 10, 51),
            "COMMAND_INVALID",
        ),
    ]
}

#[test]
fn each_error_is_told_with_its_code_and_method() {
    for (name, bytes, expected, words) in
        content_cases().into_iter().chain(channel_cases()).chain(frame_cases())
    {
        let mut rig = Rig::running();
        rig.send(&bytes);
        let (got, text) = closed(&rig.take());
        assert_eq!(got, expected, "{name}: {text}");
        assert!(text.contains(words), "{name}: {text}");
        // What follows on the channel, or on the connection, is not looked at.
        let log = rig.broker.log.len();
        rig.send(&[publish(1, "", "q", b"late"), passive("none")].concat());
        assert!(rig.take().is_empty(), "{name}");
        assert_eq!(rig.broker.log.len(), log, "{name}");
        match got {
            Closed::Channel(..) => {
                rig.send(&channel_method(1, channel::AMQPMethod::CloseOk(channel::CloseOk {})));
                rig.send(&channel_open(1));
                let reopened = rig.method();
                let ok = AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}));
                assert_eq!(reopened, ok, "{name}");
            }
            Closed::Connection(..) => {
                // Once a frame cannot be read, no answer can.
                let deaf = name.starts_with("frame");
                assert_eq!(rig.session.is_closed(), deaf, "{name}");
                if !deaf {
                    let close_ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
                    rig.send(&connection_method(0, close_ok));
                    assert!(rig.session.is_closed(), "{name}");
                }
            }
        }
    }
}

#[test]
fn each_handshake_error_is_told_with_its_code() {
    let header = b"AMQP\0\0\x09\x01".to_vec();
    let mut mechanism = start_ok("guest", "guest");
    let at = mechanism.windows(5).position(|w| w == b"PLAIN").unwrap();
    mechanism[at..at + 5].copy_from_slice(b"MAGIC");
    let cases = [
        (
            "login",
            vec![start_ok("guest", "wrong")],
            on_connection(403, 0, 0),
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN",
        ),
        (
            "mechanism",
            vec![mechanism],
            on_connection(503, 10, 11),
            "unknown authentication mechanism 'MAGIC'",
        ),
        ("tune first", vec![tune_ok(0, 0)], on_connection(503, 10, 31), "out of its turn"),
        (
            "open first",
            vec![start_ok("guest", "guest"), open("/")],
            on_connection(503, 10, 40),
            "out of its turn",
        ),
        (
            "channel first",
            vec![channel_open(1)],
            on_connection(503, 20, 10),
            "before the connection is open",
        ),
        (
            "small frames",
            vec![start_ok("guest", "guest"), tune_ok(100, 0)],
            on_connection(530, 10, 31),
            "frame_max = 100",
        ),
        (
            "large frames",
            vec![start_ok("guest", "guest"), tune_ok(1 << 20, 0)],
            on_connection(530, 10, 31),
            "higher than the maximum",
        ),
        (
            "vhost",
            vec![start_ok("guest", "guest"), tune_ok(0, 0), open("none")],
            on_connection(530, 10, 40),
            "NOT_ALLOWED - vhost 'none' not found",
        ),
        (
            "large before tune",
            vec![raw(1, 0, &[0; 5000])],
            on_connection(501, 0, 0),
            "frame_too_large",
        ),
        (
            "content before open",
            vec![raw(3, 0, &[0; 10])],
            on_connection(505, 0, 0),
            "UNEXPECTED_FRAME",
        ),
    ];
    for (name, steps, expected, words) in cases {
        let mut rig = Rig::new();
        rig.send(&header);
        for step in steps {
            rig.send(&step);
        }
        let (got, text) = closed(&rig.take());
        assert_eq!(got, expected, "{name}: {text}");
        assert!(text.contains(words), "{name}: {text}");
    }
}

#[test]
fn another_protocol_is_answered_with_the_header() {
    for hello in [&b"GET / HTTP/1.1\r\n"[..], b"AMQP\0\x01\0\0", b"AMQP\x01\x01\0\x09", b"X"] {
        let mut rig = Rig::new();
        rig.send(hello);
        assert_eq!(rig.output, b"AMQP\0\0\x09\x01");
        assert!(rig.session.is_closed());
    }
}

#[test]
fn a_login_that_fails_is_not_explained_to_clients_that_would_not_understand() {
    let mut rig = Rig::new();
    rig.send(b"AMQP\0\0\x09\x01");
    rig.take();
    rig.send(&connection_method(
        0,
        connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties: FieldTable::default(),
            mechanism: "PLAIN".into(),
            response: "\0guest\0wrong".into(),
            locale: "en_US".into(),
        }),
    ));
    assert!(rig.take().is_empty());
    assert!(rig.session.is_closed());
}

#[test]
fn bodies_above_the_limit_are_refused_before_they_arrive() {
    let mut config = SessionConfig::new(SessionId(1));
    config.message_bytes_max = 10;
    let mut rig = Rig::with(config);
    rig.handshake();
    rig.send(&publish(1, "", "q", &[0; 10]));
    assert!(rig.take().is_empty());
    rig.send(&publish(1, "", "q", &[0; 11]));
    let (got, text) = closed(&rig.take());
    assert_eq!(got, on_channel(406, 60, 40));
    assert!(text.ends_with("message size 11 is larger than configured max size 10"), "{text}");
}
