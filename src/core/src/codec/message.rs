//! Messages in the log.

use std::sync::Arc;

use isthmus_model::{
    Annotations, Batch, Death, DeathReason, EncodingId, NO_TTL, QueueId, Record, RecordFlags, Span,
    Time,
};

use super::wire::{DecodeError, Reader, put_bytes, put_opt_str, put_opt_uint, put_uint};
use crate::Placement;

/// Set in a record's first byte where exchange and routing key are those of the record before:
/// publishers mostly send many messages to one place.
const SAME_ADDRESS: u8 = 0x80;

/// Writes the records of `batch` in `ranges` (ascending, apart) and no others.
pub(super) fn put_records(out: &mut Vec<u8>, batch: &Batch, ranges: &[(u32, u32)]) {
    out.push(batch.encoding.0);
    put_uint(out, ranges.iter().map(|(_, len)| u64::from(*len)).sum());
    let chunk = &batch.chunk[..];
    let mut address: (&[u8], &[u8]) = (&[], &[]);
    for (first, len) in ranges {
        for record in &batch.records[*first as usize..(*first + *len) as usize] {
            let here = (record.exchange.of(chunk), record.routing_key.of(chunk));
            let same = here == address;
            address = here;
            out.push(record.flags.bits() | if same { SAME_ADDRESS } else { 0 });
            if !same {
                put_bytes(out, here.0);
                put_bytes(out, here.1);
            }
            out.push(record.priority);
            put_uint(out, if record.ttl_ms == NO_TTL { 0 } else { u64::from(record.ttl_ms) + 1 });
            put_bytes(out, record.head.of(chunk));
            put_bytes(out, record.body.of(chunk));
        }
    }
}

/// Reads what [`put_records`] wrote: a batch over the payload itself, nothing is copied.
pub(super) fn records(r: &mut Reader<'_>) -> Result<Arc<Batch>, DecodeError> {
    let encoding = EncodingId(r.u8()?);
    let mut address = (Span::default(), Span::default());
    let records = r.list(|r| {
        let first = r.u8()?;
        let flags = RecordFlags::from_bits(first & !SAME_ADDRESS);
        let flags = flags.ok_or(r.error("unknown flags of a message"))?;
        if first & SAME_ADDRESS == 0 {
            address = (r.text_span()?, r.text_span()?);
        }
        Ok(Record {
            exchange: address.0,
            routing_key: address.1,
            flags,
            priority: r.u8()?,
            ttl_ms: match r.uint()? {
                0 => NO_TTL,
                n => u32::try_from(n - 1).map_err(|_| r.error("a time to live out of range"))?,
            },
            head: r.span()?,
            body: r.span()?,
        })
    })?;
    Ok(Arc::new(Batch::new(encoding, r.payload().clone(), records)))
}

/// The records that `placements` refer to, as ascending ranges that do not touch.
pub(super) fn placed_ranges(placements: &[Placement]) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = placements.iter().map(|p| (p.record, p.len)).collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let joins = next.0 <= last.0 + last.1;
        if joins {
            last.1 = last.1.max(next.0 + next.1 - last.0);
        }
        joins
    });
    ranges
}

pub(super) fn put_enqueue(out: &mut Vec<u8>, batch: &Batch, placements: &[Placement]) {
    let ranges = placed_ranges(placements);
    put_records(out, batch, &ranges);
    // How many records are written before each range.
    let before: Vec<u32> = ranges
        .iter()
        .scan(0, |written, (_, len)| Some(std::mem::replace(written, *written + len)))
        .collect();
    put_uint(out, placements.len() as u64);
    for p in placements {
        // The record's number among those that are written.
        let range = ranges.partition_point(|(first, _)| *first <= p.record) - 1;
        let record = before[range] + (p.record - ranges[range].0);
        put_uint(out, p.queue.0);
        put_uint(out, p.first);
        put_uint(out, u64::from(record));
        put_uint(out, u64::from(p.len));
    }
}

pub(super) fn enqueue(r: &mut Reader<'_>) -> Result<(Arc<Batch>, Vec<Placement>), DecodeError> {
    let batch = records(r)?;
    let count = batch.records.len() as u64;
    let placements = r.list(|r| {
        let p = Placement {
            queue: QueueId(r.uint()?),
            first: r.uint()?,
            record: r.u32()?,
            len: r.u32()?,
        };
        if p.len == 0 || u64::from(p.record) + u64::from(p.len) > count {
            return Err(r.error("a placement of messages that are not in the entry"));
        }
        Ok(p)
    })?;
    Ok((batch, placements))
}

pub(super) fn put_annotations(out: &mut Vec<u8>, a: &Annotations) {
    // Yes or no shares a byte with whether an exchange is named.
    let flags = u8::from(a.delay_spent) << 1 | u8::from(a.recalled) << 2;
    out.push(u8::from(a.exchange.is_some()) | flags);
    if let Some(exchange) = &a.exchange {
        put_bytes(out, exchange.as_bytes());
    }
    put_opt_str(out, a.routing_key.as_deref());
    put_uint(out, a.deaths.len() as u64);
    for d in &a.deaths {
        put_bytes(out, d.queue.as_bytes());
        out.push(match d.reason {
            DeathReason::Rejected => 0,
            DeathReason::Expired => 1,
            DeathReason::MaxLength => 2,
            DeathReason::DeliveryLimit => 3,
        });
        put_uint(out, d.count);
        put_uint(out, d.first_at.0);
        put_bytes(out, d.exchange.as_bytes());
        put_uint(out, d.routing_keys.len() as u64);
        d.routing_keys.iter().for_each(|k| put_bytes(out, k.as_bytes()));
        put_opt_uint(out, d.original_ttl_ms.map(u64::from));
    }
}

pub(super) fn put_opt_annotations(out: &mut Vec<u8>, a: Option<&Annotations>) {
    out.push(u8::from(a.is_some()));
    if let Some(a) = a {
        put_annotations(out, a);
    }
}

pub(super) fn opt_annotations(r: &mut Reader<'_>) -> Result<Option<Arc<Annotations>>, DecodeError> {
    if r.bool()? { annotations(r).map(Some) } else { Ok(None) }
}

pub(super) fn annotations(r: &mut Reader<'_>) -> Result<Arc<Annotations>, DecodeError> {
    let flags = r.u8()?;
    if flags > 7 {
        return Err(r.error("unknown flags of annotations"));
    }
    Ok(Arc::new(Annotations {
        delay_spent: flags & 2 != 0,
        recalled: flags & 4 != 0,
        exchange: if flags & 1 != 0 { Some(r.arc_str()?) } else { None },
        routing_key: r.opt_str()?,
        deaths: r.list(death)?,
    }))
}

fn death(r: &mut Reader<'_>) -> Result<Death, DecodeError> {
    Ok(Death {
        queue: r.arc_str()?,
        reason: match r.u8()? {
            0 => DeathReason::Rejected,
            1 => DeathReason::Expired,
            2 => DeathReason::MaxLength,
            3 => DeathReason::DeliveryLimit,
            _ => return Err(r.error("an unknown reason of a death")),
        },
        count: r.uint()?,
        first_at: Time(r.uint()?),
        exchange: r.arc_str()?,
        routing_keys: r.list(Reader::arc_str)?,
        original_ttl_ms: match r.opt_uint()? {
            None => None,
            Some(n) => Some(u32::try_from(n).map_err(|_| r.error("a time to live out of range"))?),
        },
    })
}
