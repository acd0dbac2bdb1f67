//! A client and a broker for session tests, both in memory.

#![allow(dead_code, unreachable_pub)] // each test uses its part
#![allow(clippy::unwrap_used)] // a failed test may panic

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue, tx};
use amq_protocol::types::{AMQPValue, FieldTable};
use isthmus_amqp091::{Amqp091Session, SessionConfig};
use isthmus_contract::{
    AttachMode, Command, CommandError, Credentials, Credit, Delivery, Event, Input, ManageOp,
    PublishException, PublishRefusal, Reply, Session, TopologyChange, TransactOp,
};
use isthmus_model::{Batch, ConsumerId, LeaseEpoch, QueueId, RecordFlags, SessionId, Time, Token};

/// A frame's bytes.
pub fn frame(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(Vec::new().into()).unwrap().write
}

/// A method frame's bytes.
pub fn method(channel: u16, class: AMQPClass) -> Vec<u8> {
    frame(&AMQPFrame::Method(channel, class))
}

macro_rules! make {
    ($name:ident, $class:ident, $module:ident) => {
        pub fn $name(channel: u16, method: $module::AMQPMethod) -> Vec<u8> {
            crate::common::method(channel, AMQPClass::$class(method))
        }
    };
}
make!(connection_method, Connection, connection);
make!(channel_method, Channel, channel);
make!(exchange_method, Exchange, exchange);
make!(queue_method, Queue, queue);
make!(basic_method, Basic, basic);
make!(tx_method, Tx, tx);

pub fn confirm_select(channel: u16) -> Vec<u8> {
    let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
    method(channel, AMQPClass::Confirm(select))
}

pub fn channel_open(number: u16) -> Vec<u8> {
    channel_method(number, channel::AMQPMethod::Open(channel::Open {}))
}

pub fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

pub fn start_ok(user: &str, password: &str) -> Vec<u8> {
    let yes = AMQPValue::Boolean(true);
    let capabilities = table(&[
        ("consumer_cancel_notify", yes.clone()),
        ("connection.blocked", yes.clone()),
        ("authentication_failure_close", yes),
    ]);
    let client_properties = table(&[("capabilities", AMQPValue::FieldTable(capabilities))]);
    connection_method(
        0,
        connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties,
            mechanism: "PLAIN".into(),
            response: format!("\0{user}\0{password}").as_str().into(),
            locale: "en_US".into(),
        }),
    )
}

pub fn tune_ok(frame_max: u32, heartbeat: u16) -> Vec<u8> {
    connection_method(
        0,
        connection::AMQPMethod::TuneOk(connection::TuneOk {
            channel_max: 2047,
            frame_max,
            heartbeat,
        }),
    )
}

pub fn open(vhost: &str) -> Vec<u8> {
    let open = connection::Open { virtual_host: vhost.into() };
    connection_method(0, connection::AMQPMethod::Open(open))
}

pub fn declare_queue(channel: u16, name: &str, arguments: FieldTable) -> Vec<u8> {
    queue_method(
        channel,
        queue::AMQPMethod::Declare(queue::Declare {
            queue: name.into(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments,
        }),
    )
}

pub fn declare_exchange(channel: u16, name: &str, kind: &str) -> Vec<u8> {
    exchange_method(
        channel,
        exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: name.into(),
            kind: kind.into(),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: FieldTable::default(),
        }),
    )
}

pub fn consume(channel: u16, queue: &str, tag: &str, no_ack: bool) -> Vec<u8> {
    basic_method(
        channel,
        basic::AMQPMethod::Consume(basic::Consume {
            queue: queue.into(),
            consumer_tag: tag.into(),
            no_local: false,
            no_ack,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        }),
    )
}

pub fn get(channel: u16, queue: &str) -> Vec<u8> {
    let get = basic::Get { queue: queue.into(), no_ack: false };
    basic_method(channel, basic::AMQPMethod::Get(get))
}

pub fn ack(channel: u16, delivery_tag: u64, multiple: bool) -> Vec<u8> {
    basic_method(channel, basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple }))
}

pub fn nack(channel: u16, delivery_tag: u64, multiple: bool, requeue: bool) -> Vec<u8> {
    let nack = basic::Nack { delivery_tag, multiple, requeue };
    basic_method(channel, basic::AMQPMethod::Nack(nack))
}

