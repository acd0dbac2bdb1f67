//! What clients did to a broker and what they were told of it, and so what must be found after a
//! power cut.
//!
//! A message goes through *stages*: it is nowhere, it is in a queue, it is in the dead-letter queue,
//! it is gone. What was asked for adds a stage; what was answered, or seen in a delivery, makes a
//! stage certain: the message can never again be found before it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use isthmus_broker::storage::fs::Rng;
use isthmus_contract::{Command, Event, Publish, Token, TopologyChange, TransactOp};
use isthmus_model::{
    BindingDef, Delivery, Destination, ExchangeDef, ExchangeKind, Outcome, QueueOptions, Reply,
    Settlement, Table, TransactionId,
};

use super::client::{Client, batch, bodies, durable_queue, settlement, window};
use super::{Node, Patience, VHOST, virtual_time};

/// Rejected messages of `work`, and what `short` has no room for, go to `dead`.
const QUEUES: [&str; 4] = ["work", "plain", "short", "dead"];
const SHORT_LENGTH_MAX: u64 = 6;
/// Routes to queues that are declared on the way.
const EXCHANGE: &str = "route";
const TX: TransactionId = TransactionId(1);

/// Where a message is, as far as a stage goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    In(String),
}

#[derive(Clone, Debug)]
struct Message {
    stages: Vec<Place>,
    /// The first stage that it may be found in.
    certain: usize,
    /// Queues that it was delivered from.
    delivered_from: BTreeSet<String>,
    /// For whoever reads of a broken promise.
    history: Vec<String>,
}

impl Message {
    /// Nothing that was asked for after `stage` can have happened.
    fn cut_after(&mut self, stage: usize) {
        self.stages.truncate(stage + 1);
        // A queue that is too long moves messages by itself, at any time.
        if self.stages[stage] == Place::In("short".to_owned()) {
            self.stages.push(Place::In("dead".to_owned()));
        }
    }

    /// The last stage it may be in if it is at `place`.
    fn stage_at(&self, place: &Place) -> Option<usize> {
        (self.certain..self.stages.len()).rev().find(|i| self.stages[*i] == *place)
    }
}

/// What was published and settled in one transaction, once its commit was asked for.
#[derive(Clone, Debug, Default)]
struct Transaction {
    /// Each message, with the stage that the commit brings it to.
    items: Vec<(u64, usize)>,
    /// Whether it took effect, as far as that can be told.
    happened: Option<bool>,
}

/// Whether a thing is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existence {
    Certain,
    Possible,
    Gone,
}

/// What an answer will be about.
#[derive(Debug)]
enum Asked {
    Publish(Vec<u64>),
    Settle(Vec<(u64, usize)>),
    Commit(usize),
    Declare(String),
    Delete(String),
    Other,
}

/// A delivery that its client has not settled.
struct Held {
    delivery: Delivery,
    queue: String,
    ids: Vec<u64>,
}

/// The end of such a delivery, about to be settled.
struct Taken {
    queue: String,
    ids: Vec<u64>,
    settlement: Settlement,
    /// Where the messages go, `None` if they stay.
    place: Option<Place>,
}

/// A client at work.
struct Worker {
    client: Client,
    held: Vec<Held>,
    asked: HashMap<Token, Asked>,
    answered: usize,
    /// Published in the transaction that is open: each message with its queue.
    tx_published: Vec<(u64, String)>,
    /// Settled in the transaction that is open: each message with its stages before and after.
    tx_settled: Vec<(u64, usize, Place)>,
}

impl Worker {
    /// Sends a command. It is noted first: whoever waits to send may be dropped meanwhile, and the
    /// command be on its way all the same.
    async fn ask(&mut self, asked: Asked, command: impl FnOnce(Token) -> Command) {
        let token = self.client.token();
        self.asked.insert(token, asked);
        self.client.send(command(token)).await;
    }
}

/// What was done, over all the lives of a disk.
#[derive(Clone)]
pub(crate) struct World {
    rng: Rng,
    messages: BTreeMap<u64, Message>,
    transactions: Vec<Transaction>,
    /// Queues declared on the way, each with its binding.
    queues: BTreeMap<String, Existence>,
    /// A number for every event that clients were told, with when they heard it.
    heard: u64,
}

