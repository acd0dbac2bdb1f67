//! How much is on its way at once, and under which identifiers and aliases (section 2.2.1, 3.3.2.3,
//! 4.4, 4.9).

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;

use common::rig::{NOW, Rig, delivery, delivery_of, recalled, redelivery};
use common::{connect5, p, props, s};
use isthmus_contract::{Event, Input, Session};
use isthmus_model::{Annotations, Delivery, SessionId};
use isthmus_mqtt::SessionConfig;
use isthmus_mqtt::codec::{PropertiesBuf, Property, Qos};
use isthmus_mqtt::convert::stored::{Message, store};

/// A client of 5.0 with `properties` that has subscribed to everything with QoS 2.
fn subscribed(properties: &[&[u8]]) -> Rig {
    let mut rig = Rig::new().connected(&connect5(0xC2, properties, &[&s("u"), &s("p")]));
    rig.send(&p(0x82, &[&[0, 1, 0], &s("#"), &[0x22]]));
    rig
}

/// What a client of 5.0 gets on `a`.
fn publish(first: u8, id: u16) -> Vec<u8> {
    p(first, &[&s("a"), &id.to_be_bytes(), &[0], b"m"])
}

#[test]
fn deliveries_are_acknowledged_by_their_packet_identifiers() {
    let mut rig = Rig::accepted4();
    rig.send(&p(0x82, &[&[0, 1], &s("a"), &[1], &s("b"), &[0]]));
    rig.asked.clear();
    let publish = |first: u8, topic: &str, id: &[u8]| p(first, &[&s(topic), id, b"m"]);
    assert_eq!(rig.event(delivery(0, Qos::AtLeastOnce, "b", 1)), publish(0x30, "b", &[]));
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a", 1)), publish(0x32, "a", &[0, 2]));
    assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", 2)), publish(0x32, "a", &[0, 3]));
    assert!(rig.asked.is_empty());
    // Of the QoS that it was published with, and settled at once.
    assert_eq!(rig.event(delivery(1, Qos::AtMostOnce, "a", 3)), publish(0x30, "a", &[]));
    assert_eq!(rig.asked(), ["settle 3+1 Accept"]);
    rig.send(&[0x40, 2, 0, 2, 0x40, 2, 0, 3, 0x40, 2, 0, 3]);
    assert_eq!(rig.asked(), ["settle 1+2 Accept"]);
}

#[test]
fn mqtt5_2_2_1_4_an_identifier_in_use_is_waited_for() {
    let mut rig = subscribed(&[]);
    let later = 1 + 32_767;
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a", 1)), publish(0x32, 2));
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a", later)), []);
    // Nor does what comes behind it overtake it [MQTT-4.6.0-6], of whatever QoS.
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a", later + 1)), []);
    assert_eq!(rig.event(delivery(1, Qos::AtMostOnce, "a", later + 2)), []);
    // Another lane has identifiers of its own.
    rig.send(&p(0x82, &[&[0, 2, 0], &s("a"), &[0x25]]));
    assert_eq!(rig.event(delivery(3, Qos::AtLeastOnce, "a", 1)), publish(0x32, 32_769));
    let most = p(0x30, &[&s("a"), &[0], b"m"]);
    let expected = [publish(0x32, 2), publish(0x32, 3), most].concat();
    assert_eq!(rig.send(&[0x40, 2, 0, 2]), expected);
    rig.asked();
    rig.send(&[0x40, 2, 0, 2]);
    assert_eq!(rig.asked(), [format!("settle {later}+1 Accept")]);
}

#[test]
fn mqtt5_2_2_1_4_an_identifier_is_in_use_until_its_pubcomp() {
    let mut rig = subscribed(&[]);
    let later = 1 + 32_767;
    rig.event(delivery(1, Qos::ExactlyOnce, "a", 1));
    assert_eq!(rig.send(&[0x50, 2, 0, 2]), [0x62, 2, 0, 2]);
    assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", later)), []);
    assert_eq!(rig.send(&[0x70, 2, 0, 2]), publish(0x34, 2));
}

