//! What exchanges keep, and that it is recalled.

use std::collections::BTreeMap;

use isthmus_model::{ExchangeKind, Outcome, Overflow, TopologyChange};
use proptest::collection::vec;
use proptest::prelude::*;

use super::rig::*;
use crate::Fact;
use crate::testing::cases;

/// A rig with a durable topic exchange `t`, one that is not, `v`, a durable queue `q`, a volatile
/// one, `w`, and a session.
fn rig() -> Rig {
    let mut rig = Rig::new();
    set_up(&mut rig);
    rig
}

fn set_up(rig: &mut Rig) {
    rig.open("anna");
    rig.declare_exchange("anna", exchange("t", ExchangeKind::Topic));
    let volatile = exchange("v", ExchangeKind::Topic);
    rig.declare_exchange("anna", isthmus_model::ExchangeDef { durable: false, ..volatile });
    rig.declare("anna", queue("q"));
    rig.declare("anna", volatile_queue("w"));
    rig.run();
    rig.heard("anna");
}

fn kept(exchange: &str, key: &str, body: &str) -> Message {
    durable(key, body).through(exchange).retained()
}

/// As most clients of MQTT retain messages.
fn kept_transient(exchange: &str, key: &str, body: &str) -> Message {
    transient(key, body).through(exchange).retained()
}

/// What a recall into `q` brings.
fn recalled(rig: &mut Rig, exchange: &str, pattern: &str) -> Vec<String> {
    rig.recall("anna", exchange, pattern, "q");
    rig.run();
    rig.drain("q")
}

#[test]
fn the_latest_of_each_key_is_recalled_in_the_order_of_the_keys() {
    let mut rig = rig();
    rig.publish("anna", [kept("t", "b.x", "1"), kept("t", "a.x", "2"), kept("t", "b.x", "3")]);
    rig.publish("anna", [durable("b.x", "not kept").through("t"), kept("t", "c", "4")]);
    rig.run();
    rig.heard("anna");
    let token = rig.recall("anna", "t", "*.x", "q");
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {token}: 2 messages")]);
    rig.attach("anna", taking(1, "q"));
    rig.run();
    let got = rig.got("anna");
    assert_eq!(bodies(&got), ["2", "3"]);
    assert!(got.iter().all(|g| g.annotations.as_ref().unwrap().recalled));
    rig.detach("anna", 1);
    // It is kept still.
    assert_eq!(recalled(&mut rig, "t", "#"), ["2", "3", "4"]);
}

#[test]
fn an_empty_body_removes_what_is_kept_and_is_routed() {
    let mut rig = rig();
    rig.bind("anna", "t", "#", "q");
    rig.publish("anna", [kept("t", "a", "1"), kept("t", "b", "2"), kept("t", "a", "")]);
    rig.run();
    assert_eq!(rig.drain("q"), ["1", "2", ""]);
    rig.publish("anna", [kept("t", "never", "")]);
    rig.run();
    assert_eq!(rig.drain("q"), [""]);
    assert_eq!(recalled(&mut rig, "t", "#"), ["2"]);
    let removals = rig.facts().iter().filter(|f| matches!(f, Fact::Unkept { .. })).count();
    assert_eq!(removals, 1, "nothing is said of a key under which nothing is");
}

#[test]
fn what_is_kept_survives_a_crash_whether_it_is_durable_or_not() {
    let mut rig = rig();
    rig.publish("anna", [kept("t", "a", "1"), kept_transient("t", "b", "2")]);
    rig.publish("anna", [kept("v", "c", "3"), kept_transient("v", "d", "4")]);
    assert_eq!(recalled(&mut rig, "v", "#"), ["3", "4"]);
    // Proposed, and never committed.
    rig.publish("anna", [kept("t", "a", "5"), kept("t", "e", "6"), kept("t", "b", "")]);
    rig.propose();
    rig.crash();
    set_up(&mut rig);
    assert_eq!(recalled(&mut rig, "t", "#"), ["1", "2"]);
    assert_eq!(recalled(&mut rig, "v", "#"), Vec::<String>::new());
}

