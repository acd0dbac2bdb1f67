//! Definitions: everything that operators and applications have declared, as one JSON document in
//! RabbitMQ's form (<https://www.rabbitmq.com/docs/definitions>). What is exported there can be
//! imported here, users with their password hashes included.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use isthmus_auth::Permission;
use isthmus_broker::{Client, Leader, Unrestricted};
use isthmus_model::{Lifetime, SettingKey, SettingKind};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::bindings::{self, BindingBody};
use super::caller::{Caller, Tag};
use super::exchanges::{self, ExchangeBody};
use super::queues::{self, QueueBody};
use super::users::{self, UserBody};
use super::{Api, ApiError, ApiState, json as convert, permissions, policies, vhosts};

/// The largest document, in bytes.
pub(crate) const BYTES_MAX: usize = 32 << 20;

/// A document, as far as it is looked at. Other fields of RabbitMQ's mean nothing here.
#[derive(Debug, Default, Deserialize)]
struct Definitions {
    #[serde(default)]
    vhosts: Vec<VhostEntry>,
    #[serde(default)]
    users: Vec<UserBody>,
    #[serde(default)]
    permissions: Vec<PermissionEntry>,
    #[serde(default)]
    topic_permissions: Vec<TopicEntry>,
    #[serde(default)]
    parameters: Vec<Parameter>,
    #[serde(default)]
    policies: Vec<Map<String, Value>>,
    #[serde(default)]
    exchanges: Vec<Entry<ExchangeBody>>,
    #[serde(default)]
    queues: Vec<Entry<QueueBody>>,
    #[serde(default)]
    bindings: Vec<BindingEntry>,
}

#[derive(Debug, Deserialize)]
struct VhostEntry {
    name: String,
}

#[derive(Debug, Deserialize)]
struct PermissionEntry {
    user: String,
    vhost: String,
    configure: String,
    write: String,
    read: String,
}

#[derive(Debug, Deserialize)]
struct TopicEntry {
    user: String,
    vhost: String,
    exchange: String,
    write: String,
    read: String,
}

/// RabbitMQ keeps operator policies and limits of virtual hosts as parameters.
#[derive(Debug, Deserialize)]
struct Parameter {
    component: String,
    vhost: String,
    name: String,
    value: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Entry<T> {
    name: String,
    /// Absent in a document of one virtual host.
    vhost: Option<String>,
    #[serde(flatten)]
    body: T,
}

#[derive(Debug, Deserialize)]
struct BindingEntry {
    source: String,
    vhost: Option<String>,
    destination: String,
    destination_type: String,
    #[serde(flatten)]
    body: BindingBody,
}

pub(super) async fn export(State(api): ApiState, caller: Caller) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Administrator)?;
    let mut document = objects(&api, None).await?;
    let names = vhosts::names(&api).await?;
    document["product_name"] = "Isthmus".into();
    document["product_version"] = api.version.into();
    document["vhosts"] = names.iter().map(|name| json!({ "name": &**name })).collect();
    document["users"] = users::all(&api).await?.into();
    document["permissions"] = permissions::all(&api, |_| true).await?.into();
    document["topic_permissions"] = permissions::all_topics(&api, |_| true).await?.into();
    document["parameters"] = parameters(&api, None).await?.into();
    document["policies"] = policies::all(&api, None, SettingKind::Policy).await?.into();
    Ok(Json(document))
}

pub(super) async fn export_vhost(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_be(Tag::Administrator)?;
    caller.must_see(&api, &vhost).await?;
    let mut document = objects(&api, Some(&vhost)).await?;
    document["parameters"] = parameters(&api, Some(&vhost)).await?.into();
    let mut policies = policies::all(&api, None, SettingKind::Policy).await?;
    policies.retain(|policy| policy["vhost"] == *vhost);
    document["policies"] = policies.into();
    Ok(Json(document))
}

async fn parameters(api: &Api, vhost: Option<&str>) -> Result<Vec<Value>, ApiError> {
    let settings = api.inspect(|shard| shard.ledger().settings().clone()).await?;
    let of = |kind, component: &'static str| {
        settings.of_kind(kind).map(move |(key, table)| {
            let name = if key.name.is_empty() { "limits" } else { &*key.name };
            let value = convert::object(table);
            json!({ "component": component, "vhost": &*key.vhost, "name": name, "value": value })
        })
    };
    let all = of(SettingKind::OperatorPolicy, "operator_policy")
        .chain(of(SettingKind::VhostLimit, "vhost-limits"));
    Ok(all.filter(|p| vhost.is_none_or(|vhost| p["vhost"] == *vhost)).collect())
}

