//! A node: the production broker over a simulated disk and network.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isthmus_broker::storage::threads::{Simulation, Threads};
use isthmus_broker::{
    Access, Authenticate, Broker, BrokerOptions, ClusterOptions, Combining, Driver, Entering,
    Input, Limits, Login, PagingOptions, Peer, RecoveryError, ScrubOptions, Shard, Unrestricted,
    User,
};
use isthmus_cluster::SingleOptions;
use isthmus_cluster::member::{self, MemberOptions};
use isthmus_cluster::peer::{
    ClientHeader, ClientStream, ClusterId, Dialer, Directory, Handler, Identity, Local, MemberId,
    Network, PeerError, PeerOptions, PeerServer, Security, SnapshotMeta,
};
use isthmus_cluster::raft::{Chunks, Install, RaftLogOptions};
use isthmus_contract::Credentials;
use isthmus_core::{Fact, Ledger, Part};
use isthmus_model::QueueId;
use isthmus_storage::fs::Rng;
use isthmus_storage::{Error as StorageError, LogId, LogOptions, WriterOptions};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

use crate::disk::SlowDisk;
use crate::net::{Net, address};
use crate::spoken::ENCODINGS;

/// The virtual host of all clients.
pub(crate) const VHOST: &str = "/";

const CLUSTER: ClusterId = ClusterId([9; 16]);

/// How the nodes of a run are set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// How many nodes begin.
    pub(crate) nodes: usize,
    /// By how much the wall clock of each node is ahead of that of the one before.
    pub(crate) clocks_apart: Duration,
    /// Whether the wall clock of a node is another whenever it comes back.
    pub(crate) clocks_jump: bool,
    /// Whether the power goes soon after some starts.
    pub(crate) power_fails: bool,
    /// Whether disks fail without the power.
    pub(crate) disks_fail: bool,
    /// Whether messages go to pages early.
    pub(crate) pages: bool,
    /// Whether the log is forgotten so early that a node which lags needs a snapshot.
    pub(crate) forgets: bool,
}

/// Which life of a node it is: one that has lost its data has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) node: usize,
    /// How often it has lost its data.
    pub(crate) incarnation: u64,
    /// It was there when the cluster began; others are taken in.
    pub(crate) founds: bool,
}

impl Life {
    /// The member that it is.
    pub(crate) fn member(self) -> MemberId {
        // Node numbers begin at 1.
        MemberId(self.incarnation << 16 | (self.node as u64 + 1))
    }

    /// The member, and where its peers reach it.
    pub(crate) fn peer(self) -> member::Peer {
        member::Peer { id: self.member(), addr: address(self.node) }
    }
}

/// Lets everybody in.
struct Anybody;

/// May do everything.
struct Somebody(Arc<str>);

impl User for Somebody {
    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn tags(&self) -> Vec<String> {
        Vec::new()
    }

    fn enter(&self, _vhost: &Arc<str>) -> Entering {
        Box::pin(std::future::ready(Ok(Box::new(Unrestricted) as Box<dyn Access>)))
    }

    fn limits(&self, _vhost: &str) -> Limits {
        Limits::default()
    }
}

impl Authenticate for Anybody {
    fn login(&self, _credentials: Credentials, _peer: &Peer) -> Login {
        let user: Arc<dyn User> = Arc::new(Somebody("client".into()));
        Box::pin(std::future::ready(Ok(user)))
    }
}

/// What a node does for its peers: it takes their snapshots.
#[derive(Clone, Default)]
struct Serving(Arc<Mutex<Option<Broker>>>);

impl Handler for Serving {
    fn stage_snapshot(
        &self,
        meta: SnapshotMeta,
        chunks: Chunks,
    ) -> BoxFuture<'_, io::Result<Install>> {
        let broker = self.0.lock().clone();
        Box::pin(async move {
            let broker = broker.ok_or_else(|| io::Error::other("the node starts"))?;
            let membership = broker.membership().ok_or_else(|| io::Error::other("no member"))?;
            let at = meta.last_log_id.ok_or_else(|| io::Error::other("an empty snapshot"))?;
            let at = LogId { index: at.index + 1, term: at.leader_id.term };
            membership.stage(at, chunks).await
        })
    }

    fn control(&self, _peer: Identity, _request: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(std::future::ready(Bytes::new()))
    }

    fn admit(&self, _peer: Identity, _header: &ClientHeader) -> Result<(), String> {
        Err("clients connect to the leader".to_owned())
    }

    fn client(&self, _header: ClientHeader, _stream: ClientStream) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn failed(&self, remote: &str, error: &PeerError) {
        tracing::debug!(remote, %error, "a connection of a peer has failed");
    }
}

/// A node that runs.
pub(crate) struct Node {
    pub(crate) broker: Broker,
    driver: Weak<Combining>,
    serving: Serving,
    directory: Directory,
    listening: JoinHandle<()>,
    /// The broker's ends of its clients' connections.
    clients: Mutex<Vec<AbortHandle>>,
}

