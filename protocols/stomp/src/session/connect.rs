//! How a connection begins, is kept alive, and ends (1.2, "Connecting", "Heart-beating",
//! "DISCONNECT").

use std::sync::Arc;
use std::time::Duration;

use isthmus_contract::{CloseReason, Command as Ask, CommandError, Credentials, Reply, Secret};
use isthmus_model::{Time, Token, TopologyChange};

use super::StompSession;
use crate::codec::{Command, Frame, Headers, Rules, Version, write_frame};
use crate::destination::TOPIC_EXCHANGE;
use crate::fault::Fault;

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
    /// The client has said goodbye and waits for its receipt.
    Disconnecting,
    /// A frame was wrong: the client is told behind the receipts of what came before it.
    Failing { fault: Box<Fault>, deadline: Time },
    /// Over.
    Closed,
}

/// What is known of the client.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) version: Version,
    /// The client's own name for itself, by which its durable subscriptions are found again.
    pub(super) client_id: String,
    /// Who it says it is.
    user: String,
    /// The virtual host that it enters if there is none of the name that it gave.
    fallback: Option<Arc<str>>,
    /// Time without a byte after which it counts as gone; zero for any.
    patience: Duration,
    /// Time after which it is sent a byte; zero for none.
    beat: Duration,
    next_beat: Time,
    pub(super) last_received: Time,
    /// Bytes of input that were there after the last look: more mean that the client is alive.
    pub(super) left: usize,
}

impl Peer {
    pub(super) fn new(now: Time) -> Peer {
        Peer {
            version: Version::V1_2,
            client_id: String::new(),
            user: String::new(),
            fallback: None,
            patience: Duration::ZERO,
            beat: Duration::ZERO,
            next_beat: Time::NEVER,
            last_received: now,
            left: 0,
        }
    }

    /// Notes that `len` bytes of input are there.
    pub(super) fn received(&mut self, now: Time, len: usize) {
        if len != self.left {
            self.last_received = now;
        }
    }
}

/// The two numbers of a header `heart-beat`: what its sender can send and what it wants, in
/// milliseconds; 0 for nothing.
fn heart_beat(headers: Headers<'_>) -> Result<(u64, u64), Fault> {
    let Some(value) = headers.get("heart-beat") else { return Ok((0, 0)) };
    let numbers = value.split_once(',').and_then(|(can, wants)| {
        Some((can.trim().parse::<u32>().ok()?, wants.trim().parse::<u32>().ok()?))
    });
    let (can, wants) = numbers.ok_or_else(|| {
        let detail = "it is two numbers of milliseconds with a comma in between, '10000,10000', \
                      what the client can send and what it wants; 0 is for nothing";
        Fault::header("heart-beat", detail)
    })?;
    Ok((can.into(), wants.into()))
}

/// Who a client is, as its CONNECT says. Nobody is let in without saying it: there is no user for
/// those who give none.
fn credentials(headers: Headers<'_>, has_certificate: bool) -> Result<Credentials, Fault> {
    let (login, passcode) = (headers.get("login"), headers.get("passcode"));
    match (login, passcode) {
        (None, None) if has_certificate => Ok(Credentials::Certificate),
        (login, Some(passcode)) => Ok(Credentials::Password {
            user: login.unwrap_or_default().into_owned(),
            password: Secret(passcode.into_owned()),
        }),
        (Some(_), None) => {
            Err(Fault::new("Access refused", "header 'passcode' is missing: it is the password"))
        }
        (None, None) => Err(Fault::new(
            "Access refused",
            "headers 'login' and 'passcode' are missing, and no certificate was shown: there is no \
             user for clients who do not say who they are",
        )),
    }
}

impl StompSession {
    /// Takes the CONNECT.
    pub(super) fn connect(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        let Phase::Connect { deadline } = self.phase else { return Ok(()) };
        let headers = frame.headers;
        let accepted = headers.get("accept-version");
        let spoken = self.config.versions;
        self.peer.version = Version::negotiate(accepted.as_deref(), spoken).ok_or_else(|| {
            let accepted = accepted.as_deref().unwrap_or(Version::V1_0.as_str());
            let detail = format!(
                "header 'accept-version': none of '{accepted}' is spoken here, but {} {}",
                Version::list(spoken),
                if spoken.len() == 1 { "is" } else { "are" }
            );
            Fault::new("Unsupported version", detail).telling_versions()
        })?;
        // What 1.0 shows before a value is no part of it.
        let trimmed = match self.peer.version {
            Version::V1_0 => Headers::checked(headers.block(), Rules::V1_0),
            _ => headers,
        };
        let (can, wants) = heart_beat(trimmed)?;
        let min = self.config.heartbeat_min;
        let agreed =
            |ms: u64| if ms == 0 { Duration::ZERO } else { min.max(Duration::from_millis(ms)) };
        // A client's clock and the way here may be slow (1.2, "Heart-beating").
        self.peer.patience = agreed(can) * 2;
        // It comes in time, though the timer may be late.
        self.peer.beat = agreed(wants) * 3 / 4;
        let credentials = credentials(trimmed, self.config.has_certificate)?;
        if let Credentials::Password { user, .. } = &credentials {
            self.peer.user = user.clone();
        }
        self.peer.client_id = trimmed.get("client-id").unwrap_or_default().into_owned();
        let host = trimmed.get("host").filter(|host| !host.is_empty());
        if let Some(host) = host.filter(|_| self.config.host_is_vhost) {
            let fallback = std::mem::replace(&mut self.config.vhost, (&*host).into());
            self.peer.fallback = Some(fallback).filter(|vhost| **vhost != *host);
        }
        let token = self.token();
        self.phase = Phase::Authenticating { token, deadline };
        self.commands.push_back(Ask::Authenticate { token, credentials });
        Ok(())
    }

