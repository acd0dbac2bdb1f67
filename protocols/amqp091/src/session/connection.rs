//! The connection: handshake, heartbeats, errors and the end (specification section 1.4, 2.2.4,
//! 4.2.7).

use std::sync::Arc;
use std::time::Duration;

use amq_protocol::protocol::{AMQPClass, connection as class};
use isthmus_contract::{CloseReason, Command, CommandError, Credentials, Reply, Secret};
use isthmus_model::{Table, Time, Token, Value};

use crate::codec::frame::{self, Frame};
use crate::codec::method::{self, Method};
use crate::codec::table;
use crate::fault::{Fault, ReplyCode};

use super::channel::Slot;
use super::{Amqp091Session, Handled};

/// How far the conversation is.
#[derive(Debug)]
pub(super) enum Phase {
    /// The protocol header is to come.
    Header { deadline: Time },
    /// connection.start is sent.
    Start { deadline: Time },
    /// The broker looks at the credentials.
    Authenticating { token: Token, deadline: Time },
    /// connection.tune is sent.
    Tune { deadline: Time },
    /// connection.open is to come.
    Open { deadline: Time },
    /// The broker opens the virtual host.
    Entering { token: Token, deadline: Time },
    /// The connection is open.
    Running,
    /// connection.close is sent; everything but close and close-ok is ignored.
    Closing { deadline: Time },
    /// Over.
    Closed,
}

/// What is known of the client.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) user: Arc<str>,
    /// How it has logged in.
    mechanism: Arc<str>,
    pub(super) vhost: Arc<str>,
    /// The largest frame in octets, as negotiated; what must be allowed for until then.
    pub(super) frame_max: u32,
    pub(super) channel_max: u16,
    /// Understands that a consumer is cancelled by the server.
    pub(super) cancel_notify: bool,
    /// Understands connection.blocked.
    pub(super) blocked: bool,
    /// Understands why a login fails.
    authentication_failure_close: bool,
}

impl Default for Peer {
    fn default() -> Peer {
        Peer {
            user: Arc::from(""),
            mechanism: Arc::from(""),
            vhost: Arc::from(""),
            frame_max: frame::MIN_MAX_BYTES,
            channel_max: 0,
            cancel_notify: false,
            blocked: false,
            authentication_failure_close: false,
        }
    }
}

/// Heartbeats.
#[derive(Debug)]
pub(super) struct Liveness {
    /// The negotiated interval; zero for none.
    interval: Duration,
    last_received: Time,
    last_sent: Time,
    /// Bytes of input that were there after the last look: more mean that the client is alive.
    left: usize,
    /// Bytes that waited to be written before the call that is being handled.
    waiting: usize,
}

impl Liveness {
    pub(super) fn new(now: Time) -> Liveness {
        Liveness {
            interval: Duration::ZERO,
            last_received: now,
            last_sent: now,
            left: 0,
            waiting: 0,
        }
    }

    /// Notes that `len` bytes wait to be written before anything is done.
    pub(super) fn begin(&mut self, len: usize) {
        self.waiting = len;
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

    /// Notes that `len` bytes wait to be written now; what is put there counts as sent.
    pub(super) fn end(&mut self, now: Time, len: usize) {
        if len > self.waiting {
            self.last_sent = now;
        }
    }
}

/// The mechanisms that everybody may use: RFC 4616, and the one of AMQP 0-8.
const MECHANISMS: &str = "PLAIN AMQPLAIN";
/// Those of clients with a certificate (RFC 4422, appendix A).
const MECHANISMS_WITH_CERTIFICATE: &str = "PLAIN AMQPLAIN EXTERNAL";
/// The locale that is offered.
const LOCALE: &str = "en_US";

impl Amqp091Session {
    /// Looks for the protocol header in `bytes`; returns its length once it is there.
    pub(super) fn protocol_header(&mut self, bytes: &[u8], deadline: Time) -> Option<usize> {
        let want = frame::PROTOCOL_HEADER;
        let have = bytes.len().min(want.len());
        if bytes[..have] != want[..have] {
            // Section 4.2.2: say which protocol is spoken here, and close.
            self.out.outbox.buf().extend_from_slice(&want);
            self.phase = Phase::Closed;
            return Some(bytes.len());
        }
        if have < want.len() {
            return None;
        }
        self.send_start();
        self.phase = Phase::Start { deadline };
        Some(want.len())
    }

