//! What a session hears, and in which order: completions only after commit, and nothing of a
//! session overtakes what the session asked for before.

use isthmus_model::Outcome;

use super::rig::*;

#[test]
fn a_durable_message_is_confirmed_and_delivered_once_it_is_committed() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.attach("anna", consuming(1, "q"));
    rig.run();
    rig.heard("anna");

    let published = rig.publish("anna", [durable("q", "a"), durable("q", "b")]);
    rig.dispatch();
    assert!(rig.heard("anna").is_empty(), "gathered");
    rig.propose();
    rig.dispatch();
    assert!(rig.heard("anna").is_empty(), "proposed");
    rig.commit();
    rig.dispatch();
    assert_eq!(rig.heard("anna"), [&done(published), "consumer 1: a b"]);
}

#[test]
fn a_transient_message_is_confirmed_and_delivered_at_once() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.attach("anna", consuming(1, "q"));
    rig.run();
    rig.heard("anna");

    let published = rig.publish("anna", [transient("q", "a")]);
    rig.dispatch();
    assert_eq!(rig.heard("anna"), [&done(published), "consumer 1: a"]);
}

#[test]
fn a_transient_message_waits_behind_earlier_durable_ones_of_its_session_only() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("bert");
    rig.declare("anna", queue("q"));
    rig.run();
    rig.attach("bert", consuming(1, "q"));
    rig.run();
    rig.heard("anna");
    rig.heard("bert");

    let first = rig.publish("anna", [durable("q", "a1")]);
    let second = rig.publish("anna", [transient("q", "a2")]);
    let other = rig.publish("bert", [transient("q", "b1")]);
    rig.dispatch();
    assert_eq!(rig.heard("bert"), [&done(other), "consumer 1: b1"]);
    rig.run();
    assert_eq!(rig.heard("anna"), [done(first), done(second)]);
    assert_eq!(rig.heard("bert"), ["consumer 1: a1", "consumer 1: a2"]);
}

#[test]
fn messages_of_one_batch_keep_their_order_whatever_of_it_is_durable() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish(
        "anna",
        [
            transient("q", "1"),
            durable("q", "2"),
            transient("q", "3"),
            durable("q", "4"),
            durable("q", "5"),
        ],
    );
    rig.run();
    assert_eq!(rig.drain("q"), ["1", "2", "3", "4", "5"]);
}

#[test]
fn publish_then_get_finds_the_message() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    let published = rig.publish("anna", [durable("q", "a")]);
    let got = rig.attach("anna", getting(1, "q"));
    rig.run();
    assert_eq!(
        rig.heard("anna")[1..],
        [&done(published), &done(got), "consumer 1: a", "consumer 1: credit 0, spent, 0 ready"]
    );
}

#[test]
fn what_waits_for_a_commit_holds_up_what_comes_after() {
    let mut rig = Rig::new();
    rig.open("anna");
    let declared = rig.declare("anna", queue("q"));
    let published = rig.publish("anna", [durable("q", "a")]);
    let looked = rig.look_up("anna", "q"); // must see the message
    let detached = rig.detach("anna", 9);
    let transient = rig.publish("anna", [transient("q", "b")]);
    let exchange = rig.declare_exchange("anna", exchange("e", isthmus_model::ExchangeKind::Topic));
    rig.dispatch();
    assert!(rig.heard("anna").is_empty());
    rig.run();
    assert_eq!(
        rig.heard("anna"),
        [
            format!("done {declared}: q has 0 ready, 0 consumers"),
            done(published),
            format!("done {looked}: q has 1 ready, 0 consumers"),
            done(detached),
            done(transient),
            done(exchange),
        ]
    );
}

#[test]
fn an_answer_about_what_another_session_declared_waits_for_its_commit() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("bert");
    rig.declare("anna", queue("q"));
    let existing = rig.declare("bert", queue("q"));
    let later = rig.publish("bert", [transient("q", "a")]);
    rig.dispatch();
    assert!(rig.heard("bert").is_empty());
    rig.run();
    assert_eq!(
        rig.heard("bert"),
        [format!("done {existing}: q has 0 ready, 0 consumers"), done(later)]
    );
}

#[test]
fn a_queue_that_was_purged_of_transient_messages_can_be_consumed_from() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", volatile_queue("q"));
    rig.publish("anna", [transient("q", "a")]);
    rig.run();
    rig.heard("anna");
    let purged = rig.purge("anna", "q");
    let attached = rig.attach("anna", consuming(1, "q"));
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {purged}: 1 messages"), done(attached)]);
}

#[test]
fn a_settlement_that_joins_the_fact_of_another_session_waits_for_its_commit_too() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("bert");
    rig.declare("anna", queue("q"));
    rig.run();
    rig.attach("anna", prefetching(1, "q", 1));
    rig.attach("bert", prefetching(1, "q", 1));
    rig.publish("anna", numbered("q", 2));
    rig.run();
    let (hers, his) = (rig.got("anna"), rig.got("bert"));
    assert_eq!((hers[0].sequence, his[0].sequence), (1, 2));

    rig.settle("anna", Outcome::Accept, &hers);
    let settled = rig.settle("bert", Outcome::Accept, &his);
    rig.dispatch();
    assert!(rig.heard("bert").is_empty(), "not committed yet");
    rig.run();
    assert_eq!(rig.heard("bert"), [done(settled)]);
}

#[test]
fn a_transient_message_that_waits_is_not_overtaken_by_a_later_one() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("bert");
    rig.declare("anna", queue("q"));
    rig.run();
    rig.heard("anna");

    rig.publish("anna", [durable("q", "1")]);
    rig.propose();
    rig.publish("bert", [durable("q", "x")]); // the entry after hers
    let second = rig.publish("anna", [transient("q", "2")]);
    rig.commit();
    let third = rig.publish("anna", [transient("q", "3")]);
    rig.run();
    let told = rig.heard("anna");
    assert_eq!(told[1..], [done(second), done(third)]);
    let order = rig.drain("q");
    let hers: Vec<&String> = order.iter().filter(|b| *b != "x").collect();
    assert_eq!(hers, ["1", "2", "3"]);
}

#[test]
fn a_settlement_does_not_overtake_what_waits() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", volatile_queue("q"));
    rig.declare("anna", queue("log"));
    rig.attach("anna", prefetching(1, "q", 1));
    rig.publish("anna", [transient("q", "a")]);
    rig.run();
    let got = rig.got("anna");

    rig.publish("anna", [durable("log", "x")]);
    let purged = rig.purge("anna", "q"); // "a" is not ready, but will be
    let exchange = rig.declare_exchange("anna", exchange("e", isthmus_model::ExchangeKind::Topic));
    let settled = rig.settle("anna", Outcome::Requeue, &got);
    rig.run();
    let told = rig.heard("anna");
    let answers: Vec<&String> = told.iter().filter(|t| t.starts_with("done")).collect();
    assert_eq!(
        answers[1..],
        [&format!("done {purged}: 0 messages"), &done(exchange), &done(settled)]
    );
    assert_eq!(rig.counts("q"), (0, 1), "it came back after the purge and was delivered again");
}

#[test]
fn what_was_published_before_the_session_closed_stays_published() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", [durable("q", "a")]);
    rig.look_up("anna", "q"); // waits for "a"
    rig.publish("anna", [durable("q", "b")]);
    rig.close("anna");
    rig.run();
    assert_eq!(rig.drain("q"), ["a", "b"]);
}
