//! QoS 1 and 2 in both directions, with what is lost at each step (section 4.3, 4.4).

#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use common::rig::{Rig, delivery, redelivery};
use common::{p, props, s};
use isthmus_contract::{CommandError, PublishRefusal, Session};
use isthmus_mqtt::codec::Qos;

/// A PUBLISH of 5.0 to `a`.
fn publish(first: u8, id: u8, body: &str) -> Vec<u8> {
    p(first, &[&s("a"), &[0, id, 0], body.as_bytes()])
}

fn subscribed(mut rig: Rig) -> Rig {
    rig.send(&p(0x82, &[&[0, 1, 0], &s("a"), &[0x22]]));
    rig.asked.clear();
    rig
}

#[test]
fn mqtt5_4_3_3_8_a_publish_and_the_note_of_its_identifier_are_one() {
    let mut rig = Rig::lasting();
    rig.answers = false;
    let bytes = [publish(0x34, 1, "1"), publish(0x32, 2, "2"), publish(0x34, 3, "3")].concat();
    assert_eq!(rig.send(&bytes), [], "nothing before it is safe");
    let expected = [
        "begin",
        "tx publish amq.topic a 1 durable, amq.topic a 2 durable, amq.topic a 3 durable",
        "tx note p1 p3",
        "commit",
    ];
    assert_eq!(rig.asked(), expected);
    assert_eq!(rig.confirm_all(), [0x50, 2, 0, 1, 0x40, 2, 0, 2, 0x50, 2, 0, 3]);
    // Released in one note, and complete once that is safe [MQTT-4.3.3-11].
    assert_eq!(rig.send(&[0x62, 2, 0, 1, 0x62, 2, 0, 3]), []);
    assert_eq!(rig.asked(), ["note -p1 -p3"]);
    assert_eq!(rig.confirm_all(), [0x70, 2, 0, 1, 0x70, 2, 0, 3]);
    assert!(rig.world.notes.is_empty());
    // The transaction was begun once.
    rig.send(&publish(0x34, 1, "4"));
    let expected = ["tx publish amq.topic a 4 durable", "tx note p1", "commit"];
    assert_eq!(rig.asked(), expected);
}

#[test]
fn a_session_that_ends_with_its_connection_notes_nothing() {
    let mut rig = subscribed(Rig::accepted());
    rig.answers = false;
    assert_eq!(rig.send(&publish(0x34, 1, "1")), []);
    assert_eq!(rig.asked(), ["publish amq.topic a 1 durable"]);
    assert_eq!(rig.confirm(&[]), [0x50, 2, 0, 1]);
    assert_eq!(rig.send(&publish(0x3C, 1, "1")), [0x50, 2, 0, 1], "not published again");
    assert_eq!(rig.send(&[0x62, 2, 0, 1]), [0x70, 2, 0, 1]);
    rig.event(delivery(1, Qos::ExactlyOnce, "a", 1));
    assert_eq!(rig.send(&[0x50, 2, 0, 2]), []);
    assert_eq!(rig.asked(), ["settle 1+1 Accept"]);
    assert_eq!(rig.confirm(&[]), [0x62, 2, 0, 2]);
    rig.send(&[0x70, 2, 0, 2]);
    assert!(rig.asked().is_empty());
}

#[test]
fn mqtt5_4_3_3_10_a_publish_that_comes_again_is_not_published_again() {
    let mut rig = Rig::lasting();
    rig.answers = false;
    // Before the first is answered, and after.
    rig.send(&publish(0x34, 1, "1"));
    assert_eq!(rig.send(&publish(0x3C, 1, "1")), []);
    assert_eq!(rig.confirm_all(), [0x50, 2, 0, 1, 0x50, 2, 0, 1]);
    assert_eq!(rig.send(&publish(0x3C, 1, "1")), [0x50, 2, 0, 1]);
    assert_eq!(rig.world.published, ["amq.topic a 1 durable"]);
    // After its release it is another one [MQTT-4.3.3-12].
    rig.send(&[0x62, 2, 0, 1]);
    rig.confirm_all();
    rig.send(&publish(0x34, 1, "2"));
    assert_eq!(rig.confirm_all(), [0x50, 2, 0, 1]);
    assert_eq!(rig.world.published.len(), 2);
}

