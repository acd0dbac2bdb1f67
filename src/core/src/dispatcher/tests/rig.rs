//! A ledger and a dispatcher with everything around them that a test needs: sessions by name, a
//! log that is committed when the test says so, a clock that stands until it is moved, and
//! crashes.
//!
//! An entry goes through its encoded form on its way to the ledger, as it does in production.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::{
    Annotations, Attach, AttachMode, Batch, BindingDef, CommandError, ConsumerId, Credit,
    Destination, Encoding, EncodingId, Encodings, ExchangeDef, ExchangeKind, LeaseEpoch, Lifetime,
    NO_TTL, Outcome, QueueDef, QueueId, QueueOptions, Recall, Record, RecordFlags, Reply, Sequence,
    SessionId, SettingKey, SettingKind, Settlement, SharedOptions, Span, Table, Time, Token,
    TopologyChange, TransactionId, Value, WindowId,
};

use crate::dispatcher::{Clock, Dispatcher, DispatcherOptions, Output, QueueStatus};
use crate::paging::{self, PageContent, PageKey};
use crate::{Entry, Fact, Ledger, Part, Run, Wanted, codec};

/// The virtual host of sessions that name no other.
pub(super) const VHOST: &str = "/";

/// The exchange by which the broker tells of itself.
pub(super) const OWN_EXCHANGE: &str = "amq.own";

/// Whose sessions are that name no other user.
const USER: &str = "guest";

/// Heads of messages in tests: fields apart by `;`, of which `+key` is one more routing key,
/// `.name=value` a property and `name=value` a header.
struct TestEncoding;

const ENCODINGS: Encodings = Encodings(&[(EncodingId::AMQP_0_9_1, &TestEncoding)]);

impl TestEncoding {
    fn fields(head: &[u8]) -> impl Iterator<Item = &str> {
        std::str::from_utf8(head).unwrap_or_default().split(';')
    }
}

impl Encoding for TestEncoding {
    fn headers(&self, head: &[u8]) -> Table {
        let named = TestEncoding::fields(head).filter_map(|field| field.split_once('='));
        let headers = named.filter(|(name, _)| !name.starts_with('.'));
        // A delay is a number as it would be on the wire, if it is one.
        let value = |name: &str, text: &str| match text.parse() {
            Ok(number) if name == "x-delay" => Value::Int(number),
            _ => Value::String(text.into()),
        };
        Table(headers.map(|(name, text)| (name.into(), value(name, text))).collect())
    }

    fn more_routing_keys(&self, head: &[u8]) -> Vec<String> {
        TestEncoding::fields(head)
            .filter_map(|field| field.strip_prefix('+').map(str::to_owned))
            .collect()
    }

    fn property(&self, head: &[u8], name: &str) -> Option<String> {
        TestEncoding::fields(head)
            .filter_map(|field| field.strip_prefix('.')?.split_once('='))
            .find_map(|(n, value)| (n == name).then(|| value.to_owned()))
    }
}

/// See the module's documentation.
pub(super) struct Rig {
    pub(super) ledger: Ledger,
    pub(super) dispatcher: Dispatcher,
    options: DispatcherOptions,
    pub(super) clock: Clock,
    /// Payloads of entries that are proposed and not committed.
    in_flight: VecDeque<Bytes>,
    /// Payloads of every entry that is committed.
    log: Vec<Bytes>,
    /// The contents of pages that were written.
    pages: HashMap<PageKey, Bytes>,
    /// Whether pages that are wanted are read at the end of a turn.
    pub(super) reads_pages: bool,
    /// A ledger as a checkpoint has it, and how many entries it has applied.
    checkpoint: Option<(Vec<Bytes>, usize)>,
    sessions: BTreeMap<String, SessionId>,
    next_session: u64,
    next_token: u64,
    heard: BTreeMap<SessionId, Vec<Output>>,
}

impl Rig {
    pub(super) fn new() -> Rig {
        Rig::with_outbox(u64::MAX)
    }