#[test]
fn mqtt5_3_3_4_9_no_more_is_sent_than_the_client_receives() {
    let mut rig = subscribed(&[&[0x21, 0, 2]]);
    assert!(rig.asked().contains(&"window 2".to_owned()));
    assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", 1)), publish(0x34, 2));
    // A PUBREC settles it, and so makes room in the broker's window, but not in the client's.
    rig.send(&[0x50, 2, 0, 2]);
    assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", 2)), publish(0x34, 3));
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a", 3)), []);
    assert_eq!(rig.send(&[0x70, 2, 0, 2]), publish(0x32, 4));
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a", 4)), []);
    assert_eq!(rig.send(&[0x40, 2, 0, 4]), publish(0x32, 5));
    // A refusal makes room as well.
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a", 5)), []);
    assert_eq!(rig.send(&[0x50, 3, 0, 3, 0x80]), publish(0x32, 6));
}

#[test]
fn what_an_earlier_connection_has_sent_takes_no_room() {
    let connect = connect5(0xC0, &[&[0x11, 0, 0, 1, 0], &[0x21, 0, 1]], &[&s("u"), &s("p")]);
    let mut rig = Rig::new().connected(&connect);
    rig.send(&p(0x82, &[&[0, 1, 0], &s("a"), &[0x22]]));
    rig.event(delivery(1, Qos::ExactlyOnce, "a", 1));
    rig.send(&[0x50, 2, 0, 2]);
    let mut rig = rig.again().connected(&connect);
    assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", 2)), publish(0x34, 3));
    assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", 3)), []);
    assert_eq!(rig.send(&[0x70, 2, 0, 2]), [], "it was none of those that count");
    assert_eq!(rig.send(&[0x40, 2, 0, 9, 0x50, 3, 0, 3, 0x80]), publish(0x34, 4));
}

fn receiving(receive_max: u16) -> Rig {
    let config = SessionConfig { receive_max, ..SessionConfig::new(SessionId(7)) };
    let mut rig = Rig::with(config).connected(&connect5(0xC2, &[], &[&s("u"), &s("p")]));
    rig.answers = false;
    rig
}

#[test]
fn mqtt5_3_3_4_7_a_client_that_sends_more_than_the_server_receives_is_disconnected() {
    let send = |first: u8, id: u16| publish(first, id);
    let mut rig = receiving(2);
    rig.send(&[send(0x32, 1), send(0x34, 2)].concat());
    assert_eq!(rig.confirm(&[]), [0x40, 2, 0, 1, 0x50, 2, 0, 2]);
    rig.send(&send(0x34, 3));
    assert_eq!(rig.confirm(&[]), [0x50, 2, 0, 3]);
    // One that comes again is none more.
    assert_eq!(rig.send(&send(0x3C, 3)), [0x50, 2, 0, 3]);
    assert_eq!(rig.send(&[0x62, 2, 0, 2]), [0x70, 2, 0, 2]);
    assert_eq!(rig.send(&send(0x32, 4)), []);
    let written = rig.send(&send(0x32, 5));
    assert_eq!((written[0], written[2]), (0xE0, 0x93));
}

#[test]
fn before_5_0_clients_are_told_no_receive_maximum_and_have_none() {
    let config = SessionConfig { receive_max: 1, ..SessionConfig::new(SessionId(7)) };
    let connect = common::connect4(0xC2, &[&s("u"), &s("p")]);
    let mut rig = Rig::with(config).connected(&connect);
    rig.answers = false;
    let publishes: Vec<Vec<u8>> = (1..=3).map(|id| p(0x32, &[&s("a"), &[0, id], b"m"])).collect();
    rig.send(&publishes.concat());
    assert_eq!(rig.confirm(&[]).len(), 12);
}

#[test]
fn mqtt5_3_1_2_25_what_is_too_large_counts_as_delivered() {
    let mut rig = subscribed(&[&[0x27, 0, 0, 0, 16]]);
    rig.asked.clear();
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "eight/ch", 1)).len(), 16);
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "nine/char", 2)), []);
    assert_eq!(rig.asked(), ["settle 2+1 Accept"]);
}

#[test]
fn mqtt5_3_1_2_24_nothing_is_sent_that_is_too_large_for_the_client() {
    let connect = |max: u8| connect5(0xC2, &[&[0x27, 0, 0, 0, max]], &[&s("u"), &s("p")]);
    let mut rig = Rig::new();
    assert_eq!(rig.send(&connect(15)), [0x20, 3, 0, 0x95, 0]);
    assert!(rig.session.is_closed());
    let mut rig = Rig::new().connected(&connect(16));
    let filters = [&s("a")[..], &[0]].concat().repeat(12);
    let written = rig.send(&p(0x82, &[&[0, 1, 0], &filters]));
    assert_eq!(written, [0xE0, 1, 0x95]);
}

