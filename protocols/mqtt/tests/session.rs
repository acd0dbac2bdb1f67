//! The session with a client and a broker in memory, under virtual time.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::rig::{NOW, Rig};
use common::{connect4, connect5, p, props, s};
use isthmus_contract::{
    CloseReason, Command, CommandError, DetachReason, Event, Input, PublishRefusal, Reply, Session,
    Shortage,
};
use isthmus_model::{
    Batch, ConsumerId, Delivery, Encoding, EncodingId, Encodings, LeaseEpoch, NO_TTL, QueueId,
    Record, RecordFlags, SessionId, Span, Table, Time, Value,
};
use isthmus_mqtt::codec::frame;
use isthmus_mqtt::{MqttSession, SessionConfig};

fn publish5(first: u8, topic: &str, packet_id: &[u8], body: &str) -> Vec<u8> {
    p(first, &[&s(topic), packet_id, &[0], body.as_bytes()])
}

#[test]
fn mqtt5_3_2_0_1_a_client_is_accepted_and_told_what_the_server_can_do() {
    let mut rig = Rig::new();
    let bytes = p(0x10, &[&s("MQTT"), &[5, 0xC2, 0, 0, 0], &s(""), &s("u"), &s("p")]);
    let ack = rig.send(&bytes);
    let id = format!("isthmus-{:032x}", 0);
    let told = [
        &[0x21, 0x03, 0xE8, 0x27, 1, 0, 0, 0][..],
        &[0x12],
        &s(&id),
        // That QoS 2, retained messages and so on are there goes without saying.
        &[0x22, 0, 16],
    ]
    .concat();
    assert_eq!(ack, p(0x20, &[&[0, 0], &props(&[&told])]));
    let expected =
        ["Password { user: \"u\", password: (secret) }", "enter /", &format!("open {id} true 0")];
    assert_eq!(rig.asked, expected);
    assert_eq!(rig.session.protocol(), "MQTT 5.0");
    assert_eq!(rig.session.poll_timeout(), Time::NEVER);
}

