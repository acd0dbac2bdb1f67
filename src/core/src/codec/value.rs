//! Typed values and tables in the log.

use isthmus_model::{Table, Value};

use super::wire::{DecodeError, Reader, put_bytes, put_int, put_uint};

/// Lists and tables that a value may lie within. Values that are nested deeper are refused when
/// they come in; the log holds none.
pub const LEVELS_MAX: usize = 256;

pub(super) fn put_table(out: &mut Vec<u8>, table: &Table) {
    put_uint(out, table.0.len() as u64);
    for (name, value) in &table.0 {
        put_bytes(out, name.as_bytes());
        put_value(out, value);
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0),
        Value::Bool(b) => out.extend([1, u8::from(*b)]),
        Value::Int(n) => {
            out.push(2);
            put_int(out, *n);
        }
        Value::Uint(n) => {
            out.push(3);
            put_uint(out, *n);
        }
        Value::Float(x) => {
            out.push(4);
            out.extend(x.to_le_bytes());
        }
        Value::Double(x) => {
            out.push(5);
            out.extend(x.to_le_bytes());
        }
        Value::Decimal { scale, unscaled } => {
            out.extend([6, *scale]);
            put_uint(out, u64::from(*unscaled));
        }
        Value::Timestamp(ms) => {
            out.push(7);
            put_int(out, *ms);
        }
        Value::String(s) => {
            out.push(8);
            put_bytes(out, s.as_bytes());
        }
        Value::Binary(b) => {
            out.push(9);
            put_bytes(out, b);
        }
        Value::List(items) => {
            out.push(10);
            put_uint(out, items.len() as u64);
            items.iter().for_each(|v| put_value(out, v));
        }
        Value::Map(table) => {
            out.push(11);
            put_table(out, table);
        }
    }
}

pub(super) fn table(r: &mut Reader<'_>) -> Result<Table, DecodeError> {
    table_at(r, 0)
}

fn table_at(r: &mut Reader<'_>, depth: usize) -> Result<Table, DecodeError> {
    r.list(|r| Ok((r.str()?.to_owned(), value_at(r, depth)?))).map(Table)
}

fn value_at(r: &mut Reader<'_>, depth: usize) -> Result<Value, DecodeError> {
    if depth > LEVELS_MAX {
        return Err(r.error("values nested too deeply"));
    }
    Ok(match r.u8()? {
        0 => Value::Null,
        1 => Value::Bool(r.bool()?),
        2 => Value::Int(r.int()?),
        3 => Value::Uint(r.uint()?),
        4 => Value::Float(f32::from_le_bytes(r.fixed()?)),
        5 => Value::Double(f64::from_le_bytes(r.fixed()?)),
        6 => Value::Decimal { scale: r.u8()?, unscaled: r.u32()? },
        7 => Value::Timestamp(r.int()?),
        8 => Value::String(r.str()?.to_owned()),
        9 => Value::Binary(r.span()?.of(r.payload()).to_vec()),
        10 => Value::List(r.list(|r| value_at(r, depth + 1))?),
        11 => Value::Map(table_at(r, depth + 1)?),
        _ => return Err(r.error("an unknown type of value")),
    })
}
