//! Where the header `destination` leads: RabbitMQ's names
//! (<https://www.rabbitmq.com/docs/stomp#d>) and ActiveMQ's
//! (<https://activemq.apache.org/components/classic/documentation/stomp>), which agree about
//! `/queue/` and `/topic/`.
//!
//! | destination | what it is |
//! |-|-|
//! | `/queue/NAME`, `NAME` without a slash in front | the queue, declared durable when it is first used |
//! | `/topic/KEY` | a key of the exchange `amq.topic`; `*` and `#` in a subscription, and `>` as last word for `#` |
//! | `/exchange/NAME`, `/exchange/NAME/KEY` | a key of any exchange |
//! | `/amq/queue/NAME` | a queue that is there already, whatever it was declared as |
//! | `/temp-queue/NAME` | a queue of this connection alone |
//! | `/temp-topic/NAME` | a topic of this connection alone |
//! | `/reply-queue/NAME` | a queue that is there, or was: where answers go |
//!
//! What follows the prefix may be percent-encoded, which an exchange's name with a slash needs.

use std::borrow::Cow;

use isthmus_model::REPLY_QUEUE_PREFIX;

use crate::fault::Fault;

/// The exchange of topics.
pub const TOPIC_EXCHANGE: &str = "amq.topic";

/// Bytes of a name of a queue or exchange at the most (AMQP 0-9-1's short strings).
const NAME_BYTES_MAX: usize = 255;

