//! The listeners `any` and `anys`, where a client's first bytes tell what it speaks, and WebSockets,
//! where it offers the names of subprotocols.

mod route;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_broker::Peer;
use isthmus_broker::cluster::peer::Begun;
use isthmus_front::first::{First, TELLING, tell};
use isthmus_front::frames::Frames;
use isthmus_front::upgrade;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::broker::{Broker, Protocol};
use crate::config::{Config, ServerNames};
use crate::connections::{Closing, Next};
use crate::logging::Doublings;

pub(crate) use route::{Gate, router};

/// What these listeners go by. Cloning costs a reference count.
#[derive(Clone, Debug)]
pub(crate) struct AnySettings {
    /// How long a client may take to say what it speaks, and for the handshake of a WebSocket.
    timeout: Duration,
    /// Where scripts may come from that speak to this node.
    origins: Arc<[String]>,
    /// Hosts that stand for a protocol.
    hosts: ServerNames,
}

impl AnySettings {
    /// As configured.
    pub(crate) fn new(config: &Config) -> AnySettings {
        AnySettings {
            timeout: config.limits.handshake_timeout.0,
            origins: config.websocket.origins.clone().into(),
            hosts: config.listeners.server_names.clone(),
        }
    }

    /// Hosts that stand for a protocol where a client asks for them in a TLS handshake.
    pub(crate) fn hosts(&self) -> ServerNames {
        self.hosts.clone()
    }
}

/// The name of what is told to be HTTP before its first bytes, and can only be a WebSocket: that of
/// no listener in the configuration.
pub(crate) const WEBSOCKET: &str = "websocket";

/// Whether clients of the broker come to the listener called `name`.
pub(crate) fn is_served(name: &str) -> bool {
    is_any(name) || Protocol::of_listener(name).is_some()
}

fn is_any(name: &str) -> bool {
    matches!(name, "any" | "anys" | WEBSOCKET)
}

/// A client that is to be taken care of.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    pub(crate) peer: Peer,
    /// The number of the node that serves clients, if this one does not: the client is told so.
    pub(crate) elsewhere: Option<u16>,
    pub(crate) closing: Closing,
}

impl<S> Client<S> {
    /// What serves it, now that its `protocol` is known.
    fn speaks(self, broker: Broker, protocol: Protocol, spent: Duration) -> Next
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Client { stream, peer, elsewhere, closing } = self;
        match elsewhere {
            None => broker.serve(protocol, stream, peer, spent, closing),
            Some(node) => broker.redirect(protocol, stream, peer, spent, node, closing),
        }
    }
}

/// Finds out what a client of the listener called `name` speaks, and what serves it then.
pub(crate) async fn serve<S>(broker: Broker, name: &str, client: Client<S>) -> Next
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match Protocol::of_listener(name) {
        Some(protocol) => client.speaks(broker, protocol, Duration::ZERO),
        None if is_any(name) => {
            let told = (name == WEBSOCKET).then_some(First::Http);
            serve_any(broker, told, client).await
        }
        None => Next::NOTHING,
    }
}

async fn serve_any<S>(broker: Broker, told: Option<First>, client: Client<S>) -> Next
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Client { mut stream, peer, elsewhere, closing } = client;
    let settings = broker.any_settings().clone();
    let address = peer.address;
    let telling = async {
        let (first, bytes) = match told {
            Some(first) => (first, Bytes::new()),
            None => listen(&mut stream).await?,
        };
        let stream = Begun::new(bytes, stream);
        Ok::<_, io::Error>(match first {
            First::Amqp => Met::Stream(Protocol::Amqp091, stream),
            First::Mqtt => Met::Stream(Protocol::Mqtt, stream),
            First::Stomp => Met::Stream(Protocol::STOMP, stream),
            First::Http => {
                let (frames, subprotocol) = upgrade::accept(stream, &settings.origins).await?;
                // Every subprotocol is that of a protocol.
                let protocol = Protocol::of_listener(subprotocol.name());
                Met::Frames(protocol.ok_or(io::ErrorKind::Unsupported)?, frames)
            }
        })
    };
    let begun = tokio::time::Instant::now();
    let met = tokio::select! {
        met = tokio::time::timeout(settings.timeout, telling) => met,
        () = closing.clone().requested() => return Next::NOTHING,
    };
    let spent = begun.elapsed();
    match met {
        Ok(Ok(Met::Stream(protocol, stream))) => {
            return Client { stream, peer, elsewhere, closing }.speaks(broker, protocol, spent);
        }
        Ok(Ok(Met::Frames(protocol, stream))) => {
            return Client { stream, peer, elsewhere, closing }.speaks(broker, protocol, spent);
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            // Somebody has set up a client wrongly, or knocks at every port.
            static REFUSED: Doublings = Doublings::new();
            match REFUSED.count() {
                Some(refused) => {
                    tracing::info!(peer = %address, %error, refused, "a client is not served");
                }
                None => tracing::debug!(peer = %address, %error, "a client is not served"),
            }
        }
        Ok(Err(error)) => tracing::debug!(peer = %address, %error, "a client went"),
        Err(_) => tracing::debug!(peer = %address, "a client has not said what it speaks"),
    }
    Next::NOTHING
}

/// A client that is understood.
enum Met<S> {
    Stream(Protocol, Begun<S>),
    Frames(Protocol, Frames<Begun<S>>),
}

/// Reads until it is clear what is spoken.
async fn listen<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(First, Bytes)> {
    let mut first = [0; TELLING];
    let mut len = 0;
    loop {
        let told = tell(&first[..len]);
        if let Some(told) = told.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))? {
            return Ok((told, Bytes::copy_from_slice(&first[..len])));
        }
        let read = stream.read(&mut first[len..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        len += read;
    }
}

#[cfg(test)]
mod tests {
    use isthmus_front::upgrade::Subprotocol;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn every_subprotocol_is_served() {
        for subprotocol in Subprotocol::ALL {
            assert!(is_served(subprotocol.name()), "{subprotocol:?}");
        }
    }

    #[tokio::test]
    async fn what_was_read_to_tell_is_read_again() {
        let (mut client, mut server) = tokio::io::duplex(64);
        for piece in [&b"A"[..], b"MQP\0\0\x09\x01", b"rest"] {
            client.write_all(piece).await.expect("room");
        }
        drop(client);
        let (told, first) = listen(&mut server).await.expect("told");
        assert_eq!(told, First::Amqp);
        let mut all = Vec::new();
        let mut begun = Begun::new(first, server);
        begun.read_to_end(&mut all).await.expect("read");
        assert_eq!(all, b"AMQP\0\0\x09\x01rest");
    }
}