/// Exchanges, queues and bindings that clients have declared, without those that go with a
/// connection.
async fn objects(api: &Api, vhost: Option<&str>) -> Result<Value, ApiError> {
    let names = match vhost {
        Some(vhost) => vec![Arc::from(vhost)],
        None => vhosts::names(api).await?,
    };
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    // One virtual host in a turn.
    for name in names {
        let found = api.inspect(move |shard| objects_of(shard, &name)).await?;
        for (all, found) in all.iter_mut().zip(found) {
            all.extend(found);
        }
    }
    let [exchanges, queues, bindings] = all;
    Ok(json!({ "exchanges": exchanges, "queues": queues, "bindings": bindings }))
}

fn objects_of(shard: &Leader<'_>, vhost: &str) -> [Vec<Value>; 3] {
    let topology = shard.dispatcher().topology();
    let mut exchanges = exchanges::of_vhost(shard, vhost);
    exchanges
        .retain(|e| e["name"].as_str().is_some_and(|n| !n.is_empty() && !n.starts_with("amq.")));
    for exchange in &mut exchanges {
        if let Some(exchange) = exchange.as_object_mut() {
            exchange.remove("policy");
        }
    }
    let queues = topology.queues(vhost).unwrap_or_default();
    let queues = queues.into_iter().filter(|q| !matches!(q.def.lifetime, Lifetime::Exclusive(_)));
    let queues = queues.map(|queue| {
        let def = &queue.def;
        json!({
            "name": &*def.name,
            "vhost": vhost,
            "durable": def.lifetime == Lifetime::Durable,
            "auto_delete": def.auto_delete,
            "arguments": convert::object(&def.arguments),
        })
    });
    let bindings = bindings::of_vhost(shard, vhost, false);
    let is_kept = |binding: &&isthmus_model::BindingDef| match &binding.destination {
        isthmus_model::Destination::Queue(name) => topology
            .queue(vhost, name)
            .is_ok_and(|queue| !matches!(queue.def.lifetime, Lifetime::Exclusive(_))),
        isthmus_model::Destination::Exchange(_) => true,
    };
    let bindings = bindings.iter().filter(is_kept).map(|binding| {
        let (destination, kind) = match &binding.destination {
            isthmus_model::Destination::Queue(name) => (name, "queue"),
            isthmus_model::Destination::Exchange(name) => (name, "exchange"),
        };
        json!({
            "source": &*binding.source,
            "vhost": vhost,
            "destination": &**destination,
            "destination_type": kind,
            "routing_key": &*binding.routing_key,
            "arguments": convert::object(&binding.arguments),
        })
    });
    [exchanges, queues.collect(), bindings.collect()]
}

