//! What a verified token allows.

use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::pattern::{Pattern, encode};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Declare and delete.
    Configure,
    /// Publish, and bind to.
    Write,
    /// Consume, and bind from.
    Read,
}

/// Who a client is and what it may do.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The user's name.
    pub user: String,
    /// Tags such as `administrator`, sorted.
    pub tags: Vec<String>,
    /// When all this ends: the claim `exp` and the configured leeway.
    pub expires_at: SystemTime,
    /// The scopes that concern this broker, without their prefix, sorted.
    pub scopes: Vec<String>,
    permissions: Vec<ScopePermission>,
}

#[derive(Debug, Clone)]
struct ScopePermission {
    permission: Permission,
    vhost: VhostPattern,
    name: VhostPattern,
    routing_key: Option<VhostPattern>,
}

/// A pattern that may speak of the virtual host in question.
#[derive(Debug, Clone)]
enum VhostPattern {
    Fixed(Pattern),
    /// With `{vhost}` in it.
    Template(String),
}

const VHOST: &str = "{vhost}";

impl VhostPattern {
    fn parse(text: &str) -> Option<Self> {
        if text.contains(VHOST) {
            Pattern::parse(text).map(|_| Self::Template(text.to_owned()))
        } else {
            Pattern::parse(text).map(Self::Fixed)
        }
    }

    /// Whether every text matches.
    fn matches_all(&self) -> bool {
        matches!(self, Self::Fixed(pattern) if pattern.matches_all())
    }

    fn matches(&self, subject: &str, vhost: &str) -> bool {
        match self {
            Self::Fixed(pattern) => pattern.matches(subject),
            Self::Template(text) => Pattern::parse(&text.replace(VHOST, &encode(vhost)))
                .is_some_and(|pattern| pattern.matches(subject)),
        }
    }
}

impl ScopePermission {
    /// Parses a scope without its prefix; `None` for anything that is no permission.
    fn parse(scope: &str) -> Option<Self> {
        let (permission, resource) = scope.split_once(':')?;
        let permission = match permission {
            "configure" => Permission::Configure,
            "write" => Permission::Write,
            "read" => Permission::Read,
            _ => return None,
        };
        let parts: Vec<&str> = resource.split('/').collect();
        let (vhost, name, routing_key) = match parts.as_slice() {
            [vhost, name] => (vhost, name, None),
            [vhost, name, routing_key] => (vhost, name, Some(VhostPattern::parse(routing_key)?)),
            _ => return None,
        };
        Some(Self {
            permission,
            vhost: VhostPattern::parse(vhost)?,
            name: VhostPattern::parse(name)?,
            routing_key,
        })
    }

    fn concerns(&self, permission: Permission, vhost: &str, name: &str) -> bool {
        self.permission == permission
            && self.vhost.matches(vhost, vhost)
            && self.name.matches(name, vhost)
    }
}

impl Grant {
    /// Makes a grant of `scopes` without prefix; `claims` fill in `{claim}`.
    pub(crate) fn new(
        user: String,
        expires_at: SystemTime,
        mut scopes: Vec<String>,
        claims: &Map<String, Value>,
    ) -> Self {
        scopes.sort_unstable();
        scopes.dedup();
        let mut tags: Vec<String> = scopes
            .iter()
            .filter_map(|scope| scope.strip_prefix("tag:"))
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect();
        tags.dedup();
        let permissions = scopes
            .iter()
            .filter_map(|scope| ScopePermission::parse(&fill_in(scope, claims)))
            .collect();
        Self { user, tags, expires_at, scopes, permissions }
    }

    /// Whether any permission concerns the virtual host.
    #[must_use]
    pub fn may_enter(&self, vhost: &str) -> bool {
        self.permissions.iter().any(|each| each.vhost.matches(vhost, vhost))
    }

    /// Whether the permission for the queue or exchange was granted.
    #[must_use]
    pub fn allows(&self, permission: Permission, vhost: &str, name: &str) -> bool {
        self.permissions.iter().any(|each| each.concerns(permission, vhost, name))
    }

    /// Whether the permission for the exchange and routing key was granted. A scope without a
    /// pattern for routing keys grants all of them.
    #[must_use]
    pub fn allows_topic(
        &self,
        permission: Permission,
        vhost: &str,
        exchange: &str,
        routing_key: &str,
    ) -> bool {
        self.permissions.iter().any(|each| {
            each.concerns(permission, vhost, exchange)
                && each
                    .routing_key
                    .as_ref()
                    .is_none_or(|pattern| pattern.matches(routing_key, vhost))
        })
    }

    /// Whether a single scope grants writing to everything in the virtual host, with any routing
    /// key.
    #[must_use]
    pub fn writes_everything(&self, vhost: &str) -> bool {
        self.permissions.iter().any(|each| {
            each.permission == Permission::Write
                && each.vhost.matches(vhost, vhost)
                && each.name.matches_all()
                && each.routing_key.as_ref().is_none_or(VhostPattern::matches_all)
        })
    }

    /// Whether the grant has ended.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now >= self.expires_at
    }
}

/// Replaces `{claim}` by the claim's text. It is encoded: wildcards and slashes in a claim are
/// text, so that nobody gains permissions by their name. `{vhost}` is left for later.
fn fill_in(scope: &str, claims: &Map<String, Value>) -> String {
    let mut filled = String::with_capacity(scope.len());
    let mut rest = scope;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            filled.push('{');
            rest = after;
            continue;
        };
        match claims.get(name).and_then(Value::as_str) {
            Some(value) if name != "vhost" => filled.push_str(&encode(value)),
            _ => {
                filled.push('{');
                filled.push_str(name);
                filled.push('}');
            }
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}
