//! What clients subscribe to (section 3.8 to 3.11).
//!
//! A filter is a binding of one of the session's lanes ([`super::lanes`]), or of a group's queue
//! ([`super::shared`]). Commands go out at once, in order; the answer waits for all of them.

use std::collections::BTreeMap;

use isthmus_contract::{Command, CommandError, Recall, Reply, Token, TopologyChange};
use isthmus_model::Note;

use super::MqttSession;
use super::connect::Phase;
use super::filters::Filters;
use super::gather::reason_of;
use super::lanes::{Lane, WINDOW};
use super::notes::{self, Options};
use super::shared::Shared;
use crate::ReasonCode;
use crate::codec::topic::Filter;
use crate::codec::{
    Kind, Properties, Property, RetainHandling, SubAck, Subscribe, Subscription, UnsubAck,
    Unsubscribe, Version,
};
use crate::convert::topic::swapped_text;
use crate::fault::{Fault, Problem, TooLong};

/// The client's subscriptions, and requests that the broker has not answered.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    pub(super) filters: Filters,
    pub(super) shared: Shared,
    /// Which lanes were asked for.
    pub(super) lanes: [bool; Lane::ALL.len()],
    /// Whether the window that deliveries share has been given its size.
    has_window: bool,
    /// By a number of their own.
    requests: BTreeMap<u64, Answered>,
    last_request: u64,
    waiting: BTreeMap<Token, Waiting>,
}

/// A command that a request waits for.
#[derive(Debug)]
struct Waiting {
    request: u64,
    /// Of the reason code that tells of it.
    index: usize,
    step: Step,
}

/// What the command does.
#[derive(Debug)]
enum Step {
    /// Makes a lane.
    Lane(Lane),
    /// Binds a lane; and what is retained is sent then, or is not.
    Bind { filter: Box<str>, options: Options, recalls: bool },
    /// Unbinds the lane that a filter had before it was given other options.
    Replaced { filter: Box<str>, before: Options },
    /// Unbinds a filter.
    Unbind { filter: Box<str> },
    /// Makes the client a member of a group.
    Join { filter: Box<str> },
    /// Ends its membership.
    Leave,
    /// Notes what was done.
    Note,
}

/// A SUBACK or UNSUBACK in the making.
#[derive(Debug)]
struct Answered {
    is_subscribe: bool,
    packet_id: u16,
    reasons: Vec<u8>,
    /// Commands that are not done.
    waits_for: usize,
}

impl Answered {
    fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let (packet_id, properties, reasons) = (self.packet_id, Properties::NONE, &self.reasons);
        if self.is_subscribe {
            SubAck { packet_id, properties, reasons }.write(version, out)
        } else {
            UnsubAck { packet_id, properties, reasons }.write(version, out)
        }
    }
}

impl Subscriptions {
    /// Commands that are not answered.
    pub(super) fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// Gives back what requests took that are answered: a tree whose last entry is removed keeps
    /// a node, of half a kilobyte here.
    pub(super) fn rest(&mut self) {
        if self.requests.is_empty() {
            self.requests = BTreeMap::new();
        }
        if self.waiting.is_empty() {
            self.waiting = BTreeMap::new();
        }
    }

    fn len(&self) -> usize {
        self.filters.len() + self.shared.len()
    }

    /// Whether a SUBSCRIBE or UNSUBSCRIBE with this packet identifier is not answered.
    pub(super) fn is_asking(&self, packet_id: u16) -> bool {
        self.requests.values().any(|request| request.packet_id == packet_id)
    }

    fn has(&self, filter: &str) -> bool {
        self.filters.asked(filter).is_some() || self.shared.get(filter).is_some()
    }
}

