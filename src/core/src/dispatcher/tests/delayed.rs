//! Exchanges that hold messages until they are due.

use isthmus_model::{
    BindingDef, Destination, ExchangeDef, ExchangeKind, Outcome, Overflow, SettingKind, Table,
    TopologyChange, Value,
};

use super::rig::*;
use crate::Fact;

const HOLDING: &str = "amq.delayed.later";

fn delaying(kind: ExchangeKind) -> ExchangeDef {
    ExchangeDef { delayed: true, ..exchange("later", kind) }
}

/// A durable message for the queue `q`, held for so many milliseconds.
fn held(body: &str, ms: i64) -> Message {
    durable("q", body).through("later").head(format!("x-delay={ms}"))
}

/// A direct exchange that delays, with the queue `q` bound to it.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare_exchange("anna", delaying(ExchangeKind::Direct));
    rig.declare("anna", queue("q"));
    rig.bind("anna", "later", "q", "q");
    rig.run();
    rig.heard("anna");
    rig
}

/// Lets time pass, in steps as small as the dispatcher asks for.
fn pass_ms(rig: &mut Rig, ms: u64) {
    let mut left = ms;
    while left > 0 {
        let step = rig.timeout_ms().unwrap_or(left).clamp(1, left);
        rig.advance_ms(step);
        rig.run();
        left -= step;
    }
}

#[test]
fn messages_come_when_they_are_due_and_ties_in_the_order_of_publishing() {
    let mut rig = rig();
    rig.publish("anna", [held("c", 300), held("a", 100), held("b1", 200), durable("q", "now")]);
    rig.publish("anna", [held("b2", 200), held("b3", 200)]);
    rig.run();
    assert_eq!(rig.timeout_ms(), Some(100), "armed for the earliest alone");
    assert_eq!(rig.drain("q"), ["now"]);
    pass_ms(&mut rig, 99);
    assert_eq!(rig.counts("q"), (0, 0));
    pass_ms(&mut rig, 1);
    assert_eq!(rig.drain("q"), ["a"]);
    pass_ms(&mut rig, 200);
    assert_eq!(rig.drain("q"), ["b1", "b2", "b3", "c"]);
    assert_eq!(rig.timeout_ms(), None);
    rig.crash();
    assert_eq!(rig.counts("q"), (0, 0));
}

#[test]
fn no_delay_is_none() {
    let mut rig = rig();
    let through = |body: &str| durable("q", body).through("later");
    rig.publish(
        "anna",
        [
            through("none"),
            held("zero", 0),
            held("negative", -100),
            held("too long", 1 << 32),
            through("no number").head("x-delay=soon"),
        ],
    );
    rig.run();
    assert_eq!(rig.drain("q"), ["none", "zero", "negative", "too long", "no number"]);
}

#[test]
fn a_restart_leaves_what_remains_of_the_delay_and_takes_what_is_transient() {
    let mut rig = rig();
    let transient = transient("q", "lost").through("later").head("x-delay=500");
    rig.publish("anna", [held("b", 1000), held("a", 500), transient]);
    rig.run();
    rig.advance_ms(400);
    rig.crash();
    rig.run();
    assert_eq!(rig.timeout_ms(), Some(100));
    pass_ms(&mut rig, 100);
    assert_eq!(rig.drain("q"), ["a"]);
    pass_ms(&mut rig, 499);
    assert_eq!(rig.counts("q"), (0, 0));
    // Due while nobody was there.
    rig.advance_ms(50_000);
    rig.crash();
    rig.run();
    assert_eq!(rig.drain("q"), ["b"]);
    rig.crash();
    rig.run();
    assert_eq!(rig.counts("q"), (0, 0), "it came once");
}

#[test]
fn a_transient_message_comes_when_it_is_due_without_touching_the_log() {
    let mut rig = rig();
    let entries = rig.entries();
    rig.publish("anna", [transient("q", "a").through("later").head("x-delay=5")]);
    rig.run();
    pass_ms(&mut rig, 5);
    assert_eq!(rig.drain("q"), ["a"]);
    assert_eq!(rig.entries(), entries);
}

