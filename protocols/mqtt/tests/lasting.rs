//! Sessions that outlive their connections, and how connections begin and end (section 3.1, 3.2,
//! 3.14, 4.1, 4.12).

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use common::rig::{NOW, Rig, delivery, redelivery};
use common::{connect3, connect4, connect5, p, props, s};
use isthmus_contract::{CloseReason, CommandError, Event, Session};
use isthmus_model::{NEVER_EXPIRES, SessionId};
use isthmus_mqtt::SessionConfig;
use isthmus_mqtt::codec::Qos;

const USER: fn() -> [Vec<u8>; 2] = || [s("u"), s("p")];

fn config() -> SessionConfig {
    SessionConfig::new(SessionId(7))
}

/// A CONNECT of 5.0 with `flags` and `properties`.
fn connect(flags: u8, properties: &[&[u8]]) -> Vec<u8> {
    let [user, password] = USER();
    connect5(flags, properties, &[&user, &password])
}

/// How the session of `bytes` is opened, and the CONNACK.
fn opens(config: SessionConfig, bytes: &[u8]) -> (String, Vec<u8>) {
    let mut rig = Rig::with(config);
    let ack = rig.send(bytes);
    let open = rig.asked().into_iter().find(|asked| asked.starts_with("open")).unwrap();
    (open, ack)
}

#[test]
fn mqtt5_3_1_2_23_a_session_is_opened_for_as_long_as_the_client_asks() {
    let [user, password] = USER();
    let never = NEVER_EXPIRES;
    for (bytes, open) in [
        (connect(0xC2, &[]), "open id true 0".to_owned()),
        (connect(0xC0, &[]), "open id false 0".to_owned()),
        (connect(0xC0, &[&[0x11, 0, 0, 0, 9]]), "open id false 9000".to_owned()),
        (connect(0xC2, &[&[0x11, 255, 255, 255, 255]]), format!("open id true {never}")),
        (connect4(0xC2, &[&user, &password]), "open id true 0".to_owned()),
        (connect4(0xC0, &[&user, &password]), format!("open id false {never}")),
        (connect3(0xC0, &[&user, &password]), format!("open id false {never}")),
    ] {
        assert_eq!(opens(config(), &bytes).0, open, "{bytes:02X?}");
    }
}

#[test]
fn mqtt5_3_2_2_21_what_the_server_has_set_is_told() {
    let config = || SessionConfig {
        session_expiry_ms_max: 60_000,
        keep_alive_s_max: 30,
        response_information: "answers/".into(),
        ..config()
    };
    let (open, ack) = opens(config(), &connect(0xC0, &[&[0x11, 255, 255, 255, 255, 0x19, 1]]));
    assert_eq!(open, "open id false 60000");
    let told = [
        &[0x11, 0, 0, 0, 60, 0x21, 0x03, 0xE8, 0x27, 1, 0, 0, 0, 0x22, 0, 16][..],
        &[0x13, 0, 30, 0x1A],
        &s("answers/"),
    ]
    .concat();
    assert_eq!(ack, p(0x20, &[&[0, 0], &props(&[&told])]));
    // What was not asked for is not told, and what is allowed goes without saying.
    let (open, ack) = opens(config(), &connect(0xC0, &[&[0x11, 0, 0, 0, 60]]));
    assert_eq!(open, "open id false 60000");
    let told = [0x21, 0x03, 0xE8, 0x27, 1, 0, 0, 0, 0x22, 0, 16, 0x13, 0, 30];
    assert_eq!(ack, p(0x20, &[&[0, 0], &props(&[&told])]));
    let mut rig = Rig::with(config()).connected(&connect(0xC2, &[]));
    assert_eq!(rig.session.poll_timeout(), NOW + std::time::Duration::from_secs(45));
    // Clients of 3.1.1 cannot be told.
    let [user, password] = USER();
    let rig4 = Rig::with(config()).connected(&connect4(0xC2, &[&user, &password]));
    assert_eq!(rig4.session.poll_timeout(), NOW + std::time::Duration::from_secs(90));
    rig.session.handle_eof(NOW);
    assert!(rig.session.is_closed());
}

#[test]
fn mqtt5_3_1_2_7_a_will_is_the_brokers_with_all_that_it_says() {
    let will = |properties: &[&[u8]], topic: &str| [props(properties), s(topic), s("bye")].concat();
    let [user, password] = USER();
    // Will QoS 1, retained, delayed by 3 s.
    let bytes = connect5(0xEE, &[], &[&will(&[&[0x18, 0, 0, 0, 3]], "gone/now"), &user, &password]);
    let (open, _) = opens(config(), &bytes);
    assert_eq!(open, "open id true 0 will amq.topic gone.now bye durable retain after 3000");
    let bytes = connect4(0xD6, &[&s("gone"), &s("bye"), &user, &password]);
    let (open, _) = opens(config(), &bytes);
    assert_eq!(open, "open id true 0 will amq.topic gone bye durable after 0");
}

