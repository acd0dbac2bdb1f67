//! Where messages go, and what is said of those that go nowhere.

use isthmus_model::{Destination, ExchangeDef, ExchangeKind, Overflow, TopologyChange};

use super::rig::*;
use crate::Fact;

#[test]
fn mandatory_messages_that_no_queue_takes_are_named_by_their_records() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.run();
    rig.heard("anna");
    let published = rig.publish(
        "anna",
        [
            durable("q", "a").mandatory(),
            durable("nowhere", "b").mandatory(),
            durable("nowhere", "c").mandatory(),
            durable("nowhere", "d"), // dropped without a word
            durable("q", "e").through("no such exchange"),
            transient("elsewhere", "f").mandatory(),
            transient("q", "g").mandatory(),
        ],
    );
    rig.run();
    let exceptions = "1 Unroutable, 2 Unroutable, 4 NoExchange, 5 Unroutable";
    assert_eq!(rig.heard("anna"), [format!("done {published} save {exceptions}")]);
    assert_eq!(rig.drain("q"), ["a", "g"]);
    let counters = rig.dispatcher.counters();
    assert_eq!((counters.published, counters.unroutable), (7, 5));
}

#[test]
fn clients_may_not_publish_to_an_internal_exchange() {
    let mut rig = Rig::new();
    rig.open("anna");
    let internal = ExchangeDef { internal: true, ..exchange("i", ExchangeKind::Fanout) };
    rig.declare_exchange("anna", internal);
    rig.run();
    rig.heard("anna");
    let published = rig.publish("anna", [durable("", "a").through("i")]);
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {published} save 0 InternalExchange")]);
}

#[test]
fn a_message_in_many_queues_is_written_once() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare_exchange("anna", exchange("e", ExchangeKind::Fanout));
    for name in ["one", "two", "three"] {
        rig.declare("anna", queue(name));
        rig.bind("anna", "e", "", name);
    }
    rig.declare("anna", volatile_queue("four"));
    rig.bind("anna", "e", "", "four");
    rig.run();
    let before = rig.facts().len();
    rig.publish("anna", [durable("", "a").through("e"), durable("", "b").through("e")]);
    rig.run();
    let [Fact::Enqueue { batch, placements, .. }] = &rig.facts()[before..] else {
        panic!("one fact says it all")
    };
    assert_eq!((batch.records.len(), placements.len()), (2, 3));
    for name in ["one", "two", "three", "four"] {
        assert_eq!(rig.drain(name), ["a", "b"]);
    }
}

#[test]
fn a_message_for_several_queues_is_refused_if_one_of_them_refuses() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare_exchange("anna", exchange("e", ExchangeKind::Fanout));
    let full = queue_with("full", |o| {
        o.length_max = Some(1);
        o.overflow = Overflow::RejectPublish;
    });
    for def in [full, queue("roomy")] {
        let name = def.name.clone();
        rig.declare("anna", def);
        rig.bind("anna", "e", "", &name);
    }
    rig.run();
    rig.heard("anna");
    let published =
        rig.publish("anna", [durable("", "a").through("e"), durable("", "b").through("e")]);
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {published} save 1 Full")]);
    assert_eq!((rig.drain("full"), rig.drain("roomy").len()), (vec!["a".into()], 2));
}

#[test]
fn exchanges_lead_to_exchanges() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.declare_exchange("anna", exchange("outer", ExchangeKind::Topic));
    rig.declare_exchange("anna", exchange("inner", ExchangeKind::Direct));
    rig.bind("anna", "inner", "a.b", "q");
    let mut def = binding("outer", "a.#", "");
    def.destination = Destination::Exchange("inner".into());
    rig.topology("anna", TopologyChange::Bind(def));
    let message = |key| durable(key, key).through("outer");
    rig.publish("anna", [message("a.b"), message("a.c"), message("b")]);
    rig.run();
    rig.crash();
    rig.open("anna");
    rig.publish("anna", [message("a.b")]);
    rig.run();
    assert_eq!(rig.drain("q"), ["a.b", "a.b"]);
}

#[test]
fn virtual_hosts_know_nothing_of_each_other() {
    let mut rig = Rig::new();
    rig.dispatcher.declare_vhost("other");
    rig.open("anna");
    rig.open_in("bert", "other");
    rig.declare("anna", queue("q"));
    rig.run();
    rig.heard("anna");
    let looked = rig.look_up("bert", "q");
    let published = rig.publish("bert", [durable("q", "lost").mandatory()]);
    rig.declare("bert", queue("q"));
    rig.publish("bert", [durable("q", "his")]);
    rig.publish("anna", [durable("q", "hers")]);
    rig.attach("anna", consuming(1, "q"));
    rig.run();
    assert_eq!(
        rig.heard("bert")[..2],
        [format!("refused {looked}: not found"), format!("done {published} save 0 Unroutable")]
    );
    assert_eq!(bodies(&rig.got("anna")), ["hers"]);
    rig.attach("bert", consuming(1, "q"));
    rig.run();
    assert_eq!(bodies(&rig.got("bert")), ["his"]);
}

#[test]
fn purging_a_queue_of_many_durable_messages_does_not_look_at_each_for_a_few_transient_ones() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", [transient("q", "first")]);
    rig.publish("anna", numbered("q", 1000));
    rig.publish("anna", [transient("q", "last")]);
    rig.run();
    let before = rig.facts().len();
    rig.purge("anna", "q");
    rig.run();
    assert_eq!(rig.facts().len(), before + 1, "one fact for all of them");
    assert_eq!(rig.counts("q"), (0, 0));
}
