//! Proxies that say whose connection they pass on.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use isthmus_front::proxy::{Header, Source};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::config::{Config, Networks};
use crate::logging::Doublings;

/// Bytes of a header that are read at a time, at the most.
const PIECE_BYTES: usize = 512;

/// Those who are believed. Cloning costs a reference count.
#[derive(Clone, Debug)]
pub(crate) struct Proxies(Arc<Believed>);

#[derive(Debug)]
struct Believed {
    networks: Networks,
    /// How long a header may take.
    timeout: Duration,
}

impl Proxies {
    /// As configured.
    pub(crate) fn new(config: &Config) -> Proxies {
        let networks = config.listeners.proxy_protocol_from.clone();
        Proxies(Arc::new(Believed { networks, timeout: config.limits.handshake_timeout.0 }))
    }

    /// The address of the client that has come from `address` to the listener called `name`: what
    /// its header says where that is a proxy, and must be there. `None` if it is not in order. Nobody
    /// else's bytes are looked at.
    pub(super) async fn client<S>(
        &self,
        name: &str,
        stream: &mut S,
        address: SocketAddr,
    ) -> Option<SocketAddr>
    where
        S: AsyncRead + Unpin,
    {
        if !self.0.networks.contains(address.ip()) {
            return Some(address);
        }
        let error = match tokio::time::timeout(self.0.timeout, read(stream)).await {
            Ok(Ok(Source::Client(client))) => return Some(client),
            Ok(Ok(Source::Proxy)) => return Some(address),
            // The proxy's own address would be wrong: it may be this machine's, from where more is
            // allowed than from elsewhere.
            Ok(Ok(Source::Unknown)) => return Some((Ipv4Addr::UNSPECIFIED, 0).into()),
            // It went, or looked whether somebody listens.
            Ok(Err(error)) if error.kind() != io::ErrorKind::InvalidData => {
                tracing::debug!(listener = name, proxy = %address, %error, "a proxy went");
                return None;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no PROXY header has come".to_owned(),
        };
        static REFUSED: Doublings = Doublings::new();
        match REFUSED.count() {
            Some(refused) => tracing::warn!(
                listener = name, proxy = %address, error, refused,
                "a connection is closed: listeners.proxy_protocol_from has its address"
            ),
            None => tracing::debug!(listener = name, proxy = %address, error, "closed"),
        }
        None
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Source> {
    let mut header = Header::default();
    let mut piece = [0; PIECE_BYTES];
    loop {
        let wants = header.wants().min(piece.len());
        let read = stream.read(&mut piece[..wants]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = header.take(&piece[..read]);
        if let Some(source) =
            taken.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?
        {
            return Ok(source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn client(from: &str, mut bytes: &[u8]) -> (Option<String>, Vec<u8>) {
        let mut config = Config::default();
        config.listeners.proxy_protocol_from = Networks::of("192.0.2.0/24");
        let address = format!("{from}:5");
        let proxies = Proxies::new(&config);
        let client = proxies.client("amqp", &mut bytes, address.parse().expect("one")).await;
        (client.map(|client| client.to_string()), bytes.to_vec())
    }

    #[tokio::test]
    async fn who_is_believed_says_whose_connection_it_is_and_nobody_else() {
        let header = b"PROXY TCP4 198.51.100.9 192.0.2.1 7 5672\r\nAMQP";
        let told = client("192.0.2.3", header).await;
        assert_eq!(told, (Some("198.51.100.9:7".to_owned()), b"AMQP".to_vec()));
        let told = client("192.0.3.3", header).await;
        assert_eq!(told, (Some("192.0.3.3:5".to_owned()), header.to_vec()));
        let (told, _) = client("192.0.2.3", b"AMQP\0\0\x09\x01AMQP\0\0\x09\x01").await;
        assert_eq!(told, None);
        let (told, _) = client("192.0.2.3", &header[..20]).await;
        assert_eq!(told, None);
    }

    #[tokio::test]
    async fn who_is_unknown_is_not_taken_for_the_proxy() {
        let (told, _) = client("192.0.2.3", b"PROXY UNKNOWN\r\n").await;
        assert_eq!(told, Some("0.0.0.0:0".to_owned()));
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        assert_eq!(client("192.0.2.3", local).await.0, Some("192.0.2.3:5".to_owned()));
    }
}
