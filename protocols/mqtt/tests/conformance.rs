//! The table of statements names tests that exist.

#![allow(clippy::unwrap_used)] // a failed test may panic

use std::fs;
use std::path::Path;

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
        let (in_a_table, alone) = (format!("\n    {test}: "), format!("fn {test}("));
        if !source.contains(&in_a_table) && !source.contains(&alone) {
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
    let sessions = ["session", "subscriptions", "exactly_once", "lasting", "flow", "losses"];
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
