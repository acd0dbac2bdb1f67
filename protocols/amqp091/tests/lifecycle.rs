//! Time, pressure, notifications, and the end.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;
use std::time::Duration;

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, basic, connection, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use common::*;
use isthmus_contract::{
    CloseReason, Command, Delivery, DetachReason, Event, Places, Session, Shortage,
};
use isthmus_model::{Annotations, ConsumerId, Death, DeathReason, LeaseEpoch, QueueId, Time};

fn at(rig: &mut Rig, ms: u64) {
    rig.now = Time::from_millis(ms);
    rig.session.handle_timeout(rig.now);
    rig.pump();
}

#[test]
fn a_handshake_that_takes_too_long_ends() {
    for steps in 0..=2 {
        let mut rig = Rig::new();
        for step in &handshake()[..steps] {
            rig.send(step);
        }
        assert_eq!(rig.session.poll_timeout(), Time::from_millis(11_000), "{steps}");
        at(&mut rig, 10_999);
        assert!(!rig.session.is_closed());
        at(&mut rig, 11_000);
        assert!(rig.session.is_closed());
    }
}

#[test]
fn heartbeats_are_sent_at_half_and_missed_after_two_intervals() {
    let mut rig = Rig::running();
    assert_eq!(rig.session.poll_timeout(), Time::from_millis(31_000));
    at(&mut rig, 31_000);
    assert_eq!(rig.take(), [AMQPFrame::Heartbeat]);
    assert_eq!(rig.session.poll_timeout(), Time::from_millis(61_000));
    rig.now = Time::from_millis(50_000);
    rig.send(&[8, 0, 0, 0, 0, 0, 0, 0xCE]);
    at(&mut rig, 121_000);
    assert!(!rig.session.is_closed(), "heard of at 50 s");
    at(&mut rig, 170_000);
    assert!(rig.session.is_closed());
}

#[test]
fn no_heartbeats_are_asked_for_no_heartbeats_come() {
    let mut rig = Rig::new();
    for step in [b"AMQP\0\0\x09\x01".to_vec(), start_ok("guest", "guest"), tune_ok(0, 0), open("/")]
    {
        rig.send(&step);
    }
    assert_eq!(rig.session.poll_timeout(), Time::NEVER);
}

#[test]
fn a_close_that_is_not_answered_ends() {
    let mut rig = Rig::running();
    rig.event(Event::Closed(CloseReason::Shutdown));
    let AMQPClass::Connection(connection::AMQPMethod::Close(close)) = rig.method() else {
        panic!("no close");
    };
    assert_eq!(close.reply_code, 320);
    let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
    assert_eq!(close.reply_text.as_str(), text);
    assert_eq!(rig.session.poll_timeout(), Time::from_millis(11_000));
    at(&mut rig, 11_000);
    assert!(rig.session.is_closed());
}

const LOW_MEMORY: Shortage = Shortage { memory: true, ..Shortage::NONE };
const LOW_DISK: Shortage = Shortage { disk: true, ..Shortage::NONE };

fn blocked(method: AMQPClass) -> String {
    let AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)) = method else {
        panic!("not blocked: {method:?}");
    };
    blocked.reason.to_string()
}

#[test]
fn publishers_are_told_of_a_shortage_once() {
    for (shortage, reason) in [
        (LOW_MEMORY, "low on memory"),
        (LOW_DISK, "low on disk"),
        (Shortage { memory: true, disk: true, paging: false }, "low on memory & disk"),
    ] {
        let mut rig = Rig::running();
        rig.send(&declare_queue(1, "q", FieldTable::default()));
        rig.send(&publish(1, "", "q", b"m"));
        rig.take();
        rig.event(Event::Pressure(shortage));
        rig.event(Event::Pressure(shortage));
        assert_eq!(blocked(rig.method()), reason);
        rig.event(Event::Pressure(Shortage::NONE));
        rig.event(Event::Pressure(Shortage::NONE));
        let unblocked = rig.method();
        assert!(matches!(unblocked, AMQPClass::Connection(connection::AMQPMethod::Unblocked(_))));
        assert_eq!(rig.take(), []);
    }
}