#[test]
fn the_confirm_waits_for_the_log_and_not_for_the_delay() {
    let mut rig = rig();
    let token = rig.publish("anna", [held("a", 1000).mandatory()]);
    rig.dispatch();
    assert!(rig.heard("anna").is_empty());
    rig.run();
    assert_eq!(rig.heard("anna"), [done(token)]);
}

#[test]
fn bindings_count_as_they_are_when_it_is_due() {
    let mut rig = rig();
    rig.declare("anna", queue("r"));
    rig.publish("anna", [held("a", 100)]);
    rig.run();
    rig.bind("anna", "later", "q", "r");
    rig.topology("anna", TopologyChange::Unbind(binding("later", "q", "q")));
    rig.run();
    pass_ms(&mut rig, 100);
    assert_eq!((rig.counts("q"), rig.drain("r")), ((0, 0), vec!["a".to_owned()]));
}

#[test]
fn what_nothing_takes_goes_to_the_alternate_or_is_dropped() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare_exchange("anna", delaying(ExchangeKind::Topic));
    let arguments = table(&[("alternate-exchange", Value::String("".into()))]);
    let other = ExchangeDef { name: "other".into(), arguments, ..delaying(ExchangeKind::Topic) };
    rig.declare_exchange("anna", other);
    rig.declare("anna", queue("q"));
    rig.publish("anna", [held("a", 100), held("b", 100).through("other")]);
    rig.run();
    pass_ms(&mut rig, 100);
    assert_eq!(rig.drain("q"), ["b"]);
    assert_eq!(rig.dispatcher.counters().unroutable, 1);
    rig.crash();
    rig.run();
    assert_eq!(rig.timeout_ms(), None, "nothing is held any more");
}

#[test]
fn a_held_message_is_routed_by_all_its_keys() {
    let mut rig = rig();
    rig.declare("anna", queue("r"));
    rig.bind("anna", "later", "extra", "r");
    rig.publish("anna", [durable("q", "a").through("later").head("x-delay=9;+extra")]);
    rig.run();
    pass_ms(&mut rig, 9);
    assert_eq!((rig.drain("q"), rig.drain("r")), (vec!["a".to_owned()], vec!["a".to_owned()]));
}

#[test]
fn a_message_is_held_where_bindings_lead_it_and_once_only() {
    let mut rig = rig();
    rig.declare_exchange("anna", exchange("front", ExchangeKind::Fanout));
    rig.declare("anna", queue("direct"));
    rig.bind("anna", "front", "", "direct");
    let onward = |source: &str, to: &str| {
        TopologyChange::Bind(BindingDef {
            source: source.into(),
            destination: Destination::Exchange(to.into()),
            routing_key: "q".into(),
            arguments: Table::default(),
        })
    };
    rig.topology("anna", onward("front", "later"));
    rig.declare_exchange(
        "anna",
        ExchangeDef { name: "second".into(), ..delaying(ExchangeKind::Fanout) },
    );
    rig.topology("anna", onward("later", "second"));
    rig.declare("anna", queue("end"));
    rig.bind("anna", "second", "", "end");
    rig.publish("anna", [held("a", 50).through("front")]);
    rig.run();
    assert_eq!(rig.drain("direct"), ["a"]);
    pass_ms(&mut rig, 50);
    assert_eq!((rig.counts("q"), rig.counts("end")), ((1, 0), (1, 0)));
}

#[test]
fn dead_letters_are_held_but_not_a_second_time() {
    let mut rig = rig();
    rig.declare(
        "anna",
        queue_with("source", |o| {
            o.dead_letter_exchange = Some("later".into());
            o.dead_letter_routing_key = Some("source".into());
        }),
    );
    rig.bind("anna", "later", "source", "source");
    rig.attach("anna", consuming(1, "source"));
    rig.publish("anna", [durable("source", "a").head("x-delay=100")]);
    rig.run();
    let got = rig.got("anna");
    rig.settle("anna", Outcome::Reject, &got);
    rig.run();
    assert!(rig.got("anna").is_empty());
    rig.crash();

    rig.open("anna");
    rig.attach("anna", consuming(1, "source"));
    rig.run();
    pass_ms(&mut rig, 100);
    let again = rig.got("anna");
    assert_eq!(bodies(&again), ["a"]);
    let annotations = again[0].annotations.as_ref().unwrap();
    assert!(annotations.delay_spent);
    assert_eq!((annotations.deaths.len(), annotations.exchange.as_deref()), (1, Some("later")));
    rig.settle("anna", Outcome::Reject, &again);
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["a"], "at once");
}

