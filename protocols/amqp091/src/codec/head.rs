//! The head of a message: flags and property list of a content header (specification section
//! 2.3.5.2), read where it lies and kept as the publisher wrote it.

use std::ops::Range;

use isthmus_model::{NO_TTL, Value};

use super::reader::{Malformed, Reader};
use super::table;

/// Flag bits of the properties of class basic, by their order in section 1.8.
pub(super) mod flag {
    pub(in crate::codec) const CONTENT_TYPE: u16 = 1 << 15;
    pub(in crate::codec) const CONTENT_ENCODING: u16 = 1 << 14;
    pub(in crate::codec) const HEADERS: u16 = 1 << 13;
    pub(in crate::codec) const DELIVERY_MODE: u16 = 1 << 12;
    pub(in crate::codec) const PRIORITY: u16 = 1 << 11;
    pub(in crate::codec) const CORRELATION_ID: u16 = 1 << 10;
    pub(in crate::codec) const REPLY_TO: u16 = 1 << 9;
    pub(in crate::codec) const EXPIRATION: u16 = 1 << 8;
    pub(in crate::codec) const MESSAGE_ID: u16 = 1 << 7;
    pub(in crate::codec) const TIMESTAMP: u16 = 1 << 6;
    pub(in crate::codec) const TYPE: u16 = 1 << 5;
    pub(in crate::codec) const USER_ID: u16 = 1 << 4;
    pub(in crate::codec) const APP_ID: u16 = 1 << 3;
    pub(in crate::codec) const CLUSTER_ID: u16 = 1 << 2;
    /// The properties in the order of the list, with their names.
    pub(in crate::codec) const NAMES: [(u16, &str); 14] = [
        (CONTENT_TYPE, "content_type"),
        (CONTENT_ENCODING, "content_encoding"),
        (HEADERS, "headers"),
        (DELIVERY_MODE, "delivery_mode"),
        (PRIORITY, "priority"),
        (CORRELATION_ID, "correlation_id"),
        (REPLY_TO, "reply_to"),
        (EXPIRATION, "expiration"),
        (MESSAGE_ID, "message_id"),
        (TIMESTAMP, "timestamp"),
        (TYPE, "type"),
        (USER_ID, "user_id"),
        (APP_ID, "app_id"),
        (CLUSTER_ID, "cluster_id"),
    ];
    /// Unassigned, and the announcement of further flags, of which class basic has none.
    pub(in crate::codec) const UNKNOWN: u16 = 0b11;
}

/// Headers that name further routing keys, of which receivers do not see the second
/// (<https://www.rabbitmq.com/docs/sender-selected>).
const MORE_KEYS: [&str; 2] = ["CC", BCC];
const BCC: &str = "BCC";

/// What the broker reads of a head; ranges are offsets into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The headers table, without its length.
    pub headers: Option<Range<usize>>,
    /// Where a headers table lies or would be inserted, with its length.
    pub headers_at: Range<usize>,
    /// Whether the delivery mode is 2.
    pub durable: bool,
    /// The priority; 0 if there is none.
    pub priority: u8,
    /// Whether the headers name more routing keys (`CC`, `BCC`).
    pub more_keys: bool,
    /// The reply-to address's text.
    pub reply_to: Option<Range<usize>>,
    /// The expiration's text.
    pub expiration: Option<Range<usize>>,
    /// The user id's text.
    pub user_id: Option<Range<usize>>,
}

/// An expiration that is not a number of milliseconds that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadExpiration(pub String);

impl Head {
    /// Reads `head`.
    ///
    /// # Errors
    /// If flags are set that class basic does not have, or the list does not match the flags.
    #[inline]
    pub fn read(head: &[u8]) -> Result<Head, Malformed> {
        match *head {
            // What nearly every publisher sends: no properties, or the delivery mode alone.
            [0, 0] => Ok(Head { headers_at: 2..2, ..Head::default() }),
            [0x10, 0, mode] => Ok(Head { headers_at: 2..2, durable: mode == 2, ..Head::default() }),
            _ => Head::read_list(head),
        }
    }

    /// The text or timestamp (in seconds) of the property called `name` as in section 1.8, with
    /// `_` between words.
    ///
    /// # Errors
    /// If the list does not match the flags.
    pub fn property(head: &[u8], name: &str) -> Result<Option<String>, Malformed> {
        let mut r = Reader::new(head);
        let flags = r.u16()?;
        for (bit, property) in flag::NAMES {
            if flags & bit == 0 {
                continue;
            }
            let text = match bit {
                flag::HEADERS => {
                    r.long_string()?;
                    None
                }
                flag::DELIVERY_MODE | flag::PRIORITY => Some(r.u8()?.to_string()),
                flag::TIMESTAMP => Some(r.u64()?.to_string()),
                _ => Some(String::from_utf8_lossy(r.short_string()?).into_owned()),
            };
            if property == name {
                return Ok(text);
            }
        }
        Ok(None)
    }

