//! How a connection begins, is kept alive, and ends (section 3.1, 3.2, 3.14, 4.13).

use std::sync::Arc;
use std::time::Duration;

use isthmus_contract::{CloseReason, Command, CommandError, OpenSession, Reply};
use isthmus_model::{NEVER_EXPIRES, Time, Token, Will};

use super::MqttSession;
use super::aliases::Given;
use super::authenticate::{self, Method, Proof};
use super::incoming::{is_system, retaining};
use super::lanes::Lane;
use super::login::Login;
use crate::ReasonCode;
use crate::codec::{
    self, ConnAck, Connect, Disconnect, Frame, Kind, Packet, PropertiesBuf, Property, Version,
    announced_version,
};
use crate::convert::stored::{Message, store};
use crate::fault::{Fault, Problem, TooLong};

/// How far the conversation is.
#[derive(Debug)]
pub(super) enum Phase {
    /// The CONNECT is to come.
    Connect { deadline: Time },
    /// The broker looks at the credentials.
    Authenticating { token: Token, deadline: Time },
    /// The broker opens the virtual host.
    Entering { token: Token, deadline: Time },
    /// The broker opens the session.
    Opening { token: Token, deadline: Time },
    /// The client is accepted.
    Running,
    /// Over.
    Closed,
}

/// What is known of the connection's other side.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) version: Version,
    /// Seconds of the keep alive, where it is another one than the client has asked for.
    keep_alive_s: Option<u16>,
    /// Time without a packet after which it counts as gone; zero for any.
    patience: Duration,
    pub(super) last_received: Time,
    /// Bytes of input that were there after the last look: more mean that the client is alive.
    left: usize,
    /// The largest packet that it takes, in bytes.
    pub(super) packet_max: u32,
    /// QoS 1 and 2 deliveries at the most that it has not acknowledged.
    pub(super) receive_max: u16,
    /// Whether it wants to know what response topics are made of.
    wants_response_information: bool,
    /// What it authenticates with, if not with name and password alone.
    pub(super) method: Option<Method>,
    /// It authenticates again.
    pub(super) authenticating: Option<Token>,
}

impl Peer {
    pub(super) fn new(now: Time) -> Peer {
        Peer {
            version: Version::V3_1_1,
            keep_alive_s: None,
            patience: Duration::ZERO,
            last_received: now,
            left: 0,
            packet_max: u32::MAX,
            receive_max: u16::MAX,
            wants_response_information: false,
            method: None,
            authenticating: None,
        }
    }

    /// Notes that `len` bytes of input are there.
    pub(super) fn received(&mut self, now: Time, len: usize) {
        if len != self.left {
            self.last_received = now;
        }
    }

    /// Notes that `len` bytes of input stay.
    pub(super) fn left(&mut self, len: usize) {
        self.left = len;
    }
}

/// What is known of the client, whose session may outlive the connection.
#[derive(Debug)]
pub(super) struct Client {
    /// The client identifier.
    pub(super) id: Arc<str>,
    /// Whether the server has made it.
    is_assigned: bool,
    is_clean: bool,
    /// Milliseconds that the session outlives its connection.
    expiry_ms: u64,
    /// Seconds of it that the client is told, where they are others than it has asked for.
    told_expiry_s: Option<u32>,
    /// Whether something of the session may be there before or after its connection, and so is
    /// noted.
    pub(super) lasts: bool,
    /// Until the broker has it.
    will: Option<Will>,
}

impl Default for Client {
    fn default() -> Client {
        Client {
            id: Arc::from(""),
            is_assigned: false,
            is_clean: true,
            expiry_ms: 0,
            told_expiry_s: None,
            lasts: false,
            will: None,
        }
    }
}

/// Session Expiry Interval in milliseconds (section 3.1.2.11.2).
fn expiry_ms(s: u32) -> u64 {
    if s == u32::MAX { NEVER_EXPIRES } else { u64::from(s) * 1000 }
}

