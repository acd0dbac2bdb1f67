use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{Config, Error, Grant, Permission, Verifier};

/// A key of a provider.
struct Signer {
    key: EncodingKey,
    jwk: Option<Jwk>,
    algorithm: Algorithm,
    id: &'static str,
}

impl Signer {
    fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let kind = match algorithm {
            Algorithm::ES384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Algorithm::EdDSA => &rcgen::PKCS_ED25519,
            Algorithm::RS256 | Algorithm::PS512 => &rcgen::PKCS_RSA_SHA256,
            _ => &rcgen::PKCS_ECDSA_P256_SHA256,
        };
        let pair = rcgen::KeyPair::generate_for(kind).expect("a key");
        let der = pair.serialize_der();
        let key = match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_der(&der),
            // The PKCS #1 key, behind the PKCS #8 header of a key of 2048 bits.
            Algorithm::RS256 | Algorithm::PS512 => EncodingKey::from_rsa_der(&der[26..]),
            _ => EncodingKey::from_ec_der(&der),
        };
        let jwk = match algorithm {
            Algorithm::EdDSA => {
                let public = DecodingKey::from_ed_der(pair.public_key_raw());
                Jwk::from_decoding_key(&public, Some(algorithm))
            }
            _ => Jwk::from_encoding_key(&key, algorithm),
        };
        Self { key, jwk: Some(jwk.expect("a public key")), algorithm, id }
    }

    fn jwk(&self) -> Value {
        let mut jwk = self.jwk.clone().expect("a key pair");
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).expect("JSON")
    }

    fn token(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        jsonwebtoken::encode(&header, claims, &self.key).expect("signed")
    }
}

fn jwks(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }).to_string()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Claims that are accepted, changed by `changes`; null takes one away.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "sub": "ann", "aud": ["isthmus"], "exp": now() + 60,
        "scope": "isthmus.read:*/* isthmus.tag:management other.write:*/*",
    });
    for (name, value) in changes.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    claims
}

fn config(keys: &Path, settings: &str) -> Config {
    let keys = keys.display();
    toml::from_str(&format!("resource_server_id = 'isthmus'\njwks_file = '{keys}'\n{settings}"))
        .expect("a valid configuration")
}

/// What a verifier with these settings makes of these claims.
async fn verify(settings: &str, changes: &Value) -> Result<Grant, Error> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("jwks.json");
    let signer = Signer::new("one", Algorithm::ES256);
    std::fs::write(&file, jwks(&[&signer])).expect("written");
    let verifier = Verifier::new(config(&file, settings)).expect("a verifier");
    let token = signer.token(&claims(changes));
    let result = verifier.verify(&token).await;
    if let Err(error) = &result {
        let part = token.split('.').nth(1).expect("a payload");
        assert!(!error.to_string().contains(part), "{error}");
    }
    result
}

#[tokio::test]
async fn a_token_names_the_user_and_grants_what_its_scopes_say() {
    let grant = verify("", &json!({})).await.expect("accepted");
    assert_eq!(grant.user, "ann");
    assert_eq!(grant.tags, ["management"]);
    assert_eq!(grant.scopes, ["read:*/*", "tag:management"]);
    assert!(grant.may_enter("/") && grant.allows(Permission::Read, "/", "orders"));
    assert!(!grant.allows(Permission::Write, "/", "orders"), "another server's scope");
    assert!(!grant.is_expired(SystemTime::now()));
    assert!(grant.is_expired(SystemTime::now() + Duration::from_secs(61)));
}

#[tokio::test]
async fn patterns_decide_on_hosts_names_and_routing_keys() {
    let scope = "isthmus.configure:%2F/own-* isthmus.write:prod*/orders/new.* \
        isthmus.read:a/{sub}-* isthmus.write:{vhost}/{vhost} isthmus.read:a/b/c/d isthmus.read:x";
    let grant = verify("", &json!({ "scope": scope, "sub": "a*/n" })).await.expect("accepted");
    use Permission::{Configure, Read, Write};
    assert!(grant.may_enter("/") && grant.may_enter("prod-1") && grant.may_enter("anything"));
    assert!(grant.allows(Configure, "/", "own-queue") && !grant.allows(Configure, "/", "queue"));
    assert!(!grant.allows(Read, "/", "own-queue"), "a permission is not another");
    assert!(grant.allows(Write, "prod-1", "orders"));
    assert!(grant.allows_topic(Write, "prod-1", "orders", "new.eu"));
    assert!(!grant.allows_topic(Write, "prod-1", "orders", "old.eu"));
    assert!(grant.allows_topic(Configure, "/", "own-x", "key"), "no pattern for routing keys");
    assert!(grant.allows(Read, "a", "a*/n-1"), "a claim is text");
    assert!(!grant.allows(Read, "a", "abc/n-1"), "and no pattern");
    assert!(grant.allows(Write, "x y", "x y") && !grant.allows(Write, "x", "y"));
    let none = verify("", &json!({ "scope": null })).await.expect("accepted");
    assert!(!none.may_enter("/") && none.tags.is_empty());
}

