//! Messages that were seen before.

use isthmus_model::{ExchangeDef, ExchangeKind, Overflow, QueueDef, TopologyChange, Value};

use super::rig::*;
use crate::Fact;
use crate::dedup::WindowOf;

fn arguments(size: i64, more: &[(&str, Value)]) -> isthmus_model::Table {
    let on = [("x-message-deduplication", Value::Bool(true)), ("x-cache-size", Value::Int(size))];
    table(&[&on[..], more].concat())
}

/// An exchange `e` that deduplicates, and a queue `q` bound to it.
fn with_exchange(def: ExchangeDef) -> Rig {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare_exchange("anna", def);
    rig.declare("anna", queue("q"));
    rig.bind("anna", "e", "k", "q");
    rig.run();
    rig.heard("anna");
    rig
}

fn direct(size: i64, more: &[(&str, Value)]) -> ExchangeDef {
    ExchangeDef { arguments: arguments(size, more), ..exchange("e", ExchangeKind::Direct) }
}

/// A queue that deduplicates.
fn once(name: &str, size: i64) -> QueueDef {
    QueueDef { arguments: arguments(size, &[]), ..queue(name) }
}

/// A durable message to `q` through `e` with a key.
fn keyed(id: &str, body: &str) -> Message {
    durable("k", body).through("e").head(format!("x-deduplication-header={id}"))
}

/// As [`keyed`], to a queue.
fn keyed_to(queue: &str, id: &str, body: &str) -> Message {
    durable(queue, body).head(format!("x-deduplication-header={id}"))
}

fn keys_in_the_ledger(rig: &Rig) -> usize {
    rig.ledger.windows().values().map(|window| window.len()).sum()
}

#[test]
fn an_exchange_routes_a_message_once_and_confirms_it_as_often_as_it_comes() {
    let mut rig = with_exchange(direct(10, &[]));
    let one = rig.publish("anna", [keyed("1", "a"), keyed("2", "b"), keyed("1", "c").mandatory()]);
    let two = rig.publish("anna", [keyed("2", "d"), durable("k", "plain").through("e")]);
    rig.run();
    assert_eq!(rig.heard("anna"), [done(one), done(two)]);
    let counters = rig.dispatcher.counters();
    assert_eq!((counters.published, counters.deduplicated, counters.unroutable), (5, 2, 0));
    rig.crash();
    rig.open("anna");
    rig.publish("anna", [keyed("1", "again"), keyed("3", "e")]);
    rig.run();
    assert_eq!(rig.drain("q"), ["a", "b", "plain", "e"]);
    let spare = durable("k", "no key").through("e").head("other=1");
    rig.open("anna");
    rig.publish("anna", [spare.clone(), spare]);
    rig.run();
    assert_eq!(rig.drain("q"), ["no key", "no key"]);
}

#[test]
fn a_duplicate_is_not_confirmed_before_the_message_that_it_repeats() {
    let mut rig = with_exchange(direct(10, &[]));
    rig.open("bert");
    let one = rig.publish("anna", [keyed("1", "a")]);
    rig.dispatch();
    assert!(rig.propose());
    let two = rig.publish("bert", [keyed("1", "a")]);
    rig.dispatch();
    assert_eq!(rig.heard("bert"), [""; 0], "its message could still be lost");
    rig.run();
    assert_eq!((rig.heard("anna"), rig.heard("bert")), (vec![done(one)], vec![done(two)]));

    rig.publish("anna", [keyed("2", "b")]);
    rig.dispatch();
    rig.crash();
    rig.open("bert");
    rig.publish("bert", [keyed("2", "b")]);
    rig.run();
    assert_eq!(rig.drain("q"), ["a", "b"], "what was lost is not remembered");
}

#[test]
fn a_key_is_remembered_with_its_message_and_in_the_same_entry() {
    let mut rig = with_exchange(direct(10, &[]));
    rig.declare("anna", once("own", 10));
    rig.run();
    let before = (rig.facts().len(), rig.entries());
    rig.publish("anna", [keyed("1", "a"), keyed("2", "b"), keyed_to("own", "3", "c")]);
    rig.run();
    assert_eq!(rig.entries(), before.1 + 1);
    let facts = &rig.facts()[before.0..];
    let [
        Fact::Remember { keys, window },
        Fact::Remember { window: queue, .. },
        Fact::Enqueue { .. },
    ] = facts
    else {
        panic!("{facts:?}")
    };
    assert_eq!(keys.len(), 2, "neighbours are one fact");
    assert!(matches!(window, WindowOf::Exchange { name, .. } if **name == *"e"));
    assert!(matches!(queue, WindowOf::Queue(_)));
}

