//! What the server starts, hands connections to, asks for figures and stops.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use isthmus_cluster::SingleOptions;
use isthmus_contract::{Session, Shortage};
use isthmus_core::kept::Size;
use isthmus_core::paging::PageKey;
use isthmus_core::{Counters, DispatcherOptions, QueueStatus};
use isthmus_model::{Batch, CommandError, Encodings, SessionId, Time};
use isthmus_storage::threads::{Receiver, Threads};
use isthmus_storage::{Error as StorageError, SharedStorage, WriterEvent};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc as async_mpsc, watch};
use tokio::time::Instant;

use crate::access::{Access, Authenticate};
use crate::backup::{Backup, BackupError, Backups};
use crate::checkpointer::{Checkpointer, PagingOptions, ask};
use crate::client::Client;
use crate::connection::{Common, Connection};
use crate::driver::Driver;
use crate::durable::Durable;
use crate::member::Membership;
use crate::noted;
use crate::pager::Pager;
use crate::peer::Peer;
use crate::pressure::Pressure;
use crate::recovery::{RecoveredLedger, RecoveryError, recover};
use crate::registry::ConnectionStatus;
use crate::rounds::{Latest, Rounds};
use crate::scrub::{Scrub, ScrubOptions};
use crate::shard::{Around, Input, Leader, OnSettings, Recovered, Shard};

/// What a broker is made with.
pub struct BrokerOptions {
    /// Where the log and the checkpoints are.
    pub storage: SharedStorage,
    /// How the log is kept.
    pub node: SingleOptions,
    /// How the properties of messages are read.
    pub encodings: Encodings,
    /// Who may log in.
    pub authenticate: Arc<dyn Authenticate>,
    /// Told the ledger at the start, and again whenever its settings have changed, in a turn:
    /// before anybody is told that they have.
    pub on_settings: OnSettings,
    /// Virtual hosts of a broker that begins without data.
    pub vhosts: Vec<String>,
    /// Bytes that may wait in a connection's outbox before its consumers are passed over.
    pub outbox_bytes_max: u64,
    /// Bytes published on one connection and not confirmed at which it is read no further.
    pub publish_bytes_max: u64,
    /// When messages are written to pages, and checkpoints.
    pub paging: PagingOptions,
    /// When page files are verified.
    pub scrub: ScrubOptions,
    /// Bytes of pages that are kept in memory.
    pub page_bytes_max: u64,
    /// Bytes of retained messages that the exchanges of a virtual host may keep, about.
    pub retained_bytes_max: u64,
    /// The key of names that the broker makes up: random, so that nobody can guess them.
    pub name_seed: [u8; 32],
    /// The topic exchange of each virtual host by which the broker tells of itself
    /// ([`Broker::announce`]), if it does.
    pub own_exchange: Option<&'static str>,
    /// Called when the log has failed, on its thread, or when a checkpoint shows that the disk
    /// cannot be relied on. Nothing is confirmed any more by a log that has failed; the process is
    /// expected to end.
    pub on_log_failure: Box<dyn FnOnce(StorageError) + Send>,
    /// How the threads of log, pages and checkpoints are executed: real ones in production. They
    /// are the log's as well, whatever `node` says.
    pub threads: Threads,
}

/// Figures for operators.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Counts since the start.
    pub counters: Counters,
    /// Every queue.
    pub queues: Vec<QueueStatus>,
    /// Consumers.
    pub consumers: usize,
    /// What exchanges keep.
    pub retained: Size,
    /// Connections that have a lasting session open.
    pub sessions_open: usize,
    /// Lasting sessions that are kept for clients that are away.
    pub sessions_kept: usize,
    /// Entries proposed to the log.
    pub log_entries: u64,
    /// Groups of entries that were synced.
    pub log_syncs: u64,
}

/// The running broker. Clones share it.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

/// What is to be done about a failure of the log or its disk: once, whoever notices it first.
pub(crate) struct OnFailure(Mutex<Option<FailureHook>>);

