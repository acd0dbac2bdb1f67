//! Statements that need a session to be shown and belong to no larger story: most of 3.1.1, and what
//! is not to be said in 5.0.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use common::rig::{NOW, Rig, delivery, recalled, redelivery};
use common::{connect4, connect5, p, props, s};
use isthmus_contract::{CommandError, Event, PublishRefusal, Session};
use isthmus_mqtt::codec::{Packet, Property, Qos, Sender, Version, frame};
use isthmus_mqtt::convert::stored::Head;

/// A CONNECT of `id` as user u, who begins anew.
fn connect_as(version: Version, id: &str) -> Vec<u8> {
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    let level = if version == Version::V5 { 5 } else { 4 };
    p(0x10, &[&s("MQTT"), &[level, 0xC2, 0, 60], properties, &s(id), &s("u"), &s("p")])
}

/// The CONNECT of a client of 3.1.1 whose session outlives its connection.
fn lasting4() -> Vec<u8> {
    connect4(0xC0, &[&s("u"), &s("p")])
}

/// A client of 3.1.1 that has subscribed to everything with `qos`.
fn subscribed4(qos: u8) -> Rig {
    let mut rig = Rig::accepted4();
    rig.send(&p(0x82, &[&[0, 1], &s("#"), &[qos]]));
    rig.asked();
    rig
}

/// A PUBLISH of 3.1.1 on `a`.
fn publish4(first: u8, id: &[u8], body: &str) -> Vec<u8> {
    p(first, &[&s("a"), id, body.as_bytes()])
}

/// The kinds of packets in `bytes`, which a server of `version` has said.
fn kinds(mut bytes: &[u8], version: Version) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some(frame) = frame::next(bytes, frame::PACKET_BYTES_MAX).unwrap() {
        Packet::read(&frame, version, Sender::Server).unwrap();
        kinds.push(bytes[0] >> 4);
        bytes = &bytes[frame.wire_len()..];
    }
    assert!(bytes.is_empty());
    kinds
}

const REFUSED: fn() -> CommandError = || CommandError::Refused("no".to_owned());

#[test]
fn mqtt5_3_1_3_5_client_identifiers_of_letters_and_digits_are_taken() {
    for version in [Version::V3_1_1, Version::V5] {
        for id in ["0", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"] {
            let mut rig = Rig::new();
            let ack = rig.send(&connect_as(version, id));
            assert_eq!((ack[0], ack[3]), (0x20, 0), "{id}");
            assert_eq!(rig.asked()[2], format!("open {id} true 0"));
        }
    }
}

#[test]
fn mqtt5_3_1_4_6_nothing_behind_a_refused_connect_is_processed() {
    let behind = [publish4(0x30, &[], "m"), vec![0xC0, 0]].concat();
    for (version, refused, answer) in [
        (Version::V3_1_1, "Password", &[0x20, 2, 0, 4][..]),
        (Version::V3_1_1, "open", &[0x20, 2, 0, 5]),
        (Version::V5, "Password", &[0x20, 3, 0, 0x86, 0]),
        (Version::V5, "open", &[0x20, 3, 0, 0x87, 0]),
    ] {
        let mut rig = Rig::new();
        rig.refused.push((refused, REFUSED()));
        let written = rig.send(&[&connect_as(version, "id")[..], &behind].concat());
        assert_eq!(written, answer);
        assert!(rig.session.is_closed() && rig.world.published.is_empty());
        assert_eq!(rig.send(&behind), []);
        assert!(rig.world.published.is_empty());
    }
}

#[test]
fn mqtt5_3_2_0_2_one_connack_comes_and_comes_first() {
    for version in [Version::V3_1_1, Version::V5] {
        let no_properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let connect = connect_as(version, "id");
        let publish = p(0x32, &[&s("a"), &[0, 1], no_properties, b"m"]);
        let mut rig = Rig::new();
        // All at once.
        let written = rig.send(&[&connect[..], &publish, &[0xC0, 0]].concat());
        assert_eq!(kinds(&written, version), [2, 13, 4]);
        // [MQTT-3.1.0-2].
        let expected: &[u8] = if version == Version::V5 { &[14] } else { &[] };
        assert_eq!(kinds(&rig.send(&connect), version), expected);
        assert!(rig.session.is_closed());
    }
}

