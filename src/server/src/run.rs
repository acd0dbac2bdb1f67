//! The life of the process: starting in order, serving, stopping in the opposite order.
//!
//! 1. Hold the data directory, take the addresses: what can be wrong with the
//!    installation is known before anything else happens.
//! 2. Serve HTTP, so that health can be asked while the broker recovers its data.
//! 3. Start the broker, then listen for its clients, then say `ready`.
//! 4. On a signal: not ready, no new clients, drain, stop the broker, stop HTTP.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use isthmus_admin::{Admin, Api, Metrics, Role, Snapshot, Status};
use isthmus_broker::HandOverError;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::field::display;

use crate::alarms::Alarms;
use crate::any;
use crate::broker::{Broker, BrokerError, open_storage};
use crate::cluster::{self, Clients, ClusterError, Operations, Peers};
use crate::config::{Config, ListenAddrs};
use crate::connections::Connections;
use crate::data_dir::{DataDir, DataDirError};
use crate::listeners::{
    Accepting, ClientListeners, HTTP_CONNECTIONS_MAX, HttpServer, Listening, Proxies,
    serve_for_peers,
};
use crate::net::{ListenError, Reserved};
use crate::signals::{self, StopSignals};
use crate::sys_topics;
use crate::systemd::{self, ServiceManager};
use crate::tls::{self, Tls, TlsError};
use crate::users::{Users, UsersError};

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Tasks polled between two looks at the sockets. One poll of a busy connection reads, decodes and
/// writes up to half a megabyte; with tokio's 61 of them in between, a new or quiet connection
/// beside busy ones waits for tens of milliseconds each time it has something to say.
const EVENT_INTERVAL: u32 = 8;

/// How long another node may take to take over when this one goes down.
const HAND_OVER: Duration = Duration::from_secs(3);

/// After how long what a new broker begins with is tried again.
const PREPARE_AGAIN: Duration = Duration::from_secs(1);

/// How long threads that still block get when everything has stopped.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

/// Descriptors needed beside those of client connections: HTTP, the log, directories.
const OTHER_DESCRIPTORS: u64 = 1024 + 2 * HTTP_CONNECTIONS_MAX as u64;

/// Why the broker did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Nobody could log in.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The definitions cannot be imported.
    #[error("definitions.file {file}: {why}")]
    Definitions {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A file that TLS needs cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The broker cannot start.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The node cannot be one of a cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Threads, signals or sockets cannot be set up.
    #[error("{doing} failed: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A task that should run for ever ended.
    #[error("an accept loop ended: {0}")]
    AcceptLoop(String),
}

/// Runs the broker until a signal stops it.
///
/// # Errors
///
/// If it cannot start.
pub(crate) fn run(config: Config) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .thread_name("isthmus")
        .build()
        .map_err(system("starting threads"))?;
    let result = runtime.block_on(serve(Arc::new(config)));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    result
}

