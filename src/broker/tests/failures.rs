//! A disk that fails, wherever it fails: nothing is answered after it, and nothing that was
//! answered is lost.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::client::Client;
use common::disk::{Watched, When};
use common::world::{Workers, World};
use common::{Announce, Node, Setup, eventually, in_jumping_time};
use isthmus_broker::storage::SimStorage;
use isthmus_broker::storage::fs::{CountedOp, Fault, OpKind};

const STEPS: u64 = 40;

/// What a broker that goes through the steps of `seed` does to its disk.
fn undisturbed(seed: u64) -> Vec<CountedOp> {
    let sim = SimStorage::new(seed);
    in_jumping_time(async {
        let (mut world, mut workers) = (World::new(seed), Workers::default());
        let node = Node::start(&sim).unwrap();
        steps(&mut world, &node, &mut workers).await;
    });
    sim.trace()
}

async fn steps(world: &mut World, node: &Node, workers: &mut Workers) {
    *workers = world.connect(node, 3).await;
    for _ in 0..STEPS {
        world.step(node, workers).await.unwrap();
    }
    world.settle_down(workers).await.unwrap();
}

#[test]
fn nothing_is_answered_after_a_failure_and_nothing_answered_is_lost() {
    let seed = 5;
    for op in undisturbed(seed) {
        for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWriteThenFull] {
            let _announce = Announce(op.number);
            let sim = SimStorage::new(seed);
            sim.inject(op.number, fault);
            let mut world = World::new(seed);
            in_jumping_time(disturbed(&mut world, &sim));
            // The process starts again on the same machine; or the power goes as well.
            for disk in [sim.fork(), sim.crash(op.number)] {
                let mut world = world.clone();
                in_jumping_time(async {
                    let node = Node::start(&disk).unwrap();
                    let verified = world.verify(&node).await;
                    verified.unwrap_or_else(|e| panic!("{fault:?} at {op:?}: {e}"));
                });
            }
        }
    }
}

/// Goes through the steps, as far as the disk lets it.
async fn disturbed(world: &mut World, sim: &SimStorage) {
    let Ok(node) = Node::start(sim) else { return };
    let mut workers = Workers::default();
    tokio::select! {
        biased;
        () = steps(world, &node, &mut workers) => {}
        () = eventually("the failure", || node.has_failed()) => {}
    }
    // What was answered before the failure may still be on its way.
    let quiet = async || {
        node.look(|_| ()).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    quiet().await;
    world.hear(&mut workers).unwrap();
    // A failure of what the log can do without, for now, is none of the log.
    if !node.has_failed() {
        return;
    }
    let answered = workers.answered();
    for _ in 0..3 {
        world.publish_one(&mut workers).await;
        quiet().await;
    }
    world.hear(&mut workers).unwrap();
    assert_eq!(workers.answered(), answered, "something was answered after the failure");
    assert_eq!(node.failures.lock().len(), 1);
}

#[test]
fn a_checkpoint_whose_name_cannot_be_synced_ends_the_broker() {
    in_jumping_time(async {
        let sim = SimStorage::new(1);
        let disk = sim.clone();
        let watched = Watched::new(&sim, move |when, kind| {
            let renamed = disk.trace().last().map(|op| op.file.clone()).unwrap_or_default();
            let is_named = (when, kind) == (When::After, OpKind::Rename);
            if is_named && renamed.starts_with("checkpoint-") {
                disk.inject(disk.operations(), Fault::Eio);
            }
        });
        let node = Setup::default().start(Arc::new(watched)).unwrap();
        let mut client = Client::connect(&node.broker).await;
        client.declare("q").await;
        client.publish("q", &[vec![0; 5000]]).await;
        eventually("the failure", || node.has_failed()).await;
        let failure = node.failures.lock()[0].to_string();
        assert!(failure.starts_with("cannot sync directory"), "{failure}");
    });
}