#[test]
fn a_publish_is_held_until_the_shortage_is_over() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.take();
    rig.event(Event::Pressure(LOW_DISK));
    assert_eq!(rig.take(), [], "who has not published is told nothing");
    let mut both = get(1, "q");
    both.extend(publish(1, "", "q", b"first"));
    both.extend(get(1, "q"));
    rig.send(&both);
    // What stands before the publish is done.
    let said = rig.take();
    let [AMQPFrame::Method(0, first), AMQPFrame::Method(1, second)] = &said[..] else {
        panic!("{said:?}");
    };
    assert_eq!(blocked(first.clone()), "low on disk");
    assert!(matches!(second, AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_))));
    assert!(rig.session.is_holding());
    // Another shortage, and the end of one of two, are no end.
    rig.event(Event::Pressure(Shortage { memory: true, disk: true, paging: false }));
    rig.event(Event::Pressure(LOW_MEMORY));
    assert!(rig.session.is_holding());
    rig.event(Event::Pressure(Shortage::NONE));
    rig.send(&[]);
    assert!(!rig.session.is_holding());
    let said = rig.take();
    let unblocked =
        AMQPClass::Connection(connection::AMQPMethod::Unblocked(connection::Unblocked {}));
    assert_eq!(said.first(), Some(&AMQPFrame::Method(0, unblocked)));
    assert_eq!(said.last(), Some(&AMQPFrame::Body(1, b"first".to_vec())));
}

#[test]
fn a_message_in_pieces_is_held_wherever_it_is() {
    let message = publish(1, "", "q", &[7; 3000]);
    for cut in [1, 20, 30, 60, message.len() - 1] {
        let mut rig = Rig::running();
        rig.send(&declare_queue(1, "q", FieldTable::default()));
        rig.take();
        rig.send(&message[..cut]);
        rig.event(Event::Pressure(LOW_MEMORY));
        rig.send(&message[cut..]);
        assert!(rig.session.is_holding(), "{cut}");
        rig.take();
        rig.event(Event::Pressure(Shortage::NONE));
        rig.send(&get(1, "q"));
        let last = rig.take().into_iter().next_back();
        assert!(matches!(last, Some(AMQPFrame::Body(1, body)) if body == [7; 3000]), "{cut}");
    }
}

#[test]
fn who_is_not_read_is_sent_heartbeats_and_not_found_dead() {
    let mut rig = Rig::running();
    rig.event(Event::Pressure(LOW_MEMORY));
    rig.send(&publish(1, "", "q", b"m"));
    rig.take();
    for minute in 1..10 {
        at(&mut rig, minute * 60_000);
        assert_eq!(rig.take(), [AMQPFrame::Heartbeat]);
        assert!(!rig.session.is_closed());
    }
    // Whoever does not publish is read, and so may be found dead.
    let mut rig = Rig::running();
    rig.event(Event::Pressure(LOW_MEMORY));
    at(&mut rig, 121_000);
    assert!(rig.session.is_closed());
}

