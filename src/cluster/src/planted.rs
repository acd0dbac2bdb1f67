//! Bugs that tests plant, to see whether the tests would notice them. They are compiled only with the
//! feature `planted-bugs`, which nothing but the tests of the simulation turns on.

use std::sync::atomic::{AtomicBool, Ordering};

static RESTORES_LEADERS: AtomicBool = AtomicBool::new(false);
static IGNORES_LEASES: AtomicBool = AtomicBool::new(false);

/// Whether a leader of this process that comes back goes on as one, as openraft does by default.
pub fn restore_leaders(is_planted: bool) {
    RESTORES_LEADERS.store(is_planted, Ordering::SeqCst);
}

pub(crate) fn restores_leaders() -> bool {
    RESTORES_LEADERS.load(Ordering::SeqCst)
}

/// Whether leases of this process hold for ever.
pub fn ignore_leases(is_planted: bool) {
    IGNORES_LEASES.store(is_planted, Ordering::SeqCst);
}

pub(crate) fn ignores_leases() -> bool {
    IGNORES_LEASES.load(Ordering::SeqCst)
}
