//! TLS from outside: handshakes, client certificates, reloading, and what is said of bad files.

#[allow(dead_code)] // each test uses its part
mod program;

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use program::{Program, isthmus};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const PATIENCE: Duration = Duration::from_secs(20);

/// An authority and the files that it made.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let dir = tempfile::tempdir().expect("directory");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("written");
        Authority { dir, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes `name`.pem and `name`.key for `hosts`, as certificate `serial`.
    fn issue(&self, name: &str, hosts: &[&str], serial: u64) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("written");
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("written");
    }

    /// Makes crl.pem, which revokes certificate `serial`.
    fn revoke(&self, serial: u64) {
        let now = time::OffsetDateTime::now_utc();
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - time::Duration::hours(1),
            next_update: now + time::Duration::days(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list");
        fs::write(self.path("crl.pem"), list.pem().expect("PEM")).expect("written");
    }

    /// `--set` for the server certificate `name` and further settings.
    fn settings(&self, name: &str, more: &[(&str, String)]) -> Vec<String> {
        let file = |suffix: &str| self.path(&format!("{name}.{suffix}")).display().to_string();
        let mut settings = vec![
            format!("tls.certificate={}", file("pem")),
            format!("tls.key={}", file("key")),
            "listeners.amqps=127.0.0.1:0".to_owned(),
            "listeners.https=127.0.0.1:0".to_owned(),
        ];
        settings.extend(more.iter().map(|(key, value)| format!("{key}={value}")));
        settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]).collect()
    }

    fn start(&self, name: &str, more: &[(&str, String)]) -> Program {
        let args = self.settings(name, more);
        Program::start(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    }

    fn asks_for_certificates(&self, how: &str) -> [(&'static str, String); 2] {
        [
            ("tls.client_auth", how.to_owned()),
            ("tls.client_ca", self.path("ca.pem").display().to_string()),
        ]
    }

    /// A client that trusts this authority, and shows the certificate `name` of `of`.
    fn client(&self, shown: Option<(&Authority, &str)>) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.path("ca.pem"))).expect("an authority");
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        Arc::new(match shown {
            None => builder.with_no_client_auth(),
            Some((of, name)) => {
                let key = PrivateKeyDer::from_pem_file(of.path(&format!("{name}.key")));
                let chain = vec![certificate(&of.path(&format!("{name}.pem")))];
                builder.with_client_auth_cert(chain, key.expect("a key")).expect("a pair")
            }
        })
    }
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Says the AMQP header and waits for connection.start, which is there only after the handshake.
fn greet(port: u16, config: &Arc<ClientConfig>, name: &str) -> io::Result<Stream> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let session = ClientConnection::new(Arc::clone(config), name).expect("a session");
    let mut stream = StreamOwned::new(session, socket);
    stream.write_all(b"AMQP\0\0\x09\x01")?;
    let mut answer = [0; 11];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer[7..], [0, 10, 0, 10], "connection.start");
    Ok(stream)
}

/// The certificate that the server shows.
fn shown(port: u16, config: &Arc<ClientConfig>, name: &str) -> CertificateDer<'static> {
    let stream = greet(port, config, name).expect("greeted");
    stream.conn.peer_certificates().expect("shown")[0].clone().into_owned()
}

#[test]
fn amqp_and_http_are_served_over_tls() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"], 1);
    let program = authority.start("server", &[]);
    let client = authority.client(None);
    greet(program.port("amqps"), &client, "localhost").expect("greeted");

    let name = ServerName::try_from("localhost").expect("a name");
    let socket = TcpStream::connect(("127.0.0.1", program.port("https"))).expect("connected");
    let session = ClientConnection::new(client, name).expect("a session");
    let mut stream = StreamOwned::new(session, socket);
    write!(stream, "GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // Plain text is not mistaken for a handshake.
    let mut plain = TcpStream::connect(("127.0.0.1", program.port("amqps"))).expect("connected");
    plain.write_all(b"AMQP\0\0\x09\x01").expect("sent");
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).ok();
    assert!(!answer.starts_with(b"AMQP"), "{answer:?}");
}

