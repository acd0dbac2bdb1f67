//! The PROXY protocol, versions 1 and 2: the header by which a proxy says who its client is.
//!
//! Nobody else's bytes are taken: [`Header::wants`] says how many can be read that are part of the
//! header whatever they are, so what comes behind it stays in the socket, for TLS or a protocol.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header of version 2 begins with (section 2.2).
pub const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a header of version 1 begins with (section 2.1).
const WORD: &[u8] = b"PROXY ";

/// The longest header of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;

/// The fixed part of a header of version 2.
const FIXED_BYTES: usize = 16;

/// What a header of version 2 may have behind its fixed part, in bytes: addresses, of which the
/// longest are those of Unix sockets, and what a proxy says of its client's TLS.
const REST_BYTES_MAX: usize = 16 * 1024;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client with this address.
    Client(SocketAddr),
    /// A client whose address the proxy does not know, or cannot say.
    Unknown,
    /// The proxy itself: it looks whether somebody is there.
    Proxy,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is none.
    #[error("no PROXY header comes first")]
    None,
    /// A line that does not end.
    #[error("a PROXY header of version 1 has more than 107 bytes")]
    Endless,
    /// A line that is not as it should be.
    #[error(
        "a PROXY header of version 1 is malformed: it should be `PROXY TCP4|TCP6 source destination source-port destination-port` or `PROXY UNKNOWN`"
    )]
    Line,
    /// Another version than 2.
    #[error("a PROXY header in binary is of a version other than 2")]
    Version,
    /// A command that the specification does not have.
    #[error("a PROXY header of version 2 has a command other than LOCAL and PROXY")]
    Command,
    /// Less room than its addresses need.
    #[error("a PROXY header of version 2 is too short for its addresses")]
    Short,
    /// More than anybody has to say.
    #[error("a PROXY header of version 2 announces more than 16 KiB")]
    Long,
}

/// A header that is read.
#[derive(Clone, Debug)]
pub struct Header {
    /// What has come, as far as it is looked at.
    bytes: [u8; LINE_BYTES_MAX],
    len: usize,
    /// Bytes behind those that were passed over.
    passed: usize,
}

impl Default for Header {
    fn default() -> Header {
        Header { bytes: [0; LINE_BYTES_MAX], len: 0, passed: 0 }
    }
}

impl Header {
    /// How many bytes still belong to the header for certain; at least 1 until it is over.
    #[must_use]
    pub fn wants(&self) -> usize {
        const SHORTEST: usize = b"PROXY UNKNOWN\r\n".len();
        match &self.bytes[..self.len] {
            [] => SHORTEST,
            [b'P', ..] if self.len < SHORTEST => SHORTEST - self.len,
            [b'P', .., b'\r'] => 1,
            [b'P', ..] => (LINE_BYTES_MAX - self.len).min(2),
            _ if self.len < FIXED_BYTES => FIXED_BYTES - self.len,
            _ if self.len < FIXED_BYTES + self.kept() => FIXED_BYTES + self.kept() - self.len,
            _ => self.announced() - self.kept() - self.passed,
        }
    }

