//! From a token to a grant.

use std::sync::Arc;
use std::time::SystemTime;

use jsonwebtoken::{Header, Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::claims;
use crate::config::Config;
use crate::error::{ConfigError, Error};
use crate::grant::Grant;
use crate::keys::{KeySet, Keys};

/// No provider makes larger ones, and AMQP frames hold few of them.
const MAX_TOKEN_BYTES: usize = 128 * 1024;

/// Verifies tokens. Cheap to share behind an `Arc`.
pub struct Verifier {
    config: Config,
    keys: Arc<Keys>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Makes a verifier. Reads a JWKS file and the CA file, and blocks for that; an address is
    /// asked with the first token.
    ///
    /// # Errors
    /// Contradictory settings, and files that cannot be read.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let keys = Arc::new(Keys::new(&config)?);
        Ok(Self { config, keys })
    }

    /// Verifies a token. May ask the key server, if the token's key is unknown and the server was
    /// not asked just now; runs on Tokio.
    ///
    /// # Errors
    /// Why the token is refused. The messages are for logs, not for the client, and hold no part
    /// of the token but its algorithm and key id.
    pub async fn verify(&self, token: &str) -> Result<Grant, Error> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Error::NotAToken);
        }
        let header = decode_header(token).map_err(|_| Error::NotAToken)?;
        if !self.config.algorithms.iter().any(|&each| header.alg == each.into()) {
            return Err(Error::Algorithm(header.alg));
        }
        if header.crit.is_some() {
            return Err(Error::Critical);
        }
        let keys = self.keys.get().await?;
        let claims = match self.signed(token, &header, &keys) {
            Err(Error::UnknownKey(_) | Error::NoKeyId) => {
                let keys = self.keys.renewed().await?;
                self.signed(token, &header, &keys)?
            }
            other => other?,
        };
        claims::grant(&self.config, &claims, SystemTime::now())
    }

    /// The payload, if the signature is right.
    fn signed(
        &self,
        token: &str,
        header: &Header,
        keys: &KeySet,
    ) -> Result<Map<String, Value>, Error> {
        let id = header.kid.as_deref().or(self.config.default_key.as_deref());
        let key = keys.find(id, header.alg)?;
        // The signature alone: claims are checked afterwards, with precise errors.
        let mut validation = Validation::new(header.alg);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        decode::<Map<String, Value>>(token, key, &validation).map(|data| data.claims).map_err(
            |error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::Json(_)
                | jsonwebtoken::errors::ErrorKind::Utf8(_) => Error::Payload,
                _ => Error::Signature,
            },
        )
    }
}
