//! Whose turn it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// Consumers that may have credit, by their places in the table: those of the highest priority in
/// turn, those of the next when none of them is left.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Those of priority 0, as nearly all are: a node of a map for one of them would take more than
    /// all else of a small queue.
    usual: VecDeque<usize>,
    /// Those of other priorities, if there ever were any.
    others: Option<Box<Others>>,
}

/// By priority, the highest first; none is empty.
type Others = BTreeMap<Reverse<i64>, VecDeque<usize>>;

impl Turns {
    /// Lets a consumer wait behind those of its own priority.
    pub(super) fn push(&mut self, priority: i64, consumer: usize) {
        match priority {
            0 => {
                // By itself a queue begins with room for four.
                self.usual.reserve_exact(usize::from(self.usual.is_empty()));
                self.usual.push_back(consumer);
            }
            _ => {
                let others = self.others.get_or_insert_default();
                others.entry(Reverse(priority)).or_default().push_back(consumer);
            }
        }
    }

    /// Whether nobody waits for a turn.
    pub(super) fn is_empty(&self) -> bool {
        self.usual.is_empty() && self.others.as_ref().is_none_or(|others| others.is_empty())
    }

    /// Takes out whose turn it is.
    pub(super) fn pop(&mut self) -> Option<usize> {
        let first = self.others.as_mut().and_then(|others| others.first_entry());
        let Some(mut first) = first.filter(|f| f.key().0 > 0 || self.usual.is_empty()) else {
            return self.usual.pop_front();
        };
        let consumer = first.get_mut().pop_front();
        if first.get().is_empty() {
            first.remove();
        }
        consumer
    }

    /// Takes out who waits behind all others of a priority.
    pub(super) fn take_back(&mut self, priority: i64) {
        self.change(priority, |alike| {
            alike.pop_back();
        });
    }

    /// Takes a consumer out, wherever it waits.
    pub(super) fn remove(&mut self, priority: i64, consumer: usize) {
        self.change(priority, |alike| alike.retain(|c| *c != consumer));
    }

    /// Takes some of a priority out.
    fn change(&mut self, priority: i64, take_out: impl FnOnce(&mut VecDeque<usize>)) {
        if priority == 0 {
            return take_out(&mut self.usual);
        }
        let Some(others) = &mut self.others else { return };
        let Some(alike) = others.get_mut(&Reverse(priority)) else { return };
        take_out(alike);
        if alike.is_empty() {
            others.remove(&Reverse(priority));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_priority_goes_round_until_none_of_it_is_left() {
        let mut turns = Turns::default();
        for (priority, consumer) in [(0, 1), (5, 2), (5, 3), (-1, 4), (0, 5)] {
            turns.push(priority, consumer);
        }
        let two = turns.pop();
        assert_eq!(two, Some(2));
        turns.push(5, 2);
        assert_eq!([turns.pop(), turns.pop()], [Some(3), Some(2)]);
        turns.remove(0, 1);
        assert_eq!([turns.pop(), turns.pop(), turns.pop()], [Some(5), Some(4), None]);
    }
}
