//! What RabbitMQ's clients know beside the specification.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, basic, channel, connection, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use common::*;
use isthmus_amqp091::SessionConfig;
use isthmus_model::SessionId;

fn start_ok_by(mechanism: &str, response: &[u8]) -> Vec<u8> {
    connection_method(
        0,
        connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties: FieldTable::default(),
            mechanism: mechanism.into(),
            response: response.to_vec().into(),
            locale: "en_US".into(),
        }),
    )
}

fn begun(config: SessionConfig) -> (Rig, String) {
    let mut rig = Rig::with(config);
    rig.send(b"AMQP\0\0\x09\x01");
    let AMQPClass::Connection(connection::AMQPMethod::Start(start)) = rig.method() else {
        panic!("connection.start was expected");
    };
    let mechanisms = start.mechanisms.to_string();
    (rig, mechanisms)
}

fn is_let_in(rig: &mut Rig) -> bool {
    let tuned = |f: &AMQPFrame| {
        matches!(f, AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Tune(_))))
    };
    rig.take().iter().any(tuned)
}

/// AMQPLAIN's response: the entries of a table.
fn amqplain(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in entries {
        out.push(name.len() as u8);
        out.extend(name.as_bytes());
        out.push(b'S');
        out.extend((value.len() as u32).to_be_bytes());
        out.extend(value.as_bytes());
    }
    out
}

#[test]
fn amqplain_says_user_and_password_in_a_table() {
    for (entries, let_in) in [
        (&[("LOGIN", "guest"), ("PASSWORD", "guest")][..], true),
        (&[("PASSWORD", "guest"), ("LOGIN", "guest")], true),
        (&[("LOGIN", "guest"), ("PASSWORD", "wrong")], false),
        (&[("LOGIN", "guest")], false),
    ] {
        let (mut rig, mechanisms) = begun(SessionConfig::new(SessionId(1)));
        assert_eq!(mechanisms, "PLAIN AMQPLAIN");
        rig.send(&start_ok_by("AMQPLAIN", &amqplain(entries)));
        assert_eq!(is_let_in(&mut rig), let_in, "{entries:?}");
    }
    let (mut rig, _) = begun(SessionConfig::new(SessionId(1)));
    rig.send(&start_ok_by("AMQPLAIN", b"\x05LOGINS\xff\xff\xff\xff"));
    assert!(!is_let_in(&mut rig));
}

#[test]
fn external_is_for_those_with_a_certificate() {
    let mut config = SessionConfig::new(SessionId(1));
    config.has_certificate = true;
    let (mut rig, mechanisms) = begun(config);
    assert_eq!(mechanisms, "PLAIN AMQPLAIN EXTERNAL");
    rig.send(&start_ok_by("EXTERNAL", b""));
    assert!(is_let_in(&mut rig));
    assert_eq!(rig.broker.log.len(), 1);
    assert!(rig.broker.log[0].contains("Certificate"), "{:?}", rig.broker.log);

    let (mut rig, _) = begun(SessionConfig::new(SessionId(1)));
    rig.send(&start_ok_by("EXTERNAL", b""));
    assert!(!is_let_in(&mut rig));
    assert!(rig.broker.log.is_empty());
}

