//! Retained messages under power cuts: what was answered is recalled, and nothing that nobody
//! asked for.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::client::{Client, batch_of, bodies};
use common::{Announce, Node, in_jumping_time, seeds, simulated};
use isthmus_broker::storage::SimStorage;
use isthmus_broker::storage::fs::{Fault, Rng, SyncSite};
use isthmus_contract::{Command, Event, Publish, Recall};
use isthmus_model::{PublishRefusal, RecordFlags, Reply, Token};

/// Every virtual host has it.
const EXCHANGE: &str = "amq.topic";
const KEYS: [&str; 6] = ["a", "a.b", "a.b.c", "b", "b.a", "b.c"];

/// Asks for a message to be retained.
async fn retain(client: &mut Client, flags: RecordFlags, key: &str, body: &[u8]) -> Token {
    let batch = batch_of(flags.with(RecordFlags::RETAIN), EXCHANGE, key, &[body.to_vec()]);
    client.request(|token| Command::Publish(Publish { token, batch, transaction: None })).await
}

/// What is recalled, with the key it came under.
async fn recall(node: &Node, pattern: &str) -> Vec<(String, Vec<u8>)> {
    let mut client = Client::connect(&node.broker).await;
    client.declare("recalled").await;
    let pattern = pattern.into();
    let recall = |token| {
        let (exchange, queue) = (EXCHANGE.into(), "recalled".into());
        Command::Recall(Recall { token, exchange, pattern, queue })
    };
    let Ok(Reply::Messages(count)) = client.ask(recall).await else { panic!("no recall") };
    let mut all = Vec::new();
    for d in client.take_all("recalled", 1).await {
        assert!(d.annotations.as_ref().unwrap().recalled);
        let records = &d.batch.records[d.record as usize..(d.record + d.len) as usize];
        for (record, body) in records.iter().zip(bodies(&d)) {
            all.push((d.batch.routing_key(record).to_owned(), body.to_vec()));
        }
    }
    assert_eq!(all.len() as u64, count);
    client.ask(|token| delete(token, "recalled")).await.unwrap();
    all
}

fn delete(token: Token, queue: &str) -> Command {
    let change = isthmus_contract::TopologyChange::DeleteQueue {
        name: queue.into(),
        if_unused: false,
        if_empty: false,
    };
    Command::Topology { token, change }
}

/// What was asked to be retained under a key, in order; nothing is an empty body.
#[derive(Default)]
struct Asked {
    bodies: Vec<Vec<u8>>,
    /// The first of them that may be found.
    certain: usize,
}

/// What clients asked for over all the lives of a disk.
#[derive(Default)]
struct World {
    keys: BTreeMap<&'static str, Asked>,
    asked: u64,
}

impl World {
    /// Compares with what is there; that is what counts from now on.
    async fn verify(&mut self, node: &Node) {
        let found: BTreeMap<String, Vec<u8>> = recall(node, "#").await.into_iter().collect();
        for key in KEYS {
            let asked = self.keys.entry(key).or_default();
            if asked.bodies.is_empty() {
                asked.bodies.push(Vec::new());
            }
            let body = found.get(key).cloned().unwrap_or_default();
            let at = asked.bodies.iter().rposition(|asked| *asked == body);
            let at = at.unwrap_or_else(|| panic!("{key}: {body:?} was never asked for"));
            assert!(at >= asked.certain, "{key}: {at} is there, {} was answered", asked.certain);
            *asked = Asked { bodies: vec![body], certain: 0 };
        }
        let below = recall(node, "a.#").await;
        let expected = found.into_iter().filter(|(key, _)| key.starts_with('a'));
        assert_eq!(below, expected.collect::<Vec<_>>());
    }

