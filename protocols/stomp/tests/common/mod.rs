//! A session with a client and a broker in memory.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_contract::{
    Command, CommandError, Credentials, Event, Input, Reply, Session, TransactOp,
};
use isthmus_model::{
    AttachMode, Batch, ConsumerId, Credit, Delivery, EncodingId, Encodings, LeaseEpoch, Lifetime,
    NO_TTL, PublishException, PublishRefusal, QueueDef, QueueId, Recall, SessionId, SharedFilter,
    Time, Token, TopologyChange, Use,
};
use isthmus_stomp::codec::{Decoder, Limits, Version};
use isthmus_stomp::convert::stored::{Draft, Drafts};
use isthmus_stomp::{SessionConfig, StompEncoding, StompSession};

/// The time of all calls.
pub(crate) const NOW: Time = Time(1_000_000_000);

/// A session, what its client has sent and not been taken, and what it asked of the broker.
pub(crate) struct Rig {
    pub(crate) session: StompSession,
    pub(crate) input: Input,
    pub(crate) asked: Vec<String>,
    /// What the queues that were declared are for.
    pub(crate) uses: Vec<String>,
    /// Publishes that are not answered.
    pub(crate) published: Vec<(Token, Arc<Batch>)>,
    /// What the broker says to the next consumer.
    pub(crate) refuse: Option<CommandError>,
    /// What the latest consumer of a shared queue wants that has a filter.
    pub(crate) filter: Option<SharedFilter>,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut SessionConfig)) -> Rig {
        let encodings = Encodings(&[(EncodingId::STOMP, &StompEncoding)]);
        let mut config = SessionConfig { encodings, ..SessionConfig::new(SessionId(7)) };
        change(&mut config);
        let session = StompSession::new(config, NOW);
        let (asked, uses, published) = (Vec::new(), Vec::new(), Vec::new());
        Rig { session, input: Input::new(), asked, uses, published, refuse: None, filter: None }
    }

    /// A client of `version` that is accepted.
    pub(crate) fn accepted(version: &str) -> Rig {
        let mut rig = Rig::new();
        rig.connect(version);
        rig
    }

    pub(crate) fn connect(&mut self, version: &str) {
        let said =
            self.send(&format!("CONNECT\naccept-version:{version}\nlogin:u\npasscode:p\n\n\0"));
        assert!(said.starts_with("CONNECTED\n"), "{said}");
        self.asked.clear();
    }

    /// Sends `text` and answers every command but publishes; returns what comes back.
    pub(crate) fn send(&mut self, text: &str) -> String {
        self.input.extend(text.as_bytes());
        self.pump()
    }

    pub(crate) fn pump(&mut self) -> String {
        loop {
            self.session.handle_bytes(NOW, &mut self.input);
            let mut moved = false;
            while let Some(command) = self.session.poll_command() {
                moved = true;
                self.answer(command);
            }
            if !moved {
                return self.written();
            }
        }
    }

    pub(crate) fn event(&mut self, event: Event) -> String {
        self.session.handle_event(NOW, event);
        self.pump()
    }

    /// Says that the oldest publish is done, save for `refusals`.
    pub(crate) fn confirm(&mut self, refusals: &[(u32, PublishRefusal)]) -> String {
        let (token, batch) = self.published.remove(0);
        let exception =
            |&(record, refusal)| PublishException { batch: batch.clone(), record, refusal };
        let exceptions = refusals.iter().map(exception).collect();
        self.event(Event::Done { token, result: Ok(Reply::Published { exceptions }) })
    }

    pub(crate) fn written(&mut self) -> String {
        let bytes = self.session.outbox().to_vec();
        self.session.outbox().advance(bytes.len());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn answer(&mut self, command: Command) {
        let (token, result) = match command {
            Command::Authenticate { token, credentials } => (token, self.login(credentials)),
            Command::Enter { token, vhost } => {
                self.asked.push(format!("enter {vhost}"));
                let unknown = || CommandError::NotFound(format!("vhost '{vhost}' not found"));
                let forbidden = || CommandError::Refused(format!("access to '{vhost}' refused"));
                let result = match &*vhost {
                    "x" | "nowhere" => Err(unknown()),
                    "forbidden" => Err(forbidden()),
                    _ => Ok(Reply::Ok),
                };
                (token, result)
            }
            Command::Topology { token, change } => (token, self.topology(&change)),
            Command::Attach(attach) => {
                let credit = match (attach.mode, attach.credit) {
                    (AttachMode::ConsumeSettled, Credit::Unlimited) => "settled".to_owned(),
                    (AttachMode::Consume, Credit::Window { limit, shared: None }) => {
                        limit.map_or("all".to_owned(), |limit| limit.to_string())
                    }
                    (AttachMode::Browse, Credit::Explicit { drain: true, .. }) if attach.look => {
                        "browse".to_owned()
                    }
                    other => panic!("{other:?}"),
                };
                let mut text = format!("attach {} {credit}", attach.queue);
                if attach.exclusive {
                    text.push_str(" alone");
                }
                if attach.no_local {
                    text.push_str(" no-local");
                }
                if attach.filter.is_some() {
                    text.push_str(" filtered");
                }
                self.filter = attach.filter.or(self.filter.take());
                self.asked.push(text + &arguments(&attach.arguments.0));
                (attach.token, self.refuse.take().map_or(Ok(Reply::Attached), Err))
            }
            Command::Recall(recall) => {
                let Recall { token, exchange, pattern, queue } = recall;
                self.asked.push(format!("recall {exchange} {pattern} {queue}"));
                (token, Ok(Reply::Messages(0)))
            }
            Command::Detach { token, consumer } => {
                self.asked.push(format!("detach {consumer}"));
                (token, Ok(Reply::Ok))
            }
            Command::Settle { token, settlements, transaction } => {
                let within = transaction.map_or(String::new(), |id| format!(" in {id}"));
                for s in settlements {
                    self.asked
                        .push(format!("settle {}+{} {:?}{within}", s.first, s.len, s.outcome));
                }
                (token, Ok(Reply::Ok))
            }
            Command::Transact { token, transaction, op } => {
                let (op, reply) = match op {
                    TransactOp::Begin => ("begin", Reply::Ok),
                    TransactOp::Commit => ("commit", Reply::Published { exceptions: Vec::new() }),
                    TransactOp::Rollback => ("rollback", Reply::Ok),
                };
                self.asked.push(format!("{op} {transaction}"));
                (token, Ok(reply))
            }
            Command::Publish(publish) => {
                let within = publish.transaction.map_or(String::new(), |id| format!(" in {id}"));
                for record in &publish.batch.records {
                    let (exchange, key) =
                        (publish.batch.exchange(record), publish.batch.routing_key(record));
                    let body = String::from_utf8_lossy(publish.batch.body(record)).into_owned();
                    self.asked.push(format!("publish {exchange} {key} {body}{within}"));
                }
                self.published.push((publish.token, publish.batch));
                return;
            }
            other => panic!("{other:?}"),
        };
        if token != Token::SILENT {
            self.session.handle_event(NOW, Event::Done { token, result });
        }
    }

    fn login(&mut self, credentials: Credentials) -> Result<Reply, CommandError> {
        match credentials {
            Credentials::Certificate => self.asked.push("login by certificate".to_owned()),
            Credentials::Password { user, password } => {
                self.asked.push(format!("login {user} {}", password.0));
                if password.0 == "wrong" {
                    return Err(CommandError::Refused("no".to_owned()));
                }
            }
        }
        Ok(Reply::Authenticated { user: "u".into() })
    }

    fn topology(&mut self, change: &TopologyChange) -> Result<Reply, CommandError> {
        let text = match change {
            TopologyChange::DeclareQueueFor { def, uses } => {
                self.uses.extend(uses.iter().map(used));
                format!("declare {}", described(def))
            }
            TopologyChange::DeclareOwnQueue(def) => format!("own {}", described(def)),
            TopologyChange::DeleteQueue { name, .. } => format!("delete {name}"),
            TopologyChange::LookUpExchange { name } => format!("look up {name}"),
            TopologyChange::Bind(binding) => {
                let isthmus_model::Destination::Queue(queue) = &binding.destination else {
                    panic!("{binding:?}")
                };
                format!("bind {} {} {queue}", binding.source, binding.routing_key)
            }
            other => panic!("{other:?}"),
        };
        self.asked.push(text);
        match change {
            TopologyChange::DeclareQueueFor { def, .. } if &*def.name == "other" => {
                Err(CommandError::Precondition("inequivalent arg".to_owned()))
            }
            _ => Ok(Reply::Ok),
        }
    }
}