    /// A rig whose sessions' outboxes hold so many bytes.
    pub(super) fn with_outbox(outbox_bytes_max: u64) -> Rig {
        let options = DispatcherOptions {
            encodings: ENCODINGS,
            outbox_bytes_max,
            page_bytes_max: u64::MAX,
            retained_bytes_max: 100_000,
            name_seed: [7; 32],
            own_exchange: Some(OWN_EXCHANGE),
        };
        let clock = Clock { monotonic: Time::from_millis(5), log: Time::from_millis(1_000_000) };
        let ledger = Ledger::new();
        let mut rig = Rig {
            dispatcher: Dispatcher::new(options, &ledger, clock),
            ledger,
            options,
            clock,
            in_flight: VecDeque::new(),
            log: Vec::new(),
            pages: HashMap::new(),
            reads_pages: true,
            checkpoint: None,
            sessions: BTreeMap::new(),
            next_session: 1,
            next_token: 1,
            heard: BTreeMap::new(),
        };
        rig.begin_term();
        rig.dispatcher.declare_vhost(VHOST);
        rig.run();
        rig
    }

    /// A new term begins with so many bytes of pages in memory.
    pub(super) fn limit_pages(&mut self, bytes: u64) {
        self.options.page_bytes_max = bytes;
        self.crash();
    }

    pub(super) fn options(&self) -> DispatcherOptions {
        self.options
    }

    fn begin_term(&mut self) {
        let term = Fact::Term(self.ledger.term() + 1);
        let payload = encoded(&Entry { time: self.clock.log, facts: vec![term] });
        self.apply(payload);
        self.dispatcher = Dispatcher::new(self.options, &self.ledger, self.clock);
    }

    // Sessions and what they ask for.

    /// Opens a session.
    pub(super) fn open(&mut self, name: &str) -> SessionId {
        self.open_in(name, VHOST)
    }

    /// Opens a session in a virtual host.
    pub(super) fn open_in(&mut self, name: &str, vhost: &str) -> SessionId {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        self.sessions.insert(name.into(), id);
        self.dispatcher.open_session(id, &vhost.into(), &USER.into());
        id
    }

    pub(super) fn session(&self, name: &str) -> SessionId {
        *self.sessions.get(name).unwrap_or_else(|| panic!("no session is called {name}"))
    }

