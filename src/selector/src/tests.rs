//! A table of cases, and properties.

#![allow(clippy::unwrap_used)] // a failed test may panic

use proptest::prelude::*;

use super::*;

/// A message with headers of every type.
fn header(name: &str) -> Option<Value> {
    let text = |text: &str| Some(Value::String(text.to_owned()));
    let untyped = |text: &str| Some(Value::Untyped(text.to_owned()));
    match name {
        "kind" => text("car"),
        "quoted" => text("it's"),
        "percent" => text("50%"),
        "n" => Some(Value::Int(7)),
        "x" => Some(Value::Float(2.5)),
        "yes" => Some(Value::Bool(true)),
        "no" => Some(Value::Bool(false)),
        "u" => untyped("42"),
        "uyes" => untyped("true"),
        "uword" => untyped("infinity"),
        "JMSPriority" => Some(Value::Int(9)),
        "$a.b_1" => text("odd"),
        "content-type" => text("a/b"),
        _ => None,
    }
}

fn matches(text: &str) -> bool {
    Selector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).matches(&header)
}

#[test]
fn what_matches() {
    for text in [
        "TRUE",
        "yes",
        "NOT no",
        "uyes",
        "uyes = TRUE",
        "kind = 'car'",
        "kind <> 'bike'",
        "quoted = 'it''s'",
        "$a.b_1 = 'odd'",
        "\"content-type\" = 'a/b'",
        "n = 7",
        "n = 7.0",
        "n <> 8",
        "n < 8",
        "n <= 7",
        "n > 6",
        "n >= 7",
        "n=+7",
        "n = 0x7",
        "n = 7L",
        "x = 2.5",
        "x = 25e-1",
        "x = 2.5f",
        "x < 3",
        "x > .5",
        "x > 2.",
        "u = 42",
        "u = '42'",
        "u > 41",
        "u BETWEEN 40 AND 50",
        "u + 1 = 43",
        "n + 1 = 8",
        "n - 1 = 6",
        "n * 2 = 14",
        "n / 2 = 3",
        "n + 2 * 3 = 13",
        "(n + 2) * 3 = 27",
        "-n = -7",
        "- -n = 7",
        "n - -1 = 8",
        "x * 2 = 5",
        "n - 1 - 1 = 5",
        "-9223372036854775808 < n",
        "n BETWEEN 7 AND 7",
        "n NOT BETWEEN 8 AND 9",
        "x between 2 and 3",
        "kind IN ('bike', 'car')",
        "kind NOT IN ('bike')",
        "not kind in ('x')",
        "kind LIKE 'c%'",
        "kind LIKE '_ar'",
        "kind LIKE '%'",
        "kind LIKE 'car%%'",
        "kind NOT LIKE 'c_'",
        "percent LIKE '%!%' ESCAPE '!'",
        "percent LIKE '50\\%' ESCAPE '\\'",
        "kind LIKE '%a%'",
        "missing IS NULL",
        "kind IS NOT NULL",
        "NOT missing IS NOT NULL",
        "JMSPriority >= 9",
        "yes = TRUE AND no = FALSE",
        "yes <> no",
        "kind = 'bike' OR n = 7",
        "missing = 1 OR yes",
        "no AND missing = 1 OR yes",
        "(no OR yes) AND yes",
        "NOT (no AND missing = 1)",
        "NOT no AND yes",
        "n / 0 = 1 OR yes",
        "kind = 'car' and (n > 5 or x > 5)",
    ] {
        assert!(matches(text), "{text}");
    }
}

#[test]
fn what_does_not() {
    for text in [
        "FALSE",
        "no",
        "missing",
        "NOT yes",
        "kind",
        "kind = 'Car'",
        "kind = 'car '",
        "KIND = 'car'",
        "missing = 1",
        "missing <> 1",
        "NOT missing = 1",
        "NOT (missing = 1)",
        "missing BETWEEN 1 AND 2",
        "missing NOT BETWEEN 1 AND 2",
        "missing IN ('a')",
        "missing NOT IN ('a')",
        "missing LIKE '%'",
        "missing NOT LIKE '%'",
        "missing IS NOT NULL",
        "kind IS NULL",
        "n = kind",
        "n <> kind",
        "kind > n",
        "kind = yes",
        "kind < kind",
        "yes > no",
        "yes AND missing = 1",
        "no OR missing = 1",
        "n + missing = 7",
        "n / 0 = 1",
        "n / 0 <> 1",
        "9223372036854775807 + n > 0",
        "n BETWEEN 8 AND 6",
        "n BETWEEN missing AND 6",
        "kind LIKE 'c'",
        "kind LIKE '_'",
        "kind LIKE 'ar%'",
        "n LIKE '7'",
        "kind LIKE ''",
        "percent LIKE '%!%' ESCAPE '\\'",
        "n IN ('7')",
        "uword > 1",
        "uword",
        "uword = 0",
    ] {
        assert!(!matches(text), "{text}");
    }
}