#[test]
fn its_publisher_is_answered_once_it_is_kept() {
    let mut rig = rig();
    // No queue is bound: that it is kept is all there is to wait for.
    let first = rig.publish("anna", [kept_transient("t", "a", "1")]);
    rig.dispatch();
    assert_eq!(rig.heard("anna"), Vec::<String>::new());
    rig.run();
    assert_eq!(rig.heard("anna"), [done(first)]);
    let nothing = rig.publish("anna", [kept_transient("v", "a", "1")]);
    rig.dispatch();
    assert_eq!(rig.heard("anna"), [done(nothing)], "there is nothing in the log to wait for");
}

#[test]
fn a_recall_sees_what_is_not_committed_and_nobody_gets_it_before_it_is() {
    let mut rig = rig();
    rig.open("bert");
    rig.attach("bert", taking(1, "w"));
    rig.run();
    rig.heard("bert");
    rig.publish("anna", [kept_transient("t", "a", "new")]);
    rig.propose();
    let token = rig.recall("bert", "t", "a", "w");
    rig.dispatch();
    assert_eq!(rig.heard("bert"), Vec::<String>::new());
    // Its successor comes behind it, although the queue has it without the log.
    rig.bind("bert", "t", "a", "w");
    rig.publish("anna", [kept_transient("t", "a", "newer")]);
    rig.dispatch();
    assert_eq!(rig.heard("bert"), Vec::<String>::new());
    rig.run();
    let heard = rig.heard("bert");
    assert_eq!(heard[0], format!("done {token}: 1 messages"));
    assert_eq!(heard[2..], ["consumer 1: new", "consumer 1: newer"]);
}

#[test]
fn a_recall_comes_behind_what_its_session_has_published() {
    let mut rig = rig();
    rig.publish("anna", [kept("t", "a", "1"), durable("q", "first")]);
    rig.recall("anna", "t", "#", "q");
    rig.publish("anna", [kept("t", "b", "2"), durable("q", "last")]);
    rig.run();
    assert_eq!(rig.drain("q"), ["first", "1", "last"]);
}

#[test]
fn durable_and_transient_messages_come_in_order_as_what_they_are() {
    let mut rig = rig();
    let messages = (0..6).map(|n| {
        let (key, body) = (format!("k{n}"), n.to_string());
        if n % 2 == 0 { kept("t", &key, &body) } else { kept_transient("t", &key, &body) }
    });
    rig.publish("anna", messages.collect::<Vec<_>>());
    rig.run();
    rig.recall("anna", "t", "#", "q");
    rig.recall("anna", "t", "k1", "w");
    rig.run();
    assert_eq!(rig.counts("q"), (6, 0));
    assert_eq!(rig.drain("w"), ["1"]);
    rig.attach("anna", prefetching(1, "q", 10));
    rig.run();
    assert_eq!(bodies(&rig.got("anna")), ["0", "1", "2", "3", "4", "5"]);
    rig.crash();
    rig.open("anna");
    rig.attach("anna", prefetching(1, "q", 10));
    rig.run();
    let got = rig.got("anna");
    assert_eq!(bodies(&got), ["0", "2", "4"]);
    assert!(got.iter().all(|g| g.annotations.as_ref().unwrap().recalled));
}

#[test]
fn what_has_expired_is_not_recalled_and_leaves_by_itself() {
    let mut rig = rig();
    rig.publish("anna", [kept("t", "a", "short").ttl_ms(1_000), kept("t", "b", "for ever")]);
    rig.publish(
        "anna",
        [kept("t", "c", "replaced").ttl_ms(500), kept("v", "d", "here").ttl_ms(700)],
    );
    rig.run();
    rig.publish("anna", [kept("t", "c", "again").ttl_ms(60_000)]);
    rig.run();
    assert_eq!(rig.timeout_ms(), Some(700), "of what is replaced there is nothing to come");
    rig.advance_ms(400);
    rig.recall("anna", "t", "a", "q");
    rig.run();
    // What is left of its time is what it has in the queue.
    rig.advance_ms(599);
    rig.run();
    assert_eq!(rig.counts("q"), (1, 0));
    assert_eq!(rig.dispatcher.kept().size_of_exchange("/", "v").messages, 0);
    rig.advance_ms(2);
    rig.run();
    assert_eq!(rig.counts("q"), (0, 0));
    assert_eq!(rig.ledger.kept().size().messages, 2);
    assert_eq!(recalled(&mut rig, "t", "#"), ["for ever", "again"]);
    // The next leader takes over the timers.
    rig.crash();
    rig.advance_ms(59_500);
    rig.run();
    assert_eq!(rig.ledger.kept().size().messages, 1);
    assert_eq!(rig.timeout_ms(), None);
}

