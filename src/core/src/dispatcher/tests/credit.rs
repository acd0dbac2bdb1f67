//! Who gets how much, and when.

use isthmus_model::{Attach, AttachMode, Credit, Outcome, Table, Time, Value, WindowId};

use super::rig::*;

/// A queue "q" with `count` messages and a session "anna".
fn filled(count: usize) -> Rig {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", numbered("q", count));
    rig.run();
    rig.heard("anna");
    rig
}

fn sharing(consumer: u64, queue: &str, window: u32) -> Attach {
    let credit = Credit::Window { limit: None, shared: Some(WindowId(window)) };
    Attach { credit, ..consuming(consumer, queue) }
}

/// Credit for `credit` deliveries; what cannot be used `ms` from the start is given up.
fn draining(credit: u32, ms: u64) -> Credit {
    Credit::Explicit { credit, drain: true, deadline: Time::from_millis(ms) }
}

#[test]
fn a_prefetch_limit_is_what_may_be_unsettled_and_settling_refills_it() {
    let mut rig = filled(5);
    rig.attach("anna", prefetching(1, "q", 2));
    rig.run();
    let got = rig.got("anna");
    assert_eq!(bodies(&got), ["1", "2"]);
    rig.settle("anna", Outcome::Accept, &got);
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["3", "4"]);
    rig.credit("anna", 1, Credit::Window { limit: Some(3), shared: None });
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["5"]);
}

#[test]
fn a_consumer_that_takes_messages_as_settled_is_not_limited_by_a_prefetch() {
    let mut rig = filled(5);
    let credit = Credit::Window { limit: Some(1), shared: None };
    rig.attach("anna", Attach { credit, ..taking(1, "q") });
    rig.run();
    assert_eq!(bodies(&rig.got("anna")).len(), 5);
    assert_eq!(rig.counts("q"), (0, 0));
    rig.crash();
    assert!(rig.drain("q").is_empty());
}

#[test]
fn consumers_share_a_window_across_queues() {
    let mut rig = filled(3);
    rig.declare("anna", queue("r"));
    rig.publish("anna", numbered("r", 3));
    rig.window("anna", 7, Some(4));
    rig.attach("anna", sharing(1, "q", 7));
    rig.attach("anna", sharing(2, "r", 7));
    rig.run();
    let got = rig.got("anna");
    assert_eq!(got.len(), 4);
    assert_eq!(
        (rig.counts("q").1 + rig.counts("r").1, rig.counts("q").0 + rig.counts("r").0),
        (4, 2)
    );
    rig.settle("anna", Outcome::Accept, [&got[0]]);
    rig.run();
    assert_eq!(rig.got("anna").len(), 1, "room for one more, from whichever queue");
    rig.window("anna", 7, None);
    rig.run();
    assert_eq!(rig.got("anna").len(), 1);
}

#[test]
fn a_window_that_shrinks_takes_nothing_back() {
    let mut rig = filled(4);
    rig.window("anna", 7, Some(3));
    rig.attach("anna", sharing(1, "q", 7));
    rig.run();
    let got = rig.got("anna");
    rig.window("anna", 7, Some(1));
    rig.settle("anna", Outcome::Accept, &got[..2]);
    rig.run();
    assert!(rig.got("anna").is_empty());
    rig.settle("anna", Outcome::Accept, &got[2..]);
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["4"]);
}

#[test]
fn a_deleted_queue_gives_its_part_of_the_window_back() {
    let mut rig = filled(2);
    rig.declare("anna", queue("r"));
    rig.publish("anna", numbered("r", 2));
    rig.window("anna", 7, Some(2));
    rig.attach("anna", sharing(1, "q", 7));
    rig.run();
    rig.attach("anna", sharing(2, "r", 7));
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["1", "2"], "those of q");
    rig.delete("anna", "q");
    rig.run();
    let got = rig.got("anna");
    assert_eq!((got.len(), got[0].consumer.0), (2, 2));
}

#[test]
fn getting_from_an_empty_queue_gives_up_at_once() {
    let mut rig = filled(0);
    let attached = rig.attach("anna", getting(1, "q"));
    rig.run();
    assert_eq!(rig.heard("anna"), [&done(attached), "consumer 1: credit 0, drained, 0 ready"]);
    rig.publish("anna", numbered("q", 1));
    rig.run();
    assert_eq!(rig.counts("q"), (1, 0), "the credit is gone");
}

#[test]
fn getting_one_of_several_says_how_many_are_left() {
    let mut rig = filled(3);
    let attached = rig.attach("anna", getting(1, "q"));
    rig.run();
    assert_eq!(
        rig.heard("anna"),
        [&done(attached), "consumer 1: 1", "consumer 1: credit 0, spent, 2 ready"]
    );
}

