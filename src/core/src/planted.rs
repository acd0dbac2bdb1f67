//! Bugs that tests plant, to see whether the tests would notice them. They are compiled only with the
//! feature `planted-bugs`, which nothing but the tests of the simulation turns on.

use std::sync::atomic::{AtomicBool, Ordering};

static SAYS_TOO_EARLY: AtomicBool = AtomicBool::new(false);
static IGNORES_PLACES: AtomicBool = AtomicBool::new(false);

/// Whether dispatchers of this process answer when an entry is proposed instead of when it is
/// committed.
pub fn say_too_early(is_planted: bool) {
    SAYS_TOO_EARLY.store(is_planted, Ordering::SeqCst);
}

pub(crate) fn says_too_early() -> bool {
    SAYS_TOO_EARLY.load(Ordering::SeqCst)
}

/// Whether ledgers of this process apply entries that do not follow on the one before.
pub fn ignore_places(is_planted: bool) {
    IGNORES_PLACES.store(is_planted, Ordering::SeqCst);
}

pub(crate) fn ignores_places() -> bool {
    IGNORES_PLACES.load(Ordering::SeqCst)
}
