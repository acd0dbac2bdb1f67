//! Pages that are in memory, and those that are being waited for.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{HashMap, VecDeque};

use isthmus_model::{DeathReason, Outcome, QueueId, Sequence, Settlement};

use super::Dispatcher;
use crate::paging::{PageContent, PageKey};
use crate::{Ledger, Part, Run};

/// Runs behind the one that is delivered whose pages are read ahead of being needed.
const READ_AHEAD: usize = 4;

/// Pages that one request waits for at the most before it goes on without them.
const AWAITED_FOR_REQUEST_MAX: usize = 64;

/// Contents of pages. What is in memory is bounded but for what a turn needs: it is cut back at
/// the end of the turn, so that whoever waited for a page has had it.
#[derive(Debug)]
pub(super) struct Pages {
    loaded: HashMap<PageKey, Loaded>,
    /// In the order in which they are looked at to be forgotten: one that was used since is passed
    /// over once.
    hand: VecDeque<PageKey>,
    bytes: u64,
    bytes_max: u64,
    /// Asked for and not here yet, with the queues that wait for them.
    awaited: HashMap<PageKey, Vec<QueueId>>,
    /// Of these, those that nobody has been told of.
    wanted: Vec<PageKey>,
}

#[derive(Debug)]
struct Loaded {
    content: PageContent,
    bytes: u64,
    used: bool,
}

impl Pages {
    pub(super) fn new(bytes_max: u64) -> Pages {
        Pages {
            loaded: HashMap::new(),
            hand: VecDeque::new(),
            bytes: 0,
            bytes_max,
            awaited: HashMap::new(),
            wanted: Vec::new(),
        }
    }

    fn get(&mut self, key: PageKey) -> Option<&PageContent> {
        let loaded = self.loaded.get_mut(&key)?;
        loaded.used = true;
        Some(&loaded.content)
    }

    /// Asks for a page, for a queue that waits for it or for whoever comes.
    fn want(&mut self, key: PageKey, queue: Option<QueueId>) {
        let waiting = match self.awaited.entry(key) {
            MapEntry::Occupied(waiting) => waiting.into_mut(),
            MapEntry::Vacant(place) => {
                self.wanted.push(key);
                place.insert(Vec::new())
            }
        };
        if let Some(queue) = queue
            && !waiting.contains(&queue)
        {
            waiting.push(queue);
        }
    }

    fn insert(&mut self, key: PageKey, content: PageContent) {
        let bytes = content.footprint();
        self.bytes += bytes;
        if let Some(old) = self.loaded.insert(key, Loaded { content, bytes, used: true }) {
            self.bytes -= old.bytes;
        } else {
            self.hand.push_back(key);
        }
    }

    /// Forgets what was not used lately until what is left is within its bound.
    fn trim(&mut self) {
        while self.bytes > self.bytes_max
            && let Some(key) = self.hand.pop_front()
        {
            let MapEntry::Occupied(mut loaded) = self.loaded.entry(key) else { continue };
            if std::mem::replace(&mut loaded.get_mut().used, false) {
                self.hand.push_back(key);
            } else {
                self.bytes -= loaded.remove().bytes;
            }
        }
    }
}

impl Dispatcher {
    /// Pages to be read: the content of each is to be given to [`Dispatcher::page_read`].
    pub fn take_wanted_pages(&mut self) -> Vec<PageKey> {
        std::mem::take(&mut self.pages.wanted)
    }

    /// A page that was wanted is here.
    pub fn page_read(&mut self, key: PageKey, content: PageContent) {
        for queue in self.pages.awaited.remove(&key).unwrap_or_default() {
            self.mark_dirty(queue);
        }
        self.pages.insert(key, content);
    }

    /// A page that was wanted is not there any more: nothing refers to it. Whoever waits for it
    /// looks again at where its messages are.
    pub fn page_gone(&mut self, key: PageKey) {
        for queue in self.pages.awaited.remove(&key).unwrap_or_default() {
            self.mark_dirty(queue);
        }
    }

    /// Pages that were asked for and are not here yet.
    pub fn pages_awaited(&self) -> usize {
        self.pages.awaited.len()
    }

    /// About what pages take in memory, in bytes.
    pub fn page_bytes(&self) -> u64 {
        self.pages.bytes
    }

    pub(super) fn trim_pages(&mut self) {
        self.pages.trim();
    }

    /// The messages of a part, as many as lie in one run; `None` if their page is not here. It is
    /// asked for then, and the queue is looked at again when it is.
    ///
    /// # Panics
    /// If the page does not hold them: its checksum was right, so the ledger is wrong.
    pub(super) fn fetch(&mut self, queue: QueueId, part: Part) -> Option<Run> {
        let paged = match part {
            Part::Here(run) => return Some(run),
            Part::Paged(paged) => paged,
        };
        let key = paged.page.key;
        let Some(content) = self.pages.get(key) else {
            self.pages.want(key, Some(queue));
            return None;
        };
        let run = paged.read(content);
        let first = paged.first;
        Some(run.unwrap_or_else(|| {
            panic!(
                "queue {queue}: the page at {} of page file {} does not hold message {first}",
                key.offset, key.file
            )
        }))
    }

