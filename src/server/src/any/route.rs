//! WebSockets at the listeners `http` and `https`, under the path that users of RabbitMQ know.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router, routing};
use bytes::BytesMut;
use hyper_util::rt::TokioIo;
use isthmus_broker::Peer;
use isthmus_front::frames::Frames;
use isthmus_front::upgrade;

use super::AnySettings;
use crate::broker::Broker;
use crate::cluster::Clients;
use crate::connections::{Connections, Next};
use crate::listeners::take;

/// The path: that of RabbitMQ's Web STOMP and Web MQTT alike.
const PATH: &str = "/ws";

/// Where WebSockets go. Clones share it.
#[derive(Clone)]
pub(crate) struct Gate {
    settings: AnySettings,
    /// With which they are counted: they are clients, and no longer requests.
    connections: Connections,
    open: Arc<OnceLock<(Broker, Clients)>>,
}

impl Gate {
    /// Nobody is let in yet.
    pub(crate) fn new(settings: AnySettings, connections: Connections) -> Gate {
        Gate { settings, connections, open: Arc::default() }
    }

    /// Clients are served from now on.
    pub(crate) fn open(&self, broker: Broker, clients: Clients) {
        // Once, when the broker has started.
        self.open.set((broker, clients)).ok();
    }
}

/// The route.
pub(crate) fn router(gate: Gate) -> Router {
    Router::new().route(PATH, routing::any(upgrade)).with_state(gate)
}

async fn upgrade(
    State(gate): State<Gate>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
) -> Response {
    let (answer, subprotocol) = upgrade::answer(&request, &gate.settings.origins);
    let Some(subprotocol) = subprotocol else { return answer.map(Body::from) };
    let Some((broker, clients)) = gate.open.get().cloned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the broker starts\n").into_response();
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let timeout = gate.settings.timeout;
    let is_taken = gate.connections.spawn(|closing| async move {
        let Ok(Ok(stream)) = tokio::time::timeout(timeout, upgraded).await else {
            return Next::NOTHING;
        };
        let frames = Frames::new(TokioIo::new(stream), BytesMut::new(), subprotocol.payload());
        take(broker, clients, subprotocol.name(), frames, peer, closing).await
    });
    if !is_taken {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many connections are open\n")
            .into_response();
    }
    answer.map(Body::from)
}