    /// Takes the answers by which a client is let in; returns whether this was one.
    pub(super) fn logged_in(&mut self, token: Token, result: &Result<Reply, CommandError>) -> bool {
        match self.phase {
            Phase::Authenticating { token: asked, deadline } if asked == token => match result {
                Ok(_) => {
                    let token = self.token();
                    self.phase = Phase::Entering { token, deadline };
                    let vhost = self.config.vhost.clone();
                    self.commands.push_back(Ask::Enter { token, vhost });
                }
                Err(error) => {
                    let detail = format!("login of user '{}' failed: {error}", self.peer.user);
                    self.fail(&Fault::new("Access refused", detail));
                }
            },
            Phase::Entering { token: asked, deadline } if asked == token => match result {
                Ok(_) => self.accept(),
                // Most clients put the name of the machine there (the specification suggests it),
                // and no virtual host is called that. One that is there is meant, also where the
                // client may not enter it.
                Err(CommandError::NotFound(_)) if self.peer.fallback.is_some() => {
                    self.config.vhost = self.peer.fallback.take().unwrap_or_default();
                    let (token, vhost) = (self.token(), self.config.vhost.clone());
                    self.phase = Phase::Entering { token, deadline };
                    self.commands.push_back(Ask::Enter { token, vhost });
                }
                Err(error) => {
                    let detail = format!(
                        "virtual host '{}' (header 'host'; '/' is meant where there is none): {error}",
                        self.config.vhost
                    );
                    self.fail(&Fault { detail, ..Fault::refused(error) });
                }
            },
            _ => return false,
        }
        true
    }

    fn accept(&mut self) {
        self.phase = Phase::Running;
        if !self.peer.beat.is_zero() {
            self.peer.next_beat = self.now + self.peer.beat;
        }
        self.peer.last_received = self.now;
        let min = self.config.heartbeat_min.as_millis();
        let (session, beats) = (self.config.id.to_string(), format!("{min},{min}"));
        let server = concat!("isthmus/", env!("CARGO_PKG_VERSION"));
        let all = [
            ("version", self.peer.version.as_str()),
            ("heart-beat", &beats),
            ("session", &session),
            ("server", server),
        ];
        // 1.0 knows nothing of the first two, and its clients pass over them.
        write_frame(self.outbox.buf(), Command::Connected, Rules::Verbatim, &all, b"");
    }

    /// Takes a goodbye: everything before is done before it is answered.
    pub(super) fn disconnect(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        if frame.headers.get("receipt").is_none() {
            self.phase = match self.pending.len() {
                0 => Phase::Closed,
                _ => Phase::Disconnecting,
            };
            return Ok(());
        }
        let number = self.begin(frame);
        self.phase = Phase::Disconnecting;
        // Answered behind everything that the session asked for, also for what nobody waits.
        let change = TopologyChange::LookUpExchange { name: TOPIC_EXCHANGE.into() };
        self.ask(number, |token| Ask::Topology { token, change });
        Ok(())
    }

    pub(super) fn closed(&mut self, reason: CloseReason) {
        let (message, detail) = match reason {
            CloseReason::Shutdown => ("Server shutdown", "the broker is going down: connect again"),
            CloseReason::NotLeader => (
                "Try again",
                "this node does not lead any more: connect again; what was not answered with a \
                 receipt may have been done or not",
            ),
            CloseReason::TakenOver => {
                ("Connection closed", "another connection has taken over this client's session")
            }
            CloseReason::Forced => ("Connection closed", "an operator has closed the connection"),
            CloseReason::Expired => {
                ("Access refused", "what the client has logged in with has run out: log in again")
            }
            CloseReason::VhostDeleted => ("Not found", "the virtual host was deleted"),
        };
        self.fail(&Fault::new(message, detail));
    }

    /// When the client counts as gone, is sent a heart-beat, or has taken too long to be accepted.
    pub(super) fn next_timeout(&self) -> Time {
        match self.phase {
            Phase::Connect { deadline }
            | Phase::Authenticating { deadline, .. }
            | Phase::Entering { deadline, .. }
            | Phase::Failing { deadline, .. } => deadline,
            Phase::Running if !self.peer.patience.is_zero() => {
                self.peer.next_beat.min(self.peer.last_received + self.peer.patience)
            }
            Phase::Running => self.peer.next_beat,
            Phase::Disconnecting | Phase::Closed => Time::NEVER,
        }
    }

    pub(super) fn timeout(&mut self) {
        if self.now < self.next_timeout() {
            return;
        }
        match &self.phase {
            Phase::Running => {}
            Phase::Failing { fault, .. } => return self.fail(&fault.clone()),
            _ => return self.phase = Phase::Closed,
        }
        if self.now >= self.peer.next_beat {
            self.peer.next_beat = self.now + self.peer.beat;
            // What waits to be written tells the client as much.
            if self.outbox.is_empty() {
                self.outbox.buf().push(b'\n');
            }
        }
        let patience = self.peer.patience;
        if patience.is_zero() || self.now < self.peer.last_received + patience {
            return;
        }
        if self.holding && self.holds_publishes() {
            // Its frames are left lying, heart-beats among them: they say nothing about it.
            self.peer.last_received = self.now;
            return;
        }
        let detail = format!(
            "nothing came for {} ms, and the client said that it would send something every {} ms \
             at the least (header 'heart-beat' of CONNECT)",
            patience.as_millis(),
            (patience / 2).as_millis()
        );
        self.fail(&Fault::new("Heart-beat missing", detail));
    }
}
