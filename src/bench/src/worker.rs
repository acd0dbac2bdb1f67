//! One producer and one consumer at work.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, watch};

use crate::net::WriteHalf;
use crate::payload::{self, Bodies};
use crate::plan::{Length, Plan};
use crate::record::{Batch, Record};
use crate::timer::Timer;
use crate::window::{Gate, Settled, Window};
use crate::wire::{self, Encoder, Fault, Inbound, Input, Outbound, Settler, Sink};

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Producers send.
    Running,
    /// They send no more; what is under way arrives.
    Draining,
    /// All leave.
    Over,
}

/// What all connections of a run share.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) record: Record,
    pub(crate) bodies: Bodies,
    pub(crate) gate: Option<Gate>,
    pub(crate) phase: watch::Receiver<Phase>,
    /// How many producers have not sent all they will.
    pub(crate) sending: watch::Sender<usize>,
}

/// A producer that has not sent all it will.
struct Sending<'a>(&'a Shared);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.sending.send_modify(|sending| *sending -= 1);
    }
}

impl Shared {
    /// Returns once the run is in a later phase than `Running`.
    async fn is_draining(&self) {
        let mut phase = self.phase.clone();
        // The sender lives as long as the run.
        phase.wait_for(|phase| *phase != Phase::Running).await.ok();
    }

    async fn is_over(&self) {
        let mut phase = self.phase.clone();
        phase.wait_for(|phase| *phase == Phase::Over).await.ok();
    }
}

/// A batch is written when it has so many bytes or messages.
const BATCH_BYTES: usize = 64 * 1024;
const BATCH_MESSAGES: usize = 4096;

/// Sends until the run drains, the schedule ends or the producer has sent its share; then waits
/// for confirmations. `begin_us` is when the schedule begins.
pub(crate) async fn produce(shared: Arc<Shared>, n: usize, outbound: Outbound, begin_us: u64) {
    let Outbound { link, encoder, settler } = outbound;
    let window = Arc::new(Window::new(match shared.plan.window {
        0 => usize::MAX,
        max => max,
    }));
    let writer = Arc::new(Mutex::new(link.writer));
    let settling = settle(&shared, n, link.input, settler, &window, &writer);
    let producer = Producer {
        shared: &shared,
        n,
        begin_us,
        encoder,
        window: &window,
        writer: &writer,
        sending: Some(Sending(&shared)),
    };
    tokio::select! {
        // It ends with an error only: a broker that closes is one.
        result = settling => {
            if let Err(fault) = result {
                shared.record.error(format!("producer {n}: {fault}"));
            }
        }
        result = producer.run() => {
            if let Err(fault) = result {
                shared.record.error(format!("producer {n}: {fault}"));
            }
        }
    }
}

struct Producer<'a> {
    shared: &'a Shared,
    n: usize,
    begin_us: u64,
    encoder: Box<dyn Encoder>,
    window: &'a Window,
    writer: &'a Mutex<WriteHalf>,
    sending: Option<Sending<'a>>,
}

/// What comes next for a producer.
enum Next {
    /// So many messages may go now.
    Send(usize),
    /// Something changed: look again.
    Again,
    Done,
}

