//! What goes wrong in a run, and when.

use std::time::Duration;

use isthmus_storage::fs::Rng;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::oracle::{Broken, Oracle};
use crate::run::{Faults, Plan};

/// How long a cluster that nothing is wrong with may take until everybody has everything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lets things go wrong.
pub(crate) async fn disturb(
    cluster: &mut Cluster<'_>,
    rng: &mut Rng,
    plan: Plan,
    oracle: &Oracle,
) -> Result<(), Broken> {
    // So long that they have mostly begun.
    cluster.go_on(Instant::now() + Duration::from_millis(300 + rng.below(700))).await?;
    for _ in 0..plan.events {
        let lasts = match plan.faults {
            Faults::None => Duration::ZERO,
            Faults::Crashes => crash(cluster, rng),
            Faults::All if rng.chance(35) => crash(cluster, rng),
            Faults::All => hinder(cluster, rng).await,
            Faults::LostTails => lose_tail(cluster, rng).await?,
        };
        oracle.broken().map_or(Ok(()), Err)?;
        let time = if rng.chance(30) { rng.below(100) } else { 100 + rng.below(900) };
        cluster.go_on(Instant::now() + lasts + Duration::from_millis(time)).await?;
    }
    Ok(())
}

/// Returns how long it is to last at least, as [`hinder`] does.
fn crash(cluster: &mut Cluster<'_>, rng: &mut Rng) -> Duration {
    let nodes = cluster.nodes();
    let back_in = Duration::from_millis(20 + rng.below(1500));
    match rng.below(100) {
        0..80 => {
            let node = some_node(cluster, rng);
            cluster.end(node, rng.chance(70), back_in);
        }
        80..95 => {
            let is_power_cut = rng.chance(80);
            for node in 0..nodes {
                let back_in = Duration::from_millis(20 + rng.below(600));
                cluster.end(node, is_power_cut, back_in);
            }
        }
        _ => {
            let first = rng.below(nodes as u64) as usize;
            for node in [first, (first + 1) % nodes] {
                cluster.end(node, rng.chance(70), back_in);
            }
        }
    }
    Duration::ZERO
}

/// Some node, of which a leader is more often than others.
fn some_node(cluster: &Cluster<'_>, rng: &mut Rng) -> usize {
    let leader = cluster.running.acting().first().copied();
    leader.filter(|_| rng.chance(40)).unwrap_or_else(|| rng.below(cluster.nodes() as u64) as usize)
}

/// Hinders nodes that go on; returns how long it is to last at least.
async fn hinder(cluster: &mut Cluster<'_>, rng: &mut Rng) -> Duration {
    let nodes = cluster.nodes();
    let one = some_node(cluster, rng);
    match rng.below(100) {
        drawn @ 0..48 => cut(cluster, rng, one, drawn),
        48..58 => {
            tracing::info!("connections lost");
            cluster.net.lose_some(10 + rng.below(90));
        }
        58..69 => cluster.slow_down(one, Duration::from_millis(50 + rng.below(1500))),
        69..76 => {
            tracing::info!(one, "hands over");
            if let Some(node) = cluster.running.get(one)
                && let Some(membership) = node.broker.membership()
            {
                // Where it does not work, the node goes down without.
                membership.hand_over(None, Duration::from_millis(500)).await.ok();
            }
        }
        76..84 => {
            // Long enough for others to elect another leader, if they can.
            let one = cluster.running.acting().first().copied().unwrap_or(one);
            let hears = rng.chance(50);
            tracing::info!(one, hears, "unheard for long");
            let pairs = others(nodes, one).flat_map(|other| match hears {
                true => vec![(one, other)],
                false => vec![(one, other), (other, one)],
            });
            cluster.net.block(pairs.collect());
            return Duration::from_millis(600 + rng.below(1500));
        }
        84..90 => cluster.wipe(one, Duration::from_millis(20 + rng.below(500))),
        90..93 if nodes == cluster.setup.nodes && cluster.is_settled() => cluster.grow(),
        _ => {
            tracing::info!("healed");
            cluster.net.block(Vec::new());
        }
    }
    Duration::ZERO
}

fn others(nodes: usize, one: usize) -> impl Iterator<Item = usize> + Clone {
    (0..nodes).filter(move |node| *node != one)
}

/// Cuts the network around a node, in a way that `drawn`, below 48, says.
fn cut(cluster: &Cluster<'_>, rng: &mut Rng, one: usize, drawn: u64) {
    let others = others(cluster.nodes(), one);
    let pairs = match drawn {
        0..20 => {
            tracing::info!(one, "alone");
            others.flat_map(|other| [(one, other), (other, one)]).collect()
        }
        20..36 => {
            let inwards = rng.chance(50);
            tracing::info!(one, inwards, "one way");
            others.map(|other| if inwards { (other, one) } else { (one, other) }).collect()
        }
        _ => {
            tracing::info!(one, "bridge");
            // It reaches all, and they do not reach each other.
            let all = others.clone();
            all.flat_map(|a| others.clone().filter(move |b| *b != a).map(move |b| (a, b))).collect()
        }
    };
    cluster.net.block(pairs);
}

/// A node loses the last of what its disk had synced, which only one of the others has. That one has
/// told it so when it ends itself, maybe before it has sent it again, and the third is there instead.
async fn lose_tail(cluster: &mut Cluster<'_>, rng: &mut Rng) -> Result<Duration, Broken> {
    cluster.net.block(Vec::new());
    let Some(leader) = cluster.whole(PATIENCE).await? else { return Ok(Duration::ZERO) };
    let nodes = cluster.nodes();
    let follower = others(nodes, leader).nth(rng.below(2) as usize).unwrap_or(leader);
    let third = 3 - leader - follower;
    let (loser, knows) = if rng.chance(40) { (leader, follower) } else { (follower, leader) };
    let pairs = others(nodes, third).flat_map(|other| [(third, other), (other, third)]);
    cluster.net.block(pairs.collect());
    cluster.go_on(Instant::now() + Duration::from_millis(50 + rng.below(250))).await?;
    cluster.lose_tail(loser, 1 + rng.below(1500), Duration::from_millis(20 + rng.below(400)));
    let begun = Instant::now();
    while !cluster.has_heard(loser, knows) && begun.elapsed() < PATIENCE {
        cluster.go_on(Instant::now() + Duration::from_millis(1)).await?;
    }
    if rng.chance(80) {
        cluster.end(knows, rng.chance(70), Duration::from_millis(200 + rng.below(2500)));
    }
    cluster.net.block(Vec::new());
    Ok(Duration::from_millis(rng.below(1500)))
}
