//! Connections: TCP and TLS.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::plan::{Target, TlsOptions};

/// The half of a connection that is read.
pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;

/// The half of a connection that is written.
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Makes connections to the nodes of one broker, in turns.
pub(crate) struct Dialer {
    nodes: Vec<Node>,
    next: AtomicUsize,
}

struct Node {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Dialer {
    /// Reads what TLS needs; an error says which file is wrong.
    pub(crate) fn new(targets: &[Target], options: &TlsOptions) -> Result<Dialer, String> {
        let connector = match targets.iter().any(|target| target.tls) {
            true => Some(TlsConnector::from(Arc::new(config(options)?))),
            false => None,
        };
        let node = |target: &Target| {
            let tls = match &connector {
                Some(connector) if target.tls => {
                    let name = ServerName::try_from(target.host.clone()).map_err(|_| {
                        format!("'{}' is no name that a certificate has", target.host)
                    })?;
                    Some((connector.clone(), name))
                }
                _ => None,
            };
            Ok(Node { host: target.host.clone(), port: target.port, tls })
        };
        let nodes = targets.iter().map(node).collect::<Result<_, String>>()?;
        Ok(Dialer { nodes, next: AtomicUsize::new(0) })
    }

    /// A new connection, to the node whose turn it is.
    pub(crate) async fn connect(&self) -> io::Result<(ReadHalf, WriteHalf)> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let node = &self.nodes[turn % self.nodes.len()];
        let to = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}:{}: {error}", node.host, node.port))
        };
        let stream = TcpStream::connect((node.host.as_str(), node.port)).await.map_err(to)?;
        stream.set_nodelay(true)?;
        match &node.tls {
            None => {
                let (reader, writer) = stream.into_split();
                Ok((Box::new(reader), Box::new(writer)))
            }
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(to)?;
                let (reader, writer) = tokio::io::split(stream);
                Ok((Box::new(reader), Box::new(writer)))
            }
        }
    }
}

fn config(options: &TlsOptions) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let builder = if options.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    } else {
        let mut roots = RootCertStore::empty();
        match &options.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots
                        .add(certificate)
                        .map_err(|error| format!("{}: {error}", path.display()))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err("no authority is trusted: name a file of certificates with --ca".to_owned());
        }
        builder.with_root_certificates(roots)
    };
    let Some((certificate, key)) = &options.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("{}: no private key in PEM: {error}", key.display()))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("{}: {error}", certificate.display()))
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error| format!("{}: no certificates in PEM: {error}", path.display());
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    match all.is_empty() {
        true => Err(format!("{}: no certificate in it; it must be PEM", path.display())),
        false => Ok(all),
    }
}

/// Trusts any certificate, for brokers under test that have made their own; signatures are checked
/// all the same.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
