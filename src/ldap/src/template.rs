//! Text with `${variable}`.

use crate::error::ConfigError;

/// What is known about a question.
#[derive(Debug, Clone, Default)]
pub(crate) struct Values<'a> {
    pub(crate) username: &'a str,
    pub(crate) user_dn: &'a str,
    pub(crate) vhost: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) name: &'a str,
    pub(crate) permission: &'a str,
    pub(crate) routing_key: &'a str,
    pub(crate) client_id: &'a str,
}

const NAMES: [&str; 10] = [
    "username",
    "user_dn",
    "vhost",
    "resource",
    "name",
    "permission",
    "routing_key",
    "client_id",
    "ad_domain",
    "ad_user",
];

impl<'a> Values<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        let windows_name = || self.username.split_once('\\');
        Some(match name {
            "username" => self.username,
            "user_dn" => self.user_dn,
            "vhost" => self.vhost,
            "resource" => self.resource,
            "name" => self.name,
            "permission" => self.permission,
            "routing_key" => self.routing_key,
            "client_id" => self.client_id,
            // `DOMAIN\user`, as Active Directory has it.
            "ad_domain" => windows_name().map_or("", |(domain, _)| domain),
            "ad_user" => windows_name().map_or(self.username, |(_, user)| user),
            _ => return None,
        })
    }
}

/// Where text ends up, and so what has to be escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A distinguished name: values are escaped as RFC 4514 says, except `user_dn`, which is one.
    Dn,
    /// A regular expression: values stand for themselves.
    Regex,
    /// Text to be compared.
    Plain,
}

/// Fills in the variables, each once: a value that looks like a variable stays as it is.
pub(crate) fn fill(template: &str, values: &Values<'_>, place: Place) -> String {
    let mut filled = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        filled.push_str(before);
        // Checked when the configuration was read.
        let Some((name, after)) = after.split_once('}') else { break };
        let value = values.get(name).unwrap_or_default();
        match place {
            Place::Dn if name == "user_dn" => filled.push_str(value),
            Place::Dn => filled.push_str(&ldap3::dn_escape(value)),
            Place::Regex => filled.push_str(&regex::escape(value)),
            Place::Plain => filled.push_str(value),
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}

/// Checks that every variable is known.
pub(crate) fn check(template: &str) -> Result<(), ConfigError> {
    for after in template.split("${").skip(1) {
        if !after.split_once('}').is_some_and(|(name, _)| NAMES.contains(&name)) {
            return Err(ConfigError::Placeholder(template.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(username: &str) -> Values<'_> {
        Values { username, user_dn: "uid=ann,dc=x", vhost: "/", ..Values::default() }
    }

    #[test]
    fn values_in_names_are_escaped() {
        let fill = |username| fill("uid=${username},dc=x", &values(username), Place::Dn);
        assert_eq!(fill("ann"), "uid=ann,dc=x");
        assert_eq!(fill("ann,ou=admins"), "uid=ann\\2cou\\3dadmins,dc=x");
        assert_eq!(fill(" a+b\0\""), "uid=\\20a\\2bb\\00\\22,dc=x");
        assert_eq!(fill("${user_dn}"), "uid=${user_dn},dc=x", "filled in once");
    }

    #[test]
    fn values_in_expressions_stand_for_themselves() {
        assert_eq!(fill("^${username}-.*$", &values("a.*"), Place::Regex), "^a\\.\\*-.*$");
        assert_eq!(fill("${username} of ${vhost}", &values("a.*"), Place::Plain), "a.* of /");
        assert_eq!(fill("${user_dn}", &values("a"), Place::Dn), "uid=ann,dc=x");
    }

    #[test]
    fn names_of_windows_domains_are_taken_apart() {
        let fill = |username| fill("${ad_user}@${ad_domain}", &values(username), Place::Plain);
        assert_eq!(fill("CORP\\ann"), "ann@CORP");
        assert_eq!(fill("ann"), "ann@");
    }

    #[test]
    fn unknown_variables_are_found_early() {
        assert!(check("cn=${vhost}-${permission}").is_ok());
        for wrong in ["${user}", "${vhost", "${}"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