#[test]
fn mqtt5_4_3_3_9_what_is_refused_is_not_noted() {
    let mut rig = Rig::lasting();
    rig.answers = false;
    rig.send(&[publish(0x34, 1, "1"), publish(0x34, 2, "2")].concat());
    rig.confirm(&[]);
    rig.confirm(&[]);
    let written = rig.confirm(&[(1, PublishRefusal::Full)]);
    assert_eq!(written, [0x50, 2, 0, 1, 0x50, 3, 0, 2, 0x97]);
    assert_eq!(rig.world.notes.keys().collect::<Vec<_>>(), [b"p\x00\x01"]);
    // The identifier may be used again at once.
    rig.send(&publish(0x34, 2, "3"));
    assert_eq!(rig.confirm_all(), [0x50, 2, 0, 2]);
    // Who may not publish is told so, and goes on one by one.
    rig.send(&publish(0x34, 3, "4"));
    rig.fail(CommandError::Refused("no".to_owned()));
    assert_eq!(rig.confirm_all(), [0x50, 3, 0, 3, 0x87]);
    rig.asked();
    rig.send(&[publish(0x32, 4, "5"), publish(0x32, 5, "6")].concat());
    assert!(rig.asked().iter().all(|asked| !asked.contains(", ")));
}

#[test]
fn before_5_0_a_refused_publish_of_qos_2_ends_the_connection() {
    let mut rig = Rig::new().connected(&common::connect4(0xC0, &[&s("u"), &s("p")]));
    rig.answers = false;
    rig.send(&p(0x34, &[&s("a"), &[0, 1], b"m"]));
    rig.confirm(&[]);
    rig.confirm(&[]);
    assert_eq!(rig.confirm(&[(0, PublishRefusal::Full)]), []);
    assert!(rig.session.is_closed());
    rig.pump();
    assert!(rig.world.notes.is_empty(), "it may come again");
}

#[test]
fn what_has_not_been_committed_is_not_acknowledged() {
    let mut rig = Rig::lasting();
    rig.answers = false;
    rig.send(&publish(0x34, 1, "1"));
    rig.confirm(&[]);
    rig.confirm(&[]);
    let written = rig.fail(CommandError::NotLeader);
    assert_eq!((written[0], written[2]), (0xE0, 0x9C));
    assert!(rig.session.is_closed());
    // Nor if the note alone has failed.
    let mut rig = Rig::lasting();
    rig.answers = false;
    rig.send(&publish(0x34, 1, "1"));
    rig.confirm(&[]);
    rig.fail(CommandError::Limit("too many notes".to_owned()));
    let written = rig.confirm(&[]);
    assert_eq!((written[0], written[2]), (0xE0, 0x97));
}

#[test]
fn mqtt5_2_2_1_5_a_release_of_what_is_not_known_says_so() {
    let mut rig = Rig::accepted();
    assert_eq!(rig.send(&[0x62, 2, 0, 9]), [0x70, 3, 0, 9, 0x92]);
    assert_eq!(rig.send(&[0x50, 2, 0, 9]), [0x62, 3, 0, 9, 0x92]);
    assert_eq!(rig.send(&[0x40, 2, 0, 9, 0x70, 2, 0, 9]), []);
    let mut rig = Rig::accepted4();
    assert_eq!(rig.send(&[0x62, 2, 0, 9]), [0x70, 2, 0, 9]);
    assert_eq!(rig.send(&[0x50, 2, 0, 9]), [0x62, 2, 0, 9]);
}

