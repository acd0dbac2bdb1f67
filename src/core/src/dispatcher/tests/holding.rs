//! Queues of lasting sessions.

use isthmus_model::{
    Attach, AttachMode, Credit, ExchangeKind, Lifetime, OpenSession, Outcome, QueueDef, Time,
    TopologyChange,
};

use super::clients::*;
use super::rig::*;

#[test]
fn a_queue_lasts_as_long_as_a_session_holds_it() {
    let mut rig = rig();
    rig.connect("a", lasting("a"));
    rig.connect("b", lasting("b"));
    let def = QueueDef { auto_delete: true, ..queue_with("q", |o| o.expires_ms = Some(100)) };
    rig.topology("a", TopologyChange::DeclareOwnQueue(def.clone()));
    rig.topology("b", TopologyChange::DeclareOwnQueue(def));
    rig.attach("a", consuming(1, "q"));
    rig.run();
    rig.disconnect("a");
    rig.after_ms(1000);
    assert!(rig.exists("q"), "it is in use, and neither its last consumer nor time ends it");
    rig.crash();
    rig.run();
    rig.after_ms(1000);
    rig.connect("a", lasting("a"));
    rig.connect("b", lasting("b"));
    rig.release("a", "q");
    rig.run();
    assert!(rig.exists("q"));
    rig.release("b", "q");
    rig.run();
    assert!(!rig.exists("q"));
    // Once more, and neither what is not there nor what is not held.
    let released = [rig.release("b", "q"), rig.release("b", "wills")];
    rig.run();
    assert_eq!(rig.heard("b")[1..], released.map(done));
    assert!(rig.exists("wills"));
}

#[test]
fn a_queue_that_somebody_consumes_outlives_who_held_it() {
    let mut rig = rig();
    rig.declare("anna", queue("q"));
    rig.attach("anna", consuming(1, "q"));
    rig.connect("a", OpenSession { expiry_ms: 100, ..lasting("a") });
    rig.hold("a", "q");
    rig.disconnect("a");
    rig.after_ms(100);
    assert!(rig.recorded("a").is_none() && rig.exists("q"));
    rig.detach("anna", 1);
    rig.run();
    assert!(!rig.exists("q"));
}

#[test]
fn a_session_that_ends_with_its_connection_holds_nothing() {
    let mut rig = rig();
    rig.connect("a", with_will(passing("a"), "will", 0));
    let held = rig.hold("a", "wills");
    rig.topology("a", own_queue("own"));
    rig.run();
    assert!(rig.heard("a").contains(&done(held)));
    assert_eq!(rig.recorded("a").unwrap(), "guest 0 Some(0) 0 notes 0 held");
    rig.disconnect("a");
    assert!(rig.exists("own"));
}

#[test]
fn a_queue_that_ends_is_held_by_nobody() {
    let mut rig = rig();
    let anna = rig.session("anna");
    rig.connect("a", lasting("a"));
    rig.topology("a", own_queue("q"));
    rig.delete("anna", "q");
    rig.declare("anna", volatile_queue("v"));
    rig.declare("anna", QueueDef { lifetime: Lifetime::Exclusive(anna), ..queue("x") });
    rig.run();
    assert_eq!(rig.recorded("a").unwrap(), "guest 3600000 None 0 notes 0 held");
    rig.heard("a");
    let refused = [rig.hold("a", "v"), rig.hold("a", "x"), rig.hold("a", "q")];
    rig.run();
    let kinds = ["precondition", "locked", "not found"];
    let expected =
        refused.iter().zip(kinds).map(|(token, kind)| format!("refused {token}: {kind}"));
    assert_eq!(rig.heard("a"), expected.collect::<Vec<_>>());
    rig.crash();
}

#[test]
fn an_own_queue_is_declared_again_and_holds_once() {
    let mut rig = rig();
    rig.connect("a", lasting("a"));
    let name = "mqtt-subscription-aqos1";
    let first = rig.topology("a", own_queue(name));
    rig.topology("a", own_queue(name));
    let other = QueueDef { auto_delete: true, ..queue(name) };
    let other = TopologyChange::DeclareOwnQueue(other);
    let refused = rig.topology("a", other);
    rig.run();
    let heard = rig.heard("a");
    assert_eq!(heard[0], format!("done {first}: {name} has 0 ready, 0 consumers"));
    assert_eq!(heard[2], format!("refused {refused}: precondition"));
    assert_eq!(rig.recorded("a").unwrap(), "guest 3600000 None 0 notes 1 held");
}

/// Its session's own way to consume.
fn alone(queue: &str) -> Attach {
    Attach { exclusive: true, ..consuming(1, queue) }
}

