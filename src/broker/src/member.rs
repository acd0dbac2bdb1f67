//! A broker that is a member of a cluster.
//!
//! Between consensus, on a runtime of its own, and the shard, whose turns run elsewhere:
//! - [`Applier`] takes committed entries to the shard, and snapshots from it and to it;
//! - [`lead`] tells the shard when the node leads, and when no more;
//! - checkpoints are reported, so that the log forgets what they hold.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use isthmus_cluster::member::{
    Committed, Content, Lease, Member, MemberId, MemberOptions, PeerStatus, Point, Replica, Role,
    Standing, Status,
};
use isthmus_cluster::raft::{Chunks, Install, RaftLog, RaftLogOptions, RaftTypes, SnapshotData};
use isthmus_cluster::{NetSnapshot, RaftNetworkFactory};
use isthmus_storage::threads::Threads;
use isthmus_storage::{Error as StorageError, LogId, SharedStorage, WriterEvent};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::backup::hold;
use crate::blocking::blocking;
use crate::broker::{Assembly, Broker, BrokerOptions, OnFailure};
use crate::driver::Driver;
use crate::durable::Durable;
use crate::pager::Pager;
use crate::recovery::{RecoveryError, recover_member};
use crate::rounds::{Latest, Rounds};
use crate::shard::{Election, Input, Shard, point_of};
use crate::transfer::{self, ChunkReader};

/// Bytes of entries that are committed and wait for the shard, in units of [`ROOM_BYTES`].
const ROOM: usize = 1 << 16;

/// What one unit of room is good for, in bytes.
const ROOM_BYTES: usize = 1 << 10;

/// How often a leader's lease is looked at. The shard looks at it in each turn; this is for turns
/// that do not come by themselves.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// After how long a node leads again in a term in which it has ceased to: a proposal was refused, or
/// no majority had answered.
const LEAD_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How many entries the next leader may lack: those that are on their way under load.
const HEIR_LAG_MAX: u64 = 64;

/// How long the next leader may not have been heard of.
const HEIR_SILENT_MAX: Duration = Duration::from_secs(1);

/// How a member of a cluster is started.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Who it is, and the times of elections.
    pub member: MemberOptions,
    /// How the log is kept.
    pub log: RaftLogOptions,
    /// How long a leader that has lost its majority holds what clients say, before it refuses.
    pub hold: Duration,
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandOverError {
    /// This node does not lead.
    #[error("this node does not lead: ask the leader")]
    NotLeader,
    /// There is no such voter, or no other one.
    #[error("there is no such member that votes")]
    Nobody,
    /// The other one does not lead, for now.
    #[error("the other node does not take over: it may be behind, or not be there")]
    Refused,
    /// The other one was too slow to take over.
    #[error("member {0} leads now: the other node was too slow to take over")]
    Another(MemberId),
}

/// What a broker has that is a member of a cluster.
pub struct Membership {
    member: Member,
    applier: Arc<Applier>,
    /// Where consensus runs.
    runtime: Handle,
    threads: Threads,
    /// The log, until it is closed.
    log: Mutex<Option<RaftLog>>,
}

impl Membership {
    /// The member.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// The cluster as this node sees it.
    pub fn status(&self) -> Status {
        self.member.status()
    }

    /// Receives a snapshot that stands at `at`, beside what the node has.
    ///
    /// # Errors
    /// If it does not arrive as a whole, or cannot be written.
    pub async fn stage(&self, at: LogId, chunks: Chunks) -> io::Result<Install> {
        self.applier.stage(at, chunks).await
    }

    /// Hands leadership to `to`, or to the member that lacks least; returns once it leads.
    ///
    /// # Errors
    /// If this node does not lead, there is nobody to hand over to, or nobody else leads after
    /// `patience`.
    pub async fn hand_over(
        &self,
        to: Option<MemberId>,
        patience: Duration,
    ) -> Result<MemberId, HandOverError> {
        let deadline = Instant::now() + patience;
        let mut standing = self.member.standing();
        let term = standing.borrow().term;
        let heir = self.heir(to, deadline).await?;
        if heir == self.member.id() {
            return Ok(heir);
        }
        self.member.transfer(heir).await.map_err(|_| HandOverError::Refused)?;
        let is_led = |standing: &Standing| standing.term > term && standing.leader.is_some();
        let led = tokio::time::timeout_at(deadline, standing.wait_for(is_led)).await;
        let Ok(Ok(led)) = led else { return Err(HandOverError::Refused) };
        match led.leader {
            Some((leader, _)) if leader == heir || to.is_none() => Ok(leader),
            Some((leader, _)) => Err(HandOverError::Another(leader)),
            None => Err(HandOverError::Refused),
        }
    }

