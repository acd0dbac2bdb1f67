//! The ledger: what is true on every replica, a fold over the log.

mod clients;
mod kept;
mod restore;
#[cfg(test)]
mod tests;
mod write_out;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use isthmus_model::{
    Annotations, Batch, Destination, QueueDef, QueueId, Sequence, SettingKey, SettingKind, Table,
    Time,
};
use rpds::RedBlackTreeMapSync;

use crate::clients::Clients;
use crate::dedup::{Window, WindowOf};
use crate::kept::Kept;
use crate::paging::Moved;
use crate::topology::{QueueEntry, Removed, Topology, TopologyError};
use crate::{Entry, Fact, Members, Part, Place, Placement, Run, RunMap};

pub(crate) use self::clients::client_bytes;
use self::restore::Restoring;
pub use self::write_out::Wanted;

/// Messages, settlements, delivery counts and durable topology, as the log tells them.
///
/// [`Ledger::apply`] is a pure function of what was applied before: it routes nothing, compares
/// no clocks, iterates over nothing in hash order and selects no message, so that every replica
/// that applied the same entries holds the same.
#[derive(Clone, Debug)]
pub struct Ledger {
    topology: Topology,
    /// Each shared with copies of the ledger until they differ.
    queues: HashMap<QueueId, Arc<QueueLedger>>,
    settings: Settings,
    /// Shared with copies of the ledger until they differ.
    windows: BTreeMap<WindowOf, Arc<Window>>,
    clients: Clients,
    kept: Kept,
    next_queue: QueueId,
    term: u64,
    /// The number of the term's latest entry.
    number: u64,
    /// Who takes part in consensus; none where one node is all there is.
    members: Option<Arc<Members>>,
    time: Time,
    /// The index of the entry that is applied now; 0 where the log does not hold it.
    index: u64,
    /// About what of its messages is in memory alone, in bytes.
    unpaged_bytes: u64,
    /// How many of its messages are in pages.
    paged_len: u64,
    /// What a checkpoint that is being read has said and not kept yet.
    restoring: Restoring,
}

/// Every setting, in the order of the keys. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    map: RedBlackTreeMapSync<SettingKey, Arc<Table>>,
    version: u64,
}

impl Settings {
    /// The value of a setting.
    pub fn get(&self, key: &SettingKey) -> Option<&Arc<Table>> {
        self.map.get(key)
    }

    /// Every setting.
    pub fn iter(&self) -> impl Iterator<Item = (&SettingKey, &Arc<Table>)> {
        self.map.iter()
    }

    /// The settings of a kind, of every virtual host.
    pub fn of_kind(&self, kind: SettingKind) -> impl Iterator<Item = (&SettingKey, &Arc<Table>)> {
        let from = SettingKey::global(kind, "");
        self.map.range(from..).take_while(move |(key, _)| key.kind == kind)
    }

    /// Grows with every change; says nothing from one process to the next.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn set(&mut self, key: &SettingKey, value: Option<&Arc<Table>>) {
        self.version += 1;
        match value {
            Some(value) => self.map.insert_mut(key.clone(), Arc::clone(value)),
            None => drop(self.map.remove_mut(key)),
        }
    }

    /// Forgets what belongs to a virtual host.
    fn forget_vhost(&mut self, vhost: &str) {
        let gone: Vec<SettingKey> = self
            .map
            .keys()
            .filter(|key| key.kind.is_of_vhost() && &*key.vhost == vhost)
            .cloned()
            .collect();
        for key in &gone {
            self.set(key, None);
        }
    }
}

/// One durable queue's part of the ledger.
#[derive(Clone, Debug)]
pub struct QueueLedger {
    /// Its virtual host.
    pub vhost: Arc<str>,
    /// As it was declared.
    pub def: Arc<QueueDef>,
    /// Unsettled messages.
    pub runs: RunMap,
    /// The sequence that the next message gets at least.
    pub next: Sequence,
    /// Messages below may have been delivered in an earlier term.
    pub redelivered_below: Sequence,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger::new()
    }
}

