//! What is counted and measured while a run goes on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::payload::{Checked, Header};
use crate::plan::Plan;
use crate::seen::Seen;

/// Microseconds of the Unix clock that never go backwards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    begun: Instant,
    begun_us: u64,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        let begun_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        Clock { begun: Instant::now(), begun_us: begun_us as u64 }
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.begun_us + self.begun.elapsed().as_micros() as u64
    }
}

/// The longest latency that is told apart from longer ones: half of what a stamp can tell.
const LATENCY_MAX_US: u64 = 1 << 31;

/// Microseconds since a stamp. What seems to come from the future (clocks of two machines) took no
/// time.
pub(crate) fn since_us(stamp: u32, now_us: u64) -> u64 {
    let us = u64::from((now_us as u32).wrapping_sub(stamp));
    if us > LATENCY_MAX_US { 0 } else { us }
}

/// A histogram of microseconds with three significant digits.
pub(crate) fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, LATENCY_MAX_US, 3) {
        Ok(histogram) => histogram,
        // The bounds are constants that the library's documentation allows.
        Err(error) => unreachable!("{error}"),
    }
}

/// One kind of latency: what came since the last look, in several places so that connections do not
/// wait for each other.
#[derive(Debug)]
struct Latency {
    shards: Vec<Mutex<Histogram<u64>>>,
}

const SHARDS: usize = 8;

impl Latency {
    fn new() -> Latency {
        Latency { shards: (0..SHARDS).map(|_| Mutex::new(histogram())).collect() }
    }

    /// Takes microseconds, with how often each came.
    fn record(&self, shard: usize, latencies: &[(u64, u64)]) {
        let mut histogram = self.shards[shard % SHARDS].lock();
        for &(us, count) in latencies {
            histogram.saturating_record_n(us, count);
        }
    }

    /// What came since the last call.
    fn take(&self) -> Histogram<u64> {
        let mut all = histogram();
        for shard in &self.shards {
            let mut shard = shard.lock();
            // Of the same bounds: it cannot fail.
            all.add(&*shard).ok();
            shard.reset();
        }
        all
    }
}

/// Counts, all of them since the start.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) confirmed: u64,
    pub(crate) refused: u64,
    pub(crate) received: u64,
    pub(crate) received_bytes: u64,
    pub(crate) redelivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) disordered: u64,
    pub(crate) corrupt: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    confirmed: AtomicU64,
    refused: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    redelivered: AtomicU64,
    duplicates: AtomicU64,
    disordered: AtomicU64,
    corrupt: AtomicU64,
}

/// The latencies since the last look.
#[derive(Debug)]
pub(crate) struct Latencies {
    /// From the intended time of sending to the consumer.
    pub(crate) end_to_end: Histogram<u64>,
    /// From the intended time of sending to the broker's confirmation.
    pub(crate) confirm: Histogram<u64>,
    /// From the intended time of sending to when the message was handed to the socket.
    pub(crate) late: Histogram<u64>,
}

/// All that a run counts. What happens in the warm-up counts for loss and order, not for latency.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) clock: Clock,
    run: Counters,
    end_to_end: Latency,
    confirm: Latency,
    late: Latency,
    /// When the warm-up ends, in microseconds.
    warm_us: AtomicU64,
    /// What came, for each copy and producer.
    seen: Vec<Vec<Mutex<Seen>>>,
    /// How many messages each producer sent, and how many of those were refused.
    sent: Vec<(AtomicU64, AtomicU64)>,
    checks: bool,
    /// The first errors, and how many there were.
    errors: Mutex<(Vec<String>, u64)>,
}

/// The addresses of the producers, where they are of this run.
const UNKNOWN_PRODUCERS: usize = 1024;

/// Errors that are kept.
const ERRORS_KEPT: usize = 20;

impl Record {
    pub(crate) fn new(plan: &Plan) -> Record {
        // A run that only consumes does not know how many there are elsewhere.
        let producers = if plan.producers == 0 { UNKNOWN_PRODUCERS } else { plan.producers };
        let seen = |_| (0..producers).map(|_| Mutex::default()).collect();
        Record {
            clock: Clock::start(),
            run: Counters::default(),
            end_to_end: Latency::new(),
            confirm: Latency::new(),
            late: Latency::new(),
            warm_us: AtomicU64::new(u64::MAX),
            seen: (0..plan.fan_out).map(seen).collect(),
            sent: (0..plan.producers).map(|_| Default::default()).collect(),
            checks: plan.sizes.min() >= crate::payload::HEADER,
            errors: Mutex::default(),
        }
    }

