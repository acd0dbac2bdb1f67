//! The queues of a session's own.
//!
//! What comes for a client comes by up to four queues, its *lanes*: one for what it gets with
//! QoS 0 and one for what it gets with more, and of each another one for subscriptions that the
//! client's own messages are not for (No Local). Lanes of QoS 1 and 2 outlive the connection if the
//! session does; those of QoS 0 never do, drop what a slow client has no room for, and hold up
//! nobody else.

use std::sync::Arc;

use isthmus_contract::{Attach, AttachMode, Credit, Token};
use isthmus_model::{
    BindingDef, ConsumerId, Destination, Lifetime, Overflow, QueueDef, QueueOptions, SharedOptions,
    Table, WindowId,
};

use super::MqttSession;
use crate::codec::Qos;
use crate::convert::topic::swapped_text;

/// What all queues of one client begin with, as in RabbitMQ.
const PREFIX: &str = "mqtt-subscription-";

/// The window that all deliveries share that the client acknowledges: its Receive Maximum.
pub(super) const WINDOW: WindowId = WindowId(1);

/// A queue of the session's own; its number is its consumer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Qos0,
    Qos1,
    Qos0NoLocal,
    Qos1NoLocal,
}

impl Lane {
    pub(super) const ALL: [Lane; 4] =
        [Lane::Qos0, Lane::Qos1, Lane::Qos0NoLocal, Lane::Qos1NoLocal];

    /// The lane of a subscription.
    pub(super) fn of(qos: Qos, no_local: bool) -> Lane {
        match (qos, no_local) {
            (Qos::AtMostOnce, false) => Lane::Qos0,
            (_, false) => Lane::Qos1,
            (Qos::AtMostOnce, true) => Lane::Qos0NoLocal,
            (_, true) => Lane::Qos1NoLocal,
        }
    }

    pub(super) fn number(self) -> u64 {
        self as u64
    }

    pub(super) fn from_number(number: u64) -> Option<Lane> {
        Lane::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Whether what comes by it may be acknowledged.
    pub(super) fn is_acknowledged(self) -> bool {
        matches!(self, Lane::Qos1 | Lane::Qos1NoLocal)
    }

    fn is_no_local(self) -> bool {
        matches!(self, Lane::Qos0NoLocal | Lane::Qos1NoLocal)
    }

    fn suffix(self) -> &'static str {
        match self {
            Lane::Qos0 => "qos0",
            Lane::Qos1 => "qos1",
            Lane::Qos0NoLocal => "qos0.nolocal",
            Lane::Qos1NoLocal => "qos1.nolocal",
        }
    }

    /// The longest name of a queue is that of AMQP 0-9-1, 255 bytes; what is left of them for the
    /// client's identifier.
    pub(super) const CLIENT_ID_BYTES_MAX: usize = 255 - PREFIX.len() - "qos1.nolocal".len();
}

impl MqttSession {
    pub(super) fn lane_queue(&self, lane: Lane) -> Arc<str> {
        format!("{PREFIX}{}{}", self.client.id, lane.suffix()).into()
    }

    /// The queue of `lane`, as it is declared.
    pub(super) fn lane_def(&self, lane: Lane) -> QueueDef {
        let is_durable = lane.is_acknowledged() && self.client.lasts;
        let config = &self.config;
        let (length_max, bytes_max, overflow) = if lane.is_acknowledged() {
            (config.queue_length_max, config.queue_bytes_max, config.queue_overflow)
        } else {
            (config.qos0_length_max, config.qos0_bytes_max, Overflow::DropHead)
        };
        QueueDef {
            name: self.lane_queue(lane),
            lifetime: if is_durable { Lifetime::Durable } else { Lifetime::Exclusive(self.id) },
            auto_delete: false,
            options: SharedOptions::from(QueueOptions {
                length_max: Some(length_max),
                bytes_max: Some(bytes_max),
                overflow,
                ..QueueOptions::default()
            }),
            arguments: Table::default(),
        }
    }

    /// How the session receives from `lane`.
    pub(super) fn lane_attach(&self, lane: Lane, token: Token) -> Attach {
        let queue = self.lane_queue(lane);
        let (mode, credit) = if lane.is_acknowledged() {
            (AttachMode::Consume, Credit::Window { limit: None, shared: Some(WINDOW) })
        } else {
            (AttachMode::ConsumeSettled, Credit::Unlimited)
        };
        Attach {
            token,
            consumer: ConsumerId(lane.number()),
            tag: queue.clone(),
            queue,
            mode,
            credit,
            lease_ms: None,
            exclusive: true,
            look: false,
            no_local: lane.is_no_local(),
            filter: None,
            arguments: Table::default(),
        }
    }

    /// The exchange that messages for `filter`, which has no share name, come from.
    pub(super) fn source_of(&self, filter: &str) -> Arc<str> {
        if filter.starts_with('$') {
            self.config.system_exchange.clone()
        } else {
            self.config.exchange.clone()
        }
    }

    /// `filter`, which has no share name, as a binding of `queue`.
    pub(super) fn binding(&self, filter: &str, queue: Arc<str>) -> BindingDef {
        BindingDef {
            source: self.source_of(filter),
            destination: Destination::Queue(queue),
            routing_key: swapped_text(filter).into(),
            arguments: Table::default(),
        }
    }
}
