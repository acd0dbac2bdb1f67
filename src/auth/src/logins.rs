//! Logging in, as the broker asks for it.

use std::fmt;
use std::future::ready;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_broker::{
    Authenticate, CertificateIdentity, Entering, Limits, Login, Peer, User as LoggedIn,
};
use isthmus_contract::Credentials;
use isthmus_model::CommandError;

use crate::{Access, AuthError, Authenticator, SharedDirectory};

/// Which part of a client's certificate names the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateName {
    /// The subject's common name.
    #[default]
    CommonName,
    /// The whole distinguished name, as RFC 4514 writes it.
    DistinguishedName,
    /// The first DNS name among the subject's alternative names.
    DnsName,
    /// The first e-mail address among them.
    Email,
    /// The first URI among them.
    Uri,
}

impl CertificateName {
    fn of(self, certificate: &CertificateIdentity) -> Option<&str> {
        match self {
            CertificateName::CommonName => certificate.common_name.as_deref(),
            CertificateName::DistinguishedName => Some(&certificate.subject),
            CertificateName::DnsName => certificate.dns_names.first().map(String::as_str),
            CertificateName::Email => certificate.emails.first().map(String::as_str),
            CertificateName::Uri => certificate.uris.first().map(String::as_str),
        }
    }
}

/// Finds out who a client is, among the users of a directory.
pub struct Logins {
    authenticator: Arc<Authenticator>,
    directory: SharedDirectory,
    /// How long a login may take.
    timeout: Duration,
    certificate_name: CertificateName,
}

impl Logins {
    /// Logins of the users of `directory`, each given up after `timeout`.
    pub fn new(
        authenticator: Arc<Authenticator>,
        directory: SharedDirectory,
        timeout: Duration,
        certificate_name: CertificateName,
    ) -> Logins {
        Logins { authenticator, directory, timeout, certificate_name }
    }

    fn user(&self, name: &str) -> Arc<dyn LoggedIn> {
        Arc::new(DirectoryUser { name: name.into(), directory: Arc::clone(&self.directory) })
    }

    /// The user whom the certificate names; the name may not be told apart from a wrong one.
    fn by_certificate(&self, peer: &Peer) -> Result<Arc<dyn LoggedIn>, CommandError> {
        let certificate = peer.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        let Some(name) = certificate.and_then(|c| self.certificate_name.of(c)) else {
            let subject = certificate.map_or("", |certificate| &*certificate.subject);
            tracing::info!(
                peer = %peer.address, %subject, part = ?self.certificate_name,
                "login refused: the certificate does not name a user"
            );
            return Err(refusal());
        };
        match self.authenticator.trust(name, peer.address.ip()) {
            Ok(_) => Ok(self.user(name)),
            Err(error) => Err(refused(name, peer.address.ip(), &error)),
        }
    }
}

/// The client is not told why: that would help those who guess.
fn refusal() -> CommandError {
    CommandError::Refused("login refused".to_owned())
}

fn refused(user: &str, peer: IpAddr, error: &dyn fmt::Display) -> CommandError {
    tracing::info!(user = %user.escape_debug(), %peer, %error, "login refused");
    refusal()
}

impl Authenticate for Logins {
    fn login(&self, credentials: Credentials, peer: &Peer) -> Login {
        let Credentials::Password { user: name, password } = credentials else {
            return Box::pin(ready(self.by_certificate(peer)));
        };
        let authenticator = Arc::clone(&self.authenticator);
        let (timeout, peer, user) = (self.timeout, peer.address.ip(), self.user(&name));
        Box::pin(async move {
            let verified = authenticator.log_in(&name, password.0.as_bytes(), peer);
            match tokio::time::timeout(timeout, verified).await {
                Ok(Ok(_)) => Ok(user),
                Ok(Err(error)) => Err(refused(&name, peer, &error)),
                Err(_) => Err(refused(&name, peer, &AuthError::Unavailable)),
            }
        })
    }
}

/// A user of the directory, of whom only the name is kept: the rest may change at any time.
struct DirectoryUser {
    name: Arc<str>,
    directory: SharedDirectory,
}

impl LoggedIn for DirectoryUser {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn tags(&self) -> Vec<String> {
        self.directory.load().user(&self.name).map(|user| user.tags.clone()).unwrap_or_default()
    }

    fn enter(&self, vhost: &Arc<str>) -> Entering {
        let (directory, name) = (Arc::clone(&self.directory), Arc::clone(&self.name));
        let access = Access::new(directory, name, Arc::clone(vhost));
        Box::pin(ready(access.map(|access| Box::new(access) as Box<dyn isthmus_broker::Access>)))
    }

    fn limits(&self, vhost: &str) -> Limits {
        let directory = self.directory.load();
        Limits {
            user_connections: directory.user_limits(&self.name).connections_max,
            vhost_connections: directory.vhost_limits(vhost).connections_max,
        }
    }
}
