//! Listening sockets and the loop that accepts from them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::config::{ListenAddr, ListenAddrs};

/// Connections the system holds for us between two turns of the accept loop.
const BACKLOG: u32 = 1024;

/// Connections that are accepted before others get their turn.
const ACCEPTED_MAX: u32 = 8;

/// How long accepting rests when the process or the system is out of descriptors or memory.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(500);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listeners.{name}: cannot listen on {addr}: {source}")]
pub(crate) struct ListenError {
    name: &'static str,
    addr: String,
    source: io::Error,
}

/// Addresses taken and not yet listened on: until then clients are refused instead of kept
/// waiting, while an address that is in use is known before the broker recovers its data.
#[derive(Debug)]
pub(crate) struct Reserved {
    name: &'static str,
    sockets: Vec<(TcpSocket, String)>,
}

impl Reserved {
    /// Takes every address of the listener called `name`.
    ///
    /// # Errors
    ///
    /// [`ListenError`], naming the first address that cannot be taken.
    pub(crate) async fn bind(name: &'static str, addrs: &ListenAddrs) -> Result<Self, ListenError> {
        let mut sockets = Vec::with_capacity(addrs.0.len());
        for addr in &addrs.0 {
            let socket = bind(addr).await.map_err(|source| ListenError {
                name,
                addr: addr.to_string(),
                source,
            })?;
            sockets.push((socket, addr.to_string()));
        }
        Ok(Self { name, sockets })
    }

    /// The listener's name in the configuration.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Listens on every address taken.
    ///
    /// # Errors
    ///
    /// [`ListenError`], when another process began to listen since.
    pub(crate) fn listen(self) -> Result<Vec<TcpListener>, ListenError> {
        let name = self.name;
        let sockets = self.sockets.into_iter();
        sockets
            .map(|(socket, addr)| {
                socket.listen(BACKLOG).map_err(|source| ListenError { name, addr, source })
            })
            .collect()
    }
}

async fn bind(addr: &ListenAddr) -> io::Result<TcpSocket> {
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for resolved in tokio::net::lookup_host((addr.host.as_str(), addr.port)).await? {
        result = bind_to(resolved);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn bind_to(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    // Otherwise a restart has to wait for connections of the last run to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// The addresses that listeners are bound to, joined by commas.
pub(crate) fn local_addrs(listeners: &[TcpListener]) -> io::Result<String> {
    let addrs = listeners.iter().map(|listener| listener.local_addr().map(|addr| addr.to_string()));
    Ok(addrs.collect::<io::Result<Vec<_>>>()?.join(","))
}

/// Where connections come from; a listener, save in tests.
pub(crate) trait Accept {
    /// Waits for the next connection. Dropping the future loses none.
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        Self::accept(self)
    }
}

/// Hands every connection to `serve`, with `TCP_NODELAY` set, for as long as it is polled.
/// Dropping it closes the listener.
///
/// `serve` must not block; it spawns what serves the connection.
pub(crate) async fn accept_loop(
    name: &'static str,
    listener: impl Accept,
    serve: impl Fn(TcpStream, SocketAddr),
) {
    let mut short = false;
    let mut accepted = 0_u32;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if std::mem::take(&mut short) {
                    tracing::info!(listener = name, "accepting connections again");
                }
                // It fails only on a connection that is already gone.
                if stream.set_nodelay(true).is_ok() {
                    serve(stream, peer);
                }
                // What was spawned runs first, and connections that were asked to make room go:
                // a flood is not taken in at once. Nor is each followed by a rest, which wakes
                // another thread.
                accepted = accepted.wrapping_add(1);
                if accepted.is_multiple_of(ACCEPTED_MAX) {
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if is_shortage(&error) => {
                // The connection stays in the queue, so accepting again at once would spin.
                if !std::mem::replace(&mut short, true) {
                    tracing::warn!(
                        listener = name,
                        %error,
                        "cannot accept connections; raise the limit of open files or lower limits.connections_max"
                    );
                }
                tokio::time::sleep(SHORTAGE_PAUSE).await;
            }
            // The client went away between the handshake and here.
            Err(error) => tracing::debug!(listener = name, %error, "a connection was not accepted"),
        }
    }
}

/// Whether accepting failed for want of something that other connections hold.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Fails a number of times before it accepts from a real listener.
    struct Failing {
        error: Errno,
        failures: AtomicUsize,
        calls: AtomicUsize,
        listener: TcpListener,
    }

    impl Accept for &Failing {
        async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            if self.failures.load(Ordering::Relaxed) > 0 {
                self.failures.fetch_sub(1, Ordering::Relaxed);
                return Err(self.error.into());
            }
            self.listener.accept().await
        }
    }

    async fn failing(error: Errno, failures: usize) -> Failing {
        Failing {
            error,
            failures: failures.into(),
            calls: 0.into(),
            listener: TcpListener::bind("127.0.0.1:0").await.expect("bound"),
        }
    }

    #[tokio::test]
    async fn a_shortage_pauses_the_loop_and_ends() {
        let source = failing(Errno::MFILE, 1).await;
        let (served, mut serving) = tokio::sync::mpsc::unbounded_channel();
        let looping = accept_loop("amqp", &source, |stream, peer| {
            served.send((stream.nodelay().expect("socket"), peer)).expect("receiver lives");
        });
        let client = async {
            let address = source.listener.local_addr().expect("address");
            let started = std::time::Instant::now();
            let client = TcpStream::connect(address).await.expect("connected");
            let (nodelay, peer) = serving.recv().await.expect("served");
            assert!(nodelay);
            assert_eq!(peer, client.local_addr().expect("address"));
            assert!(started.elapsed() >= SHORTAGE_PAUSE / 2);
            // Once in vain and once for the client; by now perhaps for the next one.
            assert!([2, 3].contains(&source.calls.load(Ordering::Relaxed)));
        };
        tokio::select! {
            () = looping => {}
            () = client => {}
        }
    }

    #[test]
    fn only_shortages_pause() {
        assert!(is_shortage(&Errno::NFILE.into()));
        assert!(!is_shortage(&Errno::CONNABORTED.into()));
        assert!(!is_shortage(&io::Error::other("else")));
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = taken.local_addr().expect("address").port();
        let error = Reserved::bind("amqp", &ListenAddrs::loopback(port)).await.expect_err("in use");
        let message = error.to_string();
        assert!(message.starts_with("listeners.amqp: cannot listen on 127.0.0.1:"), "{message}");
        assert!(message.contains(&port.to_string()), "{message}");
    }

    #[tokio::test]
    async fn a_reserved_address_refuses_until_it_listens() {
        let reserved = Reserved::bind("amqp", &ListenAddrs::loopback(0)).await.expect("bound");
        let address = reserved.sockets[0].0.local_addr().expect("address");
        TcpStream::connect(address).await.expect_err("refused");
        let listeners = reserved.listen().expect("listening");
        assert_eq!(local_addrs(&listeners).expect("addresses"), address.to_string());
        TcpStream::connect(address).await.expect("connected");
    }
}
