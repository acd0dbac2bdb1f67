//! Seeds of a whole cluster.
#![allow(clippy::unwrap_used)] // a failed test may panic

use isthmus_sim::{Faults, Plan, run};
use isthmus_storage::SimStorage;

fn untouched(_: &SimStorage) {}

#[test]
fn one_node_is_a_cluster() {
    let plan = Plan { nodes: 1, events: 3, faults: Faults::None };
    let trace = run(1, plan, &untouched).unwrap();
    assert!(trace.tally.confirmed > 0, "{:?}", trace.tally);
}

#[test]
fn three_nodes_in_peace() {
    let plan = Plan { nodes: 3, events: 3, faults: Faults::None };
    let trace = run(1, plan, &untouched).unwrap();
    assert!(trace.tally.confirmed > 0, "{:?}", trace.tally);
}

/// Runs one seed aloud.
#[test]
#[ignore = "for looking at one seed"]
fn one_seed() {
    let seed = std::env::var("ISTHMUS_SEED").unwrap().parse().unwrap();
    tracing_subscriber::fmt().with_env_filter("info,openraft=warn").without_time().init();
    let trace = run(seed, Plan { nodes: 3, events: 8, faults: Faults::All }, &untouched);
    eprintln!("{trace:?}");
}
