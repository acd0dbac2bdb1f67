//! A session with a client and a broker in memory, under virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use isthmus_contract::{Command, CommandError, Event, Input, Reply, Session, TransactOp};
use isthmus_model::{
    Annotations, Attach, AttachMode, Batch, ConsumerId, Credit, Delivery, Destination, LeaseEpoch,
    Lifetime, Note, PublishException, PublishRefusal, QueueId, RecordFlags, SessionId, Time, Token,
    TopologyChange, WindowId,
};
use isthmus_mqtt::codec::{Properties, Qos};
use isthmus_mqtt::convert::stored::{Message, store};
use isthmus_mqtt::{MqttSession, SessionConfig};

use super::faults::{self, Fault, commits};
use super::{connect4, connect5, s};

pub const NOW: Time = Time(1_000_000_000);

/// What outlives connections.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Whether the client's session is there.
    pub is_there: bool,
    pub notes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Messages that were published, as `exchange key body`.
    pub published: Vec<String>,
    /// Sequences of the first queue that were settled.
    pub settled: Vec<u64>,
}

/// A will that says nothing of itself.
const PLAIN: Message<'_> = Message {
    qos: Qos::AtMostOnce,
    retain: false,
    topic: "gone",
    properties: Properties::NONE,
    payload: b"bye",
};

/// The answer to a command, and the batch that was published last when it was asked for.
type Unanswered = (Token, Result<Reply, CommandError>, Option<Arc<Batch>>);

enum Effect {
    Publish(String),
    Settle(u64, u32),
    Note(Note),
}

pub struct Rig {
    pub session: MqttSession,
    pub input: Input,
    pub world: World,
    /// Commands, in words.
    pub asked: Vec<String>,
    /// Whether publishes, commits, notes and settlements are answered at once.
    pub answers: bool,
    /// What is not.
    pub unanswered: VecDeque<Unanswered>,
    /// Whether commands get lost on their way to the broker.
    pub is_deaf: bool,
    /// Commands that begin so are refused.
    pub refused: Vec<(&'static str, CommandError)>,
    /// The batch of the last publish.
    pub batch: Option<Arc<Batch>>,
    /// That of the will.
    pub will: Option<Arc<Batch>>,
    staged: Vec<Effect>,
    /// Keys of the notes about messages in the last transaction, with their publish and record.
    about: Vec<(Token, u32, Vec<u8>)>,
    /// Queues that are not there when they are declared.
    pub gone: Vec<&'static str>,
}

impl Rig {
    pub fn with(config: SessionConfig) -> Rig {
        Rig {
            session: MqttSession::new(config, NOW),
            input: Input::new(),
            world: World::default(),
            asked: Vec::new(),
            answers: true,
            unanswered: VecDeque::new(),
            is_deaf: false,
            refused: Vec::new(),
            batch: None,
            will: None,
            staged: Vec::new(),
            about: Vec::new(),
            gone: Vec::new(),
        }
    }

    pub fn new() -> Rig {
        Rig::with(SessionConfig::new(SessionId(7)))
    }

    /// Another connection to the same broker.
    pub fn again(&self) -> Rig {
        Rig { world: self.world.clone(), ..Rig::new() }
    }

    /// Connects with `connect`, which must be accepted.
    #[track_caller]
    pub fn connected(mut self, connect: &[u8]) -> Rig {
        let ack = self.send(connect);
        assert_eq!((ack[0], ack[3]), (0x20, 0), "{ack:02X?}");
        self.asked.clear();
        self
    }

    /// A client of 5.0 that is accepted, with a session that ends with its connection.
    pub fn accepted() -> Rig {
        Rig::new().connected(&connect5(0xC2, &[], &[&s("u"), &s("p")]))
    }

    /// A client of 3.1.1 likewise.
    pub fn accepted4() -> Rig {
        Rig::new().connected(&connect4(0xC2, &[&s("u"), &s("p")]))
    }

    /// The CONNECT of a client of 5.0 whose session outlives its connection.
    pub fn lasting_connect() -> Vec<u8> {
        connect5(0xC0, &[&[0x11, 0, 0, 1, 0]], &[&s("u"), &s("p")])
    }

    /// That client.
    pub fn lasting() -> Rig {
        Rig::new().connected(&Rig::lasting_connect())
    }

    /// Sends `bytes`; returns what comes back.
    pub fn send(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.input.extend(bytes);
        self.pump()
    }