async fn serve(config: Arc<Config>) -> Result<(), RunError> {
    let mut stop_signals = StopSignals::new().map_err(system("catching signals"))?;
    // Caught from the start on, though answered later: uncaught, SIGHUP would end the process.
    let mut reloads = signals::reloads().map_err(system("catching signals"))?;
    let manager = ServiceManager::from_environment();
    let data_dir = config.data_dir().display();
    tracing::info!(version = VERSION, %data_dir, "isthmus is starting");
    let role = if config.cluster.is_on() { Role::Standby } else { Role::Single };
    let status = Arc::new(Status::new(role, VERSION));
    // Held to the end of this function, and so beyond the broker's stop.
    let _data_dir = DataDir::open(config.data_dir())?;
    let users = Users::new(&config)?;
    raise_descriptor_limit(config.limits.connections_max);
    warn_of_plain_text(&config);

    let tls = load_tls(&config)?;

    let clients_at = ClientListeners::bind(&config.listeners, tls.is_some()).await?;
    let http = Reserved::bind("http", &config.listeners.http).await?.listen()?;
    let off = ListenAddrs::default();
    let https = if tls.is_some() { &config.listeners.https } else { &off };
    let https = Reserved::bind("https", https).await?.listen()?;
    let mut http_at = Listening::default();
    http_at.add("http", &http);
    http_at.add("https", &https);
    let connections = Connections::new(config.limits.connections_max);
    let alarms = Alarms::new(&config.alarms, config.data_dir());
    let figures = Arc::new(Figures {
        connections: connections.clone(),
        alarms: alarms.clone(),
        broker: OnceLock::new(),
    });
    let admin = Admin::new(Arc::clone(&status), figures.clone());
    let logins = users.logins.clone();
    let directory = Arc::clone(&users.directory);
    let api = Arc::new(Api::new(logins, directory, users.hashing.clone(), VERSION));
    let router = isthmus_admin::router(admin, Some(Arc::clone(&api)));
    let peers = match config.cluster.is_on() {
        true => Some(Arc::new(Peers::start(&config, open_storage(&config)?).await?)),
        false => None,
    };
    let operations = peers.as_ref().map(|peers| {
        Arc::new(Operations::new(config.cluster.token.0.clone(), Arc::clone(peers.forming())))
    });
    let router = match &operations {
        Some(operations) => {
            let router = router.merge(cluster::router(Arc::clone(operations)));
            cluster::passing(router, Arc::clone(operations))
        }
        None => router,
    };
    // Beside what is passed to the leader: a WebSocket is taken there as any client is.
    let gate = any::Gate::new(any::AnySettings::new(&config), connections.clone());
    let router = router.merge(any::router(gate.clone()));
    let proxies = Proxies::new(&config);
    let http = HttpServer::start(http, https, tls.as_ref(), &router, &proxies);

    let starting = async {
        if let Some(peers) = &peers {
            peers.form().await?;
        }
        Ok::<_, RunError>(Broker::start(Arc::clone(&config), users.clone(), peers.clone()).await?)
    };
    let broker = tokio::select! {
        broker = starting => broker?,
        signal = stop_signals.next() => {
            tracing::info!("{} while starting: stopped", signal.name);
            return Ok(());
        }
    };
    // Set once, here: nothing else fills the cell.
    figures.broker.set(broker.clone()).ok();
    api.set_broker(broker.inner().clone());
    let mut watching = JoinSet::new();
    let clients = match (&peers, &operations) {
        (Some(peers), Some(operations)) => {
            operations.set_broker(broker.inner().clone());
            let (peers, inner) = (Arc::clone(peers), broker.inner().clone());
            let (dialer, hold) = (peers.dialer.clone(), config.cluster.hold.0);
            let (serves, served) = watch::channel(false);
            let serve = serve_for_peers(&broker, &connections, &router);
            peers.set_serve(served.clone(), serve);
            let standby = config.cluster.standby_clients;
            let clients = Clients::of_member(&inner, served, dialer, hold, standby);
            operations.set_clients(clients.clone());
            watching.spawn(cluster::follow(peers, inner, Arc::clone(&status)));
            watching.spawn(prepare_as_leader(
                broker.clone(),
                users.clone(),
                Arc::clone(&api),
                Arc::clone(&config),
                serves,
            ));
            clients
        }
        _ => {
            import_definitions(&api, &config.definitions.file).await?;
            Clients::alone()
        }
    };
    gate.open(broker.clone(), clients.clone());
    let mut accepting = Accepting::new(broker.clone(), clients, connections.clone(), proxies);
    let listening = clients_at.open(&mut accepting, tls.as_ref())?;
    let mut accepting = accepting.into_tasks();
    if let Some(interval) = config.mqtt.sys_interval.0 {
        let (broker, connections) = (broker.clone(), connections.clone());
        let exchange = config.mqtt.exchange.clone();
        let telling = sys_topics::publish(broker, connections, exchange, interval, VERSION);
        watching.spawn(async move { match telling.await {} });
    }
    let alarmed = (broker.clone(), Arc::clone(&status));
    watching.spawn(async move { match alarms.watch(alarmed.0, alarmed.1).await {} });
    status.set_ready(true);
    // Displayed: as strings the addresses would stand in quotes.
    let at = |name| listening.at(name).or(http_at.at(name)).map(display);
    tracing::info!(
        amqp = at("amqp"),
        amqps = at("amqps"),
        mqtt = at("mqtt"),
        mqtts = at("mqtts"),
        stomp = at("stomp"),
        stomps = at("stomps"),
        any = at("any"),
        anys = at("anys"),
        http = at("http"),
        https = at("https"),
        "ready"
    );

    manager.ready();
    let outcome = tokio::select! {
        outcome = wait_for_stop(&mut stop_signals, &mut accepting) => outcome,
        never = reload_at_each(&mut reloads, &manager, &config, tls.as_ref(), peers.as_deref()) => {
            match never {}
        }
        never = keep_alive(&manager, &broker) => match never {},
        never = follow_files(&config, tls.as_ref()) => match never {},
    };
    stop_signals.exit_at_next();
    manager.stopping();
    status.set_ready(false);
    hand_over(&broker).await;
    accepting.shutdown().await;
    let drain = Duration::from_secs(config.shutdown.drain_s.into());
    tracing::info!(
        connections = connections.open(),
        drain_s = drain.as_secs(),
        "closing connections"
    );
    let left = connections.drain(drain).await;
    if left > 0 {
        tracing::warn!(connections = left, "dropped connections that did not close in time");
    }
    watching.shutdown().await;
    broker.stop().await;
    if let Some(peers) = peers.and_then(Arc::into_inner) {
        peers.stop().await;
    }
    http.stop().await;
    tracing::info!("stopped");
    outcome
}

/// Whenever this node begins to lead: makes the first user and imports the definitions, if that was
/// not done before, and says that clients are served.
async fn prepare_as_leader(
    broker: Broker,
    users: Users,
    api: Arc<Api>,
    config: Arc<Config>,
    serves: watch::Sender<bool>,
) {
    let mut leads = broker.inner().leads();
    while leads.wait_for(|leads| *leads).await.is_ok() {
        let prepared = async {
            users.make_first(broker.inner(), &config).await?;
            import_definitions(&api, &config.definitions.file).await
        };
        if let Err(error) = prepared.await {
            tracing::warn!(%error, "what a new broker begins with is not there yet");
            tokio::time::sleep(PREPARE_AGAIN).await;
            continue;
        }
        serves.send_replace(true);
        let deposed = leads.wait_for(|leads| !*leads).await.is_ok();
        serves.send_replace(false);
        if !deposed {
            return;
        }
    }
}

