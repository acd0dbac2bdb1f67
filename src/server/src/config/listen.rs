//! Listeners: which names exist, which of them this version serves, and their addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use super::value::{Setting, Value};
use crate::any::WEBSOCKET;

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

/// Addresses that have their first bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// What of `address` counts.
    fn masked(address: IpAddr, bits: u8) -> u128 {
        let (value, width) = match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        // All of them for no bits: a shift by the whole width has no meaning of its own.
        value.checked_shr(width - u32::from(bits)).unwrap_or(0)
    }

    fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && Self::masked(address, self.bits) == Self::masked(self.address, self.bits)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || {
            format!(
                "`{text}` is not a network; write \"10.0.0.0/8\", \"2001:db8::/32\" or an address"
            )
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), str::parse::<u8>).map_err(|_| malformed())?;
        if bits > width {
            return Err(format!("`{text}`: an address of its kind has {width} bits"));
        }
        if bits == 0 {
            return Err(format!("`{text}` is everybody: name the proxies' addresses"));
        }
        Ok(Self { address, bits })
    }
}

/// Networks, none or more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks(Vec<Network>);

impl Networks {
    /// Whether `address` is in one of them. An IPv4 address that is written as one of IPv6 is what it
    /// is.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }
}

#[cfg(test)]
impl Networks {
    /// The network that `text` names.
    pub(crate) fn of(text: &str) -> Self {
        Self(vec![text.parse().expect("a network")])
    }
}

impl Setting for Networks {
    fn read(value: &Value) -> Result<Self, String> {
        let networks = Vec::<String>::read(value)?;
        networks.iter().map(|text| text.parse()).collect::<Result<_, _>>().map(Self)
    }
}

/// Hosts that stand for what is spoken there, none or more. Cloning costs a reference count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerNames(Arc<[(String, &'static str)]>);

impl ServerNames {
    /// The listener whose protocol is spoken to who asks for `host`.
    pub(crate) fn listener_of(&self, host: &str) -> Option<&'static str> {
        // RFC 6066, section 3: it has no dot at its end, and no case.
        let named = self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(host));
        named.map(|(_, listener)| *listener)
    }
}

impl Setting for ServerNames {
    fn read(value: &Value) -> Result<Self, String> {
        let mut names: Vec<(String, &'static str)> = Vec::new();
        for text in Vec::<String>::read(value)? {
            let (host, protocol) = text
                .split_once('=')
                .filter(|(host, _)| !host.is_empty())
                .ok_or_else(|| format!("`{text}` names no protocol; write \"host=mqtt\""))?;
            let listener = match protocol {
                "amqp" => "amqps",
                "mqtt" => "mqtts",
                "stomp" => "stomps",
                WEBSOCKET => WEBSOCKET,
                _ => {
                    return Err(format!(
                        "`{text}`: `{protocol}` is not amqp, mqtt, stomp or {WEBSOCKET}"
                    ));
                }
            };
            if names.iter().any(|(name, _)| name.eq_ignore_ascii_case(host)) {
                return Err(format!("has {host} twice"));
            }
            names.push((host.to_owned(), listener));
        }
        Ok(Self(names.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_stand_for_protocols() {
        let read = |text: &str| ServerNames::read(&Value::Given(text.to_owned()));
        let names = read("mqtt.example.com=mqtt,web.example.com=websocket").expect("read");
        assert_eq!(names.listener_of("MQTT.example.com"), Some("mqtts"));
        assert_eq!(names.listener_of("web.example.com"), Some("websocket"));
        assert_eq!(names.listener_of("example.com"), None);
        assert!(read("mqtt.example.com").expect_err("refused").contains("host=mqtt"));
        assert!(read("=mqtt").expect_err("refused").contains("host=mqtt"));
        assert!(read("a=sqs").expect_err("refused").contains("`sqs` is not amqp"));
        assert!(read("a=mqtt,A=amqp").expect_err("refused").contains("A twice"));
    }

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

    #[test]
    fn networks_have_those_within_them() {
        let read = |text: &str| Networks::read(&Value::Given(text.to_owned()));
        let networks = read("10.0.0.0/8, 192.0.2.7,2001:db8::/33").expect("networks");
        for (address, is_within) in [
            ("10.255.0.1", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.6", false),
            ("2001:db8:7fff::1", true),
            ("2001:db8:8000::1", false),
            ("::a00:1", false),
        ] {
            assert_eq!(networks.contains(address.parse().expect("one")), is_within, "{address}");
        }
        assert!(!read("").expect("none").contains(IpAddr::from([127, 0, 0, 1])));
        for (text, why) in [
            ("10.0.0.0/33", "32 bits"),
            ("10.0.0/8", "is not a network"),
            ("10.0.0.0/x", "is not a network"),
            ("proxy.example", "is not a network"),
            ("0.0.0.0/0", "everybody"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(why), "{error}");
        }
    }
}
