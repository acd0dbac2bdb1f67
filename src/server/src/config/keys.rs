//! The table of keys: the field each one sets, and the range it allows.
//!
//! A table, and not derived deserialization, because every source (file, environment, command
//! line) then goes through the same code, every problem is reported with its key instead of the
//! first alone, and the list of known keys is there to suggest from.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use super::listen::{ListenAddrs, NOT_SERVED};
use super::mqtt::topic_prefix;
use super::units::{ByteSize, TimeSpan};
use super::value::{Setting, Value, read_word};
use super::{Config, LogFormat, LogLevel};

type Apply = Box<dyn Fn(&mut Config, &Value) -> Result<(), String> + Send + Sync>;

/// A key of the configuration.
struct Key {
    /// Its path, sections separated by dots.
    path: String,
    /// Reads a value into the key's field.
    apply: Apply,
}

static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let mut keys = vec![
        checked("data_dir", |c| &mut c.data_dir.0, |path| not_empty(path)),
        plain("listeners.amqp", |c| &mut c.listeners.amqp),
        plain("listeners.http", |c| &mut c.listeners.http),
        plain("listeners.mqtt", |c| &mut c.listeners.mqtt),
        plain("listeners.stomp", |c| &mut c.listeners.stomp),
        plain("listeners.any", |c| &mut c.listeners.any),
        plain("listeners.amqps", |c| &mut c.listeners.amqps),
        plain("listeners.https", |c| &mut c.listeners.https),
        plain("listeners.mqtts", |c| &mut c.listeners.mqtts),
        plain("listeners.stomps", |c| &mut c.listeners.stomps),
        plain("listeners.anys", |c| &mut c.listeners.anys),
        plain("listeners.server_names", |c| &mut c.listeners.server_names),
        plain("listeners.proxy_protocol_from", |c| &mut c.listeners.proxy_protocol_from),
        plain("websocket.origins", |c| &mut c.websocket.origins),
        plain("tls.certificate", |c| &mut c.tls.certificate),
        plain("tls.key", |c| &mut c.tls.key),
        plain("tls.client_auth", |c| &mut c.tls.client_auth),
        plain("tls.client_ca", |c| &mut c.tls.client_ca),
        plain("tls.crls", |c| &mut c.tls.crls),
        plain("tls.min_version", |c| &mut c.tls.min_version),
        ranged(
            "tls.handshake_timeout",
            |c| &mut c.tls.handshake_timeout,
            TimeSpan(Duration::from_millis(100))..=TimeSpan::secs(60),
        ),
        plain("log.level", |c| &mut c.log.level),
        plain("log.format", |c| &mut c.log.format),
        plain("auth.guest", |c| &mut c.auth.guest),
        plain("auth.certificate_user", |c| &mut c.auth.certificate_user),
        ranged(
            "auth.argon2_memory_bytes",
            |c| &mut c.auth.argon2_memory_bytes,
            ByteSize::mib(8)..=ByteSize::mib(256),
        ),
        ranged("auth.argon2_iterations", |c| &mut c.auth.argon2_iterations, 1..=16),
        ranged("auth.argon2_parallelism", |c| &mut c.auth.argon2_parallelism, 1..=16),
        ranged("auth.password_bytes_max", |c| &mut c.auth.password_bytes_max, 8..=1024),
        plain("auth.backends", |c| &mut c.auth.backends),
        plain("definitions.file", |c| &mut c.definitions.file),
        ranged("limits.connections_max", |c| &mut c.limits.connections_max, 1..=1_000_000),
        ranged("limits.channels_max", |c| &mut c.limits.channels_max, 1..=65_535),
        ranged(
            "limits.frame_bytes_max",
            |c| &mut c.limits.frame_bytes_max,
            ByteSize::kib(4)..=ByteSize::mib(16),
        ),
        ranged(
            "limits.message_bytes_max",
            |c| &mut c.limits.message_bytes_max,
            ByteSize::kib(1)..=ByteSize::mib(512),
        ),
        ranged(
            "limits.handshake_timeout",
            |c| &mut c.limits.handshake_timeout,
            TimeSpan(Duration::from_millis(100))..=TimeSpan::secs(300),
        ),
        ranged(
            "limits.connection_publish_bytes_max",
            |c| &mut c.limits.connection_publish_bytes_max,
            ByteSize::kib(64)..=ByteSize::gib(1),
        ),
        ranged(
            "limits.outbox_bytes_max",
            |c| &mut c.limits.outbox_bytes_max,
            ByteSize::kib(16)..=ByteSize::mib(64),
        ),
        ranged(
            "limits.retained_bytes",
            |c| &mut c.limits.retained_bytes,
            ByteSize(0)..=ByteSize::gib(64),
        ),
        plain("alarms.memory", |c| &mut c.alarms.memory),
        ranged("alarms.disk_free", |c| &mut c.alarms.disk_free, ByteSize(0)..=ByteSize(1 << 60)),
        ranged(
            "alarms.check_interval",
            |c| &mut c.alarms.check_interval,
            TimeSpan(Duration::from_millis(10))..=TimeSpan(Duration::from_millis(500)),
        ),
        ranged(
            "amqp.heartbeat",
            |c| &mut c.amqp.heartbeat,
            TimeSpan::secs(0)..=TimeSpan::secs(65_535),
        ),
        checked("amqp.default_vhost", |c| &mut c.amqp.default_vhost, |name| vhost_name(name)),
        ranged(
            "storage.segment_bytes",
            |c| &mut c.storage.segment_bytes,
            ByteSize::mib(1)..=ByteSize::gib(1),
        ),
        ranged(
            "storage.checkpoint_after_bytes",
            |c| &mut c.storage.checkpoint_after_bytes,
            ByteSize::mib(1)..=ByteSize::gib(64),
        ),
        ranged(
            "storage.body_cache_bytes",
            |c| &mut c.storage.body_cache_bytes,
            ByteSize::mib(8)..=ByteSize::gib(64),
        ),
        checked(
            "storage.scrub_bytes_per_second",
            |c| &mut c.storage.scrub_bytes_per_second,
            |rate| scrub_rate(*rate),
        ),
        ranged(
            "storage.scrub_interval",
            |c| &mut c.storage.scrub_interval,
            TimeSpan::secs(60)..=TimeSpan::secs(365 * 86_400),
        ),
        ranged("shutdown.drain_s", |c| &mut c.shutdown.drain_s, 0..=3600),
    ];
    keys.extend(mqtt_keys());
    keys.extend(stomp_keys());
    keys.extend(cluster_keys());
    keys.extend(oauth2_keys());
    keys.extend(ldap_keys());
    keys.extend(NOT_SERVED.iter().map(|listener| {
        refused(
            &format!("listeners.{}", listener.name),
            |value| Ok(ListenAddrs::read(value)?.0.is_empty()),
            &format!(
                "{} is not served by this version; set it to \"off\" or remove it",
                listener.protocol
            ),
        )
    }));
    keys
});

