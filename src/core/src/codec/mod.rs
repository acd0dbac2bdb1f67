//! Entries as bytes: the payload of the log.
//!
//! A payload is one byte of version, the log time, and the facts one after the other, each with a
//! tag that is never given another meaning. Of an entry that has a [`Place`] the version is another
//! one, and the place's two numbers follow on it, eight bytes each, low ones first. What a message says is written once, however many
//! queues it came into. A reader keeps the payload as the chunk of the batches in it.

mod clients;
mod dedup;
mod kept;
mod message;
mod page;
mod topology;
mod value;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::{Batch, QueueId, SettingKey, SettingKind, Time};

pub use value::LEVELS_MAX;
pub use wire::DecodeError;
use wire::{Reader, put_bytes, put_uint};

use crate::dedup::DedupKey;
use crate::{Entry, Fact, Members, Place};

/// The version of a payload without a place.
const VERSION: u8 = 1;

/// The version of a payload with a place.
const VERSION_PLACED: u8 = 2;

/// Appends `entry` to `out`.
pub fn encode(entry: &Entry, out: &mut Vec<u8>) {
    out.push(VERSION);
    put_entry(out, entry);
}

/// Appends `entry`, which stands at `place`, to `out`.
pub fn encode_placed(place: Place, entry: &Entry, out: &mut Vec<u8>) {
    out.push(VERSION_PLACED);
    out.extend(place.term.to_le_bytes());
    out.extend(place.number.to_le_bytes());
    put_entry(out, entry);
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_uint(out, entry.time.0);
    put_uint(out, entry.facts.len() as u64);
    let mut enqueued = None;
    for fact in &entry.facts {
        match fact {
            Fact::Kept { .. } => kept::put_kept(out, fact, enqueued.as_mut()),
            Fact::Enqueue { placements, .. } => {
                enqueued = Some(kept::Enqueued::new(placements));
                put_fact(out, fact);
            }
            _ => put_fact(out, fact),
        }
    }
}

/// Reads an entry. Its batches refer to `payload` and keep it alive.
///
/// # Errors
/// If the payload is of another version, or was not written by [`encode`].
pub fn decode(payload: &Bytes) -> Result<Entry, DecodeError> {
    decode_placed(payload).map(|(_, entry)| entry)
}

/// As [`decode`], with the entry's place if it has one.
///
/// # Errors
/// As [`decode`].
pub fn decode_placed(payload: &Bytes) -> Result<(Option<Place>, Entry), DecodeError> {
    let mut r = Reader::new(payload);
    let place = match r.u8()? {
        VERSION => None,
        VERSION_PLACED => Some(place(&mut r)?),
        _ => {
            return Err(DecodeError {
                offset: 0,
                what: "an unknown version: a newer Isthmus wrote it",
            });
        }
    };
    let time = Time(r.uint()?);
    let mut enqueued = None;
    let facts = r.list(|r| {
        let fact = fact(r, enqueued.as_ref())?;
        if let Fact::Enqueue { batch, .. } = &fact {
            enqueued = Some(Arc::clone(batch));
        }
        Ok(fact)
    })?;
    if !r.is_at_end() {
        return Err(r.error("more bytes than facts"));
    }
    Ok((place, Entry { time, facts }))
}

/// The place of the entry in `payload`, without a look at the rest.
///
/// # Errors
/// If the payload ends before its place does.
pub fn place_of(payload: &Bytes) -> Result<Option<Place>, DecodeError> {
    let mut r = Reader::new(payload);
    if r.u8()? == VERSION_PLACED { place(&mut r).map(Some) } else { Ok(None) }
}

fn place(r: &mut Reader<'_>) -> Result<Place, DecodeError> {
    let term = u64::from_le_bytes(r.fixed()?);
    Ok(Place { term, number: u64::from_le_bytes(r.fixed()?) })
}

