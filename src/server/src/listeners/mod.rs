//! The listeners that clients of the broker come to, by their names in the configuration.

mod http;
mod proxies;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_admin::Router;
use isthmus_broker::Peer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

pub(crate) use http::{HTTP_CONNECTIONS_MAX, HttpServer};
pub(crate) use proxies::Proxies;

use crate::any;
use crate::broker::Broker;
use crate::cluster::{self, Clients, Serve, Taken};
use crate::config::{ListenAddrs, Listeners, ServerNames};
use crate::connections::{Closing, Connections, Next};
use crate::net::{ListenError, Reserved, accept_loop, local_addrs};
use crate::tls::Tls;

/// The addresses of the listeners that clients of the broker come to: taken, and not listened on.
pub(crate) struct ClientListeners {
    plain: Vec<Reserved>,
    secure: Vec<Reserved>,
}

impl ClientListeners {
    /// Takes every address; those with TLS if there `is_tls`.
    ///
    /// # Errors
    ///
    /// [`ListenError`], naming the first address that cannot be taken.
    pub(crate) async fn bind(listeners: &Listeners, is_tls: bool) -> Result<Self, ListenError> {
        let Listeners { amqp, mqtt, stomp, any, amqps, mqtts, stomps, anys, .. } = listeners;
        let mut plain = Vec::new();
        for (name, addrs) in [("amqp", amqp), ("mqtt", mqtt), ("stomp", stomp), ("any", any)] {
            plain.push(Reserved::bind(name, addrs).await?);
        }
        let off = ListenAddrs::default();
        let mut secure = Vec::new();
        for (name, addrs) in
            [("amqps", amqps), ("mqtts", mqtts), ("stomps", stomps), ("anys", anys)]
        {
            secure.push(Reserved::bind(name, if is_tls { addrs } else { &off }).await?);
        }
        Ok(Self { plain, secure })
    }

    /// Listens on every address, and serves whoever comes to `accepting`; returns where that is, by
    /// the listener's name.
    ///
    /// # Errors
    ///
    /// [`ListenError`], when another process began to listen since.
    pub(crate) fn open(
        self,
        accepting: &mut Accepting,
        tls: Option<&Tls>,
    ) -> Result<Listening, ListenError> {
        let mut listening = Listening::default();
        for reserved in self.plain {
            let name = reserved.name();
            let listeners = reserved.listen()?;
            listening.add(name, &listeners);
            accepting.plain(name, listeners);
        }
        for reserved in self.secure {
            let name = reserved.name();
            let listeners = reserved.listen()?;
            listening.add(name, &listeners);
            accepting.secure(name, listeners, tls);
        }
        Ok(listening)
    }
}

/// Where listeners are bound, by their names; those that are off are not there.
#[derive(Debug, Default)]
pub(crate) struct Listening(Vec<(&'static str, String)>);

impl Listening {
    /// Adds the listener called `name`.
    pub(crate) fn add(&mut self, name: &'static str, listeners: &[TcpListener]) {
        // The address of a socket that listens can always be read.
        let addrs = local_addrs(listeners).unwrap_or_default();
        if !addrs.is_empty() {
            self.0.push((name, addrs));
        }
    }

    /// The addresses of the listener called `name`.
    pub(crate) fn at(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(each, _)| *each == name).map(|(_, addrs)| addrs.as_str())
    }
}

/// What accepts clients.
pub(crate) struct Accepting {
    tasks: JoinSet<()>,
    broker: Broker,
    clients: Clients,
    connections: Connections,
    proxies: Proxies,
}

impl Accepting {
    /// Accepts nobody yet; whoever comes is taken to where `clients` says, counted with
    /// `connections`.
    pub(crate) fn new(
        broker: Broker,
        clients: Clients,
        connections: Connections,
        proxies: Proxies,
    ) -> Self {
        Self { tasks: JoinSet::new(), broker, clients, connections, proxies }
    }

    /// The tasks that accept; each runs for ever.
    pub(crate) fn into_tasks(self) -> JoinSet<()> {
        self.tasks
    }

    /// Serves those that come to the listener `name`, in plain text.
    fn plain(&mut self, name: &'static str, listeners: Vec<TcpListener>) {
        for listener in listeners {
            let (broker, clients) = (self.broker.clone(), self.clients.clone());
            let serve = move |stream, peer, closing| {
                let (broker, clients) = (broker.clone(), clients.clone());
                take(broker, clients, name, stream, Peer::plain(peer), closing)
            };
            accept_into(&mut self.tasks, name, listener, &self.connections, &self.proxies, serve);
        }
    }

    /// As [`Accepting::plain`], over TLS.
    fn secure(&mut self, name: &'static str, listeners: Vec<TcpListener>, tls: Option<&Tls>) {
        for listener in listeners {
            let Some(tls) = tls.cloned() else { break };
            let (broker, clients) = (self.broker.clone(), self.clients.clone());
            let serve = move |stream, peer, closing| {
                let (broker, clients, tls) = (broker.clone(), clients.clone(), tls.clone());
                let hosts = broker.any_settings().hosts();
                async move {
                    match handshake(&tls, name, stream, peer).await {
                        Some((stream, peer)) => {
                            let named = (name == NAMING).then(|| named(&stream, &hosts)).flatten();
                            let name = named.unwrap_or(name);
                            take(broker, clients, name, stream, peer, closing).await
                        }
                        None => Next::NOTHING,
                    }
                }
            };
            accept_into(&mut self.tasks, name, listener, &self.connections, &self.proxies, serve);
        }
    }
}

/// Serves a client where it is to be served, until it goes: here by what comes next.
pub(crate) async fn take<S>(
    broker: Broker,
    clients: Clients,
    listener: &'static str,
    stream: S,
    peer: Peer,
    closing: Closing,
) -> Next
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let taken = tokio::select! {
        biased;
        taken = clients.take(listener, stream, peer) => taken,
        // What is passed through is cut off: its client connects to another node.
        () = closing.clone().requested() => return Next::NOTHING,
    };
    let (stream, peer, elsewhere) = match taken {
        Taken::Here(stream, peer) => (stream, peer, None),
        Taken::Refused(stream, peer, leader) => (stream, peer, Some(leader.node())),
        Taken::Elsewhere => return Next::NOTHING,
    };
    any::serve(broker, listener, any::Client { stream, peer, elsewhere, closing }).await
}

