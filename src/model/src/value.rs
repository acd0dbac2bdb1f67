//! Typed values of message properties and of declaration arguments, protocol-neutral.

/// A typed value. The set is that of AMQP 1.0 (part 1, types), the hub of all conversions, with
/// AMQP 0-9-1's decimal beside it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer of any width.
    Int(i64),
    /// An unsigned integer of any width.
    Uint(u64),
    /// A single-precision number.
    Float(f32),
    /// A double-precision number.
    Double(f64),
    /// An AMQP 0-9-1 decimal: `unscaled` / 10^`scale`.
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// The number without its point.
        unscaled: u32,
    },
    /// Milliseconds since the Unix epoch.
    Timestamp(i64),
    /// Text.
    String(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A table in its order, duplicates kept.
    Map(Table),
}

impl Value {
    /// The value as text, if it is text, or bytes that are UTF-8 (AMQP 0-9-1's long strings do
    /// not tell the two apart).
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            Value::Binary(b) => std::str::from_utf8(b).ok(),
            _ => None,
        }
    }

    /// The value as an integer, if it is one and fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Uint(n) => i64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// For how many milliseconds a message is held that has this as its header `x-delay`: positive
    /// numbers of 32 bits, also those that are written as a text, and without what is behind the
    /// point. What is 0, negative, longer (49 days) or no number holds nothing back, as with
    /// RabbitMQ's plugin.
    pub fn held_for_ms(&self) -> Option<u32> {
        let ms = match self {
            Value::String(text) => text.trim().parse().ok()?,
            // What does not fit is at the ends of the range, and too long or negative there.
            Value::Double(ms) => *ms as i64,
            other => other.as_i64()?,
        };
        u32::try_from(ms).ok().filter(|ms| *ms > 0)
    }
}

/// Names and values in the order of the wire, duplicates kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table(pub Vec<(String, Value)>);

impl Table {
    /// The first value under `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a value in it lies within more than `levels_max` lists and tables. Does not recurse:
    /// it is asked about what came from outside, before anything else looks at it.
    pub fn nests_deeper_than(&self, levels_max: usize) -> bool {
        let mut left: Vec<(&Value, usize)> = self.0.iter().map(|(_, value)| (value, 0)).collect();
        while let Some((value, level)) = left.pop() {
            if level > levels_max {
                return true;
            }
            match value {
                Value::List(items) => left.extend(items.iter().map(|item| (item, level + 1))),
                Value::Map(table) => {
                    left.extend(table.0.iter().map(|(_, value)| (value, level + 1)));
                }
                _ => {}
            }
        }
        false
    }
}
