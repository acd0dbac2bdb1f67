//! Seeds of a whole cluster, and whether they would notice.
#![allow(clippy::unwrap_used)] // a failed test may panic

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use isthmus_sim::{Faults, Plan, Tally, run};
use isthmus_storage::SimStorage;
use isthmus_storage::fs::SyncSite;

/// A plan for three nodes.
const fn plan(faults: Faults) -> Plan {
    Plan { nodes: 3, events: 4, faults }
}

fn untouched(_: &SimStorage) {}

/// Held by each of these tests: a planted bug is one of the whole process.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is undone when it is dropped.
struct Undo(fn());

impl Drop for Undo {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// openraft refuses some proposals and takes those behind them.
fn refusals() -> Undo {
    isthmus_cluster::planted::refuse_proposals(40);
    Undo(|| isthmus_cluster::planted::refuse_proposals(0))
}

/// The seeds to run: `short` by default, more or others if the environment says so.
fn seeds(short: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    if let Some(seed) = number("ISTHMUS_SEED") {
        return seed..seed + 1;
    }
    let first = number("ISTHMUS_SEEDS_FROM").unwrap_or(0);
    first..first + number("ISTHMUS_SEEDS").unwrap_or(short)
}

/// Runs seeds and says what was done in them; all that fail are named.
fn all_hold(short: u64, plan: Plan) {
    // What nodes log is told if RUST_LOG asks for it.
    let quiet = tracing_subscriber::filter::LevelFilter::OFF;
    let filter = tracing_subscriber::EnvFilter::builder().with_default_directive(quiet.into());
    let filter = filter.from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).without_time().try_init().unwrap_or_default();
    let mut sum = Tally::default();
    let mut broken = Vec::new();
    for seed in seeds(short) {
        let what = match catch_unwind(AssertUnwindSafe(|| run(seed, plan, &untouched))) {
            Ok(Ok(trace)) => {
                sum = sum.and(trace.tally);
                continue;
            }
            Ok(Err(what)) => what,
            Err(_) => "a panic".to_owned(),
        };
        eprintln!("seed {seed}: {what}; repeat with ISTHMUS_SEED={seed} RUST_LOG=info");
        broken.push(seed);
        assert!(broken.len() < 5, "seeds {broken:?}");
    }
    eprintln!("{sum:?}");
    assert!(broken.is_empty(), "seeds {broken:?}");
    if seeds(short).count() == 1 {
        // One seed that is repeated need not do everything.
        return;
    }
    assert!(sum.checkpoints > 0 && sum.page_files > 0, "nothing went on beside the log");
    assert!(sum.confirmed > 0 && sum.settled > 0 && sum.redeliveries > 0, "too little was done");
    assert!(sum.spoken > 0 && sum.exactly_once > 0, "some protocols were not spoken");
    assert!(plan.faults != Faults::All || sum.joined > 0, "no node was taken in");
    assert!(plan.faults != Faults::LostTails || sum.tails_lost > 0, "no disk has lost anything");
}

#[test]
fn one_node_is_a_cluster() {
    let _turn = turn();
    all_hold(20, Plan { nodes: 1, events: 4, faults: Faults::Crashes });
}

#[test]
fn promises_hold_while_nodes_end_and_come_back() {
    let _turn = turn();
    all_hold(70, plan(Faults::Crashes));
}

#[test]
fn promises_hold_whatever_goes_wrong() {
    let _turn = turn();
    all_hold(110, plan(Faults::All));
}

#[test]
fn promises_hold_where_a_disk_loses_what_it_had_synced() {
    let _turn = turn();
    all_hold(40, plan(Faults::LostTails));
}

#[test]
fn promises_hold_while_consensus_refuses_some_proposals() {
    let _turn = turn();
    let _refusals = refusals();
    all_hold(20, plan(Faults::All));
}

#[test]
fn a_seed_replays() {
    let _turn = turn();
    let mut digests = BTreeSet::new();
    for seed in seeds(8) {
        let plan = plan(Faults::All);
        let first = run(seed, plan, &untouched).unwrap();
        let second = run(seed, plan, &untouched).unwrap();
        assert_eq!(first, second, "seed {seed} does not replay");
        assert!(digests.insert(first.digests), "another seed was the same");
    }
}