#[test]
fn who_is_not_let_in_is_told_in_their_own_version() {
    let long = "c".repeat(226);
    let long4 = p(0x10, &[&s("MQTT"), &[4, 0xC2, 0, 0], &s(&long), &s("u"), &s("p")]);
    let long5 = p(0x10, &[&s("MQTT"), &[5, 0xC2, 0, 0, 0], &s(&long), &s("u"), &s("p")]);
    for (bytes, answer) in [
        (long4, &[0x20, 2, 0, 2][..]),
        (long5, &[0x20, 3, 0, 0x85, 0]),
        (connect5(2, &[], &[]), &[0x20, 3, 0, 0x87, 0]),
        (connect4(2, &[]), &[0x20, 2, 0, 5]),
        (connect5(3, &[], &[]), &[0x20, 3, 0, 0x81, 0]),
        (connect4(3, &[]), &[]),
        (p(0x10, &[&s("MQTT"), &[9, 2, 0, 0], &s("")]), &[0x20, 2, 0, 1]),
        (p(0x10, &[&s("MQTT"), &[4, 0, 0, 0], &s("")]), &[0x20, 2, 0, 2]),
        (connect5(2, &[&[0x15], &s("SCRAM")], &[]), &[0x20, 3, 0, 0x8C, 0]),
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
    rig.answers = false;
    assert_eq!(rig.send(&bytes), []);
    let expected = ["publish amq.topic a.b 0, amq.topic a.b/c 1 durable, amq.topic d 2 durable, \
                     amq.topic e 3 durable"];
    assert_eq!(rig.asked, expected);
    let written = rig.confirm(&[(0, PublishRefusal::Full), (2, PublishRefusal::Full)]);
    assert_eq!(written, [0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x97, 0x40, 2, 0, 3]);
}

#[test]
fn before_5_0_what_is_not_taken_ends_the_connection() {
    let mut rig = Rig::accepted4();
    rig.answers = false;
    rig.send(&p(0x32, &[&s("a"), &[0, 1], b"m"]));
    assert_eq!(rig.confirm(&[(0, PublishRefusal::Full)]), []);
    assert!(rig.session.is_closed());
}

/// Packets of every kind, of a client whose session lasts.
fn conversation() -> Vec<u8> {
    [
        Rig::lasting_connect(),
        p(0x82, &[&[0, 11, 0], &s("a/+"), &[2], &s("#"), &[0], &s("$share/g/x"), &[1]]),
        publish5(0x32, "a/b", &[0, 1], "1"),
        p(0x30, &[&s("long/topic"), &props(&[&[0x23, 0, 1]]), b"2"]),
        p(0x34, &[&s(""), &[0, 2], &props(&[&[0x23, 0, 1]]), b"3"]),
        publish5(0x3C, "long/topic", &[0, 2], "3"),
        publish5(0x34, "a", &[0, 3], "4"),
        publish5(0x34, "$SYS/a", &[0, 4], "5"),
        publish5(0x31, "$own/a", &[], "6"),
        vec![0x62, 2, 0, 2, 0x62, 2, 0, 3, 0x62, 2, 0, 9],
        p(0xA2, &[&[0, 12, 0], &s("#"), &s("none"), &s("$share/g/x")]),
    ]
    .concat()
}

#[test]
fn how_the_input_is_split_changes_nothing() {
    let bytes = conversation();
    let run = |piece: usize| {
        let mut rig = Rig::new();
        let written: Vec<u8> = bytes.chunks(piece).flat_map(|part| rig.send(part)).collect();
        // After everything that the broker was asked is answered.
        assert_eq!(rig.send(&[0xC0, 0, 0xE0, 0]), [0xD0, 0]);
        assert!(rig.session.is_closed());
        (rig.world, written)
    };
    let whole = run(bytes.len());
    let published = [
        "amq.topic a.b 1 durable",
        "amq.topic long.topic 2",
        "amq.topic long.topic 3 durable",
        "amq.topic a 4 durable",
    ];
    assert_eq!(whole.0.published, published);
    let notes: Vec<&[u8]> = whole.0.notes.keys().map(Vec::as_slice).collect();
    assert_eq!(notes, [&b"q\x01"[..], b"sa/+"]);
    for piece in 1..bytes.len() {
        let split = run(piece);
        assert_eq!(split.0, whole.0, "in pieces of {piece}");
        // What each read brought is answered together: the order among those differs.
        let sorted = |mut written: Vec<u8>| {
            written.sort_unstable();
            written
        };
        assert_eq!(sorted(split.1), sorted(whole.1.clone()), "in pieces of {piece}");
    }
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
    let batch = Batch::new(
        EncodingId::AMQP_0_9_1,
        Bytes::from_static(b"typehia.b*#"),
        vec![
            record((6, 3), RecordFlags::DURABLE),
            record((6, 3), RecordFlags::default()),
            // No topic stands for it.
            record((9, 2), RecordFlags::default()),
        ],
    );
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
            waited_ms: 0,
            annotations: None,
        }])
    };
    let config = SessionConfig { encodings: ENCODINGS, ..SessionConfig::new(SessionId(7)) };
    let mut rig = Rig::with(config).connected(&connect5(0xC2, &[], &[&s("u"), &s("p")]));
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
        [p(0x3A, &[&s("a/b"), &[0, 6], &told, b"hi"]), p(0x30, &[&s("a/b"), &told, b"hi"])];
    rig.asked.clear();
    assert_eq!(rig.event(event()), expected.concat());
    assert_eq!(rig.asked, ["settle 6+2 Accept"]);
    let mut rig = Rig::accepted4();
    let expected = [p(0x3A, &[&s("a/b"), &[0, 6], b"hi"]), p(0x30, &[&s("a/b"), b"hi"])];
    assert_eq!(rig.event(event()), expected.concat());
}

/// What a client is sent of `len` messages of `batch` from `record` on, while `holders` more hold it.
fn got(rig: &mut Rig, batch: &Arc<Batch>, holders: usize, record: u32, len: u32) -> Vec<u8> {
    got_by(rig, batch, holders, (0, 5), record, len)
}

/// The same by the queue `lane`, in which the first of them has a sequence.
fn got_by(
    rig: &mut Rig,
    batch: &Arc<Batch>,
    holders: usize,
    (lane, first): (u64, u64),
    record: u32,
    len: u32,
) -> Vec<u8> {
    let _others: Vec<_> = (0..holders).map(|_| Arc::clone(batch)).collect();
    rig.event(Event::Deliveries(vec![Delivery {
        consumer: ConsumerId(lane),
        queue: QueueId(1),
        first,
        len,
        epoch: LeaseEpoch(1),
        deadline: Time::NEVER,
        batch: Arc::clone(batch),
        record,
        redelivered: false,
        delivery_count: 0,
        waited_ms: 0,
        annotations: None,
    }]))
}

