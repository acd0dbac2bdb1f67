//! Connections to a server of the list.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, SearchEntry};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::config::Config;
use crate::error::{ConfigError, Error};
use crate::secret::Secret;

/// Result codes of RFC 4511 appendix A.
const NO_SUCH_OBJECT: u32 = 32;
const INVALID_DN_SYNTAX: u32 = 34;
const INAPPROPRIATE_AUTHENTICATION: u32 = 48;
const INVALID_CREDENTIALS: u32 = 49;

/// Whom a connection speaks for.
#[derive(Debug, Clone)]
pub(crate) enum Credentials {
    Anonymous,
    Account { dn: String, password: Secret },
}

/// Opens connections.
pub(crate) struct Connector {
    servers: Vec<String>,
    starttls: bool,
    tls: Arc<ClientConfig>,
    timeout: Duration,
}

/// Why a connection cannot be used.
pub(crate) enum OpenError {
    /// Name or password is wrong.
    Refused,
    Unavailable(String),
}

impl Connector {
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigError> {
        let is_protected = |server: &String| config.starttls || server.starts_with("ldaps:");
        if let Some(server) = config.servers.iter().find(|server| !is_protected(server)) {
            tracing::warn!(server, "passwords go to the LDAP server unprotected: use TLS");
        }
        Ok(Self {
            servers: config.servers.clone(),
            starttls: config.starttls,
            tls: Arc::new(tls(config.ca_file.as_deref())?),
            timeout: Duration::from_millis(config.timeout_ms),
        })
    }

    /// Connects to the first server that answers, and logs in there.
    pub(crate) async fn open(&self, credentials: &Credentials) -> Result<Connection, OpenError> {
        let mut reasons = Vec::new();
        for server in &self.servers {
            let attempt = self.open_one(server, credentials);
            match tokio::time::timeout(self.timeout, attempt).await {
                Ok(Ok(ldap)) => return Ok(Connection { ldap, timeout: self.timeout }),
                Ok(Err(OpenError::Refused)) => return Err(OpenError::Refused),
                Ok(Err(OpenError::Unavailable(reason))) => {
                    tracing::warn!(server, reason, "the LDAP server cannot be used");
                    reasons.push(format!("{server}: {reason}"));
                }
                Err(_) => {
                    tracing::warn!(server, "the LDAP server did not answer in time");
                    reasons.push(format!("{server}: no answer in time"));
                }
            }
        }
        Err(OpenError::Unavailable(reasons.join("; ")))
    }

    async fn open_one(&self, server: &str, credentials: &Credentials) -> Result<Ldap, OpenError> {
        let unavailable = |error: ldap3::LdapError| OpenError::Unavailable(error.to_string());
        let settings = LdapConnSettings::new()
            .set_conn_timeout(self.timeout)
            .set_starttls(self.starttls)
            .set_config(Arc::clone(&self.tls));
        let (connection, mut ldap) =
            LdapConnAsync::with_settings(settings, server).await.map_err(unavailable)?;
        // Ends with the last handle.
        tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(%error, "the connection to the LDAP server broke");
            }
        });
        if let Credentials::Account { dn, password } = credentials {
            // Either of them empty would be a bind without authentication, and might succeed.
            if dn.is_empty() || password.reveal().is_empty() {
                return Err(OpenError::Refused);
            }
            let result = ldap.simple_bind(dn, password.reveal()).await.map_err(unavailable)?;
            match result.rc {
                0 => {}
                INVALID_CREDENTIALS
                | INAPPROPRIATE_AUTHENTICATION
                | INVALID_DN_SYNTAX
                | NO_SUCH_OBJECT => return Err(OpenError::Refused),
                _ => return Err(OpenError::Unavailable(result.to_string())),
            }
        }
        Ok(ldap)
    }
}

/// A connection with its login.
pub(crate) struct Connection {
    ldap: Ldap,
    timeout: Duration,
}

impl Connection {
    /// Searches; a base that does not exist has nothing below it.
    pub(crate) async fn search(
        &mut self,
        base: &str,
        scope: ldap3::Scope,
        filter: &str,
        attribute: &str,
    ) -> Result<Vec<SearchEntry>, Error> {
        let failed = |reason: String| Error::Search { base: base.to_owned(), reason };
        let search =
            self.ldap.with_timeout(self.timeout).search(base, scope, filter, vec![attribute]);
        let ldap3::SearchResult(entries, result) =
            search.await.map_err(|error| failed(error.to_string()))?;
        match result.rc {
            0 => Ok(entries
                .into_iter()
                .filter(|entry| !entry.is_ref() && !entry.is_intermediate())
                .map(SearchEntry::construct)
                .collect()),
            NO_SUCH_OBJECT => Ok(Vec::new()),
            _ => Err(failed(result.to_string())),
        }
    }

    /// Says goodbye, which servers like to see.
    pub(crate) async fn close(mut self) {
        let _ = self.ldap.with_timeout(self.timeout).unbind().await;
    }
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, ConfigError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let wrong = |reason: String| ConfigError::CaFile { path: path.to_owned(), reason };
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("it holds no certificate".to_owned()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