#[test]
fn mqtt5_4_3_3_4_a_delivery_is_released_once_its_record_is_safe() {
    let mut rig = subscribed(Rig::lasting());
    rig.answers = false;
    assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", 1)), publish(0x34, 2, "m"));
    assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", 2)), publish(0x34, 3, "m"));
    rig.asked();
    // What one read brings is one transaction.
    assert_eq!(rig.send(&[0x50, 2, 0, 2, 0x50, 2, 0, 3]), []);
    let expected = ["begin", "tx settle 1+2 Accept", "tx note r2 r3", "commit"];
    assert_eq!(rig.asked(), expected);
    assert_eq!(rig.send(&[0x50, 2, 0, 2]), [], "its release is on its way");
    assert_eq!(rig.confirm_all(), [0x62, 2, 0, 2, 0x62, 2, 0, 3]);
    assert_eq!(rig.send(&[0x50, 2, 0, 2]), [0x62, 2, 0, 2], "it was lost");
    rig.send(&[0x70, 2, 0, 2, 0x70, 2, 0, 3]);
    assert_eq!(rig.asked(), ["note -r2 -r3"]);
    assert!(rig.world.notes.keys().all(|key| key[0] != b'r'));
}

#[test]
fn a_delivery_that_the_client_refuses_is_over() {
    let mut rig = subscribed(Rig::lasting());
    rig.event(delivery(1, Qos::ExactlyOnce, "a", 1));
    rig.event(delivery(1, Qos::AtLeastOnce, "a", 2));
    assert_eq!(rig.send(&[0x50, 3, 0, 2, 0x80]), [], "nothing is to be released");
    assert_eq!(rig.send(&[0x40, 3, 0, 3, 0x97]), []);
    assert_eq!(rig.asked(), ["settle 1+1 Reject", "settle 2+1 Reject"]);
}

#[test]
fn an_acknowledgement_of_another_kind_is_a_protocol_error() {
    for (qos, bytes) in [
        (Qos::ExactlyOnce, [0x40, 2, 0, 2]),
        (Qos::ExactlyOnce, [0x70, 2, 0, 2]),
        (Qos::AtLeastOnce, [0x50, 2, 0, 2]),
        (Qos::AtLeastOnce, [0x70, 2, 0, 2]),
    ] {
        let mut rig = subscribed(Rig::accepted());
        rig.event(delivery(1, qos, "a", 1));
        let written = rig.send(&bytes);
        assert_eq!((written[0], written[2]), (0xE0, 0x82), "{qos:?} {bytes:02X?}");
        assert!(rig.asked().is_empty());
    }
}

/// One message of the client, with the connection lost after so many steps: it is published once,
/// whatever was lost.
#[test]
fn mqtt5_4_4_0_1_a_publish_is_taken_once_whatever_is_lost() {
    for lost in ["PUBLISH", "Done", "PUBREC", "PUBREL", "PUBCOMP"] {
        let mut rig = Rig::lasting();
        rig.answers = lost != "Done";
        if lost != "PUBLISH" {
            let told = rig.send(&publish(0x34, 1, "1"));
            assert_eq!(told.is_empty(), lost == "Done");
        }
        if lost == "PUBCOMP" {
            assert_eq!(rig.send(&[0x62, 2, 0, 1]), [0x70, 2, 0, 1]);
        }
        rig.session.handle_eof(common::rig::NOW);
        rig.pump();

        let mut rig = rig.again().connected(&Rig::lasting_connect());
        // A client that has the PUBREC goes on with the PUBREL.
        if !["PUBREL", "PUBCOMP"].contains(&lost) {
            assert_eq!(rig.send(&publish(0x3C, 1, "1")), [0x50, 2, 0, 1], "lost at {lost}");
        }
        let complete = rig.send(&[0x62, 2, 0, 1]);
        assert_eq!(complete[..4], [0x70, complete[1], 0, 1]);
        assert_eq!(complete.get(4), (lost == "PUBCOMP").then_some(&0x92), "lost at {lost}");
        assert_eq!(rig.world.published, ["amq.topic a 1 durable"], "lost at {lost}");
        assert!(rig.world.notes.is_empty(), "lost at {lost}");
    }
}