    /// Whether a session is called so.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.sessions.contains_key(name)
    }

    /// Ends a session.
    pub(super) fn close(&mut self, name: &str) {
        let id = self.session(name);
        self.dispatcher.close_session(&self.ledger, id);
    }

    pub(super) fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    pub(super) fn topology(&mut self, name: &str, change: TopologyChange) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.change_topology(&self.ledger, id, token, change);
        token
    }

    pub(super) fn declare(&mut self, name: &str, def: QueueDef) -> Token {
        self.topology(name, TopologyChange::DeclareQueue(def))
    }

    pub(super) fn declare_exchange(&mut self, name: &str, def: ExchangeDef) -> Token {
        self.topology(name, TopologyChange::DeclareExchange(def))
    }

    pub(super) fn bind(&mut self, name: &str, exchange: &str, key: &str, queue: &str) -> Token {
        self.topology(name, TopologyChange::Bind(binding(exchange, key, queue)))
    }

    pub(super) fn look_up(&mut self, name: &str, queue: &str) -> Token {
        self.topology(name, TopologyChange::LookUpQueue { name: queue.into() })
    }

    pub(super) fn delete(&mut self, name: &str, queue: &str) -> Token {
        let change =
            TopologyChange::DeleteQueue { name: queue.into(), if_unused: false, if_empty: false };
        self.topology(name, change)
    }

    pub(super) fn purge(&mut self, name: &str, queue: &str) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.purge(&self.ledger, id, token, &queue.into());
        token
    }

    /// Publishes messages as one batch.
    pub(super) fn publish(
        &mut self,
        name: &str,
        messages: impl IntoIterator<Item = Message>,
    ) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.publish(&self.ledger, id, token, batch(messages), None);
        token
    }

    /// Publishes messages as one batch of a transaction.
    pub(super) fn publish_in(
        &mut self,
        name: &str,
        tx: u32,
        messages: impl IntoIterator<Item = Message>,
    ) -> Token {
        let (id, token) = (self.session(name), self.token());
        let tx = Some(TransactionId(tx));
        self.dispatcher.publish(&self.ledger, id, token, batch(messages), tx);
        token
    }

    pub(super) fn attach(&mut self, name: &str, attach: Attach) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.attach(&self.ledger, id, Attach { token, ..attach });
        token
    }

    /// Asks for what an exchange keeps.
    pub(super) fn recall(&mut self, name: &str, exchange: &str, key: &str, queue: &str) -> Token {
        let (id, token) = (self.session(name), self.token());
        let (exchange, pattern, queue) = (exchange.into(), key.into(), queue.into());
        let recall = Recall { token, exchange, pattern, queue };
        self.dispatcher.recall(&self.ledger, id, &recall);
        token
    }

    pub(super) fn detach(&mut self, name: &str, consumer: u64) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.detach(&self.ledger, id, token, ConsumerId(consumer));
        token
    }

    pub(super) fn credit(&mut self, name: &str, consumer: u64, credit: Credit) {
        let id = self.session(name);
        self.dispatcher.set_credit(&self.ledger, id, ConsumerId(consumer), credit);
    }

    pub(super) fn window(&mut self, name: &str, window: u32, limit: Option<u32>) {
        let id = self.session(name);
        self.dispatcher.set_window(id, WindowId(window), limit);
    }

    /// Settles deliveries, neighbours as one.
    pub(super) fn settle<'a>(
        &mut self,
        name: &str,
        outcome: Outcome,
        deliveries: impl IntoIterator<Item = &'a Got>,
    ) -> Token {
        self.settle_in(name, None, outcome, deliveries)
    }

    pub(super) fn settle_in<'a>(
        &mut self,
        name: &str,
        tx: Option<u32>,
        outcome: Outcome,
        deliveries: impl IntoIterator<Item = &'a Got>,
    ) -> Token {
        let (id, token) = (self.session(name), self.token());
        let mut settlements: Vec<Settlement> = Vec::new();
        for next in deliveries.into_iter().map(|d| d.settlement(outcome)) {
            match settlements.last_mut() {
                Some(s)
                    if (s.queue, s.epoch) == (next.queue, next.epoch)
                        && s.first + u64::from(s.len) == next.first =>
                {
                    s.len += 1;
                }
                _ => settlements.push(next),
            }
        }
        let tx = tx.map(TransactionId);
        self.dispatcher.settle(&self.ledger, id, token, settlements, tx);
        token
    }

    pub(super) fn begin(&mut self, name: &str, tx: u32) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.begin(&self.ledger, id, token, TransactionId(tx));
        token
    }

    pub(super) fn commit_tx(&mut self, name: &str, tx: u32) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.commit(&self.ledger, id, token, TransactionId(tx));
        token
    }

    pub(super) fn rollback(&mut self, name: &str, tx: u32) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.rollback(&self.ledger, id, token, TransactionId(tx));
        token
    }

    /// Gives a setting of the virtual host `/` a value, or none.
    pub(super) fn set(
        &mut self,
        name: &str,
        kind: SettingKind,
        setting: &str,
        value: Option<Table>,
    ) -> Token {
        let (id, token) = (self.session(name), self.token());
        let key = SettingKey::of_vhost(kind, VHOST, setting);
        self.dispatcher.set_setting(&self.ledger, id, token, key, value.map(Arc::new));
        token
    }

    pub(super) fn delete_vhost(&mut self, name: &str, vhost: &str) -> Token {
        let (id, token) = (self.session(name), self.token());
        self.dispatcher.delete_vhost(&self.ledger, id, token, vhost);
        token
    }

    // The log and the clock.

    /// Takes the next entry, if there is one to propose.
    pub(super) fn propose(&mut self) -> bool {
        let Some(entry) = self.dispatcher.take_entry() else { return false };
        self.in_flight.push_back(encoded(&entry));
        true
    }

    /// Commits the oldest entry that is proposed, if there is one.
    pub(super) fn commit(&mut self) -> bool {
        let Some(payload) = self.in_flight.pop_front() else { return false };
        self.apply(payload);
        self.dispatcher.committed(&self.ledger);
        true
    }

    fn apply(&mut self, payload: Bytes) {
        self.log.push(payload);
        let index = self.log.len() as u64;
        self.ledger.apply_at(index, &codec::decode(&self.log[self.log.len() - 1]).unwrap());
    }

    /// Writes what is in memory to pages, all but what the last `young` entries brought, and a
    /// checkpoint. A page is read at once if it has a message for which `keeps` says so, as if it
    /// had not been forgotten.
    pub(super) fn page_out(
        &mut self,
        page_bytes: u64,
        young: usize,
        keeps: impl Fn(QueueId, Sequence) -> bool,
    ) {
        let logged_upto = self.log.len().saturating_sub(young) as u64;
        let wanted = Wanted { logged_upto, page_bytes, ..Wanted::default() };
        self.write_pages(&wanted, &keeps);
        let entries = self.ledger.entries(200).map(|entry| encoded(&entry)).collect();
        self.checkpoint = Some((entries, self.log.len()));
    }

    /// Writes the messages that are in pages of all files to new ones.
    pub(super) fn compact(&mut self, page_bytes: u64) {
        let files = self.pages.keys().map(|key| key.file).collect();
        let wanted = Wanted { logged_upto: 0, page_bytes, files };
        self.write_pages(&wanted, &|_, _| true);
    }

    fn write_pages(&mut self, wanted: &Wanted, keeps: &dyn Fn(QueueId, Sequence) -> bool) {
        let file = 1 + self.pages.keys().map(|key| key.file).max().unwrap_or(0);
        let mut offset = 0;
        let mut queues = self.ledger.unpaged_queues();
        queues.extend(self.ledger.queues_in(&wanted.files));
        for queue in queues {
            let mut from = 0;
            while let Some((gathered, next)) = self.ledger.gather(queue, from, wanted) {
                from = next;
                let sources: HashMap<PageKey, PageContent> =
                    gathered.sources().map(|key| (key, self.content(key))).collect();
                let unwritten =
                    gathered.write(ENCODINGS, |key| sources.get(&key)).unwrap().unwrap();
                let content = Bytes::from(unwritten.content.clone());
                let key = PageKey { file, offset, len: content.len() as u32 };
                offset += content.len() as u64;
                self.pages.insert(key, content);
                let (page, written) = unwritten.placed(key);
                self.ledger.page_out(&page, &written);
                let sequences = page.first..page.first + u64::from(page.span);
                if sequences.into_iter().any(|sequence| keeps(queue, sequence)) {
                    self.read_page(key);
                }
            }
        }
    }

    fn content(&self, key: PageKey) -> PageContent {
        paging::read(&self.pages[&key]).unwrap()
    }

    pub(super) fn read_page(&mut self, key: PageKey) {
        let content = self.content(key);
        self.dispatcher.page_read(key, content);
    }

    /// A message of the ledger, in memory.
    fn run_of(&self, part: &Part) -> Vec<Run> {
        let paged = match part {
            Part::Here(run) => return vec![run.clone()],
            Part::Paged(paged) => paged,
        };
        let content = self.content(paged.page.key);
        let mut runs = Vec::new();
        for stretch in paged.parts() {
            let mut at = stretch.first;
            while let Some(rest) = stretch.part(at, u64::MAX) {
                let run = rest.read(&content).unwrap();
                at = run.end();
                runs.push(run);
            }
        }
        runs
    }

    /// Ends a turn: delivers, expires and drops what is due.
    pub(super) fn dispatch(&mut self) {
        for (session, output) in self.turn() {
            self.heard.entry(session).or_default().push(output);
        }
    }

    /// Ends a turn; what there is to say is the caller's.
    pub(super) fn turn(&mut self) -> Vec<(SessionId, Output)> {
        self.dispatcher.dispatch(&self.ledger);
        while self.reads_pages {
            let wanted = self.dispatcher.take_wanted_pages();
            if wanted.is_empty() {
                break;
            }
            wanted.into_iter().for_each(|key| self.read_page(key));
            self.dispatcher.dispatch(&self.ledger);
        }
        self.dispatcher.take_outputs()
    }

    /// Goes on until nothing is left to do at this time.
    pub(super) fn run(&mut self) {
        self.dispatch();
        while self.propose() || self.commit() {
            self.dispatch();
        }
    }

    /// Lets both clocks go on.
    pub(super) fn advance_ms(&mut self, ms: u64) {
        self.clock.monotonic = Time::from_millis(self.clock.monotonic.as_millis() + ms);
        self.clock.log = Time::from_millis(self.clock.log.as_millis() + ms);
        self.dispatcher.set_clock(self.clock);
    }

    /// Milliseconds until the dispatcher wants to be called, if ever.
    pub(super) fn timeout_ms(&self) -> Option<u64> {
        let at = self.dispatcher.next_timeout();
        (at != Time::NEVER).then(|| at.since(self.clock.monotonic).as_millis() as u64)
    }

    /// The leader dies: what is not committed is lost with everything that is not in the log,
    /// sessions included; a new term begins. Checks on the way that a checkpoint taken after any
    /// entry, with the entries behind it, says what the whole log says.
    pub(super) fn crash(&mut self) {
        self.in_flight.clear();
        self.sessions.clear();
        let replayed = replay(&Ledger::new(), &self.log);
        assert_eq!(self.state(&replayed), self.state(&self.ledger), "two replays differ");
        let half = replay(&Ledger::new(), &self.log[..self.log.len() / 2]);
        let restored = replay(&half, &self.log[self.log.len() / 2..]);
        assert_eq!(self.state(&restored), self.state(&self.ledger), "a checkpoint loses something");
        self.ledger = self.checkpointed().unwrap_or(restored);
        assert_eq!(
            self.state(&replayed),
            self.state(&self.ledger),
            "a checkpoint with pages loses something"
        );
        self.begin_term();
    }

    /// A ledger that was restored from the last checkpoint and the log.
    fn checkpointed(&self) -> Option<Ledger> {
        let (entries, applied) = self.checkpoint.as_ref()?;
        let mut ledger = Ledger::new();
        for entry in entries {
            ledger.apply(&codec::decode(entry).unwrap());
        }
        if let Some(from) = ledger.awaited_from() {
            for index in from as usize..=*applied {
                ledger.recall(index as u64, &codec::decode(&self.log[index - 1]).unwrap());
            }
        }
        ledger.restored().unwrap();
        for (at, payload) in self.log.iter().enumerate().skip(*applied) {
            ledger.apply_at(at as u64 + 1, &codec::decode(payload).unwrap());
        }
        Some(ledger)
    }

    /// All that a ledger says, however its messages are cut into runs and wherever they are.
    fn state(&self, ledger: &Ledger) -> Vec<String> {
        let facts = ledger.entries(u64::MAX).flat_map(|entry| entry.facts);
        let mut lines = Vec::new();
        for fact in facts {
            match fact {
                Fact::Restore { .. } | Fact::Logged { .. } | Fact::Page(_) | Fact::Paged { .. } => {
                }
                Fact::QueueState { id, .. } => {
                    lines.push(format!("{fact:?}"));
                    let parts = ledger.queue(id).into_iter().flat_map(|queue| queue.runs.iter());
                    for run in parts.flat_map(|part| self.run_of(part)) {
                        lines.extend((0..run.len).map(|i| in_full(id, &run, i)));
                    }
                }
                _ => lines.push(format!("{fact:?}")),
            }
        }
        lines
    }

    /// The facts of every entry that is committed, in order.
    pub(super) fn facts(&self) -> Vec<Fact> {
        self.log.iter().flat_map(|payload| codec::decode(payload).unwrap().facts).collect()
    }

    /// How many entries are committed.
    pub(super) fn entries(&self) -> usize {
        self.log.len()
    }

    // What came of it.

    /// What the session was told since it was last asked, in words.
    pub(super) fn heard(&mut self, name: &str) -> Vec<String> {
        self.outputs(name).iter().map(in_words).collect()
    }

    /// The messages that the session got since it was last asked; other news is passed over.
    pub(super) fn got(&mut self, name: &str) -> Vec<Got> {
        self.outputs(name).iter().flat_map(Got::of).collect()
    }

    /// What the session was told since it was last asked.
    pub(super) fn outputs(&mut self, name: &str) -> Vec<Output> {
        let id = self.session(name);
        self.heard.remove(&id).unwrap_or_default()
    }

    pub(super) fn status(&self, queue: &str) -> QueueStatus {
        self.find_status(queue).unwrap_or_else(|| panic!("there is no queue {queue}"))
    }

    pub(super) fn find_status(&self, queue: &str) -> Option<QueueStatus> {
        self.dispatcher.queue_statuses().into_iter().find(|s| &*s.name == queue)
    }

    /// How many messages of a queue are ready, and how many unsettled.
    pub(super) fn counts(&self, queue: &str) -> (u64, u64) {
        let status = self.status(queue);
        (status.ready, status.unacked)
    }

    /// The bodies of everything ready in a queue, in order, taken out by a passing session.
    pub(super) fn drain(&mut self, queue: &str) -> Vec<String> {
        self.open("the drain");
        self.attach("the drain", taking(1, queue));
        self.run();
        let bodies = bodies(&self.got("the drain"));
        self.close("the drain");
        self.run();
        bodies
    }
}

