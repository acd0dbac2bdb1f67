//! Numbers, strings and spans of the log's payload format.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::Span;
use thiserror::Error;

/// An entry's payload that cannot be read. The log's checksums passed, so it was written this
/// way: by a newer version, or by a defect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("log entry payload, byte {offset}: {what}")]
pub struct DecodeError {
    /// Where in the payload.
    pub offset: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// Writes a number in base 128, low digits first, the high bit of each byte but the last set.
pub(super) fn put_uint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Writes a signed number so that small ones of either sign are short.
pub(super) fn put_int(out: &mut Vec<u8>, n: i64) {
    put_uint(out, ((n << 1) ^ (n >> 63)) as u64);
}

/// Writes bytes behind their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes an optional string.
pub(super) fn put_opt_str(out: &mut Vec<u8>, s: Option<&str>) {
    match s {
        None => out.push(0),
        Some(s) => {
            out.push(1);
            put_bytes(out, s.as_bytes());
        }
    }
}

/// Writes an optional number.
pub(super) fn put_opt_uint(out: &mut Vec<u8>, n: Option<u64>) {
    match n {
        None => out.push(0),
        Some(n) => {
            out.push(1);
            put_uint(out, n);
        }
    }
}

/// Reads a payload from front to back. Nothing is allocated from a declared size.
pub(super) struct Reader<'a> {
    payload: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(payload: &'a Bytes) -> Self {
        Reader { payload, at: 0 }
    }

    /// The payload that spans refer to.
    pub(super) fn payload(&self) -> &Bytes {
        self.payload
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.payload.len()
    }

    pub(super) fn error(&self, what: &'static str) -> DecodeError {
        DecodeError { offset: self.at, what }
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        let byte = self.payload.get(self.at).ok_or(self.error("ends early"))?;
        self.at += 1;
        Ok(*byte)
    }

    pub(super) fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.error("a truth value that is neither 0 nor 1")),
        }
    }

    pub(super) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.payload.get(self.at..).and_then(|b| b.first_chunk::<N>());
        let bytes = *bytes.ok_or(self.error("ends early"))?;
        self.at += N;
        Ok(bytes)
    }

    pub(super) fn uint(&mut self) -> Result<u64, DecodeError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let digit = u64::from(byte & 0x7f);
            if shift == 63 && digit > 1 {
                break;
            }
            n |= digit << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(self.error("a number of more than 64 bits"))
    }

    pub(super) fn int(&mut self) -> Result<i64, DecodeError> {
        let n = self.uint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.uint()?).map_err(|_| self.error("a number of more than 32 bits"))
    }

    pub(super) fn opt_uint(&mut self) -> Result<Option<u64>, DecodeError> {
        if self.bool()? { self.uint().map(Some) } else { Ok(None) }
    }

    /// Bytes behind their length, as a span of the payload.
    pub(super) fn span(&mut self) -> Result<Span, DecodeError> {
        let len = self.uint()?;
        let rest = self.payload.len() - self.at;
        let len = usize::try_from(len).ok().filter(|l| *l <= rest);
        let len = len.ok_or(self.error("a length past the end"))?;
        let span = Span::new(self.at, len);
        self.at += len;
        Ok(span)
    }

    /// Bytes behind their length.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        Ok(self.span()?.of(self.payload))
    }

    /// A span that is UTF-8.
    pub(super) fn text_span(&mut self) -> Result<Span, DecodeError> {
        let span = self.span()?;
        std::str::from_utf8(span.of(self.payload))
            .map_err(|_| self.error("text that is not UTF-8"))?;
        Ok(span)
    }

    pub(super) fn str(&mut self) -> Result<&'a str, DecodeError> {
        let span = self.span()?;
        std::str::from_utf8(span.of(self.payload)).map_err(|_| self.error("text that is not UTF-8"))
    }

    pub(super) fn arc_str(&mut self) -> Result<Arc<str>, DecodeError> {
        self.str().map(Arc::from)
    }

    pub(super) fn opt_str(&mut self) -> Result<Option<Arc<str>>, DecodeError> {
        if self.bool()? { self.arc_str().map(Some) } else { Ok(None) }
    }

    /// `count` things read by `read`, where each takes a byte at least.
    pub(super) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.uint()?;
        if count > (self.payload.len() - self.at) as u64 {
            return Err(self.error("more elements than bytes"));
        }
        (0..count).map(|_| read(self)).collect()
    }
}
