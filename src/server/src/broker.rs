//! The only place of this crate that knows the broker: starting it, handing it connections,
//! asking it for its figures, stopping it.

use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_admin::Snapshot;
use tokio::net::TcpStream;

use crate::config::Config;
use crate::connections::Closing;
use crate::users::Authenticator;

/// The running broker. Clones share it.
#[derive(Clone)]
#[expect(dead_code, reason = "no protocol is served yet")]
pub(crate) struct Broker {
    config: Arc<Config>,
    authenticator: Arc<Authenticator>,
}

/// Why the broker does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {}

impl Broker {
    /// Recovers what the data directory holds. The caller keeps the directory's lock until the
    /// broker has stopped. Dropping the future abandons the start.
    ///
    /// # Errors
    ///
    /// If the data is damaged or cannot be read.
    pub(crate) async fn start(
        config: Arc<Config>,
        authenticator: Arc<Authenticator>,
    ) -> Result<Self, BrokerError> {
        Ok(Self { config, authenticator })
    }

    /// Serves one connection to an AMQP 0-9-1 listener until it ends. When `closing` completes,
    /// the connection closes in the protocol's way; if that takes longer than
    /// `shutdown.drain_s`, this future is dropped.
    pub(crate) async fn serve_amqp(self, stream: TcpStream, peer: SocketAddr, closing: Closing) {
        drop((stream, peer, closing));
    }

    /// The figures of now; those of connections are filled in by the caller.
    pub(crate) fn figures(&self) -> Snapshot {
        Snapshot::default()
    }

    /// Stops: what was acknowledged is on stable storage when this returns. Every connection has
    /// ended before.
    pub(crate) async fn stop(self) {}
}
