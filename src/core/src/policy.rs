//! Policies: options of queues and exchanges, for those whose names match a pattern.
//!
//! A policy is a setting ([`SettingKind::Policy`], [`SettingKind::OperatorPolicy`]), a table of:
//!
//! | field | type | |
//! |---|---|---|
//! | `pattern` | text | a regular expression, found anywhere in the name unless it is anchored |
//! | `apply-to` | text | `all` (if not given), `queues`, `classic_queues`, `quorum_queues`, `streams` or `exchanges` |
//! | `priority` | integer | 0 if not given |
//! | `definition` | table | what holds for those that match |
//!
//! One policy applies to an object, the one of the highest priority and of these the first by
//! name; and beside it one operator policy, picked in the same way. Of two numbers the smaller
//! holds: of a policy's and the operator policy's, and of theirs and the declaration's. For the
//! rest the declaration comes before the policy.
//! These are RabbitMQ's rules (<https://www.rabbitmq.com/docs/policies>).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use isthmus_model::{Overflow, QueueDef, QueueOptions, SettingKey, SettingKind, Table, Value};
use regex::{Regex, RegexBuilder};
use thiserror::Error;

use crate::Settings;

/// What a compiled pattern may take, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// The largest number of milliseconds that a policy may say, as a declaration may.
const MS_MAX: u64 = u32::MAX as u64;

/// Keys that say how RabbitMQ replicates and lays out queues, or what its streams do: accepted,
/// so that definitions can be taken along, and without effect.
const WITHOUT_EFFECT: [&str; 19] = [
    "dead-letter-strategy",
    "ha-mode",
    "ha-params",
    "ha-promote-on-failure",
    "ha-promote-on-shutdown",
    "ha-sync-batch-size",
    "ha-sync-mode",
    "initial-cluster-size",
    "max-age",
    "max-in-memory-bytes",
    "max-in-memory-length",
    "max-segment-size",
    "queue-leader-locator",
    "queue-master-locator",
    "queue-mode",
    "queue-version",
    "stream-filter-size-bytes",
    "stream-max-segment-size-bytes",
    "target-group-size",
];

/// Keys that would change what queues and exchanges do, in ways that none here does.
const NOT_IMPLEMENTED: [&str; 4] =
    ["consumer-timeout", "federation-upstream", "federation-upstream-set", "shards-per-node"];

/// Keys with an effect that an operator policy may have.
const OF_OPERATORS: [&str; 5] =
    ["delivery-limit", "expires", "max-length", "max-length-bytes", "message-ttl"];

/// Why a policy was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The policy has a field that policies do not have.
    #[error("a policy has no field '{0}'")]
    UnknownField(String),
    /// A field is missing.
    #[error("a policy needs '{0}'")]
    Missing(&'static str),
    /// A field or a key of the definition has a value that makes no sense.
    #[error("'{key}' must be {expected}")]
    Invalid {
        /// Which.
        key: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The definition has keys that are not known.
    #[error("'{0}' is not a recognised policy setting")]
    UnknownKey(String),
    /// The definition has keys that may only be in policies of the other kind.
    #[error("'{0}' cannot be set by an operator policy")]
    NotForOperators(String),
    /// The definition asks for something that does not exist here.
    #[error("'{0}' is not implemented")]
    NotImplemented(String),
    /// A key comes twice.
    #[error("'{0}' is given more than once")]
    Repeated(String),
    /// The pattern is not a regular expression, or too large a one.
    #[error("pattern: {0}")]
    Pattern(#[from] regex::Error),
}

/// What a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyTo {
    /// Queues and exchanges.
    All,
    /// Queues.
    Queues,
    /// Queues that were not declared as another type.
    ClassicQueues,
    /// Queues declared with `x-queue-type: quorum`.
    QuorumQueues,
    /// Queues declared with `x-queue-type: stream`.
    Streams,
    /// Exchanges.
    Exchanges,
}

impl ApplyTo {
    fn from_name(name: &str) -> Option<ApplyTo> {
        Some(match name {
            "all" => ApplyTo::All,
            "queues" => ApplyTo::Queues,
            "classic_queues" => ApplyTo::ClassicQueues,
            "quorum_queues" => ApplyTo::QuorumQueues,
            "streams" => ApplyTo::Streams,
            "exchanges" => ApplyTo::Exchanges,
            _ => return None,
        })
    }

    fn includes_exchanges(self) -> bool {
        matches!(self, ApplyTo::All | ApplyTo::Exchanges)
    }

    fn includes_queue(self, def: &QueueDef) -> bool {
        let kind = || def.arguments.get("x-queue-type").and_then(Value::as_str);
        match self {
            ApplyTo::All | ApplyTo::Queues => true,
            ApplyTo::Exchanges => false,
            ApplyTo::ClassicQueues => kind().is_none_or(|kind| kind == "classic"),
            ApplyTo::QuorumQueues => kind() == Some("quorum"),
            ApplyTo::Streams => kind() == Some("stream"),
        }
    }
}

/// What holds for the queues and exchanges that a policy applies to; `None` for what it says
/// nothing of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// `message-ttl`, in milliseconds.
    pub message_ttl_ms: Option<u64>,
    /// `expires`, in milliseconds.
    pub expires_ms: Option<u64>,
    /// `max-length`.
    pub length_max: Option<u64>,
    /// `max-length-bytes`.
    pub bytes_max: Option<u64>,
    /// `delivery-limit`.
    pub delivery_limit: Option<u64>,
    /// `overflow`.
    pub overflow: Option<Overflow>,
    /// `dead-letter-exchange`.
    pub dead_letter_exchange: Option<Arc<str>>,
    /// `dead-letter-routing-key`.
    pub dead_letter_routing_key: Option<Arc<str>>,
    /// `alternate-exchange`.
    pub alternate_exchange: Option<Arc<str>>,
}

