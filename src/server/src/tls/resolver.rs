//! Which certificate a client gets.

use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Certificates by the names they are for; the first is for clients that name none of them.
pub(super) struct BySni(Vec<(Vec<String>, Arc<CertifiedKey>)>);

impl fmt::Debug for BySni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(names, _)| names)).finish()
    }
}

impl BySni {
    /// Picks among `certificates`, of which there is at least one.
    ///
    /// # Errors
    ///
    /// If one cannot be read.
    pub(super) fn new(certificates: Vec<CertifiedKey>) -> Result<BySni, String> {
        let named = certificates.into_iter().map(|key| Ok((names(&key)?, Arc::new(key))));
        named.collect::<Result<_, String>>().map(BySni)
    }

    /// The certificate for a client that asks for `name`: one that is for exactly that name, or
    /// for all names of its domain, or else the first.
    fn pick(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let wanted = name.map(str::to_ascii_lowercase);
        let matches = |accept: &dyn Fn(&str, &str) -> bool| {
            let wanted = wanted.as_deref()?;
            self.0.iter().find(|(names, _)| names.iter().any(|n| accept(n, wanted)))
        };
        let of_domain = |pattern: &str, wanted: &str| {
            let domain = pattern.strip_prefix("*.");
            domain.is_some_and(|d| wanted.split_once('.').is_some_and(|(_, rest)| rest == d))
        };
        matches(&|name, wanted| name == wanted)
            .or_else(|| matches(&of_domain))
            .or_else(|| self.0.first())
            .map(|(_, key)| key)
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pick(hello.server_name()).cloned()
    }
}

/// The DNS names that a certificate is for, in lower case.
fn names(key: &CertifiedKey) -> Result<Vec<String>, String> {
    let leaf = key.cert.first().ok_or("it holds no certificate")?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|e| e.to_string())?;
    let alternatives = leaf.subject_alternative_name().map_err(|e| e.to_string())?;
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    Ok(names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(sets: &[&[&str]]) -> BySni {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = sets.iter().map(|names| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
            let key = made.signing_key.serialize_der().try_into().expect("a key");
            let key = provider.key_provider.load_private_key(key).expect("a key");
            CertifiedKey::new(vec![made.cert.der().clone()], key)
        });
        BySni::new(certified.collect()).expect("readable")
    }

    #[test]
    fn the_name_that_a_client_asks_for_picks_the_certificate() {
        let by_sni = resolver(&[&["first.test"], &["*.wild.test"], &["exact.wild.test", "b.test"]]);
        let picked = |name| {
            let key = by_sni.pick(name).expect("one");
            by_sni.0.iter().position(|(_, k)| Arc::ptr_eq(k, key)).expect("known")
        };
        assert_eq!(picked(Some("first.test")), 0);
        assert_eq!(picked(Some("a.wild.test")), 1);
        assert_eq!(picked(Some("EXACT.wild.test")), 2);
        assert_eq!(picked(Some("b.test")), 2);
        assert_eq!(picked(Some("a.b.wild.test")), 0, "a star stands for one word");
        assert_eq!(picked(Some("wild.test")), 0);
        assert_eq!(picked(Some("elsewhere.test")), 0);
        assert_eq!(picked(None), 0);
    }
}
