//! Bindings.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use isthmus_broker::{Client, Leader};
use isthmus_contract::Command;
use isthmus_model::{BindingDef, Destination, TopologyChange};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::caller::Caller;
use super::error::Body;
use super::{Api, ApiError, ApiState, json as convert, vhosts};

/// Names a binding between two ends: its key, and what tells its arguments apart. It is the same
/// for as long as the process runs.
fn properties_key(binding: &BindingDef) -> String {
    if binding.arguments.is_empty() {
        return match &*binding.routing_key {
            "" => "~".to_owned(),
            key => key.to_owned(),
        };
    }
    let mut hasher = DefaultHasher::new();
    convert::object(&binding.arguments).to_string().hash(&mut hasher);
    format!("{}~{:016x}", binding.routing_key, hasher.finish())
}

fn show(vhost: &str, binding: &BindingDef) -> Value {
    let (destination, kind) = match &binding.destination {
        Destination::Queue(name) => (name, "queue"),
        Destination::Exchange(name) => (name, "exchange"),
    };
    json!({
        "source": &*binding.source,
        "vhost": vhost,
        "destination": &**destination,
        "destination_type": kind,
        "routing_key": &*binding.routing_key,
        "arguments": convert::object(&binding.arguments),
        "properties_key": properties_key(binding),
    })
}

/// Every binding of a virtual host, those of the default exchange (every queue by its name) among
/// them if `implicit`.
pub(super) fn of_vhost(shard: &Leader<'_>, vhost: &str, implicit: bool) -> Vec<BindingDef> {
    let topology = shard.dispatcher().topology();
    let mut all: Vec<BindingDef> = Vec::new();
    if implicit {
        let queues = topology.queues(vhost).unwrap_or_default();
        all.extend(queues.into_iter().map(|queue| BindingDef {
            source: "".into(),
            destination: Destination::Queue(Arc::clone(&queue.def.name)),
            routing_key: Arc::clone(&queue.def.name),
            arguments: isthmus_model::Table::default(),
        }));
    }
    if let Ok(bindings) = topology.bindings(vhost) {
        all.extend(bindings.cloned());
    }
    all
}

async fn matching(
    api: &Api,
    vhost: String,
    wanted: impl Fn(&BindingDef) -> bool + Send + 'static,
) -> Result<Json<Value>, ApiError> {
    let shown = api.inspect(move |shard| {
        let all = of_vhost(shard, &vhost, true);
        all.iter().filter(|b| wanted(b)).map(|b| show(&vhost, b)).collect()
    });
    Ok(Json(Value::Array(shown.await?)))
}

pub(super) async fn list(State(api): ApiState, caller: Caller) -> Result<Json<Value>, ApiError> {
    let mut all = Vec::new();
    for vhost in vhosts::seen_by(&caller, &api).await? {
        if let Json(Value::Array(found)) = matching(&api, vhost.to_string(), |_| true).await? {
            all.extend(found);
        }
    }
    Ok(Json(Value::Array(all)))
}

pub(super) async fn list_of_vhost(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    matching(&api, vhost, |_| true).await
}

pub(super) async fn list_of_queue(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, name)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    let queue = Destination::Queue(name.into());
    matching(&api, vhost, move |binding| binding.destination == queue).await
}

pub(super) async fn list_from(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, name)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    matching(&api, vhost, move |binding| *binding.source == *name).await
}

pub(super) async fn list_to(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, name)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    let exchange = Destination::Exchange(name.into());
    matching(&api, vhost, move |binding| binding.destination == exchange).await
}

/// The two ends of a path, in which `q` stands for a queue and `e` for an exchange.
fn destination(kind: &str, name: &str) -> Result<Destination, ApiError> {
    match kind {
        "q" | "queue" => Ok(Destination::Queue(name.into())),
        "e" | "exchange" => Ok(Destination::Exchange(name.into())),
        _ => Err(ApiError::NotFound),
    }
}

pub(super) async fn list_between(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, source, kind, name)): Path<(String, String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    let end = destination(&kind, &name)?;
    matching(&api, vhost, move |b| *b.source == *source && b.destination == end).await
}

/// A binding as it is asked for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct BindingBody {
    #[serde(default)]
    routing_key: String,
    #[serde(default)]
    arguments: Map<String, Value>,
}

/// Binds; `kind` is as in a path or as in definitions.
pub(super) async fn bind_with(
    client: &mut Client,
    source: &str,
    kind: &str,
    name: &str,
    body: BindingBody,
) -> Result<BindingDef, ApiError> {
    let binding = BindingDef {
        source: source.into(),
        destination: destination(kind, name)?,
        routing_key: body.routing_key.into(),
        arguments: convert::table(body.arguments),
    };
    let change = TopologyChange::Bind(binding.clone());
    client.ask(|token| Command::Topology { token, change }).await?;
    Ok(binding)
}

pub(super) async fn post(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, source, kind, name)): Path<(String, String, String, String)>,
    body: Body<BindingBody>,
) -> Result<Response, ApiError> {
    let Json(body) = body?;
    let mut client = caller.client(&api, &vhost).await?;
    let binding = bind_with(&mut client, &source, &kind, &name, body).await?;
    let location = HeaderValue::from_str(&properties_key(&binding));
    let mut response = StatusCode::CREATED.into_response();
    // A key that no header can hold is left out.
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

type OnePath = Path<(String, String, String, String, String)>;

async fn find(
    api: &Api,
    Path((vhost, source, kind, name, properties)): OnePath,
) -> Result<(String, BindingDef), ApiError> {
    let end = destination(&kind, &name)?;
    let asked = vhost.clone();
    let found = api.inspect(move |shard| {
        of_vhost(shard, &asked, true).into_iter().find(|b| {
            *b.source == *source && b.destination == end && properties_key(b) == properties
        })
    });
    found.await?.map(|binding| (vhost, binding)).ok_or(ApiError::NotFound)
}

pub(super) async fn get(
    State(api): ApiState,
    caller: Caller,
    path: OnePath,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &path.0.0).await?;
    let (vhost, binding) = find(&api, path).await?;
    Ok(Json(show(&vhost, &binding)))
}

pub(super) async fn delete(
    State(api): ApiState,
    caller: Caller,
    path: OnePath,
) -> Result<StatusCode, ApiError> {
    let mut client = caller.client(&api, &path.0.0).await?;
    let (_, binding) = find(&api, path).await?;
    let change = TopologyChange::Unbind(binding);
    client.ask(|token| Command::Topology { token, change }).await?;
    Ok(StatusCode::NO_CONTENT)
}