impl MqttSession {
    pub(super) fn subscribe(&mut self, packet: &Subscribe<'_>) -> Result<(), Fault> {
        // A packet of a few MiB could ask for millions of bindings.
        let count = packet.subscriptions.iter().take(self.config.subscriptions_max + 1).count();
        if count > self.config.subscriptions_max {
            let max = self.config.subscriptions_max as u64;
            let problem = Problem::TooMany { max };
            let reason = ReasonCode::QUOTA_EXCEEDED;
            return Err(Fault::because(reason, Kind::Subscribe, "payload", problem));
        }
        let id = packet.properties.find(|p| match p {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        });
        self.flush();
        if self.is_in_use(packet.packet_id) {
            let count = packet.subscriptions.iter().count();
            self.refuse_request(true, packet.packet_id, count);
            return Ok(());
        }
        let request = self.request(true, packet.packet_id);
        let mut noted = Vec::new();
        for (index, subscription) in packet.subscriptions.iter().enumerate() {
            let reason = match self.check_subscription(&subscription) {
                Ok(filter) => {
                    let options = Options::of(&subscription, id);
                    self.grant(request, index, subscription.filter, &filter, options, &mut noted);
                    ReasonCode(options.qos.bits())
                }
                Err(reason) => reason,
            };
            self.tell(request, reason);
        }
        self.note(request, noted);
        self.answer_if_done(request);
        Ok(())
    }

