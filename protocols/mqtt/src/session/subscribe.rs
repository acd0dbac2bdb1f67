//! What clients subscribe to (section 3.8 to 3.11).
//!
//! A client has a queue of its own for each QoS that it subscribes with, QoS 0 and 1: what comes
//! out of the first needs no acknowledgement, what comes out of the second does. A filter is a
//! binding of one of them.

use std::collections::HashMap;
use std::sync::Arc;

use isthmus_contract::{
    Attach, AttachMode, Command, CommandError, Credit, Reply, Token, TopologyChange,
};
use isthmus_model::{BindingDef, ConsumerId, Destination, Lifetime, QueueDef, QueueOptions, Table};

use super::MqttSession;
use crate::ReasonCode;
use crate::codec::topic::Filter;
use crate::codec::{
    Kind, Properties, Property, Qos, SubAck, Subscribe, Subscription, UnsubAck, Unsubscribe,
    Version,
};
use crate::convert::topic::swapped_text;
use crate::fault::{Fault, Problem, TooLong};

/// The client's subscriptions, and requests that the broker has not answered.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// The QoS that each filter was granted, by which its queue is told.
    granted: HashMap<Box<str>, Qos>,
    /// The queues that were asked for, by QoS.
    declared: [bool; 2],
    /// By a number of their own.
    requests: HashMap<u64, Answered>,
    last_request: u64,
    waiting: HashMap<Token, Waiting>,
}

/// A command that a request waits for.
#[derive(Debug)]
struct Waiting {
    request: u64,
    /// Of the reason code that tells of it.
    index: usize,
    filter: Box<str>,
}

/// A SUBACK or UNSUBACK in the making.
#[derive(Debug)]
pub(super) struct Answered {
    is_subscribe: bool,
    packet_id: u16,
    reasons: Vec<u8>,
    /// Commands that are not done.
    waits_for: usize,
}

impl Answered {
    pub(super) fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), TooLong> {
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

    /// Whether a filter that was granted `qos` matches the topic `name`.
    pub(super) fn matches(&self, qos: Qos, name: &str) -> bool {
        let mut filters = self.granted.iter().filter(|(_, granted)| **granted == qos);
        filters.any(|(filter, _)| Filter { group: None, filter }.matches(name))
    }

    /// Takes in what came of a command: a request that is answered with it, nothing if it waits
    /// for more; gives `result` back if no request waits for `token`.
    pub(super) fn done(
        &mut self,
        token: Token,
        result: Result<Reply, CommandError>,
    ) -> Result<Option<Answered>, Result<Reply, CommandError>> {
        let Some(Waiting { request, index, filter }) = self.waiting.remove(&token) else {
            return Err(result);
        };
        let Some(answered) = self.requests.get_mut(&request) else { return Ok(None) };
        if let Err(error) = result {
            let reason = match error {
                CommandError::Refused(_) => ReasonCode::NOT_AUTHORIZED,
                CommandError::Limit(_) => ReasonCode::QUOTA_EXCEEDED,
                _ => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
            };
            answered.reasons[index] = reason.0;
            if answered.is_subscribe {
                self.granted.remove(&filter);
            }
        }
        answered.waits_for -= 1;
        Ok(if answered.waits_for == 0 { self.requests.remove(&request) } else { None })
    }
}

impl MqttSession {
    pub(super) fn subscribe(&mut self, packet: &Subscribe<'_>) -> Result<(), Fault> {
        let id = packet.properties.find(|p| match p {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        });
        if let Some(id) = id {
            let reason = ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED;
            let problem = Problem::Value(u64::from(id));
            let field = "Subscription Identifier";
            return Err(Fault::because(reason, Kind::Subscribe, field, problem));
        }
        // A packet of a few MiB could ask for millions of bindings.
        let count = packet.subscriptions.iter().take(self.config.subscriptions_max + 1).count();
        if count > self.config.subscriptions_max {
            let max = self.config.subscriptions_max as u64;
            let problem = Problem::TooMany { max };
            let reason = ReasonCode::QUOTA_EXCEEDED;
            return Err(Fault::because(reason, Kind::Subscribe, "payload", problem));
        }
        let request = self.request(true, packet.packet_id);
        for (index, subscription) in packet.subscriptions.iter().enumerate() {
            let reason = match self.check_subscription(&subscription) {
                Ok(qos) => {
                    self.grant(request, index, subscription.filter, qos);
                    ReasonCode(qos.bits())
                }
                Err(reason) => reason,
            };
            self.note(request, reason);
        }
        self.answer_if_done(request);
        Ok(())
    }