fn mqtt_keys() -> Vec<Key> {
    vec![
        checked("mqtt.vhost", |c| &mut c.mqtt.vhost, |name| empty_or(name, vhost_name)),
        checked("mqtt.exchange", |c| &mut c.mqtt.exchange, |name| vhost_name(name)),
        ranged(
            "mqtt.packet_bytes_max",
            |c| &mut c.mqtt.packet_bytes_max,
            ByteSize::kib(1)..=ByteSize::mib(16),
        ),
        ranged(
            "mqtt.connect_bytes_max",
            |c| &mut c.mqtt.connect_bytes_max,
            ByteSize::kib(1)..=ByteSize::mib(1),
        ),
        ranged("mqtt.topic_alias_max", |c| &mut c.mqtt.topic_alias_max, 0..=65_535),
        ranged("mqtt.inflight_max", |c| &mut c.mqtt.inflight_max, 1..=65_535),
        ranged("mqtt.receive_max", |c| &mut c.mqtt.receive_max, 1..=65_535),
        ranged("mqtt.subscriptions_max", |c| &mut c.mqtt.subscriptions_max, 1..=1_000_000),
        checked("mqtt.keep_alive_max", |c| &mut c.mqtt.keep_alive_max, |span| keep_alive(*span)),
        plain("mqtt.session_expiry_max", |c| &mut c.mqtt.session_expiry_max),
        ranged("mqtt.queue_messages_max", |c| &mut c.mqtt.queue_messages_max, 1..=1_000_000_000),
        ranged(
            "mqtt.queue_bytes_max",
            |c| &mut c.mqtt.queue_bytes_max,
            ByteSize::kib(1)..=ByteSize::gib(1024),
        ),
        plain("mqtt.queue_overflow", |c| &mut c.mqtt.queue_overflow),
        ranged("mqtt.qos0_messages_max", |c| &mut c.mqtt.qos0_messages_max, 1..=10_000_000),
        ranged(
            "mqtt.qos0_bytes_max",
            |c| &mut c.mqtt.qos0_bytes_max,
            ByteSize::kib(1)..=ByteSize::gib(16),
        ),
        ranged(
            "mqtt.shared_expires",
            |c| &mut c.mqtt.shared_expires,
            TimeSpan::secs(1)..=TimeSpan::secs(365 * 86_400),
        ),
        checked(
            "mqtt.response_information",
            |c| &mut c.mqtt.response_information,
            |text| topic_prefix(text),
        ),
        plain("mqtt.sys_interval", |c| &mut c.mqtt.sys_interval),
        plain("mqtt.servers", |c| &mut c.mqtt.servers),
        plain("mqtt.tls_servers", |c| &mut c.mqtt.tls_servers),
    ]
}

