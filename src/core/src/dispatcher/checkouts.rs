//! Deliveries that wait for their settlement.

use std::collections::BTreeMap;

use isthmus_model::{LeaseEpoch, Sequence, SessionId, Time, WindowId};

/// Consecutive sequences checked out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkout {
    pub(super) first: Sequence,
    pub(super) len: u32,
    pub(super) epoch: LeaseEpoch,
    /// When the lease ends and the messages go back; [`Time::NEVER`] for not by itself.
    pub(super) deadline: Time,
    pub(super) holder: Holder,
}

/// Who has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) session: SessionId,
    /// The consumer's place in the dispatcher's table. It may have been given to another since;
    /// `consumer_number` tells.
    pub(super) consumer: usize,
    /// The consumer's own number, never given twice.
    pub(super) consumer_number: u64,
    /// The window that the delivery counts against.
    pub(super) window: Option<WindowId>,
}

impl Checkout {
    fn end(&self) -> Sequence {
        self.first + u64::from(self.len)
    }
}

/// The checkouts of one queue, in runs by sequence.
#[derive(Debug, Default)]
pub(super) struct Checkouts {
    runs: BTreeMap<Sequence, Checkout>,
    len: u64,
}

impl Checkouts {
    /// How many messages are checked out.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Notes a checkout of sequences that are not checked out.
    pub(super) fn insert(&mut self, checkout: Checkout) {
        self.len += u64::from(checkout.len);
        if let Some((_, last)) = self.runs.range_mut(..checkout.first).next_back()
            && last.end() == checkout.first
            && last.epoch == checkout.epoch
            && last.deadline == checkout.deadline
            && last.holder == checkout.holder
        {
            last.len += checkout.len;
            return;
        }
        self.runs.insert(checkout.first, checkout);
    }

    /// Takes out what of `first..first + len` is checked out under `epoch`, in order.
    pub(super) fn take(&mut self, first: Sequence, len: u32, epoch: LeaseEpoch) -> Vec<Checkout> {
        let end = first.saturating_add(u64::from(len));
        let mut taken = Vec::new();
        let mut at = first;
        while at < end {
            let found = self.runs.range(..=at).next_back().filter(|(_, c)| c.end() > at);
            let Some(run) = found.or_else(|| self.runs.range(at..end).next()).map(|(_, c)| *c)
            else {
                break;
            };
            let (from, to) = (run.first.max(at), run.end().min(end));
            at = to;
            if run.epoch != epoch {
                continue;
            }
            self.runs.remove(&run.first);
            if run.first < from {
                let len = (from - run.first) as u32;
                self.runs.insert(run.first, Checkout { len, ..run });
            }
            if to < run.end() {
                let len = (run.end() - to) as u32;
                self.runs.insert(to, Checkout { first: to, len, ..run });
            }
            let part = Checkout { first: from, len: (to - from) as u32, ..run };
            self.len -= u64::from(part.len);
            taken.push(part);
        }
        taken
    }

    /// What of `first..first + len` is checked out under `epoch`, in order: first sequence, how many.
    pub(super) fn held(
        &self,
        first: Sequence,
        len: u32,
        epoch: LeaseEpoch,
    ) -> Vec<(Sequence, u64)> {
        let end = first.saturating_add(u64::from(len));
        let before = self.runs.range(..first).next_back();
        let runs = before.into_iter().chain(self.runs.range(first..end)).map(|(_, run)| run);
        runs.filter(|run| run.epoch == epoch)
            .map(|run| (run.first.max(first), run.end().min(end)))
            .filter(|(from, to)| from < to)
            .map(|(from, to)| (from, to - from))
            .collect()
    }

    /// Takes out what is past its deadline at `now`, in order.
    pub(super) fn take_due(&mut self, now: Time) -> Vec<Checkout> {
        let mut due = Vec::new();
        self.runs.retain(|_, c| {
            let keep = c.deadline > now;
            if !keep {
                due.push(*c);
            }
            keep
        });
        self.len -= due.iter().map(|c| u64::from(c.len)).sum::<u64>();
        due
    }

    /// Takes out everything.
    pub(super) fn take_everything(&mut self) -> impl Iterator<Item = Checkout> {
        self.len = 0;
        std::mem::take(&mut self.runs).into_values()
    }

    /// Takes out everything that `session` has, in order.
    pub(super) fn take_of(&mut self, session: SessionId) -> Vec<Checkout> {
        let mut taken = Vec::new();
        self.runs.retain(|_, c| {
            let keep = c.holder.session != session;
            if !keep {
                taken.push(*c);
            }
            keep
        });
        self.len -= taken.iter().map(|c| u64::from(c.len)).sum::<u64>();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout(first: Sequence, len: u32, epoch: u64) -> Checkout {
        let holder =
            Holder { session: SessionId(1), consumer: 0, consumer_number: 1, window: None };
        Checkout { first, len, epoch: LeaseEpoch(epoch), deadline: Time::NEVER, holder }
    }

    #[test]
    fn only_the_epoch_that_was_delivered_settles() {
        let mut checkouts = Checkouts::default();
        checkouts.insert(checkout(1, 4, 1));
        checkouts.insert(checkout(5, 4, 1));
        checkouts.insert(checkout(9, 2, 2));
        assert_eq!(checkouts.runs.len(), 2, "neighbours of one epoch are one run");
        let spans =
            |taken: Vec<Checkout>| -> Vec<_> { taken.iter().map(|c| (c.first, c.len)).collect() };
        assert_eq!(checkouts.held(3, 8, LeaseEpoch(1)), [(3, 6)]);
        assert_eq!(checkouts.held(3, 8, LeaseEpoch(2)), [(9, 2)]);
        assert_eq!(checkouts.held(1, 2, LeaseEpoch(2)), []);
        assert_eq!(spans(checkouts.take(3, 8, LeaseEpoch(1))), [(3, 6)]);
        assert_eq!(spans(checkouts.take(3, 8, LeaseEpoch(1))), [], "settled is settled");
        assert_eq!(spans(checkouts.take(1, 10, LeaseEpoch(2))), [(9, 2)]);
        assert_eq!(checkouts.len(), 2);
        assert_eq!(spans(checkouts.take_of(SessionId(1))), [(1, 2)]);
        assert_eq!(checkouts.len(), 0);
    }
}
