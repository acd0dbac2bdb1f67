//! Starts a broker for the tests of this crate.
//!
//! `ISTHMUS_TEST_AMQP=HOST:PORT` names one that runs already. Otherwise the binary is that of
//! `ISTHMUS_BIN`, or the one this workspace builds.

use std::env;
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

impl Broker {
    /// Starts a broker on an empty data directory, or takes the one that runs already.
    ///
    /// # Panics
    /// If the broker ends before it is ready.
    pub fn start() -> Self {
        if let Ok(address) = env::var("ISTHMUS_TEST_AMQP") {
            return Self { address, own: None };
        }
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut process = Command::new(binary())
            .args(["serve", "--set", "listeners.amqp=127.0.0.1:0"])
            .args(["--set", "listeners.http=off", "--data-dir"])
            .arg(data.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the broker can be run");
        let stderr = process.stderr.take().expect("standard error is a pipe");
        let mut log = BufReader::new(stderr).lines().map_while(Result::ok);
        let mut seen = String::new();
        let address = log.by_ref().find_map(|line| {
            seen += &(line.clone() + "\n");
            amqp_address(&line)
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
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(own) = &mut self.own {
            own.process.kill().expect("the broker was still running");
            own.process.wait().expect("a killed broker ends");
        }
    }
}

/// The address in the line that says the broker is ready: `… ready … amqp=HOST:PORT …`.
fn amqp_address(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("amqp=").filter(|_| line.contains("ready"))?;
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