fn encoded(entry: &Entry) -> Bytes {
    let mut payload = Vec::new();
    codec::encode(entry, &mut payload);
    payload.into()
}

/// A ledger that was restored from a checkpoint of `from` and then applied `log`.
fn replay(from: &Ledger, log: &[Bytes]) -> Ledger {
    let mut ledger = Ledger::new();
    for entry in from.entries_without_log(200) {
        ledger.apply(&codec::decode(&encoded(&entry)).unwrap());
    }
    for payload in log {
        ledger.apply(&codec::decode(payload).unwrap());
    }
    ledger
}

/// Everything about one message of a run.
fn in_full(queue: QueueId, run: &Run, offset: u32) -> String {
    let batch = &run.batch;
    let record = &batch.records[(run.record + offset) as usize];
    format!(
        "{queue}/{}: {:?} to {:?} {:?} since {:?}, {} failed, {:?}, {:?} {} {}",
        run.first + u64::from(offset),
        batch.body(record),
        batch.exchange(record),
        batch.routing_key(record),
        run.enqueued_at,
        run.delivery_count,
        run.annotations,
        record.flags,
        record.priority,
        record.ttl_ms,
    )
}

/// One delivered message.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) consumer: ConsumerId,
    pub(super) queue: QueueId,
    pub(super) sequence: Sequence,
    pub(super) epoch: LeaseEpoch,
    pub(super) body: String,
    pub(super) redelivered: bool,
    pub(super) delivery_count: u32,
    pub(super) waited_ms: u64,
    pub(super) annotations: Option<Arc<Annotations>>,
}

