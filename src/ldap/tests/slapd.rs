//! Logins and questions against OpenLDAP's server, as Debian packages it (slapd).

mod server;

use std::net::{Ipv4Addr, TcpListener};

use isthmus_ldap::{Config, Directory, Error, Permission, Resource};
use server::{Slapd, free_port};

impl Slapd {
    /// A directory with these settings besides the server's address.
    fn directory(&self, settings: &str) -> Directory {
        let servers = format!("servers = ['ldap://127.0.0.1:{}']", self.port);
        directory(&format!("{servers}\n{settings}"))
    }

    fn ca(&self) -> String {
        format!("ca_file = '{}'", self.dir.path().join("ca.pem").display())
    }
}

fn directory(settings: &str) -> Directory {
    let config: Config = toml::from_str(settings).expect("a valid configuration");
    Directory::new(config).expect("a usable configuration")
}

const PATTERN: &str = "user_dn_pattern = 'uid=${username},ou=people,dc=example,dc=org'\n";
const SEARCH: &str = "dn_lookup_attribute = 'uid'\ndn_lookup_base = 'ou=people,dc=example,dc=org'\n\
    dn_lookup_bind = { account = { dn = 'cn=broker,dc=example,dc=org', password = 'broker-secret' } }\n";

#[tokio::test]
#[ignore = "needs slapd"]
async fn users_log_in_with_their_password_and_no_other() {
    let slapd = Slapd::start();
    for settings in [PATTERN, SEARCH] {
        let directory = slapd.directory(settings);
        let ann = directory.login("ann", "ann-secret").await.expect("logged in");
        assert_eq!(ann.dn, "uid=ann,ou=people,dc=example,dc=org");
        let bob = directory.login("bob, the builder", "bob-secret").await.expect("logged in");
        assert!(bob.dn.starts_with("uid=bob\\2"), "{}", bob.dn);
        for (user, password) in [
            ("ann", "bob-secret"),
            ("nobody", "ann-secret"),
            ("ann", ""),
            ("", "ann-secret"),
            ("", ""),
            ("*", "ann-secret"),
            ("a*", "ann-secret"),
            ("ann)(uid=*", "ann-secret"),
            ("ann,ou=people", "ann-secret"),
        ] {
            let error = directory.login(user, password).await.expect_err(user);
            assert!(error.is_refusal(), "{user}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}

#[tokio::test]
#[ignore = "needs slapd"]
async fn an_empty_password_never_reaches_a_server_that_would_accept_it() {
    let slapd = Slapd::start();
    let url = format!("ldap://127.0.0.1:{}", slapd.port);
    let (connection, mut ldap) = ldap3::LdapConnAsync::new(&url).await.expect("connected");
    tokio::spawn(connection.drive());
    let bind = ldap.simple_bind("uid=ann,ou=people,dc=example,dc=org", "").await.expect("answered");
    assert_eq!(bind.rc, 0, "the server accepts binds without authentication");
    let error = slapd.directory(PATTERN).login("ann", "").await.expect_err("refused");
    assert!(matches!(error, Error::EmptyPassword), "{error}");
}

#[tokio::test]
#[ignore = "needs slapd"]
async fn connections_are_protected_where_asked_for() {
    let slapd = Slapd::start();
    let ca = slapd.ca();
    let ldaps = format!("servers = ['ldaps://127.0.0.1:{}']\n{PATTERN}", slapd.tls_port);
    let starttls =
        format!("servers = ['ldap://127.0.0.1:{}']\nstarttls = true\n{PATTERN}", slapd.port);
    for settings in [ldaps, starttls] {
        directory(&format!("{ca}\n{settings}")).login("ann", "ann-secret").await.expect("trusted");
        let error = directory(&settings).login("ann", "ann-secret").await.expect_err("no trust");
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs slapd"]
async fn servers_are_tried_in_order_and_a_mute_one_does_not_hold_up() {
    let slapd = Slapd::start();
    // Accepts connections and says nothing.
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let mute_port = mute.local_addr().expect("its address").port();
    let servers = format!(
        "servers = ['ldap://127.0.0.1:{}', 'ldap://127.0.0.1:{mute_port}', 'ldap://127.0.0.1:{}']\n\
         timeout_ms = 300\n{PATTERN}",
        free_port(),
        slapd.port
    );
    directory(&servers).login("ann", "ann-secret").await.expect("the third server answers");
    let nobody = format!(
        "servers = ['ldap://127.0.0.1:{}', 'ldap://127.0.0.1:{mute_port}']\ntimeout_ms = 300\n{PATTERN}",
        free_port()
    );
    let error = directory(&nobody).login("ann", "ann-secret").await.expect_err("no server");
    assert!(!error.is_refusal(), "{error}");
    assert!(error.to_string().contains("no answer in time"), "{error}");
}

#[tokio::test]
#[ignore = "needs slapd"]
async fn tags_come_from_groups() {
    let slapd = Slapd::start();
    let tags = r"
        group_lookup_base = 'ou=groups,dc=example,dc=org'
        [tag_queries]
        administrator = { in_group = 'cn=admins,ou=groups,dc=example,dc=org' }
        management = { in_group_nested = 'cn=all,ou=groups,dc=example,dc=org' }
        monitoring = { in_group_nested = 'cn=missing,ou=groups,dc=example,dc=org' }
        policymaker = { equals = [{ dn = '${user_dn}', attribute = 'departmentNumber' }, 'support'] }
    ";
    for other in [
        "",
        "other_bind = { account = { dn = 'cn=broker,dc=example,dc=org', password = 'broker-secret' } }\n",
    ] {
        let directory = slapd.directory(&format!("{PATTERN}{other}{tags}"));
        let ann = directory.login("ann", "ann-secret").await.expect("logged in");
        assert_eq!(ann.tags, ["administrator", "management", "policymaker"]);
        let bob = directory.login("bob, the builder", "bob-secret").await.expect("logged in");
        assert_eq!(bob.tags, ["management"]);
    }
    let wrong =
        "other_bind = { account = { dn = 'cn=broker,dc=example,dc=org', password = 'wrong' } }\n";
    let directory = slapd.directory(&format!("{PATTERN}{wrong}{tags}"));
    let error = directory.login("ann", "ann-secret").await.expect_err("the account is refused");
    assert!(matches!(&error, Error::ServiceAccount(dn) if dn.starts_with("cn=broker")), "{error}");
}

#[tokio::test]
#[ignore = "needs slapd"]
async fn permissions_follow_the_queries() {
    let slapd = Slapd::start();
    let directory = slapd.directory(&format!(
        "{PATTERN}{}",
        r"
        vhost_access_query = { in_group = 'cn=${vhost}-users,ou=groups,dc=example,dc=org' }
        resource_access_query = { for = [
          { variable = 'permission', value = 'configure', query = { match = ['${name}', '^${username}\.'] } },
          { variable = 'permission', value = 'write', query = { or = [
            { exists = 'cn=${name},ou=groups,dc=example,dc=org' },
            { and = [{ equals = ['${resource}', 'exchange'] }, { not = { equals = ['${name}', 'private'] } }] },
          ] } },
        ] }
        topic_access_query = { match = ['${routing_key}', '^${vhost}\.'] }
        ",
    ));
    let ann = directory.login("ann", "ann-secret").await.expect("logged in");
    let bob = directory.login("bob, the builder", "bob-secret").await.expect("logged in");
    assert!(ann.may_enter("orders").await.expect("answered"));
    assert!(!ann.may_enter("other").await.expect("no such group"));
    assert!(!ann.may_enter("orders-users,ou=groups").await.expect("escaped"));
    assert!(!bob.may_enter("orders").await.expect("answered"));
    for (permission, resource, name, expected) in [
        (Permission::Configure, Resource::Queue, "ann.inbox", true),
        (Permission::Configure, Resource::Queue, "bob.inbox", false),
        (Permission::Write, Resource::Queue, "admins", true),
        (Permission::Write, Resource::Queue, "nobody", false),
        (Permission::Write, Resource::Exchange, "public", true),
        (Permission::Write, Resource::Exchange, "private", false),
    ] {
        let answer = ann.allows(permission, resource, "orders", name).await.expect("answered");
        assert_eq!(answer, expected, "{permission:?} {name}");
    }
    let error = ann.allows(Permission::Read, Resource::Queue, "orders", "x").await;
    assert!(matches!(error, Err(Error::NoCase)), "{error:?}");
    let topic = |key| ann.allows_topic(Permission::Write, "orders", "amq.topic", key, "");
    assert!(topic("orders.new").await.expect("answered"));
    assert!(!topic("ordersXnew").await.expect("answered"));
}

#[tokio::test]
#[ignore = "needs slapd"]
async fn answers_are_remembered_for_a_while_and_failures_never() {
    let query =
        "vhost_access_query = { in_group = 'cn=${vhost}-users,ou=groups,dc=example,dc=org' }\n";
    for (seconds, remembers) in [(60, true), (0, false)] {
        let slapd = Slapd::start();
        let directory = slapd.directory(&format!("{PATTERN}{query}cache_seconds = {seconds}"));
        let ann = directory.login("ann", "ann-secret").await.expect("logged in");
        assert!(ann.may_enter("orders").await.expect("answered"));
        drop(slapd);
        assert_eq!(ann.may_enter("orders").await.is_ok(), remembers);
        assert!(matches!(ann.may_enter("new").await, Err(Error::Unavailable(_))));
    }
}