    fn send_start(&mut self) {
        let properties = self.server_properties();
        let mechanisms =
            if self.config.has_certificate { MECHANISMS_WITH_CERTIFICATE } else { MECHANISMS };
        frame::write(self.out.outbox.buf(), frame::METHOD, 0, |out| {
            // connection.start, version 0-9.
            out.extend_from_slice(&[0, 10, 0, 10, 0, 9]);
            table::write(out, &properties);
            for text in [mechanisms, LOCALE] {
                table::with_length(out, |out| out.extend_from_slice(text.as_bytes()));
            }
        });
    }

    fn server_properties(&self) -> Table {
        let text = |s: &str| Value::String(s.to_owned());
        let capabilities = [
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "consumer_priorities",
            "authentication_failure_close",
            "per_consumer_qos",
            "direct_reply_to",
        ];
        let capabilities = capabilities.map(|name| (name.to_owned(), Value::Bool(true))).to_vec();
        Table(vec![
            ("capabilities".to_owned(), Value::Map(Table(capabilities))),
            ("cluster_name".to_owned(), text(&self.config.cluster_name)),
            ("host".to_owned(), text(&self.config.host)),
            ("platform".to_owned(), text("Rust")),
            ("product".to_owned(), text(&self.config.product)),
            ("version".to_owned(), text(&self.config.version)),
        ])
    }

    /// Takes a method on channel 0.
    pub(super) fn connection_method(&mut self, method: &Method<'_>) -> Handled {
        use class::AMQPMethod as M;
        let AMQPClass::Connection(class) = &method.class else {
            return Err(Fault::new(
                ReplyCode::CommandInvalid,
                "channel 0 is for methods of class connection",
            ));
        };
        match (class, &self.phase) {
            (M::StartOk(start), &Phase::Start { deadline }) => {
                self.start_ok(start, method.table, deadline)
            }
            (M::TuneOk(tune), &Phase::Tune { deadline }) => self.tune_ok(tune, deadline),
            (M::Open(open), &Phase::Open { deadline }) => {
                let token = self.out.token(0);
                self.peer.vhost = super::name(&open.virtual_host);
                self.phase = Phase::Entering { token, deadline };
                self.command(Command::Enter { token, vhost: self.peer.vhost.clone() });
                Ok(())
            }
            (M::Close(_), _) => {
                self.say_connection(class::AMQPMethod::CloseOk(class::CloseOk {}));
                self.close_batch();
                self.phase = Phase::Closed;
                Ok(())
            }
            (M::UpdateSecret(update), Phase::Running) => self.update_secret(update),
            _ => Err(Fault::new(ReplyCode::CommandInvalid, "connection method out of its turn")),
        }
    }

    fn start_ok(&mut self, start: &class::StartOk, properties: &[u8], deadline: Time) -> Handled {
        table::validate(properties)
            .map_err(|e| Fault::new(ReplyCode::SyntaxError, e.to_string()))?;
        if let Some(capabilities) = table::find(properties, "capabilities")
            && capabilities.kind == b'F'
        {
            let has = |name| {
                table::find(capabilities.value, name)
                    .is_some_and(|e| e.kind == b't' && e.value != [0])
            };
            self.peer.cancel_notify = has("consumer_cancel_notify");
            self.peer.blocked = has("connection.blocked");
            self.peer.authentication_failure_close = has("authentication_failure_close");
        }
        let mechanism = start.mechanism.as_str();
        let credentials = self.credentials(mechanism, start.response.as_bytes())?;
        let token = self.out.token(0);
        self.peer.mechanism = mechanism.into();
        self.phase = Phase::Authenticating { token, deadline };
        self.command(Command::Authenticate { token, credentials });
        Ok(())
    }

    /// What the client's response proves.
    fn credentials(&self, mechanism: &str, response: &[u8]) -> Result<Credentials, Fault> {
        let given = match mechanism {
            "PLAIN" => plain(response),
            "AMQPLAIN" => amqplain(response),
            "EXTERNAL" if self.config.has_certificate => return Ok(Credentials::Certificate),
            _ => {
                let text = format!("unknown authentication mechanism '{mechanism}'");
                return Err(Fault::new(ReplyCode::CommandInvalid, text));
            }
        };
        let (user, password) = given.ok_or_else(|| {
            Fault::new(ReplyCode::SyntaxError, format!("invalid {mechanism} response"))
        })?;
        Ok(Credentials::Password { user, password: Secret(password) })
    }

    /// The client has a new secret, as the one that it has logged in with is about to run out
    /// (RabbitMQ's extension).
    fn update_secret(&mut self, update: &class::UpdateSecret) -> Handled {
        let secret = String::from_utf8(update.new_secret.as_bytes().to_vec())
            .map_err(|_| Fault::new(ReplyCode::SyntaxError, "the new secret is not UTF-8"))?;
        let token = self.out.token(0);
        self.refreshing.push_back(token);
        let (user, password) = (self.peer.user.to_string(), Secret(secret));
        let credentials = Credentials::Password { user, password };
        self.command(Command::Authenticate { token, credentials });
        Ok(())
    }

