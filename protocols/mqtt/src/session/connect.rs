//! How a connection begins, is kept alive, and ends (section 3.1, 3.2, 3.14, 4.13).

use std::time::Duration;

use isthmus_contract::{CloseReason, Command, CommandError, Publish, Reply};
use isthmus_model::{Time, Token};

use super::MqttSession;
use super::login::Login;
use super::subscribe::Answered;
use crate::ReasonCode;
use crate::codec::{
    ConnAck, Connect, Disconnect, Frame, Kind, Packet, PropertiesBuf, Property, Qos, Version,
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
    /// The client is accepted.
    Running,
    /// Over.
    Closed,
}

/// What is known of the client.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) version: Version,
    /// The client identifier, if the server has made it.
    assigned_id: Option<String>,
    /// The client wants its session to last; it is told that it does not.
    wants_to_last: bool,
    /// Time without a packet after which it counts as gone; zero for any.
    patience: Duration,
    pub(super) last_received: Time,
    /// Bytes of input that were there after the last look: more mean that the client is alive.
    left: usize,
    /// The largest packet that it takes, in bytes.
    pub(super) packet_max: u32,
    /// QoS 1 deliveries at the most that it has not acknowledged.
    pub(super) receive_max: u16,
    /// Topics by their alias, counted from 1; grown as aliases are used.
    pub(super) aliases: Vec<Option<Box<str>>>,
}

