//! Listeners: which names exist, which of them this version serves, and their addresses.

use std::fmt;

use super::value::{Setting, Value};

/// A name that may stand in `[listeners]`.
pub(crate) struct KnownListener {
    /// The key in `[listeners]`.
    pub(crate) name: &'static str,
    /// What it is called in messages.
    pub(crate) protocol: &'static str,
}

/// Listener names whose protocols this version does not serve. They are known so that a
/// configuration written for a later version is refused with the reason instead of as a typo.
pub(crate) const NOT_SERVED: [KnownListener; 2] = [
    KnownListener { name: "aws", protocol: "the AWS API" },
    KnownListener { name: "awss", protocol: "the AWS API over TLS" },
];

/// One address to listen on: a host name or IP address, and a port (0: the system picks one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenAddr {
    /// Host name or address, without the brackets of IPv6.
    pub(crate) host: String,
    /// TCP port; 0 lets the system pick.
    pub(crate) port: u16,
}

impl ListenAddr {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not an address; write \"host:port\" or \"off\"");
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(bracketed) => bracketed,
            None if host.contains(':') => {
                return Err(format!("`{text}`: write an IPv6 address in brackets, \"[::1]:5672\""));
            }
            None => host,
        };
        if host.is_empty() || host.chars().any(char::is_whitespace) {
            return Err(malformed());
        }
        let port = port
            .parse()
            .map_err(|_| format!("`{text}`: the port must be a number from 0 to 65535"))?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The addresses of one listener; none means it is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListenAddrs(pub(crate) Vec<ListenAddr>);

impl ListenAddrs {
    /// One address on 127.0.0.1.
    pub(crate) fn loopback(port: u16) -> Self {
        Self(vec![ListenAddr { host: "127.0.0.1".to_owned(), port }])
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(Vec::new()));
        }
        ListenAddr::parse(text).map(|addr| Self(vec![addr]))
    }
}

impl Setting for ListenAddrs {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Self::parse(text),
            Value::Given(text) => {
                text.split(',').map(|part| Self::parse(part.trim())).collect::<Result<Vec<_>, _>>()
            }
            .and_then(Self::join),
            Value::List(items) => items
                .iter()
                .map(|item| match item {
                    Value::Text(text) => Self::parse(text),
                    other => Err(format!("an address is a string, not {}", other.kind())),
                })
                .collect::<Result<Vec<_>, _>>()
                .and_then(Self::join),
            other => Err(format!(
                "must be \"host:port\", a list of them or \"off\", not {}",
                other.kind()
            )),
        }
    }
}

impl ListenAddrs {
    /// Joins the members of a list, in which `"off"` makes no sense beside an address.
    fn join(parts: Vec<Self>) -> Result<Self, String> {
        if parts.len() > 1 && parts.iter().any(|part| part.0.is_empty()) {
            return Err("\"off\" stands alone, not in a list of addresses".to_owned());
        }
        Ok(Self(parts.into_iter().flat_map(|part| part.0).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        ListenAddrs::read(&Value::Given(text.to_owned()))
            .map(|addrs| addrs.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(read("127.0.0.1:0"), Ok(vec!["127.0.0.1:0".to_owned()]));
        assert_eq!(read("localhost:5672,[::1]:5672").map(|addrs| addrs.len()), Ok(2));
        assert_eq!(read("[::1]:5672"), Ok(vec!["[::1]:5672".to_owned()]));
        assert_eq!(read("off"), Ok(Vec::new()));
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        assert!(read("5672").expect_err("refused").contains("host:port"));
        assert!(read(":5672").expect_err("refused").contains("host:port"));
        assert!(read("::1:5672").expect_err("refused").contains("brackets"));
        assert!(read("127.0.0.1:65536").expect_err("refused").contains("0 to 65535"));
        assert!(read("off,127.0.0.1:1").expect_err("refused").contains("stands alone"));
    }

    #[test]
    fn a_list_holds_only_strings() {
        let list = Value::List(vec![Value::Text("127.0.0.1:1".to_owned()), Value::Integer(2)]);
        assert!(ListenAddrs::read(&list).expect_err("refused").contains("an address is a string"));
    }
}
