//! From files to what a handshake needs.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::resolver::BySni;
use crate::config::{ClientAuth, Tls as TlsConfig, TlsVersion};

/// A file that TLS needs and cannot use.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {path}: {what}")]
pub(crate) struct TlsError {
    /// The configuration's key that names the file.
    key: &'static str,
    path: String,
    what: String,
}

impl TlsError {
    fn new(key: &'static str, path: &Path, what: impl Display) -> Self {
        Self { key, path: path.display().to_string(), what: format!("{what}") }
    }
}

/// Reads everything that `config` names.
///
/// # Errors
///
/// [`TlsError`] for the first file that cannot be used.
pub(super) fn load(config: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut certificates = Vec::new();
    for (chain, key) in config.certificate.0.iter().zip(&config.key.0) {
        let certified = certified_key(chain, key, &provider)?;
        warn_of_dates(chain, &certified.cert);
        certificates.push(certified);
    }
    let resolver = BySni::new(certificates)
        .map_err(|what| TlsError::new("tls.certificate", &first(&config.certificate.0), what))?;
    let both: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    let versions = match config.min_version {
        TlsVersion::V1_2 => both,
        TlsVersion::V1_3 => &both[..1],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|e| TlsError::new("tls.min_version", Path::new("-"), e))?;
    let builder = match config.client_auth {
        ClientAuth::Off => builder.with_no_client_auth(),
        ClientAuth::Wanted | ClientAuth::Required => {
            builder.with_client_cert_verifier(client_verifier(config, provider)?)
        }
    };
    Ok(Arc::new(builder.with_cert_resolver(Arc::new(resolver))))
}

fn first(paths: &[PathBuf]) -> PathBuf {
    paths.first().cloned().unwrap_or_default()
}

fn client_verifier(
    config: &TlsConfig,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for path in &config.client_ca.0 {
        for certificate in certificates("tls.client_ca", path)? {
            roots.add(certificate).map_err(|e| TlsError::new("tls.client_ca", path, e))?;
        }
    }
    let mut lists = Vec::new();
    for path in &config.crls.0 {
        let read = CertificateRevocationListDer::pem_file_iter(path)
            .and_then(|lists| lists.collect::<Result<Vec<_>, _>>());
        let read = read.map_err(|e| unreadable("tls.crls", path, &e))?;
        if read.is_empty() {
            return Err(TlsError::new("tls.crls", path, "it holds no X509 CRL in PEM"));
        }
        lists.extend(read);
    }
    // A certificate whose authority has no list here is not checked for revocation: operators
    // give lists for the authorities that publish them.
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(lists)
        .allow_unknown_revocation_status();
    if config.client_auth == ClientAuth::Wanted {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|e| {
        let first = first(&config.client_ca.0);
        TlsError::new("tls.client_ca", &first, format!("{e}, or one of tls.crls is not in order"))
    })
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|e| unreadable(key, path, &e))?;
    if read.is_empty() {
        return Err(TlsError::new(key, path, "it holds no CERTIFICATE in PEM"));
    }
    Ok(read)
}

fn certified_key(
    chain: &Path,
    key: &Path,
    provider: &rustls::crypto::CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let certificates = certificates("tls.certificate", chain)?;
    warn_of_mode(key);
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| match e {
        pem::Error::NoItemsFound => {
            TlsError::new("tls.key", key, "it holds no unencrypted PRIVATE KEY in PEM")
        }
        e => unreadable("tls.key", key, &e),
    })?;
    let signing = provider
        .key_provider
        .load_private_key(private)
        .map_err(|e| TlsError::new("tls.key", key, format!("not a key that can be used: {e}")))?;
    let certified = CertifiedKey::new(certificates, signing);
    certified.keys_match().map_err(|_| {
        let chain = chain.display();
        TlsError::new("tls.key", key, format!("it is not the key of the certificate in {chain}"))
    })?;
    Ok(certified)
}

fn unreadable(key: &'static str, path: &Path, error: &pem::Error) -> TlsError {
    match error {
        pem::Error::Io(error) => TlsError::new(key, path, error),
        error => TlsError::new(key, path, format!("not PEM as it should be: {error:?}")),
    }
}

/// Says if a certificate is not valid now: clients will refuse it.
fn warn_of_dates(path: &Path, chain: &[CertificateDer<'_>]) {
    let Some(Ok((_, leaf))) = chain.first().map(|leaf| X509Certificate::from_der(leaf)) else {
        return;
    };
    if !leaf.validity().is_valid() {
        let (from, to) = (leaf.validity().not_before, leaf.validity().not_after);
        tracing::warn!(path = %path.display(), %from, %to, "a TLS certificate is not valid now");
    }
}

/// Says if others than its owner may read a key.
fn warn_of_mode(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if let Ok(metadata) = std::fs::metadata(path)
        && metadata.permissions().mode() & 0o007 != 0
    {
        tracing::warn!(path = %path.display(), "everybody may read this private key: chmod 600");
    }
}
