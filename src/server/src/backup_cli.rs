//! `isthmus backup`: has a running broker make a copy of its data.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::cli::complain;

/// Where the password may be, instead of standard input.
const PASSWORD_VARIABLE: &str = "ISTHMUS_PASSWORD";

/// How long the broker may take to accept a connection. The backup itself takes as long as it does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Where the backup goes, on the broker's machine: an absolute path, new or an empty directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The broker's management API
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15672")]
    url: String,
    /// An administrator; the password is read from ISTHMUS_PASSWORD or else from standard input
    #[arg(long, value_name = "NAME")]
    user: String,
    /// For https: the certificate of the authority that has signed the broker's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no password: set {PASSWORD_VARIABLE} or give it on standard input ({0})")]
    Password(io::Error),
    #[error("--ca {path}: {reason}")]
    Authority { path: String, reason: String },
    #[error("--url {0}: it must begin with http:// or https://, and https needs --ca")]
    Url(String),
    #[error("{url}: {error}")]
    Ask { url: String, error: ureq::Error },
    #[error("the broker refuses ({status}): {reason}")]
    Refused { status: u16, reason: String },
}

/// Runs the command.
pub(crate) fn run(args: &BackupArgs) -> ExitCode {
    match back_up(args) {
        Ok(answer) => {
            let said = writeln!(
                io::stdout(),
                "backup in {}: up to log entry {}, {} page files, {} bytes",
                args.dir.display(),
                answer["index"],
                answer["page_files"],
                answer["bytes"]
            );
            // It is made, whether or not anybody reads of it.
            said.ok();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            complain(&format_args!("isthmus: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn back_up(args: &BackupArgs) -> Result<Value, Failure> {
    let agent = agent(args)?;
    let url = format!("{}/api/backup", args.url.trim_end_matches('/'));
    let credentials = format!("{}:{}", args.user, password()?);
    let body = serde_json::json!({ "directory": args.dir }).to_string();
    let request = agent
        .post(&url)
        .header("authorization", format!("Basic {}", base64(credentials.as_bytes())))
        .header("content-type", "application/json");
    let failed = |error| Failure::Ask { url: url.clone(), error };
    let mut response = request.send(body).map_err(failed)?;
    let status = response.status();
    let limited = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
    let answer = limited.read_to_vec().map_err(failed)?;
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    if status.is_success() {
        return Ok(answer);
    }
    let reason = answer["reason"].as_str().unwrap_or("it does not say why").to_owned();
    Err(Failure::Refused { status: status.as_u16(), reason })
}

fn agent(args: &BackupArgs) -> Result<ureq::Agent, Failure> {
    let is_https = args.url.starts_with("https://");
    if !(args.url.starts_with("http://") || is_https && args.ca.is_some()) {
        return Err(Failure::Url(args.url.clone()));
    }
    let roots = args.ca.as_ref().map(authorities).transpose()?.unwrap_or_default();
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .https_only(is_https)
        // A password goes to whom it was meant for.
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .proxy(None)
        .build();
    Ok(config.new_agent())
}

fn authorities(path: &PathBuf) -> Result<Vec<Certificate<'static>>, Failure> {
    let failed = |reason: String| Failure::Authority { path: path.display().to_string(), reason };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(failed("there is no certificate in it".to_owned()));
    }
    Ok(certificates)
}

/// The password: never an argument, which everybody on the machine can read.
fn password() -> Result<String, Failure> {
    if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
        return Ok(password);
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line).map_err(Failure::Password)?;
    if read == 0 {
        return Err(Failure::Password(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