#[test]
fn what_has_expired_and_is_there_still_is_not_recalled() {
    let mut rig = rig();
    let message = |n: usize| kept_transient("v", &format!("k{n}"), "x").ttl_ms(10);
    rig.publish("anna", (0..100).map(message));
    rig.run();
    rig.advance_ms(9);
    let before = rig.recall("anna", "v", "#", "q");
    rig.run();
    assert!(rig.heard("anna").contains(&format!("done {before}: 100 messages")));
    rig.advance_ms(1);
    // Nothing has looked at the time since.
    let after = rig.recall("anna", "v", "#", "q");
    assert_eq!(rig.dispatcher.kept().size().messages, 100);
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {after}: 0 messages")]);
    assert_eq!(rig.dispatcher.kept().size().messages, 0);
    assert_eq!(rig.counts("q"), (0, 0), "the copies had a millisecond left");
}

#[test]
fn a_virtual_host_keeps_so_much_and_the_rest_is_refused() {
    let mut rig = rig();
    let body = "x".repeat(30_000);
    let token = rig.publish("anna", ["a", "b", "c", "d"].map(|key| kept("t", key, &body)));
    rig.bind("anna", "t", "#", "q");
    rig.run();
    assert!(rig.heard("anna").contains(&format!("done {token} save 3 Full")));
    assert_eq!(rig.dispatcher.kept().size().messages, 3);
    // What is refused goes nowhere; what replaces no smaller message is taken, and so is what
    // there is room for again.
    let full = rig.publish("anna", [kept("t", "d", &body), kept("t", "a", &body)]);
    let room = rig.publish("anna", [kept("t", "b", ""), kept("t", "d", &body)]);
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {full} save 0 Full"), done(room)]);
    assert_eq!(rig.drain("q").len(), 3);
    // Another virtual host has as much.
    rig.dispatcher.declare_vhost("other");
    rig.run();
    rig.open_in("bert", "other");
    let token = rig.publish("bert", [kept("amq.topic", "a", &body)]);
    rig.run();
    assert_eq!(rig.heard("bert"), [done(token)]);
}

#[test]
fn it_goes_with_its_exchange_and_its_virtual_host() {
    let mut rig = rig();
    rig.dispatcher.declare_vhost("other");
    rig.run();
    rig.open_in("bert", "other");
    rig.publish("anna", [kept("t", "a", "1"), kept("amq.topic", "b", "2"), kept("v", "c", "3")]);
    rig.publish("bert", [kept("amq.topic", "d", "4").ttl_ms(1_000)]);
    rig.run();
    assert_eq!(rig.ledger.kept().size().messages, 3);
    for name in ["t", "v"] {
        let delete = TopologyChange::DeleteExchange { name: name.into(), if_unused: false };
        rig.topology("anna", delete);
    }
    rig.delete_vhost("anna", "other");
    rig.run();
    for kept in [rig.dispatcher.kept(), rig.ledger.kept()] {
        let all: Vec<String> = kept.iter().map(|(_, _, key, _)| key).collect();
        assert_eq!(all, ["b"]);
    }
    assert_eq!(rig.timeout_ms(), None);
    // A new one of its name keeps nothing.
    rig.declare_exchange("anna", exchange("t", ExchangeKind::Topic));
    assert_eq!(recalled(&mut rig, "t", "#"), Vec::<String>::new());
    rig.crash();
}

