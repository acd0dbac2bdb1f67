//! The life of the process: starting in order, serving, stopping in the opposite order.
//!
//! 1. Hold the data directory, take the addresses: what can be wrong with the
//!    installation is known before anything else happens.
//! 2. Serve HTTP, so that health can be asked while the broker recovers its data.
//! 3. Start the broker, then listen for its clients, then say `ready`.
//! 4. On a signal: not ready, no new clients, drain, stop the broker, stop HTTP.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use isthmus_admin::{Admin, Api, Metrics, Role, Router, Snapshot, Status};
use isthmus_broker::{HandOverError, Peer};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::Signal;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;
use tracing::field::display;

use crate::alarms::Alarms;
use crate::any;
use crate::broker::{Broker, BrokerError, open_storage};
use crate::cluster::{self, Clients, ClusterError, Operations, Peers, Serve, Taken};
use crate::config::{Config, ListenAddrs};
use crate::connections::{Closing, Connections, Idle, IdlePlace};
use crate::data_dir::{DataDir, DataDirError};
use crate::net::{ListenError, Reserved, accept_loop, local_addrs};
use crate::signals::{self, StopSignals};
use crate::sys_topics;
use crate::systemd::{self, ServiceManager};
use crate::tls::{self, Tls, TlsError};
use crate::users::{Users, UsersError};

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// HTTP connections open at once: monitoring, and people looking.
const HTTP_CONNECTIONS_MAX: u32 = 1024;

/// Of these, places that are kept free for whoever comes next: when only so many are left, the
/// connection goes that has asked for nothing for the longest time. More than are accepted in one
/// go, since those that are to go must run for it.
const HTTP_PLACES_FREE: usize = 256;

/// Tasks polled between two looks at the sockets. One poll of a busy connection reads, decodes and
/// writes up to half a megabyte; with tokio's 61 of them in between, a new or quiet connection
/// beside busy ones waits for tens of milliseconds each time it has something to say.
const EVENT_INTERVAL: u32 = 8;

