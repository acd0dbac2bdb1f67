//! Messages on their way in.

use std::collections::BTreeSet;
use std::sync::Arc;

use isthmus_model::{
    Annotations, Batch, CommandError, DeathReason, Encoding, Encodings, Overflow, PublishException,
    PublishRefusal, QueueId, Record, RecordFlags, Reply, Sequence, SessionId, Table, Time, Token,
    TransactionId,
};

use super::deadletter::Origin;
use super::kept::Keeps;
use super::session::Deferred;
use super::{After, Dispatcher};
use crate::dedup::{DedupKey, DedupOptions, WindowOf};
use crate::topology::{Properties, Topology};
use crate::{Fact, Ledger, Placement, Run};

/// Bytes of an entry for each message beside its head and body, about.
const ENTRY_OVERHEAD_BYTES: u64 = 16;

/// What one batch comes to.
#[derive(Default)]
pub(super) struct Routed {
    /// What goes into the log.
    placements: Vec<Placement>,
    /// How messages come into their queues, durable or not, in the order of their publishing.
    effects: Vec<After>,
    pub(super) exceptions: Vec<PublishException>,
    /// Whether a message was dropped because it was seen before.
    has_duplicates: bool,
    /// What is written beside the messages.
    annotations: Option<Arc<Annotations>>,
    /// What exchanges keep of them.
    kept: Vec<Fact>,
}

/// Where a message goes.
#[derive(Default)]
struct Way {
    /// Why it goes nowhere.
    refusal: Option<PublishRefusal>,
    /// Whether more than its address decided that, so that its neighbours may go elsewhere.
    is_own: bool,
    /// Whether its exchange has seen it before.
    is_duplicate: bool,
    /// What its exchange is to remember if it is taken.
    once: Option<Once>,
    /// If its exchange keeps it.
    keeps: Option<Keeps>,
}

impl Way {
    fn refused(self, refusal: PublishRefusal) -> Way {
        Way { refusal: Some(refusal), ..self }
    }
}

/// A message that is to be routed once.
struct Once {
    window: WindowOf,
    options: Arc<DedupOptions>,
    key: (DedupKey, Time),
    durable: bool,
}

/// The properties of a message, read if they are asked for.
pub(super) struct Head<'m> {
    encodings: Encodings,
    batch: &'m Batch,
    record: &'m Record,
    /// Whether they were.
    is_asked: bool,
}

impl<'m> Head<'m> {
    pub(super) fn of(encodings: Encodings, batch: &'m Batch, record: &'m Record) -> Head<'m> {
        Head { encodings, batch, record, is_asked: false }
    }

    fn encoding(&self) -> Option<&'static dyn Encoding> {
        self.encodings.get(self.batch.encoding)
    }

    /// The routing keys that the message names beside its own.
    pub(super) fn more_keys(&self) -> Vec<String> {
        if !self.record.flags.has(RecordFlags::MORE_KEYS) {
            return Vec::new();
        }
        let head = self.batch.head(self.record);
        self.encoding().map(|e| e.more_routing_keys(head)).unwrap_or_default()
    }
}

impl Properties for Head<'_> {
    fn headers(&mut self) -> Table {
        self.is_asked = true;
        headers_of(self.encodings, self.batch, self.record)
    }

    fn property(&mut self, name: &str) -> Option<String> {
        self.is_asked = true;
        self.encoding()?.property(self.batch.head(self.record), name)
    }
}

/// The user's headers of a message.
pub(super) fn headers_of(encodings: Encodings, batch: &Batch, record: &Record) -> Table {
    encodings.get(batch.encoding).map(|e| e.headers(batch.head(record))).unwrap_or_default()
}

impl Dispatcher {
    /// Routes a batch and lets its messages into their queues.
    pub fn publish(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        batch: Arc<Batch>,
        transaction: Option<TransactionId>,
    ) {
        let request = Deferred::Publish { token, batch, transaction };
        if let Some(Deferred::Publish { token, batch, transaction }) =
            self.defer(ledger, session, request)
        {
            self.do_publish(ledger, session, token, batch, transaction);
        }
    }

