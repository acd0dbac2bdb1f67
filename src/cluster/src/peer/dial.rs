//! Connections to peers, and the seam below which the sockets are.

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::{
    client::{self, ClientHeader, ClientStream},
    conn::Conn,
    control,
    handshake::{self, Agreed, PeerError},
    identity::{Identity, MemberId},
    options::Local,
    preface::Purpose,
};

/// Bytes in both directions.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerStream for T {}

/// A stream of any kind.
pub type BoxedStream = Box<dyn PeerStream>;

/// Connects to addresses. In production [`TcpDial`]; a simulation has its own.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `address`, a host and port. The caller limits how long it takes.
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxedStream>>;
}

/// Accepts connections. In production [`TcpListen`]; a simulation has its own.
pub trait Listen: Send + 'static {
    /// The next connection, and who calls, for messages.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedStream, String)>>;
}

/// Connects over TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxedStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            tune(&stream)?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}

/// Accepts over TCP. Errors of single connections, and a lack of file descriptors, are waited out.
#[derive(Debug)]
pub struct TcpListen(pub TcpListener);

impl Listen for TcpListen {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedStream, String)>> {
        Box::pin(async move {
            let (stream, address) = loop {
                match self.0.accept().await {
                    Ok(accepted) => break accepted,
                    // The connection is gone already, or there are no file descriptors left. Both
                    // pass, and a listener that ends would take the node out of its cluster.
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            };
            // A connection that is gone already says so when it is used.
            drop(tune(&stream));
            Ok((Box::new(stream) as BoxedStream, address.to_string()))
        })
    }
}

/// A peer that is gone without a word is noticed within about ten seconds in either state: with
/// bytes on their way by the limit of retransmission, without by three probes.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2))
        .with_retries(3);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(10)))?;
    Ok(())
}

/// Makes connections to peers. Clones share what they need.
#[derive(Clone)]
pub struct Dialer {
    local: Local,
    dial: Arc<dyn Dial>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Dialer {
    /// Connects by `dial` as the node that `local` describes.
    pub fn new(local: Local, dial: impl Dial) -> Self {
        Self { local, dial: Arc::new(dial) }
    }

    /// What both directions share.
    #[must_use]
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// Sends a control request of at most 1 MiB to whoever answers at `address`, and returns who
    /// that is and what it answered.
    ///
    /// # Errors
    /// A [`PeerError`] inside, or that of the socket; what the peer said if it failed.
    pub async fn control(&self, address: &str, request: Bytes) -> io::Result<(Identity, Bytes)> {
        let (conn, agreed) = self.connect(address, Purpose::Control, MemberId::NONE).await?;
        let answer = timeout(self.local.options.control, control::request(conn, request)).await;
        Ok((agreed.peer, answer.unwrap_or_else(|_| Err(late("the answer to a control request")))?))
    }

    /// Passes a client's connection through to `member` at `address`. Returned once the member has
    /// accepted `header`; from then on what is written is what the client sent.
    ///
    /// # Errors
    /// As [`Dialer::control`]; an error that the peer does not take the client tells why.
    pub async fn client(
        &self,
        address: &str,
        member: MemberId,
        header: &ClientHeader,
    ) -> io::Result<ClientStream> {
        let (conn, _) = self.connect(address, Purpose::Client, member).await?;
        let opened = timeout(self.local.options.dial, client::open(conn, header)).await;
        opened.unwrap_or_else(|_| Err(late("the answer to a client's connection")))
    }

    /// Connects and shakes hands.
    pub(super) async fn connect(
        &self,
        address: &str,
        purpose: Purpose,
        target: MemberId,
    ) -> io::Result<(Conn, Agreed)> {
        let connect = async {
            let mut stream = self.dial.dial(address).await?;
            if let Some(tls) = &self.local.security.tls {
                stream = tls.connect(address, stream).await?;
            }
            let agreed = handshake::dial(&self.local, &mut stream, purpose, target).await?;
            Ok::<_, PeerError>((Conn::new(stream), agreed))
        };
        let connected = timeout(self.local.options.dial, connect).await;
        let connected = connected.unwrap_or(Err(PeerError::Slow)).map_err(io::Error::from);
        connected
            .map_err(|e| io::Error::new(e.kind(), Unreached { address: address.into(), error: e }))
    }
}

/// Says whom an error is about.
#[derive(Debug, thiserror::Error)]
#[error("peer {address}: {error}")]
struct Unreached {
    address: String,
    #[source]
    error: io::Error,
}

pub(super) fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} took too long"))
}