pub(crate) type FailureHook = Box<dyn FnOnce(StorageError) + Send>;

impl OnFailure {
    /// The disk has failed.
    pub(crate) fn call(&self, error: StorageError) {
        let on_failure = self.0.lock().take();
        if let Some(on_failure) = on_failure {
            on_failure(error);
        }
    }
}

/// What the log's thread reports, and to whom.
struct Reports<D> {
    driver: Option<Weak<D>>,
    /// The last index known to be durable.
    durable: u64,
}

impl<D: Driver> Reports<D> {
    /// The log is durable up to `index`; returns whom to tell.
    fn hear(&mut self, index: u64) -> Option<Arc<D>> {
        self.durable = index;
        self.driver.as_ref().and_then(Weak::upgrade)
    }

    /// From now on `driver` is told; returns what it has missed.
    fn begin(&mut self, driver: &Arc<D>) -> u64 {
        self.driver = Some(Arc::downgrade(driver));
        self.durable
    }
}

pub(crate) struct Inner {
    pub(crate) driver: Arc<dyn Driver>,
    /// What connections have together.
    connections: Arc<Common>,
    encodings: Encodings,
    next_session: AtomicU64,
    log_syncs: Arc<AtomicU64>,
    pressure: Arc<Pressure>,
    stop: watch::Sender<bool>,
    backups: Backups,
    /// Disconnected once no checkpoint is written any more.
    checkpoints_end: Mutex<Receiver<()>>,
    leads: watch::Receiver<bool>,
    /// What makes it a member of a cluster, if it is one.
    membership: Option<Membership>,
    threads: Threads,
}

impl Broker {
    /// Recovers what is in the storage and begins to lead, alone. Blocks while it reads the log; to
    /// be called within a tokio runtime, on a thread that may block. `drive` puts the shard under
    /// its driver.
    ///
    /// # Errors
    /// If the data is damaged or cannot be read, or a thread cannot be started.
    pub fn start<D: Driver>(
        options: BrokerOptions,
        drive: impl FnOnce(Shard) -> Arc<D>,
    ) -> Result<Broker, RecoveryError> {
        let mut node = options.node.clone();
        node.writer.threads = options.threads.clone();
        let (recovered, started) = recover(&options.storage, node, options.scrub.at_start_bytes)?;
        // The writer's thread reports to a driver that is not there before the node leads.
        let reports = Arc::new(Mutex::new(Reports::<D> { driver: None, durable: 0 }));
        let reported = Arc::clone(&reports);
        let mut assembly = Assembly::new(options);
        let on_log_failure = Arc::clone(&assembly.on_failure);
        let synced = Arc::clone(&assembly.log_syncs);
        let node = started.lead(move |event| match event {
            WriterEvent::Durable(durable) => {
                synced.fetch_add(1, Ordering::Relaxed);
                if let Some(driver) = reported.lock().hear(durable.index) {
                    driver.submit_elsewhere(Input::Committed { index: durable.index });
                }
            }
            WriterEvent::Failed(error) => on_log_failure.call(error),
        })?;
        let ground = assembly.ground(recovered, None);
        let driver = drive(Shard::lead(ground.recovered, node, ground.around));
        let committed = reports.lock().begin(&driver);
        let driver: Arc<dyn Driver> = driver;
        driver.submit(Input::Committed { index: committed });
        assembly.finish(driver, ground.rest, None)
    }

    /// Serves one connection until it ends. `session` makes the protocol's session; when
    /// `closing` completes, the session is told that the broker goes down.
    ///
    /// # Errors
    /// What the socket says, if it was cut off.
    pub fn serve<S, M, C>(
        &self,
        stream: S,
        peer: Peer,
        session: M,
        closing: C,
    ) -> impl Future<Output = io::Result<()>> + use<S, M, C>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        M: FnOnce(SessionId, Time) -> Box<dyn Session>,
        C: Future<Output = ()> + Unpin,
    {
        let id = self.next_session();
        let common = Arc::clone(&self.0.connections);
        let session = session(id, crate::clock::monotonic(common.start));
        Connection::new(common, id, peer, stream, session, closing)
    }

