//! The dispatcher: what the leader decides.
//!
//! It exists on the leader only and is built anew each term. It holds order, credit, checkouts
//! and timers; it routes, and decides what is delivered, expired, dropped and dead-lettered. What
//! it decides about durable messages it gathers as facts; the entry is proposed, and once it is
//! committed the ledger applies it and [`Dispatcher::committed`] lets take effect what waited for
//! it. Transient messages, and everything of queues that are not durable, take effect at once and
//! are never seen by the log.
//!
//! The order of a session's effects is kept by one rule: whatever must not overtake an earlier
//! durable effect of its session waits for the entry that holds it ([`Dispatcher::behind`]).

mod checkouts;
mod choose;
mod client_state;
mod clients;
mod consumer;
mod cursors;
mod deadletter;
mod dedup;
mod delayed;
mod deliver;
mod kept;
mod own;
mod pages;
mod passed;
mod policies;
mod publish;
mod queue;
mod ranges;
mod ready;
mod session;
mod settings;
mod settle;
mod timers;
mod topology;
mod transaction;
mod turns;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use isthmus_model::{
    CommandError, ConsumerId, Delivery, DetachReason, Encodings, QueueId, Reply, Sequence,
    SessionId, SettingKey, SharedOptions, Time, Token,
};
use slab::Slab;

use self::clients::OpenClients;
use self::consumer::Consumer;
use self::kept::Keeping;
use self::pages::Pages;
use self::queue::Queue;
use self::session::Session;
use self::timers::Timers;
use crate::dedup::{Window, WindowOf};
use crate::kept::Kept;
use crate::policy::Policies;
use crate::topology::Topology;
use crate::{Entry, Fact, Ledger, Run};

pub use self::clients::ClientStatus;
pub use self::queue::{QueueStatus, QueueTotals};

/// What the dispatcher has to say to a session.
#[derive(Debug)]
pub enum Output {
    /// A request is committed, or refused.
    Done {
        /// The request's token.
        token: Token,
        /// What came of it.
        result: Result<Reply, CommandError>,
    },
    /// Messages for one of its consumers.
    Deliver {
        /// The messages.
        delivery: Delivery,
        /// What they count against the session's outbox bound, until [`Dispatcher::written`]
        /// says that they are written.
        bytes: u64,
    },
    /// A consumer's explicit credit is used up or given up.
    CreditState {
        /// Whose.
        consumer: ConsumerId,
        /// What is left.
        credit: u32,
        /// Whether it was given up.
        drained: bool,
        /// Messages still ready in its queue.
        ready: u64,
    },
    /// Its virtual host is gone: the session is to end.
    VhostDeleted,
    /// Another connection has opened its lasting session: the session has ended.
    TakenOver,
    /// An operator has ended its lasting session: the session has ended.
    SessionEnded,
    /// A consumer was ended.
    Detached {
        /// Which.
        consumer: ConsumerId,
        /// Why.
        reason: DetachReason,
    },
}

/// Something that operators should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A message was dropped: it was delivered as often as its queue allows, and the queue has no
    /// dead-letter target.
    Undeliverable {
        /// The queue's virtual host.
        vhost: Arc<str>,
        /// Its name.
        queue: Arc<str>,
        /// Messages of this queue that ended so since the term began.
        total: u64,
    },
    /// A message that the broker itself has sent to an exchange (a dead letter, or one that was
    /// delayed) is not kept there as it asks for: its virtual host keeps as much as it may.
    NotKept {
        /// The exchange's virtual host.
        vhost: Arc<str>,
        /// Its name.
        exchange: Arc<str>,
        /// Messages of all exchanges that this happened to since the term began.
        total: u64,
    },
}

/// The two clocks of a turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// The node's monotonic time, in which sessions give deadlines.
    pub monotonic: Time,
    /// Log time, in which messages age. Unix time, as nearly as a clock can be that never goes
    /// back.
    pub log: Time,
}

