//! Power cuts and kills before and after every named failpoint of segments, pages, checkpoints,
//! purges, compaction and commits: nothing answered is lost, nothing settled comes back, and
//! transactions happen as a whole or not at all.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::disk::When;
use common::failpoints::{Cut, Name, Named};
use common::world::{Broken, Workers, World};
use common::{Announce, Node, Setup, in_jumping_time};
use isthmus_broker::storage::SimStorage;

/// What must be passed. Between the sync of the directory behind a page file and the creation of
/// the checkpoint the ledger comes to refer to the pages: it is cut off before and after that too.
const FAILPOINTS: [Name; 42] = [
    "spare segment: create",
    "spare segment: fill",
    "spare segment: sync",
    "spare segment: rename",
    "segment roll: create, none is spare",
    "segment roll: write header",
    "segment roll: sync header",
    "segment roll: rename to segment",
    "segment roll: sync directory",
    "log: write records",
    "log: sync records",
    "transaction commit: write entry",
    "transaction commit: sync log",
    "page file: create",
    "page file: write header",
    "page file: write page",
    "page file: sync pages",
    "page file: write end record",
    "page file: sync end record",
    "page file: sync directory",
    "page file: remove",
    "compaction: create page file",
    "compaction: write header",
    "compaction: write page",
    "compaction: sync pages",
    "compaction: write end record",
    "compaction: sync end record",
    "compaction: sync directory",
    "checkpoint: create",
    "checkpoint: write header",
    "checkpoint: write block",
    "checkpoint: sync",
    "checkpoint: rename",
    "checkpoint: sync directory",
    "checkpoint: remove older",
    "log purge: write state",
    "log purge: sync state",
    "log purge: sync directory",
    "segment recycle: rename to spare",
    "segment delete: remove",
    "term and vote: save state",
    "new directory: state its format",
];

/// Further lives that are tried for a failpoint.
const TRIES: u64 = 20;
const STEPS: u64 = 200;
/// A transaction is committed after so many steps.
const COMMIT_EVERY: u64 = 20;

/// What a life left behind.
struct Left {
    sim: SimStorage,
    disk: Named,
    world: World,
}

/// One life, up to the cut if there is one.
fn live(seed: u64, cut: Option<Cut>) -> Result<Left, Broken> {
    let sim = SimStorage::new(seed);
    let disk = Named::new(&sim, cut);
    let mut world = World::new(seed);
    let lived = in_jumping_time(async {
        let node = match Setup::default().start(Arc::new(disk.clone())) {
            Ok(node) => node,
            Err(_) if disk.is_cut() => return Ok(()),
            Err(error) => return Err(format!("does not start: {error}")),
        };
        let mut workers = Workers::default();
        tokio::select! {
            worked = work(&mut world, &node, &mut workers, &disk) => worked?,
            () = failure(&node) => {}
        }
        // What was answered before the cut may still be on its way.
        node.look(|_| ()).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        world.hear(&mut workers)
    });
    lived.map(|()| Left { sim, disk, world })
}

async fn work(
    world: &mut World,
    node: &Node,
    workers: &mut Workers,
    disk: &Named,
) -> Result<(), Broken> {
    *workers = world.connect(node, 3).await;
    for step in 1..=STEPS {
        world.step(node, workers).await?;
        if step % COMMIT_EVERY == 0 {
            world.settle_down(workers).await?;
            disk.set_committing(true);
            world.commit_one(workers).await;
            world.settle_down(workers).await?;
            disk.set_committing(false);
        }
    }
    world.settle_down(workers).await
}

async fn failure(node: &Node) {
    while !node.has_failed() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Starts on the disk and compares.
fn verify(world: &World, disk: &SimStorage) -> Result<(), Broken> {
    let mut world = world.clone();
    in_jumping_time(async {
        let node = Node::start(disk).map_err(|e| format!("does not start: {e}"))?;
        world.verify(&node).await
    })
}

/// Which times of those that a failpoint is passed are tried: the first, and one in the middle.
fn times(hits: u64) -> Vec<u64> {
    let mut times = vec![0, hits / 2];
    times.dedup();
    times
}

/// One life up to a cut, about the `nth` time that a failpoint is passed. Threads do not meet in the
/// same way each time, so it is tried again, with an earlier time, and then with other lives; `None`
/// if that does not help.
fn live_and_cut(seed: u64, name: Name, nth: u64, when: When) -> Option<Left> {
    let tries = [(seed, nth), (seed, nth / 2)].into_iter();
    tries.chain((0..TRIES).map(|n| (seed + 1000 * n, 0))).find_map(|(seed, nth)| {
        let cut = Cut { name, nth, when };
        let left = live(seed, Some(cut)).unwrap_or_else(|e| panic!("{cut:?}: {e}"));
        left.disk.is_cut().then_some(left)
    })
}

/// The lives to cut, each some two hundred times: one by default, `ISTHMUS_CASES` in the long form.
fn lives() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    match number("ISTHMUS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ISTHMUS_CASES").unwrap_or(1),
    }
}

#[test]
fn a_cut_or_a_kill_around_every_failpoint_loses_nothing() {
    let mut cuts: BTreeMap<(Name, &str), u64> = BTreeMap::new();
    let mut passed: BTreeMap<Name, u64> = BTreeMap::new();
    for seed in lives() {
        let _announce = Announce(seed);
        let hits = live(seed, None).unwrap().disk.hits();
        for (name, count) in hits {
            *passed.entry(name).or_default() += count;
            for nth in times(count) {
                for when in [When::Before, When::After] {
                    let Some(left) = live_and_cut(seed, name, nth, when) else { continue };
                    let side = if when == When::Before { "before" } else { "after" };
                    *cuts.entry((name, side)).or_default() += 1;
                    // The power goes; or the process alone, and what it wrote is there.
                    for (end, disk) in [("power", left.sim.crash(nth)), ("kill", left.sim.fork())] {
                        let verified = verify(&left.world, &disk);
                        verified.unwrap_or_else(|e| panic!("{end} {side} {name} {nth}: {e}"));
                    }
                }
            }
        }
    }
    eprintln!("{:<36} {:>7} {:>11} {:>10}", "failpoint", "passed", "cut before", "cut after");
    let cut = |name, when| cuts.get(&(name, when)).copied().unwrap_or(0);
    for (name, count) in &passed {
        let (before, after) = (cut(*name, "before"), cut(*name, "after"));
        eprintln!("{name:<36} {count:>7} {before:>11} {after:>10}");
    }
    eprintln!("{} cuts, each with the power and as a kill", cuts.values().sum::<u64>());
    for name in FAILPOINTS {
        assert!(passed.contains_key(name), "{name} was not passed");
        assert!(cut(name, "before") > 0 && cut(name, "after") > 0, "{name} was not cut at");
    }
}
