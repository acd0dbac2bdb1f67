//! How much may be published in a second: token buckets of users and of virtual hosts, shared by
//! their connections.
//!
//! A connection asks how many messages it may take before it decodes, and pays for what it has
//! taken afterwards. Payment may leave a debt (a large body, several connections at once), which
//! is waited for; so the average holds whatever the sizes are. Each connection is given its part
//! of what is there, so that none takes all of it for as long as others wait.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use isthmus_contract::Places;
use isthmus_model::Batch;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::access::{Limits, Rates};

/// The shortest wait: many small ones would cost more than they bring.
const WAIT_MIN: Duration = Duration::from_millis(2);

/// The longest wait before the limits are looked at again, as they may have changed.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Bytes read at a time where bytes are limited: at least, and as a part of a second's.
const READ_BYTES_MIN: u64 = 4 * 1024;
const READS_PER_SECOND: u64 = 16;

/// What may be published at once; a second's worth of it at the most.
#[derive(Debug)]
pub(crate) struct Bucket(Mutex<Level>);

#[derive(Debug)]
struct Level {
    rates: Rates,
    /// Below zero for a debt.
    messages: f64,
    bytes: f64,
    at: Instant,
}

impl Default for Bucket {
    /// It holds next to nothing: else who connects anew would begin with a second's worth again.
    fn default() -> Bucket {
        let level =
            Level { rates: Rates::default(), messages: 1.0, bytes: 0.0, at: Instant::now() };
        Bucket(Mutex::new(level))
    }
}

/// Adds what has come in `seconds`.
fn fill(level: &mut f64, rate: Option<u64>, seconds: f64) {
    *level = match rate {
        // At least one message, however low the rate.
        Some(rate) => (*level + rate as f64 * seconds).min((rate as f64).max(1.0)),
        // A debt does not outlive its limit.
        None => 0.0,
    };
}

/// How long it takes until `level` is at `wanted`; `None` if it is.
fn wait(level: f64, wanted: f64, rate: u64) -> Option<Duration> {
    if rate == 0 {
        return Some(WAIT_MAX);
    }
    let seconds = (wanted - level) / rate as f64;
    // Rounding must not make for a wait of nothing again and again: a nanosecond is nothing here.
    (seconds > 1e-9).then(|| Duration::from_secs_f64(seconds.min(WAIT_MAX.as_secs_f64())))
}

impl Level {
    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        fill(&mut self.messages, self.rates.messages, seconds);
        fill(&mut self.bytes, self.rates.bytes, seconds);
        self.at = now;
    }
}

impl Bucket {
    /// How many messages one of `sharers` may take now.
    ///
    /// # Errors
    /// How long to wait, if none.
    fn allowance(&self, rates: Rates, sharers: usize, now: Instant) -> Result<u64, Duration> {
        let mut level = self.0.lock();
        level.rates = rates;
        level.refill(now);
        let for_messages = rates.messages.and_then(|rate| wait(level.messages, 1.0, rate));
        let for_bytes = rates.bytes.and_then(|rate| wait(level.bytes, 0.0, rate));
        if let Some(wait) = for_messages.max(for_bytes) {
            return Err(wait.max(WAIT_MIN));
        }
        Ok(match rates.messages {
            // What rounding has taken from the last message is given.
            Some(_) => ((level.messages + 1e-6) as u64 / sharers.max(1) as u64).max(1),
            None => u64::MAX,
        })
    }

    fn charge(&self, messages: u64, bytes: u64) {
        let mut level = self.0.lock();
        level.messages -= messages as f64;
        level.bytes -= bytes as f64;
    }

    /// Whether more was taken than is paid for.
    pub(crate) fn is_in_debt(&self, now: Instant) -> bool {
        let mut level = self.0.lock();
        level.refill(now);
        level.messages < 0.0 || level.bytes < 0.0
    }
}

/// What a connection shares with others of its user and in its virtual host.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) user: Arc<Bucket>,
    pub(crate) vhost: Arc<Bucket>,
    /// Places for the channels of the user.
    pub(crate) places: Arc<Places>,
    /// Whether publishing is limited at all, as of the last look.
    is_limited: Cell<bool>,
}

impl Share {
    pub(crate) fn new(user: Arc<Bucket>, vhost: Arc<Bucket>, places: Arc<Places>) -> Share {
        Share { user, vhost, places, is_limited: Cell::new(false) }
    }