    /// The QoS that is granted: what was asked for, up to 1 (section 3.9.3).
    fn check_subscription(&self, subscription: &Subscription<'_>) -> Result<Qos, ReasonCode> {
        match Filter::parse(subscription.filter) {
            Ok(Filter { group: None, .. }) => {}
            Ok(_) => return Err(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED),
            Err(_) => return Err(ReasonCode::TOPIC_FILTER_INVALID),
        }
        // Messages do not tell who has published them.
        if subscription.no_local {
            return Err(ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR);
        }
        let granted = &self.subscriptions.granted;
        if granted.len() >= self.config.subscriptions_max
            && !granted.contains_key(subscription.filter)
        {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        Ok(subscription.qos.min(Qos::AtLeastOnce))
    }

    /// Asks the broker for everything that the subscription needs, in the place of an earlier one
    /// with the same filter [MQTT-3.8.4-3].
    fn grant(&mut self, request: u64, index: usize, filter: &str, qos: Qos) {
        let is_new =
            !std::mem::replace(&mut self.subscriptions.declared[usize::from(qos.bits())], true);
        let queue = self.queue_name(qos);
        if is_new {
            let change = TopologyChange::DeclareOwnQueue(QueueDef {
                name: queue.clone(),
                lifetime: Lifetime::Exclusive(self.config.id),
                auto_delete: false,
                options: QueueOptions::default(),
                arguments: Table::default(),
            });
            self.ask(request, index, filter, |token| Command::Topology { token, change });
        }
        let bind = TopologyChange::Bind(self.binding(filter, qos));
        self.ask(request, index, filter, |token| Command::Topology { token, change: bind });
        // The new binding first: no message falls between the two [MQTT-3.8.4-4].
        let before = self.subscriptions.granted.insert(filter.into(), qos);
        if let Some(before) = before.filter(|before| *before != qos) {
            let unbind = TopologyChange::Unbind(self.binding(filter, before));
            self.ask(request, index, filter, |token| Command::Topology { token, change: unbind });
        }
        if is_new {
            let (mode, credit) = match qos {
                Qos::AtMostOnce => (AttachMode::ConsumeSettled, Credit::Unlimited),
                _ => {
                    let limit = self.peer.receive_max.min(self.config.inflight_max);
                    let limit = Some(u32::from(limit));
                    (AttachMode::Consume, Credit::Window { limit, shared: None })
                }
            };
            self.ask(request, index, filter, |token| {
                Command::Attach(Attach {
                    token,
                    consumer: ConsumerId(u64::from(qos.bits())),
                    tag: queue.clone(),
                    queue,
                    mode,
                    credit,
                    lease_ms: None,
                    exclusive: true,
                    look: false,
                    no_local: false,
                    arguments: Table::default(),
                })
            });
        }
    }

    pub(super) fn unsubscribe(&mut self, packet: &Unsubscribe<'_>) {
        let request = self.request(false, packet.packet_id);
        for (index, filter) in packet.filters.iter().enumerate() {
            let reason = match self.subscriptions.granted.remove(filter) {
                Some(qos) => {
                    let change = TopologyChange::Unbind(self.binding(filter, qos));
                    self.ask(request, index, filter, |token| Command::Topology { token, change });
                    ReasonCode::SUCCESS
                }
                None => ReasonCode::NO_SUBSCRIPTION_EXISTED,
            };
            self.note(request, reason);
        }
        self.answer_if_done(request);
    }

    fn queue_name(&self, qos: Qos) -> Arc<str> {
        format!("amq.mqtt.{}.qos{}", self.config.id, qos.bits()).into()
    }

    fn binding(&self, filter: &str, qos: Qos) -> BindingDef {
        BindingDef {
            source: self.config.exchange.clone(),
            destination: Destination::Queue(self.queue_name(qos)),
            routing_key: swapped_text(filter).into(),
            arguments: Table::default(),
        }
    }

    fn request(&mut self, is_subscribe: bool, packet_id: u16) -> u64 {
        let subscriptions = &mut self.subscriptions;
        subscriptions.last_request += 1;
        let answered = Answered { is_subscribe, packet_id, reasons: Vec::new(), waits_for: 0 };
        subscriptions.requests.insert(subscriptions.last_request, answered);
        subscriptions.last_request
    }

    /// Adds the reason code that holds unless a command fails.
    fn note(&mut self, request: u64, reason: ReasonCode) {
        if let Some(answered) = self.subscriptions.requests.get_mut(&request) {
            answered.reasons.push(reason.0);
        }
    }

    /// Queues a command that `request` waits for.
    fn ask(
        &mut self,
        request: u64,
        index: usize,
        filter: &str,
        command: impl FnOnce(Token) -> Command,
    ) {
        let token = self.token();
        let waiting = Waiting { request, index, filter: filter.into() };
        self.subscriptions.waiting.insert(token, waiting);
        if let Some(answered) = self.subscriptions.requests.get_mut(&request) {
            answered.waits_for += 1;
        }
        self.commands.push_back(command(token));
    }

    /// Answers a request that needs nothing of the broker.
    fn answer_if_done(&mut self, request: u64) {
        let requests = &mut self.subscriptions.requests;
        if requests.get(&request).is_some_and(|answered| answered.waits_for == 0)
            && let Some(answered) = requests.remove(&request)
        {
            self.answer(&answered);
        }
    }
}
