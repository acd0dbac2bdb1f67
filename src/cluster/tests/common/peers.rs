//! Nodes that speak to each other through sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isthmus_cluster::{
    peer::{
        BoxedStream, ClientHeader, ClientStream, ClusterId, Dial, Dialer, Directory, Handler,
        Identity, Local, MemberId, Network, PeerError, PeerOptions, PeerServer, Security,
        SnapshotMeta, TcpDial, TcpListen,
    },
    raft::{Chunks, Install, RaftLog, RaftLogOptions, RaftTypes},
};
use isthmus_storage::{LogOptions, RealStorage};
use openraft::{BasicNode, Config};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::{
    nodes::{PATIENCE, test_settings},
    staged::Staged,
};

/// openraft with snapshots that go through a network.
pub(crate) type PeerRaft = openraft::Raft<RaftTypes, Staged>;

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Who member `member` of the tests' cluster is.
pub(crate) fn identity(member: MemberId) -> Identity {
    Identity { cluster: CLUSTER, member, node: member.node() }
}

/// What a node of the tests says of itself and demands.
pub(crate) fn local(own: Identity, security: &Security) -> Local {
    static NONCES: AtomicU64 = AtomicU64::new(1);
    Local {
        directory: Directory::new(own),
        security: security.clone(),
        options: PeerOptions { handshake: Duration::from_secs(2), ..PeerOptions::default() },
        random: Arc::new(|nonce| {
            let number = NONCES.fetch_add(1, Ordering::Relaxed).to_le_bytes();
            nonce[..8].copy_from_slice(&number);
        }),
    }
}

/// What the tests do for peers: control requests are answered with who asked and what, clients get
/// their header and an echo.
#[derive(Default)]
pub(crate) struct TestHandler {
    machine: Staged,
    /// What was refused or failed.
    pub(crate) failures: Arc<Mutex<Vec<String>>>,
    /// How many snapshots have come. The first one finds the disk full.
    pub(crate) snapshots: AtomicU64,
}

impl Handler for TestHandler {
    fn stage_snapshot(
        &self,
        meta: SnapshotMeta,
        mut chunks: Chunks,
    ) -> BoxFuture<'_, io::Result<Install>> {
        if self.snapshots.fetch_add(1, Ordering::Relaxed) == 0 {
            return Box::pin(async move {
                drop(chunks.recv().await);
                Err(io::Error::other("the disk is full"))
            });
        }
        Box::pin(self.machine.clone().stage(meta, chunks))
    }

    fn control(&self, peer: Identity, request: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(async move {
            let text = format!("node {}: ", peer.node);
            [text.as_bytes(), &request].concat().into()
        })
    }

    fn admit(&self, _peer: Identity, header: &ClientHeader) -> Result<(), String> {
        match header.listener.as_str() {
            "closed" => Err("this node does not lead".to_owned()),
            _ => Ok(()),
        }
    }

    fn client(&self, header: ClientHeader, mut stream: ClientStream) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // Speaks first, and answers only when the client has said everything.
            stream.write_all(header.client.as_bytes()).await.expect("open");
            stream.flush().await.expect("open");
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.expect("to the end");
            stream.write_all(&said).await.expect("still open in this direction");
            stream.shutdown().await.expect("open");
        })
    }

    fn failed(&self, remote: &str, error: &PeerError) {
        assert!(!remote.is_empty());
        self.failures.lock().push(error.to_string());
    }
}

/// A listener on a port that the system picks.
pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// A server on `listener` until the handle is aborted.
pub(crate) fn serve(
    listener: TcpListener,
    local: Local,
    handler: Arc<TestHandler>,
) -> (PeerServer, JoinHandle<()>) {
    let server = PeerServer::new(local, handler);
    let serving = server.clone();
    let task = tokio::spawn(async move {
        serving.listen(TcpListen(listener)).await.expect("it accepts");
    });
    (server, task)
}

/// A node that runs.
pub(crate) struct PeerNode {
    pub(crate) raft: PeerRaft,
    pub(crate) machine: Staged,
    pub(crate) handler: Arc<TestHandler>,
    pub(crate) local: Local,
    pub(crate) address: SocketAddr,
    log: RaftLog,
    server: JoinHandle<()>,
}

/// How a node of the tests is started.
pub(crate) struct Start<D> {
    pub(crate) member: MemberId,
    pub(crate) listener: TcpListener,
    pub(crate) dir: std::path::PathBuf,
    pub(crate) message_bytes: usize,
    pub(crate) security: Security,
    pub(crate) config: Config,
    pub(crate) dial: D,
}

impl Start<TcpDial> {
    /// A node over plain TCP or what `security` says.
    pub(crate) fn new(
        member: MemberId,
        listener: TcpListener,
        root: &std::path::Path,
        security: &Security,
    ) -> Self {
        Self {
            member,
            listener,
            dir: root.join(member.0.to_string()),
            message_bytes: 1 << 20,
            security: security.clone(),
            config: test_settings(),
            dial: TcpDial,
        }
    }
}

