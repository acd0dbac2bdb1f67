//! The configuration: its sections and defaults, and loading it from all its sources.
//!
//! Sources overlay each other key by key: the defaults here, then the file, then the environment
//! (`ISTHMUS__LISTENERS__AMQP`), then the command line (`--set`, `--data-dir`). Loading is in
//! three steps: [`sources`] turns each source into key paths with their values and origins,
//! [`keys`] reads each value into its field and checks its range, and [`Config::check`] looks at
//! what concerns several keys. Every step reports all the problems it finds.

mod alarms;
mod backends;
mod cluster;
mod keys;
mod listen;
mod mqtt;
mod sources;
mod structured;
mod tls;
mod units;
mod value;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use isthmus_auth::CertificateName;
use tracing_subscriber::filter::{LevelFilter, Targets};

pub(crate) use alarms::{Alarms, MemoryLimit};
pub(crate) use backends::{Backend, Backends, Ldap, OAuth2};
pub(crate) use cluster::{Cluster, Nodes, PeerTls, StandbyClients};
pub(crate) use listen::{ListenAddr, ListenAddrs, Networks, ServerNames};
pub(crate) use mqtt::Mqtt;
pub(crate) use sources::{Origin, Problem, Sources};
pub(crate) use tls::{ClientAuth, Tls, TlsVersion};
pub(crate) use units::{ByteSize, TimeSpan};
use value::{Setting, Value, read_word};

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Config {
    /// Where the broker keeps everything it stores.
    pub(crate) data_dir: DataDirPath,
    /// `[listeners]`
    pub(crate) listeners: Listeners,
    /// `[tls]`
    pub(crate) tls: Tls,
    /// `[log]`
    pub(crate) log: Log,
    /// `[auth]`
    pub(crate) auth: Auth,
    /// `[definitions]`
    pub(crate) definitions: Definitions,
    /// `[limits]`
    pub(crate) limits: Limits,
    /// `[alarms]`
    pub(crate) alarms: Alarms,
    /// `[amqp]`
    pub(crate) amqp: Amqp,
    /// `[mqtt]`
    pub(crate) mqtt: Mqtt,
    /// `[stomp]`
    pub(crate) stomp: Stomp,
    /// `[websocket]`
    pub(crate) websocket: WebSocket,
    /// `[storage]`
    pub(crate) storage: Storage,
    /// `[shutdown]`
    pub(crate) shutdown: Shutdown,
    /// `[cluster]`
    pub(crate) cluster: Cluster,
}

/// The data directory; relative paths count from the working directory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DataDirPath(pub(crate) PathBuf);

impl Default for DataDirPath {
    fn default() -> Self {
        Self(PathBuf::from("data"))
    }
}

/// Addresses per listener. What this version does not serve has no field: it can only be off.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listeners {
    /// AMQP 0-9-1 in plain text.
    pub(crate) amqp: ListenAddrs,
    /// Health and metrics over HTTP in plain text.
    pub(crate) http: ListenAddrs,
    /// MQTT in plain text.
    pub(crate) mqtt: ListenAddrs,
    /// STOMP in plain text.
    pub(crate) stomp: ListenAddrs,
    /// Whichever protocol a client's first bytes tell, in plain text.
    pub(crate) any: ListenAddrs,
    /// AMQP 0-9-1 over TLS; opened if there is a certificate.
    pub(crate) amqps: ListenAddrs,
    /// Health and metrics over HTTPS; opened if there is a certificate.
    pub(crate) https: ListenAddrs,
    /// MQTT over TLS; opened if there is a certificate.
    pub(crate) mqtts: ListenAddrs,
    /// STOMP over TLS; opened if there is a certificate.
    pub(crate) stomps: ListenAddrs,
    /// As `any`, over TLS; opened if there is a certificate.
    pub(crate) anys: ListenAddrs,
    /// What clients of `anys` speak that ask for a host in the TLS handshake (SNI).
    pub(crate) server_names: ServerNames,
    /// Who says with a PROXY header whose connection he passes on, at every listener.
    pub(crate) proxy_protocol_from: Networks,
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            amqp: ListenAddrs::loopback(5672),
            http: ListenAddrs::loopback(15672),
            mqtt: ListenAddrs::loopback(1883),
            stomp: ListenAddrs::loopback(61613),
            any: ListenAddrs::loopback(61616),
            amqps: ListenAddrs::loopback(5671),
            https: ListenAddrs::loopback(15671),
            mqtts: ListenAddrs::loopback(8883),
            stomps: ListenAddrs::loopback(61614),
            anys: ListenAddrs::loopback(61617),
            server_names: ServerNames::default(),
            proxy_protocol_from: Networks::default(),
        }
    }
}

