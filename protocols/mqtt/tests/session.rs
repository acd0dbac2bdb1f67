//! The session with a client and a broker in memory, under virtual time.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{connect4, connect5, p, props, s};
use isthmus_contract::{
    CloseReason, Command, CommandError, DetachReason, Event, Input, Reply, Session, Shortage,
};
use isthmus_model::{
    AttachMode, Batch, ConsumerId, Credit, Delivery, Encoding, EncodingId, Encodings, LeaseEpoch,
    NO_TTL, Outcome, PublishException, PublishRefusal, QueueId, Record, RecordFlags, SessionId,
    Span, Table, Time, Token, TopologyChange, Value,
};
use isthmus_mqtt::codec::{Qos, frame};
use isthmus_mqtt::convert::stored::{Message, store};
use isthmus_mqtt::{MqttSession, SessionConfig};

const NOW: Time = Time(1_000_000_000);

/// A session, what its client has sent and not been taken, and what it asked of the broker.
struct Rig {
    session: MqttSession,
    input: Input,
    asked: Vec<String>,
    /// Publishes that are not answered.
    published: Vec<(Token, Arc<Batch>)>,
}

impl Rig {
    fn new() -> Rig {
        let session = MqttSession::new(SessionConfig::new(SessionId(7)), NOW);
        Rig { session, input: Input::new(), asked: Vec::new(), published: Vec::new() }
    }

    /// A client of 5.0 that is accepted.
    fn accepted() -> Rig {
        let mut rig = Rig::new();
        let ack = rig.send(&connect5(0xC2, &[], &[&s("u"), &s("p")]));
        assert_eq!(ack[..4], [0x20, ack[1], 0, 0]);
        rig.asked.clear();
        rig
    }

    /// A client of 3.1.1 that is accepted.
    fn accepted4() -> Rig {
        let mut rig = Rig::new();
        assert_eq!(rig.send(&connect4(0xC2, &[&s("u"), &s("p")])), [0x20, 2, 0, 0]);
        rig.asked.clear();
        rig
    }

    /// Sends `bytes` and answers every command but publishes; returns what comes back.
    fn send(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.input.extend(bytes);
        self.pump()
    }

    fn pump(&mut self) -> Vec<u8> {
        loop {
            self.session.handle_bytes(NOW, &mut self.input);
            let mut moved = false;
            while let Some(command) = self.session.poll_command() {
                moved = true;
                self.answer(command);
            }
            if !moved {
                return self.written();
            }
        }
    }

    fn answer(&mut self, command: Command) {
        let (token, result) = match command {
            Command::Authenticate { token, credentials } => {
                self.asked.push(format!("{credentials:?}"));
                (token, Ok(Reply::Authenticated { user: "u".into() }))
            }
            Command::Enter { token, .. } => (token, Ok(Reply::Ok)),
            Command::Topology { token, change } => {
                let (what, refused) = match &change {
                    TopologyChange::DeclareOwnQueue(def) => {
                        (format!("declare {}", def.name), false)
                    }
                    TopologyChange::Bind(b) => {
                        (format!("bind {}", b.routing_key), &*b.routing_key == "secret")
                    }
                    TopologyChange::Unbind(b) => {
                        (format!("unbind {} {:?}", b.routing_key, b.destination), false)
                    }
                    other => panic!("{other:?}"),
                };
                self.asked.push(what);
                let refusal = || CommandError::Refused("no".to_owned());
                (token, if refused { Err(refusal()) } else { Ok(Reply::Ok) })
            }
            Command::Attach(attach) => {
                let wanted = match attach.mode {
                    AttachMode::ConsumeSettled => Credit::Unlimited,
                    AttachMode::Consume => Credit::Window { limit: Some(1000), shared: None },
                };
                assert_eq!(attach.credit, wanted);
                self.asked.push(format!("attach {}", attach.queue));
                (attach.token, Ok(Reply::Attached))
            }
            Command::Settle { settlements, .. } => {
                for s in settlements {
                    self.asked.push(format!("settle {}+{} {:?}", s.first, s.len, s.outcome));
                }
                return;
            }
            Command::Publish(publish) => {
                for record in &publish.batch.records {
                    let (exchange, key) =
                        (publish.batch.exchange(record), publish.batch.routing_key(record));
                    let body = String::from_utf8_lossy(publish.batch.body(record)).into_owned();
                    self.asked.push(format!("publish {exchange} {key} {body}"));
                }
                self.published.push((publish.token, publish.batch));
                return;
            }
            other => panic!("{other:?}"),
        };
        self.session.handle_event(NOW, Event::Done { token, result });
    }

