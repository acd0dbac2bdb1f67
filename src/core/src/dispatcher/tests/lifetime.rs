//! What goes away by itself, or takes others with it.

use isthmus_model::{
    Destination, ExchangeDef, ExchangeKind, Lifetime, Outcome, QueueDef, TopologyChange,
};

use super::rig::*;

#[test]
fn an_exclusive_queue_is_its_sessions_alone_and_goes_with_it() {
    let mut rig = Rig::new();
    let anna = rig.open("anna");
    rig.open("bert");
    let def = QueueDef { lifetime: Lifetime::Exclusive(anna), ..queue("x") };
    rig.declare("anna", def);
    rig.publish("anna", [durable("x", "a")]);
    rig.run();
    let locked = [
        rig.look_up("bert", "x"),
        rig.attach("bert", consuming(1, "x")),
        rig.purge("bert", "x"),
        rig.delete("bert", "x"),
        rig.declare("bert", queue("x")),
        rig.bind("bert", "amq.fanout", "", "x"),
    ];
    rig.publish("bert", [durable("x", "b")]); // anybody may send to it
    rig.run();
    let refused = locked.map(|token| format!("refused {token}: locked"));
    assert_eq!(rig.heard("bert")[..6], refused);
    assert_eq!(rig.counts("x"), (2, 0));
    rig.close("anna");
    rig.run();
    assert!(rig.find_status("x").is_none());
    let declared = rig.declare("bert", queue("x"));
    rig.run();
    assert!(rig.heard("bert").contains(&format!("done {declared}: x has 0 ready, 0 consumers")));
}

#[test]
fn nothing_of_queues_that_no_restart_survives_is_in_the_log() {
    let mut rig = Rig::new();
    let anna = rig.open("anna");
    rig.run();
    let entries = rig.entries();
    rig.declare("anna", QueueDef { lifetime: Lifetime::Exclusive(anna), ..queue("x") });
    rig.declare("anna", volatile_queue("v"));
    rig.bind("anna", "amq.topic", "#", "x");
    rig.bind("anna", "amq.topic", "#", "v");
    rig.attach("anna", consuming(1, "x"));
    rig.publish("anna", [durable("any", "a").through("amq.topic")]);
    rig.run();
    let got = rig.got("anna");
    rig.settle("anna", Outcome::Requeue, &got);
    rig.purge("anna", "v");
    rig.close("anna");
    rig.run();
    assert_eq!(rig.entries(), entries);
}

#[test]
fn an_auto_delete_queue_waits_for_its_first_consumer_and_goes_with_its_last() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("bert");
    rig.declare("anna", QueueDef { auto_delete: true, ..queue("q") });
    rig.publish("anna", [durable("q", "a")]);
    rig.run();
    assert_eq!(rig.counts("q"), (1, 0));
    rig.attach("anna", consuming(1, "q"));
    rig.attach("bert", consuming(1, "q"));
    rig.run();
    rig.detach("anna", 1);
    rig.run();
    assert!(rig.find_status("q").is_some());
    rig.close("bert");
    rig.run();
    assert!(rig.find_status("q").is_none());
    rig.crash();
    assert!(rig.find_status("q").is_none());
}

#[test]
fn a_look_neither_begins_nor_ends_the_use_of_an_auto_delete_queue() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("bert");
    rig.declare("anna", QueueDef { auto_delete: true, ..queue("q") });
    rig.publish("anna", numbered("q", 3));
    rig.run();
    rig.attach("anna", getting(1, "q"));
    rig.run();
    assert_eq!(rig.find_status("q").map(|q| q.consumers), Some(0), "nobody counts it");
    assert_eq!(rig.dispatcher.consumer_count(), 0);
    rig.detach("anna", 1);
    rig.run();
    rig.attach("bert", getting(1, "q"));
    rig.run();
    rig.close("bert");
    rig.run();
    assert_eq!(rig.counts("q"), (2, 1), "what bert looked at is back, and the queue is there");

    rig.attach("anna", getting(2, "q"));
    rig.attach("anna", prefetching(3, "q", 1));
    rig.run();
    rig.detach("anna", 3);
    rig.run();
    assert!(rig.find_status("q").is_none(), "a look does not keep it either");
    assert!(rig.heard("anna").contains(&"consumer 2: QueueDeleted".to_owned()));
}

#[test]
fn auto_delete_exchanges_go_with_their_last_binding_one_after_the_other() {
    let mut rig = Rig::new();
    rig.open("anna");
    let fleeting = |name| ExchangeDef { auto_delete: true, ..exchange(name, ExchangeKind::Fanout) };
    rig.declare_exchange("anna", fleeting("outer"));
    rig.declare_exchange("anna", fleeting("inner"));
    rig.declare("anna", queue("q"));
    rig.bind("anna", "inner", "", "q");
    let mut def = binding("outer", "", "");
    def.destination = Destination::Exchange("inner".into());
    rig.topology("anna", TopologyChange::Bind(def));
    rig.run();
    rig.delete("anna", "q");
    rig.run();
    rig.crash();
    let topology = rig.dispatcher.topology();
    assert!(
        topology.exchange(VHOST, "inner").is_err() && topology.exchange(VHOST, "outer").is_err()
    );
}

