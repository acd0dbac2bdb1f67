//! `isthmus certs`: certificates to try things with.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

/// Days for which what is made is valid.
const VALID_DAYS: i64 = 825;

/// Names that a server certificate for this machine is for.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Make an authority and certificates of a server, a client and a cluster's nodes for development
    Dev(DevArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Where to write them
    #[arg(long, value_name = "DIR", default_value = "certs")]
    out: PathBuf,
    /// A further name or address of the server, besides localhost
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Whom the client certificate names: the user of that name, with EXTERNAL
    #[arg(long, value_name = "NAME", default_value = "guest")]
    client: String,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertsError {
    /// A file is there, and `--force` was not given.
    #[error("{0} exists; remove it, choose another --out or replace everything with --force")]
    Exists(String),
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// A name cannot stand in a certificate.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Runs the command.
///
/// # Errors
///
/// [`CertsError`]; files that were written before it stay.
pub(crate) fn run(command: &CertsCommand) -> Result<(), CertsError> {
    let CertsCommand::Dev(args) = command;
    let files = make(args)?;
    let out = &args.out;
    if !args.force
        && let Some((name, ..)) = files.iter().find(|(name, ..)| out.join(name).exists())
    {
        return Err(CertsError::Exists(out.join(name).display().to_string()));
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(out);
    made.map_err(|source| CertsError::Write { path: out.display().to_string(), source })?;
    for (name, content, mode) in &files {
        write(&out.join(name), content, *mode)?;
    }
    let at = |name: &str| out.join(name).display().to_string();
    let (chain, key, ca) = (at("server.pem"), at("server.key"), at("ca.pem"));
    writeln!(
        io::stdout(),
        "# An authority, a server certificate and a client certificate for {VALID_DAYS} days.\n\
         # For development only: the authority's key lies beside them.\n\
         [tls]\n\
         certificate = {chain:?}\n\
         key = {key:?}\n\
         client_auth = \"wanted\"\n\
         client_ca = {ca:?}\n\n\
         # Clients trust {ca:?} and may show {:?} with {:?}.\n\n\
         # Nodes of a cluster show each other {:?} with {:?}.",
        at("client.pem"),
        at("client.key"),
        at("peer.pem"),
        at("peer.key"),
    )
    .ok();
    Ok(())
}

/// Files to write: name, content, mode.
type Files = Vec<(&'static str, String, u32)>;

fn make(args: &DevArgs) -> Result<Files, CertsError> {
    let mut ca = CertificateParams::default();
    name(&mut ca, "Isthmus development authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let ca_key_pem = ca_key.serialize_pem();
    let authority = Issuer::new(ca, ca_key);

    let mut hosts: Vec<String> = LOCAL_NAMES.map(str::to_owned).to_vec();
    hosts.extend(args.host.iter().filter(|host| !LOCAL_NAMES.contains(&host.as_str())).cloned());
    let mut server = CertificateParams::new(hosts)?;
    name(&mut server, args.host.first().map_or("localhost", String::as_str));
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server_key = KeyPair::generate()?;
    let server_pem = server.signed_by(&server_key, &authority)?.pem();

    let mut client = CertificateParams::default();
    name(&mut client, &args.client);
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client_key = KeyPair::generate()?;
    let client_pem = client.signed_by(&client_key, &authority)?.pem();

    // For the nodes of a cluster, which dial each other and are dialled.
    let mut hosts: Vec<String> = LOCAL_NAMES.map(str::to_owned).to_vec();
    hosts.extend(args.host.iter().filter(|host| !LOCAL_NAMES.contains(&host.as_str())).cloned());
    let mut peer = CertificateParams::new(hosts)?;
    name(&mut peer, "Isthmus node");
    peer.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let peer_key = KeyPair::generate()?;
    let peer_pem = peer.signed_by(&peer_key, &authority)?.pem();

    Ok(vec![
        (".gitignore", "*.key\n".to_owned(), 0o644),
        ("ca.pem", ca_pem, 0o644),
        ("ca.key", ca_key_pem, 0o600),
        ("server.pem", server_pem, 0o644),
        ("server.key", server_key.serialize_pem(), 0o600),
        ("client.pem", client_pem, 0o644),
        ("client.key", client_key.serialize_pem(), 0o600),
        ("peer.pem", peer_pem, 0o644),
        ("peer.key", peer_key.serialize_pem(), 0o600),
    ])
}

/// Names whom the certificate is for, and from when to when.
fn name(params: &mut CertificateParams, common_name: &str) {
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = time::OffsetDateTime::now_utc();
    // A clock that is a little behind must not refuse what was made just now.
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(VALID_DAYS);
    params.use_authority_key_identifier_extension = true;
}

/// Writes a file anew, so that its mode is as asked for from the beginning.
fn write(path: &Path, content: &str, mode: u32) -> Result<(), CertsError> {
    let failed = |source| CertsError::Write { path: path.display().to_string(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(content.as_bytes()).map_err(failed)
}
