//! The data of a broker of every released format must be understood for ever: a directory with log,
//! checkpoint and pages is opened, and compared with what was in it when it was written.
//!
//! `ISTHMUS_FIXTURE=src/broker/tests/fixtures/v2 cargo test -p isthmus-broker --test fixtures --
//! --ignored` writes one: once for each format version, and never over one that is there.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use common::client::{Client, batch, durable_queue, messages, settlement, window};
use common::{Setup, eventually, in_jumping_time};
use isthmus_broker::offline::Offline;
use isthmus_broker::storage::{SharedStorage, SimStorage, Storage, pages};
use isthmus_contract::{Command, Publish, TopologyChange};
use isthmus_model::{
    Batch, BindingDef, Destination, Encoding, EncodingId, Encodings, ExchangeDef, ExchangeKind,
    Outcome, QueueOptions, Span, Table, Value,
};

/// What was found in the directory when it was written.
const EXPECTED: &str = "expected.txt";

/// Heads that are the delay of a message in decimal digits, and nothing else.
struct Delays;

impl Encoding for Delays {
    fn headers(&self, head: &[u8]) -> Table {
        let delay = std::str::from_utf8(head).ok().and_then(|text| text.parse().ok());
        Table(delay.map(|ms| ("x-delay".to_owned(), Value::Int(ms))).into_iter().collect())
    }

    fn more_routing_keys(&self, _head: &[u8]) -> Vec<String> {
        Vec::new()
    }

    fn property(&self, _head: &[u8], _name: &str) -> Option<String> {
        None
    }
}

fn setup() -> Setup {
    Setup {
        checkpoint_after_bytes: 24 << 10,
        unpaged_bytes_max: u64::MAX,
        encodings: Encodings(&[(EncodingId::AMQP_0_9_1, &Delays)]),
        ..Setup::default()
    }
}

fn texts(what: &str, count: usize) -> Vec<Vec<u8>> {
    (1..=count).map(|i| format!("{what} {i:02} ").repeat(1 + i % 5 * 4).into_bytes()).collect()
}

async fn publish(client: &mut Client, batch: Arc<Batch>) {
    let publish = |token| Command::Publish(Publish { token, batch, transaction: None });
    client.ask(publish).await.unwrap();
}

async fn change(client: &mut Client, change: TopologyChange) {
    client.ask(|token| Command::Topology { token, change }).await.unwrap();
}

async fn declare(client: &mut Client) {
    let dying = QueueOptions {
        dead_letter_exchange: Some("".into()),
        dead_letter_routing_key: Some("dead".into()),
        delivery_limit: Some(5),
        ..QueueOptions::default()
    };
    let ranked = QueueOptions { priority_max: Some(9), ..QueueOptions::default() };
    for (name, options) in [
        ("holes", QueueOptions::default()),
        ("retried", dying),
        ("dead", QueueOptions::default()),
        ("ranked", ranked),
        ("later", QueueOptions::default()),
    ] {
        change(client, durable_queue(name, options)).await;
    }
    let exchange = ExchangeDef {
        name: "late".into(),
        kind: ExchangeKind::Direct,
        durable: true,
        auto_delete: false,
        internal: false,
        delayed: true,
        arguments: Table::default(),
    };
    change(client, TopologyChange::DeclareExchange(exchange)).await;
    let binding = BindingDef {
        source: "late".into(),
        destination: Destination::Queue("later".into()),
        routing_key: "later".into(),
        arguments: Table::default(),
    };
    change(client, TopologyChange::Bind(binding)).await;
}

/// Publishes to every queue; `life` tells the messages from those of another time.
async fn fill(client: &mut Client, life: &str) {
    // 40 days; nobody waits for it.
    let delay = b"3456000000";
    let mut late = (*batch("late", "later", &texts(&format!("{life} late"), 8))).clone();
    let mut chunk = late.chunk.to_vec();
    let head = Span::new(chunk.len(), delay.len());
    chunk.extend_from_slice(delay);
    late.chunk = chunk.into();
    late.records = late.records.iter().map(|r| isthmus_model::Record { head, ..*r }).collect();
    publish(client, Arc::new(late)).await;
    client.publish("holes", &texts(&format!("{life} hole"), 30)).await;
    client.publish("retried", &texts(&format!("{life} retried"), 12)).await;
    let mut ranked = (*batch("", "ranked", &texts(&format!("{life} ranked"), 20))).clone();
    let mut records = ranked.records.to_vec();
    for (i, record) in records.iter_mut().enumerate() {
        record.priority = (i * 7 % 10) as u8;
    }
    ranked.records = records.into_iter().collect();
    publish(client, Arc::new(ranked)).await;
}