/// A policy that was found to make sense.
#[derive(Clone, Debug)]
pub struct Policy {
    pattern: Regex,
    apply_to: ApplyTo,
    priority: i64,
    definition: Definition,
    without_effect: Vec<Arc<str>>,
}

impl Policy {
    /// Reads a policy, or an operator policy if `kind` says so.
    ///
    /// # Errors
    /// If it does not make sense, or asks for what does not exist here.
    pub fn parse(kind: SettingKind, table: &Table) -> Result<Policy, PolicyError> {
        once_each(table)?;
        if let Some((name, _)) = table.0.iter().find(|(name, _)| {
            !["pattern", "apply-to", "priority", "definition"].contains(&name.as_str())
        }) {
            return Err(PolicyError::UnknownField(name.clone()));
        }
        let pattern = table.get("pattern").ok_or(PolicyError::Missing("pattern"))?;
        let pattern = pattern.as_str().ok_or_else(|| invalid("pattern", "text"))?;
        let apply_to = match table.get("apply-to") {
            None => ApplyTo::All,
            Some(value) => value.as_str().and_then(ApplyTo::from_name).ok_or_else(|| {
                invalid(
                    "apply-to",
                    "one of all, queues, classic_queues, quorum_queues, streams and exchanges",
                )
            })?,
        };
        let priority = match table.get("priority") {
            None => 0,
            Some(value) => value.as_i64().ok_or_else(|| invalid("priority", "an integer"))?,
        };
        let definition = match table.get("definition") {
            None => return Err(PolicyError::Missing("definition")),
            Some(Value::Map(definition)) if !definition.is_empty() => definition,
            Some(_) => return Err(invalid("definition", "a table of one setting at least")),
        };
        let mut policy = Policy {
            pattern: RegexBuilder::new(pattern)
                .size_limit(PATTERN_BYTES_MAX)
                .dfa_size_limit(PATTERN_BYTES_MAX)
                .build()?,
            apply_to,
            priority,
            definition: Definition::default(),
            without_effect: Vec::new(),
        };
        policy.read_definition(kind, definition)?;
        Ok(policy)
    }

    fn read_definition(&mut self, kind: SettingKind, table: &Table) -> Result<(), PolicyError> {
        once_each(table)?;
        let d = &mut self.definition;
        for (key, value) in &table.0 {
            let key = key.as_str();
            match key {
                "message-ttl" => d.message_ttl_ms = Some(number(key, value, 0, MS_MAX)?),
                "expires" => d.expires_ms = Some(number(key, value, 1, MS_MAX)?),
                "max-length" => d.length_max = Some(number(key, value, 0, u64::MAX)?),
                "max-length-bytes" => d.bytes_max = Some(number(key, value, 0, u64::MAX)?),
                "delivery-limit" => d.delivery_limit = Some(number(key, value, 0, u64::MAX)?),
                "overflow" => d.overflow = Some(overflow(key, value)?),
                "dead-letter-exchange" => d.dead_letter_exchange = Some(text(key, value)?),
                "dead-letter-routing-key" => d.dead_letter_routing_key = Some(text(key, value)?),
                "alternate-exchange" => d.alternate_exchange = Some(text(key, value)?),
                _ if WITHOUT_EFFECT.contains(&key) => {
                    self.without_effect.push(key.into());
                    continue;
                }
                _ if NOT_IMPLEMENTED.contains(&key) => {
                    return Err(PolicyError::NotImplemented(key.to_owned()));
                }
                _ => return Err(PolicyError::UnknownKey(key.to_owned())),
            }
            if kind == SettingKind::OperatorPolicy && !OF_OPERATORS.contains(&key) {
                return Err(PolicyError::NotForOperators(key.to_owned()));
            }
        }
        Ok(())
    }

