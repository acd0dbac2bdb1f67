//! Permissions and topic permissions.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use isthmus_auth::{Permission, TopicPermission};
use isthmus_model::{SettingKey, SettingKind, Table, Value as ModelValue};
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::{Caller, Tag};
use super::error::Body;
use super::{Api, ApiError, ApiState, json as convert};

#[derive(Debug, Deserialize)]
pub(super) struct PermissionBody {
    configure: String,
    write: String,
    read: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct TopicBody {
    exchange: String,
    write: String,
    read: String,
}

/// Every permission that `wanted` names.
pub(super) async fn all(
    api: &Api,
    wanted: impl Fn(&SettingKey) -> bool,
) -> Result<Vec<Value>, ApiError> {
    let settings = api.inspect(|shard| shard.ledger().settings().clone()).await?;
    let wanted = settings.of_kind(SettingKind::Permission).filter(|(key, _)| wanted(key));
    let shown = wanted.map(|(key, table)| {
        let mut shown = convert::object(table);
        shown["user"] = (*key.name).into();
        shown["vhost"] = (*key.vhost).into();
        shown
    });
    Ok(shown.collect())
}

/// Every topic permission that `wanted` names, one for each exchange.
pub(super) async fn all_topics(
    api: &Api,
    wanted: impl Fn(&SettingKey) -> bool,
) -> Result<Vec<Value>, ApiError> {
    let settings = api.inspect(|shard| shard.ledger().settings().clone()).await?;
    let mut shown = Vec::new();
    for (key, table) in settings.of_kind(SettingKind::TopicPermission) {
        if !wanted(key) {
            continue;
        }
        for (exchange, patterns) in &table.0 {
            let mut permission = convert::json(patterns);
            if permission.is_object() {
                permission["user"] = (*key.name).into();
                permission["vhost"] = (*key.vhost).into();
                permission["exchange"] = exchange.as_str().into();
                shown.push(permission);
            }
        }
    }
    Ok(shown)
}

pub(super) async fn list(State(api): ApiState, caller: Caller) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Administrator)?;
    Ok(Json(Value::Array(all(&api, |_| true).await?)))
}

pub(super) async fn list_of_vhost(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Administrator)?;
    caller.must_see(&api, &vhost).await?;
    Ok(Json(Value::Array(all(&api, |key| *key.vhost == *vhost).await?)))
}

pub(super) async fn list_of_user(
    State(api): ApiState,
    caller: Caller,
    Path(user): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Administrator)?;
    Ok(Json(Value::Array(all(&api, |key| *key.name == *user).await?)))
}

pub(super) async fn get(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, user)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let mut found = all(&api, |key| *key.vhost == *vhost && *key.name == *user).await?;
    found.pop().map(Json).ok_or(ApiError::NotFound)
}

pub(super) async fn put(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, user)): Path<(String, String)>,
    body: Body<PermissionBody>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let Json(body) = body?;
    must_exist(&api, &user)?;
    let key = SettingKey::of_vhost(SettingKind::Permission, &vhost, &user);
    let is_new = all(&api, |other| *other == key).await?.is_empty();
    let table = Permission::table(&body.configure, &body.write, &body.read);
    api.set(key, Some(table)).await?;
    Ok(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
}

fn must_exist(api: &Api, user: &str) -> Result<(), ApiError> {
    match api.directory.load().user(user) {
        Some(_) => Ok(()),
        None => Err(ApiError::Invalid(format!("there is no user '{user}'"))),
    }
}

pub(super) async fn delete(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, user)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let key = SettingKey::of_vhost(SettingKind::Permission, &vhost, &user);
    if all(&api, |other| *other == key).await?.is_empty() {
        return Err(ApiError::NotFound);
    }
    api.set(key, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn list_topics(
    State(api): ApiState,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Administrator)?;
    Ok(Json(Value::Array(all_topics(&api, |_| true).await?)))
}

pub(super) async fn get_topics(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, user)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let found = all_topics(&api, |key| *key.vhost == *vhost && *key.name == *user).await?;
    if found.is_empty() { Err(ApiError::NotFound) } else { Ok(Json(json!(found))) }
}

pub(super) async fn put_topics(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, user)): Path<(String, String)>,
    body: Body<TopicBody>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let Json(body) = body?;
    must_exist(&api, &user)?;
    set_topic(&api, &vhost, &user, &body.exchange, Some((&body.write, &body.read))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets the patterns of one exchange, beside those of others.
pub(super) async fn set_topic(
    api: &Api,
    vhost: &str,
    user: &str,
    exchange: &str,
    patterns: Option<(&str, &str)>,
) -> Result<(), ApiError> {
    let key = SettingKey::of_vhost(SettingKind::TopicPermission, vhost, user);
    let wanted = key.clone();
    let before = api.inspect(move |shard| shard.ledger().settings().get(&wanted).cloned()).await?;
    let mut entries: Vec<(String, ModelValue)> =
        before.map(|table| table.0.clone()).unwrap_or_default();
    entries.retain(|(name, _)| name != exchange);
    if let Some((write, read)) = patterns {
        entries.push(TopicPermission::entry(exchange, write, read));
    }
    let table = (!entries.is_empty()).then_some(Table(entries));
    api.set(key, table).await
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct WhichTopic {
    exchange: Option<String>,
}

pub(super) async fn delete_topics(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, user)): Path<(String, String)>,
    axum::extract::Query(which): axum::extract::Query<WhichTopic>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let key = SettingKey::of_vhost(SettingKind::TopicPermission, &vhost, &user);
    if all_topics(&api, |other| *other == key).await?.is_empty() {
        return Err(ApiError::NotFound);
    }
    match which.exchange {
        Some(exchange) => set_topic(&api, &vhost, &user, &exchange, None).await?,
        None => api.set(key, None).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}