#[test]
fn a_session_that_comes_back_has_its_queue_for_itself() {
    for exclusive in [false, true] {
        let mut rig = rig();
        rig.connect("a", lasting("a"));
        rig.topology("a", own_queue("q"));
        rig.disconnect("a");
        rig.attach("anna", Attach { exclusive, ..prefetching(1, "q", 1) });
        rig.publish("anna", [durable("q", "1"), durable("q", "2")]);
        rig.run();
        let got = rig.got("anna");
        assert_eq!(bodies(&got), ["1"]);
        rig.heard("anna");

        rig.connect("a", lasting("a"));
        rig.attach("a", alone("q"));
        rig.run();
        assert_eq!(rig.heard("anna"), ["consumer 1: Reclaimed"]);
        assert_eq!(bodies(&rig.got("a")), ["2"]);
        rig.settle("anna", Outcome::Accept, &got);
        rig.run();
        assert_eq!(rig.counts("q"), (0, 1), "what it had it has settled");
        // Nobody else comes in, while whoever looks takes what is there, and does no harm.
        let refused = rig.attach("anna", consuming(2, "q"));
        rig.attach("anna", getting(3, "q"));
        rig.publish("anna", [durable("q", "3")]);
        rig.run();
        assert!(rig.heard("anna").contains(&format!("refused {refused}: not allowed")));
        assert!(!rig.heard("a").concat().contains("Reclaimed"));
        rig.disconnect("a");
        // A queue that is not its own is not to be had so.
        rig.declare("anna", queue("other"));
        rig.attach("anna", consuming(4, "other"));
        rig.connect("b", lasting("b"));
        let refused = rig.attach("b", alone("other"));
        rig.run();
        assert_eq!(rig.heard("b"), [format!("refused {refused}: not allowed")]);
    }
}

#[test]
fn a_delivery_that_was_begun_goes_on_after_its_time_and_others_do_not() {
    let mut rig = rig();
    rig.connect("a", lasting("a"));
    rig.topology("a", own_queue("q"));
    rig.attach("a", Attach { exclusive: true, ..prefetching(1, "q", 2) });
    let timed = |body: &str| durable("q", body).ttl_ms(100);
    rig.publish("anna", [timed("1"), timed("2"), timed("3"), durable("q", "4")]);
    rig.run();
    assert_eq!(bodies(&rig.got("a")), ["1", "2"]);
    rig.disconnect("a");
    rig.after_ms(1000);
    assert_eq!(rig.counts("q"), (4, 0), "what is behind those that stay waits for them");
    let browsing = Attach { mode: AttachMode::Browse, ..getting(1, "q") };
    let credit = Credit::Explicit { credit: 9, drain: true, deadline: Time(0) };
    rig.attach("anna", Attach { credit, ..browsing });
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["1", "2", "4"]);

    rig.connect("a", lasting("a"));
    rig.attach("a", Attach { exclusive: true, ..prefetching(1, "q", 9) });
    rig.run();
    let got = rig.got("a");
    assert_eq!(bodies(&got), ["1", "2", "4"]);
    assert!(got[0].redelivered && got[1].redelivered && !got[2].redelivered);
    // After a restart nobody knows which were begun.
    rig.crash();
    rig.run();
    assert_eq!(rig.counts("q"), (1, 0));
}

#[test]
fn what_came_back_to_other_queues_expires() {
    let mut rig = rig();
    rig.declare("anna", queue("q"));
    rig.open("b");
    rig.attach("b", consuming(1, "q"));
    rig.publish("anna", [durable("q", "1").ttl_ms(100)]);
    rig.run();
    assert_eq!(bodies(&rig.got("b")), ["1"]);
    rig.close("b");
    rig.run();
    rig.after_ms(1000);
    assert_eq!(rig.counts("q"), (0, 0));
}

#[test]
fn what_a_session_publishes_passes_its_own_queue_by() {
    let mut rig = rig();
    rig.declare_exchange("anna", exchange("x", ExchangeKind::Fanout));
    for name in ["a", "b"] {
        rig.connect(name, lasting(name));
        rig.topology(name, own_queue(name));
        rig.bind(name, "x", "", name);
        rig.attach(name, Attach { no_local: true, ..taking(1, name) });
    }
    rig.run();
    let message = |body: &str| durable("k", body).through("x");
    rig.publish("a", [message("1"), message("2")]);
    rig.begin("b", 1);
    rig.publish_in("b", 1, [message("3")]);
    rig.commit_tx("b", 1);
    rig.run();
    assert_eq!(bodies(&rig.got("a")), ["3"]);
    assert_eq!(bodies(&rig.got("b")), ["1", "2"]);
    // With another that wants them not, and with none.
    let no_local = Attach { no_local: true, ..taking(2, "a") };
    rig.attach("a", no_local);
    rig.detach("a", 1);
    rig.publish("a", [message("4")]);
    rig.run();
    assert!(rig.got("a").is_empty());
    rig.attach("a", taking(1, "a"));
    rig.detach("a", 2);
    rig.publish("a", [message("5").mandatory()]);
    rig.run();
    assert_eq!(bodies(&rig.got("a")), ["5"]);
}
