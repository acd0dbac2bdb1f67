//! From a ledger to a checkpoint, and to pages.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use isthmus_model::{QueueId, Sequence};

use super::{Ledger, client_bytes};
use crate::paging::{Gathered, Page, PageKey, PagedRun, Written};
use crate::topology::{HOLDING_PREFIX, QueueEntry};
use crate::{Entry, Fact, Part, Run};

/// About what a fact has beside the bodies of its messages, so that many small ones do not make
/// one large entry.
const FACT_BYTES: u64 = 128;

/// Keys of a deduplication window in one fact of a checkpoint.
const KEYS_MAX: usize = 1024;

/// What such a key takes there, about.
const KEY_BYTES: u64 = 26;

/// Runs in one page at the most, so that gathering them is little of a turn.
const PAGE_RUNS_MAX: usize = 4096;

/// Messages in one page at the most: what is remembered of each is read with it.
const PAGE_MESSAGES_MAX: u64 = 1 << 16;

/// Sequences between two messages of one page at the most: a gap costs a bit for each.
const PAGE_GAP_MAX: u64 = 4096;

/// Which messages are to be written to pages.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Those whose log entry has this index or a lower one; later ones may yet be consumed before
    /// they need a page.
    pub logged_upto: u64,
    /// Those in pages of these files, which are to become empty.
    pub files: HashSet<u64>,
    /// Bytes of bodies in one page, about; one message at least.
    pub page_bytes: u64,
}

impl Wanted {
    fn wants(&self, part: &Part) -> bool {
        match part {
            Part::Here(run) => run.logged_at <= self.logged_upto,
            Part::Paged(run) => !part.is_paged() || self.files.contains(&run.page.key.file),
        }
    }
}

impl Ledger {
    /// Queues with messages that are in memory alone, in order of their ids.
    pub fn unpaged_queues(&self) -> Vec<QueueId> {
        let queues = self.queues.iter().filter(|(_, queue)| queue.runs.unpaged_bytes() > 0);
        let mut ids: Vec<QueueId> = queues.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Queues with messages in pages of `files`, in order of their ids.
    pub fn queues_in(&self, files: &HashSet<u64>) -> Vec<QueueId> {
        let is_in =
            |part: &Part| matches!(part, Part::Paged(run) if files.contains(&run.page.key.file));
        let queues = self.queues.iter().filter(|(_, queue)| queue.runs.iter().any(is_in));
        let mut ids: Vec<QueueId> = queues.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// What of a queue goes into its next page, from sequence `from` on, and where to go on after
    /// that; `None` if nothing does.
    pub fn gather(
        &self,
        id: QueueId,
        from: Sequence,
        wanted: &Wanted,
    ) -> Option<(Gathered, Sequence)> {
        let queue = self.queues.get(&id)?;
        let is_held = queue.def.name.starts_with(HOLDING_PREFIX);
        let mut gathered = Gathered { queue: id, is_held, parts: Vec::new() };
        let (mut bytes, mut messages, mut at) = (0, 0, from);
        for part in queue.runs.iter_from(from) {
            let is_apart = part.first().saturating_sub(at) > PAGE_GAP_MAX || !wanted.wants(part);
            if is_apart && !gathered.parts.is_empty() {
                break;
            }
            if !wanted.wants(part) {
                continue;
            }
            for piece in pieces(part, from) {
                let room = wanted.page_bytes.saturating_sub(bytes);
                let taken = fit(&piece, room, PAGE_MESSAGES_MAX - messages, messages == 0);
                let Some(taken) = taken else { return Some((gathered, at)) };
                let is_cut = taken.end() < piece.end();
                bytes += taken.body_bytes();
                messages += taken.len();
                at = taken.end();
                gathered.parts.push(taken);
                if is_cut || gathered.parts.len() >= PAGE_RUNS_MAX {
                    return Some((gathered, at));
                }
            }
        }
        (!gathered.parts.is_empty()).then_some((gathered, at))
    }

    /// Lets a page that is durable say what was written to it, as far as it is still here.
    pub fn page_out(&mut self, page: &Arc<Page>, written: &[Written]) {
        self.change(page.queue, |queue| queue.runs.page_out(page, written));
    }

    /// The first log entry whose bodies are in no page and would not be in a checkpoint; `None`
    /// if none is needed.
    pub fn logged_from(&self) -> Option<u64> {
        let parts = self.queues.values().flat_map(|queue| queue.runs.iter());
        let logged = parts.filter_map(|part| match part {
            Part::Here(run) if run.logged_at > 0 => Some(run.logged_at),
            _ => None,
        });
        logged.min()
    }

    /// The page files that are needed, each with about the bytes in it that are.
    pub fn page_files(&self) -> BTreeMap<u64, u64> {
        let mut files = BTreeMap::new();
        for part in self.queues.values().flat_map(|queue| queue.runs.iter()) {
            let Part::Paged(run) = part else { continue };
            let page = &run.page;
            let share =
                u64::from(page.key.len) * u64::from(run.left()) / u64::from(page.count.max(1));
            *files.entry(page.key.file).or_default() += share;
        }
        files
    }

    /// What is in the ledger as entries that bring an empty one to the same state, for a
    /// checkpoint: about `entry_bytes_max` in each, one fact at least. Bodies that the log or a
    /// page has are referred to.
    pub fn entries(&self, entry_bytes_max: u64) -> impl Iterator<Item = Entry> + '_ {
        self.entries_with(entry_bytes_max, true)
    }

    /// As [`Ledger::entries`], with the bodies that the log has, so that none of it is needed.
    pub fn entries_without_log(&self, entry_bytes_max: u64) -> impl Iterator<Item = Entry> + '_ {
        self.entries_with(entry_bytes_max, false)
    }