    fn next_session(&self) -> SessionId {
        SessionId(self.0.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// A session within the process, in `vhost`, that may do what `access` says.
    ///
    /// # Errors
    /// If there is no such virtual host.
    pub async fn client(
        &self,
        vhost: Arc<str>,
        access: Box<dyn Access>,
    ) -> Result<Client, CommandError> {
        self.open_client(Some((vhost, access))).await
    }

    /// A session within the process that is in no virtual host and may change settings. What may
    /// be set is for the caller to decide.
    ///
    /// # Errors
    /// None that its caller could do something about.
    pub async fn operator(&self) -> Result<Client, CommandError> {
        self.open_client(None).await
    }

    async fn open_client(
        &self,
        place: Option<(Arc<str>, Box<dyn Access>)>,
    ) -> Result<Client, CommandError> {
        let driver = Arc::clone(&self.0.driver);
        Client::open(driver, self.next_session(), self.0.encodings, place).await
    }

    /// Whether this node leads and has a dispatcher. Where the node is alone, it always does.
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.0.leads.clone()
    }

    /// What makes it a member of a cluster, if it is one.
    pub fn membership(&self) -> Option<&Membership> {
        self.0.membership.as_ref()
    }

    /// Every connection, oldest first.
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        self.0.connections.registry.statuses()
    }

    /// Lets a connection close in its protocol's way; `false` if it is not there.
    pub fn close_connection(&self, id: SessionId) -> bool {
        self.0.connections.registry.close(id)
    }

    /// Looks at what the leader has between commands, in a turn. `None` if this node does not lead,
    /// or the broker has stopped.
    pub async fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Leader<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let inspect = move |shard: &mut Shard| {
            if let Some(leader) = shard.leader() {
                // Whoever asked may have gone.
                sender.send(look(&leader)).ok();
            }
        };
        self.0.driver.submit(Input::Inspect(Box::new(inspect)));
        receiver.await.ok()
    }

    /// Tells of the broker itself, by the exchange that it has for it: what is news of `batch` is
    /// sent to whoever is bound for it, and kept for who asks later. Its messages must be transient.
    /// Nothing happens where this node does not lead.
    pub fn announce(&self, batch: Batch) {
        let announce = move |shard: &mut Shard| shard.announce(&batch);
        self.0.driver.submit(Input::Inspect(Box::new(announce)));
    }

    /// Bytes read from all connections since the start, and bytes written to them.
    pub fn traffic_bytes(&self) -> (u64, u64) {
        self.0.connections.registry.traffic_bytes()
    }

    /// Makes a consistent copy in `target`, an empty directory, while everything goes on; a broker
    /// that starts on it has what was committed when it was begun. All of it is durable when this
    /// returns; a failure leaves what was written so far, which is no backup.
    ///
    /// # Errors
    /// Why there is no backup.
    pub async fn back_up(&self, target: SharedStorage) -> Result<Backup, BackupError> {
        self.0.backups.make(&*self.0.driver, target).await
    }

    /// Says what the node is short of. While that is anything, connections are read no further
    /// than to their next publish; everything else goes on.
    pub fn set_shortage(&self, shortage: Shortage) {
        self.0.pressure.set(shortage);
    }

    /// Figures of now. Blocks for a turn: not for async code.
    pub fn figures(&self) -> Figures {
        let figures = ask(&self.0.threads, &*self.0.driver, |shard| {
            let dispatcher = shard.leader()?.dispatcher();
            Some(Figures {
                counters: dispatcher.counters(),
                queues: dispatcher.queue_statuses(),
                consumers: dispatcher.consumer_count(),
                retained: dispatcher.kept().size(),
                sessions_open: dispatcher.open_clients(),
                sessions_kept: dispatcher.kept_clients(),
                log_entries: shard.entries_proposed(),
                log_syncs: 0,
            })
        });
        let log_syncs = self.0.log_syncs.load(Ordering::Relaxed);
        Figures { log_syncs, ..figures.flatten().unwrap_or_default() }
    }

    /// Writes what is proposed, seals the log and stops. Blocks: not for async code. Connections
    /// that are still open get no more answers.
    ///
    /// # Errors
    /// If the log failed before or fails now.
    pub fn stop(self) -> Result<(), StorageError> {
        self.0.stop.send_replace(true);
        // The directory is not left to others while a checkpoint is written into it. Nothing is
        // ever sent: the end is what is waited for.
        self.0.checkpoints_end.lock().recv().unwrap_or_default();
        let node = ask(&self.0.threads, &*self.0.driver, Shard::stop).flatten();
        if let Some(membership) = &self.0.membership {
            return membership.stop();
        }
        node.map_or(Ok(()), |node| node.shutdown())
    }
}

