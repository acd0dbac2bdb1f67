//! What the server starts, hands connections to, asks for figures and stops.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use isthmus_cluster::SingleOptions;
use isthmus_contract::{Credentials, Session};
use isthmus_core::{Counters, DispatcherOptions, QueueStatus};
use isthmus_model::{CommandError, Encodings, SessionId, Time};
use isthmus_storage::{Error as StorageError, SharedStorage, WriterEvent};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};

use crate::checkpointer::{self, ask};
use crate::connection::{Connection, ConnectionOptions};
use crate::driver::Driver;
use crate::recovery::{RecoveryError, recover};
use crate::shard::{Input, Shard};

/// A login under way: the user's name, or why not.
pub type Login = Pin<Box<dyn Future<Output = Result<Arc<str>, CommandError>> + Send>>;

/// Finds out who a client is.
pub trait Authenticate: Send + Sync + 'static {
    /// Begins to verify `credentials` of a client that connects from `peer`. Dropping the login
    /// gives it up.
    fn login(&self, credentials: Credentials, peer: SocketAddr) -> Login;
}

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
    /// Virtual hosts that exist from the beginning.
    pub vhosts: Vec<String>,
    /// Bytes that may wait in a connection's outbox before its consumers are passed over.
    pub outbox_bytes_max: u64,
    /// Bytes published on one connection and not confirmed at which it is read no further.
    pub publish_bytes_max: u64,
    /// Bytes in the log after which a checkpoint is written.
    pub checkpoint_after_bytes: u64,
    /// Mixed into names that the broker makes up.
    pub name_seed: u64,
    /// Called on the log's thread when the log has failed. Nothing is confirmed any more; the
    /// process is expected to end.
    pub on_log_failure: Box<dyn FnOnce(StorageError) + Send>,
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
}

/// The running broker. Clones share it.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    driver: Arc<dyn Driver>,
    authenticate: Arc<dyn Authenticate>,
    start: Instant,
    next_session: AtomicU64,
    outbox_bytes_max: u64,
    publish_bytes_max: u64,
    stop: Arc<Notify>,
}

impl Broker {
    /// Recovers what is in the storage and begins to lead. Blocks while it reads the log; to be
    /// called within a tokio runtime, on a thread that may block. `drive` puts the shard under
    /// its driver.
    ///
    /// # Errors
    /// If the data is damaged or cannot be read, or a thread cannot be started.
    pub fn start<D: Driver>(
        options: BrokerOptions,
        drive: impl FnOnce(Shard) -> Arc<D>,
    ) -> Result<Broker, RecoveryError> {
        let start = Instant::now();
        let recovered = recover(&options.storage, options.node)?;
        // The writer's thread reports to a driver that is not there before the node leads.
        let reports: Arc<OnceLock<Weak<D>>> = Arc::default();
        let hears = Arc::clone(&reports);
        let mut on_failure = Some(options.on_log_failure);
        let node = recovered.started.lead(move |event| match event {
            WriterEvent::Durable(durable) => {
                if let Some(driver) = hears.get().and_then(Weak::upgrade) {
                    driver.submit_elsewhere(Input::Committed { index: durable.index });
                }
            }
            WriterEvent::Failed(error) => {
                if let Some(on_failure) = on_failure.take() {
                    on_failure(error);
                }
            }
        })?;
        let (timer, timer_set) = watch::channel(Time::NEVER);
        let dispatcher = DispatcherOptions {
            encodings: options.encodings,
            outbox_bytes_max: options.outbox_bytes_max,
            name_seed: options.name_seed,
        };
        let mut shard =
            Shard::lead(recovered.ledger, recovered.applied, node, dispatcher, start, timer);
        shard.declare_vhosts(&options.vhosts);
        let driver = drive(shard);
        // Nothing but the term's entry was proposed so far, and nothing waits for that.
        drop(reports.set(Arc::downgrade(&driver)));
        let driver: Arc<dyn Driver> = driver;
        driver.submit(Input::Tick);
        let stop = Arc::new(Notify::new());
        tokio::spawn(tick(Arc::downgrade(&driver), timer_set, start));
        tokio::spawn(checkpointer::run(
            Arc::downgrade(&driver),
            options.storage,
            options.checkpoint_after_bytes,
            Arc::clone(&stop),
        ));
        Ok(Broker(Arc::new(Inner {
            driver,
            authenticate: options.authenticate,
            start,
            next_session: AtomicU64::new(1),
            outbox_bytes_max: options.outbox_bytes_max,
            publish_bytes_max: options.publish_bytes_max,
            stop,
        })))
    }

    /// Serves one connection until it ends. `session` makes the protocol's session; when
    /// `closing` completes, the session is told that the broker goes down.
    ///
    /// # Errors
    /// What the socket says, if it was cut off.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        peer: SocketAddr,
        session: impl FnOnce(SessionId, Time) -> Box<dyn Session>,
        closing: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let inner = &self.0;
        let id = SessionId(inner.next_session.fetch_add(1, Ordering::Relaxed));
        let options = ConnectionOptions {
            id,
            peer,
            publish_bytes_max: inner.publish_bytes_max,
            report_bytes: (inner.outbox_bytes_max / 4).max(1),
            start: inner.start,
        };
        let session = session(id, crate::clock::monotonic(inner.start));
        let (driver, authenticate) = (Arc::clone(&inner.driver), Arc::clone(&inner.authenticate));
        Connection::new(options, stream, session, driver, authenticate, Box::pin(closing)).await
    }

    /// Figures of now. Blocks for a turn: not for async code.
    pub fn figures(&self) -> Figures {
        let figures = ask(&*self.0.driver, |shard| Figures {
            counters: shard.dispatcher().counters(),
            queues: shard.dispatcher().queue_statuses(),
            consumers: shard.dispatcher().consumer_count(),
        });
        figures.unwrap_or_default()
    }

    /// Writes what is proposed, seals the log and stops. Blocks: not for async code. Connections
    /// that are still open get no more answers.
    ///
    /// # Errors
    /// If the log failed before or fails now.
    pub fn stop(self) -> Result<(), StorageError> {
        self.0.stop.notify_one();
        let node = ask(&*self.0.driver, Shard::stop).flatten();
        node.map_or(Ok(()), |node| node.shutdown())
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
            tokio::time::sleep_until((start + Duration::from_nanos(at.0)).into()).await;
        };
        tokio::select! {
            () = due => {
                let Some(driver) = driver.upgrade() else { return };
                driver.submit(Input::Tick);
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
