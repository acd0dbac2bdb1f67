//! Values compared by meaning, and told in words.
//!
//! Equality of tables as they were declared would tell an `i16` 10 from an `i64` 10 and one order
//! of arguments from another, and floating-point values have no equality or order of use to a
//! map. So values are written in a canonical form, whose bytes are equal exactly if the values
//! mean the same: it can be compared, ordered, hashed and searched for.

use std::fmt::Write;
use std::sync::Arc;

use isthmus_model::{Table, Value};

/// The canonical form of a [`Table`], independent of its order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Canonical(Arc<[u8]>);

impl Canonical {
    /// The form of `table`.
    pub(super) fn of(table: &Table) -> Canonical {
        // Most bindings have no arguments, and an empty slice is not allocated.
        if table.is_empty() {
            return Canonical::default();
        }
        let mut bytes = Vec::new();
        write_table(table, &mut bytes);
        Canonical(bytes.into())
    }
}

/// Whether both values mean the same.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    let form = |value| {
        let mut bytes = Vec::new();
        write_value(value, &mut bytes);
        bytes
    };
    form(a) == form(b)
}

/// What a form begins with: no two kinds of values mean the same, except as [`write_value`] says.
mod tag {
    pub(super) const NULL: u8 = 0;
    pub(super) const BOOL: u8 = 1;
    pub(super) const INTEGER: u8 = 2;
    pub(super) const FLOAT: u8 = 3;
    pub(super) const DECIMAL: u8 = 4;
    pub(super) const TIMESTAMP: u8 = 5;
    pub(super) const BYTES: u8 = 6;
    pub(super) const LIST: u8 = 7;
    pub(super) const MAP: u8 = 8;
}

/// Appends the form of `value`. Numbers are the same if they are equal as numbers, whatever their
/// types; text is the same as its bytes, since AMQP 0-9-1's long strings are either.
pub(crate) fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(tag::NULL),
        Value::Bool(b) => out.extend([tag::BOOL, u8::from(*b)]),
        Value::Int(n) => write_integer(i128::from(*n), out),
        Value::Uint(n) => write_integer(i128::from(*n), out),
        Value::Float(x) => write_float(f64::from(*x), out),
        Value::Double(x) => write_float(*x, out),
        Value::Decimal { scale, unscaled } => write_decimal(*scale, *unscaled, out),
        Value::Timestamp(ms) => {
            out.push(tag::TIMESTAMP);
            out.extend(ms.to_be_bytes());
        }
        Value::String(s) => {
            out.push(tag::BYTES);
            write_bytes(s.as_bytes(), out);
        }
        Value::Binary(b) => {
            out.push(tag::BYTES);
            write_bytes(b, out);
        }
        Value::List(items) => {
            out.push(tag::LIST);
            out.extend((items.len() as u64).to_be_bytes());
            items.iter().for_each(|item| write_value(item, out));
        }
        Value::Map(table) => {
            out.push(tag::MAP);
            write_table(table, out);
        }
    }
}

/// Appends `bytes` behind their length, so that what follows cannot be taken for a part of them.
pub(super) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn write_table(table: &Table, out: &mut Vec<u8>) {
    let mut fields: Vec<&(String, Value)> = table.0.iter().collect();
    // Stable: fields of one name keep their order, which is all that tells them apart.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    out.extend((fields.len() as u64).to_be_bytes());
    for (name, value) in fields {
        write_bytes(name.as_bytes(), out);
        write_value(value, out);
    }
}

fn write_integer(n: i128, out: &mut Vec<u8>) {
    out.push(tag::INTEGER);
    out.extend(n.to_be_bytes());
}

fn write_float(x: f64, out: &mut Vec<u8>) {
    // Below 2^64 every whole double is an i128 exactly; beyond, no integer value can equal it.
    if x.fract() == 0.0 && x.abs() <= u64::MAX as f64 {
        return write_integer(x as i128, out);
    }
    // All NaNs are one, lest a binding with one could never be found again.
    let x = if x.is_nan() { f64::NAN } else { x };
    out.push(tag::FLOAT);
    out.extend(x.to_bits().to_be_bytes());
}

fn write_decimal(mut scale: u8, mut unscaled: u32, out: &mut Vec<u8>) {
    while scale > 0 && unscaled.is_multiple_of(10) {
        // Zero has no digit to stop at.
        scale = if unscaled == 0 { 0 } else { scale - 1 };
        unscaled /= 10;
    }
    if scale == 0 {
        return write_integer(i128::from(unscaled), out);
    }
    out.extend([tag::DECIMAL, scale]);
    out.extend(unscaled.to_be_bytes());
}