impl Listeners {
    /// The listeners in plain text by name.
    pub(crate) fn plain(&self) -> [(&'static str, &ListenAddrs); 5] {
        let Self { amqp, http, mqtt, stomp, any, .. } = self;
        [("amqp", amqp), ("http", http), ("mqtt", mqtt), ("stomp", stomp), ("any", any)]
    }

    /// Their twins with TLS.
    fn secure(&self) -> [(&'static str, &ListenAddrs); 5] {
        let Self { amqps, https, mqtts, stomps, anys, .. } = self;
        [("amqps", amqps), ("https", https), ("mqtts", mqtts), ("stomps", stomps), ("anys", anys)]
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Log {
    /// Which events are logged.
    pub(crate) level: LogLevel,
    /// The form of a log line.
    pub(crate) format: LogFormat,
}

/// A level (`info`), optionally followed by levels of single modules
/// (`info,isthmus_storage=debug`).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LogLevel(pub(crate) Targets);

impl Default for LogLevel {
    fn default() -> Self {
        Self(quiet_raft(Targets::new().with_default(LevelFilter::INFO)))
    }
}

impl FromStr for LogLevel {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        // `Targets` would read a misspelt level as the name of a module.
        let level = |word: &str| LEVELS.contains(&word);
        let well_formed = text.split(',').all(|part| match part.split_once('=') {
            Some((module, word)) => !module.is_empty() && level(word),
            None => level(part),
        });
        if !well_formed {
            return Err(());
        }
        let targets: Targets = text.parse().map_err(drop)?;
        let is_named = text.split(',').any(|part| part.starts_with(RAFT));
        Ok(Self(if is_named { targets } else { quiet_raft(targets) }))
    }
}

/// openraft's modules.
const RAFT: &str = "openraft";

/// Of openraft errors alone, unless it is named: what it informs of, many times a second while there
/// is no majority, is the state of its algorithm, and it warns whenever a peer does not answer. What
/// matters to operators the modules around it say.
fn quiet_raft(targets: Targets) -> Targets {
    let most = targets.default_level().unwrap_or(LevelFilter::OFF);
    targets.with_target(RAFT, most.min(LevelFilter::ERROR))
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people: time, level, message, `key=value` fields.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

/// Who may log in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Auth {
    /// Whether guest/guest, for this machine alone, is made when there are no users.
    pub(crate) guest: bool,
    /// What of a client's certificate names its user.
    pub(crate) certificate_user: CertificateUser,
    /// Who is asked when somebody logs in, in this order.
    pub(crate) backends: Backends,
    /// `[auth.oauth2]`
    pub(crate) oauth2: OAuth2,
    /// `[auth.ldap]`
    pub(crate) ldap: Ldap,
    /// Memory argon2id uses for a new password hash.
    pub(crate) argon2_memory_bytes: ByteSize,
    /// Passes argon2id makes over that memory.
    pub(crate) argon2_iterations: u32,
    /// Lanes argon2id divides that memory into.
    pub(crate) argon2_parallelism: u32,
    /// The longest password, in bytes; a longer one is refused before it is hashed.
    pub(crate) password_bytes_max: u32,
}

/// What of a client's certificate names its user.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CertificateUser(pub(crate) CertificateName);

impl FromStr for CertificateUser {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(Self(match text {
            "common_name" => CertificateName::CommonName,
            "distinguished_name" => CertificateName::DistinguishedName,
            "dns_name" => CertificateName::DnsName,
            "email" => CertificateName::Email,
            "uri" => CertificateName::Uri,
            _ => return Err(()),
        }))
    }
}

impl Setting for CertificateUser {
    fn read(value: &Value) -> Result<Self, String> {
        let words = "\"common_name\", \"distinguished_name\", \"dns_name\", \"email\" or \"uri\"";
        read_word(value, words)
    }
}

/// What is imported at the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Definitions {
    /// A file of definitions, as RabbitMQ exports them; empty for none.
    pub(crate) file: PathBuf,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            guest: true,
            certificate_user: CertificateUser::default(),
            backends: Backends::default(),
            oauth2: OAuth2::default(),
            ldap: Ldap::default(),
            // OWASP's recommendation for argon2id, about 20 ms on a server core.
            argon2_memory_bytes: ByteSize::mib(19),
            argon2_iterations: 2,
            argon2_parallelism: 1,
            password_bytes_max: 256,
        }
    }
}

