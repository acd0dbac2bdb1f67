//! Reason codes (section 2.4), and which packets may carry which.

use std::fmt;

/// A packet that has reason codes, and, where it matters, who sends it: a bit of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u16);

impl Place {
    pub(crate) const CONNACK: Place = Place(1);
    pub(crate) const PUBACK: Place = Place(1 << 1);
    pub(crate) const PUBREC: Place = Place(1 << 2);
    pub(crate) const PUBREL: Place = Place(1 << 3);
    pub(crate) const PUBCOMP: Place = Place(1 << 4);
    pub(crate) const SUBACK: Place = Place(1 << 5);
    pub(crate) const UNSUBACK: Place = Place(1 << 6);
    pub(crate) const AUTH_CLIENT: Place = Place(1 << 7);
    pub(crate) const AUTH_SERVER: Place = Place(1 << 8);
    pub(crate) const DISCONNECT_CLIENT: Place = Place(1 << 9);
    pub(crate) const DISCONNECT_SERVER: Place = Place(1 << 10);
}

const CA: u16 = Place::CONNACK.0;
/// PUBACK and PUBREC have the same codes.
const PA: u16 = Place::PUBACK.0 | Place::PUBREC.0;
/// So have PUBREL and PUBCOMP.
const PC: u16 = Place::PUBREL.0 | Place::PUBCOMP.0;
const SA: u16 = Place::SUBACK.0;
const UA: u16 = Place::UNSUBACK.0;
const AC: u16 = Place::AUTH_CLIENT.0;
const AS: u16 = Place::AUTH_SERVER.0;
const DC: u16 = Place::DISCONNECT_CLIENT.0;
const DS: u16 = Place::DISCONNECT_SERVER.0;

/// A reason code of MQTT 5.0. Any byte can be one; [`ReasonCode::name`] knows those that are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReasonCode(pub u8);

macro_rules! reason_codes {
    ($($code:literal $name:ident $text:literal $places:expr;)*) => {
        impl ReasonCode {
            $(#[doc = concat!($text, ".")]
            pub const $name: ReasonCode = ReasonCode($code);)*
        }

        /// Code, name, and the packets that may carry it (table 2-6 and sections 3.2.2.2 to
        /// 3.15.2.1).
        const CODES: &[(u8, &str, u16)] = &[$(($code, $text, $places),)*];
    };
}