    /// What it applies to.
    pub fn apply_to(&self) -> ApplyTo {
        self.apply_to
    }

    /// The policy of the highest priority applies.
    pub fn priority(&self) -> i64 {
        self.priority
    }

    /// What holds for those that match.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Keys of the definition that are known and have no effect here.
    pub fn without_effect(&self) -> &[Arc<str>] {
        &self.without_effect
    }

    fn matches_queue(&self, def: &QueueDef) -> bool {
        self.apply_to.includes_queue(def) && self.pattern.is_match(&def.name)
    }

    fn matches_exchange(&self, name: &str) -> bool {
        self.apply_to.includes_exchanges() && self.pattern.is_match(name)
    }
}

fn invalid(key: &str, expected: &'static str) -> PolicyError {
    PolicyError::Invalid { key: key.to_owned(), expected }
}

/// Refuses a table in which a name comes twice: which of the values holds nobody could tell.
fn once_each(table: &Table) -> Result<(), PolicyError> {
    let mut names: Vec<&str> = table.0.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(PolicyError::Repeated(pair[0].to_owned())),
    }
}

fn number(key: &str, value: &Value, min: u64, max: u64) -> Result<u64, PolicyError> {
    let number = value.as_i64().and_then(|n| u64::try_from(n).ok());
    let expected = match (min, max) {
        (0, MS_MAX) => "a number of milliseconds from 0 to 4294967295",
        (_, MS_MAX) => "a number of milliseconds from 1 to 4294967295",
        _ => "an integer of 0 or more",
    };
    number.filter(|n| (min..=max).contains(n)).ok_or_else(|| invalid(key, expected))
}

fn text(key: &str, value: &Value) -> Result<Arc<str>, PolicyError> {
    value.as_str().map(Arc::from).ok_or_else(|| invalid(key, "text"))
}

fn overflow(key: &str, value: &Value) -> Result<Overflow, PolicyError> {
    match value.as_str() {
        Some("drop-head") => Ok(Overflow::DropHead),
        Some("reject-publish") => Ok(Overflow::RejectPublish),
        Some("reject-publish-dlx") => Ok(Overflow::RejectPublishDlx),
        _ => Err(invalid(key, "drop-head, reject-publish or reject-publish-dlx")),
    }
}

/// A policy by its name.
#[derive(Clone, Debug)]
pub struct NamedPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// The policy.
    pub policy: Policy,
}

impl NamedPolicy {
    /// Smaller comes first.
    fn rank(&self) -> (Reverse<i64>, &str) {
        (Reverse(self.policy.priority), &self.name)
    }
}

/// What applies to one queue or exchange.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    /// Its policy.
    pub policy: Option<Arc<NamedPolicy>>,
    /// Its operator policy.
    pub operator: Option<Arc<NamedPolicy>>,
}

impl Effective {
    /// The names of the policy and the operator policy.
    pub fn names(&self) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let name = |named: &Option<Arc<NamedPolicy>>| named.as_ref().map(|n| Arc::clone(&n.name));
        (name(&self.policy), name(&self.operator))
    }

    fn of(&self, kind: SettingKind) -> Option<&Arc<NamedPolicy>> {
        if kind == SettingKind::OperatorPolicy { &self.operator } else { &self.policy }.as_ref()
    }

    /// What holds for a queue that was declared as `def`.
    pub fn options(&self, def: &QueueDef) -> QueueOptions {
        let declared = &def.options;
        let of = |named: &'_ Option<Arc<NamedPolicy>>| {
            named.as_ref().map(|n| n.policy.definition.clone()).unwrap_or_default()
        };
        let (policy, operator) = (of(&self.policy), of(&self.operator));
        let least = |values: [Option<u64>; 3]| values.into_iter().flatten().min();
        // What is declared by default is not declared, except by other ways than an argument.
        let says_overflow =
            def.arguments.get("x-overflow").is_some() || declared.overflow != Overflow::default();
        QueueOptions {
            message_ttl_ms: least([
                declared.message_ttl_ms,
                policy.message_ttl_ms,
                operator.message_ttl_ms,
            ]),
            expires_ms: least([declared.expires_ms, policy.expires_ms, operator.expires_ms]),
            length_max: least([declared.length_max, policy.length_max, operator.length_max]),
            bytes_max: least([declared.bytes_max, policy.bytes_max, operator.bytes_max]),
            delivery_limit: least([
                declared.delivery_limit,
                policy.delivery_limit,
                operator.delivery_limit,
            ]),
            overflow: match policy.overflow {
                Some(overflow) if !says_overflow => overflow,
                _ => declared.overflow,
            },
            dead_letter_exchange: declared
                .dead_letter_exchange
                .clone()
                .or(policy.dead_letter_exchange),
            dead_letter_routing_key: declared
                .dead_letter_routing_key
                .clone()
                .or(policy.dead_letter_routing_key),
            priority_max: declared.priority_max,
            single_active_consumer: declared.single_active_consumer,
        }
    }

    /// Where messages go that follow no binding of an exchange that does not say so itself.
    pub fn alternate_exchange(&self) -> Option<&Arc<str>> {
        self.policy.as_ref().and_then(|n| n.policy.definition.alternate_exchange.as_ref())
    }
}