/// What a queue is to be used for, for short.
fn used(what: &Use) -> String {
    match what {
        Use::Queue(action, name) => format!("{} {name}", action.name()),
        Use::Topic(action, exchange, key) => format!("{} {exchange}/{key}", action.name()),
    }
}

fn described(def: &QueueDef) -> String {
    let mut text = def.name.to_string();
    match def.lifetime {
        Lifetime::Exclusive(owner) => assert_eq!(owner, SessionId(7)),
        lifetime => text.push_str(&format!(" {lifetime:?}")),
    }
    if def.auto_delete {
        text.push_str(" auto-delete");
    }
    text + &arguments(&def.arguments.0)
}

fn arguments(arguments: &[(String, isthmus_model::Value)]) -> String {
    arguments.iter().map(|(name, value)| format!(" {name}={value:?}")).collect()
}

/// A batch of one message that came by STOMP.
pub(crate) fn stomp_batch(
    version: &str,
    exchange: &str,
    routing_key: &str,
    headers: &str,
    body: &str,
) -> Arc<Batch> {
    let version = Version::negotiate(Some(version), &Version::ALL).unwrap();
    let bytes = format!("SEND\n{headers}\n{body}\0");
    let mut decoder = Decoder::default();
    let next = decoder.next(bytes.as_bytes(), Some(version), &Limits::default());
    let frame = next.unwrap().unwrap();
    let mut drafts = Drafts::default();
    let draft = Draft { exchange, routing_key, ttl_ms: NO_TTL, ..Draft::default() };
    drafts.push(&frame, 0, version, draft, None);
    Arc::new(drafts.seal(Bytes::copy_from_slice(bytes.as_bytes()), version))
}

/// A delivery of one message.
pub(crate) fn delivery(consumer: u64, batch: &Arc<Batch>, first: u64, redelivered: bool) -> Event {
    Event::Deliveries(vec![Delivery {
        consumer: ConsumerId(consumer),
        queue: QueueId(1),
        first,
        len: 1,
        epoch: LeaseEpoch(1),
        deadline: Time::NEVER,
        batch: Arc::clone(batch),
        record: 0,
        redelivered,
        delivery_count: 0,
        waited_ms: 0,
        annotations: None,
    }])
}

/// A client with four messages of a subscription, which it has not acknowledged.
pub(crate) fn subscribed(version: &str, mode: &str) -> Rig {
    let mut rig = Rig::accepted(version);
    rig.send(&format!("SUBSCRIBE\nid:s\ndestination:/amq/queue/q\nack:{mode}\n\n\0"));
    for first in 1..=4 {
        rig.event(delivery(1, &stomp_batch("1.2", "", "q", "", "m"), first, false));
    }
    rig.asked.clear();
    rig
}