/// Where messages go to or come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination<'a> {
    /// A queue that is declared when it is first used.
    Queue(Cow<'a, str>),
    /// A routing key of the exchange of topics.
    Topic(Cow<'a, str>),
    /// A routing key of an exchange.
    Exchange {
        /// The exchange's name.
        name: Cow<'a, str>,
        /// The routing key, empty if there is none.
        key: Cow<'a, str>,
    },
    /// A queue that is there.
    Existing(Cow<'a, str>),
    /// A queue of this connection, under the client's own name for it.
    Temporary(Cow<'a, str>),
    /// A topic of this connection, under the client's own name for it.
    TemporaryTopic(Cow<'a, str>),
    /// Where an answer goes.
    Reply(Cow<'a, str>),
}

/// Prefixes of destinations that brokers of other families have and this one has not, and what to
/// use in their place.
const UNKNOWN: [(&str, &str); 2] = [
    ("/remote-temp-queue/", "answer to the 'reply-to' of the message as it stands there"),
    ("/remote-temp-topic/", "answer to the 'reply-to' of the message as it stands there"),
];

impl<'a> Destination<'a> {
    /// Reads the value of a header.
    ///
    /// # Errors
    /// If it names nothing.
    pub fn parse(text: &'a str) -> Result<Destination<'a>, Fault> {
        Destination::split(text)?.check(text)
    }

    /// Reads the value of a header, whose names may be empty or too long.
    fn split(text: &'a str) -> Result<Destination<'a>, Fault> {
        let of = |prefix: &str| text.strip_prefix(prefix);
        Ok(if let Some(name) = of("/queue/") {
            Destination::Queue(decoded(name))
        } else if let Some(key) = of("/topic/") {
            Destination::Topic(decoded(key))
        } else if let Some(rest) = of("/exchange/") {
            let (name, key) = rest.split_once('/').unwrap_or((rest, ""));
            Destination::Exchange { name: decoded(name), key: decoded(key) }
        } else if let Some(name) = of("/amq/queue/") {
            Destination::Existing(decoded(name))
        } else if let Some(name) = of("/temp-queue/") {
            Destination::Temporary(decoded(name))
        } else if let Some(name) = of("/temp-topic/") {
            Destination::TemporaryTopic(decoded(name))
        } else if let Some(name) = of("/reply-queue/") {
            Destination::Reply(decoded(name))
        } else if !text.starts_with('/') {
            Destination::Queue(text.into())
        } else {
            let instead = UNKNOWN.iter().find(|(prefix, _)| text.starts_with(prefix));
            return Err(unknown(text, instead.map(|(_, instead)| *instead)));
        })
    }

    fn check(self, text: &str) -> Result<Destination<'a>, Fault> {
        let name = match &self {
            Destination::Topic(key) if key.is_empty() => {
                return Err(invalid(text, "names no topic: it is written /topic/NAME"));
            }
            Destination::TemporaryTopic(name) if name.is_empty() => {
                return Err(invalid(text, "names no topic: it is written /temp-topic/NAME"));
            }
            Destination::Topic(_) | Destination::TemporaryTopic(_) => return Ok(self),
            Destination::Exchange { name, .. } if name.is_empty() => {
                let why = "names no exchange: it is written /exchange/NAME/KEY, and the default \
                           exchange is reached by /queue/NAME";
                return Err(invalid(text, why));
            }
            Destination::Exchange { name, .. }
            | Destination::Queue(name)
            | Destination::Existing(name)
            | Destination::Temporary(name)
            | Destination::Reply(name) => name,
        };
        if name.is_empty() {
            return Err(invalid(text, "names no queue: it is written /queue/NAME"));
        }
        if name.len() > NAME_BYTES_MAX {
            let why = format!("has a name longer than {NAME_BYTES_MAX} bytes");
            return Err(invalid(text, &why));
        }
        Ok(self)
    }

    /// Whether a subscription to it gets copies, in a queue of its own.
    pub fn is_topic(&self) -> bool {
        use Destination::{Exchange, TemporaryTopic, Topic};
        matches!(self, Topic(_) | TemporaryTopic(_) | Exchange { .. })
    }

    /// The exchange that messages for it are published to, and the routing key; nothing for one
    /// of a client's own names, which only its session knows.
    pub fn route(&self) -> Option<(&str, &Cow<'a, str>)> {
        Some(match self {
            Destination::Queue(name) | Destination::Existing(name) | Destination::Reply(name) => {
                ("", name)
            }
            Destination::Topic(key) => (TOPIC_EXCHANGE, key),
            Destination::Exchange { name, key } => (name, key),
            Destination::Temporary(_) | Destination::TemporaryTopic(_) => return None,
        })
    }
}

fn unknown(text: &str, instead: Option<&str>) -> Fault {
    let known = "/queue/, /topic/, /exchange/, /amq/queue/, /temp-queue/, /temp-topic/ and \
                 /reply-queue/";
    let mend = instead.map_or(format!("destinations begin with {known}"), str::to_owned);
    Fault::new("Unknown destination", format!("header 'destination': '{}': {mend}", shown(text)))
}

fn invalid(text: &str, why: &str) -> Fault {
    Fault::new("Invalid destination", format!("header 'destination': '{}' {why}", shown(text)))
}

fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// The destinations that `text` lists: ActiveMQ's composite ones have several, with commas in
/// between. A comma that stands before no slash is part of a name.
pub fn listed(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let is_end = |at: &usize| text.as_bytes().get(at + 1) == Some(&b'/');
        let Some(at) = memchr::memchr_iter(b',', text.as_bytes()).find(is_end) else {
            rest = None;
            return Some(text);
        };
        rest = Some(&text[at + 1..]);
        Some(&text[..at])
    })
}

/// A topic as a binding's key: `>` as the last word is ActiveMQ's word for any number of words.
pub fn binding_key(topic: &str) -> Cow<'_, str> {
    match topic.strip_suffix('>') {
        Some("") => "#".into(),
        Some(before) if before.ends_with('.') => format!("{before}#").into(),
        _ => topic.into(),
    }
}

/// The destination that a message with this exchange and routing key was sent to.
pub fn written(exchange: &str, key: &str) -> String {
    match exchange {
        "" if key.starts_with(REPLY_QUEUE_PREFIX) => {
            format!("/reply-queue/{}", encoded(key, false))
        }
        "" => format!("/queue/{}", encoded(key, false)),
        TOPIC_EXCHANGE => format!("/topic/{}", encoded(key, false)),
        _ => format!("/exchange/{}/{}", encoded(exchange, true), encoded(key, false)),
    }
}

/// `text` with the bytes in place that are percent-encoded in it. What only looks like an encoded
/// byte, or would make no text, stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return text.into();
    }
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).map(|d| d as u8);
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(text.into(), Cow::Owned)
}

/// `text` as [`decoded`] gives it back; `is_part` if a slash ends it.
fn encoded(text: &str, is_part: bool) -> Cow<'_, str> {
    let needs = |c: char| c == '%' || is_part && c == '/';
    if !text.contains(needs) {
        return text.into();
    }
    let text = text.replace('%', "%25");
    if is_part { text.replace('/', "%2F").into() } else { text.into() }
}

