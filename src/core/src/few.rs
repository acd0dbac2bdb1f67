//! Ordered maps that mostly have few entries, of which there are very many.

use std::collections::BTreeMap;

/// Entries at the most that lie in a vector.
const FEW: usize = 16;

/// An ordered map: few entries lie in one vector, which is just large enough for the first; a
/// tree's first node has room for eleven, and stays when the last of them is removed.
#[derive(Clone, Debug)]
pub(crate) enum FewMap<K, V> {
    /// In order.
    Few(Vec<(K, V)>),
    /// It does not become few again: what had many may have many again.
    #[expect(clippy::box_collection, reason = "every map of few would be a third larger for it")]
    Many(Box<BTreeMap<K, V>>),
}

impl<K, V> Default for FewMap<K, V> {
    fn default() -> Self {
        FewMap::Few(Vec::new())
    }
}

impl<K: Copy + Ord, V> FewMap<K, V> {
    pub(crate) fn get(&self, key: K) -> Option<&V> {
        match self {
            FewMap::Few(few) => place(few, key).ok().map(|at| &few[at].1),
            FewMap::Many(many) => many.get(&key),
        }
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        match self {
            FewMap::Few(few) => place(few, key).ok().map(|at| &mut few[at].1),
            FewMap::Many(many) => many.get_mut(&key),
        }
    }

    /// What is there for `key`, from now on at the latest.
    pub(crate) fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        if self.get(key).is_none() {
            self.insert(key, V::default());
        }
        match self.get_mut(key) {
            Some(value) => value,
            None => unreachable!("it was just inserted"),
        }
    }

    /// Puts `value` in the place of what was there for `key`, which is returned.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let FewMap::Few(few) = self
            && few.len() >= FEW
            && place(few, key).is_err()
        {
            *self = FewMap::Many(Box::new(std::mem::take(few).into_iter().collect()));
        }
        match self {
            FewMap::Many(many) => many.insert(key, value),
            FewMap::Few(few) => match place(few, key) {
                Ok(at) => Some(std::mem::replace(&mut few[at].1, value)),
                Err(at) => {
                    // By itself a vector begins with room for four.
                    few.reserve_exact(usize::from(few.is_empty()));
                    few.insert(at, (key, value));
                    None
                }
            },
        }
    }

    /// Takes out what is there for `key`.
    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        match self {
            FewMap::Few(few) => place(few, key).ok().map(|at| few.remove(at).1),
            FewMap::Many(many) => many.remove(&key),
        }
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        let (few, many) = match self {
            FewMap::Few(few) => (Some(few.iter()), None),
            FewMap::Many(many) => (None, Some(many.iter())),
        };
        let few = few.into_iter().flatten().map(|(key, value)| (*key, value));
        few.chain(many.into_iter().flatten().map(|(key, value)| (*key, value)))
    }

    /// The values, in the order of their keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

/// Where `key` lies, or where it would.
fn place<K: Copy + Ord, V>(few: &[(K, V)], key: K) -> Result<usize, usize> {
    few.binary_search_by_key(&key, |(each, _)| *each)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_an_ordered_map(
            ops in proptest::collection::vec((0u8..3, 0u8..40, any::<u32>()), 0..120),
        ) {
            let (mut few, mut model) = (FewMap::default(), BTreeMap::new());
            for (op, key, value) in ops {
                match op {
                    0 => prop_assert_eq!(few.insert(key, value), model.insert(key, value)),
                    1 => prop_assert_eq!(few.remove(key), model.remove(&key)),
                    _ => *few.get_or_default(key) = *model.entry(key).or_default(),
                }
                prop_assert_eq!(few.get(key), model.get(&key));
                prop_assert_eq!(few.get_mut(key), model.get_mut(&key));
                let all: Vec<_> = few.iter().map(|(key, value)| (key, *value)).collect();
                prop_assert_eq!(all, model.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn one_takes_no_more_than_its_own_size() {
        let mut few = FewMap::default();
        few.insert(1_u64, 2_u64);
        assert!(matches!(&few, FewMap::Few(one) if one.capacity() == 1));
        assert_eq!(size_of_val(&few), 24);
    }
}
