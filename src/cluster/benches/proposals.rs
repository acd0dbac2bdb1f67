//! Proposals a second through three nodes in one process, each with its own runtime thread and its
//! own log on real files, synced on all of them.
//!
//! A proposal counts when it is committed and applied on the leader. The log is purged behind it, so
//! that segments are recycled as they are in a broker that is consumed from. The data directories are made
//! below the directory named by `ISTHMUS_BENCH_DIR`, the system's temporary one if it is not set:
//! on a file system in memory the figures mean nothing.

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{
    network::Switch,
    nodes::{Node, initialize, start, test_settings},
};
use futures_util::{StreamExt, stream};
use isthmus_cluster::raft::{Proposal, RaftLogOptions};
use isthmus_storage::RealStorage;
use openraft::{Config, SnapshotPolicy};
use tokio::{runtime, sync::oneshot};

/// How long each case runs before anything is counted, until segments are recycled.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long each case is counted.
const CASE: Duration = Duration::from_secs(5);
/// How much log is kept behind the last snapshot, in bytes.
const KEPT_BYTES: u64 = 64 << 20;

fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// A node on a thread of its own, until `stop` is dropped.
struct Hosted {
    node: Option<Node>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

fn host(id: u64, dir: PathBuf, switch: Switch, bytes: usize) -> Hosted {
    let kept = KEPT_BYTES / bytes as u64;
    let config = Config {
        snapshot_policy: SnapshotPolicy::LogsSinceLast(kept),
        max_in_snapshot_log_to_keep: kept,
        // A disk that stalls, as a shared one does, is to show as latency and not end the lease.
        heartbeat_interval: 500,
        election_timeout_min: 5_000,
        election_timeout_max: 6_000,
        ..test_settings()
    };
    let (node_tx, node_rx) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = thread::spawn(move || {
        runtime().block_on(async {
            std::fs::create_dir_all(&dir).expect("a directory");
            let storage = Arc::new(RealStorage::open(dir).expect("the directory opens"));
            let options = RaftLogOptions::default();
            let node = start(id, storage, options, config, &switch).await;
            let raft = node.raft.clone();
            node_tx.send(node).expect("the bench waits for it");
            // Dropping the sender is the signal.
            stopped.await.ok();
            raft.shutdown().await.expect("openraft ends");
        });
    });
    let node = node_rx.recv().expect("the node starts");
    Hosted { node: Some(node), stop: Some(stop), thread: Some(thread) }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the node ends");
        }
        self.node.take();
    }
}

/// Keeps `in_flight` proposals of `bytes` under way for a while; returns the latency of each.
async fn load(leader: &Node, bytes: usize, in_flight: usize, time: Duration) -> Vec<Duration> {
    let payload = Bytes::from(vec![0x5a; bytes]);
    let end = Instant::now() + time;
    stream::repeat_with(|| Proposal(payload.clone()))
        .take_while(|_| std::future::ready(Instant::now() < end))
        .map(|proposal| async {
            let began = Instant::now();
            leader.raft.client_write(proposal).await.expect("committed");
            began.elapsed()
        })
        .buffer_unordered(in_flight)
        .collect()
        .await
}

fn case(bytes: usize, in_flight: usize) -> io::Result<()> {
    let base = std::env::var_os("ISTHMUS_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base)?;
    let switch = Switch::default();
    let nodes =
        [1, 2, 3].map(|id| host(id, dir.path().join(id.to_string()), switch.clone(), bytes));
    let leader = nodes[0].node.as_ref().expect("it runs");
    let (mut latencies, took) = runtime().block_on(async {
        initialize(leader, &[1, 2, 3]).await;
        load(leader, bytes, in_flight, WARM_UP).await;
        let began = Instant::now();
        (load(leader, bytes, in_flight, CASE).await, began.elapsed())
    });
    latencies.sort_unstable();
    let a_second = latencies.len() as f64 / took.as_secs_f64();
    let at = |percent: usize| latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)];
    writeln!(
        io::stdout(),
        "{:>4} KiB, {in_flight:>3} in flight: {a_second:>7.0} proposals/s, {:>6.1} MiB/s, \
         p50 {:>8.2?}, p99 {:>8.2?}",
        bytes >> 10,
        a_second * bytes as f64 / f64::from(1 << 20),
        at(50),
        at(99),
    )
}

fn main() -> io::Result<()> {
    for in_flight in [1, 16, 256] {
        case(1 << 10, in_flight)?;
    }
    for in_flight in [1, 4, 16] {
        case(64 << 10, in_flight)?;
    }
    Ok(())
}
