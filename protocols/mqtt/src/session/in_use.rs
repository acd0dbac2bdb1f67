//! Packet identifiers that a client has in use, as runs.
//!
//! Clients count up, and are answered in the order in which they asked: nearly always there is one
//! run, which grows at its end and shrinks at its start.

use std::collections::VecDeque;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct InUse {
    /// The first of each run, and the last, in the order of their coming. None overlaps another.
    runs: VecDeque<(u16, u16)>,
}

impl InUse {
    pub(super) fn contains(&self, id: u16) -> bool {
        self.runs.iter().any(|(first, last)| (*first..=*last).contains(&id))
    }

    /// Adds `id`, which is not in use.
    pub(super) fn insert(&mut self, id: u16) {
        match self.runs.back_mut() {
            Some((_, last)) if last.checked_add(1) == Some(id) => *last = id,
            _ => self.runs.push_back((id, id)),
        }
    }

    /// Takes `id` out, if it is there.
    pub(super) fn remove(&mut self, id: u16) {
        let found = self.runs.iter().position(|(first, last)| (*first..=*last).contains(&id));
        let Some(at) = found else { return };
        let (first, last) = self.runs[at];
        match (first == id, last == id) {
            (true, true) => {
                self.runs.remove(at);
            }
            (true, false) => self.runs[at].0 += 1,
            (false, true) => self.runs[at].1 -= 1,
            (false, false) => {
                self.runs[at].1 = id - 1;
                self.runs.insert(at + 1, (id + 1, last));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(ops in proptest::collection::vec((any::<bool>(), 1u16..12), 0..80)) {
            let (mut in_use, mut set) = (InUse::default(), BTreeSet::new());
            for (adds, id) in ops {
                prop_assert_eq!(in_use.contains(id), set.contains(&id));
                if adds && set.insert(id) {
                    in_use.insert(id);
                } else if !adds {
                    set.remove(&id);
                    in_use.remove(id);
                }
                let all: BTreeSet<u16> = (0..20).filter(|id| in_use.contains(*id)).collect();
                prop_assert_eq!(&all, &set);
            }
        }
    }

    #[test]
    fn who_counts_up_and_is_answered_in_order_has_one_run() {
        let mut in_use = InUse::default();
        in_use.insert(65_534);
        in_use.insert(65_535);
        in_use.insert(1);
        in_use.insert(2);
        assert_eq!(in_use.runs, [(65_534, 65_535), (1, 2)]);
        (65_534..=65_535).for_each(|id| in_use.remove(id));
        in_use.remove(1);
        in_use.insert(3);
        assert_eq!(in_use.runs, [(2, 3)]);
    }
}
