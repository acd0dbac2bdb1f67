//! Shared subscriptions (section 4.8.2).
//!
//! The members of a group consume from one durable queue, which goes with the last of them, or
//! when nobody has used it for [`SessionConfig::shared_expires_ms`]. What a member gets with QoS 2
//! it claims before ([`super::claims`]).
//!
//! [`SessionConfig::shared_expires_ms`]: super::SessionConfig::shared_expires_ms

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_contract::{Attach, AttachMode, Command, Credit, Token, TopologyChange};
use isthmus_model::{ConsumerId, Lifetime, QueueDef, QueueOptions, Table};

use super::MqttSession;
use super::filters::Granted;
use super::lanes::{Lane, WINDOW};
use super::notes::Options;
use crate::codec::topic::Filter;

/// A group that the client is a member of.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) options: Options,
    pub(super) consumer: ConsumerId,
    pub(super) queue: Arc<str>,
}

/// What a consumer is of.
#[derive(Clone, Copy, Debug)]
struct Member {
    options: Options,
    /// Whether its filter begins with `$`: others match no topic that does [MQTT-4.7.2-1].
    is_system: bool,
}

/// The client's shared subscriptions.
#[derive(Debug)]
pub(super) struct Shared {
    /// By filter, share name included.
    by_filter: BTreeMap<Box<str>, Membership>,
    by_consumer: BTreeMap<ConsumerId, Member>,
    next_consumer: u64,
}

/// A consumer that is none of a shared subscription any more.
#[derive(Debug)]
pub(super) struct NotAMember;

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            by_filter: BTreeMap::new(),
            by_consumer: BTreeMap::new(),
            next_consumer: Lane::ALL.len() as u64,
        }
    }
}

impl Shared {
    pub(super) fn len(&self) -> usize {
        self.by_filter.len()
    }

    pub(super) fn get(&self, filter: &str) -> Option<&Membership> {
        self.by_filter.get(filter)
    }

    /// The client is a member, with `options` from now on.
    fn join(&mut self, text: &str, filter: &Filter<'_>, options: Options) -> Membership {
        let consumer = match self.by_filter.get(text) {
            Some(membership) => membership.consumer,
            None => {
                self.next_consumer += 1;
                ConsumerId(self.next_consumer - 1)
            }
        };
        let queue = queue_of(filter);
        let membership = Membership { options, consumer, queue };
        let is_system = filter.filter.starts_with('$');
        self.by_filter.insert(text.into(), membership.clone());
        self.by_consumer.insert(consumer, Member { options, is_system });
        membership
    }

    pub(super) fn leave(&mut self, filter: &str) -> Option<Membership> {
        let membership = self.by_filter.remove(filter)?;
        self.by_consumer.remove(&membership.consumer);
        Some(membership)
    }

    /// What a message with `routing_key` is for; `None` if it is not to be delivered.
    pub(super) fn granted(
        &self,
        consumer: ConsumerId,
        routing_key: &str,
    ) -> Result<Option<Granted>, NotAMember> {
        let Member { options, is_system } = self.by_consumer.get(&consumer).ok_or(NotAMember)?;
        if routing_key.starts_with('$') && !is_system {
            return Ok(None);
        }
        Ok(Some(Granted {
            qos: options.qos,
            retain_as_published: options.retain_as_published,
            ids: options.id.into_iter().collect(),
        }))
    }
}

/// The queue of a group.
fn queue_of(filter: &Filter<'_>) -> Arc<str> {
    format!("mqtt-shared-{}/{}", filter.group.unwrap_or_default(), filter.filter).into()
}

impl MqttSession {
    /// Joins the group of `filter`, which the client has written as `text`; calls `ask` with each
    /// command that this takes.
    pub(super) fn join(
        &mut self,
        text: &str,
        filter: &Filter<'_>,
        options: Options,
        mut ask: impl FnMut(&mut MqttSession, &dyn Fn(Token) -> Command),
    ) {
        let Membership { consumer, queue, .. } =
            self.subscriptions.shared.join(text, filter, options);
        self.open_window();
        let mut topology = |session: &mut MqttSession, change: TopologyChange| {
            ask(session, &|token| Command::Topology { token, change: change.clone() });
        };
        let options = QueueOptions {
            expires_ms: Some(self.config.shared_expires_ms),
            length_max: Some(self.config.queue_length_max),
            bytes_max: Some(self.config.queue_bytes_max),
            overflow: self.config.queue_overflow,
            ..QueueOptions::default()
        };
        let def = QueueDef {
            name: queue.clone(),
            lifetime: Lifetime::Durable,
            auto_delete: true,
            options: options.into(),
            arguments: Table::default(),
        };
        topology(self, TopologyChange::DeclareOwnQueue(def));
        if self.client.lasts {
            topology(self, TopologyChange::HoldQueue { name: queue.clone() });
        }
        let binding = self.binding(filter.filter, queue.clone());
        topology(self, TopologyChange::Bind(binding));
        ask(self, &|token| {
            Command::Attach(Attach {
                token,
                consumer,
                tag: queue.clone(),
                queue: queue.clone(),
                mode: AttachMode::Consume,
                credit: Credit::Window { limit: None, shared: Some(WINDOW) },
                lease_ms: None,
                exclusive: false,
                look: false,
                no_local: false,
                filter: None,
                arguments: Table::default(),
            })
        });
    }

    /// The member has other options from now on.
    pub(super) fn rejoin(&mut self, text: &str, filter: &Filter<'_>, options: Options) {
        self.subscriptions.shared.join(text, filter, options);
    }
}