/// A client of 5.0 that takes packets of `max` bytes and, it may be, wants no problem told.
fn limited(max: u8, wants: bool) -> Rig {
    let properties = [0x27, 0, 0, 0, max, 0x17, u8::from(wants)];
    Rig::new().connected(&connect5(0xC2, &[&properties], &[&s("u"), &s("p")]))
}

#[test]
fn mqtt5_3_1_2_29_acknowledgements_have_neither_reason_string_nor_user_property() {
    let publish = |first: u8| p(first, &[&s("a"), &[0, 1, 0], b"m"]);
    for (max, wants) in [(16, false), (16, true), (255, false), (255, true)] {
        let mut rig = limited(max, wants);
        rig.refused.push(("bind amq.topic no", REFUSED()));
        let subscribe = p(0x82, &[&[0, 3, 0], &s("no"), &[1]]);
        assert_eq!(rig.send(&subscribe), [0x90, 4, 0, 3, 0, 0x87]);
        assert_eq!(rig.send(&p(0xA2, &[&[0, 4, 0], &s("no")])), [0xB0, 4, 0, 4, 0, 0x11]);
        assert_eq!(rig.send(&[0x62, 2, 0, 9]), [0x70, 3, 0, 9, 0x92]);
        assert_eq!(rig.send(&[0x50, 2, 0, 9]), [0x62, 3, 0, 9, 0x92]);
        rig.answers = false;
        rig.send(&publish(0x32));
        assert_eq!(rig.confirm(&[(0, PublishRefusal::Full)]), [0x40, 3, 0, 1, 0x97]);
        rig.send(&publish(0x34));
        assert_eq!(rig.confirm(&[(0, PublishRefusal::Full)]), [0x50, 3, 0, 1, 0x97]);
    }
}

#[test]
fn mqtt5_3_14_2_3_a_reason_string_that_does_not_fit_is_left_out() {
    let has_text = |max: u8| {
        // QoS 3.
        let written = limited(max, true).send(&[0x36, 2, 0, 0]);
        assert_eq!((written[0], written[2]), (0xE0, 0x81));
        assert!(written.len() <= usize::from(max), "{max}: {}", written.len());
        written.len() > 3
    };
    let told: Vec<bool> = (16..=255).map(has_text).collect();
    assert!(!told[0] && told[239] && told.is_sorted());
}

#[test]
fn mqtt5_3_2_2_19_a_connack_that_refuses_says_no_more_than_its_reason() {
    let mut rig = Rig::new();
    rig.refused.push(("open", REFUSED()));
    let properties = [0x27, 0, 0, 0, 16, 0x17, 1];
    let written = rig.send(&connect5(0xC2, &[&properties], &[&s("u"), &s("p")]));
    assert_eq!(written, [0x20, 3, 0, 0x87, 0]);
}

