//! Logging in with a user of a directory, from outside, against OpenLDAP's server as Debian packages
//! it (slapd).

#[allow(dead_code)] // each test uses its part
mod program;
#[path = "../../ldap/tests/server/mod.rs"]
#[allow(dead_code)] // each test uses its part
mod server;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use program::Program;
use program::amqp::{Client, publish};
use server::Slapd;

/// Bob may enter; he may declare what begins with his name, and publish for his department.
fn broker(slapd: &Slapd) -> Program {
    let settings = format!(
        "[auth]\nbackends = ['internal', 'ldap']\n\
         [auth.ldap]\nservers = ['ldap://127.0.0.1:{}']\nstarttls = true\nca_file = '{}'\n\
         user_dn_pattern = 'uid=${{username}},ou=people,dc=example,dc=org'\ncache = '0s'\n\
         vhost_access_query = {{ in_group = 'cn=all,ou=groups,dc=example,dc=org' }}\n\
         topic_access_query = {{ not = {{ match = ['${{routing_key}}', '^secret'] }} }}\n\
         group_lookup_base = 'dc=example,dc=org'\nother_bind = 'account'\naccount_dn = 'cn=broker,dc=example,dc=org'\n\
         [auth.ldap.tag_queries]\n\
         management = {{ in_group_nested = 'cn=all,ou=groups,dc=example,dc=org' }}\n\
         [[auth.ldap.resource_access_query.for]]\nvariable = 'permission'\nvalue = 'configure'\n\
         query = {{ match = ['${{name}}', '^bob-'] }}\n\
         [[auth.ldap.resource_access_query.for]]\nvariable = 'permission'\nvalue = 'read'\n\
         query = {{ constant = true }}\n\
         [[auth.ldap.resource_access_query.for]]\nvariable = 'permission'\nvalue = 'write'\n\
         query = {{ equals = [{{ dn = '${{user_dn}}', attribute = 'departmentNumber' }}, 'works'] }}\n\
         ",
        slapd.port,
        slapd.dir.path().join("ca.pem").display(),
    );
    let file = slapd.dir.path().join("isthmus.toml");
    std::fs::write(&file, settings).expect("written");
    let file = file.to_str().expect("UTF-8");
    let password = ("ISTHMUS__AUTH__LDAP__ACCOUNT_PASSWORD", "broker-secret");
    Program::start(&["serve", "--config", file], &[password])
}

#[test]
#[ignore = "needs slapd"]
fn a_user_of_the_directory_does_what_it_allows_and_no_more() {
    let slapd = Slapd::start();
    let mut program = broker(&slapd);
    let port = program.port("amqp");
    Client::connect(port).expect("guest is the broker's own");
    let bob = "bob, the builder";
    let mut client = Client::connect_as(port, bob, "bob-secret").expect("in");
    client.declare("bob-1").expect("allowed");
    for _ in 0..3 {
        client.send(&publish("bob-1", b"message")).expect("sent");
    }
    assert_eq!(client.purge("bob-1").expect("allowed"), 3);
    let error = client.declare("ann-1").expect_err("not allowed").to_string();
    let what = "configure access to queue 'ann-1' in vhost '/' refused for user 'bob, the builder'";
    assert_eq!(error, format!("403 ACCESS_REFUSED - {what}"));
    let mut client = Client::connect_as(port, bob, "bob-secret").expect("in");
    client.send(&publish("bob-1", b"1")).expect("sent");
    client.send(&publish("secret-key", b"2")).expect("sent");
    let error = client.purge("bob-1").expect_err("the topic is not allowed").to_string();
    assert!(error.starts_with("403") && error.contains("topic 'secret-key'"), "{error}");
    let error = Client::connect_as(port, bob, "ann-secret").err().expect("refused").to_string();
    assert!(error.starts_with("403 ACCESS_REFUSED - Login was refused"), "{error}");
    // She is in no group that may enter.
    let error = Client::connect_as(port, "ann", "ann-secret").err().expect("refused").to_string();
    assert!(error.contains("access to vhost '/' refused for user 'ann'"), "{error}");
    let basic = STANDARD.encode(format!("{bob}:bob-secret"));
    let headers = format!("authorization: Basic {basic}\r\n");
    let answer = program.get_with("/api/whoami", &headers);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("management"), "{answer}");
    program.stop(rustix::process::Signal::TERM);
    let log = program.rest_of_log();
    assert!(log.contains("ldap: the directory refused"), "{log}");
    assert!(!log.contains("-secret"), "no password is in the log: {log}");
}
