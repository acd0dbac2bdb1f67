//! Connections.

use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use isthmus_broker::ConnectionStatus;
use serde_json::{Value, json};

use super::caller::{Caller, Tag};
use super::{Api, ApiError, ApiState};

/// What operators call a connection.
fn name(connection: &ConnectionStatus) -> String {
    format!("{}#{}", connection.peer.address, connection.id.0)
}

fn show(connection: &ConnectionStatus) -> Value {
    let since = connection.since.duration_since(UNIX_EPOCH).unwrap_or_default();
    let tls = connection.peer.tls.as_deref();
    let certificate = tls.and_then(|tls| tls.certificate.as_ref());
    json!({
        "name": name(connection),
        "user": connection.user.as_deref(),
        "vhost": connection.vhost.as_deref(),
        "protocol": connection.protocol,
        "peer_host": connection.peer.address.ip().to_string(),
        "peer_port": connection.peer.address.port(),
        "connected_at": u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        "recv_oct": connection.received_bytes,
        "send_oct": connection.sent_bytes,
        "state": if connection.vhost.is_some() { "running" } else { "opening" },
        "ssl": tls.is_some(),
        "ssl_protocol": tls.map(|tls| tls.version.as_str()),
        "ssl_cipher": tls.map(|tls| tls.cipher.as_str()),
        "peer_cert_subject": certificate.map(|certificate| certificate.subject.as_str()),
    })
}

/// Those that `caller` may see: his own, or everybody's if he monitors.
fn visible(api: &Api, caller: &Caller) -> Result<Vec<ConnectionStatus>, ApiError> {
    let all = caller.is(Tag::Monitoring);
    let own = caller.user.name();
    let mut connections = api.broker()?.connections();
    connections.retain(|connection| all || connection.user.as_ref() == Some(own));
    Ok(connections)
}

pub(super) async fn list(State(api): ApiState, caller: Caller) -> Result<Json<Value>, ApiError> {
    Ok(Json(Value::Array(visible(&api, &caller)?.iter().map(show).collect())))
}

pub(super) async fn list_of_vhost(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    let connections = visible(&api, &caller)?;
    let of_it = connections.iter().filter(|c| c.vhost.as_deref() == Some(&*vhost));
    Ok(Json(Value::Array(of_it.map(show).collect())))
}

pub(super) async fn get(
    State(api): ApiState,
    caller: Caller,
    Path(wanted): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let connections = visible(&api, &caller)?;
    let found = connections.iter().find(|connection| name(connection) == wanted);
    found.map(|connection| Json(show(connection))).ok_or(ApiError::NotFound)
}

pub(super) async fn close(
    State(api): ApiState,
    caller: Caller,
    Path(wanted): Path<String>,
) -> Result<StatusCode, ApiError> {
    let mut connections = visible(&api, &caller)?;
    // Monitoring sees everybody's, and closes its own.
    let own = caller.user.name();
    let administrator = caller.is(Tag::Administrator);
    connections.retain(|connection| administrator || connection.user.as_ref() == Some(own));
    let found = connections.iter().find(|connection| name(connection) == wanted);
    let id = found.ok_or(ApiError::NotFound)?.id;
    if api.broker()?.close_connection(id) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::NotFound)
    }
}

pub(super) async fn close_of_user(
    State(api): ApiState,
    caller: Caller,
    Path(user): Path<String>,
) -> Result<StatusCode, ApiError> {
    if **caller.user.name() != *user {
        caller.must_be(Tag::Administrator)?;
    }
    let broker = api.broker()?;
    for connection in broker.connections() {
        if connection.user.as_deref() == Some(&*user) {
            broker.close_connection(connection.id);
        }
    }
    Ok(StatusCode::NO_CONTENT)
}