impl Got {
    /// The messages of an output, none if it is not a delivery.
    pub(super) fn of(output: &Output) -> Vec<Got> {
        let Output::Deliver { delivery: d, .. } = output else { return Vec::new() };
        (0..d.len)
            .map(|i| {
                let body = d.batch.body(&d.batch.records[(d.record + i) as usize]);
                Got {
                    consumer: d.consumer,
                    queue: d.queue,
                    sequence: d.first + u64::from(i),
                    epoch: d.epoch,
                    body: String::from_utf8(body.to_vec()).unwrap(),
                    redelivered: d.redelivered,
                    delivery_count: d.delivery_count,
                    waited_ms: d.waited_ms,
                    annotations: d.annotations.clone(),
                }
            })
            .collect()
    }

    pub(super) fn settlement(&self, outcome: Outcome) -> Settlement {
        let (queue, first, epoch) = (self.queue, self.sequence, self.epoch);
        Settlement { queue, first, len: 1, epoch, outcome }
    }
}

pub(super) fn bodies(got: &[Got]) -> Vec<String> {
    got.iter().map(|g| g.body.clone()).collect()
}

/// How [`Rig::heard`] tells that the request of `token` is done.
pub(super) fn done(token: Token) -> String {
    format!("done {token}")
}

fn in_words(output: &Output) -> String {
    match output {
        Output::Done { token, result: Ok(reply) } => match reply {
            Reply::Queue { name, ready, consumers, .. } => {
                format!("done {token}: {name} has {ready} ready, {consumers} consumers")
            }
            Reply::Messages(n) => format!("done {token}: {n} messages"),
            Reply::Session { present, notes } => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let notes = notes.iter().map(|note| {
                    let value = note.value.as_ref().map(|value| text(value));
                    format!(" {}={}", text(&note.key), value.unwrap_or_default())
                });
                let is = if *present { "goes on" } else { "is new" };
                format!("session {is}:{}", notes.collect::<String>())
            }
            Reply::Published { exceptions } if !exceptions.is_empty() => {
                let all = exceptions.iter().map(|e| format!("{} {:?}", e.record, e.refusal));
                format!("done {token} save {}", all.collect::<Vec<_>>().join(", "))
            }
            _ => done(*token),
        },
        Output::Done { token, result: Err(error) } => format!("refused {token}: {}", kind(error)),
        Output::Deliver { delivery, .. } => {
            let flag = if delivery.redelivered { " again" } else { "" };
            let bodies = bodies(&Got::of(output)).join(" ");
            format!("consumer {}: {bodies}{flag}", delivery.consumer)
        }
        Output::CreditState { consumer, credit, drained, ready } => {
            let why = if *drained { "drained" } else { "spent" };
            format!("consumer {consumer}: credit {credit}, {why}, {ready} ready")
        }
        Output::Detached { consumer, reason } => format!("consumer {consumer}: {reason:?}"),
        Output::VhostDeleted => "virtual host deleted".to_owned(),
        Output::TakenOver => "taken over".to_owned(),
        Output::SessionEnded => "session ended".to_owned(),
    }
}