/// What a dispatcher is made with.
#[derive(Clone, Copy)]
pub struct DispatcherOptions {
    /// How the properties of messages are read.
    pub encodings: Encodings,
    /// Bytes that may wait in a session's outbox before its consumers are passed over.
    pub outbox_bytes_max: u64,
    /// Bytes of pages that are kept in memory.
    pub page_bytes_max: u64,
    /// Bytes that the exchanges of a virtual host may keep ([`RecordFlags::RETAIN`]), about.
    ///
    /// [`RecordFlags::RETAIN`]: isthmus_model::RecordFlags::RETAIN
    pub retained_bytes_max: u64,
    /// The key that names are made with: random, so that clients cannot guess each other's.
    pub name_seed: [u8; 32],
    /// The topic exchange of each virtual host by which the broker tells of itself
    /// ([`Dispatcher::announce`]), if it does.
    pub own_exchange: Option<&'static str>,
}

/// Counts since the term began; none ever goes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages published, routed or not.
    pub published: u64,
    /// Messages that no queue was bound for.
    pub unroutable: u64,
    /// Deliveries to consumers.
    pub delivered: u64,
    /// Deliveries of messages that had been delivered before.
    pub redelivered: u64,
    /// Messages accepted.
    pub acknowledged: u64,
    /// Messages that were seen before and went nowhere, or not into a queue.
    pub deduplicated: u64,
    /// Messages that expired.
    pub expired: u64,
    /// Messages that left a queue for a dead-letter exchange.
    pub dead_lettered: u64,
    /// Messages dropped: rejected, expired or over a limit, with no dead-letter target.
    pub dropped: u64,
    /// Those of the dropped that were delivered as often as their queue allows.
    pub dropped_undeliverable: u64,
    /// Bytes of the bodies of messages published.
    pub published_bytes: u64,
    /// Bytes of the bodies of messages delivered.
    pub delivered_bytes: u64,
    /// Sessions of clients that were opened ([`OpenSession`](isthmus_model::OpenSession)).
    pub sessions_opened: u64,
    /// Those that ended because their client stayed away for longer than they are kept.
    pub sessions_expired: u64,
}

/// What waits for an entry's commit.
#[derive(Debug)]
enum After {
    /// Durable messages of this entry become ready.
    Ready { queue: QueueId, first: Sequence, len: u64 },
    /// Messages whose failed delivery was counted become ready again.
    Returned { queue: QueueId, first: Sequence, len: u64 },
    /// Messages that are not in the log come into a queue.
    Volatile { queue: QueueId, run: Run },
    /// Something is said to a session.
    Say { session: SessionId, output: Output },
    /// A session's deferred requests go on.
    Resume { session: SessionId },
    /// A policy has changed.
    Policy { key: SettingKey },
    /// A virtual host's settings are gone with it.
    VhostForgotten { vhost: Arc<str> },
}

/// Facts for the next entry, and what waits for its commit.
#[derive(Debug, Default)]
struct Gather {
    facts: Vec<Fact>,
    after: Vec<After>,
    bytes: u64,
    /// How often a fact was added or extended.
    written: u64,
}