impl<D: Dial> Start<D> {
    /// Connects by `dial` instead.
    pub(crate) fn dial<E: Dial>(self, dial: E) -> Start<E> {
        let Self { member, listener, dir, message_bytes, security, config, dial: _ } = self;
        Start { member, listener, dir, message_bytes, security, config, dial }
    }

    /// Starts the node from what its directory holds.
    pub(crate) async fn start(self) -> PeerNode {
        std::fs::create_dir_all(&self.dir).expect("a directory");
        let storage = Arc::new(RealStorage::open(self.dir).expect("the directory opens"));
        let log = LogOptions { segment_bytes: 256 << 10, ..LogOptions::default() };
        let options = RaftLogOptions {
            log,
            memory_bytes: 64 << 10,
            message_bytes: self.message_bytes,
            ..RaftLogOptions::default()
        };
        let (log, _) = RaftLog::open(storage, options, |_| {}).expect("the log opens");
        let machine = Staged::default();
        let handler = Arc::new(TestHandler { machine: machine.clone(), ..TestHandler::default() });
        let local = local(identity(self.member), &self.security);
        let address = self.listener.local_addr().expect("bound");
        let (server, task) = serve(self.listener, local.clone(), Arc::clone(&handler));
        let network = Network::new(Dialer::new(local.clone(), self.dial));
        let config = Arc::new(self.config.validate().expect("valid settings"));
        let raft = PeerRaft::new(self.member.0, config, network, log.clone(), machine.clone());
        let raft = raft.await.expect("starts");
        server.set_raft(raft.clone());
        PeerNode { raft, machine, handler, local, address, log, server: task }
    }
}

impl PeerNode {
    /// Ends the node: first nothing of it is heard any more.
    pub(crate) async fn kill(self) {
        self.server.abort();
        drop(self.server.await);
        self.raft.shutdown().await.expect("openraft ends");
        self.log.close().expect("the log closes");
    }
}

/// Makes the nodes a cluster that the first one leads.
pub(crate) async fn initialize(nodes: &[&PeerNode]) {
    let members: BTreeMap<_, _> = nodes
        .iter()
        .map(|node| (*node.raft.node_id(), BasicNode::new(node.address.to_string())))
        .collect();
    nodes[0].raft.initialize(members).await.expect("a new cluster");
    lead(nodes[0], 0).await;
}

/// Waits until `node` leads a term beyond `term`, and takes proposals.
pub(crate) async fn lead(node: &PeerNode, term: u64) {
    let id = *node.raft.node_id();
    let leads = move |m: &openraft::RaftMetrics<_>| {
        m.current_leader == Some(id) && m.current_term > term && m.last_quorum_acked.is_some()
    };
    node.raft.wait(Some(PATIENCE)).metrics(leads, "a new leader").await.expect("elected");
}

/// Nodes that cannot be reached and cannot reach anybody: nothing passes, and nobody is told.
pub(crate) type Holes = Arc<Mutex<BTreeSet<SocketAddr>>>;

/// Dials with a delay in both directions, as over a long wire. What was connected when one of its
/// ends fell into a hole stays there for ever; new connections wait until it is out.
#[derive(Clone)]
pub(crate) struct LongWire {
    pub(crate) delay: Duration,
    pub(crate) near: SocketAddr,
    pub(crate) holes: Holes,
}

/// The ends of a wire.
struct Ends([SocketAddr; 2], Holes);

impl Ends {
    fn are_cut(&self) -> bool {
        let holes = self.1.lock();
        self.0.iter().any(|end| holes.contains(end))
    }
}

impl Dial for LongWire {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxedStream>> {
        Box::pin(async move {
            let ends = [self.near, address.parse().expect("an address")];
            let ends = Arc::new(Ends(ends, Arc::clone(&self.holes)));
            while ends.are_cut() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let far = TcpDial.dial(address).await?;
            let (near, inner) = tokio::io::duplex(1 << 20);
            let (far_read, far_write) = tokio::io::split(far);
            let (near_read, near_write) = tokio::io::split(inner);
            tokio::spawn(delay(near_read, far_write, self.delay, Arc::clone(&ends)));
            tokio::spawn(delay(far_read, near_write, self.delay, ends));
            Ok(Box::new(near) as BoxedStream)
        })
    }
}

async fn delay(
    mut from: impl tokio::io::AsyncRead + Unpin + Send + 'static,
    mut to: impl tokio::io::AsyncWrite + Unpin + Send + 'static,
    delay: Duration,
    ends: Arc<Ends>,
) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1024);
    tokio::spawn(async move {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            let bytes: Vec<u8> = bytes;
            if ends.are_cut() {
                std::future::pending::<()>().await;
            }
            if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
        drop(to.shutdown().await);
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        let due = tokio::time::Instant::now() + delay;
        if sender.send((due, buffer[..len].to_vec())).await.is_err() {
            return;
        }
    }
}