#[test]
fn its_time_to_live_begins_when_it_comes_into_a_queue() {
    let mut rig = rig();
    rig.publish("anna", [held("a", 100).ttl_ms(50)]);
    rig.run();
    pass_ms(&mut rig, 149);
    assert_eq!(rig.counts("q"), (1, 0));
    pass_ms(&mut rig, 1);
    assert_eq!(rig.counts("q"), (0, 0));
}

#[test]
fn a_full_queue_takes_none_and_a_deduplicating_one_takes_it_once() {
    let mut rig = rig();
    rig.declare(
        "anna",
        queue_with("full", |o| {
            o.length_max = Some(1);
            o.overflow = Overflow::RejectPublish;
        }),
    );
    rig.bind("anna", "later", "q", "full");
    rig.publish("anna", [held("a", 10), held("b", 10)]);
    rig.run();
    pass_ms(&mut rig, 10);
    assert_eq!(
        (rig.drain("full"), rig.drain("q")),
        (vec!["a".into()], vec!["a".into(), "b".into()])
    );

    let mut def = queue("once");
    def.arguments = table(&[("x-message-deduplication", Value::Bool(true))]);
    rig.declare("anna", def);
    rig.bind("anna", "later", "once", "once");
    let keyed = |body: &str| {
        durable("once", body).through("later").head("x-delay=10;x-deduplication-header=k")
    };
    rig.publish("anna", [keyed("a"), keyed("b")]);
    rig.run();
    pass_ms(&mut rig, 10);
    assert_eq!(rig.drain("once"), ["a"]);
}

#[test]
fn a_transaction_holds_messages_when_it_is_committed() {
    let mut rig = rig();
    rig.begin("anna", 1);
    rig.publish_in("anna", 1, [held("a", 100)]);
    rig.run();
    pass_ms(&mut rig, 100);
    assert_eq!(rig.timeout_ms(), None);
    rig.commit_tx("anna", 1);
    rig.run();
    pass_ms(&mut rig, 99);
    assert_eq!(rig.counts("q"), (0, 0));
    pass_ms(&mut rig, 1);
    assert_eq!(rig.drain("q"), ["a"]);
}

#[test]
fn nobody_sees_what_is_held() {
    let mut rig = rig();
    rig.publish("anna", [held("a", 100), durable(HOLDING, "intruder")]);
    rig.run();
    rig.heard("anna");
    assert!(rig.find_status(HOLDING).is_none());
    let listed = rig.dispatcher.topology().queues(VHOST).unwrap();
    assert_eq!(listed.iter().map(|q| &*q.def.name).collect::<Vec<_>>(), ["q"]);
    let asked = [
        rig.look_up("anna", HOLDING),
        rig.purge("anna", HOLDING),
        rig.bind("anna", "later", "q", HOLDING),
        rig.attach("anna", consuming(1, HOLDING)),
    ];
    let declared = rig.declare("anna", queue(HOLDING));
    let deleted = rig.delete("anna", HOLDING);
    rig.run();
    let heard = rig.heard("anna");
    for token in asked {
        assert!(heard.contains(&format!("refused {token}: not found")), "{heard:?}");
    }
    assert!(heard.contains(&format!("refused {declared}: not allowed")), "{heard:?}");
    assert!(heard.contains(&format!("done {deleted}: 0 messages")), "{heard:?}");
    pass_ms(&mut rig, 100);
    assert_eq!(rig.drain("q"), ["a"]);
}

