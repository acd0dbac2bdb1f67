//! Field tables and arrays (specification section 4.2.5.5, with the types of RabbitMQ's errata
//! at <https://www.rabbitmq.com/amqp-0-9-1-errata>), order and duplicates kept.

use isthmus_model::{Table, Value};

use super::reader::{Malformed, Reader};

/// How deep tables and arrays may lie in each other.
pub const DEPTH_MAX: usize = 128;

/// One name and its value, as they lie on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name's bytes.
    pub name: &'a [u8],
    /// The value's type octet.
    pub kind: u8,
    /// The value without type and length octets.
    pub value: &'a [u8],
    /// Everything: name, type and value.
    pub raw: &'a [u8],
}

/// The entries at the top of a table (its bytes without their length).
#[derive(Clone, Debug)]
pub struct Entries<'a>(Reader<'a>);

impl<'a> Entries<'a> {
    /// The entries of `table`.
    pub fn new(table: &'a [u8]) -> Entries<'a> {
        Entries(Reader::new(table))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let before = self.0.rest();
        if before.is_empty() {
            return None;
        }
        let entry = (|| {
            let name = self.0.short_string()?;
            let kind = self.0.u8()?;
            let value = value_bytes(&mut self.0, kind)?;
            Ok(Entry { name, kind, value, raw: &before[..before.len() - self.0.rest().len()] })
        })();
        if entry.is_err() {
            self.0 = Reader::new(&[]);
        }
        Some(entry)
    }
}

/// The first value called `name` in `table`, if the table can be read that far.
pub fn find<'a>(table: &'a [u8], name: &str) -> Option<Entry<'a>> {
    Entries::new(table).map_while(Result::ok).find(|e| e.name == name.as_bytes())
}

/// Takes the bytes of a value of type `kind`, without its length where it has one.
#[inline]
fn value_bytes<'a>(reader: &mut Reader<'a>, kind: u8) -> Result<&'a [u8], Malformed> {
    match kind {
        b'S' | b'x' | b'A' | b'F' => reader.long_string(),
        b'V' => Ok(&[]),
        b't' | b'b' | b'B' => reader.take(1),
        b's' | b'U' | b'u' => reader.take(2),
        b'I' | b'i' | b'f' => reader.take(4),
        b'D' => reader.take(5),
        b'l' | b'L' | b'd' | b'T' => reader.take(8),
        _ => Err(Malformed("field type")),
    }
}

/// Checks the whole of `table` without building anything: types, lengths and depth.
///
/// Iterative, so that no nesting can exhaust the stack.
pub fn validate(table: &[u8]) -> Result<(), Malformed> {
    let mut at = Reader::new(table);
    let mut in_table = true;
    // What is left of the containers around the current one. Flat tables never allocate.
    let mut outer: Vec<(Reader<'_>, bool)> = Vec::new();
    loop {
        while at.is_empty() {
            let Some(parent) = outer.pop() else { return Ok(()) };
            (at, in_table) = parent;
        }
        if in_table {
            at.short_string()?;
        }
        let kind = at.u8()?;
        let value = value_bytes(&mut at, kind)?;
        if matches!(kind, b'A' | b'F') {
            // The table itself is the first level.
            if outer.len() + 1 >= DEPTH_MAX {
                return Err(Malformed("nesting depth"));
            }
            outer.push((at, in_table));
            (at, in_table) = (Reader::new(value), kind == b'F');
        }
    }
}

/// Reads a table (its bytes without their length).
///
/// Names that are not UTF-8 are read with replacement characters; the wire bytes of a message's
/// own headers are never rewritten from this.
pub fn read(table: &[u8]) -> Result<Table, Malformed> {
    read_table(table, 0)
}

fn read_table(table: &[u8], depth: usize) -> Result<Table, Malformed> {
    if depth >= DEPTH_MAX {
        return Err(Malformed("nesting depth"));
    }
    let mut entries = Vec::new();
    for entry in Entries::new(table) {
        let entry = entry?;
        let name = String::from_utf8_lossy(entry.name).into_owned();
        entries.push((name, read_value(entry.kind, entry.value, depth)?));
    }
    Ok(Table(entries))
}

fn read_list(list: &[u8], depth: usize) -> Result<Vec<Value>, Malformed> {
    if depth >= DEPTH_MAX {
        return Err(Malformed("nesting depth"));
    }
    let mut reader = Reader::new(list);
    let mut values = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u8()?;
        let value = value_bytes(&mut reader, kind)?;
        values.push(read_value(kind, value, depth)?);
    }
    Ok(values)
}

