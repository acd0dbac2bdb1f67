//! This node as one of a cluster: who it is, how it becomes a member, what it does for its peers,
//! and where clients go.
//!
//! In the order of a start:
//! 1. [`Peers::start`] listens for peers: from here on they can ask who this node is;
//! 2. [`Peers::form`] finds the cluster that it belongs to, or begins one with the others;
//! 3. [`Peers::start_broker`] recovers the data and takes part;
//! 4. [`Clients`] takes each client to where it is served, for as long as the process runs.

mod api;
mod certificates;
mod clients;
mod control;
mod forming;
mod http;
mod identity;
mod peers;
mod runtime;
mod watch;

use std::io;
use std::sync::Arc;

use isthmus_broker::cluster::peer::{
    Dialer, Identity, Local, Network, PeerOptions, PeerServer, Security, TcpDial, TcpListen,
    TlsError, Token,
};
use isthmus_broker::storage::{Error as StorageError, SharedStorage};
use tokio::sync::watch as watched;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::net::{ListenError, Reserved};

pub(crate) use self::api::{Operations, router};
use self::certificates::Certificates;
pub(crate) use self::clients::{Clients, Serve, Taken};
use self::forming::Forming;
pub(crate) use self::http::{LISTENER as HTTP, passing};
use self::peers::Handling;
use self::runtime::Runtime;
pub(crate) use self::watch::follow;

/// Why a node cannot be one of a cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The address for peers cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A file that TLS needs cannot be used.
    #[error("{key}: {path}: {what}")]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The certificates do not fit together.
    #[error("cluster.certificate, cluster.key, cluster.ca: {0}")]
    Tls(#[from] TlsError),
    /// Who this node is cannot be read or written.
    #[error("data directory: {0}")]
    Identity(#[from] StorageError),
    /// The data directory is another node's.
    #[error(
        "cluster.node is {configured}, but the data directory is that of node {found}: \
         set cluster.node to {found}, or give this node a directory of its own"
    )]
    OtherNode {
        /// What the configuration says.
        configured: u32,
        /// What the directory says.
        found: u16,
    },
    /// Threads or sockets cannot be set up.
    #[error("{doing} failed: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// What a node has for its peers.
pub(crate) struct Peers {
    config: Arc<Config>,
    storage: SharedStorage,
    pub(crate) dialer: Dialer,
    pub(crate) server: PeerServer,
    handling: Arc<Handling>,
    forming: Arc<Forming>,
    certificates: Arc<Certificates>,
    /// Where consensus runs.
    runtime: Runtime,
    /// Who this node was before, if anybody.
    known: Option<Identity>,
    listening: JoinSet<()>,
}

