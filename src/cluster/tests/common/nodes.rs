//! Starts and kills nodes of a cluster in one process.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use isthmus_cluster::raft::{RaftLog, RaftLogOptions, settings};
use isthmus_storage::SharedStorage;
use openraft::{BasicNode, Config};

use super::{
    fold::Fold,
    network::{Raft, Switch},
};

/// How long a test waits for anything, before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running node.
pub(crate) struct Node {
    /// openraft.
    pub(crate) raft: Raft,
    /// What it has applied.
    pub(crate) fold: Fold,
    /// Its log. The test holds it, so that openraft's end does not close it cleanly.
    pub(crate) log: RaftLog,
}

/// The settings with timeouts that suit a test on a busy machine.
pub(crate) fn test_settings() -> Config {
    Config {
        heartbeat_interval: 100,
        election_timeout_min: 500,
        election_timeout_max: 800,
        ..settings()
    }
}

/// Starts node `id` from the files in `storage` and plugs it in.
pub(crate) async fn start(
    id: u64,
    storage: SharedStorage,
    options: RaftLogOptions,
    config: Config,
    switch: &Switch,
) -> Node {
    let opened = RaftLog::open(storage, options, |_| {});
    let (log, _) = opened.expect("the log opens");
    let fold = Fold::default();
    let config = Arc::new(config.validate().expect("valid settings"));
    let port = switch.port(id);
    let raft = Raft::new(id, config, port, log.clone(), fold.clone()).await.expect("starts");
    switch.plug(id, raft.clone());
    Node { raft, fold, log }
}

/// Makes the nodes `ids` a cluster, and waits until `first`, one of them, leads it.
pub(crate) async fn initialize(first: &Node, ids: &[u64]) {
    let members: BTreeMap<_, _> =
        ids.iter().map(|&id| (id, BasicNode::new(format!("node-{id}")))).collect();
    first.raft.initialize(members).await.expect("a new cluster");
    lead(first, 0).await;
}

/// Waits until `node` leads a term beyond `term`, and takes proposals: it does once a quorum has
/// acknowledged the term, from which its lease runs.
pub(crate) async fn lead(node: &Node, term: u64) {
    let id = *node.raft.node_id();
    let leads = move |m: &openraft::RaftMetrics<_>| {
        // While it appends the first membership a node says that it leads term 0.
        m.current_leader == Some(id) && m.current_term > term && m.last_quorum_acked.is_some()
    };
    node.raft.wait(Some(PATIENCE)).metrics(leads, "a new leader").await.expect("elected");
}