impl Ledger {
    /// The ledger before the first entry.
    pub fn new() -> Ledger {
        Ledger {
            topology: Topology::new(),
            queues: HashMap::new(),
            settings: Settings::default(),
            windows: BTreeMap::new(),
            clients: Clients::default(),
            kept: Kept::default(),
            next_queue: QueueId(1),
            term: 0,
            number: 0,
            members: None,
            time: Time(0),
            index: 0,
            unpaged_bytes: 0,
            paged_len: 0,
            restoring: Restoring::default(),
        }
    }

    /// The durable topology.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What operators have defined.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Deduplication windows of durable exchanges and queues, as far as keys are in them.
    pub fn windows(&self) -> &BTreeMap<WindowOf, Arc<Window>> {
        &self.windows
    }

    /// The ledger of a durable queue.
    pub fn queue(&self, id: QueueId) -> Option<&QueueLedger> {
        self.queues.get(&id).map(|queue| &**queue)
    }

    /// About what of its messages is in memory alone, in bytes: what pages would take over.
    pub fn unpaged_bytes(&self) -> u64 {
        self.unpaged_bytes
    }

    /// The id that the next queue gets at least.
    pub fn next_queue(&self) -> QueueId {
        self.next_queue
    }

    /// The latest term that began.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Who takes part in consensus, as of the latest entry that said so.
    pub fn members(&self) -> Option<&Arc<Members>> {
        self.members.as_ref()
    }

    /// Whether an entry at `place` counts: it begins a later term, or follows on the term's latest
    /// entry.
    pub fn admits(&self, place: Place) -> bool {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::ignores_places() {
            return true;
        }
        match place.number {
            0 => place.term > self.term,
            number => place.term == self.term && number == self.number + 1,
        }
    }

    /// The log time of the latest entry.
    pub fn time(&self) -> Time {
        self.time
    }

    /// How many of its messages are in pages.
    pub fn paged_len(&self) -> u64 {
        self.paged_len
    }

    /// Applies a committed entry, which must be the next in the log.
    ///
    /// # Panics
    /// If the entry contradicts what was applied before (a queue declared twice, a sequence used
    /// twice): the log and the code have come apart, and going on would spread it.
    pub fn apply(&mut self, entry: &Entry) {
        self.apply_at(0, entry);
    }

    /// As [`Ledger::apply`], for the entry that the log has at `index`: its bodies need not be
    /// written again for as long as the log has them.
    pub fn apply_at(&mut self, index: u64, entry: &Entry) {
        self.index = index;
        assert!(entry.time >= self.time, "log time went back");
        self.time = entry.time;
        for fact in &entry.facts {
            self.apply_fact(fact);
        }
    }

    /// As [`Ledger::apply_at`], for an entry that stands at `place`; returns whether it counts. One
    /// that does not changes nothing.
    ///
    /// # Panics
    /// As [`Ledger::apply`], and if an entry with number 0 does not begin the term of its place.
    pub fn apply_placed(&mut self, index: u64, place: Place, entry: &Entry) -> bool {
        if !self.admits(place) {
            return false;
        }
        self.apply_at(index, entry);
        assert_eq!(self.term, place.term, "an entry of another term than its place says");
        self.number = place.number;
        true
    }

