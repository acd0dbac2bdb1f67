//! What queues refuse, drop and let expire.

use isthmus_model::{Credit, Outcome, Overflow, QueueDef};

use super::rig::*;

fn queue_max(name: &str, length_max: u64, overflow: Overflow) -> QueueDef {
    queue_with(name, |o| {
        o.length_max = Some(length_max);
        o.overflow = overflow;
    })
}

#[test]
fn a_full_queue_drops_from_its_head() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue_max("q", 2, Overflow::DropHead));
    rig.publish("anna", numbered("q", 5));
    rig.publish("anna", [transient("q", "6")]);
    rig.run();
    assert_eq!(rig.counts("q"), (2, 0));
    assert_eq!(rig.dispatcher.counters().dropped, 4);
    assert_eq!(rig.drain("q"), ["5", "6"]);
}

#[test]
fn what_a_consumer_can_take_is_delivered_and_not_dropped() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue_max("q", 1, Overflow::DropHead));
    rig.attach("anna", prefetching(1, "q", 3));
    rig.publish("anna", numbered("q", 5));
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["1", "2", "3"]);
    assert_eq!(rig.drain("q"), ["5"]);
}

#[test]
fn a_limit_in_bytes_counts_bodies() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue_with("q", |o| o.bytes_max = Some(10)));
    rig.publish("anna", [durable("q", "four"), durable("q", "six..."), durable("q", "5....")]);
    rig.run();
    assert_eq!(rig.status("q").ready_bytes, 5);
    assert_eq!(rig.drain("q"), ["5...."]);
}

#[test]
fn a_queue_that_refuses_when_full_says_which_messages_it_did_not_take() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue_max("q", 2, Overflow::RejectPublish));
    rig.run();
    rig.heard("anna");
    let one = rig.publish("anna", numbered("q", 3));
    let two = rig.publish("anna", [transient("q", "4")]);
    rig.run();
    assert_eq!(
        rig.heard("anna"),
        [format!("done {one} save 2 Full"), format!("done {two} save 0 Full")],
        "what is on its way through the log counts"
    );
    assert_eq!(rig.drain("q"), ["1", "2"]);
}

#[test]
fn messages_that_are_not_in_the_log_count_against_the_limit_before_they_are_in_the_queue() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue_max("q", 2, Overflow::RejectPublish));
    rig.declare("anna", queue("log"));
    rig.declare_exchange("anna", exchange("e", isthmus_model::ExchangeKind::Fanout));
    rig.bind("anna", "e", "", "q");
    rig.run();
    rig.heard("anna");
    // Addresses that differ are routed one by one.
    let one = rig.publish("anna", ["a", "b", "c"].map(|key| transient(key, key).through("e")));
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {one} save 2 Full")]);
    assert_eq!(rig.drain("q"), ["a", "b"]);

    rig.publish("anna", [durable("log", "x")]);
    rig.publish("anna", [transient("q", "c"), transient("q", "d")]); // wait for "x"
    let two = rig.publish("anna", [transient("q", "e")]);
    rig.run();
    assert!(rig.heard("anna").contains(&format!("done {two} save 0 Full")));
    assert_eq!(rig.drain("q"), ["c", "d"]);
}

#[test]
fn a_refusal_in_bytes_counts_what_is_on_its_way() {
    let mut rig = Rig::new();
    rig.open("anna");
    let def = queue_with("q", |o| {
        o.bytes_max = Some(10);
        o.overflow = Overflow::RejectPublish;
    });
    rig.declare("anna", def);
    rig.run();
    rig.heard("anna");
    let one = rig.publish("anna", ["seven..", "five.", "-"].map(|body| durable("q", body)));
    let two = rig.publish("anna", [durable("q", "four")]);
    rig.run();
    assert_eq!(
        rig.heard("anna"),
        [format!("done {one} save 1 Full"), format!("done {two} save 0 Full")],
        "a smaller one behind may fit"
    );
    assert_eq!(rig.drain("q"), ["seven..", "-"]);
}