/// What became of declaring a queue: what the broker was asked for, or the text of the refusal.
fn declare(arguments: &[(&str, AMQPValue)], set: impl FnOnce(&mut queue::Declare)) -> String {
    let mut rig = Rig::running();
    rig.broker.log.clear();
    let mut declare = queue::Declare {
        queue: "q".into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: table(arguments),
    };
    set(&mut declare);
    rig.send(&queue_method(1, queue::AMQPMethod::Declare(declare)));
    match rig.method() {
        AMQPClass::Queue(_) => rig.broker.log.remove(0),
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => close.reply_text.to_string(),
        AMQPClass::Connection(connection::AMQPMethod::Close(close)) => close.reply_text.to_string(),
        other => panic!("{other:?}"),
    }
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[test]
fn queue_arguments_say_what_a_queue_does() {
    for (argument, value, means) in [
        ("x-max-priority", AMQPValue::LongInt(10), "priority_max: Some(10)"),
        ("x-max-priority", AMQPValue::LongInt(255), "priority_max: Some(255)"),
        ("x-max-priority", AMQPValue::LongInt(0), "priority_max: None"),
        ("x-single-active-consumer", AMQPValue::Boolean(true), "single_active_consumer: true"),
        ("x-single-active-consumer", AMQPValue::Boolean(false), "single_active_consumer: false"),
        ("x-delivery-limit", AMQPValue::LongInt(3), "delivery_limit: Some(3)"),
        ("x-delivery-limit", AMQPValue::LongInt(-1), "delivery_limit: None"),
        ("x-queue-type", text("classic"), "delivery_limit: None"),
        ("x-queue-type", text("quorum"), "delivery_limit: Some(20)"),
    ] {
        let asked = declare(&[(argument, value)], |_| {});
        assert!(asked.contains(means), "{argument}: {asked}");
    }
    let both = [("x-queue-type", text("quorum")), ("x-delivery-limit", AMQPValue::LongInt(-1))];
    assert!(declare(&both, |_| {}).contains("delivery_limit: None"));
}

#[test]
fn queue_arguments_that_make_no_sense_are_refused_by_name() {
    for (argument, value, why) in [
        ("x-max-priority", AMQPValue::LongInt(256), "{max_value_exceeded,255}"),
        ("x-max-priority", AMQPValue::LongInt(-1), "{value_negative,-1}"),
        ("x-max-priority", text("10"), "{unacceptable_type,longstr}"),
        ("x-single-active-consumer", text("true"), "{unacceptable_type,longstr}"),
        ("x-delivery-limit", text("3"), "{unacceptable_type,longstr}"),
    ] {
        let refused = declare(&[(argument, value)], |_| {});
        let text = format!("invalid arg '{argument}' for queue 'q' in vhost '/': {why}");
        assert_eq!(refused, format!("PRECONDITION_FAILED - {text}"));
    }
    let stream = declare(&[("x-queue-type", text("stream"))], |_| {});
    assert!(stream.starts_with("NOT_IMPLEMENTED - queue type 'stream'"), "{stream}");
    let unknown = declare(&[("x-queue-type", text("magic"))], |_| {});
    assert_eq!(unknown, "PRECONDITION_FAILED - invalid queue type 'magic'");
}

#[test]
fn quorum_queues_are_durable_and_everybodys() {
    let quorum = [("x-queue-type", text("quorum"))];
    for property in ["non-durable", "exclusive-owner", "auto-delete"] {
        let set = |d: &mut queue::Declare| match property {
            "non-durable" => d.durable = false,
            "exclusive-owner" => d.exclusive = true,
            _ => d.auto_delete = true,
        };
        let text = format!("invalid property '{property}' for queue 'q' in vhost '/'");
        assert_eq!(declare(&quorum, set), format!("PRECONDITION_FAILED - {text}"));
        assert!(declare(&[], set).starts_with("Topology"), "classic queues may be so");
    }
}

#[test]
fn exchanges_that_hold_messages_back_say_how_they_route_them_then() {
    let asked = |kind: &str, arguments: &[(&str, AMQPValue)]| {
        let mut rig = Rig::running();
        rig.broker.log.clear();
        let declare = exchange::Declare {
            exchange: "e".into(),
            kind: kind.into(),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: table(arguments),
        };
        rig.send(&exchange_method(1, exchange::AMQPMethod::Declare(declare)));
        match rig.method() {
            AMQPClass::Exchange(_) => rig.broker.log.remove(0),
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => close.reply_text.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let topic = asked("x-delayed-message", &[("x-delayed-type", text("topic"))]);
    assert!(topic.contains("kind: Topic, delayed: true"), "{topic}");
    let plain = asked("topic", &[]);
    assert!(plain.contains("kind: Topic, delayed: false"), "{plain}");
    for arguments in [&[][..], &[("x-delayed-type", text("magic"))]] {
        let refused = asked("x-delayed-message", arguments);
        assert!(refused.starts_with("PRECONDITION_FAILED - "), "{refused}");
    }
}

fn keys(keys: &[&str]) -> AMQPValue {
    AMQPValue::FieldArray(keys.iter().map(|key| text(key)).collect::<Vec<_>>().into())
}

#[test]
fn further_routing_keys_are_flagged_and_the_blind_ones_are_not_delivered() {
    let headers = table(&[("CC", keys(&["a", "b"])), ("BCC", keys(&["c"])), ("n", text("1"))]);
    let properties = persistent().with_headers(headers).with_priority(3);
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.send(&consume(1, "q", "tag", true));
    rig.take();
    rig.broker.log.clear();
    rig.send(&publish_with(1, to("", "q"), properties, b"body", 100));
    // DURABLE | MORE_KEYS
    assert!(rig.broker.log[0].contains("RecordFlags(9)"), "{:?}", rig.broker.log);
    assert!(rig.broker.log[0].contains("BCC"), "the broker routes by it");
    let frames = rig.take();
    let AMQPFrame::Header(1, header) = &frames[1] else { panic!("{frames:?}") };
    let got = header.properties.headers().as_ref().unwrap();
    let names: Vec<_> = got.inner().keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["CC", "n"]);
    assert_eq!(header.properties.priority(), &Some(3));
}

#[test]
fn further_routing_keys_must_be_strings_in_a_list() {
    for wrong in [text("a"), AMQPValue::FieldArray(vec![AMQPValue::LongInt(1)].into())] {
        let mut rig = Rig::running();
        let properties = persistent().with_headers(table(&[("CC", wrong)]));
        rig.send(&publish_with(1, to("", "q"), properties, b"body", 100));
        let AMQPClass::Channel(channel::AMQPMethod::Close(close)) = rig.method() else {
            panic!("the channel was to be closed");
        };
        assert_eq!(close.reply_code, 406);
        assert!(close.reply_text.as_str().contains("'CC'"), "{}", close.reply_text);
    }
}

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

fn request() -> Vec<u8> {
    let properties = persistent().with_reply_to(REPLY_TO.into()).with_correlation_id("1".into());
    publish_with(1, to("", "server"), properties, b"ask", 100)
}

#[test]
fn replies_come_to_the_channel_that_asked() {
    let mut rig =
        Rig::with(SessionConfig { name_secret: 0xfeed, ..SessionConfig::new(SessionId(5)) });
    rig.handshake();
    rig.send(&declare_queue(1, "server", FieldTable::default()));
    rig.send(&consume(1, REPLY_TO, "", true));
    rig.send(&channel_open(2));
    rig.send(&consume(2, "server", "", true));
    rig.take();
    rig.send(&request());
    let frames = rig.take();
    let AMQPFrame::Header(2, header) = &frames[1] else { panic!("{frames:?}") };
    let address = header.properties.reply_to().clone().unwrap().to_string();
    assert!(address.starts_with("amq.rabbitmq.reply-to.0000"), "{address}");
    assert!(address.contains("feed"), "{address}");
    assert_eq!(header.properties.correlation_id().as_ref().unwrap().as_str(), "1");
    rig.send(&publish(2, "", &address, b"answer"));
    let frames = rig.take();
    let AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver))) = &frames[0]
    else {
        panic!("{frames:?}");
    };
    assert_eq!((deliver.exchange.as_str(), deliver.routing_key.as_str()), ("", &*address));
}

