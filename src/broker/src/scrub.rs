//! Reading page files again, slowly, so that damage is found before somebody needs what is damaged.
//!
//! A start verifies some of the page files, for a large backlog must not hold it up. The others are
//! verified behind it, one after the other; after that each is verified again whenever that has not
//! been done for a while. A file that was just written counts as verified.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use isthmus_storage::Error;
use isthmus_storage::pages::PageFile;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::OnFailure;
use crate::driver::Driver;
use crate::pager::Pager;
use crate::shard::Input;

/// How often it is looked whether a file is due, once none is.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Sleeps that are shorter than this are put together: a sleep costs more than they would rest.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// How long is slept before it is asked whether the broker stops.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// How far a disk that was slow may catch up.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);

/// How much of the page files is verified, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Bytes of page files that are verified before the broker starts, so that damage keeps it from
    /// starting. By default 128 MiB, what a disk reads in about half a second.
    pub at_start_bytes: u64,
    /// Bytes a second that are read at the most once it has started; 0 if nothing is. By default
    /// 32 MiB, a quarter of what the smallest disks of servers read.
    pub bytes_per_second: u64,
    /// How long after a page file was written or verified it is verified again. By default seven
    /// days.
    pub interval: Duration,
}

impl Default for ScrubOptions {
    fn default() -> ScrubOptions {
        ScrubOptions {
            at_start_bytes: 128 << 20,
            bytes_per_second: 32 << 20,
            interval: Duration::from_secs(7 * 86_400),
        }
    }
}

/// What scrubs.
pub(crate) struct Scrub {
    pub(crate) options: ScrubOptions,
    pub(crate) driver: Weak<dyn Driver>,
    pub(crate) pager: Arc<Pager>,
    /// Files that the start has verified.
    pub(crate) verified: BTreeSet<u64>,
    /// True once the broker stops; gone if it was dropped.
    pub(crate) stop: watch::Receiver<bool>,
    /// Called if a file is damaged.
    pub(crate) on_failure: Arc<OnFailure>,
}

impl Scrub {
    /// Works until the broker stops, or damage is found.
    pub(crate) async fn run(mut self) {
        if self.options.bytes_per_second == 0 {
            return;
        }
        let mut due = Due::new(self.pager.sizes().into_keys(), &self.verified, Instant::now());
        loop {
            let numbers = self.pager.sizes();
            let next = due.next(numbers.keys().copied(), Instant::now(), self.options.interval);
            let file = next.and_then(|number| self.pager.files([number]).pop());
            let Some(file) = file else {
                tokio::select! {
                    // In this order, so that a simulation replays.
                    biased;
                    () = tokio::time::sleep(LOOK_EVERY) => continue,
                    _ = self.stop.wait_for(|stop| *stop) => return,
                }
            };
            let pace = Pace::new(self.options.bytes_per_second, self.stop.clone());
            let number = file.number();
            let verified = tokio::task::spawn_blocking(move || verify(&file, &pace)).await;
            match verified {
                Ok(Ok(true)) => due.verified(number, Instant::now(), self.options.interval),
                // It stops, or the runtime does.
                Ok(Ok(false)) | Err(_) => return,
                // What was in it has been consumed, or written anew, meanwhile.
                Ok(Err(_)) if self.pager.files([number]).is_empty() => {}
                Ok(Err(error)) => return self.fail(error),
            }
        }
    }

    /// What is in a damaged page can neither be delivered nor passed over.
    fn fail(self, error: Error) {
        let Some(driver) = self.driver.upgrade() else { return };
        driver.submit(Input::Inspect(Box::new(move |shard| {
            shard.fail();
            self.on_failure.call(error);
        })));
    }
}

/// Verifies a file; false if it was broken off.
fn verify(file: &PageFile, pace: &Pace) -> Result<bool, Error> {
    let report = file.verify_at(&|bytes| pace.hold(bytes))?;
    if let Some(report) = report {
        tracing::debug!(file = file.name(), bytes = report.bytes, "page file verified");
    }
    Ok(report.is_some())
}

