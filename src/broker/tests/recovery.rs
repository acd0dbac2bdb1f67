//! From what is on a disk to a broker: the log alone or behind a checkpoint, and what is missing
//! or damaged.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::client::{Client, bodies, window};
use common::disk::{Gate, Watched};
use common::world::World;
use common::{Announce, Node, Setup, eventually, in_jumping_time, seeds};
use isthmus_broker::RecoveryError;
use isthmus_broker::cluster::raft::EntryKind;
use isthmus_broker::storage::{
    AppendEntry, EntryMeta, Error as StorageError, Log, LogOptions, SimStorage, Storage,
};
use isthmus_core::QueueStatus;
use isthmus_model::{Annotations, Outcome};

/// What there is to be seen of a broker.
#[derive(Debug, PartialEq)]
struct Contents {
    queues: Vec<QueueStatus>,
    bindings: Vec<String>,
    /// By queue and sequence.
    messages: BTreeMap<(String, u64), Message>,
}

#[derive(Debug, PartialEq)]
struct Message {
    body: Vec<u8>,
    redelivered: bool,
    delivery_count: u32,
    annotations: Option<Arc<Annotations>>,
}

async fn contents(sim: &SimStorage, setup: &Setup) -> Contents {
    let node = setup.start(Arc::new(sim.clone())).unwrap();
    let (queues, bindings) = node
        .look(|shard| {
            let topology = shard.leader().unwrap().dispatcher().topology();
            let bindings = topology.bindings(common::VHOST).into_iter().flatten();
            let mut bindings: Vec<String> = bindings.map(|b| format!("{b:?}")).collect();
            bindings.sort();
            (shard.leader().unwrap().dispatcher().queue_statuses(), bindings)
        })
        .await;
    let mut client = Client::connect(&node.broker).await;
    let mut messages = BTreeMap::new();
    for (consumer, queue) in queues.iter().enumerate() {
        for d in client.take_all(&queue.name, consumer as u64).await {
            for (sequence, body) in (d.first..).zip(bodies(&d)) {
                let seen = Message {
                    body: body.to_vec(),
                    redelivered: d.redelivered,
                    delivery_count: d.delivery_count,
                    annotations: d.annotations.clone(),
                };
                messages.insert((queue.name.to_string(), sequence), seen);
            }
        }
    }
    Contents { queues, bindings, messages }
}

fn checkpoints(sim: &SimStorage) -> Vec<String> {
    let names = sim.list().unwrap();
    names.into_iter().filter(|name| name.ends_with(".ckp")).collect()
}

fn never() -> Setup {
    Setup { checkpoint_after_bytes: u64::MAX, unpaged_bytes_max: u64::MAX, ..Setup::default() }
}

#[test]
fn a_checkpoint_and_the_rest_of_the_log_are_as_good_as_the_log() {
    for seed in seeds(20) {
        let _announce = Announce(seed);
        let sim = SimStorage::new(seed);
        in_jumping_time(async {
            let node = never().start(Arc::new(sim.clone())).unwrap();
            let mut world = World::new(seed);
            let mut workers = world.connect(&node, 3).await;
            for _ in 0..100 {
                world.step(&node, &mut workers).await.unwrap();
            }
            world.settle_down(&mut workers).await.unwrap();
            drop(workers);
            node.stop().await.unwrap();
            // What was held and is ready again can be more than a queue may hold: what it drops
            // then says when, which is not to differ between the two that follow.
            let node = never().start(Arc::new(sim.clone())).unwrap();
            world.prepare(&mut Client::connect(&node.broker).await).await;
            node.stop().await.unwrap();
        });
        let by_log = sim.fork();
        let by_checkpoint = sim.fork();
        in_jumping_time(async {
            // What is in the log counts, so that the checkpoint is due at once.
            let node = Node::start(&by_checkpoint).unwrap();
            eventually("a checkpoint", || !checkpoints(&by_checkpoint).is_empty()).await;
            node.stop().await.unwrap();
            // One term more there, one term more here.
            never().start(Arc::new(by_log.clone())).unwrap().stop().await.unwrap();
        });
        let from_log = in_jumping_time(contents(&by_log, &never()));
        let from_checkpoint = in_jumping_time(contents(&by_checkpoint, &never()));
        assert!(!from_log.messages.is_empty());
        assert_eq!(from_log, from_checkpoint);
    }
}