#[test]
fn the_name_that_a_client_asks_for_picks_the_certificate() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"], 1);
    authority.issue("other", &["other.test"], 2);
    let both = |suffix: &str| {
        let paths = ["server", "other"]
            .map(|name| authority.path(&format!("{name}.{suffix}")).display().to_string());
        paths.join(",")
    };
    let settings = [("tls.certificate", both("pem")), ("tls.key", both("key"))];
    let program = authority.start("server", &settings);
    let client = authority.client(None);
    for (name, file) in [("localhost", "server.pem"), ("other.test", "other.pem")] {
        let got = shown(program.port("amqps"), &client, name);
        assert_eq!(got, certificate(&authority.path(file)), "{name}");
    }
}

#[test]
fn client_certificates_are_required_or_wanted_or_revoked() {
    let (authority, strangers) = (Authority::new(), Authority::new());
    authority.issue("server", &["localhost"], 1);
    authority.issue("device", &[], 2);
    authority.issue("stolen", &[], 3);
    authority.revoke(3);
    strangers.issue("device", &[], 2);
    let crls = ("tls.crls", authority.path("crl.pem").display().to_string());
    let clients = [
        ("none", authority.client(None)),
        ("device", authority.client(Some((&authority, "device")))),
        ("stolen", authority.client(Some((&authority, "stolen")))),
        ("stranger", authority.client(Some((&strangers, "device")))),
    ];
    for (how, let_in) in [("required", &["device"][..]), ("wanted", &["none", "device"])] {
        let [auth, ca] = authority.asks_for_certificates(how);
        let program = authority.start("server", &[auth, ca, crls.clone()]);
        for (who, client) in &clients {
            let greeted = greet(program.port("amqps"), client, "localhost");
            assert_eq!(greeted.is_ok(), let_in.contains(who), "{how}: {who}: {greeted:?}");
        }
    }
}

#[test]
fn external_is_offered_to_those_with_a_certificate() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"], 1);
    authority.issue("device", &[], 2);
    let program = authority.start("server", &authority.asks_for_certificates("wanted"));
    for (shows, offered) in [(None, false), (Some((&authority, "device")), true)] {
        let mut stream =
            greet(program.port("amqps"), &authority.client(shows), "localhost").expect("greeted");
        let mut start = vec![0; 64];
        while !start.ends_with(b"en_US\xce") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the rest of connection.start");
            start.push(byte[0]);
        }
        let has = |word: &[u8]| start.windows(word.len()).any(|part| part == word);
        assert!(has(b"PLAIN AMQPLAIN"));
        assert_eq!(has(b"EXTERNAL"), offered);
    }
}

#[test]
fn new_certificates_are_used_from_the_next_handshake_on() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"], 1);
    let first = certificate(&authority.path("server.pem"));
    let program = authority.start("server", &[]);
    let (client, port) = (authority.client(None), program.port("amqps"));
    let mut open = greet(port, &client, "localhost").expect("greeted");
    assert_eq!(shown(port, &client, "localhost"), first);

    // A broken file changes nothing and is named.
    fs::write(authority.path("server.pem"), "nonsense").expect("written");
    program.signal(Signal::HUP);
    let line = program.wait_for_line("TLS goes on with what was read before");
    assert!(line.contains("server.pem: it holds no CERTIFICATE"), "{line}");
    assert_eq!(shown(port, &client, "localhost"), first);

    // Found by itself, without a signal.
    authority.issue("server", &["localhost"], 2);
    program.wait_for_line("read the TLS files again");
    assert_eq!(shown(port, &client, "localhost"), certificate(&authority.path("server.pem")));
    open.write_all(&[1, 0]).expect("the old connection is as it was");
}