/// Settles some of what is in the queues: every third of `holes`, and of `retried` some go back and
/// two to the dead letters.
async fn work(client: &mut Client, consumer: u64) {
    client.consume("holes", consumer, window(100)).await;
    for d in client.deliveries().await {
        for offset in (0..d.len).filter(|i| (d.first + u64::from(*i)) % 3 == 0) {
            settle(client, settlement(&d, offset, 1, Outcome::Accept)).await;
        }
    }
    client.consume("retried", consumer + 1, window(4)).await;
    let Some(d) = client.deliveries().await.into_iter().next() else { return };
    settle(client, settlement(&d, 0, 1, Outcome::Requeue)).await;
    settle(client, settlement(&d, 1, 2.min(d.len - 1), Outcome::Reject)).await;
}

async fn settle(client: &mut Client, settlement: isthmus_model::Settlement) {
    let settlements = vec![settlement];
    client.ask(|token| Command::Settle { token, settlements, transaction: None }).await.unwrap();
}

/// Everything that can be seen in the data on `sim`, which is not changed.
fn describe(sim: &SimStorage) -> String {
    let mut text = String::new();
    let offline = Offline::read(Arc::new(sim.clone())).unwrap();
    let mut bad = Vec::new();
    offline.check_pages(&(Arc::new(sim.clone()) as SharedStorage), &mut |page| bad.push(page));
    assert_eq!(bad, []);
    for q in offline.queues() {
        let (pages, log) = (q.in_pages, q.in_log);
        let (name, bytes, next) = (q.name, q.body_bytes, q.next);
        writeln!(text, "{name}: {bytes} bytes, {pages} in pages, {log} in log, next {next}")
            .unwrap();
    }
    let sim = sim.fork();
    in_jumping_time(async {
        let node = setup().start(Arc::new(sim)).unwrap();
        let mut client = Client::connect(&node.broker).await;
        for (i, queue) in ["holes", "retried", "dead", "ranked", "later"].into_iter().enumerate() {
            for d in client.take_all(queue, i as u64).await {
                for (sequence, (batch, record)) in (d.first..).zip(messages(&d)) {
                    let body = String::from_utf8_lossy(batch.body(record)).into_owned();
                    let deaths: Vec<String> = d
                        .annotations
                        .iter()
                        .flat_map(|a| &a.deaths)
                        .map(|death| format!("{} {:?} {}", death.queue, death.reason, death.count))
                        .collect();
                    let (count, priority) = (d.delivery_count, record.priority);
                    writeln!(
                        text,
                        "{queue} {sequence}: {body:?} priority {priority}, redelivered {}, \
                         count {count}, deaths {deaths:?}",
                        d.redelivered
                    )
                    .unwrap();
                }
            }
        }
    });
    text
}

#[test]
#[ignore = "writes a fixture"]
fn make() {
    let dir = std::env::var("ISTHMUS_FIXTURE").expect("ISTHMUS_FIXTURE says where");
    let sim = SimStorage::new(2);
    for (life, name) in ["first", "second", "third"].into_iter().enumerate() {
        in_jumping_time(async {
            let node = setup().start(Arc::new(sim.clone())).unwrap();
            let mut client = Client::connect(&node.broker).await;
            declare(&mut client).await;
            fill(&mut client, name).await;
            work(&mut client, life as u64 * 2).await;
            if life == 1 {
                // What the first life left is old, the rest stays in the log.
                while pages::list(&sim).unwrap().is_empty() {
                    client.publish("holes", &texts("until it is due", 4)).await;
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
                let is_checkpointed =
                    || sim.list().unwrap().iter().any(|name| name.ends_with(".ckp"));
                eventually("a checkpoint", is_checkpointed).await;
            }
            drop(client);
            node.stop().await.unwrap();
        });
    }
    std::fs::create_dir(&dir).expect("a new directory");
    for name in sim.list().unwrap().iter().filter(|name| !name.starts_with("spare-")) {
        std::fs::write(Path::new(&dir).join(name), sim.contents(name).unwrap()).unwrap();
    }
    std::fs::write(Path::new(&dir).join(EXPECTED), describe(&sim)).unwrap();
}

#[test]
fn version_2_is_understood() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v2");
    let sim = SimStorage::new(1);
    let mut expected = String::new();
    for entry in std::fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap();
        let (name, bytes) = (entry.file_name(), std::fs::read(entry.path()).unwrap());
        let name = name.to_str().unwrap();
        if name == EXPECTED {
            expected = String::from_utf8(bytes).unwrap();
            continue;
        }
        let file = sim.create(name).unwrap();
        let mut at = 0;
        while at < bytes.len() {
            at += file.write_at(&bytes[at..], at as u64).unwrap();
        }
    }
    let found = describe(&sim);
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.lines().count(), expected.lines().count());
    // Something of everything is there.
    for part in [
        "holes 10:",
        "amq.delayed.late: 3096 bytes, 8 in pages",
        "retried Rejected 1",
        "count 1",
        "priority 9",
    ] {
        assert!(expected.contains(part), "{part}");
    }
}