    pub(super) fn do_publish(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        batch: Arc<Batch>,
        transaction: Option<TransactionId>,
    ) {
        if let Some(transaction) = transaction {
            let result = self.add_to_transaction(session, transaction, token, batch);
            return self.answer(ledger, session, token, result);
        }
        let exceptions = self.take_in(ledger, session, &batch);
        if token == Token::SILENT && exceptions.is_empty() {
            return;
        }
        self.answer(ledger, session, token, Ok(Reply::Published { exceptions }));
    }

    /// Routes a batch and takes it in; what was not taken is returned.
    pub(super) fn take_in(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        batch: &Arc<Batch>,
    ) -> Vec<PublishException> {
        let written = self.gather.written;
        let mut routed = Routed::default();
        match self.vhost_of(session) {
            Ok(vhost) => self.route_for(session, &vhost, batch, &mut routed),
            // Nothing of it may seem to have been taken.
            Err(_) => {
                let len = batch.records.len() as u32;
                routed.refuse(batch, 0, len, PublishRefusal::NoExchange);
            }
        }
        self.carry_out_routed(ledger, session, written, batch, routed)
    }

    /// Lets take effect what a batch comes to; facts of it were gathered since [`Gather::written`]
    /// was as given. Returns what was not taken.
    ///
    /// [`Gather::written`]: super::Gather::written
    pub(super) fn carry_out_routed(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        written: u64,
        batch: &Arc<Batch>,
        routed: Routed,
    ) -> Vec<PublishException> {
        if !routed.placements.is_empty() {
            self.log_placements(batch, routed.placements, routed.annotations);
        }
        // Behind the fact that has the messages: they need not be written again.
        for fact in routed.kept {
            self.log_kept(fact);
        }
        self.touch_log_since(written, session);
        if routed.has_duplicates {
            // The message that was seen before may be on its way through the log: only when it is
            // safe, its duplicate is.
            self.wait_for_everybody(session);
        }
        for effect in routed.effects {
            // A transient message waits behind earlier durable ones of its session.
            self.behind(ledger, session, effect);
        }
        routed.exceptions
    }

    /// Routes a batch that no session publishes. Returns how its messages come into their queues
    /// once the facts are committed.
    pub(super) fn take_in_for_nobody(
        &mut self,
        vhost: &Arc<str>,
        batch: &Arc<Batch>,
    ) -> Vec<After> {
        let mut routed = Routed::default();
        self.route_batch(vhost, batch, &BTreeSet::new(), &mut routed);
        if !routed.placements.is_empty() {
            self.log_placements(batch, routed.placements, routed.annotations);
        }
        // Behind the fact that has the messages: they need not be written again.
        for fact in routed.kept {
            self.log_kept(fact);
        }
        routed.effects
    }

    /// Routes what a session publishes, past the queues of its that want none of it.
    fn route_for(
        &mut self,
        session: SessionId,
        vhost: &Arc<str>,
        batch: &Arc<Batch>,
        routed: &mut Routed,
    ) {
        let state = self.sessions.get_mut(&session);
        let passed_by = state.map(|s| std::mem::take(&mut s.no_local)).unwrap_or_default();
        self.route_batch(vhost, batch, &passed_by, routed);
        if let Some(session) = self.sessions.get_mut(&session) {
            session.no_local = passed_by;
        }
    }

    fn log_placements(
        &mut self,
        batch: &Arc<Batch>,
        placements: Vec<Placement>,
        annotations: Option<Arc<Annotations>>,
    ) {
        let bytes = placements.iter().map(|p| {
            batch.payload_bytes(p.record, p.len) + u64::from(p.len) * ENTRY_OVERHEAD_BYTES
        });
        let bytes = bytes.sum();
        let batch = Arc::clone(batch);
        self.propose(Fact::Enqueue { batch, placements, annotations }, bytes);
    }

