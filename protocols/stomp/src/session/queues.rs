//! The queues that a session declares: what its headers say of them, and what they are called.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use isthmus_contract::declare;
use isthmus_model::{Lifetime, QueueDef, REPLY_QUEUE_PREFIX, Table, Value};

use super::StompSession;
use crate::codec::Headers;
use crate::fault::Fault;

/// Queues that are remembered as declared at the most: what is forgotten is declared again.
const DECLARED_MAX: usize = 10_000;

/// What the names of queues begin with that are made for subscriptions, as RabbitMQ's do.
const SUBSCRIPTION_PREFIX: &str = "stomp-subscription-";

/// What the keys of temporary topics begin with.
const TEMPORARY_PREFIX: &str = "stomp-temp-topic.";

/// Headers of a SUBSCRIBE or SEND that are arguments of its queue, as RabbitMQ has them, by the
/// types of their values.
const NUMBERS: [&str; 8] = [
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-delivery-limit",
    "x-quorum-initial-group-size",
    "x-stream-max-segment-size-bytes",
];
const TEXTS: [&str; 7] = [
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-overflow",
    "x-queue-type",
    "x-queue-mode",
    "x-queue-version",
    "x-max-age",
];
const SWITCHES: [&str; 1] = ["x-single-active-consumer"];

/// The queues that a session has declared.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Those of `/queue/` destinations that are known to be there.
    declared: HashSet<Box<str>>,
    /// The one that a SEND waits for.
    declaring: Option<Box<str>>,
    /// Temporary queues, by the client's names for them.
    pub(super) temporary: HashMap<String, Arc<str>>,
    /// Names made so far.
    made: u64,
}

impl Queues {
    /// Whether a queue of this name was declared.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.declared.contains(name)
    }

    /// Whether a SEND waits for its queue.
    pub(super) fn is_declaring(&self) -> bool {
        self.declaring.is_some()
    }

    pub(super) fn declare(&mut self, name: &str) {
        self.declaring = Some(name.into());
    }

    /// The queue that was waited for is there.
    pub(super) fn declared(&mut self) {
        if let Some(name) = self.declaring.take() {
            if self.declared.len() >= DECLARED_MAX {
                self.declared.clear();
            }
            self.declared.insert(name);
        }
    }
}

/// A header that is `true` or `false`.
pub(super) fn switch(headers: Headers<'_>, name: &str, default: bool) -> Result<bool, Fault> {
    match headers.get(name).as_deref() {
        None => Ok(default),
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(Fault::header(name, format!("'{other}' is neither true nor false"))),
    }
}

/// A header that is a number.
pub(super) fn number<T: std::str::FromStr>(
    headers: Headers<'_>,
    name: &str,
) -> Result<Option<T>, Fault> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.trim().parse();
    parsed
        .map(Some)
        .map_err(|_| Fault::header(name, format!("'{value}' is no number, or out of its range")))
}

/// The arguments of a queue that headers give.
fn arguments(headers: Headers<'_>) -> Result<Table, Fault> {
    let mut table = Table::default();
    for raw in headers.raw().filter(|raw| raw.name.starts_with("x-")) {
        let name = raw.name;
        if table.get(name).is_some() {
            // Of several the first counts.
            continue;
        }
        let value = if NUMBERS.contains(&name) {
            Value::Int(number(headers, name)?.unwrap_or_default())
        } else if TEXTS.contains(&name) {
            Value::String(headers.unescaped(raw.value).into_owned())
        } else if SWITCHES.contains(&name) {
            Value::Bool(switch(headers, name, false)?)
        } else {
            continue;
        };
        table.0.push((name.to_owned(), value));
    }
    Ok(table)
}

impl StompSession {
    /// The queue that `headers` describe, beside its name. The headers `durable`, `auto-delete`
    /// and `exclusive` say how long it lives.
    pub(super) fn queue_def(
        &self,
        name: Arc<str>,
        headers: Headers<'_>,
        durable: bool,
        auto_delete: bool,
    ) -> Result<QueueDef, Fault> {
        let lifetime = if switch(headers, "exclusive", false)? {
            Lifetime::Exclusive(self.config.id)
        } else if switch(headers, "durable", durable)? {
            Lifetime::Durable
        } else {
            Lifetime::Volatile
        };
        let auto_delete = switch(headers, "auto-delete", auto_delete)?;
        self.def(name, lifetime, auto_delete, headers)
    }

