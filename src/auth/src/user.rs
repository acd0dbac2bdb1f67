//! What operators define, and its form as settings.

use isthmus_model::{Table, Value};
use regex::{Regex, RegexBuilder};
use thiserror::Error;

use crate::PasswordHash;

/// The largest compiled pattern in bytes: patterns come from operators, but a slip must not cost
/// the broker its memory.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A setting that is not as its kind is to be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field} {what}")]
pub struct FormError {
    /// Which part of it.
    pub field: String,
    /// What is wrong, as the end of a sentence.
    pub what: String,
}

impl FormError {
    fn new(field: &str, what: impl Into<String>) -> FormError {
        FormError { field: field.to_owned(), what: what.into() }
    }
}

/// The text under `name`.
fn text<'t>(table: &'t Table, name: &str) -> Result<&'t str, FormError> {
    let value = table.get(name).ok_or_else(|| FormError::new(name, "is missing"))?;
    value.as_str().ok_or_else(|| FormError::new(name, "must be text"))
}

fn entry(name: &str, value: impl Into<String>) -> (String, Value) {
    (name.to_owned(), Value::String(value.into()))
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// How the password is kept.
    pub password_hash: PasswordHash,
    /// What the user is, such as `administrator`.
    pub tags: Vec<String>,
    /// Whether the user may log in from this machine alone.
    pub loopback_only: bool,
}

impl User {
    /// Reads a setting of kind [`User`](isthmus_model::SettingKind::User).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(table: &Table) -> Result<User, FormError> {
        let algorithm = table.get("hashing_algorithm").and_then(Value::as_str);
        let password_hash = PasswordHash::read(text(table, "password_hash")?, algorithm)
            .map_err(|what| FormError::new("password_hash", what))?;
        let tags = match table.get("tags") {
            None => Vec::new(),
            Some(Value::List(tags)) => {
                let tag = |tag: &Value| tag.as_str().map(str::to_owned);
                let all: Option<Vec<String>> = tags.iter().map(tag).collect();
                all.ok_or_else(|| FormError::new("tags", "must be a list of words"))?
            }
            Some(_) => return Err(FormError::new("tags", "must be a list of words")),
        };
        let loopback_only = matches!(table.get("loopback_only"), Some(Value::Bool(true)));
        Ok(User { password_hash, tags, loopback_only })
    }

    /// The user as a setting.
    pub fn table(&self) -> Table {
        Table(vec![
            entry("password_hash", self.password_hash.text()),
            entry("hashing_algorithm", self.password_hash.algorithm()),
            (
                "tags".to_owned(),
                Value::List(self.tags.iter().cloned().map(Value::String).collect()),
            ),
            ("loopback_only".to_owned(), Value::Bool(self.loopback_only)),
        ])
    }
}

/// Regular expressions for names.
#[derive(Clone, Debug)]
pub struct Patterns(Regex);

impl Patterns {
    /// Compiles a pattern. As in RabbitMQ it may match anywhere in a name, and an empty one
    /// matches the empty name alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(field: &str, pattern: &str) -> Result<Patterns, FormError> {
        let pattern = if pattern.is_empty() { "^$" } else { pattern };
        RegexBuilder::new(pattern)
            .size_limit(PATTERN_BYTES_MAX)
            .build()
            .map(Patterns)
            .map_err(|error| FormError::new(field, format!("is not a regular expression: {error}")))
    }

    /// Whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// Whether every name is meant.
    pub fn matches_all(&self) -> bool {
        matches!(self.0.as_str(), ".*" | "^.*$" | "^.*" | ".*$")
    }
}

/// What a user may do in a virtual host: patterns of the names of queues and exchanges.
#[derive(Clone, Debug)]
pub struct Permission {
    /// What he may declare and delete.
    pub configure: Patterns,
    /// What he may publish to, and bind to something.
    pub write: Patterns,
    /// What he may consume from, purge, and bind something to.
    pub read: Patterns,
}

impl Permission {
    /// Reads a setting of kind [`Permission`](isthmus_model::SettingKind::Permission).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(table: &Table) -> Result<Permission, FormError> {
        let pattern = |field| Patterns::new(field, text(table, field)?);
        Ok(Permission {
            configure: pattern("configure")?,
            write: pattern("write")?,
            read: pattern("read")?,
        })
    }

    /// A setting with these patterns.
    pub fn table(configure: &str, write: &str, read: &str) -> Table {
        Table(vec![entry("configure", configure), entry("write", write), entry("read", read)])
    }
}