    pub fn pump(&mut self) -> Vec<u8> {
        loop {
            self.session.handle_bytes(NOW, &mut self.input);
            let mut moved = false;
            while let Some(command) = self.session.poll_command() {
                moved = true;
                if !self.is_deaf {
                    self.take(command);
                }
            }
            if !moved {
                return self.written();
            }
        }
    }

    pub fn written(&mut self) -> Vec<u8> {
        let bytes = self.session.outbox().to_vec();
        self.session.outbox().advance(bytes.len());
        faults::perverted(bytes)
    }

    pub fn event(&mut self, event: Event) -> Vec<u8> {
        self.session.handle_event(NOW, event);
        self.pump()
    }

    /// Says that the oldest that is not answered is done, save for messages of the last batch.
    pub fn confirm(&mut self, refusals: &[(u32, PublishRefusal)]) -> Vec<u8> {
        let (token, result, batch) = self.unanswered.pop_front().unwrap();
        let batch = batch.or_else(|| self.batch.clone());
        let exception = |&(record, refusal)| PublishException {
            batch: batch.clone().unwrap(),
            record,
            refusal,
        };
        let exceptions: Vec<_> = refusals.iter().map(exception).collect();
        for (_, _, key) in
            self.about.iter().filter(|(_, record, _)| refusals.iter().any(|(r, _)| r == record))
        {
            self.world.notes.remove(key);
        }
        let result = match result {
            Ok(_) if !exceptions.is_empty() => Ok(Reply::Published { exceptions }),
            result => result,
        };
        self.event(Event::Done { token, result })
    }

    /// Says that the oldest that is not answered has failed.
    pub fn fail(&mut self, error: CommandError) -> Vec<u8> {
        let (token, ..) = self.unanswered.pop_front().unwrap();
        for (_, _, key) in self.about.iter().filter(|(publish, ..)| *publish == token) {
            self.world.notes.remove(key);
        }
        self.event(Event::Done { token, result: Err(error) })
    }

    /// Answers everything.
    pub fn confirm_all(&mut self) -> Vec<u8> {
        let mut written = Vec::new();
        while !self.unanswered.is_empty() {
            written.extend(self.confirm(&[]));
        }
        written
    }

    /// Takes what was asked so far.
    pub fn asked(&mut self) -> Vec<String> {
        std::mem::take(&mut self.asked)
    }

    fn take(&mut self, command: Command) {
        let is_topology = matches!(command, Command::Topology { .. } | Command::Recall(_));
        let (token, what, reply, waits) = self.describe(command);
        let refusal = self.refused.iter().find(|(start, _)| what.starts_with(start));
        let result = refusal.map_or(Ok(reply), |(_, error)| Err(error.clone()));
        if !(is_topology && commits(Fault::TopologyIsSkipped)) {
            self.asked.push(what);
        }
        if token == Token::SILENT && result.is_ok() {
            return;
        }
        if waits && !self.answers {
            self.unanswered.push_back((token, result, self.batch.clone()));
        } else {
            self.session.handle_event(NOW, Event::Done { token, result });
        }
    }

