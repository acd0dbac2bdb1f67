//! Queues that serve one consumer at a time, and messages that fail too often.

use isthmus_model::{Attach, DeathReason, Outcome, QueueDef, Table, Value};

use super::rig::*;
use crate::Note;

fn one_at_a_time(name: &str) -> QueueDef {
    queue_with(name, |o| o.single_active_consumer = true)
}

fn of_priority(attach: Attach, priority: i64) -> Attach {
    let arguments = Table(vec![("x-priority".to_owned(), Value::Int(priority))]);
    Attach { arguments, ..attach }
}

#[test]
fn only_the_first_consumer_gets_messages() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("bert");
    rig.declare("anna", one_at_a_time("q"));
    rig.run();
    rig.attach("anna", prefetching(1, "q", 1));
    rig.attach("bert", of_priority(consuming(1, "q"), 5));
    rig.publish("anna", numbered("q", 3));
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["1"]);
    assert!(rig.got("bert").is_empty(), "neither credit nor priority moves the place");
    assert_eq!(rig.counts("q"), (2, 1));
}

#[test]
fn the_next_takes_over_by_priority_and_then_by_order() {
    let mut rig = Rig::new();
    for name in ["anna", "bert", "cleo", "dora"] {
        rig.open(name);
    }
    rig.declare("anna", one_at_a_time("q"));
    rig.run();
    rig.attach("anna", prefetching(1, "q", 1));
    rig.attach("bert", prefetching(1, "q", 1));
    rig.attach("cleo", of_priority(prefetching(1, "q", 1), 5));
    rig.attach("dora", of_priority(prefetching(1, "q", 1), 5));
    rig.publish("anna", numbered("q", 4));
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["1"]);
    rig.detach("anna", 1);
    rig.run();
    assert_eq!(bodies(&rig.got("cleo")), ["2"], "what anna holds stays hers");
    rig.detach("cleo", 1);
    rig.run();
    assert_eq!(bodies(&rig.got("dora")), ["3"]);
    rig.detach("dora", 1);
    rig.run();
    assert_eq!(bodies(&rig.got("bert")), ["4"]);
}

#[test]
fn whoever_takes_over_gets_what_the_last_one_held_first() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("bert");
    rig.declare("anna", one_at_a_time("q"));
    rig.run();
    rig.attach("anna", prefetching(1, "q", 2));
    rig.attach("bert", consuming(1, "q"));
    rig.publish("bert", numbered("q", 4));
    rig.run();
    rig.close("anna");
    rig.run();
    let got = rig.got("bert");
    assert_eq!(bodies(&got), ["1", "2", "3", "4"]);
    assert_eq!(got.iter().map(|g| g.redelivered).collect::<Vec<_>>(), [true, true, false, false]);
}

#[test]
fn nobody_may_have_it_for_himself() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", one_at_a_time("q"));
    rig.run();
    rig.heard("anna");
    let token = rig.attach("anna", Attach { exclusive: true, ..consuming(1, "q") });
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("refused {token}: not allowed")]);
}

fn limited(limit: u64) -> QueueDef {
    queue_with("q", |o| o.delivery_limit = Some(limit))
}

/// Lets every delivery fail until none comes any more; returns how often each came.
fn fail_all(rig: &mut Rig) -> Vec<(String, u32)> {
    let mut counts = Vec::new();
    loop {
        rig.run();
        let got = rig.got("anna");
        if got.is_empty() {
            return counts;
        }
        counts.extend(got.iter().map(|g| (g.body.clone(), g.delivery_count)));
        rig.settle("anna", Outcome::Requeue, &got);
    }
}

#[test]
fn a_message_that_fails_too_often_is_dead_lettered() {
    let mut rig = Rig::new();
    rig.open("anna");
    let mut def = limited(2);
    dead_letters_to(&mut def.options, "dead");
    rig.declare("anna", def);
    rig.declare("anna", queue("dead"));
    rig.attach("anna", consuming(1, "q"));
    rig.publish("anna", [durable("q", "d"), transient("q", "t")]);
    let mut failed = fail_all(&mut rig);
    failed.sort();
    let thrice = |body: &str| (0..3).map(|n| (body.to_owned(), n)).collect::<Vec<_>>();
    assert_eq!(failed, [thrice("d"), thrice("t")].concat(), "the limit counts returns");
    assert_eq!(rig.counts("q"), (0, 0));
    rig.attach("anna", consuming(2, "dead"));
    rig.run();
    let dead = rig.got("anna");
    assert_eq!(dead.len(), 2);
    for message in dead {
        let death = &message.annotations.unwrap().deaths[0];
        assert_eq!((death.reason, death.count), (DeathReason::DeliveryLimit, 1));
        assert_eq!(message.delivery_count, 0);
    }
    assert_eq!(rig.dispatcher.take_notes(), []);
}

#[test]
fn without_a_dead_letter_target_it_is_dropped_and_noted() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", limited(0));
    rig.attach("anna", consuming(1, "q"));
    rig.publish("anna", numbered("q", 2));
    assert_eq!(fail_all(&mut rig).len(), 2);
    assert_eq!(rig.counts("q"), (0, 0));
    assert_eq!(rig.dispatcher.counters().dropped_undeliverable, 2);
    let notes = rig.dispatcher.take_notes();
    let last = Note::Undeliverable { vhost: VHOST.into(), queue: "q".into(), total: 2 };
    assert_eq!(notes.last(), Some(&last));
    rig.crash();
    assert_eq!(rig.counts("q"), (0, 0), "the drop is in the log");
}

#[test]
fn a_session_that_ends_counts_as_a_failed_delivery_and_the_count_outlasts_a_restart() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", limited(2));
    rig.publish("anna", [durable("q", "poison")]);
    for delivery_count in 0..2 {
        rig.open("bert");
        rig.attach("bert", consuming(1, "q"));
        rig.run();
        assert_eq!(rig.got("bert")[0].delivery_count, delivery_count);
        rig.close("bert");
        rig.run();
    }
    rig.crash();
    rig.open("bert");
    rig.attach("bert", consuming(1, "q"));
    rig.run();
    assert_eq!(rig.got("bert")[0].delivery_count, 2);
    rig.close("bert");
    rig.run();
    assert_eq!(rig.counts("q"), (0, 0));
}

#[test]
fn a_look_takes_no_place_and_needs_none() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("bert");
    rig.declare("anna", one_at_a_time("q"));
    rig.publish("anna", numbered("q", 4));
    rig.run();
    rig.attach("bert", getting(1, "q"));
    rig.run();
    assert_eq!(bodies(&rig.got("bert")), ["1"]);
    rig.attach("anna", prefetching(1, "q", 1));
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["2"], "a look that has not gone yet is not in the way");
    rig.attach("bert", getting(2, "q"));
    rig.run();
    assert_eq!(bodies(&rig.got("bert")), ["3"], "nor is the one that is served in the way of it");
    assert_eq!(rig.counts("q"), (1, 3));
}
