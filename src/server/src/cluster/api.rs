//! `/api/cluster`: what operators ask of a cluster, also while it is formed and has no users.
//!
//! Any node may be asked: what is the leader's to do is passed on to it before it comes here (see
//! [`super::http`]).
//!
//! Who knows the cluster's token may ask (`Authorization: Bearer …`); without a token, who is on
//! this machine.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use isthmus_broker::cluster::member::{ChangeError, Role};
use isthmus_broker::cluster::peer::MemberId;
use isthmus_broker::{Broker, HandOverError, Membership, Peer};
use isthmus_ldap::Secret;
use serde::Deserialize;
use serde_json::{Value, json};

use super::clients::Clients;
use super::forming::Forming;

/// How long a leader may take to hand over before it is said that it did not.
const HAND_OVER: Duration = Duration::from_secs(5);

/// What the routes work with.
pub(crate) struct Operations {
    token: Secret,
    forming: Arc<Forming>,
    broker: OnceLock<Broker>,
    clients: OnceLock<Clients>,
}

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the cluster's token is needed (Authorization: Bearer …), or a client on this machine")]
    Unauthorized,
    #[error("this node is no member of a cluster yet")]
    NoMember,
    #[error("nobody leads at the moment, or the leader has just changed: ask again in a moment")]
    NobodyLeads,
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Change(ChangeError),
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Refusal {
        match error {
            ChangeError::NotLeader => Refusal::NobodyLeads,
            error => Refusal::Change(error),
        }
    }
}

impl From<HandOverError> for Refusal {
    fn from(error: HandOverError) -> Refusal {
        match error {
            HandOverError::NotLeader => Refusal::NobodyLeads,
            error => Refusal::Conflict(error.to_string()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Refusal::Unauthorized => StatusCode::UNAUTHORIZED,
            Refusal::NoMember | Refusal::NobodyLeads | Refusal::Change(ChangeError::Ended) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Refusal::Conflict(_) | Refusal::Change(_) => StatusCode::CONFLICT,
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

impl Operations {
    pub(crate) fn new(token: Secret, forming: Arc<Forming>) -> Operations {
        Operations { token, forming, broker: OnceLock::new(), clients: OnceLock::new() }
    }

    pub(crate) fn set_broker(&self, broker: Broker) {
        // Set once, when the broker has started.
        self.broker.set(broker).ok();
    }

    pub(crate) fn set_clients(&self, clients: Clients) {
        // Set once, when clients are served.
        self.clients.set(clients).ok();
    }

    /// Where clients go, once they are served.
    pub(super) fn clients(&self) -> Option<&Clients> {
        self.clients.get()
    }

    fn membership(&self) -> Result<&Membership, Refusal> {
        self.broker.get().and_then(Broker::membership).ok_or(Refusal::NoMember)
    }
}

/// The routes.
pub(crate) fn router(operations: Arc<Operations>) -> Router {
    Router::new()
        .route("/api/cluster", get(status))
        .route("/api/cluster/init", post(init))
        .route("/api/cluster/join", post(join))
        .route("/api/cluster/transfer", post(transfer))
        .route("/api/cluster/remove", post(remove))
        .layer(middleware::from_fn_with_state(Arc::clone(&operations), authorize))
        .with_state(operations)
}

async fn authorize(
    State(operations): State<Arc<Operations>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let token = operations.token.reveal();
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    let may = if token.is_empty() {
        peer.address.ip().to_canonical().is_loopback()
    } else {
        given.is_some_and(|given| is_same(given.as_bytes(), token.as_bytes()))
    };
    if may { next.run(request).await } else { Refusal::Unauthorized.into_response() }
}

/// Compares in a time that does not tell how much is the same.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

async fn status(State(operations): State<Arc<Operations>>) -> Json<Value> {
    let identity = operations.forming.identity();
    let Ok(membership) = operations.membership() else {
        return Json(json!({
            "state": if identity.is_some() { "starting" } else { "forming" },
            "nodes": operations.forming.nodes().iter().map(|(_, addr)| addr).collect::<Vec<_>>(),
        }));
    };
    let status = membership.status();
    let members: Vec<Value> = status
        .peers
        .iter()
        .map(|peer| {
            json!({
                "member": peer.peer.id.0,
                "node": peer.peer.id.node(),
                "address": peer.peer.addr,
                "voter": peer.is_voter,
                "leader": Some(peer.peer.id) == status.leader,
                "matched": peer.matched,
                "lag": peer.matched.map(|matched| status.last.saturating_sub(matched)),
                "silent_ms": peer.silent.map(|silent| silent.as_millis() as u64),
            })
        })
        .collect();
    Json(json!({
        "state": "member",
        "cluster": identity.map(|identity| identity.cluster.to_string()),
        "member": status.id.0,
        "node": status.id.node(),
        "role": match status.role {
            Role::Leader => "leader",
            Role::Follower => "standby",
            Role::Learner => "learner",
        },
        "term": status.term,
        "leader": status.leader.map(|leader| leader.0),
        "last": status.last,
        "committed": status.committed,
        "members": members,
    }))
}

async fn init(State(operations): State<Arc<Operations>>) -> Result<StatusCode, Refusal> {
    operations.forming.begin_alone().map_err(Refusal::Conflict)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Join {
    /// Where the peers of a node of the cluster reach it.
    address: String,
}

async fn join(
    State(operations): State<Arc<Operations>>,
    Json(join): Json<Join>,
) -> Result<StatusCode, Refusal> {
    operations.forming.also_ask(join.address).map_err(Refusal::Conflict)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Transfer {
    /// To which member; the one that lacks least if it is not said.
    member: Option<u64>,
}

async fn transfer(
    State(operations): State<Arc<Operations>>,
    Json(transfer): Json<Transfer>,
) -> Result<StatusCode, Refusal> {
    let membership = operations.membership()?;
    membership.hand_over(transfer.member.map(MemberId), HAND_OVER).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Remove {
    /// Which member.
    member: u64,
}

async fn remove(
    State(operations): State<Arc<Operations>>,
    Json(remove): Json<Remove>,
) -> Result<StatusCode, Refusal> {
    operations.membership()?.member().remove(MemberId(remove.member)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn tokens_are_the_same_or_not() {
        assert!(is_same(b"secret", b"secret"));
        assert!(!is_same(b"secret", b"secres") && !is_same(b"secret", b"secre"));
    }
}