/// Which routing keys a user may use with exchanges: those that are not named, with any.
#[derive(Clone, Debug)]
pub struct TopicPermission(Vec<(String, TopicPatterns)>);

/// The patterns of one exchange, in which `{username}` (or `%u`), `{vhost}` and `{client_id}` (or
/// `%c`) stand for their values.
#[derive(Clone, Debug)]
pub(crate) struct TopicPatterns {
    pub(crate) write: Patterns,
    pub(crate) read: Patterns,
    /// As they are written, where they differ from one client to the next.
    of_clients: Option<Templates>,
}

/// Patterns with variables in them, and for whom.
#[derive(Clone, Debug)]
struct Templates {
    write: String,
    read: String,
    user: String,
    vhost: String,
}

/// Matches nothing: what a client that has not said which it is stands for.
const NOBODY: &str = "[^\\s\\S]";

/// The variables that stand for the client.
const CLIENT_VARIABLES: [&str; 2] = ["{client_id}", "%c"];

impl Templates {
    fn has_clients(&self) -> bool {
        CLIENT_VARIABLES.iter().any(|v| self.write.contains(v) || self.read.contains(v))
    }

    /// Fills one in. Each variable is replaced once: a value that looks like one stays as it is.
    fn fill(&self, template: &str, client: Option<&str>) -> String {
        let client = client.map_or_else(|| NOBODY.to_owned(), regex::escape);
        let (user, vhost) = (regex::escape(&self.user), regex::escape(&self.vhost));
        let [long, short] = CLIENT_VARIABLES;
        let variables = [
            ("{username}", &user),
            ("%u", &user),
            ("{vhost}", &vhost),
            (long, &client),
            (short, &client),
        ];
        let (mut filled, mut rest) = (String::new(), template);
        while let Some(next) = rest.chars().next() {
            let variable = variables.iter().find(|(name, _)| rest.starts_with(name));
            match variable {
                Some((name, value)) => {
                    filled.push_str(value);
                    rest = &rest[name.len()..];
                }
                None => {
                    filled.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
        }
        filled
    }

    fn patterns(&self, client: Option<&str>) -> Result<TopicPatterns, FormError> {
        Ok(TopicPatterns {
            write: Patterns::new("write", &self.fill(&self.write, client))?,
            read: Patterns::new("read", &self.fill(&self.read, client))?,
            of_clients: self.has_clients().then(|| self.clone()),
        })
    }
}

impl TopicPermission {
    /// Reads a setting of kind [`TopicPermission`](isthmus_model::SettingKind::TopicPermission):
    /// for each exchange a table of patterns. Variables are replaced for `user` in `vhost`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(table: &Table, user: &str, vhost: &str) -> Result<TopicPermission, FormError> {
        let exchange = |(name, value): &(String, Value)| {
            let Value::Map(patterns) = value else {
                return Err(FormError::new(name, "must have patterns for write and read"));
            };
            let templates = Templates {
                write: text(patterns, "write")?.to_owned(),
                read: text(patterns, "read")?.to_owned(),
                user: user.to_owned(),
                vhost: vhost.to_owned(),
            };
            Ok((name.clone(), templates.patterns(None)?))
        };
        table.0.iter().map(exchange).collect::<Result<_, _>>().map(TopicPermission)
    }

    /// As they are for one of the user's clients; `None` if they are the same for all.
    pub(crate) fn of_client(&self, client: &str) -> Option<TopicPermission> {
        self.0.iter().find(|(_, patterns)| patterns.of_clients.is_some())?;
        let own = |(name, patterns): &(String, TopicPatterns)| {
            // With an identifier that is too long for a pattern it is as if there were none.
            let own = patterns.of_clients.as_ref().and_then(|t| t.patterns(Some(client)).ok());
            (name.clone(), own.unwrap_or_else(|| patterns.clone()))
        };
        Some(TopicPermission(self.0.iter().map(own).collect()))
    }

    pub(crate) fn of(&self, exchange: &str) -> Option<&TopicPatterns> {
        self.0.iter().find(|(name, _)| name == exchange).map(|(_, patterns)| patterns)
    }

    /// One exchange's part of the setting.
    pub fn entry(exchange: &str, write: &str, read: &str) -> (String, Value) {
        let patterns = Table(vec![entry("write", write), entry("read", read)]);
        (exchange.to_owned(), Value::Map(patterns))
    }
}

const MAX_PUBLISHES: &str = "max-publishes-per-second";
const MAX_PUBLISH_BYTES: &str = "max-publish-bytes-per-second";

/// Limits of a user or of a virtual host; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once.
    pub connections_max: Option<u64>,
    /// Channels open at once (users).
    pub channels_max: Option<u64>,
    /// Queues (virtual hosts).
    pub queues_max: Option<u64>,
    /// Messages published in a second.
    pub publishes_per_second_max: Option<u64>,
    /// Bytes of the bodies of messages published in a second.
    pub publish_bytes_per_second_max: Option<u64>,
}

