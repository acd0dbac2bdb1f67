//! What a client speaks, by its first bytes.

/// Bytes that tell any protocol: more are never waited for.
pub const TELLING: usize = 13;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// AMQP of any version: its header says which.
    Amqp,
    /// MQTT of any version.
    Mqtt,
    /// STOMP of any version.
    Stomp,
    /// HTTP, which may become a WebSocket.
    Http,
}

/// What is not served, and what its client may do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unserved {
    /// OpenWire, which ActiveMQ's clients speak unless they are told otherwise.
    #[error("it speaks OpenWire, which is not served: let it speak AMQP 0-9-1, MQTT or STOMP")]
    OpenWire,
    /// TLS.
    #[error("it begins TLS at a listener in plain text: let it connect to the one with TLS")]
    Tls,
    /// A PROXY header, from somebody who is not trusted with one.
    #[error(
        "it begins with a PROXY header, and its address is not in listeners.proxy_protocol_from"
    )]
    Proxy,
    /// Anything else.
    #[error("its first bytes are of no protocol")]
    Unknown,
}

/// Requests of HTTP, as far as they differ.
const METHODS: [&[u8]; 7] =
    [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH "];

/// What is spoken where `first` came first; `None` if more must come to tell, which is never so with
/// [`TELLING`] bytes.
///
/// # Errors
/// If nothing that is served begins like that.
pub fn tell(first: &[u8]) -> Result<Option<First>, Unserved> {
    // The first byte of a CONNECT (MQTT 5.0, section 3.1.1).
    const CONNECT: u8 = 0x10;
    // A record of a handshake (RFC 8446, section 5.1).
    const HANDSHAKE: u8 = 0x16;
    match first.first() {
        None => return Ok(None),
        Some(&CONNECT) => return Ok(Some(First::Mqtt)),
        Some(&HANDSHAKE) => return Err(Unserved::Tls),
        // A length in four bytes, then the type 1 and a magic word. Nothing else that is known
        // begins with a zero, so the rest is of no concern.
        Some(0) => return tell_openwire(first),
        Some(_) => {}
    }
    let words = [
        (&b"AMQP"[..], Ok(First::Amqp)),
        (b"CONNECT", Ok(First::Stomp)),
        (b"STOMP", Ok(First::Stomp)),
        (b"PROXY ", Err(Unserved::Proxy)),
        (crate::proxy::SIGNATURE, Err(Unserved::Proxy)),
    ];
    let methods = METHODS.map(|method| (method, Ok(First::Http)));
    let mut is_begun = false;
    for (word, told) in words.into_iter().chain(methods) {
        if first.starts_with(word) {
            return told.map(Some);
        }
        is_begun |= word.starts_with(first);
    }
    if is_begun { Ok(None) } else { Err(Unserved::Unknown) }
}

/// What a client speaks that begins with a zero: OpenWire, if anything.
fn tell_openwire(first: &[u8]) -> Result<Option<First>, Unserved> {
    const INFO: &[u8] = b"\x01ActiveMQ";
    let Some(behind) = first.get(4..) else { return Ok(None) };
    if behind.len() < INFO.len() && INFO.starts_with(behind) {
        return Ok(None);
    }
    Err(if behind.starts_with(INFO) { Unserved::OpenWire } else { Unserved::Unknown })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        for (first, expected) in [
            (&b""[..], None),
            (b"A", None),
            (b"AMQ", None),
            (b"AMQP", Some(First::Amqp)),
            (b"AMQP\0\0\x09\x01", Some(First::Amqp)),
            (b"AMQP\x03\x01\0\0", Some(First::Amqp)),
            (b"\x10", Some(First::Mqtt)),
            (b"\x10\x0c\0\x04MQTT", Some(First::Mqtt)),
            (b"CONNEC", None),
            (b"CONNECT\n", Some(First::Stomp)),
            (b"STOMP\r\n", Some(First::Stomp)),
            (b"P", None),
            (b"GET", None),
            (b"GET / HTTP/1.1", Some(First::Http)),
            (b"POST /", Some(First::Http)),
            (b"\0\0\x01\x40\x01Active", None),
            (b"\r\n\r\n", None),
        ] {
            assert_eq!(tell(first), Ok(expected), "{first:?}");
        }
        for (first, expected) in [
            (&b"\x16\x03\x01"[..], Unserved::Tls),
            (b"SEND", Unserved::Unknown),
            (b"AMQX", Unserved::Unknown),
            (b"PROXY TCP4 ", Unserved::Proxy),
            (b"\r\n\r\n\0\r\nQUIT\n", Unserved::Proxy),
            (b"\0\0\x01\x40\x01ActiveMQ", Unserved::OpenWire),
            (b"\0\0\x01\x40\x02", Unserved::Unknown),
            (b"\0\0\x01\x40\x01ActiveMX", Unserved::Unknown),
            (b"\x20", Unserved::Unknown),
        ] {
            assert_eq!(tell(first), Err(expected), "{first:?}");
        }
    }

    proptest! {
        #[test]
        fn a_decision_comes_in_time_and_stays(bytes in first_bytes()) {
            let mut decided = None;
            for end in 0..=bytes.len() {
                let told = tell(&bytes[..end]);
                match decided {
                    None if told == Ok(None) => prop_assert!(end < TELLING),
                    None => decided = Some(told),
                    Some(decided) => prop_assert_eq!(told, decided),
                }
            }
        }
    }

    /// Anything, more often than not with a beginning that means something.
    fn first_bytes() -> impl Strategy<Value = Vec<u8>> {
        let words = prop::sample::select(vec![
            &b"AMQP"[..],
            b"CONNECT",
            b"STOMP\n",
            b"PROXY ",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"\0\0\0\x01\x01ActiveMQ",
            b"DELETE ",
            b"",
        ]);
        (words, 0..13usize, prop::collection::vec(any::<u8>(), 0..70))
            .prop_map(|(word, len, rest)| [&word[..len.min(word.len())], &rest[..]].concat())
    }
}
