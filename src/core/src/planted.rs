//! Bugs that tests plant, to see whether the tests would notice them. They are compiled only with the
//! feature `planted-bugs`, which nothing but the tests of the simulation turns on.

use std::sync::atomic::{AtomicBool, Ordering};

static SAYS_TOO_EARLY: AtomicBool = AtomicBool::new(false);
static ADMITS_EVERY_TERM: AtomicBool = AtomicBool::new(false);

/// Whether dispatchers of this process answer when an entry is proposed instead of when it is
/// committed.
pub fn say_too_early(is_planted: bool) {
    SAYS_TOO_EARLY.store(is_planted, Ordering::SeqCst);
}

pub(crate) fn says_too_early() -> bool {
    SAYS_TOO_EARLY.load(Ordering::SeqCst)
}

/// Whether ledgers of this process take entries of terms that are over, and what does not follow on
/// the entry before.
pub fn admit_every_term(is_planted: bool) {
    ADMITS_EVERY_TERM.store(is_planted, Ordering::SeqCst);
}

pub(crate) fn admits_every_term() -> bool {
    ADMITS_EVERY_TERM.load(Ordering::SeqCst)
}
