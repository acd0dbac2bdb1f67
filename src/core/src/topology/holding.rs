//! Messages that an exchange delays, and the queues in which they wait.

use isthmus_model::Table;

/// What the names of queues begin with that hold delayed messages; the exchange's name follows.
/// Only the broker knows them: for clients they do not exist.
pub(crate) const HOLDING_PREFIX: &str = "amq.delayed.";

/// The header that says for how long, in milliseconds.
const DELAY: &str = "x-delay";

/// The longest delay, in milliseconds. What asks for more is not delayed at all, as with RabbitMQ's
/// plugin.
const DELAY_MS_MAX: i64 = u32::MAX as i64;

/// The name of the queue in which messages wait that `exchange` delays.
pub(crate) fn holding_queue(exchange: &str) -> String {
    format!("{HOLDING_PREFIX}{exchange}")
}

/// For how long a message with these headers is to be held, in milliseconds; `None` if it is not
/// to be held.
pub(crate) fn delay_ms(headers: &Table) -> Option<u64> {
    let ms = headers.get(DELAY)?.as_i64()?;
    (1..=DELAY_MS_MAX).contains(&ms).then_some(ms.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use isthmus_model::Value;

    use super::*;

    #[test]
    fn a_delay_is_a_positive_integer_of_32_bits() {
        let delay = |value| delay_ms(&Table(vec![(DELAY.to_owned(), value)]));
        assert_eq!(delay(Value::Int(1)), Some(1));
        assert_eq!(delay(Value::Uint(u64::from(u32::MAX))), Some(u64::from(u32::MAX)));
        for none in [
            Value::Int(0),
            Value::Int(-5),
            Value::Int(1 << 32),
            Value::Uint(u64::MAX),
            Value::String("soon".into()),
            Value::Bool(true),
        ] {
            assert_eq!(delay(none.clone()), None, "{none:?}");
        }
        assert_eq!(delay_ms(&Table::default()), None);
    }
}
