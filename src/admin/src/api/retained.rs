//! What exchanges keep.

use axum::Json;
use axum::extract::{Path, Query, State};
use isthmus_model::{RecordFlags, Time};
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::Caller;
use super::{ApiError, ApiState};

/// Messages of one answer at the most.
const COUNT_MAX: usize = 1_000;

/// Which part of what an exchange keeps is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct PageQuery {
    /// How many messages at the most.
    count: Option<usize>,
    /// The routing key behind which it goes on: the `next` of the answer before.
    after: Option<String>,
}

/// What an exchange keeps, in the order of the words of the routing keys; without the bodies, which
/// whoever may read them recalls.
pub(super) async fn list(
    State(api): ApiState,
    caller: Caller,
    Path((vhost, exchange)): Path<(String, String)>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Value>, ApiError> {
    caller.must_see(&api, &vhost).await?;
    let found = api.inspect(move |shard| {
        let dispatcher = shard.dispatcher();
        dispatcher.topology().exchange(&vhost, &exchange).ok()?;
        let kept = dispatcher.kept();
        let count = page.count.unwrap_or(COUNT_MAX).clamp(1, COUNT_MAX);
        let mut messages = kept.iter_from(&vhost, &exchange, page.after.as_deref());
        let shown: Vec<(String, Value)> = messages
            .by_ref()
            .take(count)
            .map(|(key, message)| {
                let record = &message.batch.records[0];
                let expires_at = message.expires_at();
                let value = json!({
                    "routing_key": key,
                    "payload_bytes": record.body.len,
                    "durable": record.flags.has(RecordFlags::DURABLE),
                    "since": message.since.as_millis(),
                    "expires_at": (expires_at != Time::NEVER).then(|| expires_at.as_millis()),
                });
                (key, value)
            })
            .collect();
        let next = messages.next().and(shown.last()).map(|(key, _)| key.clone());
        let size = kept.size_of_exchange(&vhost, &exchange);
        let shown: Vec<Value> = shown.into_iter().map(|(_, value)| value).collect();
        Some(json!({
            "messages": size.messages,
            "bytes": size.bytes,
            "retained": shown,
            "next": next,
        }))
    });
    found.await?.map(Json).ok_or(ApiError::NotFound)
}
