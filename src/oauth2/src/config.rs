//! What an operator configures.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::ConfigError;

/// A signature algorithm of RFC 7518 or RFC 8037.
///
/// All are asymmetric: a shared secret would let every holder make tokens, and a broker that also
/// accepted HMAC could be fooled with its public key as the secret. `none` does not exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl From<Algorithm> for jsonwebtoken::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::RS256 => Self::RS256,
            Algorithm::RS384 => Self::RS384,
            Algorithm::RS512 => Self::RS512,
            Algorithm::PS256 => Self::PS256,
            Algorithm::PS384 => Self::PS384,
            Algorithm::PS512 => Self::PS512,
            Algorithm::ES256 => Self::ES256,
            Algorithm::ES384 => Self::ES384,
            Algorithm::EdDSA => Self::EdDSA,
        }
    }
}

/// How tokens are verified, and what their scopes mean.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What this broker is called in tokens: the audience they must name, and by default the
    /// prefix of their scopes.
    pub resource_server_id: Option<String>,
    /// Whether the claim `aud` must name the resource server. Without a `resource_server_id`,
    /// this must be switched off explicitly.
    pub verify_aud: bool,
    /// The value that the claim `iss` must have, where set.
    pub issuer: Option<String>,
    /// A file with the provider's keys (JWKS), read again when it changes.
    pub jwks_file: Option<PathBuf>,
    /// Where the provider publishes its keys, `https://…` or `http://…`.
    pub jwks_url: Option<String>,
    /// PEM certificates of the authorities trusted for `jwks_url`, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Milliseconds that one request for keys may take.
    pub timeout_ms: u64,
    /// Seconds after which keys from `jwks_url` are asked for again.
    pub refresh_seconds: u64,
    /// Seconds between two requests at the least, however many unknown key ids show up.
    pub min_refresh_seconds: u64,
    /// The id of the key for tokens that name none. Without it, such a token needs a key set with
    /// exactly one key of its algorithm.
    pub default_key: Option<String>,
    /// The accepted signature algorithms.
    pub algorithms: Vec<Algorithm>,
    /// Seconds by which clocks may differ, for `exp` and `nbf`.
    pub leeway_seconds: u64,
    /// Claims asked for the user's name, before `sub` and `client_id`.
    pub preferred_username_claims: Vec<String>,
    /// Further claims with scopes, separated by spaces; each a path such as
    /// `realm_access.roles`. The value may be a list, a string separated by spaces, or an object
    /// that holds either under the resource server's id.
    #[serde(alias = "extra_scopes_source")]
    pub additional_scopes_key: Option<String>,
    /// What scopes have to begin with; the resource server's id and a dot where not set.
    pub scope_prefix: Option<String>,
    /// The scopes, with their prefix, that a name used by the provider stands for.
    pub scope_aliases: BTreeMap<String, Scopes>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            resource_server_id: None,
            verify_aud: true,
            issuer: None,
            jwks_file: None,
            jwks_url: None,
            ca_file: None,
            timeout_ms: 5_000,
            refresh_seconds: 3_600,
            min_refresh_seconds: 10,
            default_key: None,
            algorithms: vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
                Algorithm::ES256,
                Algorithm::ES384,
                Algorithm::EdDSA,
            ],
            leeway_seconds: 0,
            preferred_username_claims: Vec::new(),
            additional_scopes_key: None,
            scope_prefix: None,
            scope_aliases: BTreeMap::new(),
        }
    }
}

/// Scopes in a configuration: a list, or one string separated by spaces.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "scopes are a string or a list of strings")]
pub enum Scopes {
    /// Separated by spaces.
    Text(String),
    /// One each.
    List(Vec<String>),
}

impl Scopes {
    pub(crate) fn each(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => text.split_whitespace().collect(),
            Self::List(list) => list.iter().map(String::as_str).collect(),
        }
    }
}

impl Config {
    /// What scopes begin with.
    pub(crate) fn prefix(&self) -> String {
        match (&self.scope_prefix, &self.resource_server_id) {
            (Some(prefix), _) => prefix.clone(),
            (None, Some(id)) => format!("{id}."),
            (None, None) => String::new(),
        }
    }

    /// Checks what goes together, without reading a file.
    ///
    /// # Errors
    /// What does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.verify_aud && self.resource_server_id.as_deref().is_none_or(str::is_empty) {
            return Err(ConfigError::NoResourceServer);
        }
        if self.algorithms.is_empty() {
            return Err(ConfigError::NoAlgorithm);
        }
        match (&self.jwks_file, &self.jwks_url) {
            (None, None) | (Some(_), Some(_)) => Err(ConfigError::KeySource),
            (None, Some(url)) if !(url.starts_with("https://") || url.starts_with("http://")) => {
                Err(ConfigError::Url(url.clone()))
            }
            _ => Ok(()),
        }
    }
}
