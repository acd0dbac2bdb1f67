//! Against a naive matcher, and that nothing is visited that cannot match.

use std::collections::BTreeMap;

use isthmus_model::{EncodingId, NO_TTL, Record, RecordFlags, Span};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::testing::cases;

fn message(body: &str) -> KeptMessage {
    let record = Record {
        exchange: Span::default(),
        routing_key: Span::default(),
        head: Span::default(),
        body: Span::new(0, body.len()),
        ttl_ms: NO_TTL,
        priority: 0,
        flags: RecordFlags::RETAIN,
    };
    let chunk = body.as_bytes().to_vec().into();
    let batch = Batch::new(EncodingId::AMQP_0_9_1, chunk, vec![record]);
    KeptMessage { batch: Arc::new(batch), since: Time(1), annotations: None }
}

fn body(message: &KeptMessage) -> String {
    String::from_utf8_lossy(message.batch.body(&message.batch.records[0])).into_owned()
}

fn keep(kept: &mut Kept, key: &str) {
    kept.keep(&"v".into(), &"e".into(), key, message(key));
}

/// What is found by searches of so many steps each, and how many they were.
fn find(kept: &Kept, pattern: &str, work: u64) -> (Vec<String>, u64) {
    let (pattern, mut cursor) = (Pattern::new(pattern), Cursor::default());
    let (mut all, mut searches) = (Vec::new(), 0);
    while !cursor.is_done {
        kept.search(("v", "e"), &pattern, &mut cursor, work, |message| {
            all.push(body(message));
            true
        });
        searches += 1;
    }
    (all, searches)
}

/// The words of a key; an empty key has none.
fn words(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

/// As the specification of topic exchanges has it.
fn matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => (0..=key.len()).any(|n| matches(rest, &key[n..])),
        (Some((p, pattern)), Some((word, key))) => {
            (*p == "*" || p == word) && matches(pattern, key)
        }
        _ => false,
    }
}

fn key() -> impl Strategy<Value = String> {
    // Characters before and behind the dot, and what wildcards look like.
    let word = prop::sample::select(vec!["", "a", "b", "a-", "a\0", "é", "*", "\u{1}"]);
    vec(word, 0..5).prop_map(|words| words.join("."))
}

fn pattern() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec!["a", "b", "a-", "", "é", "*", "*", "#", "#"]);
    vec(word, 0..5).prop_map(|words| words.join("."))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(512)))]

    #[test]
    fn a_search_finds_what_matches_and_in_the_order_of_the_words(
        keys in vec((key(), prop::bool::weighted(0.8)), 0..40), pattern in pattern(), work in 1u64..40,
    ) {
        let mut kept = Kept::default();
        let mut model: BTreeMap<Vec<&str>, &str> = BTreeMap::new();
        for (key, stays) in &keys {
            let is_there = model.contains_key(&words(key));
            if *stays {
                keep(&mut kept, key);
                model.insert(words(key), key);
            } else {
                let removed = kept.remove("v", "e", key);
                prop_assert_eq!(removed.is_some(), is_there);
                model.remove(&words(key));
            }
        }
        let split = words(&pattern);
        let found = model.iter().filter(|(key, _)| matches(&split, key));
        let expected: Vec<String> = found.map(|(_, key)| (*key).to_owned()).collect();
        prop_assert_eq!(&find(&kept, &pattern, u64::MAX).0, &expected);
        // However often it is interrupted.
        prop_assert_eq!(&find(&kept, &pattern, work).0, &expected);

        let all: Vec<String> = model.values().map(|key| (*key).to_owned()).collect();
        let listed: Vec<String> = kept.iter().map(|(_, _, key, _)| key).collect();
        prop_assert_eq!(&listed, &all);
        let bytes: u64 = kept.iter().map(|(_, _, key, message)| message.bytes_under(&key)).sum();
        let size = Size { messages: all.len() as u64, bytes };
        prop_assert_eq!(kept.size(), size);
        prop_assert_eq!(kept.size_of_vhost("v"), size);
        prop_assert_eq!(kept.size_of_exchange("v", "e"), size);
        for (n, after) in all.iter().enumerate() {
            let behind: Vec<String> =
                kept.iter_from("v", "e", Some(after)).map(|(key, _)| key).collect();
            prop_assert_eq!(&behind, &all[n + 1..]);
        }
    }

    #[test]
    fn a_key_turned_is_turned_back(key in "\\PC{0,8}|[\0-/]{0,8}") {
        prop_assert_eq!(turned_back(&turned(&key)), key);
    }
}

