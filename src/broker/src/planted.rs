//! Bugs that tests plant, to see whether the tests would notice them. They are compiled only with the
//! feature `planted-bugs`, which nothing but the tests of this crate turns on.

use std::sync::atomic::{AtomicBool, Ordering};

static PURGES_LOG_FIRST: AtomicBool = AtomicBool::new(false);

/// Whether brokers of this process let the log forget what a checkpoint will hold before that is
/// written.
pub fn purge_log_first(is_planted: bool) {
    PURGES_LOG_FIRST.store(is_planted, Ordering::SeqCst);
}

pub(crate) fn purges_log_first() -> bool {
    PURGES_LOG_FIRST.load(Ordering::SeqCst)
}
