//! TLS: certificates, client certificates, revocation lists, and changing all of them without a
//! restart.
//!
//! [`files`] reads and checks what the configuration names, [`resolver`] picks the certificate
//! that a client asks for, [`identity`] says whom a client's certificate names, [`reload`] watches
//! the files. What a handshake needs is one value, replaced as a whole: connections that are open
//! keep what they began with.

mod files;
mod identity;
mod reload;
mod resolver;

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use arc_swap::ArcSwap;
use isthmus_broker::TlsPeer;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

pub(crate) use files::TlsError;
pub(crate) use reload::{at_each_change, reload, reload_at_change};

use crate::config::Tls as TlsConfig;

/// The part of all cores that may sign for handshakes at once. A signature is about a millisecond
/// of a core with RSA; a flood of them must not take all cores from messaging.
const CORES_PER_SIGNATURE: usize = 2;

/// What TLS listeners share. Clones share it.
#[derive(Clone)]
pub(crate) struct Tls {
    current: Arc<ArcSwap<Current>>,
    /// Held while the server signs, and never while it waits for a client: who dawdles would keep
    /// everybody out.
    signatures: Arc<Semaphore>,
    timeout: Duration,
}

/// What handshakes go by.
struct Current {
    config: Arc<ServerConfig>,
    /// The same, where the client may name its protocol, and is refused if it names others alone
    /// (RFC 7301, section 3.2).
    naming: Arc<ServerConfig>,
}

impl Current {
    fn new(config: Arc<ServerConfig>) -> Current {
        let mut naming = ServerConfig::clone(&config);
        naming.alpn_protocols = NAMES.map(|name| name.as_bytes().to_vec()).to_vec();
        Current { config, naming: Arc::new(naming) }
    }
}

/// The names of protocols that clients of `anys` may give in a handshake (ALPN).
const NAMES: [&str; 4] = ["mqtt", "amqp", "stomp", "http/1.1"];

impl Tls {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    ///
    /// [`TlsError`], naming the file and what is wrong with it.
    pub(crate) fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(Current::new(files::load(config)?))),
            signatures: Arc::new(Semaphore::new((cores / CORES_PER_SIGNATURE).max(1))),
            timeout: config.handshake_timeout.0,
        })
    }

    /// Reads the files again. New handshakes use what they say; if they are not in order, what was
    /// read before.
    ///
    /// # Errors
    ///
    /// As [`Tls::load`]; then everything is as before.
    pub(crate) fn reload(&self, config: &TlsConfig) -> Result<(), TlsError> {
        self.current.store(Arc::new(Current::new(files::load(config)?)));
        Ok(())
    }

    /// Does the server's part of a handshake, within the configured time; also says what it came
    /// to. Where it `is_naming`, the client may name its protocol.
    ///
    /// # Errors
    ///
    /// What the client did wrong, or that it was too slow.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        is_naming: bool,
    ) -> io::Result<(TlsStream<TcpStream>, TlsPeer)> {
        let handshake = async {
            let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            let permit = self.signatures.acquire().await.map_err(io::Error::other)?;
            let current = self.current.load_full();
            let config = if is_naming { &current.naming } else { &current.config };
            // Answers the hello, which is where it signs.
            let answered = hello.into_stream(Arc::clone(config));
            drop(permit);
            answered.await
        };
        let stream = tokio::time::timeout(self.timeout, handshake).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")
        })??;
        let peer = identity::of_connection(stream.get_ref().1);
        Ok((stream, peer))
    }
}
