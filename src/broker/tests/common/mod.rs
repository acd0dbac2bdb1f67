//! What the tests of the whole broker share: a broker on a simulated disk, clients that speak in
//! commands, and seeds.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod client;
pub(crate) mod disk;
pub(crate) mod failpoints;
pub(crate) mod simulation;
pub(crate) mod world;

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use isthmus_broker::cluster::SingleOptions;
use isthmus_broker::storage::{
    Error as StorageError, LogOptions, SharedStorage, SimStorage, WriterOptions,
};
use isthmus_broker::{
    Access, Authenticate, Broker, BrokerOptions, Combining, Driver, Entering, Input, Limits, Login,
    PagingOptions, Peer, RecoveryError, ScrubOptions, Shard, Unrestricted, User, blocking,
};
use isthmus_contract::Credentials;
use isthmus_model::Encodings;
use parking_lot::Mutex;

pub(crate) use self::simulation::{Patience, simulated, threads, virtual_time};

/// The virtual host of every test.
pub(crate) const VHOST: &str = "/";

/// How long anything may take before a test gives it up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the failure of a log was reported with.
pub(crate) type Failures = Arc<Mutex<Vec<StorageError>>>;

/// A broker, and what its log's failure was reported with.
pub(crate) struct Node {
    pub(crate) broker: Broker,
    pub(crate) failures: Failures,
    driver: Weak<Combining>,
}

/// What tests vary.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) log: LogOptions,
    pub(crate) outbox_bytes_max: u64,
    pub(crate) publish_bytes_max: u64,
    pub(crate) checkpoint_after_bytes: u64,
    pub(crate) unpaged_bytes_max: u64,
    pub(crate) encodings: Encodings,
    pub(crate) scrub: ScrubOptions,
    /// What everybody may do.
    pub(crate) access: fn() -> Box<dyn Access>,
}

impl Default for Setup {
    /// Segments and checkpoints so small that a short run goes through many of them.
    fn default() -> Setup {
        Setup {
            log: LogOptions {
                segment_bytes: 8 << 10,
                entry_bytes_max: 1 << 20,
                spares: 1,
                spares_max: 3,
            },
            outbox_bytes_max: 64 << 10,
            publish_bytes_max: 1 << 20,
            checkpoint_after_bytes: 4 << 10,
            unpaged_bytes_max: 8 << 10,
            encodings: Encodings(&[]),
            // What is read behind the start would be in the way of a test that counts.
            scrub: ScrubOptions { bytes_per_second: 0, ..ScrubOptions::default() },
            access: || Box::new(Unrestricted),
        }
    }
}

/// Lets everybody in.
struct Anybody(fn() -> Box<dyn Access>);

/// By his name, and what he may do.
struct Somebody(Arc<str>, fn() -> Box<dyn Access>);

impl User for Somebody {
    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn tags(&self) -> Vec<String> {
        Vec::new()
    }

    fn enter(&self, _vhost: &Arc<str>) -> Entering {
        Box::pin(std::future::ready(Ok((self.1)())))
    }

    fn limits(&self, _vhost: &str) -> Limits {
        Limits::default()
    }
}

impl Authenticate for Anybody {
    fn login(&self, credentials: Credentials, _peer: &Peer) -> Login {
        let Credentials::Password { user, .. } = credentials else {
            unreachable!("no test gives a certificate");
        };
        let user: Arc<dyn User> = Arc::new(Somebody(user.into(), self.0));
        Box::pin(std::future::ready(Ok(user)))
    }
}

impl Setup {
    /// Starts a broker; within a runtime.
    pub(crate) fn start(&self, storage: SharedStorage) -> Result<Node, RecoveryError> {
        let mut driver = Weak::new();
        let (broker, failures) = self.start_with(storage, |shard| {
            let combining = Combining::start(shard);
            driver = Arc::downgrade(&combining);
            combining
        })?;
        Ok(Node { broker, failures, driver })
    }

    /// Starts a broker with a driver of the test's own; its log's failures go into the list.
    pub(crate) fn start_with<D: Driver>(
        &self,
        storage: SharedStorage,
        drive: impl FnOnce(Shard) -> Arc<D>,
    ) -> Result<(Broker, Failures), RecoveryError> {
        let failures = Failures::default();
        let heard = Arc::clone(&failures);
        let options = BrokerOptions {
            storage,
            node: SingleOptions {
                log: self.log.clone(),
                writer: WriterOptions {
                    idle_before_seal: Duration::from_millis(1),
                    ..WriterOptions::default()
                },
            },
            encodings: self.encodings,
            authenticate: Arc::new(Anybody(self.access)),
            on_settings: Box::new(|_| {}),
            vhosts: vec![VHOST.to_owned()],
            outbox_bytes_max: self.outbox_bytes_max,
            publish_bytes_max: self.publish_bytes_max,
            paging: PagingOptions {
                checkpoint_after_bytes: self.checkpoint_after_bytes,
                unpaged_bytes_max: self.unpaged_bytes_max,
                page_bytes: 512,
                file_bytes: 4 << 10,
                log_kept_bytes: 0,
            },
            scrub: self.scrub,
            page_bytes_max: 4 << 10,
            retained_bytes_max: 1 << 20,
            own_exchange: None,
            name_seed: [1; 32],
            on_log_failure: Box::new(move |error| heard.lock().push(error)),
            threads: threads(),
        };
        Ok((Broker::start(options, drive)?, failures))
    }
}

impl Node {
    /// A broker with the usual setup.
    pub(crate) fn start(sim: &SimStorage) -> Result<Node, RecoveryError> {
        Setup::default().start(Arc::new(sim.clone()))
    }

    /// The driver, as long as the broker is there.
    pub(crate) fn driver(&self) -> Arc<Combining> {
        self.driver.upgrade().unwrap()
    }

    /// What `look` sees in the shard.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> T {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.driver().submit(Input::Inspect(Box::new(move |shard| drop(tell.send(look(shard))))));
        told.await.unwrap()
    }

    /// Stops cleanly.
    pub(crate) async fn stop(self) -> Result<(), StorageError> {
        blocking(&threads(), "stop", move || self.broker.stop()).await.unwrap()
    }

    /// Whether the log's failure was reported.
    pub(crate) fn has_failed(&self) -> bool {
        !self.failures.lock().is_empty()
    }
}

/// Waits until `what` says that it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Patience::begin();
    while !is_so() {
        assert!(!patience.is_over(), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits for `what`, not for ever.
pub(crate) async fn patiently<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it does not come")
}

/// Runs a test as [`simulated`] does, for tests to which one order is as good as another.
pub(crate) fn in_jumping_time<T>(test: impl Future<Output = T>) -> T {
    simulated(0, test).0
}

/// The seeds to run: `short` by default, more if the environment says so.
pub(crate) fn seeds(short: u64) -> std::ops::Range<u64> {
    let wanted = std::env::var("ISTHMUS_SEEDS").ok().and_then(|n| n.parse().ok());
    let first = std::env::var("ISTHMUS_SEED").ok().and_then(|n| n.parse().ok());
    match first {
        Some(seed) => seed..seed + 1,
        None => 0..wanted.unwrap_or(short),
    }
}

/// Says how to repeat a seed if the test fails in it.
pub(crate) struct Announce(pub(crate) u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failing seed {0}; repeat with ISTHMUS_SEED={0}", self.0);
        }
    }
}