#[test]
fn what_no_restart_survives_is_remembered_without_the_log() {
    for (durable, flags) in [(false, "durable"), (true, "transient")] {
        let mut rig = with_exchange(ExchangeDef { durable, ..direct(10, &[]) });
        let message = |body: &str| match flags {
            "durable" => keyed("1", body),
            _ => transient("k", body).through("e").head("x-deduplication-header=1"),
        };
        rig.publish("anna", [message("a"), message("b")]);
        rig.run();
        assert_eq!(rig.counts("q"), (1, 0));
        assert_eq!(keys_in_the_ledger(&rig), 0);
        rig.crash();
        rig.open("anna");
        rig.declare_exchange("anna", ExchangeDef { durable, ..direct(10, &[]) });
        rig.bind("anna", "e", "k", "q");
        rig.publish("anna", [message("c")]);
        rig.run();
        assert_eq!(rig.drain("q").last().map(String::as_str), Some("c"));
    }
}

#[test]
fn a_transient_message_that_takes_a_durable_ones_key_leaves_nothing_in_the_log() {
    let mut rig = with_exchange(direct(10, &[("x-cache-ttl", Value::Int(10))]));
    rig.publish("anna", [keyed("1", "a")]);
    rig.run();
    assert_eq!(keys_in_the_ledger(&rig), 1);
    rig.advance_ms(10);
    let message = transient("k", "b").through("e").head("x-deduplication-header=1");
    rig.publish("anna", [message]);
    rig.run();
    assert_eq!(keys_in_the_ledger(&rig), 0);
}

#[test]
fn a_key_is_forgotten_when_its_time_is_over() {
    let mut rig = with_exchange(direct(10, &[("x-cache-ttl", Value::Int(100))]));
    let own = |body: &str| {
        durable("k", body).through("e").head("x-deduplication-header=own;x-cache-ttl=300")
    };
    rig.publish("anna", [keyed("1", "a"), own("b")]);
    rig.run();
    rig.advance_ms(99);
    rig.publish("anna", [keyed("1", "early"), own("early")]);
    rig.run();
    rig.crash(); // which does not begin a new time
    rig.open("anna");
    rig.advance_ms(1);
    rig.publish("anna", [keyed("1", "c"), own("early, too")]);
    rig.run();
    rig.advance_ms(200);
    rig.publish("anna", [own("d")]);
    rig.run();
    assert_eq!(rig.drain("q"), ["a", "b", "c", "d"]);
    assert_eq!(keys_in_the_ledger(&rig), 1, "the other's time is over");
}

#[test]
fn where_a_window_is_full_the_first_key_is_forgotten_here_and_in_the_ledger() {
    let mut rig = with_exchange(direct(3, &[]));
    for id in ["1", "2", "3", "4", "5", "6", "7"] {
        rig.publish("anna", [keyed(id, id)]);
        rig.run();
        assert!(keys_in_the_ledger(&rig) <= 3);
    }
    rig.publish("anna", ["5", "6", "7"].map(|id| keyed(id, "again")));
    rig.crash();
    rig.open("anna");
    rig.publish("anna", ["5", "6", "7"].map(|id| keyed(id, "again")));
    rig.publish("anna", [keyed("4", "4")]);
    rig.publish("anna", [keyed("5", "5")]);
    rig.run();
    assert_eq!(rig.drain("q"), ["1", "2", "3", "4", "5", "6", "7", "4", "5"]);
}

#[test]
fn what_was_refused_may_come_again() {
    let mut rig = with_exchange(direct(10, &[]));
    let mut def = once("small", 10);
    def.options.length_max = Some(1);
    def.options.overflow = Overflow::RejectPublish;
    rig.declare("anna", def);
    rig.bind("anna", "e", "small", "small");
    rig.run();
    rig.heard("anna");
    let through = |id: &str| {
        let head = format!("x-deduplication-header={id}");
        durable("small", id).through("e").head(head)
    };
    rig.publish("anna", [through("1")]);
    let full = rig.publish("anna", [through("2"), keyed_to("small", "3", "3")]);
    let lost = rig.publish(
        "anna",
        [durable("none", "x").through("e").head("x-deduplication-header=4").mandatory()],
    );
    rig.run();
    assert_eq!(
        rig.heard("anna")[1..],
        [format!("done {full} save 0 Full, 1 Full"), format!("done {lost} save 0 Unroutable")]
    );
    assert_eq!(rig.drain("small"), ["1"]);
    rig.publish("anna", [through("2")]);
    rig.run();
    assert_eq!(rig.drain("small"), ["2"]);
    rig.publish("anna", [keyed_to("small", "3", "3"), keyed("4", "4")]);
    rig.run();
    assert_eq!((rig.drain("small"), rig.drain("q")), (vec!["3".into()], vec!["4".into()]));
}