/// `value` as RabbitMQ tells it in a refusal, under its AMQP 0-9-1 type.
pub(super) fn describe(value: Option<&Value>) -> Arc<str> {
    let Some(value) = value else { return "none".into() };
    let kind = match value {
        Value::Null => "void",
        Value::Bool(_) => "bool",
        Value::Int(n) if i32::try_from(*n).is_ok() => "signedint",
        Value::Uint(n) if i32::try_from(*n).is_ok() => "signedint",
        Value::Int(_) | Value::Uint(_) => "long",
        Value::Float(_) => "float",
        Value::Double(_) => "double",
        Value::Decimal { .. } => "decimal",
        Value::Timestamp(_) => "timestamp",
        Value::String(_) => "longstr",
        Value::Binary(_) => "binary",
        Value::List(_) => "array",
        Value::Map(_) => "table",
    };
    format!("the value '{}' of type '{kind}'", plain(value)).into()
}

/// `value` without its type.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "undefined".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) | Value::Timestamp(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Double(x) => x.to_string(),
        Value::Decimal { scale, unscaled } => format!("{unscaled}e-{scale}"),
        Value::String(s) => s.clone(),
        Value::Binary(b) => b.iter().fold(String::from("0x"), |mut hex, byte| {
            // Writing to a string does not fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        Value::List(items) => {
            format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(","))
        }
        Value::Map(table) => {
            let fields = table.0.iter().map(|(name, value)| format!("{name}={}", plain(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(fields: &[(&str, Value)]) -> Table {
        Table(fields.iter().map(|(n, v)| ((*n).to_string(), v.clone())).collect())
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        assert!(same(&Value::Int(5), &Value::Uint(5)));
        assert!(same(&Value::Int(5), &Value::Double(5.0)));
        assert!(same(&Value::Float(0.5), &Value::Double(0.5)));
        assert!(same(&Value::Double(-0.0), &Value::Int(0)));
        assert!(same(&Value::Double(f64::NAN), &Value::Float(-f32::NAN)));
        assert!(same(
            &Value::Decimal { scale: 3, unscaled: 1500 },
            &Value::Decimal { scale: 1, unscaled: 15 }
        ));
        assert!(same(&Value::Decimal { scale: 9, unscaled: 0 }, &Value::Int(0)));
        // 2^53 + 1 is no double: converted the other way the two would be equal.
        assert!(!same(&Value::Int((1 << 53) + 1), &Value::Double((1u64 << 53) as f64)));
        assert!(!same(&Value::Int(5), &Value::Timestamp(5)));
        assert!(!same(&Value::Bool(true), &Value::Int(1)));
        assert!(!same(&Value::Double(f64::INFINITY), &Value::Double(f64::NEG_INFINITY)));
    }

    #[test]
    fn text_is_its_bytes() {
        assert!(same(&Value::String("ab".into()), &Value::Binary(b"ab".to_vec())));
        assert!(!same(&Value::String("5".into()), &Value::Int(5)));
    }

    #[test]
    fn order_in_a_table_does_not_matter_and_order_in_a_list_does() {
        let one = table(&[("a", Value::Int(1)), ("b", Value::Null)]);
        let two = table(&[("b", Value::Null), ("a", Value::Uint(1))]);
        assert_eq!(Canonical::of(&one), Canonical::of(&two));
        assert!(same(&Value::Map(one), &Value::Map(two)));
        let list = |a, b| Value::List(vec![Value::Int(a), Value::Int(b)]);
        assert!(!same(&list(1, 2), &list(2, 1)));
        // What is between two values is told apart from what is in one.
        assert_ne!(
            Canonical::of(&table(&[("a", Value::String("b".into()))])),
            Canonical::of(&table(&[("ab", Value::String(String::new()))]))
        );
    }

    #[test]
    fn refusals_are_told_as_rabbitmq_tells_them() {
        assert_eq!(&*describe(None), "none");
        assert_eq!(&*describe(Some(&Value::Int(10))), "the value '10' of type 'signedint'");
        assert_eq!(&*describe(Some(&Value::String("x".into()))), "the value 'x' of type 'longstr'");
    }
}
