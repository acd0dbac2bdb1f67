//! Messages that leave a queue without having been accepted.

use isthmus_model::{Death, DeathReason, ExchangeKind, Outcome, QueueDef};

use super::rig::*;
use crate::Fact;

/// A queue whose dead messages go to the queue `to`.
fn queue_to(name: &str, to: &str) -> QueueDef {
    queue_with(name, |o| dead_letters_to(o, to))
}

/// (queue, reason, count) of a message's deaths, latest first.
fn deaths(got: &Got) -> Vec<(String, DeathReason, u64)> {
    let annotations = got.annotations.as_ref().expect("it died before");
    let told = |d: &Death| (d.queue.to_string(), d.reason, d.count);
    annotations.deaths.iter().map(told).collect()
}

#[test]
fn a_rejected_message_goes_to_the_dead_letter_exchange_with_its_history() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare_exchange("anna", exchange("dlx", ExchangeKind::Topic));
    rig.declare("anna", queue("dead"));
    rig.bind("anna", "dlx", "#", "dead");
    rig.declare("anna", queue_with("q", |o| o.dead_letter_exchange = Some("dlx".into())));
    rig.attach("anna", consuming(1, "q"));
    rig.publish("anna", [durable("q", "a").ttl_ms(5000), durable("q", "b")]);
    rig.run();
    let got = rig.got("anna");
    rig.settle("anna", Outcome::Reject, [&got[0]]);
    rig.run();
    rig.crash();

    rig.open("anna");
    rig.attach("anna", consuming(1, "dead"));
    rig.run();
    let dead = rig.got("anna");
    let annotations = dead[0].annotations.as_ref().unwrap();
    assert_eq!(annotations.exchange.as_deref(), Some("dlx"));
    assert_eq!(annotations.routing_key.as_deref(), Some("q"), "the one it came with");
    let [death] = &annotations.deaths[..] else { panic!("one death") };
    assert_eq!((&*death.queue, death.reason, death.count), ("q", DeathReason::Rejected, 1));
    assert_eq!((&*death.exchange, &*death.routing_keys[0]), ("", "q"));
    assert_eq!(death.original_ttl_ms, Some(5000));
    assert_eq!(bodies(&dead), ["a"]);
    assert_eq!(rig.dispatcher.counters().dead_lettered, 0, "counted in its own term");
    assert_eq!(rig.drain("q"), ["b"]);
}

#[test]
fn without_a_target_it_is_dropped() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.declare("anna", queue_to("r", "nowhere"));
    rig.attach("anna", consuming(1, "q"));
    rig.attach("anna", consuming(2, "r"));
    rig.publish("anna", [durable("q", "a"), durable("r", "b"), transient("r", "c")]);
    rig.run();
    let got = rig.got("anna");
    rig.settle("anna", Outcome::Reject, &got);
    rig.run();
    assert_eq!(rig.dispatcher.counters().dropped, 3);
    rig.crash();
    assert_eq!((rig.counts("q"), rig.counts("r")), ((0, 0), (0, 0)));
}

#[test]
fn an_expired_message_does_not_expire_again() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("dead"));
    rig.declare("anna", queue_to("q", "dead"));
    rig.publish("anna", [durable("q", "a").ttl_ms(10), transient("q", "b").ttl_ms(10)]);
    rig.run();
    rig.advance_ms(10);
    rig.run();
    assert_eq!((rig.counts("q"), rig.counts("dead")), ((0, 0), (2, 0)));
    rig.advance_ms(1000);
    rig.run();
    rig.open("bert");
    rig.attach("bert", consuming(1, "dead"));
    rig.run();
    let dead = rig.got("bert");
    assert_eq!(dead.len(), 2);
    assert_eq!(deaths(&dead[0]), [("q".into(), DeathReason::Expired, 1)]);
    assert!(dead.iter().all(|d| !d.redelivered && d.delivery_count == 0));
    let original = dead[0].annotations.as_ref().unwrap().deaths[0].original_ttl_ms;
    assert_eq!(original, Some(10));
}

#[test]
fn what_a_full_queue_drops_is_dead_lettered() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("dead"));
    let mut def = queue_to("q", "dead");
    def.options.length_max = Some(1);
    rig.declare("anna", def);
    rig.publish("anna", numbered("q", 3));
    rig.run();
    rig.open("bert");
    rig.attach("bert", consuming(1, "dead"));
    rig.run();
    let dead = rig.got("bert");
    assert_eq!(bodies(&dead), ["1", "2"]);
    assert_eq!(deaths(&dead[0]), [("q".into(), DeathReason::MaxLength, 1)]);
    assert_eq!(rig.drain("q"), ["3"]);
}