    fn entries_with(
        &self,
        entry_bytes_max: u64,
        use_log: bool,
    ) -> impl Iterator<Item = Entry> + '_ {
        let mut ids: Vec<QueueId> = self.queues.keys().copied().collect();
        ids.sort_unstable();
        let mut known: HashSet<PageKey> = HashSet::new();
        let messages = ids.into_iter().flat_map(move |id| {
            let queue = &self.queues[&id];
            let state = Fact::QueueState {
                id,
                next: queue.next,
                redelivered_below: queue.redelivered_below,
            };
            queue.runs.iter().map(move |part| (id, Some(part))).chain([(id, None)]).map(
                move |(id, part)| match part {
                    Some(part) => Message::Part(id, part),
                    None => Message::State(state.clone()),
                },
            )
        });
        let messages = messages.flat_map(move |message| -> Vec<Fact> {
            match message {
                Message::State(state) => vec![state],
                Message::Part(id, Part::Here(run)) if use_log && run.logged_at > 0 => {
                    vec![logged(id, run)]
                }
                Message::Part(id, Part::Here(run)) => vec![restore(id, run)],
                Message::Part(id, Part::Paged(run)) => {
                    let page = &run.page;
                    let new = known.insert(page.key).then(|| Fact::Page(Arc::clone(page)));
                    new.into_iter().chain([paged(id, run)]).collect()
                }
            }
        });
        let time = self.time;
        let windows = self.windows.iter().flat_map(|(of, window)| {
            let mut keys = window.iter();
            std::iter::from_fn(move || {
                let keys: Vec<_> = keys.by_ref().take(KEYS_MAX).collect();
                (!keys.is_empty()).then(|| Fact::Remember { window: of.clone(), keys })
            })
        });
        let facts = self.topology_facts().into_iter().chain(windows).chain(self.client_facts());
        let mut facts = facts.chain(self.kept_facts()).chain(messages);
        std::iter::from_fn(move || {
            let mut entry = Entry { time, facts: Vec::new() };
            let mut bytes = 0;
            while entry.facts.is_empty() || bytes < entry_bytes_max {
                let Some(fact) = facts.next() else { break };
                bytes += match &fact {
                    Fact::Restore { batch, .. } | Fact::Kept { batch, .. } => {
                        batch.chunk.len() as u64
                    }
                    Fact::Remember { keys, .. } => keys.len() as u64 * KEY_BYTES,
                    Fact::Client { key, change } => client_bytes(key, change),
                    Fact::Page(page) => u64::from(page.span),
                    Fact::Paged { gone: Some(bits), .. } => bits.len() as u64 * 8,
                    _ => 0,
                };
                bytes += FACT_BYTES;
                entry.facts.push(fact);
            }
            (!entry.facts.is_empty()).then_some(entry)
        })
    }

    fn topology_facts(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        if self.term > 0 {
            facts.push(Fact::Term(self.term));
        }
        if self.number > 0 {
            facts.push(Fact::EntryNumber(self.number));
        }
        facts.extend(self.members.iter().cloned().map(Fact::Members));
        let topology = &self.topology;
        for vhost in topology.vhosts() {
            facts.push(Fact::DeclareVhost(Arc::clone(vhost)));
            for def in topology.exchanges(vhost).unwrap_or_default() {
                if !def.name.is_empty() {
                    let (vhost, def) = (Arc::clone(vhost), (**def).clone());
                    facts.push(Fact::DeclareExchange { vhost, def });
                }
            }
            for QueueEntry { id, def } in topology.all_queues(vhost).unwrap_or_default() {
                let (vhost, def) = (Arc::clone(vhost), Arc::clone(def));
                facts.push(Fact::DeclareQueue { vhost, id: *id, def });
            }
            for def in topology.bindings(vhost).into_iter().flatten() {
                facts.push(Fact::Bind { vhost: Arc::clone(vhost), def: def.clone() });
            }
        }
        facts.extend(self.settings.iter().map(|(key, value)| Fact::Setting {
            key: key.clone(),
            value: Some(Arc::clone(value)),
        }));
        facts.push(Fact::NextQueue(self.next_queue));
        facts
    }
}