impl Peer {
    pub(super) fn new(now: Time) -> Peer {
        Peer {
            version: Version::V3_1_1,
            assigned_id: None,
            wants_to_last: false,
            patience: Duration::ZERO,
            last_received: now,
            left: 0,
            packet_max: u32::MAX,
            receive_max: u16::MAX,
            aliases: Vec::new(),
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
        if let Err(reason) = self.check_connect(connect) {
            self.refuse(reason);
            return;
        }
        let login = match Login::of(connect, self.config.has_certificate) {
            Ok(login) => login,
            Err(reason) => return self.refuse(reason),
        };
        if let Some(vhost) = login.vhost {
            self.config.vhost = vhost.into();
        }
        if connect.client_id.is_empty() {
            self.peer.assigned_id = Some(format!("isthmus-{:032x}", self.config.name_secret));
        }
        let will = connect.will.as_ref();
        self.will = will.map(|will| store(&Message::of_will(will), &self.config.exchange));
        self.peer.patience = Duration::from_secs(u64::from(connect.keep_alive_s)) * 3 / 2;
        for property in connect.properties {
            match property {
                Property::ReceiveMaximum(n) => self.peer.receive_max = n,
                Property::MaximumPacketSize(n) => self.peer.packet_max = n,
                Property::SessionExpiryInterval(s) => self.peer.wants_to_last = s > 0,
                _ => {}
            }
        }
        let token = self.token();
        self.phase = Phase::Authenticating { token, deadline };
        let credentials = login.credentials;
        self.commands.push_back(Command::Authenticate { token, credentials });
    }

    /// Refuses what the node cannot keep: better no session than one that forgets.
    fn check_connect(&self, connect: &Connect<'_>) -> Result<(), ReasonCode> {
        let mut properties = connect.properties.iter();
        if properties.any(|p| matches!(p, Property::AuthenticationMethod(_))) {
            return Err(ReasonCode::BAD_AUTHENTICATION_METHOD);
        }
        if !connect.clean_start && connect.version != Version::V5 {
            return Err(ReasonCode::SERVER_UNAVAILABLE);
        }
        match &connect.will {
            // [MQTT-3.2.2-12], [MQTT-3.2.2-13].
            Some(will) if will.qos == Qos::ExactlyOnce => Err(ReasonCode::QOS_NOT_SUPPORTED),
            Some(will) if will.retain => Err(ReasonCode::RETAIN_NOT_SUPPORTED),
            _ => Ok(()),
        }
    }

    /// Refuses the connection for `reason`.
    fn refuse(&mut self, reason: ReasonCode) {
        let properties = PropertiesBuf::new();
        let ack =
            ConnAck { session_present: false, reason, properties: properties.as_properties() };
        // Without properties it is never too long.
        let _ = ack.write(self.version(), self.outbox.buf());
        self.will = None;
        self.phase = Phase::Closed;
    }

    fn accept(&mut self) {
        let mut written = Vec::new();
        let properties = self.capabilities();
        let result = properties.and_then(|properties| {
            let ack = ConnAck {
                session_present: false,
                reason: ReasonCode::SUCCESS,
                properties: properties.as_properties(),
            };
            ack.write(self.version(), &mut written)
        });
        debug_assert!(result.is_ok(), "nothing in it is long");
        self.outbox.buf().extend_from_slice(&written);
        self.phase = Phase::Running;
    }

    /// What the client is told of the server (section 3.2.2.3); nothing before 5.0.
    fn capabilities(&self) -> Result<PropertiesBuf, TooLong> {
        let mut properties = PropertiesBuf::new();
        if self.peer.wants_to_last {
            properties.push(Property::SessionExpiryInterval(0))?;
        }
        properties.push(Property::MaximumQos(1))?;
        properties.push(Property::RetainAvailable(0))?;
        properties.push(Property::MaximumPacketSize(self.config.packet_bytes_max))?;
        properties.push(Property::TopicAliasMaximum(self.config.topic_alias_max))?;
        properties.push(Property::SubscriptionIdentifierAvailable(0))?;
        properties.push(Property::SharedSubscriptionAvailable(0))?;
        if let Some(id) = &self.peer.assigned_id {
            properties.push(Property::AssignedClientIdentifier(id))?;
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
            // A second CONNECT [MQTT-3.1.0-2]; an AUTH without a method [MQTT-4.12.0-7].
            _ => Err(Fault::protocol(frame.kind(), "packet type", Problem::Conflict("now"))),
        }
    }

    fn goodbye(&mut self, disconnect: &Disconnect<'_>) -> Result<(), Fault> {
        let expiry = disconnect.properties.find(|p| match p {
            Property::SessionExpiryInterval(s) => Some(s),
            _ => None,
        });
        // Section 3.14.2.2.2.
        if expiry.is_some_and(|s| s > 0) && !self.peer.wants_to_last {
            let problem = Problem::Without("one in the CONNECT");
            return Err(Fault::protocol(Kind::Disconnect, "Session Expiry Interval", problem));
        }
        if disconnect.reason == ReasonCode::SUCCESS {
            // [MQTT-3.14.4-3].
            self.will = None;
        }
        self.end();
        Ok(())
    }

    /// Ends the connection for `fault`, and tells the client where its version lets it.
    pub(super) fn fail(&mut self, fault: &Fault) {
        match self.phase {
            Phase::Running => self.disconnect(fault.reason, Some(&fault.to_string())),
            _ => self.refuse(fault.reason),
        }
    }

    /// Ends the connection for `reason`.
    pub(super) fn disconnect(&mut self, reason: ReasonCode, text: Option<&str>) {
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

    /// Ends the session; a will that is left is published [MQTT-3.1.2-8].
    pub(super) fn end(&mut self) {
        if let (Phase::Running, Some(batch)) = (&self.phase, self.will.take()) {
            let publish = Publish { token: Token::SILENT, batch, transaction: None };
            self.commands.push_back(Command::Publish(publish));
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
            Phase::Entering { token: asked, .. } if asked == token => match result {
                Ok(_) => self.accept(),
                Err(_) => self.refuse(ReasonCode::NOT_AUTHORIZED),
            },
            _ => match self.subscriptions.done(token, result) {
                Ok(Some(answered)) => self.answer(&answered),
                Ok(None) => {}
                Err(result) => self.published(token, result),
            },
        }
    }

    pub(super) fn answer(&mut self, answered: &Answered) {
        if answered.write(self.peer.version, self.outbox.buf()).is_err() {
            self.disconnect(ReasonCode::PACKET_TOO_LARGE, None);
        }
    }

    /// When the client counts as gone, or has taken too long to be accepted.
    pub(super) fn next_timeout(&self) -> Time {
        match self.phase {
            Phase::Connect { deadline }
            | Phase::Authenticating { deadline, .. }
            | Phase::Entering { deadline, .. } => deadline,
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
            Phase::Running if self.holding && self.shortage.is_any() => {
                self.peer.last_received = self.now;
            }
            // [MQTT-3.1.2-22].
            Phase::Running => self.disconnect(ReasonCode::KEEP_ALIVE_TIMEOUT, None),
            _ => self.phase = Phase::Closed,
        }
    }
}
