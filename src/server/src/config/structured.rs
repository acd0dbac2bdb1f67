//! Settings with a structure of their own, such as queries to a directory: read by serde, with
//! what is unknown refused by name and the nearest known name suggested.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use toml::de::DeTable;

use super::keys::nearest;
use super::value::{Setting, Value};

/// A setting of a type that serde reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Structured<T>(pub(crate) T);

impl<T: DeserializeOwned> Setting for Structured<T> {
    fn read(value: &Value) -> Result<Self, String> {
        let value = match value {
            Value::Given(text) => given(text)?,
            other => other.clone(),
        };
        T::deserialize(Read(value)).map(Self).map_err(|error| error.0)
    }
}

/// The environment and the command line give such a value as TOML.
fn given(text: &str) -> Result<Value, String> {
    let line = format!("value = {text}");
    let table = DeTable::parse(&line).map_err(|error| {
        format!("must be a TOML value: {}", error.message().replace('\n', "; "))
    })?;
    let value = table.get_ref().get("value").map(|value| Value::from_toml(value.get_ref()));
    match value {
        Some(value) if table.get_ref().len() == 1 => Ok(value),
        _ => Err("must be a single TOML value".to_owned()),
    }
}

/// A value that serde reads from.
struct Read(Value);

/// What serde says of a value.
#[derive(Debug)]
struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A refusal of `name`.
fn unknown(what: &str, name: &str, known: &'static [&'static str]) -> Error {
    let hint = match nearest(name, known.iter().copied()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are {}", known.join(", ")),
    };
    Error(format!("unknown {what} `{name}`; {hint}"))
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        unknown("key", name, known)
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        unknown("word", name, known)
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(format!("must be {expected}, not {found}"))
    }
}

impl IntoDeserializer<'_, Error> for Read {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> de::Deserializer<'de> for Read {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Text(text) | Value::Given(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Fraction(number) => visitor.visit_f64(number),
            Value::Boolean(flag) => visitor.visit_bool(flag),
            Value::List(items) => {
                let mut items = SeqDeserializer::new(items.into_iter().map(Read));
                let read = visitor.visit_seq(&mut items)?;
                items.end().map(|()| read)
            }
            Value::Table(entries) => {
                let entries = entries.into_iter().map(|(name, value)| (name, Read(value)));
                let mut entries = MapDeserializer::new(entries);
                let read = visitor.visit_map(&mut entries)?;
                entries.end().map(|()| read)
            }
            Value::Other(kind) => Err(Error(format!("cannot be {kind}"))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Text(text) => visitor.visit_enum(text.into_deserializer()),
            Value::Table(entries) if entries.len() == 1 => {
                let entries = entries.into_iter().map(|(name, value)| (name, Read(value)));
                visitor.visit_enum(de::value::MapAccessDeserializer::new(MapDeserializer::new(
                    entries,
                )))
            }
            Value::Table(_) => {
                Err(Error(format!("must have exactly one of {}", variants.join(", "))))
            }
            other => Err(Error(format!(
                "must be a table like {{ {} = … }}, not {}",
                variants[0],
                other.kind()
            ))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use isthmus_ldap::{Operand, Query};

    use super::*;

    fn query(text: &str) -> Result<Query, String> {
        Structured::read(&Value::Given(text.to_owned())).map(|query| query.0)
    }

    #[test]
    fn a_structure_is_read_from_toml() {
        assert_eq!(query("{ constant = true }"), Ok(Query::Constant(true)));
        let equals =
            query("{ not = { equals = [\"${name}\", { dn = \"x\", attribute = \"y\" }] } }");
        let Ok(Query::Not(inner)) = equals else { panic!("{equals:?}") };
        assert!(matches!(*inner, Query::Equals([Operand::Text(_), Operand::Attribute(_)])));
    }

    #[test]
    fn what_is_unknown_is_named_with_what_is_near() {
        let refused = |text| query(text).expect_err("refused");
        assert_eq!(
            refused("{ in_grup = \"x\" }"),
            "unknown word `in_grup`; did you mean `in_group`?"
        );
        let text =
            "{ for = [{ variabel = \"name\", value = \"x\", query = { constant = true } }] }";
        assert_eq!(refused(text), "unknown key `variabel`; did you mean `variable`?");
        assert!(refused("{ frobnicate = 1 }").contains("there are constant, in_group"));
        assert!(refused("{ in_group = 5 }").starts_with("a group is its distinguished name"));
        assert!(refused("{ constant = \"yes\" }").starts_with("must be a boolean, not string"));
        assert!(refused("{ constant = true, not = true }").contains("exactly one of"));
        assert!(refused("true").starts_with("must be a table like { constant = … }"));
        assert!(refused("{").starts_with("must be a TOML value"));
        assert!(refused("{ constant = true }\nmore = 1").contains("single"));
    }
}