#[test]
fn a_volatile_binding_keeps_a_durable_exchange_and_takes_it_along() {
    let mut rig = Rig::new();
    rig.open("anna");
    let fleeting = ExchangeDef { auto_delete: true, ..exchange("e", ExchangeKind::Direct) };
    rig.declare_exchange("anna", fleeting);
    rig.declare("anna", queue("q"));
    rig.declare("anna", volatile_queue("v"));
    rig.bind("anna", "e", "", "q");
    rig.bind("anna", "e", "", "v");
    rig.delete("anna", "q");
    rig.run();
    assert!(rig.dispatcher.topology().exchange(VHOST, "e").is_ok());
    rig.delete("anna", "v");
    rig.run();
    rig.crash();
    assert!(rig.dispatcher.topology().exchange(VHOST, "e").is_err());
}

#[test]
fn deleting_a_queue_ends_its_consumers_and_what_was_on_its_way_into_it() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.open("bert");
    rig.declare("anna", queue("q"));
    rig.run();
    rig.attach("bert", prefetching(1, "q", 1));
    rig.publish("anna", numbered("q", 3));
    rig.run();
    let got = rig.got("bert");
    rig.heard("anna");
    rig.publish("bert", [durable("q", "4")]);
    rig.settle("bert", Outcome::Requeue, &got);
    let deleted = rig.delete("anna", "q");
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {deleted}: 2 messages")]);
    assert!(rig.heard("bert").contains(&"consumer 1: QueueDeleted".into()));
    assert_eq!(rig.dispatcher.consumer_count(), 0);
    rig.crash();
    assert!(rig.dispatcher.queue_statuses().is_empty());
}

#[test]
fn a_namesake_of_a_deleted_queue_has_nothing_of_it() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.bind("anna", "amq.direct", "k", "q");
    rig.attach("anna", consuming(1, "q"));
    rig.publish("anna", numbered("q", 1));
    rig.run();
    let got = rig.got("anna");
    rig.delete("anna", "q");
    rig.declare("anna", queue("q"));
    rig.publish("anna", [durable("k", "lost").through("amq.direct"), durable("q", "new")]);
    rig.settle("anna", Outcome::Accept, &got);
    rig.run();
    assert_eq!(rig.drain("q"), ["new"]);
}

#[test]
fn deleting_on_condition() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.publish("anna", numbered("q", 1));
    rig.attach("anna", prefetching(1, "q", 0));
    rig.run();
    rig.heard("anna");
    let mut delete = |if_unused, if_empty| {
        rig.topology("anna", TopologyChange::DeleteQueue { name: "q".into(), if_unused, if_empty })
    };
    let (used, filled) = (delete(true, false), delete(false, true));
    rig.detach("anna", 1);
    let gone = rig.topology(
        "anna",
        TopologyChange::DeleteQueue { name: "q".into(), if_unused: true, if_empty: false },
    );
    let again = rig.delete("anna", "q");
    rig.run();
    let told = rig.heard("anna");
    assert_eq!(
        told[..2],
        [format!("refused {used}: precondition"), format!("refused {filled}: precondition")]
    );
    assert_eq!(
        told[3..],
        [format!("done {gone}: 1 messages"), format!("done {again}: 0 messages")],
        "what is not there counts as deleted"
    );
}

#[test]
fn names_that_the_broker_makes_are_all_different() {
    let mut rig = Rig::new();
    rig.open("anna");
    for _ in 0..20 {
        rig.declare("anna", queue(""));
    }
    rig.run();
    rig.crash();
    rig.open("anna");
    for _ in 0..20 {
        rig.declare("anna", queue(""));
    }
    rig.run();
    let names: std::collections::BTreeSet<_> =
        rig.dispatcher.queue_statuses().into_iter().map(|s| s.name).collect();
    assert_eq!(names.len(), 40);
    assert!(names.iter().all(|n| n.starts_with("amq.gen-")));
}

#[test]
fn a_queue_that_nobody_uses_expires() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue_with("q", |o| o.expires_ms = Some(100)));
    rig.publish("anna", [durable("q", "is not a use")]);
    rig.run();
    rig.advance_ms(60);
    rig.attach("anna", consuming(1, "q"));
    rig.run();
    rig.advance_ms(500);
    rig.run();
    rig.detach("anna", 1);
    rig.run();
    rig.advance_ms(99);
    rig.run();
    assert!(rig.find_status("q").is_some(), "its consumer has gone 99 ms ago");
    rig.advance_ms(1);
    rig.run();
    assert!(rig.find_status("q").is_none());
    rig.crash();
    assert!(rig.find_status("q").is_none());
}

#[test]
fn a_session_forgets_the_queues_that_it_outlives() {
    let mut rig = Rig::new();
    let anna = rig.open("anna");
    for _ in 0..500 {
        rig.declare("anna", volatile_queue("v"));
        rig.attach("anna", consuming(1, "v"));
        rig.publish("anna", [transient("v", "a")]);
        rig.dispatch();
        rig.delete("anna", "v");
    }
    assert!(rig.dispatcher.sessions[&anna].checked_out_from.len() < 200);
}