#[test]
fn a_recall_that_cannot_be_is_refused() {
    let mut rig = rig();
    let words = vec!["a"; 300].join(".");
    let requests = [
        ("nowhere", "#", "q", "not found"),
        ("t", "#", "nowhere", "not found"),
        ("amq.direct", "#", "q", "precondition"),
        ("t", &words, "q", "limit"),
    ];
    for (exchange, pattern, queue, why) in requests {
        let token = rig.recall("anna", exchange, pattern, queue);
        rig.run();
        assert_eq!(rig.heard("anna"), [format!("refused {token}: {why}")], "{exchange} {pattern}");
    }
    let bert = rig.open("bert");
    let lifetime = isthmus_model::Lifetime::Exclusive(bert);
    rig.declare("bert", isthmus_model::QueueDef { lifetime, ..queue("bert's") });
    let token = rig.recall("anna", "t", "#", "bert's");
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("refused {token}: locked")]);
}

#[test]
fn other_exchanges_keep_nothing() {
    let mut rig = rig();
    rig.publish(
        "anna",
        [kept("amq.direct", "a", "1"), kept("amq.fanout", "a", "2"), kept("", "q", "3")],
    );
    rig.run();
    assert_eq!(rig.dispatcher.kept().size().messages, 0);
    assert_eq!(rig.drain("q"), ["3"]);
}

#[test]
fn the_limits_of_the_queue_hold() {
    let mut rig = rig();
    rig.declare("anna", queue_with("head", |o| o.length_max = Some(2)));
    let refusing = |o: &mut isthmus_model::QueueOptions| {
        o.length_max = Some(2);
        o.overflow = Overflow::RejectPublish;
    };
    rig.declare("anna", queue_with("refusing", refusing));
    rig.publish("anna", (1..=4).map(|n| kept("t", &format!("k{n}"), &n.to_string())));
    rig.run();
    rig.heard("anna");
    let dropping = rig.recall("anna", "t", "#", "head");
    let refusing = rig.recall("anna", "t", "#", "refusing");
    rig.run();
    let said = [format!("done {dropping}: 4 messages"), format!("done {refusing}: 2 messages")];
    assert_eq!(rig.heard("anna"), said);
    assert_eq!(rig.drain("head"), ["3", "4"]);
    assert_eq!(rig.drain("refusing"), ["1", "2"]);
}

#[test]
fn what_nobody_gets_now_is_kept_although_it_is_returned() {
    let mut rig = rig();
    let token = rig.publish("anna", [kept("t", "a", "1").mandatory()]);
    rig.run();
    assert_eq!(rig.heard("anna"), [format!("done {token} save 0 Unroutable")]);
    assert_eq!(recalled(&mut rig, "t", "a"), ["1"]);
}

#[test]
fn a_dead_letter_is_kept_where_it_goes() {
    let mut rig = rig();
    let to_topic = |o: &mut isthmus_model::QueueOptions| {
        o.dead_letter_exchange = Some("t".into());
        o.dead_letter_routing_key = Some("dead.one".into());
    };
    rig.declare("anna", queue_with("dying", to_topic));
    rig.publish("anna", [durable("dying", "1").retained()]);
    rig.attach("anna", consuming(1, "dying"));
    rig.run();
    let got = rig.got("anna");
    rig.settle("anna", Outcome::Reject, &got);
    rig.run();
    assert_eq!(recalled(&mut rig, "t", "dead.*"), ["1"]);
    rig.recall("anna", "t", "#", "w");
    rig.attach("anna", taking(2, "w"));
    rig.run();
    let annotations = rig.got("anna")[0].annotations.clone().unwrap();
    assert!(annotations.recalled && annotations.deaths.len() == 1);
    rig.crash();
}