/// Every policy, by virtual host.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    vhosts: HashMap<Arc<str>, [Vec<Arc<NamedPolicy>>; 2]>,
}

impl Policies {
    /// The policies among the settings. Those that make no sense to this version are left out.
    pub fn of(settings: &Settings) -> Policies {
        let mut policies = Policies::default();
        for kind in [SettingKind::Policy, SettingKind::OperatorPolicy] {
            for (key, value) in settings.of_kind(kind) {
                policies.set(key, Some(value));
            }
        }
        policies
    }

    /// Whether the virtual host has none.
    pub fn is_empty(&self, vhost: &str) -> bool {
        !self.vhosts.contains_key(vhost)
    }

    /// Gives a policy a value or none. One that makes no sense counts as none.
    pub fn set(&mut self, key: &SettingKey, value: Option<&Arc<Table>>) -> Changed {
        let policy = value.and_then(|value| Policy::parse(key.kind, value).ok());
        let lists = self.vhosts.entry(Arc::clone(&key.vhost)).or_default();
        let list = &mut lists[usize::from(key.kind == SettingKind::OperatorPolicy)];
        let mut of_exchanges = false;
        list.retain(|other| {
            let same = other.name == key.name;
            of_exchanges |= same && other.policy.apply_to.includes_exchanges();
            !same
        });
        let named = policy.map(|policy| {
            let named = Arc::new(NamedPolicy { name: Arc::clone(&key.name), policy });
            of_exchanges |= named.policy.apply_to.includes_exchanges();
            let at = list.partition_point(|other| other.rank() < named.rank());
            list.insert(at, Arc::clone(&named));
            named
        });
        if lists.iter().all(Vec::is_empty) {
            self.vhosts.remove(&key.vhost);
        }
        Changed { key: key.clone(), now: named, of_exchanges }
    }

    /// Forgets the policies of a virtual host.
    pub fn forget_vhost(&mut self, vhost: &str) {
        self.vhosts.remove(vhost);
    }

    fn first(&self, vhost: &str, matches: impl Fn(&Policy) -> bool) -> Effective {
        let Some([policies, operator]) = self.vhosts.get(vhost) else {
            return Effective::default();
        };
        let first = |list: &[Arc<NamedPolicy>]| list.iter().find(|n| matches(&n.policy)).cloned();
        Effective { policy: first(policies), operator: first(operator) }
    }

    /// What applies to a queue.
    pub fn of_queue(&self, vhost: &str, def: &QueueDef) -> Effective {
        self.first(vhost, |policy| policy.matches_queue(def))
    }

    /// What applies to an exchange.
    pub fn of_exchange(&self, vhost: &str, name: &str) -> Effective {
        self.first(vhost, |policy| policy.matches_exchange(name))
    }
}

/// A policy that has changed.
#[derive(Clone, Debug)]
pub struct Changed {
    key: SettingKey,
    now: Option<Arc<NamedPolicy>>,
    /// Whether it applies to exchanges, or did.
    pub of_exchanges: bool,
}

impl Changed {
    /// Whether something else may apply now to a queue than what applied to it before. It asks the
    /// changed policy only, so that it is cheap however many others there are.
    pub fn may_concern(&self, def: &QueueDef, before: &Effective) -> bool {
        let current = before.of(self.key.kind);
        if current.is_some_and(|current| current.name == self.key.name) {
            return true;
        }
        let Some(now) = &self.now else { return false };
        current.is_none_or(|current| now.rank() < current.rank()) && now.policy.matches_queue(def)
    }
}
