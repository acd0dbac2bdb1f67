//! The users that operators define in the broker itself.

use std::future::ready;
use std::sync::{Arc, Weak};

use isthmus_broker::{CertificateIdentity, Entering, Limits, Peer, User as LoggedIn};
use isthmus_contract::Credentials;
use parking_lot::Mutex;

use crate::backend::{self, Attempt, Backend, Refusal, RefusalKind};
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

/// Finds out who a client is among the users of a directory, by password or by certificate.
pub struct Internal {
    authenticator: Arc<Authenticator>,
    directory: SharedDirectory,
    certificate_name: CertificateName,
    /// Who has logged in last: mostly a crowd has one name.
    last: Mutex<Weak<DirectoryUser>>,
}

impl Internal {
    /// The users of `directory`.
    pub fn new(
        authenticator: Arc<Authenticator>,
        directory: SharedDirectory,
        certificate_name: CertificateName,
    ) -> Internal {
        Internal { authenticator, directory, certificate_name, last: Mutex::default() }
    }

    fn user(&self, name: &str) -> Arc<dyn LoggedIn> {
        let mut last = self.last.lock();
        if let Some(user) = last.upgrade().filter(|user| *user.name == *name) {
            return user;
        }
        let user = DirectoryUser { name: name.into(), directory: Arc::clone(&self.directory) };
        let user = Arc::new(user);
        *last = Arc::downgrade(&user);
        user
    }

    /// The user whom the certificate names.
    fn by_certificate(&self, peer: &Peer) -> Result<Arc<dyn LoggedIn>, Refusal> {
        let certificate = peer.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        let Some(name) = certificate.and_then(|c| self.certificate_name.of(c)) else {
            let subject = certificate.map_or("", |certificate| &*certificate.subject);
            let part = self.certificate_name;
            return Err(Refusal::unknown(format!(
                "the certificate of '{}' does not name a user by its {part:?}",
                subject.escape_debug()
            )));
        };
        self.authenticator.trust(name, peer.address.ip()).map(|_| self.user(name)).map_err(
            |error| {
                let Refusal { why, kind } = refusal(error);
                Refusal { why: format!("user '{}': {why}", name.escape_debug()), kind }
            },
        )
    }
}

fn refusal(error: AuthError) -> Refusal {
    let kind = match error {
        AuthError::Refused => RefusalKind::Unknown,
        AuthError::LoopbackOnly => RefusalKind::Forbidden,
        AuthError::Unavailable => RefusalKind::OutOfOrder,
    };
    Refusal { why: error.to_string(), kind }
}

impl Backend for Internal {
    fn name(&self) -> &'static str {
        "internal"
    }

    fn log_in(&self, credentials: &Credentials, peer: &Peer) -> Attempt {
        let Credentials::Password { user: name, password } = credentials else {
            return Box::pin(ready(self.by_certificate(peer)));
        };
        let authenticator = Arc::clone(&self.authenticator);
        let (name, password) = (name.clone(), password.clone());
        let (peer, user) = (peer.address.ip(), self.user(&name));
        Box::pin(async move {
            let verified = authenticator.log_in(&name, password.0.as_bytes(), peer).await;
            verified.map(|_| user).map_err(refusal)
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
        backend::limits(&self.directory, &self.name, vhost)
    }
}