#[test]
fn mqtt5_3_14_4_3_a_goodbye_says_what_becomes_of_session_and_will() {
    for (bytes, close) in [
        (vec![0xE0, 0], "close None false".to_owned()),
        (vec![0xE0, 1, 4], "close None true".to_owned()),
        (vec![0xE0, 1, 0x80], "close None true".to_owned()),
        (p(0xE0, &[&[0], &props(&[&[0x11, 0, 0, 0, 0]])]), "close Some(0) false".to_owned()),
        (p(0xE0, &[&[0], &props(&[&[0x11, 0, 0, 0, 9]])]), "close Some(9000) false".to_owned()),
    ] {
        let mut rig = Rig::lasting();
        assert_eq!(rig.send(&bytes), []);
        assert_eq!(rig.asked(), [close]);
        assert!(rig.session.is_closed());
    }
    // Section 3.14.2.2.2: not from nothing to something.
    let mut rig = Rig::accepted();
    let written = rig.send(&p(0xE0, &[&[0], &props(&[&[0x11, 0, 0, 0, 9]])]));
    assert_eq!((written[0], written[2]), (0xE0, 0x82));
    // Without a goodbye the broker sees for itself.
    for end in [Rig::accepted(), Rig::lasting()] {
        let mut rig = end;
        rig.session.handle_eof(NOW);
        rig.pump();
        assert!(rig.asked().is_empty());
    }
}

#[test]
fn what_came_before_a_goodbye_counts() {
    let mut rig = Rig::lasting();
    let publish = p(0x34, &[&s("a"), &[0, 1, 0], b"m"]);
    rig.send(&[&publish[..], &[0xE0, 0]].concat());
    let expected =
        ["begin", "tx publish amq.topic a m durable", "tx note p1", "commit", "close None false"];
    assert_eq!(rig.asked(), expected);
}

#[test]
fn a_session_that_the_broker_refuses_is_told_in_the_clients_version() {
    for (error, reason, code) in [
        (CommandError::Refused("another's".to_owned()), 0x87, 5),
        (CommandError::Invalid("bad".to_owned()), 0x85, 2),
        (CommandError::Limit("too many".to_owned()), 0x97, 3),
        (CommandError::NotLeader, 0x9C, 3),
        (CommandError::NotImplemented("none".to_owned()), 0x88, 3),
    ] {
        let [user, password] = USER();
        for (bytes, answer) in [
            (connect(0xC0, &[]), vec![0x20, 3, 0, reason, 0]),
            (connect4(0xC0, &[&user, &password]), vec![0x20, 2, 0, code]),
        ] {
            let mut rig = Rig::new();
            rig.refused.push(("open", error.clone()));
            assert_eq!(rig.send(&bytes), answer, "{error}");
            assert!(rig.session.is_closed());
        }
    }
}

#[test]
fn mqtt5_3_2_2_3_a_session_that_is_there_is_gone_on_with() {
    let mut rig = Rig::lasting();
    let filters = [
        &[0, 1, 2, 0x0B, 5][..],
        &s("one/+"),
        &[0x2A],
        &s("zero"),
        &[0x20],
        &s("own"),
        &[0x25],
        &s("$SYS/#"),
        &[0x20],
        &s("$own/#"),
        &[0x21],
        &s("$share/g/a"),
        &[1],
    ];
    rig.send(&p(0x82, &filters));
    rig.send(&p(0x34, &[&s("a"), &[0, 7, 0], b"m"]));
    rig.session.handle_eof(NOW);
    rig.pump();

    let mut rig = rig.again();
    let ack = rig.send(&Rig::lasting_connect());
    assert_eq!(ack[..4], [0x20, ack[1], 1, 0]);
    let expected = [
        "window 1000",
        "declare mqtt-subscription-idqos1 durable",
        "attach 1 mqtt-subscription-idqos1 exclusive",
        "declare mqtt-subscription-idqos1.nolocal durable",
        "attach 3 mqtt-subscription-idqos1.nolocal exclusive no-local",
        "declare mqtt-subscription-idqos0 exclusive",
        "attach 0 mqtt-subscription-idqos0 settled exclusive",
        "bind amq.mqtt.system $SYS.# to mqtt-subscription-idqos0",
        "bind amq.mqtt.system $own.# to mqtt-subscription-idqos1",
        "bind amq.topic zero to mqtt-subscription-idqos0",
        "declare mqtt-shared-g/a shared",
        "hold mqtt-shared-g/a",
        "bind amq.topic a to mqtt-shared-g/a",
        "attach 4 mqtt-shared-g/a",
    ];
    assert_eq!(rig.asked()[3..], expected);
    // With the options that it had.
    let delivered = rig.event(delivery(1, Qos::ExactlyOnce, "one/x", 1));
    assert_eq!(delivered, p(0x34, &[&s("one/x"), &[0, 2], &props(&[&[0x0B, 5]]), b"m"]));
    let delivered = rig.event(delivery(0, Qos::ExactlyOnce, "zero", 1));
    assert_eq!(delivered, p(0x30, &[&s("zero"), &props(&[&[0x0B, 5]]), b"m"]));
    let delivered = rig.event(delivery(4, Qos::ExactlyOnce, "a", 1));
    assert_eq!(delivered[0], 0x32);
    // And what it had published.
    assert_eq!(rig.send(&p(0x3C, &[&s("a"), &[0, 7, 0], b"m"])), [0x50, 2, 0, 7]);
    assert_eq!(rig.world.published.len(), 1);
    assert_eq!(rig.send(&p(0xA2, &[&[0, 2, 0], &s("zero")])), [0xB0, 4, 0, 2, 0, 0]);
}

