//! What a checkpoint says of pages.

use std::sync::Arc;

use isthmus_model::{QueueId, Time};

use super::message::{annotations, put_annotations};
use super::wire::{DecodeError, Reader, put_uint};
use crate::Fact;
use crate::paging::{Column, Moved, Over, Page, PageKey};

fn put_key(out: &mut Vec<u8>, key: PageKey) {
    put_uint(out, key.file);
    put_uint(out, key.offset);
    put_uint(out, u64::from(key.len));
}

fn key(r: &mut Reader<'_>) -> Result<PageKey, DecodeError> {
    Ok(PageKey { file: r.uint()?, offset: r.uint()?, len: r.u32()? })
}

fn put_column(out: &mut Vec<u8>, column: &Column) {
    match column.len() {
        None => {
            out.push(0);
            put_uint(out, u64::from(column.get(0)));
        }
        Some(len) => {
            out.push(1);
            put_uint(out, len as u64);
            (0..len as u32).for_each(|at| put_uint(out, u64::from(column.get(at))));
        }
    }
}

fn column(r: &mut Reader<'_>, span: u32) -> Result<Column, DecodeError> {
    if !r.bool()? {
        return Ok(Column::Uniform(r.u32()?));
    }
    let values = r.list(Reader::u32)?;
    if values.len() != span as usize {
        return Err(r.error("a page with more or fewer numbers than messages"));
    }
    Ok(Column::of(&values))
}

pub(super) fn put_page(out: &mut Vec<u8>, page: &Page) {
    put_key(out, page.key);
    put_uint(out, page.queue.0);
    put_uint(out, page.first);
    put_uint(out, u64::from(page.span));
    put_uint(out, u64::from(page.count));
    put_column(out, &page.sizes);
    put_column(out, &page.priorities);
    put_column(out, &page.delivery_counts);
    out.push(u8::from(page.delays.is_some()));
    if let Some(delays) = &page.delays {
        put_column(out, delays);
    }
    put_uint(out, page.enqueued_from.0);
    put_uint(out, page.expires_from.0);
}

pub(super) fn page(r: &mut Reader<'_>) -> Result<Arc<Page>, DecodeError> {
    let (key, queue, first) = (key(r)?, QueueId(r.uint()?), r.uint()?);
    let (span, count) = (r.u32()?, r.u32()?);
    if count == 0 || count > span || first.checked_add(u64::from(span)).is_none() {
        return Err(r.error("a page that spans more or fewer messages than it can"));
    }
    Ok(Arc::new(Page {
        key,
        queue,
        first,
        span,
        count,
        sizes: column(r, span)?,
        priorities: column(r, span)?,
        delivery_counts: column(r, span)?,
        delays: if r.bool()? { Some(column(r, span)?) } else { None },
        enqueued_from: Time(r.uint()?),
        expires_from: Time(r.uint()?),
    }))
}

pub(super) fn put_paged(out: &mut Vec<u8>, fact: &Fact) {
    let Fact::Paged { queue, first, len, page, position, over, gone } = fact else { return };
    put_uint(out, queue.0);
    put_uint(out, *first);
    put_uint(out, u64::from(*len));
    put_key(out, *page);
    put_uint(out, u64::from(*position));
    let moved = over.as_ref().and_then(|over| over.moved.as_ref());
    out.push(
        u8::from(over.is_some()) | u8::from(moved.is_some()) << 1 | u8::from(gone.is_some()) << 2,
    );
    if let Some(over) = over {
        put_uint(out, u64::from(over.delivery_count));
    }
    if let Some(moved) = moved {
        put_uint(out, moved.enqueued_at.0);
        put_annotations(out, &moved.annotations);
    }
    if let Some(gone) = gone {
        put_uint(out, gone.len() as u64);
        gone.iter().for_each(|word| out.extend(word.to_le_bytes()));
    }
}

pub(super) fn paged(r: &mut Reader<'_>) -> Result<Fact, DecodeError> {
    let (queue, first, len) = (QueueId(r.uint()?), r.uint()?, r.u32()?);
    let (page, position) = (key(r)?, r.u32()?);
    let flags = r.u8()?;
    if flags > 7 || flags & 3 == 2 {
        return Err(r.error("unknown flags of a paged message"));
    }
    let mut over = None;
    if flags & 1 != 0 {
        let delivery_count = r.u32()?;
        let moved = if flags & 2 != 0 {
            Some(Moved { enqueued_at: Time(r.uint()?), annotations: annotations(r)? })
        } else {
            None
        };
        over = Some(Arc::new(Over { delivery_count, moved }));
    }
    let gone = if flags & 4 != 0 {
        Some(r.list(|r| Ok(u64::from_le_bytes(r.fixed()?)))?.into_boxed_slice())
    } else {
        None
    };
    Ok(Fact::Paged { queue, first, len, page, position, over, gone })
}