impl Peers {
    /// Begins to listen for peers.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub(crate) async fn start(
        config: &Arc<Config>,
        storage: SharedStorage,
    ) -> Result<Peers, ClusterError> {
        let cluster = &config.cluster;
        let node = cluster.node as u16;
        let known = identity::load(&*storage)?;
        if let Some(known) = known.filter(|known| known.node != node) {
            return Err(ClusterError::OtherNode { configured: cluster.node, found: known.node });
        }
        let own = known.unwrap_or(Identity { node, ..Identity::default() });
        let certificates = Arc::new(Certificates::load(config)?);
        let token = cluster.token.0.reveal();
        let token = (!token.is_empty()).then(|| Token(token.as_bytes().to_vec().into()));
        let local = Local {
            directory: isthmus_broker::cluster::peer::Directory::new(own),
            security: Security { tls: certificates.tls(), token },
            options: PeerOptions::default(),
            random: Arc::new(fill),
        };
        let dialer = Dialer::new(local.clone(), TcpDial);
        let forming =
            Arc::new(Forming::new(config, SharedStorage::clone(&storage), dialer.clone()));
        let handling = Arc::new(Handling::new(Arc::clone(&forming)));
        let server = PeerServer::new(local, Arc::clone(&handling) as _);
        let reserved = Reserved::bind("cluster.listen", &cluster.listened()).await?;
        let mut listening = JoinSet::new();
        for listener in reserved.listen()? {
            let server = server.clone();
            listening.spawn(async move {
                if let Err(error) = server.listen(TcpListen(listener)).await {
                    tracing::error!(%error, "peers are not accepted any more");
                }
            });
        }
        let followed = Arc::clone(&certificates);
        // From here on: a node may wait for others for long, with a certificate that they refuse.
        listening.spawn(async move { match followed.reload_at_change().await {} });
        let runtime = Runtime::start()
            .map_err(|source| ClusterError::System { doing: "starting a thread", source })?;
        let config = Arc::clone(config);
        Ok(Peers {
            config,
            storage,
            dialer,
            server,
            handling,
            forming,
            certificates,
            runtime,
            known,
            listening,
        })
    }

    /// Reads the certificates for peers again.
    pub(crate) async fn reload(&self) {
        self.certificates.reload().await;
    }

    /// What an operator may ask for while the cluster is formed.
    pub(crate) fn forming(&self) -> &Arc<Forming> {
        &self.forming
    }

    /// Finds out who this node is: from its data, from a cluster that takes it in, or by beginning
    /// one with the others. Waits for as long as it takes.
    ///
    /// # Errors
    /// If who it is cannot be written down.
    pub(crate) async fn form(&self) -> Result<(), ClusterError> {
        let identity = match self.known {
            Some(known) => known,
            None => self.forming.run().await?,
        };
        self.dialer.local().directory.set_own(identity);
        self.forming.decided();
        tracing::info!(member = %identity.member, cluster = %identity.cluster, "this node is a member");
        Ok(())
    }

    /// Recovers the data and takes part. Blocks while it reads the log; within the runtime.
    ///
    /// # Errors
    /// If the data is damaged or cannot be read, or a thread cannot be started.
    pub(crate) fn start_broker(
        &self,
        options: isthmus_broker::BrokerOptions,
        log: isthmus_broker::storage::LogOptions,
    ) -> Result<isthmus_broker::Broker, isthmus_broker::RecoveryError> {
        let cluster = &self.config.cluster;
        let member = isthmus_broker::cluster::member::MemberOptions {
            id: self.dialer.local().directory.own().member,
            heartbeat: cluster.heartbeat.0,
            election_timeout: cluster.election_timeout.0,
        };
        let log = isthmus_broker::cluster::raft::RaftLogOptions { log, ..Default::default() };
        let options_of = isthmus_broker::ClusterOptions { member, log, hold: cluster.hold.0 };
        let network = Network::new(self.dialer.clone());
        let (network, watch) = network.returning(cluster.election_timeout.0);
        self.runtime.handle().spawn(watch);
        let drive = isthmus_broker::Combining::start;
        let broker = isthmus_broker::Broker::start_member(
            options,
            options_of,
            network,
            self.runtime.handle(),
            drive,
        )?;
        if let Some(membership) = broker.membership() {
            self.server.set_raft(membership.member().raft().clone());
        }
        self.handling.set_broker(broker.clone());
        Ok(broker)
    }

    /// Says how clients are served that peers pass through, whenever `serves` says that they are.
    pub(crate) fn set_serve(&self, serves: watched::Receiver<bool>, serve: Serve) {
        self.handling.set_serve(serves, serve);
    }

    /// The data of this node.
    pub(crate) fn storage(&self) -> &SharedStorage {
        &self.storage
    }

    /// Ends what goes on for peers. Consensus has ended before.
    pub(crate) async fn stop(mut self) {
        self.server.clear_raft();
        self.listening.shutdown().await;
        self.runtime.stop();
    }
}

/// Fills a nonce. Without random numbers the process could not have started.
fn fill(nonce: &mut [u8]) {
    if let Err(error) = getrandom::fill(nonce) {
        tracing::error!(%error, "no random numbers: the process ends");
        std::process::abort();
    }
}
