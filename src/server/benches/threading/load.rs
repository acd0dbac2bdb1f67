//! What the brokers are loaded with, and what is measured meanwhile.
//!
//! Each queue has a publisher and a consumer with a connection and a thread each. A publisher
//! never gets more than [`AHEAD_MAX`] messages ahead of its consumer, so that a rate is one that
//! lasts, and not the growth of a backlog.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::amqp::{Client, Frame, hang_up, message};
use crate::cpu;
use crate::serve::Served;

/// What is compared.
pub(crate) const LOADS: [Load; 7] = [
    Load { name: "transient 16 B, 1 × 1", durable: false, body: 16, queues: 1, rate: None },
    Load { name: "transient 16 B, 4 × 4", durable: false, body: 16, queues: 4, rate: None },
    Load { name: "transient 1 KiB, 1 × 1", durable: false, body: 1024, queues: 1, rate: None },
    Load { name: "durable 1 KiB, 1 × 1", durable: true, body: 1024, queues: 1, rate: None },
    Load { name: "durable 1 KiB, 4 × 4", durable: true, body: 1024, queues: 4, rate: None },
    Load { name: "transient 1 KiB, 2,000/s", durable: false, body: 1024, queues: 1, rate: LOW },
    Load { name: "durable 1 KiB, 2,000/s", durable: true, body: 1024, queues: 1, rate: LOW },
];

/// Messages per second at which latency is measured.
const LOW: Option<u32> = Some(2_000);

/// Messages that a publisher may be ahead of its consumer.
const AHEAD_MAX: u64 = 20_000;

/// Durable messages that may be without a confirm.
const WINDOW: u64 = 1_000;

/// Messages that a consumer of durable ones may have unacknowledged.
const PREFETCH: u16 = 1_000;

/// It acknowledges as many at once.
const ACK_EVERY: u64 = 100;

/// Bytes that a publisher writes with one call.
const WRITE_BYTES: usize = 64 << 10;

/// Without a message for so long, a run has failed.
const STALL_MAX: Duration = Duration::from_secs(30);

/// A kind of load.
pub(crate) struct Load {
    /// Names it in the table.
    pub(crate) name: &'static str,
    /// Persistent messages with confirms through a durable queue, acknowledged by the consumer;
    /// else transient ones, without either.
    pub(crate) durable: bool,
    body: usize,
    queues: usize,
    /// Messages per second, else as many as it gets.
    rate: Option<u32>,
}

/// What one run came to.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// CPU seconds of the broker per million messages.
    pub(crate) cpu_s_per_million: f64,
    /// Messages per second.
    pub(crate) rate: f64,
    /// Median and 99th percentile of the time from when a message was to be sent until it was
    /// read by its consumer, in microseconds.
    pub(crate) latency_us: Option<(f64, f64)>,
    /// CPUs that were used neither by the broker nor by its load.
    pub(crate) others: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s/M {:.0}/s", self.cpu_s_per_million, self.rate)?;
        if let Some((p50, p99)) = self.latency_us {
            write!(f, " p50 {p50:.0} µs p99 {p99:.0} µs")?;
        }
        write!(f, " others {:.2}", self.others)
    }
}

impl Load {
    /// Loads a broker, and measures it once the load has warmed up.
    pub(crate) fn run(
        &self,
        broker: &Served,
        warm_up: Duration,
        measured: Duration,
    ) -> io::Result<Figures> {
        let queues = (0..self.queues).map(|number| format!("queue-{number}"));
        // All connect before any sends: connecting takes long at a broker under full load.
        let clients = queues.map(|queue| self.connect(broker.address, queue));
        let clients: Vec<_> = clients.collect::<io::Result<_>>()?;
        let lanes = clients.into_iter().map(|clients| Lane::start(self, clients));
        let lanes: Vec<_> = lanes.collect::<io::Result<_>>()?;
        let gates: Vec<_> = lanes.iter().map(|lane| Arc::clone(&lane.gate)).collect();
        await_message(&gates, 0)?;
        thread::sleep(warm_up);
        let before = Sample::take(broker, &gates)?;
        thread::sleep(measured);
        await_message(&gates, before.received)?;
        let after = Sample::take(broker, &gates)?;
        let mut latencies = Vec::new();
        for lane in lanes {
            let times = lane.stop()?.into_iter();
            let within = times.filter(|t| (before.at..after.at).contains(&t.due));
            latencies.extend(within.map(|t| t.latency));
        }
        Ok(after.since(&before, &mut latencies))
    }