fn put_fact(out: &mut Vec<u8>, fact: &Fact) {
    match fact {
        Fact::Term(term) => {
            out.push(1);
            put_uint(out, *term);
        }
        Fact::DeclareVhost(name) => {
            out.push(2);
            put_bytes(out, name.as_bytes());
        }
        Fact::DeclareExchange { vhost, def } => {
            out.push(3);
            put_bytes(out, vhost.as_bytes());
            topology::put_exchange(out, def);
        }
        Fact::DeleteExchange { vhost, name } => {
            out.push(4);
            put_bytes(out, vhost.as_bytes());
            put_bytes(out, name.as_bytes());
        }
        Fact::DeclareQueue { vhost, id, def } => {
            out.push(5);
            put_bytes(out, vhost.as_bytes());
            put_uint(out, id.0);
            topology::put_queue(out, def);
        }
        Fact::DeleteQueue { id } => {
            out.push(6);
            put_uint(out, id.0);
        }
        Fact::Bind { vhost, def } => {
            out.push(7);
            put_bytes(out, vhost.as_bytes());
            topology::put_binding(out, def);
        }
        Fact::Unbind { vhost, def } => {
            out.push(8);
            put_bytes(out, vhost.as_bytes());
            topology::put_binding(out, def);
        }
        Fact::Enqueue { batch, placements, annotations } => {
            out.push(9);
            message::put_enqueue(out, batch, placements);
            message::put_opt_annotations(out, annotations.as_deref());
        }
        Fact::Settle { queue, first, len } => put_range(out, 10, *queue, *first, *len),
        Fact::Count { queue, first, len } => put_range(out, 11, *queue, *first, *len),
        Fact::Move { queue, sequence, to, annotations } => {
            out.push(12);
            put_uint(out, queue.0);
            put_uint(out, *sequence);
            put_uint(out, to.len() as u64);
            for (queue, sequence) in to {
                put_uint(out, queue.0);
                put_uint(out, *sequence);
            }
            message::put_annotations(out, annotations);
        }
        Fact::QueueState { id, next, redelivered_below } => {
            put_range(out, 13, *id, *next, *redelivered_below);
        }
        Fact::Restore { queue, first, batch, enqueued_at, delivery_count, annotations } => {
            out.push(14);
            put_uint(out, queue.0);
            put_uint(out, *first);
            message::put_records(out, batch, &[(0, batch.records.len() as u32)]);
            put_uint(out, enqueued_at.0);
            put_uint(out, u64::from(*delivery_count));
            message::put_opt_annotations(out, annotations.as_deref());
        }
        Fact::NextQueue(id) => {
            out.push(15);
            put_uint(out, id.0);
        }
        Fact::DeleteVhost(name) => {
            out.push(16);
            put_bytes(out, name.as_bytes());
        }
        Fact::Setting { key, value } => {
            out.extend([17, key.kind as u8]);
            put_bytes(out, key.vhost.as_bytes());
            put_bytes(out, key.name.as_bytes());
            out.push(u8::from(value.is_some()));
            if let Some(value) = value {
                value::put_table(out, value);
            }
        }
        Fact::Remember { window, keys } => {
            out.push(18);
            dedup::put_window(out, window);
            put_uint(out, keys.len() as u64);
            for (key, until) in keys {
                out.extend(key.0);
                put_uint(out, until.0);
            }
        }
        Fact::Forget { window, keys } => {
            out.push(19);
            dedup::put_window(out, window);
            put_uint(out, keys.len() as u64);
            keys.iter().for_each(|key| out.extend(key.0));
        }
        Fact::Logged { queue, first, len, enqueued_at, delivery_count, annotations, logged_at } => {
            put_range(out, 20, *queue, *first, u64::from(*len));
            put_uint(out, enqueued_at.0);
            put_uint(out, u64::from(*delivery_count));
            message::put_opt_annotations(out, annotations.as_deref());
            put_uint(out, *logged_at);
        }
        Fact::Page(page) => {
            out.push(21);
            page::put_page(out, page);
        }
        Fact::Paged { .. } => {
            out.push(22);
            page::put_paged(out, fact);
        }
        Fact::Members(members) => {
            out.push(23);
            put_uint(out, members.index);
            put_uint(out, members.term);
            put_bytes(out, &members.members);
        }
        Fact::EntryNumber(number) => {
            out.push(24);
            put_uint(out, *number);
        }
        Fact::Client { key, change } => {
            out.push(30);
            clients::put_client(out, key, change);
        }
        Fact::Kept { .. } => kept::put_kept(out, fact, None),
        Fact::Unkept { vhost, exchange, key } => {
            out.push(kept::UNKEPT);
            for text in [vhost, exchange, key] {
                put_bytes(out, text.as_bytes());
            }
        }
    }
}