    /// Whom to hand over to, once it lacks no more than what is on its way: consensus gives one that
    /// lacks more half an election timeout, and nobody leads meanwhile.
    async fn heir(
        &self,
        to: Option<MemberId>,
        deadline: Instant,
    ) -> Result<MemberId, HandOverError> {
        loop {
            let status = self.member.status();
            if status.role != Role::Leader {
                return Err(HandOverError::NotLeader);
            }
            let heir = match to {
                Some(to) if to == status.id => return Ok(to),
                Some(to) => status.peers.iter().find(|peer| peer.is_voter && peer.peer.id == to),
                None => successor(&status),
            };
            let heir = heir.ok_or(HandOverError::Nobody)?;
            let is_near = heir.matched.is_some_and(|at| at + HEIR_LAG_MAX >= status.last);
            if is_near && is_heard(heir) {
                return Ok(heir.peer.id);
            }
            if Instant::now() >= deadline {
                return Err(HandOverError::Refused);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends consensus and closes the log. Blocks: not for async code.
    pub(crate) fn stop(&self) -> Result<(), StorageError> {
        let member = self.member.clone();
        let ended = run_on(&self.runtime, &self.threads, async move { member.shutdown().await });
        if let Err(error) = ended {
            tracing::warn!(%error, "consensus did not end cleanly");
        }
        match self.log.lock().take() {
            Some(log) => log.close(),
            None => Ok(()),
        }
    }
}

/// The voter that has most of the log, other than this node; one that does not answer only if none
/// does.
fn successor(status: &Status) -> Option<&PeerStatus> {
    let others = status.peers.iter().filter(|peer| peer.is_voter && peer.peer.id != status.id);
    others.max_by_key(|peer| (is_heard(peer), peer.matched, std::cmp::Reverse(peer.silent)))
}

fn is_heard(peer: &PeerStatus) -> bool {
    peer.silent.is_some_and(|silent| silent < HEIR_SILENT_MAX)
}

impl Broker {
    /// Recovers what is in the storage and takes part in a cluster. Blocks while it reads the log;
    /// to be called within a tokio runtime, on a thread that may block. Consensus runs on
    /// `runtime`, which should be one of a single thread. `network` makes the connections to the
    /// others.
    ///
    /// # Errors
    /// If the data is damaged or cannot be read, or a thread cannot be started.
    pub fn start_member<D, N>(
        options: BrokerOptions,
        cluster: ClusterOptions,
        network: N,
        runtime: &Handle,
        drive: impl FnOnce(Shard) -> Arc<D>,
    ) -> Result<Broker, RecoveryError>
    where
        D: Driver,
        N: RaftNetworkFactory<RaftTypes>,
        N::Network: NetSnapshot<RaftTypes, SnapshotData = SnapshotData>,
    {
        let ClusterOptions { member, mut log, hold } = cluster;
        log.writer.threads = options.threads.clone();
        let mut assembly = Assembly::new(options);
        let (on_failure, synced) =
            (Arc::clone(&assembly.on_failure), Arc::clone(&assembly.log_syncs));
        let news = Arc::new(assembly.options().threads.signal());
        let tell = Arc::clone(&news);
        let on_event = move |event| match event {
            WriterEvent::Durable(_) => {
                tell.notify_all();
                synced.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            WriterEvent::Failed(error) => on_failure.call(error),
        };
        let verified_bytes = assembly.options().scrub.at_start_bytes;
        let storage = assembly.storage();
        let (recovered, log) = recover_member(storage, log, member.id, verified_bytes, on_event)?;
        assembly.durable = Some(Arc::new(Durable::new(log.reader(), news)));
        let start = point_of(&recovered.ledger, recovered.applied.index, recovered.applied.term);
        if let Some(meta) = recovered.checkpoint {
            // Of who takes part, what is true by now will do: openraft looks at the index.
            assembly.checkpoint.set(Point { index: meta.index, term: meta.term, ..start.clone() });
        }
        let (checkpoints, reported) = mpsc::unbounded_channel();
        let ground = assembly.ground(recovered, Some(checkpoints));
        let driver: Arc<dyn Driver> = drive(Shard::follow(ground.recovered, ground.around));
        let applier = Arc::new(Applier {
            start,
            driver: Arc::downgrade(&driver),
            pager: Arc::clone(&ground.rest.pager),
            storage: SharedStorage::clone(assembly.storage()),
            room: Arc::new(Semaphore::new(ROOM)),
            rounds: assembly.rounds.clone(),
            checkpoint: Arc::clone(&assembly.checkpoint),
            on_failure: Arc::clone(&assembly.on_failure),
            threads: assembly.options().threads.clone(),
            stop: assembly.stopping(),
        });
        let replica: Arc<dyn Replica> = Arc::clone(&applier) as _;
        let threads = assembly.options().threads.clone();
        let started = run_on(runtime, &threads, {
            let log = log.clone();
            let driver = Arc::downgrade(&driver);
            async move {
                let member = Member::start(member, network, log, replica).await?;
                tokio::spawn(lead(member.clone(), driver, hold));
                tokio::spawn(report(member.clone(), reported));
                Ok::<Member, io::Error>(member)
            }
        });
        let member = started.map_err(|error| RecoveryError::Member(error.to_string()))?;
        let log = Mutex::new(Some(log));
        let runtime = runtime.clone();
        let membership = Membership { member, applier, runtime, threads, log };
        assembly.finish(driver, ground.rest, Some(membership))
    }
}

/// Runs `future` on another runtime and waits for it.
fn run_on<T: Send + 'static>(
    runtime: &Handle,
    threads: &Threads,
    future: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    let (tell, told) = threads.channel();
    runtime.spawn(async move { drop(tell.send(future.await)) });
    told.recv().map_err(|_| io::Error::other("the runtime of consensus has ended"))?
}

/// Reports checkpoints to consensus.
async fn report(member: Member, mut checkpoints: mpsc::UnboundedReceiver<(u64, u64)>) {
    while let Some((index, purged_to)) = checkpoints.recv().await {
        if member.checkpointed(index, purged_to).await.is_err() {
            return;
        }
    }
}

/// Tells the shard when the node leads, and when no more.
async fn lead(member: Member, driver: Weak<dyn Driver>, hold: Duration) {
    let mut standing = member.standing();
    loop {
        if standing.wait_for(|standing| standing.role == Role::Leader).await.is_err() {
            return;
        }
        // Until a majority has acknowledged it, what it proposes is refused.
        if !member.lease().holds() {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        let term = standing.borrow_and_update().term;
        let Some(shard) = driver.upgrade() else { return };
        let (tell, refused) = oneshot::channel();
        // Nobody listens any more where the term has ended meanwhile.
        let proposer = member.proposer(move || tell.send(()).unwrap_or_default());
        let lease = Arc::clone(member.lease());
        shard.submit(Input::Lead(Election { term, proposer, lease }));
        drop(shard);
        tracing::info!(term, "this node was elected");
        let why = watch_over(&mut standing, term, member.lease(), refused, &driver, hold).await;
        let Some(shard) = driver.upgrade() else { return };
        shard.submit(Input::Follow);
        tracing::warn!(term, "this node leads no more: {why}");
        drop(shard);
        let is_over = |standing: &Standing| standing.role != Role::Leader || standing.term != term;
        // Consensus refuses while it hands over, and goes on calling itself the leader for a while.
        if tokio::time::timeout(LEAD_AGAIN_AFTER, standing.wait_for(is_over)).await.is_err() {
            tracing::debug!(term, "consensus says that this node leads on");
        }
    }
}

/// Waits until the node leads no more; says why.
async fn watch_over(
    standing: &mut watch::Receiver<Standing>,
    term: u64,
    lease: &Lease,
    mut refused: oneshot::Receiver<()>,
    driver: &Weak<dyn Driver>,
    hold: Duration,
) -> &'static str {
    let mut lost_at: Option<Instant> = None;
    let leads = |standing: &Standing| standing.role == Role::Leader && standing.term == term;
    loop {
        tokio::select! {
            // In this order, so that a simulation replays.
            biased;
            changed = standing.changed() => {
                if changed.is_err() {
                    return "consensus has ended";
                }
                if !leads(&standing.borrow_and_update()) {
                    return "another term has begun";
                }
            }
            // The sender is dropped without a word when all that was proposed is through, which is
            // never before the shard has ceased to lead.
            refused = &mut refused => return match refused {
                Ok(()) => "a proposal was refused",
                Err(_) => "what it proposed did not follow on what was committed",
            },
            () = tokio::time::sleep(LOOK_EVERY) => {
                match lost_at {
                    None if !lease.holds() => lost_at = Some(Instant::now()),
                    Some(_) if lease.holds() => {
                        lost_at = None;
                        // What was held may go on.
                        if let Some(driver) = driver.upgrade() {
                            driver.submit(Input::Tick);
                        }
                    }
                    Some(at) if at.elapsed() >= hold => return "no majority has answered",
                    _ => {}
                }
            }
        }
    }
}

/// Between consensus and the shard.
struct Applier {
    start: Point,
    driver: Weak<dyn Driver>,
    pager: Arc<Pager>,
    storage: SharedStorage,
    /// Room for entries that wait for the shard.
    room: Arc<Semaphore>,
    rounds: Rounds,
    checkpoint: Arc<Latest>,
    on_failure: Arc<OnFailure>,
    threads: Threads,
    stop: watch::Receiver<bool>,
}

fn failed() -> io::Error {
    io::Error::other("the snapshot's thread has failed")
}

impl Replica for Applier {
    fn start(&self) -> Point {
        self.start.clone()
    }

    fn apply(&self, entries: Vec<Committed>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let bytes: usize = entries
                .iter()
                .map(|entry| match &entry.content {
                    Content::Proposal(payload) => payload.len(),
                    Content::Blank | Content::Members(_) => 0,
                })
                .sum();
            let units = (entries.len() + bytes / ROOM_BYTES).clamp(1, ROOM);
            // A semaphore that is never closed gives what is asked for.
            let room = Arc::clone(&self.room).acquire_many_owned(units as u32).await;
            if let (Ok(room), Some(driver)) = (room, self.driver.upgrade()) {
                driver.submit_elsewhere(Input::Apply { entries, room });
            }
        })
    }

    fn checkpoint(&self) -> Option<Point> {
        self.checkpoint.get()
    }

    fn send_snapshot(&self) -> BoxFuture<'_, io::Result<(Point, Chunks)>> {
        Box::pin(async move {
            let stopped = || io::Error::other("the broker stops");
            let driver = self.driver.upgrade().ok_or_else(stopped)?;
            let source = hold(&*driver, &self.pager).await.ok_or_else(stopped)?;
            let snapshot = &source.snapshot;
            let point = point_of(&snapshot.ledger, snapshot.index, snapshot.term);
            Ok((point, source.send(self.threads.clone(), self.stop.clone())))
        })
    }
}