/// The value of type `kind` whose bytes are `value`; `depth` containers lie around it, beside
/// the one that it is in.
fn read_value(kind: u8, value: &[u8], depth: usize) -> Result<Value, Malformed> {
    let mut r = Reader::new(value);
    Ok(match kind {
        b't' => Value::Bool(r.u8()? != 0),
        b'b' => Value::Int(i64::from(r.u8()? as i8)),
        b'B' => Value::Uint(u64::from(r.u8()?)),
        // The specification's 'U' is a signed short, which RabbitMQ and its clients spell 's'.
        b's' | b'U' => Value::Int(i64::from(r.u16()? as i16)),
        b'u' => Value::Uint(u64::from(r.u16()?)),
        b'I' => Value::Int(i64::from(r.u32()? as i32)),
        b'i' => Value::Uint(u64::from(r.u32()?)),
        b'l' | b'L' => Value::Int(r.u64()? as i64),
        b'f' => Value::Float(f32::from_bits(r.u32()?)),
        b'd' => Value::Double(f64::from_bits(r.u64()?)),
        b'D' => Value::Decimal { scale: r.u8()?, unscaled: r.u32()? },
        b'T' => Value::Timestamp((r.u64()? as i64).saturating_mul(1000)),
        b'V' => Value::Null,
        b'x' => Value::Binary(value.to_vec()),
        b'S' => match std::str::from_utf8(value) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => Value::Binary(value.to_vec()),
        },
        b'A' => Value::List(read_list(value, depth + 1)?),
        b'F' => Value::Map(read_table(value, depth + 1)?),
        _ => return Err(Malformed("field type")),
    })
}

/// Appends a table with its length.
pub fn write(out: &mut Vec<u8>, table: &Table) {
    with_length(out, |out| {
        for (name, value) in &table.0 {
            write_entry(out, name, value);
        }
    });
}

/// Appends what `write` appends, with its length before it.
pub fn with_length(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// Appends a short string, cut at 255 bytes.
pub fn write_short_string(out: &mut Vec<u8>, text: &[u8]) {
    let text = &text[..text.len().min(255)];
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

/// Appends one name and its value.
pub fn write_entry(out: &mut Vec<u8>, name: &str, value: &Value) {
    write_short_string(out, name.as_bytes());
    write_value(out, value);
}

/// Appends a value with its type.
pub fn write_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |kind: u8, bytes: &[u8]| {
        out.push(kind);
        out.extend_from_slice(bytes);
    };
    match value {
        Value::Null => put(b'V', &[]),
        Value::Bool(b) => put(b't', &[u8::from(*b)]),
        Value::Int(n) => put(b'l', &n.to_be_bytes()),
        Value::Uint(n) => match i64::try_from(*n) {
            Ok(n) => put(b'l', &n.to_be_bytes()),
            // No type that clients agree on holds it: its magnitude is kept.
            Err(_) => put(b'd', &(*n as f64).to_be_bytes()),
        },
        Value::Float(x) => put(b'f', &x.to_be_bytes()),
        Value::Double(x) => put(b'd', &x.to_be_bytes()),
        Value::Decimal { scale, unscaled } => {
            put(b'D', &[*scale]);
            out.extend_from_slice(&unscaled.to_be_bytes());
        }
        Value::Timestamp(ms) => put(b'T', &ms.div_euclid(1000).to_be_bytes()),
        Value::String(text) => {
            put(b'S', &(text.len() as u32).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        Value::Binary(bytes) => {
            put(b'x', &(bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        Value::List(values) => {
            out.push(b'A');
            with_length(out, |out| values.iter().for_each(|v| write_value(out, v)));
        }
        Value::Map(table) => {
            out.push(b'F');
            write(out, table);
        }
    }
}