    /// Latencies count for what is meant to be sent from now on.
    pub(crate) fn end_warm_up(&self) {
        self.warm_us.store(self.clock.now_us(), Ordering::Relaxed);
    }

    fn is_warm(&self, now_us: u64, latency_us: u64) -> bool {
        now_us.saturating_sub(latency_us) >= self.warm_us.load(Ordering::Relaxed)
    }

    /// Notes an error.
    pub(crate) fn error(&self, text: String) {
        let mut errors = self.errors.lock();
        errors.1 += 1;
        if errors.0.len() < ERRORS_KEPT {
            errors.0.push(text);
        }
    }

    /// The first errors, and how many there were.
    pub(crate) fn errors(&self) -> (Vec<String>, u64) {
        self.errors.lock().clone()
    }

    /// Notes a batch that a producer has handed to its socket.
    pub(crate) fn sent(&self, producer: usize, bytes: u64, stamps: &[u32], paced: bool) {
        self.run.sent.fetch_add(stamps.len() as u64, Ordering::Relaxed);
        self.run.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sent[producer].0.fetch_add(stamps.len() as u64, Ordering::Relaxed);
        if paced {
            self.record(&self.late, producer, stamps.iter().copied());
        }
    }

    /// Notes what a producer's broker confirmed and refused.
    pub(crate) fn settled(&self, producer: usize, stamps: &[u32], refused: u64) {
        self.run.confirmed.fetch_add(stamps.len() as u64, Ordering::Relaxed);
        if refused > 0 {
            self.run.refused.fetch_add(refused, Ordering::Relaxed);
            self.sent[producer].1.fetch_add(refused, Ordering::Relaxed);
        }
        self.record(&self.confirm, producer, stamps.iter().copied());
    }

    fn record(&self, latency: &Latency, shard: usize, stamps: impl Iterator<Item = u32>) {
        let now_us = self.clock.now_us();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for stamp in stamps {
            let us = since_us(stamp, now_us);
            match runs.last_mut() {
                Some((last, count)) if *last == us => *count += 1,
                _ if self.is_warm(now_us, us) => runs.push((us, 1)),
                _ => {}
            }
        }
        if !runs.is_empty() {
            latency.record(shard, &runs);
        }
    }

    /// Counts, since the start.
    pub(crate) fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let run = &self.run;
        Counts {
            sent: of(&run.sent),
            sent_bytes: of(&run.sent_bytes),
            confirmed: of(&run.confirmed),
            refused: of(&run.refused),
            received: of(&run.received),
            received_bytes: of(&run.received_bytes),
            redelivered: of(&run.redelivered),
            duplicates: of(&run.duplicates),
            disordered: of(&run.disordered),
            corrupt: of(&run.corrupt),
        }
    }

    /// The latencies since the last call.
    pub(crate) fn take_latencies(&self) -> Latencies {
        Latencies {
            end_to_end: self.end_to_end.take(),
            confirm: self.confirm.take(),
            late: self.late.take(),
        }
    }

    /// How many deliveries should have come by now, of messages that no broker refused, and how
    /// many of those have not.
    pub(crate) fn missing(&self, plan: &Plan) -> (u64, u64) {
        if plan.consumers == 0 {
            return (0, 0);
        }
        if !self.checks {
            let counts = self.counts();
            let expected = (counts.sent - counts.refused) * plan.fan_out as u64;
            return (expected, expected.saturating_sub(counts.received));
        }
        let (mut expected, mut missing) = (0, 0);
        for copy in &self.seen {
            for (n, seen) in copy.iter().enumerate() {
                let seen = seen.lock();
                // Where producers are elsewhere, only what came later tells that something was sent.
                let (sent, refused) = match self.sent.get(n) {
                    Some((sent, refused)) => {
                        (sent.load(Ordering::Relaxed), refused.load(Ordering::Relaxed))
                    }
                    None => (seen.end(), 0),
                };
                expected += sent - refused;
                missing += (sent - refused).saturating_sub(seen.unique());
            }
        }
        (expected, missing)
    }

    /// Whether all that was sent has come and is confirmed.
    fn is_complete(&self, plan: &Plan) -> bool {
        let counts = self.counts();
        let is_confirmed = plan.window == 0 || counts.confirmed + counts.refused >= counts.sent;
        is_confirmed && self.missing(plan).1 == 0
    }

    /// Waits until all that was sent has come and is confirmed, or nothing has come for so long.
    pub(crate) async fn drained(&self, plan: &Plan, patience: Duration) {
        let progress = || {
            let counts = self.counts();
            counts.received + counts.confirmed + counts.refused
        };
        let mut last = (progress(), Instant::now());
        while !self.is_complete(plan) && last.1.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = progress();
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
    }
}