/// Hands leadership over before this node goes down, so that nobody has to find out.
async fn hand_over(broker: &Broker) {
    let Some(membership) = broker.inner().membership() else { return };
    match membership.hand_over(None, HAND_OVER).await {
        Ok(member) => tracing::info!(%member, "handed over"),
        // Nobody is waited for, or nobody else is there.
        Err(HandOverError::NotLeader | HandOverError::Nobody) => {}
        Err(error) => tracing::warn!(%error, "not handed over"),
    }
}

/// Waits for a signal to stop.
async fn wait_for_stop(
    stop_signals: &mut StopSignals,
    accepting: &mut JoinSet<()>,
) -> Result<(), RunError> {
    tokio::select! {
        signal = stop_signals.next() => {
            tracing::info!("{}: stopping", signal.name);
            Ok(())
        }
        Some(ended) = accepting.join_next() => {
            // They loop for ever, so this is a bug; a broker that accepts nobody must not look
            // alive.
            let reason = ended.err().map_or_else(String::new, |error| error.to_string());
            Err(RunError::AcceptLoop(reason))
        }
    }
}

/// Reads what TLS needs again at every signal.
async fn reload_at_each(
    reloads: &mut Signal,
    manager: &ServiceManager,
    config: &Arc<Config>,
    tls: Option<&Tls>,
    peers: Option<&Peers>,
) -> Infallible {
    loop {
        reloads.recv().await;
        manager.reloading();
        if let Some(tls) = tls {
            tls::reload(config, tls).await;
        }
        if let Some(peers) = peers {
            peers.reload().await;
        }
        manager.ready();
    }
}

/// Gives the service manager signs of life, if it wants any: each after the broker has answered.
async fn keep_alive(manager: &ServiceManager, broker: &Broker) -> Infallible {
    let Some(timeout) = systemd::watchdog() else { return std::future::pending().await };
    let mut signs = tokio::time::interval(timeout / 3);
    loop {
        signs.tick().await;
        let broker = broker.clone();
        if tokio::task::spawn_blocking(move || broker.figures()).await.is_ok() {
            manager.alive();
        }
    }
}

/// Reads what TLS needs again whenever it changes.
async fn follow_files(config: &Arc<Config>, tls: Option<&Tls>) -> Infallible {
    match tls {
        Some(tls) => tls::reload_at_change(Arc::clone(config), tls.clone()).await,
        None => std::future::pending().await,
    }
}

/// What TLS listeners need; `None` if no certificate is configured.
fn load_tls(config: &Config) -> Result<Option<Tls>, RunError> {
    Ok(if config.tls.is_on() { Some(Tls::load(&config.tls)?) } else { None })
}

/// What `/metrics` reports: the connections, and the broker once it has started.
struct Figures {
    connections: Connections,
    alarms: Alarms,
    broker: OnceLock<Broker>,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Figures").finish_non_exhaustive()
    }
}

impl Metrics for Figures {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            connections: self.connections.open() as u64,
            connections_opened_total: self.connections.opened_total(),
            connections_refused_total: self.connections.refused_total(),
            alarms: self.alarms.figures(),
            ..self.broker.get().map(Broker::figures).unwrap_or_default()
        }
    }
}

/// Imports the definitions that the configuration names, if it does.
async fn import_definitions(api: &Api, file: &Path) -> Result<(), RunError> {
    if file.as_os_str().is_empty() {
        return Ok(());
    }
    let refused = |why: String| RunError::Definitions { file: file.display().to_string(), why };
    // Blocks, while nobody is served yet.
    let json = std::fs::read(file).map_err(|error| refused(error.to_string()))?;
    api.import(&json).await.map_err(|error| refused(error.to_string()))?;
    tracing::info!(file = %file.display(), "imported definitions");
    Ok(())
}

/// Raises the limit of open files as far as the system lets us, and says if that is too little.
fn raise_descriptor_limit(connections_max: u32) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays");
    }
    let wanted = u64::from(connections_max) + OTHER_DESCRIPTORS;
    if let Some(open_files) = getrlimit(Resource::Nofile).current.filter(|open| *open < wanted) {
        tracing::warn!(
            open_files,
            wanted,
            "the limit of open files is below limits.connections_max"
        );
    }
}

/// Says which listeners would carry passwords in plain text beyond this machine.
fn warn_of_plain_text(config: &Config) {
    for (listener, addrs) in config.listeners.plain() {
        for addr in &addrs.0 {
            let parsed = addr.host.parse::<std::net::IpAddr>();
            if !parsed.map_or(addr.host == "localhost", |ip| ip.to_canonical().is_loopback()) {
                tracing::warn!(listener, %addr, "plain text is served beyond this machine");
            }
        }
    }
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}