/// 100 buildings with 100 rooms with 10 sensors.
fn sensors() -> Kept {
    let mut kept = Kept::default();
    for n in 0..100_000 {
        keep(&mut kept, &format!("b{}.r{}.s{}", n / 1000, n / 10 % 100, n % 10));
    }
    kept
}

#[test]
fn what_cannot_match_is_not_visited() {
    let kept = sensors();
    // (pattern, how many match, steps at the most).
    let cases = [
        ("b17.r42.s3", 1, 60),
        ("b17.r42.s99", 0, 60),
        ("b17.r42.#", 10, 100),
        ("b17.*.s3", 100, 3_000),
        ("*.r42.s3", 100, 3_000),
        ("nowhere.#", 0, 60),
        ("b17", 0, 60),
        ("b17.r42.s3.more", 0, 60),
        ("", 0, 60),
    ];
    for (pattern, count, work) in cases {
        let (found, searches) = find(&kept, pattern, work);
        assert_eq!((found.len(), searches), (count, 1), "{pattern}");
    }
    assert_eq!(find(&kept, "#", u64::MAX).0.len(), 100_000);
    let pattern = Pattern::new("b17.r42.s3");
    let start = std::time::Instant::now();
    for _ in 0..1_000 {
        kept.search(("v", "e"), &pattern, &mut Cursor::default(), u64::MAX, |_| true);
    }
    eprintln!("one of 100,000: {:?}", start.elapsed() / 1_000);
}

#[test]
fn a_key_of_very_many_words_is_looked_at_in_bounded_pieces() {
    let mut kept = Kept::default();
    let long = vec!["a"; 30_000].join(".");
    for n in 0..20 {
        keep(&mut kept, &format!("{long}.{n}"));
    }
    let pattern = vec!["#.a"; 100].join(".") + ".#.x";
    let (found, searches) = find(&kept, &pattern, 1);
    assert!(found.is_empty());
    assert_eq!(searches, 20 + 1, "one key is looked at in each");
}

#[test]
fn a_copy_stays_as_it_is_and_what_is_forgotten_is_gone() {
    let (mut kept, other) = (sensors(), Arc::from("other"));
    kept.keep(&other, &"e".into(), "x", message("x"));
    kept.keep(&"v".into(), &"e2".into(), "x", message("x"));
    let copy = kept.clone();
    assert_eq!(kept.forget_exchange("v", "e").messages, 100_000);
    assert_eq!(kept.forget_exchange("v", "e"), Size::default());
    assert_eq!(kept.size_of_vhost("v").messages, 1);
    kept.forget_vhost("v");
    assert_eq!(kept.size(), kept.size_of_vhost("other"));
    assert_eq!((kept.size().messages, copy.size().messages), (1, 100_002));
    assert_eq!(find(&copy, "b0.r0.s0", u64::MAX).0, ["b0.r0.s0"]);
}

#[test]
fn a_message_of_a_large_batch_does_not_keep_it() {
    let batch = crate::testing::batch(100, 700);
    let kept = KeptMessage::new(&batch, 3, Time(1), None);
    assert_eq!(kept.batch.chunk.len(), 700);
    assert_eq!(kept.batch.body(&kept.batch.records[0]), batch.body(&batch.records[3]));
    let again = KeptMessage::new(&kept.batch, 0, Time(1), None);
    assert!(Arc::ptr_eq(&kept.batch, &again.batch), "one that is alone is shared");
}