impl MqttSession {
    /// Takes the CONNECT.
    pub(super) fn first_packet(&mut self, frame: &Frame<'_>) {
        self.peer.version = announced_version(frame).unwrap_or(Version::V3_1_1);
        match Connect::read(frame) {
            Ok(connect) => self.connect(&connect),
            Err(fault) => self.fail(&fault),
        }
    }

    fn connect(&mut self, connect: &Connect<'_>) {
        let Phase::Connect { deadline } = self.phase else { return };
        if let Some(reference) = self.config.elsewhere.clone() {
            return self.redirect(&reference);
        }
        let (method, login) = match self.login(connect) {
            Ok(login) => login,
            Err(reason) => return self.refuse(reason),
        };
        if connect.client_id.len() > Lane::CLIENT_ID_BYTES_MAX {
            return self.refuse(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        }
        // What only the broker publishes is not left for later either.
        if connect.will.as_ref().is_some_and(|will| is_system(will.topic)) {
            return self.refuse(ReasonCode::NOT_AUTHORIZED);
        }
        if let Some(vhost) = login.vhost {
            // It is among the few that do not share their settings.
            Arc::make_mut(&mut self.config).vhost = vhost.into();
        }
        self.peer.method = method;
        self.keep_alive(connect);
        for property in connect.properties {
            match property {
                Property::ReceiveMaximum(n) => self.peer.receive_max = n,
                Property::MaximumPacketSize(n) => self.peer.packet_max = n,
                Property::RequestResponseInformation(n) => {
                    self.peer.wants_response_information = n == 1;
                }
                Property::TopicAliasMaximum(n) => {
                    self.given = Given::new(n.min(self.config.topic_alias_max));
                }
                _ => {}
            }
        }
        self.client = self.client_of(connect);
        let token = self.token();
        self.phase = Phase::Authenticating { token, deadline };
        let credentials = login.credentials;
        self.commands.push_back(Command::Authenticate { token, credentials });
    }

    /// Who the client says it is. What a method proves goes before a user name.
    fn login<'a>(&self, connect: &Connect<'a>) -> Result<(Option<Method>, Login<'a>), ReasonCode> {
        let Some(Proof { method, user, password }) = authenticate::proof(connect.properties)?
        else {
            return Ok((None, Login::of(connect, self.has_certificate)?));
        };
        let password = Some(password.as_bytes());
        let login = Login::of(&Connect { user_name: Some(user), password, ..*connect }, false)?;
        Ok((Some(method), login))
    }

    /// After how much silence the client counts as gone: one and a half keep alives
    /// [MQTT-3.1.2-22]. In 5.0 the server may set another one [MQTT-3.2.2-21].
    fn keep_alive(&mut self, connect: &Connect<'_>) {
        let (mut wanted, max) = (connect.keep_alive_s, self.config.keep_alive_s_max);
        if connect.version == Version::V5 && max > 0 && (wanted == 0 || wanted > max) {
            wanted = max;
            self.peer.keep_alive_s = Some(max);
        }
        self.peer.patience = Duration::from_secs(u64::from(wanted)) * 3 / 2;
    }

    fn client_of(&self, connect: &Connect<'_>) -> Client {
        let is_assigned = connect.client_id.is_empty();
        let id = if is_assigned {
            format!("isthmus-{:032x}", u128::from_le_bytes(self.name_secret)).into()
        } else {
            connect.client_id.into()
        };
        let max = self.config.session_expiry_ms_max;
        let asked = match connect.version {
            Version::V5 => connect.properties.find(|p| match p {
                Property::SessionExpiryInterval(s) => Some(expiry_ms(s)),
                _ => None,
            }),
            // Clean Session: it ends with the connection; else never by itself.
            _ => (!connect.clean_start).then_some(NEVER_EXPIRES),
        };
        let asked = asked.unwrap_or(0);
        let expiry_ms = asked.min(max);
        let told_expiry_s =
            (expiry_ms < asked).then(|| u32::try_from(expiry_ms / 1000).unwrap_or(u32::MAX - 1));
        Client {
            id,
            is_assigned,
            is_clean: connect.clean_start,
            expiry_ms,
            told_expiry_s,
            lasts: expiry_ms > 0,
            will: connect.will.as_ref().map(|will| self.will_of(will)),
        }
    }