/// See the module's documentation.
pub struct Dispatcher {
    options: DispatcherOptions,
    term: u64,
    clock: Clock,
    topology: Topology,
    next_queue: QueueId,
    /// Each on its own: the table has room for up to twice as many as there are, and moves all of
    /// them when it grows.
    queues: HashMap<QueueId, Box<Queue>>,
    /// The options of the queue that was declared last.
    declared_last: SharedOptions,
    policies: Policies,
    /// Deduplication windows of exchanges and queues, durable or not.
    windows: HashMap<WindowOf, Window>,
    keeping: Keeping,
    /// What the broker tells of itself, the latest of each key: one for all virtual hosts.
    announced: Kept,
    /// Messages that the broker itself has sent and for which there was no room to keep them.
    not_kept: u64,
    /// Each on its own: the table is half empty at times.
    sessions: HashMap<SessionId, Box<Session>>,
    clients: OpenClients,
    consumers: Slab<Consumer>,
    next_consumer_number: u64,
    next_epoch: u64,
    names_made: u64,
    gather: Gather,
    /// Messages that were moved one by one since the current call of [`Dispatcher::dispatch`]
    /// began.
    moved: u64,
    /// Bytes that were gathered when the current call of [`Dispatcher::dispatch`] began.
    gathered_before: u64,
    /// What waits for each entry that is proposed and not committed, oldest first.
    in_flight: VecDeque<Vec<After>>,
    proposed: u64,
    committed: u64,
    /// Queues with something new to deliver, to drop or to expire.
    dirty: Vec<QueueId>,
    /// Sessions with a request that was begun and goes on with the next turn.
    unfinished: Vec<SessionId>,
    timers: Timers,
    pages: Pages,
    /// Queues of which there is more to look at in the next turn, behind all others.
    to_look_at: Vec<QueueId>,
    /// Messages that consumers which choose have looked at in this turn.
    looked: u64,
    /// How many of one queue these may be.
    looks_of_queue: u64,
    outputs: Vec<(SessionId, Output)>,
    notes: Vec<Note>,
    counters: Counters,
    /// Kept to save allocations on the hot path.
    routes: Vec<QueueId>,
}

impl Dispatcher {
    /// A dispatcher for a term that begins, over what the ledger holds. The term's own entry
    /// ([`Fact::Term`]) must be applied already.
    ///
    /// Log time goes on from the ledger's where `clock` is behind it.
    pub fn new(options: DispatcherOptions, ledger: &Ledger, clock: Clock) -> Dispatcher {
        let clock = Clock { log: clock.log.max(ledger.time()), ..clock };
        let mut dispatcher = Dispatcher {
            options,
            term: ledger.term(),
            clock,
            topology: ledger.topology().clone(),
            next_queue: ledger.next_queue(),
            queues: HashMap::new(),
            declared_last: SharedOptions::default(),
            policies: Policies::of(ledger.settings()),
            windows: ledger
                .windows()
                .iter()
                .map(|(of, window)| (of.clone(), (**window).clone()))
                .collect(),
            keeping: Keeping::recover(ledger),
            announced: Kept::default(),
            not_kept: 0,
            sessions: HashMap::new(),
            clients: OpenClients::recovered(ledger.clients()),
            consumers: Slab::new(),
            next_consumer_number: 1,
            next_epoch: 1,
            names_made: 0,
            gather: Gather::default(),
            moved: 0,
            gathered_before: 0,
            in_flight: VecDeque::new(),
            proposed: 0,
            committed: 0,
            dirty: Vec::new(),
            unfinished: Vec::new(),
            timers: Timers::default(),
            pages: Pages::new(options.page_bytes_max),
            to_look_at: Vec::new(),
            looked: 0,
            looks_of_queue: choose::LOOKS_OF_QUEUE,
            outputs: Vec::new(),
            notes: Vec::new(),
            counters: Counters::default(),
            routes: Vec::new(),
        };
        for vhost in ledger.topology().vhosts() {
            for entry in ledger.topology().all_queues(vhost).unwrap_or_default() {
                let def = Arc::clone(&entry.def);
                let mut queue = Queue::new(vhost, def, entry.id, options.encodings);
                queue.set_policies(dispatcher.policies.of_queue(vhost, &entry.def));
                if let Some(held) = ledger.queue(entry.id) {
                    queue.recover(held);
                }
                dispatcher.queues.insert(entry.id, Box::new(queue));
                dispatcher.in_use(entry.id);
                dispatcher.mark_dirty(entry.id);
            }
        }
        dispatcher.govern_everything(ledger);
        for vhost in ledger.topology().vhosts() {
            dispatcher.declare_own_exchange(vhost);
        }
        dispatcher
    }