#[test]
fn a_queue_takes_a_message_once_however_it_comes_there() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", once("one", 10));
    rig.declare("anna", queue("all"));
    for name in ["one", "all"] {
        rig.bind("anna", "amq.fanout", "", name);
    }
    rig.run();
    rig.heard("anna");
    let fanned = |id: &str| keyed_to("", id, id).through("amq.fanout");
    let published = rig.publish("anna", [fanned("1"), keyed_to("one", "1", "x"), fanned("2")]);
    rig.publish("anna", [keyed_to("one", "2", "y").mandatory()]);
    rig.run();
    assert_eq!(rig.heard("anna")[0], done(published));
    assert_eq!(rig.dispatcher.counters().deduplicated, 2);
    rig.crash();
    rig.open("anna");
    rig.publish("anna", [fanned("2")]);
    rig.run();
    assert_eq!(
        (rig.drain("one"), rig.drain("all")),
        (vec!["1".into(), "2".into()], vec!["1".into(), "2".into(), "2".into()])
    );
}

#[test]
fn a_window_goes_with_its_exchange_or_queue() {
    let mut rig = with_exchange(direct(10, &[]));
    rig.declare("anna", once("own", 10));
    rig.publish("anna", [keyed("1", "a"), keyed_to("own", "2", "b")]);
    rig.run();
    assert_eq!(rig.ledger.windows().len(), 2);
    rig.delete("anna", "own");
    let change = TopologyChange::DeleteExchange { name: "e".into(), if_unused: false };
    rig.topology("anna", change);
    rig.run();
    assert!(rig.ledger.windows().is_empty());
    rig.declare_exchange("anna", direct(10, &[]));
    rig.declare("anna", once("own", 10));
    rig.bind("anna", "e", "k", "q");
    rig.publish("anna", [keyed("1", "c"), keyed_to("own", "2", "d")]);
    rig.run();
    assert_eq!(
        (rig.drain("q"), rig.drain("own")),
        (vec!["a".into(), "c".into()], vec!["d".into()])
    );
}

#[test]
fn what_is_published_in_a_transaction_is_compared_when_it_is_committed() {
    let mut rig = with_exchange(direct(10, &[]));
    for (tx, body) in [(1, "a"), (2, "b")] {
        rig.begin("anna", tx);
        rig.publish_in("anna", tx, [keyed("1", body), keyed(body, body)]);
    }
    rig.commit_tx("anna", 2);
    rig.commit_tx("anna", 1);
    rig.run();
    assert_eq!(rig.drain("q"), ["b", "b", "a"]);
}

#[test]
fn an_exchange_of_the_deduplicating_kind_sends_everywhere_once() {
    let kind = ExchangeKind::Deduplication;
    let arguments = table(&[("x-cache-size", Value::String("5".into()))]);
    let mut rig = with_exchange(ExchangeDef { arguments, ..exchange("e", kind) });
    rig.publish("anna", [keyed("1", "a"), durable("any", "b").through("e"), keyed("1", "c")]);
    rig.run();
    assert_eq!(rig.drain("q"), ["a", "b"]);
    rig.open("anna");
    let token = rig.declare_exchange("anna", exchange("unbounded", kind));
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("refused {token}: precondition")]);
}

#[test]
fn senseless_arguments_are_refused() {
    let mut rig = Rig::new();
    rig.open("anna");
    let refused = [
        rig.declare_exchange("anna", direct(0, &[])),
        rig.declare_exchange("anna", direct(10_000_000, &[])),
        rig.declare("anna", once("q", -1)),
    ];
    rig.run();
    assert_eq!(rig.heard("anna"), refused.map(|token| format!("refused {token}: precondition")));
    assert!(rig.find_status("q").is_none());
}