/// A message's frames, its body in pieces of `piece` bytes.
pub fn publish_with(
    channel: u16,
    publish: basic::Publish,
    properties: basic::AMQPProperties,
    body: &[u8],
    piece: usize,
) -> Vec<u8> {
    let mut bytes = basic_method(channel, basic::AMQPMethod::Publish(publish));
    let header = AMQPContentHeader { class_id: 60, body_size: body.len() as u64, properties };
    bytes.extend(frame(&AMQPFrame::Header(channel, header)));
    for piece in body.chunks(piece.max(1)) {
        bytes.extend(frame(&AMQPFrame::Body(channel, piece.to_vec())));
    }
    bytes
}

pub fn publish(channel: u16, exchange: &str, key: &str, body: &[u8]) -> Vec<u8> {
    publish_with(channel, to(exchange, key), persistent(), body, 4000)
}

pub fn to(exchange: &str, key: &str) -> basic::Publish {
    basic::Publish {
        exchange: exchange.into(),
        routing_key: key.into(),
        mandatory: false,
        immediate: false,
    }
}

pub fn persistent() -> basic::AMQPProperties {
    basic::AMQPProperties::default().with_delivery_mode(2)
}

/// A broker that does everything at once: queues by name, the default exchange, and exchanges
/// whose names say what becomes of a message.
#[derive(Default)]
pub struct Broker {
    queues: HashMap<Arc<str>, VecDeque<(Arc<Batch>, u32)>>,
    consumers: Vec<(ConsumerId, Arc<str>, AttachMode)>,
    sequences: u64,
    exceptions: Vec<PublishException>,
    /// Commands, in words and without their tokens.
    pub log: Vec<String>,
}

impl Broker {
    fn queue_id(name: &str) -> QueueId {
        QueueId(name.bytes().fold(7, |id: u64, b| id.wrapping_mul(31).wrapping_add(u64::from(b))))
    }

    fn delivery(
        &mut self,
        consumer: ConsumerId,
        queue: &str,
        message: (Arc<Batch>, u32),
    ) -> Delivery {
        self.sequences += 1;
        Delivery {
            consumer,
            queue: Self::queue_id(queue),
            first: self.sequences,
            len: 1,
            epoch: LeaseEpoch(1),
            deadline: Time::NEVER,
            batch: message.0,
            record: message.1,
            redelivered: false,
            delivery_count: 0,
            waited_ms: 0,
            annotations: None,
        }
    }

    /// Does `command` and returns what the session is to hear.
    pub fn run(&mut self, command: Command) -> Vec<Event> {
        self.note(&command);
        let done = |token: Token, result| {
            if token == Token::SILENT { vec![] } else { vec![Event::Done { token, result }] }
        };
        match command {
            Command::Authenticate { token, credentials } => {
                let result = match credentials {
                    Credentials::Password { user, password } if password.0 == "guest" => {
                        Ok(Reply::Authenticated { user: user.as_str().into() })
                    }
                    Credentials::Password { .. } => Err(CommandError::Refused("no".to_owned())),
                    Credentials::Certificate => {
                        Ok(Reply::Authenticated { user: "certified".into() })
                    }
                };
                done(token, result)
            }
            Command::Enter { token, vhost } => {
                let missing = format!("vhost '{vhost}' not found");
                let found = &*vhost == "/";
                done(token, found.then_some(Reply::Ok).ok_or(CommandError::NotFound(missing)))
            }
            Command::Topology { token, change } => {
                let result = self.topology(change);
                done(token, result)
            }
            Command::Publish(publish) => {
                let mut events = Vec::new();
                let mut exceptions = Vec::new();
                for i in 0..publish.batch.records.len() as u32 {
                    self.route(&publish.batch, i, &mut exceptions, &mut events);
                }
                if publish.transaction.is_some() {
                    self.exceptions.append(&mut exceptions);
                }
                events.extend(done(publish.token, Ok(Reply::Published { exceptions })));
                events
            }
            Command::Attach(attach) => self.attach(attach),
            Command::Detach { token, consumer } => {
                self.consumers.retain(|(c, ..)| *c != consumer);
                done(token, Ok(Reply::Ok))
            }
            Command::Settle { token, .. } => done(token, Ok(Reply::Ok)),
            Command::Transact { token, op: TransactOp::Commit, .. } => {
                let exceptions = std::mem::take(&mut self.exceptions);
                done(token, Ok(Reply::Published { exceptions }))
            }
            Command::Transact { token, .. } => {
                self.exceptions.clear();
                done(token, Ok(Reply::Ok))
            }
            Command::Manage { token, op: ManageOp::Purge { queue } } => {
                let n = self.queues.get_mut(&queue).map_or(0, |q| q.drain(..).count());
                done(token, Ok(Reply::Messages(n as u64)))
            }
            Command::Manage { op, .. } => panic!("AMQP 0-9-1 has nothing like {op:?}"),
            Command::Credit { .. } | Command::Window { .. } => vec![],
            Command::Extend { .. } => panic!("AMQP 0-9-1 has no leases"),
            Command::OpenSession(_)
            | Command::CloseSession { .. }
            | Command::Note { .. }
            | Command::Recall(_) => panic!("AMQP 0-9-1 has no sessions that last"),
        }
    }

