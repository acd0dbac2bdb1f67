//! Who is at the other end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address; behind a proxy that is believed, the client's.
    pub address: SocketAddr,
    /// What its TLS says; `None` in plain text.
    pub tls: Option<Arc<TlsPeer>>,
}

impl Peer {
    /// A client that connects in plain text.
    pub fn plain(address: SocketAddr) -> Peer {
        Peer { address, tls: None }
    }
}

/// A TLS connection, and the client's certificate where it gave one that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPeer {
    /// The protocol's version, like `TLSv1.3`.
    pub version: String,
    /// The cipher suite, by its name in the standards.
    pub cipher: String,
    /// The client's certificate.
    pub certificate: Option<CertificateIdentity>,
}

/// Whom a verified certificate names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateIdentity {
    /// The subject's distinguished name, as RFC 4514 writes it.
    pub subject: String,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// The DNS names among the subject's alternative names, in their order.
    pub dns_names: Vec<String>,
    /// The e-mail addresses among them.
    pub emails: Vec<String>,
    /// The URIs among them.
    pub uris: Vec<String>,
}