    fn written(&mut self) -> Vec<u8> {
        let bytes = self.session.outbox().to_vec();
        self.session.outbox().advance(bytes.len());
        bytes
    }

    fn event(&mut self, event: Event) -> Vec<u8> {
        self.session.handle_event(NOW, event);
        self.pump()
    }

    /// Says that the oldest publish is done, save for `refusals`.
    fn confirm(&mut self, refusals: &[(u32, PublishRefusal)]) -> Vec<u8> {
        let (token, batch) = self.published.remove(0);
        let exception =
            |&(record, refusal)| PublishException { batch: batch.clone(), record, refusal };
        let exceptions = refusals.iter().map(exception).collect();
        self.event(Event::Done { token, result: Ok(Reply::Published { exceptions }) })
    }
}

/// A delivery of one message to the consumer of `granted`.
fn delivery(granted: u64, qos: Qos, topic: &str, first: u64) -> Event {
    let message = Message {
        qos,
        retain: false,
        topic,
        properties: isthmus_mqtt::codec::Properties::NONE,
        payload: b"m",
    };
    Event::Deliveries(vec![Delivery {
        consumer: ConsumerId(granted),
        queue: QueueId(1),
        first,
        len: 1,
        epoch: LeaseEpoch(1),
        deadline: Time::NEVER,
        batch: store(&message, "amq.topic"),
        record: 0,
        redelivered: false,
        delivery_count: 0,
        annotations: None,
    }])
}

fn publish5(first: u8, topic: &str, packet_id: &[u8], body: &str) -> Vec<u8> {
    p(first, &[&s(topic), packet_id, &[0], body.as_bytes()])
}

#[test]
fn a_client_is_accepted_and_told_what_the_server_can_do() {
    let mut rig = Rig::new();
    let bytes = p(
        0x10,
        &[&s("MQTT"), &[5, 0xC2, 0, 0], &props(&[&[0x11, 0, 0, 0, 9]]), &s(""), &s("u"), &s("p")],
    );
    let ack = rig.send(&bytes);
    let told = [
        &[0x11, 0, 0, 0, 0, 0x24, 1, 0x25, 0, 0x27, 1, 0, 0, 0][..],
        &[0x22, 0, 16, 0x29, 0, 0x2A, 0, 0x12],
        &s(format!("isthmus-{:032x}", 0)),
    ]
    .concat();
    assert_eq!(ack, p(0x20, &[&[0, 0], &props(&[&told])]));
    assert_eq!(rig.asked, ["Password { user: \"u\", password: (secret) }"]);
    assert_eq!(rig.session.protocol(), "MQTT 5.0");
    assert_eq!(rig.session.poll_timeout(), Time::NEVER);
}

#[test]
fn who_is_not_let_in_is_told_in_their_own_version() {
    let will = [&[0][..], &s("t"), &s("m")].concat();
    for (bytes, answer) in [
        (connect5(2, &[], &[]), &[0x20, 3, 0, 0x87, 0][..]),
        (connect4(2, &[]), &[0x20, 2, 0, 5]),
        (connect5(3, &[], &[]), &[0x20, 3, 0, 0x81, 0]),
        (connect4(3, &[]), &[]),
        (connect4(0xC0, &[&s("u"), &s("p")]), &[0x20, 2, 0, 3]),
        (p(0x10, &[&s("MQTT"), &[9, 2, 0, 0], &s("")]), &[0x20, 2, 0, 1]),
        (p(0x10, &[&s("MQTT"), &[4, 0, 0, 0], &s("")]), &[0x20, 2, 0, 2]),
        (connect5(2, &[&[0x15], &s("SCRAM")], &[]), &[0x20, 3, 0, 0x8C, 0]),
        (connect5(0x16, &[], &[&will]), &[0x20, 3, 0, 0x9B, 0]),
        (connect5(0x26, &[], &[&will]), &[0x20, 3, 0, 0x9A, 0]),
        (vec![0xC0, 0], &[]),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), &[]),
        (vec![0x10, 0xFF, 0xFF, 0x7F], &[]),
    ] {
        let mut rig = Rig::new();
        let written = rig.send(&bytes);
        assert_eq!(written, answer, "{bytes:02X?}");
        assert!(rig.session.is_closed());
    }
}

