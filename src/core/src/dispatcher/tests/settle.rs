//! What becomes of deliveries: accepted, requeued, modified, or settled too late.

use isthmus_model::{LeaseEpoch, Outcome};

use super::rig::*;
use crate::Fact;

/// A queue with `count` durable messages, all delivered to the session "anna".
fn delivered(count: usize) -> (Rig, Vec<Got>) {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.attach("anna", prefetching(1, "q", count as u32));
    rig.publish("anna", numbered("q", count));
    rig.run();
    let got = rig.got("anna");
    assert_eq!(got.len(), count);
    (rig, got)
}

#[test]
fn accepted_messages_are_gone_for_good() {
    let (mut rig, got) = delivered(4);
    rig.settle("anna", Outcome::Accept, &got[1..3]);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 2));
    rig.crash();
    assert_eq!(rig.drain("q"), ["1", "4"]);
}

#[test]
fn neighbours_that_are_accepted_one_by_one_are_one_fact() {
    let (mut rig, got) = delivered(4);
    let before = rig.facts().len();
    for one in &got {
        rig.settle("anna", Outcome::Accept, [one]);
    }
    rig.run();
    let settled = Fact::Settle { queue: got[0].queue, first: 1, len: 4 };
    assert_eq!(rig.facts()[before..], [settled]);
}

#[test]
fn an_acceptance_that_is_not_committed_is_lost_with_the_leader_and_the_message_is_not() {
    let (mut rig, got) = delivered(1);
    rig.settle("anna", Outcome::Accept, &got);
    rig.propose();
    rig.crash();
    rig.open("anna");
    rig.attach("anna", consuming(1, "q"));
    rig.run();
    assert_eq!(rig.heard("anna")[1..], ["consumer 1: 1 again"]);
}

#[test]
fn requeued_messages_go_back_to_their_places_and_say_so() {
    let (mut rig, got) = delivered(3);
    rig.publish("anna", [durable("q", "4")]);
    rig.detach("anna", 1);
    rig.settle("anna", Outcome::Requeue, [&got[2]]);
    rig.settle("anna", Outcome::Requeue, [&got[0]]);
    rig.dispatch();
    assert_eq!(rig.counts("q"), (0, 1), "not ready before the count is committed");
    rig.run();
    rig.open("bert");
    rig.attach("bert", consuming(1, "q"));
    rig.run();
    let again = rig.got("bert");
    assert_eq!(bodies(&again), ["1", "3", "4"]);
    let failed: Vec<_> = again.iter().map(|g| (g.redelivered, g.delivery_count)).collect();
    assert_eq!(failed, [(true, 1), (true, 1), (false, 0)]);
}

#[test]
fn counts_of_failed_deliveries_outlive_the_leader() {
    let (mut rig, got) = delivered(2);
    rig.settle("anna", Outcome::Requeue, [&got[1]]);
    rig.run();
    let again = rig.got("anna");
    rig.settle("anna", Outcome::Requeue, &again);
    rig.run();
    rig.crash();
    rig.open("anna");
    rig.attach("anna", consuming(1, "q"));
    rig.run();
    let got = rig.got("anna");
    let counts: Vec<u32> = got.iter().map(|g| g.delivery_count).collect();
    assert_eq!((bodies(&got), counts), (vec!["1".into(), "2".into()], vec![0, 2]));
    assert!(got.iter().all(|g| g.redelivered));
}

#[test]
fn transient_messages_come_back_at_once_and_are_counted_too() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.run();
    rig.attach("anna", consuming(1, "q"));
    rig.publish("anna", [transient("q", "a"), transient("q", "b")]);
    rig.dispatch();
    let got = rig.got("anna");
    let entries = rig.entries();
    rig.settle("anna", Outcome::Requeue, [&got[0]]);
    rig.dispatch();
    let again = rig.got("anna");
    assert_eq!((again[0].redelivered, again[0].delivery_count), (true, 1));
    rig.settle("anna", Outcome::Accept, &again);
    rig.run();
    assert_eq!(rig.entries(), entries, "the log has not heard of it");
    assert_eq!(rig.counts("q"), (0, 1));
}

#[test]
fn a_modified_delivery_is_counted_only_if_it_failed() {
    let (mut rig, got) = delivered(2);
    let modify = |delivery_failed| Outcome::Modify { delivery_failed, undeliverable_here: false };
    rig.settle("anna", modify(false), [&got[0]]);
    rig.settle("anna", modify(true), [&got[1]]);
    rig.run();
    let mut again = rig.got("anna");
    again.sort_by_key(|g| g.sequence);
    assert_eq!(again.iter().map(|g| g.delivery_count).collect::<Vec<_>>(), [0, 1]);
    assert!(again.iter().all(|g| g.redelivered), "it was delivered before either way");
}

