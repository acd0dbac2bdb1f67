//! What messages carry, so that the other side can tell what became of them.
//!
//! The first 16 bytes, little-endian: producer (2), sequence number (6), the time it was meant to
//! be sent at in microseconds of the Unix clock modulo 2³² (4), CRC-32C (4). The checksum covers
//! the run's identifier, the filler behind, and the twelve bytes before it; in this order, so that a
//! producer computes the filler's part once for each size.

use crate::plan::Sizes;

/// The bytes that a message must have to be checked.
pub(crate) const HEADER: usize = 16;

/// How many producers and messages of each a header can tell apart.
pub(crate) const PRODUCERS_MAX: usize = 1 << 16;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) producer: u16,
    pub(crate) sequence: u64,
    /// Microseconds, modulo 2³².
    pub(crate) stamp: u32,
}

/// Writes bodies.
#[derive(Debug, Clone)]
pub(crate) struct Bodies {
    filler: Vec<u8>,
    sizes: Sizes,
    /// For each size of the cycle, the checksum of run and filler.
    begun: Vec<u32>,
}

/// Bytes that do not compress and are the same in every run.
fn filler(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn begun(run_id: u32, filler: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&run_id.to_le_bytes()), filler)
}

impl Bodies {
    pub(crate) fn new(run_id: u32, sizes: &Sizes) -> Bodies {
        let filler = filler(sizes.max());
        let of = |&size: &usize| begun(run_id, &filler[..size.saturating_sub(HEADER)]);
        let begun = sizes.cycle().iter().map(of).collect();
        Bodies { filler, sizes: sizes.clone(), begun }
    }

    /// The body of message `sequence`.
    pub(crate) fn body(&self, producer: u16, sequence: u64, stamp: u32) -> Body<'_> {
        let at = (sequence % self.begun.len() as u64) as usize;
        let size = self.sizes.of(sequence);
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&(u64::from(producer) | sequence << 16).to_le_bytes());
        header[8..12].copy_from_slice(&stamp.to_le_bytes());
        let checksum = crc32c::crc32c_append(self.begun[at], &header[..12]);
        header[12..].copy_from_slice(&checksum.to_le_bytes());
        let head_len = size.min(HEADER) as u8;
        Body { header, head_len, filler: &self.filler[..size.saturating_sub(HEADER)] }
    }
}

/// A message's body, in two parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'a> {
    header: [u8; HEADER],
    head_len: u8,
    filler: &'a [u8],
}

impl Body<'_> {
    pub(crate) fn len(&self) -> usize {
        usize::from(self.head_len) + self.filler.len()
    }

    /// Writes all of it.
    #[inline]
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header[..usize::from(self.head_len)]);
        out.extend_from_slice(self.filler);
    }

    /// Writes it in pieces of at most `piece` bytes, with what `before` and `after` write around
    /// each.
    pub(crate) fn write_pieces(
        &self,
        out: &mut Vec<u8>,
        piece: usize,
        before: impl Fn(&mut Vec<u8>, usize),
        after: impl Fn(&mut Vec<u8>),
    ) {
        let mut whole = Vec::with_capacity(self.len());
        self.write(&mut whole);
        for part in whole.chunks(piece) {
            before(out, part.len());
            out.extend_from_slice(part);
            after(out);
        }
    }
}

/// What became of a body on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    Ok(Header),
    /// Changed, or of another run.
    Bad,
    /// Too short to say anything.
    Short,
}

/// Reads a body; `verify` computes its checksum.
#[inline]
pub(crate) fn check(run_id: u32, body: &[u8], verify: bool) -> Checked {
    let Some((header, filler)) = body.split_first_chunk::<HEADER>() else {
        return Checked::Short;
    };
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let first = u64::from(word(0)) | u64::from(word(4)) << 32;
    if verify && crc32c::crc32c_append(begun(run_id, filler), &header[..12]) != word(12) {
        return Checked::Bad;
    }
    Checked::Ok(Header { producer: first as u16, sequence: first >> 16, stamp: word(8) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bodies: &Bodies, sequence: u64) -> Vec<u8> {
        let mut out = Vec::new();
        bodies.body(7, sequence, 99).write(&mut out);
        out
    }

    #[test]
    fn a_body_says_what_was_written() {
        let bodies = Bodies::new(1, &Sizes::parse("16-900").expect("read"));
        for sequence in [0, 1, 500, (1 << 48) - 1] {
            let body = written(&bodies, sequence);
            let header = Header { producer: 7, sequence, stamp: 99 };
            assert_eq!(check(1, &body, true), Checked::Ok(header), "{} bytes", body.len());
        }
    }

    #[test]
    fn a_changed_bit_a_cut_and_another_run_are_noticed() {
        let bodies = Bodies::new(1, &Sizes::parse("40").expect("read"));
        let good = written(&bodies, 3);
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert_eq!(check(1, &bad, true), Checked::Bad, "bit {at}");
        }
        assert_eq!(check(1, &good[..39], true), Checked::Bad);
        assert_eq!(check(2, &good, true), Checked::Bad);
        assert_eq!(check(1, &good[..15], true), Checked::Short);
    }

    #[test]
    fn pieces_are_the_whole() {
        let bodies = Bodies::new(1, &Sizes::parse("100").expect("read"));
        let mut pieces = Vec::new();
        bodies.body(7, 3, 99).write_pieces(&mut pieces, 33, |_, _| {}, |_| {});
        assert_eq!(pieces, written(&bodies, 3));
    }
}
