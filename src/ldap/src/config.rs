//! What an operator configures.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::ConfigError;
use crate::query::Query;
use crate::secret::Secret;
use crate::template;

/// How the directory is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The servers, `ldap://HOST[:PORT]` or `ldaps://HOST[:PORT]`, tried in this order.
    pub servers: Vec<String>,
    /// Whether connections to `ldap://` servers turn to TLS before anything else.
    pub starttls: bool,
    /// PEM certificates of the authorities trusted for servers, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Milliseconds that a connection with its login, or a search, may take.
    pub timeout_ms: u64,
    /// The distinguished name of a user; `${username}` is what the client says.
    pub user_dn_pattern: String,
    /// The attribute by which users are searched for. The value searched for is
    /// `user_dn_pattern`, as in RabbitMQ: leave that at `${username}` if the broker or nobody
    /// searches.
    pub dn_lookup_attribute: Option<String>,
    /// Below what users are searched for.
    pub dn_lookup_base: Option<String>,
    /// Who searches for users. With `as_user` the client logs in first, under the name of
    /// `user_dn_pattern`, and its entry is searched for afterwards (Active Directory).
    pub dn_lookup_bind: Bind,
    /// Who asks all other questions.
    pub other_bind: Bind,
    /// Below what nested groups are searched for; `dn_lookup_base` where not set.
    pub group_lookup_base: Option<String>,
    /// Which tags a user has: a query for each tag.
    pub tag_queries: BTreeMap<String, Query>,
    /// Whether a user may enter a virtual host.
    pub vhost_access_query: Query,
    /// Whether a user has a permission for a queue or an exchange.
    pub resource_access_query: Query,
    /// Whether a user has a permission for a topic exchange and a routing key.
    pub topic_access_query: Query,
    /// Seconds for which answers are remembered; 0 for not at all.
    pub cache_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            starttls: false,
            ca_file: None,
            timeout_ms: 5_000,
            user_dn_pattern: "${username}".to_owned(),
            dn_lookup_attribute: None,
            dn_lookup_base: None,
            dn_lookup_bind: Bind::AsUser,
            other_bind: Bind::AsUser,
            group_lookup_base: None,
            tag_queries: BTreeMap::new(),
            vhost_access_query: Query::Constant(true),
            resource_access_query: Query::Constant(true),
            topic_access_query: Query::Constant(true),
            cache_seconds: 30,
        }
    }
}

/// Who asks: `"as_user"`, `"anonymous"` or `{ account = { dn = "…", password = "…" } }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bind {
    /// The user in question.
    AsUser,
    /// Nobody.
    Anonymous,
    /// An account of the broker.
    Account(ServiceAccount),
}

/// An account of the broker in the directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccount {
    /// The distinguished name.
    pub dn: String,
    /// The password.
    pub password: Secret,
}

impl Config {
    /// Below what groups are searched for.
    pub(crate) fn group_base(&self) -> Option<&str> {
        self.group_lookup_base.as_deref().or(self.dn_lookup_base.as_deref())
    }

    /// Checks what goes together, without reading a file.
    ///
    /// # Errors
    /// What does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.servers.is_empty() {
            return Err(ConfigError::NoServer);
        }
        self.servers.iter().try_for_each(|server| self.check_server(server))?;
        if !self.user_dn_pattern.contains("${username}")
            && !self.user_dn_pattern.contains("${ad_user}")
        {
            return Err(ConfigError::UserDnPattern);
        }
        template::check(&self.user_dn_pattern)?;
        match (&self.dn_lookup_attribute, &self.dn_lookup_base) {
            (Some(attribute), Some(_)) => check_attribute(attribute)?,
            (None, None) => {}
            // A base alone may be meant for groups.
            (None, Some(_)) => {}
            (Some(_), None) => return Err(ConfigError::Lookup),
        }
        for bind in [&self.dn_lookup_bind, &self.other_bind] {
            if let Bind::Account(account) = bind
                && account.password.reveal().is_empty()
            {
                return Err(ConfigError::EmptyPassword(account.dn.clone()));
            }
        }
        let queries =
            [&self.vhost_access_query, &self.resource_access_query, &self.topic_access_query];
        let has_group_base = self.group_base().is_some();
        queries
            .into_iter()
            .chain(self.tag_queries.values())
            .try_for_each(|query| query.check(has_group_base))
    }

    fn check_server(&self, server: &str) -> Result<(), ConfigError> {
        let wrong = || ConfigError::Server(server.to_owned());
        let (scheme, rest) = server.split_once("://").ok_or_else(wrong)?;
        let authority = rest.trim_end_matches('/');
        let (host, port) = match authority.rsplit_once(':') {
            // The colon may be inside of an IPv6 address.
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let is_wrong_port = port.is_some_and(|port| port.parse::<u16>().is_err());
        if host.is_empty() || is_wrong_port || host.contains(['/', '@', '?', '#', ' ']) {
            return Err(wrong());
        }
        match scheme {
            "ldap" => Ok(()),
            "ldaps" if self.starttls => Err(ConfigError::StartTls(server.to_owned())),
            "ldaps" => Ok(()),
            _ => Err(wrong()),
        }
    }
}

