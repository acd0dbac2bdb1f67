//! What is told of a run: while it goes on, and at its end.

pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod live;
pub(crate) mod text;

use std::time::Duration;

/// A number a second, with a unit of thousands.
pub(crate) fn rate(count: u64, length: Duration) -> String {
    number(per_second(count, length))
}

pub(crate) fn per_second(count: u64, length: Duration) -> f64 {
    if length.is_zero() { 0.0 } else { count as f64 / length.as_secs_f64() }
}

/// Three digits and a unit of thousands.
pub(crate) fn number(value: f64) -> String {
    let (value, unit) = match value {
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    match value {
        100.0.. => format!("{value:.0}{unit}"),
        10.0.. => format!("{value:.1}{unit}"),
        _ if unit.is_empty() && value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}{unit}"),
    }
}

/// Microseconds, in the unit that suits them.
pub(crate) fn time(us: u64) -> String {
    let value = us as f64;
    match us {
        1_000_000.. => format!("{:.2} s", value / 1e6),
        10_000.. => format!("{:.1} ms", value / 1e3),
        1_000.. => format!("{:.2} ms", value / 1e3),
        _ => format!("{us} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let all = [
            (0.0, "0"),
            (7.0, "7"),
            (0.5, "0.50"),
            (999.0, "999"),
            (1234.0, "1.23k"),
            (2.5e6, "2.50M"),
        ];
        for (value, text) in all {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            (time(12), time(1500), time(2_000_000)),
            ("12 µs".into(), "1.50 ms".into(), "2.00 s".into())
        );
        assert_eq!(rate(500, Duration::from_millis(500)), "1.00k");
    }
}
