//! What the broker tells of itself.

use isthmus_model::{
    BindingDef, Destination, ExchangeKind, Lifetime, QueueDef, Table, TopologyChange, Value,
};

use super::rig::*;

/// A rig with a durable queue `q` and a session.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.run();
    rig.heard("anna");
    rig
}

fn announce(rig: &mut Rig, messages: &[(&str, &str)]) {
    let own = |(key, body): &(&str, &str)| transient(key, *body).through(OWN_EXCHANGE).retained();
    let batch = batch(messages.iter().map(own));
    rig.dispatcher.announce(&rig.ledger, &batch);
    rig.run();
}

#[test]
fn it_goes_to_who_is_bound_and_never_through_the_log() {
    let mut rig = rig();
    rig.bind("anna", OWN_EXCHANGE, "$SYS.#", "q");
    rig.run();
    let entries = rig.entries();
    announce(&mut rig, &[("$SYS.a", "1"), ("$SYS.b", "2"), ("c", "3")]);
    assert_eq!(rig.drain("q"), ["1", "2"]);
    // What is the same as before is no news.
    announce(&mut rig, &[("$SYS.a", "1"), ("$SYS.b", "4")]);
    assert_eq!(rig.drain("q"), ["4"]);
    assert_eq!(rig.entries(), entries);
    assert_eq!(rig.dispatcher.kept().size().messages, 0, "none of it is a client's");
}

#[test]
fn the_latest_is_recalled_in_every_virtual_host() {
    let mut rig = rig();
    rig.dispatcher.declare_vhost("other");
    rig.run();
    rig.open_in("bert", "other");
    rig.declare("bert", QueueDef { lifetime: Lifetime::Volatile, ..queue("p") });
    announce(&mut rig, &[("$SYS.a", "1"), ("$SYS.b", "2")]);
    announce(&mut rig, &[("$SYS.a", "3")]);
    for (name, queue) in [("anna", "q"), ("bert", "p")] {
        rig.recall(name, OWN_EXCHANGE, "$SYS.#", queue);
        rig.run();
        rig.heard(name);
        rig.attach(name, taking(1, queue));
        rig.run();
        assert_eq!(bodies(&rig.got(name)), ["3", "2"], "{name}");
    }
}

#[test]
fn what_is_sent_expires_and_what_is_kept_does_not() {
    let mut rig = rig();
    rig.bind("anna", OWN_EXCHANGE, "#", "q");
    let own = transient("$SYS.a", "1").through(OWN_EXCHANGE).retained().ttl_ms(60_000);
    rig.dispatcher.announce(&rig.ledger, &batch([own]));
    rig.run();
    assert_eq!(rig.counts("q"), (1, 0));
    rig.advance_ms(60_001);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 0));
    rig.recall("anna", OWN_EXCHANGE, "#", "q");
    rig.run();
    assert_eq!(rig.drain("q"), ["1"]);
}

#[test]
fn a_new_term_has_the_exchange_and_nothing_in_it() {
    let mut rig = rig();
    rig.bind("anna", OWN_EXCHANGE, "#", "q");
    announce(&mut rig, &[("$SYS.a", "1")]);
    rig.crash();
    rig.open("anna");
    rig.recall("anna", OWN_EXCHANGE, "#", "q");
    rig.run();
    assert_eq!(rig.drain("q"), [""; 0]);
    // It is all news again, and the binding was not for ever.
    announce(&mut rig, &[("$SYS.a", "1")]);
    assert_eq!(rig.drain("q"), [""; 0]);
    rig.recall("anna", OWN_EXCHANGE, "#", "q");
    rig.run();
    assert_eq!(rig.drain("q"), ["1"]);
}

#[test]
fn nobody_else_sends_through_it_nor_deletes_it() {
    let mut rig = rig();
    rig.bind("anna", OWN_EXCHANGE, "#", "q");
    rig.run();
    rig.heard("anna");
    let delete = TopologyChange::DeleteExchange { name: OWN_EXCHANGE.into(), if_unused: false };
    let into = BindingDef {
        source: "amq.topic".into(),
        destination: Destination::Exchange(OWN_EXCHANGE.into()),
        routing_key: "#".into(),
        arguments: Table::default(),
    };
    for change in [delete, TopologyChange::Bind(into)] {
        rig.topology("anna", change);
        rig.run();
        let heard = rig.heard("anna");
        assert!(heard.len() == 1 && heard[0].contains("refused"), "{heard:?}");
    }
    // By publishing, as an alternate exchange, as a dead letter.
    rig.publish("anna", [transient("$SYS.a", "published").through(OWN_EXCHANGE)]);
    let alternate = table(&[("alternate-exchange", Value::String(OWN_EXCHANGE.into()))]);
    let def = exchange("t", ExchangeKind::Topic);
    rig.declare_exchange("anna", isthmus_model::ExchangeDef { arguments: alternate, ..def });
    rig.publish("anna", [transient("$SYS.a", "alternate").through("t")]);
    rig.declare(
        "anna",
        queue_with("d", |options| {
            options.dead_letter_exchange = Some(OWN_EXCHANGE.into());
            options.dead_letter_routing_key = Some("$SYS.a".into());
            options.message_ttl_ms = Some(1);
        }),
    );
    rig.publish("anna", [durable("d", "dead")]);
    rig.run();
    rig.advance_ms(10);
    rig.run();
    assert_eq!(rig.counts("d"), (0, 0));
    assert_eq!(rig.drain("q"), [""; 0]);
}
