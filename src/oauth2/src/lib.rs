//! Verification of OAuth 2.0 and OpenID Connect access tokens (JWT, RFC 7519).
//!
//! A client presents the token as its password. [`Verifier::verify`] checks the signature with the
//! provider's published keys (JWKS, RFC 7517), checks issuer, audience and lifetime, and turns the
//! scopes into a [`Grant`]: who the client is and what it may do, until when.
//!
//! A scope is `<permission>:<vhost pattern>/<name pattern>[/<routing key pattern>]` or `tag:<tag>`,
//! after the scope prefix. Patterns are percent-encoded, with `*` for any text.

mod claims;
mod config;
mod error;
mod fetch;
mod grant;
mod keys;
mod pattern;
#[cfg(test)]
mod tests;
mod verifier;

pub use config::{Algorithm, Config, Scopes};
pub use error::{ConfigError, Error, KeysError};
pub use grant::{Grant, Permission};
pub use verifier::Verifier;