#[test]
fn credit_with_a_deadline_waits_that_long() {
    let mut rig = filled(1);
    rig.attach("anna", Attach { credit: draining(3, 105), ..consuming(1, "q") }); // it is 5 ms
    rig.run();
    assert_eq!(rig.heard("anna")[1..], ["consumer 1: 1"]);
    assert_eq!(rig.timeout_ms(), Some(100));
    rig.advance_ms(99);
    rig.publish("anna", [durable("q", "2")]);
    rig.run();
    assert_eq!(rig.heard("anna")[1..], ["consumer 1: 2"]);
    rig.advance_ms(1);
    rig.run();
    assert_eq!(rig.heard("anna"), ["consumer 1: credit 0, drained, 0 ready"]);
    assert_eq!(rig.timeout_ms(), None);
}

#[test]
fn explicit_credit_is_spent_once_and_settling_does_not_refill_it() {
    let mut rig = filled(3);
    let credit = |credit| Credit::Explicit { credit, drain: false, deadline: Time::NEVER };
    rig.attach("anna", Attach { credit: credit(1), ..consuming(1, "q") });
    rig.run();
    let got = rig.got("anna");
    rig.settle("anna", Outcome::Accept, &got);
    rig.run();
    assert!(rig.got("anna").is_empty());
    rig.credit("anna", 1, credit(2));
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["2", "3"]);
}

#[test]
fn two_consumers_take_turns() {
    let mut rig = filled(0);
    rig.open("bert");
    rig.attach("anna", consuming(1, "q"));
    rig.attach("bert", consuming(1, "q"));
    rig.publish("anna", numbered("q", 10));
    rig.run();
    let (hers, his) = (rig.got("anna"), rig.got("bert"));
    assert_eq!((hers.len(), his.len()), (5, 5));
    for n in 0..4 {
        rig.publish("anna", [durable("q", n.to_string())]);
        rig.run();
    }
    assert_eq!((rig.got("anna").len(), rig.got("bert").len()), (2, 2), "also one by one");
}

#[test]
fn a_consumer_without_credit_is_passed_over() {
    let mut rig = filled(0);
    rig.open("bert");
    rig.attach("anna", prefetching(1, "q", 1));
    rig.attach("bert", prefetching(1, "q", 3));
    rig.publish("anna", numbered("q", 6));
    rig.run();
    assert_eq!((rig.got("anna").len(), rig.got("bert").len()), (1, 3));
    rig.close("anna");
    rig.run();
    assert_eq!(rig.counts("q"), (3, 3));
}

#[test]
fn those_of_the_highest_priority_that_have_credit_come_first() {
    let mut rig = filled(0);
    let of_priority = |priority, attach: Attach| {
        let arguments = Table(vec![("x-priority".into(), Value::Int(priority))]);
        Attach { arguments, ..attach }
    };
    rig.attach("anna", of_priority(-1, consuming(1, "q")));
    rig.attach("anna", prefetching(2, "q", 2)); // 0
    rig.attach("anna", of_priority(5, prefetching(3, "q", 1)));
    rig.attach("anna", of_priority(5, prefetching(4, "q", 1)));
    rig.publish("anna", numbered("q", 6));
    rig.run();
    let mut got = rig.got("anna");
    let takers: Vec<u64> = got.iter().map(|g| g.consumer.0).collect();
    assert_eq!(takers, [3, 4, 2, 2, 1, 1]);
    got.truncate(1);
    rig.settle("anna", Outcome::Accept, &got);
    rig.publish("anna", [durable("q", "7")]);
    rig.run();
    assert_eq!(rig.got("anna")[0].consumer.0, 3, "it has credit again");
}

#[test]
fn turns_go_on_when_consumers_leave() {
    let mut rig = filled(0);
    for name in ["bert", "cleo", "dora"] {
        rig.open(name);
        rig.attach(name, consuming(1, "q"));
    }
    rig.publish("anna", numbered("q", 2)); // it is dora's turn
    rig.run();
    rig.detach("bert", 1);
    rig.publish("anna", numbered("q", 2));
    rig.run();
    let counts = ["bert", "cleo", "dora"].map(|name| rig.got(name).len());
    assert_eq!(counts, [1, 2, 1]);
}

#[test]
fn an_outbox_that_is_full_is_passed_over_until_it_is_written() {
    let mut rig = Rig::with_outbox(200);
    rig.open("anna");
    rig.open("bert");
    rig.declare("anna", queue("q"));
    rig.run();
    rig.attach("anna", taking(1, "q"));
    rig.run();
    rig.publish("bert", numbered("q", 9));
    rig.run();
    let first = rig.got("anna").len();
    assert!((1..9).contains(&first), "got {first}");
    assert_eq!(rig.counts("q").0, 9 - first as u64);

    let anna = rig.session("anna");
    rig.dispatcher.written(anna, u64::MAX);
    rig.run();
    assert!(!rig.got("anna").is_empty());
    rig.attach("bert", taking(1, "q"));
    rig.run();
    assert!(!rig.got("bert").is_empty(), "others are not held up");
}