#[test]
fn mqtt5_3_1_2_26_topics_are_told_by_as_many_aliases_as_the_client_takes() {
    let mut rig = subscribed(&[&[0x22, 0, 2]]);
    let mut topic =
        |topic: &str, sequence: u64| rig.event(delivery(1, Qos::AtMostOnce, topic, sequence));
    let told = |topic: &str, alias: &[u8]| p(0x30, &[&s(topic), &props(&[alias]), b"m"]);
    assert_eq!(topic("a/b", 1), told("a/b", &[0x23, 0, 1]));
    assert_eq!(topic("a/b", 2), told("", &[0x23, 0, 1]));
    assert_eq!(topic("c", 3), told("c", &[0x23, 0, 2]));
    // All are given [MQTT-3.3.2-11].
    assert_eq!(topic("d", 4), told("d", &[]));
    assert_eq!(topic("c", 5), told("", &[0x23, 0, 2]));
    // [MQTT-3.1.2-27]: none where none are taken.
    let mut rig = subscribed(&[]);
    let without = rig.event(delivery(1, Qos::AtMostOnce, "a", 1));
    assert_eq!(without, p(0x30, &[&s("a"), &[0], b"m"]));
}

#[test]
fn an_alias_that_does_not_fit_is_not_given() {
    // A packet with an alias has three bytes more.
    let mut rig = subscribed(&[&[0x22, 0, 2], &[0x27, 0, 0, 0, 16]]);
    for sequence in 1..3 {
        let written = rig.event(delivery(1, Qos::AtMostOnce, "eight/ch", sequence));
        assert_eq!(written, p(0x30, &[&s("eight/ch"), &[0], b"m"]));
    }
}

#[test]
fn mqtt5_3_3_2_6_what_was_kept_says_how_long_it_still_lives() {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::MessageExpiryInterval(60)).unwrap();
    let message = Message {
        qos: Qos::AtMostOnce,
        retain: true,
        topic: "a",
        properties: properties.as_properties(),
        payload: b"m",
    };
    let Event::Deliveries(mut deliveries) = recalled(1, Qos::AtMostOnce, "a", 1) else { panic!() };
    let mut batch = (*store(&message, "amq.topic")).clone();
    // The broker has counted down.
    batch.records[0].ttl_ms = 12_300;
    deliveries[0].batch = Arc::new(batch);
    let written = subscribed(&[]).event(Event::Deliveries(deliveries));
    assert_eq!(written, p(0x31, &[&s("a"), &props(&[&[2, 0, 0, 0, 13]]), b"m"]));
}

/// A message of QoS 1 that expires a minute after its arrival, and has waited in its queue.
fn expiring(first: u64, waited_ms: u64) -> Event {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::MessageExpiryInterval(60)).unwrap();
    let message = Message {
        qos: Qos::AtLeastOnce,
        retain: false,
        topic: "a",
        properties: properties.as_properties(),
        payload: b"m",
    };
    let delivery = delivery_of(1, Qos::AtLeastOnce, "a", first);
    Event::Deliveries(vec![Delivery { batch: store(&message, "amq.topic"), waited_ms, ..delivery }])
}

#[test]
fn mqtt5_3_3_2_6_what_has_waited_says_how_long_it_still_lives() {
    let told =
        |id: u8, left_s: u8| p(0x32, &[&s("a"), &[0, id], &props(&[&[2, 0, 0, 0, left_s]]), b"m"]);
    let mut rig = subscribed(&[&[0x21, 0, 3]]);
    assert_eq!(rig.event(expiring(1, 0)), told(2, 60));
    assert_eq!(rig.event(expiring(2, 1_000)), told(3, 59));
    assert_eq!(rig.event(expiring(3, 59_001)), told(4, 1));
    // Here it waits on, for the client's acknowledgements.
    assert_eq!(rig.event(expiring(4, 10_000)), []);
    assert_eq!(rig.event(expiring(5, 31_000)), []);
    assert_eq!(rig.event(expiring(6, 0)), []);
    let later = |rig: &mut Rig, bytes: &[u8]| {
        let mut input = Input::new();
        input.extend(bytes);
        rig.session.handle_bytes(NOW + std::time::Duration::from_secs(30), &mut input);
        rig.written()
    };
    assert_eq!(later(&mut rig, &[0x40, 2, 0, 2]), told(5, 20));
    // [MQTT-3.3.2-5].
    assert_eq!(later(&mut rig, &[0x40, 2, 0, 3]), told(7, 30));
    rig.pump();
    assert_eq!(rig.world.settled, [1, 2, 5]);
}