    /// Takes the next `bytes`, no more than [`Header::wants`]; returns who is at the other end once
    /// the header is over.
    ///
    /// # Errors
    /// If it is not as it should be; nothing more may be taken.
    ///
    /// # Panics
    /// If there are more `bytes` than are wanted.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Source>, Wrong> {
        assert!(bytes.len() <= self.wants(), "took {} bytes", bytes.len());
        if self.is_binary() && self.len == FIXED_BYTES + self.kept() {
            self.passed += bytes.len();
        } else {
            self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
            self.len += bytes.len();
        }
        match self.bytes[..self.len] {
            [] => Ok(None),
            [b'P', ..] => self.line(),
            _ => self.binary(),
        }
    }

    /// Whether the fixed part of a header of version 2 is there.
    fn is_binary(&self) -> bool {
        self.len >= FIXED_BYTES && self.bytes[0] == SIGNATURE[0]
    }

    /// What the line so far says.
    fn line(&self) -> Result<Option<Source>, Wrong> {
        let taken = &self.bytes[..self.len];
        if !WORD.starts_with(&taken[..self.len.min(WORD.len())]) {
            return Err(Wrong::None);
        }
        let Some(line) = taken.strip_suffix(b"\r\n") else {
            return match self.len {
                // Either of them stands at the end alone.
                _ if taken.contains(&b'\n') => Err(Wrong::Line),
                LINE_BYTES_MAX => Err(Wrong::Endless),
                _ => Ok(None),
            };
        };
        let line = line.get(WORD.len()..).and_then(|line| std::str::from_utf8(line).ok());
        line.and_then(source_of_line).map(Some).ok_or(Wrong::Line)
    }

    /// Bytes behind the fixed part.
    fn announced(&self) -> usize {
        usize::from(u16::from_be_bytes([self.bytes[14], self.bytes[15]]))
    }

    /// Bytes of addresses, where they are understood: those of clients over TCP.
    fn kept(&self) -> usize {
        match (self.bytes[12] & 0x0F, self.bytes[13]) {
            (1, 0x11) => 12,
            (1, 0x21) => 36,
            _ => 0,
        }
    }

    fn binary(&self) -> Result<Option<Source>, Wrong> {
        if !SIGNATURE.starts_with(&self.bytes[..self.len.min(SIGNATURE.len())]) {
            return Err(Wrong::None);
        }
        if self.len < FIXED_BYTES {
            return Ok(None);
        }
        let (version, command) = (self.bytes[12] >> 4, self.bytes[12] & 0x0F);
        let (announced, kept) = (self.announced(), self.kept());
        match (version, command) {
            (2, 0 | 1) => {}
            (2, _) => return Err(Wrong::Command),
            _ => return Err(Wrong::Version),
        }
        if announced < kept {
            return Err(Wrong::Short);
        }
        if announced > REST_BYTES_MAX {
            return Err(Wrong::Long);
        }
        if self.len < FIXED_BYTES + kept || self.passed < announced - kept {
            return Ok(None);
        }
        Ok(Some(self.source(command)))
    }

    /// Who is at the other end by a header of version 2 that is there as a whole.
    fn source(&self, command: u8) -> Source {
        let addresses = &self.bytes[FIXED_BYTES..self.len];
        let client = match addresses.len() {
            12 => {
                let ip = addresses.first_chunk::<4>().map(|ip| IpAddr::from(Ipv4Addr::from(*ip)));
                ip.map(|ip| (ip, &addresses[8..10]))
            }
            36 => {
                let ip = addresses.first_chunk::<16>().map(|ip| IpAddr::from(Ipv6Addr::from(*ip)));
                ip.map(|ip| (ip, &addresses[32..34]))
            }
            _ => None,
        };
        match client {
            _ if command == 0 => Source::Proxy,
            Some((ip, port)) => {
                Source::Client(SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])))
            }
            None => Source::Unknown,
        }
    }
}

/// Who is at the other end by what stands behind `PROXY `.
fn source_of_line(line: &str) -> Option<Source> {
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // Whatever else is there is to be passed over.
        return Some(Source::Unknown);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let address = |word: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, _) = (address(source)?, address(destination)?);
    let (port, _) = (port(words.next()?)?, port(words.next()?)?);
    words.next().is_none().then(|| Source::Client(SocketAddr::new(source, port)))
}

