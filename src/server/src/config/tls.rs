//! `[tls]`: what TLS listeners show, and what they ask for.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::units::TimeSpan;
use super::value::{Setting, Value, read_word};

/// `[tls]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tls {
    /// Certificate chains in PEM, the server's own first in each. The first file is for clients
    /// that name no server, or none of the others'.
    pub(crate) certificate: Paths,
    /// The private keys in PEM, in the same order.
    pub(crate) key: Paths,
    /// Whether clients show certificates.
    pub(crate) client_auth: ClientAuth,
    /// The authorities whose client certificates are accepted, in PEM.
    pub(crate) client_ca: Paths,
    /// Lists of client certificates that were revoked, in PEM.
    pub(crate) crls: Paths,
    /// The oldest version that is spoken.
    pub(crate) min_version: TlsVersion,
    /// How long a handshake may take.
    pub(crate) handshake_timeout: TimeSpan,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificate: Paths::default(),
            key: Paths::default(),
            client_auth: ClientAuth::Off,
            client_ca: Paths::default(),
            crls: Paths::default(),
            min_version: TlsVersion::V1_2,
            handshake_timeout: TimeSpan::secs(5),
        }
    }
}

impl Tls {
    /// Whether there is a certificate, and so TLS.
    pub(crate) fn is_on(&self) -> bool {
        !self.certificate.0.is_empty()
    }

    /// Every file that is named.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let lists = [&self.certificate, &self.key, &self.client_ca, &self.crls];
        lists.into_iter().flat_map(|paths| paths.0.iter().map(PathBuf::as_path))
    }

    /// What does not go together, with the key to blame.
    pub(super) fn check(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let (certificates, keys) = (self.certificate.0.len(), self.key.0.len());
        if certificates != keys {
            problems.push((
                "tls.key",
                format!(
                    "names {keys} files and tls.certificate {certificates}: each needs the other"
                ),
            ));
        }
        let asks = self.client_auth != ClientAuth::Off;
        let names_some = !self.client_ca.0.is_empty() || !self.crls.0.is_empty();
        if asks && self.client_ca.0.is_empty() {
            problems.push((
                "tls.client_auth",
                "needs tls.client_ca, the authorities whose certificates are accepted".to_owned(),
            ));
        }
        if !asks && names_some {
            let key = if self.crls.0.is_empty() { "tls.client_ca" } else { "tls.crls" };
            let message = "is without effect: set tls.client_auth to \"wanted\" or \"required\"";
            problems.push((key, message.to_owned()));
        }
        problems
    }
}

/// Some files: in the configuration, one path or a list of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Paths(pub(crate) Vec<PathBuf>);

impl Setting for Paths {
    fn read(value: &Value) -> Result<Self, String> {
        let parts = match value {
            Value::Text(text) if text.is_empty() => Vec::new(),
            Value::Text(text) => vec![text.clone()],
            other => Vec::<String>::read(other)?,
        };
        Ok(Self(parts.into_iter().map(PathBuf::from).collect()))
    }
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientAuth {
    /// They are not asked.
    Off,
    /// They are asked, and may have none.
    Wanted,
    /// Without one the handshake fails.
    Required,
}

impl FromStr for ClientAuth {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "off" => Ok(Self::Off),
            "wanted" => Ok(Self::Wanted),
            "required" => Ok(Self::Required),
            _ => Err(()),
        }
    }
}

impl Setting for ClientAuth {
    fn read(value: &Value) -> Result<Self, String> {
        read_word(value, "\"off\", \"wanted\" or \"required\"")
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

impl FromStr for TlsVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            _ => Err(()),
        }
    }
}

impl Setting for TlsVersion {
    fn read(value: &Value) -> Result<Self, String> {
        read_word(value, "\"1.2\" or \"1.3\"")
    }
}