#[test]
fn a_log_that_grows_a_little_in_every_life_is_checkpointed_all_the_same() {
    let sim = SimStorage::new(1);
    for life in 0.. {
        assert!(life < 10, "the log goes on growing");
        in_jumping_time(async {
            let node = Node::start(&sim).unwrap();
            let mut client = Client::connect(&node.broker).await;
            client.declare("q").await;
            client.publish("q", &[vec![0; 1000]]).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(client);
            node.stop().await.unwrap();
        });
        if !checkpoints(&sim).is_empty() {
            break;
        }
    }
}

/// The segments of the log.
fn segments(sim: &SimStorage) -> usize {
    let names = sim.list().unwrap();
    names.iter().filter(|name| name.starts_with("log-")).count()
}

#[test]
fn a_node_that_is_killed_again_and_again_does_not_pile_up_segments() {
    const LIVES: u64 = 40;
    let log = LogOptions { segment_bytes: 16 << 10, ..Setup::default().log };
    // As many segments between two checkpoints as by default.
    let setup = Setup { checkpoint_after_bytes: 8 * log.segment_bytes, log, ..never() };
    let mut sim = SimStorage::new(1);
    let mut most = 0;
    for life in 0..LIVES {
        sim = in_jumping_time(async {
            let node = setup.start(Arc::new(sim.clone())).unwrap();
            let mut client = Client::connect(&node.broker).await;
            client.declare("q").await;
            client.publish("q", &[life.to_le_bytes().to_vec()]).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            // As a kill leaves it: whatever was written is there, nothing is sealed.
            sim.fork()
        });
        most = most.max(segments(&sim));
    }
    assert!((8..=16).contains(&most), "{most} segments at the most");
    let found = in_jumping_time(contents(&sim, &setup));
    let bodies: Vec<Vec<u8>> = found.messages.into_values().map(|message| message.body).collect();
    let published: Vec<Vec<u8>> = (0..LIVES).map(|life| life.to_le_bytes().to_vec()).collect();
    assert_eq!(bodies, published);
}

/// A disk with a checkpoint, and with a log that begins behind it.
fn checkpointed() -> SimStorage {
    let sim = SimStorage::new(1);
    in_jumping_time(async {
        let node = Node::start(&sim).unwrap();
        let mut client = Client::connect(&node.broker).await;
        client.declare("q").await;
        while checkpoints(&sim).is_empty() || !is_purged(&sim) {
            client.publish("q", &[vec![0; 1000]]).await;
            let credit = window(10);
            client.consume("q", 1, credit).await;
            let deliveries = client.deliveries().await;
            client.settle(&deliveries, Outcome::Accept).await;
        }
        drop(client);
        node.stop().await.unwrap();
    });
    sim
}

fn is_purged(sim: &SimStorage) -> bool {
    sim.contents("log-0000000000000001.seg").is_none()
}