#[test]
fn a_wrong_password_and_a_closed_vhost_are_refused() {
    for (enters, answer) in [(false, 4), (true, 5)] {
        let mut session = MqttSession::new(SessionConfig::new(SessionId(7)), NOW);
        let mut input = Input::new();
        input.extend(&connect4(0xC2, &[&s("u"), &s("p")]));
        session.handle_bytes(NOW, &mut input);
        let refused = || Err(CommandError::Refused("no".to_owned()));
        let Some(Command::Authenticate { token, .. }) = session.poll_command() else { panic!() };
        let result = if enters { Ok(Reply::Authenticated { user: "u".into() }) } else { refused() };
        session.handle_event(NOW, Event::Done { token, result });
        if enters {
            let Some(Command::Enter { token, .. }) = session.poll_command() else { panic!() };
            session.handle_event(NOW, Event::Done { token, result: refused() });
        }
        assert_eq!(session.outbox().to_vec(), [0x20, 2, 0, answer]);
        assert!(session.is_closed());
    }
}

#[test]
fn publishes_of_one_read_are_one_batch_and_acknowledged_once_they_are_taken() {
    let mut rig = Rig::accepted();
    let bytes = [
        publish5(0x30, "a/b", &[], "0"),
        publish5(0x32, "a/b.c", &[0, 1], "1"),
        publish5(0x32, "d", &[0, 2], "2"),
        publish5(0x32, "e", &[0, 3], "3"),
    ]
    .concat();
    assert_eq!(rig.send(&bytes), []);
    assert_eq!(rig.published.len(), 1);
    let expected = [
        "publish amq.topic a.b 0",
        "publish amq.topic a.b/c 1",
        "publish amq.topic d 2",
        "publish amq.topic e 3",
    ];
    assert_eq!(rig.asked, expected);
    let written = rig.confirm(&[(0, PublishRefusal::Full), (2, PublishRefusal::Full)]);
    assert_eq!(written, [0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x97, 0x40, 2, 0, 3]);
}

#[test]
fn before_5_0_what_is_not_taken_ends_the_connection() {
    let mut rig = Rig::accepted4();
    rig.send(&p(0x32, &[&s("a"), &[0, 1], b"m"]));
    assert_eq!(rig.confirm(&[(0, PublishRefusal::Full)]), []);
    assert!(rig.session.is_closed());
}

#[test]
fn how_the_input_is_split_changes_nothing() {
    let bytes = [
        connect5(0xC2, &[], &[&s("u"), &s("p")]),
        p(0x82, &[&[0, 1, 0], &s("a/+"), &[1], &s("#"), &[0]]),
        publish5(0x32, "a/b", &[0, 1], "1"),
        p(0x30, &[&s("long/topic"), &props(&[&[0x23, 0, 1]]), b"2"]),
        p(0x30, &[&s(""), &props(&[&[0x23, 0, 1]]), b"3"]),
        p(0xA2, &[&[0, 2, 0], &s("#"), &s("none")]),
    ]
    .concat();
    let run = |piece: usize| {
        let mut rig = Rig::new();
        let written: Vec<u8> = bytes.chunks(piece).flat_map(|part| rig.send(part)).collect();
        // After everything that the broker was asked is answered.
        assert_eq!(rig.send(&[0xC0, 0, 0xE0, 0]), [0xD0, 0]);
        assert!(rig.session.is_closed());
        (rig.asked, written)
    };
    let whole = run(bytes.len());
    assert!(whole.0.contains(&"publish amq.topic long.topic 3".to_owned()), "{:?}", whole.0);
    for piece in 1..bytes.len() {
        assert_eq!(run(piece), whole, "in pieces of {piece}");
    }
}

