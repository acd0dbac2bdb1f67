//! From a checkpoint back to a ledger.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use isthmus_model::{Annotations, QueueId, Sequence, Time};

use super::Ledger;
use crate::paging::{Page, PageKey, PagedRun};
use crate::runs::is_sparse;
use crate::{Entry, Fact, Part, Run};

/// What a checkpoint that is being read has said and not kept yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Restoring {
    pages: HashMap<PageKey, Arc<Page>>,
    /// Messages that are in the log, by their first sequence.
    logged: HashMap<QueueId, BTreeMap<Sequence, Logged>>,
    /// The first thing that could not be true.
    contradiction: Option<String>,
}

#[derive(Clone, Debug)]
struct Logged {
    len: u32,
    enqueued_at: Time,
    delivery_count: u32,
    annotations: Option<Arc<Annotations>>,
    logged_at: u64,
}

impl Ledger {
    pub(super) fn restore(&mut self, fact: &Fact) {
        match fact {
            Fact::Logged {
                queue,
                first,
                len,
                enqueued_at,
                delivery_count,
                annotations,
                logged_at,
            } => {
                let logged = Logged {
                    len: *len,
                    enqueued_at: *enqueued_at,
                    delivery_count: *delivery_count,
                    annotations: annotations.clone(),
                    logged_at: *logged_at,
                };
                self.restoring.logged.entry(*queue).or_default().insert(*first, logged);
            }
            Fact::Page(page) => {
                self.restoring.pages.insert(page.key, Arc::clone(page));
            }
            Fact::Paged { queue, first, len, page, position, over, gone } => {
                let run = self.restoring.pages.get(page).and_then(|page| {
                    let (page, over, gone) = (Arc::clone(page), over.clone(), gone.clone());
                    PagedRun::restored(*first, *len, page, *position, over, gone)
                });
                match run {
                    Some(run) => self.change(*queue, |queue| queue.insert(Part::Paged(run))),
                    None => {
                        let what = format!(
                            "queue {queue}, message {first}: page {} at {} does not hold it",
                            page.file, page.offset
                        );
                        self.restoring.contradiction.get_or_insert(what);
                    }
                }
            }
            _ => unreachable!("not a fact of messages in a checkpoint: {fact:?}"),
        }
    }

    /// The first log entry whose bodies are awaited by what was read of a checkpoint; `None` if
    /// none is.
    pub fn awaited_from(&self) -> Option<u64> {
        let logged = self.restoring.logged.values().flat_map(BTreeMap::values);
        logged.map(|run| run.logged_at).min()
    }

    /// Takes from a log entry that the checkpoint has applied already the bodies that it left
    /// there. To be called for each from [`Ledger::awaited_from`] to the checkpoint's index.
    pub fn recall(&mut self, index: u64, entry: &Entry) {
        for fact in &entry.facts {
            let Fact::Enqueue { batch, placements, .. } = fact else { continue };
            for placement in placements {
                let Some(awaited) = self.restoring.logged.get_mut(&placement.queue) else {
                    continue;
                };
                let (first, end) = (placement.first, placement.first + u64::from(placement.len));
                let here: Vec<(Sequence, u32)> = awaited
                    .range(first..end)
                    .filter(|(_, run)| run.logged_at == index)
                    .map(|(first, run)| (*first, run.len))
                    .filter(|(first, len)| first + u64::from(*len) <= end)
                    .collect();
                let found: Vec<Run> = here
                    .into_iter()
                    .filter_map(|(at, _)| {
                        let logged = awaited.remove(&at)?;
                        let mut run = Run {
                            first: at,
                            len: logged.len,
                            batch: Arc::clone(batch),
                            record: placement.record + (at - first) as u32,
                            enqueued_at: logged.enqueued_at,
                            delivery_count: logged.delivery_count,
                            annotations: logged.annotations,
                            logged_at: index,
                        };
                        if is_sparse(&run) {
                            run.batch = Arc::new(run.batch.compacted(run.record, run.len));
                            run.record = 0;
                        }
                        Some(run)
                    })
                    .collect();
                for run in found {
                    self.change(placement.queue, |queue| queue.insert(Part::Here(run)));
                }
            }
        }
    }

    /// Everything that a checkpoint speaks of was read.
    ///
    /// # Errors
    /// What is missing or cannot be: the checkpoint and the log do not belong together.
    pub fn restored(&mut self) -> Result<(), String> {
        let Restoring { logged, contradiction, .. } = std::mem::take(&mut self.restoring);
        if let Some(contradiction) = contradiction {
            return Err(contradiction);
        }
        let missing = logged.iter().filter_map(|(queue, runs)| {
            runs.first_key_value().map(|(first, run)| (run.logged_at, *queue, *first))
        });
        match missing.min() {
            None => Ok(()),
            Some((index, queue, first)) => {
                Err(format!("queue {queue}, message {first}: log entry {index} does not hold it"))
            }
        }
    }
}
