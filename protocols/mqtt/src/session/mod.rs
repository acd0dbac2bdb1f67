//! The session: one client's connection, as commands and events.
//!
//! | | |
//! |-|-|
//! | [`connect`] | how a connection begins and ends |
//! | [`login`], [`authenticate`] | who the client is |
//! | [`resume`], [`notes`] | what a session knows when its client comes back |
//! | [`incoming`], [`in_use`] | what clients publish |
//! | [`subscribe`], [`lanes`], [`shared`] | what they subscribe to, and the queues that it comes by |
//! | [`filters`], [`by_filter`] | which subscriptions a message is for |
//! | [`outgoing`], [`packet_ids`], [`claims`] | what they get, and how far each delivery is |
//! | [`gather`] | what takes effect as one, and when the client is told |
//! | [`aliases`] | topics as numbers |
//!
//! Sessions are the broker's: it keeps their queues, their bindings and what is noted in them,
//! publishes wills, and ends what has expired.

mod aliases;
mod alike;
mod authenticate;
mod by_filter;
mod claims;
mod config;
mod connect;
mod filters;
mod gather;
mod in_use;
mod incoming;
mod lanes;
mod login;
mod notes;
mod outgoing;
mod packet_ids;
mod resume;
mod shared;
mod subscribe;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use isthmus_contract::{Command, Event, Input, Outbox, Session, Shortage};
use isthmus_model::{SessionId, Time, Token};

use crate::codec::{Kind, Packet, Sender, Version, frame};
use crate::fault::{Fault, Problem};

use aliases::Given;
use claims::Claims;
pub use config::{OwnConfig, SessionConfig};
use connect::{Client, Peer, Phase};
use gather::{Gathered, Pendings};
use incoming::Incoming;
use outgoing::Waiting;
use packet_ids::Flights;
use resume::Resuming;
use subscribe::Subscriptions;

/// Input is not taken while more than this waits to be written: a client that does not read its
/// replies does not get to ask for more of them.
const OUTBOX_BYTES_MAX: usize = 1024 * 1024;

/// Input is not taken while more commands than this wait for the broker.
const OUTSTANDING_MAX: usize = 1024;

/// A client's connection that speaks MQTT. Most are idle: what is seldom filled is on its own, or in
/// ordered maps, of which empty ones are half as large as hashed ones.
pub struct MqttSession {
    config: Arc<SessionConfig>,
    /// See [`SessionConfig::id`], as the following two.
    id: SessionId,
    has_certificate: bool,
    /// As bytes, for the space that a number of as many would be aligned with.
    name_secret: [u8; 16],
    /// The time of the call that is being handled.
    now: Time,
    phase: Phase,
    peer: Peer,
    client: Client,
    outbox: Outbox,
    commands: VecDeque<Command>,
    /// Tokens made so far.
    tokens: u64,
    /// What is asked for at the end of the call that is being handled.
    gathered: Option<Box<Gathered>>,
    pendings: Pendings,
    /// Whether the transaction was begun.
    has_begun: bool,
    incoming: Incoming,
    subscriptions: Subscriptions,
    /// Commands that the session needs to be what it was.
    resuming: BTreeMap<Token, Resuming>,
    flights: Flights,
    claims: Option<Box<Claims>>,
    waiting: Waiting,
    given: Given,
    shortage: Shortage,
    /// Messages that may be taken from the client now.
    allowance: u64,
    /// A PUBLISH waits for the shortage to end, or for more to be allowed.
    holding: bool,
}

impl MqttSession {
    /// A session for a client that just connected.
    pub fn new(config: SessionConfig, now: Time) -> MqttSession {
        let own = OwnConfig::of(&config);
        MqttSession::sharing(Arc::new(config), own, now)
    }

    /// The same with settings that many sessions share, and what in them is this one's own.
    pub fn sharing(config: Arc<SessionConfig>, own: OwnConfig, now: Time) -> MqttSession {
        MqttSession {
            phase: Phase::Connect { deadline: now + own.connect_timeout },
            peer: Peer::new(now),
            client: Client::default(),
            now,
            outbox: Outbox::new(),
            commands: VecDeque::new(),
            tokens: 0,
            gathered: None,
            pendings: Pendings::new(),
            has_begun: false,
            incoming: Incoming::default(),
            subscriptions: Subscriptions::default(),
            resuming: BTreeMap::new(),
            flights: Flights::default(),
            claims: None,
            waiting: Waiting::new(),
            given: Given::default(),
            shortage: Shortage::NONE,
            allowance: u64::MAX,
            holding: false,
            config,
            id: own.id,
            has_certificate: own.has_certificate,
            name_secret: own.name_secret.to_le_bytes(),
        }
    }