#[test]
fn mqtt5_3_1_2_4_a_clean_start_begins_anew() {
    let mut rig = Rig::lasting();
    rig.send(&p(0x82, &[&[0, 1, 0], &s("a"), &[0x21]]));
    let mut rig = rig.again();
    let ack = rig.send(&connect(0xC2, &[&[0x11, 0, 0, 1, 0]]));
    // [MQTT-3.2.2-2].
    assert_eq!(ack[..4], [0x20, ack[1], 0, 0]);
    assert_eq!(rig.asked()[2..], ["open id true 256000"]);
}

#[test]
fn mqtt311_3_1_2_4_sessions_of_3_1_1_last_as_well() {
    let [user, password] = USER();
    let connect = connect4(0xC0, &[&user, &password]);
    let mut rig = Rig::new().connected(&connect);
    rig.send(&p(0x82, &[&[0, 1], &s("a"), &[2]]));
    rig.event(delivery(1, Qos::ExactlyOnce, "a", 1));
    rig.session.handle_eof(NOW);
    let mut rig = rig.again();
    assert_eq!(rig.send(&connect), [0x20, 2, 1, 0]);
    let again = rig.event(redelivery(1, Qos::ExactlyOnce, "a", 1));
    assert_eq!(again, p(0x3C, &[&s("a"), &[0, 2], b"m"]));
    // 3.1 cannot say that it is there.
    let connect = connect3(0xC0, &[&user, &password]);
    assert_eq!(rig.again().send(&connect), [0x20, 2, 0, 0]);
    // [MQTT-3.2.2-1 of 3.1.1].
    let connect = connect4(0xC2, &[&user, &password]);
    assert_eq!(rig.again().send(&connect), [0x20, 2, 0, 0]);
}

#[test]
fn a_session_of_earlier_that_ends_with_this_connection_is_still_noted() {
    let mut rig = Rig::lasting();
    rig.send(&p(0x82, &[&[0, 1, 0], &s("a"), &[0x21]]));
    let mut rig = rig.again().connected(&connect(0xC0, &[]));
    rig.send(&p(0xA2, &[&[0, 2, 0], &s("a")]));
    assert!(rig.asked().contains(&"note -s:a:".to_owned()));
}

#[test]
fn a_session_that_cannot_be_made_again_is_ended() {
    let mut rig = Rig::lasting();
    rig.send(&p(0x82, &[&[0, 1, 0], &s("a"), &[0x21], &s("$SYS/a"), &[0x20]]));
    for (error, reason) in [
        (CommandError::Precondition("different".to_owned()), 0x83),
        (CommandError::Limit("too many queues".to_owned()), 0x97),
    ] {
        let mut other = rig.again();
        other.refused.push(("attach 1", error));
        let written = other.send(&Rig::lasting_connect());
        let end = written.iter().rposition(|byte| *byte == 0xE0).unwrap();
        assert_eq!(written[end + 2], reason, "{written:02X?}");
        assert!(other.session.is_closed());
    }
    // The broker's own topics may have gone.
    let mut other = rig.again();
    other.refused.push(("bind amq.mqtt.system", CommandError::NotFound("gone".to_owned())));
    other.send(&Rig::lasting_connect());
    assert!(!other.session.is_closed());
}