/// A client of `version` that has subscribed to everything with `options`.
fn subscribed(config: SessionConfig, version: u8, connect: &[u8], options: u8) -> Rig {
    let mut rig = Rig::with(config).connected(connect);
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    rig.send(&p(0x82, &[&[0, 1][..], properties, &s("#"), &[options]]));
    rig.asked.clear();
    rig
}

/// How many hold what goes to many.
const MANY: usize = 8;

fn config_for_many() -> SessionConfig {
    const ENCODINGS: Encodings = Encodings(&[(EncodingId::AMQP_0_9_1, &Plain)]);
    SessionConfig { encodings: ENCODINGS, ..SessionConfig::new(SessionId(7)) }
}

/// Where a key and a body begin, and how long they are.
type Places = ((usize, usize), (usize, usize));

/// Messages with keys and bodies at these places of `typehia.b*#a longer body`.
fn for_many(flags: RecordFlags, messages: &[Places]) -> Arc<Batch> {
    let record = |&(key, body): &Places| Record {
        exchange: Span::default(),
        routing_key: Span::new(key.0, key.1),
        head: Span::new(0, 4),
        body: Span::new(body.0, body.1),
        ttl_ms: NO_TTL,
        priority: 0,
        flags,
    };
    let chunk = Bytes::from_static(b"typehia.b*#a longer body");
    let records = messages.iter().map(record).collect();
    Arc::new(Batch::new(EncodingId::AMQP_0_9_1, chunk, records))
}

/// Several with QoS 1 get the same bytes but for the packet identifiers, and settle what they have
/// acknowledged, whether it was sent as one or message by message.
#[test]
fn what_many_get_alike_with_qos_1_is_what_each_gets_alone() {
    let flags = RecordFlags::default().with(RecordFlags::DURABLE);
    let all = [((6, 3), (4, 2)), ((6, 3), (11, 13)), ((6, 1), (4, 2)), ((8, 1), (0, 0))];
    let name = [&s("u")[..], &s("p")];
    let v5 = connect5(0xC2, &[], &name);
    // Receive Maximum, Maximum Packet Size.
    let few = connect5(0xC2, &[&[0x21, 0, 3]], &name);
    let small = connect5(0xC2, &[&[0x27, 0, 0, 0, 55]], &name);
    let v4 = connect4(0xC2, &name);
    let acks: [&[u16]; 4] = [&[0, 1, 2, 3], &[3, 2, 1, 0], &[1, 2, 0, 3], &[0, 1, 1, 3, 2]];
    let shared = for_many(flags, &all);
    // The last ones' identifiers begin anew.
    for (first, len) in [(5, 4), (6, 2), (32_764, 3), (32_764, 4)] {
        for (version, connect, options) in [
            (5, &v5, 1),
            (5, &v5, 0b1001),
            (5, &v5, 0b101),
            (5, &few, 1),
            (5, &small, 1),
            (4, &v4, 1),
        ] {
            for acks in acks {
                let lane = if options & 0b100 != 0 { 3 } else { 1 };
                let served = |batch: &Arc<Batch>, holders| {
                    let mut rig = subscribed(config_for_many(), version, connect, options);
                    let mut sent = got_by(&mut rig, batch, holders, (lane, first), 0, len);
                    let ids = acks.iter().map(|at| match lane {
                        1 => 1 + (first + u64::from(*at)) % 32_767,
                        _ => 32_768 + (first + u64::from(*at)) % 16_384,
                    });
                    let acks = ids.flat_map(|id| p(0x40, &[&(id as u16).to_be_bytes()]));
                    sent.extend(rig.send(&acks.collect::<Vec<u8>>()));
                    (sent, rig.asked)
                };
                let alone = served(&for_many(flags, &all), 0);
                assert!(!alone.0.is_empty() && !alone.1.is_empty());
                assert_eq!(served(&shared, MANY), alone, "{first}+{len}, {acks:?}");
            }
        }
    }
    assert!((2..4).all(|form| matches!(shared.forms.get(form), Some(Some(_)))));
    // What was published with QoS 0 has no identifier.
    let volatile = for_many(RecordFlags::default(), &all);
    let rig = &mut subscribed(config_for_many(), 5, &v5, 1);
    let sent = got_by(rig, &volatile, MANY, (1, 5), 0, 4);
    assert_eq!((sent[0], &rig.asked[..]), (0x30, &["settle 5+4 Accept".to_owned()][..]));
    assert!(matches!(volatile.forms.get(3), Some(None)));
}

