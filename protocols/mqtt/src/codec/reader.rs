//! Bounds-checked reading and writing of the data types (section 1.5).

use super::frame::Kind;
use crate::fault::{Fault, Problem, TooLong};

/// The largest variable byte integer (section 1.5.5).
pub(super) const VARINT_MAX: u32 = 268_435_455;

/// Reads a packet from its front; errors name the packet and the field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    packet: Kind,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`, which belong to a packet of the kind `packet`.
    #[inline]
    pub(super) fn new(bytes: &'a [u8], packet: Kind) -> Reader<'a> {
        Reader { rest: bytes, packet }
    }

    /// What is not read yet.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The kind of packet that is read.
    #[inline]
    pub(super) fn packet(&self) -> Kind {
        self.packet
    }

    /// Fails unless everything is read.
    #[inline]
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(self.malformed("end", Problem::Trailing(self.rest.len())))
    }

    #[cold]
    pub(super) fn malformed(&self, field: &'static str, problem: Problem) -> Fault {
        Fault::malformed(self.packet, field, problem)
    }

    #[cold]
    pub(super) fn protocol(&self, field: &'static str, problem: Problem) -> Fault {
        Fault::protocol(self.packet, field, problem)
    }

    /// The next `len` bytes.
    #[inline]
    pub(super) fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], Fault> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.malformed(field, Problem::Cut)),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Fault> {
        match self.rest.split_first_chunk() {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(*taken)
            }
            None => Err(self.malformed(field, Problem::Cut)),
        }
    }

    #[inline]
    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, Fault> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    #[inline]
    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, Fault> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    #[inline]
    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    /// A variable byte integer of at most four bytes, as short as it can be [MQTT-1.5.5-1].
    #[inline]
    pub(super) fn varint(&mut self, field: &'static str) -> Result<u32, Fault> {
        match self.rest.split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = rest;
                Ok(u32::from(byte))
            }
            _ => self.long_varint(field),
        }
    }

    fn long_varint(&mut self, field: &'static str) -> Result<u32, Fault> {
        let mut n = 0;
        for i in 0..4 {
            let byte = self.u8(field)?;
            n |= u32::from(byte & 0x7F) << (7 * i);
            if byte & 0x80 == 0 {
                if byte == 0 && i > 0 {
                    return Err(self.malformed(field, Problem::NotMinimal));
                }
                return Ok(n);
            }
        }
        Err(self.malformed(field, Problem::OverlongInteger))
    }

    /// Binary data (section 1.5.6).
    #[inline]
    pub(super) fn binary(&mut self, field: &'static str) -> Result<&'a [u8], Fault> {
        let len = self.u16(field)?;
        self.take(usize::from(len), field)
    }

    /// A UTF-8 encoded string: well-formed, without surrogates and without U+0000
    /// ([MQTT-1.5.4-1], [MQTT-1.5.4-2]). A byte order mark stays [MQTT-1.5.4-3].
    #[inline]
    pub(super) fn string(&mut self, field: &'static str) -> Result<&'a str, Fault> {
        let bytes = self.binary(field)?;
        match std::str::from_utf8(bytes) {
            Ok(text) if !bytes.contains(&0) => Ok(text),
            Ok(_) => Err(self.malformed(field, Problem::Null)),
            Err(e) => Err(self.malformed(field, Problem::NotUtf8(e.valid_up_to()))),
        }
    }

    /// A packet identifier, which is never 0 [MQTT-2.2.1-3].
    #[inline]
    pub(super) fn packet_id(&mut self) -> Result<u16, Fault> {
        const FIELD: &str = "Packet Identifier";
        match self.u16(FIELD)? {
            0 => Err(self.protocol(FIELD, Problem::Value(0))),
            id => Ok(id),
        }
    }
}

/// Appends binary data, or a string's bytes, behind their length.
#[inline]
pub(super) fn write_binary(
    out: &mut Vec<u8>,
    bytes: &[u8],
    field: &'static str,
) -> Result<(), TooLong> {
    let len = u16::try_from(bytes.len()).map_err(|_| TooLong { field, len: bytes.len() })?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}