#[test]
fn subscriptions_are_bindings_of_a_queue_for_each_qos() {
    let mut rig = Rig::accepted();
    let bytes = p(
        0x82,
        &[
            &[0, 9, 0],
            &s("a/+"),
            &[1],
            &s("b.c/#"),
            &[2],
            &s("$share/g/x"),
            &[0],
            &s("secret"),
            &[1],
            &s("n"),
            &[4],
        ],
    );
    let ack = rig.send(&bytes);
    assert_eq!(ack, [0x90, 8, 0, 9, 0, 1, 1, 0x9E, 0x87, 0x83]);
    let expected = [
        "declare amq.mqtt.7.qos1",
        "bind a.*",
        "attach amq.mqtt.7.qos1",
        "bind b/c.#",
        "bind secret",
    ];
    assert_eq!(rig.asked, expected);
    rig.asked.clear();
    // In another QoS, in the place of the first [MQTT-3.8.4-3].
    assert_eq!(rig.send(&p(0x82, &[&[0, 10, 0], &s("a/+"), &[0]])), [0x90, 4, 0, 10, 0, 0]);
    let expected = [
        "declare amq.mqtt.7.qos0",
        "bind a.*",
        "unbind a.* Queue(\"amq.mqtt.7.qos1\")",
        "attach amq.mqtt.7.qos0",
    ];
    assert_eq!(rig.asked, expected);
    rig.asked.clear();
    let ack = rig.send(&p(0xA2, &[&[0, 11, 0], &s("a/+"), &s("secret")]));
    assert_eq!(ack, [0xB0, 5, 0, 11, 0, 0, 0x11]);
    assert_eq!(rig.asked, ["unbind a.* Queue(\"amq.mqtt.7.qos0\")"]);
}

#[test]
fn deliveries_are_acknowledged_by_their_packet_identifiers() {
    let mut rig = Rig::accepted4();
    rig.send(&p(0x82, &[&[0, 1], &s("a"), &[1], &s("#"), &[0]]));
    rig.asked.clear();
    let publish = |first: u8, id: &[u8]| p(first, &[&s("a"), id, b"m"]);
    assert_eq!(rig.event(delivery(0, Qos::AtLeastOnce, "a", 1)), publish(0x30, &[]));
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a", 1)), publish(0x32, &[0, 1]));
    assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", 2)), publish(0x32, &[0, 2]));
    assert!(rig.asked.is_empty());
    // Of the QoS that it was published with, and settled at once.
    assert_eq!(rig.event(delivery(1, Qos::AtMostOnce, "a", 3)), publish(0x30, &[]));
    assert_eq!(rig.asked, [format!("settle 3+1 {:?}", Outcome::Accept)]);
    rig.asked.clear();
    rig.send(&[0x40, 2, 0, 1, 0x40, 2, 0, 2, 0x40, 2, 0, 2]);
    assert_eq!(rig.asked, [format!("settle 1+2 {:?}", Outcome::Accept)]);
}

#[test]
fn mqtt5_2_2_1_4_packet_identifiers_come_round_without_those_in_use() {
    let mut rig = Rig::accepted4();
    rig.send(&p(0x82, &[&[0, 1], &s("a"), &[1]]));
    let mut deliver = |sequence: u64| {
        let bytes = rig.event(delivery(1, Qos::AtLeastOnce, "a", sequence));
        let id = u16::from_be_bytes([bytes[5], bytes[6]]);
        // The second is never acknowledged.
        if id != 2 {
            rig.send(&[0x40, 2, bytes[5], bytes[6]]);
        }
        id
    };
    let first: Vec<u16> = (1..=3).map(&mut deliver).collect();
    assert_eq!(first, [1, 2, 3]);
    let last = (4..=65_535).map(&mut deliver).last();
    assert_eq!(last, Some(65_535));
    assert_eq!([deliver(65_536), deliver(65_537)], [1, 3]);
}

/// Heads that are their content type.
struct Plain;

impl Encoding for Plain {
    fn headers(&self, _head: &[u8]) -> Table {
        Table(vec![("n".to_owned(), Value::Int(5))])
    }

    fn more_routing_keys(&self, _head: &[u8]) -> Vec<String> {
        Vec::new()
    }

    fn property(&self, head: &[u8], name: &str) -> Option<String> {
        (name == "content_type").then(|| String::from_utf8_lossy(head).into_owned())
    }
}

