//! Whom a client's certificate names.

use isthmus_broker::{CertificateIdentity, TlsPeer};
use rustls::ServerConnection;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What a finished handshake says about the client.
pub(super) fn of_connection(connection: &ServerConnection) -> TlsPeer {
    let word = |text: Option<String>| text.unwrap_or_default();
    let version = connection.protocol_version();
    let cipher = connection.negotiated_cipher_suite();
    // Verified during the handshake: an unverified certificate ends it.
    let leaf = connection.peer_certificates().and_then(|chain| chain.first());
    TlsPeer {
        version: word(version.and_then(|v| v.as_str()).map(str::to_owned)),
        cipher: word(cipher.and_then(|c| c.suite().as_str()).map(str::to_owned)),
        certificate: leaf.and_then(|leaf| of_certificate(leaf)),
    }
}

/// Whom the certificate in `der` names; `None` if it cannot be read.
fn of_certificate(der: &[u8]) -> Option<CertificateIdentity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let mut identity = CertificateIdentity {
        subject: subject.to_string(),
        common_name: subject
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .map(str::to_owned),
        ..CertificateIdentity::default()
    };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => identity.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => identity.emails.push((*name).to_owned()),
            GeneralName::URI(name) => identity.uris.push((*name).to_owned()),
            _ => {}
        }
    }
    Some(identity)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_certificate_names_its_subject_and_the_alternatives() {
        let mut params = CertificateParams::new(vec!["device.test".to_owned()]).expect("names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Works");
        params.distinguished_name.push(DnType::CommonName, "device-7");
        let text = |text: &str| text.try_into().expect("ASCII");
        params.subject_alt_names.push(SanType::Rfc822Name(text("d@works.test")));
        params.subject_alt_names.push(SanType::URI(text("urn:device:7")));
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        let identity = of_certificate(made.der()).expect("readable");
        assert_eq!(identity.subject, "O=Works, CN=device-7");
        assert_eq!(identity.common_name.as_deref(), Some("device-7"));
        assert_eq!(identity.dns_names, ["device.test"]);
        assert_eq!(identity.emails, ["d@works.test"]);
        assert_eq!(identity.uris, ["urn:device:7"]);
        assert_eq!(of_certificate(b"no certificate"), None);
    }
}