#[test]
fn what_many_get_alike_is_what_each_gets_alone() {
    let flags = RecordFlags::default().with(RecordFlags::RETAIN);
    let batch = || for_many(flags, &[((6, 3), (4, 2)), ((9, 2), (4, 2)), ((6, 3), (11, 13))]);
    let config = config_for_many;
    let name = [&s("u")[..], &s("p")];
    let v5 = connect5(0xC2, &[], &name);
    // Maximum Packet Size.
    let small = connect5(0xC2, &[&[0x27, 0, 0, 0, 40]], &name);
    let v4 = connect4(0xC2, &name);
    // The second wants to know what was published as retained.
    let clients = [(5, &v5, 0), (5, &v5, 0b1000), (5, &small, 0), (4, &v4, 0)];
    let mut shared = batch();
    for (version, connect, options) in clients {
        for (first, len) in [(0, 3), (0, 1), (1, 1), (2, 1), (1, 2)] {
            let mut rig = subscribed(config(), version, connect, options);
            let alone = got(&mut rig, &batch(), 0, first, len);
            let mut rig = subscribed(config(), version, connect, options);
            assert_eq!(got(&mut rig, &shared, MANY, first, len), alone, "{first}+{len}");
            // Also once hardly anybody holds it any more.
            let mut rig = subscribed(config(), version, connect, options);
            assert_eq!(got(&mut rig, &shared, 0, first, len), alone, "{first}+{len}");
            assert!(rig.asked.is_empty(), "nothing is settled: {:?}", rig.asked);
        }
    }
    // Both forms were made, each by the first who got it.
    assert!((0..2).all(|form| matches!(shared.forms.get(form), Some(Some(_)))));
    // One who gets it alone does not have all of it encoded.
    shared = batch();
    got(&mut subscribed(config(), 5, &v5, 0), &shared, 0, 0, 1);
    assert!((0..2).all(|form| shared.forms.get(form).is_none()));
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
fn what_must_not_be_ends_the_connection_with_its_reason() {
    for (bytes, reason) in [
        (p(0x30, &[&s("a"), &props(&[&[0x23, 0, 17]])]), 0x94),
        (p(0x30, &[&s(""), &props(&[&[0x23, 0, 1]])]), 0x82),
        (connect5(0xC2, &[], &[&s("u"), &s("p")]), 0x82),
        // Nor is it told that its version is not known, which is no reason to disconnect.
        (p(0x10, &[&s("MQTX"), &[9]]), 0x82),
        (p(0xF0, &[&[0x18], &props(&[&[0x15], &s("m")])]), 0x82),
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
        assert_eq!(rig.world.published, ["amq.topic before "]);
    }
}

#[test]
fn mqtt5_3_14_4_1_nothing_is_said_after_a_goodbye() {
    let mut rig = Rig::accepted();
    // What is answered before the fault is.
    let written = rig.send(&[0x62, 2, 0, 9, 0x36, 2, 0, 0]);
    assert_eq!(written[..6], [0x70, 3, 0, 9, 0x92, 0xE0]);
    assert_eq!(written.len(), 7 + usize::from(written[6]));
    let mut rig = Rig::accepted();
    rig.answers = false;
    rig.send(&publish5(0x32, "a", &[0, 1], ""));
    rig.session.handle_event(NOW, Event::Closed(CloseReason::Shutdown));
    rig.written();
    assert_eq!(rig.confirm(&[]), []);
}

#[test]
fn a_subscribe_of_too_many_filters_asks_for_nothing() {
    let mut rig = Rig::accepted();
    let filters = [&s("a")[..], &[0]].concat().repeat(10_001);
    let written = rig.send(&p(0x82, &[&[0, 1, 0], &filters]));
    assert_eq!((written[0], written[2]), (0xE0, 0x97));
    assert!(rig.asked.is_empty() && rig.session.is_closed());
}

#[test]
fn mqtt5_3_1_2_22_a_silent_client_is_gone_after_one_and_a_half_keep_alives() {
    let mut rig = Rig::accepted();
    let late = NOW + Duration::from_secs(90);
    assert_eq!(rig.session.poll_timeout(), late);
    rig.session.handle_timeout(NOW + Duration::from_secs(89));
    assert!(!rig.session.is_closed());
    rig.session.handle_timeout(late);
    assert!(rig.session.is_closed());
    assert_eq!(rig.written(), [0xE0, 1, 0x8D]);
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let mut session = MqttSession::new(SessionConfig::new(SessionId(7)), NOW);
    assert_eq!(session.poll_timeout(), NOW + Duration::from_secs(10));
    session.handle_timeout(NOW + Duration::from_secs(10));
    assert!(session.is_closed());
}

#[test]
fn mqtt5_3_1_4_3_the_brokers_goodbye_is_told() {
    for (reason, code) in [
        (CloseReason::Shutdown, 0x8B),
        (CloseReason::NotLeader, 0x9C),
        (CloseReason::Forced, 0x98),
        (CloseReason::Expired, 0x87),
        (CloseReason::TakenOver, 0x8E),
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
    rig.event(Event::Pressure(Shortage { memory: true, ..Shortage::NONE }));
    assert_eq!(rig.send(&[0xC0, 0]), [0xD0, 0]);
    assert!(!rig.session.is_holding());
    assert_eq!(rig.send(&publish5(0x30, "a", &[], "m")), []);
    assert!(rig.session.is_holding() && rig.world.published.is_empty());
    // Nor does silence end it, which is the server's doing: its keep alive is 60 s.
    rig.session.handle_timeout(NOW + Duration::from_secs(90));
    assert!(!rig.session.is_closed());
    assert_eq!(rig.session.poll_timeout(), NOW + Duration::from_secs(180));
    rig.event(Event::Pressure(Shortage::NONE));
    assert!(!rig.session.is_holding());
    assert_eq!(rig.world.published, ["amq.topic a m"]);
}

#[test]
fn seeded_faults_are_noticed() {
    common::faults::are_noticed(include_str!("session.rs"));
}

#[test]
fn no_more_is_published_than_is_allowed() {
    let mut rig = Rig::accepted();
    let one = p(0x30, &[&s("a"), &[0], b"m"]);
    let alias = p(0x30, &[&s("b"), &props(&[&[0x23, 0, 1]]), b"m"]);
    let aliased = p(0x30, &[&s(""), &props(&[&[0x23, 0, 1]]), b"m"]);
    rig.session.limit_publishes(4);
    rig.send(&[one.repeat(2), alias, aliased.repeat(2), one.clone(), vec![0xC0, 0]].concat());
    assert_eq!(
        rig.world.published,
        ["amq.topic a m", "amq.topic a m", "amq.topic b m", "amq.topic b m"]
    );
    assert!(rig.session.is_holding());
    // What it is silent for meanwhile is not its fault.
    for minute in 1..5 {
        let at = rig.session.poll_timeout();
        rig.session.handle_timeout(at);
        assert!(!rig.session.is_closed(), "minute {minute}");
    }
    rig.session.limit_publishes(1);
    assert!(!rig.session.is_holding());
    assert_eq!(rig.pump(), []);
    assert!(rig.session.is_holding(), "one of two was taken");
    rig.session.limit_publishes(u64::MAX);
    assert_eq!(rig.pump(), [0xD0, 0]);
    assert_eq!(rig.world.published.len(), 6);
}

#[test]
fn section_4_11_clients_are_sent_to_another_server() {
    let config = |elsewhere: &str| SessionConfig {
        elsewhere: Some(elsewhere.into()),
        ..SessionConfig::new(SessionId(7))
    };
    // Whoever they are: they say so there.
    let five = connect5(0x02, &[], &[]);
    let mut rig = Rig::with(config("b.example:1883"));
    let told = props(&[&[&[0x1C][..], &s("b.example:1883")].concat()]);
    assert_eq!(rig.send(&five), p(0x20, &[&[0, 0x9C], &told]));
    assert!(rig.session.is_closed() && rig.asked.is_empty());
    assert_eq!(Rig::with(config("")).send(&five), [0x20, 3, 0, 0x9C, 0]);
    let four = common::connect4(0xC2, &[&s("u"), &s("p")]);
    assert_eq!(Rig::with(config("b.example:1883")).send(&four), [0x20, 2, 0, 3]);
}