fn stomp_keys() -> Vec<Key> {
    vec![
        checked("stomp.vhost", |c| &mut c.stomp.vhost, |name| empty_or(name, vhost_name)),
        plain("stomp.host_is_vhost", |c| &mut c.stomp.host_is_vhost),
        ranged(
            "stomp.body_bytes_max",
            |c| &mut c.stomp.body_bytes_max,
            ByteSize::kib(1)..=ByteSize::mib(16),
        ),
        ranged("stomp.subscriptions_max", |c| &mut c.stomp.subscriptions_max, 1..=1_000_000),
    ]
}

fn cluster_keys() -> Vec<Key> {
    vec![
        ranged("cluster.node", |c| &mut c.cluster.node, 0..=65_535),
        plain("cluster.nodes", |c| &mut c.cluster.nodes),
        plain("cluster.listen", |c| &mut c.cluster.listen),
        plain("cluster.tls", |c| &mut c.cluster.tls),
        plain("cluster.certificate", |c| &mut c.cluster.certificate),
        plain("cluster.key", |c| &mut c.cluster.key),
        plain("cluster.ca", |c| &mut c.cluster.ca),
        plain("cluster.token", |c| &mut c.cluster.token),
        ranged(
            "cluster.heartbeat",
            |c| &mut c.cluster.heartbeat,
            TimeSpan(Duration::from_millis(10))..=TimeSpan::secs(10),
        ),
        ranged(
            "cluster.election_timeout",
            |c| &mut c.cluster.election_timeout,
            TimeSpan(Duration::from_millis(100))..=TimeSpan::secs(60),
        ),
        ranged("cluster.hold", |c| &mut c.cluster.hold, TimeSpan::secs(0)..=TimeSpan::secs(60)),
        plain("cluster.standby_clients", |c| &mut c.cluster.standby_clients),
        ranged(
            "cluster.log_kept_bytes",
            |c| &mut c.cluster.log_kept_bytes,
            ByteSize::mib(1)..=ByteSize::gib(64),
        ),
    ]
}

