//! `auth.backends`, `[auth.oauth2]` and `[auth.ldap]`: who is asked when somebody logs in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use isthmus_ldap::{Bind, Query, Secret, ServiceAccount};
use isthmus_oauth2::{Algorithm, Scopes};

use super::keys::nearest;
use super::structured::Structured;
use super::units::TimeSpan;
use super::value::{Setting, Value, read_word};

/// Who is asked when somebody logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The users that operators define in the broker.
    Internal,
    /// Access tokens.
    OAuth2,
    /// A directory.
    Ldap,
}

const BACKENDS: [(&str, Backend); 3] =
    [("internal", Backend::Internal), ("oauth2", Backend::OAuth2), ("ldap", Backend::Ldap)];

/// Those who are asked, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Backends(pub(crate) Vec<Backend>);

impl Default for Backends {
    fn default() -> Self {
        Self(vec![Backend::Internal])
    }
}

impl Setting for Backends {
    fn read(value: &Value) -> Result<Self, String> {
        let mut backends = Vec::new();
        for name in Vec::<String>::read(value)? {
            let Some((_, backend)) = BACKENDS.iter().find(|(known, _)| *known == name) else {
                let names = BACKENDS.iter().map(|(name, _)| *name);
                return Err(match nearest(&name, names) {
                    Some(nearest) => format!("unknown backend `{name}`; did you mean `{nearest}`?"),
                    None => {
                        format!("unknown backend `{name}`; there are internal, oauth2 and ldap")
                    }
                });
            };
            if backends.contains(backend) {
                return Err(format!("names `{name}` twice"));
            }
            backends.push(*backend);
        }
        if backends.is_empty() {
            return Err("must name a backend, or nobody could log in".to_owned());
        }
        Ok(Self(backends))
    }
}

/// What [`OAuth2::scope_prefix`] may contain.
const ID: &str = "{resource_server_id}";

/// `[auth.oauth2]`; texts and paths that are empty are not set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OAuth2 {
    /// The audience that tokens must name.
    pub(crate) resource_server_id: String,
    /// Whether they must.
    pub(crate) verify_aud: bool,
    /// The issuer that tokens must have.
    pub(crate) issuer: String,
    /// The provider's keys (JWKS) in a file.
    pub(crate) jwks_file: PathBuf,
    /// Where the provider publishes its keys.
    pub(crate) jwks_url: String,
    /// The authorities trusted there.
    pub(crate) ca_file: PathBuf,
    /// How long a request for keys may take.
    pub(crate) timeout: TimeSpan,
    /// After which time keys are asked for again.
    pub(crate) refresh_interval: TimeSpan,
    /// The least time between two requests.
    pub(crate) min_refresh_interval: TimeSpan,
    /// The key of tokens that name none.
    pub(crate) default_key: String,
    /// The accepted signature algorithms.
    pub(crate) algorithms: Algorithms,
    /// By how much clocks may differ.
    pub(crate) leeway: TimeSpan,
    /// Claims asked for the user's name before `sub` and `client_id`.
    pub(crate) preferred_username_claims: Vec<String>,
    /// Further claims with scopes.
    pub(crate) additional_scopes_key: String,
    /// What scopes begin with.
    pub(crate) scope_prefix: String,
    /// The scopes that a name of the provider's stands for.
    pub(crate) scope_aliases: Structured<BTreeMap<String, Scopes>>,
}

impl Default for OAuth2 {
    fn default() -> Self {
        let defaults = isthmus_oauth2::Config::default();
        Self {
            resource_server_id: String::new(),
            verify_aud: defaults.verify_aud,
            issuer: String::new(),
            jwks_file: PathBuf::new(),
            jwks_url: String::new(),
            ca_file: PathBuf::new(),
            timeout: TimeSpan::secs(5),
            refresh_interval: TimeSpan::secs(3600),
            min_refresh_interval: TimeSpan::secs(10),
            default_key: String::new(),
            algorithms: Algorithms(defaults.algorithms),
            leeway: TimeSpan::secs(0),
            preferred_username_claims: Vec::new(),
            additional_scopes_key: String::new(),
            scope_prefix: format!("{ID}."),
            scope_aliases: Structured(BTreeMap::new()),
        }
    }
}