    fn token(&mut self) -> Token {
        // From 1, so that no token is the silent one.
        self.tokens += 1;
        Token(self.tokens)
    }

    fn version(&self) -> Version {
        self.peer.version
    }

    /// Whether the session takes no input now.
    fn is_stopped(&self) -> bool {
        !matches!(self.phase, Phase::Connect { .. } | Phase::Running)
            || self.outbox.len() > OUTBOX_BYTES_MAX
            || self.outstanding() >= OUTSTANDING_MAX
    }

    /// Whether no message is taken from the client now.
    fn holds_publishes(&self) -> bool {
        self.shortage.is_any() || self.allowance == 0
    }

    /// Commands that the broker has not answered.
    fn outstanding(&self) -> usize {
        self.pendings.len() + self.subscriptions.outstanding() + self.resuming.len()
    }

    /// The largest packet that is taken.
    fn packet_max(&self) -> u32 {
        match self.phase {
            Phase::Running => self.config.packet_bytes_max,
            _ => self.config.connect_bytes_max,
        }
    }

    /// Takes the packet at the front of `input`; returns whether there was one.
    fn packet(&mut self, input: &mut Input) -> Result<bool, Fault> {
        if let (Phase::Connect { .. }, Some(first)) = (&self.phase, input.bytes().first())
            && Kind::of(*first) != Kind::Connect
        {
            // [MQTT-3.1.0-1]. Nothing is said to what does not speak MQTT.
            self.phase = Phase::Closed;
            return Ok(false);
        }
        let Some(frame) = frame::next(input.bytes(), self.packet_max())? else { return Ok(false) };
        let len = frame.wire_len();
        if let Phase::Connect { .. } = self.phase {
            self.first_packet(&frame);
        } else if frame.kind() == Kind::Connect {
            // [MQTT-3.1.0-2], whatever it says: what is wrong with a CONNECT is told in a CONNACK.
            let problem = Problem::Conflict("now");
            return Err(Fault::protocol(Kind::Connect, "packet type", problem));
        } else {
            let packet = Packet::read(&frame, self.version(), Sender::Client)?;
            self.running_packet(&frame, &packet)?;
        }
        input.skip(len);
        Ok(true)
    }

    fn take(&mut self, input: &mut Input) -> Result<(), Fault> {
        while !self.is_stopped() {
            if let Phase::Running = self.phase
                && (self.publish_run(input)? || self.acknowledged_run(input))
            {
                continue;
            }
            if self.holding || !self.packet(input)? {
                break;
            }
        }
        Ok(())
    }
}

impl Session for MqttSession {
    fn handle_bytes(&mut self, now: Time, input: &mut Input) {
        self.now = now;
        self.peer.received(now, input.len());
        if std::mem::take(&mut self.holding) {
            // It could say nothing for as long as it was held back.
            self.peer.last_received = now;
        }
        if let Err(fault) = self.take(input) {
            self.fail(&fault);
        }
        self.flush();
        if self.is_closed() {
            input.skip(input.len());
        } else if let (Phase::Running, Some(len)) =
            (&self.phase, frame::expected_len(input.bytes()))
        {
            input.expect(len);
        }
        self.peer.left(input.len());
    }

    fn handle_eof(&mut self, now: Time) {
        self.now = now;
        self.end();
    }

    fn handle_event(&mut self, now: Time, event: Event) {
        self.now = now;
        if self.is_closed() {
            return;
        }
        match event {
            Event::Done { token, result } => self.done(token, result),
            Event::Deliveries(deliveries) => self.deliver(&deliveries),
            Event::Detached { .. } => self.queue_deleted(),
            Event::Pressure(shortage) => {
                self.shortage = shortage;
                // It could say nothing for as long as it was held back.
                self.peer.last_received = self.now;
            }
            Event::Closed(reason) => self.closed(reason),
            // No consumer of a session has explicit credit.
            Event::CreditState { .. } => {}
        }
        self.flush();
    }

    fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        self.timeout();
    }

    fn poll_command(&mut self) -> Option<Command> {
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
        self.config.connect_bytes_max as usize
    }

    fn rest(&mut self) {
        if self.commands.is_empty() {
            self.commands = VecDeque::new();
        }
        self.subscriptions.rest();
        if self.resuming.is_empty() {
            self.resuming = BTreeMap::new();
        }
    }

    fn protocol(&self) -> &'static str {
        self.peer.version.as_str()
    }
}