#[test]
fn mqtt5_3_3_1_1_what_may_have_come_before_says_so() {
    let mut rig = subscribed(&[]);
    assert_eq!(rig.event(redelivery(1, Qos::AtLeastOnce, "a", 1)), publish(0x3A, 2));
    // [MQTT-3.3.1-2].
    assert_eq!(rig.event(redelivery(1, Qos::AtMostOnce, "a", 2))[0], 0x30);
}

#[test]
fn a_message_that_was_moved_has_the_topic_of_its_last_key() {
    let mut delivery = delivery_of(1, Qos::AtMostOnce, "a", 1);
    let annotations = Annotations { routing_key: Some("dead.a".into()), ..Annotations::default() };
    delivery.annotations = Some(Arc::new(annotations));
    let written = subscribed(&[]).event(Event::Deliveries(vec![delivery]));
    assert_eq!(written, p(0x30, &[&s("dead/a"), &[0], b"m"]));
}

#[test]
fn a_run_of_deliveries_is_taken_one_by_one() {
    let mut rig = subscribed(&[&[0x21, 0, 2]]);
    let mut delivery = delivery_of(1, Qos::AtLeastOnce, "a", 1);
    let mut batch = (*delivery.batch).clone();
    batch.records = vec![batch.records[0]; 4];
    (delivery.batch, delivery.len) = (Arc::new(batch), 4);
    let written = rig.event(Event::Deliveries(vec![delivery]));
    assert_eq!(written, [publish(0x32, 2), publish(0x32, 3)].concat());
    rig.asked();
    let written = rig.send(&[0x40, 2, 0, 2, 0x40, 2, 0, 3]);
    assert_eq!(written, [publish(0x32, 4), publish(0x32, 5)].concat());
    rig.send(&[0x40, 2, 0, 5, 0x40, 2, 0, 4]);
    assert_eq!(rig.asked(), ["settle 1+2 Accept", "settle 4+1 Accept, 3+1 Accept"]);
    assert!(!rig.session.is_closed());
}

/// What the client says to two deliveries, in pieces, ends alike.
#[test]
fn how_acknowledgements_are_split_changes_nothing() {
    let bytes = [
        &[0x50, 2, 0, 2, 0x40, 2, 0, 3, 0x50, 2, 0, 4][..],
        &p(0x34, &[&s("a"), &[0, 1, 0], b"1"]),
        &[0x70, 2, 0, 2, 0x50, 3, 0, 5, 0x80, 0x62, 2, 0, 1, 0x70, 2, 0, 4],
    ]
    .concat();
    let run = |piece: usize| {
        let connect = connect5(0xC0, &[&[0x11, 0, 0, 1, 0]], &[&s("u"), &s("p")]);
        let mut rig = Rig::new().connected(&connect);
        rig.send(&p(0x82, &[&[0, 1, 0], &s("a"), &[0x22]]));
        for (sequence, qos) in
            [Qos::ExactlyOnce, Qos::AtLeastOnce, Qos::ExactlyOnce, Qos::ExactlyOnce]
                .into_iter()
                .enumerate()
        {
            rig.event(delivery(1, qos, "a", sequence as u64 + 1));
        }
        let written: Vec<u8> = bytes.chunks(piece).flat_map(|part| rig.send(part)).collect();
        assert!(!rig.session.is_closed(), "in pieces of {piece}");
        rig.world.settled.sort_unstable();
        (rig.world, written.len())
    };
    // A PUBCOMP answers a PUBREL that the client has got, in another read than the PUBREC.
    let expected = run(1);
    assert_eq!(expected.0.settled, [1, 2, 3, 4]);
    assert_eq!(expected.0.published.len(), 1);
    assert_eq!(expected.0.notes.len(), 2, "lane and subscription");
    for piece in 1..12 {
        assert_eq!(run(piece), expected, "in pieces of {piece}");
    }
}

#[test]
fn seeded_faults_are_noticed() {
    common::faults::are_noticed(include_str!("flow.rs"));
}
