//! What clients subscribe to, and what comes for it.

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;

use common::rig::{Rig, delivery, delivery_of, recalled};
use common::{connect5, p, props, s};
use isthmus_contract::{CommandError, Event, Session};
use isthmus_model::{Delivery, RecordFlags};
use isthmus_mqtt::codec::Qos;

/// A SUBSCRIBE of 5.0 with a filter and its options.
fn subscribe(id: u8, filter: &str, options: u8) -> Vec<u8> {
    p(0x82, &[&[0, id, 0], &s(filter), &[options]])
}

/// One with a Subscription Identifier.
fn subscribe_as(id: u8, filter: &str, options: u8, identifier: u8) -> Vec<u8> {
    p(0x82, &[&[0, id, 2, 0x0B, identifier], &s(filter), &[options]])
}

fn unsubscribe(id: u8, filter: &str) -> Vec<u8> {
    p(0xA2, &[&[0, id, 0], &s(filter)])
}

/// What a client of 5.0 gets on `a/b`.
fn publish(first: u8, packet_id: &[u8], properties: &[&[u8]]) -> Vec<u8> {
    p(first, &[&s("a/b"), packet_id, &props(properties), b"m"])
}

const REFUSED: fn() -> CommandError = || CommandError::Refused("no".to_owned());

#[test]
fn mqtt5_3_8_4_5_subscriptions_are_bindings_of_the_sessions_lanes() {
    let mut rig = Rig::accepted();
    rig.refused.push(("bind amq.topic secret", REFUSED()));
    let bytes = p(
        0x82,
        &[
            &[0, 9, 0],
            &s("a/+"),
            &[1],
            &s("b.c/#"),
            &[2],
            &s("z"),
            &[0],
            &s("secret"),
            &[1],
            &s("n"),
            &[4],
            &s("m"),
            &[6],
        ],
    );
    // [MQTT-3.8.4-6]: a reason code for each, in order.
    assert_eq!(rig.send(&bytes), [0x90, 9, 0, 9, 0, 1, 2, 0, 0x87, 0, 2]);
    let expected = [
        "window 1000",
        "declare mqtt-subscription-idqos1 exclusive",
        "attach 1 mqtt-subscription-idqos1 exclusive",
        "bind amq.topic a.* to mqtt-subscription-idqos1",
        "bind amq.topic b/c.# to mqtt-subscription-idqos1",
        "declare mqtt-subscription-idqos0 exclusive",
        "attach 0 mqtt-subscription-idqos0 settled exclusive",
        "bind amq.topic z to mqtt-subscription-idqos0",
        "bind amq.topic secret to mqtt-subscription-idqos1",
        "declare mqtt-subscription-idqos0.nolocal exclusive",
        "attach 2 mqtt-subscription-idqos0.nolocal settled exclusive no-local",
        "bind amq.topic n to mqtt-subscription-idqos0.nolocal",
        "declare mqtt-subscription-idqos1.nolocal exclusive",
        "attach 3 mqtt-subscription-idqos1.nolocal exclusive no-local",
        "bind amq.topic m to mqtt-subscription-idqos1.nolocal",
    ];
    let asked = rig.asked();
    assert_eq!(asked[..15], expected);
    // What was refused is not recalled.
    let recalls: Vec<&str> = asked[15..].iter().map(String::as_str).collect();
    let expected = [
        "recall amq.topic a.* to mqtt-subscription-idqos1",
        "recall amq.topic b/c.# to mqtt-subscription-idqos1",
        "recall amq.topic z to mqtt-subscription-idqos0",
        "recall amq.topic n to mqtt-subscription-idqos0.nolocal",
        "recall amq.topic m to mqtt-subscription-idqos1.nolocal",
    ];
    assert_eq!(recalls, expected);
    assert_eq!(rig.send(&unsubscribe(10, "secret")), [0xB0, 4, 0, 10, 0, 0x11]);
}