/// A broker that is being put together.
pub(crate) struct Assembly {
    options: BrokerOptions,
    start: Instant,
    pub(crate) on_failure: Arc<OnFailure>,
    pub(crate) log_syncs: Arc<AtomicU64>,
    pressure: Arc<Pressure>,
    stop: watch::Sender<bool>,
    pub(crate) rounds: Rounds,
    pub(crate) checkpoint: Arc<Latest>,
    /// In a cluster: how far the log is durable here.
    pub(crate) durable: Option<Arc<Durable>>,
}

/// What a shard is made of, and what is needed when it is there.
pub(crate) struct Ground {
    pub(crate) recovered: Recovered,
    pub(crate) around: Around,
    pub(crate) rest: Rest,
}

/// What is needed when the shard is there.
pub(crate) struct Rest {
    pub(crate) pager: Arc<Pager>,
    /// Those of its files that were verified.
    verified: BTreeSet<u64>,
    asked: Receiver<PageKey>,
    timer_set: watch::Receiver<Time>,
    leads: watch::Receiver<bool>,
    checkpoint_bytes: u64,
    next_file: u64,
}

impl Assembly {
    pub(crate) fn new(mut options: BrokerOptions) -> Assembly {
        let on_log_failure = std::mem::replace(&mut options.on_log_failure, Box::new(|_| {}));
        let on_log_failure = noted::noting(Arc::clone(&options.storage), on_log_failure);
        Assembly {
            options,
            start: Instant::now(),
            on_failure: Arc::new(OnFailure(Mutex::new(Some(on_log_failure)))),
            log_syncs: Arc::default(),
            pressure: Arc::default(),
            stop: watch::channel(false).0,
            rounds: Rounds::default(),
            checkpoint: Arc::default(),
            durable: None,
        }
    }