/// Checks the description of an attribute (RFC 4512 section 2.5), which goes into filters as it is.
pub(crate) fn check_attribute(name: &str) -> Result<(), ConfigError> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ';');
    if name.is_empty() || !name.chars().all(is_fine) {
        return Err(ConfigError::Attribute(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::{Group, Operand, Scope};

    fn parse(text: &str) -> Config {
        toml::from_str(text).expect("a valid configuration")
    }

    #[test]
    fn queries_are_read_from_toml() {
        let config = parse(
            r#"
            servers = ["ldap://localhost"]
            group_lookup_base = "dc=x"
            dn_lookup_bind = "anonymous"
            other_bind = { account = { dn = "cn=broker,dc=x", password = "hush-hush" } }
            vhost_access_query = { in_group_nested = { dn = "cn=${vhost},dc=x", attribute = "uniqueMember", scope = "one_level" } }
            resource_access_query = { for = [
              { variable = "permission", value = "configure", query = { not = { constant = true } } },
              { variable = "permission", value = "write", query = { and = [
                { match = ["${name}", "^${username}-"] },
                { equals = [{ dn = "${user_dn}", attribute = "ou" }, "sales"] },
              ] } },
            ] }
            [tag_queries]
            administrator = { in_group = "cn=admins,dc=x" }
            "#,
        );
        config.validate().expect("nothing is wrong");
        let Query::InGroup(Group { dn, attribute, scope }) = &config.tag_queries["administrator"]
        else {
            panic!("{:?}", config.tag_queries)
        };
        assert_eq!((dn.as_str(), attribute.as_str()), ("cn=admins,dc=x", "member"));
        assert_eq!(*scope, Scope::Subtree);
        let Query::For(cases) = &config.resource_access_query else { panic!("not for") };
        let Query::And(both) = &cases[1].query else { panic!("not and") };
        assert!(matches!(&both[1], Query::Equals([Operand::Attribute(_), Operand::Text(_)])));
        assert!(!format!("{config:?}").contains("hush-hush"));
    }

    #[test]
    fn mistakes_are_found_early() {
        for (text, expected) in [
            ("servers = []", "servers is empty"),
            ("servers = ['http://x']", "must be ldap://"),
            ("servers = ['ldap://']", "must be ldap://"),
            ("servers = ['ldap://x:99999']", "must be ldap://"),
            ("servers = ['ldaps://x']\nstarttls = true", "starttls"),
            ("servers = ['ldap://x']\nuser_dn_pattern = 'uid=ann'", "${username}"),
            ("servers = ['ldap://x']\ndn_lookup_attribute = 'uid'", "belong together"),
            (
                "servers = ['ldap://x']\ndn_lookup_attribute = 'a)(b'\ndn_lookup_base = 'dc=x'",
                "attribute",
            ),
            ("servers = ['ldap://x']\nvhost_access_query = { exists = '${vhst}' }", "placeholder"),
            ("servers = ['ldap://x']\nvhost_access_query = { match = ['a', '('] }", "regular"),
            (
                "servers = ['ldap://x']\nvhost_access_query = { in_group_nested = 'cn=x' }",
                "group_lookup_base",
            ),
            (
                "servers = ['ldap://x']\nother_bind = { account = { dn = 'cn=x', password = '' } }",
                "is empty",
            ),
        ] {
            let error = parse(text).validate().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(toml::from_str::<Config>("server = 'ldap://x'").is_err(), "an unknown key");
        assert!(toml::from_str::<Config>("vhost_access_query = { in_grup = 'x' }").is_err());
    }

    #[test]
    fn addresses_of_all_forms_are_accepted() {
        for server in ["ldap://x", "ldap://x:389", "ldaps://[::1]:636", "ldap://[::1]", "ldap://x/"]
        {
            parse(&format!("servers = ['{server}']")).validate().expect(server);
        }
    }
}
