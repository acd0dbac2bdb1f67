//! The session: one client's connection, as commands and events.
//!
//! [`connection`] is the handshake, heartbeats and the end; [`channel`] what a channel is and how
//! it opens and closes; [`publish`], [`consume`], [`settle`], [`topology`] and [`transaction`] are
//! what clients do on it, [`reply`] how answers find them; [`done`] tells them how it went.

mod channel;
mod config;
mod connection;
mod consume;
mod done;
mod outgoing;
mod pressure;
mod publish;
mod reply;
mod settle;
mod topology;
mod transaction;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, basic, channel as channel_class, confirm, tx};
use bytes::Bytes;
use isthmus_contract::{Command, Event, Input, Outbox, Places, Session};
use isthmus_model::{ConsumerId, Time, Token};

use crate::codec::frame::{self, Frame};
use crate::codec::method::{self, Method, MethodError};
use crate::codec::publish as publish_codec;
use crate::fault::{Fault, ReplyCode};

use channel::{Channel, Slot};
pub use config::SessionConfig;
use connection::{Liveness, Peer, Phase};
use consume::Consumer;
use outgoing::Outgoing;
use pressure::Pressure;

/// Input is not taken while more than this waits to be written: a client that does not read its
/// replies does not get to ask for more of them.
const OUTBOX_BYTES_MAX: usize = 1024 * 1024;

/// Input is not taken while more methods than this wait for the broker.
const OUTSTANDING_MAX: usize = 1024;

/// Input that becomes one chunk at the most: offsets into a chunk have 32 bits.
const CHUNK_BYTES_MAX: usize = 1 << 30;

/// Everything done for one frame, or the error that its channel or connection is closed with.
type Handled = Result<(), Fault>;

/// A client's connection that speaks AMQP 0-9-1.
#[derive(Debug)]
pub struct Amqp091Session {
    config: SessionConfig,
    /// The time of the call that is being handled.
    now: Time,
    phase: Phase,
    peer: Peer,
    live: Liveness,
    out: Outgoing,
    /// By number; grown as channels are opened, so that a quiet connection holds none.
    channels: Vec<Slot>,
    consumers: HashMap<ConsumerId, Consumer>,
    last_consumer: u64,
    /// Reply queues made so far.
    reply_queues: u64,
    /// Methods that are not answered, over all channels.
    outstanding: usize,
    /// Detached consumers by the token of their `Detach`: until it is answered, deliveries may
    /// still arrive for them.
    detaching: HashMap<Token, ConsumerId>,
    /// New secrets that are being verified, in the order in which they came.
    refreshing: VecDeque<Token>,
    pressure: Pressure,
    /// Where channels take their places, once the user is known.
    places: Option<Arc<Places>>,
}

impl Amqp091Session {
    /// A session for a client that just connected.
    pub fn new(config: SessionConfig, now: Time) -> Amqp091Session {
        let deadline = now + config.handshake_timeout;
        Amqp091Session {
            phase: Phase::Header { deadline },
            now,
            peer: Peer::default(),
            live: Liveness::new(now),
            out: Outgoing::default(),
            channels: Vec::new(),
            consumers: HashMap::new(),
            last_consumer: 0,
            reply_queues: 0,
            outstanding: 0,
            detaching: HashMap::new(),
            refreshing: VecDeque::new(),
            pressure: Pressure::default(),
            places: None,
            config,
        }
    }

    /// The largest payload of a frame that is read.
    fn payload_max(&self) -> u32 {
        match self.phase {
            // RabbitMQ allows for clients that do not count the octets around the payload; so
            // does this, once they are no strangers.
            Phase::Running | Phase::Closing { .. } => self.peer.frame_max,
            _ => self.send_payload_max(),
        }
    }

    /// The largest payload of a frame that is written.
    fn send_payload_max(&self) -> u32 {
        self.peer.frame_max - frame::OVERHEAD_BYTES as u32
    }

    fn open_channel(&mut self, number: u16) -> Option<&mut Channel> {
        match self.channels.get_mut(usize::from(number)) {
            Some(Slot::Open(channel)) => Some(channel),
            _ => None,
        }
    }

    /// Queues a command behind everything that was published before it.
    fn command(&mut self, command: Command) {
        self.close_batch();
        self.out.stage(command);
    }

    /// Writes a method.
    fn say(&mut self, channel: u16, class: &AMQPClass) {
        method::write(self.out.outbox.buf(), channel, class);
    }

