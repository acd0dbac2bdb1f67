//! Power cuts under everything that durable messages go through, and whether the tests would
//! notice.
#![allow(clippy::unwrap_used)] // a failed test may panic

mod common;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use common::disk::{Watched, When};
use common::world::{Broken, Workers, World};
use common::{Announce, Node, Setup, seeds, simulated};
use isthmus_broker::planted;
use isthmus_broker::storage::fs::{CountedOp, Fault, OpKind, Rng, SyncSite};
use isthmus_broker::storage::{SharedStorage, SimStorage};
use parking_lot::Mutex;

/// Lives of a disk in one seed.
const LIVES: u64 = 3;

/// How a life ends.
enum End {
    /// The power goes at some operation, chosen before.
    Cut,
    /// The power goes, or the process is killed, while much is under way or when all is done.
    Sudden { kill: bool, waits: bool, sim: SimStorage },
    /// The broker is stopped.
    Clean,
}

/// Chooses how a life on `sim` ends, and the storage that sees to it.
fn choose(rng: &mut Rng, sim: &SimStorage) -> (End, SharedStorage) {
    let plain: SharedStorage = Arc::new(sim.clone());
    match rng.below(10) {
        0..3 => {
            sim.inject(sim.operations() + rng.below(150), Fault::PowerCut);
            (End::Cut, plain)
        }
        3..7 => {
            let (kind, most) = [(OpKind::Sync, 60), (OpKind::SyncDir, 12), (OpKind::Rename, 12)]
                [rng.below(3) as usize];
            let when = if rng.chance(50) { When::Before } else { When::After };
            (End::Cut, Arc::new(Watched::cut_at(sim, kind, rng.below(most), when)))
        }
        7..9 => {
            let (kill, waits, sim) = (rng.chance(30), rng.chance(50), sim.clone());
            (End::Sudden { kill, waits, sim }, plain)
        }
        _ => (End::Clean, plain),
    }
}

/// One life: recover, compare, work, end. Returns the disk that it leaves behind.
async fn live(
    rng: &mut Rng,
    world: &mut World,
    sim: &SimStorage,
    steps: u64,
) -> Result<SimStorage, Broken> {
    let (end, storage) = choose(rng, sim);
    let node = match Setup::default().start(storage) {
        Ok(node) => node,
        // The power went while the log was opened: nobody was told anything.
        Err(_) if sim.is_cut() => return Ok(sim.crash(rng.next_u64())),
        Err(error) => return Err(format!("does not start: {error}")),
    };
    let mut workers = Workers::default();
    let left = tokio::select! {
        biased;
        left = work(rng, world, &node, &mut workers, &end, steps) => left?,
        // Whoever waits for an answer now waits in vain.
        () = failure(&node) => None,
    };
    if let Some(disk) = left {
        return Ok(disk);
    }
    if matches!(end, End::Clean) {
        drop(workers);
        node.stop().await.map_err(|e| format!("does not stop: {e}"))?;
        return Ok(sim.fork());
    }
    // What was answered before the failure may still be on its way.
    node.look(|_| ()).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.hear(&mut workers)?;
    Ok(sim.crash(rng.next_u64()))
}

/// Compares and works; returns the disk as it is left, if the end comes suddenly.
async fn work(
    rng: &mut Rng,
    world: &mut World,
    node: &Node,
    workers: &mut Workers,
    end: &End,
    steps: u64,
) -> Result<Option<SimStorage>, Broken> {
    world.verify(node).await?;
    *workers = world.connect(node, 3).await;
    for _ in 0..steps {
        world.step(node, workers).await?;
    }
    let End::Sudden { kill, waits, sim } = end else {
        return world.settle_down(workers).await.map(|()| None);
    };
    if *waits {
        world.settle_down(workers).await?;
    }
    world.hear(workers)?;
    Ok(Some(if *kill { sim.fork() } else { sim.crash(rng.next_u64()) }))
}

async fn failure(node: &Node) {
    while !node.has_failed() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// All that happened in a seed: what each disk was asked for, when the threads went on, and what
/// clients were told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Trace {
    operations: Vec<Vec<CountedOp>>,
    digests: Vec<u64>,
}

