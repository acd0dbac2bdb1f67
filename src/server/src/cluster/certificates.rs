//! The certificates that nodes show each other, read from files and read again when these change.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use isthmus_broker::cluster::peer::PeerTls as Tls;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::ClusterError;
use crate::config::{Cluster as ClusterConfig, Config, PeerTls};
use crate::tls;

/// The files of a node, and the connections' side of them.
pub(super) struct Certificates {
    config: Arc<Config>,
    /// None where peers speak plain text.
    tls: Option<Tls>,
}

impl Certificates {
    /// Reads the files that the configuration names, if nodes speak TLS.
    ///
    /// # Errors
    /// [`ClusterError`], naming the file and what is wrong with it.
    pub(super) fn load(config: &Arc<Config>) -> Result<Certificates, ClusterError> {
        let tls = match config.cluster.tls {
            PeerTls::Off => None,
            PeerTls::On => {
                let (tls, accepted) = read(&config.cluster)?;
                if let Err(error) = accepted {
                    tracing::warn!(%error, "peers will not accept this node");
                }
                Some(tls)
            }
        };
        Ok(Certificates { config: Arc::clone(config), tls })
    }

    /// What connections go by, now and after each reload.
    pub(super) fn tls(&self) -> Option<Tls> {
        self.tls.clone()
    }

    /// Reads the files again, and says how that went. New connections use them if they are in order
    /// and peers with the same authorities would accept this node's certificate.
    pub(super) async fn reload(&self) {
        let Some(tls) = &self.tls else { return };
        let config = Arc::clone(&self.config);
        let read = move || {
            let (tls, accepted) = read(&config.cluster)?;
            accepted.map(|()| tls)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(new)) => {
                tls.replace(&new);
                tracing::info!("read the certificates for peers again; new connections use them");
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "peers are met with what was read before");
            }
            Err(error) => tracing::error!(%error, "peers are met with what was read before"),
        }
    }

    /// Reads the files again whenever they change.
    pub(super) async fn reload_at_change(&self) -> Infallible {
        let cluster = &self.config.cluster;
        let files = match &self.tls {
            Some(_) => [&cluster.certificate, &cluster.key, &cluster.ca].map(PathBuf::clone).into(),
            None => Vec::new(),
        };
        tls::at_each_change(files, || self.reload()).await
    }
}

/// What the files hold, and whether peers that have the same authorities accept this node.
fn read(cluster: &ClusterConfig) -> Result<(Tls, Result<(), ClusterError>), ClusterError> {
    let authorities = certificates("cluster.ca", &cluster.ca)?;
    let chain = certificates("cluster.certificate", &cluster.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&cluster.key)
        .map_err(|error| file("cluster.key", &cluster.key, "PRIVATE KEY", &error))?;
    let accepted = Tls::check(&authorities, &chain).map_err(ClusterError::Tls);
    let tls = Tls::from_certificates(&authorities, chain, key)?;
    Ok((tls, accepted))
}

fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ClusterError> {
    let read = CertificateDer::pem_file_iter(path)
        .and_then(|items| items.collect::<Result<Vec<_>, _>>())
        .and_then(|items| if items.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(items) });
    read.map_err(|error| file(key, path, "CERTIFICATE", &error))
}

fn file(key: &'static str, path: &Path, wanted: &str, error: &pem::Error) -> ClusterError {
    let what = match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("it holds no unencrypted {wanted} in PEM"),
        error => format!("not PEM as it should be: {error:?}"),
    };
    ClusterError::File { key, path: path.display().to_string(), what }
}
