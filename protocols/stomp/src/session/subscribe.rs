//! What clients subscribe to (1.2, "SUBSCRIBE", "UNSUBSCRIBE").
//!
//! A subscription of a queue consumes from it. One of a topic or an exchange has a queue of its
//! own, which is bound there and goes with the subscription; if it is durable, the queue stays and
//! is found again by its name.

use std::collections::HashMap;
use std::sync::Arc;

use isthmus_contract::{
    Attach, AttachMode, Command as Ask, Credit, Recall, TopologyChange, Unacked,
};
use isthmus_model::{
    Action, BindingDef, ConsumerId, Destination as BoundTo, DetachReason, Filter, Lifetime,
    QueueDef, Settlement, SharedFilter, Table, Time, Token, Use, Value,
};
use isthmus_selector::Selector;

use super::StompSession;
use super::filter::Selected;
use super::pending::{FrameNumber, Purpose};
use super::queues::{number, subscription_name, switch};
use super::transaction::Ack;
use crate::codec::{Frame, Headers, Rules, Version, header};
use crate::destination::{Destination, TOPIC_EXCHANGE, binding_key, listed};
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
    /// What it wants of the messages of queues that are its own.
    pub(super) selector: Option<Selector>,
    /// Of one that browses, its destination: it is shown messages and takes none.
    pub(super) browses: Option<String>,
    /// Its consumers, one for each of its destinations. The first has its number.
    consumers: Vec<ConsumerId>,
    /// No more comes for it.
    ended: bool,
}

/// What a SUBSCRIBE asks for.
struct Wishes {
    id: String,
    mode: AckMode,
    selector: Option<Selector>,
    browses: Option<String>,
    limit: Option<u32>,
    arguments: Table,
}

/// The subscriptions of a client.
#[derive(Default)]
pub(super) struct Subscriptions {
    by_consumer: HashMap<ConsumerId, Subscription>,
    /// The first consumer of the subscription that another belongs to.
    first_of: HashMap<ConsumerId, ConsumerId>,
    /// Those that the client has not ended, by its names for them.
    by_id: HashMap<String, ConsumerId>,
    /// Queues that the last one waits for.
    awaited: usize,
    /// What it asks for once all of them are there.
    waiting: Vec<(Attach, Option<Recall>)>,
    last_consumer: u64,
}

impl Subscriptions {
    /// The consumer by whose number the messages of a subscription are known.
    pub(super) fn first_of(&self, consumer: ConsumerId) -> ConsumerId {
        self.first_of.get(&consumer).copied().unwrap_or(consumer)
    }

    pub(super) fn get(&self, consumer: ConsumerId) -> Option<&Subscription> {
        self.by_consumer.get(&self.first_of(consumer))
    }

    pub(super) fn get_mut(&mut self, consumer: ConsumerId) -> Option<&mut Subscription> {
        self.by_consumer.get_mut(&self.first_of(consumer))
    }