#[test]
fn mqtt5_3_8_4_3_a_filter_takes_the_place_of_the_same_one() {
    let mut rig = Rig::lasting();
    rig.send(&subscribe(1, "a/+", 0x21));
    assert_eq!(rig.asked().last().unwrap(), "note q1 s:a/+:21");
    assert_eq!(rig.send(&subscribe(2, "a/+", 0x20)), [0x90, 4, 0, 2, 0, 0]);
    let expected = [
        "declare mqtt-subscription-idqos0 exclusive",
        "attach 0 mqtt-subscription-idqos0 settled exclusive",
        "bind amq.topic a.* to mqtt-subscription-idqos0",
        "unbind amq.topic a.* to mqtt-subscription-idqos1",
        "note s:a/+:20",
    ];
    // The new binding first [MQTT-3.8.4-4].
    assert_eq!(rig.asked(), expected);
    // Nothing new is not noted.
    rig.send(&subscribe(3, "a/+", 0x20));
    assert_eq!(rig.asked(), ["bind amq.topic a.* to mqtt-subscription-idqos0"]);
    assert_eq!(rig.send(&unsubscribe(4, "a/+")), [0xB0, 4, 0, 4, 0, 0]);
    let expected = ["unbind amq.topic a.* to mqtt-subscription-idqos0", "note -s:a/+:"];
    assert_eq!(rig.asked(), expected);
    assert_eq!(rig.send(&unsubscribe(5, "a/+")), [0xB0, 4, 0, 5, 0, 0x11]);
    assert!(rig.asked().is_empty());
}

#[test]
fn what_is_refused_is_not_noted_and_leaves_what_was() {
    let mut rig = Rig::lasting();
    rig.send(&subscribe(1, "a/+", 0x21));
    let bind = "bind amq.topic a.* to mqtt-subscription-idqos1.nolocal";
    rig.refused.push((bind, REFUSED()));
    rig.refused.push(("bind amq.topic b", REFUSED()));
    assert_eq!(rig.send(&subscribe(2, "b", 0x21)), [0x90, 4, 0, 2, 0, 0x87]);
    assert!(!rig.world.notes.contains_key(&b"sb"[..]));
    // The binding that was to be replaced is gone: the client is not subscribed.
    assert_eq!(rig.send(&subscribe(3, "a/+", 0x25)), [0x90, 4, 0, 3, 0, 0x87]);
    assert!(!rig.world.notes.contains_key(&b"sa/+"[..]));
    assert_eq!(rig.send(&unsubscribe(4, "a/+")), [0xB0, 4, 0, 4, 0, 0x11]);
}

#[test]
fn a_limit_that_is_reached_is_told_as_one() {
    let mut rig = Rig::accepted();
    rig.refused.push(("bind amq.topic b", CommandError::Limit("too many queues".to_owned())));
    assert_eq!(rig.send(&subscribe(2, "b", 0x01)), [0x90, 4, 0, 2, 0, 0x97]);
}

#[test]
fn a_session_that_cannot_be_noted_is_ended() {
    let mut rig = Rig::lasting();
    rig.refused.push(("note", CommandError::Limit("too many".to_owned())));
    let written = rig.send(&subscribe(1, "a", 1));
    // Without a SUBACK, and with nothing behind it [MQTT-3.14.4-1].
    assert_eq!((written[0], written[2]), (0xE0, 0x97), "{written:02X?}");
    assert_eq!(written.len(), 2 + usize::from(written[1]));
    assert!(rig.session.is_closed());
}

#[test]
fn mqtt5_3_3_1_9_retained_messages_are_sent_as_the_subscription_says() {
    let mut rig = Rig::accepted();
    let mut recalls = |options: u8| {
        rig.send(&subscribe(1, "a", options));
        rig.asked().iter().any(|asked| asked.starts_with("recall"))
    };
    // 1: [MQTT-3.3.1-10], 2: [MQTT-3.3.1-11].
    assert!(recalls(0x11), "it is new");
    assert!(!recalls(0x11), "it is not");
    assert!(recalls(0x01));
    assert!(!recalls(0x21));
}

