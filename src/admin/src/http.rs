//! The HTTP side: routes, and one connection served within bounds.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http_body_util::Limited;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use isthmus_broker::Peer;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::api::{self, Api};
use crate::health::{Report, Status};
use crate::metrics::{self, Metrics};

/// The time a client has to send the head of its request, counted from the connection or from the
/// previous answer; then the connection is closed.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(8);

/// The largest request body, in bytes.
pub const REQUEST_BODY_BYTES_MAX: usize = 64 * 1024;

/// The largest head of a request and the most that is buffered of a connection, in bytes.
const BUFFER_BYTES_MAX: usize = 16 * 1024;

/// OpenMetrics text, which is what the encoder writes and Prometheus asks for first.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the routes report on.
#[derive(Clone, Debug)]
pub struct Admin {
    status: Arc<Status>,
    registry: Arc<Registry>,
}

impl Admin {
    /// Reports `status`, and the figures of `metrics` with those of the process.
    #[must_use]
    pub fn new(status: Arc<Status>, metrics: Arc<dyn Metrics>) -> Self {
        let registry = Arc::new(metrics::registry(Arc::clone(&status), metrics));
        Self { status, registry }
    }
}

/// The routes.
///
/// - `/health/live`: 200 while the process serves HTTP.
/// - `/health/ready`: 200 while clients are served, otherwise 503.
/// - `/metrics`: OpenMetrics text.
/// - `/api/…`: the management API, if there is one.
pub fn router(admin: Admin, api: Option<Arc<Api>>) -> Router {
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(scrape))
        .with_state(admin)
        .merge(api.map(api::router).unwrap_or_default())
        .layer(middleware::from_fn(limit_body))
}

async fn live(State(admin): State<Admin>) -> Response {
    json(StatusCode::OK, &admin.status.report("live"))
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.status.is_ready() {
        json(StatusCode::OK, &admin.status.report("ready"))
    } else {
        json(StatusCode::SERVICE_UNAVAILABLE, &admin.status.report("unavailable"))
    }
}

