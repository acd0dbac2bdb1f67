//! What a session notes in the broker, so that it knows it again when it is resumed.
//!
//! | key | value | meaning |
//! |-|-|-|
//! | `s` filter | options, and 4 bytes of Subscription Identifier if it has one | a subscription |
//! | `q` lane | | a durable queue of its own |
//! | `p` packet identifier | | a QoS 2 publish of the client is taken, and not released |
//! | `r` packet identifier | | a QoS 2 delivery is recorded by the client, and not complete |
//! | `c` packet identifier | the message ([`super::claims`]) | a group's message is this client's, and not recorded |

use std::sync::Arc;

use isthmus_model::Note;

use super::lanes::Lane;
use crate::codec::{Qos, RetainHandling, Subscription};

const SUBSCRIPTION: u8 = b's';
const LANE: u8 = b'q';
const RECEIVED: u8 = b'p';
const RECORDED: u8 = b'r';
const CLAIMED: u8 = b'c';

const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const RETAIN_HANDLING_SHIFT: u32 = 4;

/// What a subscription was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) qos: Qos,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) retain_handling: RetainHandling,
    /// The Subscription Identifier.
    pub(super) id: Option<u32>,
}

impl Options {
    pub(super) fn of(subscription: &Subscription<'_>, id: Option<u32>) -> Options {
        let Subscription { qos, no_local, retain_as_published, retain_handling, .. } =
            *subscription;
        Options { qos, no_local, retain_as_published, retain_handling, id }
    }

    /// The lane that its messages come by, if it is not a shared one.
    pub(super) fn lane(&self) -> Lane {
        Lane::of(self.qos, self.no_local)
    }

    fn to_bytes(self) -> Arc<[u8]> {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let options = self.qos.bits()
            | flag(self.no_local, NO_LOCAL)
            | flag(self.retain_as_published, RETAIN_AS_PUBLISHED)
            | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT;
        match self.id {
            Some(id) => {
                let [a, b, c, d] = id.to_be_bytes();
                Arc::from([options, a, b, c, d])
            }
            None => Arc::from([options]),
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Options> {
        let (&options, id) = bytes.split_first()?;
        let id = match id {
            [] => None,
            id => Some(u32::from_be_bytes(id.try_into().ok()?)),
        };
        Some(Options {
            qos: Qos::from_bits(options & 3)?,
            no_local: options & NO_LOCAL != 0,
            retain_as_published: options & RETAIN_AS_PUBLISHED != 0,
            retain_handling: match options >> RETAIN_HANDLING_SHIFT {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return None,
            },
            id,
        })
    }
}

/// A note, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Noted<'a> {
    Subscription(&'a str, Options),
    Lane(Lane),
    Received(u16),
    Recorded(u16),
    Claimed(u16, &'a [u8]),
}

/// Reads `note`; `None` for one that a later version has written.
pub(super) fn read(note: &Note) -> Option<Noted<'_>> {
    let (&kind, key) = note.key.split_first()?;
    let packet_id = || Some(u16::from_be_bytes(key.try_into().ok()?));
    match kind {
        SUBSCRIPTION => {
            let options = Options::from_bytes(note.value.as_deref()?)?;
            Some(Noted::Subscription(std::str::from_utf8(key).ok()?, options))
        }
        LANE => match key {
            [lane] => Lane::from_number(u64::from(*lane)).map(Noted::Lane),
            _ => None,
        },
        RECEIVED => packet_id().map(Noted::Received),
        RECORDED => packet_id().map(Noted::Recorded),
        CLAIMED => Some(Noted::Claimed(packet_id()?, note.value.as_deref()?)),
        _ => None,
    }
}

fn note(kind: u8, key: &[u8], value: Option<Arc<[u8]>>) -> Note {
    Note { key: [&[kind], key].concat().into(), value }
}

fn mark(kind: u8, key: &[u8], is_there: bool) -> Note {
    note(kind, key, is_there.then(|| Arc::from([])))
}

/// That there is a subscription, or none any more.
pub(super) fn subscription(filter: &str, options: Option<Options>) -> Note {
    note(SUBSCRIPTION, filter.as_bytes(), options.map(Options::to_bytes))
}

/// That the session has the durable queue of `lane`.
pub(super) fn lane(lane: Lane) -> Note {
    mark(LANE, &[lane.number() as u8], true)
}

/// Whether the client's publish `packet_id` is taken and not released.
pub(super) fn received(packet_id: u16, is_there: bool) -> Note {
    mark(RECEIVED, &packet_id.to_be_bytes(), is_there)
}

/// Whether the client has recorded the delivery `packet_id`, which is not complete.
pub(super) fn recorded(packet_id: u16, is_there: bool) -> Note {
    mark(RECORDED, &packet_id.to_be_bytes(), is_there)
}

/// That the client has a message of a group's for itself, or has recorded it.
pub(super) fn claimed(packet_id: u16, message: Option<Arc<[u8]>>) -> Note {
    note(CLAIMED, &packet_id.to_be_bytes(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_again() {
        let options = Options {
            qos: Qos::ExactlyOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
            id: Some(268_435_455),
        };
        let plain = Options {
            qos: Qos::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::SendIfNew,
            id: None,
        };
        for options in [options, plain] {
            let note = subscription("a/+", Some(options));
            assert_eq!(read(&note), Some(Noted::Subscription("a/+", options)));
        }
        assert_eq!(read(&lane(Lane::Qos1NoLocal)), Some(Noted::Lane(Lane::Qos1NoLocal)));
        assert_eq!(read(&received(65_535, true)), Some(Noted::Received(65_535)));
        assert_eq!(read(&recorded(1, true)), Some(Noted::Recorded(1)));
        assert_eq!(recorded(1, false).value, None);
        let message = claimed(9, Some(Arc::from(*b"m")));
        assert_eq!(read(&message), Some(Noted::Claimed(9, b"m")));
        for (key, value) in [
            (&b""[..], &b""[..]),
            (b"x", b""),
            (b"p\x01", b""),
            (b"p\x01\x02\x03", b""),
            (b"q\x04", b""),
            (b"q", b""),
            (b"sa", b""),
            (b"sa", b"\x03"),
            (b"sa", b"\x30"),
            (b"sa", b"\x00\x00"),
            (b"s\xFF", b"\x00"),
        ] {
            let note = Note { key: key.into(), value: Some(value.into()) };
            assert_eq!(read(&note), None, "{key:02X?} {value:02X?}");
        }
    }
}
