//! `[alarms]`: when publishers are held back.

use std::fmt;
use std::str::FromStr;

use super::units::{ByteSize, TimeSpan};
use super::value::{Setting, Value};

/// When publishers are held back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alarms {
    /// The memory this process may have resident.
    pub(crate) memory: MemoryLimit,
    /// What must be free on the file system of the data directory; 0 for no limit.
    pub(crate) disk_free: ByteSize,
    /// The time between two looks.
    pub(crate) check_interval: TimeSpan,
}

impl Default for Alarms {
    fn default() -> Self {
        Self {
            memory: MemoryLimit::Fraction(0.4),
            disk_free: ByteSize::gib(1),
            check_interval: TimeSpan(std::time::Duration::from_millis(100)),
        }
    }
}

/// A limit of memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MemoryLimit {
    /// None.
    Off,
    /// This part of what the machine has, or the control group allows.
    Fraction(f64),
    /// So much.
    Size(ByteSize),
}

/// The smallest limit that makes sense.
const SIZE_MIN: ByteSize = ByteSize::mib(16);

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "off" {
            return Ok(Self::Off);
        }
        let digits = |c: char| c.is_ascii_digit() || c == '.';
        if text.contains('.') && text.chars().all(digits) {
            let fraction = text.parse::<f64>().map_err(|_| not_a_limit(&format!("`{text}`")))?;
            return Self::fraction(fraction);
        }
        text.parse::<ByteSize>().and_then(Self::size)
    }
}

impl MemoryLimit {
    fn fraction(fraction: f64) -> Result<Self, String> {
        if (0.01..=1.0).contains(&fraction) {
            Ok(Self::Fraction(fraction))
        } else {
            Err(format!("must be a fraction from 0.01 to 1.0, not {fraction}"))
        }
    }

    fn size(size: ByteSize) -> Result<Self, String> {
        if size >= SIZE_MIN {
            Ok(Self::Size(size))
        } else {
            Err(format!("must be at least {SIZE_MIN}, not {size}"))
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => write!(f, "off"),
            Self::Fraction(fraction) => write!(f, "{fraction}"),
            Self::Size(size) => write!(f, "{size}"),
        }
    }
}

impl Setting for MemoryLimit {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Fraction(fraction) => Self::fraction(*fraction),
            Value::Integer(_) => ByteSize::read(value).and_then(Self::size),
            Value::Text(text) | Value::Given(text) => text.parse(),
            other => Err(not_a_limit(other.kind())),
        }
    }
}

fn not_a_limit(what: &str) -> String {
    format!("must be a fraction like 0.4, a size like \"2 GiB\" or \"off\", not {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_fractions_sizes_or_off() {
        let given = |text: &str| MemoryLimit::read(&Value::Given(text.to_owned()));
        assert_eq!(given("0.25"), Ok(MemoryLimit::Fraction(0.25)));
        assert_eq!(given("1.0"), Ok(MemoryLimit::Fraction(1.0)));
        assert_eq!(given("2 GiB"), Ok(MemoryLimit::Size(ByteSize::gib(2))));
        assert_eq!(given("off"), Ok(MemoryLimit::Off));
        assert_eq!(MemoryLimit::read(&Value::Fraction(0.5)), Ok(MemoryLimit::Fraction(0.5)));
        let bytes = Value::Integer(64 << 20);
        assert_eq!(MemoryLimit::read(&bytes), Ok(MemoryLimit::Size(ByteSize::mib(64))));
    }

    #[test]
    fn others_are_refused_in_words() {
        let refused = |value| MemoryLimit::read(&value).expect_err("refused");
        assert!(refused(Value::Fraction(1.5)).contains("from 0.01 to 1.0, not 1.5"));
        assert!(refused(Value::Fraction(f64::NAN)).contains("from 0.01 to 1.0"));
        assert!(refused(Value::Given("0.0".to_owned())).contains("from 0.01 to 1.0, not 0"));
        assert!(refused(Value::Given("1.2.3".to_owned())).contains("a fraction like 0.4"));
        assert!(refused(Value::Integer(1)).contains("at least 16 MiB, not 1 B"));
        assert!(refused(Value::Boolean(true)).contains("not a boolean"));
        assert!(refused(Value::Text("lots".to_owned())).contains("not a size"));
    }
}