#[test]
fn neither_policies_nor_the_limit_of_queues_mean_the_brokers_own() {
    let mut rig = rig();
    let definition = table(&[
        ("pattern", Value::String(".*".into())),
        ("apply-to", Value::String("queues".into())),
        (
            "definition",
            Value::Map(table(&[("message-ttl", Value::Int(1)), ("max-length", Value::Int(1))])),
        ),
    ]);
    let set = rig.set("anna", SettingKind::Policy, "all", Some(definition));
    let limit = table(&[("max-queues", Value::Int(2))]);
    rig.set("anna", SettingKind::VhostLimit, "", Some(limit));
    rig.publish("anna", [held("a", 100), held("b", 200)]);
    rig.run();
    assert!(rig.heard("anna").contains(&done(set)));
    assert_eq!(rig.status("q").policy.as_deref(), Some("all"));
    let second = rig.declare("anna", queue("second"));
    rig.run();
    assert!(rig.heard("anna").iter().any(|line| line.starts_with(&done(second))));
    rig.crash();
    rig.open("anna");
    rig.attach("anna", taking(1, "q"));
    pass_ms(&mut rig, 200);
    assert_eq!(bodies(&rig.got("anna")), ["a", "b"]);
}

#[test]
fn an_exchange_that_delays_is_not_one_that_does_not() {
    let mut rig = rig();
    let same = rig.declare_exchange("anna", delaying(ExchangeKind::Direct));
    let other = rig.declare_exchange("anna", exchange("later", ExchangeKind::Direct));
    rig.run();
    assert_eq!(rig.heard("anna"), [done(same), format!("refused {other}: precondition")]);
    let declared = |f: &&Fact| matches!(f, Fact::DeclareQueue { .. });
    assert_eq!(rig.facts().iter().filter(declared).count(), 2, "one holding queue beside q");
}

#[test]
fn what_is_held_goes_with_its_exchange() {
    let mut rig = rig();
    rig.publish("anna", [held("a", 100)]);
    rig.run();
    let delete = |if_unused| TopologyChange::DeleteExchange { name: "later".into(), if_unused };
    rig.topology("anna", delete(false));
    rig.declare_exchange("anna", delaying(ExchangeKind::Direct));
    rig.bind("anna", "later", "q", "q");
    rig.run();
    pass_ms(&mut rig, 200);
    assert_eq!(rig.counts("q"), (0, 0));
    let deleted = |f: &&Fact| matches!(f, Fact::DeleteQueue { .. });
    assert_eq!(rig.facts().iter().filter(deleted).count(), 1);
    rig.crash();
    rig.open("anna");
    rig.publish("anna", [held("b", 100)]);
    rig.run();
    pass_ms(&mut rig, 100);
    assert_eq!(rig.drain("q"), ["b"]);

    // An auto-delete exchange goes with its last binding.
    rig.declare_exchange(
        "anna",
        ExchangeDef {
            name: "auto".into(),
            auto_delete: true,
            durable: false,
            ..delaying(ExchangeKind::Fanout)
        },
    );
    rig.bind("anna", "auto", "", "q");
    rig.publish("anna", [held("c", 100).through("auto")]);
    rig.run();
    rig.topology("anna", TopologyChange::Unbind(binding("auto", "", "q")));
    rig.run();
    assert_eq!(rig.timeout_ms().map(|ms| ms <= 100), Some(true), "a timer does no harm");
    pass_ms(&mut rig, 100);
    assert_eq!(rig.counts("q"), (0, 0));
}

/// A durable message for the queue `q`, held by the virtual host for so many milliseconds.
fn waiting(body: &str, ms: i64) -> Message {
    durable("q", body).head(format!("x-delay={ms}")).delayed()
}

#[test]
fn a_virtual_host_holds_messages_to_whatever_exchange() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.declare("anna", volatile_queue("topic"));
    rig.bind("anna", "amq.topic", "#", "topic");
    rig.declare_exchange("anna", exchange("x", ExchangeKind::Fanout));
    rig.declare_exchange("anna", delaying(ExchangeKind::Direct));
    for exchange in ["x", "later"] {
        rig.bind("anna", exchange, "q", "q");
    }
    rig.run();
    rig.heard("anna");
    let token = rig.publish(
        "anna",
        [
            waiting("a", 300),
            waiting("b", 100).through("amq.topic"),
            waiting("c", 200).through("x"),
            waiting("d", 400).through("later"),
            waiting("none", 0),
            waiting("no header", 100).head("\0\0"),
        ],
    );
    rig.dispatch();
    assert!(rig.heard("anna").is_empty(), "the confirm waits for the log");
    rig.run();
    assert_eq!(rig.heard("anna"), [done(token)]);
    assert_eq!(rig.drain("q"), ["none", "no header"]);
    pass_ms(&mut rig, 99);
    assert_eq!(rig.counts("topic"), (0, 0));
    pass_ms(&mut rig, 1);
    assert_eq!(rig.drain("topic"), ["b"]);
    pass_ms(&mut rig, 300);
    assert_eq!(rig.drain("q"), ["c", "a", "d"]);
    assert_eq!(rig.timeout_ms(), None);
    let listed = rig.dispatcher.topology().queues(VHOST).unwrap();
    assert_eq!(listed.iter().map(|q| &*q.def.name).collect::<Vec<_>>(), ["q", "topic"]);
}