impl Applier {
    async fn stage(self: &Arc<Self>, at: LogId, chunks: Chunks) -> io::Result<Install> {
        // Kept until it is installed, or is not going to be.
        let turn = self.rounds.turn().await;
        let storage = SharedStorage::clone(&self.storage);
        let chunks = ChunkReader::start(&self.threads, chunks);
        let receive = move || transfer::receive(&storage, chunks);
        let received = blocking(&self.threads, "snapshot", receive).await.ok_or_else(failed)??;
        let applier = Arc::clone(self);
        let install = move || -> BoxFuture<'static, io::Result<()>> {
            Box::pin(async move {
                let result = applier.install(received, at).await;
                drop(turn);
                if let Err(error) = &result {
                    tracing::error!(%error, "a snapshot was not installed");
                }
                result
            })
        };
        Ok(Box::new(install))
    }

    async fn install(&self, received: transfer::Received, at: LogId) -> io::Result<()> {
        let install = move || received.install(at);
        let installed = blocking(&self.threads, "snapshot", install).await.ok_or_else(failed)?;
        let (snapshot, files) = match installed {
            Ok(installed) => installed,
            Err(RecoveryError::Storage(error)) => {
                // Half of it may be durable, which is for the next start to go on with.
                self.on_failure.call(error.clone());
                return Err(io::Error::other(error));
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        files.into_iter().for_each(|file| self.pager.add(file));
        self.checkpoint.set(point_of(&snapshot.ledger, snapshot.index, snapshot.term));
        let stopped = || io::Error::other("the broker stops");
        let driver = self.driver.upgrade().ok_or_else(stopped)?;
        let (tell, told) = oneshot::channel();
        driver.submit(Input::Inspect(Box::new(move |shard| {
            shard.install(snapshot);
            // Nobody waits any more if the node is shutting down.
            tell.send(()).ok();
        })));
        told.await.map_err(|_| stopped())
    }
}
