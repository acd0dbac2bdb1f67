//! Virtual hosts.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use isthmus_broker::Leader;
use isthmus_contract::{Command, ManageOp};
use isthmus_model::{SettingKey, SettingKind};
use serde_json::{Value, json};

use super::caller::{Caller, Tag};
use super::{Api, ApiError, ApiState};

/// The longest name of a virtual host, in bytes: AMQP carries it in a short string.
const NAME_BYTES_MAX: usize = 255;

pub(super) async fn list(State(api): ApiState, caller: Caller) -> Result<Json<Value>, ApiError> {
    let seen = seen_by(&caller, &api).await?;
    let statuses = api.inspect(move |shard| statuses(shard, &seen)).await?;
    Ok(Json(Value::Array(statuses)))
}

/// The names of every virtual host, in their order.
pub(super) async fn names(api: &Api) -> Result<Vec<Arc<str>>, ApiError> {
    api.inspect(|shard| shard.dispatcher().topology().vhosts().into_iter().cloned().collect()).await
}

/// The names of those that `caller` may see, in their order.
pub(super) async fn seen_by(caller: &Caller, api: &Api) -> Result<Vec<Arc<str>>, ApiError> {
    let mut seen = Vec::new();
    for name in names(api).await? {
        if caller.sees(&name).await {
            seen.push(name);
        }
    }
    Ok(seen)
}

pub(super) async fn get(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    let mut found = api.inspect(move |shard| statuses(shard, &[vhost.into()])).await?;
    found.pop().map(Json).ok_or(ApiError::NotFound)
}

fn statuses(shard: &Leader<'_>, names: &[Arc<str>]) -> Vec<Value> {
    let queues = shard.dispatcher().queue_statuses();
    let status = |name: &Arc<str>| {
        let of_it = || queues.iter().filter(|queue| queue.vhost == *name);
        let ready: u64 = of_it().map(|queue| queue.ready).sum();
        let unacked: u64 = of_it().map(|queue| queue.unacked).sum();
        json!({
            "name": &**name,
            "messages": ready + unacked,
            "messages_ready": ready,
            "messages_unacknowledged": unacked,
            "tracing": false,
        })
    };
    names.iter().map(status).collect()
}

pub(super) async fn put(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let is_new = declare(&api, &vhost).await?;
    if is_new {
        // As in RabbitMQ, who makes it may use it.
        let key = SettingKey::of_vhost(SettingKind::Permission, &vhost, caller.user.name());
        api.set(key, Some(isthmus_auth::Permission::table(".*", ".*", ".*"))).await?;
    }
    Ok(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
}

/// Makes a virtual host; `false` if it is there.
pub(super) async fn declare(api: &Api, vhost: &str) -> Result<bool, ApiError> {
    if vhost.is_empty() || vhost.len() > NAME_BYTES_MAX || vhost.contains(char::is_control) {
        return Err(ApiError::Invalid(format!(
            "the name of a virtual host must be 1 to {NAME_BYTES_MAX} bytes without control \
             characters"
        )));
    }
    let name: Arc<str> = vhost.into();
    let asked = Arc::clone(&name);
    let there = api.inspect(move |shard| shard.dispatcher().has_vhost(&asked)).await?;
    let op = ManageOp::DeclareVhost { name };
    api.operator().await?.ask(|token| Command::Manage { token, op }).await?;
    Ok(!there)
}

pub(super) async fn delete(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    caller.must_see(&api, &vhost).await?;
    let mut operator = api.operator().await?;
    let op = ManageOp::DeleteVhost { name: vhost.as_str().into() };
    operator.ask(|token| Command::Manage { token, op }).await?;
    Ok(StatusCode::NO_CONTENT)
}