#[test]
fn whoever_does_not_shake_hands_is_not_waited_for() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"], 1);
    let program = authority.start("server", &[("tls.handshake_timeout", "300ms".to_owned())]);
    for port in [program.port("amqps"), program.port("https")] {
        let mut slow = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        slow.set_read_timeout(Some(PATIENCE)).expect("set");
        let began = Instant::now();
        let mut answer = Vec::new();
        slow.read_to_end(&mut answer).ok();
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
}

/// What the program says of settings that it does not start with.
fn refused(settings: &[String]) -> String {
    let dir = tempfile::tempdir().expect("directory");
    let output = isthmus()
        .args(["--data-dir".as_ref(), dir.path().as_os_str()])
        .args(["--set", "listeners.amqp=127.0.0.1:0", "--set", "listeners.http=off"])
        .args(["--set", "log.level=error"])
        .args(settings)
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"], 1);
    authority.issue("other", &["localhost"], 2);
    let path = |name: &str| authority.path(name).display().to_string();
    let with =
        |key: &'static str, value: String| refused(&authority.settings("server", &[(key, value)]));

    let missing = with("tls.certificate", path("none.pem"));
    assert!(
        missing.contains("tls.certificate: ") && missing.contains("none.pem: No such file"),
        "{missing}"
    );
    let mixed = with("tls.key", path("other.key"));
    assert!(mixed.contains("other.key: it is not the key of the certificate in "), "{mixed}");
    let swapped = with("tls.key", path("server.pem"));
    assert!(swapped.contains("server.pem: it holds no unencrypted PRIVATE KEY"), "{swapped}");
    let lonely = with("tls.client_auth", "required".to_owned());
    assert!(lonely.contains("tls.client_auth: needs tls.client_ca"), "{lonely}");
    let without = with("tls.key", String::new());
    assert!(without.contains("tls.key: names 0 files and tls.certificate 1"), "{without}");
    let bare = refused(&["--set".to_owned(), "listeners.amqps=127.0.0.1:0".to_owned()]);
    assert!(bare.contains("listeners.amqps: needs tls.certificate and tls.key"), "{bare}");
}

#[test]
fn development_certificates_work_and_are_not_overwritten() {
    let dir = tempfile::tempdir().expect("directory");
    let out = dir.path().join("certs");
    let make = |more: &[&str]| {
        let out = out.display().to_string();
        isthmus().args(["certs", "dev", "--out", &out]).args(more).output().expect("runs")
    };
    let made = make(&["--host", "broker.test", "--client", "anna"]);
    assert!(made.status.success());
    let hint = String::from_utf8(made.stdout).expect("UTF-8");
    for key in ["server.key", "client.key", "ca.key"] {
        let mode = fs::metadata(out.join(key)).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    assert_eq!(fs::metadata(&out).expect("made").permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_to_string(out.join(".gitignore")).expect("made"), "*.key\n");

    // What it prints is a configuration.
    let config = dir.path().join("isthmus.toml");
    fs::write(&config, format!("{hint}\n[listeners]\namqps = \"127.0.0.1:0\"\nhttps = \"off\"\n"))
        .expect("written");
    let program = Program::start(&["--config", &config.display().to_string()], &[]);
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&out.join("ca.pem"))).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![certificate(&out.join("client.pem"))],
            PrivateKeyDer::from_pem_file(out.join("client.key")).expect("a key"),
        )
        .expect("a pair");
    let client = Arc::new(client);
    for name in ["localhost", "127.0.0.1", "broker.test"] {
        greet(program.port("amqps"), &client, name).expect(name);
    }

    let key = fs::read(out.join("ca.key")).expect("made");
    let again = make(&[]);
    assert!(!again.status.success());
    let said = String::from_utf8(again.stderr).expect("UTF-8");
    assert!(said.contains("exists") && said.contains("--force"), "{said}");
    assert_eq!(fs::read(out.join("ca.key")).expect("there"), key);
    assert!(make(&["--force"]).status.success());
    assert_ne!(fs::read(out.join("ca.key")).expect("there"), key);
}
