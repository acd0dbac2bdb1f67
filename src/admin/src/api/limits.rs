//! Limits of users and of virtual hosts.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use isthmus_model::{SettingKey, SettingKind, Table, Value as ModelValue};
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::{Caller, Tag};
use super::error::Body;
use super::{Api, ApiError, ApiState, json as convert};

#[derive(Debug, Deserialize)]
pub(super) struct LimitBody {
    value: i64,
}

fn user_key(name: &str) -> SettingKey {
    SettingKey::global(SettingKind::UserLimit, name)
}

fn vhost_key(name: &str) -> SettingKey {
    SettingKey::of_vhost(SettingKind::VhostLimit, name, "")
}

/// The limits of everybody of a kind who has any, or of the one called `name`.
async fn of_kind(
    api: &Api,
    caller: &Caller,
    kind: SettingKind,
    name: Option<&str>,
) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Monitoring)?;
    let settings = api.inspect(|shard| shard.ledger().settings().clone()).await?;
    let mut limits = Vec::new();
    for (key, table) in settings.of_kind(kind) {
        let (whose, called) = match kind {
            SettingKind::UserLimit => ("user", &*key.name),
            _ => ("vhost", &*key.vhost),
        };
        if name.is_none_or(|name| name == called) {
            limits.push(json!({ whose: called, "value": convert::object(table) }));
        }
    }
    Ok(Json(Value::Array(limits)))
}

/// Gives one limit a value, or none, beside the others.
async fn set(
    api: &Api,
    key: SettingKey,
    limit: &str,
    value: Option<i64>,
) -> Result<StatusCode, ApiError> {
    let wanted = key.clone();
    let before = api.inspect(move |shard| shard.ledger().settings().get(&wanted).cloned()).await?;
    let mut entries = before.map(|table| table.0.clone()).unwrap_or_default();
    let had = entries.iter().any(|(name, _)| name == limit);
    entries.retain(|(name, _)| name != limit);
    match value {
        Some(value) => entries.push((limit.to_owned(), ModelValue::Int(value))),
        None if !had => return Err(ApiError::NotFound),
        None => {}
    }
    api.set(key, (!entries.is_empty()).then_some(Table(entries))).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn list_users(
    State(api): ApiState,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    of_kind(&api, &caller, SettingKind::UserLimit, None).await
}

pub(super) async fn list_user(
    State(api): ApiState,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    of_kind(&api, &caller, SettingKind::UserLimit, Some(&name)).await
}

pub(super) async fn put_user(
    State(api): ApiState,
    caller: Caller,
    Path((name, limit)): Path<(String, String)>,
    body: Body<LimitBody>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let Json(body) = body?;
    if api.directory.load().user(&name).is_none() {
        return Err(ApiError::NotFound);
    }
    set(&api, user_key(&name), &limit, Some(body.value)).await
}

pub(super) async fn delete_user(
    State(api): ApiState,
    caller: Caller,
    Path((name, limit)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    set(&api, user_key(&name), &limit, None).await
}

pub(super) async fn list_vhosts(
    State(api): ApiState,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    of_kind(&api, &caller, SettingKind::VhostLimit, None).await
}

pub(super) async fn list_vhost(
    State(api): ApiState,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    of_kind(&api, &caller, SettingKind::VhostLimit, Some(&name)).await
}

pub(super) async fn put_vhost(
    State(api): ApiState,
    caller: Caller,
    Path((name, limit)): Path<(String, String)>,
    body: Body<LimitBody>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let Json(body) = body?;
    set(&api, vhost_key(&name), &limit, Some(body.value)).await
}

pub(super) async fn delete_vhost(
    State(api): ApiState,
    caller: Caller,
    Path((name, limit)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    set(&api, vhost_key(&name), &limit, None).await
}