    fn remove(&mut self, consumer: ConsumerId) {
        let gone = self.by_consumer.remove(&consumer);
        for other in gone.into_iter().flat_map(|subscription| subscription.consumers) {
            self.first_of.remove(&other);
        }
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
            self.remove(ack.consumer);
        }
        settled
    }

    /// Whether one waits for its queue.
    pub(super) fn is_waiting(&self) -> bool {
        self.awaited > 0
    }

    /// No more comes for a consumer; what it got can still be acknowledged.
    pub(super) fn detached(&mut self, consumer: ConsumerId) {
        let first = self.first_of(consumer);
        let Some(subscription) = self.by_consumer.get_mut(&first) else { return };
        // They end in their order.
        subscription.ended = subscription.consumers.last() == Some(&consumer);
        if subscription.ended && subscription.unacked.is_empty() {
            self.remove(first);
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
    /// The queue is there for this subscription.
    is_own: bool,
    /// What the client itself publishes does not come to it.
    no_local: bool,
    /// What the exchange keeps comes to it first.
    recalls: bool,
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
        // Each of its destinations counts as one.
        let max = self.config.subscriptions_max;
        if self.subscriptions.first_of.len() + listed(&destination).count() > max {
            let detail = format!(
                "the connection may have {max} subscriptions, each destination of one counted: \
                 UNSUBSCRIBE some first"
            );
            return Err(Fault::new("Limit reached", detail));
        }
        check_options(headers)?;
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
        let browses = switch(headers, "browser", false)?;
        let limit = match number::<u32>(headers, "prefetch-count")? {
            None => number::<u32>(headers, "activemq.prefetchSize")?,
            some => some,
        };
        let wishes = Wishes {
            id,
            // Nobody settles what he is shown.
            mode: if browses { AckMode::Auto } else { mode },
            selector: selector(headers)?,
            browses: browses.then(|| destination.clone().into_owned()),
            limit: limit.filter(|n| *n > 0),
            arguments: consumer_arguments(headers)?,
        };
        let sources = self.sources(headers, &destination, browses)?;
        let number = self.begin(frame);
        self.add(number, wishes, with_uses(sources));
        Ok(())
    }

    /// What a subscription needs for each of the destinations that `listed` names.
    fn sources(
        &mut self,
        headers: Headers<'_>,
        text: &str,
        browses: bool,
    ) -> Result<Vec<Source>, Fault> {
        let exclusive = switch(headers, "activemq.exclusive", false)?;
        let no_local = switch(headers, "activemq.noLocal", false)?;
        let retroactive = switch(headers, "activemq.retroactive", false)?;
        let is_composite = listed(text).nth(1).is_some();
        if is_composite && browses {
            let detail = format!("header 'browser': '{text}' lists several: browse one at a time");
            return Err(Fault::new("Invalid destination", detail));
        }
        if is_composite && headers.get("x-queue-name").is_some() {
            let detail = format!("'{text}' lists several, and a queue of this name is one of them");
            return Err(Fault::header("x-queue-name", detail));
        }
        let mut sources: Vec<Source> = Vec::new();
        for one in listed(text) {
            let parsed = Destination::parse(one)?;
            let is_topic = parsed.is_topic();
            let of_topics = [("activemq.noLocal", no_local), ("activemq.retroactive", retroactive)];
            let misplaced = of_topics.into_iter().find(|(_, asked)| *asked && !is_topic);
            if let Some((name, _)) = misplaced {
                let detail = format!("'{one}' is a queue, and it means something for topics only");
                return Err(Fault::header(name, detail));
            }
            if browses && is_topic {
                let detail =
                    format!("header 'browser': '{one}' is no queue, and only queues are browsed");
                return Err(Fault::new("Not implemented", detail));
            }
            let mut source = self.source(headers, &parsed, one)?;
            source.alone |= exclusive;
            source.no_local = no_local;
            source.recalls = retroactive;
            if sources.iter().any(|other| other.queue == source.queue) {
                let detail = format!("header 'destination': '{text}' names '{one}' twice");
                return Err(Fault::new("Invalid destination", detail));
            }
            sources.push(source);
        }
        Ok(sources)
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

    /// Adds a subscription and asks for what it needs.
    fn add(&mut self, number: FrameNumber, wishes: Wishes, sources: Vec<Source>) {
        let Wishes { id, mode, selector, browses, limit, arguments } = wishes;
        let mut prefix = b"MESSAGE\n".to_vec();
        header::write(&mut prefix, Rules::of(self.peer.version), "subscription", &id);
        let subscriptions = &mut self.subscriptions;
        let consumers: Vec<ConsumerId> = (1..)
            .take(sources.len())
            .map(|n| ConsumerId(subscriptions.last_consumer + n))
            .collect();
        let Some(first) = consumers.first().copied() else { return };
        subscriptions.last_consumer += sources.len() as u64;
        subscriptions.by_id.insert(id.clone(), first);
        subscriptions.first_of.extend(consumers.iter().map(|consumer| (*consumer, first)));
        let attach = Attach {
            token: Token::SILENT,
            consumer: first,
            queue: "".into(),
            mode: match (mode, &browses) {
                (_, Some(_)) => AttachMode::Browse,
                (AckMode::Auto, None) => AttachMode::ConsumeSettled,
                _ => AttachMode::Consume,
            },
            credit: match (mode, &browses) {
                (_, Some(_)) => {
                    Credit::Explicit { credit: u32::MAX, drain: true, deadline: Time(0) }
                }
                (AckMode::Auto, None) => Credit::Unlimited,
                _ => Credit::Window { limit, shared: None },
            },
            lease_ms: None,
            exclusive: false,
            look: browses.is_some(),
            no_local: false,
            filter: None,
            arguments,
            tag: id.as_str().into(),
        };
        let encodings = self.config.encodings;
        let filter = selector.clone().map(|selector| {
            SharedFilter(Arc::new(Selected { selector, encodings }) as Arc<dyn Filter>)
        });
        let unacked = Unacked::new();
        let subscription = Subscription {
            id,
            mode,
            prefix,
            unacked,
            selector: selector.filter(|_| sources.iter().any(|source| source.is_own)),
            browses,
            consumers: consumers.clone(),
            ended: false,
        };
        subscriptions.by_consumer.insert(first, subscription);
        for (source, consumer) in sources.into_iter().zip(consumers) {
            let filter = filter.clone().filter(|_| !source.is_own);
            self.attach(number, source, Attach { consumer, filter, ..attach.clone() });
        }
    }

    fn attach(&mut self, number: FrameNumber, source: Source, attach: Attach) {
        let Source { queue, declare, bind, alone, is_own, no_local, recalls } = source;
        // What the subscription does not want is dropped from a queue of its own.
        let has_selector =
            self.subscriptions.get(attach.consumer).is_some_and(|s| s.selector.is_some());
        let exclusive = alone || is_own && has_selector;
        let recalled = bind.as_ref().filter(|_| recalls).map(|bind| {
            let (exchange, pattern) = (Arc::clone(&bind.source), Arc::clone(&bind.routing_key));
            Recall { token: Token::SILENT, exchange, pattern, queue: Arc::clone(&queue) }
        });
        // From a queue that is there already it gets nothing before it may declare and bind it:
        // what came with a refusal would be lost. One of its own is new.
        let must_wait = matches!(declare, Some(TopologyChange::DeclareQueueFor { .. }));
        let mut left = usize::from(declare.is_some()) + usize::from(bind.is_some());
        for change in declare.into_iter().chain(bind.map(TopologyChange::Bind)) {
            left -= 1;
            let is_last = must_wait && left == 0;
            let purpose = if is_last { Purpose::Ready } else { Purpose::Done };
            self.ask_for(number, purpose, |token| Ask::Topology { token, change });
        }
        let attach = Attach { queue, exclusive, no_local, ..attach };
        self.subscriptions.awaited += usize::from(must_wait);
        if self.subscriptions.is_waiting() {
            self.subscriptions.waiting.push((attach, recalled));
        } else {
            self.consume(number, attach, recalled);
        }
    }

    fn consume(&mut self, number: FrameNumber, attach: Attach, recalled: Option<Recall>) {
        self.ask(number, |token| Ask::Attach(Attach { token, ..attach }));
        if let Some(recall) = recalled {
            self.ask(number, |token| Ask::Recall(Recall { token, ..recall }));
        }
    }

    /// A queue that a subscription waits for is there. After the last one, what they have comes.
    pub(super) fn consume_waiting(&mut self, number: FrameNumber) {
        self.subscriptions.awaited = self.subscriptions.awaited.saturating_sub(1);
        if self.subscriptions.is_waiting() {
            return;
        }
        for (attach, recalled) in std::mem::take(&mut self.subscriptions.waiting) {
            self.consume(number, attach, recalled);
        }
    }

    /// What a subscription to `destination`, whose text is `text`, needs.
    fn source(
        &mut self,
        headers: Headers<'_>,
        destination: &Destination<'_>,
        text: &str,
    ) -> Result<Source, Fault> {
        let there = |queue: Arc<str>| Source {
            queue,
            declare: None,
            bind: None,
            alone: false,
            is_own: false,
            no_local: false,
            recalls: false,
        };
        let bound = |def: QueueDef, alone: bool, exchange: &str, key: &str| {
            let queue = Arc::clone(&def.name);
            // What a session needs for itself is not asked permission for; but where messages go
            // that it rejects, its user must be allowed to send.
            let is_own = matches!(def.lifetime, Lifetime::Exclusive(_))
                && def.options.dead_letter_exchange.is_none();
            let declare = match is_own {
                true => TopologyChange::DeclareOwnQueue(def),
                false => TopologyChange::DeclareQueueFor { def, uses: Vec::new() },
            };
            let bind = BindingDef {
                source: exchange.into(),
                destination: BoundTo::Queue(Arc::clone(&queue)),
                routing_key: key.into(),
                arguments: Table::default(),
            };
            let (declare, bind) = (Some(declare), Some(bind));
            Source { declare, bind, alone, is_own: true, ..there(queue) }
        };
        match destination {
            Destination::Queue(name) => {
                let def = self.queue_def((&**name).into(), headers, true, false)?;
                let declare = Some(TopologyChange::DeclareQueueFor { def, uses: Vec::new() });
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
            Destination::TemporaryTopic(name) => {
                if switch(headers, "durable", false)? || subscription_name(headers).is_some() {
                    let detail =
                        format!("'{text}' goes with the connection, and cannot be durable");
                    return Err(Fault::header("destination", detail));
                }
                let key = binding_key(&self.temporary_key(name)?).into_owned();
                let def = self.subscription_queue_def(headers)?;
                Ok(bound(def, true, TOPIC_EXCHANGE, &key))
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
        let wishes = Wishes {
            id: address.to_owned(),
            mode: AckMode::Auto,
            selector: None,
            browses: None,
            limit: None,
            arguments: Table::default(),
        };
        let source = Source {
            queue: Arc::clone(&queue),
            declare: Some(declare),
            bind: None,
            alone: true,
            is_own: true,
            no_local: false,
            recalls: false,
        };
        self.add(number, wishes, vec![source]);
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
        let consumers = consumer.and_then(|first| self.subscriptions.get(first));
        for consumer in consumers.map(|s| s.consumers.clone()).unwrap_or_default() {
            let purpose = Purpose::Detached(consumer);
            self.ask_for(number, purpose, |token| Ask::Detach { token, consumer });
        }
        if let Some(name) = delete {
            let change = TopologyChange::DeleteQueue { name, if_unused: true, if_empty: false };
            self.ask(number, |token| Ask::Topology { token, change });
        }
        Ok(())
    }

    /// Nothing more comes for a subscription, whose queue is gone: the protocol has no other word for
    /// it than an ERROR.
    pub(super) fn source_ended(&mut self, consumer: ConsumerId, reason: DetachReason) {
        let Some(subscription) = self.subscriptions.get(consumer) else { return };
        let id = subscription.id.clone();
        if self.subscriptions.by_id.get(&id) != Some(&self.subscriptions.first_of(consumer)) {
            // The client has ended it itself.
            return;
        }
        let detail = match reason {
            DetachReason::QueueDeleted => {
                format!("the queue of subscription '{id}' was deleted: SUBSCRIBE anew")
            }
            DetachReason::Reclaimed => format!(
                "the queue of subscription '{id}' belongs to a client's session, and the client is \
                 back: SUBSCRIBE anew when it is gone"
            ),
        };
        self.fail(&Fault::new("Subscription ended", detail));
    }
}

/// Sources whose queues are declared only if the user may use all of them.
fn with_uses(mut sources: Vec<Source>) -> Vec<Source> {
    let mut uses = Vec::new();
    for source in &sources {
        // What is the connection's own needs no permission.
        let is_own = matches!(source.declare, Some(TopologyChange::DeclareOwnQueue(_)));
        if let Some(bind) = &source.bind {
            let (exchange, key) = (Arc::clone(&bind.source), Arc::clone(&bind.routing_key));
            uses.extend((!is_own).then(|| Use::Queue(Action::Write, Arc::clone(&source.queue))));
            uses.push(Use::Topic(Action::Read, exchange, key));
        }
        uses.extend((!is_own).then(|| Use::Queue(Action::Read, Arc::clone(&source.queue))));
    }
    for source in &mut sources {
        if let Some(TopologyChange::DeclareQueueFor { uses: known, .. }) = &mut source.declare {
            known.clone_from(&uses);
        }
    }
    sources
}

/// What a subscription wants.
fn selector(headers: Headers<'_>) -> Result<Option<Selector>, Fault> {
    let Some(text) = headers.get("selector") else { return Ok(None) };
    Selector::parse(&text)
        .map(Some)
        .map_err(|error| Fault::header("selector", format!("'{text}': {error}")))
}

/// Options of a subscription that ActiveMQ has. The last changes nothing here: it says which thread
/// of ActiveMQ delivers.
const ACTIVEMQ: [&str; 8] = [
    "activemq.exclusive",
    "activemq.noLocal",
    "activemq.prefetchSize",
    "activemq.priority",
    "activemq.retroactive",
    "activemq.subscriptionName",
    "activemq.subcriptionName",
    "activemq.dispatchAsync",
];

/// Refuses what a subscription asks for and would not get.
fn check_options(headers: Headers<'_>) -> Result<(), Fault> {
    for raw in headers.raw().filter(|raw| raw.name.starts_with("activemq.")) {
        if !ACTIVEMQ.contains(&raw.name) {
            let detail = format!("it is not known: there are {}", ACTIVEMQ.join(", "));
            return Err(Fault::header(raw.name, detail));
        }
    }
    if !switch(headers, "browser-end", true)? {
        let detail = "who browses is told the end, and is not shown what comes after it";
        return Err(Fault::header("browser-end", detail));
    }
    Ok(())
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
