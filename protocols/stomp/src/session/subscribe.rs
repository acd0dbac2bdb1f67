//! What clients subscribe to (1.2, "SUBSCRIBE", "UNSUBSCRIBE").
//!
//! A subscription of a queue consumes from it. One of a topic or an exchange has a queue of its
//! own, which is bound there and goes with the subscription; if it is durable, the queue stays and
//! is found again by its name.

use std::collections::HashMap;
use std::sync::Arc;

use isthmus_contract::{Attach, AttachMode, Command as Ask, Credit, TopologyChange, Unacked};
use isthmus_model::{
    BindingDef, ConsumerId, Destination as BoundTo, Lifetime, QueueDef, Settlement, Table, Token,
    Value,
};
use isthmus_selector::Selector;

use super::StompSession;
use super::pending::{FrameNumber, Purpose};
use super::queues::{number, subscription_name, switch};
use super::transaction::Ack;
use crate::codec::{Frame, Headers, Rules, Version, header};
use crate::destination::{Destination, binding_key, listed};
use crate::fault::Fault;

/// How a client acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckMode {
    /// Not at all.
    Auto,
    /// A message and all before it.
    Client,
    /// One message.
    Individual,
}

/// A subscription, as long as a message of it can still be acknowledged.
pub(super) struct Subscription {
    /// The client's name for it.
    pub(super) id: String,
    pub(super) mode: AckMode,
    /// What all of its MESSAGE frames begin with.
    pub(super) prefix: Vec<u8>,
    pub(super) unacked: Unacked,
    /// What it wants of the messages of its queue.
    pub(super) selector: Option<Selector>,
    /// No more comes for it.
    ended: bool,
}

/// The subscriptions of a client.
#[derive(Default)]
pub(super) struct Subscriptions {
    by_consumer: HashMap<ConsumerId, Subscription>,
    /// Those that the client has not ended, by its names for them.
    by_id: HashMap<String, ConsumerId>,
    /// What the last one asks for once its queue is there.
    waiting: Option<Box<Attach>>,
    last_consumer: u64,
}

impl Subscriptions {
    pub(super) fn get(&self, consumer: ConsumerId) -> Option<&Subscription> {
        self.by_consumer.get(&consumer)
    }

    pub(super) fn get_mut(&mut self, consumer: ConsumerId) -> Option<&mut Subscription> {
        self.by_consumer.get_mut(&consumer)
    }

    /// What an acknowledgement settles; `None` if there is nothing.
    pub(super) fn settle(&mut self, ack: Ack) -> Option<Vec<Settlement>> {
        let subscription = self.by_consumer.get_mut(&ack.consumer)?;
        let settled = if ack.cumulative {
            subscription.unacked.settle_up_to(ack.tag, ack.outcome).ok()
        } else {
            subscription.unacked.settle_one(ack.tag, ack.outcome).ok().map(|one| vec![one])
        };
        if subscription.ended && subscription.unacked.is_empty() {
            self.by_consumer.remove(&ack.consumer);
        }
        settled
    }

    /// Whether one waits for its queue.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// No more comes for a consumer; what it got can still be acknowledged.
    pub(super) fn detached(&mut self, consumer: ConsumerId) {
        if let Some(subscription) = self.by_consumer.get_mut(&consumer) {
            subscription.ended = true;
            if subscription.unacked.is_empty() {
                self.by_consumer.remove(&consumer);
            }
        }
    }
}

/// Where a subscription gets its messages from.
struct Source {
    queue: Arc<str>,
    declare: Option<TopologyChange>,
    bind: Option<BindingDef>,
    /// Nobody else is to consume from the queue.
    alone: bool,
}