    /// Asks for much and hears what it is told, until the power goes or all is done.
    async fn work(&mut self, rng: &mut Rng, node: &Node, steps: u64) {
        let mut client = Client::connect(&node.broker).await;
        let mut open: BTreeMap<Token, (&'static str, usize)> = BTreeMap::new();
        for step in 0..steps {
            self.asked += 1;
            let key = KEYS[rng.below(KEYS.len() as u64) as usize];
            let mut body = format!("{} ", self.asked).into_bytes();
            body.resize(body.len() + rng.below(300) as usize, b'x');
            if rng.chance(15) {
                body.clear();
            }
            let flags = if rng.chance(50) { RecordFlags::DURABLE } else { RecordFlags::default() };
            let asked = self.keys.entry(key).or_default();
            asked.bodies.push(body.clone());
            let at = asked.bodies.len() - 1;
            open.insert(retain(&mut client, flags, key, &body).await, (key, at));
            if step == steps - 1 || rng.chance(30) {
                tokio::time::sleep(Duration::from_millis(rng.below(4))).await;
            }
            if step == steps - 1 && !node.has_failed() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            while let Some(event) = client.try_event() {
                let Event::Done { token, result: Ok(_) } = event else { continue };
                if let Some((key, at)) = open.remove(&token) {
                    let asked = self.keys.entry(key).or_default();
                    asked.certain = asked.certain.max(at);
                }
            }
        }
    }
}

/// All lives of a seed; returns how many messages were answered. `prepare` is called with every
/// disk before it is used.
fn run(seed: u64, prepare: &dyn Fn(&SimStorage)) -> usize {
    let mut rng = Rng::new(seed);
    let mut world = World::default();
    let mut sim = SimStorage::new(rng.next_u64());
    let mut answered = 0;
    for _ in 0..4 {
        prepare(&sim);
        let (steps, order) = (10 + rng.below(60), rng.next_u64());
        sim = simulated(order, async {
            let node = Node::start(&sim).unwrap();
            world.verify(&node).await;
            sim.inject(sim.operations() + rng.below(120), Fault::PowerCut);
            tokio::select! {
                biased;
                () = world.work(&mut rng, &node, steps) => {}
                // Whoever waits to send waits in vain.
                () = failure(&node) => {}
            }
            answered += world.keys.values().map(|asked| asked.certain).sum::<usize>();
            sim.crash(rng.next_u64())
        })
        .0;
    }
    in_jumping_time(async {
        let node = Node::start(&sim).unwrap();
        world.verify(&node).await;
        node.stop().await.unwrap();
    });
    answered
}

#[test]
fn what_is_retained_survives_power_cuts() {
    let seeds = seeds(60);
    let lives = seeds.end - seeds.start;
    let answered: usize = seeds
        .map(|seed| {
            let _announce = Announce(seed);
            run(seed, &|_| {})
        })
        .sum();
    assert!(answered as u64 > 15 * lives, "{answered}");
}

#[test]
fn an_ignored_sync_is_noticed() {
    let lie = |sim: &SimStorage| {
        sim.ignore_syncs(|site| matches!(site, SyncSite::File(name) if name.starts_with("log-")));
    };
    let noticed = |seed: &u64| catch_unwind(AssertUnwindSafe(|| run(*seed, &lie))).is_err();
    let seed = (0..200).find(noticed);
    eprintln!("noticed by seed {:?}", seed.unwrap());
}

async fn failure(node: &Node) {
    while !node.has_failed() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_checkpoint_has_what_is_retained() {
    let sim = SimStorage::new(1);
    let expected: Vec<(String, Vec<u8>)> =
        KEYS.map(|key| (key.to_owned(), format!("latest of {key}").into_bytes())).into();
    in_jumping_time(async {
        let node = Node::start(&sim).unwrap();
        let mut client = Client::connect(&node.broker).await;
        for (key, body) in &expected {
            let token = retain(&mut client, RecordFlags::default(), key, body).await;
            client.answer_to(token).await.unwrap();
        }
        // Enough for several checkpoints, and for the log to forget its beginning.
        client.declare("q").await;
        for n in 0..200u32 {
            client.publish("q", &[vec![n as u8; 500]]).await;
            let taken = client.take_all("q", u64::from(n) + 1).await;
            client.settle(&taken, isthmus_model::Outcome::Accept).await;
        }
        node.stop().await.unwrap();
    });
    for _ in 0..2 {
        in_jumping_time(async {
            let node = Node::start(&sim).unwrap();
            assert_eq!(recall(&node, "#").await, expected);
            node.stop().await.unwrap();
        });
    }
}

#[test]
fn what_there_is_no_room_for_is_refused() {
    let sim = SimStorage::new(1);
    in_jumping_time(async {
        let node = Node::start(&sim).unwrap();
        let mut client = Client::connect(&node.broker).await;
        let body = vec![b'x'; 300 << 10];
        for (n, key) in KEYS.iter().enumerate() {
            let token = retain(&mut client, RecordFlags::default(), key, &body).await;
            let Ok(Reply::Published { exceptions }) = client.answer_to(token).await else {
                panic!("not answered")
            };
            // 1 MiB has room for three.
            let refused: Vec<_> = exceptions.iter().map(|e| e.refusal).collect();
            let expected = if n < 3 { vec![] } else { vec![PublishRefusal::Full] };
            assert_eq!(refused, expected, "{key}");
        }
        assert_eq!(recall(&node, "#").await.len(), 3);
        node.stop().await.unwrap();
    });
    in_jumping_time(async {
        let node = Node::start(&sim).unwrap();
        assert_eq!(recall(&node, "#").await.len(), 3);
        node.stop().await.unwrap();
    });
}
