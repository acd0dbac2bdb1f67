//! Lasting sessions of clients. RabbitMQ's API has nothing of the kind.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use isthmus_contract::{Command, ManageOp};
use isthmus_model::{NEVER_EXPIRES, Time};
use serde_json::{Value, json};

use super::caller::{Caller, Tag};
use super::{Api, ApiError, ApiState};

/// A session, and whose it is.
struct Shown {
    user: String,
    vhost: String,
    client: String,
    json: Value,
}

/// Those that `caller` may see: his own, or everybody's if he monitors.
async fn visible(api: &Api, caller: &Caller) -> Result<Vec<Shown>, ApiError> {
    let mut sessions = api
        .inspect(|shard| {
            let statuses = shard.dispatcher().client_statuses().into_iter();
            let shown = statuses.map(|status| Shown {
                user: status.user.to_string(),
                vhost: status.key.vhost.to_string(),
                client: status.key.client.to_string(),
                json: json!({
                    "client_id": &*status.key.client,
                    "vhost": &*status.key.vhost,
                    "user": &*status.user,
                    "connected": status.connection.is_some(),
                    "expiry_ms": (status.expiry_ms != NEVER_EXPIRES).then_some(status.expiry_ms),
                    "ends_at": (status.ends_at != Time::NEVER)
                        .then(|| status.ends_at.as_millis()),
                    "will": status.has_will,
                    "notes": status.notes,
                    "queues": status.queues.iter().map(|name| &**name).collect::<Vec<_>>(),
                }),
            });
            shown.collect::<Vec<_>>()
        })
        .await?;
    let own = caller.user.name();
    let all = caller.is(Tag::Monitoring);
    sessions.retain(|session| all || *session.user == **own);
    Ok(sessions)
}

fn array(sessions: impl Iterator<Item = Shown>) -> Json<Value> {
    Json(Value::Array(sessions.map(|session| session.json).collect()))
}

pub(super) async fn list(State(api): ApiState, caller: Caller) -> Result<Json<Value>, ApiError> {
    Ok(array(visible(&api, &caller).await?.into_iter()))
}

pub(super) async fn list_of_vhost(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    let sessions = visible(&api, &caller).await?.into_iter();
    Ok(array(sessions.filter(|session| session.vhost == vhost)))
}

/// The session of that name, if `caller` may see it.
async fn find(api: &Api, caller: &Caller, vhost: &str, client: &str) -> Result<Shown, ApiError> {
    let sessions = visible(api, caller).await?;
    let found = sessions.into_iter().find(|s| s.vhost == vhost && s.client == client);
    found.ok_or(ApiError::NotFound)
}

pub(super) async fn get(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, client)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(find(&api, &caller, &vhost, &client).await?.json))
}

/// Ends a session: its will is published, the queues that it alone holds are deleted, and its
/// connection is closed.
pub(super) async fn end(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, client)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    // Monitoring sees everybody's, and ends its own.
    let session = find(&api, &caller, &vhost, &client).await?;
    if *session.user != **caller.user.name() && !caller.is(Tag::Administrator) {
        return Err(ApiError::NotFound);
    }
    let op = ManageOp::EndSession { vhost: vhost.into(), client: client.into() };
    api.operator().await?.ask(|token| Command::Manage { token, op }).await?;
    Ok(StatusCode::NO_CONTENT)
}