    /// Takes in what the broker says of the credentials or of the virtual host. Returns whether
    /// it was asked for here.
    pub(super) fn handshake_done(
        &mut self,
        done: Token,
        result: &Result<Reply, CommandError>,
    ) -> bool {
        match (&self.phase, result) {
            (&Phase::Authenticating { token, deadline }, result) if token == done => match result {
                Ok(reply) => {
                    if let Reply::Authenticated { user } = reply {
                        self.peer.user = user.clone();
                    }
                    self.send_tune(deadline);
                }
                Err(_) => self.refuse_login(),
            },
            (&Phase::Entering { token, .. }, Ok(_)) if token == done => {
                self.phase = Phase::Running;
                self.say_connection(class::AMQPMethod::OpenOk(class::OpenOk {}));
            }
            (&Phase::Entering { token, .. }, Err(CommandError::NotLeader)) if token == done => {
                let fault = Fault::from_refusal(&CommandError::NotLeader);
                self.fail(0, &fault.of((10, 40)));
            }
            (&Phase::Entering { token, .. }, Err(error)) if token == done => {
                let text = error.to_string();
                self.fail(0, &Fault::new(ReplyCode::NotAllowed, text).of((10, 40)));
            }
            (Phase::Running, result) if self.refreshing.pop_front_if(|t| *t == done).is_some() => {
                match result {
                    Ok(_) => {
                        let ok = class::AMQPMethod::UpdateSecretOk(class::UpdateSecretOk {});
                        self.say_connection(ok);
                    }
                    Err(_) => {
                        let text = "New secret was refused by one of the backends";
                        self.fail(0, &Fault::new(ReplyCode::NotAllowed, text).of((10, 70)));
                    }
                }
            }
            _ => return false,
        }
        true
    }

    fn send_tune(&mut self, deadline: Time) {
        self.phase = Phase::Tune { deadline };
        self.say_connection(class::AMQPMethod::Tune(class::Tune {
            channel_max: self.config.channel_max,
            frame_max: self.config.frame_max(),
            heartbeat: self.config.heartbeat_s,
        }));
    }

    fn refuse_login(&mut self) {
        if !self.peer.authentication_failure_close {
            // Older clients take any answer for success; the specification has them see the
            // socket close (section 2.2.4).
            self.phase = Phase::Closed;
            return;
        }
        let text = format!(
            "Login was refused using authentication mechanism {}. For details see the broker \
             logfile.",
            self.peer.mechanism
        );
        self.fail(0, &Fault::new(ReplyCode::AccessRefused, text));
    }

    fn tune_ok(&mut self, tune: &class::TuneOk, deadline: Time) -> Handled {
        let ours = self.config.frame_max();
        self.peer.frame_max = match tune.frame_max {
            0 => ours,
            n if n < frame::MIN_MAX_BYTES => {
                return Err(not_allowed("frame_max", n, "lower than the minimum", 4096));
            }
            n if n > ours => {
                return Err(not_allowed("frame_max", n, "higher than the maximum", ours));
            }
            n => n,
        };
        let ours = self.config.channel_max;
        self.peer.channel_max = match tune.channel_max {
            0 => ours,
            n if n > ours => {
                let (n, ours) = (u32::from(n), u32::from(ours));
                return Err(not_allowed("channel_max", n, "higher than the maximum", ours));
            }
            n => n,
        };
        self.live.interval = Duration::from_secs(u64::from(tune.heartbeat));
        self.live.last_received = self.now;
        self.phase = Phase::Open { deadline };
        Ok(())
    }

    /// Answers for an error: the channel is closed, or the whole connection.
    pub(super) fn fail(&mut self, channel: u16, fault: &Fault) {
        let open = matches!(self.channels.get(usize::from(channel)), Some(Slot::Open(_)));
        if channel != 0 && open && !fault.code.ends_connection() {
            self.fail_channel(channel, fault);
        } else {
            self.fail_connection(fault);
        }
    }

    fn fail_connection(&mut self, fault: &Fault) {
        if matches!(self.phase, Phase::Closing { .. } | Phase::Closed) {
            // Nothing more can be said than what was said.
            self.phase = Phase::Closed;
            return;
        }
        self.release_channels();
        self.phase = Phase::Closing { deadline: self.now + self.config.close_timeout };
        self.say_connection(class::AMQPMethod::Close(class::Close {
            reply_code: fault.code.number(),
            reply_text: fault.reply_text().into(),
            class_id: fault.method.0,
            method_id: fault.method.1,
        }));
    }

