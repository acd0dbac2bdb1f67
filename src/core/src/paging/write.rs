//! From runs in memory to the content of a page, and back.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::{Encodings, NO_TTL, QueueId, RecordFlags, Sequence, Time};

use super::{Column, Page, PageContent, PageKey, PagedRun};
use crate::codec::{self, DecodeError};
use crate::topology::delay_ms;
use crate::{Entry, Fact, Part, Run};

/// Messages that came in within this time of each other may be written as one run, all as if they
/// had come with the first: what is kept of the time is what milliseconds of a time to live need.
const SAME_TIME_NS: u64 = 1_000_000;

/// What of a queue is to be written to a page, in order: in memory, or in other pages.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// The queue.
    pub queue: QueueId,
    /// Whether an exchange holds its messages back.
    pub is_held: bool,
    /// The messages.
    pub parts: Vec<Part>,
}

/// A run as it was when its page was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The first sequence.
    pub first: Sequence,
    /// How many.
    pub len: u32,
    /// Deliveries known to have failed, as the page has it.
    pub delivery_count: u32,
}

/// A page whose content is made and has no place yet.
#[derive(Clone, Debug)]
pub struct Unwritten {
    /// What it is to hold.
    pub content: Vec<u8>,
    page: Page,
    written: Vec<Written>,
}

impl Gathered {
    /// The pages that must be read before this can be written.
    pub fn sources(&self) -> impl Iterator<Item = PageKey> + '_ {
        let mut last = None;
        self.parts.iter().filter_map(move |part| match part {
            Part::Paged(run) if last != Some(run.page.key) => {
                last = Some(run.page.key);
                last
            }
            _ => None,
        })
    }

    /// Makes a page of it. `source` gives the content of those of [`Gathered::sources`].
    ///
    /// # Errors
    /// The key of a page whose content is not there, or not its own.
    pub fn write<'c>(
        &self,
        encodings: Encodings,
        mut source: impl FnMut(PageKey) -> Option<&'c PageContent>,
    ) -> Result<Option<Unwritten>, PageKey> {
        let mut runs = Vec::new();
        for part in &self.parts {
            match part {
                Part::Here(run) => runs.push(run.clone()),
                Part::Paged(run) => read_into(&mut runs, run, &mut source)?,
            }
        }
        let Some(first) = runs.first().map(|run| run.first) else { return Ok(None) };
        let end = runs.last().map_or(first, Run::end);
        let span = u32::try_from(end - first).map_err(|_| PageKey::default())?;
        let columns = Columns::of(&runs, first, span, self.is_held.then_some(encodings));
        let written: Vec<Written> = runs
            .iter()
            .map(|r| Written { first: r.first, len: r.len, delivery_count: r.delivery_count })
            .collect();
        let page = Page {
            key: PageKey::default(),
            queue: self.queue,
            first,
            span,
            count: written.iter().map(|run| run.len).sum(),
            sizes: Column::of(&columns.sizes),
            priorities: Column::of(&columns.priorities),
            delivery_counts: Column::of(&columns.delivery_counts),
            delays: columns.delays.map(|delays| Column::of(&delays)),
            enqueued_from: columns.enqueued_from,
            expires_from: columns.expires_from,
        };
        Ok(Some(Unwritten { content: encode(self.queue, &runs), page, written }))
    }
}

impl Unwritten {
    /// The page, now that it has a place, and what was written to it.
    pub fn placed(self, key: PageKey) -> (Arc<Page>, Vec<Written>) {
        (Arc::new(Page { key, ..self.page }), self.written)
    }
}

fn read_into<'c>(
    runs: &mut Vec<Run>,
    paged: &PagedRun,
    source: &mut impl FnMut(PageKey) -> Option<&'c PageContent>,
) -> Result<(), PageKey> {
    let key = paged.page.key;
    let content = source(key).ok_or(key)?;
    for stretch in paged.parts() {
        let mut at = stretch.first;
        while let Some(rest) = stretch.part(at, u64::MAX) {
            let run = rest.read(content).ok_or(key)?;
            at = run.end();
            runs.push(run);
        }
    }
    Ok(())
}