    /// A will as the broker keeps it [MQTT-3.1.2-7].
    fn will_of(&self, will: &codec::Will<'_>) -> Will {
        let batch = store(&Message::of_will(will), &self.config.exchange);
        let retained: &[usize] = if will.retain { &[0] } else { &[] };
        let delay_s = will.properties.find(|p| match p {
            Property::WillDelayInterval(s) => Some(s),
            _ => None,
        });
        Will {
            batch: Arc::new(retaining(Arc::unwrap_or_clone(batch), retained)),
            delay_ms: u64::from(delay_s.unwrap_or(0)) * 1000,
        }
    }

    /// Refuses the connection for `reason`.
    fn refuse(&mut self, reason: ReasonCode) {
        self.refuse_with(reason, &PropertiesBuf::new());
    }

    fn refuse_with(&mut self, reason: ReasonCode, properties: &PropertiesBuf) {
        let ack =
            ConnAck { session_present: false, reason, properties: properties.as_properties() };
        // With so few properties it is never too long.
        let _ = ack.write(self.version(), self.outbox.buf());
        self.phase = Phase::Closed;
    }

    /// Sends the client to another server (section 4.11); before 5.0 there are no words for where.
    fn redirect(&mut self, reference: &str) {
        if self.version() != Version::V5 {
            return self.refuse(ReasonCode::SERVER_UNAVAILABLE);
        }
        let mut properties = PropertiesBuf::new();
        if !reference.is_empty() {
            // It is configured, and short.
            let _ = properties.push(Property::ServerReference(reference));
        }
        self.refuse_with(ReasonCode::USE_ANOTHER_SERVER, &properties);
    }

    /// Refuses the connection because the broker has: before 5.0 with the return code that comes
    /// closest.
    fn refuse_session(&mut self, error: &CommandError) {
        let (reason, before) = match error {
            CommandError::Refused(_) => (ReasonCode::NOT_AUTHORIZED, ReasonCode::NOT_AUTHORIZED),
            CommandError::Invalid(_) => {
                let reason = ReasonCode::CLIENT_IDENTIFIER_NOT_VALID;
                (reason, reason)
            }
            CommandError::Limit(_) => (ReasonCode::QUOTA_EXCEEDED, ReasonCode::SERVER_UNAVAILABLE),
            CommandError::NotLeader => {
                (ReasonCode::USE_ANOTHER_SERVER, ReasonCode::SERVER_UNAVAILABLE)
            }
            _ => (ReasonCode::SERVER_UNAVAILABLE, ReasonCode::SERVER_UNAVAILABLE),
        };
        self.refuse(if self.version() == Version::V5 { reason } else { before });
    }

    /// Tells the client that it is accepted, and whether its session was there.
    pub(super) fn accept(&mut self, session_present: bool) {
        let mut written = Vec::new();
        let properties = self.capabilities();
        let result = properties.and_then(|properties| {
            let ack = ConnAck {
                session_present,
                reason: ReasonCode::SUCCESS,
                properties: properties.as_properties(),
            };
            ack.write(self.version(), &mut written)
        });
        debug_assert!(result.is_ok(), "nothing in it is long");
        // [MQTT-3.1.2-24]. Who cannot be told what it may do cannot be served.
        if written.len() > self.peer.packet_max as usize {
            return self.refuse(ReasonCode::PACKET_TOO_LARGE);
        }
        self.outbox.buf().extend_from_slice(&written);
        self.phase = Phase::Running;
    }