fn kind(error: &CommandError) -> &'static str {
    match error {
        CommandError::NotFound(_) => "not found",
        CommandError::Precondition(_) => "precondition",
        CommandError::Locked(_) => "locked",
        CommandError::Refused(_) => "not allowed",
        CommandError::Invalid(_) => "invalid",
        CommandError::NotImplemented(_) => "not implemented",
        CommandError::Limit(_) => "limit",
        CommandError::NotLeader => "not the leader",
    }
}

// Messages.

/// A message to publish.
#[derive(Clone, Debug)]
pub(super) struct Message {
    exchange: String,
    key: String,
    body: String,
    ttl_ms: u32,
    priority: u8,
    flags: RecordFlags,
    head: String,
}

/// A durable message to a queue.
pub(super) fn durable(queue: &str, body: impl Into<String>) -> Message {
    Message { flags: RecordFlags::DURABLE, ..transient(queue, body) }
}

/// A message to a queue that no restart survives.
pub(super) fn transient(queue: &str, body: impl Into<String>) -> Message {
    Message {
        exchange: String::new(),
        key: queue.into(),
        body: body.into(),
        ttl_ms: NO_TTL,
        priority: 0,
        flags: RecordFlags::default(),
        head: "\0\0".into(),
    }
}

/// `count` durable messages to a queue, with their numbers as bodies.
pub(super) fn numbered(queue: &str, count: usize) -> Vec<Message> {
    (1..=count).map(|n| durable(queue, n.to_string())).collect()
}