    /// Carries a command out; its token, its words, its answer, and whether that may be held.
    fn describe(&mut self, command: Command) -> (Token, String, Reply, bool) {
        match command {
            Command::Authenticate { token, credentials } => {
                let reply = Reply::Authenticated { user: "u".into() };
                (token, format!("{credentials:?}"), reply, false)
            }
            Command::Enter { token, vhost } => (token, format!("enter {vhost}"), Reply::Ok, false),
            Command::OpenSession(mut open) => {
                if commits(Fault::OpensAnothersSession) {
                    open.client = "another".into();
                }
                let mut will = open.will.filter(|_| !commits(Fault::WillIsForgotten));
                if let Some(will) = will.as_mut().filter(|_| commits(Fault::WillLosesItsProperties))
                {
                    will.batch = store(&PLAIN, "amq.topic");
                }
                self.will = will.as_ref().map(|will| will.batch.clone());
                let will = will.map_or(String::new(), |will| {
                    let after = format!(" after {}", will.delay_ms);
                    format!(" will {}{after}", words(&will.batch, 0))
                });
                let what = format!("open {} {} {}", open.client, open.clean, open.expiry_ms);
                if open.clean {
                    self.world = World::default();
                }
                let present = std::mem::replace(&mut self.world.is_there, open.expiry_ms > 0);
                let note = |(key, value): (&Vec<u8>, &Vec<u8>)| Note {
                    key: key.as_slice().into(),
                    value: Some(value.as_slice().into()),
                };
                let notes = self.world.notes.iter().map(note).collect();
                (open.token, what + &will, Reply::Session { present, notes }, false)
            }
            Command::CloseSession { token, expiry_ms, publish_will } => {
                (token, format!("close {expiry_ms:?} {publish_will}"), Reply::Ok, false)
            }
            Command::Topology { token, change } => {
                let name = match &change {
                    TopologyChange::DeclareOwnQueue(def) => Some(Arc::clone(&def.name)),
                    _ => None,
                };
                let is_gone = |name: &Arc<str>| self.gone.iter().any(|gone| **gone == **name);
                let reply = match name {
                    Some(name) => {
                        let is_new = is_gone(&name);
                        Reply::Queue { name, ready: 0, consumers: 0, is_new }
                    }
                    None => Reply::Ok,
                };
                (token, topology(change), reply, false)
            }
            Command::Attach(a) => (a.token, attach(&a), Reply::Attached, false),
            Command::Detach { token, consumer } => {
                (token, format!("detach {consumer}"), Reply::Ok, false)
            }
            Command::Window { window: WindowId(1), limit: Some(limit) } => {
                (Token::SILENT, format!("window {limit}"), Reply::Ok, false)
            }
            Command::Recall(recall) => {
                let what = format!("recall {} {}", recall.exchange, recall.pattern);
                (recall.token, format!("{what} to {}", recall.queue), Reply::Messages(0), false)
            }
            Command::Transact { token, op, .. } => {
                if op == TransactOp::Commit {
                    for effect in std::mem::take(&mut self.staged) {
                        self.apply(effect);
                    }
                }
                let reply = Reply::Published { exceptions: Vec::new() };
                (token, format!("{op:?}").to_lowercase(), reply, op == TransactOp::Commit)
            }
            other => self.describe_effects(other),
        }
    }

    fn describe_effects(&mut self, command: Command) -> (Token, String, Reply, bool) {
        let is_first = self.staged.is_empty();
        let (token, transaction, words, effects) = match command {
            Command::Publish(publish) => {
                let all: Vec<String> = (0..publish.batch.records.len())
                    .map(|record| words(&publish.batch, record))
                    .collect();
                self.batch = Some(publish.batch);
                let words = format!("publish {}", all.join(", "));
                let effects = all.into_iter().map(Effect::Publish).collect();
                (publish.token, publish.transaction, words, effects)
            }
            Command::Settle { token, settlements, transaction } => {
                let all: Vec<String> = settlements
                    .iter()
                    .map(|s| format!("{}+{} {:?}", s.first, s.len, s.outcome))
                    .collect();
                let settled = |s: isthmus_model::Settlement| Effect::Settle(s.first, s.len);
                let effects: Vec<Effect> = settlements.into_iter().map(settled).collect();
                (token, transaction, format!("settle {}", all.join(", ")), effects)
            }
            Command::Note { token, notes, of, transaction } => {
                if let Some(of) = of {
                    let keys = notes.iter().map(|note| note.key.to_vec());
                    let about = of.records.iter().zip(keys);
                    self.about.extend(about.map(|(record, key)| (of.publish, *record, key)));
                }
                let words: Vec<String> = notes.iter().map(note).collect();
                let effects = notes.into_iter().map(Effect::Note).collect();
                (token, transaction, format!("note {}", words.join(" ")), effects)
            }
            other => panic!("{other:?}"),
        };
        if transaction.is_some() {
            if is_first {
                self.about.clear();
            }
            self.staged.extend(effects);
            return (token, format!("tx {words}"), Reply::Ok, true);
        }
        for effect in effects {
            self.apply(effect);
        }
        (token, words, Reply::Ok, true)
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Publish(_) if commits(Fault::PublishesNothing) => {}
            Effect::Settle(..) if commits(Fault::SettlesNothing) => {}
            Effect::Note(_) if commits(Fault::NotesNothing) => {}
            Effect::Publish(words) => {
                let times = if commits(Fault::PublishesTwice) { 2 } else { 1 };
                self.world.published.extend(vec![words; times]);
            }
            Effect::Settle(first, len) => {
                self.world.settled.extend(first..first + u64::from(len));
            }
            Effect::Note(note) => {
                match note.value {
                    Some(value) => self.world.notes.insert(note.key.to_vec(), value.to_vec()),
                    None => self.world.notes.remove(&*note.key),
                };
            }
        }
    }
}

