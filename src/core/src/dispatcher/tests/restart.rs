//! What a new term begins with.

use isthmus_model::{Lifetime, Outcome, QueueDef, Time, Token};

use super::rig::*;
use crate::{Clock, Dispatcher};

#[test]
fn what_is_committed_is_there_and_flagged_and_what_is_not_is_gone() {
    let mut rig = Rig::new();
    let anna = rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.declare("anna", volatile_queue("v"));
    rig.declare("anna", QueueDef { lifetime: Lifetime::Exclusive(anna), ..queue("x") });
    rig.publish("anna", [durable("q", "a"), transient("q", "b"), durable("v", "c")]);
    rig.run();
    rig.publish("anna", [durable("q", "d")]);
    rig.propose();
    rig.publish("anna", [durable("q", "e")]);
    rig.crash();
    assert!(rig.find_status("v").is_none() && rig.find_status("x").is_none());

    rig.open("bert");
    rig.publish("bert", [durable("q", "f")]);
    rig.run();
    rig.attach("bert", consuming(1, "q"));
    rig.run();
    assert_eq!(rig.heard("bert")[2..], ["consumer 1: a again", "consumer 1: f"]);
}

#[test]
fn sequences_are_not_given_out_again() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.attach("anna", consuming(1, "q"));
    rig.publish("anna", numbered("q", 3));
    rig.run();
    let got = rig.got("anna");
    rig.settle("anna", Outcome::Accept, &got);
    rig.run();
    for _ in 0..2 {
        rig.crash();
        rig.open("anna");
        rig.attach("anna", consuming(1, "q"));
        rig.publish("anna", [durable("q", "x")]);
        rig.run();
        let again = rig.got("anna");
        assert!(again.last().unwrap().sequence > got.last().unwrap().sequence);
    }
}

#[test]
fn ids_of_deleted_queues_are_not_given_out_again() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("old"));
    rig.run();
    let old = rig.status("old").id;
    rig.delete("anna", "old");
    rig.run();
    rig.crash();
    rig.open("anna");
    rig.declare("anna", queue("new"));
    rig.run();
    assert!(rig.status("new").id > old);
}

#[test]
fn a_settlement_of_an_earlier_term_changes_nothing() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.attach("anna", consuming(1, "q"));
    rig.publish("anna", [durable("q", "a")]);
    rig.run();
    let stale = rig.got("anna");
    rig.crash();
    rig.open("anna");
    rig.attach("anna", consuming(1, "q"));
    rig.run();
    rig.settle("anna", Outcome::Accept, &stale);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 1));
    let current = rig.got("anna");
    rig.settle("anna", Outcome::Accept, &current);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 0));
}

#[test]
fn log_time_goes_on_where_the_last_leader_was_however_late_this_ones_clock_is() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.run();
    let late = Clock { monotonic: Time(1), log: Time(1) };
    rig.dispatcher = Dispatcher::new(rig.options(), &rig.ledger, late);
    let anna = rig.open("anna");
    let messages = batch([durable("q", "a")]);
    rig.dispatcher.publish(&rig.ledger, anna, Token(99), messages, None);
    rig.run();
    assert_eq!(rig.counts("q"), (1, 0));
}

#[test]
fn how_long_a_message_has_waited_is_told_after_a_restart_too() {
    let waited = |rig: &mut Rig| {
        rig.attach("anna", consuming(1, "q"));
        rig.run();
        let got = rig.got("anna");
        got.iter().map(|got| (got.body.clone(), got.waited_ms)).collect::<Vec<_>>()
    };
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", [durable("q", "a"), transient("q", "gone")]);
    rig.run();
    rig.advance_ms(700);
    rig.publish("anna", [durable("q", "b")]);
    rig.run();
    rig.advance_ms(300);
    rig.crash();
    rig.open("anna");
    rig.advance_ms(50);
    assert_eq!(waited(&mut rig), [("a".to_owned(), 1050), ("b".to_owned(), 350)]);
}