impl StompSession {
    pub(super) fn subscribe(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        let headers = frame.headers;
        let destination = headers.get("destination").ok_or_else(|| {
            Fault::header("destination", "it is missing: what to subscribe to, '/queue/NAME'")
        })?;
        let id = self.subscription_id(headers, &destination)?;
        if self.subscriptions.by_id.contains_key(&id) {
            let detail =
                format!("header 'id': subscription '{id}' is there already: UNSUBSCRIBE it");
            return Err(Fault::new("Subscription exists", detail));
        }
        let max = self.config.subscriptions_max;
        if self.subscriptions.by_id.len() >= max {
            let detail = format!("the connection has {max} subscriptions: UNSUBSCRIBE some first");
            return Err(Fault::new("Limit reached", detail));
        }
        if switch(headers, "browser", false)? {
            let detail = "header 'browser': queues cannot be browsed by STOMP: consume with \
                          'ack:client' and do not acknowledge what is to stay";
            return Err(Fault::new("Not implemented", detail));
        }
        let mode = match headers.get("ack").as_deref() {
            None | Some("auto") => AckMode::Auto,
            Some("client") => AckMode::Client,
            Some("client-individual") if self.peer.version != Version::V1_0 => AckMode::Individual,
            Some(other) => {
                let detail = format!(
                    "'{other}' is no ack mode: there are auto, client and, from 1.1 on, \
                     client-individual"
                );
                return Err(Fault::header("ack", detail));
            }
        };
        if listed(&destination).count() > 1 {
            let detail = format!(
                "header 'destination': '{destination}' lists several: SUBSCRIBE to each with an id \
                 of its own"
            );
            return Err(Fault::new("Invalid destination", detail));
        }
        let parsed = Destination::parse(&destination)?;
        let selector = selector(headers, &parsed)?;
        let mut source = self.source(headers, &parsed, &destination)?;
        source.alone |= selector.is_some() || switch(headers, "activemq.exclusive", false)?;
        let arguments = consumer_arguments(headers)?;
        let limit = match number::<u32>(headers, "prefetch-count")? {
            None => number::<u32>(headers, "activemq.prefetchSize")?,
            some => some,
        };
        let number = self.begin(frame);
        let consumer = self.add(id, mode, selector);
        self.attach(number, consumer, source, limit.filter(|n| *n > 0), arguments);
        Ok(())
    }

    /// The client's name for a subscription. In 1.0 the destination is its name where it has no
    /// other.
    fn subscription_id(&self, headers: Headers<'_>, destination: &str) -> Result<String, Fault> {
        match headers.get("id") {
            Some(id) => Ok(id.into_owned()),
            None if self.peer.version == Version::V1_0 => Ok(destination.to_owned()),
            None => {
                let detail = "it is missing: a name for the subscription, of this connection's own";
                Err(Fault::header("id", detail))
            }
        }
    }

    fn add(&mut self, id: String, mode: AckMode, selector: Option<Selector>) -> ConsumerId {
        let mut prefix = b"MESSAGE\n".to_vec();
        header::write(&mut prefix, Rules::of(self.peer.version), "subscription", &id);
        let subscriptions = &mut self.subscriptions;
        subscriptions.last_consumer += 1;
        let consumer = ConsumerId(subscriptions.last_consumer);
        subscriptions.by_id.insert(id.clone(), consumer);
        let unacked = Unacked::new();
        let subscription = Subscription { id, mode, prefix, unacked, selector, ended: false };
        subscriptions.by_consumer.insert(consumer, subscription);
        consumer
    }

    fn attach(
        &mut self,
        number: FrameNumber,
        consumer: ConsumerId,
        source: Source,
        limit: Option<u32>,
        arguments: Table,
    ) {
        let Source { queue, declare, bind, alone } = source;
        let (tag, mode) = match self.subscriptions.get(consumer) {
            Some(subscription) => (subscription.id.as_str().into(), subscription.mode),
            None => (Arc::clone(&queue), AckMode::Auto),
        };
        let (mode, credit) = match mode {
            AckMode::Auto => (AttachMode::ConsumeSettled, Credit::Unlimited),
            _ => (AttachMode::Consume, Credit::Window { limit, shared: None }),
        };
        let attach = Attach {
            token: Token::SILENT,
            consumer,
            queue,
            mode,
            credit,
            lease_ms: None,
            exclusive: alone,
            look: false,
            no_local: false,
            arguments,
            tag,
        };
        // From a queue that is there already it gets nothing before it may declare and bind it:
        // what came with a refusal would be lost. One of its own is new.
        let must_wait = matches!(declare, Some(TopologyChange::DeclareQueue(_)));
        let mut left = usize::from(declare.is_some()) + usize::from(bind.is_some());
        for change in declare.into_iter().chain(bind.map(TopologyChange::Bind)) {
            left -= 1;
            let is_last = must_wait && left == 0;
            let purpose = if is_last { Purpose::Ready } else { Purpose::Done };
            self.ask_for(number, purpose, |token| Ask::Topology { token, change });
        }
        if must_wait {
            self.subscriptions.waiting = Some(Box::new(attach));
        } else {
            self.ask(number, |token| Ask::Attach(Attach { token, ..attach }));
        }
    }