/// What is remembered of each message, by position.
struct Columns {
    sizes: Vec<u32>,
    priorities: Vec<u32>,
    delivery_counts: Vec<u32>,
    delays: Option<Vec<u32>>,
    enqueued_from: Time,
    expires_from: Time,
}

impl Columns {
    fn of(runs: &[Run], first: Sequence, span: u32, held: Option<Encodings>) -> Columns {
        let span = span as usize;
        let mut columns = Columns {
            sizes: vec![0; span],
            priorities: vec![0; span],
            delivery_counts: vec![0; span],
            delays: held.map(|_| vec![0; span]),
            enqueued_from: runs.iter().map(|run| run.enqueued_at).min().unwrap_or(Time(0)),
            expires_from: Time::NEVER,
        };
        for run in runs {
            for offset in 0..run.len {
                let record = &run.batch.records[(run.record + offset) as usize];
                let at = (run.first - first) as usize + offset as usize;
                columns.sizes[at] = record.body.len;
                columns.priorities[at] = u32::from(record.priority);
                columns.delivery_counts[at] = run.delivery_count;
                if record.ttl_ms != NO_TTL && !record.flags.has(RecordFlags::TTL_SPENT) {
                    let expires = run.expires_at(offset, None);
                    columns.expires_from = columns.expires_from.min(expires);
                }
                if let (Some(delays), Some(encodings)) = (&mut columns.delays, held) {
                    let headers = encodings
                        .get(run.batch.encoding)
                        .map(|e| e.headers(run.batch.head(record)))
                        .unwrap_or_default();
                    let waited = run.enqueued_at.since(columns.enqueued_from).as_millis() as u64;
                    let ms = delay_ms(&headers).unwrap_or(0).saturating_add(waited);
                    delays[at] = u32::try_from(ms).unwrap_or(u32::MAX);
                }
            }
        }
        columns
    }
}

/// A page's content is an entry of what a checkpoint would say of its messages.
fn encode(queue: QueueId, runs: &[Run]) -> Vec<u8> {
    let facts = runs.chunk_by(joins).map(|alike| restore(queue, alike)).collect();
    let mut content = Vec::new();
    codec::encode(&Entry { time: Time(0), facts }, &mut content);
    content
}

/// Whether the second run can be written as one with the first.
fn joins(a: &Run, b: &Run) -> bool {
    a.end() == b.first
        && a.batch.encoding == b.batch.encoding
        && a.delivery_count == b.delivery_count
        && a.annotations.is_none()
        && b.annotations.is_none()
        && a.enqueued_at.0 / SAME_TIME_NS == b.enqueued_at.0 / SAME_TIME_NS
}

fn restore(queue: QueueId, runs: &[Run]) -> Fact {
    let first = &runs[0];
    let batch = match runs {
        [one] => one.batch.compacted(one.record, one.len),
        many => isthmus_model::Batch::joined(
            first.batch.encoding,
            many.iter().map(|run| (&*run.batch, run.record, run.len)),
        ),
    };
    Fact::Restore {
        queue,
        first: first.first,
        batch: Arc::new(batch),
        enqueued_at: first.enqueued_at,
        delivery_count: first.delivery_count,
        annotations: first.annotations.clone(),
    }
}

/// Reads a page's content.
///
/// # Errors
/// If it is not what [`Gathered::write`] makes.
pub fn read(content: &Bytes) -> Result<PageContent, DecodeError> {
    let entry = codec::decode(content)?;
    let mut runs: Vec<Run> = Vec::with_capacity(entry.facts.len());
    for fact in entry.facts {
        let Fact::Restore { first, batch, enqueued_at, delivery_count, annotations, .. } = fact
        else {
            return Err(DecodeError { offset: 0, what: "a page that holds more than messages" });
        };
        if batch.records.is_empty() || runs.last().is_some_and(|last| last.end() > first) {
            return Err(DecodeError { offset: 0, what: "messages of a page out of order" });
        }
        runs.push(Run {
            first,
            len: batch.records.len() as u32,
            batch,
            record: 0,
            enqueued_at,
            delivery_count,
            annotations,
            logged_at: 0,
        });
    }
    Ok(PageContent::new(runs))
}