/// How long HTTP connections get to finish an answer once everything else has stopped.
const HTTP_DRAIN: Duration = Duration::from_secs(1);

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

    let amqp = Reserved::bind("amqp", &config.listeners.amqp).await?;
    let mqtt = Reserved::bind("mqtt", &config.listeners.mqtt).await?;
    let stomp = Reserved::bind("stomp", &config.listeners.stomp).await?;
    let any = Reserved::bind("any", &config.listeners.any).await?;
    let http = Reserved::bind("http", &config.listeners.http).await?.listen()?;
    let off = ListenAddrs::default();
    let secure = |addrs| if tls.is_some() { addrs } else { &off };
    let amqps = Reserved::bind("amqps", secure(&config.listeners.amqps)).await?;
    let mqtts = Reserved::bind("mqtts", secure(&config.listeners.mqtts)).await?;
    let stomps = Reserved::bind("stomps", secure(&config.listeners.stomps)).await?;
    let anys = Reserved::bind("anys", secure(&config.listeners.anys)).await?;
    let https = Reserved::bind("https", secure(&config.listeners.https)).await?.listen()?;
    let connections = Connections::new(config.limits.connections_max);
    let alarms = Alarms::new(&config.alarms, config.data_dir());
    let figures = Arc::new(Figures {
        connections: connections.clone(),
        alarms: alarms.clone(),
        broker: OnceLock::new(),
    });
    let (http_addrs, https_addrs) = (addrs(&http)?, addrs(&https)?);
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
    let http = HttpServer::start(http, https, tls.as_ref(), &router);

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
    let mut accepting = Accepting {
        tasks: JoinSet::new(),
        broker: broker.clone(),
        clients,
        connections: connections.clone(),
    };
    let amqp = accepting.plain("amqp", amqp.listen()?)?;
    let mqtt = accepting.plain("mqtt", mqtt.listen()?)?;
    let stomp = accepting.plain("stomp", stomp.listen()?)?;
    let any = accepting.plain("any", any.listen()?)?;
    let amqps = accepting.secure("amqps", amqps.listen()?, tls.as_ref())?;
    let mqtts = accepting.secure("mqtts", mqtts.listen()?, tls.as_ref())?;
    let stomps = accepting.secure("stomps", stomps.listen()?, tls.as_ref())?;
    let anys = accepting.secure("anys", anys.listen()?, tls.as_ref())?;
    let mut accepting = accepting.tasks;
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
    let [amqp, mqtt, stomp, any, http_at] =
        [amqp, mqtt, stomp, any, http_addrs].map(|addrs| addrs.map(display));
    let [amqps, mqtts, stomps, anys, https] =
        [amqps, mqtts, stomps, anys, https_addrs].map(|addrs| addrs.map(display));
    tracing::info!(
        amqp,
        amqps,
        mqtt,
        mqtts,
        stomp,
        stomps,
        any,
        anys,
        http = http_at,
        https,
        "ready"
    );

    manager.ready();
    let outcome = tokio::select! {
        outcome = wait_for_stop(&mut stop_signals, &mut accepting) => outcome,
        never = reload_at_each(&mut reloads, &manager, &config, tls.as_ref()) => match never {},
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

/// What accepts clients.
struct Accepting {
    tasks: JoinSet<()>,
    broker: Broker,
    clients: Clients,
    connections: Connections,
}

impl Accepting {
    /// Serves those that come to the listener `name`, in plain text; returns where that is.
    fn plain(
        &mut self,
        name: &'static str,
        listeners: Vec<TcpListener>,
    ) -> Result<Option<String>, RunError> {
        let addrs = addrs(&listeners)?;
        for listener in listeners {
            let (broker, clients) = (self.broker.clone(), self.clients.clone());
            let serve = move |stream, peer, closing| {
                let (broker, clients) = (broker.clone(), clients.clone());
                take(broker, clients, name, stream, Peer::plain(peer), closing)
            };
            accept_into(&mut self.tasks, name, listener, &self.connections, serve);
        }
        Ok(addrs)
    }

    /// As [`Accepting::plain`], over TLS.
    fn secure(
        &mut self,
        name: &'static str,
        listeners: Vec<TcpListener>,
        tls: Option<&Tls>,
    ) -> Result<Option<String>, RunError> {
        let addrs = addrs(&listeners)?;
        for listener in listeners {
            let Some(tls) = tls.cloned() else { break };
            let (broker, clients) = (self.broker.clone(), self.clients.clone());
            let serve = move |stream, peer, closing| {
                let (broker, clients, tls) = (broker.clone(), clients.clone(), tls.clone());
                async move {
                    if let Some((stream, peer)) = handshake(&tls, stream, peer).await {
                        take(broker, clients, name, stream, peer, closing).await;
                    }
                }
            };
            accept_into(&mut self.tasks, name, listener, &self.connections, serve);
        }
        Ok(addrs)
    }
}

/// Serves a client where it is to be served, until it goes.
async fn take<S>(
    broker: Broker,
    clients: Clients,
    listener: &'static str,
    stream: S,
    peer: Peer,
    closing: Closing,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let taken = tokio::select! {
        biased;
        taken = clients.take(listener, stream, peer) => taken,
        // What is passed through is cut off: its client connects to another node.
        () = closing.clone().requested() => return,
    };
    match taken {
        Taken::Here(stream, peer) => any::serve(broker, listener, stream, peer, closing).await,
        Taken::Refused(stream, peer, leader) => {
            Box::pin(broker.redirect(listener, stream, peer, leader.node(), closing)).await;
        }
        Taken::Elsewhere => {}
    }
}

/// Serves clients that peers pass through: as those that come by themselves, and counted with them.
fn serve_for_peers(broker: &Broker, connections: &Connections, router: &Router) -> Serve {
    let (broker, connections, router) = (broker.clone(), connections.clone(), router.clone());
    Arc::new(move |listener, stream, peer| {
        let (served, done) = oneshot::channel::<()>();
        let (broker, router) = (broker.clone(), router.clone());
        let is_http = listener == cluster::HTTP;
        let is_known = is_http || any::is_served(listener);
        let listener = listener.to_owned();
        let is_taken = is_known
            && connections.spawn(|closing| async move {
                if is_http {
                    let closing = closing.requested();
                    isthmus_admin::serve_connection(stream, peer, router, |_| {}, closing).await;
                } else {
                    any::serve(broker, &listener, stream, peer, closing).await;
                }
                drop(served);
            });
        Box::pin(async move {
            if is_taken {
                // Nothing is ever sent: the end is what is waited for.
                done.await.unwrap_or_default();
            }
        })
    })
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
) -> Infallible {
    loop {
        reloads.recv().await;
        manager.reloading();
        if let Some(tls) = tls {
            tls::reload(config, tls).await;
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

/// Does a TLS handshake; `None` if it fails, which is everyday.
async fn handshake(
    tls: &Tls,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<(TlsStream<TcpStream>, Peer)> {
    match tls.accept(stream).await {
        Ok((stream, secured)) => {
            Some((stream, Peer { address: peer, tls: Some(Arc::new(secured)) }))
        }
        Err(error) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            None
        }
    }
}

/// Spawns an accept loop that serves each connection in a task of its own.
fn accept_into<S, F>(
    tasks: &mut JoinSet<()>,
    name: &'static str,
    listener: TcpListener,
    connections: &Connections,
    serve: S,
) where
    S: Fn(TcpStream, SocketAddr, Closing) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let connections = connections.clone();
    tasks.spawn(accept_loop(name, listener, move |stream, peer| {
        if !connections.spawn(|closing| serve(stream, peer, closing)) {
            // At each doubling: a flood must not become a flood of log lines.
            let refused = connections.refused_total();
            if refused.is_power_of_two() {
                tracing::warn!(listener = name, refused, "refusing connections: too many are open");
            }
        }
    }));
}

/// The HTTP listeners and their connections, for http and https apart: neither takes the other's
/// places.
struct HttpServer {
    accepting: JoinSet<()>,
    connections: Connections,
    secure_connections: Connections,
}

impl HttpServer {
    fn start(
        listeners: Vec<TcpListener>,
        secure: Vec<TcpListener>,
        tls: Option<&Tls>,
        router: &Router,
    ) -> Self {
        let connections = Connections::new(HTTP_CONNECTIONS_MAX);
        let secure_connections = Connections::new(HTTP_CONNECTIONS_MAX);
        let mut accepting = JoinSet::new();
        let idle = Idle::default();
        for listener in listeners {
            let (router, open, idle) = (router.clone(), connections.clone(), idle.clone());
            accept_into(
                &mut accepting,
                "http",
                listener,
                &connections,
                move |stream, peer, closing| {
                    let place = take_place(&open, &idle);
                    let (peer, router, busy) = (Peer::plain(peer), router.clone(), place.clone());
                    let set_busy = move |is_busy| busy.set_busy(is_busy);
                    let closing = closing.requested();
                    let serving =
                        isthmus_admin::serve_connection(stream, peer, router, set_busy, closing);
                    until_asked_to_go(place, serving)
                },
            );
        }
        let idle = Idle::default();
        for listener in secure {
            let Some(tls) = tls.cloned() else { break };
            let (router, open, idle) = (router.clone(), secure_connections.clone(), idle.clone());
            accept_into(
                &mut accepting,
                "https",
                listener,
                &secure_connections,
                move |stream, peer, closing| {
                    let place = take_place(&open, &idle);
                    let (tls, router, busy) = (tls.clone(), router.clone(), place.clone());
                    let set_busy = move |is_busy| busy.set_busy(is_busy);
                    until_asked_to_go(place, async move {
                        if let Some((stream, peer)) = handshake(&tls, stream, peer).await {
                            let closing = closing.requested();
                            isthmus_admin::serve_connection(
                                stream, peer, router, set_busy, closing,
                            )
                            .await;
                        }
                    })
                },
            );
        }
        Self { accepting, connections, secure_connections }
    }

    async fn stop(mut self) {
        self.accepting.shutdown().await;
        tokio::join!(self.connections.drain(HTTP_DRAIN), self.secure_connections.drain(HTTP_DRAIN));
    }
}

/// A place among those that ask for nothing yet; if few are free, the oldest of them goes. So
/// strangers who connect and say nothing do not keep a health check out.
fn take_place(open: &Connections, idle: &Idle) -> Arc<IdlePlace> {
    if open.open() + HTTP_PLACES_FREE > HTTP_CONNECTIONS_MAX as usize {
        idle.close_oldest();
    }
    idle.enter()
}

async fn until_asked_to_go(place: Arc<IdlePlace>, serving: impl Future<Output = ()>) {
    tokio::select! {
        () = serving => {}
        () = place.asked_to_go() => {}
    }
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

/// Where listeners are bound, for the log; `None` if there are none.
fn addrs(listeners: &[TcpListener]) -> Result<Option<String>, RunError> {
    let addrs = local_addrs(listeners).map_err(system("reading an address"))?;
    Ok(Some(addrs).filter(|addrs| !addrs.is_empty()))
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}
