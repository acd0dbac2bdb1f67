//! What exchanges keep, in the log.

use std::sync::Arc;

use isthmus_model::{Batch, Time};

use super::message;
use super::wire::{DecodeError, Reader, put_bytes, put_uint};
use crate::{Fact, Placement};

/// The tag of [`Fact::Kept`].
pub(super) const KEPT: u8 = 40;

/// The tag of [`Fact::Unkept`].
pub(super) const UNKEPT: u8 = 41;

/// Messages that are written already, for what comes later in the same entry.
pub(super) struct Enqueued<'e> {
    placements: &'e [Placement],
    /// The records that were written, as ranges with the number of those before each; found out
    /// when somebody asks.
    ranges: Option<Vec<(u32, u32, u32)>>,
}

impl<'e> Enqueued<'e> {
    /// The messages of a [`Fact::Enqueue`] with these placements.
    pub(super) fn new(placements: &'e [Placement]) -> Enqueued<'e> {
        Enqueued { placements, ranges: None }
    }

    /// The number of a record among those that were written, if it was.
    fn number_of(&mut self, record: u32) -> Option<u32> {
        let ranges = self.ranges.get_or_insert_with(|| {
            let written = message::placed_ranges(self.placements).into_iter();
            let numbered = written.scan(0, |before, (first, len)| {
                Some((first, len, std::mem::replace(before, *before + len)))
            });
            numbered.collect()
        });
        let at = ranges.partition_point(|(first, ..)| *first <= record).checked_sub(1)?;
        let (first, len, before) = ranges[at];
        (record < first + len).then(|| before + (record - first))
    }
}

/// Writes a [`Fact::Kept`]: its message as the number of one that was written, one higher, or 0 and
/// all of it.
pub(super) fn put_kept(out: &mut Vec<u8>, fact: &Fact, enqueued: Option<&mut Enqueued<'_>>) {
    let Fact::Kept { vhost, exchange, key, batch, record, since, annotations } = fact else {
        unreachable!("not a fact of what is kept: {fact:?}");
    };
    out.push(KEPT);
    for text in [vhost, exchange, key] {
        put_bytes(out, text.as_bytes());
    }
    match record.and_then(|record| enqueued?.number_of(record)) {
        Some(number) => put_uint(out, u64::from(number) + 1),
        None => {
            put_uint(out, 0);
            message::put_records(out, batch, &[(0, 1)]);
        }
    }
    put_uint(out, since.0);
    message::put_opt_annotations(out, annotations.as_deref());
}

/// Reads what [`put_kept`] wrote behind the tag.
pub(super) fn kept(r: &mut Reader<'_>, enqueued: Option<&Arc<Batch>>) -> Result<Fact, DecodeError> {
    let (vhost, exchange, key) = (r.arc_str()?, r.arc_str()?, r.arc_str()?);
    let (batch, record) = match r.u32()?.checked_sub(1) {
        None => {
            let batch = message::records(r)?;
            if batch.records.len() != 1 {
                return Err(r.error("not one message to keep"));
            }
            (batch, None)
        }
        Some(number) => {
            let record = enqueued.and_then(|batch| batch.records.get(number as usize));
            let (Some(record), Some(batch)) = (record, enqueued) else {
                return Err(r.error("a message to keep that is not in the entry"));
            };
            let Batch { encoding, chunk, .. } = &**batch;
            let (encoding, chunk) = (*encoding, chunk.clone());
            (Arc::new(Batch::new(encoding, chunk, vec![*record])), Some(number))
        }
    };
    let since = Time(r.uint()?);
    let annotations = message::opt_annotations(r)?;
    Ok(Fact::Kept { vhost, exchange, key, batch, record, since, annotations })
}
