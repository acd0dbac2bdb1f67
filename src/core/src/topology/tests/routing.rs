//! Where messages go, by example, and the topic trie against a naive matcher.

use proptest::prelude::*;

use super::*;
use crate::topology::targets::{Reached, Target};
use crate::topology::trie::Trie;

#[test]
fn cycles_of_exchanges_end_and_queues_come_once() {
    let mut t = topology();
    for name in ["a", "b", "c"] {
        t.declare_exchange("/", exchange(name, ExchangeKind::Fanout)).expect("declared");
    }
    for (name, id) in [("q1", 30), ("q2", 20), ("q3", 10)] {
        t.declare_queue("/", queue(name), QueueId(id)).expect("declared");
    }
    for binding in [
        to_exchange("a", "", "b"),
        to_exchange("b", "", "c"),
        to_exchange("c", "", "a"),
        to_exchange("c", "", "c"),
        to_queue("a", "", "q1"),
        to_queue("b", "", "q2"),
        to_queue("c", "", "q3"),
        to_queue("c", "", "q1"),
    ] {
        t.bind("/", &binding).expect("bound");
    }
    assert_eq!(route(&t, "b", "k"), [10, 20, 30]);
}

#[test]
fn what_was_found_before_is_kept_in_order() {
    let mut t = topology();
    for (name, id) in [("q1", 1), ("q2", 2)] {
        t.declare_queue("/", queue(name), QueueId(id)).expect("declared");
    }
    let mut out = Vec::new();
    for key in ["q2", "q1", "q2", "none"] {
        t.route("/", "", &[key], &mut Table::default, &mut out).expect("routed");
    }
    assert_eq!(out, [QueueId(1), QueueId(2)]);
}

#[test]
fn what_follows_no_binding_goes_to_the_alternate() {
    let mut t = topology();
    let arguments = |name: &str| table(&[("alternate-exchange", text(name))]);
    for (name, alternate) in [("x", "y"), ("y", "x"), ("lost", "nowhere"), ("plain", "")] {
        let arguments = arguments(alternate);
        let def = ExchangeDef { arguments, ..exchange(name, ExchangeKind::Direct) };
        t.declare_exchange("/", def).expect("declared");
    }
    t.declare_queue("/", queue("q"), QueueId(1)).expect("declared");
    t.declare_queue("/", queue("r"), QueueId(2)).expect("declared");
    t.bind("/", &to_queue("x", "k", "q")).expect("bound");
    t.bind("/", &to_queue("y", "k", "r")).expect("bound");
    t.bind("/", &to_queue("y", "j", "r")).expect("bound");
    assert_eq!(route(&t, "x", "k"), [1]);
    assert_eq!(route(&t, "x", "j"), [2]);
    assert_eq!(route(&t, "x", "i"), [0; 0]);
    assert_eq!(route(&t, "lost", "k"), [0; 0]);
    assert_eq!(route(&t, "plain", "q"), [1]);
    // A binding that leads to an exchange is followed, wherever that leads.
    t.bind("/", &to_exchange("x", "i", "lost")).expect("bound");
    t.bind("/", &to_queue("y", "i", "r")).expect("bound");
    assert_eq!(route(&t, "x", "i"), [0; 0]);
}

/// Whether a message with `headers` matches a binding with `arguments`.
fn headers_match(arguments: &[(&str, Value)], headers: &[(&str, Value)]) -> bool {
    let mut t = topology();
    t.declare_queue("/", queue("q"), QueueId(1)).expect("declared");
    let arguments = table(arguments);
    let binding = BindingDef { arguments, ..to_queue("amq.match", "ignored", "q") };
    t.bind("/", &binding).expect("bound");
    let matches = !route_with(&t, "amq.match", "k", &table(headers)).is_empty();
    t.unbind("/", &binding).expect("unbound");
    assert!(route_with(&t, "amq.match", "k", &table(headers)).is_empty());
    matches
}

#[test]
fn headers_exchanges_compare_all_or_any() {
    let (one, two) = (Value::Int(1), Value::Int(2));
    let pair = [("a", one.clone()), ("b", text("t"))];
    // All is what a binding asks for that does not say.
    assert!(headers_match(&pair, &[("b", text("t")), ("c", Value::Null), ("a", Value::Uint(1))]));
    assert!(!headers_match(&pair, &[("a", one.clone())]));
    assert!(!headers_match(&pair, &[("a", two.clone()), ("b", text("t"))]));
    let matching = |how: &str| {
        let mut arguments = vec![("x-match", text(how))];
        arguments.extend(pair.clone());
        arguments
    };
    assert!(!headers_match(&matching("all"), &[("a", one.clone())]));
    assert!(headers_match(&matching("any"), &[("a", one.clone()), ("b", text("u"))]));
    assert!(!headers_match(&matching("any"), &[("a", two.clone()), ("c", one.clone())]));
    // All of nothing is always, any of nothing never.
    assert!(headers_match(&[], &[]));
    assert!(!headers_match(&[("x-match", text("any"))], &[("a", one.clone())]));
    // No value asks for presence.
    assert!(headers_match(&[("a", Value::Null)], &[("a", two.clone())]));
    assert!(headers_match(&[("a", Value::Null)], &[("a", Value::Null)]));
    assert!(!headers_match(&[("a", Value::Null)], &[("b", two.clone())]));
    assert!(!headers_match(&[("a", one)], &[("a", Value::Null)]));
}