/// A reply-to header as the neutral address that it is: the routing key of a queue, for what a
/// queue's name reaches.
pub(crate) fn address_of(reply_to: &str) -> Cow<'_, str> {
    match Destination::split(reply_to) {
        Ok(Destination::Queue(name) | Destination::Existing(name) | Destination::Reply(name))
            if !name.is_empty() =>
        {
            name
        }
        _ => reply_to.into(),
    }
}

/// A neutral address as a reply-to header, which [`address_of`] turns back.
pub(crate) fn reply_to_of(address: &str) -> Cow<'_, str> {
    if address.is_empty() {
        return address.into();
    }
    let is_whole = address.starts_with("/topic/") || address.starts_with("/exchange/");
    if is_whole && *address_of(address) == *address {
        return address.into();
    }
    format!("/reply-queue/{}", encoded(address, false)).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Destination<'_> {
        Destination::parse(text).expect(text)
    }

    #[test]
    fn both_families_of_names_are_read() {
        assert_eq!(parsed("/queue/a.b"), Destination::Queue("a.b".into()));
        assert_eq!(parsed("/queue/a%2Fb/c"), Destination::Queue("a/b/c".into()));
        assert_eq!(parsed("FOO.BAR"), Destination::Queue("FOO.BAR".into()));
        assert_eq!(parsed("/topic/a.*.#"), Destination::Topic("a.*.#".into()));
        let exchange = |name: &'static str, key: &'static str| Destination::Exchange {
            name: name.into(),
            key: key.into(),
        };
        assert_eq!(parsed("/exchange/x"), exchange("x", ""));
        assert_eq!(parsed("/exchange/x%2Fy/k/l"), exchange("x/y", "k/l"));
        assert_eq!(parsed("/amq/queue/q"), Destination::Existing("q".into()));
        assert_eq!(parsed("/temp-queue/t"), Destination::Temporary("t".into()));
        assert_eq!(parsed("/temp-topic/t"), Destination::TemporaryTopic("t".into()));
        assert_eq!(parsed("/reply-queue/r"), Destination::Reply("r".into()));
        assert_eq!(parsed("/queue/100%"), Destination::Queue("100%".into()));
        assert_eq!(parsed("/queue/%FF"), Destination::Queue("%FF".into()));
    }

    #[test]
    fn what_names_nothing_is_refused_and_says_what_would() {
        for (text, said) in [
            ("/queue/", "is written /queue/NAME"),
            ("", "is written /queue/NAME"),
            ("/topic/", "is written /topic/NAME"),
            ("/exchange/", "is written /exchange/NAME/KEY"),
            ("/exchange//k", "is written /exchange/NAME/KEY"),
            ("/queues/x", "destinations begin with /queue/"),
            ("/temp-topic/", "is written /temp-topic/NAME"),
            ("/remote-temp-topic/x", "as it stands there"),
        ] {
            let fault = Destination::parse(text).expect_err(text);
            assert!(fault.detail.contains(said), "{text}: {fault}");
        }
        let long = format!("/queue/{}", "x".repeat(256));
        assert!(Destination::parse(&long).is_err());
    }

    #[test]
    fn several_destinations_are_told_apart() {
        let of = |text| listed(text).collect::<Vec<_>>();
        assert_eq!(of("/queue/a,/topic/b,/queue/c"), ["/queue/a", "/topic/b", "/queue/c"]);
        assert_eq!(of("/queue/a,b"), ["/queue/a,b"]);
        assert_eq!(of("/queue/a"), ["/queue/a"]);
    }

    #[test]
    fn the_last_word_of_a_topic_may_be_any_number_of_words() {
        let keys = [("a.>", "a.#"), (">", "#"), ("a.b", "a.b"), ("a>", "a>"), ("a.*", "a.*")];
        for (topic, key) in keys {
            assert_eq!(binding_key(topic), key);
        }
    }

    proptest! {
        #[test]
        fn a_destination_that_is_written_leads_where_it_came_from(
            exchange in "(amq\\.topic|[a-z%/2F]{0,6})",
            key in "[a-z%/.2F]{1,8}",
        ) {
            let text = written(&exchange, &key);
            let read = Destination::parse(&text).expect("written here");
            let (to, with) = read.route().expect("of no session");
            prop_assert_eq!((to, &**with), (&*exchange, &*key));
        }

        #[test]
        fn an_address_comes_back(
            address in "(/topic/|/exchange/|/queue/|/reply-queue/)?[a-z%/.2F]{0,8}(x{256})?",
        ) {
            let written = reply_to_of(&address);
            prop_assert_eq!(&*address_of(&written), &*address);
        }
    }
}
