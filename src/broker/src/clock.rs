//! The node's clocks.

use std::time::{Duration, UNIX_EPOCH};

use isthmus_core::Clock;
use isthmus_model::Time;
use isthmus_storage::Threads;
// As timers see it: in a simulation it is virtual.
use tokio::time::Instant;

/// How fast log time is slewed towards wall time: 1 ms in 2 s, so that a stepped wall clock never
/// makes a crowd of messages expire at once.
const SLEW_DIVISOR: u64 = 2000;

/// How often wall time is looked at; between, log time follows the monotonic clock alone.
const WALL_EVERY: Duration = Duration::from_millis(100);

/// Reads the monotonic clock and keeps log time: log time of before, plus monotonic time passed,
/// slewed gently to wall time, never going back.
pub(crate) struct ClockSource {
    start: Instant,
    /// Tell the time of the wall.
    threads: Threads,
    last: Clock,
    wall_read_at: Time,
    /// What is still to be added (or held back, if negative), in nanoseconds.
    offset: i64,
}

impl ClockSource {
    /// A clock that goes on from `log`, the log time of the last entry there is.
    pub(crate) fn new(start: Instant, log: Time, threads: Threads) -> ClockSource {
        // A log time behind the wall is set forward at once: time passed while the node was down.
        // The wall is read now, so what has passed since `start` is in it already.
        let (monotonic, log) = (monotonic(start), log.max(wall(&threads)));
        let last = Clock { monotonic, log };
        ClockSource { start, threads, last, wall_read_at: monotonic, offset: 0 }
    }

    /// Log time as it was told last.
    pub(crate) fn latest(&self) -> Time {
        self.last.log
    }

    /// The time now.
    pub(crate) fn now(&mut self) -> Clock {
        let monotonic = monotonic(self.start);
        let passed = monotonic.0.saturating_sub(self.last.monotonic.0);
        if monotonic.since(self.wall_read_at) >= WALL_EVERY {
            self.wall_read_at = monotonic;
            self.offset = wall(&self.threads).0.wrapping_sub(self.last.log.0 + passed) as i64;
        }
        self.last =
            Clock { monotonic, log: Time(self.last.log.0 + slewed(passed, &mut self.offset)) };
        self.last
    }
}

/// `passed` nanoseconds, made longer or shorter by a 2,000th at the most to work off `offset`.
fn slewed(passed: u64, offset: &mut i64) -> u64 {
    let step = (passed / SLEW_DIVISOR).min(offset.unsigned_abs());
    if *offset >= 0 {
        *offset -= step as i64;
        passed + step
    } else {
        *offset += step as i64;
        passed - step
    }
}

/// Nanoseconds since `start`.
pub(crate) fn monotonic(start: Instant) -> Time {
    Time(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// Unix time. A wall clock before 1970 reads as 1970.
fn wall(threads: &Threads) -> Time {
    let since = threads.wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stepped_wall_clock_is_followed_gently_either_way() {
        let second = 1_000_000_000;
        let mut ahead = 3_600 * second as i64;
        assert_eq!(slewed(second, &mut ahead), second + 500_000);
        assert_eq!(ahead, 3_600 * second as i64 - 500_000);
        let mut behind = -3_600 * second as i64;
        assert_eq!(slewed(second, &mut behind), second - 500_000);
        let mut near = -10;
        assert_eq!(slewed(second, &mut near), second - 10);
        assert_eq!(near, 0);
    }

    #[test]
    fn what_passed_before_the_clock_was_made_is_not_counted_twice() {
        let hour = Duration::from_secs(3600);
        // A machine that was started less than an hour ago has no such instant.
        let start = Instant::now().checked_sub(hour).unwrap_or_else(Instant::now);
        let mut clock = ClockSource::new(start, Time(0), Threads::real());
        let ahead = clock.now().log.since(wall(&Threads::real()));
        assert!(ahead < Duration::from_secs(1), "log time is {ahead:?} ahead of the wall");
    }

    #[test]
    fn log_time_goes_on_from_the_log_and_never_back() {
        let future = Time(wall(&Threads::real()).0 + 5_000_000_000);
        let mut clock = ClockSource::new(Instant::now(), future, Threads::real());
        let mut last = future;
        for _ in 0..1000 {
            let now = clock.now().log;
            assert!(now >= last);
            last = now;
        }
    }
}
