//! The session: one client's connection, as commands and events.
//!
//! [`connect`] is how a connection begins and ends, [`send`] what clients publish, [`subscribe`]
//! what they subscribe to, [`deliver`] what they get, [`settle`] what they say of it, and
//! [`transaction`] what takes effect as one. A request that fails ends the connection with an ERROR
//! frame: that is what the protocol has for it.

mod config;
mod connect;
mod deliver;
mod filter;
mod pending;
mod queues;
mod send;
mod settle;
mod subscribe;
mod transaction;

use std::collections::VecDeque;

use isthmus_contract::{
    Command as Ask, CommandError, Event, Input, Outbox, Reply, Session, Shortage,
};
use isthmus_model::{PublishException, PublishRefusal, Time, Token};

use crate::codec::{Command, Decoder, Frame, Rules, Version, frame, header, write_frame};
use crate::fault::Fault;

pub use config::SessionConfig;
use connect::{Peer, Phase};
use pending::{FrameNumber, Pending, Purpose, Receipt};
use queues::Queues;
use subscribe::Subscriptions;
use transaction::Transactions;

/// Input is not taken while more than this waits to be written: a client that does not read its
/// replies does not get to ask for more of them.
const OUTBOX_BYTES_MAX: usize = 1024 * 1024;

/// Input is not taken while more frames than this wait for the broker.
const OUTSTANDING_MAX: usize = 1024;

/// A client's connection that speaks STOMP.
pub struct StompSession {
    config: SessionConfig,
    /// The time of the call that is being handled.
    now: Time,
    phase: Phase,
    peer: Peer,
    decoder: Decoder,
    outbox: Outbox,
    commands: VecDeque<Ask>,
    /// Tokens made so far.
    tokens: u64,
    pending: Pending,
    queues: Queues,
    subscriptions: Subscriptions,
    transactions: Transactions,
    shortage: Shortage,
    /// Messages that may be taken until the limit is renewed.
    allowance: u64,
    /// A SEND waits for the shortage to end, or for the limit to be renewed.
    holding: bool,
    /// The client has sent all that it will.
    eof: bool,
}

impl StompSession {
    /// A session for a client that just connected.
    pub fn new(config: SessionConfig, now: Time) -> StompSession {
        StompSession {
            phase: Phase::Connect { deadline: now + config.connect_timeout },
            peer: Peer::new(now),
            now,
            decoder: Decoder::default(),
            outbox: Outbox::new(),
            commands: VecDeque::new(),
            tokens: 0,
            pending: Pending::default(),
            queues: Queues::default(),
            subscriptions: Subscriptions::default(),
            transactions: Transactions::default(),
            shortage: Shortage::NONE,
            allowance: u64::MAX,
            holding: false,
            eof: false,
            config,
        }
    }

    fn token(&mut self) -> Token {
        // From 1, so that no token is the silent one.
        self.tokens += 1;
        Token(self.tokens)
    }

    fn rules(&self) -> Rules {
        Rules::of(self.peer.version)
    }

    /// The version that was agreed on, if one was.
    fn agreed(&self) -> Option<Version> {
        (!matches!(self.phase, Phase::Connect { .. })).then_some(self.peer.version)
    }

    /// Whether the session takes no input now.
    fn is_stopped(&self) -> bool {
        !matches!(self.phase, Phase::Connect { .. } | Phase::Running)
            || self.waits_for_queue()
            || self.outbox.len() > OUTBOX_BYTES_MAX
            || self.pending.len() >= OUTSTANDING_MAX
    }

    /// Whether a SEND or a SUBSCRIBE waits for its queue.
    fn waits_for_queue(&self) -> bool {
        self.queues.is_declaring() || self.subscriptions.is_waiting()
    }

    /// Whether what the client has sent waits for an answer that will come.
    fn is_waiting(&self) -> bool {
        self.waits_for_queue()
            || matches!(self.phase, Phase::Authenticating { .. } | Phase::Entering { .. })
    }

    /// Ends a conversation in which the client has said all it will, and all of it has been taken.
    fn end_at_eof(&mut self) {
        if self.eof && !(self.is_waiting() && self.peer.left > 0) {
            self.phase = Phase::Closed;
        }
    }

    /// Whether a SEND is left lying now.
    fn holds_publishes(&self) -> bool {
        self.shortage.is_any() || self.allowance == 0
    }

    /// Asks the broker for something that `frame` waits for.
    fn ask(&mut self, frame: FrameNumber, ask: impl FnOnce(Token) -> Ask) {
        self.ask_for(frame, Purpose::Done, ask);
    }