#[tokio::test]
async fn scopes_come_from_further_claims_and_aliases() {
    let settings = "additional_scopes_key = 'realm.roles extra'\n\
        scope_aliases = { boss = 'isthmus.tag:administrator isthmus.write:*/*', dev = ['isthmus.read:dev/*'] }";
    let changes = json!({
        "scope": ["boss", "unknown"],
        "realm": { "roles": ["dev"] },
        "extra": { "isthmus": "configure:dev/*", "other": ["write:dev/*"] },
        "authorization": { "permissions": [{ "scopes": ["isthmus.tag:monitoring"] }, { "x": 1 }] },
    });
    let grant = verify(settings, &changes).await.expect("accepted");
    let scopes =
        ["configure:dev/*", "read:dev/*", "tag:administrator", "tag:monitoring", "write:*/*"];
    assert_eq!(grant.scopes, scopes);
    let source = verify("extra_scopes_source = 'extra'", &changes).await.expect("accepted");
    assert!(source.allows(Permission::Configure, "dev", "q"));
    let changes = json!({ "scope": "x:read:*/* isthmus.write:*/*" });
    let prefix = verify("scope_prefix = 'x:'", &changes);
    assert_eq!(prefix.await.expect("accepted").scopes, ["read:*/*"]);
    let many: Vec<String> = (0..2049).map(|n| format!("isthmus.read:*/{n}")).collect();
    let error = verify("", &json!({ "scope": many })).await;
    assert!(matches!(error, Err(Error::TooManyScopes(2048))));
}

#[tokio::test]
async fn the_user_is_the_first_claim_that_names_one() {
    let changes = json!({ "email": "ann@example.com", "client_id": "app" });
    let settings = "preferred_username_claims = ['nick', 'email']";
    assert_eq!(verify(settings, &changes).await.expect("accepted").user, "ann@example.com");
    assert_eq!(verify("", &changes).await.expect("accepted").user, "ann");
    let changes = json!({ "sub": null, "client_id": "app" });
    assert_eq!(verify("", &changes).await.expect("accepted").user, "app");
    assert!(matches!(verify("", &json!({ "sub": 7 })).await, Err(Error::NoUser(_))));
}

#[tokio::test]
async fn lifetimes_issuers_and_audiences_are_checked() {
    let now = now();
    for (settings, changes, expected) in [
        ("", json!({ "exp": now - 5 }), "expired"),
        ("", json!({ "exp": null }), "\"exp\" is missing"),
        ("", json!({ "exp": "soon" }), "\"exp\" is malformed"),
        ("", json!({ "exp": -1 }), "\"exp\" is malformed"),
        ("", json!({ "exp": u64::MAX }), "\"exp\" is malformed"),
        ("leeway_seconds = 3", json!({ "exp": now - 5 }), "expired"),
        ("", json!({ "nbf": now + 30 }), "not valid before"),
        ("", json!({ "aud": "other" }), "audience"),
        ("", json!({ "aud": ["isthmus2", 7] }), "audience"),
        ("", json!({ "aud": null }), "\"aud\" is missing"),
        ("issuer = 'https://id'", json!({ "iss": "https://evil" }), "issuer"),
        ("issuer = 'https://id'", json!({}), "\"iss\" is missing"),
    ] {
        let error = verify(settings, &changes).await.expect_err(expected).to_string();
        assert!(error.contains(expected), "{changes}: {error}");
    }
    for (settings, changes) in [
        ("leeway_seconds = 60", json!({ "exp": now - 5, "nbf": now + 30 })),
        ("", json!({ "exp": now as f64 + 30.5 })),
        ("verify_aud = false", json!({ "aud": null })),
        ("", json!({ "aud": "other isthmus" })),
        ("issuer = 'https://id'", json!({ "iss": "https://id" })),
    ] {
        let grant = verify(settings, &changes).await.expect("accepted");
        assert!(!grant.is_expired(SystemTime::now()), "{changes}");
    }
}