/// What one consumer has received, until it is handed to the record.
#[derive(Debug)]
pub(crate) struct Batch {
    shard: usize,
    copy: usize,
    /// How many addresses a producer publishes to in turns: each is a stream with an order of its
    /// own. 0 where that is not known, and order is not looked at.
    streams: u64,
    /// One more than the last sequence number, of each producer and stream.
    last: HashMap<u16, Vec<u64>>,
    headers: Vec<Header>,
    received: u64,
    bytes: u64,
    redelivered: u64,
    corrupt: u64,
}

impl Batch {
    /// For consumer `shard`, of copy `copy`.
    pub(crate) fn new(shard: usize, copy: usize, streams: u64) -> Batch {
        Batch {
            shard,
            copy,
            streams,
            last: HashMap::new(),
            headers: Vec::new(),
            received: 0,
            bytes: 0,
            redelivered: 0,
            corrupt: 0,
        }
    }

    /// Notes one message.
    #[inline]
    pub(crate) fn push(&mut self, checked: Checked, len: usize, redelivered: bool) {
        self.received += 1;
        self.bytes += len as u64;
        self.redelivered += u64::from(redelivered);
        match checked {
            Checked::Ok(header) => self.headers.push(header),
            Checked::Bad => self.corrupt += 1,
            Checked::Short => {}
        }
    }

    /// How many messages came since the last time that it was handed over.
    pub(crate) fn len(&self) -> u64 {
        self.received
    }

    /// Hands over what came.
    pub(crate) fn hand_over(&mut self, record: &Record) {
        let run = &record.run;
        run.received.fetch_add(std::mem::take(&mut self.received), Ordering::Relaxed);
        run.received_bytes.fetch_add(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        if self.redelivered > 0 {
            run.redelivered.fetch_add(std::mem::take(&mut self.redelivered), Ordering::Relaxed);
        }
        self.note_sequences(record);
        if self.corrupt > 0 {
            run.corrupt.fetch_add(std::mem::take(&mut self.corrupt), Ordering::Relaxed);
        }
        let stamps = self.headers.iter().map(|header| header.stamp);
        record.record(&record.end_to_end, self.shard, stamps);
        self.headers.clear();
    }

    fn note_sequences(&mut self, record: &Record) {
        let (mut duplicates, mut disordered) = (0, 0);
        let copy = &record.seen[self.copy];
        // Messages of one producer come in runs: one lock and one look-up for each.
        let mut rest = self.headers.as_slice();
        while let Some(first) = rest.first() {
            let producer = first.producer;
            let len = rest.iter().position(|each| each.producer != producer).unwrap_or(rest.len());
            let (run, others) = rest.split_at(len);
            rest = others;
            let Some(seen) = copy.get(usize::from(producer)) else {
                self.corrupt += len as u64;
                continue;
            };
            let mut seen = seen.lock();
            let streams = self.streams;
            let last = self.last.entry(producer).or_insert_with(|| vec![0; streams as usize]);
            for each in run {
                let is_new = seen.insert(each.sequence);
                duplicates += u64::from(!is_new);
                let Some(stream) = each.sequence.checked_rem(streams) else { continue };
                let last = &mut last[stream as usize];
                if is_new && each.sequence + 1 < *last {
                    disordered += 1;
                }
                *last = (*last).max(each.sequence + 1);
            }
        }
        if duplicates + disordered > 0 {
            record.run.duplicates.fetch_add(duplicates, Ordering::Relaxed);
            record.run.disordered.fetch_add(disordered, Ordering::Relaxed);
        }
    }
}