    /// True once the broker stops.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(crate) fn options(&self) -> &BrokerOptions {
        &self.options
    }

    pub(crate) fn storage(&self) -> &SharedStorage {
        &self.options.storage
    }

    /// Prepares what a shard works with.
    pub(crate) fn ground(
        &mut self,
        recovered: RecoveredLedger,
        checkpoints: Option<async_mpsc::UnboundedSender<(u64, u64)>>,
    ) -> Ground {
        let options = &mut self.options;
        let on_settings = std::mem::replace(&mut options.on_settings, Box::new(|_| {}));
        let (timer, timer_set) = watch::channel(Time::NEVER);
        let (leads, led) = watch::channel(false);
        let (pages, asked) = options.threads.channel();
        let RecoveredLedger { ledger, applied, checkpoint, extents, log_bytes, .. } = recovered;
        let rest = Rest {
            pager: Arc::new(recovered.pager),
            verified: recovered.verified,
            asked,
            timer_set,
            leads: led,
            checkpoint_bytes: checkpoint.map_or(0, |meta| meta.bytes),
            next_file: recovered.next_file,
        };
        let around = Around {
            start: self.start,
            dispatcher: DispatcherOptions {
                encodings: options.encodings,
                outbox_bytes_max: options.outbox_bytes_max,
                page_bytes_max: options.page_bytes_max,
                retained_bytes_max: options.retained_bytes_max,
                name_seed: options.name_seed,
                own_exchange: options.own_exchange,
            },
            vhosts: options.vhosts.clone(),
            timer,
            pages,
            checkpoints,
            leads,
            // Twice of what makes a round due: there is as much time to write as to gather.
            unpaged_bytes_held: options.paging.unpaged_bytes_max.saturating_mul(2),
            pressure: Arc::clone(&self.pressure),
            on_settings,
            threads: options.threads.clone(),
        };
        let (applied, applied_term) = (applied.index, applied.term);
        let recovered = Recovered { ledger, applied, applied_term, extents, log_bytes };
        Ground { recovered, around, rest }
    }

    /// Starts what goes on beside the shard.
    pub(crate) fn finish(
        self,
        driver: Arc<dyn Driver>,
        rest: Rest,
        membership: Option<Membership>,
    ) -> Result<Broker, RecoveryError> {
        let Assembly { options, start, on_failure, log_syncs, pressure, stop, .. } = self;
        let Rest { pager, verified, asked, timer_set, leads, checkpoint_bytes, next_file } = rest;
        let threads = options.threads;
        pager.serve(&threads, asked, Arc::downgrade(&driver), Arc::clone(&on_failure))?;
        tokio::spawn(tick(Arc::downgrade(&driver), timer_set, start));
        let (running, checkpoints_end) = threads.channel();
        let backups = Backups::new(Arc::clone(&pager), stop.subscribe(), threads.clone());
        let scrub = Scrub {
            options: options.scrub,
            driver: Arc::downgrade(&driver),
            pager: Arc::clone(&pager),
            verified,
            stop: stop.subscribe(),
            on_failure: Arc::clone(&on_failure),
        };
        tokio::spawn(scrub.run());
        let checkpointer = Checkpointer {
            driver: Arc::downgrade(&driver),
            storage: options.storage,
            pager,
            encodings: options.encodings,
            options: options.paging,
            last_bytes: checkpoint_bytes,
            next_file,
            stop: stop.subscribe(),
            on_failure,
            durable: self.durable,
            running,
            rounds: self.rounds,
            checkpoint: self.checkpoint,
            threads: threads.clone(),
        };
        tokio::spawn(checkpointer.run());
        let connections = Arc::new(Common {
            driver: Arc::clone(&driver),
            authenticate: options.authenticate,
            registry: Arc::default(),
            publish_bytes_max: options.publish_bytes_max,
            report_bytes: (options.outbox_bytes_max / 4).max(1),
            start,
            threads: threads.clone(),
            pressure: Arc::clone(&pressure),
            encodings: options.encodings,
        });
        Ok(Broker(Arc::new(Inner {
            driver,
            connections,
            encodings: options.encodings,
            next_session: AtomicU64::new(1),
            log_syncs,
            pressure,
            stop,
            backups,
            checkpoints_end: Mutex::new(checkpoints_end),
            leads,
            membership,
            threads,
        })))
    }
}

/// Submits a tick whenever the shard's timer runs out.
async fn tick(driver: Weak<dyn Driver>, mut set: watch::Receiver<Time>, start: Instant) {
    loop {
        let at = *set.borrow_and_update();
        let due = async {
            if at == Time::NEVER {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep_until(start + Duration::from_nanos(at.0)).await;
        };
        tokio::select! {
            // In this order, so that a simulation replays.
            biased;
            () = due => {
                let Some(driver) = driver.upgrade() else { return };
                driver.submit(Input::Tick);
                drop(driver);
                // A timer that stays due (its work waits for a commit) is looked at again soon,
                // not at once.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            changed = set.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}