/// Called when a node's disk has failed.
pub(crate) type OnFailure = Box<dyn FnOnce(StorageError) + Send>;

fn broker_options(
    setup: Setup,
    disk: &SlowDisk,
    threads: Threads,
    fail: OnFailure,
) -> BrokerOptions {
    let unpaged_bytes_max = if setup.pages { 8 << 10 } else { 64 << 20 };
    let checkpoint_after_bytes = if setup.forgets { 4 << 10 } else { 16 << 10 };
    BrokerOptions {
        storage: Arc::new(disk.clone()),
        node: SingleOptions::default(),
        encodings: ENCODINGS,
        authenticate: Arc::new(Anybody),
        on_settings: Box::new(|_| {}),
        vhosts: vec![VHOST.to_owned()],
        outbox_bytes_max: 64 << 10,
        publish_bytes_max: 1 << 20,
        paging: PagingOptions {
            checkpoint_after_bytes,
            unpaged_bytes_max,
            page_bytes: 1 << 10,
            file_bytes: 8 << 10,
            log_kept_bytes: if setup.forgets { 0 } else { 1 << 20 },
        },
        scrub: ScrubOptions { bytes_per_second: 0, ..ScrubOptions::default() },
        page_bytes_max: 64 << 10,
        retained_bytes_max: 1 << 20,
        own_exchange: None,
        name_seed: [1; 32],
        on_log_failure: fail,
        threads,
    }
}

fn cluster_options(life: Life) -> ClusterOptions {
    // Clocks of different nodes run at slightly different speeds: as fast as the slowest, or
    // faster by up to 1 %.
    let skewed = |ms: u64| Duration::from_micros(ms * (1000 + 5 * (life.node as u64 % 3)));
    ClusterOptions {
        member: MemberOptions {
            id: life.member(),
            heartbeat: Duration::from_millis(100),
            election_timeout: skewed(500),
        },
        log: RaftLogOptions {
            log: LogOptions {
                segment_bytes: 16 << 10,
                entry_bytes_max: 1 << 20,
                spares: 1,
                spares_max: 3,
            },
            writer: WriterOptions {
                idle_before_seal: Duration::from_millis(20),
                ..WriterOptions::default()
            },
            memory_bytes: 8 << 10,
            message_bytes: 4 << 10,
        },
        hold: Duration::from_secs(1),
    }
}

impl Node {
    /// Starts a node on what its disk holds; its wall clock is ahead by `ahead`.
    pub(crate) async fn start(
        life: Life,
        (setup, ahead): (Setup, Duration),
        (net, disk, seed): (&Net, &SlowDisk, u64),
        simulation: &Simulation,
        on_failure: OnFailure,
    ) -> Result<Node, RecoveryError> {
        let threads = Threads::simulated(simulation).with_clock_ahead(ahead);
        let member = life.member();
        let rng = Mutex::new(Rng::new(seed));
        let local = Local {
            directory: Directory::new(Identity { cluster: CLUSTER, member, node: member.node() }),
            security: Security::default(),
            options: PeerOptions::default(),
            random: Arc::new(move |nonce| {
                for byte in nonce {
                    // The low byte is as good as any.
                    *byte = rng.lock().next_u64() as u8;
                }
            }),
        };
        let directory = local.directory.clone();
        let serving = Serving::default();
        let server = PeerServer::new(local.clone(), Arc::new(serving.clone()));
        let listener = net.listen(life.node);
        let listening = tokio::spawn({
            let server = server.clone();
            async move { server.listen(listener).await.unwrap_or_default() }
        });
        let network = Network::new(Dialer::new(local, net.dialling(life.node)));
        let options = broker_options(setup, disk, threads.clone(), on_failure);
        let cluster = cluster_options(life);
        let (network, watch) = network.returning(cluster.member.election_timeout);
        tokio::spawn(watch);
        let (tell, told) = oneshot::channel();
        let runtime = Handle::current();
        threads.spawn("start", move || {
            let mut driver = Weak::new();
            let drive = |shard| {
                let combining = Combining::start(shard);
                driver = Arc::downgrade(&combining);
                combining
            };
            let broker = Broker::start_member(options, cluster, network, &runtime, drive);
            // Nobody waits any more if the run is over.
            tell.send(broker.map(|broker| (broker, driver))).unwrap_or_default();
        })?;
        let started = told.await.map_err(|_| RecoveryError::Member("it panicked".to_owned()));
        let (broker, driver) = match started {
            Ok(Ok(started)) => started,
            Ok(Err(error)) | Err(error) => {
                listening.abort();
                return Err(error);
            }
        };
        *serving.0.lock() = Some(broker.clone());
        let clients = Mutex::default();
        let this = Node { broker, driver, serving, directory, listening, clients };
        if let Some(membership) = this.broker.membership() {
            let member = membership.member();
            server.set_raft(member.raft().clone());
            if life.founds && !member.is_initialized().await {
                let lives = (0..setup.nodes).map(|node| Life { node, ..life });
                let peers: Vec<_> = lives.map(Life::peer).collect();
                // Somebody else may have been faster.
                member.initialize(&peers).await.unwrap_or_default();
            }
        }
        Ok(this)
    }

