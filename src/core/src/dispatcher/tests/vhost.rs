//! Virtual hosts: how many queues they may have, and their end.

use isthmus_model::{
    CommandError, ExchangeKind, Lifetime, Outcome, QueueDef, SettingKind, TopologyChange, Value,
};

use super::rig::*;
use crate::dispatcher::Output;

/// Why the last request of a session was refused.
fn refusal(rig: &mut Rig, name: &str) -> CommandError {
    match rig.outputs(name).pop() {
        Some(Output::Done { result: Err(error), .. }) => error,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_virtual_host_has_no_more_queues_than_it_may_have() {
    let mut rig = Rig::new();
    let anna = rig.open("anna");
    let limit = |max| Some(table(&[("max-queues", Value::Int(max))]));
    rig.declare("anna", queue("one"));
    rig.set("anna", SettingKind::VhostLimit, "", limit(2));
    rig.run();
    rig.declare("anna", QueueDef { lifetime: Lifetime::Exclusive(anna), ..queue("two") });
    rig.run();
    rig.declare("anna", queue("three"));
    rig.run();
    let text = "cannot declare queue 'three': queue limit in vhost '/' (2) is reached";
    assert_eq!(refusal(&mut rig, "anna"), CommandError::Limit(text.into()));
    rig.declare("anna", queue(""));
    rig.run();
    assert!(matches!(refusal(&mut rig, "anna"), CommandError::Limit(_)));
    let known = rig.declare("anna", queue("one"));
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {known}: one has 0 ready, 0 consumers")]);

    rig.crash();
    rig.open("anna");
    rig.declare("anna", queue("three"));
    rig.declare("anna", queue("four"));
    rig.run();
    assert!(rig.find_status("three").is_some() && rig.find_status("four").is_none());
    rig.set("anna", SettingKind::VhostLimit, "", limit(-1));
    rig.run();
    rig.declare("anna", queue("four"));
    rig.run();
    assert!(rig.find_status("four").is_some());
    let senseless = table(&[("max-queues", Value::String("many".into()))]);
    rig.set("anna", SettingKind::VhostLimit, "", Some(senseless));
    rig.run();
    assert!(matches!(refusal(&mut rig, "anna"), CommandError::Invalid(_)));
}

/// A virtual host `v` with a durable, a volatile and an exclusive queue, all in use by `bert`.
fn with_vhost() -> Rig {
    let mut rig = Rig::new();
    rig.dispatcher.declare_vhost("v");
    rig.open("anna");
    let bert = rig.open_in("bert", "v");
    rig.declare("anna", queue("q"));
    rig.publish("anna", [durable("q", "stays")]);
    rig.declare("bert", queue("q"));
    rig.declare("bert", volatile_queue("volatile"));
    rig.declare("bert", QueueDef { lifetime: Lifetime::Exclusive(bert), ..queue("own") });
    rig.declare_exchange("bert", exchange("e", ExchangeKind::Fanout));
    for (consumer, name) in [(1, "q"), (2, "volatile"), (3, "own")] {
        rig.bind("bert", "e", "", name);
        rig.attach("bert", consuming(consumer, name));
    }
    rig.publish("bert", [durable("", "goes").through("e")]);
    rig.run();
    rig
}

#[test]
fn a_virtual_host_goes_with_all_that_is_in_it() {
    let mut rig = with_vhost();
    let got = rig.got("bert");
    assert_eq!(got.len(), 3);
    rig.begin("bert", 1);
    rig.publish_in("bert", 1, [durable("q", "in a transaction")]);
    rig.settle_in("bert", Some(1), Outcome::Accept, &got);
    rig.publish("bert", [durable("q", "on its way")]);
    let waits = rig.look_up("bert", "q"); // waits for that
    let deleted = rig.delete_vhost("anna", "v");
    rig.run();
    assert!(rig.heard("anna").contains(&done(deleted)));
    let heard = rig.heard("bert");
    for news in ["consumer 1: QueueDeleted", "consumer 2: QueueDeleted", "virtual host deleted"] {
        assert!(heard.iter().any(|h| h == news), "{heard:?}");
    }
    assert!(heard.contains(&format!("refused {waits}: not found")), "{heard:?}");
    assert!(!rig.dispatcher.has_vhost("v") && rig.dispatcher.has_vhost(VHOST));
    assert_eq!(rig.dispatcher.queue_statuses().len(), 1);
    assert_eq!(rig.dispatcher.consumer_count(), 0);
    rig.settle("bert", Outcome::Requeue, &got);
    rig.commit_tx("bert", 1);
    rig.run();
    rig.close("bert");
    rig.run();
    rig.crash();
    assert!(!rig.dispatcher.has_vhost("v"));
    assert_eq!(rig.drain("q"), ["stays"]);
}

#[test]
fn who_was_in_a_virtual_host_that_is_gone_is_not_in_the_next_of_its_name() {
    let mut rig = with_vhost();
    rig.heard("bert");
    rig.begin("bert", 1);
    rig.publish_in("bert", 1, [durable("q", "a")]);
    rig.delete_vhost("anna", "v");
    rig.dispatcher.declare_vhost("v");
    rig.open_in("carl", "v");
    rig.declare("carl", queue("q"));
    rig.run();
    rig.heard("bert");
    let refused = [rig.declare("bert", queue("x")), rig.attach("bert", consuming(7, "q"))];
    let published = rig.publish("bert", [durable("q", "b")]);
    let committed = rig.commit_tx("bert", 1);
    rig.delete_vhost("anna", "nothing of it");
    rig.run();
    assert_eq!(
        rig.heard("bert"),
        [
            format!("refused {}: not found", refused[0]),
            format!("refused {}: not found", refused[1]),
            format!("done {published} save 0 NoExchange"),
            format!("done {committed} save 0 NoExchange"),
        ]
    );
    rig.close("bert");
    rig.publish("carl", [durable("q", "c")]);
    rig.attach("carl", consuming(1, "q"));
    rig.run();
    assert_eq!(bodies(&rig.got("carl")), ["c"]);
    rig.delete_vhost("anna", "v");
    rig.run();
    assert!(rig.heard("carl").contains(&"virtual host deleted".to_owned()));
}

#[test]
fn values_that_the_log_could_not_be_read_back_with_are_refused() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.run();
    rig.heard("anna");
    let nested = |levels: usize| {
        let value = (0..levels).fold(Value::Null, |value, _| Value::List(vec![value]));
        table(&[("deep", value)])
    };
    let deep = || nested(257);
    let mut bound = binding("amq.topic", "k", "q");
    bound.arguments = deep();
    let refused = [
        rig.declare("anna", QueueDef { arguments: deep(), ..queue("x") }),
        rig.declare_exchange(
            "anna",
            isthmus_model::ExchangeDef { arguments: deep(), ..exchange("x", ExchangeKind::Direct) },
        ),
        rig.topology("anna", TopologyChange::Bind(bound.clone())),
        rig.topology("anna", TopologyChange::Unbind(bound.clone())),
        rig.set("anna", SettingKind::TopicPermission, "bert", Some(deep())),
    ];
    rig.run();
    assert_eq!(rig.heard("anna"), refused.map(|token| format!("refused {token}: invalid")));
    bound.arguments = nested(256);
    let bound = rig.topology("anna", TopologyChange::Bind(bound));
    rig.run();
    assert_eq!(rig.heard("anna"), [done(bound)]);
    rig.crash();
    assert_eq!(rig.dispatcher.topology().bindings(VHOST).unwrap().count(), 1);
}

#[test]
fn names_are_made_behind_the_prefix_that_was_asked_for_and_cannot_be_guessed() {
    let mut rig = Rig::new();
    let anna = rig.open("anna");
    rig.open("bert");
    let mut names = std::collections::BTreeSet::new();
    let own = QueueDef { lifetime: Lifetime::Exclusive(anna), ..queue("") };
    for round in 0..3 {
        rig.declare("anna", own.clone());
        let prefix = "stomp-subscription-".into();
        rig.topology("anna", TopologyChange::MakeQueue { prefix, def: own.clone() });
        let prefix = isthmus_model::REPLY_QUEUE_PREFIX.into();
        rig.topology("anna", TopologyChange::MakeQueue { prefix, def: own.clone() });
        rig.run();
        for status in rig.dispatcher.queue_statuses() {
            names.insert(status.name.to_string());
        }
        assert_eq!(names.len(), 3 * (round + 1));
    }
    for prefix in ["amq.gen-", "stomp-subscription-", "amq.rabbitmq.reply-to."] {
        let of_it: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(prefix)).collect();
        assert_eq!(of_it.len(), 3);
        assert!(of_it.iter().all(|name| name.len() == 32), "128 bits: {of_it:?}");
    }
    rig.heard("bert");
    let replies = names.iter().find(|name| name.starts_with("amq.rabbitmq")).unwrap();
    let generated = names.iter().find(|name| name.starts_with("amq.gen-")).unwrap();
    let looked = rig.look_up("bert", replies);
    let refused = [
        rig.look_up("bert", generated),
        rig.attach("bert", consuming(1, replies)),
        rig.delete("bert", replies),
    ];
    rig.close("anna");
    let gone = rig.look_up("bert", replies);
    rig.run();
    let mut expected = vec![format!("done {looked}: {replies} has 0 ready, 0 consumers")];
    expected.extend(refused.map(|token| format!("refused {token}: locked")));
    expected.push(format!("refused {gone}: not found"));
    assert_eq!(rig.heard("bert"), expected);
}