fn put_range(out: &mut Vec<u8>, tag: u8, queue: QueueId, a: u64, b: u64) {
    out.push(tag);
    put_uint(out, queue.0);
    put_uint(out, a);
    put_uint(out, b);
}

/// Reads a fact; `enqueued` are the messages of the latest [`Fact::Enqueue`] before.
fn fact(r: &mut Reader<'_>, enqueued: Option<&Arc<Batch>>) -> Result<Fact, DecodeError> {
    Ok(match r.u8()? {
        1 => Fact::Term(r.uint()?),
        2 => Fact::DeclareVhost(r.arc_str()?),
        3 => Fact::DeclareExchange { vhost: r.arc_str()?, def: topology::exchange(r)? },
        4 => Fact::DeleteExchange { vhost: r.arc_str()?, name: r.arc_str()? },
        5 => Fact::DeclareQueue {
            vhost: r.arc_str()?,
            id: QueueId(r.uint()?),
            def: Arc::new(topology::queue(r)?),
        },
        6 => Fact::DeleteQueue { id: QueueId(r.uint()?) },
        7 => Fact::Bind { vhost: r.arc_str()?, def: topology::binding(r)? },
        8 => Fact::Unbind { vhost: r.arc_str()?, def: topology::binding(r)? },
        9 => {
            let (batch, placements) = message::enqueue(r)?;
            Fact::Enqueue { batch, placements, annotations: message::opt_annotations(r)? }
        }
        10 => Fact::Settle { queue: QueueId(r.uint()?), first: r.uint()?, len: r.uint()? },
        11 => Fact::Count { queue: QueueId(r.uint()?), first: r.uint()?, len: r.uint()? },
        12 => Fact::Move {
            queue: QueueId(r.uint()?),
            sequence: r.uint()?,
            to: r.list(|r| Ok((QueueId(r.uint()?), r.uint()?)))?,
            annotations: message::annotations(r)?,
        },
        13 => Fact::QueueState {
            id: QueueId(r.uint()?),
            next: r.uint()?,
            redelivered_below: r.uint()?,
        },
        14 => Fact::Restore {
            queue: QueueId(r.uint()?),
            first: r.uint()?,
            batch: message::records(r)?,
            enqueued_at: Time(r.uint()?),
            delivery_count: r.u32()?,
            annotations: message::opt_annotations(r)?,
        },
        15 => Fact::NextQueue(QueueId(r.uint()?)),
        16 => Fact::DeleteVhost(r.arc_str()?),
        17 => {
            let kind = SettingKind::from_number(r.u8()?)
                .ok_or_else(|| r.error("an unknown kind of setting: a newer Isthmus wrote it"))?;
            let key = SettingKey { kind, vhost: r.arc_str()?, name: r.arc_str()? };
            let value = if r.bool()? { Some(Arc::new(value::table(r)?)) } else { None };
            Fact::Setting { key, value }
        }
        18 => Fact::Remember {
            window: dedup::window(r)?,
            keys: r.list(|r| Ok((DedupKey(r.fixed()?), Time(r.uint()?))))?,
        },
        19 => {
            Fact::Forget { window: dedup::window(r)?, keys: r.list(|r| Ok(DedupKey(r.fixed()?)))? }
        }
        20 => Fact::Logged {
            queue: QueueId(r.uint()?),
            first: r.uint()?,
            len: r.u32()?,
            enqueued_at: Time(r.uint()?),
            delivery_count: r.u32()?,
            annotations: message::opt_annotations(r)?,
            logged_at: r.uint()?,
        },
        21 => Fact::Page(page::page(r)?),
        22 => page::paged(r)?,
        23 => Fact::Members(Arc::new(Members {
            index: r.uint()?,
            term: r.uint()?,
            members: r.bytes()?.into(),
        })),
        24 => Fact::EntryNumber(r.uint()?),
        30 => {
            let (key, change) = clients::client(r)?;
            Fact::Client { key, change }
        }
        kept::KEPT => kept::kept(r, enqueued)?,
        kept::UNKEPT => {
            Fact::Unkept { vhost: r.arc_str()?, exchange: r.arc_str()?, key: r.arc_str()? }
        }
        _ => return Err(r.error("an unknown kind of fact: a newer Isthmus wrote it")),
    })
}

#[cfg(test)]
mod tests;
