//! Bytes of MQTT in and out.
//!
//! Sections are those of the 5.0 specification where nothing else is said; 3.1.1 numbers the
//! packets alike. Statements in brackets are the specifications' own.

pub(crate) mod ack;
mod connack;
mod connect;
mod control;
pub mod frame;
mod packet;
pub mod property;
pub mod publish;
mod reader;
mod subscribe;
pub mod topic;

pub use ack::{Ack, AckKind};
pub use connack::ConnAck;
pub use connect::{Connect, Will, announced_version};
pub use control::{Auth, Disconnect};
pub use frame::{Frame, Kind};
pub use packet::Packet;
pub use property::{Properties, PropertiesBuf, Property};
pub use publish::Publish;
pub use subscribe::{
    Filters, FiltersBuf, RetainHandling, SubAck, Subscribe, Subscription, Subscriptions,
    SubscriptionsBuf, UnsubAck, Unsubscribe,
};

/// A version of the protocol, told by the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 3.1, "MQIsdp" level 3.
    V3_1,
    /// 3.1.1, "MQTT" level 4.
    V3_1_1,
    /// 5.0, "MQTT" level 5.
    V5,
}

impl Version {
    /// Protocol name and level (section 3.1.2.1 and 3.1.2.2).
    pub fn name_and_level(self) -> (&'static str, u8) {
        match self {
            Version::V3_1 => ("MQIsdp", 3),
            Version::V3_1_1 => ("MQTT", 4),
            Version::V5 => ("MQTT", 5),
        }
    }

    /// A word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V3_1 => "MQTT 3.1",
            Version::V3_1_1 => "MQTT 3.1.1",
            Version::V5 => "MQTT 5.0",
        }
    }

    /// Whether packets have properties and reason codes.
    #[inline]
    pub fn has_properties(self) -> bool {
        self == Version::V5
    }
}

/// Who wrote a packet: some packets, properties and reason codes are for one of them only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// Quality of service (section 4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// 0: not acknowledged.
    #[default]
    AtMostOnce,
    /// 1: acknowledged.
    AtLeastOnce,
    /// 2: acknowledged in two steps.
    ExactlyOnce,
}

impl Qos {
    /// The level of `bits`; `None` for 3, which is none.
    #[inline]
    pub fn from_bits(bits: u8) -> Option<Qos> {
        match bits {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }

    /// The level as a number.
    #[inline]
    pub fn bits(self) -> u8 {
        self as u8
    }
}
