//! Time as the sans-IO parts see it: a number that somebody else read from a clock.

use std::ops::Add;
use std::time::Duration;

/// Nanoseconds on some clock that never goes back. Which clock is the caller's business: the
/// sessions and the dispatcher see the node's monotonic time, the ledger sees log time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// A time so late that it never comes.
    pub const NEVER: Time = Time(u64::MAX);

    /// This time in whole milliseconds.
    pub fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The time `ms` milliseconds after the clock's start, [`Time::NEVER`] where that overflows.
    pub fn from_millis(ms: u64) -> Time {
        Time(ms.saturating_mul(1_000_000))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}