impl OAuth2 {
    /// What the verifier is made with.
    pub(crate) fn config(&self) -> isthmus_oauth2::Config {
        isthmus_oauth2::Config {
            resource_server_id: text(&self.resource_server_id),
            verify_aud: self.verify_aud,
            issuer: text(&self.issuer),
            jwks_file: path(&self.jwks_file),
            jwks_url: text(&self.jwks_url),
            ca_file: path(&self.ca_file),
            timeout_ms: millis(self.timeout),
            refresh_seconds: self.refresh_interval.0.as_secs(),
            min_refresh_seconds: self.min_refresh_interval.0.as_secs(),
            default_key: text(&self.default_key),
            algorithms: self.algorithms.0.clone(),
            leeway_seconds: self.leeway.0.as_secs(),
            preferred_username_claims: self.preferred_username_claims.clone(),
            additional_scopes_key: text(&self.additional_scopes_key),
            scope_prefix: Some(self.scope_prefix.replace(ID, &self.resource_server_id)),
            scope_aliases: self.scope_aliases.0.clone(),
        }
    }

    /// What does not go together, with the key to blame.
    pub(super) fn check(&self) -> Option<(&'static str, String)> {
        use isthmus_oauth2::ConfigError;
        let error = self.config().validate().err()?;
        let key = match error {
            ConfigError::NoResourceServer => "auth.oauth2.resource_server_id",
            ConfigError::NoAlgorithm => "auth.oauth2.algorithms",
            ConfigError::Url(_) => "auth.oauth2.jwks_url",
            ConfigError::KeySource | ConfigError::Keys(_) => "auth.oauth2.jwks_file",
        };
        Some((key, error.to_string()))
    }
}

/// Signature algorithms.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Algorithms(pub(crate) Vec<Algorithm>);

impl Setting for Algorithms {
    fn read(value: &Value) -> Result<Self, String> {
        let names = Vec::<String>::read(value)?;
        let names = Value::List(names.into_iter().map(Value::Text).collect());
        Structured::read(&names).map(|algorithms| Self(algorithms.0))
    }
}

/// `[auth.ldap]`; texts and paths that are empty are not set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ldap {
    /// The servers, tried in this order.
    pub(crate) servers: Vec<String>,
    /// Whether connections turn to TLS before anything else.
    pub(crate) starttls: bool,
    /// The authorities trusted for servers.
    pub(crate) ca_file: PathBuf,
    /// How long a login or a search may take.
    pub(crate) timeout: TimeSpan,
    /// The distinguished name of a user.
    pub(crate) user_dn_pattern: String,
    /// The attribute by which users are searched for.
    pub(crate) dn_lookup_attribute: String,
    /// Below what they are searched for.
    pub(crate) dn_lookup_base: String,
    /// Who searches for them.
    pub(crate) dn_lookup_bind: BindAs,
    /// Who asks everything else.
    pub(crate) other_bind: BindAs,
    /// The broker's own account in the directory.
    pub(crate) account_dn: String,
    /// Its password.
    pub(crate) account_password: Password,
    /// Below what nested groups are searched for.
    pub(crate) group_lookup_base: String,
    /// Which tags a user has.
    pub(crate) tag_queries: Structured<BTreeMap<String, Query>>,
    /// Whether a user may enter a virtual host.
    pub(crate) vhost_access_query: Structured<Query>,
    /// Whether a user has a permission for a queue or an exchange.
    pub(crate) resource_access_query: Structured<Query>,
    /// Whether a user has a permission for an exchange and a routing key.
    pub(crate) topic_access_query: Structured<Query>,
    /// How long answers are remembered.
    pub(crate) cache: TimeSpan,
}

impl Default for Ldap {
    fn default() -> Self {
        let isthmus_ldap::Config {
            user_dn_pattern,
            vhost_access_query,
            resource_access_query,
            topic_access_query,
            ..
        } = isthmus_ldap::Config::default();
        Self {
            servers: Vec::new(),
            starttls: false,
            ca_file: PathBuf::new(),
            timeout: TimeSpan::secs(5),
            user_dn_pattern,
            dn_lookup_attribute: String::new(),
            dn_lookup_base: String::new(),
            dn_lookup_bind: BindAs::AsUser,
            other_bind: BindAs::AsUser,
            account_dn: String::new(),
            account_password: Password(Secret::new("")),
            group_lookup_base: String::new(),
            tag_queries: Structured(BTreeMap::new()),
            vhost_access_query: Structured(vhost_access_query),
            resource_access_query: Structured(resource_access_query),
            topic_access_query: Structured(topic_access_query),
            cache: TimeSpan::secs(30),
        }
    }
}

