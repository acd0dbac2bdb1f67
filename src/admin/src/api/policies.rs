//! Policies and operator policies.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use isthmus_model::{SettingKey, SettingKind};
use serde_json::{Map, Value};

use super::caller::{Caller, Tag};
use super::error::Body;
use super::{Api, ApiError, ApiState, json as convert};

/// What policies are found under. Other words are not found.
fn kind(path: &str) -> Result<SettingKind, ApiError> {
    match path {
        "policies" => Ok(SettingKind::Policy),
        "operator-policies" => Ok(SettingKind::OperatorPolicy),
        _ => Err(ApiError::NotFound),
    }
}

/// Every policy of a kind, of virtual hosts that `caller` may see.
pub(super) async fn all(
    api: &Api,
    caller: Option<&Caller>,
    kind: SettingKind,
) -> Result<Vec<Value>, ApiError> {
    let settings = api.inspect(|shard| shard.ledger().settings().clone()).await?;
    let mut shown = Vec::new();
    for (key, table) in settings.of_kind(kind) {
        let sees = match caller {
            Some(caller) => caller.sees(&key.vhost).await,
            None => true,
        };
        if sees {
            let mut policy = convert::object(table);
            policy["vhost"] = (*key.vhost).into();
            policy["name"] = (*key.name).into();
            for (field, default) in [("apply-to", Value::from("all")), ("priority", 0.into())] {
                if policy.get(field).is_none() {
                    policy[field] = default;
                }
            }
            shown.push(policy);
        }
    }
    Ok(shown)
}

pub(super) async fn list(State(api): ApiState, caller: Caller) -> Result<Json<Value>, ApiError> {
    Ok(Json(Value::Array(all(&api, Some(&caller), SettingKind::Policy).await?)))
}

pub(super) async fn list_of_operators(
    State(api): ApiState,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(Value::Array(all(&api, Some(&caller), SettingKind::OperatorPolicy).await?)))
}

pub(super) async fn list_of_vhost(
    State(api): ApiState,
    caller: Caller,
    Path((path, vhost)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let kind = kind(&path)?;
    caller.must_see(&api, &vhost).await?;
    let mut policies = all(&api, Some(&caller), kind).await?;
    policies.retain(|policy| policy["vhost"] == *vhost);
    Ok(Json(Value::Array(policies)))
}

pub(super) async fn get(
    State(api): ApiState,
    caller: Caller,
    Path((path, vhost, name)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    let kind = kind(&path)?;
    caller.must_see(&api, &vhost).await?;
    let policies = all(&api, Some(&caller), kind).await?;
    let found = policies.into_iter().find(|p| p["vhost"] == *vhost && p["name"] == *name);
    found.map(Json).ok_or(ApiError::NotFound)
}

/// Policies are for policymakers, those of operators for administrators.
fn must_be_allowed(caller: &Caller, kind: SettingKind) -> Result<(), ApiError> {
    caller.must_be(if kind == SettingKind::Policy { Tag::Policymaker } else { Tag::Administrator })
}

pub(super) async fn put(
    State(api): ApiState,
    caller: Caller,
    Path((path, vhost, name)): Path<(String, String, String)>,
    body: Body<Map<String, Value>>,
) -> Result<StatusCode, ApiError> {
    let kind = kind(&path)?;
    must_be_allowed(&caller, kind)?;
    caller.must_see(&api, &vhost).await?;
    let Json(body) = body?;
    let key = SettingKey::of_vhost(kind, &vhost, &name);
    let asked = key.clone();
    let is_new = api.inspect(move |shard| shard.ledger().settings().get(&asked).is_none()).await?;
    set(&api, key, body).await?;
    Ok(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
}

/// Sets a policy. What tells where it is is not part of it.
pub(super) async fn set(
    api: &Api,
    key: SettingKey,
    mut body: Map<String, Value>,
) -> Result<(), ApiError> {
    body.remove("vhost");
    body.remove("name");
    api.set(key, Some(convert::table(body))).await
}

pub(super) async fn delete(
    State(api): ApiState,
    caller: Caller,
    Path((path, vhost, name)): Path<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let kind = kind(&path)?;
    must_be_allowed(&caller, kind)?;
    caller.must_see(&api, &vhost).await?;
    let key = SettingKey::of_vhost(kind, &vhost, &name);
    let asked = key.clone();
    if api.inspect(move |shard| shard.ledger().settings().get(&asked).is_none()).await? {
        return Err(ApiError::NotFound);
    }
    api.set(key, None).await?;
    Ok(StatusCode::NO_CONTENT)
}
