//! What is read from a token's payload, once its signature has been verified.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::config::Config;
use crate::error::Error;
use crate::grant::Grant;

type Claims = Map<String, Value>;

const MAX_SCOPES: usize = 2048;
const DEFAULT_USERNAME_CLAIMS: [&str; 2] = ["sub", "client_id"];
/// Where Keycloak puts the permissions of a requesting party token.
const REQUESTING_PARTY: &str = "authorization.permissions.scopes";

/// Checks the claims and makes a grant of them.
pub(crate) fn grant(config: &Config, claims: &Claims, now: SystemTime) -> Result<Grant, Error> {
    let expires_at = lifetime(config, claims, now)?;
    if let Some(issuer) = &config.issuer {
        let actual = claims.get("iss").ok_or(Error::Missing("iss"))?;
        if actual.as_str() != Some(issuer) {
            return Err(Error::Issuer(issuer.clone()));
        }
    }
    if config.verify_aud {
        audience(config, claims)?;
    }
    let user = user(config, claims)?;
    let scopes = scopes(config, claims)?;
    Ok(Grant::new(user, expires_at, scopes, claims))
}

fn lifetime(config: &Config, claims: &Claims, now: SystemTime) -> Result<SystemTime, Error> {
    let leeway = Duration::from_secs(config.leeway_seconds);
    let after_epoch = |seconds: u64, name| {
        UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))
            .and_then(|at| at.checked_add(leeway))
            .ok_or(Error::Malformed(name))
    };
    let exp = seconds(claims, "exp")?.ok_or(Error::Missing("exp"))?;
    let expires_at = after_epoch(exp, "exp")?;
    if expires_at <= now {
        return Err(Error::Expired(exp));
    }
    if let Some(nbf) = seconds(claims, "nbf")? {
        let latest = now
            .checked_add(leeway)
            .and_then(|at| at.checked_add(leeway))
            .ok_or(Error::Malformed("nbf"))?;
        if after_epoch(nbf, "nbf")? > latest {
            return Err(Error::NotYet(nbf));
        }
    }
    Ok(expires_at)
}

/// A `NumericDate` (RFC 7519 section 2): seconds, possibly with a fraction, which is cut off.
fn seconds(claims: &Claims, name: &'static str) -> Result<Option<u64>, Error> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(whole) = value.as_u64() {
        return Ok(Some(whole));
    }
    // Far beyond any date, and exact as a float.
    const MAX: f64 = 9_007_199_254_740_992.0;
    match value.as_f64() {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Some(seconds) if (0.0..MAX).contains(&seconds) => Ok(Some(seconds as u64)),
        _ => Err(Error::Malformed(name)),
    }
}

fn audience(config: &Config, claims: &Claims) -> Result<(), Error> {
    let id = config.resource_server_id.as_deref().unwrap_or_default();
    let named = match claims.get("aud").ok_or(Error::Missing("aud"))? {
        Value::String(text) => text.split(' ').any(|each| each == id),
        Value::Array(list) => list.iter().any(|each| each.as_str() == Some(id)),
        _ => return Err(Error::Malformed("aud")),
    };
    if named { Ok(()) } else { Err(Error::Audience(id.to_owned())) }
}

fn user(config: &Config, claims: &Claims) -> Result<String, Error> {
    let names = || {
        let preferred = config.preferred_username_claims.iter().map(String::as_str);
        preferred.chain(DEFAULT_USERNAME_CLAIMS)
    };
    names()
        .filter_map(|name| claims.get(name).and_then(Value::as_str))
        .find(|user| !user.is_empty())
        .map(str::to_owned)
        .ok_or_else(|| Error::NoUser(names().collect::<Vec<_>>().join(", ")))
}

/// The scopes for this broker, without prefix.
fn scopes(config: &Config, claims: &Claims) -> Result<Vec<String>, Error> {
    let id = config.resource_server_id.as_deref().unwrap_or_default();
    let mut all = Vec::new();
    if let Some(scope) = claims.get("scope") {
        collect(scope, id, &mut all);
    }
    let further = config.additional_scopes_key.as_deref().unwrap_or_default();
    for path in further.split_whitespace().chain([REQUESTING_PARTY]) {
        let keys: Vec<&str> = path.split('.').filter(|key| !key.is_empty()).collect();
        follow(claims, &keys, id, &mut all);
    }
    let aliased: Vec<String> = all
        .iter()
        .filter_map(|scope| config.scope_aliases.get(scope))
        .flat_map(|scopes| scopes.each().into_iter().map(str::to_owned))
        .collect();
    all.extend(aliased);
    let prefix = config.prefix();
    let mut scopes: Vec<String> =
        all.iter().filter_map(|scope| scope.strip_prefix(&prefix)).map(str::to_owned).collect();
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.len() > MAX_SCOPES { Err(Error::TooManyScopes(MAX_SCOPES)) } else { Ok(scopes) }
}

/// Follows a path of keys through objects and lists of objects.
fn follow(claims: &Claims, keys: &[&str], id: &str, scopes: &mut Vec<String>) {
    let Some((key, rest)) = keys.split_first() else { return };
    match claims.get(*key) {
        Some(value) if rest.is_empty() => collect(value, id, scopes),
        Some(Value::Object(object)) => follow(object, rest, id, scopes),
        Some(Value::Array(list)) => {
            for object in list.iter().filter_map(Value::as_object) {
                follow(object, rest, id, scopes);
            }
        }
        _ => {}
    }
}

/// Takes the scopes of a list, a string, or an object with either under the resource server's id;
/// there they have no prefix.
fn collect(value: &Value, id: &str, scopes: &mut Vec<String>) {
    match value {
        Value::String(text) => scopes.extend(text.split_whitespace().map(str::to_owned)),
        Value::Array(list) => {
            scopes.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        Value::Object(object) => match object.get(id) {
            Some(inner) if !inner.is_object() => {
                let mut unprefixed = Vec::new();
                collect(inner, id, &mut unprefixed);
                scopes.extend(unprefixed.into_iter().map(|scope| format!("{id}.{scope}")));
            }
            _ => {}
        },
        _ => {}
    }
}
