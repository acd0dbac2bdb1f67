//! The whole at a glance, and checks for monitoring.

use axum::Json;
use axum::extract::{Path, State};
use isthmus_contract::{Command, declare};
use isthmus_model::{Lifetime, Table, TopologyChange};
use serde_json::{Value, json};

use super::caller::Caller;
use super::{ApiError, ApiState};

/// The queue that shows that a virtual host is alive.
const ALIVENESS_QUEUE: &str = "aliveness-test";

pub(super) async fn whoami(caller: Caller) -> Json<Value> {
    Json(json!({ "name": &**caller.user.name(), "tags": caller.tags }))
}

pub(super) async fn overview(
    State(api): ApiState,
    _caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let connections = api.broker()?.connections().len();
    let mut totals = api
        .inspect(|shard| {
            let dispatcher = shard.dispatcher();
            let queues = dispatcher.queue_statuses();
            let topology = dispatcher.topology();
            let exchanges: usize = topology
                .vhosts()
                .into_iter()
                .filter_map(|vhost| topology.exchanges(vhost).ok())
                .map(|exchanges| exchanges.len())
                .sum();
            let ready: u64 = queues.iter().map(|queue| queue.ready).sum();
            let unacked: u64 = queues.iter().map(|queue| queue.unacked).sum();
            let counters = dispatcher.counters();
            json!({
                "object_totals": {
                    "consumers": dispatcher.consumer_count(),
                    "exchanges": exchanges,
                    "queues": queues.len(),
                },
                "queue_totals": {
                    "messages": ready + unacked,
                    "messages_ready": ready,
                    "messages_unacknowledged": unacked,
                },
                "message_stats": {
                    "publish": counters.published,
                    "deliver_get": counters.delivered,
                    "redeliver": counters.redelivered,
                    "ack": counters.acknowledged,
                    "drop_unroutable": counters.unroutable,
                },
            })
        })
        .await?;
    totals["object_totals"]["connections"] = connections.into();
    totals["product_name"] = "Isthmus".into();
    totals["product_version"] = api.version.into();
    Ok(Json(totals))
}

/// Answers once the broker's core does.
pub(super) async fn alarms(State(api): ApiState, _caller: Caller) -> Result<Json<Value>, ApiError> {
    api.inspect(|_| ()).await?;
    Ok(Json(json!({ "status": "ok" })))
}

/// Declares a queue and finds it: the whole way through the log and back.
pub(super) async fn aliveness(
    State(api): ApiState,
    caller: Caller,
    Path(vhost): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let mut client = caller.client(&api, &vhost).await?;
    let name = ALIVENESS_QUEUE.into();
    let def = declare::queue(name, Lifetime::Durable, false, Table::default(), &vhost)?;
    let change = TopologyChange::DeclareQueue(def);
    client.ask(|token| Command::Topology { token, change }).await?;
    let change = TopologyChange::LookUpQueue { name: ALIVENESS_QUEUE.into() };
    client.ask(|token| Command::Topology { token, change }).await?;
    Ok(Json(json!({ "status": "ok" })))
}