#[test]
fn replies_need_a_consumer_that_does_not_acknowledge_and_one_is_enough() {
    let refused = |steps: &[Vec<u8>]| {
        let mut rig = Rig::running();
        for step in steps {
            rig.take();
            rig.send(step);
        }
        let AMQPClass::Channel(channel::AMQPMethod::Close(close)) = rig.method() else {
            panic!("the channel was to be closed");
        };
        assert_eq!(close.reply_code, 406);
        close.reply_text.to_string()
    };
    let listen = consume(1, REPLY_TO, "mine", true);
    let cancel = basic::Cancel { consumer_tag: "mine".into(), nowait: false };
    let cancel = basic_method(1, basic::AMQPMethod::Cancel(cancel));
    let none = "PRECONDITION_FAILED - fast reply consumer does not exist";
    assert_eq!(refused(&[request()]), none);
    assert_eq!(refused(&[listen.clone(), cancel.clone(), request()]), none);
    assert_eq!(
        refused(&[consume(1, REPLY_TO, "", false)]),
        "PRECONDITION_FAILED - reply consumer cannot acknowledge"
    );
    assert_eq!(
        refused(&[listen.clone(), consume(1, REPLY_TO, "", true)]),
        "PRECONDITION_FAILED - reply consumer already set"
    );
    // One after the other is fine.
    let mut rig = Rig::running();
    for step in [&listen, &cancel, &listen] {
        rig.send(step);
    }
    assert_eq!(rig.take().len(), 3);
}

#[test]
fn the_reply_queue_itself_seems_to_exist() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, REPLY_TO, FieldTable::default()));
    let AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)) = rig.method() else {
        panic!("queue.declare-ok was expected");
    };
    assert_eq!((ok.queue.as_str(), ok.consumer_count), (REPLY_TO, 1));
}