/// One delivery, with the connection lost after so many steps: the client sees the same packet
/// identifier each time, and the message leaves its queue once.
#[test]
fn mqtt5_4_4_0_1_a_delivery_keeps_its_identifier_whatever_is_lost() {
    for lost in ["PUBREC", "PUBREL", "PUBCOMP", "nothing"] {
        let is = |others: &[&str]| others.contains(&lost);
        let mut rig = subscribed(Rig::lasting());
        assert_eq!(rig.event(delivery(1, Qos::ExactlyOnce, "a", 41)), publish(0x34, 42, "m"));
        if !is(&["PUBREC"]) {
            assert_eq!(rig.send(&[0x50, 2, 0, 42]), [0x62, 2, 0, 42]);
        }
        if is(&["nothing"]) {
            rig.send(&[0x70, 2, 0, 42]);
        }
        rig.session.handle_eof(common::rig::NOW);
        rig.pump();

        let mut rig = rig.again();
        let written = rig.send(&Rig::lasting_connect());
        assert_eq!(written[..4], [0x20, written[1], 1, 0], "it is there [MQTT-3.2.2-3]");
        let told = written.ends_with(&[0x62, 2, 0, 42]);
        assert_eq!(told, is(&["PUBREL", "PUBCOMP"]), "lost at {lost}");
        let attached = "attach 1 mqtt-subscription-idqos1 exclusive".to_owned();
        assert!(rig.asked().contains(&attached));
        if is(&["PUBREC"]) {
            // It is still in its queue.
            let again = rig.event(redelivery(1, Qos::ExactlyOnce, "a", 41));
            assert_eq!(again, publish(0x3C, 42, "m"));
            assert_eq!(rig.send(&[0x50, 2, 0, 42]), [0x62, 2, 0, 42]);
        }
        if !is(&["nothing"]) {
            rig.send(&[0x70, 2, 0, 42]);
        }
        assert_eq!(rig.world.settled, [41], "lost at {lost}");
        assert!(rig.world.notes.keys().all(|key| key[0] != b'r'), "lost at {lost}");
    }
}

#[test]
fn what_only_the_broker_publishes_is_denied() {
    let topic = |first: u8, id: &[u8]| p(first, &[&s("$SYS/a"), id, &[0], b"m"]);
    let mut rig = Rig::lasting();
    assert_eq!(rig.send(&topic(0x30, &[])), []);
    assert_eq!(rig.send(&topic(0x32, &[0, 1])), [0x40, 3, 0, 1, 0x87]);
    assert_eq!(rig.send(&topic(0x34, &[0, 2])), [0x50, 3, 0, 2, 0x87]);
    assert_eq!(rig.send(&p(0x32, &[&s("$SYS"), &[0, 3, 0]])), [0x40, 3, 0, 3, 0x87]);
    assert_eq!(rig.send(&p(0x32, &[&s("$own/a"), &[0, 4, 0], b"m"])), [0x40, 3, 0, 4, 0x87]);
    // Nor by an alias.
    let alias = props(&[&[0x23, 0, 1]]);
    rig.send(&p(0x30, &[&s("$own/a"), &alias, b"m"]));
    assert_eq!(rig.send(&p(0x32, &[&s(""), &[0, 5], &alias, b"m"])), [0x40, 3, 0, 5, 0x87]);
    assert!(rig.world.published.is_empty() && rig.world.notes.is_empty());
    // Nor is it left behind.
    let [user, password] = [s("u"), s("p")];
    let will5 = [&[0][..], &s("$SYS/a"), &s("m")].concat();
    let will4 = [s("$SYS"), s("m")].concat();
    for (connect, answer) in [
        (common::connect5(0xC6, &[], &[&will5, &user, &password]), &[0x20, 3, 0, 0x87, 0][..]),
        (common::connect4(0xC6, &[&will4, &user, &password]), &[0x20, 2, 0, 5]),
    ] {
        assert_eq!(Rig::new().send(&connect), answer);
    }
    // Before 5.0 a client would bring it again for ever.
    let mut rig = Rig::accepted4();
    assert_eq!(rig.send(&p(0x32, &[&s("$SYS/a"), &[0, 1], b"m"])), [0x40, 2, 0, 1]);
    assert_eq!(rig.send(&p(0x34, &[&s("$SYS/a"), &[0, 2], b"m"])), [0x50, 2, 0, 2]);
    assert_eq!(rig.send(&[0x62, 2, 0, 2]), [0x70, 2, 0, 2]);
    assert!(rig.world.published.is_empty() && !rig.session.is_closed());
}

