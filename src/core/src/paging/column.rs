//! One small number for each message of a page.

/// A number for each of many messages, in as few bytes as they need: none at all where all are the
/// same, which bodies of one size and messages that were never delivered are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// The same for all.
    Uniform(u32),
    /// Each below 2^8.
    U8(Box<[u8]>),
    /// Each below 2^16.
    U16(Box<[u16]>),
    /// Each as it is.
    U32(Box<[u32]>),
}

impl Column {
    /// A column of `values`.
    pub fn of(values: &[u32]) -> Column {
        let Some(first) = values.first() else { return Column::Uniform(0) };
        if values.iter().all(|v| v == first) {
            return Column::Uniform(*first);
        }
        // No value is cut: each column takes what its largest value fits in.
        match values.iter().max() {
            Some(max) if *max <= u32::from(u8::MAX) => {
                Column::U8(values.iter().map(|v| *v as u8).collect())
            }
            Some(max) if *max <= u32::from(u16::MAX) => {
                Column::U16(values.iter().map(|v| *v as u16).collect())
            }
            _ => Column::U32(values.into()),
        }
    }

    /// The number at `position`; 0 beyond the end.
    #[inline]
    pub fn get(&self, position: u32) -> u32 {
        let at = position as usize;
        match self {
            Column::Uniform(value) => *value,
            Column::U8(values) => values.get(at).copied().map_or(0, u32::from),
            Column::U16(values) => values.get(at).copied().map_or(0, u32::from),
            Column::U32(values) => values.get(at).copied().unwrap_or_default(),
        }
    }

    /// The sum of `len` numbers from `position`.
    pub fn sum(&self, position: u32, len: u32) -> u64 {
        match self {
            Column::Uniform(value) => u64::from(*value) * u64::from(len),
            _ => (position..position + len).map(|at| u64::from(self.get(at))).sum(),
        }
    }

    /// Whether every number is 0.
    pub fn is_zero(&self) -> bool {
        *self == Column::Uniform(0)
    }

    /// How many numbers there are; `None` if any number of positions has the same.
    pub(crate) fn len(&self) -> Option<usize> {
        match self {
            Column::Uniform(_) => None,
            Column::U8(values) => Some(values.len()),
            Column::U16(values) => Some(values.len()),
            Column::U32(values) => Some(values.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn says_what_it_was_made_of(
            values in prop_oneof![
                proptest::collection::vec(0u32..3, 0..20),
                proptest::collection::vec(0u32..300, 0..20),
                proptest::collection::vec(any::<u32>(), 0..20),
                (any::<u32>(), 0usize..20).prop_map(|(v, n)| vec![v; n]),
            ],
        ) {
            let column = Column::of(&values);
            for (at, value) in values.iter().enumerate() {
                prop_assert_eq!(column.get(at as u32), *value);
                let rest = (values.len() - at) as u32;
                let sum: u64 = values[at..].iter().map(|v| u64::from(*v)).sum();
                prop_assert_eq!(column.sum(at as u32, rest), sum);
            }
        }
    }

    #[test]
    fn equal_numbers_take_no_room() {
        assert_eq!(Column::of(&[1024; 5000]), Column::Uniform(1024));
        assert!(matches!(Column::of(&[1, 2]), Column::U8(_)));
        assert!(matches!(Column::of(&[1, 256]), Column::U16(_)));
        assert!(matches!(Column::of(&[1, 1 << 16]), Column::U32(_)));
    }
}
