//! What can go wrong. No message holds a token or a part of its payload's secrets.

use std::path::PathBuf;

/// Why a configuration cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Audiences are to be verified, but against what?
    #[error("resource_server_id is not set; set it, or switch verify_aud off")]
    NoResourceServer,
    /// The list of algorithms is empty.
    #[error("algorithms is empty: no token could be accepted")]
    NoAlgorithm,
    /// None or both sources are set.
    #[error("set one of jwks_file and jwks_url")]
    KeySource,
    /// Neither http nor https.
    #[error("jwks_url {0:?} must begin with https:// or http://")]
    Url(String),
    /// The keys or certificates cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// Why keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A CA file without a usable certificate.
    #[error("{0} holds no usable certificate")]
    NoCertificate(PathBuf),
    /// The server did not answer as it should.
    #[error("cannot fetch keys from {url}: {reason}")]
    Fetch {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
    /// The content is not a JWKS.
    #[error("{from} is not a JSON Web Key Set: {reason}")]
    NotKeys {
        /// File or address.
        from: String,
        /// Why.
        reason: String,
    },
    /// There is no key that verifies signatures.
    #[error("{0} holds no key for signatures")]
    Empty(String),
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The password is not a JWT, or its header makes no sense.
    #[error("the password is not a JSON Web Token with a known signature algorithm")]
    NotAToken,
    /// The algorithm is not on the list.
    #[error("signature algorithm {0:?} is not allowed")]
    Algorithm(jsonwebtoken::Algorithm),
    /// The header demands extensions (RFC 7515 section 4.1.11).
    #[error("the token's header has critical extensions, which are not supported")]
    Critical,
    /// No key has the id.
    #[error("no key has the id {0:?}")]
    UnknownKey(String),
    /// The token names no key, and none can be chosen without doubt.
    #[error("the token names no key, and there is no default")]
    NoKeyId,
    /// The key is for another algorithm.
    #[error("key {id:?} is not for algorithm {algorithm:?}")]
    KeyMismatch {
        /// The key.
        id: String,
        /// The token's algorithm.
        algorithm: jsonwebtoken::Algorithm,
    },
    /// No keys could be had so far.
    #[error("no keys to verify tokens with: {0}")]
    NoKeys(String),
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Signature,
    /// The payload is not a JSON object.
    #[error("the token's payload is not a JSON object")]
    Payload,
    /// A claim is missing.
    #[error("the claim {0:?} is missing")]
    Missing(&'static str),
    /// A claim has the wrong type or is out of range.
    #[error("the claim {0:?} is malformed")]
    Malformed(&'static str),
    /// The token has expired.
    #[error("the token expired at {0} (seconds since 1970)")]
    Expired(u64),
    /// The token is not valid yet.
    #[error("the token is not valid before {0} (seconds since 1970)")]
    NotYet(u64),
    /// Another issuer made the token.
    #[error("the issuer is not {0:?}")]
    Issuer(String),
    /// The token is for somebody else.
    #[error("the audience does not name {0:?}")]
    Audience(String),
    /// None of the claims has the user's name.
    #[error("none of the claims {0} has the user's name")]
    NoUser(String),
    /// The token has too many scopes.
    #[error("the token has more than {0} scopes")]
    TooManyScopes(usize),
}