#[test]
fn seeded_faults_are_noticed() {
    common::faults::are_noticed(include_str!("exactly_once.rs"));
}

#[test]
fn mqtt5_2_2_1_3_an_identifier_that_is_in_use_is_told() {
    let publish = |first: u8, id: u8| p(first, &[&s("a"), &[0, id, 0], b"m"]);
    let subscribe = |id: u8| p(0x82, &[&[0, id, 0], &s("a"), &[1], &s("b"), &[1]]);
    let mut rig = Rig::lasting();
    rig.answers = false;
    rig.send(&publish(0x32, 1));
    rig.send(&publish(0x34, 2));
    assert_eq!(rig.send(&publish(0x32, 1)), []);
    assert_eq!(rig.send(&publish(0x34, 1)), []);
    assert_eq!(rig.send(&publish(0x32, 2)), []);
    // The same message again.
    assert_eq!(rig.send(&publish(0x3C, 2)), []);
    assert_eq!(
        rig.confirm_all(),
        [
            &[0x40, 2, 0, 1, 0x50, 2, 0, 2][..],
            &[0x40, 3, 0, 1, 0x91, 0x50, 3, 0, 1, 0x91, 0x40, 3, 0, 2, 0x91],
            &[0x50, 2, 0, 2],
        ]
        .concat()
    );
    assert_eq!(rig.world.published.len(), 2);
    assert_eq!(rig.send(&subscribe(2)), [0x90, 5, 0, 2, 0, 0x91, 0x91]);
    let unsubscribe = p(0xA2, &[&[0, 2, 0], &s("a")]);
    assert_eq!(rig.send(&unsubscribe), [0xB0, 4, 0, 2, 0, 0x91]);
    // It is free once it is answered to the end.
    assert_eq!(rig.send(&[0x62, 2, 0, 2]), []);
    assert_eq!(rig.confirm_all(), [0x70, 2, 0, 2]);
    rig.answers = true;
    assert_eq!(rig.send(&publish(0x32, 1)), [0x40, 2, 0, 1]);
    assert_eq!(rig.send(&subscribe(2)), [0x90, 5, 0, 2, 0, 1, 1]);
    // Before 5.0 there is no word for it, and clients send again whenever they like.
    let mut rig = Rig::accepted4();
    rig.answers = false;
    let again = p(0x3A, &[&s("a"), &[0, 1], b"m"]);
    rig.send(&[again.clone(), again].concat());
    assert_eq!(rig.confirm_all(), [0x40, 2, 0, 1, 0x40, 2, 0, 1]);
}

/// A member of a group that gets what it asks for with QoS 2.
fn member(rig: &mut Rig) {
    assert_eq!(rig.send(&p(0x82, &[&[0, 1, 0], &s("$share/g/#"), &[2]])), [0x90, 4, 0, 1, 0, 2]);
    rig.asked.clear();
}

fn shared(first: u8, id: u16) -> Vec<u8> {
    p(first, &[&s("a"), &id.to_be_bytes(), &[0], b"m"])
}

#[test]
fn mqtt5_4_8_2_4_what_a_member_is_sent_is_its_own_before() {
    let mut rig = Rig::lasting();
    member(&mut rig);
    rig.answers = false;
    assert_eq!(rig.event(delivery(4, Qos::ExactlyOnce, "a", 7)), []);
    assert_eq!(rig.asked(), ["begin", "tx settle 7+1 Accept", "tx note c49152", "commit"]);
    assert_eq!(rig.confirm_all(), shared(0x34, 49_152));
    // Wherever the connection is lost: it is completed to this client, and to nobody else.
    let lost = |rig: &Rig| {
        let mut again = rig.again();
        let written = again.send(&Rig::lasting_connect());
        let at = written.iter().position(|byte| *byte == 0x3C || *byte == 0x62);
        (again, at.map(|at| written[at..].to_vec()))
    };
    assert_eq!(lost(&rig).1, Some(shared(0x3C, 49_152)));
    rig.send(&[0x50, 2, 0xC0, 0]);
    assert_eq!(rig.asked(), ["note -c49152 r49152"]);
    assert_eq!(rig.confirm_all(), [0x62, 2, 0xC0, 0]);
    let (mut again, written) = lost(&rig);
    assert_eq!(written, Some(vec![0x62, 2, 0xC0, 0]));
    again.send(&[0x70, 2, 0xC0, 0]);
    assert!(again.world.notes.keys().all(|key| key[0] == b's'), "{:?}", again.world.notes);
    rig.send(&[0x70, 2, 0xC0, 0]);
    rig.confirm_all();
    assert_eq!(lost(&rig).1, None);
    assert_eq!(rig.world.settled, [7]);
}