    /// Takes the frame (or, where it stands for more, the whole messages) at `at`; returns where
    /// the next one begins, `None` if it is not all there.
    fn step(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        if let Phase::Header { deadline } = self.phase {
            return self.protocol_header(&bytes[at..], deadline).map(|len| at + len);
        }
        let frame = match frame::next(&bytes[at..], self.payload_max()) {
            Ok(frame) => frame?,
            Err(error) => {
                self.fail(0, &Fault::new(ReplyCode::FrameError, error.to_string()));
                // Where the next frame begins is not known: no answer could be read.
                self.phase = Phase::Closed;
                return Some(bytes.len());
            }
        };
        if self.holds(&frame) {
            return None;
        }
        if frame.kind == frame::METHOD
            && frame.payload.starts_with(&publish_codec::METHOD_PREFIX)
            && let Some(end) = self.publish_run(bytes, at, &frame)
        {
            // A message that is not all there leaves `end` where it was.
            return (end > at).then_some(end);
        }
        if self.must_wait(&frame) {
            return None;
        }
        if let Err(fault) = self.frame(&frame) {
            self.fail(frame.channel, &fault);
        }
        Some(at + frame.wire_len())
    }

    /// Whether a method is left in the input until what came before it on its channel is
    /// answered.
    ///
    /// A publish that fails closes its channel, and nothing that was sent behind it may happen; a
    /// queue that the broker names must have its name before a method can mean it. Settlements
    /// never wait: they free. The whole connection waits with the method, which is no longer than
    /// a commit, and only behind publishes to named exchanges.
    fn must_wait(&mut self, frame: &Frame<'_>) -> bool {
        const CLOSE: (u16, u16) = (20, 40);
        const BASIC: u16 = 60;
        const SETTLEMENTS: [u16; 3] = [80, 90, 120];
        if frame.kind != frame::METHOD || !matches!(self.phase, Phase::Running) {
            return false;
        }
        let Ok(ids) = method::ids(frame.payload) else { return false };
        if ids == publish_codec::BASIC_PUBLISH || (ids.0 == BASIC && SETTLEMENTS.contains(&ids.1)) {
            return false;
        }
        self.close_batch();
        let Some(channel) = self.open_channel(frame.channel) else { return false };
        let mut publishing = channel.publishing.iter();
        publishing.any(|p| p.named || ids == CLOSE)
            || channel
                .pending
                .iter()
                .any(|p| matches!(p.op, channel::Op::DeclareQueue { unnamed: true, .. }))
    }

    /// Takes a frame by itself.
    fn frame(&mut self, frame: &Frame<'_>) -> Handled {
        if let Phase::Closing { .. } = self.phase {
            self.frame_while_closing(frame);
            return Ok(());
        }
        match frame.kind {
            frame::METHOD => {
                let ids = method::ids(frame.payload)
                    .map_err(|e| Fault::new(ReplyCode::SyntaxError, e.to_string()))?;
                self.method(frame, ids).map_err(|fault| fault.of(ids))
            }
            frame::HEARTBEAT if frame.channel == 0 => Ok(()),
            frame::HEARTBEAT => {
                Err(Fault::new(ReplyCode::FrameError, "heartbeat on a channel other than 0"))
            }
            _ => self.content_frame(frame),
        }
    }

    fn method(&mut self, frame: &Frame<'_>, ids: (u16, u16)) -> Handled {
        if frame.channel != 0 {
            if !matches!(self.phase, Phase::Running) {
                return Err(Fault::new(
                    ReplyCode::CommandInvalid,
                    "no channel can be used before the connection is open",
                ));
            }
            if self.is_ignored(frame.channel, ids) {
                return Ok(());
            }
            if ids == publish_codec::BASIC_PUBLISH {
                return self.begin_publish(frame);
            }
        }
        let method = method::read(frame.payload).map_err(|e| match e {
            MethodError::Unknown => {
                Fault::new(ReplyCode::NotImplemented, format!("method {}.{}", ids.0, ids.1))
            }
            MethodError::Malformed(e) => Fault::new(ReplyCode::SyntaxError, e.to_string()),
        })?;
        if frame.channel == 0 {
            return self.connection_method(&method);
        }
        self.channel_method(frame, &method)
    }

    fn channel_method(&mut self, frame: &Frame<'_>, method: &Method<'_>) -> Handled {
        let number = frame.channel;
        if let AMQPClass::Channel(channel_class::AMQPMethod::Open(_)) = method.class {
            return self.channel_open(number);
        }
        let Some(channel) = self.open_channel(number) else {
            return Err(Fault::new(ReplyCode::ChannelError, "expected 'channel.open'"));
        };
        if channel.assembly.is_some() {
            return Err(Fault::new(
                ReplyCode::UnexpectedFrame,
                "expected content for class 60, got a method frame instead",
            ));
        }
        match &method.class {
            AMQPClass::Channel(class) => self.channel_class(number, class),
            AMQPClass::Exchange(class) => self.exchange_class(number, class, method),
            AMQPClass::Queue(class) => self.queue_class(number, class, method),
            AMQPClass::Basic(class) => self.basic_class(frame, class, method),
            AMQPClass::Tx(tx::AMQPMethod::Select(_)) => self.tx_select(number),
            AMQPClass::Tx(tx::AMQPMethod::Commit(_)) => self.tx_commit(number),
            AMQPClass::Tx(tx::AMQPMethod::Rollback(_)) => self.tx_rollback(number),
            AMQPClass::Confirm(confirm::AMQPMethod::Select(select)) => {
                self.confirm_select(number, select.nowait)
            }
            _ => Err(Fault::new(ReplyCode::CommandInvalid, "not a method for this channel")),
        }
    }

