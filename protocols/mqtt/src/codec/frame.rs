//! The fixed header (section 2.1): what kind of packet it is, and where it ends.

use std::fmt;

use super::reader::VARINT_MAX;
use crate::fault::{Fault, Problem, TooLong};
use crate::reason::ReasonCode;

/// The kind of a packet (section 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 0: none.
    Reserved,
    /// 1.
    Connect,
    /// 2.
    ConnAck,
    /// 3.
    Publish,
    /// 4.
    PubAck,
    /// 5.
    PubRec,
    /// 6.
    PubRel,
    /// 7.
    PubComp,
    /// 8.
    Subscribe,
    /// 9.
    SubAck,
    /// 10.
    Unsubscribe,
    /// 11.
    UnsubAck,
    /// 12.
    PingReq,
    /// 13.
    PingResp,
    /// 14.
    Disconnect,
    /// 15; 5.0 only.
    Auth,
}

impl Kind {
    /// Every kind by its number.
    pub const ALL: [Kind; 16] = [
        Kind::Reserved,
        Kind::Connect,
        Kind::ConnAck,
        Kind::Publish,
        Kind::PubAck,
        Kind::PubRec,
        Kind::PubRel,
        Kind::PubComp,
        Kind::Subscribe,
        Kind::SubAck,
        Kind::Unsubscribe,
        Kind::UnsubAck,
        Kind::PingReq,
        Kind::PingResp,
        Kind::Disconnect,
        Kind::Auth,
    ];

    /// The kind that the first byte of a packet tells.
    #[inline]
    pub fn of(first: u8) -> Kind {
        Kind::ALL[usize::from(first >> 4)]
    }

    /// The first byte of a packet of this kind; of a PUBLISH without its flags.
    #[inline]
    pub fn first_byte(self) -> u8 {
        let flags = match self {
            Kind::PubRel | Kind::Subscribe | Kind::Unsubscribe => 0b0010,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }

    /// The name that the specification writes.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 16] = [
            "reserved packet type 0",
            "CONNECT",
            "CONNACK",
            "PUBLISH",
            "PUBACK",
            "PUBREC",
            "PUBREL",
            "PUBCOMP",
            "SUBSCRIBE",
            "SUBACK",
            "UNSUBSCRIBE",
            "UNSUBACK",
            "PINGREQ",
            "PINGRESP",
            "DISCONNECT",
            "AUTH",
        ];
        NAMES[self as usize]
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A whole packet, of which the fixed header is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The first byte: kind and flags.
    pub first: u8,
    /// What follows the fixed header.
    pub body: &'a [u8],
    /// Bytes of the fixed header, 2 to 5.
    pub header_len: usize,
}

impl Frame<'_> {
    /// The kind of packet.
    #[inline]
    pub fn kind(&self) -> Kind {
        Kind::of(self.first)
    }

    /// Bytes of the whole packet.
    #[inline]
    pub fn wire_len(&self) -> usize {
        self.header_len + self.body.len()
    }

    /// Whether its Remaining Length is as short as it can be. 5.0 demands it [MQTT-1.5.5-1],
    /// 3.1.1 does not (section 2.2.3), and which of them holds is not known before a CONNECT is
    /// read.
    #[inline]
    pub(super) fn is_minimal(&self) -> bool {
        self.header_len == 1 + varint_len(self.body.len())
    }
}

/// The largest packet of all: five bytes of fixed header before 268,435,455.
pub const PACKET_BYTES_MAX: u32 = VARINT_MAX + 5;

/// The packet at the start of `bytes`; `None` if it is not all there.
///
/// What the first bytes can be refused for is refused by them: a packet of more than `packet_max`
/// bytes (fixed header included, section 3.1.2.11.4) is not waited for.
///
/// # Errors
/// If there is no such packet, its length has more than four bytes or is too large.
#[inline]
pub fn next(bytes: &[u8], packet_max: u32) -> Result<Option<Frame<'_>>, Fault> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let kind = Kind::of(first);
    if kind == Kind::Reserved {
        return Err(Fault::malformed(kind, "packet type", Problem::Value(0)));
    }
    let (len, len_bytes) = match rest.first() {
        Some(&len) if len < 0x80 => (usize::from(len), 1),
        _ => match long_length(rest, kind)? {
            Some(parts) => parts,
            None => return Ok(None),
        },
    };
    let header_len = 1 + len_bytes;
    if header_len + len > packet_max as usize {
        let problem =
            Problem::TooLarge { size: (header_len + len) as u64, max: u64::from(packet_max) };
        let reason = ReasonCode::PACKET_TOO_LARGE;
        return Err(Fault::because(reason, kind, "Remaining Length", problem));
    }
    let Some(body) = bytes.get(header_len..header_len + len) else { return Ok(None) };
    Ok(Some(Frame { first, body, header_len }))
}

/// How long the packet is that `bytes` begin with, if that can be told and it is not all there. Of
/// what [`next`] refuses nothing is said.
pub fn expected_len(bytes: &[u8]) -> Option<usize> {
    let (&first, rest) = bytes.split_first()?;
    let (len, len_bytes) = long_length(rest, Kind::of(first)).ok()??;
    Some(1 + len_bytes + len).filter(|len| *len > bytes.len())
}

