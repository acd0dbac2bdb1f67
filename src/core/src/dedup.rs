//! Deduplication: windows of keys that were seen, each until its end.
//!
//! A window belongs to a thing that takes messages (an exchange, a queue). The dispatcher asks it
//! whether a key was seen and decides what it remembers and forgets; what belongs to a durable
//! thing and came with a durable message is written into the log as facts beside the message, so
//! that both are there after a failure or neither is. The ledger keeps the same windows by these
//! facts alone: it compares no clocks and counts nothing.
//!
//! A window is bounded by the number of its keys. Where it is full, the key that was remembered
//! first is forgotten first, as keys are whose time is over.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use blake2::digest::consts::U16;
use blake2::{Blake2s, Digest};
use isthmus_model::{ExchangeDef, ExchangeKind, QueueId, Table, Time, Value};

/// Keys in a window that says nothing of its size, as in LavinMQ.
pub const SIZE_DEFAULT: u32 = 128;

/// Keys in a window at the most: about 100 MB of memory.
pub const SIZE_MAX: u32 = 1_000_000;

/// The header that holds a message's key, unless the declaration names another.
const HEADER_DEFAULT: &str = "x-deduplication-header";

/// The argument of a declaration, and the header of a message, with the milliseconds for which a
/// key is remembered.
const TTL: &str = "x-cache-ttl";

/// What a window belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WindowOf {
    /// An exchange.
    Exchange {
        /// Its virtual host.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A queue.
    Queue(QueueId),
}

impl WindowOf {
    /// Whether it is the window of an exchange in `vhost`.
    pub(crate) fn is_exchange_in(&self, vhost: &str) -> bool {
        matches!(self, WindowOf::Exchange { vhost: host, .. } if **host == *vhost)
    }
}

/// What a message is recognised by: 128 bits of a BLAKE2s hash, so that a window's memory does not
/// depend on what clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DedupKey(pub [u8; 16]);

impl DedupKey {
    /// The key of bytes.
    pub fn of_bytes(bytes: &[u8]) -> DedupKey {
        DedupKey(Blake2s::<U16>::digest(bytes).into())
    }

    /// The key of a value: the same for values that mean the same.
    pub fn of_value(value: &Value) -> DedupKey {
        let mut form = Vec::new();
        crate::topology::write_value(value, &mut form);
        DedupKey::of_bytes(&form)
    }
}

/// A key as a window holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    until: Time,
    /// Its place in the order of remembering.
    number: u64,
    /// Whether the log says so.
    logged: bool,
}

/// Keys that were seen, each until its end, in the order of remembering.
#[derive(Clone, Debug, Default)]
pub struct Window {
    keys: HashMap<DedupKey, Seen>,
    order: BTreeMap<u64, DedupKey>,
    next: u64,
}

impl Window {
    /// Whether a key is remembered at `now`.
    pub fn has(&self, key: &DedupKey, now: Time) -> bool {
        self.keys.get(key).is_some_and(|seen| seen.until > now)
    }

    /// How many keys are held, those among them whose time is over.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Remembers a key, behind all others, until `until`.
    pub(crate) fn remember(&mut self, key: DedupKey, until: Time, logged: bool) {
        self.forget(&key);
        self.keys.insert(key, Seen { until, number: self.next, logged });
        self.order.insert(self.next, key);
        self.next += 1;
    }

    /// Forgets a key; whether the log has to be told.
    pub(crate) fn forget(&mut self, key: &DedupKey) -> bool {
        let Some(seen) = self.keys.remove(key) else { return false };
        self.order.remove(&seen.number);
        seen.logged
    }

    /// The key that was remembered first, if its time is over at `now` or if the window holds
    /// `size` keys or more.
    pub(crate) fn surplus(&self, size: u32, now: Time) -> Option<DedupKey> {
        let (_, key) = self.order.first_key_value()?;
        let is_over = self.keys.get(key).is_none_or(|seen| seen.until <= now);
        (is_over || self.keys.len() >= size as usize).then_some(*key)
    }

    /// Every key with its end, in the order of remembering.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DedupKey, Time)> + '_ {
        let until = |key| self.keys.get(key).map(|seen: &Seen| (*key, seen.until));
        self.order.values().filter_map(until)
    }
}

/// How an exchange or a queue deduplicates, as its declaration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DedupOptions {
    /// Keys that are remembered at the most.
    pub size: u32,
    /// Milliseconds for which a key is remembered; `None` for as long as there is room.
    pub ttl_ms: Option<u64>,
    /// The header that holds a message's key; messages without it are not compared.
    pub header: Arc<str>,
}

impl DedupOptions {
    /// What the arguments of an exchange ask for, `None` if it does not deduplicate. An exchange
    /// of the kind that does nothing else does it without being asked, and must say its size.
    ///
    /// # Errors
    /// If an argument makes no sense; it says which.
    pub fn of_exchange(def: &ExchangeDef) -> Result<Option<DedupOptions>, String> {
        let always = def.kind == ExchangeKind::Deduplication;
        if always && def.arguments.get("x-cache-size").is_none() {
            return Err(
                "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0"
                    .to_owned(),
            );
        }
        if always {
            DedupOptions::parse(&def.arguments).map(Some)
        } else {
            Self::of(&def.arguments)
        }
    }

    /// What the arguments of a queue ask for, `None` if it does not deduplicate.
    ///
    /// # Errors
    /// As [`DedupOptions::of_exchange`].
    pub fn of(arguments: &Table) -> Result<Option<DedupOptions>, String> {
        let asked = match arguments.get("x-message-deduplication") {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(value) => match value.as_str() {
                Some("true") => true,
                Some("false") => false,
                _ => return Err("'x-message-deduplication' must be true or false".to_owned()),
            },
        };
        if asked { DedupOptions::parse(arguments).map(Some) } else { Ok(None) }
    }

