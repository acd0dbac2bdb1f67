//! The listeners `http` and `https`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use isthmus_admin::Router;
use isthmus_broker::Peer;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{Proxies, accept_into, handshake};
use crate::connections::{Connections, Idle, IdlePlace};
use crate::tls::Tls;

/// HTTP connections open at once: monitoring, and people looking.
pub(crate) const HTTP_CONNECTIONS_MAX: u32 = 1024;

/// Of these, places that are kept free for whoever comes next: when only so many are left, the
/// connection goes that has asked for nothing for the longest time. More than are accepted in one
/// go, since those that are to go must run for it.
const HTTP_PLACES_FREE: usize = 256;

/// How long HTTP connections get to finish an answer once everything else has stopped.
const HTTP_DRAIN: Duration = Duration::from_secs(1);

/// The HTTP listeners and their connections, for http and https apart: neither takes the other's
/// places.
pub(crate) struct HttpServer {
    accepting: JoinSet<()>,
    connections: Connections,
    secure_connections: Connections,
}

impl HttpServer {
    /// Serves `router` to whoever comes.
    pub(crate) fn start(
        listeners: Vec<TcpListener>,
        secure: Vec<TcpListener>,
        tls: Option<&Tls>,
        router: &Router,
        proxies: &Proxies,
    ) -> Self {
        let connections = Connections::new(HTTP_CONNECTIONS_MAX);
        let secure_connections = Connections::new(HTTP_CONNECTIONS_MAX);
        let mut accepting = JoinSet::new();
        let idle = Idle::default();
        for listener in listeners {
            let (router, open, idle) = (router.clone(), connections.clone(), idle.clone());
            accept_into(
                &mut accepting,
                "http",
                listener,
                &connections,
                proxies,
                move |stream, peer, closing| {
                    let place = take_place(&open, &idle);
                    let (peer, router, busy) = (Peer::plain(peer), router.clone(), place.clone());
                    let set_busy = move |is_busy| busy.set_busy(is_busy);
                    let closing = closing.requested();
                    let serving =
                        isthmus_admin::serve_connection(stream, peer, router, set_busy, closing);
                    until_asked_to_go(place, serving)
                },
            );
        }
        let idle = Idle::default();
        for listener in secure {
            let Some(tls) = tls.cloned() else { break };
            let (router, open, idle) = (router.clone(), secure_connections.clone(), idle.clone());
            accept_into(
                &mut accepting,
                "https",
                listener,
                &secure_connections,
                proxies,
                move |stream, peer, closing| {
                    let place = take_place(&open, &idle);
                    let (tls, router, busy) = (tls.clone(), router.clone(), place.clone());
                    let set_busy = move |is_busy| busy.set_busy(is_busy);
                    until_asked_to_go(place, async move {
                        if let Some((stream, peer)) = handshake(&tls, "https", stream, peer).await {
                            let closing = closing.requested();
                            isthmus_admin::serve_connection(
                                stream, peer, router, set_busy, closing,
                            )
                            .await;
                        }
                    })
                },
            );
        }
        Self { accepting, connections, secure_connections }
    }

    /// Accepts nobody any more, and gives the others a moment to be answered.
    pub(crate) async fn stop(mut self) {
        self.accepting.shutdown().await;
        tokio::join!(self.connections.drain(HTTP_DRAIN), self.secure_connections.drain(HTTP_DRAIN));
    }
}

/// A place among those that ask for nothing yet; if few are free, the oldest of them goes. So
/// strangers who connect and say nothing do not keep a health check out.
fn take_place(open: &Connections, idle: &Idle) -> Arc<IdlePlace> {
    if open.open() + HTTP_PLACES_FREE > HTTP_CONNECTIONS_MAX as usize {
        idle.close_oldest();
    }
    idle.enter()
}

async fn until_asked_to_go(place: Arc<IdlePlace>, serving: impl Future<Output = ()>) {
    tokio::select! {
        () = serving => {}
        () = place.asked_to_go() => {}
    }
}
