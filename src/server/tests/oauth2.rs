//! Logging in with access tokens, from outside.

#[allow(dead_code)] // each test uses its part
mod program;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use program::amqp::{CONNECTION_CLOSE, Client};
use program::{Program, isthmus};
use serde_json::{Value, json};

/// A provider of tokens, whose public key is in a file.
struct Provider {
    key: EncodingKey,
    dir: tempfile::TempDir,
}

impl Provider {
    fn new() -> Self {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("a public key");
        jwk.common.key_id = Some("one".to_owned());
        let dir = tempfile::tempdir().expect("directory");
        let keys = json!({ "keys": [jwk] }).to_string();
        std::fs::write(dir.path().join("jwks.json"), keys).expect("written");
        Self { key, dir }
    }

    /// A token for `user` with these scopes, for some seconds.
    fn token(&self, user: &str, scope: &str, seconds: u64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let claims: Value =
            json!({ "sub": user, "aud": "isthmus", "exp": now + seconds, "scope": scope });
        let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.key).expect("signed")
    }

    /// A broker that accepts its tokens, beside its own users.
    fn broker(&self, backends: &str) -> Program {
        let keys = format!("auth.oauth2.jwks_file={}", self.dir.path().join("jwks.json").display());
        let backends = format!("auth.backends={backends}");
        let server = "auth.oauth2.resource_server_id=isthmus";
        Program::start(&["--set", &backends, "--set", &keys, "--set", server], &[])
    }
}

const ALL: &str = "isthmus.configure:*/* isthmus.write:*/* isthmus.read:*/*";

fn refused(result: std::io::Result<Client>) -> String {
    result.err().expect("refused").to_string()
}

#[test]
fn tokens_and_passwords_are_accepted_side_by_side() {
    let provider = Provider::new();
    let mut program = provider.broker("internal,oauth2");
    let port = program.port("amqp");
    Client::connect(port).expect("guest logs in");
    let token = provider.token("ann", ALL, 60);
    Client::connect_as(port, "", &token).expect("by token").declare("q").expect("allowed");
    let expected = "403 ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. \
                    For details see the broker logfile.";
    let (head, tail) = token.rsplit_once('.').expect("a signature");
    let forged = format!("{head}.{}{}", &tail[1..], &tail[..1]);
    for secret in ["wrong", &forged, &Provider::new().token("ann", ALL, 60), ""] {
        assert_eq!(refused(Client::connect_as(port, "guest", secret)), expected);
    }
    program.stop(rustix::process::Signal::TERM);
    let log = program.rest_of_log();
    assert!(log.contains("internal: the name or the password is wrong; oauth2: "), "{log}");
    let payload = token.split('.').nth(1).expect("a payload");
    assert!(!log.contains(payload), "no token is in the log");
}

#[test]
fn scopes_are_what_a_user_may_do() {
    let provider = Provider::new();
    let program = provider.broker("oauth2");
    let port = program.port("amqp");
    let error = refused(Client::connect(port));
    assert!(error.starts_with("403"), "without internal users there is no guest: {error}");
    let own = "isthmus.configure:%2F/ann-* isthmus.read:%2F/ann-*";
    let mut client = Client::connect_as(port, "x", &provider.token("ann", own, 60)).expect("in");
    client.declare("ann-1").expect("allowed");
    let error = client.declare("bob-1").expect_err("not allowed").to_string();
    let expected = "configure access to queue 'bob-1' in vhost '/' refused for user 'ann'";
    assert_eq!(error, format!("403 ACCESS_REFUSED - {expected}"));
    let elsewhere = provider.token("ann", "isthmus.read:other/*", 60);
    let error = refused(Client::connect_as(port, "x", &elsewhere));
    assert!(error.contains("access to vhost '/' refused for user 'ann'"), "{error}");
}

