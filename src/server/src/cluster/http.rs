//! Requests that come to a standby and are the leader's to answer: those of the management API, and
//! what changes the cluster.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router, middleware};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use isthmus_broker::Peer;
use isthmus_broker::cluster::peer::PeerStream;
use serde_json::json;

use super::api::Operations;

/// The listener that requests are passed through by.
pub(crate) const LISTENER: &str = "http";

/// Has `router` pass what is the leader's to answer through to it.
pub(crate) fn passing(router: Router, operations: Arc<Operations>) -> Router {
    router.layer(middleware::from_fn_with_state(operations, pass))
}

/// Whether the leader is to answer. Health, figures and what a node knows of its cluster are each
/// node's own, and a backup is one of the node that is asked; what changes the cluster is the
/// leader's to do.
fn is_for_leader(path: &str) -> bool {
    match path {
        "/api/cluster/remove" | "/api/cluster/transfer" => true,
        "/api/backup" => false,
        _ => path.starts_with("/api/") && !path.starts_with("/api/cluster"),
    }
}

async fn pass(
    State(operations): State<Arc<Operations>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let clients = operations.clients().filter(|_| is_for_leader(request.uri().path()));
    let Some(clients) = clients else { return next.run(request).await };
    match clients.leader(LISTENER, &peer).await {
        None => next.run(request).await,
        Some(Ok(leader)) => forward(leader, request).await.unwrap_or_else(|error| failed(&error)),
        Some(Err(error)) => failed(&error),
    }
}

async fn forward(leader: impl PeerStream + 'static, mut request: Request) -> io::Result<Response> {
    // It is about the connection between client and standby.
    request.headers_mut().remove(header::CONNECTION);
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(leader)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(io::Error::other);
    if answer.is_err() {
        connection.abort();
    }
    let mut answer = answer?.map(Body::new);
    answer.headers_mut().remove(header::CONNECTION);
    Ok(answer)
}

fn failed(error: &io::Error) -> Response {
    let body = Json(json!({
        "error": "not_leader",
        "reason": format!("the leader does not answer: {error}"),
    }));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::is_for_leader;

    #[test]
    fn each_node_speaks_for_itself_of_health_and_the_cluster() {
        for path in ["/api/queues", "/api/overview", "/api/cluster/remove", "/api/cluster/transfer"]
        {
            assert!(is_for_leader(path), "{path}");
        }
        for own in ["/health/ready", "/metrics", "/api/cluster", "/api/cluster/join", "/api/backup"]
        {
            assert!(!is_for_leader(own), "{own}");
        }
    }
}