    fn connect(&self, address: SocketAddr, queue: String) -> io::Result<Clients> {
        let (mut source, mut sink) = (Client::connect(address)?, Client::connect(address)?);
        sink.declare(&queue, self.durable)?;
        sink.consume(&queue, self.durable.then_some(PREFETCH))?;
        if self.durable {
            source.select()?;
        }
        Ok(Clients { queue, source, sink })
    }
}

/// The two connections of a queue, set up.
struct Clients {
    queue: String,
    source: Client,
    sink: Client,
}

/// Waits until more messages were received than that: on a busy machine a short run may begin and
/// end without one.
fn await_message(gates: &[Arc<Gate>], than: u64) -> io::Result<()> {
    let since = Instant::now();
    while received(gates) <= than {
        if since.elapsed() > STALL_MAX {
            return Err(io::Error::other("no message arrives"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn received(gates: &[Arc<Gate>]) -> u64 {
    gates.iter().map(|gate| *gate.received.lock()).sum()
}

/// A queue's publisher and consumer.
struct Lane {
    gate: Arc<Gate>,
    streams: [TcpStream; 2],
    publisher: JoinHandle<io::Result<()>>,
    consumer: JoinHandle<io::Result<Vec<Arrival>>>,
}

impl Lane {
    fn start(load: &Load, clients: Clients) -> io::Result<Lane> {
        let Clients { queue, source, sink } = clients;
        let gate = Arc::new(Gate::default());
        let streams = [source.stream()?, sink.stream()?];
        let (epoch, (durable, body, rate)) = (Instant::now(), (load.durable, load.body, load.rate));
        let (at_source, at_sink) = (Arc::clone(&gate), Arc::clone(&gate));
        let publisher = thread::spawn(move || {
            let frames = message(&queue, &vec![0; body], durable);
            at_source.unless_stopped(match rate {
                Some(rate) => publish_at(rate, source, frames, body, &at_source, epoch),
                None if durable => publish_confirmed(source, &frames, &at_source),
                None => publish(source, &frames, &at_source),
            })
        });
        let consumer = thread::spawn(move || {
            let mut arrivals = Vec::new();
            let timed = rate.map(|_| (epoch, &mut arrivals));
            let consumed = consume(sink, durable, &at_sink, timed);
            at_sink.unless_stopped(consumed).map(|()| arrivals)
        });
        Ok(Lane { gate, streams, publisher, consumer })
    }

    /// Hangs up; says when messages arrived, or what went wrong before.
    fn stop(self) -> io::Result<Vec<Arrival>> {
        self.gate.stop();
        self.streams.iter().for_each(hang_up);
        let panicked = |_| io::Error::other("a thread of the load panicked");
        self.publisher.join().map_err(panicked)??;
        self.consumer.join().map_err(panicked)?
    }
}

/// A message that was sent on schedule.
struct Arrival {
    /// When it was to be sent.
    due: Instant,
    latency: Duration,
}

/// Keeps a publisher from running away from its consumer, and ends both.
#[derive(Default)]
struct Gate {
    received: Mutex<u64>,
    /// More was received, or it is over.
    moved: Condvar,
    stopped: AtomicBool,
}

impl Gate {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn received(&self, messages: u64) {
        *self.received.lock() += messages;
        self.moved.notify_one();
    }

    /// Waits until this many messages may have been sent; false if it is over.
    fn admits(&self, sent: u64) -> bool {
        let mut received = self.received.lock();
        while sent > *received + AHEAD_MAX && !self.is_stopped() {
            self.moved.wait(&mut received);
        }
        !self.is_stopped()
    }

    fn stop(&self) {
        // Under the lock, so that nobody is between looking at it and waiting.
        let _received = self.received.lock();
        self.stopped.store(true, Ordering::Relaxed);
        self.moved.notify_one();
    }

    /// Errors after the end are the end.
    fn unless_stopped(&self, result: io::Result<()>) -> io::Result<()> {
        if self.is_stopped() { Ok(()) } else { result }
    }
}

/// Publishes as fast as the consumer follows.
fn publish(mut client: Client, frames: &[u8], gate: &Gate) -> io::Result<()> {
    let count = WRITE_BYTES.div_ceil(frames.len());
    let block = frames.repeat(count);
    let mut sent = 0;
    loop {
        sent += count as u64;
        if !gate.admits(sent) {
            return Ok(());
        }
        client.send(&block)?;
    }
}

/// Publishes as fast as confirms come and the consumer follows.
fn publish_confirmed(mut client: Client, frames: &[u8], gate: &Gate) -> io::Result<()> {
    let block = frames.repeat(WINDOW as usize);
    let (mut sent, mut confirmed) = (0, 0);
    loop {
        let free = confirmed + WINDOW - sent;
        sent += free;
        if !gate.admits(sent) {
            return Ok(());
        }
        client.send(&block[..free as usize * frames.len()])?;
        while confirmed + WINDOW == sent {
            client.wait()?;
            while let Some(frame) = client.next()? {
                if let Frame::Ack(tag) = frame {
                    confirmed = confirmed.max(tag);
                }
            }
        }
    }
}

/// Publishes on schedule. What is late is sent at once, and its latency counts from when it was
/// due: a broker that stalls must not be excused from the messages that it held up.
fn publish_at(
    rate: u32,
    mut client: Client,
    mut frames: Vec<u8>,
    body: usize,
    gate: &Gate,
    epoch: Instant,
) -> io::Result<()> {
    // Sleep to the microsecond; the 50 µs that the system may add would blur every latency.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    // Confirms are read so that the broker is not kept from writing them.
    let mut confirms = client.stream()?;
    let confirmed = thread::spawn(move || io::copy(&mut confirms, &mut io::sink()));
    let due_at = frames.len() - 1 - body;
    let start = epoch.elapsed();
    let mut sent = 0;
    while !gate.is_stopped() {
        let due = start + Duration::from_secs(1) * sent / rate;
        thread::sleep(due.saturating_sub(epoch.elapsed()));
        frames[due_at..due_at + 8].copy_from_slice(&(due.as_nanos() as u64).to_be_bytes());
        client.send(&frames)?;
        sent += 1;
    }
    drop(client);
    // Ends with the connection.
    drop(confirmed.join());
    Ok(())
}

/// Receives, and acknowledges what is durable; notes when messages arrive that carry when they
/// were due after an epoch.
fn consume(
    mut client: Client,
    durable: bool,
    gate: &Gate,
    mut timed: Option<(Instant, &mut Vec<Arrival>)>,
) -> io::Result<()> {
    let (mut tag, mut acknowledged) = (0, 0);
    loop {
        client.wait()?;
        let now = Instant::now();
        let before = tag;
        while let Some(frame) = client.next()? {
            let Frame::Body(body) = frame else { continue };
            // Tags count deliveries from one.
            tag += 1;
            if let Some((epoch, arrivals)) = &mut timed
                && let Some(nanos) = body.first_chunk()
            {
                let due = *epoch + Duration::from_nanos(u64::from_be_bytes(*nanos));
                arrivals.push(Arrival { due, latency: now.saturating_duration_since(due) });
            }
        }
        if durable && tag - acknowledged >= ACK_EVERY {
            client.ack(tag)?;
            acknowledged = tag;
        }
        gate.received(tag - before);
    }
}

/// The state of things at one time.
struct Sample {
    at: Instant,
    received: u64,
    broker: Duration,
    own: Duration,
    machine_s: f64,
}

impl Sample {
    fn take(broker: &Served, gates: &[Arc<Gate>]) -> io::Result<Sample> {
        Ok(Sample {
            at: Instant::now(),
            received: received(gates),
            broker: cpu::of_process(broker.pid())?,
            own: cpu::of_process(std::process::id())?,
            machine_s: cpu::of_machine_s()?,
        })
    }

    /// What happened in between; `latencies` are of the messages that were due meanwhile.
    fn since(&self, before: &Sample, latencies: &mut [Duration]) -> Figures {
        let seconds = (self.at - before.at).as_secs_f64();
        let messages = (self.received - before.received) as f64;
        let broker_s = self.broker.saturating_sub(before.broker).as_secs_f64();
        let own_s = self.own.saturating_sub(before.own).as_secs_f64();
        let others_s = self.machine_s - before.machine_s - broker_s - own_s;
        latencies.sort_unstable();
        let percentile = |percent: usize| {
            latencies.get(latencies.len() * percent / 100).map(|l| l.as_secs_f64() * 1e6)
        };
        Figures {
            cpu_s_per_million: broker_s * 1e6 / messages,
            rate: messages / seconds,
            latency_us: percentile(50).zip(percentile(99)),
            others: (others_s / seconds).max(0.0),
        }
    }
}