    fn parse(arguments: &Table) -> Result<DedupOptions, String> {
        let number = |name: &str| match arguments.get(name) {
            None => Ok(None),
            Some(value) => positive(value).map(Some).ok_or_else(|| {
                format!("Invalid argument, '{name}' must be an integer greater than 0")
            }),
        };
        let size = number("x-cache-size")?.unwrap_or(u64::from(SIZE_DEFAULT));
        let size = u32::try_from(size).ok().filter(|size| *size <= SIZE_MAX).ok_or_else(|| {
            format!("Invalid argument, 'x-cache-size' must not be greater than {SIZE_MAX}")
        })?;
        let header = match arguments.get(HEADER_DEFAULT) {
            None => HEADER_DEFAULT,
            Some(name) => name
                .as_str()
                .ok_or_else(|| format!("Invalid argument, '{HEADER_DEFAULT}' must be text"))?,
        };
        Ok(DedupOptions { size, ttl_ms: number(TTL)?, header: header.into() })
    }

    /// A message's key, and until when it is to be remembered if it comes at `now`; `None` for a
    /// message that has none. Its own time to live counts before the declared one.
    pub(crate) fn key_of(&self, headers: &Table, now: Time) -> Option<(DedupKey, Time)> {
        let key = DedupKey::of_value(headers.get(&self.header)?);
        let own = headers.get(TTL).and_then(positive);
        let until = match own.or(self.ttl_ms) {
            None => Time::NEVER,
            Some(ms) => Time(now.0.saturating_add(Time::from_millis(ms).0)),
        };
        Some((key, until))
    }
}

/// A number above zero, which some clients can only send as text.
fn positive(value: &Value) -> Option<u64> {
    let number = match value.as_str() {
        Some(text) => text.parse().ok()?,
        None => value.as_i64()?,
    };
    u64::try_from(number).ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> DedupKey {
        DedupKey::of_bytes(&[n])
    }

    fn table(fields: &[(&str, Value)]) -> Table {
        Table(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    #[test]
    fn keys_are_held_until_their_end_and_again_from_when_they_come_again() {
        let mut window = Window::default();
        window.remember(key(1), Time(10), true);
        window.remember(key(2), Time::NEVER, false);
        assert!(window.has(&key(1), Time(9)) && !window.has(&key(1), Time(10)));
        assert_eq!(window.surplus(3, Time(9)), None);
        assert_eq!(window.surplus(3, Time(10)), Some(key(1)), "its time is over");
        assert_eq!(window.surplus(2, Time(9)), Some(key(1)), "it is the first of too many");
        window.remember(key(1), Time(30), true);
        assert_eq!(window.len(), 2);
        assert_eq!(window.surplus(2, Time(9)), Some(key(2)), "the other one went behind it");
        let all: Vec<_> = window.iter().collect();
        assert_eq!(all, [(key(2), Time::NEVER), (key(1), Time(30))]);
        assert!(!window.forget(&key(2)) && window.forget(&key(1)) && !window.forget(&key(1)));
        assert!(window.is_empty() && window.order.is_empty());
    }

    #[test]
    fn a_key_is_what_the_header_means() {
        let options = DedupOptions { size: 9, ttl_ms: Some(100), header: "id".into() };
        let of = |fields: &[(&str, Value)]| options.key_of(&table(fields), Time(5));
        let (one, until) = of(&[("id", Value::Int(1))]).expect("it has a key");
        assert_eq!(until, Time(100_000_005));
        assert_eq!(of(&[("id", Value::Uint(1))]), Some((one, until)));
        assert_ne!(of(&[("id", Value::String("1".into()))]), Some((one, until)));
        assert_eq!(of(&[("other", Value::Int(1))]), None);
        let own = of(&[("id", Value::Int(1)), ("x-cache-ttl", Value::Int(7))]);
        assert_eq!(own, Some((one, Time(7_000_005))));
        let senseless = of(&[("id", Value::Int(1)), ("x-cache-ttl", Value::Int(-7))]);
        assert_eq!(senseless, Some((one, until)));
    }

    #[test]
    fn arguments_say_whether_and_how() {
        let text = |text: &str| Value::String(text.into());
        let on = ("x-message-deduplication", Value::Bool(true));
        assert_eq!(DedupOptions::of(&table(&[("x-cache-size", Value::Int(-1))])), Ok(None));
        let off = [("x-message-deduplication", Value::Bool(false))];
        assert_eq!(DedupOptions::of(&table(&off)), Ok(None));
        let plain = DedupOptions { size: 128, ttl_ms: None, header: HEADER_DEFAULT.into() };
        assert_eq!(DedupOptions::of(&table(std::slice::from_ref(&on))), Ok(Some(plain)));
        let all = [
            on.clone(),
            ("x-cache-size", text("5")),
            ("x-cache-ttl", Value::Int(9)),
            (HEADER_DEFAULT, text("id")),
        ];
        let said = DedupOptions { size: 5, ttl_ms: Some(9), header: "id".into() };
        assert_eq!(DedupOptions::of(&table(&all)), Ok(Some(said)));
        for (name, value) in [
            ("x-cache-size", Value::Int(0)),
            ("x-cache-size", Value::Int(i64::from(SIZE_MAX) + 1)),
            ("x-cache-size", text("many")),
            ("x-cache-ttl", Value::Int(-1)),
            (HEADER_DEFAULT, Value::Int(1)),
        ] {
            let error = DedupOptions::of(&table(&[on.clone(), (name, value)]))
                .expect_err("they make no sense");
            assert!(error.contains(name), "{error}");
        }
    }
}