#[test]
fn errors_say_where_and_what_was_expected() {
    for (text, at, expected) in [
        ("", 1, "a name, a value or ("),
        ("n", 0, ""),
        ("n = ", 5, "a name, a value or ("),
        ("n == 7", 4, "a name, a value or ("),
        ("n != 7", 3, "<> for what is not equal"),
        ("kind = 'car", 8, "a second quote"),
        ("\"kind = 7", 1, "a second quote"),
        ("n = 7 8", 7, "AND, OR or the end"),
        ("n = 7)", 6, "AND, OR or the end"),
        ("(n = 7", 7, ")"),
        ("n IS 7", 6, "NULL or NOT NULL"),
        ("n NOT 7", 7, "BETWEEN, IN or LIKE"),
        ("n BETWEEN 1 OR 2", 13, "AND and the upper bound"),
        ("kind IN 'a'", 9, "( and a list"),
        ("kind IN ()", 10, "a text in single quotes"),
        ("kind IN ('a' 'b')", 14, ", or )"),
        ("kind IN (1)", 10, "a text in single quotes"),
        ("'a' IN ('a')", 1, "the name of a header before IN"),
        ("kind LIKE n", 11, "a pattern in single quotes"),
        ("kind LIKE 'a' ESCAPE 'ab'", 22, "one character"),
        ("kind LIKE 'a!' ESCAPE '!'", 11, "a character behind the last escape"),
        ("kind > 'a'", 8, "a number: texts"),
        ("n + 1", 1, "a condition"),
        ("'a'", 1, "a condition"),
        ("NOT 7", 5, "a condition behind NOT"),
        ("n AND 7", 7, "a condition on each side"),
        ("'a' + 1 = 2", 1, "numbers on both sides"),
        ("n = 7 = 8", 7, "AND, OR or the end"),
        ("7 = 'a'", 5, "a value of the type on the left"),
        ("n = 9223372036854775808", 5, "no more than 64 bits"),
        ("n = 99999999999999999999", 5, "no more than 64 bits"),
        ("n = 7x", 6, "a blank or an operator"),
        ("n # 7", 3, "a name, a value or an operator"),
        ("ä = 'b' ?", 9, "a name, a value or an operator"),
        ("NULL = n", 1, "a name, a value or ("),
    ] {
        match Selector::parse(text) {
            Ok(_) => assert_eq!(at, 0, "{text} is a selector"),
            Err(SelectorError::Syntax { at: is_at, expected: said, .. }) => {
                assert_eq!(is_at, at, "{text}");
                assert!(said.contains(expected), "{text}: {said}");
            }
            Err(other) => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn long_and_deep_ones_are_refused_and_long_chains_are_not_deep() {
    let long = format!("n = {}", " ".repeat(BYTES_MAX));
    assert_eq!(Selector::parse(&long), Err(SelectorError::TooLong { bytes: long.len() }));
    for (before, after) in [("(", ")"), ("NOT ", ""), ("- ", " = 1")] {
        let nested = |n: usize| {
            let closing = if after == ")" { n } else { 1 };
            format!("{}n{}", before.repeat(n), after.repeat(closing))
        };
        assert!(Selector::parse(&nested(DEPTH_MAX)).is_ok(), "{before}");
        let error = Selector::parse(&nested(DEPTH_MAX + 1)).unwrap_err();
        assert!(matches!(error, SelectorError::TooDeep { .. }), "{before}: {error}");
    }
    let all = vec!["n = 7"; 1_000].join(" AND ");
    assert!(matches(&all));
    let sum = format!("0{} = 7000", "+n".repeat(1_000));
    assert!(matches(&sum));
}

/// A condition over few headers, and what it is by rules written down a second time.
#[derive(Clone, Debug)]
enum Model {
    Yes,
    No,
    Unknown,
    Not(Box<Model>),
    And(Box<Model>, Box<Model>),
    Or(Box<Model>, Box<Model>),
}

impl Model {
    fn text(&self) -> String {
        match self {
            Model::Yes => "n = 7".to_owned(),
            Model::No => "kind LIKE 'x%'".to_owned(),
            Model::Unknown => "missing > 1".to_owned(),
            Model::Not(inner) => format!("NOT ({})", inner.text()),
            Model::And(a, b) => format!("({}) AND ({})", a.text(), b.text()),
            Model::Or(a, b) => format!("({}) OR ({})", a.text(), b.text()),
        }
    }

    /// 0 for false, 1 for unknown, 2 for true: AND is the lesser, OR the greater (Kleene).
    fn truth(&self) -> u8 {
        match self {
            Model::Yes => 2,
            Model::No => 0,
            Model::Unknown => 1,
            Model::Not(inner) => 2 - inner.truth(),
            Model::And(a, b) => a.truth().min(b.truth()),
            Model::Or(a, b) => a.truth().max(b.truth()),
        }
    }
}

fn model() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![Just(Model::Yes), Just(Model::No), Just(Model::Unknown)];
    leaf.prop_recursive(6, 40, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|m| Model::Not(Box::new(m))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Model::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner).prop_map(|(a, b)| Model::Or(Box::new(a), Box::new(b))),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in "\\PC{0,60}") {
        let _ = Selector::parse(&text).map(|selector| selector.matches(&header));
    }

    #[test]
    fn nothing_of_its_own_words_makes_it_panic(
        words in proptest::collection::vec(
            prop_oneof![
                Just("n"), Just("kind"), Just("'a'"), Just("7"), Just("2.5"), Just("("), Just(")"),
                Just("AND"), Just("OR"), Just("NOT"), Just("="), Just("<"), Just("LIKE"),
                Just("IN"), Just(","), Just("IS"), Just("NULL"), Just("BETWEEN"), Just("-"),
                Just("*"), Just("ESCAPE"), Just("TRUE"),
            ],
            0..14,
        ),
    ) {
        let text = words.join(" ");
        let _ = Selector::parse(&text).map(|selector| selector.matches(&header));
    }

    #[test]
    fn three_values_are_kept_apart(model in model()) {
        let selector = Selector::parse(&model.text()).unwrap();
        prop_assert_eq!(selector.matches(&header), model.truth() == 2);
        let negated = Selector::parse(&format!("NOT ({})", model.text())).unwrap();
        prop_assert_eq!(negated.matches(&header), model.truth() == 0);
    }

    #[test]
    fn a_pattern_is_like_the_texts_that_it_was_made_of(
        parts in proptest::collection::vec(("[ab%_!]{0,3}", any::<bool>()), 0..5),
    ) {
        // Between the parts stands % or _, and in the text anything, or one character.
        let (mut pattern, mut text) = (String::new(), String::new());
        for (part, is_any) in &parts {
            for c in part.chars() {
                pattern.push('!');
                pattern.push(c);
            }
            text.push_str(part);
            pattern.push(if *is_any { '%' } else { '_' });
            text.push_str(if *is_any { "xa%b" } else { "%" });
        }
        text.push('.');
        let selector = Selector::parse(&format!("t LIKE '{pattern}.' ESCAPE '!'")).unwrap();
        prop_assert!(selector.matches(&|_| Some(Value::String(text.clone()))));
        let other = format!("{text}z");
        prop_assert!(!selector.matches(&|_| Some(Value::String(other.clone()))));
    }

    #[test]
    fn sums_are_those_of_the_numbers(a in any::<i32>(), b in any::<i32>(), c in 1i32..1000) {
        let (a, b, c) = (i64::from(a), i64::from(b), i64::from(c));
        let text = format!("a + b * {c} - b / {c} = {}", a + b * c - b / c);
        let selector = Selector::parse(&text).unwrap();
        let header = |name: &str| Some(Value::Int(if name == "a" { a } else { b }));
        prop_assert!(selector.matches(&header), "{}", text);
    }
}
