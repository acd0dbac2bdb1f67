//! Keys over http and https. Blocking: for threads that may wait.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::error::KeysError;

/// More than any provider publishes, and little enough to hold.
const MAX_BYTES: u64 = 1 << 20;

/// Fetches one address, again and again.
pub(crate) struct Fetcher {
    agent: ureq::Agent,
    url: String,
}

impl Fetcher {
    /// For `url`, with the authorities of `ca_file` or else of the system.
    pub(crate) fn new(
        url: &str,
        ca_file: Option<&Path>,
        timeout: Duration,
    ) -> Result<Self, KeysError> {
        let is_https = url.starts_with("https://");
        let roots = match ca_file {
            Some(path) => read_certificates(path)?,
            None if is_https => rustls_native_certs::load_native_certs()
                .certs
                .iter()
                .map(|der| Certificate::from_der(der).to_owned())
                .collect(),
            None => Vec::new(),
        };
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(
                rustls::crypto::aws_lc_rs::default_provider(),
            ))
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            // A redirect must not lead from protected to unprotected keys.
            .https_only(is_https)
            .max_redirects(3)
            .timeout_global(Some(timeout))
            .proxy(None)
            .build()
            .new_agent();
        Ok(Self { agent, url: url.to_owned() })
    }

    /// The address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Fetches the content.
    pub(crate) fn fetch(&self) -> Result<Vec<u8>, KeysError> {
        let failed = |error: ureq::Error| KeysError::Fetch {
            url: self.url.clone(),
            reason: error.to_string(),
        };
        let request = self.agent.get(&self.url).header("accept", "application/json");
        let mut response = request.call().map_err(failed)?;
        response.body_mut().with_config().limit(MAX_BYTES).read_to_vec().map_err(failed)
    }
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, KeysError> {
    let pem =
        std::fs::read(path).map_err(|source| KeysError::File { path: path.to_owned(), source })?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(KeysError::NoCertificate(path.to_owned()));
    }
    Ok(certificates)
}