async fn scrape(State(admin): State<Admin>) -> Response {
    // Figures of the process come from files, and the broker may have to gather its own.
    let encoded = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &admin.registry).map(|()| text)
    });
    match encoded.await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Ok(Err(_)) | Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn json(status: StatusCode, report: &Report) -> Response {
    match serde_json::to_string(report) {
        Ok(body) => {
            let headers = [
                (header::CONTENT_TYPE, "application/json"),
                // A health check must never be answered from a cache on the way.
                (header::CACHE_CONTROL, "no-store"),
            ];
            (status, headers, body).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Refuses bodies beyond the limit: announced ones at once, others when they get there.
async fn limit_body(request: Request, next: Next) -> Response {
    let announced = request.headers().get(header::CONTENT_LENGTH).map(HeaderValue::to_str);
    let length = match announced {
        None => Some(0),
        Some(text) => text.ok().and_then(|text| text.parse::<usize>().ok()),
    };
    let is_definitions = request.uri().path().starts_with("/api/definitions");
    let max = if is_definitions { api::DEFINITIONS_BYTES_MAX } else { REQUEST_BODY_BYTES_MAX };
    if length.is_none_or(|length| length > max) {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    next.run(request.map(|body| Body::new(Limited::new(body, max)))).await
}

/// Serves one accepted connection until the client closes it, is too slow, or `closing` completes
/// and the request being answered is finished. `set_busy` is told when a request begins (true),
/// which is when its head is complete, and when it is answered. What becomes a connection of another
/// protocol (RFC 9110, section 7.8) is over here as soon as it does.
pub async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    set_busy: impl Fn(bool) + Clone + Send + Sync + 'static,
    closing: impl Future<Output = ()> + Send,
) {
    let report = move |request: Request, next: Next| {
        let set_busy = set_busy.clone();
        async move {
            set_busy(true);
            let response = next.run(request).await;
            set_busy(false);
            response
        }
    };
    // Handlers find out by the peer who asks.
    let router = router.layer(Extension(peer)).layer(middleware::from_fn(report));
    serve_within(HEAD_TIMEOUT, stream, router, closing).await;
}

async fn serve_within(
    head_timeout: Duration,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    closing: impl Future<Output = ()> + Send,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = closing => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients that vanish or dawdle are everyday.
        tracing::debug!(%error, "HTTP connection ended");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{Role, Snapshot};

    #[derive(Debug)]
    struct Fixed;

    impl Metrics for Fixed {
        fn snapshot(&self) -> Snapshot {
            Snapshot {
                connections: 3,
                sessions_open: 2,
                sessions_kept: 4,
                messages_published_total: 7,
                log_syncs_total: 5,
                ..Snapshot::default()
            }
        }
    }

    fn admin() -> (Arc<Status>, Router) {
        let status = Arc::new(Status::new(Role::Single, "1.2.3"));
        (Arc::clone(&status), router(Admin::new(status, Arc::new(Fixed)), None))
    }

    /// A client connected to a served router.
    async fn connect(
        router: Router,
        closing: impl Future<Output = ()> + Send + 'static,
    ) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let client = TcpStream::connect(listener.local_addr().expect("address"));
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (stream, _) = accepted.expect("accepted");
        tokio::spawn(serve_within(Duration::from_millis(300), stream, router, closing));
        client.expect("connected")
    }

    async fn exchange(router: Router, request: &str) -> String {
        let mut client = connect(router, std::future::pending()).await;
        client.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("read");
        answer
    }

    async fn get_path(router: Router, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        exchange(router, &request).await
    }

    #[tokio::test]
    async fn ready_follows_the_status_and_live_does_not() {
        let (status, router) = admin();
        assert!(get_path(router.clone(), "/health/live").await.starts_with("HTTP/1.1 200"));
        let before = get_path(router.clone(), "/health/ready").await;
        assert!(before.starts_with("HTTP/1.1 503"), "{before}");
        status.set_ready(true);
        let after = get_path(router, "/health/ready").await;
        assert!(after.starts_with("HTTP/1.1 200"), "{after}");
        let body =
            r#"{"status":"ready","role":"single","version":"1.2.3","uptime_s":0,"alarms":[]}"#;
        assert!(after.ends_with(body), "{after}");
    }

    #[tokio::test]
    async fn metrics_carry_prefix_unit_and_total() {
        let answer = get_path(admin().1, "/metrics").await;
        for line in [
            "isthmus_connections 3",
            "isthmus_sessions{connected=\"true\"} 2",
            "isthmus_sessions{connected=\"false\"} 4",
            "isthmus_messages_published_total 7",
            "isthmus_log_syncs_total 5",
            "isthmus_ready 0",
        ] {
            assert!(answer.contains(&format!("\n{line}\n")), "{line} is missing from {answer}");
        }
        assert!(answer.contains("isthmus_process_resident_memory_bytes "), "{answer}");
        assert!(answer.contains("isthmus_process_cpu_seconds_total "), "{answer}");
        assert!(answer.contains(METRICS_TYPE));
        assert!(answer.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn large_bodies_are_refused() {
        let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                       content-length: 10000000\r\n\r\n";
        assert!(exchange(admin().1, request).await.starts_with("HTTP/1.1 413"));
    }

    #[tokio::test]
    async fn endless_headers_are_refused() {
        let request = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(BUFFER_BYTES_MAX));
        assert!(exchange(admin().1, &request).await.starts_with("HTTP/1.1 431"));
    }

    /// Real time and not tokio's paused clock: auto-advance would run ahead of the sockets.
    #[tokio::test]
    async fn clients_that_dawdle_are_closed() {
        let started = std::time::Instant::now();
        let silent = exchange(admin().1, "");
        let partial = exchange(admin().1, "GET /metrics HTTP/1.1\r\nhos");
        let (silent, _) = tokio::join!(silent, partial);
        assert_eq!(silent, "");
        assert!(started.elapsed() < HEAD_TIMEOUT);
    }

    #[tokio::test]
    async fn an_idle_connection_closes_when_asked() {
        let (ask, asked) = tokio::sync::oneshot::channel::<()>();
        let closing = async {
            asked.await.ok();
        };
        let mut client = connect(admin().1, closing).await;
        let request = "GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n";
        client.write_all(request.as_bytes()).await.expect("written");
        let mut start = [0; 12];
        client.read_exact(&mut start).await.expect("answered");
        assert_eq!(&start, b"HTTP/1.1 200");
        ask.send(()).expect("still served");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("closed");
    }
}