    /// The queue of a subscription is there: what it has comes from now on.
    pub(super) fn consume_waiting(&mut self, number: FrameNumber) {
        if let Some(attach) = self.subscriptions.waiting.take() {
            self.ask(number, |token| Ask::Attach(Attach { token, ..*attach }));
        }
    }

    /// What a subscription to `destination`, whose text is `text`, needs.
    fn source(
        &mut self,
        headers: Headers<'_>,
        destination: &Destination<'_>,
        text: &str,
    ) -> Result<Source, Fault> {
        let bound = |def: QueueDef, alone: bool, exchange: &str, key: &str| {
            let queue = Arc::clone(&def.name);
            // What a session needs for itself is not asked permission for; but where messages go
            // that it rejects, its user must be allowed to send.
            let is_own = matches!(def.lifetime, Lifetime::Exclusive(_))
                && def.options.dead_letter_exchange.is_none();
            let declare = match is_own {
                true => TopologyChange::DeclareOwnQueue(def),
                false => TopologyChange::DeclareQueue(def),
            };
            let bind = BindingDef {
                source: exchange.into(),
                destination: BoundTo::Queue(Arc::clone(&queue)),
                routing_key: key.into(),
                arguments: Table::default(),
            };
            Source { queue, declare: Some(declare), bind: Some(bind), alone }
        };
        let there = |queue: Arc<str>| Source { queue, declare: None, bind: None, alone: false };
        match destination {
            Destination::Queue(name) => {
                let def = self.queue_def((&**name).into(), headers, true, false)?;
                let declare = Some(TopologyChange::DeclareQueue(def));
                Ok(Source { declare, ..there((&**name).into()) })
            }
            Destination::Existing(name) | Destination::Reply(name) => Ok(there((&**name).into())),
            Destination::Temporary(name) => {
                if let Some(queue) = self.queues.temporary.get(&**name) {
                    return Ok(there(Arc::clone(queue)));
                }
                let (queue, declare) = self.new_temporary(name)?;
                Ok(Source { declare: Some(declare), ..there(queue) })
            }
            Destination::Topic(_) | Destination::Exchange { .. } => {
                let (exchange, key) = destination.route().map_or(("", ""), |(x, k)| (x, &**k));
                let is_topic = matches!(destination, Destination::Topic(_));
                let key = if is_topic { binding_key(key) } else { key.into() };
                let named = headers.get("x-queue-name").is_some();
                if switch(headers, "durable", false)? || subscription_name(headers).is_some() {
                    let name = self.durable_name(headers, text)?;
                    let def = self.queue_def(name, headers, true, false)?;
                    return Ok(bound(def, false, exchange, &key));
                }
                if named {
                    let name = self.durable_name(headers, text)?;
                    let def = self.queue_def(name, headers, false, true)?;
                    return Ok(bound(def, false, exchange, &key));
                }
                let def = self.subscription_queue_def(headers)?;
                Ok(bound(def, true, exchange, &key))
            }
        }
    }

    fn new_temporary(&mut self, name: &str) -> Result<(Arc<str>, TopologyChange), Fault> {
        let max = self.config.subscriptions_max;
        if self.queues.temporary.len() >= max {
            let detail =
                format!("the connection has {max} temporary queues: use some of them again");
            return Err(Fault::new("Limit reached", detail));
        }
        let mut def = self.reply_queue_def()?;
        // The client may subscribe anew while answers are on their way.
        def.auto_delete = false;
        let queue = Arc::clone(&def.name);
        self.queues.temporary.insert(name.to_owned(), Arc::clone(&queue));
        Ok((queue, TopologyChange::DeclareOwnQueue(def)))
    }

    /// Whether the temporary queue that `address` names is there.
    pub(super) fn knows_temporary(&self, address: &str) -> bool {
        matches!(Destination::parse(address), Ok(Destination::Temporary(name))
            if self.queues.temporary.contains_key(&*name))
    }

