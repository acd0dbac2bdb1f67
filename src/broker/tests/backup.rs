//! Copies of a broker that goes on working.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;

use common::client::Client;
use common::disk::{Gate, Watched};
use common::world::{Broken, Workers, World};
use common::{Announce, Node, Setup, eventually, in_jumping_time, patiently, seeds};
use isthmus_broker::storage::fs::Fault;
use isthmus_broker::storage::{SimStorage, Storage};
use isthmus_broker::{Backup, BackupError};

async fn work(
    world: &mut World,
    node: &Node,
    workers: &mut Workers,
    steps: u64,
) -> Result<(), Broken> {
    for _ in 0..steps {
        world.step(node, workers).await?;
    }
    Ok(())
}

/// Works, makes a backup while it works on, and compares what a broker finds that starts on it
/// after a power cut with what was answered before.
fn back_up_and_start(seed: u64) -> Result<Backup, Broken> {
    let (sim, copy) = (SimStorage::new(seed), SimStorage::new(seed + 1000));
    let (mut before, backup) = in_jumping_time(async {
        let node = Node::start(&sim).unwrap();
        let mut world = World::new(seed);
        let mut workers = world.connect(&node, 3).await;
        work(&mut world, &node, &mut workers, 120).await?;
        let before = world.clone();
        // The copy is of the moment when it is asked for; what comes after that is not in it.
        let (backup, worked) = tokio::join!(
            node.broker.back_up(Arc::new(copy.clone())),
            work(&mut world, &node, &mut workers, 60),
        );
        worked?;
        world.settle_down(&mut workers).await?;
        Ok::<_, Broken>((before, backup.unwrap()))
    })?;
    // All of it is durable.
    let copy = copy.crash(seed);
    in_jumping_time(async {
        let node = Node::start(&copy).map_err(|e| format!("does not start: {e}"))?;
        before.verify(&node).await?;
        let mut workers = before.connect(&node, 2).await;
        work(&mut before, &node, &mut workers, 20).await?;
        before.settle_down(&mut workers).await
    })?;
    Ok(backup)
}

#[test]
fn a_backup_has_what_was_answered_before_it() {
    let (mut page_files, mut indexes) = (0, 0);
    for seed in seeds(12) {
        let _announce = Announce(seed);
        let backup = back_up_and_start(seed).unwrap_or_else(|e| panic!("{e}"));
        page_files += backup.page_files;
        indexes += backup.index;
    }
    assert!(page_files > 0, "nothing was in pages");
    assert!(indexes > 0);
}

#[test]
fn a_full_disk_ends_the_backup_and_nothing_else() {
    in_jumping_time(async {
        let (sim, copy) = (SimStorage::new(1), SimStorage::new(2));
        let node = Node::start(&sim).unwrap();
        let mut world = World::new(1);
        let mut workers = world.connect(&node, 2).await;
        work(&mut world, &node, &mut workers, 40).await.unwrap();
        copy.inject(copy.operations() + 6, Fault::Enospc);
        let refused = node.broker.back_up(Arc::new(copy)).await;
        assert!(matches!(refused, Err(BackupError::Storage(_))), "{refused:?}");
        work(&mut world, &node, &mut workers, 40).await.unwrap();
        world.settle_down(&mut workers).await.unwrap();
        assert!(!node.has_failed());
        node.broker.back_up(Arc::new(SimStorage::new(3))).await.unwrap();
    });
}

// By the real clock: the other stands still while a backup is written.
#[tokio::test]
async fn there_is_one_backup_at_a_time() {
    let gate = Arc::new(Gate::default());
    let node = Setup::default().start(Arc::new(SimStorage::new(1))).unwrap();
    // What is answered is committed; before that there is nothing to make a backup of.
    Client::connect(&node.broker).await.declare("q").await;
    let copy = SimStorage::new(2);
    gate.shut();
    let held_up = Arc::new(Watched::gated(&copy, &gate));
    let broker = node.broker.clone();
    let first = tokio::spawn(async move { broker.back_up(held_up).await });
    eventually("the first backup", || !copy.list().unwrap().is_empty()).await;
    let second = node.broker.back_up(Arc::new(SimStorage::new(3))).await;
    assert!(matches!(second, Err(BackupError::Busy)), "{second:?}");
    gate.open();
    patiently(first).await.unwrap().unwrap();
    node.broker.back_up(Arc::new(SimStorage::new(4))).await.unwrap();
}