    fn ask_for(&mut self, frame: FrameNumber, purpose: Purpose, ask: impl FnOnce(Token) -> Ask) {
        let token = self.token();
        self.pending.wait(frame, token, purpose);
        self.commands.push_back(ask(token));
    }

    /// Takes a frame other than a run of SENDs off the front of `input`; returns whether there was
    /// one.
    fn frame(&mut self, input: &mut Input) -> Result<bool, Fault> {
        let mut decoder = self.decoder;
        let next = decoder.next(input.bytes(), self.agreed(), &self.config.limits);
        self.decoder = decoder;
        let Some(frame) = next? else { return Ok(false) };
        let receipt = frame.headers.get("receipt");
        self.handle(&frame).map_err(|fault| fault.with_receipt(receipt.as_deref()))?;
        let len = frame.wire_len;
        self.decoder = Decoder::default();
        input.skip(len);
        Ok(true)
    }

    fn handle(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        match (&self.phase, frame.command) {
            (Phase::Connect { .. }, Command::Connect | Command::Stomp) => self.connect(frame),
            (Phase::Connect { .. }, other) => Err(Fault::new(
                "Not connected",
                format!("a {other} frame came before CONNECT: the first frame is CONNECT or STOMP"),
            )),
            (_, Command::Subscribe) => self.subscribe(frame),
            (_, Command::Unsubscribe) => self.unsubscribe(frame),
            (_, Command::Ack | Command::Nack) => self.settle(frame),
            (_, Command::Begin | Command::Commit | Command::Abort) => self.transact(frame),
            (_, Command::Disconnect) => self.disconnect(frame),
            (_, Command::Connect | Command::Stomp) => Err(Fault::new(
                "Connected already",
                format!("a second {} frame: a connection begins with one", frame.command),
            )),
            // A SEND is taken by the run that it begins.
            (_, other) => Err(Fault::new(
                "Unexpected command",
                format!("{other} frames are a server's, and clients send none"),
            )),
        }
    }

    /// Begins to answer a frame.
    fn begin(&mut self, frame: &Frame<'_>) -> FrameNumber {
        let receipt = frame.headers.get("receipt");
        let receipt = receipt.map(|id| Receipt { first: 0, last: 0, id: id.into_owned() });
        self.pending.add(receipt.into_iter().collect())
    }

    fn take(&mut self, input: &mut Input) -> Result<(), Fault> {
        while !self.is_stopped() {
            let ends = frame::line_ends(input.bytes());
            if ends > 0 {
                input.skip(ends);
            }
            if let Phase::Running = self.phase
                && self.send_run(input)?
            {
                continue;
            }
            // What was taken may wait for its queue.
            if self.holding || self.is_stopped() || !self.frame(input)? {
                break;
            }
            self.tell_receipts();
        }
        Ok(())
    }

    fn done(&mut self, token: Token, result: &Result<Reply, CommandError>) {
        if self.logged_in(token, result) {
            return;
        }
        let answered = self.pending.answered(token);
        match (answered, result) {
            (Some((frame, Purpose::Ready)), Ok(_)) => self.consume_waiting(frame),
            (Some((_, Purpose::Detached(consumer))), Ok(_)) => {
                self.subscriptions.detached(consumer)
            }
            (Some((_, Purpose::Declared)), Ok(_)) => self.queues.declared(),
            _ => {}
        }
        let failed = match result {
            Err(error) => Some((0, Fault::refused(error))),
            Ok(Reply::Published { exceptions }) => {
                exceptions.first().map(|exception| (exception.record, not_taken(exception)))
            }
            Ok(_) => None,
        };
        match (failed, answered) {
            (None, _) => self.tell_receipts(),
            (Some((record, fault)), Some((frame, _))) => {
                let is_first = self.pending.is_first(frame);
                let (before, receipt) = self.pending.receipts_up_to(frame, record);
                if is_first && result.is_ok() {
                    before.iter().for_each(|receipt| self.tell_receipt(receipt));
                }
                self.fail(&fault.with_receipt(receipt.as_deref()));
            }
            // Of a command that nobody waits for.
            (Some((_, fault)), None) => self.fail(&fault),
        }
    }

    /// Sends the receipts of frames that are done.
    fn tell_receipts(&mut self) {
        for receipt in self.pending.ready() {
            self.tell_receipt(&receipt);
        }
        if self.pending.len() > 0 {
            return;
        }
        match &self.phase {
            Phase::Disconnecting => self.phase = Phase::Closed,
            Phase::Failing { fault, .. } => self.fail(&fault.clone()),
            _ => {}
        }
    }