    /// Messages that are not in the log come into a queue.
    pub(super) fn enter_volatile(&mut self, id: QueueId, run: Run) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.enter_volatile(run);
            self.mark_dirty(id);
        }
    }

    /// Routes every message of a batch. Neighbours with the same address and durability are
    /// routed once and go on as one run. None goes to the queues of `passed_by`.
    fn route_batch(
        &mut self,
        vhost: &Arc<str>,
        batch: &Arc<Batch>,
        passed_by: &BTreeSet<QueueId>,
        routed: &mut Routed,
    ) {
        let chunk = &batch.chunk[..];
        let records = &batch.records;
        self.counters.published += records.len() as u64;
        self.counters.published_bytes += batch.body_bytes(0, records.len() as u32);
        let mut first = 0;
        while first < records.len() {
            let head = &records[first];
            if head.flags.has(RecordFlags::DELAYED) {
                self.declare_own_holding(vhost);
            }
            let address = (head.exchange.of(chunk), head.routing_key.of(chunk));
            let mut routes = std::mem::take(&mut self.routes);
            routes.clear();
            let way = self.route(vhost, batch, head, &mut routes);
            if !passed_by.is_empty() {
                routes.retain(|queue| !passed_by.contains(queue));
            }
            let alike = |r: &Record| {
                !way.is_own
                    && r.flags == head.flags
                    && (r.exchange.of(chunk), r.routing_key.of(chunk)) == address
            };
            let len = 1 + records[first + 1..].iter().take_while(|r| alike(r)).count();
            self.follow(&way, batch, first as u32, len as u32, &routes, routed);
            self.routes = routes;
            first += len;
        }
        routed.exceptions.sort_by_key(|e| e.record);
        routed.exceptions.dedup_by_key(|e| e.record);
    }

    /// Lets `len` records from `record` go where they were routed to.
    fn follow(
        &mut self,
        way: &Way,
        batch: &Arc<Batch>,
        record: u32,
        len: u32,
        routes: &[QueueId],
        routed: &mut Routed,
    ) {
        if way.is_duplicate {
            return self.drop_duplicate(routed);
        }
        // That nobody gets it now is no reason not to keep it.
        let keeps = way.keeps.as_ref();
        let keeps =
            keeps.filter(|_| matches!(way.refusal, None | Some(PublishRefusal::Unroutable)));
        if keeps.is_some_and(|keeps| !self.has_room_to_keep(keeps, batch, record)) {
            return routed.refuse(batch, record, len, PublishRefusal::Full);
        }
        if routes.is_empty() {
            self.counters.unroutable += u64::from(len);
        }
        let refused = routed.exceptions.len();
        match way.refusal {
            Some(refusal) => routed.refuse(batch, record, len, refusal),
            None => {
                for queue in routes {
                    self.place(*queue, batch, record, len, routed);
                }
            }
        }
        if let Some(keeps) = keeps {
            // Each is routed by itself, so it is the latest that was placed if it was.
            let is_placed =
                routed.placements.last().is_some_and(|p| p.record + p.len == record + 1);
            let mut fact = self.keep(keeps, batch, record, None);
            if let Some(Fact::Kept { record: number, .. }) = &mut fact {
                *number = is_placed.then_some(record);
            }
            routed.kept.extend(fact);
        }
        // What was refused may come again.
        if let Some(once) = &way.once
            && routed.exceptions.len() == refused
        {
            let seen = &batch.records[record as usize];
            self.remember(&once.window, once.options.size, once.key, seen, once.durable);
        }
    }

    fn drop_duplicate(&mut self, routed: &mut Routed) {
        self.counters.deduplicated += 1;
        routed.has_duplicates = true;
    }

    /// Where one message goes, or why nowhere.
    fn route(
        &self,
        vhost: &Arc<str>,
        batch: &Batch,
        record: &Record,
        routes: &mut Vec<QueueId>,
    ) -> Way {
        let exchange = batch.exchange(record);
        let mut way = Way::default();
        let mut delays = false;
        if !exchange.is_empty() {
            let (def, dedup) = match self.topology.entrance(vhost, exchange) {
                Err(_) => return way.refused(PublishRefusal::NoExchange),
                Ok((def, _)) if def.internal => {
                    return way.refused(PublishRefusal::InternalExchange);
                }
                Ok(entrance) => entrance,
            };
            way.keeps = Keeps::of(vhost, def, batch.routing_key(record), record.flags);
            way.is_own = way.keeps.is_some();
            delays = def.delayed;
            if let Some(options) = dedup {
                way.is_own = true;
                way.once = self.dedup_key(options, batch, record).map(|key| Once {
                    window: WindowOf::Exchange {
                        vhost: Arc::clone(vhost),
                        name: Arc::clone(&def.name),
                    },
                    options: Arc::clone(options),
                    key,
                    durable: def.durable,
                });
                if let Some(once) = &way.once
                    && self.has_seen(&once.window, &once.key.0)
                {
                    way.is_duplicate = true;
                    return way;
                }
            }
        }
        let key = batch.routing_key(record);
        let mut head = Head::of(self.options.encodings, batch, record);
        let waits = Self::is_to_wait(record, &mut head, delays);
        let route = if waits { Topology::route_now } else { Topology::route };
        let result = if record.flags.has(RecordFlags::MORE_KEYS) {
            way.is_own = true;
            let more = head.more_keys();
            let keys: Vec<&str> = std::iter::once(key).chain(more.iter().map(|k| &**k)).collect();
            route(&self.topology, vhost, exchange, &keys, &mut head, routes)
        } else {
            route(&self.topology, vhost, exchange, &[key], &mut head, routes)
        };
        way.is_own |= head.is_asked;
        if result.is_err() {
            return way.refused(PublishRefusal::NoExchange);
        }
        if routes.is_empty() && record.flags.has(RecordFlags::MANDATORY) {
            return way.refused(PublishRefusal::Unroutable);
        }
        if waits {
            routes.clear();
            routes.extend(self.own_holding(vhost));
        }
        if way.keeps.is_some() && self.is_held(routes) {
            way.keeps = None;
        }
        way
    }

    /// Lets `len` records from `record` into a queue, as far as its limits allow and, if it asks
    /// for that, as far as they were not seen before.
    fn place(
        &mut self,
        id: QueueId,
        batch: &Arc<Batch>,
        record: u32,
        len: u32,
        routed: &mut Routed,
    ) {
        let Some(queue) = self.queues.get(&id) else { return };
        let Some(options) = queue.dedup.clone() else {
            return self.place_all(id, batch, record, len, routed);
        };
        let durable = queue.is_durable();
        let window = WindowOf::Queue(id);
        for at in record..record + len {
            let message = &batch.records[at as usize];
            let key = self.dedup_key(&options, batch, message);
            if key.is_some_and(|(key, _)| self.has_seen(&window, &key)) {
                self.drop_duplicate(routed);
                continue;
            }
            let refused = routed.exceptions.len();
            self.place_all(id, batch, at, 1, routed);
            if let Some(key) = key
                && routed.exceptions.len() == refused
            {
                self.remember(&window, options.size, key, message, durable);
            }
        }
    }

    /// Lets `len` records from `record` into a queue, as far as its limits allow.
    pub(super) fn place_all(
        &mut self,
        id: QueueId,
        batch: &Arc<Batch>,
        record: u32,
        len: u32,
        routed: &mut Routed,
    ) {
        let (mut at, end) = (record, record + len);
        while at < end {
            let Some(queue) = self.queues.get_mut(&id) else { return };
            let taken = queue.room_for(batch, at, end - at);
            if taken > 0 {
                self.let_in(id, batch, at, taken, routed);
                at += taken;
            }
            if at < end {
                self.turn_away(id, batch, at);
                routed.refuse(batch, at, 1, PublishRefusal::Full);
                at += 1;
            }
        }
    }

    /// Dead-letters a message that a full queue refuses, if the queue is to do so.
    pub(super) fn turn_away(&mut self, id: QueueId, batch: &Arc<Batch>, record: u32) {
        let options = self.queues.get(&id).map(|q| q.options());
        if options.is_some_and(|o| {
            o.overflow == Overflow::RejectPublishDlx && o.dead_letter_exchange.is_some()
        }) {
            let run = self.arriving(batch, record, 1);
            self.dead_letter(id, &run, Origin::Publisher, DeathReason::MaxLength);
        }
    }

    /// A run of messages that have no sequence yet.
    fn arriving(&self, batch: &Arc<Batch>, record: u32, len: u32) -> Run {
        Run {
            first: 0,
            len,
            batch: Arc::clone(batch),
            record,
            enqueued_at: self.clock.log,
            delivery_count: 0,
            annotations: None,
            logged_at: 0,
        }
    }

    /// Takes `len` records from `record`, for which there is room.
    fn let_in(
        &mut self,
        id: QueueId,
        batch: &Arc<Batch>,
        record: u32,
        len: u32,
        routed: &mut Routed,
    ) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.pending += u64::from(len);
        queue.pending_bytes += batch.body_bytes(record, len);
        let durable = batch.records[record as usize].flags.has(RecordFlags::DURABLE);
        if !(durable && queue.is_durable()) {
            let annotations = routed.annotations.clone();
            let run = Run { annotations, ..self.arriving(batch, record, len) };
            routed.effects.push(After::Volatile { queue: id, run });
            return;
        }
        let first = queue.number(len);
        match routed.placements.last_mut() {
            Some(p)
                if p.queue == id
                    && p.record + p.len == record
                    && p.first + u64::from(p.len) == first =>
            {
                p.len += len;
            }
            _ => routed.placements.push(Placement { queue: id, first, record, len }),
        }
        routed.ready(id, first, u64::from(len));
    }
}

