//! Selectors: nothing breaks the parser, and what it takes can be evaluated.

#![no_main]

use isthmus_selector::{Selector, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(selector) = Selector::parse(text) else { return };
    selector.matches(&|_| None);
    for value in [
        Value::Int(i64::MIN),
        Value::Float(f64::NAN),
        Value::Bool(true),
        Value::String("%_a".to_owned()),
        Value::Untyped("9".to_owned()),
    ] {
        selector.matches(&|_| Some(value.clone()));
    }
});
