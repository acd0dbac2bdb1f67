//! Values of any type as text, for protocols whose headers are text alone: the text, and beside it
//! the name of its type, by which it is read again.
//!
//! The types are `null`, `bool`, `int`, `uint`, `float`, `double`, `decimal`, `timestamp`, `binary`
//! (in hexadecimal digits), `list` and `table`; text has none. Items of a list are
//! `TYPE:BYTES:TEXT` one behind the other; those of a table have `BYTES:NAME` before that. What is
//! nested more than 16 levels deep is not written.

use isthmus_model::{Table, Value};

/// Lists and tables within each other at the most; each level is read once more.
const DEPTH_MAX: usize = 16;

/// A value as text, and the name of its type, empty for text; `None` if it is nested too deep.
pub fn as_text(value: &Value) -> Option<(String, &'static str)> {
    text_within(value, DEPTH_MAX)
}

/// [`as_text`] of a value that may hold `depth` levels.
fn text_within(value: &Value, depth: usize) -> Option<(String, &'static str)> {
    let item = |out: &mut String, value: &Value| {
        let (text, kind) = text_within(value, depth.checked_sub(1)?)?;
        out.push_str(&format!("{kind}:{}:{text}", text.len()));
        Some(())
    };
    Some(match value {
        Value::Null => (String::new(), "null"),
        Value::Bool(b) => (b.to_string(), "bool"),
        Value::Int(n) => (n.to_string(), "int"),
        Value::Uint(n) => (n.to_string(), "uint"),
        Value::Float(x) => (x.to_string(), "float"),
        Value::Double(x) => (x.to_string(), "double"),
        Value::Decimal { scale, unscaled } => (format!("{unscaled}e-{scale}"), "decimal"),
        Value::Timestamp(ms) => (ms.to_string(), "timestamp"),
        Value::String(text) => (text.clone(), ""),
        Value::Binary(data) => (data.iter().map(|byte| format!("{byte:02x}")).collect(), "binary"),
        Value::List(items) => {
            let mut out = String::new();
            items.iter().try_for_each(|value| item(&mut out, value))?;
            (out, "list")
        }
        Value::Map(table) => {
            let mut out = String::new();
            for (name, value) in &table.0 {
                out.push_str(&format!("{}:{name}", name.len()));
                item(&mut out, value)?;
            }
            (out, "table")
        }
    })
}

/// The items of a list or of a table.
struct Items<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Items<'a> {
    /// What stands before the next colon.
    fn word(&mut self) -> Option<&'a str> {
        let (word, rest) = self.rest.split_once(':')?;
        self.rest = rest;
        Some(word)
    }

    /// A text behind its length.
    fn text(&mut self) -> Option<&'a str> {
        let len = self.word()?.parse().ok()?;
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(text)
    }

    fn value(&mut self) -> Option<Value> {
        let kind = self.word()?;
        let text = self.text()?;
        if kind.is_empty() {
            return Some(Value::String(text.to_owned()));
        }
        typed_within(text, kind, self.depth.checked_sub(1)?)
    }

    /// Every item that `read` reads; `None` if one cannot be.
    fn all<T>(mut self, read: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut items = Vec::new();
        while !self.rest.is_empty() {
            items.push(read(&mut self)?);
        }
        Some(items)
    }
}

/// What [`as_text`] has written; text if it is not what `kind` says.
pub fn typed(text: &str, kind: Option<&str>) -> Value {
    kind.and_then(|kind| typed_within(text, kind, DEPTH_MAX))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The value of `kind` that `text` is, of `depth` levels at the most.
fn typed_within(text: &str, kind: &str, depth: usize) -> Option<Value> {
    match kind {
        "null" => text.is_empty().then_some(Value::Null),
        "bool" => text.parse().ok().map(Value::Bool),
        "int" => text.parse().ok().map(Value::Int),
        "uint" => text.parse().ok().map(Value::Uint),
        "float" => text.parse().ok().map(Value::Float),
        "double" => text.parse().ok().map(Value::Double),
        "timestamp" => text.parse().ok().map(Value::Timestamp),
        "decimal" => {
            let (unscaled, scale) = text.split_once("e-")?;
            let (scale, unscaled) = (scale.parse().ok()?, unscaled.parse().ok()?);
            Some(Value::Decimal { scale, unscaled })
        }
        "binary" => bytes_of_hex(text).map(Value::Binary),
        "list" => Items { rest: text, depth }.all(Items::value).map(Value::List),
        "table" => Items { rest: text, depth }
            .all(|items| Some((items.text()?.to_owned(), items.value()?)))
            .map(|entries| Value::Map(Table(entries))),
        _ => None,
    }
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| char::from(*c).to_digit(16).map(|d| d as u8);
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_what_is_not_stays_text() {
        let table = Value::Map(Table(vec![
            ("a".to_owned(), Value::List(vec![Value::Int(-1), Value::Null, Value::Bool(true)])),
            ("b:".to_owned(), Value::Binary(vec![0, 255])),
            ("c".to_owned(), Value::String("1:2".to_owned())),
            ("d".to_owned(), Value::Decimal { scale: 2, unscaled: 314 }),
        ]));
        let (text, kind) = as_text(&table).expect("not deep");
        assert_eq!(kind, "table");
        assert_eq!(typed(&text, Some(kind)), table);
        assert_eq!(typed("x", Some("int")), Value::String("x".to_owned()));
        assert_eq!(typed("1", None), Value::String("1".to_owned()));
        let deep = (0..17).fold(Value::Null, |inner, _| Value::List(vec![inner]));
        assert_eq!(as_text(&deep), None);
    }
}