impl Routed {
    /// How messages come into their queues of which none is for the log.
    pub(super) fn into_transient(self) -> Vec<After> {
        debug_assert!(self.placements.is_empty() && self.kept.is_empty());
        self.effects
    }

    /// Of messages with annotations.
    pub(super) fn annotated(annotations: Arc<Annotations>) -> Routed {
        Routed { annotations: Some(annotations), ..Routed::default() }
    }

    fn ready(&mut self, id: QueueId, first: Sequence, len: u64) {
        match self.effects.last_mut() {
            // What came in one after the other becomes ready as one.
            Some(After::Ready { queue, first: f, len: l }) if *queue == id && *f + *l == first => {
                *l += len;
            }
            _ => self.effects.push(After::Ready { queue: id, first, len }),
        }
    }

    fn refuse(&mut self, batch: &Arc<Batch>, record: u32, len: u32, refusal: PublishRefusal) {
        self.exceptions.extend((record..record + len).map(|record| PublishException {
            batch: Arc::clone(batch),
            record,
            refusal,
        }));
    }
}

impl super::queue::Queue {
    /// How many of the messages a queue that refuses when full may take.
    pub(super) fn room_for(&self, batch: &Batch, record: u32, len: u32) -> u32 {
        let options = self.options();
        if options.overflow == Overflow::DropHead {
            return len;
        }
        let held = self.ready.len() + self.pending;
        let by_length = options.length_max.map_or(u64::from(len), |max| max.saturating_sub(held));
        let mut taken = len.min(u32::try_from(by_length).unwrap_or(u32::MAX));
        if let Some(max) = options.bytes_max {
            let mut bytes = self.ready_bytes + self.pending_bytes;
            let records = &batch.records[record as usize..(record + taken) as usize];
            taken = records
                .iter()
                .take_while(|r| {
                    bytes += u64::from(r.body.len);
                    bytes <= max
                })
                .count() as u32;
        }
        taken
    }
}

impl Dispatcher {
    /// Keeps a batch until its transaction is committed.
    fn add_to_transaction(
        &mut self,
        session: SessionId,
        transaction: TransactionId,
        token: Token,
        batch: Arc<Batch>,
    ) -> Result<Reply, CommandError> {
        self.transaction(session, transaction)?.publish(token, batch)?;
        Ok(Reply::Published { exceptions: Vec::new() })
    }
}