#[test]
fn one_message_larger_than_an_outbox_still_goes_out() {
    let mut rig = Rig::with_outbox(10);
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.attach("anna", taking(1, "q"));
    rig.publish("anna", ["a", "b"].map(|body| durable("q", body.repeat(500))));
    rig.run();
    assert_eq!(rig.got("anna").len(), 1);
    let anna = rig.session("anna");
    rig.dispatcher.written(anna, 1);
    rig.run();
    assert_eq!(rig.got("anna").len(), 0, "nearly all of it waits still");
    rig.dispatcher.written(anna, 600);
    rig.run();
    assert_eq!(rig.got("anna").len(), 1);
}

#[test]
fn an_exclusive_consumer_has_the_queue_for_itself() {
    let mut rig = filled(0);
    rig.open("bert");
    let alone = Attach { exclusive: true, ..consuming(1, "q") };
    let other = rig.attach("bert", consuming(1, "q"));
    let refused = rig.attach("anna", alone.clone());
    rig.run();
    assert_eq!(rig.heard("bert"), [done(other)]);
    assert_eq!(rig.heard("anna"), [format!("refused {refused}: not allowed")]);

    rig.detach("bert", 1);
    let alone = rig.attach("anna", alone);
    let other = rig.attach("bert", consuming(2, "q"));
    rig.run();
    assert_eq!(rig.heard("anna"), [done(alone)]);
    assert_eq!(rig.heard("bert")[1..], [format!("refused {other}: not allowed")]);

    rig.close("anna");
    let other = rig.attach("bert", consuming(2, "q"));
    rig.run();
    assert_eq!(rig.heard("bert"), [done(other)]);
}

#[test]
fn a_look_is_neither_refused_for_an_exclusive_consumer_nor_in_its_way() {
    let mut rig = filled(1);
    rig.open("bert");
    let look = rig.attach("bert", getting(1, "q"));
    let alone = rig.attach("anna", Attach { exclusive: true, ..consuming(1, "q") });
    rig.run();
    assert_eq!(rig.heard("anna"), [done(alone)]);
    assert_eq!(
        rig.heard("bert"),
        [&done(look), "consumer 1: 1", "consumer 1: credit 0, spent, 0 ready"]
    );
    let look = rig.attach("bert", getting(2, "q"));
    rig.run();
    assert_eq!(rig.heard("bert"), [&done(look), "consumer 2: credit 0, drained, 0 ready"]);
}

#[test]
fn a_name_in_use_is_refused_and_is_free_again_after_detaching() {
    let mut rig = filled(0);
    rig.attach("anna", consuming(1, "q"));
    rig.run();
    rig.heard("anna");
    let twice = rig.attach("anna", consuming(1, "q"));
    let detached = rig.detach("anna", 1);
    let again =
        rig.attach("anna", Attach { mode: AttachMode::ConsumeSettled, ..consuming(1, "q") });
    let nowhere = rig.attach("anna", consuming(2, "nowhere"));
    rig.run();
    assert_eq!(
        rig.heard("anna"),
        [
            format!("refused {twice}: invalid"),
            done(detached),
            done(again),
            format!("refused {nowhere}: not found")
        ]
    );
}

#[test]
fn a_lease_that_runs_out_is_a_failed_delivery() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", [durable("q", "1"), transient("q", "2")]);
    rig.run();
    rig.attach("anna", Attach { lease_ms: Some(10), ..prefetching(1, "q", 2) });
    rig.run();
    let first = rig.got("anna");
    assert_eq!(bodies(&first), ["1", "2"]);
    rig.advance_ms(9);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 2));
    assert_eq!(rig.timeout_ms(), Some(1));
    rig.advance_ms(1);
    rig.run();
    let again = rig.got("anna");
    let again: Vec<_> =
        again.iter().map(|g| (g.body.as_str(), g.redelivered, g.delivery_count)).collect();
    assert_eq!(again.len(), 2, "its credit came back with them");
    assert!(again.contains(&("1", true, 1)) && again.contains(&("2", true, 1)), "{again:?}");
    rig.settle("anna", Outcome::Accept, &first);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 2), "the old lease settles nothing any more");
}

#[test]
fn a_lease_that_is_extended_lasts() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", [durable("q", "1")]);
    rig.run();
    rig.attach("anna", Attach { lease_ms: Some(10), ..consuming(1, "q") });
    rig.run();
    let got = rig.got("anna");
    let (id, token) = (rig.session("anna"), rig.token());
    let until = Time::from_millis(rig.clock.monotonic.as_millis() + 50);
    let settlement = got[0].settlement(Outcome::Accept);
    rig.dispatcher.extend(&rig.ledger, id, token, &[settlement], until);
    rig.run();
    rig.advance_ms(49);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 1));
    rig.settle("anna", Outcome::Accept, &got);
    rig.run();
    rig.advance_ms(10);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 0));
}
