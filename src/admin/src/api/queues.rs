//! Queues.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use isthmus_broker::{Client, Leader};
use isthmus_contract::{Command, ManageOp, declare};
use isthmus_model::{CommandError, Lifetime, TopologyChange, Value as ModelValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::caller::Caller;
use super::error::Body;
use super::exchanges::yes;
use super::{ApiError, ApiState, json as convert, vhosts};

/// A queue as it is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct QueueBody {
    #[serde(default = "yes")]
    durable: bool,
    #[serde(default)]
    auto_delete: bool,
    #[serde(default)]
    arguments: Map<String, Value>,
}

/// The queues of virtual hosts that `sees` names, one of them only if `name` is given.
fn shown(shard: &Leader<'_>, sees: impl Fn(&str) -> bool, name: Option<&str>) -> Vec<Value> {
    let dispatcher = shard.dispatcher();
    let mut shown = Vec::new();
    for status in dispatcher.queue_statuses() {
        if !sees(&status.vhost) || name.is_some_and(|name| name != &*status.name) {
            continue;
        }
        let def = &status.def;
        let kind = def.arguments.get("x-queue-type").and_then(ModelValue::as_str);
        shown.push(json!({
            "name": &*status.name,
            "vhost": &*status.vhost,
            "type": kind.unwrap_or("classic"),
            "durable": def.lifetime == Lifetime::Durable,
            "exclusive": matches!(def.lifetime, Lifetime::Exclusive(_)),
            "auto_delete": def.auto_delete,
            "arguments": convert::object(&def.arguments),
            "policy": status.policy.as_deref(),
            "operator_policy": status.operator_policy.as_deref(),
            "state": "running",
            "messages": status.ready + status.unacked,
            "messages_ready": status.ready,
            "messages_unacknowledged": status.unacked,
            "message_bytes_ready": status.ready_bytes,
            "consumers": status.consumers,
        }));
    }
    shown
}

pub(super) async fn list(State(api): ApiState, caller: Caller) -> Result<Json<Value>, ApiError> {
    let seen = vhosts::seen_by(&caller, &api).await?;
    let sees = move |vhost: &str| seen.iter().any(|seen| &**seen == vhost);
    Ok(Json(Value::Array(api.inspect(move |shard| shown(shard, sees, None)).await?)))
}

pub(super) async fn list_of_vhost(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    let queues = api.inspect(move |shard| shown(shard, |v| v == vhost, None)).await?;
    Ok(Json(Value::Array(queues)))
}

pub(super) async fn get(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, name)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    let mut found = api.inspect(move |shard| shown(shard, |v| v == vhost, Some(&name))).await?;
    found.pop().map(Json).ok_or(ApiError::NotFound)
}

pub(super) async fn put(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, name)): Path<(String, String)>,
    body: Body<QueueBody>,
) -> Result<StatusCode, ApiError> {
    let Json(body) = body?;
    let mut client = caller.client(&api, &vhost).await?;
    let (asked_vhost, asked) = (vhost.clone(), name.clone());
    let is_new = api
        .inspect(move |shard| shard.dispatcher().topology().queue(&asked_vhost, &asked).is_err())
        .await?;
    declare_with(&mut client, &vhost, name.into(), body).await?;
    Ok(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
}

/// Declares a queue.
pub(super) async fn declare_with(
    client: &mut Client,
    vhost: &str,
    name: Arc<str>,
    body: QueueBody,
) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(CommandError::Invalid("a queue needs a name".to_owned()).into());
    }
    let lifetime = if body.durable { Lifetime::Durable } else { Lifetime::Volatile };
    let arguments = convert::table(body.arguments);
    let def = declare::queue(name, lifetime, body.auto_delete, arguments, vhost)?;
    let change = TopologyChange::DeclareQueue(def);
    client.ask(|token| Command::Topology { token, change }).await?;
    Ok(())
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "if-unused", default)]
    if_unused: bool,
    #[serde(rename = "if-empty", default)]
    if_empty: bool,
}

pub(super) async fn delete(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, name)): Path<(String, String)>,
    Query(condition): Query<Condition>,
) -> Result<StatusCode, ApiError> {
    let mut client = caller.client(&api, &vhost).await?;
    let name: Arc<str> = name.into();
    // Asking first: a queue that is not there would count as deleted.
    let change = TopologyChange::LookUpQueue { name: Arc::clone(&name) };
    client.ask(|token| Command::Topology { token, change }).await?;
    let Condition { if_unused, if_empty } = condition;
    let change = TopologyChange::DeleteQueue { name, if_unused, if_empty };
    client.ask(|token| Command::Topology { token, change }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn purge(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let mut client = caller.client(&api, &vhost).await?;
    let op = ManageOp::Purge { queue: name.into() };
    client.ask(|token| Command::Manage { token, op }).await?;
    Ok(StatusCode::NO_CONTENT)
}