#[test]
fn as_much_is_published_as_is_allowed_and_the_rest_waits_unharmed() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.take();
    rig.session.limit_publishes(3);
    // Whole messages, one in pieces, and something that waits behind them.
    let large = publish(1, "", "q", &[7; 3000]);
    let messages = publish(1, "", "q", b"m").repeat(2);
    rig.send(&[messages.clone(), large[..40].to_vec()].concat());
    assert!(!rig.session.is_holding(), "a message that was begun is taken to its end");
    rig.send(&[large[40..].to_vec(), messages, get(1, "q")].concat());
    assert!(rig.session.is_holding());
    assert_eq!(rig.take(), [], "a client is not told");
    for minute in 1..5 {
        at(&mut rig, minute * 60_000);
        assert_eq!(rig.take(), [AMQPFrame::Heartbeat]);
    }
    rig.session.limit_publishes(1);
    assert!(!rig.session.is_holding());
    rig.send(b"");
    assert!(rig.session.is_holding(), "one of two was taken");
    rig.session.limit_publishes(u64::MAX);
    rig.send(b"");
    let last = rig.take().into_iter().next_back();
    assert!(matches!(last, Some(AMQPFrame::Body(1, body)) if body == b"m"));
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    let AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)) = rig.method() else {
        panic!("no declare-ok");
    };
    assert_eq!(ok.message_count, 4, "five were published, and one was got");
}

#[test]
fn a_channel_without_a_place_ends_the_connection_and_gives_its_places_back() {
    let places = Arc::new(Places::default());
    places.set_max(Some(2));
    let mut rig = Rig::running();
    rig.session.set_places(Arc::clone(&places));
    rig.send(&[channel_open(2), channel_open(3)].concat());
    rig.take();
    assert!(places.take().is_err());
    rig.send(&channel_open(4));
    let AMQPClass::Connection(connection::AMQPMethod::Close(close)) = rig.method() else {
        panic!("no close");
    };
    assert_eq!(close.reply_code, 530);
    assert!(close.reply_text.as_str().contains("maximum allowed user limit of (2)"));
    let both = (places.take(), places.take());
    assert!(both.0.is_ok() && both.1.is_ok());
}

#[test]
fn a_shortage_does_not_hold_up_the_end() {
    let mut rig = Rig::running();
    rig.event(Event::Pressure(LOW_MEMORY));
    rig.send(&publish(1, "", "q", b"m"));
    assert!(rig.session.is_holding());
    rig.event(Event::Closed(CloseReason::Shutdown));
    assert!(!rig.session.is_holding(), "the answer must be read");
}

#[test]
fn a_consumer_whose_queue_goes_is_cancelled() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.send(&consume(1, "q", "t", false));
    rig.take();
    let consumer = ConsumerId(1);
    rig.event(Event::Detached { consumer, reason: DetachReason::QueueDeleted });
    let AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) = rig.method() else {
        panic!("no cancel");
    };
    assert_eq!((cancel.consumer_tag.as_str(), cancel.nowait), ("t", true));
    // Its tag is free again.
    rig.send(&consume(1, "q", "t", false));
    assert!(matches!(rig.method(), AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_))));
}

#[test]
fn what_arrives_for_a_closed_channel_goes_back() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.send(&consume(1, "q", "t", false));
    rig.send(&publish(1, "", "q", b"m"));
    // An unknown tag closes the channel; the broker has not heard yet when it delivers.
    rig.input.extend(&ack(1, 99, false));
    let Rig { session, input, now, .. } = &mut rig;
    session.handle_bytes(*now, input);
    let mut commands: Vec<Command> = std::iter::from_fn(|| session.poll_command()).collect();
    let delivery = sample_delivery(&[0x10, 0, 2], None);
    session.handle_event(*now, Event::Deliveries(vec![delivery]));
    commands.extend(std::iter::from_fn(|| session.poll_command()));
    let names: Vec<String> = commands.iter().map(|c| format!("{c:?}")[..6].to_owned()).collect();
    assert_eq!(names, ["Detach", "Settle", "Settle"]);
    for command in commands {
        for event in rig.broker.run(command) {
            rig.session.handle_event(rig.now, event);
        }
    }
}