/// Says which of 1,000 seeds notices a bug that is planted, or fails.
fn must_notice(what: &str, plan: Plan, prepare: &dyn Fn(&SimStorage)) {
    let noticed = (0..1000).find_map(|seed| {
        // A panic over what is not there counts as noticed.
        match catch_unwind(AssertUnwindSafe(|| run(seed, plan, prepare))) {
            Ok(Ok(_)) => None,
            Ok(Err(broken)) => Some((seed, broken)),
            Err(_) => Some((seed, "a panic".to_owned())),
        }
    });
    let Some((seed, broken)) = noticed else { panic!("1,000 seeds pass with {what}") };
    let broken: String = broken.chars().take(200).collect();
    eprintln!("{what}: noticed after {} seeds: {broken}", seed + 1);
}

#[test]
fn a_log_that_is_not_synced_is_noticed() {
    let _turn = turn();
    let is_log =
        |site: &SyncSite<'_>| matches!(site, SyncSite::File(name) if name.starts_with("log-"));
    must_notice("a log without syncs", plan(Faults::Crashes), &|disk| disk.ignore_syncs(is_log));
}

#[test]
fn an_answer_before_a_majority_has_the_entry_is_noticed() {
    let _turn = turn();
    isthmus_core::planted::say_too_early(true);
    let _undo = Undo(|| isthmus_core::planted::say_too_early(false));
    must_notice("answers before a majority has the entry", plan(Faults::All), &untouched);
}

#[test]
fn a_vote_that_is_not_synced_is_noticed() {
    let _turn = turn();
    let is_vote = |site: &SyncSite<'_>| match site {
        SyncSite::File(name) => name.starts_with("state"),
        SyncSite::Directory(names) => names.iter().any(|name| name.starts_with("state")),
    };
    must_notice("votes without syncs", plan(Faults::Crashes), &|disk| disk.ignore_syncs(is_vote));
}

/// By the oracle or by a node's own ledger, which a panic in a turn ends the process for: so it is
/// another process that this happens to.
#[test]
fn an_entry_that_does_not_follow_is_noticed() {
    const NAME: &str = "an_entry_that_does_not_follow_is_noticed";
    const INNER: &str = "ISTHMUS_SIM_INNER";
    if std::env::var_os(INNER).is_none() {
        let mut test = Command::new(std::env::current_exe().unwrap());
        let ended = test.args(["--exact", NAME, "--nocapture"]).env(INNER, "1").output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        let is_noticed = ended.status.success() || said.contains("the log contradicts itself");
        assert!(is_noticed, "{}: {said}", ended.status);
        return;
    }
    let _turn = turn();
    let _refusals = refusals();
    isthmus_core::planted::ignore_places(true);
    let _undo = Undo(|| isthmus_core::planted::ignore_places(false));
    must_notice("entries that do not follow", plan(Faults::All), &untouched);
}

#[test]
fn a_lease_that_never_ends_is_noticed() {
    let _turn = turn();
    isthmus_cluster::planted::ignore_leases(true);
    let _undo = Undo(|| isthmus_cluster::planted::ignore_leases(false));
    must_notice("leases that never end", plan(Faults::All), &untouched);
}

#[test]
fn a_node_that_forgets_what_it_had_acknowledged_is_noticed() {
    let _turn = turn();
    isthmus_cluster::planted::forget_debts(true);
    let _undo = Undo(|| isthmus_cluster::planted::forget_debts(false));
    let plan = plan(Faults::LostTails);
    must_notice("nodes that vote with less than they had acknowledged", plan, &untouched);
}

#[test]
fn a_leader_that_is_restored_is_noticed() {
    let _turn = turn();
    isthmus_cluster::planted::restore_leaders(true);
    let _undo = Undo(|| isthmus_cluster::planted::restore_leaders(false));
    must_notice("leaders restored when they come back", plan(Faults::Crashes), &untouched);
}