/// Bounds on what clients may use.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Client connections open at once, all listeners together.
    pub(crate) connections_max: u32,
    /// Channels per connection.
    pub(crate) channels_max: u32,
    /// The largest frame.
    pub(crate) frame_bytes_max: ByteSize,
    /// The largest message body.
    pub(crate) message_bytes_max: ByteSize,
    /// Time from accepting a connection to the end of its authentication.
    pub(crate) handshake_timeout: TimeSpan,
    /// Published bytes of one connection that are read and not yet committed; beyond it the
    /// broker stops reading from the connection.
    pub(crate) connection_publish_bytes_max: ByteSize,
    /// Bytes waiting to be written to one connection; beyond it deliveries to it pause.
    pub(crate) outbox_bytes_max: ByteSize,
    /// Bytes of retained messages of one virtual host, about; beyond it a message that asks to be
    /// retained is refused.
    pub(crate) retained_bytes: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            channels_max: 2047,
            frame_bytes_max: ByteSize::kib(128),
            message_bytes_max: ByteSize::mib(128),
            handshake_timeout: TimeSpan::secs(10),
            connection_publish_bytes_max: ByteSize::mib(4),
            outbox_bytes_max: ByteSize::kib(96),
            retained_bytes: ByteSize::mib(256),
        }
    }
}

/// AMQP 0-9-1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Amqp {
    /// The heartbeat interval proposed to clients; 0s proposes none.
    pub(crate) heartbeat: TimeSpan,
    /// The virtual host that always exists.
    pub(crate) default_vhost: String,
}

impl Default for Amqp {
    fn default() -> Self {
        Self { heartbeat: TimeSpan::secs(60), default_vhost: "/".to_owned() }
    }
}

/// WebSockets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WebSocket {
    /// Where scripts may come from that speak to this node, as browsers name it; `*` for anywhere.
    pub(crate) origins: Vec<String>,
}

/// STOMP.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stomp {
    /// The virtual host of clients who name none; empty for that of AMQP.
    pub(crate) vhost: String,
    /// Whether the header `host` of a CONNECT names the virtual host.
    pub(crate) host_is_vhost: bool,
    /// The largest body of a message.
    pub(crate) body_bytes_max: ByteSize,
    /// Subscriptions per client.
    pub(crate) subscriptions_max: u32,
}

impl Default for Stomp {
    fn default() -> Self {
        Self {
            vhost: String::new(),
            host_is_vhost: true,
            body_bytes_max: ByteSize::mib(16),
            subscriptions_max: 10_000,
        }
    }
}