#[test]
fn what_is_delayed_is_kept_when_it_is_let_go() {
    let mut rig = rig();
    let delayed = exchange("d", ExchangeKind::Topic);
    rig.declare_exchange("anna", isthmus_model::ExchangeDef { delayed: true, ..delayed });
    rig.publish("anna", [kept("d", "a", "later").head("x-delay=1000"), kept("d", "b", "now")]);
    rig.run();
    assert_eq!(recalled(&mut rig, "d", "#"), ["now"]);
    rig.advance_ms(1_000);
    rig.run();
    assert_eq!(recalled(&mut rig, "d", "#"), ["later", "now"]);
    rig.crash();
}

#[test]
fn what_a_committed_transaction_retains_is_kept() {
    let mut rig = rig();
    rig.begin("anna", 1);
    rig.publish_in("anna", 1, [kept("t", "a", "1"), kept("t", "b", "2")]);
    rig.run();
    assert_eq!(recalled(&mut rig, "t", "#"), Vec::<String>::new());
    rig.commit_tx("anna", 1);
    rig.run();
    assert_eq!(recalled(&mut rig, "t", "#"), ["1", "2"]);
    rig.publish_in("anna", 1, [kept("t", "a", "never")]);
    rig.rollback("anna", 1);
    rig.run();
    assert_eq!(recalled(&mut rig, "t", "#"), ["1", "2"]);
}

#[test]
fn a_body_that_is_enqueued_as_well_is_in_the_log_once() {
    let mut rig = rig();
    rig.bind("anna", "t", "#", "q");
    rig.run();
    rig.publish("anna", [kept("t", "a", "1"), durable("b", "2").through("t"), kept("t", "c", "3")]);
    rig.run();
    let numbers: Vec<Option<u32>> = rig
        .facts()
        .iter()
        .filter_map(|fact| match fact {
            Fact::Kept { record, .. } => Some(*record),
            _ => None,
        })
        .collect();
    assert_eq!(numbers, [Some(0), Some(2)]);
    rig.crash();
    rig.open("anna");
    assert_eq!(rig.drain("q"), ["1", "2", "3"]);
    assert_eq!(recalled(&mut rig, "t", "#"), ["1", "3"]);
}

#[test]
fn a_large_recall_takes_several_turns_and_is_answered_once() {
    let mut rig = rig();
    // Keys of many words, so that few messages make for the comparisons of several turns.
    let key = |n: usize| format!("{}.{n:02}", vec!["w"; 250].join("."));
    for n in 0..60 {
        rig.publish("anna", [kept_transient("v", &key(n), &n.to_string())]);
    }
    rig.run();
    rig.heard("anna");
    let pattern = vec!["#.w"; 20].join(".") + ".#";
    let token = rig.recall("anna", "v", &pattern, "q");
    let (mut turns, mut heard) = (0, Vec::new());
    while heard.is_empty() {
        rig.dispatch();
        heard = rig.heard("anna");
        turns += 1;
        assert!(turns < 100);
    }
    assert!(turns >= 3, "{turns}");
    assert_eq!(heard, [format!("done {token}: 60 messages")]);
    let bodies: Vec<String> = (0..60).map(|n: usize| n.to_string()).collect();
    assert_eq!(rig.drain("q"), bodies);
}

/// What is done to a broker and to the model of it.
#[derive(Clone, Debug)]
enum Op {
    Publish {
        exchange: &'static str,
        key: &'static str,
        empty: bool,
        ttl_ms: Option<u32>,
        durable: bool,
    },
    Propose,
    Commit,
    Recall {
        exchange: &'static str,
        pattern: &'static str,
    },
    Advance(u64),
    Checkpoint,
    Crash,
}

const KEYS: [&str; 5] = ["a", "a.b", "a.c", "b.c", "b.c.d"];

/// Patterns with the keys that they match.
const PATTERNS: [(&str, &[&str]); 6] = [
    ("#", &KEYS),
    ("a", &["a"]),
    ("*.c", &["a.c", "b.c"]),
    ("a.#", &["a", "a.b", "a.c"]),
    ("b.*.*", &["b.c.d"]),
    ("x.#", &[]),
];

