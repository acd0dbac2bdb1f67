//! One run: what goes wrong, when, and what is compared in the end.

use std::time::Duration;

use isthmus_storage::SimStorage;
use isthmus_storage::fs::Rng;
use isthmus_storage::threads::Simulation;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{Cluster, take_in, watch_leaders};
use crate::disturb::disturb;
use crate::node::{Held, Setup};
use crate::oracle::{Broken, Oracle, Tally};
use crate::runtime::simulated;
use crate::spoken::mqtt;
use crate::work::{Around, consumer, holdings, publisher};

/// How long a cluster that is healed may take until it can be used.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is done in a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many nodes.
    pub nodes: usize,
    /// How many things go wrong.
    pub events: u64,
    /// Whether they do, or the time passes in peace.
    pub faults: Faults,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// Nothing.
    None,
    /// Nodes end and come back.
    Crashes,
    /// That, and the network is cut, disks are slow, and leadership is handed over.
    All,
    /// A disk loses the last of what it had synced, while others know that it had it.
    LostTails,
}

/// All that happened in a run: numbers that are the same only if all was the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// For what was asked of each disk, when threads went on, and what clients were told.
    pub digests: Vec<u64>,
    /// What was done.
    pub tally: Tally,
}

/// Runs a seed. `prepare` is called with every disk before it is used.
///
/// # Errors
/// Which promise was broken.
pub fn run(seed: u64, plan: Plan, prepare: &dyn Fn(&SimStorage)) -> Result<Trace, Broken> {
    let mut rng = Rng::new(seed);
    let order = rng.next_u64();
    let (result, digest) =
        simulated(order, |simulation| in_simulation(rng, plan, simulation, prepare))?;
    let mut trace = result?;
    trace.digests.push(digest);
    Ok(trace)
}

async fn in_simulation(
    mut rng: Rng,
    plan: Plan,
    simulation: Simulation,
    prepare: &dyn Fn(&SimStorage),
) -> Result<Trace, Broken> {
    let setup = Setup {
        nodes: plan.nodes,
        clocks_apart: Duration::from_millis(if rng.chance(50) { 0 } else { rng.below(100_000) }),
        clocks_jump: rng.chance(30),
        power_fails: plan.faults != Faults::LostTails,
        disks_fail: plan.faults == Faults::All && rng.chance(40),
        pages: rng.chance(40),
        forgets: rng.chance(40),
    };
    let mut cluster = Cluster::new(setup, simulation, &mut rng, prepare);
    let oracle = Oracle::default();
    let (stop, stopping) = watch::channel(false);
    let running = cluster.running.clone();
    let speaks = rng.chance(60);
    let around =
        Around { running: running.clone(), oracle: oracle.clone(), stop: stopping, speaks };
    let mut clients = Vec::new();
    let (publishers_ended, ended) = watch::channel(false);
    let mut subscribers = Vec::new();
    if rng.chance(50) {
        let (subscribed, is_subscribed) = watch::channel(false);
        let own = Rng::new(rng.next_u64());
        subscribers.push(tokio::spawn(mqtt::subscriber(around.clone(), own, subscribed, ended)));
        let own = Rng::new(rng.next_u64());
        clients.push(tokio::spawn(mqtt::publisher(0, around.clone(), own, is_subscribed)));
    }
    for number in 0..2 {
        let own = Rng::new(rng.next_u64());
        clients.push(tokio::spawn(publisher(number, around.clone(), own)));
        let own = Rng::new(rng.next_u64());
        clients.push(tokio::spawn(consumer(around.clone(), own)));
    }
    let watching = tokio::spawn(watch_leaders(running.clone(), oracle.clone()));
    let taking_in = tokio::spawn(take_in(running, cluster.members.clone()));
    let result = disturb(&mut cluster, &mut rng, plan, &oracle).await;
    stop.send_replace(true);
    let checked = match result {
        Ok(()) => {
            let clients = Clients { clients, publishers_ended, subscribers };
            check(&mut cluster, &mut rng, &oracle, clients).await
        }
        broken => broken,
    };
    watching.abort();
    taking_in.abort();
    let mut digests = cluster.end_all().await;
    checked?;
    digests.push(oracle.digest());
    oracle.broken().map_or(Ok(()), Err)?;
    let joined = Tally { joined: cluster.members.joined(), ..Tally::default() };
    Ok(Trace { digests, tally: oracle.tally().and(cluster.written).and(joined) })
}

/// All clients of a run.
struct Clients {
    clients: Vec<JoinHandle<()>>,
    /// Told when those have ended.
    publishers_ended: watch::Sender<bool>,
    /// Those that end when nothing is left for them.
    subscribers: Vec<JoinHandle<()>>,
}

impl Clients {
    async fn end(self) -> Result<(), Broken> {
        ended(self.clients).await?;
        self.publishers_ended.send_replace(true);
        ended(self.subscribers).await
    }
}

async fn ended(clients: Vec<JoinHandle<()>>) -> Result<(), Broken> {
    for client in clients {
        let ended = tokio::time::timeout(PATIENCE, client).await;
        ended.map_err(|_| "a client does not end")?.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Heals everything and compares.
async fn check(
    cluster: &mut Cluster<'_>,
    rng: &mut Rng,
    oracle: &Oracle,
    clients: Clients,
) -> Result<(), Broken> {
    tracing::info!("the end");
    cluster.heal().await?;
    clients.end().await?;
    let around = Around {
        running: cluster.running.clone(),
        oracle: oracle.clone(),
        // Never told to stop.
        stop: watch::channel(false).1,
        speaks: false,
    };
    let begun = Instant::now();
    let held = loop {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        match tokio::time::timeout(left, holdings(&around, rng)).await {
            Ok(Ok(held)) => break held,
            Ok(Err(_)) => {}
            Err(_) => return Err("a cluster that is healed is not usable".to_owned()),
        }
    };
    oracle.finish(&held);
    oracle.broken().map_or(Ok(()), Err)?;
    compare(cluster).await
}

/// Waits until every node has applied the same, and compares what they have.
async fn compare(cluster: &Cluster<'_>) -> Result<(), Broken> {
    let begun = Instant::now();
    loop {
        let mut all = Vec::new();
        for (number, node) in cluster.running.all() {
            let held = node.look(|shard| Held::of(shard)).await;
            all.push(held.ok_or_else(|| format!("node {number} has ended"))?);
        }
        if all.iter().all(|held| held.applied == all[0].applied) {
            let differences = all.iter().filter_map(|held| all[0].difference(held));
            let first = differences.map(|what| format!("two ledgers differ: {what}")).next();
            return first.map_or(Ok(()), Err);
        }
        if begun.elapsed() > PATIENCE {
            let applied: Vec<u64> = all.iter().map(|held| held.applied).collect();
            return Err(format!("some node stays behind: {applied:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