#[test]
fn what_a_virtual_host_holds_survives_a_restart_and_comes_once() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    let lost = transient("q", "lost").head("x-delay=500").delayed();
    rig.publish("anna", [waiting("b", 1000), waiting("a", 500), lost]);
    rig.run();
    rig.advance_ms(400);
    rig.crash();
    rig.run();
    assert_eq!(rig.timeout_ms(), Some(100));
    pass_ms(&mut rig, 100);
    assert_eq!(rig.drain("q"), ["a"]);
    rig.open("anna");
    rig.publish("anna", [waiting("c", 10)]);
    rig.run();
    rig.advance_ms(50_000);
    rig.crash();
    rig.run();
    assert_eq!(rig.drain("q"), ["c", "b"]);
    rig.crash();
    rig.run();
    assert_eq!(rig.counts("q"), (0, 0));
    let declared = |f: &&Fact| matches!(f, Fact::DeclareQueue { .. });
    assert_eq!(rig.facts().iter().filter(declared).count(), 2, "one holding queue beside q");
}

#[test]
fn what_cannot_be_routed_is_refused_before_it_waits_and_dropped_after_it() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("q"));
    rig.run();
    rig.heard("anna");
    let token = rig.publish(
        "anna",
        [
            waiting("gone", 100).mandatory(),
            durable("nobody", "no queue").head("x-delay=9").delayed().mandatory(),
            waiting("no exchange", 100).through("nowhere"),
        ],
    );
    rig.run();
    let heard = rig.heard("anna");
    let refused = ["1 Unroutable", "2 NoExchange"];
    assert!(heard[0].starts_with(&done(token)), "{heard:?}");
    assert!(refused.iter().all(|why| heard[0].contains(why)), "{heard:?}");
    rig.delete("anna", "q");
    rig.run();
    let before = rig.dispatcher.counters().unroutable;
    pass_ms(&mut rig, 100);
    assert_eq!(rig.dispatcher.counters().unroutable, before + 1);
    rig.crash();
    rig.run();
    assert_eq!(rig.timeout_ms(), None, "nothing is held any more");
}

#[test]
fn limits_and_dead_letters_are_those_of_where_it_goes() {
    let mut rig = Rig::new();
    rig.open("anna");
    rig.declare("anna", queue("dead"));
    rig.declare(
        "anna",
        queue_with("q", |o| {
            o.length_max = Some(1);
            o.overflow = Overflow::RejectPublishDlx;
            dead_letters_to(o, "dead");
        }),
    );
    rig.attach("anna", consuming(1, "dead"));
    rig.publish("anna", [waiting("a", 10), waiting("b", 10)]);
    rig.run();
    pass_ms(&mut rig, 10);
    assert_eq!(rig.drain("q"), ["a"]);
    assert_eq!(bodies(&rig.got("anna")), ["b"], "dead letters are not held again");
}

#[test]
fn a_hundred_thousand_that_are_due_at_once_come_in_order_and_in_several_turns() {
    let mut rig = rig();
    let count = 100_000;
    for from in (0..count).step_by(10_000) {
        rig.publish("anna", (from..from + 10_000).map(|n| held(&n.to_string(), 100)));
        rig.run();
    }
    rig.advance_ms(100);
    let entries = rig.entries();
    rig.dispatch();
    assert!(rig.dispatcher.gathered_bytes() < 16 << 20);
    assert_eq!(rig.timeout_ms(), Some(0), "the rest is for the next turn");
    rig.run();
    while rig.timeout_ms() == Some(0) {
        rig.run();
    }
    assert!(rig.entries() - entries > 5);
    let expected: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    assert!(rig.drain("q") == expected);
}
