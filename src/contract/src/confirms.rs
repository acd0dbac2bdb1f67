//! Pending publishes, by the number that the client knows them under.

use std::collections::VecDeque;

use isthmus_model::Token;

/// Publishes whose completion the client is waiting for, in the order of publishing.
///
/// Each pending batch covers consecutive numbers; completions may come in any order, and
/// neighbours that are complete leave as one run, so that a thousand confirms cost one frame.
#[derive(Debug, Default)]
pub struct Confirms {
    pending: VecDeque<Pending>,
    /// The number that the next publish gets; the first is 1.
    next: u64,
}

#[derive(Debug)]
struct Pending {
    token: Token,
    first: u64,
    len: u32,
    /// Complete, with the offsets that were refused.
    done: Option<Vec<u32>>,
}

/// Consecutive publishes whose outcome is known and the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfirmRun {
    /// The first publish's number.
    pub first: u64,
    /// The last publish's number.
    pub last: u64,
    /// Whether the broker took them.
    pub taken: bool,
}

impl Confirms {
    /// Nothing pending; the next publish has number 1.
    pub fn new() -> Confirms {
        Confirms { pending: VecDeque::new(), next: 1 }
    }

    /// Notes that `len` messages were published under `token`.
    pub fn published(&mut self, token: Token, len: u32) {
        let first = self.next;
        self.next += u64::from(len);
        self.pending.push_back(Pending { token, first, len, done: None });
    }

    /// Notes that `token` is complete, save for the messages at the offsets `refused` (ascending)
    /// of its batch, and passes every run that may be told now to `tell`, in order.
    ///
    /// Runs are told strictly in order of publishing, so that a "multiple" confirm never covers
    /// what is still pending.
    pub fn done(&mut self, token: Token, refused: Vec<u32>, mut tell: impl FnMut(ConfirmRun)) {
        // Completions nearly always come in order: the front is looked at first.
        if let Some(pending) = self.pending.iter_mut().find(|p| p.token == token) {
            pending.done = Some(refused);
        }
        let mut run: Option<ConfirmRun> = None;
        let mut add = |next: ConfirmRun| match &mut run {
            Some(run) if run.taken == next.taken => run.last = next.last,
            _ => {
                if let Some(told) = run.replace(next) {
                    tell(told);
                }
            }
        };
        while let Some(Pending { done: Some(_), .. }) = self.pending.front() {
            let Some(Pending { first, len, done: Some(refused), .. }) = self.pending.pop_front()
            else {
                break;
            };
            let end = first + u64::from(len);
            let mut at = first;
            for offset in refused {
                let number = first + u64::from(offset);
                if at < number {
                    add(ConfirmRun { first: at, last: number - 1, taken: true });
                }
                add(ConfirmRun { first: number, last: number, taken: false });
                at = number + 1;
            }
            if at < end {
                add(ConfirmRun { first: at, last: end - 1, taken: true });
            }
        }
        if let Some(run) = run {
            tell(run);
        }
    }

    /// As [`Confirms::done`], where none of the batch's messages was taken.
    pub fn refused(&mut self, token: Token, tell: impl FnMut(ConfirmRun)) {
        let len = self.pending.iter().find(|p| p.token == token).map_or(0, |p| p.len);
        self.done(token, (0..len).collect(), tell);
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(confirms: &mut Confirms, token: u64, refused: &[u32]) -> Vec<(u64, u64, bool)> {
        let mut told = Vec::new();
        confirms.done(Token(token), refused.to_vec(), |r| told.push((r.first, r.last, r.taken)));
        told
    }

    #[test]
    fn neighbours_leave_as_one_run_and_never_ahead_of_what_is_pending() {
        let mut confirms = Confirms::new();
        for (token, len) in [(1, 3), (2, 2), (3, 4), (4, 1)] {
            confirms.published(Token(token), len);
        }
        assert_eq!(done(&mut confirms, 2, &[]), []);
        assert_eq!(done(&mut confirms, 1, &[]), [(1, 5, true)]);
        assert_eq!(done(&mut confirms, 4, &[0]), []);
        assert_eq!(
            done(&mut confirms, 3, &[1, 3]),
            [(6, 6, true), (7, 7, false), (8, 8, true), (9, 10, false)]
        );
        assert!(confirms.is_empty());
        confirms.published(Token(5), 1);
        assert_eq!(done(&mut confirms, 5, &[]), [(11, 11, true)]);
        assert_eq!(done(&mut confirms, 5, &[]), [], "an unknown token tells nothing");
        confirms.published(Token(6), 2);
        let mut told = Vec::new();
        confirms.refused(Token(6), |r| told.push((r.first, r.last, r.taken)));
        assert_eq!(told, [(12, 13, false)]);
    }
}