fn oauth2_keys() -> Vec<Key> {
    vec![
        plain("auth.oauth2.resource_server_id", |c| &mut c.auth.oauth2.resource_server_id),
        plain("auth.oauth2.verify_aud", |c| &mut c.auth.oauth2.verify_aud),
        plain("auth.oauth2.issuer", |c| &mut c.auth.oauth2.issuer),
        plain("auth.oauth2.jwks_file", |c| &mut c.auth.oauth2.jwks_file),
        plain("auth.oauth2.jwks_url", |c| &mut c.auth.oauth2.jwks_url),
        plain("auth.oauth2.ca_file", |c| &mut c.auth.oauth2.ca_file),
        ranged("auth.oauth2.timeout", |c| &mut c.auth.oauth2.timeout, ASKING),
        ranged(
            "auth.oauth2.refresh_interval",
            |c| &mut c.auth.oauth2.refresh_interval,
            TimeSpan::secs(1)..=TimeSpan::secs(7 * 86_400),
        ),
        ranged(
            "auth.oauth2.min_refresh_interval",
            |c| &mut c.auth.oauth2.min_refresh_interval,
            TimeSpan::secs(1)..=TimeSpan::secs(3600),
        ),
        plain("auth.oauth2.default_key", |c| &mut c.auth.oauth2.default_key),
        plain("auth.oauth2.algorithms", |c| &mut c.auth.oauth2.algorithms),
        ranged(
            "auth.oauth2.leeway",
            |c| &mut c.auth.oauth2.leeway,
            TimeSpan::secs(0)..=TimeSpan::secs(600),
        ),
        plain("auth.oauth2.preferred_username_claims", |c| {
            &mut c.auth.oauth2.preferred_username_claims
        }),
        plain("auth.oauth2.additional_scopes_key", |c| &mut c.auth.oauth2.additional_scopes_key),
        plain("auth.oauth2.scope_prefix", |c| &mut c.auth.oauth2.scope_prefix),
        plain("auth.oauth2.scope_aliases", |c| &mut c.auth.oauth2.scope_aliases),
    ]
}

fn ldap_keys() -> Vec<Key> {
    vec![
        plain("auth.ldap.servers", |c| &mut c.auth.ldap.servers),
        plain("auth.ldap.starttls", |c| &mut c.auth.ldap.starttls),
        plain("auth.ldap.ca_file", |c| &mut c.auth.ldap.ca_file),
        ranged("auth.ldap.timeout", |c| &mut c.auth.ldap.timeout, ASKING),
        plain("auth.ldap.user_dn_pattern", |c| &mut c.auth.ldap.user_dn_pattern),
        plain("auth.ldap.dn_lookup_attribute", |c| &mut c.auth.ldap.dn_lookup_attribute),
        plain("auth.ldap.dn_lookup_base", |c| &mut c.auth.ldap.dn_lookup_base),
        plain("auth.ldap.dn_lookup_bind", |c| &mut c.auth.ldap.dn_lookup_bind),
        plain("auth.ldap.other_bind", |c| &mut c.auth.ldap.other_bind),
        plain("auth.ldap.account_dn", |c| &mut c.auth.ldap.account_dn),
        plain("auth.ldap.account_password", |c| &mut c.auth.ldap.account_password),
        plain("auth.ldap.group_lookup_base", |c| &mut c.auth.ldap.group_lookup_base),
        plain("auth.ldap.tag_queries", |c| &mut c.auth.ldap.tag_queries),
        plain("auth.ldap.vhost_access_query", |c| &mut c.auth.ldap.vhost_access_query),
        plain("auth.ldap.resource_access_query", |c| &mut c.auth.ldap.resource_access_query),
        plain("auth.ldap.topic_access_query", |c| &mut c.auth.ldap.topic_access_query),
        ranged(
            "auth.ldap.cache",
            |c| &mut c.auth.ldap.cache,
            TimeSpan::secs(0)..=TimeSpan::secs(86_400),
        ),
    ]
}

/// How long somebody else may take to answer.
const ASKING: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_millis(100))..=TimeSpan(Duration::from_secs(60));

/// Reads `value` into the field of the key at `path`.
///
/// # Errors
///
/// What is wrong with the value or, for an unknown key, the nearest known one; without the key.
pub(super) fn apply(config: &mut Config, path: &str, value: &Value) -> Result<(), String> {
    match KEYS.iter().find(|key| key.path == path) {
        Some(key) => (key.apply)(config, value),
        None => Err(unknown(path, "key", paths())),
    }
}

/// Whether `path` is a key.
pub(super) fn is_key(path: &str) -> bool {
    paths().any(|known| known == path)
}

/// Whether `path` is a section.
pub(super) fn is_section(path: &str) -> bool {
    sections().any(|known| known == path)
}

/// The message for an unknown section, with the nearest known one.
pub(super) fn unknown_section(path: &str) -> String {
    unknown(path, "section", sections())
}

/// Every key.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.path.as_str())
}

fn sections() -> impl Iterator<Item = &'static str> {
    paths().filter_map(|path| path.rsplit_once('.').map(|(section, _)| section))
}

