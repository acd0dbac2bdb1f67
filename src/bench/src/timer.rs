//! Sleeping to the microsecond.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer of the kernel. The runtime's own counts in milliseconds: messages at 2,000 a second
/// would all be sent up to one late, and that would be in their latency.
#[derive(Debug)]
pub(crate) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    pub(crate) fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the descriptor is owned, and is neither replaced nor closed before the `AsyncFd`.
        Ok(Timer(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?))
    }

    /// Sleeps. Cancelling it is harmless.
    pub(crate) async fn sleep(&mut self, time: Duration) -> io::Result<()> {
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        if time.tv_sec == 0 && time.tv_nsec == 0 {
            return Ok(());
        }
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: time };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|fd| {
                let mut expirations = [0; 8];
                Ok(rustix::io::read(fd.get_ref(), &mut expirations)?)
            });
            // An expiration that was there before the timer was set again is gone with that.
            if let Ok(read) = read {
                return read.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn it_never_wakes_early_and_can_be_cancelled() {
        let mut timer = Timer::new().expect("a timer");
        for _ in 0..20 {
            let start = Instant::now();
            timer.sleep(Duration::from_micros(300)).await.expect("slept");
            assert!(start.elapsed() >= Duration::from_micros(300));
        }
        let sleep = timer.sleep(Duration::from_micros(100));
        tokio::time::timeout(Duration::ZERO, sleep).await.ok();
        std::thread::sleep(Duration::from_millis(1));
        let start = Instant::now();
        timer.sleep(Duration::from_millis(5)).await.expect("slept");
        assert!(start.elapsed() >= Duration::from_millis(5));
    }
}