impl Ldap {
    /// What the directory is made with.
    pub(crate) fn config(&self) -> isthmus_ldap::Config {
        isthmus_ldap::Config {
            servers: self.servers.clone(),
            starttls: self.starttls,
            ca_file: path(&self.ca_file),
            timeout_ms: millis(self.timeout),
            user_dn_pattern: self.user_dn_pattern.clone(),
            dn_lookup_attribute: text(&self.dn_lookup_attribute),
            dn_lookup_base: text(&self.dn_lookup_base),
            dn_lookup_bind: self.bind(self.dn_lookup_bind),
            other_bind: self.bind(self.other_bind),
            group_lookup_base: text(&self.group_lookup_base),
            tag_queries: self.tag_queries.0.clone(),
            vhost_access_query: self.vhost_access_query.0.clone(),
            resource_access_query: self.resource_access_query.0.clone(),
            topic_access_query: self.topic_access_query.0.clone(),
            cache_seconds: self.cache.0.as_secs(),
        }
    }

    fn bind(&self, bind: BindAs) -> Bind {
        match bind {
            BindAs::AsUser => Bind::AsUser,
            BindAs::Anonymous => Bind::Anonymous,
            BindAs::Account => Bind::Account(ServiceAccount {
                dn: self.account_dn.clone(),
                password: self.account_password.0.clone(),
            }),
        }
    }

    /// What does not go together, with the key to blame.
    pub(super) fn check(&self) -> Option<(&'static str, String)> {
        use isthmus_ldap::ConfigError;
        let needs_account = [self.dn_lookup_bind, self.other_bind].contains(&BindAs::Account);
        if needs_account && self.account_dn.is_empty() {
            let message = "must be set, as a bind is \"account\"".to_owned();
            return Some(("auth.ldap.account_dn", message));
        }
        let error = self.config().validate().err()?;
        let key = match error {
            ConfigError::NoServer | ConfigError::Server(_) => "auth.ldap.servers",
            ConfigError::StartTls(_) => "auth.ldap.starttls",
            ConfigError::Lookup => "auth.ldap.dn_lookup_attribute",
            ConfigError::UserDnPattern => "auth.ldap.user_dn_pattern",
            ConfigError::GroupBase => "auth.ldap.group_lookup_base",
            ConfigError::EmptyPassword(_) => "auth.ldap.account_password",
            ConfigError::CaFile { .. } | ConfigError::Tls(_) => "auth.ldap.ca_file",
            ConfigError::Attribute(_) | ConfigError::Placeholder(_) | ConfigError::Regex { .. } => {
                "auth.ldap"
            }
        };
        Some((key, error.to_string()))
    }
}

/// Who asks the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindAs {
    /// The user in question.
    AsUser,
    /// Nobody.
    Anonymous,
    /// The broker's own account.
    Account,
}

impl FromStr for BindAs {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "as_user" => Ok(Self::AsUser),
            "anonymous" => Ok(Self::Anonymous),
            "account" => Ok(Self::Account),
            _ => Err(()),
        }
    }
}

impl Setting for BindAs {
    fn read(value: &Value) -> Result<Self, String> {
        read_word(value, "\"as_user\", \"anonymous\" or \"account\"")
    }
}

/// A password, which is not shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Password(pub(crate) Secret);

impl Setting for Password {
    fn read(value: &Value) -> Result<Self, String> {
        String::read(value).map(|text| Self(Secret::new(text)))
    }
}

fn text(text: &str) -> Option<String> {
    Some(text).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn path(path: &PathBuf) -> Option<PathBuf> {
    Some(path).filter(|path| !path.as_os_str().is_empty()).cloned()
}

fn millis(span: TimeSpan) -> u64 {
    u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)
}