#[test]
fn a_stale_epoch_settles_nothing() {
    let (mut rig, got) = delivered(1);
    rig.settle("anna", Outcome::Requeue, &got);
    rig.run();
    let current = rig.got("anna");
    assert_ne!(got[0].epoch, current[0].epoch);
    let future = Got { epoch: LeaseEpoch(u64::MAX), ..got[0].clone() };
    let other_queue = Got { queue: isthmus_model::QueueId(77), ..current[0].clone() };
    let end_of_time = Got { sequence: u64::MAX, ..current[0].clone() };
    rig.settle("anna", Outcome::Accept, [&got[0], &future, &other_queue, &end_of_time]);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 1));
    rig.settle("anna", Outcome::Accept, &current);
    rig.settle("anna", Outcome::Requeue, &current);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 0), "settled is settled");
}

#[test]
fn any_session_may_settle_whoever_got_it() {
    let (mut rig, got) = delivered(2);
    rig.open("bert");
    rig.settle("bert", Outcome::Accept, &got[..1]);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 1));
    rig.publish("bert", [durable("q", "next")]);
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["next"], "the receiver has its credit back");
}

#[test]
fn a_closed_session_gives_back_all_that_it_held() {
    let (mut rig, got) = delivered(4);
    rig.settle("anna", Outcome::Accept, [&got[1]]);
    rig.close("anna");
    rig.run();
    assert_eq!(rig.counts("q"), (3, 0));
    rig.open("bert");
    rig.attach("bert", consuming(1, "q"));
    rig.run();
    let again = rig.got("bert");
    assert_eq!(bodies(&again), ["1", "3", "4"]);
    assert!(again.iter().all(|g| g.redelivered && g.delivery_count == 1));
}

#[test]
fn what_a_detached_consumer_holds_stays_with_the_session() {
    let (mut rig, got) = delivered(2);
    rig.detach("anna", 1);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 2));
    rig.settle("anna", Outcome::Accept, &got[..1]);
    rig.settle("anna", Outcome::Requeue, &got[1..]);
    rig.run();
    assert_eq!(rig.counts("q"), (1, 0));
}

#[test]
fn purging_takes_what_is_ready_and_leaves_what_is_delivered() {
    let (mut rig, got) = delivered(2);
    rig.publish("anna", [durable("q", "3"), transient("q", "4"), durable("q", "5")]);
    rig.run();
    rig.heard("anna");
    let purged = rig.purge("anna", "q");
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {purged}: 3 messages")]);
    rig.settle("anna", Outcome::Requeue, &got);
    rig.close("anna");
    rig.crash();
    assert_eq!(rig.drain("q"), ["1", "2"]);
}

#[test]
fn rejections_that_are_too_many_for_one_turn_keep_their_order_and_are_answered_at_the_end() {
    const COUNT: usize = 45_000;
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("dead"));
    rig.declare("anna", queue_with("q", |o| dead_letters_to(o, "dead")));
    rig.attach("anna", consuming(1, "q"));
    rig.publish("anna", numbered("q", COUNT));
    rig.run();
    let got = rig.got("anna");
    assert_eq!(got.len(), COUNT);
    rig.heard("anna");

    let settled = rig.settle("anna", Outcome::Reject, &got);
    let published = rig.publish("anna", [durable("dead", "behind")]);
    let entries = rig.entries();
    rig.dispatch();
    assert!(rig.heard("anna").is_empty());
    assert_eq!(rig.timeout_ms(), Some(0), "the rest is for the next turn");
    assert!(rig.status("q").unacked > COUNT as u64 / 2);
    rig.run();
    assert_eq!(rig.heard("anna"), [done(settled), done(published)]);
    assert!(rig.entries() - entries >= 3);
    assert_eq!(rig.counts("q"), (0, 0));
    let mut expected: Vec<String> = (1..=COUNT).map(|n| n.to_string()).collect();
    expected.push("behind".into());
    assert!(rig.drain("dead") == expected);
    assert_eq!(rig.dispatcher.counters().dead_lettered, COUNT as u64);
}

#[test]
fn rejections_under_way_are_carried_out_when_their_session_closes_and_not_when_the_leader_dies() {
    const COUNT: usize = 30_000;
    for closes in [true, false] {
        let mut rig = Rig::new();
        rig.open("anna");
        rig.declare("anna", queue("dead"));
        rig.declare("anna", queue_with("q", |o| dead_letters_to(o, "dead")));
        rig.attach("anna", consuming(1, "q"));
        rig.publish("anna", numbered("q", COUNT));
        rig.run();
        let got = rig.got("anna");
        rig.settle("anna", Outcome::Reject, &got);
        rig.dispatch();
        if closes {
            rig.close("anna");
            rig.run();
            assert_eq!((rig.counts("q"), rig.counts("dead")), ((0, 0), (COUNT as u64, 0)));
            continue;
        }
        rig.propose();
        rig.commit();
        rig.crash();
        let (left, dead) = (rig.counts("q").0, rig.counts("dead").0);
        assert_eq!(left + dead, COUNT as u64);
        assert!(left > 0 && dead > 0, "{left} left, {dead} dead");
    }
}
