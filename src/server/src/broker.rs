//! The only place of this crate that knows the broker: starting it, handing it connections,
//! asking it for its figures, stopping it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use isthmus_admin::{Cluster as ClusterFigures, Snapshot};
use isthmus_amqp091::{Amqp091Encoding, Amqp091Session, SessionConfig};
use isthmus_broker::cluster::SingleOptions;
use isthmus_broker::cluster::member::{PeerStatus, Role, Status as ClusterStatus};
use isthmus_broker::storage::{self, LogOptions, RealStorage, SharedStorage, Threads};
use isthmus_broker::{BrokerOptions, Combining, PagingOptions, Peer, RecoveryError, ScrubOptions};
use isthmus_contract::model::{EncodingId, Encodings, NEVER_EXPIRES, SessionId, Time};
use isthmus_contract::{Session, Shortage};
use isthmus_mqtt::{MqttEncoding, MqttSession, OwnConfig};
use isthmus_stomp::codec::Version;
use isthmus_stomp::{StompEncoding, StompSession};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::any::AnySettings;
use crate::cluster::Peers;
use crate::config::{Config, Nodes};
use crate::connections::{Closing, Next};
use crate::users::{Users, UsersError};

/// How the heads of messages are read, for every protocol this node speaks.
const ENCODINGS: Encodings = Encodings(&[
    (EncodingId::AMQP_0_9_1, &Amqp091Encoding),
    (EncodingId::MQTT, &MqttEncoding),
    (EncodingId::STOMP, &StompEncoding),
]);

/// The exchange of each virtual host by which the broker tells MQTT clients of itself: that of all
/// topics that begin with `$`.
pub(crate) const SYSTEM_EXCHANGE: &str = "amq.mqtt.system";

/// The largest log entry, above the largest message by what a transaction may add to it.
const ENTRY_BYTES_MAX: usize = 1 << 30;

/// Bodies in one page, in bytes, about: read in one go, and what a consumer that takes one message
/// has in memory for it.
const PAGE_BYTES: u64 = 256 << 10;

/// One page file, in bytes, about: what a round of paging out has to hold in memory until it is
/// durable grows with it, and what is left in one is moved as a whole.
const PAGE_FILE_BYTES: u64 = 32 << 20;

/// The part of the memory limit that messages of durable queues may take.
const CACHE_OF_MEMORY: u64 = 4;

/// The running broker. Clones share it.
#[derive(Clone)]
pub(crate) struct Broker {
    broker: isthmus_broker::Broker,
    /// What every session is told, but for what is its client's own.
    settings: Arc<Settings>,
    data_dir: PathBuf,
}

/// What sessions are told of this node.
struct Settings {
    amqp: SessionConfig,
    mqtt: Arc<isthmus_mqtt::SessionConfig>,
    /// Where MQTT clients reach the nodes of a cluster.
    mqtt_servers: Nodes,
    /// The same, over TLS.
    mqtt_tls_servers: Nodes,
    stomp: isthmus_stomp::SessionConfig,
    any: AnySettings,
}

/// What is spoken to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// AMQP 0-9-1.
    Amqp091,
    /// MQTT of any version: its first packet tells.
    Mqtt,
    /// STOMP of one of these versions: its first frame tells.
    Stomp(&'static [Version]),
}

impl Protocol {
    /// STOMP of any version.
    pub(crate) const STOMP: Protocol = Protocol::Stomp(&Version::ALL);

    /// What is spoken at the listener called `name`; `None` if no client of the broker comes there.
    pub(crate) fn of_listener(name: &str) -> Option<Protocol> {
        match name {
            "amqp" | "amqps" => Some(Protocol::Amqp091),
            "mqtt" | "mqtts" => Some(Protocol::Mqtt),
            "stomp" | "stomps" => Some(Protocol::STOMP),
            // Those are WebSockets, by their subprotocols.
            "v12.stomp" => Some(Protocol::Stomp(&[Version::V1_2])),
            "v11.stomp" => Some(Protocol::Stomp(&[Version::V1_1])),
            "v10.stomp" => Some(Protocol::Stomp(&[Version::V1_0])),
            "mqttv3.1" => Some(Protocol::Mqtt),
            _ => None,
        }
    }
}