/// Serves clients that peers pass through: as those that come by themselves, and counted with them.
pub(crate) fn serve_for_peers(
    broker: &Broker,
    connections: &Connections,
    router: &Router,
) -> Serve {
    let (broker, connections, router) = (broker.clone(), connections.clone(), router.clone());
    Arc::new(move |listener, stream, peer| {
        let (served, done) = oneshot::channel::<()>();
        let (broker, router) = (broker.clone(), router.clone());
        let is_http = listener == cluster::HTTP;
        let is_known = is_http || any::is_served(listener);
        let listener = listener.to_owned();
        let is_taken = is_known
            && connections.spawn(|closing| async move {
                if is_http {
                    let closing = closing.requested();
                    isthmus_admin::serve_connection(stream, peer, router, |_| {}, closing).await;
                } else {
                    let client = any::Client { stream, peer, elsewhere: None, closing };
                    any::serve(broker, &listener, client).await.run().await;
                }
                drop(served);
            });
        Box::pin(async move {
            if is_taken {
                // Nothing is ever sent: the end is what is waited for.
                done.await.unwrap_or_default();
            }
        })
    })
}

/// The listener whose clients may name their protocol in the handshake.
const NAMING: &str = "anys";

/// What serves a client that has named its protocol (ALPN), or else a host that stands for one
/// (SNI): the listener of that alone.
fn named(stream: &TlsStream<TcpStream>, hosts: &ServerNames) -> Option<&'static str> {
    let connection = stream.get_ref().1;
    match connection.alpn_protocol() {
        Some(b"mqtt") => Some("mqtts"),
        Some(b"amqp") => Some("amqps"),
        Some(b"stomp") => Some("stomps"),
        Some(b"http/1.1") => Some(any::WEBSOCKET),
        Some(_) => None,
        None => hosts.listener_of(connection.server_name()?),
    }
}

/// Does a TLS handshake for the listener called `name`; `None` if it fails, which is everyday.
async fn handshake(
    tls: &Tls,
    name: &str,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<(TlsStream<TcpStream>, Peer)> {
    match tls.accept(stream, name == NAMING).await {
        Ok((stream, secured)) => {
            Some((stream, Peer { address: peer, tls: Some(Arc::new(secured)) }))
        }
        Err(error) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            None
        }
    }
}

/// Spawns an accept loop that serves each connection in a task of its own.
fn accept_into<S, F>(
    tasks: &mut JoinSet<()>,
    name: &'static str,
    listener: TcpListener,
    connections: &Connections,
    proxies: &Proxies,
    serve: S,
) where
    S: Fn(TcpStream, SocketAddr, Closing) -> F + Send + Sync + 'static,
    F: Future<Output: Into<Next>> + Send + 'static,
{
    let (connections, proxies) = (connections.clone(), proxies.clone());
    let serve = Arc::new(serve);
    tasks.spawn(accept_loop(name, listener, move |stream, address| {
        let (proxies, serve) = (proxies.clone(), Arc::clone(&serve));
        let is_taken = connections.spawn(|closing| async move {
            let mut stream = stream;
            match proxies.client(name, &mut stream, address).await {
                Some(client) => serve(stream, client, closing).await.into(),
                None => Next::NOTHING,
            }
        });
        if !is_taken {
            // At each doubling: a flood must not become a flood of log lines.
            let refused = connections.refused_total();
            if refused.is_power_of_two() {
                tracing::warn!(listener = name, refused, "refusing connections: too many are open");
            }
        }
    }));
}
