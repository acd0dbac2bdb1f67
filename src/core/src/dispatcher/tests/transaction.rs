//! Transactions: all or nothing.

use isthmus_model::Outcome;

use super::rig::*;

/// A session with an open transaction 1 and one delivery of "in" to settle.
fn begun() -> (Rig, Vec<Got>) {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("in"));
    rig.declare("anna", queue("out"));
    rig.declare("anna", queue("out, too"));
    rig.attach("anna", consuming(1, "in"));
    rig.publish("anna", [durable("in", "job")]);
    rig.begin("anna", 1);
    rig.run();
    let got = rig.got("anna");
    (rig, got)
}

#[test]
fn a_commit_is_one_entry_of_the_log() {
    let (mut rig, got) = begun();
    rig.publish_in("anna", 1, [durable("out", "a")]);
    rig.publish_in("anna", 1, [durable("out, too", "b"), durable("nowhere", "c").mandatory()]);
    rig.settle_in("anna", Some(1), Outcome::Accept, &got);
    rig.run();
    rig.heard("anna");
    assert_eq!((rig.counts("in"), rig.counts("out")), ((0, 1), (0, 0)), "nothing happened yet");

    let entries = rig.entries();
    let committed = rig.commit_tx("anna", 1);
    rig.dispatch();
    assert!(rig.heard("anna").is_empty());
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {committed} save 1 Unroutable")]);
    assert_eq!(rig.entries(), entries + 1);
    rig.crash();
    assert_eq!(rig.counts("in"), (0, 0));
    assert_eq!((rig.drain("out"), rig.drain("out, too")), (vec!["a".into()], vec!["b".into()]));
}

#[test]
fn a_commit_that_is_not_in_the_log_did_not_happen() {
    let (mut rig, got) = begun();
    rig.publish_in("anna", 1, [durable("out", "a")]);
    rig.settle_in("anna", Some(1), Outcome::Accept, &got);
    rig.commit_tx("anna", 1);
    rig.propose();
    rig.crash();
    assert_eq!((rig.drain("in"), rig.drain("out").len()), (vec!["job".into()], 0));
}

#[test]
fn a_rollback_forgets_and_leaves_deliveries_to_be_settled_again() {
    let (mut rig, got) = begun();
    rig.publish_in("anna", 1, [durable("out", "a")]);
    rig.settle_in("anna", Some(1), Outcome::Accept, &got);
    rig.rollback("anna", 1);
    rig.commit_tx("anna", 1); // of nothing
    rig.run();
    assert_eq!((rig.counts("in"), rig.counts("out")), ((0, 1), (0, 0)));
    rig.settle_in("anna", Some(1), Outcome::Accept, &got);
    rig.commit_tx("anna", 1);
    rig.run();
    assert_eq!(rig.counts("in"), (0, 0));
}

#[test]
fn a_session_that_closes_rolls_back() {
    let (mut rig, got) = begun();
    rig.publish_in("anna", 1, [durable("out", "a")]);
    rig.settle_in("anna", Some(1), Outcome::Accept, &got);
    rig.close("anna");
    rig.run();
    assert_eq!((rig.counts("in"), rig.counts("out")), ((1, 0), (0, 0)));
}

#[test]
fn transactions_of_a_session_are_apart() {
    let (mut rig, _) = begun();
    rig.begin("anna", 2);
    rig.publish_in("anna", 1, [durable("out", "one")]);
    rig.publish_in("anna", 2, [durable("out", "two")]);
    rig.rollback("anna", 1);
    rig.commit_tx("anna", 2);
    rig.run();
    assert_eq!(rig.drain("out"), ["two"]);
}

#[test]
fn a_transaction_that_was_not_begun_is_refused() {
    let (mut rig, got) = begun();
    let refused = [
        rig.publish_in("anna", 9, [durable("out", "a")]),
        rig.settle_in("anna", Some(9), Outcome::Accept, &got),
        rig.commit_tx("anna", 9),
        rig.rollback("anna", 9),
    ];
    rig.run();
    assert_eq!(rig.heard("anna"), refused.map(|token| format!("refused {token}: precondition")));
    assert_eq!(rig.counts("in"), (0, 1));
}

#[test]
fn a_settlement_after_a_commit_that_waits_belongs_to_the_next() {
    let (mut rig, got) = begun();
    rig.publish("anna", [durable("out", "a")]);
    rig.look_up("anna", "out"); // waits for "a", and all that follows waits for it
    rig.commit_tx("anna", 1);
    rig.settle_in("anna", Some(1), Outcome::Accept, &got);
    rig.rollback("anna", 1);
    rig.run();
    assert_eq!(rig.counts("in"), (0, 1));
}

#[test]
fn messages_of_a_commit_are_seen_together() {
    let (mut rig, _) = begun();
    rig.open("bert");
    rig.attach("bert", consuming(1, "out"));
    rig.run();
    rig.heard("bert");
    rig.publish_in("anna", 1, [durable("out", "a")]);
    rig.publish_in("anna", 1, [transient("out", "b")]);
    rig.publish_in("anna", 1, [durable("out", "c")]);
    rig.commit_tx("anna", 1);
    rig.dispatch();
    assert!(rig.heard("bert").is_empty());
    rig.run();
    assert_eq!(bodies(&rig.got("bert")), ["a", "b", "c"]);
}

#[test]
fn a_transaction_that_would_not_fit_into_the_log_is_refused() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.begin("anna", 1);
    rig.run();
    rig.heard("anna");
    let large = durable("q", "x".repeat(256 << 20));
    let fits = rig.publish_in("anna", 1, [large.clone()]);
    let too_much = rig.publish_in("anna", 1, [large]);
    rig.run();
    let heard = rig.heard("anna");
    assert_eq!(heard[0], done(fits));
    assert!(heard[1].starts_with(&format!("refused {too_much}")), "{heard:?}");
}
