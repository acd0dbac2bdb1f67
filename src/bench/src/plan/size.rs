//! Sizes of messages: one, a range, or a mix with weights.

/// The sizes that messages have, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizes {
    text: String,
    cycle: Vec<usize>,
}

/// The largest message, in bytes.
const MAX: usize = 512 * 1024 * 1024;

/// How many messages a range or a mix takes until it begins again.
const CYCLE: usize = 1009;

impl Sizes {
    /// Reads `1024`, `16k`, `100-4k` (evenly) or `16:80,1k:15,64k:5` (sizes and weights).
    pub(crate) fn parse(text: &str) -> Result<Sizes, String> {
        let cycle = if text.contains(':') {
            mix(text)?
        } else if let Some((from, to)) = text.split_once('-') {
            let (from, to) = (bytes(from)?, bytes(to)?);
            if from > to {
                return Err(format!("the range {text} ends before it begins"));
            }
            // Steps that have no factor in common with the cycle visit all of it, out of order.
            let at = |n: usize| n * 389 % CYCLE;
            (0..CYCLE).map(|n| from + (to - from) * at(n) / (CYCLE - 1)).collect()
        } else {
            vec![bytes(text)?]
        };
        Ok(Sizes { text: text.to_owned(), cycle })
    }

    /// The size of message `n`.
    pub(crate) fn of(&self, n: u64) -> usize {
        match self.cycle.as_slice() {
            [only] => *only,
            all => all[(n % all.len() as u64) as usize],
        }
    }

    /// The sizes of one cycle.
    pub(crate) fn cycle(&self) -> &[usize] {
        &self.cycle
    }

    pub(crate) fn min(&self) -> usize {
        self.cycle.iter().copied().min().unwrap_or(0)
    }

    pub(crate) fn max(&self) -> usize {
        self.cycle.iter().copied().max().unwrap_or(0)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

fn mix(text: &str) -> Result<Vec<usize>, String> {
    let mut parts = Vec::new();
    for part in text.split(',') {
        let Some((size, weight)) = part.split_once(':') else {
            return Err(format!("'{part}' is no part of a mix; write SIZE:WEIGHT"));
        };
        let weight: usize =
            weight.parse().ok().filter(|weight| (1..=1000).contains(weight)).ok_or_else(|| {
                format!("the weight '{weight}' is none; write a number from 1 to 1000")
            })?;
        parts.push((bytes(size)?, weight));
    }
    let total: usize = parts.iter().map(|(_, weight)| weight).sum();
    // Each size comes as evenly as it can: the one that lags its share the most is next.
    let mut given = vec![0_usize; parts.len()];
    let mut cycle = Vec::with_capacity(total);
    for n in 1..=total {
        let lag = |i: usize| (parts[i].1 * n) as i64 - (given[i] * total) as i64;
        let next = (0..parts.len()).max_by_key(|&i| lag(i)).unwrap_or(0);
        given[next] += 1;
        cycle.push(parts[next].0);
    }
    Ok(cycle)
}

fn bytes(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.as_bytes().last().map(u8::to_ascii_lowercase) {
        Some(b'k') => (&text[..text.len() - 1], 1024),
        Some(b'm') => (&text[..text.len() - 1], 1024 * 1024),
        _ => (text, 1),
    };
    let number: Option<usize> = digits.trim().parse().ok();
    match number.and_then(|number| number.checked_mul(unit)) {
        Some(size) if size <= MAX => Ok(size),
        Some(_) => Err(format!("the size {text} is above 512m")),
        None => Err(format!("'{text}' is no size; write bytes, or 16k, or 2m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_size() {
        let sizes = Sizes::parse("16k").expect("read");
        assert_eq!((sizes.of(0), sizes.of(12345)), (16384, 16384));
    }

    #[test]
    fn a_range_reaches_both_ends_and_has_its_mean_in_the_middle() {
        let sizes = Sizes::parse("100-1100").expect("read");
        assert_eq!((sizes.min(), sizes.max()), (100, 1100));
        let sum: usize = sizes.cycle().iter().sum();
        assert!((595..=605).contains(&(sum / sizes.cycle().len())));
        assert_ne!(sizes.of(0).abs_diff(sizes.of(1)), 1, "not in order");
    }

    #[test]
    fn a_mix_keeps_its_weights() {
        let sizes = Sizes::parse("16:80,1k:15,64k:5").expect("read");
        let count = |size| sizes.cycle().iter().filter(|&&each| each == size).count();
        assert_eq!((count(16), count(1024), count(65536)), (80, 15, 5));
        assert!(sizes.cycle()[..20].contains(&1024), "spread, not in blocks");
    }

    #[test]
    fn errors_say_what_to_write() {
        for (text, part) in [
            ("", "write bytes"),
            ("5-1", "ends before"),
            ("1x", "'1x'"),
            ("1g", "write bytes"),
            ("600m", "above 512m"),
            ("16:0", "weight '0'"),
            ("16:1,5", "SIZE:WEIGHT"),
            ("99999999999999999999", "no size"),
        ] {
            let error = Sizes::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