    fn topology(&mut self, change: TopologyChange) -> Result<Reply, CommandError> {
        let missing =
            |name: &str| CommandError::NotFound(format!("no queue '{name}' in vhost '/'"));
        match change {
            TopologyChange::DeclareQueue(def) | TopologyChange::DeclareOwnQueue(def) => {
                let name = if def.name.is_empty() { "amq.gen-1".into() } else { def.name };
                if &*name == "locked" {
                    return Err(CommandError::Locked("cannot obtain exclusive access".into()));
                }
                if &*name == "other" {
                    return Err(CommandError::Precondition("inequivalent arg 'durable'".into()));
                }
                let ready = self.queues.entry(name.clone()).or_default().len() as u64;
                Ok(Reply::Queue { name, ready, consumers: 0, is_new: false })
            }
            TopologyChange::LookUpQueue { name } => {
                let ready = self.queues.get(&name).ok_or_else(|| missing(&name))?.len() as u64;
                Ok(Reply::Queue { name, ready, consumers: 0, is_new: false })
            }
            TopologyChange::DeleteQueue { name, .. } => {
                Ok(Reply::Messages(self.queues.remove(&name).map_or(0, |q| q.len() as u64)))
            }
            _ => Ok(Reply::Ok),
        }
    }

    fn route(
        &mut self,
        batch: &Arc<Batch>,
        record: u32,
        exceptions: &mut Vec<PublishException>,
        events: &mut Vec<Event>,
    ) {
        let message = &batch.records[record as usize];
        let refusal = match batch.exchange(message) {
            "missing" => Some(PublishRefusal::NoExchange),
            "internal" => Some(PublishRefusal::InternalExchange),
            "full" => Some(PublishRefusal::Full),
            "nowhere" if message.flags.has(RecordFlags::MANDATORY) => {
                Some(PublishRefusal::Unroutable)
            }
            _ => None,
        };
        if let Some(refusal) = refusal {
            exceptions.push(PublishException { batch: batch.clone(), record, refusal });
            return;
        }
        let key = batch.routing_key(message);
        let consumer = self.consumers.iter().find(|(_, q, _)| &**q == key).map(|c| c.0);
        if let Some(consumer) = consumer {
            let key = key.to_owned();
            let delivery = self.delivery(consumer, &key, (batch.clone(), record));
            events.push(Event::Deliveries(vec![delivery]));
        } else if let Some(queue) = self.queues.get_mut(key) {
            queue.push_back((batch.clone(), record));
        }
    }

    fn attach(&mut self, attach: isthmus_contract::Attach) -> Vec<Event> {
        let isthmus_contract::Attach { token, consumer, queue, credit, mode, .. } = attach;
        let Some(ready) = self.queues.get_mut(&queue) else {
            let text = format!("no queue '{queue}' in vhost '/'");
            return vec![Event::Done { token, result: Err(CommandError::NotFound(text)) }];
        };
        let mut events = vec![Event::Done { token, result: Ok(Reply::Attached) }];
        if let Credit::Explicit { credit, .. } = credit {
            assert_eq!(credit, 1);
            let first = ready.pop_front();
            let left = ready.len() as u64;
            let drained = first.is_none();
            if let Some(message) = first {
                events.push(Event::Deliveries(vec![self.delivery(consumer, &queue, message)]));
            }
            events.push(Event::CreditState { consumer, credit: 0, drained, ready: left });
            return events;
        }
        let ready: Vec<_> = ready.drain(..).collect();
        for message in ready {
            events.push(Event::Deliveries(vec![self.delivery(consumer, &queue, message)]));
        }
        self.consumers.push((consumer, queue, mode));
        events
    }

