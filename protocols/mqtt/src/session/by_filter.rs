//! Something for each filter of a client, in their order.
//!
//! Most clients have a handful of filters, and brokers hundreds of thousands of such clients: the
//! few lie in one vector of just their size. A tree has a node of half a kilobyte for the first.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Filters at the most that lie in a vector.
const FEW: usize = 16;

/// An ordered map by filter.
#[derive(Debug)]
pub(super) enum ByFilter<V> {
    /// In order.
    Few(Vec<(Box<str>, V)>),
    /// It does not become few again: who had many may have many again.
    Many(BTreeMap<Box<str>, V>),
}

impl<V> Default for ByFilter<V> {
    fn default() -> Self {
        ByFilter::Few(Vec::new())
    }
}

impl<V> ByFilter<V> {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(super) fn contains(&self, filter: &str) -> bool {
        self.get(filter).is_some()
    }

    pub(super) fn get(&self, filter: &str) -> Option<&V> {
        match self {
            ByFilter::Few(few) => place(few, filter).ok().map(|at| &few[at].1),
            ByFilter::Many(many) => many.get(filter),
        }
    }

    pub(super) fn get_mut(&mut self, filter: &str) -> Option<&mut V> {
        match self {
            ByFilter::Few(few) => place(few, filter).ok().map(|at| &mut few[at].1),
            ByFilter::Many(many) => many.get_mut(filter),
        }
    }

    /// What is there for `filter`, from now on at the latest.
    pub(super) fn get_or_default(&mut self, filter: &str) -> &mut V
    where
        V: Default,
    {
        if let ByFilter::Few(few) = self
            && few.len() >= FEW
            && !few.iter().any(|(each, _)| **each == *filter)
        {
            *self = ByFilter::Many(std::mem::take(few).into_iter().collect());
        }
        match self {
            ByFilter::Many(many) => many.entry(filter.into()).or_default(),
            ByFilter::Few(few) => {
                let at = place(few, filter).unwrap_or_else(|at| {
                    few.reserve_exact(1);
                    few.insert(at, (filter.into(), V::default()));
                    at
                });
                &mut few[at].1
            }
        }
    }

    pub(super) fn remove(&mut self, filter: &str) {
        match self {
            ByFilter::Few(few) => {
                if let Ok(at) = place(few, filter) {
                    few.remove(at);
                }
            }
            ByFilter::Many(many) => drop(many.remove(filter)),
        }
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.from("")
    }

    /// Those from `first` on, in order.
    pub(super) fn from(&self, first: &str) -> impl Iterator<Item = (&str, &V)> {
        let (few, many) = match self {
            ByFilter::Few(few) => {
                let at = place(few, first).unwrap_or_else(|at| at);
                (Some(few[at..].iter().map(|(filter, value)| (filter, value))), None)
            }
            ByFilter::Many(many) => {
                let from = (Bound::Included(first), Bound::Unbounded);
                (None, Some(many.range::<str, _>(from)))
            }
        };
        let all = few.into_iter().flatten().chain(many.into_iter().flatten());
        all.map(|(filter, value)| (filter.borrow(), value))
    }
}

/// Where `filter` lies, or where it would.
fn place<V>(few: &[(Box<str>, V)], filter: &str) -> Result<usize, usize> {
    few.binary_search_by(|(each, _)| (**each).cmp(filter))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_an_ordered_map(
            ops in proptest::collection::vec((any::<bool>(), 0u8..40, any::<u32>()), 0..120),
        ) {
            let (mut by_filter, mut model) = (ByFilter::default(), BTreeMap::new());
            for (adds, name, value) in ops {
                let filter = format!("a/{name}");
                if adds {
                    *by_filter.get_or_default(&filter) = value;
                    model.insert(filter.clone(), value);
                } else {
                    by_filter.remove(&filter);
                    model.remove(&filter);
                }
                prop_assert_eq!(by_filter.get(&filter), model.get(&filter));
                let from: Vec<_> = by_filter.from(&filter).map(|(f, v)| (f.to_owned(), *v)).collect();
                let expected = model.range(filter..).map(|(f, v)| (f.clone(), *v));
                prop_assert_eq!(from, expected.collect::<Vec<_>>());
            }
            let all = by_filter.iter().map(|(f, v)| (f.to_owned(), *v));
            prop_assert_eq!(all.collect::<BTreeMap<_, _>>(), model);
        }
    }
}
