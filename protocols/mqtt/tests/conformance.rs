//! The table of statements names tests that exist, and leaves no statement out.

#![allow(clippy::unwrap_used)] // a failed test may panic

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Sections of the OASIS standard of 5.0 with the numbers of their first and last statement.
const V5: &[(&str, u32, u32)] = &[
    ("1.5.4", 1, 3),
    ("1.5.5", 1, 1),
    ("1.5.7", 1, 1),
    ("2.1.3", 1, 1),
    ("2.2.1", 2, 6),
    ("2.2.2", 1, 1),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 30),
    ("3.1.3", 1, 12),
    ("3.1.4", 1, 6),
    ("3.2.0", 1, 2),
    ("3.2.2", 1, 22),
    ("3.3.1", 1, 13),
    ("3.3.2", 1, 20),
    ("3.3.4", 1, 10),
    ("3.4.2", 1, 3),
    ("3.5.2", 1, 3),
    ("3.6.1", 1, 1),
    ("3.6.2", 1, 3),
    ("3.7.2", 1, 3),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 5),
    ("3.8.4", 1, 8),
    ("3.9.2", 1, 2),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.11.2", 1, 2),
    ("3.11.3", 1, 2),
    ("3.12.4", 1, 1),
    ("3.14.0", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.2", 1, 4),
    ("3.14.4", 1, 3),
    ("3.15.1", 1, 1),
    ("3.15.2", 1, 3),
    ("4.1.0", 1, 2),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 5),
    ("4.3.3", 1, 13),
    ("4.4.0", 1, 2),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.0", 1, 1),
    ("4.7.1", 1, 2),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.2", 1, 6),
    ("4.9.0", 1, 3),
    ("4.12.0", 1, 7),
    ("4.12.1", 1, 2),
    ("4.13.1", 1, 1),
    ("4.13.2", 1, 1),
    ("6.0.0", 1, 4),
    ("7.1.1", 1, 1),
    ("7.1.2", 1, 1),
];

/// Those of 3.1.1.
const V3_1_1: &[(&str, u32, u32)] = &[
    ("1.5.3", 1, 3),
    ("2.2.2", 1, 2),
    ("2.3.1", 1, 7),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 24),
    ("3.1.3", 1, 11),
    ("3.1.4", 1, 5),
    ("3.2.0", 1, 1),
    ("3.2.2", 1, 6),
    ("3.3.1", 1, 12),
    ("3.3.2", 1, 3),
    ("3.3.4", 1, 1),
    ("3.3.5", 1, 2),
    ("3.6.1", 1, 1),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 4),
    ("3.8.4", 1, 6),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.12.4", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.4", 1, 3),
    ("4.1.0", 1, 2),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 2),
    ("4.3.3", 1, 2),
    ("4.4.0", 1, 1),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.1", 1, 3),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.0", 1, 2),
    ("6.0.0", 1, 4),
    ("7.0.0", 1, 2),
    ("7.1.1", 1, 1),
    ("7.1.2", 1, 1),
];

/// The statements that the document lists, of 5.0 and of 3.1.1.
fn listed(document: &str) -> [BTreeSet<String>; 2] {
    let mut listed = [BTreeSet::new(), BTreeSet::new()];
    let mut heading = "";
    for line in document.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            heading = text;
        }
        // The first cell of a row, or an item of the list of what clients meet.
        let row = line.strip_prefix("| ").and_then(|line| line.split(" |").next());
        let Some(cell) = row.or_else(|| line.strip_prefix("- ")) else { continue };
        let is_old = heading.contains("3.1.1") || cell.ends_with("of 3.1.1");
        let of = usize::from(is_old || cell.starts_with("3.1.1:"));
        for number in cell.split("MQTT-").skip(1) {
            let end = number.find([',', ' ']).unwrap_or(number.len());
            listed[of].insert(number[..end].to_owned());
        }
    }
    listed
}

#[test]
fn no_statement_is_left_out() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(here.join("../../docs/conformance/mqtt.md")).unwrap();
    for (version, sections, listed) in ["5.0", "3.1.1"]
        .iter()
        .zip([V5, V3_1_1])
        .zip(listed(&document))
        .map(|((a, b), c)| (a, b, c))
    {
        let all: BTreeSet<String> = sections
            .iter()
            .flat_map(|(section, first, last)| {
                (*first..=*last).map(move |number| format!("{section}-{number}"))
            })
            .collect();
        let left_out: Vec<_> = all.difference(&listed).collect();
        assert!(left_out.is_empty(), "of {version}: {left_out:?}");
        let unknown: Vec<_> = listed.difference(&all).collect();
        assert!(unknown.is_empty(), "{version} has no {unknown:?}");
    }
}

#[test]
fn every_named_test_exists() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(here.join("../../docs/conformance/mqtt.md")).unwrap();
    let mut missing = Vec::new();
    let mut named = 0;
    // What stands between backticks and looks like `file::test`.
    for (file, test) in document.split('`').skip(1).step_by(2).filter_map(|t| t.split_once("::")) {
        if file == "file" {
            continue;
        }
        named += 1;
        let path = if file.contains('/') { file.to_owned() } else { format!("tests/{file}.rs") };
        let source = fs::read_to_string(here.join(&path)).unwrap_or_default();
        let forms = [format!("\n    {test}: "), format!("fn {test}("), format!("\ndef {test}(")];
        if !forms.iter().any(|form| source.contains(form)) {
            missing.push(format!("{path}: {test}"));
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
    assert!(named > 150, "only {named} tests are named");
}

#[test]
fn every_test_of_a_statement_is_named() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(here.join("../../docs/conformance/mqtt.md")).unwrap();
    let tables = ["refused_v5", "refused_v3"];
    let sessions =
        ["session", "subscriptions", "exactly_once", "lasting", "flow", "losses", "statements"];
    for file in tables.iter().chain(&sessions) {
        let source = fs::read_to_string(here.join(format!("tests/{file}.rs"))).unwrap();
        for line in source.lines() {
            let line = line.trim_start();
            let alone = line.strip_prefix("fn ").and_then(|line| line.split_once('('));
            let Some((name, _)) = alone.or(line.split_once(": V")) else { continue };
            if name.starts_with("mqtt") || name.starts_with("section") {
                assert!(document.contains(&format!("`{file}::{name}`")), "{name}");
            }
        }
    }
}
