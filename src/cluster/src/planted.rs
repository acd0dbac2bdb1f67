//! Bugs that tests plant, to see whether the tests would notice them, and what openraft may do and
//! hardly ever does. They are compiled only with the
//! feature `planted-bugs`, which nothing but the tests of the simulation turns on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

static RESTORES_LEADERS: AtomicBool = AtomicBool::new(false);
static IGNORES_LEASES: AtomicBool = AtomicBool::new(false);
static FORGETS_DEBTS: AtomicBool = AtomicBool::new(false);
static REFUSES_ONE_IN: AtomicU64 = AtomicU64::new(0);

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

/// Whether nodes of this process do not care what they had acknowledged before they came back.
pub fn forget_debts(is_planted: bool) {
    FORGETS_DEBTS.store(is_planted, Ordering::SeqCst);
}

pub(crate) fn forgets_debts() -> bool {
    FORGETS_DEBTS.load(Ordering::SeqCst)
}

/// One in so many proposals is refused, and those behind it are taken, which is what openraft does
/// while its lease is in doubt; 0 for none. Where nobody says what is drawn, none is.
pub fn refuse_proposals(one_in: u64) {
    REFUSES_ONE_IN.store(one_in, Ordering::SeqCst);
}

/// Whether a proposal is refused, and after how long that is known.
pub(crate) fn refusal() -> Option<Duration> {
    let one_in = REFUSES_ONE_IN.load(Ordering::SeqCst);
    let drawn = (one_in > 0).then(crate::raft::drawn).flatten()?;
    (drawn % one_in == 0).then(|| Duration::from_millis(drawn / one_in % 30))
}
