//! Bugs that tests plant, to see whether the tests would notice them. They are compiled only with the
//! feature `planted-bugs`, which nothing but the tests of the simulation turns on.

use std::sync::atomic::{AtomicBool, Ordering};

static SAYS_TOO_EARLY: AtomicBool = AtomicBool::new(false);

/// Whether dispatchers of this process answer when an entry is proposed instead of when it is
/// committed.
pub fn say_too_early(is_planted: bool) {
    SAYS_TOO_EARLY.store(is_planted, Ordering::SeqCst);
}

pub(crate) fn says_too_early() -> bool {
    SAYS_TOO_EARLY.load(Ordering::SeqCst)
}
