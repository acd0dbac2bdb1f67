//! Messages that an exchange or a virtual host delays, and the queues in which they wait.

use isthmus_model::Table;

/// What the names of queues begin with that hold delayed messages; the exchange's name follows, and
/// none where the virtual host holds them, whatever they were published to.
/// Only the broker knows them: for clients they do not exist.
pub(crate) const HOLDING_PREFIX: &str = "amq.delayed.";

/// The header that says for how long, in milliseconds.
const DELAY: &str = "x-delay";

/// The name of the queue in which messages wait that `exchange` delays.
pub(crate) fn holding_queue(exchange: &str) -> String {
    format!("{HOLDING_PREFIX}{exchange}")
}

/// For how long a message with these headers is to be held, in milliseconds; `None` if it is not
/// to be held.
pub(crate) fn delay_ms(headers: &Table) -> Option<u64> {
    headers.get(DELAY)?.held_for_ms().map(u64::from)
}

#[cfg(test)]
mod tests {
    use isthmus_model::Value;

    use super::*;

    #[test]
    fn a_delay_is_a_positive_number_of_32_bits() {
        let delay = |value| delay_ms(&Table(vec![(DELAY.to_owned(), value)]));
        assert_eq!(delay(Value::Int(1)), Some(1));
        assert_eq!(delay(Value::Uint(u64::from(u32::MAX))), Some(u64::from(u32::MAX)));
        assert_eq!(delay(Value::String("1500".into())), Some(1500));
        assert_eq!(delay(Value::Double(2.9)), Some(2));
        for none in [
            Value::Int(0),
            Value::Int(-5),
            Value::Int(1 << 32),
            Value::Uint(u64::MAX),
            Value::String("soon".into()),
            Value::String("-5".into()),
            Value::Double(0.9),
            Value::Double(f64::NAN),
            Value::Double(1e300),
            Value::Bool(true),
        ] {
            assert_eq!(delay(none.clone()), None, "{none:?}");
        }
        assert_eq!(delay_ms(&Table::default()), None);
    }
}