/// The clients of one life.
#[derive(Default)]
pub(crate) struct Workers(Vec<Worker>);

/// A broken promise.
pub(crate) type Broken = String;

fn body(id: u64, len: u64) -> Vec<u8> {
    let mut body = id.to_le_bytes().to_vec();
    body.resize(8 + len as usize, id as u8);
    body
}

fn id_of(body: &[u8]) -> u64 {
    u64::from_le_bytes(body[..8].try_into().unwrap())
}

/// Takes an event into a number for all before it.
fn told(before: u64, worker: usize, event: &Event) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    // Since the runtime began: its clock stands still but for what is simulated.
    (before, worker, virtual_time(), format!("{event:?}")).hash(&mut hasher);
    hasher.finish()
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        World {
            rng: Rng::new(seed),
            messages: BTreeMap::new(),
            transactions: Vec::new(),
            queues: BTreeMap::new(),
            heard: 0,
        }
    }

    /// A number for all that clients were told, and when in virtual time.
    pub(crate) fn heard(&self) -> u64 {
        self.heard
    }

    /// Messages ever published.
    pub(crate) fn published(&self) -> usize {
        self.messages.len()
    }

    /// Declares what every life needs; it may be there already. What the broker moved by itself
    /// before is committed afterwards.
    pub(crate) async fn prepare(&self, client: &mut Client) {
        let dying = QueueOptions {
            dead_letter_exchange: Some("".into()),
            dead_letter_routing_key: Some("dead".into()),
            ..QueueOptions::default()
        };
        let short = QueueOptions { length_max: Some(SHORT_LENGTH_MAX), ..dying.clone() };
        let exchange = ExchangeDef {
            name: EXCHANGE.into(),
            kind: ExchangeKind::Direct,
            durable: true,
            auto_delete: false,
            internal: false,
            delayed: false,
            arguments: Table::default(),
        };
        for change in [
            durable_queue("work", dying),
            durable_queue("plain", QueueOptions::default()),
            durable_queue("short", short),
            durable_queue("dead", QueueOptions::default()),
            TopologyChange::DeclareExchange(exchange),
        ] {
            client.ask(|token| Command::Topology { token, change }).await.unwrap();
        }
    }

    /// Connects `count` clients that consume from every queue.
    pub(crate) async fn connect(&mut self, node: &Node, count: usize) -> Workers {
        let mut workers = Workers::default();
        for _ in 0..count {
            workers.0.push(self.connect_one(node).await);
        }
        workers
    }

    async fn connect_one(&mut self, node: &Node) -> Worker {
        let mut client = Client::connect(&node.broker).await;
        self.prepare(&mut client).await;
        let (transaction, op) = (TX, TransactOp::Begin);
        client.request(|token| Command::Transact { token, transaction, op }).await;
        for (consumer, queue) in QUEUES.iter().enumerate() {
            client.consume(queue, consumer as u64, window(4)).await;
        }
        Worker {
            client,
            held: Vec::new(),
            asked: HashMap::new(),
            answered: 0,
            tx_published: Vec::new(),
            tx_settled: Vec::new(),
        }
    }

    /// Does something at random.
    pub(crate) async fn step(&mut self, node: &Node, workers: &mut Workers) -> Result<(), Broken> {
        let chosen = self.rng.below(workers.0.len() as u64) as usize;
        let worker = &mut workers.0[chosen];
        match self.rng.below(100) {
            0..40 => self.publish(worker).await,
            40..65 => self.settle(worker).await,
            65..73 => self.publish_in_transaction(worker).await,
            73..78 => self.settle_in_transaction(worker).await,
            78..84 => self.end_transaction(worker).await,
            84..89 => self.declare(worker).await,
            89..91 => self.delete(worker).await,
            91..93 => workers.0[chosen] = self.connect_one(node).await,
            // So long that rounds of checkpoints begin.
            _ => tokio::time::sleep(Duration::from_millis(1 + self.rng.below(150))).await,
        }
        self.let_others_go_on().await;
        self.hear(workers)
    }

    /// Lets the broker do something of what was asked for, or much, or nothing.
    async fn let_others_go_on(&mut self) {
        match self.rng.below(10) {
            0..2 => tokio::time::sleep(Duration::from_millis(1 + self.rng.below(4))).await,
            2..6 => {
                for _ in 0..self.rng.below(6) {
                    tokio::task::yield_now().await;
                }
            }
            _ => {}
        }
    }

    fn new_message(&mut self, queue: Option<&str>) -> (u64, Vec<u8>) {
        let id = self.messages.len() as u64 + 1;
        let mut stages = vec![Place::Nowhere];
        stages.extend(queue.map(|q| Place::In(q.to_owned())));
        let mut message =
            Message { stages, certain: 0, delivered_from: BTreeSet::new(), history: Vec::new() };
        message.cut_after(message.stages.len() - 1);
        self.messages.insert(id, message);
        (id, body(id, self.rng.below(600)))
    }

    /// Where the next messages go: exchange, routing key (the queue's name).
    fn address(&mut self) -> (&'static str, String) {
        let declared: Vec<&String> =
            self.queues.iter().filter(|(_, e)| **e == Existence::Certain).map(|(q, _)| q).collect();
        if !declared.is_empty() && self.rng.chance(15) {
            let chosen = self.rng.below(declared.len() as u64) as usize;
            return (EXCHANGE, declared[chosen].clone());
        }
        ("", QUEUES[self.rng.below(3) as usize].to_owned())
    }

    async fn publish(&mut self, worker: &mut Worker) {
        let (exchange, queue) = self.address();
        let count = 1 + self.rng.below(4);
        let (ids, bodies): (Vec<u64>, Vec<_>) =
            (0..count).map(|_| self.new_message(Some(&queue))).unzip();
        let batch = batch(exchange, &queue, &bodies);
        let publish = |token| Command::Publish(Publish { token, batch, transaction: None });
        worker.ask(Asked::Publish(ids), publish).await;
    }

    /// Has a worker publish.
    pub(crate) async fn publish_one(&mut self, workers: &mut Workers) {
        if let Some(worker) = workers.0.first_mut() {
            self.publish(worker).await;
        }
    }

    /// Takes the end of a delivery that the worker holds, if it holds any.
    fn take_held(&mut self, worker: &mut Worker) -> Option<Taken> {
        if worker.held.is_empty() {
            return None;
        }
        let chosen = self.rng.below(worker.held.len() as u64) as usize;
        let mut held = worker.held.swap_remove(chosen);
        let kept = self.rng.below(held.ids.len() as u64) as usize;
        let ids = held.ids.split_off(kept);
        let (outcome, place) = self.outcome(&held.queue);
        let settlement = settlement(&held.delivery, kept as u32, ids.len() as u32, outcome);
        let queue = held.queue.clone();
        if kept > 0 {
            worker.held.push(held);
        }
        Some(Taken { queue, ids, settlement, place })
    }

    /// Where an outcome brings a message, `None` if it stays where it is.
    fn outcome(&mut self, queue: &str) -> (Outcome, Option<Place>) {
        match self.rng.below(10) {
            0..6 => (Outcome::Accept, Some(Place::Nowhere)),
            6..8 => (Outcome::Requeue, None),
            _ if ["work", "short"].contains(&queue) => {
                (Outcome::Reject, Some(Place::In("dead".to_owned())))
            }
            _ => (Outcome::Reject, Some(Place::Nowhere)),
        }
    }

    async fn settle(&mut self, worker: &mut Worker) {
        let Some(taken) = self.take_held(worker) else { return };
        let mut items = Vec::new();
        for id in &taken.ids {
            let message = self.messages.get_mut(id).unwrap();
            message.history.push(format!("{:?} in {}", taken.settlement, taken.queue));
            let stage = message.stage_at(&Place::In(taken.queue.clone()));
            if let (Some(place), Some(stage)) = (&taken.place, stage) {
                message.stages.truncate(stage + 1);
                message.stages.push(place.clone());
                if taken.queue == "short" {
                    // Should the settlement come to nothing, the queue may drop it again.
                    message.stages.push(Place::In("dead".to_owned()));
                }
                items.push((*id, stage + 1));
            }
        }
        let settlements = vec![taken.settlement];
        let settle = |token| Command::Settle { token, settlements, transaction: None };
        worker.ask(Asked::Settle(items), settle).await;
    }

    async fn publish_in_transaction(&mut self, worker: &mut Worker) {
        let queue = QUEUES[self.rng.below(2) as usize];
        let count = 1 + self.rng.below(3);
        // Not to be found anywhere before the commit is asked for.
        let (ids, bodies): (Vec<u64>, Vec<_>) = (0..count).map(|_| self.new_message(None)).unzip();
        worker.tx_published.extend(ids.into_iter().map(|id| (id, queue.to_owned())));
        let (batch, transaction) = (batch("", queue, &bodies), Some(TX));
        let publish = |token| Command::Publish(Publish { token, batch, transaction });
        worker.ask(Asked::Other, publish).await;
    }

    async fn settle_in_transaction(&mut self, worker: &mut Worker) {
        // What `short` drops by itself would hide what became of the transaction.
        if worker.held.iter().any(|held| held.queue == "short") {
            return;
        }
        let Some(taken) = self.take_held(worker) else { return };
        for id in &taken.ids {
            let history = &mut self.messages.get_mut(id).unwrap().history;
            history.push(format!("in transaction: {:?} in {}", taken.settlement, taken.queue));
            let stage = self.messages[id].stage_at(&Place::In(taken.queue.clone()));
            if let (Some(place), Some(stage)) = (&taken.place, stage) {
                worker.tx_settled.push((*id, stage, place.clone()));
            }
        }
        let settlements = vec![taken.settlement];
        let settle = |token| Command::Settle { token, settlements, transaction: Some(TX) };
        worker.ask(Asked::Other, settle).await;
    }

    async fn end_transaction(&mut self, worker: &mut Worker) {
        let published = std::mem::take(&mut worker.tx_published);
        let settled = std::mem::take(&mut worker.tx_settled);
        let end = |op| move |token| Command::Transact { token, transaction: TX, op };
        if self.rng.chance(25) {
            return worker.ask(Asked::Other, end(TransactOp::Rollback)).await;
        }
        let mut items = Vec::new();
        for (id, queue) in published {
            self.messages.get_mut(&id).unwrap().stages.push(Place::In(queue));
            items.push((id, 1));
        }
        for (id, stage, place) in settled {
            let message = self.messages.get_mut(&id).unwrap();
            message.history.push("commit".to_owned());
            message.stages.truncate(stage + 1);
            message.stages.push(place);
            items.push((id, stage + 1));
        }
        self.transactions.push(Transaction { items, happened: None });
        let commit = Asked::Commit(self.transactions.len() - 1);
        worker.ask(commit, end(TransactOp::Commit)).await;
    }

    /// Has a worker publish and settle in its transaction, and commit it or, seldom, roll it back.
    pub(crate) async fn commit_one(&mut self, workers: &mut Workers) {
        if let Some(worker) = workers.0.first_mut() {
            self.publish_in_transaction(worker).await;
            self.settle_in_transaction(worker).await;
            self.end_transaction(worker).await;
        }
    }

    async fn declare(&mut self, worker: &mut Worker) {
        let name = format!("made-{}", self.queues.len());
        let change = durable_queue(&name, QueueOptions::default());
        worker.ask(Asked::Other, |token| Command::Topology { token, change }).await;
        let change = TopologyChange::Bind(BindingDef {
            source: EXCHANGE.into(),
            destination: Destination::Queue(name.as_str().into()),
            routing_key: name.as_str().into(),
            arguments: Table::default(),
        });
        self.queues.insert(name.clone(), Existence::Possible);
        worker.ask(Asked::Declare(name), |token| Command::Topology { token, change }).await;
    }

    /// Deletes a queue that nothing was published to.
    async fn delete(&mut self, worker: &mut Worker) {
        let is_used = |name: &str| {
            let place = Place::In(name.to_owned());
            self.messages.values().any(|m| m.stages.contains(&place))
        };
        let unused = |(name, existence): (&String, &Existence)| {
            (*existence == Existence::Certain && !is_used(name)).then(|| name.clone())
        };
        let Some(name) = self.queues.iter().find_map(unused) else { return };
        self.queues.insert(name.clone(), Existence::Possible);
        let change = TopologyChange::DeleteQueue {
            name: name.as_str().into(),
            if_unused: false,
            if_empty: false,
        };
        worker.ask(Asked::Delete(name), |token| Command::Topology { token, change }).await;
    }

    /// Takes in everything that the clients were told.
    pub(crate) fn hear(&mut self, workers: &mut Workers) -> Result<(), Broken> {
        for (number, worker) in workers.0.iter_mut().enumerate() {
            while let Some(event) = worker.client.try_event() {
                self.heard = told(self.heard, number, &event);
                match event {
                    Event::Done { token, result } => {
                        let Some(asked) = worker.asked.remove(&token) else { continue };
                        worker.answered += 1;
                        match result {
                            Ok(Reply::Published { exceptions }) if !exceptions.is_empty() => {
                                return Err(format!("{asked:?} was not taken: {exceptions:?}"));
                            }
                            Ok(_) => self.done(&asked)?,
                            Err(error) => return Err(format!("{asked:?} was refused: {error}")),
                        }
                    }
                    Event::Deliveries(deliveries) => {
                        for delivery in deliveries {
                            let queue = QUEUES[delivery.consumer.0 as usize].to_owned();
                            let ids: Vec<u64> = bodies(&delivery).into_iter().map(id_of).collect();
                            for id in &ids {
                                self.delivered(*id, &queue, delivery.redelivered)?;
                            }
                            worker.held.push(Held { delivery, queue, ids });
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Waits until everything is answered.
    pub(crate) async fn settle_down(&mut self, workers: &mut Workers) -> Result<(), Broken> {
        let patience = Patience::begin();
        while workers.is_waiting() {
            if patience.is_over() {
                return Err("an answer does not come".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.hear(workers)?;
        }
        Ok(())
    }

    fn done(&mut self, asked: &Asked) -> Result<(), Broken> {
        match asked {
            Asked::Publish(ids) => ids.iter().for_each(|id| self.make_certain(*id, 1)),
            Asked::Settle(items) => {
                for (id, stage) in items {
                    self.make_certain(*id, *stage);
                    let message = self.messages.get_mut(id).unwrap();
                    if message.stages.get(*stage) == Some(&Place::Nowhere) {
                        message.cut_after(*stage);
                    }
                }
            }
            Asked::Commit(transaction) => {
                self.learn(*transaction, true)?;
                for (id, stage) in self.transactions[*transaction].items.clone() {
                    self.make_certain(id, stage);
                }
            }
            Asked::Declare(name) => drop(self.queues.insert(name.clone(), Existence::Certain)),
            Asked::Delete(name) => drop(self.queues.insert(name.clone(), Existence::Gone)),
            Asked::Other => {}
        }
        Ok(())
    }

    fn make_certain(&mut self, id: u64, stage: usize) {
        let message = self.messages.get_mut(&id).unwrap();
        message.certain = message.certain.max(stage);
        message.history.push(format!("certainly at {stage}"));
    }

    fn learn(&mut self, transaction: usize, happened: bool) -> Result<(), Broken> {
        let t = &mut self.transactions[transaction];
        if t.happened.is_some_and(|known| known != happened) {
            return Err(format!("a part of transaction {transaction} took effect: {t:?}"));
        }
        t.happened = Some(happened);
        Ok(())
    }

    /// A message was seen in a queue.
    fn delivered(&mut self, id: u64, queue: &str, redelivered: bool) -> Result<(), Broken> {
        let place = Place::In(queue.to_owned());
        let Some(message) = self.messages.get_mut(&id) else {
            return Err(format!("message {id} was never published"));
        };
        let Some(stage) = message.stage_at(&place) else {
            return Err(format!("message {id} is in {queue}, but: {message:?}"));
        };
        if !message.delivered_from.insert(queue.to_owned()) && !redelivered {
            return Err(format!("message {id} comes again and does not say so: {message:?}"));
        }
        message.history.push(format!("delivered from {queue}"));
        message.certain = stage;
        message.cut_after(stage);
        self.learn_from(id, stage)
    }

    /// Message `id` was found at `stage` of its way.
    fn learn_from(&mut self, id: u64, stage: usize) -> Result<(), Broken> {
        for t in 0..self.transactions.len() {
            let item = self.transactions[t].items.iter().find(|(item, _)| *item == id).copied();
            if let Some((_, brought_to)) = item
                && self.transactions[t].happened.is_none()
            {
                self.learn(t, brought_to <= stage)?;
            }
        }
        Ok(())
    }

    /// Compares what is found after a restart with what must be there.
    pub(crate) async fn verify(&mut self, node: &Node) -> Result<(), Broken> {
        let mut names: Vec<String> = QUEUES.iter().map(|q| (*q).to_owned()).collect();
        for message in self.messages.values_mut() {
            message.history.push("a new life".to_owned());
        }
        self.verify_topology(node).await?;
        names.extend(self.queues.keys().filter(|q| self.queues[*q] == Existence::Certain).cloned());
        let mut client = Client::connect(&node.broker).await;
        self.prepare(&mut client).await;
        // What is over a limit now leaves its queue as soon as its page has been read.
        let is_quiet = || node.look(|shard| shard.is_quiet());
        let patience = Patience::begin();
        while !is_quiet().await {
            if patience.is_over() {
                return Err("a page does not come".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut found: BTreeMap<u64, String> = BTreeMap::new();
        let patience = Patience::begin();
        let (mut consumer, mut wait_ms) = (0, 1);
        loop {
            for queue in &names {
                consumer += 1;
                for delivery in client.take_all(queue, consumer).await {
                    for id in bodies(&delivery).into_iter().map(id_of) {
                        if let Some(other) = found.insert(id, queue.clone()) {
                            return Err(format!("message {id} is in {other} and in {queue}"));
                        }
                        self.delivered(id, queue, delivery.redelivered)?;
                    }
                }
            }
            // What a queue has no room for may wait for its page before it is a dead letter.
            if !self.misses_any(&found) || patience.is_over() {
                break;
            }
            // Looking is dear, and what is lost is looked for until patience is over.
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            wait_ms = (wait_ms * 2).min(1000);
        }
        self.verify_absent(&found)
    }

    /// Whether a message was not found that must be somewhere.
    fn misses_any(&self, found: &BTreeMap<u64, String>) -> bool {
        let is_somewhere =
            |message: &Message| !message.stages[message.certain..].contains(&Place::Nowhere);
        self.messages.iter().any(|(id, message)| !found.contains_key(id) && is_somewhere(message))
    }

    /// What was not found is gone for good.
    fn verify_absent(&mut self, found: &BTreeMap<u64, String>) -> Result<(), Broken> {
        let absent: Vec<u64> =
            self.messages.keys().filter(|id| !found.contains_key(id)).copied().collect();
        // First what is known for sure, which tells more about transactions.
        for id in &absent {
            let message = &self.messages[id];
            let stages = message.certain..message.stages.len();
            let mut possible = stages.filter(|i| message.stages[*i] == Place::Nowhere);
            let Some(first) = possible.next() else {
                return Err(format!("message {id} is lost: {message:?}"));
            };
            if possible.next().is_none() {
                self.learn_from(*id, first)?;
            }
        }
        for id in absent {
            let message = self.messages.get_mut(&id).unwrap();
            (message.stages, message.certain) = (vec![Place::Nowhere], 0);
        }
        Ok(())
    }

    async fn verify_topology(&mut self, node: &Node) -> Result<(), Broken> {
        for (name, existence) in &mut self.queues {
            let queue = name.clone();
            let (is_there, is_bound) = node
                .look(move |shard| {
                    let topology = shard.leader().unwrap().dispatcher().topology();
                    let mut routes = Vec::new();
                    let routed = topology.route(
                        VHOST,
                        EXCHANGE,
                        &[&queue],
                        &mut Table::default,
                        &mut routes,
                    );
                    (topology.queue(VHOST, &queue).is_ok(), routed.is_ok() && !routes.is_empty())
                })
                .await;
            match (*existence, is_there, is_bound) {
                (Existence::Certain, false, _) => return Err(format!("queue {name} is lost")),
                (Existence::Certain, _, false) => return Err(format!("its binding: {name}")),
                (Existence::Gone, true, _) => return Err(format!("queue {name} is back")),
                (Existence::Possible, true, true) => *existence = Existence::Certain,
                (Existence::Possible, false, _) => *existence = Existence::Gone,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Workers {
    /// How much was answered.
    pub(crate) fn answered(&self) -> usize {
        self.0.iter().map(|worker| worker.answered).sum()
    }

    /// Whether anything asked for is not answered.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.iter().any(|worker| !worker.asked.is_empty())
    }
}