#[test]
fn a_claim_that_is_not_committed_is_not_sent() {
    let mut rig = Rig::lasting();
    member(&mut rig);
    rig.answers = false;
    rig.event(delivery(4, Qos::ExactlyOnce, "a", 7));
    rig.confirm(&[]);
    rig.confirm(&[]);
    let error = CommandError::Precondition("no".to_owned());
    let written = rig.fail(error);
    assert_eq!(written[0], 0xE0, "{written:02X?}");
    assert!(rig.session.is_closed());
}

#[test]
fn what_was_claimed_before_counts_and_comes_first() {
    let mut rig = Rig::lasting();
    member(&mut rig);
    for first in [7, 8, 9] {
        rig.event(delivery(4, Qos::ExactlyOnce, "a", first));
    }
    // It takes two at once now.
    let narrow = common::connect5(0xC0, &[&[0x11, 0, 0, 1, 0], &[0x21, 0, 2]], &[&s("u"), &s("p")]);
    let mut rig = rig.again();
    let written = rig.send(&narrow);
    let sent = [shared(0x3C, 49_152), shared(0x3C, 49_153)].concat();
    assert!(written.ends_with(&sent), "{written:02X?}");
    assert_eq!(rig.event(delivery(4, Qos::AtLeastOnce, "a", 10)), []);
    assert_eq!(rig.send(&[0x50, 2, 0xC0, 0]), [0x62, 2, 0xC0, 0]);
    assert_eq!(rig.send(&[0x70, 2, 0xC0, 0]), shared(0x3C, 49_154));
    // A member that will have none of it.
    let refused = rig.send(&[0x50, 3, 0xC0, 1, 0x80]);
    // The first identifier is free again.
    assert_eq!(refused, shared(0x32, 49_152));
    let claims = || rig.world.notes.keys().filter(|key| key[0] == b'c').count();
    assert_eq!(claims(), 1);
}

#[test]
fn mqtt5_4_8_2_5_who_ends_with_its_connection_has_settled_what_it_was_sent() {
    let mut rig = Rig::accepted();
    member(&mut rig);
    assert_eq!(rig.event(delivery(4, Qos::ExactlyOnce, "a", 7)), shared(0x34, 49_152));
    assert_eq!(rig.asked(), ["settle 7+1 Accept"]);
    assert_eq!(rig.send(&[0x50, 2, 0xC0, 0]), [0x62, 2, 0xC0, 0]);
    assert_eq!(rig.send(&[0x70, 2, 0xC0, 0]), []);
    assert!(rig.asked().is_empty());
}

#[test]
fn what_is_too_large_to_note_stays_in_the_group_until_it_is_recorded() {
    let mut rig = Rig::lasting();
    member(&mut rig);
    let message = isthmus_mqtt::convert::stored::Message {
        qos: Qos::ExactlyOnce,
        retain: false,
        topic: "a",
        properties: isthmus_mqtt::codec::Properties::NONE,
        payload: &[7; 70_000],
    };
    let batch = isthmus_mqtt::convert::stored::store(&message, "amq.topic");
    let delivery = common::rig::delivery_of(4, Qos::ExactlyOnce, "a", 7);
    let delivery = isthmus_model::Delivery { batch, ..delivery };
    assert!(rig.event(isthmus_contract::Event::Deliveries(vec![delivery])).len() > 70_000);
    assert!(rig.asked().is_empty());
    rig.send(&[0x50, 2, 0xC0, 0]);
    assert_eq!(rig.asked(), ["begin", "tx settle 7+1 Accept", "tx note r49152", "commit"]);
}
