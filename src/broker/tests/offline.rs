//! Looking into the data of a broker that does not run.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::client::Client;
use common::world::World;
use common::{Node, Setup, VHOST, eventually, in_jumping_time};
use isthmus_broker::offline::{BadPage, Offline, QueueContent};
use isthmus_broker::storage::pages::{self, PageOptions, PageWriter};
use isthmus_broker::storage::{SharedStorage, SimStorage, Storage};

/// A disk with messages in pages and in the log, and what its broker said was in each queue.
fn worked_on() -> (SimStorage, Vec<(String, u64)>) {
    let sim = SimStorage::new(7);
    let counts = in_jumping_time(async {
        let node = Setup { unpaged_bytes_max: u64::MAX, ..Setup::default() }
            .start(Arc::new(sim.clone()))
            .unwrap();
        let mut world = World::new(7);
        let mut workers = world.connect(&node, 2).await;
        for _ in 0..150 {
            world.step(&node, &mut workers).await.unwrap();
        }
        world.settle_down(&mut workers).await.unwrap();
        drop(workers);
        let mut client = Client::connect(&node.broker).await;
        for _ in 0..20 {
            client.publish("plain", &[vec![1; 700]]).await;
        }
        // A page file is there before the checkpoint that names it.
        let named = || !read(&sim.fork()).page_files().is_empty();
        eventually("a checkpoint with pages", named).await;
        let statuses =
            node.look(|shard| shard.leader().unwrap().dispatcher().queue_statuses()).await;
        node.stop().await.unwrap();
        statuses.iter().map(|q| (q.name.to_string(), q.ready + q.unacked)).collect()
    });
    (sim, counts)
}

fn read(sim: &SimStorage) -> Offline {
    Offline::read(Arc::new(sim.clone())).unwrap()
}

fn bad_pages(sim: &SimStorage) -> Vec<BadPage> {
    let storage: SharedStorage = Arc::new(sim.clone());
    let mut bad = Vec::new();
    read(sim).check_pages(&storage, &mut |page| bad.push(page));
    bad
}

fn files(sim: &SimStorage) -> Vec<(String, Option<Vec<u8>>)> {
    let names = sim.list().unwrap().into_iter();
    names.map(|name| (name.clone(), sim.contents(&name))).collect()
}

#[test]
fn the_content_of_queues_is_told_and_nothing_changes() {
    let (sim, counts) = worked_on();
    let before = files(&sim);
    let queues: Vec<QueueContent> = read(&sim).queues();
    assert!(files(&sim) == before, "looking changed something");
    assert!(queues.iter().all(|q| &*q.vhost == VHOST && q.in_pages + q.in_log == q.messages));
    assert!(queues.iter().any(|q| q.in_pages > 0) && queues.iter().any(|q| q.in_log > 0));
    let mut found: Vec<_> = queues.iter().map(|q| (q.name.to_string(), q.messages)).collect();
    let mut expected = counts;
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn page_files_that_nothing_names_are_told_from_those_that_are_needed() {
    let (sim, _) = worked_on();
    let storage: SharedStorage = Arc::new(sim.clone());
    let needed = read(&sim).page_files();
    assert!(!needed.is_empty());
    let mut writer = PageWriter::create(&storage, 900, PageOptions::default()).unwrap();
    writer.append(b"left by a crash").unwrap();
    writer.finish().unwrap();
    assert_eq!(read(&sim).page_files(), needed);
    let found: BTreeSet<u64> = pages::list(&sim).unwrap().into_iter().collect();
    assert!(found.is_superset(&needed) && found.contains(&900));
    assert_eq!(bad_pages(&sim), []);
}

/// The lengths of the pages of a file.
fn page_lengths(bytes: &[u8]) -> Vec<usize> {
    let (mut lengths, mut at) = (Vec::new(), 32);
    while &bytes[at + 4..at + 8] == b"PAGE" {
        let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        lengths.push(len);
        at += 40 + len;
    }
    lengths
}

#[test]
fn whole_pages_with_other_content_are_noticed() {
    let (sim, _) = worked_on();
    let storage: SharedStorage = Arc::new(sim.clone());
    let number = *read(&sim).page_files().first().unwrap();
    let name = format!("pages-{number:020}.pag");
    let lengths = page_lengths(&sim.contents(&name).unwrap());
    sim.remove(&name).unwrap();
    let mut writer = PageWriter::create(&storage, number, PageOptions::default()).unwrap();
    for len in lengths {
        writer.append(&vec![0; len]).unwrap();
    }
    writer.finish().unwrap();
    let bad = bad_pages(&sim);
    assert!(!bad.is_empty());
    assert!(
        bad.iter().all(|page| page.file == number && page.what.contains("no sense")),
        "{bad:?}"
    );
}

#[test]
fn what_a_start_refuses_is_refused() {
    let (sim, _) = worked_on();
    let names = sim.list().unwrap();
    for name in names.iter().filter(|name| name.ends_with(".ckp")) {
        sim.remove(name).unwrap();
    }
    let refused = Offline::read(Arc::new(sim.clone())).err().unwrap().to_string();
    let started = in_jumping_time(async { Node::start(&sim).err().unwrap().to_string() });
    assert_eq!(refused, started);
}