#[test]
fn mqtt5_3_3_1_12_the_retain_flag_is_kept_as_the_subscription_says() {
    let retained = |topic: &str, sequence: u64| {
        let mut delivery = delivery_of(1, Qos::AtLeastOnce, topic, sequence);
        let mut batch = (*delivery.batch).clone();
        batch.records[0].flags = batch.records[0].flags.with(RecordFlags::RETAIN);
        delivery.batch = Arc::new(batch);
        Event::Deliveries(vec![delivery])
    };
    let mut rig = Rig::accepted();
    rig.send(&subscribe(1, "a/b", 0x01));
    assert_eq!(rig.event(retained("a/b", 1)), publish(0x32, &[0, 2], &[]));
    // What was kept has it either way (section 3.3.1.3).
    assert_eq!(rig.event(recalled(1, Qos::AtLeastOnce, "a/b", 2)), publish(0x33, &[0, 3], &[]));
    // [MQTT-3.3.1-13].
    rig.send(&subscribe(2, "a/b", 0x09));
    assert_eq!(rig.event(retained("a/b", 3)), publish(0x33, &[0, 4], &[]));
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "a/b", 4)), publish(0x32, &[0, 5], &[]));
}

#[test]
fn mqtt5_3_3_4_2_a_message_for_several_filters_comes_once_with_the_highest_qos() {
    let mut rig = Rig::accepted();
    rig.send(&subscribe_as(1, "a/+", 0x21, 7));
    rig.send(&subscribe_as(2, "a/#", 0x22, 9));
    rig.send(&subscribe_as(3, "#", 0x20, 5));
    // [MQTT-3.3.4-3], [MQTT-3.3.4-4].
    let ids: [&[u8]; 1] = [&[0x0B, 7, 0x0B, 9]];
    let other: [&[u8]; 1] = [&[0x0B, 9, 0x0B, 7]];
    let written = rig.event(delivery(1, Qos::ExactlyOnce, "a/b", 1));
    let both = [publish(0x34, &[0, 2], &ids), publish(0x34, &[0, 2], &other)];
    assert!(both.contains(&written), "{written:02X?}");
    // The same message by the other lane.
    assert_eq!(rig.event(delivery(0, Qos::ExactlyOnce, "a/b", 1)), []);
    // Not more than it was published with [MQTT-3.8.4-8].
    let written = rig.event(delivery(1, Qos::AtMostOnce, "a/b", 2));
    assert_eq!(written[0], 0x30);
    // Another topic is for one of them.
    let written = rig.event(delivery(1, Qos::ExactlyOnce, "a/b/c", 3));
    assert_eq!(written, p(0x34, &[&s("a/b/c"), &[0, 4], &props(&[&[0x0B, 9]]), b"m"]));
    let written = rig.event(delivery(0, Qos::ExactlyOnce, "b", 2));
    assert_eq!(written, p(0x30, &[&s("b"), &props(&[&[0x0B, 5]]), b"m"]));
}

#[test]
fn mqtt5_4_7_2_1_wildcards_pass_over_topics_that_begin_with_a_dollar() {
    let mut rig = Rig::accepted();
    rig.send(&subscribe(1, "#", 0x21));
    rig.send(&subscribe(2, "$share/g/#", 0x21));
    rig.asked();
    assert_eq!(rig.event(delivery(1, Qos::AtLeastOnce, "$SYS/a", 1)), []);
    assert_eq!(rig.event(delivery(4, Qos::AtLeastOnce, "$SYS/a", 1)), []);
    assert_eq!(rig.asked(), ["settle 1+1 Accept", "settle 1+1 Accept"]);
    rig.send(&subscribe(3, "$SYS/#", 0x01));
    let expected = [
        "bind amq.mqtt.system $SYS.# to mqtt-subscription-idqos1",
        "recall amq.mqtt.system $SYS.# to mqtt-subscription-idqos1",
    ];
    assert_eq!(rig.asked(), expected);
    assert_ne!(rig.event(delivery(1, Qos::AtLeastOnce, "$SYS/a", 2)), []);
}

