//! What becomes of the wills of clients.

use isthmus_model::{ExchangeKind, OpenSession, Will};

use super::clients::*;
use super::rig::*;
use crate::Fact;
use crate::clients::ClientChange;

#[test]
fn a_will_is_published_when_the_connection_ends_without_a_goodbye() {
    let mut rig = rig();
    rig.connect("a", with_will(lasting("c"), "lost", 0));
    rig.disconnect("a");
    assert_eq!(rig.wills(), "lost");
    assert_eq!(rig.connect("a", with_will(lasting("c"), "well", 0)), "session goes on:");
    rig.goodbye("a", None, false);
    rig.disconnect("a");
    assert_eq!(rig.wills(), "");
    rig.connect("a", with_will(passing("c"), "with the last word", 0));
    rig.goodbye("a", None, true);
    rig.disconnect("a");
    assert_eq!(rig.wills(), "with the last word");
    assert_eq!(rig.recorded("c"), None);
    rig.connect("a", with_will(passing("p"), "passing", 60_000));
    assert_eq!(rig.recorded("p").unwrap(), "guest 0 Some(60000) 0 notes 0 held");
    rig.disconnect("a");
    assert_eq!(rig.wills(), "passing", "its session is over");
    rig.crash();
    rig.after_ms(2 * HOUR_MS);
    assert_eq!(rig.wills(), "", "it was published once");
}

#[test]
fn a_will_waits_for_its_client_to_come_back() {
    let mut rig = rig();
    rig.connect("a", with_will(lasting("c"), "late", 10_000));
    rig.disconnect("a");
    rig.after_ms(9_999);
    assert_eq!(rig.wills(), "");
    assert_eq!(rig.connect("a", with_will(lasting("c"), "later", 10_000)), "session goes on:");
    rig.after_ms(20_000);
    assert_eq!(rig.wills(), "", "the client was back in time");
    rig.disconnect("a");
    assert_eq!(rig.timeout_ms(), Some(10_000));
    rig.after_ms(10_000);
    assert_eq!(rig.wills(), "later");
    assert_eq!(rig.timeout_ms(), Some(HOUR_MS - 10_000));
    // It is over with its session, whatever its delay.
    rig.connect("b", with_will(OpenSession { expiry_ms: 50, ..lasting("d") }, "end", HOUR_MS));
    rig.disconnect("b");
    rig.after_ms(49);
    assert_eq!(rig.wills(), "");
    rig.after_ms(1);
    assert_eq!(rig.wills(), "end");
    // And so if the client comes back and begins anew.
    rig.connect("b", with_will(lasting("d"), "anew", HOUR_MS));
    rig.disconnect("b");
    rig.connect("b", clean("d"));
    assert_eq!(rig.wills(), "anew");
}

#[test]
fn a_will_of_a_session_that_is_taken_over_is_published_unless_it_may_wait() {
    for (delay_ms, next, published) in [
        (0, lasting("c"), "will"),
        (1000, lasting("c"), ""),
        (0, clean("c"), "will"),
        (1000, clean("c"), "will"),
    ] {
        let mut rig = rig();
        rig.connect("a", with_will(lasting("c"), "will", delay_ms));
        let case = format!("{delay_ms} {}", next.clean);
        rig.connect("b", next);
        rig.after_ms(2000);
        assert_eq!(rig.wills(), published, "{case}");
        rig.disconnect("a");
        assert_eq!(rig.wills(), "", "{case}");
    }
}

#[test]
fn a_will_goes_where_a_publish_would_in_one_entry_with_its_end() {
    let mut rig = rig();
    rig.declare_exchange("anna", exchange("x", ExchangeKind::Topic));
    rig.bind("anna", "x", "a.*", "wills");
    rig.declare("anna", volatile_queue("v"));
    rig.bind("anna", "x", "#", "v");
    rig.run();
    let will = batch([durable("a.b", "will").through("x")]);
    let open = OpenSession { will: Some(Will { batch: will, delay_ms: 0 }), ..passing("c") };
    rig.connect("a", open);
    rig.close("a");
    rig.dispatch();
    assert_eq!(rig.counts("v"), (0, 0), "it may come again from the next leader");
    rig.propose();
    rig.commit();
    rig.dispatch();
    assert_eq!((rig.wills(), rig.drain("v").join(" ")), ("will".to_owned(), "will".to_owned()));
    let facts = rig.facts();
    let at = facts
        .iter()
        .position(|fact| matches!(fact, Fact::Client { change: ClientChange::Ended, .. }));
    assert!(matches!(facts[at.unwrap() - 1], Fact::Enqueue { .. }));
}

#[test]
fn many_that_are_due_at_once_are_looked_after_in_several_turns() {
    let mut rig = rig();
    for n in 0..2500 {
        rig.open("a");
        let open = OpenSession { expiry_ms: 10, ..lasting(&n.to_string()) };
        rig.open_client("a", with_will(open, &n.to_string(), 10));
        rig.close("a");
    }
    rig.run();
    rig.advance_ms(10);
    for left in [1500, 500, 0] {
        assert_eq!(rig.timeout_ms(), Some(0));
        rig.dispatch();
        assert_eq!(rig.dispatcher.clients().len(), left);
    }
    rig.run();
    assert_eq!(rig.drain("wills").len(), 2500);
}

#[test]
fn connections_lost_with_their_leader_have_some_time_to_come_back() {
    let mut rig = rig();
    rig.connect("a", with_will(lasting("a"), "a", 0));
    rig.connect("b", with_will(passing("b"), "b", 0));
    rig.connect("c", with_will(lasting("c"), "c", 60_000));
    rig.connect("d", with_will(passing("d"), "d", 0));
    rig.crash();
    rig.run();
    rig.after_ms(4_999);
    assert_eq!(rig.wills(), "");
    assert_eq!(rig.connect("a", lasting("a")), "session goes on:");
    assert_eq!(rig.connect("d", clean("d")), "session is new:");
    rig.after_ms(1);
    assert_eq!(rig.wills(), "b");
    assert_eq!(rig.recorded("b"), None);
    rig.after_ms(54_999);
    assert_eq!(rig.wills(), "");
    rig.after_ms(1);
    assert_eq!(rig.wills(), "c");
    assert_eq!(rig.recorded("c").unwrap(), "guest 3600000 None 0 notes 0 held");
    rig.crash();
    rig.run();
    rig.after_ms(HOUR_MS - 60_000);
    assert_eq!(rig.recorded("c"), None, "a leader more does not prolong it");
    assert!(rig.recorded("a").is_some());
}