    /// The temporary queue that `address` names, `/temp-queue/NAME`. Where there was none it is
    /// made, and consumed from by a subscription of that name.
    pub(super) fn temporary(&mut self, address: &str) -> Result<Arc<str>, Fault> {
        let Destination::Temporary(name) = Destination::parse(address)? else {
            return Ok(address.into());
        };
        if let Some(queue) = self.queues.temporary.get(&*name) {
            return Ok(Arc::clone(queue));
        }
        if self.subscriptions.by_id.contains_key(address) {
            let detail = format!(
                "header 'reply-to': a subscription is called '{address}', which is the name under \
                 which answers come: give the subscription another id"
            );
            return Err(Fault::new("Subscription exists", detail));
        }
        let (queue, declare) = self.new_temporary(&name)?;
        let number = self.pending.add_before(None);
        let consumer = self.add(address.to_owned(), AckMode::Auto, None);
        let source =
            Source { queue: Arc::clone(&queue), declare: Some(declare), bind: None, alone: true };
        self.attach(number, consumer, source, None, Table::default());
        Ok(queue)
    }

    pub(super) fn unsubscribe(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        let headers = frame.headers;
        let destination = headers.get("destination");
        let named = match (headers.get("id"), self.peer.version, &destination) {
            (Some(id), ..) => Some(id.into_owned()),
            (None, Version::V1_0, Some(destination)) => Some(destination.clone().into_owned()),
            (None, ..) => None,
        };
        let is_durable = switch(headers, "durable", false)? || subscription_name(headers).is_some();
        let id = match named {
            Some(id) => id,
            None if is_durable => String::new(),
            None => {
                let detail = "it is missing: the name that the subscription got from SUBSCRIBE";
                return Err(Fault::header("id", detail));
            }
        };
        let consumer = self.subscriptions.by_id.remove(&id);
        if consumer.is_none() && !is_durable {
            let detail = format!("header 'id': there is no subscription '{id}'");
            return Err(Fault::new("Unknown subscription", detail));
        }
        let delete = match (is_durable, destination) {
            (false, _) => None,
            (true, Some(text)) => Some(self.durable_name(headers, &text)?),
            (true, None) if headers.get("x-queue-name").is_some() => {
                Some(self.durable_name(headers, "")?)
            }
            (true, None) => {
                let detail = "it is missing: a durable subscription that is to end is found by \
                              its destination";
                return Err(Fault::header("destination", detail));
            }
        };
        let number = self.begin(frame);
        if let Some(consumer) = consumer {
            let purpose = Purpose::Detached(consumer);
            self.ask_for(number, purpose, |token| Ask::Detach { token, consumer });
        }
        if let Some(name) = delete {
            let change = TopologyChange::DeleteQueue { name, if_unused: true, if_empty: false };
            self.ask(number, |token| Ask::Topology { token, change });
        }
        Ok(())
    }

    /// The queue of a subscription is gone: the protocol has no other word for it than an ERROR.
    pub(super) fn queue_deleted(&mut self, consumer: ConsumerId) {
        let Some(subscription) = self.subscriptions.get(consumer) else { return };
        let id = subscription.id.clone();
        if self.subscriptions.by_id.get(&id) != Some(&consumer) {
            // The client has ended it itself.
            return;
        }
        let detail = format!("the queue of subscription '{id}' was deleted: SUBSCRIBE anew");
        self.fail(&Fault::new("Subscription ended", detail));
    }
}

/// The filter that a subscription asks for. What it does not want is dropped from its queue, which
/// must not be anybody else's.
fn selector(
    headers: Headers<'_>,
    destination: &Destination<'_>,
) -> Result<Option<Selector>, Fault> {
    let Some(text) = headers.get("selector") else { return Ok(None) };
    if !matches!(destination, Destination::Topic(_) | Destination::Exchange { .. }) {
        let detail = "header 'selector': subscriptions to queues cannot filter, as others may \
                      want what this one does not: SUBSCRIBE to a topic with it";
        return Err(Fault::new("Not implemented", detail));
    }
    Selector::parse(&text)
        .map(Some)
        .map_err(|error| Fault::header("selector", format!("'{text}': {error}")))
}

/// What consumers of AMQP 0-9-1 say in arguments.
fn consumer_arguments(headers: Headers<'_>) -> Result<Table, Fault> {
    let priority = match number::<i64>(headers, "x-priority")? {
        None => number::<i64>(headers, "activemq.priority")?,
        some => some,
    };
    let argument = priority.map(|n| ("x-priority".to_owned(), Value::Int(n)));
    Ok(Table(argument.into_iter().collect()))
}