    fn tell_receipt(&mut self, receipt: &str) {
        let (rules, out) = (self.rules(), self.outbox.buf());
        write_frame(out, Command::Receipt, rules, &[("receipt-id", receipt)], b"");
    }

    /// Ends the connection for a frame that is wrong, once what came before it is answered.
    fn fail_in_order(&mut self, fault: Fault) {
        if self.pending.len() == 0 {
            return self.fail(&fault);
        }
        let deadline = self.now + self.config.connect_timeout;
        self.phase = Phase::Failing { fault: Box::new(fault), deadline };
    }

    /// Ends the connection with an ERROR frame.
    fn fail(&mut self, fault: &Fault) {
        if self.is_closed() {
            return;
        }
        let rules = self.agreed().map_or(Rules::Verbatim, Rules::of);
        let out = self.outbox.buf();
        out.extend_from_slice(b"ERROR\n");
        if fault.tells_versions {
            header::write(out, rules, "version", &Version::list(self.config.versions));
        }
        header::write(out, rules, "message", &fault.message);
        if let Some(receipt) = &fault.receipt {
            header::write(out, rules, "receipt-id", receipt);
        }
        header::write(out, rules, "content-type", "text/plain");
        header::write(out, rules, "content-length", &(fault.detail.len() + 1).to_string());
        out.push(b'\n');
        out.extend_from_slice(fault.detail.as_bytes());
        out.extend_from_slice(b"\n\0");
        self.phase = Phase::Closed;
    }
}

fn not_taken(exception: &PublishException) -> Fault {
    let PublishException { batch, record, refusal } = exception;
    let record = &batch.records[*record as usize];
    let (exchange, key) = (batch.exchange(record), batch.routing_key(record));
    let to = crate::destination::written(exchange, key);
    match refusal {
        PublishRefusal::Unroutable => Fault::new(
            "Not found",
            format!("no queue takes messages for '{to}': SUBSCRIBE to /queue/{key} or declare it"),
        ),
        PublishRefusal::Full => Fault::new(
            "Limit reached",
            format!(
                "a queue for '{to}' is full and refuses messages: consume from it, or raise its limits"
            ),
        ),
        PublishRefusal::NoExchange => {
            Fault::new("Not found", format!("there is no exchange '{exchange}': declare it first"))
        }
        PublishRefusal::InternalExchange => Fault::new(
            "Access refused",
            format!("exchange '{exchange}' is internal: only other exchanges publish to it"),
        ),
    }
}

impl Session for StompSession {
    fn handle_bytes(&mut self, now: Time, input: &mut Input) {
        self.now = now;
        self.peer.received(now, input.len());
        self.holding = false;
        if let Err(fault) = self.take(input) {
            self.fail_in_order(fault);
        }
        if matches!(self.phase, Phase::Closed | Phase::Failing { .. } | Phase::Disconnecting) {
            // Nothing is taken any more.
            input.skip(input.len());
        }
        self.peer.left = input.len();
        self.end_at_eof();
    }

    fn handle_eof(&mut self, now: Time) {
        self.now = now;
        self.eof = true;
        // Who sends a message and hangs up means it to arrive, and its queue may still be on its
        // way.
        self.end_at_eof();
    }

    fn handle_event(&mut self, now: Time, event: Event) {
        self.now = now;
        if self.is_closed() {
            return;
        }
        match event {
            Event::Done { token, result } => self.done(token, &result),
            Event::Deliveries(deliveries) => self.deliver(&deliveries),
            Event::Detached { consumer, reason } => self.source_ended(consumer, reason),
            Event::Pressure(shortage) => {
                self.shortage = shortage;
                // It could say nothing for as long as it was held back.
                self.peer.last_received = self.now;
            }
            Event::Closed(reason) => self.closed(reason),
            // Only those that browse have credit that ends.
            Event::CreditState { consumer, .. } => self.tell_end(consumer),
        }
        // What is left is looked at next, if there is anything.
        if self.peer.left == 0 {
            self.end_at_eof();
        }
    }

    fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        self.timeout();
    }

    fn poll_command(&mut self) -> Option<Ask> {
        self.commands.pop_front()
    }

    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn poll_timeout(&self) -> Time {
        self.next_timeout()
    }

    fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    fn is_holding(&self) -> bool {
        self.holding && self.holds_publishes() && matches!(self.phase, Phase::Running)
    }

    fn limit_publishes(&mut self, messages: u64) {
        self.allowance = messages;
    }

    fn greeting_bytes_max(&self) -> usize {
        self.config.limits.head_bytes_max
    }

    fn protocol(&self) -> &'static str {
        self.peer.version.protocol()
    }
}