    fn check_subscription<'a>(
        &self,
        subscription: &Subscription<'a>,
    ) -> Result<Filter<'a>, ReasonCode> {
        let filter =
            Filter::parse(subscription.filter).map_err(|_| ReasonCode::TOPIC_FILTER_INVALID)?;
        if self.subscriptions.len() >= self.config.subscriptions_max
            && !self.subscriptions.has(subscription.filter)
        {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        Ok(filter)
    }

    /// Asks the broker for everything that the subscription `text` needs, in the place of an
    /// earlier one with the same filter [MQTT-3.8.4-3].
    fn grant(
        &mut self,
        request: u64,
        index: usize,
        text: &str,
        filter: &Filter<'_>,
        options: Options,
        noted: &mut Vec<Note>,
    ) {
        if filter.group.is_some() {
            return self.grant_shared(request, index, text, filter, options, noted);
        }
        let lane = options.lane();
        if !std::mem::replace(&mut self.subscriptions.lanes[lane as usize], true) {
            self.make_lane(lane, |session, command| {
                session.ask(request, index, Step::Lane(lane), command);
            });
            if lane.is_acknowledged() && self.client.lasts {
                noted.push(notes::lane(lane));
            }
        }
        let before = self.subscriptions.filters.ask(text, Some(options));
        let recalls = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => before.is_none(),
            RetainHandling::DoNotSend => false,
        };
        let step = Step::Bind { filter: text.into(), options, recalls };
        let change = TopologyChange::Bind(self.binding(text, self.lane_queue(lane)));
        self.ask(request, index, step, |token| Command::Topology { token, change });
        // The new binding first: no message falls between the two [MQTT-3.8.4-4].
        if let Some(before) = before.filter(|before| before.lane() != lane) {
            let step = Step::Replaced { filter: text.into(), before };
            let queue = self.lane_queue(before.lane());
            let change = TopologyChange::Unbind(self.binding(text, queue));
            self.ask(request, index, step, |token| Command::Topology { token, change });
        }
        if before != Some(options) {
            noted.push(notes::subscription(text, Some(options)));
        }
    }

    fn grant_shared(
        &mut self,
        request: u64,
        index: usize,
        text: &str,
        filter: &Filter<'_>,
        options: Options,
        noted: &mut Vec<Note>,
    ) {
        let before = self.subscriptions.shared.get(text).map(|membership| membership.options);
        if before.is_some() {
            self.rejoin(text, filter, options);
        } else {
            self.join(text, filter, options, |session, command| {
                session.ask(request, index, Step::Join { filter: text.into() }, command);
            });
        }
        if before != Some(options) {
            noted.push(notes::subscription(text, Some(options)));
        }
    }

    /// Calls `ask` with the commands that make `lane` and receive from it.
    pub(super) fn make_lane(
        &mut self,
        lane: Lane,
        mut ask: impl FnMut(&mut MqttSession, &dyn Fn(Token) -> Command),
    ) {
        if lane.is_acknowledged() {
            self.open_window();
        }
        let def = self.lane_def(lane);
        ask(self, &|token| {
            let change = TopologyChange::DeclareOwnQueue(def.clone());
            Command::Topology { token, change }
        });
        let attach = self.lane_attach(lane, Token::SILENT);
        ask(self, &|token| Command::Attach(isthmus_contract::Attach { token, ..attach.clone() }));
    }

    /// Gives the window that deliveries share its size, once.
    pub(super) fn open_window(&mut self) {
        if !std::mem::replace(&mut self.subscriptions.has_window, true) {
            let limit = Some(self.inflight_max());
            self.commands.push_back(Command::Window { window: WINDOW, limit });
        }
    }

    pub(super) fn unsubscribe(&mut self, packet: &Unsubscribe<'_>) {
        self.flush();
        if self.is_in_use(packet.packet_id) {
            return self.refuse_request(false, packet.packet_id, packet.filters.iter().count());
        }
        let request = self.request(false, packet.packet_id);
        let mut noted = Vec::new();
        for (index, filter) in packet.filters.iter().enumerate() {
            let is_known = if let Some(left) = self.subscriptions.shared.leave(filter) {
                let consumer = left.consumer;
                let detach = |token| Command::Detach { token, consumer };
                self.ask(request, index, Step::Leave, detach);
                if self.client.lasts {
                    let change = TopologyChange::ReleaseQueue { name: left.queue };
                    let release = |token| Command::Topology { token, change };
                    self.ask(request, index, Step::Leave, release);
                }
                true
            } else if let Some(before) = self.subscriptions.filters.ask(filter, None) {
                let queue = self.lane_queue(before.lane());
                let change = TopologyChange::Unbind(self.binding(filter, queue));
                let step = Step::Unbind { filter: filter.into() };
                self.ask(request, index, step, |token| Command::Topology { token, change });
                true
            } else {
                false
            };
            if is_known {
                noted.push(notes::subscription(filter, None));
            }
            let code = ReasonCode::NO_SUBSCRIPTION_EXISTED;
            self.tell(request, if is_known { ReasonCode::SUCCESS } else { code });
        }
        self.note(request, noted);
        self.answer_if_done(request);
    }

    /// Answers a request for `count` filters whose packet identifier is in use.
    fn refuse_request(&mut self, is_subscribe: bool, packet_id: u16, count: usize) {
        let request = self.request(is_subscribe, packet_id);
        for _ in 0..count {
            self.tell(request, ReasonCode::PACKET_IDENTIFIER_IN_USE);
        }
        self.answer_if_done(request);
    }

    fn request(&mut self, is_subscribe: bool, packet_id: u16) -> u64 {
        let subscriptions = &mut self.subscriptions;
        subscriptions.last_request += 1;
        let answered = Answered { is_subscribe, packet_id, reasons: Vec::new(), waits_for: 0 };
        subscriptions.requests.insert(subscriptions.last_request, answered);
        subscriptions.last_request
    }

    /// Adds the reason code that holds unless a command fails.
    fn tell(&mut self, request: u64, reason: ReasonCode) {
        if let Some(answered) = self.subscriptions.requests.get_mut(&request) {
            answered.reasons.push(reason.0);
        }
    }

    /// Notes what a request has changed, of a session that lasts.
    fn note(&mut self, request: u64, notes: Vec<Note>) {
        if self.client.lasts && !notes.is_empty() {
            let note = |token| Command::Note { token, notes, of: None, transaction: None };
            self.ask(request, 0, Step::Note, note);
        }
    }

    /// Queues a command that `request` waits for.
    fn ask(
        &mut self,
        request: u64,
        index: usize,
        step: Step,
        command: impl FnOnce(Token) -> Command,
    ) {
        let token = self.token();
        self.subscriptions.waiting.insert(token, Waiting { request, index, step });
        if let Some(answered) = self.subscriptions.requests.get_mut(&request) {
            answered.waits_for += 1;
        }
        self.commands.push_back(command(token));
    }

    /// Takes in what came of a command; gives `result` back if no request waits for `token`.
    pub(super) fn subscription_done(
        &mut self,
        token: Token,
        result: Result<Reply, CommandError>,
    ) -> Result<(), Result<Reply, CommandError>> {
        let Some(Waiting { request, index, step }) = self.subscriptions.waiting.remove(&token)
        else {
            return Err(result);
        };
        let failed = match result {
            Ok(_) => {
                self.step_done(step);
                None
            }
            Err(error) => self.step_failed(step, &error),
        };
        if let Some(answered) = self.subscriptions.requests.get_mut(&request) {
            if let Some(reason) = failed
                && let Some(told) = answered.reasons.get_mut(index)
                // The first step that fails says why; those behind it lack what it did not do.
                && !ReasonCode(*told).is_error()
            {
                *told = reason.0;
            }
            answered.waits_for -= 1;
        }
        self.answer_if_done(request);
        Ok(())
    }

    fn step_done(&mut self, step: Step) {
        match step {
            Step::Bind { filter, options, recalls } => {
                self.subscriptions.filters.activate(&filter, Some(options));
                if recalls {
                    self.commands.push_back(Command::Recall(Recall {
                        token: Token::SILENT,
                        exchange: self.source_of(&filter),
                        pattern: swapped_text(&filter).into(),
                        queue: self.lane_queue(options.lane()),
                    }));
                }
            }
            Step::Replaced { filter, before } => {
                // The new binding was refused: now there is none.
                let active = self.subscriptions.filters.active(&filter);
                if active.is_some_and(|active| active.lane() == before.lane()) {
                    self.subscriptions.filters.ask(&filter, None);
                    self.subscriptions.filters.activate(&filter, None);
                    self.note_again(&filter, None);
                }
            }
            Step::Unbind { filter } => self.subscriptions.filters.activate(&filter, None),
            Step::Lane(_) | Step::Join { .. } | Step::Leave | Step::Note => {}
        }
    }

    /// Undoes what was noted of a step that has failed; returns the reason code that tells it.
    fn step_failed(&mut self, step: Step, error: &CommandError) -> Option<ReasonCode> {
        let reason = Some(reason_of(error));
        match step {
            Step::Lane(lane) => {
                self.subscriptions.lanes[lane as usize] = false;
            }
            // Where there is no exchange of the broker's own topics there are no such topics.
            Step::Bind { filter, options, .. } if is_without_system(&filter, error) => {
                self.subscriptions.filters.activate(&filter, Some(options));
                return None;
            }
            Step::Bind { filter, options, .. } => {
                let active = self.subscriptions.filters.refuse(&filter, options);
                self.note_again(&filter, active);
            }
            Step::Replaced { .. } => {}
            Step::Unbind { filter } => self.subscriptions.filters.activate(&filter, None),
            Step::Join { filter } => {
                let is_system = Filter::parse(&filter).is_ok_and(|f| f.filter.starts_with('$'));
                if is_system && matches!(error, CommandError::NotFound(_)) {
                    return None;
                }
                if let Some(left) = self.subscriptions.shared.leave(&filter) {
                    let (token, consumer) = (Token::SILENT, left.consumer);
                    self.commands.push_back(Command::Detach { token, consumer });
                    if self.client.lasts {
                        let change = TopologyChange::ReleaseQueue { name: left.queue };
                        self.commands.push_back(Command::Topology { token, change });
                    }
                    self.note_again(&filter, None);
                }
            }
            Step::Leave => {}
            // A session that does not know what it has promised is of no use to its client.
            Step::Note => self.disconnect(reason_of(error), Some(&error.to_string())),
        }
        reason
    }

    /// Notes what a filter has after all.
    fn note_again(&mut self, filter: &str, options: Option<Options>) {
        if self.client.lasts {
            self.gathered.get_or_insert_default().notes.push(notes::subscription(filter, options));
        }
    }

    /// Answers a request that needs nothing more of the broker.
    fn answer_if_done(&mut self, request: u64) {
        let requests = &mut self.subscriptions.requests;
        if requests.get(&request).is_some_and(|answered| answered.waits_for == 0)
            && let Some(answered) = requests.remove(&request)
            && let Phase::Running = self.phase
        {
            let mut written = Vec::new();
            let result = answered.write(self.peer.version, &mut written);
            // [MQTT-3.1.2-24].
            if result.is_err() || written.len() > self.peer.packet_max as usize {
                return self.disconnect(ReasonCode::PACKET_TOO_LARGE, None);
            }
            self.outbox.buf().extend_from_slice(&written);
        }
    }
}

/// Whether `filter` cannot be bound because the broker has no topics that begin with `$`.
pub(super) fn is_without_system(filter: &str, error: &CommandError) -> bool {
    filter.starts_with('$') && matches!(error, CommandError::NotFound(_))
}