    /// How many messages the connection may take now.
    ///
    /// # Errors
    /// How long to wait, if none.
    pub(crate) fn allowance(&self, limits: &Limits) -> Result<u64, Duration> {
        let mut allowed = Ok(u64::MAX);
        let none = Rates::default();
        let is_limited = limits.user_rates != none || limits.vhost_rates != none;
        self.is_limited.set(is_limited);
        if !is_limited {
            return allowed;
        }
        let now = Instant::now();
        for (bucket, rates) in [(&self.user, limits.user_rates), (&self.vhost, limits.vhost_rates)]
        {
            // The registry has one itself.
            let sharers = Arc::strong_count(bucket) - 1;
            allowed = match (allowed, bucket.allowance(rates, sharers, now)) {
                (Ok(one), Ok(other)) => Ok(one.min(other)),
                (Err(one), Err(other)) => Err(one.max(other)),
                (Err(wait), Ok(_)) | (Ok(_), Err(wait)) => Err(wait),
            };
        }
        allowed
    }

    /// Pays for messages that were taken.
    pub(crate) fn charge(&self, batch: &Batch) {
        if !self.is_limited.get() {
            return;
        }
        let messages = batch.records.len() as u64;
        let bytes = batch.records.iter().map(|record| u64::from(record.body.len)).sum();
        self.user.charge(messages, bytes);
        self.vhost.charge(messages, bytes);
    }
}

/// Bytes to read at a time under `limits`: a debt of many seconds would hold up what is not
/// limited, too.
pub(crate) fn read_bytes_max(limits: &Limits) -> usize {
    let rates = [limits.user_rates.bytes, limits.vhost_rates.bytes];
    let part = |rate: u64| (rate / READS_PER_SECOND).max(READ_BYTES_MIN);
    let least = rates.into_iter().flatten().map(part).min();
    least.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER_SECOND: Rates = Rates { messages: Some(100), bytes: None };

    #[tokio::test(start_paused = true)]
    async fn a_second_brings_what_the_rate_says_and_no_more_is_kept() {
        let bucket = Bucket::default();
        assert_eq!(bucket.allowance(PER_SECOND, 1, Instant::now()), Ok(1));
        bucket.charge(1, 10);
        let wait = bucket.allowance(PER_SECOND, 1, Instant::now()).expect_err("nothing left");
        assert_eq!(wait, Duration::from_millis(10));
        tokio::time::advance(wait).await;
        assert_eq!(bucket.allowance(PER_SECOND, 1, Instant::now()), Ok(1));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(bucket.allowance(PER_SECOND, 1, Instant::now()), Ok(100));
        assert_eq!(bucket.allowance(PER_SECOND, 4, Instant::now()), Ok(25), "one of four");
        bucket.charge(150, 0);
        assert!(bucket.is_in_debt(Instant::now()));
        let wait = bucket.allowance(PER_SECOND, 1, Instant::now()).expect_err("a debt");
        assert_eq!(wait, Duration::from_millis(510));
        tokio::time::advance(wait).await;
        assert!(!bucket.is_in_debt(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_waited_for_after_they_have_come() {
        let rates = Rates { messages: None, bytes: Some(1000) };
        let bucket = Bucket::default();
        assert_eq!(bucket.allowance(rates, 1, Instant::now()), Ok(u64::MAX));
        bucket.charge(1, 500);
        let wait = bucket.allowance(rates, 1, Instant::now()).expect_err("a debt");
        assert_eq!(wait, Duration::from_millis(500));
        bucket.charge(1, 100_000);
        let wait = bucket.allowance(rates, 1, Instant::now()).expect_err("a debt");
        assert_eq!(wait, WAIT_MAX, "then the limits are looked at again");
        assert_eq!(bucket.allowance(Rates::default(), 1, Instant::now()), Ok(u64::MAX));
        assert!(!bucket.is_in_debt(Instant::now()), "without a limit there is no debt");
    }

    #[test]
    fn a_rate_of_zero_allows_nothing() {
        for rates in
            [Rates { messages: Some(0), bytes: None }, Rates { messages: None, bytes: Some(0) }]
        {
            assert_eq!(Bucket::default().allowance(rates, 1, Instant::now()), Err(WAIT_MAX));
        }
    }
}