fn sample_delivery(head: &[u8], annotations: Option<Annotations>) -> Delivery {
    let mut chunk = b"exkey".to_vec();
    chunk.extend(head);
    chunk.extend(b"body");
    let span = isthmus_model::Span::new;
    let record = isthmus_model::Record {
        exchange: span(0, 2),
        routing_key: span(2, 3),
        head: span(5, head.len()),
        body: span(5 + head.len(), 4),
        ttl_ms: isthmus_model::NO_TTL,
        priority: 0,
        flags: isthmus_model::RecordFlags::default(),
    };
    Delivery {
        consumer: ConsumerId(1),
        queue: QueueId(1),
        first: 1,
        len: 1,
        epoch: LeaseEpoch(1),
        deadline: Time::NEVER,
        batch: Arc::new(isthmus_model::Batch::new(
            isthmus_model::EncodingId::AMQP_0_9_1,
            chunk.into(),
            vec![record],
        )),
        record: 0,
        redelivered: true,
        delivery_count: 0,
        waited_ms: 0,
        annotations: annotations.map(Arc::new),
    }
}

#[test]
fn a_dead_lettered_message_tells_its_deaths() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.send(&consume(1, "q", "t", false));
    rig.take();
    let sent = publish_with(
        1,
        to("ex", "key"),
        basic::AMQPProperties::default()
            .with_content_type("a/b".into())
            .with_headers(table(&[
                ("own", AMQPValue::ShortInt(5)),
                ("x-first-death-queue", AMQPValue::LongString("forged".into())),
            ]))
            .with_expiration("10".into())
            .with_message_id("id".into()),
        b"",
        1,
    );
    // The head is what follows the body size in the second frame.
    let header = sent.windows(4).position(|w| w == [0, 60, 0, 0]).unwrap();
    let head = &sent[header + 12..sent.len() - 1];
    let death = |queue: &str, reason, original_ttl_ms| Death {
        queue: queue.into(),
        reason,
        count: 2,
        first_at: Time::from_millis(1_700_000_000_500),
        exchange: "ex".into(),
        routing_keys: vec!["key".into()],
        original_ttl_ms,
    };
    let annotations = Annotations {
        exchange: Some("dlx".into()),
        routing_key: Some("dead".into()),
        deaths: vec![
            death("second", DeathReason::Rejected, None),
            death("first", DeathReason::Expired, Some(10)),
        ],
        delay_spent: false,
        recalled: false,
    };
    let mut delivery = sample_delivery(head, Some(annotations));
    delivery.delivery_count = 3;
    rig.event(Event::Deliveries(vec![delivery]));
    let frames = rig.take();
    let AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver))) = &frames[0]
    else {
        panic!("{frames:?}");
    };
    assert_eq!((deliver.exchange.as_str(), deliver.routing_key.as_str()), ("dlx", "dead"));
    assert!(deliver.redelivered);
    let AMQPFrame::Header(1, header) = &frames[1] else { panic!("{frames:?}") };
    let properties = &header.properties;
    assert_eq!(properties.expiration(), &None, "it would expire again");
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "id");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "a/b");
    let headers = properties.headers().as_ref().unwrap().inner();
    let text = |s: &str| AMQPValue::LongString(s.into());
    assert_eq!(headers["own"], AMQPValue::ShortInt(5), "own headers keep their types");
    assert_eq!(headers["x-first-death-queue"], text("first"));
    assert_eq!(headers["x-first-death-reason"], text("expired"));
    assert_eq!(headers["x-last-death-queue"], text("second"));
    assert_eq!(headers["x-delivery-count"], AMQPValue::LongLongInt(3));
    let AMQPValue::FieldArray(deaths) = &headers["x-death"] else { panic!("{headers:?}") };
    let AMQPValue::FieldTable(first) = &deaths.as_slice()[1] else { panic!("{deaths:?}") };
    let first = first.inner();
    assert_eq!(first["count"], AMQPValue::LongLongInt(2));
    assert_eq!(first["time"], AMQPValue::Timestamp(1_700_000_000));
    assert_eq!(first["original-expiration"], text("10"));
}