#[test]
fn messages_expire_by_the_shorter_of_their_own_time_and_the_queues() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue_with("q", |o| o.message_ttl_ms = Some(100)));
    rig.publish(
        "anna",
        [
            durable("q", "own").ttl_ms(40),
            transient("q", "own, too").ttl_ms(40),
            durable("q", "longer").ttl_ms(500),
            durable("q", "none"),
        ],
    );
    rig.run();
    assert_eq!(rig.timeout_ms(), Some(40));
    rig.advance_ms(39);
    rig.run();
    assert_eq!(rig.counts("q"), (4, 0));
    rig.advance_ms(1);
    rig.run();
    assert_eq!(rig.counts("q"), (2, 0));
    assert_eq!(rig.timeout_ms(), Some(60));
    rig.advance_ms(60);
    rig.run();
    assert_eq!((rig.counts("q"), rig.timeout_ms()), ((0, 0), None));
    assert_eq!(rig.dispatcher.counters().expired, 4);
    rig.crash();
    assert_eq!(rig.counts("q"), (0, 0));
}

#[test]
fn only_the_head_expires() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", [durable("q", "keeps"), durable("q", "expires").ttl_ms(10)]);
    rig.run();
    rig.advance_ms(50);
    rig.run();
    assert_eq!(rig.counts("q"), (2, 0), "as in RabbitMQ, it waits for those before it");
    assert_eq!(rig.drain("q"), ["keeps"], "but it is not delivered");
    assert_eq!(rig.counts("q"), (0, 0));
}

#[test]
fn a_message_without_time_is_delivered_at_once_or_not_at_all() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue_with("q", |o| o.message_ttl_ms = Some(0)));
    rig.publish("anna", [durable("q", "nobody is there")]);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 0));
}

#[test]
fn time_in_the_queue_goes_on_through_a_restart_and_a_requeue() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue_with("q", |o| o.message_ttl_ms = Some(100)));
    rig.publish("anna", numbered("q", 2));
    rig.run();
    rig.advance_ms(60);
    rig.crash();
    rig.open("anna");
    rig.attach("anna", getting(1, "q"));
    rig.run();
    let got = rig.got("anna");
    assert_eq!(rig.timeout_ms(), Some(40));
    rig.advance_ms(45);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 1), "what is delivered does not expire");
    rig.settle("anna", Outcome::Requeue, &got);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 0), "until it comes back");
}

#[test]
fn credit_does_not_reach_past_a_message_that_expired() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.attach("anna", prefetching(1, "q", 0)); // 0 stands for none here
    rig.publish(
        "anna",
        [
            durable("q", "1").ttl_ms(100),
            durable("q", "2").ttl_ms(10),
            durable("q", "3").ttl_ms(100),
        ],
    );
    rig.run();
    rig.advance_ms(10);
    rig.credit("anna", 1, Credit::Window { limit: Some(2), shared: None });
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["1", "3"]);
}

#[test]
fn a_queue_that_refuses_can_dead_letter_what_it_refuses() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("dead"));
    let mut def = queue_max("q", 1, Overflow::RejectPublishDlx);
    dead_letters_to(&mut def.options, "dead");
    rig.declare("anna", def);
    rig.run();
    rig.heard("anna");
    let published = rig.publish("anna", numbered("q", 3));
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {published} save 1 Full, 2 Full")]);
    assert_eq!(rig.drain("q"), ["1"]);
    rig.crash();
    assert_eq!(rig.drain("dead"), ["2", "3"]);
}

#[test]
fn a_crowd_that_expires_at_once_leaves_in_several_entries() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("dead"));
    rig.declare(
        "anna",
        queue_with("crowd", |o| {
            o.message_ttl_ms = Some(10);
            dead_letters_to(o, "dead");
        }),
    );
    let body = "x".repeat(64 * 1024);
    rig.publish("anna", (0..300).map(|_| durable("crowd", body.clone())));
    rig.run();
    let before = rig.entries();
    rig.advance_ms(10);
    rig.dispatch();
    assert_eq!(rig.timeout_ms(), Some(0), "the rest is for the next turn, at once");
    while rig.counts("dead") < (300, 0) {
        rig.propose();
        rig.commit();
        rig.dispatch();
    }
    assert!(rig.entries() >= before + 3, "{} entries", rig.entries() - before);
    assert_eq!(rig.counts("crowd"), (0, 0));
}