#[tokio::test]
async fn signatures_of_all_kinds_are_checked() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("jwks.json");
    for algorithm in
        [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS512]
    {
        let (good, bad) = (Signer::new("one", algorithm), Signer::new("one", algorithm));
        std::fs::write(&file, jwks(&[&good])).expect("written");
        let verifier = Verifier::new(config(&file, "")).expect("a verifier");
        verifier.verify(&good.token(&claims(&json!({})))).await.expect("accepted");
        let error = verifier.verify(&bad.token(&claims(&json!({})))).await.expect_err("forged");
        assert!(matches!(error, Error::Signature), "{algorithm:?}: {error}");
    }
}

#[tokio::test]
async fn tokens_without_or_with_a_confused_algorithm_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("jwks.json");
    let (one, rsa) = (Signer::new("one", Algorithm::ES256), Signer::new("two", Algorithm::RS256));
    let keys = jwks(&[&one, &rsa]);
    std::fs::write(&file, &keys).expect("written");
    let verifier = Verifier::new(config(&file, "")).expect("a verifier");
    // {"alg":"none"} and {}.
    for token in ["eyJhbGciOiJub25lIn0.e30.", "", "secret", "a.b.c", "..", &"x".repeat(200_000)] {
        let error = verifier.verify(token).await.expect_err("no token");
        assert!(matches!(error, Error::NotAToken), "{error}");
    }
    let secret = EncodingKey::from_secret(keys.as_bytes());
    let hmac = Signer { key: secret, jwk: None, algorithm: Algorithm::HS256, id: "two" };
    let error = verifier.verify(&hmac.token(&claims(&json!({})))).await.expect_err("HMAC");
    assert!(matches!(error, Error::Algorithm(Algorithm::HS256)), "{error}");
    let other = Signer { id: "two", ..one };
    let error = verifier.verify(&other.token(&claims(&json!({})))).await.expect_err("mismatch");
    assert!(matches!(error, Error::KeyMismatch { .. }), "{error}");
    let only = Verifier::new(config(&file, "algorithms = ['ES256']")).expect("a verifier");
    let error = only.verify(&rsa.token(&claims(&json!({})))).await.expect_err("not allowed");
    assert!(matches!(error, Error::Algorithm(Algorithm::RS256)), "{error}");
}

#[tokio::test]
async fn a_changed_file_is_read_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("jwks.json");
    let (one, two) = (Signer::new("one", Algorithm::ES256), Signer::new("two", Algorithm::ES256));
    std::fs::write(&file, jwks(&[&one])).expect("written");
    let verifier = Verifier::new(config(&file, "")).expect("a verifier");
    let (old, new) = (one.token(&claims(&json!({}))), two.token(&claims(&json!({}))));
    verifier.verify(&old).await.expect("accepted");
    assert!(matches!(verifier.verify(&new).await, Err(Error::UnknownKey(id)) if id == "two"));
    std::fs::write(&file, "not JSON").expect("written");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    verifier.verify(&old).await.expect("the old keys stay");
    std::fs::write(&file, jwks(&[&two, &two])).expect("written");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    verifier.verify(&new).await.expect("accepted");
    assert!(matches!(verifier.verify(&old).await, Err(Error::UnknownKey(_))));
}

/// Serves keys; nothing is an error of the server. Counts requests.
fn serve(
    content: Arc<Mutex<Option<String>>>,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> (u16, Arc<AtomicUsize>) {
    fn answer(stream: &mut (impl Read + Write), content: Option<String>) -> std::io::Result<()> {
        let mut reader = BufReader::new(&mut *stream);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let (status, body) = content.map_or(("500 Broken", String::new()), |body| ("200 OK", body));
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )?;
        stream.flush()
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            counter.fetch_add(1, Ordering::SeqCst);
            let content = content.lock().clone();
            // Clients that go away are no matter.
            let _ = match &tls {
                None => answer(&mut stream, content),
                Some(tls) => {
                    let session =
                        rustls::ServerConnection::new(Arc::clone(tls)).expect("a session");
                    answer(&mut rustls::StreamOwned::new(session, stream), content)
                }
            };
        }
    });
    (port, requests)
}

fn by_url(url: &str, settings: &str) -> Verifier {
    let text = format!("resource_server_id = 'isthmus'\njwks_url = '{url}'\n{settings}");
    Verifier::new(toml::from_str(&text).expect("a valid configuration")).expect("a verifier")
}