#[test]
fn a_client_that_does_not_read_is_not_listened_to() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    let flow = [0, 20, 0, 20, 1];
    let mut asked = Vec::new();
    for _ in 0..200_000 {
        asked.extend([1, 0, 1, 0, 0, 0, 5]);
        asked.extend(flow);
        asked.push(0xCE);
    }
    rig.take();
    rig.input.extend(&asked);
    rig.session.handle_bytes(rig.now, &mut rig.input);
    assert!(rig.session.outbox().len() < 1024 * 1024 + 100);
    assert!(!rig.input.is_empty());
    // It stays connected however long that takes.
    rig.now = rig.now + Duration::from_secs(1000);
    rig.session.handle_timeout(rig.now);
    assert!(!rig.session.is_closed());
    while !rig.input.is_empty() {
        rig.write();
        rig.session.handle_bytes(rig.now, &mut rig.input);
    }
    rig.write();
    assert_eq!(rig.take().len(), 200_000);
}

#[test]
fn what_arrives_for_a_cancelled_consumer_of_a_closed_channel_goes_back() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.send(&consume(1, "q", "t", false));
    let cancel = basic::Cancel { consumer_tag: "t".into(), nowait: false };
    rig.input.extend(&basic_method(1, basic::AMQPMethod::Cancel(cancel)));
    rig.input.extend(&ack(1, 99, false));
    let Rig { session, input, now, .. } = &mut rig;
    session.handle_bytes(*now, input);
    let commands: Vec<Command> = std::iter::from_fn(|| session.poll_command()).collect();
    assert_eq!(commands.len(), 1, "{commands:?}");
    session.handle_event(*now, Event::Deliveries(vec![sample_delivery(&[0, 0], None)]));
    assert!(matches!(session.poll_command(), Some(Command::Settle { .. })));
}

#[test]
fn a_client_that_asks_faster_than_the_broker_answers_waits() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.take();
    let asked = get(1, "q").repeat(5000);
    rig.input.extend(&asked);
    rig.session.handle_bytes(rig.now, &mut rig.input);
    assert!(!rig.input.is_empty());
    let mut commands = std::collections::VecDeque::new();
    commands.extend(std::iter::from_fn(|| rig.session.poll_command()));
    assert_eq!(commands.len(), 1024);
    while let Some(command) = commands.pop_front() {
        for event in rig.broker.run(command) {
            rig.session.handle_event(rig.now, event);
            rig.session.handle_bytes(rig.now, &mut rig.input);
            commands.extend(std::iter::from_fn(|| rig.session.poll_command()));
        }
    }
    rig.write();
    assert_eq!(rig.take().len(), 5000);
}

fn qos(count: u16, global: bool) -> Vec<u8> {
    let qos = basic::Qos { prefetch_count: count, global };
    basic_method(1, basic::AMQPMethod::Qos(qos))
}

#[test]
fn a_prefetch_is_a_consumers_own_and_a_global_one_is_the_channels() {
    let mut rig = Rig::running();
    rig.send(&declare_queue(1, "q", FieldTable::default()));
    rig.send(&[qos(3, false), consume(1, "q", "first", false)].concat());
    rig.send(&[qos(0, false), consume(1, "q", "second", true)].concat());
    rig.broker.log.clear();
    rig.send(&[qos(9, true), consume(1, "q", "third", false)].concat());
    rig.send(&qos(0, true));
    let log = rig.broker.log.join("\n");
    let expected = [
        "Window { window: WindowId(1), limit: Some(9) }",
        "Credit { consumer: ConsumerId(1), credit: Window { limit: Some(3), shared: Some(WindowId(1)) } }",
        "credit: Window { limit: None, shared: Some(WindowId(1)) }",
        "Window { window: WindowId(1), limit: None }",
    ];
    assert_eq!(rig.broker.log.len(), expected.len(), "{log}");
    for (line, expected) in rig.broker.log.iter().zip(expected) {
        assert!(line.contains(expected), "{line}");
    }
}