#[test]
fn without_an_exchange_for_them_there_are_no_topics_that_begin_with_a_dollar() {
    let mut rig = Rig::accepted();
    let missing = CommandError::NotFound("no exchange".to_owned());
    rig.refused.push(("bind amq.mqtt.system", missing));
    assert_eq!(rig.send(&subscribe(1, "$SYS/#", 1)), [0x90, 4, 0, 1, 0, 1]);
    assert!(!rig.asked().iter().any(|asked| asked.starts_with("recall")));
    assert_eq!(rig.send(&subscribe(2, "$share/g/$SYS/#", 1)), [0x90, 4, 0, 2, 0, 1]);
    assert_eq!(rig.send(&unsubscribe(3, "$SYS/#")), [0xB0, 4, 0, 3, 0, 0]);
}

#[test]
fn mqtt5_4_8_2_3_members_of_a_group_consume_from_its_queue() {
    let mut rig = Rig::lasting();
    assert_eq!(rig.send(&subscribe(1, "$share/g/a/+", 1)), [0x90, 4, 0, 1, 0, 1]);
    let expected = [
        "window 1000",
        "declare mqtt-shared-g/a/+ shared",
        "hold mqtt-shared-g/a/+",
        "bind amq.topic a.* to mqtt-shared-g/a/+",
        "attach 4 mqtt-shared-g/a/+",
        "note s:$share/g/a/+:01",
    ];
    // Retained messages are not sent for it.
    assert_eq!(rig.asked(), expected);
    let delivered = rig.event(delivery(4, Qos::ExactlyOnce, "a/b", 70_000));
    assert_eq!(delivered, publish(0x32, &[0xC0, 0], &[]));
    // Another subscription of the same client is its own.
    rig.send(&subscribe(2, "a/+", 0x21));
    let delivered = rig.event(delivery(1, Qos::AtLeastOnce, "a/b", 1));
    assert_eq!(delivered, publish(0x32, &[0, 2], &[]));
    rig.asked();
    rig.send(&[0x40, 2, 0xC0, 0]);
    assert_eq!(rig.asked(), ["settle 70000+1 Accept"]);
    // Other options, no other queue.
    assert_eq!(rig.send(&subscribe_as(3, "$share/g/a/+", 0, 3)), [0x90, 4, 0, 3, 0, 0]);
    assert_eq!(rig.asked(), ["note s:$share/g/a/+:0000000003"]);
    let delivered = rig.event(delivery(4, Qos::AtLeastOnce, "a/b", 70_001));
    assert_eq!(delivered, publish(0x30, &[], &[&[0x0B, 3]]));
    assert_eq!(rig.asked(), ["settle 70001+1 Accept"]);
    // One that has left gives back what still comes.
    assert_eq!(rig.send(&unsubscribe(4, "$share/g/a/+")), [0xB0, 4, 0, 4, 0, 0]);
    let expected = ["detach 4", "release mqtt-shared-g/a/+", "note -s:$share/g/a/+:"];
    assert_eq!(rig.asked(), expected);
    assert_eq!(rig.event(delivery(4, Qos::AtLeastOnce, "a/b", 70_002)), []);
    assert_eq!(rig.asked(), ["settle 70002+1 Requeue"]);
}

