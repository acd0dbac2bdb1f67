//! Frames (specification section 2.3.5, 4.2.3).

use thiserror::Error;

/// Frame type of a method.
pub const METHOD: u8 = 1;
/// Frame type of a content header.
pub const HEADER: u8 = 2;
/// Frame type of a piece of a content body.
pub const BODY: u8 = 3;
/// Frame type of a heartbeat.
pub const HEARTBEAT: u8 = 8;
/// The octet that every frame ends with.
pub const END: u8 = 0xCE;
/// Octets before the payload: type, channel, size.
pub const PREFIX_BYTES: usize = 7;
/// Octets of a frame beside its payload.
pub const OVERHEAD_BYTES: usize = PREFIX_BYTES + 1;
/// The smallest frame size that may be negotiated, and the largest frame before negotiation
/// (specification section 1.2, `frame-min-size`).
pub const MIN_MAX_BYTES: u32 = 4096;

/// The header with which a client asks for AMQP 0-9-1 (specification section 4.2.2).
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// A complete frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// One of [`METHOD`], [`HEADER`], [`BODY`], [`HEARTBEAT`].
    pub kind: u8,
    /// The channel.
    pub channel: u16,
    /// What it carries.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Its length on the wire.
    #[inline]
    pub fn wire_len(&self) -> usize {
        self.payload.len() + OVERHEAD_BYTES
    }
}

/// A frame that cannot be read; the connection is beyond repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// It is larger than negotiated.
    #[error("type {kind}, all octets = {size}: frame_too_large (maximum {max})")]
    TooLarge {
        /// Its type.
        kind: u8,
        /// Its declared payload size.
        size: u32,
        /// The largest allowed payload.
        max: u32,
    },
    /// It does not end with [`END`].
    #[error("type {kind}, frame end octet {found} instead of 206")]
    BadEnd {
        /// Its type.
        kind: u8,
        /// What stands in the place of the end.
        found: u8,
    },
    /// Its type is none of the four.
    #[error("unknown frame type {0}")]
    UnknownKind(u8),
}

/// The frame at the start of `bytes`; `None` if it is not all there.
///
/// What can be refused by the first octets is: a size above `payload_max` is not waited for.
#[inline]
pub fn next(bytes: &[u8], payload_max: u32) -> Result<Option<Frame<'_>>, FrameError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return match bytes.first() {
            Some(&kind) if !is_kind(kind) => Err(FrameError::UnknownKind(kind)),
            _ => Ok(None),
        };
    };
    let [kind, c0, c1, s0, s1, s2, s3] = *prefix;
    if !is_kind(kind) {
        return Err(FrameError::UnknownKind(kind));
    }
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if size > payload_max {
        return Err(FrameError::TooLarge { kind, size, max: payload_max });
    }
    let size = size as usize;
    let Some(&end) = rest.get(size) else { return Ok(None) };
    if end != END {
        return Err(FrameError::BadEnd { kind, found: end });
    }
    Ok(Some(Frame { kind, channel: u16::from_be_bytes([c0, c1]), payload: &rest[..size] }))
}

/// Where the first frame ends that is not all there, counted from the start of `bytes`, where a
/// frame begins; `None` if that cannot be told yet. Of what [`next`] refuses nothing is said.
pub fn expected_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let prefix = bytes.get(at..)?.first_chunk::<PREFIX_BYTES>()?;
        let [_, _, _, size @ ..] = *prefix;
        at = at.checked_add(u32::from_be_bytes(size) as usize + OVERHEAD_BYTES)?;
        if at > bytes.len() {
            return Some(at);
        }
    }
}

#[inline]
fn is_kind(kind: u8) -> bool {
    matches!(kind, METHOD | HEADER | BODY | HEARTBEAT)
}

/// Appends a frame around the payload that `write` appends.
#[inline]
pub fn write(out: &mut Vec<u8>, kind: u8, channel: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let [c0, c1] = channel.to_be_bytes();
    out.extend_from_slice(&[kind, c0, c1, 0, 0, 0, 0]);
    let start = out.len();
    write(out);
    let size = (out.len() - start) as u32;
    out[start - 4..start].copy_from_slice(&size.to_be_bytes());
    out.push(END);
}

/// Appends a heartbeat (specification section 4.2.7).
pub fn write_heartbeat(out: &mut Vec<u8>) {
    write(out, HEARTBEAT, 0, |_| ());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_frame_is_known_from_its_prefix_on() {
        let mut bytes = Vec::new();
        write(&mut bytes, METHOD, 1, |out| out.extend_from_slice(b"abc"));
        let whole = bytes.len();
        write(&mut bytes, BODY, 1, |out| out.extend_from_slice(&[0; 100]));
        let ends = [(0, None), (6, None), (7, Some(whole)), (whole, None)];
        for (len, end) in ends.into_iter().chain([(whole + 7, Some(bytes.len()))]) {
            assert_eq!(expected_end(&bytes[..len]), end, "{len}");
        }
        assert_eq!(expected_end(&bytes), None, "all are there");
    }

    #[test]
    fn frames_are_told_from_their_first_octets() {
        let mut bytes = Vec::new();
        write(&mut bytes, METHOD, 7, |out| out.extend_from_slice(b"abc"));
        let frame = Frame { kind: METHOD, channel: 7, payload: b"abc" };
        assert_eq!(next(&bytes, 3), Ok(Some(frame)));
        assert_eq!(frame.wire_len(), bytes.len());
        for cut in 0..bytes.len() {
            assert_eq!(next(&bytes[..cut], 3), Ok(None), "cut at {cut}");
        }
        assert!(matches!(next(&bytes, 2), Err(FrameError::TooLarge { .. })));
        assert!(matches!(next(&bytes[..7], 2), Err(FrameError::TooLarge { .. })));
        assert_eq!(next(&[9], 100), Err(FrameError::UnknownKind(9)));
        *bytes.last_mut().expect("not empty") = 0;
        assert_eq!(next(&bytes, 3), Err(FrameError::BadEnd { kind: METHOD, found: 0 }));
    }
}
