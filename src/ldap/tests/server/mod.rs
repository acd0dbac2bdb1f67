//! OpenLDAP's server (slapd) as Debian packages it, with a few entries.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const ENTRIES: &str = r"dn: dc=example,dc=org
objectClass: domain
dc: example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=org
objectClass: organizationalUnit
ou: groups

dn: uid=ann,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: ann
cn: Ann
sn: Ash
departmentNumber: sales
departmentNumber: support
userPassword: ann-secret

dn: uid=bob\2c the builder,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: bob, the builder
cn: Bob (builder)
sn: Birch
departmentNumber: works
userPassword: bob-secret

dn: cn=broker,dc=example,dc=org
objectClass: person
cn: broker
sn: broker
userPassword: broker-secret

dn: cn=admins,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: admins
member: uid=ann,ou=people,dc=example,dc=org

dn: cn=office,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: office
member: cn=admins,ou=groups,dc=example,dc=org
member: cn=all,ou=groups,dc=example,dc=org

dn: cn=all,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: all
member: cn=office,ou=groups,dc=example,dc=org
member: uid=bob\2c the builder,ou=people,dc=example,dc=org

dn: cn=orders-users,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: orders-users
member: uid=ann,ou=people,dc=example,dc=org
";

/// A server of its own, with certificates of its own; ends with the value.
pub(crate) struct Slapd {
    child: Child,
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
    pub(crate) dir: TempDir,
}

impl Drop for Slapd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn certificates(dir: &Path) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let ca = params.self_signed(&ca_key).expect("an authority");
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .expect("parameters")
        .signed_by(&key, &issuer)
        .expect("a certificate");
    std::fs::write(dir.join("ca.pem"), ca.pem()).expect("written");
    std::fs::write(dir.join("server.pem"), server.pem()).expect("written");
    std::fs::write(dir.join("server.key"), key.serialize_pem()).expect("written");
}

impl Slapd {
    /// Starts it; blocks until it listens.
    pub(crate) fn start() -> Self {
        let mut dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().display().to_string();
        certificates(dir.path());
        std::fs::create_dir(dir.path().join("data")).expect("a directory");
        // It accepts binds without authentication, as some servers do: the client must not.
        let config = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\nmodulepath /usr/lib/ldap\n\
             moduleload back_mdb\nallow bind_anon_cred bind_anon_dn\n\
             TLSCACertificateFile {path}/ca.pem\nTLSCertificateFile {path}/server.pem\n\
             TLSCertificateKeyFile {path}/server.key\ndatabase mdb\n\
             suffix \"dc=example,dc=org\"\ndirectory {path}/data\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to dn.subtree=\"ou=people,dc=example,dc=org\" by anonymous auth by users read\n\
             access to * by * read\n"
        );
        let config_file = dir.path().join("slapd.conf");
        let entries_file = dir.path().join("entries.ldif");
        std::fs::write(&config_file, config).expect("written");
        std::fs::write(&entries_file, ENTRIES).expect("written");
        let added = Command::new("/usr/sbin/slapadd")
            .arg("-f")
            .arg(&config_file)
            .arg("-l")
            .arg(&entries_file)
            .output()
            .expect("slapadd runs (package slapd)");
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        // Somebody else may take a port in between.
        for _ in 0..5 {
            let (port, tls_port) = (free_port(), free_port());
            let child = Command::new("/usr/sbin/slapd")
                .args(["-d", "0", "-f"])
                .arg(&config_file)
                .args(["-h", &format!("ldap://127.0.0.1:{port} ldaps://127.0.0.1:{tls_port}")])
                .spawn()
                .expect("slapd runs");
            let mut this = Self { child, port, tls_port, dir };
            if this.is_up() {
                return this;
            }
            let _ = this.child.kill();
            dir = std::mem::replace(&mut this.dir, tempfile::tempdir().expect("a directory"));
        }
        panic!("slapd does not start");
    }

    fn is_up(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if self.child.try_wait().expect("its state").is_some() {
                return false;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}