    /// A queue of this session alone, which goes with its consumer.
    pub(super) fn own_queue_def(
        &mut self,
        prefix: &str,
        headers: Headers<'_>,
    ) -> Result<QueueDef, Fault> {
        self.queues.made += 1;
        let (secret, made) = (self.config.name_secret, self.queues.made);
        let name = format!("{prefix}{secret:032x}.{made:x}").into();
        self.def(name, Lifetime::Exclusive(self.config.id), true, headers)
    }

    /// The queue of a subscription of this session alone.
    pub(super) fn subscription_queue_def(
        &mut self,
        headers: Headers<'_>,
    ) -> Result<QueueDef, Fault> {
        self.own_queue_def(SUBSCRIPTION_PREFIX, headers)
    }

    /// The key in the exchange of topics of a topic of this session alone: nobody finds it by
    /// guessing, and everybody may publish to it who is told.
    pub(super) fn temporary_key(&self, name: &str) -> Result<String, Fault> {
        let key = format!("{TEMPORARY_PREFIX}{:032x}.{name}", self.config.name_secret);
        if key.len() > 255 {
            let why = "has a name longer than this broker's topics may be: shorten it";
            return Err(Fault::new(
                "Invalid destination",
                format!("header 'destination': '/temp-topic/{name}' {why}"),
            ));
        }
        Ok(key)
    }

    /// A queue for answers: nobody finds it by guessing, and everybody may answer.
    pub(super) fn reply_queue_def(&mut self) -> Result<QueueDef, Fault> {
        let prefix = format!("{REPLY_QUEUE_PREFIX}stomp.");
        self.own_queue_def(&prefix, Headers::NONE)
    }

    fn def(
        &self,
        name: Arc<str>,
        lifetime: Lifetime,
        auto_delete: bool,
        headers: Headers<'_>,
    ) -> Result<QueueDef, Fault> {
        let arguments = arguments(headers)?;
        declare::queue(name, lifetime, auto_delete, arguments, &self.config.vhost)
            .map_err(|error| Fault::refused(&error))
    }

    /// The name of the queue of a durable subscription: the same for the same client, subscription
    /// and destination, whoever connects.
    pub(super) fn durable_name(
        &self,
        headers: Headers<'_>,
        destination: &str,
    ) -> Result<Arc<str>, Fault> {
        if let Some(name) = headers.get("x-queue-name") {
            return Ok((&*name).into());
        }
        let active_mq = subscription_name(headers);
        let (owner, id) = match active_mq {
            Some(name) if self.peer.client_id.is_empty() => {
                let detail = format!(
                    "the durable subscription '{name}' belongs to a client: give CONNECT a header \
                     'client-id'"
                );
                return Err(Fault::header("activemq.subscriptionName", detail));
            }
            Some(name) => (self.peer.client_id.as_str(), Some(name)),
            None => (self.peer.client_id.as_str(), headers.get("id").map(|id| id.into_owned())),
        };
        let id = id.ok_or_else(|| {
            let detail = "a durable subscription is found again by its id: give SUBSCRIBE a header \
                          'id', the same each time";
            Fault::header("id", detail)
        })?;
        let part = |text: &str| text.replace('%', "%25").replace(':', "%3A");
        let (owner, id) = (part(owner), part(&id));
        let name = format!("{SUBSCRIPTION_PREFIX}{owner}:{id}:{destination}");
        if name.len() > 255 {
            let detail = format!(
                "the queue of this durable subscription, '{name}', would have a name longer than \
                 255 bytes: shorten 'id', 'client-id' or 'destination', or name the queue with \
                 'x-queue-name'"
            );
            return Err(Fault::header("id", detail));
        }
        Ok(name.into())
    }
}

/// ActiveMQ's name of a durable subscription.
pub(super) fn subscription_name(headers: Headers<'_>) -> Option<String> {
    // ActiveMQ's own documentation had the second for years.
    let names = [
        "activemq.subscriptionName",
        "activemq.subcriptionName",
        "durable-subscription-name",
        "durable-subscriber-name",
    ];
    names.into_iter().find_map(|name| headers.get(name)).map(|name| name.into_owned())
}
