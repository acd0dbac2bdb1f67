//! Three nodes in one process over the log store: they elect, replicate, lose a node to a power cut
//! or a kill, take it back from its files, and hand leadership over.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{
    network::{Raft, Switch},
    nodes::{Node, PATIENCE, initialize, lead, start, test_settings},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use isthmus_cluster::raft::{Proposal, RaftLogOptions};
use isthmus_storage::{LogOptions, RealStorage, SharedStorage, SimStorage};
use openraft::async_runtime::watch::WatchReceiver;

const PROPOSALS: u64 = 10_000;
/// Proposals handed to openraft in one call.
const BATCH: u64 = 20;
/// Calls under way at once.
const IN_FLIGHT: usize = 8;
const IDS: [u64; 3] = [1, 2, 3];

/// Where the nodes have their files, and what becomes of those of a node that is killed.
trait Disks {
    fn storage(&mut self, id: u64) -> SharedStorage;
    /// The moment of the kill.
    fn kill(&mut self, id: u64);
}

/// Real files. The process cannot die alone, so a killed node's log is closed by its last handle.
struct RealDisks(tempfile::TempDir);

impl Disks for RealDisks {
    fn storage(&mut self, id: u64) -> SharedStorage {
        let dir = self.0.path().join(id.to_string());
        std::fs::create_dir_all(&dir).expect("a directory");
        Arc::new(RealStorage::open(dir).expect("the directory opens"))
    }

    fn kill(&mut self, _id: u64) {}
}

/// Simulated disks. A kill is a power cut: what was not synced is lost or torn.
struct SimDisks([SimStorage; 3]);

impl Disks for SimDisks {
    fn storage(&mut self, id: u64) -> SharedStorage {
        Arc::new(self.0[id as usize - 1].clone())
    }

    fn kill(&mut self, id: u64) {
        let disk = &mut self.0[id as usize - 1];
        *disk = disk.crash(id);
    }
}

/// Small enough that most of what a returning node lacks is read from the files.
fn options() -> RaftLogOptions {
    let log = LogOptions { segment_bytes: 256 << 10, ..LogOptions::default() };
    RaftLogOptions { log, memory_bytes: 64 << 10, ..RaftLogOptions::default() }
}

async fn start_node(id: u64, disks: &mut impl Disks, switch: &Switch) -> Node {
    start(id, disks.storage(id), options(), test_settings(), switch).await
}

/// Kills a node: first nothing of it is heard any more, then its disk stops, then it ends.
async fn kill(node: Node, disks: &mut impl Disks, switch: &Switch) {
    let id = *node.raft.node_id();
    switch.unplug(id);
    disks.kill(id);
    node.raft.shutdown().await.expect("openraft ends");
    // On a disk that was cut this changes the old disk, which nobody looks at again.
    node.log.close().expect("the log closes");
}

fn proposal(number: u64) -> Proposal {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(100 + number as usize % 100, 0);
    Proposal(Bytes::from(bytes))
}

/// Proposes `from..to`, several calls at once and many proposals in each, and waits for all.
async fn propose(raft: &Raft, from: u64, to: u64) {
    stream::iter((from..to).step_by(BATCH as usize))
        .map(|first| async move {
            let batch = (first..to.min(first + BATCH)).map(proposal);
            let answers = raft.client_write_many(batch).await.expect("openraft runs");
            let answers: Vec<_> = answers.try_collect().await.expect("openraft runs");
            for answer in answers {
                answer.unwrap_or_else(|e| panic!("a proposal was refused: {e:?}"));
            }
        })
        .buffered(IN_FLIGHT)
        .collect::<()>()
        .await;
}

/// Waits until all nodes have applied what `leader` has, and checks that it is the same.
async fn converge(leader: &Node, nodes: &[&Node], proposals: u64) {
    let expected = leader.fold.folded();
    assert_eq!(expected.proposals, proposals);
    let applied = expected.applied.map(|id| id.index);
    for node in nodes {
        let wait = node.raft.wait(Some(PATIENCE));
        wait.applied_index_at_least(applied, "what the leader has applied").await.expect("applied");
        let folded = node.fold.folded();
        assert_eq!((folded.proposals, folded.hash), (expected.proposals, expected.hash));
    }
}

async fn life_of_a_cluster(mut disks: impl Disks) {
    let switch = Switch::default();
    let one = start_node(1, &mut disks, &switch).await;
    let two = start_node(2, &mut disks, &switch).await;
    let three = start_node(3, &mut disks, &switch).await;
    initialize(&one, &IDS).await;

    // The third node dies while proposals are on their way; two of three go on.
    let third = PROPOSALS / 3;
    let dies = async {
        let wait = three.raft.wait(Some(PATIENCE));
        wait.applied_index_at_least(Some(third / 2), "half of them").await.expect("it follows");
        kill(three, &mut disks, &switch).await;
    };
    futures_util::join!(propose(&one.raft, 0, third), dies);
    propose(&one.raft, third, 2 * third).await;

    // It comes back from its files, while the load goes on.
    let three = start_node(3, &mut disks, &switch).await;
    propose(&one.raft, 2 * third, PROPOSALS - 1000).await;
    converge(&one, &[&two, &three], PROPOSALS - 1000).await;

    // The leader hands over to it.
    let term = one.raft.metrics().borrow_watched().current_term;
    one.raft.trigger().transfer_leader(3).await.expect("openraft runs");
    for node in [&one, &two, &three] {
        node.raft.wait(Some(PATIENCE)).current_leader(3, "the new leader").await.expect("led");
    }
    lead(&three, term).await;
    propose(&three.raft, PROPOSALS - 1000, PROPOSALS - 500).await;

    // The new leader dies: the others elect, and it returns as a follower of a later term.
    let term = three.raft.metrics().borrow_watched().current_term;
    kill(three, &mut disks, &switch).await;
    let elected = |m: &openraft::RaftMetrics<_>| {
        m.current_term > term && matches!(m.current_leader, Some(1 | 2))
    };
    let metrics = two.raft.wait(Some(PATIENCE)).metrics(elected, "a leader among two").await;
    let elected = metrics.expect("elected").current_leader;
    let leader = if elected == Some(1) { &one } else { &two };
    lead(leader, term).await;
    let three = start_node(3, &mut disks, &switch).await;
    propose(&leader.raft, PROPOSALS - 500, PROPOSALS).await;
    converge(leader, &[&one, &two, &three], PROPOSALS).await;
    let metrics = three.raft.metrics().borrow_watched().clone();
    assert_eq!(metrics.current_leader, Some(*leader.raft.node_id()));

    for node in [one, two, three] {
        node.raft.shutdown().await.expect("openraft ends");
        node.log.close().expect("the log closes");
    }
}

fn run(disks: impl Disks) {
    // One thread for all three, as in the product: openraft does little, the writers have their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(life_of_a_cluster(disks));
}

#[test]
fn three_nodes_on_real_files() {
    run(RealDisks(tempfile::tempdir().expect("a directory")));
}

#[test]
fn three_nodes_with_power_cuts() {
    run(SimDisks([1, 2, 3].map(SimStorage::new)));
}