    /// What the client is told of the server (section 3.2.2.3); nothing before 5.0. That QoS 2,
    /// retained messages, wildcards, Subscription Identifiers and shared subscriptions are there
    /// goes without saying.
    fn capabilities(&self) -> Result<PropertiesBuf, TooLong> {
        let mut properties = PropertiesBuf::new();
        if let Some(s) = self.client.told_expiry_s {
            properties.push(Property::SessionExpiryInterval(s))?;
        }
        if self.config.receive_max < u16::MAX {
            properties.push(Property::ReceiveMaximum(self.config.receive_max))?;
        }
        properties.push(Property::MaximumPacketSize(self.config.packet_bytes_max))?;
        if self.client.is_assigned {
            properties.push(Property::AssignedClientIdentifier(&self.client.id))?;
        }
        properties.push(Property::TopicAliasMaximum(self.config.topic_alias_max))?;
        if let Some(s) = self.peer.keep_alive_s {
            properties.push(Property::ServerKeepAlive(s))?;
        }
        let information = &self.config.response_information;
        if self.peer.wants_response_information && !information.is_empty() {
            properties.push(Property::ResponseInformation(information))?;
        }
        if let Some(method) = self.peer.method {
            // [MQTT-4.12.0-5].
            properties.push(Property::AuthenticationMethod(method.name()))?;
        }
        Ok(properties)
    }

    /// Takes a packet of a client that is accepted, other than a PUBLISH that a run has taken.
    pub(super) fn running_packet(
        &mut self,
        frame: &Frame<'_>,
        packet: &Packet<'_>,
    ) -> Result<(), Fault> {
        match packet {
            Packet::Publish(publish) => self.publish_one(publish),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                self.unsubscribe(unsubscribe);
                Ok(())
            }
            Packet::Ack(kind, ack) => self.acknowledged(*kind, ack),
            Packet::PingReq => {
                self.outbox.buf().extend_from_slice(&[Kind::PingResp.first_byte(), 0]);
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.goodbye(disconnect),
            Packet::Auth(auth) => self.authenticate_again(auth),
            // What only servers send.
            _ => Err(Fault::protocol(frame.kind(), "packet type", Problem::Conflict("now"))),
        }
    }

    fn goodbye(&mut self, disconnect: &Disconnect<'_>) -> Result<(), Fault> {
        let asked = disconnect.properties.find(|p| match p {
            Property::SessionExpiryInterval(s) => Some(s),
            _ => None,
        });
        // Section 3.14.2.2.2.
        if asked.is_some_and(|s| s > 0) && self.client.expiry_ms == 0 {
            let problem = Problem::Without("one in the CONNECT");
            return Err(Fault::protocol(Kind::Disconnect, "Session Expiry Interval", problem));
        }
        self.flush();
        self.commands.push_back(Command::CloseSession {
            token: Token::SILENT,
            expiry_ms: asked.map(|s| expiry_ms(s).min(self.config.session_expiry_ms_max)),
            // [MQTT-3.14.4-3].
            publish_will: disconnect.reason != ReasonCode::SUCCESS,
        });
        self.end();
        Ok(())
    }

    /// Ends the connection for `fault`, and tells the client where its version lets it.
    pub(super) fn fail(&mut self, fault: &Fault) {
        match self.phase {
            Phase::Running => self.disconnect(fault.reason, Some(&fault.to_string())),
            Phase::Closed => {}
            _ => self.refuse(fault.reason),
        }
    }

    /// Ends the connection for `reason`.
    pub(super) fn disconnect(&mut self, reason: ReasonCode, text: Option<&str>) {
        // What is certain is said before: nothing may be said behind it [MQTT-3.14.4-1].
        if let Phase::Running = self.phase {
            self.flush();
        }
        if self.version() == Version::V5 && matches!(self.phase, Phase::Running) {
            let mut properties = PropertiesBuf::new();
            let fits = text.is_some_and(|text| text.len() + 16 < self.peer.packet_max as usize);
            if let Some(text) = text.filter(|_| fits) {
                // Texts of faults are short.
                let _ = properties.push(Property::ReasonString(text));
            }
            let packet = Disconnect { reason, properties: properties.as_properties() };
            let _ = packet.write(Version::V5, self.outbox.buf());
        }
        self.end();
    }