/// When each file is to be verified.
struct Due(HashMap<u64, Instant>);

impl Due {
    /// Of the files that there are at the start, those that it has not verified are due.
    fn new(files: impl Iterator<Item = u64>, verified: &BTreeSet<u64>, now: Instant) -> Due {
        Due(files.filter(|file| !verified.contains(file)).map(|file| (file, now)).collect())
    }

    /// The file that has been due for the longest time, the oldest one of several. One that is seen
    /// for the first time was written lately, or verified by the start.
    fn next(
        &mut self,
        files: impl Iterator<Item = u64>,
        now: Instant,
        interval: Duration,
    ) -> Option<u64> {
        let there: BTreeSet<u64> = files.collect();
        self.0.retain(|file, _| there.contains(file));
        for file in there {
            self.0.entry(file).or_insert(now + interval);
        }
        let due = self.0.iter().filter(|(_, at)| **at <= now);
        due.min_by_key(|(file, at)| (**at, **file)).map(|(file, _)| *file)
    }

    fn verified(&mut self, file: u64, now: Instant, interval: Duration) {
        self.0.insert(file, now + interval);
    }
}

/// Holds up a thread that reads, so that it reads no more than so many bytes a second.
struct Pace {
    bytes_per_second: u64,
    /// When what was read so far may have been read.
    due: Mutex<std::time::Instant>,
    stop: watch::Receiver<bool>,
}

impl Pace {
    fn new(bytes_per_second: u64, stop: watch::Receiver<bool>) -> Pace {
        Pace { bytes_per_second, due: Mutex::new(std::time::Instant::now()), stop }
    }

    /// Called before `bytes` are read; breaks if the broker stops.
    fn hold(&self, bytes: u64) -> ControlFlow<()> {
        let mut due = self.due.lock();
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let now = std::time::Instant::now();
        *due = now.checked_sub(CATCH_UP_MAX).map_or(*due, |least| least.max(*due)) + takes;
        loop {
            if *self.stop.borrow() || self.stop.has_changed().is_err() {
                return ControlFlow::Break(());
            }
            let left = due.saturating_duration_since(std::time::Instant::now());
            if left < SLEEP_MIN {
                return ControlFlow::Continue(());
            }
            std::thread::sleep(left.min(SLEEP_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_start_left_out_is_due_at_once_and_everything_again_after_a_while() {
        let (start, week) = (Instant::now(), Duration::from_secs(7 * 86_400));
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut due = Due::new([1, 2, 3].into_iter(), &BTreeSet::from([1]), start);
        let files = || [1, 2, 3, 4].into_iter();
        assert_eq!(due.next(files(), start, week), Some(2));
        due.verified(2, after(5), week);
        assert_eq!(due.next(files(), after(5), week), Some(3));
        due.verified(3, after(9), week);
        assert_eq!(due.next(files(), after(9), week), None);
        // 1 was verified by the start, 4 was new then; 2 is gone since.
        let later = start + week + Duration::from_secs(20);
        let left = || [1, 3, 4].into_iter();
        assert_eq!(due.next(left(), start + week, week), Some(1));
        for expected in [1, 4, 3] {
            assert_eq!(due.next(left(), later, week), Some(expected));
            due.verified(expected, later, week);
        }
        assert_eq!(due.next(left(), later, week), None);
    }

    #[test]
    fn reading_is_held_to_its_pace_until_the_broker_stops() {
        let (stop, stopping) = watch::channel(false);
        let pace = Pace::new(1 << 20, stopping);
        let begun = std::time::Instant::now();
        for _ in 0..4 {
            assert!(pace.hold(64 << 10).is_continue());
        }
        // A quarter of a second's worth, a tenth of which may be caught up.
        assert!(begun.elapsed() >= Duration::from_millis(140), "{:?}", begun.elapsed());
        let stopped = std::thread::spawn(move || pace.hold(1 << 30));
        stop.send_replace(true);
        assert!(stopped.join().is_ok_and(|held| held.is_break()));
    }
}