    fn apply_fact(&mut self, fact: &Fact) {
        match fact {
            Fact::Term(term) => self.begin_term(*term),
            Fact::DeclareVhost(_)
            | Fact::DeclareExchange { .. }
            | Fact::DeleteExchange { .. }
            | Fact::DeclareQueue { .. }
            | Fact::DeleteQueue { .. }
            | Fact::Bind { .. }
            | Fact::Unbind { .. }
            | Fact::DeleteVhost(_) => self.apply_topology(fact),
            Fact::Enqueue { batch, placements, annotations } => {
                for placement in placements {
                    self.enqueue(batch, *placement, annotations.as_ref());
                }
            }
            Fact::Settle { queue, first, len } => {
                self.change(*queue, |queue| queue.runs.remove(*first, *len, drop));
            }
            Fact::Count { queue, first, len } => {
                self.change(*queue, |queue| queue.runs.count_failed(*first, *len));
            }
            Fact::Move { queue, sequence, to, annotations } => {
                self.apply_move(*queue, *sequence, to, annotations);
            }
            Fact::QueueState { id, next, redelivered_below } => {
                self.change(*id, |queue| {
                    queue.next = *next;
                    queue.redelivered_below = *redelivered_below;
                });
            }
            Fact::Restore { queue, first, batch, enqueued_at, delivery_count, annotations } => {
                let run = Run {
                    first: *first,
                    len: batch.records.len() as u32,
                    batch: Arc::clone(batch),
                    record: 0,
                    enqueued_at: *enqueued_at,
                    delivery_count: *delivery_count,
                    annotations: annotations.clone(),
                    logged_at: 0,
                };
                self.change(*queue, |queue| queue.insert(Part::Here(run)));
            }
            Fact::Logged { .. } | Fact::Page(_) | Fact::Paged { .. } => self.restore(fact),
            Fact::Remember { window, keys } => {
                // One that was deleted before this was committed remembers nothing.
                if self.has_window(window) {
                    let window = Arc::make_mut(self.windows.entry(window.clone()).or_default());
                    keys.iter().for_each(|(key, until)| window.remember(*key, *until, true));
                }
            }
            Fact::Forget { window, keys } => {
                if let Some(window) = self.windows.get_mut(window) {
                    let window = Arc::make_mut(window);
                    for key in keys {
                        window.forget(key);
                    }
                }
            }
            Fact::NextQueue(id) => self.next_queue = *id,
            Fact::Members(members) => self.members = Some(Arc::clone(members)),
            Fact::EntryNumber(number) => self.number = *number,
            Fact::Setting { key, value } => self.settings.set(key, value.as_ref()),
            Fact::Client { key, change } => self.clients.apply(key, change),
            Fact::Kept { .. } | Fact::Unkept { .. } => self.apply_kept(fact),
        }
    }

    /// Whether what a deduplication window belongs to is there.
    fn has_window(&self, of: &WindowOf) -> bool {
        match of {
            WindowOf::Exchange { vhost, name } => self.topology.exchange(vhost, name).is_ok(),
            WindowOf::Queue(id) => self.queues.contains_key(id),
        }
    }

    fn begin_term(&mut self, term: u64) {
        assert!(term > self.term, "term {term} began after term {}", self.term);
        self.term = term;
        self.number = 0;
        self.clients.lose_connections(self.time);
        // The order of a hash map does not matter to an assignment in each place.
        for queue in self.queues.values_mut() {
            let queue = Arc::make_mut(queue);
            queue.redelivered_below = queue.next;
        }
    }