#[test]
fn a_connection_lives_as_long_as_its_tokens() {
    let provider = Provider::new();
    let program = provider.broker("oauth2");
    let port = program.port("amqp");
    let started = Instant::now();
    let mut expires = Client::connect_as(port, "", &provider.token("ann", ALL, 3)).expect("in");
    let mut renewed = Client::connect_as(port, "", &provider.token("ann", ALL, 3)).expect("in");
    let mut other = Client::connect_as(port, "", &provider.token("ann", ALL, 60)).expect("in");
    // The new token allows something else.
    let less = "isthmus.configure:*/ann-*";
    renewed.update_secret(&provider.token("ann", less, 60)).expect("accepted");
    renewed.declare("ann-1").expect("allowed");
    let closed = expires.wait_for(CONNECTION_CLOSE).expect("told");
    assert!(closed.reason().starts_with("320"), "{}", closed.reason());
    assert!(closed.reason().contains("credentials have expired"), "{}", closed.reason());
    assert!(started.elapsed() < Duration::from_secs(8));
    renewed.declare("ann-2").expect("it goes on");
    let error = renewed.declare("q").expect_err("no longer allowed").to_string();
    assert!(error.starts_with("403"), "{error}");
    let error = other.update_secret(&provider.token("bob", ALL, 60)).expect_err("another user");
    assert_eq!(
        error.to_string(),
        "530 NOT_ALLOWED - New secret was refused by one of the backends"
    );
}

#[test]
fn the_management_api_takes_tokens_too() {
    let provider = Provider::new();
    let program = provider.broker("oauth2");
    let ask = |token: &str| {
        let basic = STANDARD.encode(format!("ann:{token}"));
        program.get_with("/api/whoami", &format!("authorization: Basic {basic}\r\n"))
    };
    let answer = ask(&provider.token("ann", "isthmus.tag:management isthmus.read:*/*", 60));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"ann\""), "{answer}");
    let answer = ask(&provider.token("ann", ALL, 60));
    assert!(answer.contains("Not a management user"), "{answer}");
    assert!(ask("wrong").starts_with("HTTP/1.1 401"));
}

/// What `isthmus check` says of a configuration.
fn check(text: &str) -> String {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("isthmus.toml");
    std::fs::write(&file, text).expect("written");
    let output = isthmus().arg("check").arg(&file).output().expect("runs");
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).replace(&file.display().to_string(), "FILE")
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    let ldap = "[auth]\nbackends = [\"internal\", \"ldap\"]\n[auth.ldap]\n";
    let servers = "servers = [\"ldap://localhost\"]\nuser_dn_pattern = \"uid=${username},dc=x\"\n";
    let queries = "vhost_access_query = { in_group = \"cn=${vhost},dc=x\" }\n\
                   tag_queries = { management = { constant = true } }\n";
    assert_eq!(check(&format!("{ldap}{servers}{queries}")), "FILE: ok\n");
    for (text, expected) in [
        (
            "[auth]\nbackends = [\"internal\", \"oauth\"]".to_owned(),
            "FILE:2: auth.backends: unknown backend `oauth`; did you mean `oauth2`?",
        ),
        (
            "[auth]\nbackends = [\"ldap\", \"ldap\"]".to_owned(),
            "FILE:2: auth.backends: names `ldap` twice",
        ),
        ("[auth]\nbackends = []".to_owned(), "FILE:2: auth.backends: must name a backend"),
        (
            "[auth]\nbackends = [\"oauth2\"]".to_owned(),
            "auth.oauth2.resource_server_id: resource_server_id is not set",
        ),
        (
            "[auth.oauth2]\njwks_fil = \"x\"".to_owned(),
            "FILE:2: auth.oauth2.jwks_fil: unknown key; did you mean `auth.oauth2.jwks_file`?",
        ),
        (
            "[auth.oauth2]\nalgorithms = [\"HS256\"]".to_owned(),
            "auth.oauth2.algorithms: unknown word `HS256`; did you mean `",
        ),
        (format!("{ldap}starttls = true"), "auth.ldap.servers: servers is empty"),
        (
            format!("{ldap}{servers}other_bind = \"account\""),
            "auth.ldap.account_dn: must be set, as a bind is \"account\"",
        ),
        (
            format!("{ldap}{servers}vhost_access_query = {{ in_grup = \"x\" }}"),
            "FILE:6: auth.ldap.vhost_access_query: unknown word `in_grup`; did you mean `in_group`?",
        ),
        (
            format!(
                "{ldap}{servers}[auth.ldap.tag_queries]\nadmin = {{ in_group = {{ db = 1 }} }}"
            ),
            "auth.ldap.tag_queries: a group is its distinguished name, or a table of dn",
        ),
    ] {
        let said = check(&text);
        assert!(said.contains(expected), "{text}\n{said}\n{expected}");
    }
}