    /// Whether the next ready message of a queue is in memory; its page is asked for if not.
    pub(super) fn front_is_here(&mut self, ledger: &Ledger, id: QueueId) -> bool {
        let Some(queue) = self.queues.get(&id) else { return false };
        let Some(range) = queue.ready.peek() else { return false };
        let Some(Part::Paged(paged)) = queue.find(ledger, range.first, 1) else { return true };
        let key = paged.page.key;
        let is_here = self.pages.loaded.contains_key(&key);
        if !is_here {
            self.pages.want(key, Some(id));
        }
        is_here
    }

    /// Asks for the pages of the messages that are delivered next, so that they are here by then.
    pub(super) fn read_ahead(&mut self, ledger: &Ledger, id: QueueId) {
        let front = self.queues.get(&id).and_then(|queue| queue.ready.peek());
        if let Some(range) = front {
            self.read_ahead_from(ledger, id, range.first);
        }
    }

    /// Asks for the pages of the next messages from `at` on.
    pub(super) fn read_ahead_from(&mut self, ledger: &Ledger, id: QueueId, at: Sequence) {
        let Some(queue) = ledger.queue(id) else { return };
        for part in queue.runs.iter_from(at).take(READ_AHEAD) {
            let Part::Paged(paged) = part else { continue };
            let key = paged.page.key;
            if !self.pages.loaded.contains_key(&key) {
                self.pages.want(key, None);
            }
        }
    }

    /// Drops or dead-letters messages that are neither ready nor checked out: those whose page has
    /// to be read first, once it is.
    pub(super) fn discard_range(
        &mut self,
        ledger: &Ledger,
        id: QueueId,
        first: Sequence,
        len: u64,
        reason: DeathReason,
    ) {
        let (mut at, end) = (first, first + len);
        while at < end {
            let Some(queue) = self.queues.get(&id) else { return };
            if queue.options().dead_letter_exchange.is_none() {
                return self.drop_range(id, at, end - at);
            }
            let Some(part) = queue.find(ledger, at, end - at) else {
                panic!("queue {id}: message {at} is to leave and nowhere");
            };
            let (from, to) = (part.first(), part.end());
            match self.fetch(id, part) {
                Some(run) => {
                    at = run.end();
                    self.discard(id, &run, reason);
                }
                None => {
                    at = to;
                    if let Some(queue) = self.queues.get_mut(&id) {
                        queue.seldom_mut().dying.push_back((from, to - from, reason));
                    }
                }
            }
        }
    }

    /// Goes on with what had to wait for pages before it could leave the queue.
    pub(super) fn discard_waiting(&mut self, ledger: &Ledger, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if queue.seldom().is_none_or(|seldom| seldom.dying.is_empty()) {
            return;
        }
        for (first, len, reason) in std::mem::take(&mut queue.seldom_mut().dying) {
            self.discard_range(ledger, id, first, len, reason);
        }
    }

    /// Whether pages must be read before `settlements` can be carried out at once: what is
    /// dead-lettered is routed by what it says. They are asked for.
    pub(super) fn lacks_pages(&mut self, ledger: &Ledger, settlements: &[Settlement]) -> bool {
        let mut lacking: Vec<PageKey> = Vec::new();
        for s in settlements {
            let Some(queue) = self.queues.get(&s.queue) else { continue };
            let may_move = match s.outcome {
                Outcome::Reject => true,
                Outcome::Requeue | Outcome::Modify { delivery_failed: true, .. } => {
                    queue.options().delivery_limit.is_some()
                }
                Outcome::Accept | Outcome::Modify { .. } => false,
            };
            if !may_move || queue.options().dead_letter_exchange.is_none() {
                continue;
            }
            for (first, len) in queue.checkouts.held(s.first, s.len, s.epoch) {
                let (mut at, end) = (first, first + len);
                while at < end {
                    let Some(part) = queue.find(ledger, at, end - at) else { break };
                    at = part.end();
                    if let Part::Paged(paged) = part
                        && !self.pages.loaded.contains_key(&paged.page.key)
                        && lacking.last() != Some(&paged.page.key)
                    {
                        lacking.push(paged.page.key);
                    }
                }
            }
        }
        if lacking.is_empty() || lacking.len() > AWAITED_FOR_REQUEST_MAX {
            return false;
        }
        lacking.into_iter().for_each(|key| self.pages.want(key, None));
        true
    }
}