impl Message {
    /// Through an exchange, the queue's name becoming the routing key.
    pub(super) fn through(self, exchange: &str) -> Message {
        Message { exchange: exchange.into(), ..self }
    }

    pub(super) fn ttl_ms(self, ttl_ms: u32) -> Message {
        Message { ttl_ms, ..self }
    }

    pub(super) fn priority(self, priority: u8) -> Message {
        Message { priority, ..self }
    }

    /// With a head of these fields ([`TestEncoding`]).
    pub(super) fn head(self, head: impl Into<String>) -> Message {
        let head = head.into();
        let more_keys = head.split(';').any(|field| field.starts_with('+'));
        let more_keys = if more_keys { RecordFlags::MORE_KEYS } else { RecordFlags::default() };
        Message { head, flags: self.flags.with(more_keys), ..self }
    }

    /// To be kept by its exchange.
    pub(super) fn retained(self) -> Message {
        Message { flags: self.flags.with(RecordFlags::RETAIN), ..self }
    }

    /// To be held by its virtual host for as long as its head says.
    pub(super) fn delayed(self) -> Message {
        Message { flags: self.flags.with(RecordFlags::DELAYED), ..self }
    }

    pub(super) fn mandatory(self) -> Message {
        Message { flags: self.flags.with(RecordFlags::MANDATORY), ..self }
    }
}