    /// Changes a queue, if it is there.
    fn change(&mut self, id: QueueId, change: impl FnOnce(&mut QueueLedger)) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let queue = Arc::make_mut(queue);
        let before = (queue.runs.unpaged_bytes(), queue.runs.paged_len());
        change(queue);
        self.unpaged_bytes = self.unpaged_bytes - before.0 + queue.runs.unpaged_bytes();
        self.paged_len = self.paged_len - before.1 + queue.runs.paged_len();
    }

    fn forget(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.remove(&id) {
            self.unpaged_bytes -= queue.runs.unpaged_bytes();
            self.paged_len -= queue.runs.paged_len();
        }
        self.windows.remove(&WindowOf::Queue(id));
        self.clients.forget_queue(id);
    }

    fn apply_topology(&mut self, fact: &Fact) {
        if let Err(error) = self.try_topology(fact) {
            panic!("the log contradicts itself at {fact:?}: {error}");
        }
    }

    /// Removals are facts one by one: what goes with what was decided by the leader, who knows
    /// volatile bindings too.
    fn try_topology(&mut self, fact: &Fact) -> Result<(), TopologyError> {
        match fact {
            Fact::DeclareVhost(name) => {
                self.topology.declare_vhost(name);
            }
            Fact::DeclareExchange { vhost, def } => {
                self.topology.declare_system_exchange(vhost, def.clone())?;
            }
            Fact::DeleteVhost(name) => {
                for queue in self.topology.delete_vhost(name)? {
                    self.forget(queue.id);
                }
                self.windows.retain(|of, _| !of.is_exchange_in(name));
                self.settings.forget_vhost(name);
                self.clients.forget_vhost(name);
                self.kept.forget_vhost(name);
            }
            Fact::DeleteExchange { vhost, name } => {
                let (host, exchange) = (Arc::clone(vhost), Arc::clone(name));
                self.windows.remove(&WindowOf::Exchange { vhost: host, name: exchange });
                self.kept.forget_exchange(vhost, name);
                let end = Destination::Exchange(Arc::clone(name));
                let from = self.topology.bindings_from(vhost, name)?.cloned();
                let to = self.topology.bindings_to(vhost, &end)?.cloned();
                let removed = Removed {
                    queue: None,
                    bindings: from.chain(to).collect(),
                    exchanges: vec![Arc::clone(self.topology.exchange(vhost, name)?)],
                };
                self.topology.retract(vhost, &removed)?;
            }
            Fact::DeclareQueue { vhost, id, def } => {
                self.next_queue = self.next_queue.max(QueueId(id.0 + 1));
                self.topology.declare_system_queue(vhost, Arc::clone(def), *id)?;
                let queue = QueueLedger {
                    vhost: Arc::clone(vhost),
                    def: Arc::clone(def),
                    runs: RunMap::default(),
                    next: 1,
                    redelivered_below: 0,
                };
                let before = self.queues.insert(*id, Arc::new(queue));
                assert!(before.is_none(), "queue id {id} is given out a second time");
            }
            Fact::DeleteQueue { id } => {
                let queue = self.queues.get(id).map(|q| (Arc::clone(&q.vhost), Arc::clone(&q.def)));
                self.forget(*id);
                let Some((vhost, def)) = queue else { return Ok(()) };
                let end = Destination::Queue(Arc::clone(&def.name));
                let bindings = self.topology.bindings_to(&vhost, &end)?.cloned().collect();
                let queue = Some(QueueEntry { id: *id, def });
                let removed = Removed { queue, bindings, exchanges: Vec::new() };
                self.topology.retract(&vhost, &removed)?;
            }
            Fact::Bind { vhost, def } => {
                self.topology.bind(vhost, def)?;
            }
            Fact::Unbind { vhost, def } => {
                let removed = Removed { bindings: vec![def.clone()], ..Removed::default() };
                self.topology.retract(vhost, &removed)?;
            }
            _ => unreachable!("not a fact of topology: {fact:?}"),
        }
        Ok(())
    }

    fn enqueue(
        &mut self,
        batch: &Arc<Batch>,
        placement: Placement,
        annotations: Option<&Arc<Annotations>>,
    ) {
        let run = Run {
            first: placement.first,
            len: placement.len,
            batch: Arc::clone(batch),
            record: placement.record,
            enqueued_at: self.time,
            delivery_count: 0,
            annotations: annotations.cloned(),
            logged_at: self.index,
        };
        // A queue that was deleted before its messages were committed takes none.
        self.change(placement.queue, |queue| queue.insert(Part::Here(run)));
    }

    fn apply_move(
        &mut self,
        from: QueueId,
        sequence: Sequence,
        to: &[(QueueId, Sequence)],
        annotations: &Arc<Annotations>,
    ) {
        let enqueued_at = self.time;
        let mut moved = None;
        self.change(from, |queue| queue.runs.remove(sequence, 1, |part| moved = Some(part)));
        let Some(part) = moved else { return };
        for (queue, sequence) in to {
            let part = match part.clone() {
                // The log has the body as a message of the other queue only.
                Part::Here(run) => Part::Here(Run {
                    first: *sequence,
                    enqueued_at,
                    delivery_count: 0,
                    annotations: Some(Arc::clone(annotations)),
                    logged_at: 0,
                    ..run
                }),
                Part::Paged(run) => {
                    let moved = Moved { enqueued_at, annotations: Arc::clone(annotations) };
                    Part::Paged(run.moved(*sequence, moved))
                }
            };
            self.change(*queue, |queue| queue.insert(part));
        }
    }
}

impl QueueLedger {
    fn insert(&mut self, part: Part) {
        self.next = self.next.max(part.end());
        self.runs.insert_part(part);
    }
}