reason_codes! {
    0x00 SUCCESS "Success" CA | PA | PC | SA | UA | AS | DC;
    0x01 GRANTED_QOS_1 "Granted QoS 1" SA;
    0x02 GRANTED_QOS_2 "Granted QoS 2" SA;
    0x04 DISCONNECT_WITH_WILL "Disconnect with Will Message" DC;
    0x10 NO_MATCHING_SUBSCRIBERS "No matching subscribers" PA;
    0x11 NO_SUBSCRIPTION_EXISTED "No subscription existed" UA;
    0x18 CONTINUE_AUTHENTICATION "Continue authentication" AC | AS;
    0x19 RE_AUTHENTICATE "Re-authenticate" AC;
    0x80 UNSPECIFIED_ERROR "Unspecified error" CA | PA | SA | UA | DC | DS;
    0x81 MALFORMED_PACKET "Malformed Packet" CA | DC | DS;
    0x82 PROTOCOL_ERROR "Protocol Error" CA | DC | DS;
    0x83 IMPLEMENTATION_SPECIFIC_ERROR "Implementation specific error"
        CA | PA | SA | UA | DC | DS;
    0x84 UNSUPPORTED_PROTOCOL_VERSION "Unsupported Protocol Version" CA;
    0x85 CLIENT_IDENTIFIER_NOT_VALID "Client Identifier not valid" CA;
    0x86 BAD_USER_NAME_OR_PASSWORD "Bad User Name or Password" CA;
    0x87 NOT_AUTHORIZED "Not authorized" CA | PA | SA | UA | DS;
    0x88 SERVER_UNAVAILABLE "Server unavailable" CA;
    0x89 SERVER_BUSY "Server busy" CA | DS;
    0x8A BANNED "Banned" CA;
    0x8B SERVER_SHUTTING_DOWN "Server shutting down" DS;
    0x8C BAD_AUTHENTICATION_METHOD "Bad authentication method" CA;
    0x8D KEEP_ALIVE_TIMEOUT "Keep Alive timeout" DS;
    0x8E SESSION_TAKEN_OVER "Session taken over" DS;
    0x8F TOPIC_FILTER_INVALID "Topic Filter invalid" SA | UA | DS;
    0x90 TOPIC_NAME_INVALID "Topic Name invalid" CA | PA | DC | DS;
    0x91 PACKET_IDENTIFIER_IN_USE "Packet Identifier in use" PA | SA | UA;
    0x92 PACKET_IDENTIFIER_NOT_FOUND "Packet Identifier not found" PC;
    0x93 RECEIVE_MAXIMUM_EXCEEDED "Receive Maximum exceeded" DC | DS;
    0x94 TOPIC_ALIAS_INVALID "Topic Alias invalid" DC | DS;
    0x95 PACKET_TOO_LARGE "Packet too large" CA | DC | DS;
    0x96 MESSAGE_RATE_TOO_HIGH "Message rate too high" DC | DS;
    0x97 QUOTA_EXCEEDED "Quota exceeded" CA | PA | SA | DC | DS;
    0x98 ADMINISTRATIVE_ACTION "Administrative action" DC | DS;
    0x99 PAYLOAD_FORMAT_INVALID "Payload format invalid" CA | PA | DC | DS;
    0x9A RETAIN_NOT_SUPPORTED "Retain not supported" CA | DS;
    0x9B QOS_NOT_SUPPORTED "QoS not supported" CA | DS;
    0x9C USE_ANOTHER_SERVER "Use another server" CA | DS;
    0x9D SERVER_MOVED "Server moved" CA | DS;
    0x9E SHARED_SUBSCRIPTIONS_NOT_SUPPORTED "Shared Subscriptions not supported" SA | DS;
    0x9F CONNECTION_RATE_EXCEEDED "Connection rate exceeded" CA | DS;
    0xA0 MAXIMUM_CONNECT_TIME "Maximum connect time" DS;
    0xA1 SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED "Subscription Identifiers not supported" SA | DS;
    0xA2 WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED "Wildcard Subscriptions not supported" SA | DS;
}

impl ReasonCode {
    fn entry(self) -> Option<&'static (u8, &'static str, u16)> {
        CODES.iter().find(|(code, ..)| *code == self.0)
    }

    /// The specification's name; `None` for a byte that is no reason code.
    pub fn name(self) -> Option<&'static str> {
        self.entry().map(|(_, name, _)| *name)
    }

    /// Whether it says that something failed (section 2.4).
    pub fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// Whether the packet of `place` may carry it.
    pub(crate) fn is_for(self, place: Place) -> bool {
        self.entry().is_some_and(|(.., places)| places & place.0 != 0)
    }

    /// The CONNACK return code of 3.1 and 3.1.1 for a connection that is refused for this
    /// reason (3.1.1 section 3.2.2.3); `None` where none of them applies and the connection is
    /// closed without a word [MQTT-3.2.2-6 of 3.1.1].
    pub fn return_code(self) -> Option<u8> {
        match self {
            ReasonCode::SUCCESS => Some(0),
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => Some(1),
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => Some(2),
            ReasonCode::SERVER_UNAVAILABLE | ReasonCode::SERVER_BUSY => Some(3),
            ReasonCode::BAD_USER_NAME_OR_PASSWORD => Some(4),
            ReasonCode::NOT_AUTHORIZED | ReasonCode::BANNED => Some(5),
            _ => None,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "0x{:02X} {name}", self.0),
            None => write!(f, "0x{:02X}", self.0),
        }
    }
}
