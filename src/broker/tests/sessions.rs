//! Lasting sessions in the whole broker: what power cuts leave of them, who has them open, and
//! what their clients may do.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use common::client::{Client, batch, bodies, durable_queue, window};
use common::{Announce, Node, Setup, in_jumping_time, patiently, seeds, simulated};
use isthmus_broker::storage::SimStorage;
use isthmus_broker::storage::fs::{Fault, Rng};
use isthmus_broker::{Access, Denied};
use isthmus_contract::{
    Attach, AttachMode, CloseReason, Command, CommandError, Credit, Event, Note, OpenSession,
    Publish, Reply, Token, TopologyChange, TransactOp,
};
use isthmus_model::{
    Action, BindingDef, ConsumerId, Destination, Lifetime, QueueDef, QueueOptions, Resource,
    SharedOptions, Table, TransactionId, Will,
};

const TX: TransactionId = TransactionId(1);

/// Lives of a disk in one seed.
const LIVES: u64 = 4;

fn open(token: Token, client: &str, expiry_ms: u64) -> OpenSession {
    OpenSession { token, client: client.into(), clean: false, expiry_ms, will: None }
}

fn will(exchange: &str, key: &str, body: &str) -> Option<Will> {
    Some(Will { batch: batch(exchange, key, &[body.as_bytes().to_vec()]), delay_ms: 0 })
}

fn own_queue(name: &str) -> QueueDef {
    QueueDef {
        name: name.into(),
        lifetime: Lifetime::Durable,
        auto_delete: false,
        options: SharedOptions::default(),
        arguments: Table::default(),
    }
}

fn note(key: &str, value: u64) -> Note {
    Note { key: key.as_bytes().into(), value: Some(value.to_string().as_bytes().into()) }
}

/// Opens a session and returns whether it was there, and its notes in words.
async fn begin(client: &mut Client, name: &str) -> (bool, BTreeMap<String, u64>) {
    let reply = client.ask(|token| Command::OpenSession(open(token, name, 3_600_000))).await;
    let Ok(Reply::Session { present, notes }) = reply else { panic!("not opened: {reply:?}") };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let noted = notes.into_iter().map(|note| {
        let value = note.value.map(|value| text(&value)).unwrap();
        (text(&note.key), value.parse().unwrap())
    });
    (present, noted.collect())
}

/// What there may be of a session.
#[derive(Default)]
struct Model {
    /// Whether somebody was told that it is there.
    is_there: bool,
    /// What must stand under each key, or something later that was asked for.
    noted: BTreeMap<String, BTreeSet<Option<u64>>>,
    /// Numbers that came with a message each, in one transaction: whether that was answered.
    moved: BTreeMap<u64, bool>,
    last: u64,
}

impl Model {
    /// Compares with what is there, and works until the end.
    async fn live(&mut self, node: &Node, rng: &mut Rng, steps: u64) {
        let mut client = Client::connect(&node.broker).await;
        let (present, notes) = begin(&mut client, "c").await;
        assert!(present || !self.is_there, "the session is lost");
        self.is_there = true;
        let declare = TopologyChange::DeclareOwnQueue(own_queue("own"));
        client.ask(|token| Command::Topology { token, change: declare }).await.unwrap();
        let taken = client.take_all("own", 1).await;
        let messages: Vec<u64> = taken
            .iter()
            .flat_map(bodies)
            .map(|body| std::str::from_utf8(body).unwrap().parse().unwrap())
            .collect();
        self.compare(&notes, &messages);
        for _ in 0..steps {
            self.step(&mut client, rng).await;
        }
    }

    fn compare(&mut self, notes: &BTreeMap<String, u64>, messages: &[u64]) {
        let (moved, noted): (BTreeMap<_, _>, BTreeMap<_, _>) =
            notes.iter().partition(|(key, _)| key.starts_with('t'));
        for (key, possible) in &mut self.noted {
            let stands = noted.get(key).map(|value| **value);
            assert!(possible.contains(&stands), "{key}: {stands:?} is not of {possible:?}");
            *possible = BTreeSet::from([stands]);
        }
        let with_note: BTreeSet<u64> = moved.values().map(|value| **value).collect();
        assert!(with_note.iter().eq(messages), "half a transaction");
        for (number, answered) in &self.moved {
            assert!(!answered || messages.contains(number), "{number} is lost");
        }
        self.moved = messages.iter().map(|number| (*number, true)).collect();
    }