/// Why the broker does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    /// The data directory cannot be read.
    #[error("data directory {path}: {source}")]
    Directory {
        /// Where it is.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// The data is damaged, or the log cannot go on.
    #[error("data directory {path}: {source}")]
    Recovery {
        /// Where it is.
        path: String,
        /// What is wrong.
        source: RecoveryError,
    },
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// Nobody could log in.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The thread that recovers the data failed.
    #[error("recovering the data failed: {0}")]
    Failed(#[from] tokio::task::JoinError),
}

impl Broker {
    /// The broker itself.
    pub(crate) fn inner(&self) -> &isthmus_broker::Broker {
        &self.broker
    }

    /// Recovers what the data directory holds. The caller keeps the directory's lock until the
    /// broker has stopped. Dropping the future abandons the start.
    ///
    /// # Errors
    ///
    /// If the data is damaged or cannot be read.
    pub(crate) async fn start(
        config: Arc<Config>,
        users: Users,
        peers: Option<Arc<Peers>>,
    ) -> Result<Self, BrokerError> {
        let settings = Arc::new(Settings::new(&config));
        let data_dir = config.data_dir().to_owned();
        let runtime = tokio::runtime::Handle::current();
        let (starting, recovering) = (Arc::clone(&config), users.clone());
        let started = tokio::task::spawn_blocking(move || {
            // The broker spawns tasks of its own.
            let _entered = runtime.enter();
            let started = start(&starting, &recovering, peers.as_deref());
            // Recovery has read more than is kept.
            crate::memory::give_back();
            started
        });
        let broker = started.await??;
        if broker.membership().is_none() {
            users.make_first(&broker, &config).await?;
        }
        Ok(Self { broker, settings, data_dir })
    }

    /// What serves one connection that speaks `protocol` until it ends. When `closing` completes, the
    /// connection closes in the protocol's way; if that takes longer than `shutdown.drain_s`, this
    /// future is dropped. The client has taken `spent` of its time for a handshake already.
    pub(crate) fn serve<S>(
        self,
        protocol: Protocol,
        stream: S,
        peer: Peer,
        spent: Duration,
        closing: Closing,
    ) -> Next
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut secret = [0; 16];
        if let Err(error) = getrandom::fill(&mut secret) {
            tracing::error!(%error, "a connection is closed: no random numbers");
            return Next::NOTHING;
        }
        let name_secret = u128::from_le_bytes(secret);
        let has_certificate = peer.tls.as_ref().is_some_and(|tls| tls.certificate.is_some());
        let own = Own { name_secret, has_certificate, spent };
        let settings = Arc::clone(&self.settings);
        let session = move |id, now| settings.session(protocol, id, own, now);
        self.serve_session(stream, peer, closing, session)
    }

    /// What tells a client that speaks `protocol` that the node `leader` serves clients, where the
    /// protocol has words for that; else it is hung up on. The client has taken `spent` of its time
    /// for a handshake already.
    pub(crate) fn redirect<S>(
        self,
        protocol: Protocol,
        stream: S,
        peer: Peer,
        spent: Duration,
        leader: u16,
        closing: Closing,
    ) -> Next
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if protocol != Protocol::Mqtt {
            return Next::NOTHING;
        }
        let servers = match peer.tls {
            None => &self.settings.mqtt_servers,
            Some(_) => &self.settings.mqtt_tls_servers,
        };
        let server = servers.0.iter().find(|node| node.number == leader);
        let reference = server.map(|node| node.addr.to_string()).unwrap_or_default();
        let shared = isthmus_mqtt::SessionConfig::clone(&self.settings.mqtt);
        let connect_timeout = shared.connect_timeout.saturating_sub(spent);
        let elsewhere = Some(reference.into());
        let settings = isthmus_mqtt::SessionConfig { elsewhere, connect_timeout, ..shared };
        let session = move |id, now| -> Box<dyn Session> {
            Box::new(MqttSession::new(isthmus_mqtt::SessionConfig { id, ..settings }, now))
        };
        self.serve_session(stream, peer, closing, session)
    }

    fn serve_session<S, M>(&self, stream: S, peer: Peer, closing: Closing, session: M) -> Next
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        M: FnOnce(SessionId, Time) -> Box<dyn Session> + Send + 'static,
    {
        let serving = self.broker.serve(stream, peer, session, closing.requested());
        // Not as an async block, which would hold it twice: as what it has captured and as what it
        // waits for. Why a connection was lost is logged where it is found out.
        Next::new(serving.map(|_| ()))
    }

    /// What the listeners go by that serve every protocol.
    pub(crate) fn any_settings(&self) -> &AnySettings {
        &self.settings.any
    }

    /// Says what the node is short of.
    pub(crate) fn set_shortage(&self, shortage: Shortage) {
        self.broker.set_shortage(shortage);
    }

    /// The figures of now; those of connections are filled in by the caller.
    pub(crate) fn figures(&self) -> Snapshot {
        let figures = self.broker.figures();
        let counters = figures.counters;
        Snapshot {
            queues: figures.queues.len() as u64,
            consumers: figures.consumers as u64,
            sessions_open: figures.sessions_open as u64,
            sessions_kept: figures.sessions_kept as u64,
            messages_published_total: counters.published,
            messages_delivered_total: counters.delivered,
            messages_acknowledged_total: counters.acknowledged,
            messages_redelivered_total: counters.redelivered,
            messages_unroutable_total: counters.unroutable,
            messages_expired_total: counters.expired,
            messages_dead_lettered_total: counters.dead_lettered,
            messages_dropped_total: counters.dropped,
            messages_ready: figures.queues.iter().map(|q| q.ready).sum(),
            messages_unacked: figures.queues.iter().map(|q| q.unacked).sum(),
            retained_messages: figures.retained.messages,
            retained_bytes: figures.retained.bytes,
            log_bytes: bytes_of_files(&self.data_dir),
            log_appends_total: figures.log_entries,
            log_syncs_total: figures.log_syncs,
            cluster: self.broker.membership().map(|membership| cluster(&membership.status())),
            ..Snapshot::default()
        }
    }

    /// Stops: what was acknowledged is on stable storage when this returns. Every connection has
    /// ended before.
    pub(crate) async fn stop(self) {
        let stopped = tokio::task::spawn_blocking(move || self.broker.stop()).await;
        if let Ok(Err(error)) = stopped {
            tracing::error!(%error, "the log was not closed cleanly");
        }
    }
}