/// One batch of messages, each with a head of two bytes if it has no other.
pub(super) fn batch(messages: impl IntoIterator<Item = Message>) -> Arc<Batch> {
    let mut chunk = Vec::new();
    let mut put = |bytes: &str| {
        let start = chunk.len();
        chunk.extend_from_slice(bytes.as_bytes());
        Span::new(start, bytes.len())
    };
    let records = messages
        .into_iter()
        .map(|m| Record {
            exchange: put(&m.exchange),
            routing_key: put(&m.key),
            head: put(&m.head),
            body: put(&m.body),
            ttl_ms: m.ttl_ms,
            priority: m.priority,
            flags: m.flags,
        })
        .collect();
    Arc::new(Batch::new(EncodingId::AMQP_0_9_1, chunk.into(), records))
}

// Declarations.

/// A durable queue.
pub(super) fn queue(name: &str) -> QueueDef {
    QueueDef {
        name: name.into(),
        lifetime: Lifetime::Durable,
        auto_delete: false,
        options: SharedOptions::default(),
        arguments: Table::default(),
    }
}

/// A durable queue with options.
pub(super) fn queue_with(name: &str, set: impl FnOnce(&mut QueueOptions)) -> QueueDef {
    let mut def = queue(name);
    set(&mut def.options);
    def
}

/// A queue that no restart survives.
pub(super) fn volatile_queue(name: &str) -> QueueDef {
    QueueDef { lifetime: Lifetime::Volatile, ..queue(name) }
}

/// Dead messages go to the queue `to` through the default exchange.
pub(super) fn dead_letters_to(options: &mut QueueOptions, to: &str) {
    options.dead_letter_exchange = Some("".into());
    options.dead_letter_routing_key = Some(to.into());
}

/// A durable exchange.
pub(super) fn exchange(name: &str, kind: ExchangeKind) -> ExchangeDef {
    ExchangeDef {
        name: name.into(),
        kind,
        durable: true,
        auto_delete: false,
        internal: false,
        delayed: false,
        arguments: Table::default(),
    }
}

pub(super) fn table(fields: &[(&str, Value)]) -> Table {
    Table(fields.iter().map(|(name, value)| ((*name).into(), value.clone())).collect())
}

pub(super) fn binding(exchange: &str, key: &str, queue: &str) -> BindingDef {
    BindingDef {
        source: exchange.into(),
        destination: Destination::Queue(queue.into()),
        routing_key: key.into(),
        arguments: Table::default(),
    }
}

// Consumers.

/// A consumer that settles, with no limit to its unsettled deliveries.
pub(super) fn consuming(consumer: u64, queue: &str) -> Attach {
    Attach {
        token: Token::SILENT,
        consumer: ConsumerId(consumer),
        queue: queue.into(),
        mode: AttachMode::Consume,
        credit: Credit::Window { limit: None, shared: None },
        lease_ms: None,
        exclusive: false,
        look: false,
        no_local: false,
        filter: None,
        arguments: Table::default(),
        tag: "".into(),
    }
}

/// A consumer that settles, with `limit` unsettled deliveries at the most.
pub(super) fn prefetching(consumer: u64, queue: &str, limit: u32) -> Attach {
    let credit = Credit::Window { limit: Some(limit), shared: None };
    Attach { credit, ..consuming(consumer, queue) }
}

/// A consumer that takes messages as settled.
pub(super) fn taking(consumer: u64, queue: &str) -> Attach {
    let credit = Credit::Unlimited;
    Attach { mode: AttachMode::ConsumeSettled, credit, ..consuming(consumer, queue) }
}

/// Asks for one message now or none (AMQP 0-9-1's basic.get).
pub(super) fn getting(consumer: u64, queue: &str) -> Attach {
    let credit = Credit::Explicit { credit: 1, drain: true, deadline: Time(0) };
    Attach { credit, look: true, ..consuming(consumer, queue) }
}