#[test]
fn messages_of_other_protocols_are_told_in_mqtts_words() {
    const ENCODINGS: Encodings = Encodings(&[(EncodingId::AMQP_0_9_1, &Plain)]);
    let record = |key: (usize, usize), flags| Record {
        exchange: Span::default(),
        routing_key: Span::new(key.0, key.1),
        head: Span::new(0, 4),
        body: Span::new(4, 2),
        ttl_ms: NO_TTL,
        priority: 0,
        flags,
    };
    let batch = Batch {
        encoding: EncodingId::AMQP_0_9_1,
        chunk: Bytes::from_static(b"typehia.b*#"),
        records: vec![
            record((6, 3), RecordFlags::DURABLE),
            record((6, 3), RecordFlags::default()),
            // No topic stands for it.
            record((9, 2), RecordFlags::default()),
        ],
    };
    let event = || {
        Event::Deliveries(vec![Delivery {
            consumer: ConsumerId(1),
            queue: QueueId(1),
            first: 5,
            len: 3,
            epoch: LeaseEpoch(1),
            deadline: Time::NEVER,
            batch: Arc::new(batch.clone()),
            record: 0,
            redelivered: true,
            delivery_count: 1,
            annotations: None,
        }])
    };
    let config = SessionConfig { encodings: ENCODINGS, ..SessionConfig::new(SessionId(7)) };
    let mut rig = Rig::new();
    rig.session = MqttSession::new(config, NOW);
    rig.send(&connect5(0xC2, &[], &[&s("u"), &s("p")]));
    let told = props(&[
        &[0x03],
        &s("type"),
        &[0x26],
        &s("isthmus-type-of:n"),
        &s("int"),
        &[0x26],
        &s("n"),
        &s("5"),
    ]);
    let expected =
        [p(0x3A, &[&s("a/b"), &[0, 1], &told, b"hi"]), p(0x30, &[&s("a/b"), &told, b"hi"])];
    rig.asked.clear();
    assert_eq!(rig.event(event()), expected.concat());
    assert_eq!(rig.asked, [format!("settle 6+2 {:?}", Outcome::Accept)]);
    let mut rig = Rig::accepted4();
    let expected = [p(0x3A, &[&s("a/b"), &[0, 1], b"hi"]), p(0x30, &[&s("a/b"), b"hi"])];
    assert_eq!(rig.event(event()), expected.concat());
}

#[test]
fn a_client_whose_queue_is_deleted_is_told() {
    let mut rig = Rig::accepted();
    let reason = DetachReason::QueueDeleted;
    let written = rig.event(Event::Detached { consumer: ConsumerId(1), reason });
    assert_eq!((written[0], written[2]), (0xE0, 0x98));
    assert!(rig.session.is_closed());
}

#[test]
fn wildcards_pass_over_topics_that_begin_with_a_dollar() {
    let mut rig = Rig::accepted4();
    rig.send(&p(0x82, &[&[0, 1], &s("#"), &[1]]));
    rig.asked.clear();
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "$SYS/a", 1)), []);
    assert_eq!(rig.asked, [format!("settle 1+1 {:?}", Outcome::Accept)]);
    rig.send(&p(0x82, &[&[0, 1], &s("$SYS/#"), &[1]]));
    assert_ne!(rig.event(delivery(1, Qos::AtLeastOnce, "$SYS/a", 2)), []);
}

#[test]
fn mqtt5_3_1_2_25_what_is_too_large_counts_as_delivered() {
    let mut rig = Rig::new();
    rig.send(&connect5(0xC2, &[&[0x27, 0, 0, 0, 9]], &[&s("u"), &s("p")]));
    rig.send(&p(0x82, &[&[0, 1, 0], &s("#"), &[1]]));
    rig.asked.clear();
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a", 1)).len(), 9);
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "ab", 2)), []);
    assert_eq!(rig.asked, [format!("settle 2+1 {:?}", Outcome::Accept)]);
}

#[test]
fn what_the_server_cannot_do_ends_the_connection_with_its_reason() {
    for (bytes, reason) in [
        (p(0x34, &[&s("a"), &[0, 1, 0]]), 0x9B),
        (p(0x31, &[&s("a"), &[0]]), 0x9A),
        (p(0x30, &[&s("a"), &props(&[&[0x23, 0, 17]])]), 0x94),
        (p(0x30, &[&s(""), &props(&[&[0x23, 0, 1]])]), 0x82),
        (p(0x82, &[&[0, 1, 2, 0x0B, 1], &s("a"), &[0]]), 0xA1),
        (connect5(0xC2, &[], &[&s("u"), &s("p")]), 0x82),
        (p(0xF0, &[&[0x18], &props(&[&[0x15], &s("m")])]), 0x82),
        (vec![0x62, 2, 0, 1], 0x82),
        (p(0xE0, &[&[0], &props(&[&[0x11, 0, 0, 0, 1]])]), 0x82),
        (vec![0x36, 2, 0, 0], 0x81),
        (vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], 0x95),
    ] {
        let mut rig = Rig::accepted();
        // What came before it is published.
        let before = publish5(0x30, "before", &[], "");
        let written = rig.send(&[&before[..], &bytes].concat());
        assert_eq!((written[0], written[2]), (0xE0, reason), "{bytes:02X?}: {written:02X?}");
        let frame = frame::next(&written, 1000).unwrap().unwrap();
        assert_eq!(frame.wire_len(), written.len());
        assert!(rig.session.is_closed());
        assert_eq!(rig.asked, ["publish amq.topic before "]);
    }
}

