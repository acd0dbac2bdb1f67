//! Users.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use isthmus_auth::{PasswordHash, User};
use isthmus_model::{SettingKey, SettingKind, Table, Value as ModelValue};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::caller::{Caller, Tag};
use super::error::Body;
use super::{Api, ApiError, ApiState, json, set_with};

/// The longest name of a user, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// A user as it is asked for. RabbitMQ's own fields and one more, `loopback_only`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct UserBody {
    pub(super) name: Option<String>,
    pub(super) password: Option<String>,
    pub(super) password_hash: Option<String>,
    pub(super) hashing_algorithm: Option<String>,
    #[serde(default)]
    pub(super) tags: Tags,
    #[serde(default)]
    pub(super) loopback_only: bool,
    #[serde(default)]
    pub(super) limits: Map<String, Value>,
}

/// Tags: a list, or words separated by commas.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Tags {
    List(Vec<String>),
    Words(String),
}

impl Default for Tags {
    fn default() -> Tags {
        Tags::List(Vec::new())
    }
}

impl Tags {
    fn into_list(self) -> Vec<String> {
        let words = |text: &str| text.split(',').map(|w| w.trim().to_owned()).collect();
        let list: Vec<String> = match self {
            Tags::List(list) => list,
            Tags::Words(text) => words(&text),
        };
        list.into_iter().filter(|tag| !tag.is_empty()).collect()
    }
}

pub(super) async fn list(State(api): ApiState, caller: Caller) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Administrator)?;
    Ok(Json(Value::Array(all(&api).await?)))
}

/// Every user with his limits.
pub(super) async fn all(api: &Api) -> Result<Vec<Value>, ApiError> {
    let settings = api.inspect(|shard| shard.ledger().settings().clone()).await?;
    let users = settings.of_kind(SettingKind::User).map(|(key, table)| {
        let limits = SettingKey::global(SettingKind::UserLimit, &key.name);
        show(&key.name, table, settings.get(&limits).map(|limits| &**limits))
    });
    Ok(users.collect())
}

fn show(name: &str, table: &Table, limits: Option<&Table>) -> Value {
    let mut user = json::object(table);
    user["name"] = name.into();
    user["limits"] = limits.map_or_else(|| Value::Object(Map::new()), json::object);
    user
}

pub(super) async fn get(
    State(api): ApiState,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let found = all(&api).await?.into_iter().find(|user| user["name"] == *name);
    found.map(Json).ok_or(ApiError::NotFound)
}

pub(super) async fn put(
    State(api): ApiState,
    caller: Caller,
    Path(name): Path<String>,
    body: Body<UserBody>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let Json(body) = body?;
    let is_new = api.directory.load().user(&name).is_none();
    let user = user(&api, &name, body).await?;
    api.set(SettingKey::global(SettingKind::User, &name), Some(user.table())).await?;
    Ok(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
}

/// The user that a body asks for.
pub(super) async fn user(api: &Api, name: &str, body: UserBody) -> Result<User, ApiError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(ApiError::Invalid(format!(
            "a user's name must be 1 to {NAME_BYTES_MAX} bytes without control characters"
        )));
    }
    let password_hash = match (body.password, body.password_hash) {
        (Some(_), Some(_)) => {
            let text = "give password or password_hash, not both";
            return Err(ApiError::Invalid(text.to_owned()));
        }
        (Some(password), None) => {
            let hashing = api.hashing.clone();
            let hashed =
                tokio::task::spawn_blocking(move || hashing.hash(password.as_bytes())).await;
            let hashed = hashed.map_err(|_| ApiError::Unavailable)?;
            hashed.map_err(|error| ApiError::Invalid(error.to_string()))?
        }
        (None, Some(hash)) => PasswordHash::read(&hash, body.hashing_algorithm.as_deref())
            .map_err(|what| ApiError::Invalid(format!("password_hash {what}")))?,
        (None, None) => {
            let text = "give password, or password_hash; an empty hash lets no password in";
            return Err(ApiError::Invalid(text.to_owned()));
        }
    };
    let (tags, loopback_only) = (body.tags.into_list(), body.loopback_only);
    Ok(User { password_hash, tags, loopback_only })
}

pub(super) async fn delete(
    State(api): ApiState,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    if api.directory.load().user(&name).is_none() {
        return Err(ApiError::NotFound);
    }
    let settings = api.inspect(|shard| shard.ledger().settings().clone()).await?;
    let mut operator = api.operator().await?;
    set_with(&mut operator, SettingKey::global(SettingKind::User, &name), None).await?;
    // Someone of the same name who comes later must not find his rights.
    for kind in [SettingKind::Permission, SettingKind::TopicPermission, SettingKind::UserLimit] {
        for (key, _) in settings.of_kind(kind).filter(|(key, _)| *key.name == *name) {
            set_with(&mut operator, key.clone(), None).await?;
        }
    }
    if let Ok(broker) = api.broker() {
        for connection in broker.connections() {
            if connection.user.as_deref() == Some(&*name) {
                broker.close_connection(connection.id);
            }
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Limits as a setting; values must be whole numbers.
pub(super) fn limits(limits: Map<String, Value>) -> Result<Table, ApiError> {
    let table = json::table(limits);
    match table.0.iter().find(|(_, value)| !matches!(value, ModelValue::Int(_))) {
        None => Ok(table),
        Some((name, _)) => Err(ApiError::Invalid(format!("{name} must be a whole number"))),
    }
}