#[test]
fn mqtt5_3_1_4_3_a_session_that_is_taken_over_is_told() {
    let mut rig = Rig::lasting();
    rig.send(&p(0x34, &[&s("a"), &[0, 1, 0], b"m"]));
    assert_eq!(rig.event(Event::Closed(CloseReason::TakenOver)), [0xE0, 1, 0x8E]);
    assert!(rig.session.is_closed());
    // The other connection has what this one knew.
    let mut other = rig.again().connected(&Rig::lasting_connect());
    assert_eq!(other.send(&p(0x3C, &[&s("a"), &[0, 1, 0], b"m"])), [0x50, 2, 0, 1]);
    assert_eq!(other.world.published.len(), 1);
}

fn method(name: &str, data: &[u8]) -> Vec<u8> {
    [&[0x15][..], &s(name), &[0x16], &s(data)].concat()
}

#[test]
fn mqtt5_4_12_0_1_methods_that_are_known_authenticate() {
    let mut rig = Rig::new();
    let ack = rig.send(&connect5(2, &[&method("PLAIN", b"\0things:ann\0secret")], &[]));
    // [MQTT-4.12.0-5].
    assert!(ack.ends_with(&[&[0x15][..], &s("PLAIN")].concat()), "{ack:02X?}");
    let expected = ["Password { user: \"ann\", password: (secret) }", "enter things"];
    assert_eq!(rig.asked()[..2], expected);
    let mut rig = Rig::new();
    let token = method("OAUTHBEARER", b"n,,\x01auth=Bearer t\x01\x01");
    assert_eq!(rig.send(&connect5(2, &[&token], &[]))[3], 0);
    for (name, data, reason) in
        [("SCRAM-SHA-1", &b"n,,"[..], 0x8C), ("PLAIN", b"ann", 0x86), ("PLAIN", b"", 0x86)]
    {
        let mut rig = Rig::new();
        let written = rig.send(&connect5(2, &[&method(name, data)], &[]));
        assert_eq!(written, [0x20, 3, 0, reason, 0], "{name}");
        assert!(rig.asked().is_empty());
    }
}

#[test]
fn mqtt5_4_12_1_1_who_began_with_a_method_may_authenticate_again() {
    let plain = method("PLAIN", b"\0ann\0secret");
    let connected = || Rig::new().connected(&connect5(2, &[&plain], &[]));
    let auth = |reason: u8, method: &[u8]| p(0xF0, &[&[reason], &props(&[method])]);
    let mut rig = connected();
    let written = rig.send(&auth(0x19, &plain));
    assert_eq!(written, p(0xF0, &[&[0], &props(&[&[0x15], &s("PLAIN")])]));
    assert_eq!(rig.asked(), ["Password { user: \"ann\", password: (secret) }"]);
    // [MQTT-4.12.1-2].
    rig.refused.push(("Password", CommandError::Refused("no".to_owned())));
    assert_eq!(rig.send(&auth(0x19, &plain)), [0xE0, 1, 0x87]);
    assert!(rig.session.is_closed());
    for bytes in
        [auth(0x18, &plain), auth(0x19, &method("OAUTHBEARER", b"n,,\x01auth=Bearer t\x01\x01"))]
    {
        let written = connected().send(&bytes);
        assert_eq!((written[0], written[2]), (0xE0, 0x82), "{bytes:02X?}");
    }
    let written = connected().send(&auth(0x19, &method("PLAIN", b"ann")));
    assert_eq!(written, [0xE0, 1, 0x87]);
    // [MQTT-4.12.0-7].
    let written = Rig::accepted().send(&auth(0x19, &plain));
    assert_eq!((written[0], written[2]), (0xE0, 0x82));
}

#[test]
fn a_queue_that_somebody_has_deleted_comes_back_with_its_subscriptions() {
    let mut rig = Rig::lasting();
    rig.send(&p(0x82, &[&[0, 1, 0], &s("a"), &[0x21], &s("b/+"), &[0x22], &s("c"), &[0x20]]));
    let binds = |rig: &mut Rig| -> Vec<String> {
        rig.asked().into_iter().filter(|asked| asked.starts_with("bind")).collect()
    };
    // Those of a queue that is there the broker has kept.
    let mut again = rig.again();
    again.send(&Rig::lasting_connect());
    assert_eq!(binds(&mut again), ["bind amq.topic c to mqtt-subscription-idqos0"]);
    let mut again = rig.again();
    again.gone.push("mqtt-subscription-idqos1");
    again.send(&Rig::lasting_connect());
    let expected = [
        "bind amq.topic c to mqtt-subscription-idqos0",
        "bind amq.topic a to mqtt-subscription-idqos1",
        "bind amq.topic b.* to mqtt-subscription-idqos1",
    ];
    assert_eq!(binds(&mut again), expected);
}

#[test]
fn seeded_faults_are_noticed() {
    common::faults::are_noticed(include_str!("lasting.rs"));
}