/// The log and its checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Storage {
    /// The size of a log segment.
    pub(crate) segment_bytes: ByteSize,
    /// Log written since the last checkpoint that makes the next one due.
    pub(crate) checkpoint_after_bytes: ByteSize,
    /// Memory for messages of durable queues that a page could hold, or does.
    pub(crate) body_cache_bytes: ByteSize,
    /// Bytes of page files that are verified in a second at the most; 0 turns it off.
    pub(crate) scrub_bytes_per_second: ByteSize,
    /// How long after a page file was written or verified it is verified again.
    pub(crate) scrub_interval: TimeSpan,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            segment_bytes: ByteSize::mib(64),
            checkpoint_after_bytes: ByteSize::mib(512),
            body_cache_bytes: ByteSize::mib(128),
            scrub_bytes_per_second: ByteSize::mib(32),
            scrub_interval: TimeSpan::secs(7 * 86_400),
        }
    }
}

/// How the broker stops.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shutdown {
    /// Seconds that connections get to close after a signal to stop.
    pub(crate) drain_s: u32,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_s: 10 }
    }
}

impl Config {
    /// Loads the configuration from its sources.
    ///
    /// # Errors
    ///
    /// Every problem found, in the order of the sources.
    pub(crate) fn load(sources: &Sources) -> Result<Self, Vec<Problem>> {
        let (entries, mut problems) = sources.read();
        let mut config = Self::default();
        for entry in &entries {
            if let Err(message) = keys::apply(&mut config, &entry.key, &entry.value) {
                problems.push(entry.problem(message));
            }
        }
        if problems.is_empty() {
            config.check(&entries, &mut problems);
        }
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// Checks what concerns more than one key.
    fn check(&self, entries: &[sources::Entry], problems: &mut Vec<Problem>) {
        let origin = |key: &str| {
            let entry = entries.iter().rfind(|entry| entry.key == key);
            entry.map_or(Origin::Default, |entry| entry.origin.clone())
        };
        let mut report = |key: &str, message: String| {
            problems.push(Problem { origin: origin(key), key: key.to_owned(), message });
        };
        let Storage { segment_bytes: segment, checkpoint_after_bytes: checkpoint, .. } =
            self.storage;
        if checkpoint < segment {
            // Blame the one that was set.
            let (key, message) = match origin("storage.checkpoint_after_bytes") {
                Origin::Default => (
                    "storage.segment_bytes",
                    format!("must be at most storage.checkpoint_after_bytes ({checkpoint})"),
                ),
                _ => (
                    "storage.checkpoint_after_bytes",
                    format!("must be at least storage.segment_bytes ({segment})"),
                ),
            };
            report(key, message);
        }
        for backend in &self.auth.backends.0 {
            let problem = match backend {
                Backend::Internal => None,
                Backend::OAuth2 => self.auth.oauth2.check(),
                Backend::Ldap => self.auth.ldap.check(),
            };
            if let Some((key, message)) = problem {
                report(key, message);
            }
        }
        for (key, message) in self.tls.check().into_iter().chain(self.cluster.check()) {
            report(key, message);
        }
        if !self.tls.is_on() {
            let defaults = Listeners::default();
            for ((name, addrs), (_, default)) in
                self.listeners.secure().into_iter().zip(defaults.secure())
            {
                if !addrs.0.is_empty() && addrs != default {
                    let message = "needs tls.certificate and tls.key, or \"off\"".to_owned();
                    report(&format!("listeners.{name}"), message);
                }
            }
        }
        let mut taken: Vec<(&str, &ListenAddr)> = Vec::new();
        for (name, addrs) in self.open_listeners() {
            for addr in addrs.0.iter().filter(|addr| addr.port != 0) {
                match taken.iter().find(|(_, other)| *other == addr) {
                    Some((other, _)) => report(
                        &format!("listeners.{name}"),
                        format!("{addr} is already used by listeners.{other}"),
                    ),
                    None => taken.push((name, addr)),
                }
            }
        }
        if self.open_listeners().all(|(_, addrs)| addrs.0.is_empty()) {
            report("listeners.amqp", "every listener is off; set at least one address".to_owned());
        }
    }

    /// The listeners that are opened, by name; those that are off have no address.
    fn open_listeners(&self) -> impl Iterator<Item = (&'static str, &ListenAddrs)> {
        let secure = self.listeners.secure().into_iter().filter(|_| self.tls.is_on());
        self.listeners.plain().into_iter().chain(secure)
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir.0
    }
}
