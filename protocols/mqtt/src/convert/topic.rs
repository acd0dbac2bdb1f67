//! Topics and routing keys: one stands for the other, and none for two.
//!
//! A topic exchange of AMQP 0-9-1 separates words with `.`, and its bindings have `*` for one word
//! and `#` for any number of them; MQTT separates levels with `/`, and its filters have `+` and
//! `#`. So `/` and `.` change places, and so do `+` and `*`, wherever they stand, in topic names
//! and routing keys as in filters and bindings; every other character stays. `x.y/z` is `x/y.z`
//! on the other side, and comes back as it went.
//!
//! Because names are mapped like filters, a filter matches a topic in MQTT exactly if the binding
//! matches the routing key in AMQP, even where levels look like the other side's wildcards: the
//! topic `a/*` is the routing key `a.+`, and the filter `a/*` the binding `a.+`, which matches that
//! one word only. What has no counterpart:
//!
//! - A routing key with `*` or `#` in it would be a topic with a wildcard, which cannot be
//!   published [MQTT-3.3.2-2], and the empty routing key would be an empty topic [MQTT-4.7.3-1]:
//!   [`is_topic_name`] tells, and such a message is not delivered to MQTT clients.
//! - A binding with `#` before its end, or with wildcards that share a word, is no topic filter;
//!   AMQP may have it, MQTT clients cannot ask for it.
//! - MQTT has filters that begin with a wildcard pass over topics that begin with `$`
//!   [MQTT-4.7.2-1], which no binding says: whoever delivers must
//!   ([`Filter::matches`](crate::codec::topic::Filter::matches)).
//! - Routing keys of AMQP 0-9-1 end at 255 bytes, topics at 65,535.

use crate::codec::topic::has_wildcard;

/// The character that stands for `byte` on the other side.
#[inline]
fn swapped(byte: u8) -> u8 {
    match byte {
        b'/' => b'.',
        b'.' => b'/',
        b'+' => b'*',
        b'*' => b'+',
        other => other,
    }
}

/// Turns a topic's name (or filter) into a routing key (or the key of a binding), or back, where
/// it lies: all four characters are one byte, and no part of another one in UTF-8.
#[inline]
pub fn swap(text: &mut [u8]) {
    for byte in text {
        *byte = swapped(*byte);
    }
}

/// A topic's name or filter as a routing key or the key of a binding, or back.
pub fn swapped_text(text: &str) -> String {
    let swap = |c| match u8::try_from(c) {
        Ok(byte) if byte.is_ascii() => char::from(swapped(byte)),
        _ => c,
    };
    text.chars().map(swap).collect()
}

/// Whether the topic that `routing_key` stands for can be delivered: it is not empty, not too
/// long, and holds neither a wildcard nor U+0000.
pub fn is_topic_name(routing_key: &str) -> bool {
    let bytes = routing_key.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= usize::from(u16::MAX)
        && !bytes.iter().any(|byte| matches!(byte, b'*' | b'#' | 0))
}

/// Whether `topic` can be published to: as [`is_topic_name`], of the topic itself.
pub(super) fn is_valid_name(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= usize::from(u16::MAX)
        && !topic.contains('\0')
        && !has_wildcard(topic)
}
