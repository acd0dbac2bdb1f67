//! Three nodes that speak to each other through sockets, plain and with mutual TLS: they elect,
//! replicate, catch up by log and by snapshot, and refuse who is not one of them.

mod common;

use std::{
    path::Path,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{
    nodes::PATIENCE,
    peers::{Holes, LongWire, PeerNode, PeerRaft, Start, initialize, lead, listener},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use isthmus_cluster::{
    peer::{MemberId, PeerTls, Security, Token},
    raft::Proposal,
};
use openraft::async_runtime::watch::WatchReceiver;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;

const PROPOSALS: u64 = 10_000;
const BATCH: u64 = 20;
const IN_FLIGHT: usize = 8;

fn proposal(number: u64, len: usize) -> Proposal {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len, 0);
    Proposal(Bytes::from(bytes))
}

/// Proposes `from..to` and waits for all.
async fn propose(raft: &PeerRaft, from: u64, to: u64) {
    stream::iter((from..to).step_by(BATCH as usize))
        .map(|first| async move {
            let batch = (first..to.min(first + BATCH)).map(|number| proposal(number, 150));
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
async fn converge(leader: &PeerNode, nodes: &[&PeerNode], proposals: u64) {
    let expected = leader.machine.0.folded();
    assert_eq!(expected.proposals, proposals);
    let applied = expected.applied.map(|id| id.index);
    for node in nodes {
        let wait = node.raft.wait(Some(PATIENCE));
        wait.applied_index_at_least(applied, "what the leader has applied").await.expect("applied");
        let folded = node.machine.0.folded();
        assert_eq!((folded.proposals, folded.hash), (expected.proposals, expected.hash));
    }
}

async fn life_of_a_cluster(root: &Path, security: Security) {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let (listener, _) = listener().await;
        nodes.push(Start::new(MemberId(id), listener, root, &security).start().await);
    }
    let [one, two, three] = <[_; 3]>::try_from(nodes).ok().expect("three");
    initialize(&[&one, &two, &three]).await;
    propose(&one.raft, 0, 3000).await;
    converge(&one, &[&two, &three], 3000).await;

    // The third node dies; two of three go on; it comes back and catches up by log.
    let address = three.address;
    three.kill().await;
    propose(&one.raft, 3000, 6000).await;
    let back = TcpListener::bind(address).await.expect("the port is free again");
    let three = Start::new(MemberId(3), back, root, &security).start().await;
    converge(&one, &[&two, &three], 6000).await;
    assert_eq!(three.handler.snapshots.load(Ordering::Relaxed), 0);

    // It dies again, and what it lacks is purged: it catches up by snapshot, and goes on by log.
    three.kill().await;
    propose(&one.raft, 6000, 9000).await;
    one.raft.trigger().snapshot().await.expect("openraft runs");
    let applied = one.machine.0.folded().applied.expect("much").index;
    let wait = one.raft.wait(Some(PATIENCE));
    let built = |m: &openraft::RaftMetrics<_>| m.snapshot.is_some_and(|id| id.index >= applied);
    wait.metrics(built, "a snapshot").await.expect("built");
    one.raft.trigger().purge_log(applied).await.expect("openraft runs");
    let wait = one.raft.wait(Some(PATIENCE));
    let purged = |m: &openraft::RaftMetrics<_>| m.purged.is_some_and(|id| id.index >= applied);
    wait.metrics(purged, "a purge").await.expect("purged");
    let back = TcpListener::bind(address).await.expect("the port is free again");
    let three = Start::new(MemberId(3), back, root, &security).start().await;
    propose(&one.raft, 9000, PROPOSALS).await;
    converge(&one, &[&two, &three], PROPOSALS).await;
    // The first one finds the disk full, and the leader tries again.
    assert!(three.handler.snapshots.load(Ordering::Relaxed) >= 2);
    let heard = three.handler.failures.lock().join("\n");
    assert!(heard.contains("from member 1: the snapshot could not be stored: the disk is full"));

    // The leader hands over, which needs a message of its own.
    let term = one.raft.metrics().borrow_watched().current_term;
    one.raft.trigger().transfer_leader(2).await.expect("openraft runs");
    lead(&two, term).await;
    propose(&two.raft, PROPOSALS, PROPOSALS + 100).await;

    // The new leader dies: the others elect.
    let term = two.raft.metrics().borrow_watched().current_term;
    two.kill().await;
    let elected = |m: &openraft::RaftMetrics<_>| {
        m.current_term > term && matches!(m.current_leader, Some(1 | 3))
    };
    let metrics = one.raft.wait(Some(PATIENCE)).metrics(elected, "a leader among two").await;
    let leader = match metrics.expect("elected").current_leader {
        Some(1) => &one,
        _ => &three,
    };
    lead(leader, term).await;
    propose(&leader.raft, PROPOSALS + 100, PROPOSALS + 200).await;
    converge(leader, &[&one, &three], PROPOSALS + 200).await;
    for node in [one, three] {
        node.kill().await;
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("in time");
    });
}

/// A certificate authority of a cluster.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

/// A node's certificate by `authority`.
fn tls(authority: &CertifiedIssuer<'static, KeyPair>) -> PeerTls {
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, authority).expect("signed");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    PeerTls::from_certificates(&[authority.der().clone()], vec![certificate.der().clone()], key)
        .expect("usable")
}

#[test]
fn three_nodes_over_plain_tcp() {
    let root = tempfile::tempdir().expect("a directory");
    run(life_of_a_cluster(root.path(), Security::default()));
}

#[test]
fn three_nodes_over_mutual_tls_with_a_token() {
    let root = tempfile::tempdir().expect("a directory");
    let token = Some(Token(Bytes::from_static(b"an agreed secret")));
    let security = Security { tls: Some(tls(&authority())), token };
    run(life_of_a_cluster(root.path(), security));
}

/// With 20 ms in each direction and 4 KiB in each append, 500 appends one after the other would take
/// 20 s.
#[test]
fn appends_are_a_pipeline() {
    const APPENDS: u64 = 500;
    let root = tempfile::tempdir().expect("a directory");
    run(async {
        let mut nodes = Vec::new();
        for id in 1..=3 {
            let (listener, near) = listener().await;
            let wire = LongWire { delay: Duration::from_millis(20), near, holes: Holes::default() };
            let start = Start::new(MemberId(id), listener, root.path(), &Security::default());
            let start = Start { message_bytes: 4 << 10, ..start }.dial(wire);
            nodes.push(start.start().await);
        }
        let nodes = <[_; 3]>::try_from(nodes).ok().expect("three");
        initialize(&nodes.each_ref()).await;
        let begun = Instant::now();
        let batch = (0..APPENDS).map(|number| proposal(number, 4 << 10));
        let answers = nodes[0].raft.client_write_many(batch).await.expect("openraft runs");
        let answers: Vec<_> = answers.try_collect().await.expect("openraft runs");
        assert!(answers.iter().all(Result::is_ok));
        let took = begun.elapsed();
        eprintln!("{APPENDS} appends over 40 ms of wire took {took:?}");
        assert!(took < Duration::from_secs(8), "{APPENDS} appends took {took:?}");
        for node in nodes {
            node.kill().await;
        }
    });
}

/// A node falls silent without closing anything, as in a partition, and comes back: its old
/// connections lead nowhere for ever, and nobody waits for them.
#[test]
fn a_silent_partition_heals() {
    let root = tempfile::tempdir().expect("a directory");
    run(async {
        let (mut nodes, holes) = (Vec::new(), Holes::default());
        for id in 1..=3 {
            let (listener, near) = listener().await;
            let wire = LongWire {
                delay: Duration::from_millis(1),
                near,
                holes: std::sync::Arc::clone(&holes),
            };
            let start = Start::new(MemberId(id), listener, root.path(), &Security::default());
            nodes.push(start.dial(wire).start().await);
        }
        let [one, two, three] = <[_; 3]>::try_from(nodes).ok().expect("three");
        initialize(&[&one, &two, &three]).await;
        propose(&one.raft, 0, 500).await;
        let term = one.raft.metrics().borrow_watched().current_term;
        holes.lock().insert(three.address);
        propose(&one.raft, 500, 1000).await;
        // Long enough for the third node to want an election, which it cannot get.
        tokio::time::sleep(Duration::from_secs(2)).await;
        holes.lock().clear();
        let healed = Instant::now();
        converge(&one, &[&two, &three], 1000).await;
        eprintln!("caught up {:?} after the partition", healed.elapsed());
        assert!(healed.elapsed() < Duration::from_secs(6), "{:?}", healed.elapsed());
        propose(&one.raft, 1000, 1500).await;
        assert_eq!(one.raft.metrics().borrow_watched().current_term, term, "nobody was deposed");

        // The leader itself: the others elect, and it learns of it when it is back.
        holes.lock().insert(one.address);
        let elected = |m: &openraft::RaftMetrics<_>| {
            m.current_term > term && matches!(m.current_leader, Some(2 | 3))
        };
        let metrics = two.raft.wait(Some(PATIENCE)).metrics(elected, "a leader among two").await;
        let leader =
            if metrics.expect("elected").current_leader == Some(2) { &two } else { &three };
        lead(leader, term).await;
        propose(&leader.raft, 1500, 2000).await;
        holes.lock().clear();
        converge(leader, &[&one, &two, &three], 2000).await;
        for node in [one, two, three] {
            node.kill().await;
        }
    });
}