#[test]
fn a_missing_checkpoint_is_missed() {
    let sim = checkpointed();
    for name in checkpoints(&sim) {
        sim.remove(&name).unwrap();
    }
    let refused = in_jumping_time(async { Node::start(&sim).err().unwrap() });
    assert!(matches!(refused, RecoveryError::Gap { checkpoint: 0, .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("a checkpoint file is missing; restore it"), "{text}");
}

#[test]
fn a_missing_log_is_missed() {
    let sim = checkpointed();
    for name in sim.list().unwrap().iter().filter(|name| !name.ends_with(".ckp")) {
        sim.remove(name).unwrap();
    }
    let refused = in_jumping_time(async { Node::start(&sim).err().unwrap() });
    assert!(matches!(refused, RecoveryError::Short { .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("the files of the log are missing; restore"), "{text}");
}

#[test]
fn a_checkpoint_is_never_ahead_of_the_log() {
    in_jumping_time(async {
        let sim = SimStorage::new(1);
        let gate = Arc::new(Gate::default());
        Node::start(&sim).unwrap().stop().await.unwrap();
        let watched = Watched::held_up(&sim, "log-writer", &gate);
        gate.shut();
        let node = Setup::default().start(Arc::new(watched)).unwrap();
        let mut client = Client::connect(&node.broker).await;
        // Not even the entry that begins the term is durable yet.
        client.request_declare("q").await;
        for _ in 0..10 {
            client.publish_later("q", &[vec![0; 1000]], None).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let left: Vec<SimStorage> = (0..20).map(|seed| sim.crash(seed)).collect();
        gate.open();
        for sim in left {
            Node::start(&sim).unwrap();
        }
    });
}

// By the real clock: the other stands still while a checkpoint is written.
#[tokio::test]
async fn the_directory_is_not_given_up_while_a_checkpoint_is_written() {
    let (sim, gate) = (SimStorage::new(1), Arc::new(Gate::default()));
    let watched = Watched::held_up(&sim, "tokio-rt-worker", &gate);
    let node = Setup::default().start(Arc::new(watched)).unwrap();
    let mut client = Client::connect(&node.broker).await;
    client.declare("q").await;
    gate.shut();
    client.publish("q", &[vec![0; 5000]]).await;
    let is_written = || sim.list().unwrap().iter().any(|name| name.ends_with(".ckp.tmp"));
    eventually("a checkpoint", is_written).await;
    drop(client);
    let stopping = tokio::spawn(node.stop());
    tokio::time::sleep(Duration::from_millis(20)).await;
    let taken = sim.lock();
    gate.open();
    assert!(taken.is_err(), "another broker could start");
    stopping.await.unwrap().unwrap();
    assert!(sim.lock().is_ok());
    assert!(!is_written());
}

#[test]
fn a_damaged_entry_is_named() {
    let sim = SimStorage::new(1);
    in_jumping_time(async {
        let node = never().start(Arc::new(sim.clone())).unwrap();
        let mut client = Client::connect(&node.broker).await;
        client.declare("q").await;
        client.publish("q", &[b"the one that is damaged".to_vec()]).await;
        client.publish("q", &[b"the one behind it".to_vec()]).await;
        drop(client);
        node.stop().await.unwrap();
    });
    let segment = "log-0000000000000001.seg";
    let bytes = sim.contents(segment).unwrap();
    let at = bytes.windows(8).position(|w| w == b"the one ").unwrap() as u64;
    sim.flip_bit(segment, at, 3);
    let refused = in_jumping_time(async { Node::start(&sim).err().unwrap() });
    assert!(matches!(refused, RecoveryError::Storage(StorageError::Corrupt { .. })), "{refused:?}");
    assert!(refused.to_string().starts_with(&format!("{segment} is damaged at offset")));
}

#[test]
fn an_entry_that_cannot_be_understood_is_named() {
    let sim = SimStorage::new(1);
    in_jumping_time(async { never().start(Arc::new(sim.clone())).unwrap().stop().await.unwrap() });
    let (mut log, recovered) = Log::open(Arc::new(sim.clone()), LogOptions::default()).unwrap();
    let index = recovered.last.index + 1;
    let meta =
        EntryMeta { group: 0, term: recovered.last.term, index, kind: EntryKind::Normal as u8 };
    log.append(&[AppendEntry { meta, payload: &[b"whatever this says"] }]).unwrap();
    log.close().unwrap();
    let refused = in_jumping_time(async { Node::start(&sim).err().unwrap() });
    assert!(matches!(refused, RecoveryError::Entry { .. }), "{refused:?}");
    assert!(refused.to_string().starts_with(&format!("log entry {index}: ")), "{refused}");
}