/// A voter that was heard of within this time is there.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

fn cluster(status: &ClusterStatus) -> ClusterFigures {
    let voters = || status.peers.iter().filter(|peer| peer.is_voter);
    let is_leader = status.role == Role::Leader;
    let is_heard = |peer: &&PeerStatus| {
        peer.peer.id == status.id || peer.silent.is_some_and(|silent| silent < HEARD_WITHIN)
    };
    let lags = status
        .peers
        .iter()
        .filter_map(|peer| Some((peer.peer.id.0, status.last.saturating_sub(peer.matched?))));
    ClusterFigures {
        is_leader,
        term: status.term,
        last_entry: status.last,
        committed_entry: status.committed,
        voters: voters().count() as u64,
        voters_heard: if is_leader { voters().filter(is_heard).count() as u64 } else { 0 },
        lags: lags.collect(),
    }
}

/// What the files of a directory take, as far as they can be seen.
fn bytes_of_files(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

/// Opens the data directory.
///
/// # Errors
///
/// If it cannot be opened.
pub(crate) fn open_storage(config: &Config) -> Result<SharedStorage, BrokerError> {
    match RealStorage::open(config.data_dir()) {
        Ok(storage) => Ok(Arc::new(storage)),
        Err(source) => {
            let path = config.data_dir().display().to_string();
            Err(BrokerError::Directory { path, source })
        }
    }
}

fn start(
    config: &Config,
    users: &Users,
    peers: Option<&Peers>,
) -> Result<isthmus_broker::Broker, BrokerError> {
    let path = config.data_dir().display().to_string();
    let storage = match peers {
        Some(peers) => SharedStorage::clone(peers.storage()),
        None => open_storage(config)?,
    };
    let (segment, checkpoint) =
        (config.storage.segment_bytes.0, config.storage.checkpoint_after_bytes.0);
    let log = LogOptions {
        segment_bytes: segment,
        entry_bytes_max: ENTRY_BYTES_MAX,
        // What one checkpoint lets go is what is written until the next: all of it is kept, for a
        // new segment is written twice, with zeros first.
        spares_max: usize::try_from(checkpoint / segment).unwrap_or(usize::MAX).saturating_add(4),
        ..LogOptions::default()
    };
    let memory_limit = crate::alarms::memory_limit(&config.alarms).unwrap_or(u64::MAX);
    let cache_bytes = config.storage.body_cache_bytes.0.min(memory_limit / CACHE_OF_MEMORY);
    let mut name_seed = [0; 32];
    getrandom::fill(&mut name_seed)?;
    let options = BrokerOptions {
        storage,
        node: SingleOptions { log: log.clone(), ..SingleOptions::default() },
        encodings: ENCODINGS,
        authenticate: users.logins.clone(),
        on_settings: users.follow(),
        vhosts: vec![config.amqp.default_vhost.clone()],
        outbox_bytes_max: config.limits.outbox_bytes_max.0,
        publish_bytes_max: config.limits.connection_publish_bytes_max.0,
        paging: PagingOptions {
            checkpoint_after_bytes: config.storage.checkpoint_after_bytes.0,
            // Publishers are held at twice of that: while a round writes, as much again may come,
            // and what the log and the sockets have of it is about as much once more.
            unpaged_bytes_max: cache_bytes / 10,
            page_bytes: PAGE_BYTES,
            file_bytes: PAGE_FILE_BYTES,
            log_kept_bytes: config.cluster.log_kept_bytes.0,
        },
        scrub: ScrubOptions {
            bytes_per_second: config.storage.scrub_bytes_per_second.0,
            interval: config.storage.scrub_interval.0,
            ..ScrubOptions::default()
        },
        // Beside it are the pages that are being read, and what of them is on its way to clients.
        page_bytes_max: cache_bytes / 4,
        retained_bytes_max: config.limits.retained_bytes.0,
        name_seed,
        own_exchange: Some(SYSTEM_EXCHANGE),
        on_log_failure: Box::new(|error| end_process(&error)),
        threads: Threads::real(),
    };
    let started = match peers {
        Some(peers) => peers.start_broker(options, log),
        None => isthmus_broker::Broker::start(options, Combining::start),
    };
    started.map_err(|source| BrokerError::Recovery { path, source })
}

/// Ends the process at once: a write or sync of the log that failed is never tried again, for the
/// system may have dropped what it was to write, and nothing may be confirmed after it. What is in a
/// damaged page can neither be delivered nor passed over.
fn end_process(error: &storage::Error) {
    tracing::error!(%error, "the disk has failed: nothing more is confirmed, the process ends");
    std::process::abort();
}

/// What is one client's own.
#[derive(Clone, Copy)]
struct Own {
    name_secret: u128,
    has_certificate: bool,
    /// What of its time for a handshake is gone.
    spent: Duration,
}

impl Settings {
    fn new(config: &Config) -> Settings {
        let u16_of = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let u32_of = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let limits = &config.limits;
        let amqp = SessionConfig {
            frame_max: u32_of(limits.frame_bytes_max.0),
            channel_max: u16_of(limits.channels_max),
            heartbeat_s: u16::try_from(config.amqp.heartbeat.0.as_secs()).unwrap_or(u16::MAX),
            message_bytes_max: limits.message_bytes_max.0,
            handshake_timeout: limits.handshake_timeout.0,
            encodings: ENCODINGS,
            ..SessionConfig::new(SessionId(0))
        };
        let settings = &config.mqtt;
        let vhost = match settings.vhost.as_str() {
            "" => &config.amqp.default_vhost,
            vhost => vhost,
        };
        let bytes_max = settings.packet_bytes_max.0.min(limits.message_bytes_max.0);
        let mqtt = isthmus_mqtt::SessionConfig {
            vhost: vhost.into(),
            exchange: settings.exchange.as_str().into(),
            system_exchange: SYSTEM_EXCHANGE.into(),
            packet_bytes_max: u32_of(bytes_max),
            connect_bytes_max: u32_of(settings.connect_bytes_max.0.min(bytes_max)),
            connect_timeout: limits.handshake_timeout.0,
            keep_alive_s_max: u16::try_from(settings.keep_alive_max.0.as_secs())
                .unwrap_or(u16::MAX),
            session_expiry_ms_max: settings.session_expiry_max.0.map_or(NEVER_EXPIRES, millis),
            subscriptions_max: settings.subscriptions_max as usize,
            inflight_max: u16_of(settings.inflight_max),
            receive_max: u16_of(settings.receive_max),
            topic_alias_max: u16_of(settings.topic_alias_max),
            response_information: settings.response_information.as_str().into(),
            queue_length_max: settings.queue_messages_max.into(),
            queue_bytes_max: settings.queue_bytes_max.0,
            queue_overflow: settings.queue_overflow.0,
            qos0_length_max: settings.qos0_messages_max.into(),
            qos0_bytes_max: settings.qos0_bytes_max.0,
            shared_expires_ms: millis(settings.shared_expires.0),
            encodings: ENCODINGS,
            ..isthmus_mqtt::SessionConfig::new(SessionId(0))
        };
        let stomp = stomp_settings(config);
        Settings {
            amqp,
            mqtt: Arc::new(mqtt),
            mqtt_servers: settings.servers.clone(),
            mqtt_tls_servers: settings.tls_servers.clone(),
            stomp,
            any: AnySettings::new(config),
        }
    }

    fn session(&self, protocol: Protocol, id: SessionId, own: Own, now: Time) -> Box<dyn Session> {
        let Own { name_secret, has_certificate, spent } = own;
        match protocol {
            Protocol::Amqp091 => {
                let shared = self.amqp.clone();
                let handshake_timeout = shared.handshake_timeout.saturating_sub(spent);
                let config =
                    SessionConfig { id, name_secret, has_certificate, handshake_timeout, ..shared };
                Box::new(Amqp091Session::new(config, now))
            }
            Protocol::Mqtt => {
                let connect_timeout = self.mqtt.connect_timeout.saturating_sub(spent);
                let own = OwnConfig { id, connect_timeout, has_certificate, name_secret };
                Box::new(MqttSession::sharing(Arc::clone(&self.mqtt), own, now))
            }
            Protocol::Stomp(versions) => {
                let shared = self.stomp.clone();
                let unix_ms_at_zero = unix_ms() - i64::try_from(now.as_millis()).unwrap_or(0);
                let config = isthmus_stomp::SessionConfig {
                    id,
                    name_secret,
                    has_certificate,
                    connect_timeout: shared.connect_timeout.saturating_sub(spent),
                    unix_ms_at_zero,
                    versions,
                    ..shared
                };
                Box::new(StompSession::new(config, now))
            }
        }
    }
}

fn stomp_settings(config: &Config) -> isthmus_stomp::SessionConfig {
    let (settings, limits) = (&config.stomp, &config.limits);
    let vhost = match settings.vhost.as_str() {
        "" => &config.amqp.default_vhost,
        vhost => vhost,
    };
    let defaults = isthmus_stomp::SessionConfig::new(SessionId(0));
    let body_max = settings.body_bytes_max.0.min(limits.message_bytes_max.0);
    isthmus_stomp::SessionConfig {
        vhost: vhost.into(),
        host_is_vhost: settings.host_is_vhost,
        limits: isthmus_stomp::codec::Limits {
            body_bytes_max: usize::try_from(body_max).unwrap_or(usize::MAX),
            ..defaults.limits
        },
        connect_timeout: limits.handshake_timeout.0,
        subscriptions_max: settings.subscriptions_max as usize,
        encodings: ENCODINGS,
        ..defaults
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970; 0 for a clock that stands before that.
fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
}