pub(super) async fn import(
    State(api): ApiState,
    caller: Caller,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    import_all(&api, &body).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn import_vhost(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    caller.must_be(Tag::Administrator)?;
    caller.must_see(&api, &vhost).await?;
    let definitions = read(&body)?;
    Importer::new(&api, Some(&vhost)).objects(definitions).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn read(document: &[u8]) -> Result<Definitions, ApiError> {
    serde_json::from_slice(document)
        .map_err(|error| ApiError::Invalid(format!("definitions: {error}")))
}

/// Imports a whole document. What is there already is taken as it is asked for now, except that
/// queues and exchanges that differ are refused.
pub(super) async fn import_all(api: &Api, document: &[u8]) -> Result<(), ApiError> {
    let mut definitions = read(document)?;
    for vhost in &definitions.vhosts {
        vhosts::declare(api, &vhost.name).await.map_err(within("vhost", &vhost.name))?;
    }
    for mut body in std::mem::take(&mut definitions.users) {
        let name = body.name.take().unwrap_or_default();
        let limits = std::mem::take(&mut body.limits);
        import_user(api, &name, body, limits).await.map_err(within("user", &name))?;
    }
    for entry in &definitions.permissions {
        let key = SettingKey::of_vhost(SettingKind::Permission, &entry.vhost, &entry.user);
        let table = Permission::table(&entry.configure, &entry.write, &entry.read);
        api.set(key, Some(table)).await.map_err(within("permission of user", &entry.user))?;
    }
    for entry in &definitions.topic_permissions {
        let patterns = Some((&*entry.write, &*entry.read));
        permissions::set_topic(api, &entry.vhost, &entry.user, &entry.exchange, patterns)
            .await
            .map_err(within("topic permission of user", &entry.user))?;
    }
    Importer::new(api, None).objects(definitions).await
}

async fn import_user(
    api: &Api,
    name: &str,
    body: UserBody,
    limits: Map<String, Value>,
) -> Result<(), ApiError> {
    let user = users::user(api, name, body).await?;
    api.set(SettingKey::global(SettingKind::User, name), Some(user.table())).await?;
    if !limits.is_empty() {
        let key = SettingKey::global(SettingKind::UserLimit, name);
        api.set(key, Some(users::limits(limits)?)).await?;
    }
    Ok(())
}

/// Says of what an error is.
fn within<'n>(what: &'n str, name: &'n str) -> impl Fn(ApiError) -> ApiError + use<'n> {
    move |error| match error {
        ApiError::Unavailable => ApiError::Unavailable,
        other => ApiError::Invalid(format!("{what} '{name}': {other}")),
    }
}

/// Declares what a document holds, with a session for each virtual host.
struct Importer<'a> {
    api: &'a Api,
    /// The only virtual host, whatever the document says.
    only: Option<&'a str>,
    clients: HashMap<String, Client>,
}

impl<'a> Importer<'a> {
    fn new(api: &'a Api, only: Option<&'a str>) -> Importer<'a> {
        Importer { api, only, clients: HashMap::new() }
    }

    async fn objects(mut self, definitions: Definitions) -> Result<(), ApiError> {
        for parameter in definitions.parameters {
            let vhost = self.vhost(Some(&parameter.vhost))?;
            let key = match &*parameter.component {
                "operator_policy" => {
                    SettingKey::of_vhost(SettingKind::OperatorPolicy, &vhost, &parameter.name)
                }
                "vhost-limits" => SettingKey::of_vhost(SettingKind::VhostLimit, &vhost, ""),
                // What other parts of RabbitMQ keep (federation, shovels) has no meaning here.
                component => {
                    tracing::warn!(component, name = parameter.name, "a parameter is left out");
                    continue;
                }
            };
            let set = policies::set(self.api, key, parameter.value).await;
            set.map_err(within("parameter", &parameter.name))?;
        }
        for policy in definitions.policies {
            let text = |field: &str| policy.get(field).and_then(Value::as_str);
            let name = text("name").unwrap_or_default().to_owned();
            let vhost = self.vhost(text("vhost"))?;
            let key = SettingKey::of_vhost(SettingKind::Policy, &vhost, &name);
            policies::set(self.api, key, policy).await.map_err(within("policy", &name))?;
        }
        for Entry { name, vhost, body } in definitions.exchanges {
            let (_, client) = self.client(vhost.as_deref()).await?;
            let declared = exchanges::declare_with(client, name.as_str().into(), body).await;
            declared.map_err(within("exchange", &name))?;
        }
        for Entry { name, vhost, body } in definitions.queues {
            let (vhost, client) = self.client(vhost.as_deref()).await?;
            let declared = queues::declare_with(client, &vhost, name.as_str().into(), body).await;
            declared.map_err(within("queue", &name))?;
        }
        for entry in definitions.bindings {
            let BindingEntry { source, vhost, destination, destination_type, body } = entry;
            let (_, client) = self.client(vhost.as_deref()).await?;
            let bound =
                bindings::bind_with(client, &source, &destination_type, &destination, body).await;
            bound.map_err(within("binding from", &source))?;
        }
        Ok(())
    }

    fn vhost(&self, named: Option<&str>) -> Result<String, ApiError> {
        let vhost = self.only.or(named).map(str::to_owned);
        vhost.ok_or_else(|| ApiError::Invalid("every object needs a 'vhost'".to_owned()))
    }

    async fn client(&mut self, named: Option<&str>) -> Result<(String, &mut Client), ApiError> {
        let vhost = self.vhost(named)?;
        if !self.clients.contains_key(&vhost) {
            let broker = self.api.broker()?;
            let client = broker.client(vhost.as_str().into(), Box::new(Unrestricted)).await?;
            self.clients.insert(vhost.clone(), client);
        }
        let client = self.clients.get_mut(&vhost).ok_or(ApiError::Unavailable)?;
        Ok((vhost, client))
    }
}
