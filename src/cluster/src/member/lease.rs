//! Until when a leader may act as one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A leader may act for as long as nobody else can have been elected: from the latest moment at
/// which a majority has heard of it, for as long as they then refuse to vote.
///
/// The lease is taken shorter than that by a margin: clocks of different nodes run at slightly
/// different speeds, and what was decided within the lease takes a moment to leave the node.
#[derive(Debug)]
pub struct Lease {
    /// The zero of what follows.
    start: Instant,
    /// How long a majority's word holds.
    term: Duration,
    /// Nanoseconds since `start` until when it holds; 0 if it does not, `u64::MAX` if it does for as
    /// long as the node leads.
    until: AtomicU64,
    /// The consensus term that was given up, if one was; 0 if none. Whoever is asked to lead instead
    /// may be elected at once, whatever the lease says.
    given_up: AtomicU64,
    /// One was given up.
    pub(super) news: Notify,
    /// By how much the clock that also counts while the machine sleeps was ahead of the other when
    /// the lease was renewed, in nanoseconds.
    slept: AtomicU64,
}

/// What is left out at the end: a hundredth for clocks, and this much for what is on its way.
const MARGIN: Duration = Duration::from_millis(20);

/// The machine has been asleep if its two clocks have come apart by more.
const ASLEEP: Duration = Duration::from_millis(10);

/// Two readings of a clock lie close together if less than this is between them.
const CLOSE: Duration = Duration::from_millis(1);

impl Lease {
    /// A lease that does not hold yet.
    pub(super) fn new(term: Duration) -> Lease {
        Lease {
            start: Instant::now(),
            term: term.saturating_sub(term / 100 + MARGIN),
            until: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            news: Notify::new(),
            slept: AtomicU64::new(0),
        }
    }

    /// Somebody else is about to be asked to lead instead of this leader of `term`, which does not act
    /// as one any more.
    pub(super) fn give_up(&self, term: u64) {
        self.given_up.store(term, Ordering::Release);
        self.until.store(0, Ordering::Release);
        self.news.notify_one();
    }

    /// Whether `term` was given up.
    pub(super) fn is_given_up(&self, term: u64) -> bool {
        self.given_up.load(Ordering::Acquire) == term
    }

    /// This leader is the only voter: nobody else can be elected, however long it says nothing.
    pub(super) fn keep(&self) {
        self.until.store(u64::MAX, Ordering::Release);
    }

    /// A majority has acknowledged this leader at `acknowledged`; it is none if it does not lead.
    pub(super) fn renew(&self, acknowledged: Option<Instant>) {
        let until = acknowledged.map_or(0, |at| {
            let until = (at + self.term).saturating_duration_since(self.start);
            u64::try_from(until.as_nanos()).unwrap_or(u64::MAX - 1)
        });
        self.slept.store(slept(), Ordering::Relaxed);
        self.until.store(until, Ordering::Release);
    }

    /// Whether it holds now.
    #[must_use]
    pub fn holds(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        #[cfg(feature = "planted-bugs")]
        if crate::planted::ignores_leases() && until > 0 {
            return true;
        }
        if until == u64::MAX {
            return true;
        }
        let now = self.start.elapsed().as_nanos();
        now < u128::from(until)
            && slept().abs_diff(self.slept.load(Ordering::Relaxed)) < ASLEEP.as_nanos() as u64
    }
}

/// By how much the clock that counts while the machine sleeps is ahead of the one that does not.
///
/// A thread that loses its processor between the two readings would take that for sleep, so it
/// reads again until they lie close together.
fn slept() -> u64 {
    let nanos = |clock| {
        let time = clock_gettime(clock);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_nanos() as u64
    };
    loop {
        let before = nanos(ClockId::Monotonic);
        let boottime = nanos(ClockId::Boottime);
        if nanos(ClockId::Monotonic) - before < CLOSE.as_nanos() as u64 {
            return boottime.saturating_sub(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_holds_for_its_term_and_not_a_moment_longer() {
        let lease = Lease::new(Duration::from_secs(1));
        assert!(!lease.holds(), "nobody has heard of the leader yet");
        lease.renew(Some(Instant::now()));
        assert!(lease.holds());
        tokio::time::advance(Duration::from_millis(969)).await;
        assert!(lease.holds());
        tokio::time::advance(Duration::from_millis(2)).await;
        assert!(!lease.holds(), "a margin before the others may vote again");
        lease.renew(Some(Instant::now()));
        assert!(lease.holds());
        lease.renew(None);
        assert!(!lease.holds(), "it leads no more");
        lease.keep();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(lease.holds(), "nobody else can lead");
        lease.renew(Some(Instant::now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!lease.holds(), "there are others now");
    }
}