#[test]
fn a_transient_message_stays_transient_and_a_durable_one_becomes_safe_where_it_dies_into() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("dead"));
    let mut def = queue_to("v", "dead");
    def.lifetime = isthmus_model::Lifetime::Volatile;
    rig.declare("anna", def);
    rig.attach("anna", consuming(1, "v"));
    rig.publish("anna", [transient("v", "a"), durable("v", "b")]);
    rig.run();
    let got = rig.got("anna");
    rig.settle("anna", Outcome::Reject, &got);
    rig.run();
    assert_eq!((rig.counts("v"), rig.counts("dead")), ((0, 0), (2, 0)));
    rig.crash();
    assert_eq!(rig.drain("dead"), ["b"]);
}

#[test]
fn a_dead_durable_message_leaves_the_log_before_it_enters_a_queue_that_is_not_in_it() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", volatile_queue("dead"));
    rig.declare("anna", queue_to("q", "dead"));
    rig.attach("anna", consuming(1, "q"));
    rig.publish("anna", [durable("q", "a")]);
    rig.run();
    let got = rig.got("anna");
    rig.settle("anna", Outcome::Reject, &got);
    rig.dispatch();
    assert_eq!(rig.counts("dead"), (0, 0));
    rig.run();
    assert_eq!(rig.counts("dead"), (1, 0));
}

#[test]
fn a_move_into_several_queues_is_one_fact() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare_exchange("anna", exchange("dlx", ExchangeKind::Fanout));
    for name in ["one", "two"] {
        rig.declare("anna", queue(name));
        rig.bind("anna", "dlx", "", name);
    }
    rig.declare("anna", queue_with("q", |o| o.dead_letter_exchange = Some("dlx".into())));
    rig.attach("anna", consuming(1, "q"));
    rig.publish("anna", [durable("q", "a")]);
    rig.run();
    let got = rig.got("anna");
    let before = rig.facts().len();
    rig.settle("anna", Outcome::Reject, &got);
    rig.run();
    assert!(matches!(&rig.facts()[before..], [Fact::Move { to, .. }] if to.len() == 2));
    rig.crash();
    assert_eq!((rig.drain("one"), rig.drain("two")), (vec!["a".into()], vec!["a".into()]));
}

#[test]
fn deaths_of_one_kind_are_counted_and_the_latest_kind_stands_first() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue_to("q", "retry"));
    let mut retry = queue_to("retry", "q");
    retry.options.message_ttl_ms = Some(10);
    rig.declare("anna", retry);
    rig.attach("anna", consuming(1, "q"));
    rig.publish("anna", [durable("q", "a")]);
    rig.run();
    for round in 1..=3 {
        let got = rig.got("anna");
        rig.settle("anna", Outcome::Reject, &got);
        rig.run();
        rig.advance_ms(10);
        rig.run();
        let again = rig.got("anna");
        assert_eq!(
            deaths(&again[0]),
            [
                ("retry".into(), DeathReason::Expired, round),
                ("q".into(), DeathReason::Rejected, round)
            ]
        );
        rig.settle("anna", Outcome::Requeue, &again);
        rig.run();
    }
}

#[test]
fn a_message_that_only_the_broker_moves_in_a_circle_is_dropped() {
    let mut rig = Rig::new();
    rig.open("anna");
    for (name, to) in [("one", "two"), ("two", "one")] {
        let mut def = queue_to(name, to);
        def.options.message_ttl_ms = Some(10);
        rig.declare("anna", def);
    }
    rig.publish("anna", [durable("one", "a"), transient("one", "b")]);
    rig.run();
    for _ in 0..5 {
        rig.advance_ms(10);
        rig.run();
    }
    assert_eq!((rig.counts("one"), rig.counts("two")), ((0, 0), (0, 0)));
    let counters = rig.dispatcher.counters();
    assert_eq!((counters.dead_lettered, counters.dropped), (2, 2));
}

#[test]
fn a_queue_may_be_its_own_target_for_what_is_rejected() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue_to("q", "q"));
    rig.attach("anna", prefetching(1, "q", 1));
    rig.publish("anna", [durable("q", "a"), durable("q", "b")]);
    rig.run();
    for body in ["a", "b", "a", "b"] {
        let got = rig.got("anna");
        assert_eq!(bodies(&got), [body], "what died goes to the end");
        rig.settle("anna", Outcome::Reject, &got);
        rig.run();
    }
}