impl Limits {
    /// The names of limits of users; the first two are RabbitMQ's.
    pub const OF_USERS: [&str; 4] =
        ["max-connections", "max-channels", MAX_PUBLISHES, MAX_PUBLISH_BYTES];

    /// The names of limits of virtual hosts; the first two are RabbitMQ's.
    pub const OF_VHOSTS: [&str; 4] =
        ["max-connections", "max-queues", MAX_PUBLISHES, MAX_PUBLISH_BYTES];

    /// Reads a setting of kind [`UserLimit`](isthmus_model::SettingKind::UserLimit), whose limits
    /// are [`Limits::OF_USERS`], or [`VhostLimit`](isthmus_model::SettingKind::VhostLimit). A
    /// negative limit is none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(table: &Table, known: &[&str]) -> Result<Limits, FormError> {
        let mut limits = Limits::default();
        for (name, value) in &table.0 {
            let value =
                value.as_i64().ok_or_else(|| FormError::new(name, "must be a whole number"))?;
            let limit = match name.as_str() {
                name if !known.contains(&name) => {
                    let known = known.join(", ");
                    return Err(FormError::new(
                        name,
                        format!("is not a limit here; there are {known}"),
                    ));
                }
                "max-connections" => &mut limits.connections_max,
                "max-channels" => &mut limits.channels_max,
                "max-queues" => &mut limits.queues_max,
                MAX_PUBLISHES => &mut limits.publishes_per_second_max,
                MAX_PUBLISH_BYTES => &mut limits.publish_bytes_per_second_max,
                _ => continue,
            };
            *limit = u64::try_from(value).ok();
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_comes_back_as_it_was_written() {
        let user = User {
            password_hash: crate::password::test_hashing().hash(b"secret").expect("hashed"),
            tags: vec!["administrator".to_owned()],
            loopback_only: true,
        };
        assert_eq!(User::read(&user.table()), Ok(user));
    }

    #[test]
    fn patterns_match_anywhere_and_an_empty_one_nothing_but_the_empty_name() {
        let pattern = |text| Patterns::new("write", text).expect("a pattern");
        assert!(pattern("jobs").matches("my-jobs-2"));
        assert!(!pattern("^jobs$").matches("my-jobs-2"));
        assert!(!pattern("").matches("q") && pattern("").matches(""));
        assert!(pattern(".*").matches_all() && !pattern("a.*").matches_all());
        let error = Patterns::new("write", "a(").expect_err("refused");
        assert!(error.to_string().starts_with("write is not a regular expression"), "{error}");
        assert!(Patterns::new("write", &"\\pL{100}".repeat(200)).is_err(), "too large");
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let missing = Permission::read(&Table(vec![entry("configure", "")])).expect_err("refused");
        assert_eq!(missing.to_string(), "write is missing");
        let unknown = Table(vec![("max-conections".to_owned(), Value::Int(1))]);
        assert!(
            Limits::read(&unknown, &Limits::OF_USERS)
                .expect_err("refused")
                .to_string()
                .contains("max-connections")
        );
        let limits = Table(vec![
            ("max-connections".to_owned(), Value::Int(3)),
            ("max-publishes-per-second".to_owned(), Value::Int(-1)),
        ]);
        let limits = Limits::read(&limits, &Limits::OF_USERS);
        let expected = Limits { connections_max: Some(3), ..Limits::default() };
        assert_eq!(limits, Ok(expected));
        let queues = Table(vec![("max-queues".to_owned(), Value::Int(1))]);
        let expected = Limits { queues_max: Some(1), ..Limits::default() };
        assert_eq!(Limits::read(&queues, &Limits::OF_VHOSTS), Ok(expected));
        let refused = Limits::read(&queues, &Limits::OF_USERS).expect_err("not of a user");
        assert!(refused.to_string().contains("there are max-connections, max-channels"));
    }
}
