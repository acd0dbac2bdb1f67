//! Limits of users and of virtual hosts.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use isthmus_model::{SettingKey, SettingKind, Table, Value as ModelValue};
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::{Caller, Tag};
use super::{Api, ApiError, ApiState, json as convert};

#[derive(Debug, Deserialize)]
pub(super) struct LimitBody {
    value: i64,
}

type Body = Result<Json<LimitBody>, axum::extract::rejection::JsonRejection>;

fn user_key(name: &str) -> SettingKey {
    SettingKey::global(SettingKind::UserLimit, name)
}

fn vhost_key(name: &str) -> SettingKey {
    SettingKey::of_vhost(SettingKind::VhostLimit, name, "")
}

async fn all(api: &Api, kind: SettingKind) -> Result<Vec<Value>, ApiError> {
    let settings = api.inspect(|shard| shard.ledger().settings().clone()).await?;
    let show = |(key, table): (&SettingKey, &std::sync::Arc<Table>)| {
        let limits = convert::object(table);
        match kind {
            SettingKind::UserLimit => json!({ "user": &*key.name, "value": limits }),
            _ => json!({ "vhost": &*key.vhost, "value": limits }),
        }
    };
    Ok(settings.of_kind(kind).map(show).collect())
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
    caller.must_be(Tag::Monitoring)?;
    Ok(Json(Value::Array(all(&api, SettingKind::UserLimit).await?)))
}

pub(super) async fn list_user(
    State(api): ApiState,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Monitoring)?;
    let mut limits = all(&api, SettingKind::UserLimit).await?;
    limits.retain(|limit| limit["user"] == *name);
    Ok(Json(Value::Array(limits)))
}

pub(super) async fn put_user(
    State(api): ApiState,
    caller: Caller,
    Path((name, limit)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let Json(body) = body.map_err(|error| ApiError::Invalid(error.body_text()))?;
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
    caller.must_be(Tag::Monitoring)?;
    Ok(Json(Value::Array(all(&api, SettingKind::VhostLimit).await?)))
}

pub(super) async fn list_vhost(
    State(api): ApiState,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Monitoring)?;
    let mut limits = all(&api, SettingKind::VhostLimit).await?;
    limits.retain(|limit| limit["vhost"] == *name);
    Ok(Json(Value::Array(limits)))
}

pub(super) async fn put_vhost(
    State(api): ApiState,
    caller: Caller,
    Path((name, limit)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let Json(body) = body.map_err(|error| ApiError::Invalid(error.body_text()))?;
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