    fn basic_class(
        &mut self,
        frame: &Frame<'_>,
        class: &basic::AMQPMethod,
        method: &Method<'_>,
    ) -> Handled {
        let number = frame.channel;
        match class {
            basic::AMQPMethod::Qos(qos) => self.qos(number, qos, frame.payload),
            basic::AMQPMethod::Consume(consume) => self.consume(number, consume, method),
            basic::AMQPMethod::Cancel(cancel) => self.cancel(number, cancel),
            // The answer to a cancel notification, of which nothing is asked.
            basic::AMQPMethod::CancelOk(_) => Ok(()),
            basic::AMQPMethod::Get(get) => self.get(number, get),
            basic::AMQPMethod::Ack(ack) => self.ack(number, ack),
            basic::AMQPMethod::Nack(nack) => self.nack(number, nack),
            basic::AMQPMethod::Reject(reject) => self.reject(number, reject),
            basic::AMQPMethod::Recover(recover) => self.recover(number, recover.requeue, true),
            basic::AMQPMethod::RecoverAsync(recover) => {
                self.recover(number, recover.requeue, false)
            }
            _ => Err(Fault::new(ReplyCode::CommandInvalid, "not a method for clients")),
        }
    }

    /// Whether the session takes no input now.
    fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Authenticating { .. } | Phase::Entering { .. })
            || self.out.outbox.len() > OUTBOX_BYTES_MAX
            || self.outstanding >= OUTSTANDING_MAX
    }

    fn begin(&mut self, now: Time) {
        self.now = now;
        self.live.begin(self.out.outbox.len());
    }

    fn end(&mut self) {
        self.close_batch();
        self.out.release(&Bytes::new());
        self.live.end(self.now, self.out.outbox.len());
    }
}

impl Session for Amqp091Session {
    fn handle_bytes(&mut self, now: Time, input: &mut Input) {
        self.begin(now);
        self.live.received(now, input.len());
        loop {
            let mut at = 0;
            while at < CHUNK_BYTES_MAX.min(input.len()) && !self.is_stopped() && !self.is_closed() {
                match self.step(input.bytes(), at) {
                    Some(next) => at = next,
                    None => break,
                }
            }
            if self.is_closed() {
                at = input.len();
            }
            self.close_batch();
            let chunk = if self.out.needs_chunk() {
                input.take(at)
            } else {
                input.skip(at);
                Bytes::new()
            };
            self.out.release(&chunk);
            if at < CHUNK_BYTES_MAX {
                break;
            }
        }
        if let (Phase::Running, Some(end)) = (&self.phase, frame::expected_end(input.bytes())) {
            input.expect(end);
        }
        self.live.left(input.len());
        self.live.end(now, self.out.outbox.len());
    }

    fn handle_eof(&mut self, _now: Time) {
        self.phase = Phase::Closed;
    }

    fn handle_event(&mut self, now: Time, event: Event) {
        if !self.is_closed() {
            self.begin(now);
            self.event(event);
            self.end();
        }
    }

    fn handle_timeout(&mut self, now: Time) {
        self.begin(now);
        self.timeout();
        self.end();
    }

    fn poll_command(&mut self) -> Option<Command> {
        self.out.commands.pop_front()
    }

    fn outbox(&mut self) -> &mut Outbox {
        &mut self.out.outbox
    }

    fn poll_timeout(&self) -> Time {
        self.next_timeout()
    }

    fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    fn is_holding(&self) -> bool {
        self.pressure.holding && matches!(self.phase, Phase::Running)
    }

    fn limit_publishes(&mut self, messages: u64) {
        self.renew_allowance(messages);
    }

    fn set_places(&mut self, places: Arc<Places>) {
        self.places = Some(places);
    }

    fn rest(&mut self) {
        self.out.rest();
    }

    fn protocol(&self) -> &'static str {
        "AMQP 0-9-1"
    }
}

/// A name from the wire for the broker to keep.
fn name(short: &amq_protocol::types::ShortString) -> Arc<str> {
    Arc::from(short.as_str())
}