#[test]
fn a_subscribe_of_too_many_filters_asks_for_nothing() {
    let mut rig = Rig::accepted();
    let filters = [&s("a")[..], &[0]].concat().repeat(10_001);
    let written = rig.send(&p(0x82, &[&[0, 1, 0], &filters]));
    assert_eq!((written[0], written[2]), (0xE0, 0x97));
    assert!(rig.asked.is_empty() && rig.session.is_closed());
}

/// A client of 5.0 with a will and a keep alive of 60 s.
fn mortal() -> Rig {
    let mut rig = Rig::new();
    let will = [&[0][..], &s("gone"), &s("bye")].concat();
    rig.send(&connect5(0xCE, &[], &[&will, &s("u"), &s("p")]));
    rig.asked.clear();
    rig
}

#[test]
fn mqtt5_3_1_2_22_a_silent_client_is_gone_after_one_and_a_half_keep_alives() {
    let mut rig = mortal();
    let late = NOW + Duration::from_secs(90);
    assert_eq!(rig.session.poll_timeout(), late);
    rig.session.handle_timeout(NOW + Duration::from_secs(89));
    assert!(!rig.session.is_closed());
    rig.session.handle_timeout(late);
    assert!(rig.session.is_closed());
    assert_eq!(rig.written(), [0xE0, 1, 0x8D]);
    rig.pump();
    assert_eq!(rig.asked, ["publish amq.topic gone bye"]);
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let mut session = MqttSession::new(SessionConfig::new(SessionId(7)), NOW);
    assert_eq!(session.poll_timeout(), NOW + Duration::from_secs(10));
    session.handle_timeout(NOW + Duration::from_secs(10));
    assert!(session.is_closed());
}

#[test]
fn mqtt5_3_14_4_3_a_will_is_published_unless_the_client_has_said_goodbye() {
    for (bytes, is_published) in
        [(vec![0xE0, 0], false), (vec![0xE0, 1, 4], true), (vec![0x00, 0], true)]
    {
        let mut rig = mortal();
        rig.send(&bytes);
        assert!(rig.session.is_closed());
        assert_eq!(!rig.asked.is_empty(), is_published, "{bytes:02X?}");
    }
    let mut rig = mortal();
    rig.session.handle_eof(NOW);
    rig.pump();
    assert_eq!(rig.asked, ["publish amq.topic gone bye"]);
}

#[test]
fn the_brokers_goodbye_is_told() {
    for (reason, code) in [
        (CloseReason::Shutdown, 0x8B),
        (CloseReason::NotLeader, 0x9C),
        (CloseReason::Forced, 0x98),
        (CloseReason::Expired, 0x87),
    ] {
        let mut rig = Rig::accepted();
        assert_eq!(rig.event(Event::Closed(reason)), [0xE0, 1, code]);
        let mut rig = Rig::accepted4();
        assert_eq!(rig.event(Event::Closed(reason)), []);
        assert!(rig.session.is_closed());
    }
}

#[test]
fn a_shortage_holds_publishes_back_and_nothing_else() {
    let mut rig = Rig::accepted();
    rig.event(Event::Pressure(Shortage { memory: true, disk: false, paging: false }));
    assert_eq!(rig.send(&[0xC0, 0]), [0xD0, 0]);
    assert!(!rig.session.is_holding());
    assert_eq!(rig.send(&publish5(0x30, "a", &[], "m")), []);
    assert!(rig.session.is_holding() && rig.published.is_empty());
    // Nor does silence end it, which is the server's doing: its keep alive is 60 s.
    rig.session.handle_timeout(NOW + Duration::from_secs(90));
    assert!(!rig.session.is_closed());
    assert_eq!(rig.session.poll_timeout(), NOW + Duration::from_secs(180));
    rig.event(Event::Pressure(Shortage::NONE));
    assert!(!rig.session.is_holding());
    assert_eq!(rig.asked, ["publish amq.topic a m"]);
}