#[tokio::test]
async fn unknown_key_ids_make_it_ask_the_server_but_not_too_often() {
    let (one, two) = (Signer::new("one", Algorithm::ES256), Signer::new("two", Algorithm::ES256));
    let (old, new) = (one.token(&claims(&json!({}))), two.token(&claims(&json!({}))));
    let content = Arc::new(Mutex::new(Some(jwks(&[&one]))));
    let (port, requests) = serve(Arc::clone(&content), None);
    let verifier = by_url(&format!("http://127.0.0.1:{port}/keys"), "min_refresh_seconds = 1");
    verifier.verify(&old).await.expect("accepted");
    for _ in 0..20 {
        assert!(matches!(verifier.verify(&new).await, Err(Error::UnknownKey(_))));
    }
    assert_eq!(requests.load(Ordering::SeqCst), 1);
    *content.lock() = Some(jwks(&[&one, &two]));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    verifier.verify(&new).await.expect("accepted");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn known_keys_survive_a_server_that_does_not_answer() {
    let one = Signer::new("one", Algorithm::ES256);
    let token = one.token(&claims(&json!({})));
    let content = Arc::new(Mutex::new(None));
    let (port, requests) = serve(Arc::clone(&content), None);
    let settings = "refresh_seconds = 0\nmin_refresh_seconds = 0";
    let verifier = by_url(&format!("http://127.0.0.1:{port}/keys"), settings);
    let error = verifier.verify(&token).await.expect_err("no keys");
    assert!(matches!(&error, Error::NoKeys(reason) if reason.contains("500")), "{error}");
    *content.lock() = Some(jwks(&[&one]));
    verifier.verify(&token).await.expect("accepted");
    *content.lock() = None;
    let before = requests.load(Ordering::SeqCst);
    for _ in 0..50 {
        verifier.verify(&token).await.expect("the old keys stay");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(requests.load(Ordering::SeqCst) > before, "it asked again meanwhile");
}

#[tokio::test]
async fn a_mute_server_ends_the_wait() {
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let url = format!("http://{}/", mute.local_addr().expect("its address"));
    let verifier = by_url(&url, "timeout_ms = 200");
    let token = Signer::new("one", Algorithm::ES256).token(&claims(&json!({})));
    let verified = tokio::time::timeout(Duration::from_secs(5), verifier.verify(&token));
    assert!(matches!(verified.await.expect("in time"), Err(Error::NoKeys(_))));
}

#[tokio::test]
async fn https_needs_a_trusted_certificate() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    let dir = tempfile::tempdir().expect("a directory");
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, certificate.pem()).expect("written");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .expect("a configuration");
    let one = Signer::new("one", Algorithm::ES256);
    let token = one.token(&claims(&json!({})));
    let (port, _) = serve(Arc::new(Mutex::new(Some(jwks(&[&one])))), Some(Arc::new(tls)));
    let url = format!("https://127.0.0.1:{port}/keys");
    let trusting = by_url(&url, &format!("ca_file = '{}'", ca.display()));
    trusting.verify(&token).await.expect("accepted");
    let error = by_url(&url, "").verify(&token).await.expect_err("no trust");
    assert!(matches!(&error, Error::NoKeys(reason) if reason.contains("ertificate")), "{error}");
}

#[test]
fn contradictory_settings_are_refused() {
    for (settings, expected) in [
        ("jwks_url = 'https://x'", "resource_server_id"),
        ("verify_aud = false", "set one of"),
        ("verify_aud = false\njwks_url = 'ftp://x'", "must begin"),
        ("verify_aud = false\njwks_url = 'https://x'\njwks_file = 'x'", "set one of"),
        ("verify_aud = false\njwks_url = 'https://x'\nalgorithms = []", "algorithms"),
        ("verify_aud = false\njwks_file = '/nowhere/jwks'", "/nowhere/jwks"),
        ("verify_aud = false\njwks_url = 'https://x'\nca_file = '/nowhere/ca'", "/nowhere/ca"),
    ] {
        let config = toml::from_str(settings).expect("it parses");
        let error = Verifier::new(config).expect_err(settings).to_string();
        assert!(error.contains(expected), "{settings}: {error}");
    }
    for wrong in ["algorithms = ['HS256']", "algorithms = ['none']", "resource_server = 'x'"] {
        assert!(toml::from_str::<Config>(wrong).is_err(), "{wrong}");
    }
}