#[test]
fn a_session_that_ends_with_its_connection_holds_no_group() {
    let mut rig = Rig::accepted();
    rig.send(&subscribe(1, "$share/g/a", 1));
    rig.send(&subscribe(2, "$share/h/a", 1));
    let asked = rig.asked();
    assert!(!asked.iter().any(|asked| asked.starts_with("hold") || asked.starts_with("note")));
    assert!(asked.contains(&"attach 5 mqtt-shared-h/a".to_owned()), "{asked:?}");
    rig.send(&unsubscribe(3, "$share/g/a"));
    assert_eq!(rig.asked(), ["detach 4"]);
}

#[test]
fn a_group_that_cannot_be_joined_is_left() {
    let mut rig = Rig::lasting();
    rig.refused.push(("attach 4", REFUSED()));
    assert_eq!(rig.send(&subscribe(1, "$share/g/a", 1)), [0x90, 4, 0, 1, 0, 0x87]);
    assert!(rig.asked().contains(&"release mqtt-shared-g/a".to_owned()));
    assert!(rig.world.notes.is_empty());
    assert_eq!(rig.send(&unsubscribe(2, "$share/g/a")), [0xB0, 4, 0, 2, 0, 0x11]);
}

#[test]
fn there_are_as_many_subscriptions_as_are_allowed() {
    let config = isthmus_mqtt::SessionConfig {
        subscriptions_max: 2,
        ..isthmus_mqtt::SessionConfig::new(isthmus_model::SessionId(7))
    };
    let mut rig = Rig::with(config).connected(&connect5(0xC2, &[], &[&s("u"), &s("p")]));
    rig.send(&subscribe(1, "a", 1));
    rig.send(&subscribe(2, "$share/g/a", 1));
    assert_eq!(rig.send(&subscribe(3, "b", 1)), [0x90, 4, 0, 3, 0, 0x97]);
    assert_eq!(rig.send(&subscribe(4, "a", 0)), [0x90, 4, 0, 4, 0, 0], "it is one of them");
    rig.send(&unsubscribe(5, "$share/g/a"));
    assert_eq!(rig.send(&subscribe(6, "b", 1)), [0x90, 4, 0, 6, 0, 1]);
}

#[test]
fn before_5_0_a_failure_is_0x80_and_share_is_a_group_as_well() {
    let mut rig = Rig::accepted4();
    rig.refused.push(("bind amq.topic secret", REFUSED()));
    let bytes = p(0x82, &[&[0, 1], &s("secret"), &[1], &s("$share/g/a"), &[2], &s("b"), &[2]]);
    assert_eq!(rig.send(&bytes), [0x90, 5, 0, 1, 0x80, 2, 2]);
    assert_eq!(rig.send(&p(0xA2, &[&[0, 2], &s("b"), &s("none")])), [0xB0, 2, 0, 2]);
}

#[test]
fn mqtt5_3_10_4_3_what_waited_for_a_subscription_that_has_ended_may_still_come() {
    let mut rig = Rig::accepted();
    rig.send(&subscribe(1, "a/b", 0x22));
    rig.send(&subscribe(2, "c", 0x21));
    rig.send(&unsubscribe(3, "a/b"));
    let delivered = rig.event(delivery(1, Qos::ExactlyOnce, "a/b", 1));
    assert_eq!(delivered, publish(0x32, &[0, 2], &[]));
}

#[test]
fn what_others_have_bound_to_a_lane_comes_as_well() {
    let mut rig = Rig::accepted();
    rig.send(&subscribe(1, "x", 0x22));
    rig.send(&subscribe(2, "y", 0x21));
    let deliveries =
        [delivery_of(1, Qos::ExactlyOnce, "a/b", 1), delivery_of(1, Qos::AtMostOnce, "a/b", 2)];
    let [exactly, most] = deliveries.map(|d: Delivery| rig.event(Event::Deliveries(vec![d])));
    assert_eq!((exactly[0], most[0]), (0x34, 0x30));
}

#[test]
fn seeded_faults_are_noticed() {
    common::faults::are_noticed(include_str!("subscriptions.rs"));
}
