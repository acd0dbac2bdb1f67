//! Tables as JSON objects and back.

use isthmus_model::{Table, Value};
use serde_json::{Map, Number, Value as Json};

/// A table as a JSON object; of names that come twice the first counts.
pub(super) fn object(table: &Table) -> Json {
    let mut map = Map::new();
    for (name, value) in &table.0 {
        map.entry(name.clone()).or_insert_with(|| json(value));
    }
    Json::Object(map)
}

/// A value as JSON.
pub(super) fn json(value: &Value) -> Json {
    let double = |n: f64| Number::from_f64(n).map_or(Json::Null, Json::Number);
    match value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(n) | Value::Timestamp(n) => (*n).into(),
        Value::Uint(n) => (*n).into(),
        Value::Float(n) => double(f64::from(*n)),
        Value::Double(n) => double(*n),
        Value::Decimal { scale, unscaled } => {
            double(f64::from(*unscaled) / 10f64.powi(i32::from(*scale)))
        }
        Value::String(text) => Json::String(text.clone()),
        Value::Binary(bytes) => Json::String(String::from_utf8_lossy(bytes).into_owned()),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Map(table) => object(table),
    }
}

/// A JSON object as a table.
pub(super) fn table(map: Map<String, Json>) -> Table {
    Table(map.into_iter().map(|(name, json)| (name, value(json))).collect())
}

/// A JSON value as a value.
pub(super) fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::Int(n),
            (None, Some(n)) => Value::Uint(n),
            (None, None) => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(text),
        Json::Array(items) => Value::List(items.into_iter().map(value).collect()),
        Json::Object(map) => Value::Map(table(map)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json as j;

    use super::*;

    #[test]
    fn what_json_can_say_comes_back_as_it_was() {
        let there = j!({"a": 1, "b": [true, null, "x", 1.5], "c": {"d": -2, "e": u64::MAX}});
        let Json::Object(map) = there.clone() else { unreachable!("an object") };
        assert_eq!(object(&table(map)), there);
    }

    #[test]
    fn what_json_cannot_say_is_told_as_near_as_it_can() {
        assert_eq!(json(&Value::Decimal { scale: 2, unscaled: 125 }), j!(1.25));
        assert_eq!(json(&Value::Binary(b"text".to_vec())), j!("text"));
        assert_eq!(json(&Value::Double(f64::NAN)), Json::Null);
    }
}
