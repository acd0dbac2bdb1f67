//! The URL of a broker.

use std::fmt;

use url::Url;

/// Which protocol a broker is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Amqp,
    Mqtt,
    Stomp,
}

impl Protocol {
    /// The name of the protocol in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Protocol::Amqp => "amqp",
            Protocol::Mqtt => "mqtt",
            Protocol::Stomp => "stomp",
        }
    }
}

/// Where a broker is, and as whom to log in. `Display` and `Debug` keep the password back.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) protocol: Protocol,
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// The virtual host, where the URL names one.
    pub(crate) vhost: Option<String>,
}

/// What is wrong with a URL, and how to mend it.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0}; write it as amqp://USER:PASSWORD@HOST:PORT/VHOST, with amqps, mqtt, mqtts, stomp or \
         stomps where that is spoken"
)]
pub(crate) struct BadUrl(String);

impl Target {
    /// Reads a URL. Its text is not in any error: it may hold a password.
    pub(crate) fn parse(text: &str) -> Result<Target, BadUrl> {
        if !text.contains("://") {
            return Err(BadUrl("the URL has no scheme".to_owned()));
        }
        let url =
            Url::parse(text).map_err(|error| BadUrl(format!("the URL is not one: {error}")))?;
        let (protocol, tls, default_port) = match url.scheme() {
            "amqp" => (Protocol::Amqp, false, 5672),
            "amqps" => (Protocol::Amqp, true, 5671),
            "mqtt" => (Protocol::Mqtt, false, 1883),
            "mqtts" => (Protocol::Mqtt, true, 8883),
            "stomp" => (Protocol::Stomp, false, 61613),
            "stomps" => (Protocol::Stomp, true, 61614),
            other => {
                return Err(BadUrl(format!("the URL's scheme '{other}' is none that is spoken")));
            }
        };
        let host = match url.host_str() {
            Some(host) if !host.is_empty() => host.trim_matches(['[', ']']).to_owned(),
            _ => return Err(BadUrl("the URL names no host".to_owned())),
        };
        if url.query().is_some() || url.fragment().is_some() {
            let what =
                "the URL has a query or a fragment, which mean nothing here; options are flags";
            return Err(BadUrl(what.to_owned()));
        }
        let user = match url.username() {
            "" => None,
            user => Some(decoded(user, "user")?),
        };
        let password = url.password().map(|text| decoded(text, "password")).transpose()?;
        // `amqp://host`, `amqp://host/` and `amqp://host//` all mean the virtual host "/".
        let vhost = match url.path().strip_prefix('/').unwrap_or_default() {
            "" | "/" => None,
            path => Some(decoded(path, "virtual host")?),
        };
        if vhost.is_some() && protocol == Protocol::Mqtt {
            let what = "the URL has a path, but MQTT knows no virtual hosts; RabbitMQ and Isthmus take \
                        it in the user's name, as VHOST:USER";
            return Err(BadUrl(what.to_owned()));
        }
        let port = url.port().unwrap_or(default_port);
        Ok(Target { protocol, tls, host, port, user, password, vhost })
    }

    fn scheme(&self) -> &'static str {
        match (self.protocol, self.tls) {
            (Protocol::Amqp, false) => "amqp",
            (Protocol::Amqp, true) => "amqps",
            (Protocol::Mqtt, false) => "mqtt",
            (Protocol::Mqtt, true) => "mqtts",
            (Protocol::Stomp, false) => "stomp",
            (Protocol::Stomp, true) => "stomps",
        }
    }
}

fn decoded(text: &str, what: &str) -> Result<String, BadUrl> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            let what =
                format!("the URL's {what} has a % without two hexadecimal digits; % itself is %25");
            return Err(BadUrl(what));
        };
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| BadUrl(format!("the URL's {what} is not UTF-8")))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme())?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port)?,
            false => write!(f, "{}:{}", self.host, self.port)?,
        }
        match &self.vhost {
            Some(vhost) => write!(f, "/{vhost}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_who() {
        let target =
            Target::parse("amqps://me:p%40ss@broker.example:1234/my%2Fhost").expect("read");
        assert_eq!((target.protocol, target.tls, target.port), (Protocol::Amqp, true, 1234));
        assert_eq!(target.user.as_deref(), Some("me"));
        assert_eq!(target.password.as_deref(), Some("p@ss"));
        assert_eq!(target.vhost.as_deref(), Some("my/host"));
        let target = Target::parse("mqtt://[::1]").expect("read");
        assert_eq!((target.host.as_str(), target.port), ("::1", 1883));
        for text in ["amqp://h", "amqp://h/", "amqp://h//"] {
            assert_eq!(Target::parse(text).expect("read").vhost, None, "{text}");
        }
        assert_eq!(Target::parse("amqp://h/%2F").expect("read").vhost.as_deref(), Some("/"));
    }

    #[test]
    fn no_form_of_a_target_shows_the_password() {
        let target = Target::parse("stomp://me:secret@h:1/v").expect("read");
        assert_eq!(target.to_string(), "stomp://me@h:1/v");
        assert!(!format!("{target:?}").contains("secret"));
        for text in
            ["amqp://me:secret@", "http://me:secret@h", "amqp://me:secret@h:x", "me:secret@h"]
        {
            let error = Target::parse(text).expect_err(text).to_string();
            assert!(!error.contains("secret"), "{error}");
            assert!(error.contains("amqp://USER:PASSWORD@HOST"), "{error}");
        }
    }

    #[test]
    fn errors_name_the_part() {
        let errors = [
            ("localhost:5672", "no scheme"),
            ("kafka://h", "scheme 'kafka'"),
            ("amqp://", "host"),
            ("amqp://h:99999", "port"),
            ("mqtt://h/vhost", "VHOST:USER"),
            ("amqp://h?heartbeat=1", "flags"),
            ("amqp://u%zz@h", "%25"),
        ];
        for (text, part) in errors {
            let error = Target::parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