    fn read_list(head: &[u8]) -> Result<Head, Malformed> {
        let mut r = Reader::new(head);
        let flags = r.u16()?;
        if flags & flag::UNKNOWN != 0 {
            return Err(Malformed("property flags"));
        }
        let has = |bit| flags & bit != 0;
        let at = |r: &Reader<'_>| head.len() - r.rest().len();
        let mut known = Head::default();
        for bit in [flag::CONTENT_TYPE, flag::CONTENT_ENCODING] {
            if has(bit) {
                r.short_string()?;
            }
        }
        let headers_start = at(&r);
        if has(flag::HEADERS) {
            let bytes = r.long_string()?;
            table::validate(bytes)?;
            known.more_keys = MORE_KEYS.iter().any(|name| table::find(bytes, name).is_some());
            known.headers = Some(at(&r) - bytes.len()..at(&r));
        }
        known.headers_at = headers_start..at(&r);
        if has(flag::DELIVERY_MODE) {
            known.durable = r.u8()? == 2;
        }
        if has(flag::PRIORITY) {
            known.priority = r.u8()?;
        }
        if has(flag::CORRELATION_ID) {
            r.short_string()?;
        }
        if has(flag::REPLY_TO) {
            let len = r.short_string()?.len();
            known.reply_to = Some(at(&r) - len..at(&r));
        }
        if has(flag::EXPIRATION) {
            let len = r.short_string()?.len();
            known.expiration = Some(at(&r) - len..at(&r));
        }
        if has(flag::MESSAGE_ID) {
            r.short_string()?;
        }
        if has(flag::TIMESTAMP) {
            r.u64()?;
        }
        if has(flag::TYPE) {
            r.short_string()?;
        }
        if has(flag::USER_ID) {
            let len = r.short_string()?.len();
            known.user_id = Some(at(&r) - len..at(&r));
        }
        for bit in [flag::APP_ID, flag::CLUSTER_ID] {
            if has(bit) {
                r.short_string()?;
            }
        }
        if r.is_empty() { Ok(known) } else { Err(Malformed("property list")) }
    }

    /// The expiration in milliseconds; [`NO_TTL`] if there is none.
    ///
    /// # Errors
    /// If it is not a number, or one that does not fit 32 bits, as RabbitMQ refuses it.
    #[inline]
    pub fn ttl_ms(&self, head: &[u8]) -> Result<u32, BadExpiration> {
        match &self.expiration {
            None => Ok(NO_TTL),
            Some(range) => parse_expiration(&head[range.clone()]),
        }
    }

    /// Refuses further routing keys that are not a list of strings.
    ///
    /// # Errors
    /// Which header it is, and what it is instead.
    pub fn check_more_keys(&self, head: &[u8]) -> Result<(), String> {
        let Some(headers) = self.headers.clone().filter(|_| self.more_keys) else { return Ok(()) };
        for name in MORE_KEYS {
            let Some(entry) = table::find(&head[headers.clone()], name) else { continue };
            let list = table::read(entry.raw).ok().and_then(|mut one| one.0.pop());
            let strings = match list {
                Some((_, Value::List(keys))) => keys.iter().all(|key| key.as_str().is_some()),
                _ => false,
            };
            if !strings {
                return Err(format!("header '{name}' must be an array of strings"));
            }
        }
        Ok(())
    }

    /// `head` again without the routing keys that receivers are not to see; `None` if there are
    /// none.
    pub fn without_bcc(&self, head: &[u8]) -> Option<Vec<u8>> {
        let own = &head[self.headers.clone()?];
        let kept = table::Entries::new(own).map_while(Result::ok).filter(|e| e.name != b"BCC");
        let kept: Vec<u8> = kept.flat_map(|e| e.raw).copied().collect();
        (kept.len() < own.len()).then(|| self.rewritten(head, &kept, true))
    }

    /// `head` again with another reply-to address, of 255 bytes at the most; `None` if it has
    /// none to replace.
    pub fn with_reply_to(&self, head: &[u8], address: &str) -> Option<Vec<u8>> {
        let old = self.reply_to.clone()?;
        let mut out = Vec::with_capacity(head.len() + address.len());
        // One octet of length stands before the text.
        out.extend_from_slice(&head[..old.start - 1]);
        table::write_short_string(&mut out, address.as_bytes());
        out.extend_from_slice(&head[old.end..]);
        Some(out)
    }

    /// `head` again with `headers` (entries without a length) as its headers table, and without
    /// an expiration unless `keep_expiration`.
    pub fn rewritten(&self, head: &[u8], headers: &[u8], keep_expiration: bool) -> Vec<u8> {
        let mut flags = Reader::new(head).u16().unwrap_or_default() | flag::HEADERS;
        let mut out = Vec::with_capacity(head.len() + headers.len() + 4);
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&head[2..self.headers_at.start]);
        out.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        out.extend_from_slice(headers);
        let rest = self.headers_at.end;
        match &self.expiration {
            Some(expiration) if !keep_expiration => {
                flags &= !flag::EXPIRATION;
                // One octet of length stands before the text.
                out.extend_from_slice(&head[rest..expiration.start - 1]);
                out.extend_from_slice(&head[expiration.end..]);
            }
            _ => out.extend_from_slice(&head[rest..]),
        }
        out[..2].copy_from_slice(&flags.to_be_bytes());
        out
    }
}

fn parse_expiration(text: &[u8]) -> Result<u32, BadExpiration> {
    let bad = || BadExpiration(String::from_utf8_lossy(text).into_owned());
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let ms = text
        .iter()
        .try_fold(0u32, |ms, digit| ms.checked_mul(10)?.checked_add(u32::from(digit - b'0')))
        .ok_or_else(bad)?;
    // The largest number stands for "never"; one millisecond in seven weeks is not missed.
    Ok(ms.min(NO_TTL - 1))
}