impl Producer<'_> {
    async fn run(mut self) -> Result<(), Fault> {
        let plan = &self.shared.plan;
        let mut timer = Timer::new()?;
        let (mut out, mut stamps) = (Vec::with_capacity(2 * BATCH_BYTES), Vec::new());
        let limit = match plan.length {
            // The first ones take what is left over.
            Length::Messages(all) => {
                let many = plan.producers as u64;
                all / many + u64::from((self.n as u64) < all % many)
            }
            Length::Time(_) => u64::MAX,
        };
        let mut sent = 0;
        loop {
            let room = match self.next(limit - sent).await {
                Next::Send(room) => room,
                Next::Again => continue,
                Next::Done => break,
            };
            let due_in = self.encode(sent, room, &mut out, &mut stamps);
            if stamps.is_empty() {
                let Some(due_in) = due_in else { break };
                tokio::select! {
                    slept = timer.sleep(due_in) => slept?,
                    () = self.shared.is_draining() => {}
                }
                continue;
            }
            sent += stamps.len() as u64;
            self.write(&mut out, &mut stamps).await?;
        }
        self.leave().await
    }

    /// Waits until something may be sent.
    async fn next(&self, left: u64) -> Next {
        if left == 0 || *self.shared.phase.borrow() != Phase::Running {
            return Next::Done;
        }
        let plan = &self.shared.plan;
        let mut room = BATCH_MESSAGES.min(usize::try_from(left).unwrap_or(BATCH_MESSAGES));
        if plan.window > 0 {
            room = room.min(self.window.room());
            if room == 0 {
                tokio::select! {
                    () = self.window.changed() => {}
                    () = self.shared.is_draining() => {}
                }
                return Next::Again;
            }
        }
        if let Some(gate) = &self.shared.gate {
            tokio::select! {
                deliveries = gate.open() => {
                    let messages = (deliveries / plan.copies().max(1)).max(1);
                    room = room.min(usize::try_from(messages).unwrap_or(room));
                }
                () = self.shared.is_draining() => return Next::Again,
            }
        }
        Next::Send(room)
    }

    /// Encodes what is due, and at most `room` messages. If nothing is due: how long until then,
    /// or none where the schedule has ended.
    fn encode(
        &mut self,
        sent: u64,
        room: usize,
        out: &mut Vec<u8>,
        stamps: &mut Vec<u32>,
    ) -> Option<Duration> {
        let plan = &self.shared.plan;
        let now_us = self.shared.record.clock.now_us();
        let slots = plan.streams();
        while stamps.len() < room && out.len() < BATCH_BYTES {
            let sequence = sent + stamps.len() as u64;
            let mut stamp_us = now_us;
            if let Some(schedule) = &plan.schedule {
                // The producers take turns in the schedule of all.
                let time = schedule.time_of(sequence * plan.producers as u64 + self.n as u64)?;
                stamp_us = self.begin_us + time.as_micros() as u64;
                if stamp_us > now_us {
                    return Some(Duration::from_micros(stamp_us - now_us));
                }
            }
            let stamp = stamp_us as u32;
            let body = self.shared.bodies.body(self.n as u16, sequence, stamp);
            self.encoder.encode(sequence, (sequence % slots) as usize, &body, out);
            stamps.push(stamp);
        }
        Some(Duration::ZERO)
    }

    async fn write(&self, out: &mut Vec<u8>, stamps: &mut Vec<u32>) -> Result<(), Fault> {
        let Shared { plan, record, gate, .. } = self.shared;
        if plan.window > 0 {
            self.window.push(stamps);
        }
        if let Some(gate) = gate {
            gate.sent(stamps.len() as u64 * plan.copies());
        }
        let mut writer = self.writer.lock().await;
        writer.write_all(out).await?;
        writer.flush().await?;
        drop(writer);
        record.sent(self.n, out.len() as u64, stamps, plan.schedule.is_some());
        out.clear();
        stamps.clear();
        // A socket that takes everything at once would never let others run.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Waits for what is not confirmed, and says goodbye.
    async fn leave(mut self) -> Result<(), Fault> {
        let shared = self.shared;
        self.sending = None;
        let confirmed = async {
            while !self.window.is_empty() {
                self.window.changed().await;
            }
        };
        let in_time = tokio::select! {
            () = confirmed => true,
            () = shared.is_over() => false,
        };
        if !in_time {
            let text =
                format!("producer {}: {} messages stay unconfirmed", self.n, self.window.len());
            shared.record.error(text);
        }
        // Not to close before the broker has read all: its answers are read until then.
        shared.is_over().await;
        let mut writer = self.writer.lock().await;
        writer.write_all(wire::goodbye(&shared.plan.access)).await?;
        Ok(writer.flush().await?)
    }
}

/// Reads what comes back to a producer, for as long as the connection holds.
async fn settle(
    shared: &Shared,
    n: usize,
    mut input: Input,
    mut settler: Box<dyn Settler>,
    window: &Window,
    writer: &Mutex<WriteHalf>,
) -> Result<(), Fault> {
    let (mut settled, mut reply, mut stamps) = (Vec::<Settled>::new(), Vec::new(), Vec::new());
    loop {
        let used = settler.settle(input.bytes(), &mut settled, &mut reply)?;
        input.consume(used);
        if !settled.is_empty() {
            let refused = window
                .settle(&settled, |stamp| stamps.push(stamp))
                .map_err(|text| Fault::Protocol(text.to_owned()))?;
            shared.record.settled(n, &stamps, refused);
            settled.clear();
            stamps.clear();
        }
        if !reply.is_empty() {
            let mut writer = writer.lock().await;
            writer.write_all(&reply).await?;
            writer.flush().await?;
            reply.clear();
        }
        input.read().await?;
    }
}

/// Checks messages as they come.
struct Checker<'a> {
    batch: &'a mut Batch,
    run_id: u32,
    verify: bool,
}

impl Sink for Checker<'_> {
    #[inline]
    fn message(&mut self, body: &[u8], redelivered: bool) {
        let checked = payload::check(self.run_id, body, self.verify);
        self.batch.push(checked, body.len(), redelivered);
    }
}

/// Receives until the run is over.
pub(crate) async fn consume(shared: Arc<Shared>, n: usize, inbound: Inbound) {
    let Inbound { mut link, mut receiver } = inbound;
    let plan = &shared.plan;
    let mut batch = Batch::new(n, plan.consumer_addresses(n).0, plan.streams());
    let mut reply = Vec::new();
    let over = shared.is_over();
    tokio::pin!(over);
    let result = loop {
        let mut sink = Checker { batch: &mut batch, run_id: plan.run_id, verify: plan.check };
        match receiver.receive(link.input.bytes(), &mut sink, &mut reply) {
            Ok(used) => link.input.consume(used),
            Err(fault) => break Err(fault),
        }
        let received = batch.len();
        if received > 0 {
            batch.hand_over(&shared.record);
            if let Some(gate) = &shared.gate {
                gate.received(received);
            }
        }
        if !reply.is_empty() {
            if let Err(fault) = link.send(&reply).await {
                break Err(fault);
            }
            reply.clear();
        }
        tokio::select! {
            read = link.input.read() => if let Err(fault) = read { break Err(fault) },
            () = &mut over => break Ok(()),
        }
    };
    match result {
        Err(fault) => shared.record.error(format!("consumer {n}: {fault}")),
        Ok(()) => {
            receiver.finish(&mut reply);
            reply.extend_from_slice(wire::goodbye(&plan.access));
            link.close(&reply).await;
        }
    }
}