    fn release_channels(&mut self) {
        self.close_batch();
        for number in 0..self.channels.len() {
            self.release_channel(number as u16);
            self.drop_channel(number as u16, Slot::Free);
        }
        self.channels = Vec::new();
    }

    /// Between connection.close and its close-ok.
    pub(super) fn frame_while_closing(&mut self, frame: &Frame<'_>) {
        if frame.kind != frame::METHOD || frame.channel != 0 {
            return;
        }
        match method::ids(frame.payload) {
            Ok((10, 51)) => self.phase = Phase::Closed,
            // Both closed at the same time.
            Ok((10, 50)) => {
                self.say_connection(class::AMQPMethod::CloseOk(class::CloseOk {}));
                self.phase = Phase::Closed;
            }
            _ => {}
        }
    }

    /// The broker ends the connection.
    pub(super) fn closed_by_broker(&mut self, reason: CloseReason) {
        let reason = match reason {
            CloseReason::Shutdown => "shutdown",
            CloseReason::NotLeader => "this node does not lead any more",
            CloseReason::TakenOver => "its session was opened by another connection",
            CloseReason::Forced => "closed by an operator",
            CloseReason::VhostDeleted => "vhost is gone",
            CloseReason::Expired => "credentials have expired",
        };
        if matches!(self.phase, Phase::Header { .. }) {
            self.phase = Phase::Closed;
            return;
        }
        let text = format!("broker forced connection closure with reason '{reason}'");
        self.fail(0, &Fault::new(ReplyCode::ConnectionForced, text));
    }

    pub(super) fn say_connection(&mut self, method: class::AMQPMethod) {
        self.say(0, &AMQPClass::Connection(method));
    }

    /// When [`Amqp091Session::timeout`] has something to do.
    pub(super) fn next_timeout(&self) -> Time {
        match self.phase {
            Phase::Header { deadline }
            | Phase::Start { deadline }
            | Phase::Authenticating { deadline, .. }
            | Phase::Tune { deadline }
            | Phase::Open { deadline }
            | Phase::Entering { deadline, .. }
            | Phase::Closing { deadline } => deadline,
            Phase::Running if !self.live.interval.is_zero() => {
                let send = self.live.last_sent + self.live.interval / 2;
                send.min(self.live.last_received + self.live.interval * 2)
            }
            Phase::Running | Phase::Closed => Time::NEVER,
        }
    }

    pub(super) fn timeout(&mut self) {
        if self.now < self.next_timeout() {
            return;
        }
        match self.phase {
            Phase::Running => self.beat(),
            Phase::Closed => {}
            _ => self.phase = Phase::Closed,
        }
    }

    /// Section 4.2.7: a heartbeat when nothing else was sent, the end when nothing was received.
    fn beat(&mut self) {
        let now = self.now;
        if now >= self.live.last_received + self.live.interval * 2 {
            if self.pressure.holding || self.is_stopped() {
                // Nobody reads its heartbeats now.
                self.live.last_received = now;
            } else {
                self.close_batch();
                self.phase = Phase::Closed;
                return;
            }
        }
        if now >= self.live.last_sent + self.live.interval / 2 {
            if self.out.outbox.is_empty() {
                frame::write_heartbeat(self.out.outbox.buf());
            }
            self.live.last_sent = now;
        }
    }
}

fn not_allowed(what: &str, value: u32, relation: &str, limit: u32) -> Fault {
    Fault::new(
        ReplyCode::NotAllowed,
        format!("negotiated {what} = {value} is {relation} allowed value ({limit})"),
    )
}

/// User and password of a PLAIN response: an identity to act as (not looked at), the user, the
/// password, with a zero octet between them.
fn plain(response: &[u8]) -> Option<(String, String)> {
    let mut parts = response.splitn(3, |b| *b == 0);
    let _identity = parts.next()?;
    let user = String::from_utf8(parts.next()?.to_vec()).ok()?;
    let password = String::from_utf8(parts.next()?.to_vec()).ok()?;
    Some((user, password))
}

/// User and password of an AMQPLAIN response: a table without its length.
fn amqplain(response: &[u8]) -> Option<(String, String)> {
    table::validate(response).ok()?;
    let text = |name| {
        let entry = table::find(response, name).filter(|entry| entry.kind == b'S')?;
        String::from_utf8(entry.value.to_vec()).ok()
    };
    Some((text("LOGIN")?, text("PASSWORD")?))
}