fn unknown(path: &str, what: &str, known: impl Iterator<Item = &'static str>) -> String {
    match nearest(path, known) {
        Some(nearest) => format!("unknown {what}; did you mean `{nearest}`?"),
        None => format!("unknown {what}; remove it"),
    }
}

/// The known name most like `path`, if any is like it: one that ends in the same word (the key
/// stands in the wrong section), or one few letters away.
pub(super) fn nearest(
    path: &str,
    known: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    let last = |path: &str| path.rsplit('.').next().map(str::to_owned);
    known
        .map(|name| {
            let same_word = last(name) == last(path);
            (if same_word { 0 } else { strsim::damerau_levenshtein(name, path) }, name)
        })
        .min()
        .filter(|(distance, _)| *distance <= (path.len() / 3).max(1))
        .map(|(_, name)| name)
}

/// A key of any value its type allows.
fn plain<T: Setting + 'static>(path: &str, field: fn(&mut Config) -> &mut T) -> Key {
    checked(path, field, |_| Ok(()))
}

/// A key whose value must lie in a range.
fn ranged<T>(path: &str, field: fn(&mut Config) -> &mut T, range: RangeInclusive<T>) -> Key
where
    T: Setting + PartialOrd + Display + Send + Sync + 'static,
{
    checked(path, field, move |value| {
        if range.contains(value) {
            Ok(())
        } else {
            Err(format!("must be from {} to {}, not {value}", range.start(), range.end()))
        }
    })
}

/// A key whose value must pass a check.
fn checked<T: Setting + 'static>(
    path: &str,
    field: fn(&mut Config) -> &mut T,
    check: impl Fn(&T) -> Result<(), String> + Send + Sync + 'static,
) -> Key {
    let apply = move |config: &mut Config, value: &Value| {
        let value = T::read(value)?;
        check(&value)?;
        *field(config) = value;
        Ok(())
    };
    Key { path: path.to_owned(), apply: Box::new(apply) }
}

/// A keep alive is told in whole seconds of 16 bits.
fn keep_alive(span: TimeSpan) -> Result<(), String> {
    let (secs, max) = (span.0.as_secs(), u64::from(u16::MAX));
    if span.0 == Duration::from_secs(secs) && secs <= max {
        Ok(())
    } else {
        Err(format!("must be whole seconds from 0s to {max}s, not {span}"))
    }
}

/// A key that is known and must stay empty in this version; `reason` says why.
fn refused(path: &str, is_empty: fn(&Value) -> Result<bool, String>, reason: &str) -> Key {
    let reason = reason.to_owned();
    let apply = move |_: &mut Config, value: &Value| {
        if is_empty(value)? { Ok(()) } else { Err(reason.clone()) }
    };
    Key { path: path.to_owned(), apply: Box::new(apply) }
}

fn not_empty(path: &Path) -> Result<(), String> {
    if path.as_os_str().is_empty() { Err("must not be empty".to_owned()) } else { Ok(()) }
}

fn scrub_rate(rate: ByteSize) -> Result<(), String> {
    // Slower than that, a backlog that is worth scrubbing is hardly ever gone through.
    let (least, most) = (ByteSize::mib(1), ByteSize::gib(64));
    if rate.0 == 0 || (least..=most).contains(&rate) {
        Ok(())
    } else {
        Err(format!("must be 0, which turns it off, or from {least} to {most}, not {rate}"))
    }
}

fn empty_or(text: &str, check: fn(&str) -> Result<(), String>) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { check(text) }
}

fn vhost_name(name: &str) -> Result<(), String> {
    // AMQP carries it as a short string.
    if (1..=255).contains(&name.len()) && !name.contains(char::is_control) {
        Ok(())
    } else {
        Err("must be 1 to 255 bytes without control characters".to_owned())
    }
}

impl Setting for LogLevel {
    fn read(value: &Value) -> Result<Self, String> {
        let words = "off, error, warn, info, debug or trace, \
                     alone or with levels of modules like \"info,isthmus_storage=debug\"";
        read_word(value, words)
    }
}

impl Setting for LogFormat {
    fn read(value: &Value) -> Result<Self, String> {
        read_word(value, "\"text\" or \"json\"")
    }
}