#[test]
fn mqtt5_3_1_3_10_a_will_says_its_user_properties_in_their_order() {
    let pair = |name: &str, value: &str| [&[0x26][..], &s(name), &s(value)].concat();
    let pairs = [pair("b", "1"), pair("a", "2"), pair("b", "0")].concat();
    let will = [props(&[&pairs]), s("gone"), s("bye")].concat();
    let mut rig = Rig::new();
    rig.send(&connect5(0xC6, &[], &[&will, &s("u"), &s("p")]));
    let batch = rig.will.unwrap();
    let head = Head::read(batch.head(&batch.records[0])).unwrap();
    let expected = [("b", "1"), ("a", "2"), ("b", "0")].map(|(n, v)| Property::UserProperty(n, v));
    assert_eq!(head.properties.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn mqtt5_3_14_4_2_a_disconnect_is_followed_by_the_end_of_the_connection() {
    let mut rig = Rig::accepted();
    assert_eq!(rig.send(&[0x36, 2, 0, 0])[0], 0xE0);
    assert!(rig.session.is_closed());
    // And so where the client says goodbye.
    let mut rig = Rig::accepted();
    assert_eq!(rig.send(&[0xE0, 0, 0xC0, 0]), []);
    assert!(rig.session.is_closed());
}

#[test]
fn mqtt311_3_1_2_17_wills_are_retained_or_not_and_go_with_a_goodbye() {
    let opened = |flags: u8, will: &[&[u8]]| {
        let mut rig = Rig::new();
        rig.send(&connect4(flags, &[&will.concat(), &s("u"), &s("p")]));
        (rig.asked()[2].clone(), rig)
    };
    let will: [&[u8]; 2] = [&s("gone"), &s("bye")];
    let (open, mut rig) = opened(0xEE, &will);
    assert_eq!(open, "open id true 0 will amq.topic gone bye durable retain after 0");
    // [MQTT-3.1.2-16].
    assert_eq!(opened(0xCE, &will).0, "open id true 0 will amq.topic gone bye durable after 0");
    // [MQTT-3.1.2-12].
    assert_eq!(opened(0xC2, &[]).0, "open id true 0");
    // [MQTT-3.1.2-10], [MQTT-3.14.4-3].
    rig.send(&[0xE0, 0]);
    assert_eq!(rig.asked(), ["close None false"]);
}

#[test]
fn mqtt311_3_2_2_3_a_session_that_is_not_there_is_made() {
    let mut rig = Rig::new();
    assert_eq!(rig.send(&lasting4()), [0x20, 2, 0, 0]);
    assert!(rig.asked()[2].starts_with("open id false "));
    // By its identifier it is found again [MQTT-3.1.3-2].
    assert_eq!(rig.again().send(&lasting4()), [0x20, 2, 1, 0]);
}

#[test]
fn mqtt311_3_8_4_1_requests_are_answered_with_their_identifiers() {
    let mut rig = Rig::accepted4();
    rig.refused.push(("bind amq.topic no", REFUSED()));
    let filters = [&s("a/+")[..], &[1], &s("no"), &[2], &s("b/#"), &[2], &s("c"), &[0]].concat();
    // [MQTT-3.8.4-4], [MQTT-3.8.4-5] and [MQTT-3.9.3-1]: one answer, all codes in their order.
    let answer = rig.send(&p(0x82, &[&[0x12, 0x34], &filters]));
    assert_eq!(answer, [0x90, 6, 0x12, 0x34, 1, 0x80, 2, 0]);
    rig.asked();
    // [MQTT-3.10.4-1]: a filter that would match as much is not it; [MQTT-3.10.4-5].
    assert_eq!(rig.send(&p(0xA2, &[&[0x23, 0x45], &s("a/#")])), [0xB0, 2, 0x23, 0x45]);
    assert!(rig.asked().is_empty());
    // [MQTT-3.10.4-4], [MQTT-3.10.4-6].
    let unsubscribe = p(0xA2, &[&[0x34, 0x56], &s("a/+"), &s("b/#")]);
    assert_eq!(rig.send(&unsubscribe), [0xB0, 2, 0x34, 0x56]);
    // [MQTT-3.10.4-2]: their bindings are gone.
    let asked = rig.asked();
    for unbind in ["unbind amq.topic a.* to ", "unbind amq.topic b.# to "] {
        assert!(asked.iter().any(|what| what.starts_with(unbind)), "{asked:?}");
    }
    // [MQTT-3.12.4-1].
    assert_eq!(rig.send(&[0xC0, 0]), [0xD0, 0]);
}

#[test]
fn mqtt311_3_10_4_3_deliveries_that_were_begun_are_completed() {
    let mut rig = subscribed4(2);
    assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", 1)), publish4(0x34, &[0, 2], "m"));
    rig.send(&p(0xA2, &[&[0, 2], &s("#")]));
    assert_eq!(rig.send(&[0x50, 2, 0, 2]), [0x62, 2, 0, 2]);
    rig.asked();
    assert_eq!(rig.send(&[0x70, 2, 0, 2]), []);
    // Its identifier is free again.
    rig.send(&p(0x82, &[&[0, 3], &s("#"), &[2]]));
    let again = rig.event(delivery(1, Qos::ExactlyOnce, "a", 1 + 32_767));
    assert_eq!(again, publish4(0x34, &[0, 2], "m"));
}

#[test]
fn mqtt311_4_3_2_2_a_message_is_acknowledged_by_its_identifier_which_is_then_anothers() {
    let mut rig = Rig::accepted4();
    assert_eq!(rig.send(&publish4(0x30, &[], "0")), []);
    // DUP or not: the identifier is free.
    assert_eq!(rig.send(&publish4(0x32, &[1, 2], "1")), [0x40, 2, 1, 2]);
    assert_eq!(rig.send(&publish4(0x3A, &[1, 2], "2")), [0x40, 2, 1, 2]);
    let all = ["amq.topic a 0", "amq.topic a 1 durable", "amq.topic a 2 durable"];
    assert_eq!(rig.world.published, all);
}

#[test]
fn mqtt311_4_3_3_2_a_message_is_taken_once_until_it_is_released() {
    let mut rig = Rig::new().connected(&lasting4());
    assert_eq!(rig.send(&publish4(0x34, &[1, 2], "1")), [0x50, 2, 1, 2]);
    assert_eq!(rig.send(&publish4(0x3C, &[1, 2], "1")), [0x50, 2, 1, 2]);
    assert_eq!(rig.world.published, ["amq.topic a 1 durable"]);
    assert_eq!(rig.send(&[0x62, 2, 1, 2]), [0x70, 2, 1, 2]);
    assert_eq!(rig.send(&publish4(0x34, &[1, 2], "2")), [0x50, 2, 1, 2]);
    assert_eq!(rig.world.published, ["amq.topic a 1 durable", "amq.topic a 2 durable"]);
}

#[test]
fn mqtt311_4_3_3_1_a_delivery_is_released_and_comes_again_at_a_reconnect_only() {
    let mut rig = Rig::new().connected(&lasting4());
    rig.send(&p(0x82, &[&[0, 1], &s("#"), &[2]]));
    // [MQTT-2.3.1-4]: identifiers that are not in use; [MQTT-4.3.1-1]: QoS 0 has none.
    assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", 1)), publish4(0x34, &[0, 2], "m"));
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a", 2)), publish4(0x32, &[0, 3], "m"));
    assert_eq!(rig.event(delivery(1, Qos::AtMostOnce, "a", 3)), publish4(0x30, &[], "m"));
    // [MQTT-2.3.1-6].
    assert_eq!(rig.send(&[0x50, 2, 0, 2]), [0x62, 2, 0, 2]);
    rig.session.handle_timeout(NOW);
    assert_eq!(rig.written(), []);
    rig.session.handle_eof(NOW);
    let mut rig = rig.again();
    let written = rig.send(&lasting4());
    // Not the message that it has, whose release comes again.
    assert_eq!(written, [&[0x20, 2, 1, 0][..], &[0x62, 2, 0, 2]].concat());
    // [MQTT-3.3.1-1], with the identifier that it had.
    assert_eq!(rig.event(redelivery(1, Qos::AtLeastOnce, "a", 2)), publish4(0x3A, &[0, 3], "m"));
    // [MQTT-3.3.1-3]: what is sent for the first time does not say DUP.
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a", 4)), publish4(0x32, &[0, 5], "m"));
}

#[test]
fn mqtt311_3_3_1_3_dup_is_of_one_connection() {
    let mut publisher = Rig::accepted4();
    // As it came with DUP: what is stored does not know.
    publisher.send(&publish4(0x3A, &[0, 1], "m"));
    let batch = publisher.batch.unwrap();
    let mut subscriber = subscribed4(1);
    let Event::Deliveries(mut deliveries) = delivery(1, Qos::AtLeastOnce, "a", 1) else { panic!() };
    deliveries[0].batch = batch;
    let written = subscriber.event(Event::Deliveries(deliveries));
    assert_eq!(written, publish4(0x32, &[0, 2], "m"));
}

#[test]
fn mqtt311_3_3_1_6_what_is_retained_is_sent_for_each_subscribe_and_says_so() {
    let mut rig = Rig::accepted4();
    // [MQTT-3.3.1-5], [MQTT-3.3.1-7] and [MQTT-3.3.1-12].
    rig.send(&[publish4(0x33, &[0, 1], "1"), publish4(0x31, &[], "0")].concat());
    rig.send(&publish4(0x30, &[], "no"));
    let expected = ["amq.topic a 1 durable retain", "amq.topic a 0 retain", "amq.topic a no"];
    assert_eq!(rig.world.published, expected);
    for _ in 0..2 {
        rig.asked();
        rig.send(&p(0x82, &[&[0, 1], &s("a"), &[1]]));
        // Also for one that takes another's place [MQTT-3.8.4-3].
        let recall = "recall amq.topic a to mqtt-subscription-idqos1".to_owned();
        assert!(rig.asked().contains(&recall));
    }
    // [MQTT-3.3.1-8].
    let kept = rig.event(recalled(1, Qos::AtLeastOnce, "a", 1));
    assert_eq!(kept, publish4(0x33, &[0, 2], "m"));
    // [MQTT-3.3.1-9]: retained or not, to a subscription that was there it is a message as any.
    let Event::Deliveries(mut live) = delivery(1, Qos::AtLeastOnce, "a", 2) else { panic!() };
    rig.send(&publish4(0x33, &[0, 1], "live"));
    live[0].batch = rig.batch.clone().unwrap();
    assert_eq!(rig.event(Event::Deliveries(live)), publish4(0x32, &[0, 3], "live"));
}

#[test]
fn mqtt311_3_3_5_1_overlapping_subscriptions_get_a_message_with_the_highest_qos() {
    let mut rig = Rig::accepted4();
    rig.send(&p(0x82, &[&[0, 1], &s("a/+"), &[1], &s("a/#"), &[2], &s("#"), &[0]]));
    let written = rig.event(delivery(1, Qos::ExactlyOnce, "a/b", 1));
    assert_eq!(written, p(0x34, &[&s("a/b"), &[0, 2], b"m"]));
    assert_eq!(rig.event(delivery(0, Qos::ExactlyOnce, "a/b", 1)), []);
    // [MQTT-3.8.4-6]: not more than it was published with, nor than was granted.
    let written = rig.event(delivery(1, Qos::AtLeastOnce, "a/b", 2));
    assert_eq!(written, p(0x32, &[&s("a/b"), &[0, 3], b"m"]));
    let written = rig.event(delivery(0, Qos::ExactlyOnce, "b", 2));
    assert_eq!(written, p(0x30, &[&s("b"), b"m"]));
}

#[test]
fn mqtt311_4_8_0_1_a_violation_ends_the_connection_without_a_word() {
    for bytes in [
        connect_as(Version::V3_1_1, "id"),
        vec![0x36, 2, 0, 0],
        vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        vec![0xF0, 0],
        p(0x82, &[&[0, 1], &s("a/#/b"), &[0]]),
        p(0x80, &[&[0, 1], &s("a"), &[0]]),
    ] {
        let mut rig = Rig::accepted4();
        // What came before it counts.
        let written = rig.send(&[&publish4(0x30, &[], "m")[..], &bytes].concat());
        assert_eq!(written, [], "{bytes:02X?}");
        assert!(rig.session.is_closed(), "{bytes:02X?}");
        assert_eq!(rig.world.published, ["amq.topic a m"]);
    }
}

#[test]
fn seeded_faults_are_noticed() {
    common::faults::are_noticed(include_str!("statements.rs"));
}
