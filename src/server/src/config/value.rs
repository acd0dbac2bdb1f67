//! A value as a source gave it, and how settings of each type are read from it.

use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;

use toml::de::DeValue;

use super::units::{ByteSize, TimeSpan};

/// A value from a file, or the text of one from the environment or the command line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML float.
    Fraction(f64),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array.
    List(Vec<Value>),
    /// A TOML table, in the order of the file.
    Table(Vec<(String, Value)>),
    /// Anything else TOML has, by its name; no setting takes one.
    Other(&'static str),
    /// Text from the environment or the command line, where only the setting knows its type.
    Given(String),
}

impl Value {
    /// The value as TOML parsed it, which bounds how deep it is nested.
    pub(crate) fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Self::Other("an integer beyond 64 bits"), Self::Integer),
            DeValue::Boolean(flag) => Self::Boolean(*flag),
            DeValue::Array(items) => {
                Self::List(items.iter().map(|item| Self::from_toml(item.get_ref())).collect())
            }
            DeValue::Float(number) => number
                .as_str()
                .parse()
                .map_or(Self::Other("a number beyond 64 bits"), Self::Fraction),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(table) => {
                let mut entries: Vec<_> = table.iter().collect();
                entries.sort_by_key(|(name, _)| name.span().start);
                let entry =
                    |(name, value): (&toml::Spanned<Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
                        (name.get_ref().to_string(), Self::from_toml(value.get_ref()))
                    };
                Self::Table(entries.into_iter().map(entry).collect())
            }
        }
    }

    /// What kind of value this is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Given(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Fraction(_) => "a fraction",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }

    /// The text of a string, from wherever it came.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Given(text) => Some(text),
            _ => None,
        }
    }
}

/// A type that settings have.
pub(crate) trait Setting: Sized {
    /// Reads the value.
    ///
    /// # Errors
    ///
    /// What is wrong with it and how to write it, without the key.
    fn read(value: &Value) -> Result<Self, String>;
}

impl Setting for String {
    fn read(value: &Value) -> Result<Self, String> {
        value
            .text()
            .map(str::to_owned)
            .ok_or_else(|| format!("must be a string, not {}", value.kind()))
    }
}

impl Setting for PathBuf {
    fn read(value: &Value) -> Result<Self, String> {
        String::read(value).map(Self::from)
    }
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(flag) => Ok(*flag),
            Value::Given(text) => {
                text.parse().map_err(|_| format!("must be true or false, not `{text}`"))
            }
            other => Err(format!("must be true or false, not {}", other.kind())),
        }
    }
}

impl Setting for u32 {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Integer(number) => Self::try_from(*number)
                .map_err(|_| format!("must be from 0 to {}, not {number}", Self::MAX)),
            Value::Given(text) => {
                text.parse().map_err(|_| format!("must be a whole number, not `{text}`"))
            }
            other => Err(format!("must be an integer, not {}", other.kind())),
        }
    }
}

impl Setting for ByteSize {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Integer(number) => u64::try_from(*number)
                .map(Self)
                .map_err(|_| format!("a size cannot be negative: {number}")),
            Value::Text(text) | Value::Given(text) => text.parse(),
            other => Err(format!("must be a size like \"64 MiB\", not {}", other.kind())),
        }
    }
}

impl Setting for TimeSpan {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Given(text) => text.parse(),
            other => {
                Err(format!("must be a time with its unit, like \"10s\", not {}", other.kind()))
            }
        }
    }
}

impl Setting for Vec<String> {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::List(items) => items.iter().map(String::read).collect(),
            Value::Given(text) if text.is_empty() => Ok(Self::new()),
            // As it stands in a file.
            Value::Given(text) if text.trim_start().starts_with('[') => {
                let list = format!("list = {text}").parse::<toml::Table>();
                let strings = list.ok().and_then(|mut list| list.remove("list")?.try_into().ok());
                strings.ok_or_else(|| format!("must be a list of strings, not `{text}`"))
            }
            Value::Given(text) => Ok(text.split(',').map(|part| part.trim().to_owned()).collect()),
            other => Err(format!("must be a list of strings, not {}", other.kind())),
        }
    }
}

/// Reads a setting that is one of a few words, naming them all when it is none of them.
pub(crate) fn read_word<T: FromStr>(value: &Value, words: &str) -> Result<T, String> {
    let text = value.text().ok_or_else(|| format!("must be {words}, not {}", value.kind()))?;
    text.parse().map_err(|_| format!("must be {words}, not `{text}`"))
}