#[test]
fn headers_that_start_with_x_count_where_the_binding_says_so() {
    let with = |how: &str| [("x-match", text(how)), ("x-a", Value::Int(1)), ("b", Value::Int(2))];
    let (x, b) = (("x-a", Value::Int(1)), ("b", Value::Int(2)));
    assert!(headers_match(&with("all"), std::slice::from_ref(&b)));
    assert!(!headers_match(&with("all-with-x"), std::slice::from_ref(&b)));
    assert!(headers_match(&with("all-with-x"), &[x.clone(), b.clone()]));
    assert!(!headers_match(&with("any"), std::slice::from_ref(&x)));
    assert!(headers_match(&with("any-with-x"), &[x]));
}

/// The numbers of the patterns in `trie` that `key` matches.
fn matches(trie: &Trie, key: &str) -> Vec<u64> {
    let mut queues = Vec::new();
    trie.reach(key, &mut Reached { queues: &mut queues, exchanges: Vec::new(), any: false });
    queues.sort_unstable();
    queues.dedup();
    queues.into_iter().map(|id| id.0).collect()
}

fn words(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

/// Whether `key` matches `pattern`, as the definition says it: word by word.
pub(super) fn naive_match(pattern: &str, key: &str) -> bool {
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match pattern.split_first() {
            None => key.is_empty(),
            Some((&"#", rest)) => (0..=key.len()).any(|n| matches(rest, &key[n..])),
            Some((&"*", rest)) => !key.is_empty() && matches(rest, &key[1..]),
            Some((word, rest)) => key.first() == Some(word) && matches(rest, &key[1..]),
        }
    }
    matches(&words(pattern), &words(key))
}

#[test]
fn topic_keys_of_every_shape() {
    for (pattern, key, expected) in [
        ("", "", true),
        ("#", "", true),
        ("*", "", false),
        ("*", ".", false),
        ("*.*", ".", true),
        ("a.", "a.", true),
        ("a.", "a", false),
        ("a.#", "a", true),
        ("#.a", "a", true),
        ("#.a", "b.a.a", true),
        ("#.a.#", "a", true),
        ("#.#", "", true),
        ("#.*", "", false),
        ("#.*.#", "x", true),
        ("#.a.#.a.#", "a", false),
        ("#.a.#.a.#", "b.a.c.a", true),
        ("a.*.c", "a..c", true),
        ("a#", "a#", true),
        ("a#", "ab", false),
    ] {
        let mut trie = Trie::default();
        trie.add(pattern, &Target::Queue(QueueId(1)));
        assert_eq!(!matches(&trie, key).is_empty(), expected, "{pattern} and {key}");
        assert_eq!(naive_match(pattern, key), expected, "{pattern} and {key}");
    }
}

/// A matcher that tries every way to split the key needs more than 10^20 steps here.
#[test]
fn many_wildcards_do_not_multiply() {
    let mut trie = Trie::default();
    let patterns = [
        vec!["#"; 128].join("."),
        ["#", "*"].repeat(60).join("."),
        vec!["#.a"; 60].join(".") + ".b",
        vec!["#.a.*"; 40].join(".") + ".b",
        vec!["#.a.a"; 40].join(".") + ".#.b",
    ];
    for (id, pattern) in patterns.iter().enumerate() {
        trie.add(pattern, &Target::Queue(QueueId(id as u64)));
    }
    let key = vec!["a"; 127].join(".");
    assert_eq!(matches(&trie, &key), [0, 1]);
    assert_eq!(matches(&trie, &format!("{key}.b")), [0, 1, 2, 3, 4]);
}

fn key_of(words: &'static [&'static str], longest: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(words), 0..=longest).prop_map(|w| w.join("."))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_trie_matches_as_the_definition_says(
        patterns in prop::collection::vec(key_of(&["a", "b", "", "*", "#", "#"], 6), 1..40),
        keys in prop::collection::vec(key_of(&["a", "b", "", "c"], 7), 1..20),
        removed in any::<prop::sample::Index>(),
    ) {
        let mut trie = Trie::default();
        for (id, pattern) in patterns.iter().enumerate() {
            trie.add(pattern, &Target::Queue(QueueId(id as u64)));
        }
        let whole = trie.clone();
        let (gone, kept) = (0..patterns.len()).partition::<Vec<_>, _>(|i| i % 2 == removed.index(2));
        for &id in &gone {
            trie.remove(&patterns[id], &Target::Queue(QueueId(id as u64)));
        }
        for key in &keys {
            let expected = |ids: &[usize]| -> Vec<u64> {
                let matching = ids.iter().filter(|id| naive_match(&patterns[**id], key));
                matching.map(|id| *id as u64).collect()
            };
            prop_assert_eq!(matches(&trie, key), expected(&kept));
            let all: Vec<usize> = (0..patterns.len()).collect();
            prop_assert_eq!(matches(&whole, key), expected(&all));
        }
        for id in kept {
            trie.remove(&patterns[id], &Target::Queue(QueueId(id as u64)));
        }
        prop_assert!(trie.is_empty(), "nodes without bindings are removed");
    }
}
