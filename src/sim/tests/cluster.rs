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
    let number =
        |name, default| std::env::var(name).map_or(default, |value: String| value.parse().unwrap());
    let nodes = number("NODES", 3) as usize;
    let faults = [Faults::None, Faults::Crashes, Faults::All][number("FAULTS", 2) as usize];
    let trace = run(seed, Plan { nodes, events: number("EVENTS", 4), faults }, &untouched);
    eprintln!("{trace:?}");
}

#[test]
#[ignore = "for looking"]
fn many_seeds() {
    let number =
        |name, default| std::env::var(name).map_or(default, |value: String| value.parse().unwrap());
    let nodes = number("NODES", 3) as usize;
    let faults = [Faults::None, Faults::Crashes, Faults::All][number("FAULTS", 2) as usize];
    let begin = std::time::Instant::now();
    for seed in number("FIRST", 0)..number("FIRST", 0) + number("COUNT", 20) {
        let trace = run(seed, Plan { nodes, events: number("EVENTS", 4), faults }, &untouched);
        if number("REPLAY", 0) > 0 {
            let again = run(seed, Plan { nodes, events: number("EVENTS", 4), faults }, &untouched);
            eprintln!("{seed}: replays {}", trace == again);
            if let (Ok(a), Ok(b)) = (&trace, &again) {
                eprintln!("{:?}\n{:?}", a.digests, b.digests);
            }
        }
        match trace {
            Ok(trace) => eprintln!("{seed}: {:?} {:?}", begin.elapsed(), trace.tally),
            Err(broken) => {
                let broken: String = broken.chars().take(700).collect();
                eprintln!("{seed}: {:?} BROKEN {broken}", begin.elapsed());
            }
        }
    }
}
