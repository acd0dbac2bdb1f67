//! Sizes and times as people write them: `"64 MiB"`, `"10s"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes, written as `"64 MiB"`, `"16 kB"` or a plain number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

/// Units from the largest to the smallest; of equal ones the first is the one printed.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// `count` kibibytes.
    pub(crate) const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` mebibytes.
    pub(crate) const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` gibibytes.
    pub(crate) const fn gib(count: u64) -> Self {
        Self(count << 30)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (count, unit) = split_number(text)
            .ok_or_else(|| format!("`{text}` is not a size; write it like \"64 MiB\""))?;
        let factor = if unit.is_empty() {
            1
        } else {
            BYTE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(
                || format!("`{unit}` is not a unit of size; use B, kB, KiB, MB, MiB, GB, GiB, TB or TiB"),
            )?
        };
        count.checked_mul(factor).map(Self).ok_or_else(|| format!("`{text}` is too large a size"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = |(name, factor): &&(&str, u64)| {
            (name.contains('i') || *factor == 1) && self.0.is_multiple_of(*factor)
        };
        match BYTE_UNITS.iter().find(binary) {
            Some((unit, factor)) if self.0 > 0 => write!(f, "{} {unit}", self.0 / factor),
            _ => write!(f, "{} B", self.0),
        }
    }
}

/// A length of time, written as `"10s"`, `"250ms"`, `"5m"`, `"2h"` or `"1d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimeSpan(pub(crate) Duration);

const TIME_UNITS_MS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl TimeSpan {
    /// `count` seconds.
    pub(crate) const fn secs(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }
}

impl FromStr for TimeSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (count, unit) = split_number(text)
            .ok_or_else(|| format!("`{text}` is not a time; write it like \"10s\""))?;
        if unit.is_empty() {
            return Err(format!("`{text}` has no unit; write it like \"{count}s\""));
        }
        let factor = TIME_UNITS_MS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, factor)| *factor)
            .ok_or_else(|| format!("`{unit}` is not a unit of time; use ms, s, m, h or d"))?;
        let millis =
            count.checked_mul(factor).ok_or_else(|| format!("`{text}` is too long a time"))?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match TIME_UNITS_MS.iter().find(|(_, factor)| millis.is_multiple_of(u128::from(*factor))) {
            Some((unit, factor)) if millis > 0 => {
                write!(f, "{}{unit}", millis / u128::from(*factor))
            }
            _ => write!(f, "0s"),
        }
    }
}

/// Splits `"64 MiB"` into 64 and `"MiB"`; `None` if it does not begin with a whole number.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Result<u64, String> {
        text.parse::<ByteSize>().map(|size| size.0)
    }

    fn time(text: &str) -> Result<Duration, String> {
        text.parse::<TimeSpan>().map(|span| span.0)
    }

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64 MiB"), Ok(64 << 20));
        assert_eq!(size(" 64MiB "), Ok(64 << 20));
        assert_eq!(size("16 kB"), Ok(16_000));
    }

    #[test]
    fn bad_sizes_say_how_to_write_one() {
        assert!(size("big").expect_err("refused").contains("\"64 MiB\""));
        assert!(size("-1").expect_err("refused").contains("not a size"));
        assert!(size("64 M").expect_err("refused").contains("MiB"));
        assert!(size("99999999 TiB").expect_err("refused").contains("too large"));
        assert!(size("99999999999999999999").expect_err("refused").contains("not a size"));
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("5 m"), Ok(Duration::from_secs(300)));
        assert!(time("10").expect_err("refused").contains("\"10s\""));
        assert!(time("10 sec").expect_err("refused").contains("ms, s, m, h or d"));
        assert!(time("soon").expect_err("refused").contains("not a time"));
    }

    #[test]
    fn what_is_printed_reads_back() {
        for bytes in [0, 1, 1023, 1024, 131_072, 64 << 20, (64 << 20) + 1, 3 << 40] {
            assert_eq!(size(&ByteSize(bytes).to_string()), Ok(bytes));
        }
        for millis in [0, 1, 999, 1000, 90_000, 3_600_000, 86_400_000] {
            let span = TimeSpan(Duration::from_millis(millis));
            assert_eq!(time(&span.to_string()), Ok(span.0));
        }
    }
}
