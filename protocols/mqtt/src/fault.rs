//! Errors, with the reason code that the client is told.

use thiserror::Error;

use crate::codec::Kind;
use crate::reason::ReasonCode;

/// A packet that is refused. The connection ends with it: in 5.0 with a DISCONNECT (or, before
/// the connection is accepted, a CONNACK) that carries [`Fault::reason`], in 3.1 and 3.1.1
/// without a word (section 4.13; [MQTT-4.8.0-1 of 3.1.1]), save for what
/// [`ReasonCode::return_code`] knows.
///
/// Its text says what is wrong and where, for logs and for the Reason String.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{packet}: {field}: {problem}")]
pub struct Fault {
    /// The reason code to answer with.
    pub reason: ReasonCode,
    /// The packet.
    pub packet: Kind,
    /// Its field, as the specification calls it.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// The packet ends within it.
    #[error("the packet ends before it does")]
    Cut,
    /// Bytes follow where nothing may.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A packet of more bytes than are taken.
    #[error("{size} bytes, where at most {max} are taken")]
    TooLarge {
        /// Bytes of the whole packet, as declared.
        size: u64,
        /// Bytes at the most.
        max: u64,
    },
    /// More of something than the server takes.
    #[error("at most {max} are taken")]
    TooMany {
        /// How many at the most.
        max: u64,
    },
    /// A variable byte integer of more than four bytes.
    #[error("a variable byte integer has four bytes at the most")]
    OverlongInteger,
    /// A variable byte integer that could be shorter.
    #[error("a variable byte integer must be as short as it can be")]
    NotMinimal,
    /// Bits that must have another value.
    #[error("reserved bits are {found:#010b}, and must be {expected:#010b}")]
    ReservedBits {
        /// What they are.
        found: u8,
        /// What they must be.
        expected: u8,
    },
    /// A string that is not well-formed.
    #[error("not well-formed UTF-8 from byte {0} on")]
    NotUtf8(usize),
    /// A string with U+0000 in it.
    #[error("must not hold U+0000")]
    Null,
    /// A wildcard in a topic name.
    #[error("must not hold a wildcard ('+' or '#')")]
    Wildcard,
    /// A wildcard in the wrong place of a topic filter.
    #[error("'#' stands alone in the last level only, and '+' alone in its level")]
    MisplacedWildcard,
    /// Nothing where something must be.
    #[error("must not be empty")]
    Empty,
    /// `$share` that is not followed by a name and a filter.
    #[error("'$share/' is followed by a name without wildcards, '/', and a topic filter")]
    BadShare,
    /// A number that has another meaning than any number there may have.
    #[error("{0} is not allowed here")]
    Value(u64),
    /// A property that this packet does not have.
    #[error("not a property of this packet")]
    ForeignProperty,
    /// A property that only the other side sends.
    #[error("not a property that this side sends")]
    WrongSide,
    /// A property that was there before.
    #[error("given twice")]
    Twice,
    /// A property without another one that it belongs to.
    #[error("given without {0}")]
    Without(&'static str),
    /// A flag that must not be set here; why, in words.
    #[error("must not be set {0}")]
    Conflict(&'static str),
    /// A packet of this version does not exist, or the other side sends it.
    #[error("not a packet that this side sends in {0}")]
    NotHere(&'static str),
    /// A protocol name or level that is none of those that are known.
    #[error("neither MQTT level 4 or 5 nor MQIsdp level 3")]
    UnknownProtocol,
}

impl Fault {
    /// A packet that cannot be read (section 1.2: Malformed Packet).
    #[cold]
    pub(crate) fn malformed(packet: Kind, field: &'static str, problem: Problem) -> Fault {
        Fault { reason: ReasonCode::MALFORMED_PACKET, packet, field, problem }
    }

    /// A packet that says what it must not (section 1.2: Protocol Error).
    #[cold]
    pub(crate) fn protocol(packet: Kind, field: &'static str, problem: Problem) -> Fault {
        Fault { reason: ReasonCode::PROTOCOL_ERROR, packet, field, problem }
    }

    /// A packet that is refused for another reason.
    #[cold]
    pub(crate) fn because(
        reason: ReasonCode,
        packet: Kind,
        field: &'static str,
        problem: Problem,
    ) -> Fault {
        Fault { reason, packet, field, problem }
    }
}

/// A field that is longer than its length can say: 65,535 bytes for strings and binary data
/// (section 1.5.4 and 1.5.6), 268,435,455 for packets and their properties (section 1.5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{field}: {len} bytes do not fit an MQTT packet")]
pub struct TooLong {
    /// What it is.
    pub field: &'static str,
    /// Its bytes.
    pub len: usize,
}
