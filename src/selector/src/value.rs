//! Values of headers.

use std::cmp::Ordering;

/// The value of a header, or what comes of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    String(String),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text of a protocol that has no types: beside text it is text, beside a number it is the
    /// number that it looks like, and beside a truth value it is that.
    Untyped(String),
}

/// Two values of one type.
pub(crate) enum Pair<'a> {
    Text(&'a str, &'a str),
    Number(Number, Number),
    Bool(bool, bool),
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    pub(crate) fn as_f64(self) -> f64 {
        match self {
            Number::Int(n) => n as f64,
            Number::Float(x) => x,
        }
    }

    pub(crate) fn compare(self, other: Number) -> Option<Ordering> {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.as_f64().partial_cmp(&b.as_f64()),
        }
    }

    pub(crate) fn value(self) -> Value {
        match self {
            Number::Int(n) => Value::Int(n),
            Number::Float(x) => Value::Float(x),
        }
    }
}

impl Value {
    /// The number that it is, or looks like.
    pub(crate) fn number(&self) -> Option<Number> {
        match self {
            Value::Int(n) => Some(Number::Int(*n)),
            Value::Float(x) => Some(Number::Float(*x)),
            Value::Untyped(text) => {
                let text = text.trim();
                let begins = text.trim_start_matches(['+', '-']);
                // What is read as infinite or as no number is a word of some language.
                if !begins.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
                    return None;
                }
                let int = text.parse().ok().map(Number::Int);
                int.or_else(|| text.parse().ok().map(Number::Float))
            }
            Value::String(_) | Value::Bool(_) => None,
        }
    }

    /// The text that it is.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Value::String(text) | Value::Untyped(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value that it is, or looks like.
    pub(crate) fn truth(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            Value::Untyped(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::Untyped(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }

    /// Both as values of one type; `None` if they are not.
    pub(crate) fn alike<'a>(&'a self, other: &'a Value) -> Option<Pair<'a>> {
        if let (Some(a), Some(b)) = (self.text(), other.text()) {
            return Some(Pair::Text(a, b));
        }
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return Some(Pair::Number(a, b));
        }
        Some(Pair::Bool(self.truth()?, other.truth()?))
    }
}
