//! The table of statements names tests that exist.

#![allow(clippy::unwrap_used)] // a failed test may panic

use std::fs;
use std::path::Path;

#[test]
fn every_named_test_exists() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(here.join("../../docs/conformance/stomp.md")).unwrap();
    let mut missing = Vec::new();
    let mut named = 0;
    // What stands between backticks and looks like `file::test`.
    for (file, test) in document.split('`').skip(1).step_by(2).filter_map(|t| t.split_once("::")) {
        if file == "file" {
            continue;
        }
        named += 1;
        let (path, line) = if file.ends_with(".py") {
            (format!("../../{file}"), format!("\ndef {test}("))
        } else if file.contains('/') {
            (file.to_owned(), format!("fn {test}("))
        } else {
            (format!("tests/{file}.rs"), format!("fn {test}("))
        };
        if !fs::read_to_string(here.join(&path)).unwrap_or_default().contains(&line) {
            missing.push(format!("{path}: {test}"));
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
    assert!(named > 60, "only {named} tests are named");
}

#[test]
fn every_test_of_the_session_and_of_frames_is_named() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(here.join("../../docs/conformance/stomp.md")).unwrap();
    for file in ["session", "sending", "subscriptions", "codec"] {
        let source = fs::read_to_string(here.join(format!("tests/{file}.rs"))).unwrap();
        for line in source.lines() {
            let Some(name) = line.strip_prefix("fn ").and_then(|rest| rest.split_once("() {"))
            else {
                continue;
            };
            // What no statement asks for, but everybody.
            let of_no_statement = [
                "it_is_the_same_at_every_split",
                "what_the_broker_refuses_is_told_in_an_error",
                "large_bodies_are_not_copied",
                "what_a_client_has_sent_before_it_hung_up_is_done",
                "what_was_got_can_be_acknowledged_after_the_subscription",
            ];
            let name = name.0;
            let is_named = document.contains(&format!("`{file}::{name}`"));
            assert!(is_named || of_no_statement.contains(&name), "{file}::{name}");
        }
    }
}