    /// Sets the time of this turn; clocks that go back are held still.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock.monotonic = self.clock.monotonic.max(clock.monotonic);
        self.clock.log = self.clock.log.max(clock.log);
    }

    /// The entry to propose next, if there is anything to propose. Entries must be committed in
    /// the order in which they were taken.
    pub fn take_entry(&mut self) -> Option<Entry> {
        if self.gather.facts.is_empty() {
            return None;
        }
        #[cfg(feature = "planted-bugs")]
        if crate::planted::says_too_early() {
            self.say_what_waits();
        }
        let gather = std::mem::take(&mut self.gather);
        self.gathered_before = 0;
        self.in_flight.push_back(gather.after);
        self.proposed += 1;
        Some(Entry { time: self.clock.log, facts: gather.facts })
    }

    /// Says what should wait for the next entry's commit.
    #[cfg(feature = "planted-bugs")]
    fn say_what_waits(&mut self) {
        for after in std::mem::take(&mut self.gather.after) {
            match after {
                After::Say { session, output } => self.say(session, output),
                after => self.gather.after.push(after),
            }
        }
    }

    /// About how many bytes the next entry has so far.
    pub fn gathered_bytes(&self) -> u64 {
        self.gather.bytes
    }

    /// Whether anything waits for the next entry's commit. An entry that nothing waits for
    /// (acknowledgements, mostly) may be proposed together with a later one.
    pub fn is_awaited(&self) -> bool {
        !self.gather.after.is_empty()
    }

    /// Whether there is anything to propose.
    pub fn has_gathered(&self) -> bool {
        !self.gather.facts.is_empty()
    }

    /// Entries taken and not committed yet.
    pub fn entries_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The oldest entry taken is committed, and the ledger has applied it.
    ///
    /// # Panics
    /// If none was taken.
    pub fn committed(&mut self, ledger: &Ledger) {
        let after = self.in_flight.pop_front();
        self.committed += 1;
        for after in after.expect("an entry is committed that was never proposed") {
            self.take_effect(ledger, after);
        }
    }

    fn take_effect(&mut self, ledger: &Ledger, after: After) {
        match after {
            After::Ready { queue, first, len } => {
                if let Some(q) = self.queues.get_mut(&queue) {
                    q.came_in(ledger, first, len);
                    self.mark_dirty(queue);
                }
            }
            After::Returned { queue, first, len } => {
                if let Some(q) = self.queues.get_mut(&queue) {
                    q.returning -= len;
                    q.came_back(ledger, first, len);
                    self.mark_dirty(queue);
                }
            }
            After::Volatile { queue, run } => self.enter_volatile(queue, run),
            After::Say { session, output } => self.say(session, output),
            After::Resume { session } => self.resume(ledger, session),
            After::Policy { key } => self.policy_changed(ledger, &key),
            After::VhostForgotten { vhost } => self.vhost_forgotten(&vhost),
        }
    }

    /// Lets `after` take effect behind all that `session` has outstanding: at once, if it has
    /// nothing. It waits for the session's own latest entry and not for the newest of all, so that
    /// what the session does once that is committed cannot overtake it.
    fn behind(&mut self, ledger: &Ledger, session: SessionId, after: After) {
        let last = self.sessions.get(&session).map_or(0, |s| s.last_entry);
        let Some(ahead) = last.checked_sub(self.committed + 1) else {
            return self.take_effect(ledger, after);
        };
        match self.in_flight.get_mut(ahead as usize) {
            Some(entry) => entry.push(after),
            None => self.gather.after.push(after),
        }
    }

    /// Adds a fact of about `bytes` bytes to the next entry.
    fn propose(&mut self, fact: Fact, bytes: u64) {
        self.gather.bytes += bytes;
        self.gather.written += 1;
        self.gather.facts.push(fact);
    }

    /// Notes that `session` has caused facts of the next entry, if any were gathered since
    /// [`Gather::written`] was as given. Joining the fact of another session counts.
    fn touch_log_since(&mut self, written: u64, session: SessionId) {
        if self.gather.written != written {
            self.touch_log(session);
        }
    }

    /// Notes that `session` has caused a fact of the next entry.
    fn touch_log(&mut self, session: SessionId) {
        assert!(!self.gather.facts.is_empty(), "a session waits for an entry without facts");
        let next = self.proposed + 1;
        if let Some(session) = self.sessions.get_mut(&session) {
            session.last_entry = next;
        }
    }

    /// Whether an effect of `session` waits for a commit.
    fn is_outstanding(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.last_entry > self.committed)
    }

    fn mark_dirty(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id)
            && !queue.dirty
        {
            queue.dirty = true;
            self.dirty.push(id);
        }
    }

    fn say(&mut self, session: SessionId, output: Output) {
        self.outputs.push((session, output));
    }

    /// Answers a request: behind what the session has outstanding, at once if it has nothing.
    fn answer(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        result: Result<Reply, CommandError>,
    ) {
        if token == Token::SILENT && result.is_ok() {
            return;
        }
        let output = Output::Done { token, result };
        self.behind(ledger, session, After::Say { session, output });
    }

    /// Answers a request once the facts that it caused, if any were gathered since
    /// [`Gather::written`] was as given, are committed.
    fn answer_since(
        &mut self,
        ledger: &Ledger,
        written: u64,
        session: SessionId,
        token: Token,
        result: Result<Reply, CommandError>,
    ) {
        if self.gather.written == written {
            self.answer(ledger, session, token, result);
        } else {
            self.answer_committed(ledger, session, token, result);
        }
    }

    /// Answers a request once everything gathered or in flight is committed, whoever caused it.
    pub fn answer_committed(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        result: Result<Reply, CommandError>,
    ) {
        if token == Token::SILENT && result.is_ok() {
            return;
        }
        self.wait_for_everybody(session);
        self.answer(ledger, session, token, result);
    }

    /// Lets what `session` is told from now on wait for everything gathered or in flight, whoever
    /// caused it.
    fn wait_for_everybody(&mut self, session: SessionId) {
        if let Some(s) = self.sessions.get_mut(&session) {
            // Later answers to this session wait for the same entry, so that none overtakes.
            let newest = self.proposed + u64::from(!self.gather.facts.is_empty());
            s.last_entry = s.last_entry.max(newest);
        }
    }

    /// What there is to say, in order of saying for each session.
    pub fn take_outputs(&mut self) -> Vec<(SessionId, Output)> {
        std::mem::take(&mut self.outputs)
    }

    /// Gives the vector of [`Dispatcher::take_outputs`] back, to be filled again.
    pub fn give_back(&mut self, mut outputs: Vec<(SessionId, Output)>) {
        if self.outputs.is_empty() {
            outputs.clear();
            self.outputs = outputs;
        }
    }

    /// What operators should hear of.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Counts since the term began.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The leader's view of exchanges, queues and bindings, what is not committed yet included.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// How every queue is that clients can know of, in order of ids.
    pub fn queue_statuses(&self) -> Vec<QueueStatus> {
        let shown = self.queues.values().filter(|queue| queue.held.is_none());
        let mut statuses: Vec<_> = shown.map(|queue| queue.status()).collect();
        statuses.sort_by_key(|s| s.id);
        statuses
    }

    /// What all queues have together that clients can know of.
    pub fn queue_totals(&self) -> QueueTotals {
        let mut totals = QueueTotals::default();
        for queue in self.queues.values().filter(|queue| queue.held.is_none()) {
            totals.ready += queue.ready.len();
            totals.ready_bytes += queue.ready_bytes;
            totals.unacked += queue.checkouts.len();
        }
        totals
    }

    /// How many consumers there are.
    pub fn consumer_count(&self) -> usize {
        self.queues.values().map(|queue| queue.consumers.len()).sum()
    }
}

#[cfg(test)]
mod tests;
