//! The listeners `any` and `anys`, where a client's first bytes tell what it speaks: `AMQP` is
//! AMQP 0-9-1, a CONNECT is MQTT or, in letters, STOMP, `GET ` is a WebSocket.

mod frames;
mod websocket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_broker::Peer;
use isthmus_broker::cluster::peer::Begun;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::broker::{Broker, Protocol};
use crate::config::Config;
use crate::connections::Closing;

/// Bytes that tell any protocol.
const TELLING: usize = 4;

/// What these listeners go by. Cloning costs a reference count.
#[derive(Clone, Debug)]
pub(crate) struct AnySettings {
    /// How long a client may take to say what it speaks, and for the handshake of a WebSocket.
    timeout: Duration,
    /// Where scripts may come from that speak to this node.
    origins: Arc<[String]>,
}

impl AnySettings {
    /// As configured.
    pub(crate) fn new(config: &Config) -> AnySettings {
        AnySettings {
            timeout: config.limits.handshake_timeout.0,
            origins: config.websocket.origins.clone().into(),
        }
    }
}

/// Whether clients of the broker come to the listener called `name`.
pub(crate) fn is_served(name: &str) -> bool {
    is_any(name) || Protocol::of_listener(name).is_some()
}

fn is_any(name: &str) -> bool {
    matches!(name, "any" | "anys")
}

/// Serves a client of the listener called `name` in what is spoken there, until it goes.
pub(crate) async fn serve<S>(broker: Broker, name: &str, stream: S, peer: Peer, closing: Closing)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    match Protocol::of_listener(name) {
        // On its own, so that a client takes the space of what serves it, and not of the largest.
        Some(protocol) => {
            Box::pin(broker.serve(protocol, stream, peer, Duration::ZERO, closing)).await;
        }
        None if is_any(name) => Box::pin(serve_any(broker, stream, peer, closing)).await,
        None => {}
    }
}

async fn serve_any<S>(broker: Broker, mut stream: S, peer: Peer, closing: Closing)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let settings = broker.any_settings().clone();
    let address = peer.address;
    let telling = async {
        let (spoken, first) = listen(&mut stream).await?;
        let stream = Begun::new(first, stream);
        Ok::<_, io::Error>(match spoken {
            Spoken::Protocol(protocol) => Met::Stream(protocol, stream),
            Spoken::WebSocket => Met::Frames(websocket::accept(stream, &settings).await?),
        })
    };
    let begun = tokio::time::Instant::now();
    let met = tokio::select! {
        met = tokio::time::timeout(settings.timeout, telling) => met,
        () = closing.clone().requested() => return,
    };
    match met {
        Ok(Ok(Met::Stream(protocol, stream))) => {
            Box::pin(broker.serve(protocol, stream, peer, begun.elapsed(), closing)).await;
        }
        Ok(Ok(Met::Frames(frames))) => {
            let spent = begun.elapsed();
            Box::pin(broker.serve(Protocol::Mqtt, frames, peer, spent, closing)).await;
        }
        Ok(Err(error)) => tracing::debug!(peer = %address, %error, "a client is not served"),
        Err(_) => tracing::debug!(peer = %address, "a client has not said what it speaks"),
    }
}

/// A client that is understood.
enum Met<S> {
    Stream(Protocol, Begun<S>),
    Frames(frames::Frames<Begun<S>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Protocol(Protocol),
    WebSocket,
}

/// What is spoken where `first` came first; `None` if more must come to tell.
///
/// # Errors
/// If nothing that is served begins like that.
fn spoken(first: &[u8]) -> Result<Option<Spoken>, io::Error> {
    // The first byte of a CONNECT (MQTT 5.0, section 3.1.1).
    const CONNECT: u8 = 0x10;
    if first.first() == Some(&CONNECT) {
        return Ok(Some(Spoken::Protocol(Protocol::Mqtt)));
    }
    let words = [
        (b"AMQP", Spoken::Protocol(Protocol::Amqp091)),
        (b"CONN", Spoken::Protocol(Protocol::Stomp)),
        (b"STOM", Spoken::Protocol(Protocol::Stomp)),
        (b"GET ", Spoken::WebSocket),
    ];
    for (word, spoken) in words {
        if first.starts_with(word) {
            return Ok(Some(spoken));
        }
        if word.starts_with(first) {
            return Ok(None);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "its first bytes are of no protocol"))
}

/// Reads until it is clear what is spoken.
async fn listen<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Spoken, Bytes)> {
    let mut first = Vec::with_capacity(TELLING);
    loop {
        if let Some(spoken) = spoken(&first)? {
            return Ok((spoken, first.into()));
        }
        let mut room = [0; TELLING];
        let read = stream.read(&mut room[..TELLING - first.len()]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        first.extend_from_slice(&room[..read]);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        let protocol = |protocol| Some(Spoken::Protocol(protocol));
        for (first, expected) in [
            (&b""[..], None),
            (b"A", None),
            (b"AMQ", None),
            (b"AMQP", protocol(Protocol::Amqp091)),
            (b"AMQP\0\0\x09\x01", protocol(Protocol::Amqp091)),
            (b"\x10", protocol(Protocol::Mqtt)),
            (b"\x10\x0c\0\x04MQTT", protocol(Protocol::Mqtt)),
            (b"CON", None),
            (b"CONNECT\n", protocol(Protocol::Stomp)),
            (b"STOMP\r\n", protocol(Protocol::Stomp)),
            (b"GET", None),
            (b"GET / HTTP/1.1", Some(Spoken::WebSocket)),
        ] {
            assert_eq!(spoken(first).expect("served"), expected, "{first:?}");
        }
        for first in [&b"\x16\x03\x01"[..], b"SEND", b"AMQX", b"POST", b"\x20"] {
            spoken(first).expect_err("not served");
        }
    }

    #[tokio::test]
    async fn what_was_read_to_tell_is_read_again() {
        let (mut client, mut server) = tokio::io::duplex(64);
        for piece in [&b"A"[..], b"MQP\0\0\x09\x01", b"rest"] {
            client.write_all(piece).await.expect("room");
        }
        drop(client);
        let (spoken, first) = listen(&mut server).await.expect("told");
        assert_eq!(spoken, Spoken::Protocol(Protocol::Amqp091));
        let mut all = Vec::new();
        let mut begun = Begun::new(first, server);
        begun.read_to_end(&mut all).await.expect("read");
        assert_eq!(all, b"AMQP\0\0\x09\x01rest");
    }
}
