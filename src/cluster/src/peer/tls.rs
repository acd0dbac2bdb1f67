//! Mutual TLS between peers.

use std::{fmt, io, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{dial::BoxedStream, handshake::PeerError};

/// So that no client of another protocol gets further than the TLS handshake.
const ALPN: &[u8] = b"isthmus-peer";

/// Certificates that cannot be used between peers.
#[derive(Debug, thiserror::Error)]
#[error("the certificates for peers cannot be used: {0}")]
pub struct TlsError(String);

/// The configurations for both directions. Clones share them, and [`PeerTls::replace`] changes them
/// for connections that are made from then on.
#[derive(Clone)]
pub struct PeerTls {
    current: Arc<ArcSwap<Configs>>,
}

#[derive(Clone)]
struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerTls")
    }
}

impl PeerTls {
    /// Uses these as they are. `server` must require certificates of the cluster's authority, and
    /// `client` must have one.
    #[must_use]
    pub fn new(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(Configs { server, client })) }
    }

    /// TLS 1.3 with a node's certificate chain and key, towards peers whose certificates chain to
    /// `authorities`. The certificate of the side that accepts must name the host that is dialled;
    /// of the side that dials only the authority counts, so a certificate must be good for both.
    ///
    /// # Errors
    /// [`TlsError`] if the key is not that of the certificate, or there is no authority.
    pub fn from_certificates(
        authorities: &[CertificateDer<'static>],
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let wrong = |e: &dyn fmt::Display| TlsError(e.to_string());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone()).map_err(|e| wrong(&e))?;
        }
        let roots = Arc::new(roots);
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let verifier = builder.build().map_err(|e| wrong(&e))?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(&[&TLS13]).map_err(|e| wrong(&e))?;
        let mut server = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|e| wrong(&e))?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&TLS13]).map_err(|e| wrong(&e))?;
        let mut client = builder
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| wrong(&e))?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self::new(Arc::new(server), Arc::new(client)))
    }

    /// Whether peers whose authorities are `authorities` accept this chain now, from the side that
    /// dials; as whom it is good is seen when it is dialled.
    ///
    /// # Errors
    /// [`TlsError`] if they do not.
    pub fn check(
        authorities: &[CertificateDer<'static>],
        chain: &[CertificateDer<'static>],
    ) -> Result<(), TlsError> {
        let refused = |e: &dyn fmt::Display| {
            TlsError(format!("by these authorities a peer refuses this certificate: {e}"))
        };
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone()).map_err(|e| TlsError(e.to_string()))?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = builder.build().map_err(|e| TlsError(e.to_string()))?;
        let (leaf, rest) = chain.split_first().ok_or_else(|| refused(&"there is none"))?;
        verifier.verify_client_cert(leaf, rest, UnixTime::now()).map_err(|e| refused(&e))?;
        Ok(())
    }

    /// Uses the configurations of `other` for connections that are made from now on.
    pub fn replace(&self, other: &PeerTls) {
        self.current.store(other.current.load_full());
    }

    pub(super) async fn accept(&self, stream: BoxedStream) -> Result<BoxedStream, PeerError> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.current.load().server));
        let stream = acceptor.accept(stream).await.map_err(|e| PeerError::Tls(named(e)))?;
        Ok(Box::new(stream))
    }

    pub(super) async fn connect(
        &self,
        address: &str,
        stream: BoxedStream,
    ) -> Result<BoxedStream, PeerError> {
        let host = host(address);
        let name = ServerName::try_from(host.to_owned()).map_err(|e| {
            let text = format!("{host:?} is no name that a certificate can have: {e}");
            PeerError::Tls(io::Error::new(io::ErrorKind::InvalidInput, text))
        })?;
        let connector = TlsConnector::from(Arc::clone(&self.current.load().client));
        let stream = connector.connect(name, stream).await.map_err(PeerError::Tls)?;
        Ok(Box::new(stream))
    }
}

/// What rustls calls a corrupt message is most often a node that is not set up for TLS.
fn named(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => {
            let text = format!("the caller does not speak TLS, and this node does: {error}");
            io::Error::new(error.kind(), text)
        }
        _ => error,
    }
}

/// The host of a host and port, without the brackets of an IPv6 address.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn the_host_of_an_address() {
        assert_eq!(host("broker-1.example:5679"), "broker-1.example");
        assert_eq!(host("192.0.2.1:5679"), "192.0.2.1");
        assert_eq!(host("[2001:db8::1]:5679"), "2001:db8::1");
        assert_eq!(host("broker"), "broker");
    }
}