    async fn step(&mut self, client: &mut Client, rng: &mut Rng) {
        self.last += 1;
        let last = self.last;
        if rng.chance(60) {
            let key = format!("k{}", rng.below(4));
            let value = (!rng.chance(20)).then_some(last);
            let possible = self.noted.entry(key.clone()).or_insert_with(|| [None].into());
            possible.insert(value);
            let noted = match value {
                Some(value) => note(&key, value),
                None => Note { key: key.as_bytes().into(), value: None },
            };
            let notes = vec![noted];
            let answer =
                client.ask(|token| Command::Note { token, notes, of: None, transaction: None });
            answer.await.unwrap();
            self.noted.insert(key, [value].into());
            return;
        }
        self.moved.insert(last, false);
        let op = |op| move |token| Command::Transact { token, transaction: TX, op };
        client.request(op(TransactOp::Begin)).await;
        let transaction = Some(TX);
        let notes = vec![note(&format!("t{last}"), last)];
        client.request(|token| Command::Note { token, notes, of: None, transaction }).await;
        client.publish_later("own", &[last.to_string().into_bytes()], transaction).await;
        client.ask(op(TransactOp::Commit)).await.unwrap();
        self.moved.insert(last, true);
    }
}

async fn failure(node: &Node) {
    while !node.has_failed() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// One life: recover, compare, work, lose power or stop.
async fn live(model: &mut Model, sim: &SimStorage, rng: &mut Rng) -> SimStorage {
    let is_cut = rng.chance(70);
    if is_cut {
        sim.inject(sim.operations() + rng.below(150), Fault::PowerCut);
    }
    let node = match Setup::default().start(Arc::new(sim.clone())) {
        Ok(node) => node,
        Err(_) if sim.is_cut() => return sim.crash(rng.next_u64()),
        Err(error) => panic!("does not start: {error}"),
    };
    let steps = rng.below(60);
    tokio::select! {
        biased;
        () = model.live(&node, rng, steps) => {}
        () = failure(&node) => {}
    }
    if node.has_failed() || rng.chance(50) {
        return sim.crash(rng.next_u64());
    }
    node.stop().await.ok();
    if sim.is_cut() { sim.crash(rng.next_u64()) } else { sim.fork() }
}

#[test]
fn what_was_noted_survives_power_cuts_with_what_came_with_it() {
    for seed in seeds(60) {
        let _announce = Announce(seed);
        let mut rng = Rng::new(seed);
        let mut model = Model::default();
        let mut sim = SimStorage::new(rng.next_u64());
        for _ in 0..LIVES {
            let order = rng.next_u64();
            sim = simulated(order, live(&mut model, &sim, &mut rng)).0;
        }
        in_jumping_time(async {
            let node = Node::start(&sim).unwrap();
            model.live(&node, &mut rng, 1).await;
        });
    }
}

#[test]
fn a_will_outlives_a_power_cut_and_is_published_once() {
    let sim = SimStorage::new(3);
    let left = in_jumping_time(async {
        let node = Node::start(&sim).unwrap();
        let mut client = Client::connect(&node.broker).await;
        client.declare("wills").await;
        let leave = |token| {
            let will = will("", "wills", "gone");
            Command::OpenSession(OpenSession { will, ..open(token, "c", 0) })
        };
        client.ask(leave).await.unwrap();
        sim.crash(1)
    });
    let left = in_jumping_time(async {
        let node = Node::start(&left).unwrap();
        let mut client = Client::connect(&node.broker).await;
        // The client may come back, for a while.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(client.take_all("wills", 1).await.is_empty());
        client.consume("wills", 2, window(10)).await;
        let got = patiently(client.deliveries()).await;
        assert_eq!(bodies(&got[0]), [b"gone"]);
        node.look(|shard| assert!(shard.ledger().clients().is_empty())).await;
        left.crash(2)
    });
    in_jumping_time(async {
        let node = Node::start(&left).unwrap();
        let mut client = Client::connect(&node.broker).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let all = client.take_all("wills", 1).await;
        assert_eq!(all.iter().map(|d| d.len).sum::<u32>(), 1);
    });
}

#[test]
fn a_connection_whose_session_another_opens_is_closed() {
    in_jumping_time(async {
        let node = Node::start(&SimStorage::new(1)).unwrap();
        let mut first = Client::connect(&node.broker).await;
        assert_eq!(begin(&mut first, "c").await, (false, BTreeMap::new()));
        let notes = vec![note("k", 1)];
        // Its answer is not waited for.
        first.request(|token| Command::Note { token, notes, of: None, transaction: None }).await;
        let change = TopologyChange::DeclareOwnQueue(own_queue("own"));
        first.ask(|token| Command::Topology { token, change }).await.unwrap();
        let mut second = Client::connect(&node.broker).await;
        let expected = BTreeMap::from([("k".to_owned(), 1)]);
        assert_eq!(begin(&mut second, "c").await, (true, expected));
        loop {
            if let Event::Closed(reason) = patiently(first.event()).await {
                assert_eq!(reason, CloseReason::TakenOver);
                break;
            }
        }
        let goodbye =
            |token| Command::CloseSession { token, expiry_ms: Some(0), publish_will: false };
        second.ask(goodbye).await.unwrap();
        node.look(|shard| {
            assert!(shard.ledger().clients().is_empty());
            assert!(shard.leader().unwrap().dispatcher().queue_statuses().is_empty());
        })
        .await;
    });
}

/// May use no queue, and topics that begin with the client's identifier alone.
#[derive(Default)]
struct Narrow {
    client: String,
}

fn refused(what: &str) -> Denied {
    CommandError::Refused(what.to_owned()).into()
}

impl Access for Narrow {
    fn check(&mut self, action: Action, resource: Resource<'_>) -> Result<(), Denied> {
        match (action, resource) {
            (Action::Read | Action::Write, Resource::Exchange("amq.topic")) => Ok(()),
            _ => Err(refused(resource.name())),
        }
    }

    fn check_topic(&mut self, _: Action, _: &str, key: &str) -> Result<(), Denied> {
        let own = key.split_once('.').is_some_and(|(client, _)| client == self.client);
        if own { Ok(()) } else { Err(refused(key)) }
    }

    fn writes_everything(&mut self) -> bool {
        false
    }

    fn identify(&mut self, client: &str) {
        client.clone_into(&mut self.client);
    }
}

fn bind(queue: &str, key: &str) -> TopologyChange {
    TopologyChange::Bind(BindingDef {
        source: "amq.topic".into(),
        destination: Destination::Queue(queue.into()),
        routing_key: key.into(),
        arguments: Table::default(),
    })
}

fn attach(queue: &str, consumer: u64) -> impl FnOnce(Token) -> Command {
    let queue: Arc<str> = queue.into();
    move |token| {
        Command::Attach(Attach {
            token,
            consumer: ConsumerId(consumer),
            queue,
            mode: AttachMode::Consume,
            credit: Credit::Unlimited,
            lease_ms: None,
            exclusive: false,
            look: false,
            no_local: false,
            filter: None,
            arguments: Table::default(),
            tag: "".into(),
        })
    }
}

#[test]
fn a_session_needs_no_permission_for_queues_of_its_own() {
    let sim = SimStorage::new(1);
    in_jumping_time(async {
        let node = Node::start(&sim).unwrap();
        let mut anybody = Client::connect(&node.broker).await;
        let change = durable_queue("other", QueueOptions::default());
        anybody.ask(|token| Command::Topology { token, change }).await.unwrap();
        node.stop().await.unwrap();
    });
    in_jumping_time(async {
        let setup = Setup { access: || Box::new(Narrow::default()), ..Setup::default() };
        let node = setup.start(Arc::new(sim.clone())).unwrap();
        let mut client = Client::connect(&node.broker).await;
        let leave = |key: &'static str| {
            move |token| {
                let will = will("amq.topic", key, "");
                Command::OpenSession(OpenSession { will, ..open(token, "c", 1000) })
            }
        };
        let answer = client.ask(leave("d.x")).await;
        assert!(matches!(answer, Err(CommandError::Refused(_))), "{answer:?}");
        client.ask(leave("c.x")).await.unwrap();

        // One behind the other, as a session that does not wait would.
        let topology = |change| move |token| Command::Topology { token, change };
        let mut good = Vec::new();
        let own = TopologyChange::DeclareOwnQueue(own_queue("own"));
        good.push(client.request(topology(own)).await);
        good.push(client.request(topology(bind("own", "c.#"))).await);
        let mut bad = vec![client.request(topology(bind("own", "#"))).await];
        good.push(client.request(attach("own", 1)).await);
        bad.push(client.request(topology(bind("other", "c.#"))).await);
        bad.push(client.request(attach("other", 2)).await);
        let hold = TopologyChange::HoldQueue { name: "other".into() };
        bad.push(client.request(topology(hold)).await);
        bad.push(client.request(attach("other", 3)).await);
        let mut answers = BTreeMap::new();
        while answers.len() < good.len() + bad.len() {
            if let Event::Done { token, result } = patiently(client.event()).await {
                answers.insert(token, result);
            }
        }
        for token in &good {
            assert!(answers[token].is_ok(), "{token}: {:?}", answers[token]);
        }
        for token in &bad {
            let answer = &answers[token];
            assert!(matches!(answer, Err(CommandError::Refused(_))), "{token}: {answer:?}");
        }

        // What is somebody else's does not become its own by being asked for.
        let not_own = QueueDef { auto_delete: true, ..own_queue("other") };
        let change = TopologyChange::DeclareOwnQueue(not_own);
        let declared = client.request(topology(change)).await;
        let answer = client.ask(attach("other", 4)).await;
        assert!(matches!(answer, Err(CommandError::Refused(_))), "{declared}: {answer:?}");

        // What it has given up is not its own any more.
        let release = TopologyChange::ReleaseQueue { name: "own".into() };
        client.ask(topology(release)).await.unwrap();
        let answer = client.ask(attach("own", 5)).await;
        assert!(matches!(answer, Err(CommandError::Refused(_))), "{answer:?}");

        let publish = |key: &'static str| {
            let batch = batch("amq.topic", key, &[Vec::new()]);
            move |token| Command::Publish(Publish { token, batch, transaction: None })
        };
        client.ask(publish("c.y")).await.unwrap();
        let answer = client.ask(publish("d.y")).await;
        assert!(matches!(answer, Err(CommandError::Refused(_))), "{answer:?}");
    });
}