/// A Remaining Length, and its own bytes.
fn long_length(bytes: &[u8], kind: Kind) -> Result<Option<(usize, usize)>, Fault> {
    let mut len = 0;
    for (i, byte) in bytes.iter().take(4).enumerate() {
        len |= usize::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((len, i + 1)));
        }
    }
    if bytes.len() < 4 {
        return Ok(None);
    }
    Err(Fault::malformed(kind, "Remaining Length", Problem::OverlongInteger))
}

/// Bytes of `n` as a variable byte integer.
#[inline]
pub fn varint_len(n: usize) -> usize {
    match n {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Appends `n`, at most 268,435,455, as a variable byte integer (section 1.5.5).
#[inline]
pub fn write_varint(out: &mut Vec<u8>, mut n: u32) {
    debug_assert!(n <= VARINT_MAX, "checked by whoever measured it");
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends what `write` appends, behind its length as a variable byte integer.
///
/// # Errors
/// If it is too long, or `write` fails; `out` is then as it was.
pub(super) fn with_length(
    out: &mut Vec<u8>,
    field: &'static str,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>,
) -> Result<(), TooLong> {
    let start = out.len();
    // Nearly everything that is written so has a length of one byte; the rest is moved.
    out.push(0);
    let result = write(out);
    let len = out.len() - start - 1;
    let fits =
        result.and(if len > VARINT_MAX as usize { Err(TooLong { field, len }) } else { Ok(()) });
    if fits.is_err() {
        out.truncate(start);
        return fits;
    }
    if len < 0x80 {
        out[start] = len as u8;
    } else {
        let mut header = Vec::with_capacity(4);
        write_varint(&mut header, len as u32);
        out.splice(start..=start, header);
    }
    Ok(())
}

/// Appends a packet whose first byte is `first`, with the body that `write` appends.
///
/// # Errors
/// If it is too long, or `write` fails; `out` is then as it was.
pub(super) fn write(
    out: &mut Vec<u8>,
    first: u8,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>,
) -> Result<(), TooLong> {
    let start = out.len();
    out.push(first);
    let result = with_length(out, Kind::of(first).name(), write);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_from_their_first_bytes() {
        let bytes = [0x30, 0x03, 1, 2, 3, 0xC0];
        let frame = Frame { first: 0x30, body: &[1, 2, 3], header_len: 2 };
        assert_eq!(next(&bytes, 5), Ok(Some(frame)));
        for cut in 0..5 {
            assert_eq!(next(&bytes[..cut], 5), Ok(None), "cut at {cut}");
        }
        let too_large = next(&bytes[..2], 4).expect_err("five bytes are more than four");
        assert_eq!(too_large.reason, ReasonCode::PACKET_TOO_LARGE);
        let text = "PUBLISH: Remaining Length: 5 bytes, where at most 4 are taken";
        assert_eq!(too_large.to_string(), text);
        assert!(next(&[0x0F], 100).is_err());
    }

    #[test]
    fn the_length_of_a_packet_is_known_from_its_header_on() {
        let bytes = [0x30, 0x83, 0x01, 1, 2, 3];
        for (len, expected) in [(0, None), (1, None), (2, None), (3, Some(134)), (6, Some(134))] {
            assert_eq!(expected_len(&bytes[..len]), expected, "{len}");
        }
        assert_eq!(expected_len(&[0x30, 0x01, 7]), None, "all of it is there");
        assert_eq!(expected_len(&[0x30, 0x80, 0x80, 0x80, 0x80, 0x01]), None, "refused");
    }

    #[test]
    fn lengths_at_their_borders_are_written_as_they_are_read() {
        for n in [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, VARINT_MAX] {
            let mut bytes = vec![0x30];
            write_varint(&mut bytes, n);
            assert_eq!(bytes.len(), 1 + varint_len(n as usize));
            if n < 20_000 {
                let header_len = bytes.len();
                bytes.resize(header_len + n as usize, 7);
                let frame = next(&bytes, PACKET_BYTES_MAX).expect("valid").expect("whole");
                assert_eq!((frame.body.len(), frame.header_len), (n as usize, header_len));
                assert!(frame.is_minimal());
            } else {
                assert_eq!(next(&bytes, PACKET_BYTES_MAX), Ok(None));
            }
        }
    }

    #[test]
    fn a_body_of_any_length_gets_its_header() {
        for len in [0usize, 127, 128, 16_384] {
            let mut bytes = vec![9];
            write(&mut bytes, 0xD0, |out| {
                out.resize(out.len() + len, 5);
                Ok(())
            })
            .expect("fits");
            let frame = next(&bytes[1..], PACKET_BYTES_MAX).expect("valid").expect("whole");
            assert_eq!((frame.first, frame.body.len()), (0xD0, len));
            assert!(frame.body.iter().all(|&b| b == 5));
        }
    }
}