    /// Whether it has heard from `member` what it had before it came back.
    pub(crate) fn has_heard(&self, member: MemberId) -> bool {
        self.directory.has_heard(member)
    }

    /// A client's connection is served by this task.
    pub(crate) fn serves(&self, task: AbortHandle) {
        let mut clients = self.clients.lock();
        clients.retain(|client| !client.is_finished());
        clients.push(task);
    }

    /// Ends it as a kill does: nobody hears of it any more. What it still does ends, out of sight,
    /// on a disk that nobody looks at.
    pub(crate) fn kill(&self, simulation: &Simulation) {
        self.listening.abort();
        self.clients.lock().iter().for_each(AbortHandle::abort);
        *self.serving.0.lock() = None;
        let broker = self.broker.clone();
        let stopping = move || broker.stop().unwrap_or_default();
        Threads::simulated(simulation).spawn("zombie", stopping).map(drop).unwrap_or_default();
    }

    /// What `look` sees in the shard.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = oneshot::channel();
        let look =
            move |shard: &mut Shard| tell.send(look(shard)).map_err(drop).unwrap_or_default();
        self.driver.upgrade()?.submit(Input::Inspect(Box::new(look)));
        told.await.ok()
    }
}

/// A queue as a ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldQueue {
    next: u64,
    redelivered_below: u64,
    /// Sequence, deliveries known to have failed, and the body where it is in memory.
    messages: Vec<(u64, u32, Option<Vec<u8>>)>,
}

/// What a ledger holds, whatever is in pages.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) applied: u64,
    rest: Vec<String>,
    pub(crate) queues: BTreeMap<u64, HeldQueue>,
}

impl Held {
    /// What a shard's ledger holds.
    pub(crate) fn of(shard: &Shard) -> Held {
        let ledger = shard.ledger();
        let rest = ledger.entries(u64::MAX).flat_map(|entry| entry.facts).filter(|fact| {
            !matches!(
                fact,
                Fact::Restore { .. } | Fact::Logged { .. } | Fact::Page(_) | Fact::Paged { .. }
            )
        });
        let queues = (1..ledger.next_queue().0)
            .filter_map(|id| Some((id, HeldQueue::of(ledger, QueueId(id))?)));
        Held {
            applied: shard.applied(),
            rest: rest.map(|fact| format!("{fact:?}")).collect(),
            queues: queues.collect(),
        }
    }

    /// Where two differ.
    pub(crate) fn difference(&self, other: &Held) -> Option<String> {
        if self.rest != other.rest {
            let pairs = self.rest.iter().zip(&other.rest);
            let first = pairs.filter(|(a, b)| a != b).map(|(a, b)| format!("{a} and {b}")).next();
            return Some(first.unwrap_or_else(|| "one has more facts".to_owned()));
        }
        if self.queues.keys().ne(other.queues.keys()) {
            return Some("other queues".to_owned());
        }
        let mut pairs = self.queues.iter().zip(other.queues.values());
        let differs = pairs.find_map(|((id, a), b)| Some((id, a.difference(b)?)));
        differs.map(|(id, what)| format!("queue {id}: {what}"))
    }
}

impl HeldQueue {
    fn of(ledger: &Ledger, id: QueueId) -> Option<HeldQueue> {
        let queue = ledger.queue(id)?;
        let mut messages = Vec::new();
        let mut at = 0;
        while let Some(sequence) = queue.runs.first_from(at) {
            at = sequence + 1;
            let (count, body) = match queue.runs.find(sequence, 1) {
                Some(Part::Here(run)) => {
                    let record = &run.batch.records[run.record as usize];
                    (run.delivery_count, Some(run.batch.body(record).to_vec()))
                }
                Some(part) => (part.delivery_count(0), None),
                None => continue,
            };
            messages.push((sequence, count, body));
        }
        let (next, redelivered_below) = (queue.next, queue.redelivered_below);
        Some(HeldQueue { next, redelivered_below, messages })
    }

    fn difference(&self, other: &HeldQueue) -> Option<String> {
        let ends = |queue: &HeldQueue| (queue.next, queue.redelivered_below, queue.messages.len());
        if ends(self) != ends(other) {
            return Some(format!("{:?} and {:?}", ends(self), ends(other)));
        }
        let mut pairs = self.messages.iter().zip(&other.messages);
        let differs = pairs.find(|(a, b)| {
            let bodies_differ = a.2.is_some() && b.2.is_some() && a.2 != b.2;
            (a.0, a.1) != (b.0, b.1) || bodies_differ
        });
        differs.map(|(a, b)| format!("{a:?} and {b:?}"))
    }
}