/// A message in words.
pub fn words(batch: &Batch, record: usize) -> String {
    let record = &batch.records[record];
    let (exchange, key) = (batch.exchange(record), batch.routing_key(record));
    let body = String::from_utf8_lossy(batch.body(record));
    let mut words = format!("{exchange} {key} {body}");
    for (flag, word) in [(RecordFlags::DURABLE, " durable"), (RecordFlags::RETAIN, " retain")] {
        if record.flags.has(flag) {
            words.push_str(word);
        }
    }
    words
}

fn note(note: &Note) -> String {
    let minus = if note.value.is_some() { "" } else { "-" };
    let (kind, key) = note.key.split_first().unwrap();
    match (*kind, key) {
        (b'p' | b'r' | b'c', &[a, b]) => {
            format!("{minus}{}{}", char::from(*kind), u16::from_be_bytes([a, b]))
        }
        (b'q', [lane]) => format!("{minus}q{lane}"),
        (b's', filter) => {
            let value = note.value.iter().flat_map(|value| value.iter());
            let value: String = value.map(|byte| format!("{byte:02x}")).collect();
            format!("{minus}s:{}:{value}", String::from_utf8_lossy(filter))
        }
        _ => panic!("{note:?}"),
    }
}

fn topology(change: TopologyChange) -> String {
    let binding = |b: &isthmus_model::BindingDef| {
        let Destination::Queue(queue) = &b.destination else { panic!("{b:?}") };
        format!("{} {} to {queue}", b.source, b.routing_key)
    };
    match change {
        TopologyChange::DeclareOwnQueue(def) => {
            let lifetime = match def.lifetime {
                Lifetime::Durable if def.auto_delete => "shared",
                Lifetime::Durable => "durable",
                Lifetime::Exclusive(SessionId(7)) => "exclusive",
                other => panic!("{other:?}"),
            };
            format!("declare {} {lifetime}", def.name)
        }
        TopologyChange::HoldQueue { name } => format!("hold {name}"),
        TopologyChange::ReleaseQueue { name } => format!("release {name}"),
        TopologyChange::Bind(b) => format!("bind {}", binding(&b)),
        TopologyChange::Unbind(b) => format!("unbind {}", binding(&b)),
        other => panic!("{other:?}"),
    }
}

fn attach(a: &Attach) -> String {
    let settled = a.mode == AttachMode::ConsumeSettled;
    let wanted = if settled {
        Credit::Unlimited
    } else {
        Credit::Window { limit: None, shared: Some(WindowId(1)) }
    };
    assert_eq!(a.credit, wanted);
    let mut what = format!("attach {} {}", a.consumer, a.queue);
    for (is_so, word) in
        [(settled, " settled"), (a.exclusive, " exclusive"), (a.no_local, " no-local")]
    {
        if is_so {
            what.push_str(word);
        }
    }
    what
}

/// A delivery to `consumer` of one message that was published with `qos` to `topic`.
pub fn delivery_of(consumer: u64, qos: Qos, topic: &str, first: u64) -> Delivery {
    let message =
        Message { qos, retain: false, topic, properties: Properties::NONE, payload: b"m" };
    Delivery {
        consumer: ConsumerId(consumer),
        queue: QueueId(1),
        first,
        len: 1,
        epoch: LeaseEpoch(1),
        deadline: Time::NEVER,
        batch: store(&message, "amq.topic"),
        record: 0,
        redelivered: false,
        delivery_count: 0,
        waited_ms: 0,
        annotations: None,
    }
}

/// Its event.
pub fn delivery(consumer: u64, qos: Qos, topic: &str, first: u64) -> Event {
    Event::Deliveries(vec![delivery_of(consumer, qos, topic, first)])
}

/// A delivery that may have come before.
pub fn redelivery(consumer: u64, qos: Qos, topic: &str, first: u64) -> Event {
    let delivery = delivery_of(consumer, qos, topic, first);
    Event::Deliveries(vec![Delivery { redelivered: true, ..delivery }])
}

/// A delivery of what an exchange has kept.
pub fn recalled(consumer: u64, qos: Qos, topic: &str, first: u64) -> Event {
    let annotations = Annotations { recalled: true, ..Annotations::default() };
    let delivery = delivery_of(consumer, qos, topic, first);
    Event::Deliveries(vec![Delivery { annotations: Some(Arc::new(annotations)), ..delivery }])
}