fn op() -> impl Strategy<Value = Op> {
    let exchange = || prop::sample::select(vec!["t", "t", "v"]);
    let publish = (
        exchange(),
        prop::sample::select(KEYS.to_vec()),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.3, 1u32..3_000),
        any::<bool>(),
    )
        .prop_map(|(exchange, key, empty, ttl_ms, durable)| Op::Publish {
            exchange,
            key,
            empty,
            ttl_ms,
            durable,
        });
    let pattern = prop::sample::select(PATTERNS.map(|(pattern, _)| pattern).to_vec());
    prop_oneof![
        6 => publish,
        2 => Just(Op::Propose),
        2 => Just(Op::Commit),
        3 => (exchange(), pattern).prop_map(|(exchange, pattern)| Op::Recall { exchange, pattern }),
        1 => (1u64..2_000).prop_map(Op::Advance),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Crash),
    ]
}

/// (exchange, key) → (body, when it expires, in milliseconds).
type Model = BTreeMap<(&'static str, &'static str), (String, u64)>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(96)))]

    #[test]
    fn what_is_recalled_is_what_was_published_last(ops in vec(op(), 1..60)) {
        let mut rig = rig();
        let mut now = Model::new();
        // What is gathered becomes an entry; of each entry the model when it was taken.
        let (mut in_flight, mut committed) = (std::collections::VecDeque::new(), Model::new());
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Publish { exchange, key, empty, ttl_ms, durable: is_durable } => {
                    let body = if empty { String::new() } else { n.to_string() };
                    let message = if is_durable { durable(key, &body) } else { transient(key, &body) };
                    let message = message.through(exchange).retained();
                    let ttl = ttl_ms.map_or(u64::MAX, u64::from);
                    let message = ttl_ms.map_or(message.clone(), |ms| message.ttl_ms(ms));
                    rig.publish("anna", [message]);
                    now.remove(&(exchange, key));
                    if !empty {
                        let until = rig.clock.log.as_millis().saturating_add(ttl);
                        now.insert((exchange, key), (body, until));
                    }
                }
                Op::Propose => if rig.propose() {
                    in_flight.push_back(now.clone());
                },
                Op::Commit => if rig.commit() {
                    committed = in_flight.pop_front().unwrap();
                },
                Op::Recall { exchange, pattern } => {
                    let (_, keys) = PATTERNS.iter().find(|(p, _)| *p == pattern).unwrap();
                    let time = rig.clock.log.as_millis();
                    let expected: Vec<String> = keys
                        .iter()
                        .filter_map(|key| now.get(&(exchange, *key)))
                        .filter(|(_, until)| *until > time)
                        .map(|(body, _)| body.clone())
                        .collect();
                    rig.heard("anna");
                    let token = rig.recall("anna", exchange, pattern, "q");
                    rig.run();
                    let answer = format!("done {token}: {} messages", expected.len());
                    prop_assert!(rig.heard("anna").contains(&answer));
                    prop_assert_eq!(rig.drain("q"), expected);
                    in_flight.clear();
                    committed = now.clone();
                }
                Op::Advance(ms) => rig.advance_ms(ms),
                Op::Checkpoint => rig.page_out(1_000, 0, |_, _| true),
                Op::Crash => {
                    rig.crash();
                    now = committed.clone();
                    now.retain(|(exchange, _), _| *exchange == "t");
                    committed = now.clone();
                    in_flight.clear();
                    set_up(&mut rig);
                }
            }
        }
        rig.run();
        let time = rig.clock.log.as_millis();
        now.retain(|_, (_, until)| *until > time);
        let all = |kept: &crate::kept::Kept| -> Vec<(String, String)> {
            kept.iter().map(|(_, exchange, key, _)| (exchange.to_string(), key)).collect()
        };
        let expected: Vec<(String, String)> =
            now.keys().map(|(exchange, key)| ((*exchange).to_owned(), (*key).to_owned())).collect();
        prop_assert_eq!(all(rig.dispatcher.kept()), expected.clone());
        let logged = expected.into_iter().filter(|(exchange, _)| exchange == "t");
        prop_assert_eq!(all(rig.ledger.kept()), logged.collect::<Vec<_>>());
        rig.crash();
    }
}