/// What a checkpoint says of a queue, one after the other.
enum Message<'l> {
    Part(QueueId, &'l Part),
    State(Fact),
}

/// The stretches of a part without a gap, from sequence `from` on.
fn pieces(part: &Part, from: Sequence) -> Vec<Part> {
    match part {
        Part::Here(run) => vec![Part::Here(run.part(from.max(run.first), u64::MAX))],
        Part::Paged(run) => {
            let stretches = run.parts().filter(|stretch| stretch.end() > from);
            stretches
                .filter_map(|stretch| stretch.part(from.max(stretch.first), u64::MAX))
                .map(Part::Paged)
                .collect()
        }
    }
}

/// As many messages from the front of `piece` as `bytes` and `messages` leave room for; the first
/// in any case if `at_least_one`.
fn fit(piece: &Part, bytes: u64, messages: u64, at_least_one: bool) -> Option<Part> {
    let (mut taken, mut sum) = (0u64, 0);
    let len = piece.len().min(messages);
    while taken < len {
        sum += match piece {
            Part::Here(run) => {
                let record = &run.batch.records[run.record as usize + taken as usize];
                u64::from(record.body.len) + u64::from(record.head.len)
            }
            Part::Paged(run) => u64::from(run.page.sizes.get(run.position + taken as u32)),
        };
        if sum > bytes && !(taken == 0 && at_least_one) {
            break;
        }
        taken += 1;
    }
    if taken == 0 {
        return None;
    }
    match piece {
        Part::Here(run) => Some(Part::Here(run.part(run.first, taken))),
        Part::Paged(run) => run.part(run.first, taken).map(Part::Paged),
    }
}

fn logged(queue: QueueId, run: &Run) -> Fact {
    Fact::Logged {
        queue,
        first: run.first,
        len: run.len,
        enqueued_at: run.enqueued_at,
        delivery_count: run.delivery_count,
        annotations: run.annotations.clone(),
        logged_at: run.logged_at,
    }
}

fn paged(queue: QueueId, run: &PagedRun) -> Fact {
    Fact::Paged {
        queue,
        first: run.first,
        len: run.len,
        page: run.page.key,
        position: run.position,
        over: run.over.clone(),
        gone: run.gone().map(Into::into),
    }
}

/// The run as a checkpoint keeps it, with just its own bytes.
fn restore(queue: QueueId, run: &Run) -> Fact {
    Fact::Restore {
        queue,
        first: run.first,
        batch: Arc::new(run.batch.compacted(run.record, run.len)),
        enqueued_at: run.enqueued_at,
        delivery_count: run.delivery_count,
        annotations: run.annotations.clone(),
    }
}
