//! Exchanges, queues and bindings as they are declared.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::{SessionId, Table};

/// What the names of queues begin with that take replies (RabbitMQ's direct reply-to): each is of
/// one session alone, except that every session may ask whether it is there.
pub const REPLY_QUEUE_PREFIX: &str = "amq.rabbitmq.reply-to.";

/// How an exchange picks the bindings that a message follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeKind {
    /// Routing key equal to the binding's key.
    Direct,
    /// Every binding.
    Fanout,
    /// Words between dots; `*` matches one, `#` any number.
    Topic,
    /// The message's headers against the binding's arguments.
    Headers,
    /// One of the bindings, picked by a hash of the routing key or of a property; a binding's key
    /// is its weight.
    ConsistentHash,
    /// Every binding, for messages that were not seen before.
    Deduplication,
}

impl ExchangeKind {
    /// The kind called `name` in AMQP 0-9-1.
    pub fn from_name(name: &str) -> Option<ExchangeKind> {
        Some(match name {
            "direct" => ExchangeKind::Direct,
            "fanout" => ExchangeKind::Fanout,
            "topic" => ExchangeKind::Topic,
            "headers" => ExchangeKind::Headers,
            "x-consistent-hash" => ExchangeKind::ConsistentHash,
            "x-message-deduplication" => ExchangeKind::Deduplication,
            _ => return None,
        })
    }

    /// Its name in AMQP 0-9-1.
    pub fn name(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Headers => "headers",
            ExchangeKind::ConsistentHash => "x-consistent-hash",
            ExchangeKind::Deduplication => "x-message-deduplication",
        }
    }
}

/// An exchange as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeDef {
    /// Its name, unique in its virtual host.
    pub name: Arc<str>,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Whether it keeps a message for as long as its `x-delay` header says before it routes it
    /// (an `x-delayed-message` exchange of RabbitMQ's users).
    pub delayed: bool,
    /// Whether it outlives a restart.
    pub durable: bool,
    /// Whether it goes with its last binding.
    pub auto_delete: bool,
    /// Whether clients may not publish to it.
    pub internal: bool,
    /// The declaration's arguments, compared on redeclaration.
    pub arguments: Table,
}

/// How long a queue lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted; through restarts and failovers.
    Durable,
    /// Until it is deleted, or its node stops leading.
    Volatile,
    /// Until the session that declared it ends; others may not use it.
    Exclusive(SessionId),
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Drops (or dead-letters) from the front.
    #[default]
    DropHead,
    /// Refuses new messages.
    RejectPublish,
    /// Refuses new messages and dead-letters them.
    RejectPublishDlx,
}

/// The features that a queue was declared with. `None` is "no limit" everywhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueOptions {
    /// Time to live of messages in the queue, in milliseconds.
    pub message_ttl_ms: Option<u64>,
    /// How long the queue lasts without being used, in milliseconds.
    pub expires_ms: Option<u64>,
    /// Ready messages at the most.
    pub length_max: Option<u64>,
    /// Bytes of ready bodies at the most.
    pub bytes_max: Option<u64>,
    /// What happens at those limits.
    pub overflow: Overflow,
    /// Where rejected, expired and dropped messages go.
    pub dead_letter_exchange: Option<Arc<str>>,
    /// The key they go with; the one they came with if `None`.
    pub dead_letter_routing_key: Option<Arc<str>>,
    /// The highest priority that messages have in it: those above count as this. `None` for a
    /// queue that looks at no priorities.
    pub priority_max: Option<u8>,
    /// Only one consumer at a time gets messages; the next takes over when it goes.
    pub single_active_consumer: bool,
    /// Failed deliveries of a message after which it is dead-lettered.
    pub delivery_limit: Option<u64>,
}

impl QueueOptions {
    /// Those of a queue of which nothing is asked: the default.
    const NONE: QueueOptions = QueueOptions {
        message_ttl_ms: None,
        expires_ms: None,
        length_max: None,
        bytes_max: None,
        overflow: Overflow::DropHead,
        dead_letter_exchange: None,
        dead_letter_routing_key: None,
        priority_max: None,
        single_active_consumer: false,
        delivery_limit: None,
    };
}

/// Options of a queue, which may be those of many: nearly all are declared alike. Where nothing is
/// asked for they take no space.
#[derive(Clone, Default)]
pub struct SharedOptions(Option<Arc<QueueOptions>>);

impl SharedOptions {
    /// Has them in common with `other` from now on, if they are the same.
    pub fn share(&mut self, other: &SharedOptions) {
        if self == other {
            self.0.clone_from(&other.0);
        }
    }
}

impl From<QueueOptions> for SharedOptions {
    fn from(options: QueueOptions) -> SharedOptions {
        SharedOptions((options != QueueOptions::NONE).then(|| Arc::new(options)))
    }
}

impl Deref for SharedOptions {
    type Target = QueueOptions;

    fn deref(&self) -> &QueueOptions {
        self.0.as_deref().unwrap_or(&QueueOptions::NONE)
    }
}

impl DerefMut for SharedOptions {
    fn deref_mut(&mut self) -> &mut QueueOptions {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl PartialEq for SharedOptions {
    fn eq(&self, other: &SharedOptions) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) if Arc::ptr_eq(one, other) => true,
            _ => **self == **other,
        }
    }
}

impl fmt::Debug for SharedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A queue as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueDef {
    /// Its name, unique in its virtual host.
    pub name: Arc<str>,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// The arguments' meaning.
    pub options: SharedOptions,
    /// The declaration's arguments as given, compared on redeclaration.
    pub arguments: Table,
}

/// Where a binding leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// A queue, by name.
    Queue(Arc<str>),
    /// An exchange, by name.
    Exchange(Arc<str>),
}

/// A binding as declared: unique by all of its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct BindingDef {
    /// The exchange that messages come from.
    pub source: Arc<str>,
    /// Where they go.
    pub destination: Destination,
    /// The key that the exchange compares.
    pub routing_key: Arc<str>,
    /// The arguments (of a headers exchange: what it compares).
    pub arguments: Table,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_compared_by_what_they_say_and_changed_alone() {
        assert_eq!(QueueOptions::default(), QueueOptions::NONE);
        let limited = QueueOptions { length_max: Some(1), ..QueueOptions::default() };
        let (one, mut two) = (SharedOptions::from(limited.clone()), SharedOptions::from(limited));
        assert_eq!(one, two);
        two.share(&one);
        let both = |one: &SharedOptions, two: &SharedOptions| match (&one.0, &two.0) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            _ => false,
        };
        assert!(both(&one, &two));
        two.bytes_max = Some(2);
        assert_eq!((one.bytes_max, two.length_max), (None, Some(1)));
        two.share(&one);
        assert!(!both(&one, &two), "they are others");
        assert_eq!(SharedOptions::from(QueueOptions::default()), SharedOptions::default());
    }
}