/// All lives of a seed. `prepare` is called with every disk before it is used.
fn run(seed: u64, prepare: &dyn Fn(&SimStorage)) -> Result<Trace, Broken> {
    let mut rng = Rng::new(seed);
    let mut world = World::new(rng.next_u64());
    let mut sim = SimStorage::new(rng.next_u64());
    let mut trace = Trace::default();
    for _ in 0..LIVES {
        prepare(&sim);
        let steps = 20 + rng.below(60);
        let order = rng.next_u64();
        let (left, order) = simulated(order, async {
            let left = live(&mut rng, &mut world, &sim, steps).await;
            trace.operations.push(sim.trace());
            trace.digests.push(sim.digest());
            left
        });
        trace.digests.extend([order, world.heard()]);
        sim = left?;
    }
    let (verified, order) = simulated(rng.next_u64(), async {
        let node = Node::start(&sim).map_err(|e| format!("does not start: {e}"))?;
        let verified = world.verify(&node).await;
        trace.operations.push(sim.trace());
        verified
    });
    trace.digests.extend([order, world.heard()]);
    verified.map(|()| trace)
}

/// Held by each of these tests: a planted bug is one of the whole process.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn what_was_answered_survives_power_cuts() {
    let _turn = TURN.lock();
    for seed in seeds(250) {
        let _announce = Announce(seed);
        run(seed, &|_| {}).unwrap();
    }
}

#[test]
fn a_seed_replays() {
    let mut digests = BTreeSet::new();
    let (mut checkpoints, mut pages) = (0, 0);
    for seed in seeds(40) {
        let _announce = Announce(seed);
        let (first, second) = (run(seed, &|_| {}).unwrap(), run(seed, &|_| {}).unwrap());
        for (life, (a, b)) in first.operations.iter().zip(&second.operations).enumerate() {
            let differs = a.iter().zip(b).find(|(a, b)| a != b);
            assert_eq!(differs, None, "life {life} does not replay");
        }
        assert_eq!(first, second);
        assert!(digests.insert(first.digests), "another seed was the same");
        let files = || first.operations.iter().flatten().filter(|op| op.kind == OpKind::Sync);
        checkpoints += files().filter(|op| op.file.ends_with(".ckp.tmp")).count();
        pages += files().filter(|op| op.file.starts_with("pages-")).count();
    }
    eprintln!("{} seeds: {checkpoints} checkpoints, {pages} page files", digests.len());
    assert!(checkpoints > 0 && pages > 0, "nothing went on beside the log");
}

type Lie = (&'static str, fn(&SyncSite<'_>) -> bool);

/// Syncs that matter to what clients were told, each ignored by itself.
const LIES: [Lie; 8] = [
    ("log segments", |site| matches!(site, SyncSite::File(name) if name.starts_with("log-"))),
    ("segment headers", |site| matches!(site, SyncSite::File(name) if name.starts_with("spare-"))),
    ("the state file", |site| matches!(site, SyncSite::File("state"))),
    ("checkpoints", |site| matches!(site, SyncSite::File(name) if name.ends_with(".ckp.tmp"))),
    ("names of segments", |site| touches(site, "log-")),
    ("names of checkpoints", |site| touches(site, "checkpoint-")),
    ("page files", |site| matches!(site, SyncSite::File(name) if name.starts_with("pages-"))),
    ("names of page files", |site| touches(site, "pages-")),
];

fn touches(site: &SyncSite<'_>, prefix: &str) -> bool {
    matches!(site, SyncSite::Directory(names) if names.iter().any(|n| n.starts_with(prefix)))
}

/// Says which of 1,000 seeds notices a bug that is planted, or fails.
fn must_notice(what: &str, prepare: &dyn Fn(&SimStorage)) {
    let noticed = (0..1000).find_map(|seed| {
        // A panic over what is not there counts as noticed.
        match catch_unwind(AssertUnwindSafe(|| run(seed, prepare))) {
            Ok(Ok(_)) => None,
            Ok(Err(broken)) => Some((seed, broken)),
            Err(_) => Some((seed, "a panic".to_owned())),
        }
    });
    let Some((seed, broken)) = noticed else { panic!("1,000 seeds pass with {what}") };
    let broken: String = broken.chars().take(160).collect();
    eprintln!("{what}: noticed after {} seeds: {broken}", seed + 1);
}

#[test]
fn an_ignored_sync_is_noticed() {
    let _turn = TURN.lock();
    for (what, lie) in LIES {
        must_notice(&format!("no syncs of {what}"), &|sim| sim.ignore_syncs(lie));
    }
}

#[test]
fn a_log_that_is_purged_before_the_checkpoint_is_durable_is_noticed() {
    let _turn = TURN.lock();
    planted::purge_log_first(true);
    must_notice("checkpoint and purge of the log swapped", &|_| {});
    planted::purge_log_first(false);
}