    /// Ends the connection. What the client has sent before counts; a will is the broker's to
    /// publish [MQTT-3.1.2-8].
    pub(super) fn end(&mut self) {
        if let Phase::Running = self.phase {
            self.phase = Phase::Closed;
            self.flush();
        }
        self.phase = Phase::Closed;
    }

    pub(super) fn closed(&mut self, reason: CloseReason) {
        let reason = match reason {
            CloseReason::Shutdown => ReasonCode::SERVER_SHUTTING_DOWN,
            CloseReason::NotLeader => ReasonCode::USE_ANOTHER_SERVER,
            CloseReason::Forced | CloseReason::VhostDeleted => ReasonCode::ADMINISTRATIVE_ACTION,
            CloseReason::Expired => ReasonCode::NOT_AUTHORIZED,
            CloseReason::TakenOver => ReasonCode::SESSION_TAKEN_OVER,
        };
        self.disconnect(reason, None);
    }

    /// The queue of its subscriptions is gone.
    pub(super) fn queue_deleted(&mut self) {
        self.disconnect(ReasonCode::ADMINISTRATIVE_ACTION, Some("its queue was deleted"));
    }

    pub(super) fn done(&mut self, token: Token, result: Result<Reply, CommandError>) {
        match self.phase {
            Phase::Authenticating { token: asked, deadline } if asked == token => match result {
                Ok(_) => {
                    let token = self.token();
                    self.phase = Phase::Entering { token, deadline };
                    let vhost = self.config.vhost.clone();
                    self.commands.push_back(Command::Enter { token, vhost });
                }
                Err(_) => self.refuse(ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            },
            Phase::Entering { token: asked, deadline } if asked == token => match result {
                Ok(_) => self.open(deadline),
                Err(_) => self.refuse(ReasonCode::NOT_AUTHORIZED),
            },
            Phase::Opening { token: asked, .. } if asked == token => match result {
                Ok(Reply::Session { present, notes }) => self.opened(present, &notes),
                Ok(_) => self.opened(false, &[]),
                Err(error) => self.refuse_session(&error),
            },
            _ => self.running_done(token, result),
        }
    }

    fn open(&mut self, deadline: Time) {
        let token = self.token();
        self.phase = Phase::Opening { token, deadline };
        self.commands.push_back(Command::OpenSession(OpenSession {
            token,
            client: self.client.id.clone(),
            clean: self.client.is_clean,
            expiry_ms: self.client.expiry_ms,
            will: self.client.will.take(),
        }));
    }

    fn running_done(&mut self, token: Token, result: Result<Reply, CommandError>) {
        if self.authenticated_again(token, &result) || self.resume_done(token, &result) {
            return;
        }
        if let Err(result) = self.subscription_done(token, result) {
            self.gathered_done(token, result);
        }
    }

    /// When the client counts as gone, or has taken too long to be accepted.
    pub(super) fn next_timeout(&self) -> Time {
        match self.phase {
            Phase::Connect { deadline }
            | Phase::Authenticating { deadline, .. }
            | Phase::Entering { deadline, .. }
            | Phase::Opening { deadline, .. } => deadline,
            Phase::Running if !self.peer.patience.is_zero() => {
                self.peer.last_received + self.peer.patience
            }
            Phase::Running | Phase::Closed => Time::NEVER,
        }
    }

    pub(super) fn timeout(&mut self) {
        if self.now < self.next_timeout() {
            return;
        }
        match self.phase {
            // Its packets are left lying, pings among them: they say nothing about it.
            Phase::Running if self.holding && self.holds_publishes() => {
                self.peer.last_received = self.now;
            }
            // [MQTT-3.1.2-22].
            Phase::Running => self.disconnect(ReasonCode::KEEP_ALIVE_TIMEOUT, None),
            _ => self.phase = Phase::Closed,
        }
    }
}
