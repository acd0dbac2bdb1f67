//! Exchanges.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use isthmus_broker::{Client, Leader};
use isthmus_contract::{Command, declare};
use isthmus_model::{CommandError, ExchangeDef, TopologyChange};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::caller::Caller;
use super::error::Body;
use super::{ApiError, ApiState, json as convert, vhosts};

/// An exchange as it is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct ExchangeBody {
    #[serde(rename = "type", default = "direct")]
    kind: String,
    #[serde(default = "yes")]
    durable: bool,
    #[serde(default)]
    auto_delete: bool,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    arguments: Map<String, Value>,
}

fn direct() -> String {
    "direct".to_owned()
}

pub(super) fn yes() -> bool {
    true
}

/// The exchanges of a virtual host.
pub(super) fn of_vhost(shard: &Leader<'_>, vhost: &str) -> Vec<Value> {
    let exchanges = shard.dispatcher().topology().exchanges(vhost).unwrap_or_default();
    exchanges.into_iter().map(|def| show(shard, vhost, def)).collect()
}

fn show(shard: &Leader<'_>, vhost: &str, def: &ExchangeDef) -> Value {
    let kind = if def.delayed { "x-delayed-message" } else { def.kind.name() };
    let policies = shard.dispatcher().exchange_policies(vhost, &def.name);
    json!({
        "name": &*def.name,
        "vhost": vhost,
        "type": kind,
        "durable": def.durable,
        "auto_delete": def.auto_delete,
        "internal": def.internal,
        "arguments": convert::object(&def.arguments),
        "policy": policies.names().0.as_deref(),
    })
}

pub(super) async fn list(State(api): ApiState, caller: Caller) -> Result<Json<Value>, ApiError> {
    let mut all = Vec::new();
    for vhost in vhosts::seen_by(&caller, &api).await? {
        all.extend(api.inspect(move |shard| of_vhost(shard, &vhost)).await?);
    }
    Ok(Json(Value::Array(all)))
}

pub(super) async fn list_of_vhost(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    Ok(Json(Value::Array(api.inspect(move |shard| of_vhost(shard, &vhost)).await?)))
}

pub(super) async fn get(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, name)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    let found = api.inspect(move |shard| {
        let def = shard.dispatcher().topology().exchange(&vhost, &name).ok()?;
        Some(show(shard, &vhost, def))
    });
    found.await?.map(Json).ok_or(ApiError::NotFound)
}

pub(super) async fn put(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, name)): Path<(String, String)>,
    body: Body<ExchangeBody>,
) -> Result<StatusCode, ApiError> {
    let Json(body) = body?;
    let mut client = caller.client(&api, &vhost).await?;
    let asked = name.clone();
    let is_new = api
        .inspect(move |shard| shard.dispatcher().topology().exchange(&vhost, &asked).is_err())
        .await?;
    declare_with(&mut client, name.into(), body).await?;
    Ok(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
}

/// Declares an exchange.
pub(super) async fn declare_with(
    client: &mut Client,
    name: Arc<str>,
    body: ExchangeBody,
) -> Result<(), ApiError> {
    if name.is_empty() {
        let text = "operation not permitted on the default exchange";
        return Err(CommandError::Refused(text.to_owned()).into());
    }
    let arguments = convert::table(body.arguments);
    let (kind, delayed) = declare::exchange_kind(&body.kind, &arguments)?;
    let ExchangeBody { durable, auto_delete, internal, .. } = body;
    let def = ExchangeDef { name, kind, delayed, durable, auto_delete, internal, arguments };
    let change = TopologyChange::DeclareExchange(def);
    client.ask(|token| Command::Topology { token, change }).await?;
    Ok(())
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "if-unused", default)]
    if_unused: bool,
}

pub(super) async fn delete(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, name)): Path<(String, String)>,
    Query(condition): Query<Condition>,
) -> Result<StatusCode, ApiError> {
    let mut client = caller.client(&api, &vhost).await?;
    let asked = name.clone();
    if api
        .inspect(move |shard| shard.dispatcher().topology().exchange(&vhost, &asked).is_err())
        .await?
    {
        return Err(ApiError::NotFound);
    }
    let if_unused = condition.if_unused;
    let change = TopologyChange::DeleteExchange { name: name.into(), if_unused };
    client.ask(|token| Command::Topology { token, change }).await?;
    Ok(StatusCode::NO_CONTENT)
}