/// A port in decimal, without anything before its digits.
fn port(word: &str) -> Option<u16> {
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let is_short = word == "0" || !word.starts_with('0');
    if is_plain && is_short { word.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a header that `bytes` begin with, in pieces of at most `piece` bytes; also how many
    /// bytes it took.
    fn read(bytes: &[u8], piece: usize) -> Result<Option<(Source, usize)>, Wrong> {
        let (mut header, mut at) = (Header::default(), 0);
        while at < bytes.len() {
            let end = (at + header.wants().min(piece)).min(bytes.len());
            assert!(end > at, "more is wanted until it is over");
            let source = header.take(&bytes[at..end])?;
            at = end;
            if let Some(source) = source {
                return Ok(Some((source, at)));
            }
        }
        Ok(None)
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[0x20 | command, family], &len, rest].concat()
    }

    fn client(text: &str) -> Source {
        Source::Client(text.parse().expect("an address"))
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xC0, 0, 0x16, 0x28];

    #[test]
    fn headers_say_who_is_there() {
        let mut v6 = [0; 36];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        v6[15] = 9;
        v6[33] = 80;
        let noop = [4, 0, 1, 0, 0x20, 0, 2, 1, 1];
        for (bytes, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 49152 5672\r\n".to_vec(), client("192.0.2.7:49152")),
            (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(), client("[2001:db8::1]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Source::Unknown),
            (b"PROXY UNKNOWN ffff::1 what ever\r\n".to_vec(), Source::Unknown),
            (binary(1, 0x11, &V4), client("192.0.2.7:49152")),
            (binary(1, 0x11, &[&V4[..], &noop].concat()), client("192.0.2.7:49152")),
            (binary(1, 0x21, &v6), client("[2001::9]:80")),
            (binary(0, 0, &[]), Source::Proxy),
            (binary(0, 0x11, &V4), Source::Proxy),
            (binary(1, 0, &noop), Source::Unknown),
            (binary(1, 0x31, &[7; 216]), Source::Unknown),
            (binary(1, 0x12, &V4), Source::Unknown),
            (binary(1, 0xFF, &[7; 300]), Source::Unknown),
        ] {
            for piece in 1..=bytes.len() {
                let followed = [&bytes[..], b"AMQP\0\0\x09\x01"].concat();
                let read = read(&followed, piece);
                assert_eq!(read, Ok(Some((expected, bytes.len()))), "{bytes:?} by {piece}");
            }
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end], 1000), Ok(None), "{bytes:?} to {end}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let long = [b"PROXY TCP4 ", &[b'1'; 200][..]].concat();
        let mut version = binary(1, 0x11, &V4);
        version[12] = 0x11;
        for (bytes, expected) in [
            (b"AMQP\0\0\x09\x01".to_vec(), Wrong::None),
            (b"PROXYISH".to_vec(), Wrong::None),
            (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), Wrong::None),
            (long, Wrong::Endless),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n more".to_vec(), Wrong::Line),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n".to_vec(), Wrong::Line),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n".to_vec(), Wrong::Line),
            (b"PROXY TCP4 192.0.2.07 10.0.0.1 1 2\r\n".to_vec(), Wrong::Line),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 2\r\n".to_vec(), Wrong::Line),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n".to_vec(), Wrong::Line),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n".to_vec(), Wrong::Line),
            (b"PROXY TCP4  192.0.2.7 10.0.0.1 1 2\r\n".to_vec(), Wrong::Line),
            (b"PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(), Wrong::Line),
            (b"PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(), Wrong::Line),
            (version, Wrong::Version),
            (binary(2, 0x11, &V4), Wrong::Command),
            (binary(1, 0x11, &V4[..11]), Wrong::Short),
            (binary(1, 0x21, &V4), Wrong::Short),
            (binary(1, 0, &[0; REST_BYTES_MAX + 1]), Wrong::Long),
        ] {
            for piece in [1, 2, 7, 1000] {
                assert_eq!(read(&bytes, piece), Err(expected), "{bytes:?} by {piece}");
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(header in headers(), piece in 1..40usize) {
            let whole = read(&header, usize::MAX);
            prop_assert_eq!(read(&header, piece), whole);
            if let Ok(Some((_, len))) = whole {
                // What comes behind it is not looked at.
                prop_assert_eq!(read(&header[..len], piece), whole);
            }
        }
    }

    /// Headers, most of them with some bytes changed.
    fn headers() -> impl Strategy<Value = Vec<u8>> {
        let line = "PROXY (TCP4 [0-9.]{7,15} 10.0.0.1|TCP6 [0-9a-f:]{2,9} ::1|UNKNOWN[a-z ]{0,90}) \
                    [0-9]{1,6} 5672\r\n";
        let line = line.prop_map(String::into_bytes);
        let rest = prop::collection::vec(any::<u8>(), 0..300);
        let family = prop::sample::select(vec![0, 0x11, 0x12, 0x21, 0x31, 0x77]);
        let binary = (0..3u8, family, rest).prop_map(|(c, family, rest)| binary(c, family, &rest));
        let change = prop::option::of((0..20usize, any::<u8>()));
        let tail = prop::collection::vec(any::<u8>(), 0..20);
        (prop_oneof![line, binary], change, tail).prop_map(|(mut header, change, tail)| {
            if let Some((at, byte)) = change {
                header[at % 15] = byte;
            }
            header.extend_from_slice(&tail);
            header
        })
    }
}
