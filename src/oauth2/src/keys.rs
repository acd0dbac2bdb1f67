//! The provider's keys, kept up to date.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;

use crate::config::Config;
use crate::error::{Error, KeysError};
use crate::fetch::Fetcher;

/// Between two looks at a file.
const FILE_INTERVAL: Duration = Duration::from_secs(1);

/// One key for signatures.
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The keys known at one time.
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// Parses a JWKS. Keys of unknown kinds and keys for encryption are left out, as RFC 7517
    /// section 5 asks; so are symmetric ones.
    pub(crate) fn parse(json: &[u8], from: &str) -> Result<Self, KeysError> {
        #[derive(Deserialize)]
        struct Raw {
            keys: Vec<Value>,
        }
        let raw: Raw = serde_json::from_slice(json).map_err(|error| KeysError::NotKeys {
            from: from.to_owned(),
            // Its place says enough; the content may be anything.
            reason: format!("line {}, column {}", error.line(), error.column()),
        })?;
        let keys: Vec<Key> = raw.keys.into_iter().filter_map(key).collect();
        if keys.is_empty() {
            return Err(KeysError::Empty(from.to_owned()));
        }
        Ok(Self { keys })
    }

    /// The key for a token with this header.
    pub(crate) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<&DecodingKey, Error> {
        let mut fitting = self
            .keys
            .iter()
            .filter(|key| id.is_none() || key.id.as_deref() == id)
            .filter(|key| key.algorithms.contains(&algorithm));
        match (id, fitting.next(), fitting.next()) {
            (Some(_), Some(key), _) | (None, Some(key), None) => Ok(&key.key),
            (None, _, _) => Err(Error::NoKeyId),
            (Some(id), None, _) => {
                let shown = id.chars().take(64).collect();
                if self.keys.iter().any(|key| key.id.as_deref() == Some(id)) {
                    Err(Error::KeyMismatch { id: shown, algorithm })
                } else {
                    Err(Error::UnknownKey(shown))
                }
            }
        }
    }
}

fn key(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        _ => return None,
    };
    if let Some(only) = jwk.common.key_algorithm {
        let only = only.to_string();
        algorithms.retain(|each| format!("{each:?}") == only);
        if algorithms.is_empty() {
            return None;
        }
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: jwk.common.key_id, algorithms, key })
}

enum Source {
    File(PathBuf),
    Url(Arc<Fetcher>),
}

/// What tells a changed file.
type Stamp = (Option<SystemTime>, u64);

#[derive(Default)]
struct Attempt {
    at: Option<Instant>,
    stamp: Option<Stamp>,
}

/// The keys, and where they come from.
pub(crate) struct Keys {
    source: Source,
    current: RwLock<Current>,
    /// Held during an attempt, so that there is one at a time.
    attempt: tokio::sync::Mutex<Attempt>,
    min_interval: Duration,
    max_age: Duration,
}

#[derive(Default)]
struct Current {
    keys: Option<Arc<KeySet>>,
    /// When the keys were last known to be the provider's.
    at: Option<Instant>,
    last_error: Option<String>,
}

impl Keys {
    /// Reads a file at once; an address is asked when the first token arrives, since the provider
    /// may start later than the broker.
    pub(crate) fn new(config: &Config) -> Result<Self, KeysError> {
        let min_interval = Duration::from_secs(config.min_refresh_seconds);
        let mut attempt = Attempt::default();
        let mut current = Current::default();
        let (source, min_interval, max_age) = match (&config.jwks_file, &config.jwks_url) {
            (Some(path), _) => {
                let (stamp, keys) = read(path, None)?;
                attempt = Attempt { at: Some(Instant::now()), stamp: Some(stamp) };
                current.keys = keys.map(Arc::new);
                current.at = attempt.at;
                (Source::File(path.clone()), FILE_INTERVAL, FILE_INTERVAL)
            }
            (None, url) => {
                let timeout = Duration::from_millis(config.timeout_ms);
                let url = url.as_deref().unwrap_or_default();
                let fetcher = Fetcher::new(url, config.ca_file.as_deref(), timeout)?;
                let max_age = Duration::from_secs(config.refresh_seconds);
                (Source::Url(Arc::new(fetcher)), min_interval, max_age)
            }
        };
        Ok(Self {
            source,
            current: RwLock::new(current),
            attempt: tokio::sync::Mutex::new(attempt),
            min_interval,
            max_age,
        })
    }

    /// The keys to begin with. Old ones are renewed: files before they are used, addresses beside.
    pub(crate) async fn get(self: &Arc<Self>) -> Result<Arc<KeySet>, Error> {
        let (keys, is_old) = {
            let current = self.current.read();
            let is_old = current.at.is_none_or(|at| at.elapsed() >= self.max_age);
            (current.keys.clone(), is_old)
        };
        match keys {
            Some(keys) if !is_old => Ok(keys),
            Some(keys) if matches!(self.source, Source::Url(_)) => {
                let this = Arc::clone(self);
                tokio::spawn(async move { this.refresh().await });
                Ok(keys)
            }
            _ => {
                self.refresh().await;
                self.known()
            }
        }
    }

    /// The keys after another look at the source, for a token whose key is not among those known.
    pub(crate) async fn renewed(&self) -> Result<Arc<KeySet>, Error> {
        self.refresh().await;
        self.known()
    }

    fn known(&self) -> Result<Arc<KeySet>, Error> {
        let current = self.current.read();
        current.keys.clone().ok_or_else(|| {
            let reason = current.last_error.as_deref().unwrap_or("none were read yet");
            Error::NoKeys(reason.to_owned())
        })
    }

    /// Asks the source, unless it was asked just now. What is known stays if that fails.
    async fn refresh(&self) {
        let mut attempt = self.attempt.lock().await;
        if attempt.at.is_some_and(|at| at.elapsed() < self.min_interval) {
            return;
        }
        attempt.at = Some(Instant::now());
        let result = match &self.source {
            Source::File(path) => {
                let (path, stamp) = (path.clone(), attempt.stamp);
                tokio::task::spawn_blocking(move || read(&path, stamp)).await
            }
            Source::Url(fetcher) => {
                let fetcher = Arc::clone(fetcher);
                tokio::task::spawn_blocking(move || {
                    let keys = KeySet::parse(&fetcher.fetch()?, fetcher.url())?;
                    Ok(((None, 0), Some(keys)))
                })
                .await
            }
        };
        let mut current = self.current.write();
        match result {
            Ok(Ok((stamp, keys))) => {
                attempt.stamp = Some(stamp);
                current.at = attempt.at;
                current.last_error = None;
                if let Some(keys) = keys {
                    tracing::info!(keys = keys.keys.len(), "read the keys for access tokens");
                    current.keys = Some(Arc::new(keys));
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot renew the keys for access tokens");
                current.last_error = Some(error.to_string());
            }
            // The runtime is shutting down.
            Err(error) => current.last_error = Some(error.to_string()),
        }
    }
}

/// Reads a file unless it still has the `known` stamp.
fn read(path: &Path, known: Option<Stamp>) -> Result<(Stamp, Option<KeySet>), KeysError> {
    let failed = |source| KeysError::File { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let stamp = (metadata.modified().ok(), metadata.len());
    if known == Some(stamp) {
        return Ok((stamp, None));
    }
    let json = std::fs::read(path).map_err(failed)?;
    let keys = KeySet::parse(&json, &path.display().to_string())?;
    Ok((stamp, Some(keys)))
}
