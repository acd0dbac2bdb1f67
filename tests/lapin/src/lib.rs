//! Starts a broker for the tests of this crate.
//!
//! `ISTHMUS_TEST_AMQP=HOST:PORT` names one that runs already. Otherwise the binary is that of
//! `ISTHMUS_BIN`, or the one this workspace builds.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

/// A broker that lives as long as this value.
#[derive(Debug)]
pub struct Broker {
    address: String,
    own: Option<Own>,
}

/// The process that was started, and its data.
#[derive(Debug)]
struct Own {
    process: Child,
    _data: TempDir,
}

/// Certificates that the broker made for a test, and their files.
#[derive(Debug)]
pub struct Certificates(TempDir);

impl Certificates {
    /// An authority, a certificate for localhost, and one for a client.
    ///
    /// # Panics
    /// If the broker makes none.
    pub fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = Command::new(binary())
            .args(["certs", "dev", "--out"])
            .arg(folder.path().join("dev"))
            .stdout(Stdio::null())
            .status();
        assert!(made.expect("the broker can be run").success(), "no certificates were made");
        Self(folder)
    }

    /// Where one of the files is.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.path().join("dev").join(file)
    }
}

impl Broker {
    /// Starts a broker on an empty data directory, or takes the one that runs already.
    ///
    /// # Panics
    /// If the broker ends before it is ready.
    pub fn start() -> Self {
        if let Ok(address) = env::var("ISTHMUS_TEST_AMQP") {
            return Self { address, own: None };
        }
        Self::start_own("amqp", &[("listeners.amqp", "127.0.0.1:0".into())])
    }

    /// Starts a broker that speaks TLS alone, and asks clients for certificates as
    /// `client_auth` (the setting of that name) says.
    ///
    /// # Panics
    /// If the broker ends before it is ready.
    pub fn start_with_tls(certificates: &Certificates, client_auth: &str) -> Self {
        let settings = [
            ("listeners.amqp", "off".into()),
            ("listeners.amqps", "127.0.0.1:0".into()),
            ("tls.certificate", certificates.path("server.pem").into_os_string()),
            ("tls.key", certificates.path("server.key").into_os_string()),
            ("tls.client_auth", client_auth.into()),
            ("tls.client_ca", certificates.path("ca.pem").into_os_string()),
        ];
        Self::start_own("amqps", &settings)
    }

    /// Starts a broker of the test's own that speaks MQTT.
    ///
    /// # Panics
    /// If the broker ends before it is ready.
    pub fn start_mqtt() -> Self {
        let settings = [("listeners.amqp", "off".into()), ("listeners.mqtt", "127.0.0.1:0".into())];
        Self::start_own("mqtt", &settings)
    }

    /// The port at which the broker listens.
    ///
    /// # Panics
    /// If the broker's address has no port, which it always has.
    pub fn port(&self) -> u16 {
        let port = self.address.rsplit(':').next();
        port.and_then(|port| port.parse().ok()).expect("an address ends with a port")
    }

    fn start_own(listener: &str, settings: &[(&str, OsString)]) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(binary());
        command.args(["serve", "--set", "listeners.http=off", "--set", "listeners.mqtt=off"]);
        command.args(["--set", "listeners.mqtts=off", "--set", "listeners.any=off"]);
        command.args(["--set", "listeners.stomp=off", "--set", "listeners.stomps=off"]);
        command.args(["--set", "listeners.anys=off", "--data-dir"]);
        command.arg(data.path().join("data"));
        for (key, value) in settings {
            let mut setting = OsString::from(format!("{key}="));
            setting.push(value);
            command.arg("--set").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the broker can be run");
        let stderr = process.stderr.take().expect("standard error is a pipe");
        let mut log = BufReader::new(stderr).lines().map_while(Result::ok);
        let mut seen = String::new();
        let address = log.by_ref().find_map(|line| {
            seen += &(line.clone() + "\n");
            address_of(listener, &line)
        });
        let Some(address) = address else {
            panic!("the broker ended before it was ready:\n{seen}");
        };
        // The pipe must not fill up.
        thread::spawn(move || log.for_each(drop));
        Self { address, own: Some(Own { process, _data: data }) }
    }

    /// Where guest reaches the default virtual host.
    pub fn uri(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address)
    }

    /// The same over TLS, by the name that is in the certificate.
    pub fn tls_uri(&self) -> String {
        let port = self.address.rsplit(':').next().unwrap_or_default();
        format!("amqps://guest:guest@localhost:{port}/%2f")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(own) = &mut self.own {
            own.process.kill().expect("the broker was still running");
            own.process.wait().expect("a killed broker ends");
        }
    }
}

/// The address in the line that says the broker is ready: `… ready … LISTENER=HOST:PORT …`.
fn address_of(listener: &str, line: &str) -> Option<String> {
    let key = format!("{listener}=");
    let (_, rest) = line.split_once(&key).filter(|_| line.contains("ready"))?;
    let address = rest.trim_start_matches('"').split([' ', '"', '\u{1b}']).next()?;
    Some(address.to_owned())
}

/// The broker's executable, built if need be.
fn binary() -> PathBuf {
    if let Some(path) = env::var_os("ISTHMUS_BIN") {
        return path.into();
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "isthmus"])
        .status()
        .expect("cargo can be run");
    assert!(built.success(), "the broker does not build");
    // This test lies in <target>/debug/deps.
    let this = env::current_exe().expect("this test has a path");
    let target = this.ancestors().nth(3).expect("a test lies three folders deep");
    target.join("debug").join("isthmus")
}