    /// Writes a command down, message by message and settlement by settlement, so that batches
    /// of any size read the same.
    fn note(&mut self, command: &Command) {
        match command {
            Command::Publish(publish) => {
                for r in &publish.batch.records {
                    let b = &publish.batch;
                    self.log.push(format!(
                        "publish {:?} {:?} {} {} {:?} ttl {} priority {} {:?}",
                        b.exchange(r),
                        b.routing_key(r),
                        b.head(r).escape_ascii(),
                        b.body(r).escape_ascii(),
                        r.flags,
                        r.ttl_ms,
                        r.priority,
                        publish.transaction
                    ));
                }
            }
            Command::Settle { settlements, transaction, .. } => {
                for s in settlements {
                    for sequence in s.first..s.first + u64::from(s.len) {
                        self.log.push(format!(
                            "settle {} {sequence} {:?} {transaction:?}",
                            s.queue, s.outcome
                        ));
                    }
                }
            }
            other => {
                let text = format!("{other:?}");
                let tokens = text.split("token: Token(").map(|part| match part.find("), ") {
                    Some(end) if part[..end].bytes().all(|b| b.is_ascii_digit()) => &part[end..],
                    _ => part,
                });
                self.log.push(tokens.collect());
            }
        }
    }
}

/// A session with its client and its broker.
pub struct Rig {
    pub session: Amqp091Session,
    pub input: Input,
    pub broker: Broker,
    pub now: Time,
    /// Everything the session wrote.
    pub output: Vec<u8>,
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(SessionConfig::new(SessionId(5)))
    }

    pub fn with(config: SessionConfig) -> Rig {
        let now = Time::from_millis(1000);
        Rig {
            session: Amqp091Session::new(config, now),
            input: Input::new(),
            broker: Broker::default(),
            now,
            output: Vec::new(),
        }
    }

    /// A rig past the handshake, with channel 1 open.
    pub fn running() -> Rig {
        let mut rig = Rig::new();
        rig.handshake();
        rig
    }

    pub fn handshake(&mut self) {
        for step in handshake() {
            self.send(&step);
        }
        self.send(&channel_open(1));
        self.take();
    }

    /// Hands bytes to the session and lets the broker do what comes of them.
    pub fn send(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
        self.session.handle_bytes(self.now, &mut self.input);
        self.pump();
    }

    /// Lets the broker do its work until nothing is left.
    pub fn pump(&mut self) {
        let mut events = VecDeque::new();
        loop {
            while let Some(command) = self.session.poll_command() {
                events.extend(self.broker.run(command));
            }
            let Some(event) = events.pop_front() else { break };
            self.session.handle_event(self.now, event);
            self.session.handle_bytes(self.now, &mut self.input);
        }
        self.write();
    }

    /// Moves what is in the outbox to the output.
    pub fn write(&mut self) {
        let outbox = self.session.outbox();
        self.output.extend(outbox.to_vec());
        outbox.advance(outbox.len());
    }

    pub fn event(&mut self, event: Event) {
        self.session.handle_event(self.now, event);
        self.pump();
    }

    /// The frames written since the last call.
    pub fn take(&mut self) -> Vec<AMQPFrame> {
        parse(&std::mem::take(&mut self.output))
    }

    /// The only method written since the last call.
    pub fn method(&mut self) -> AMQPClass {
        let mut frames = self.take();
        assert_eq!(frames.len(), 1, "{frames:?}");
        match frames.remove(0) {
            AMQPFrame::Method(_, class) => class,
            other => panic!("no method: {other:?}"),
        }
    }
}

pub fn handshake() -> Vec<Vec<u8>> {
    vec![
        b"AMQP\0\0\x09\x01".to_vec(),
        start_ok("guest", "guest"),
        [tune_ok(131_072, 60), open("/")].concat(),
    ]
}

/// All frames in `bytes`.
pub fn parse(mut bytes: &[u8]) -> Vec<AMQPFrame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).expect("well-formed output");
        bytes = rest;
        frames.push(frame);
    }
    frames
}
