//! Random sessions against a model that knows, for every message in every queue, where it is.
//!
//! The model does not predict who gets what: it sees what is delivered and says whether it may be.
//! It knows the log as entries of single-message changes and applies them at the same moments.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use isthmus_model::{
    Attach, AttachMode, Candidate, Credit, ExchangeKind, Filter, Outcome, Reply, SessionId,
    SettingKind, SharedFilter, Time, Token, Value, WindowId,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::rig::*;
use crate::dispatcher::Output;
use crate::testing::cases;

/// "b" dead-letters into "dead" and looks at priorities; a policy that changes limits the deliveries
/// of "a"; all but "v" are durable.
const QUEUES: [&str; 4] = ["a", "b", "v", "dead"];
const A: usize = 0;
const B: usize = 1;
const V: usize = 2;
const DEAD: usize = 3;
const SESSIONS: [&str; 3] = ["s0", "s1", "s2"];
const WINDOW: u32 = 1;
const TX: u32 = 1;
/// Classes of messages that consumers may want apart.
const CLASSES: u64 = 3;
/// The priorities that "b" tells apart; messages have some above.
const PRIORITY_MAX: u8 = 2;

#[derive(Clone, Debug)]
enum Op {
    /// Messages to "a", "b", "v", or to "a" and "v" together; each durable or not.
    Publish {
        session: usize,
        tx: bool,
        messages: Vec<(usize, bool)>,
    },
    Attach {
        session: usize,
        consumer: u64,
        queue: usize,
        credit: Kind,
        /// Wants only messages of this class.
        class: Option<u64>,
    },
    /// A look at what is ready, which takes nothing.
    Browse {
        session: usize,
        consumer: u64,
        queue: usize,
        class: Option<u64>,
        credit: u32,
    },
    Detach {
        session: usize,
        consumer: u64,
    },
    Credit {
        session: usize,
        consumer: u64,
        credit: Kind,
    },
    Window {
        session: usize,
        limit: Option<u32>,
    },
    /// `len` deliveries from the one `back` places before the latest, of whichever session;
    /// settled before or not.
    Settle {
        session: usize,
        tx: bool,
        back: usize,
        len: usize,
        outcome: Outcome,
    },
    CommitTx {
        session: usize,
    },
    Rollback {
        session: usize,
    },
    Purge {
        session: usize,
        queue: usize,
    },
    Close {
        session: usize,
    },
    /// How many deliveries of a message of "a" may fail.
    Limit {
        session: usize,
        limit: Option<u32>,
    },
    Propose,
    Commit,
    Dispatch,
    /// What is in memory is written to pages and forgotten, but for what the last `young` entries
    /// brought.
    PageOut {
        page_bytes: u64,
        young: usize,
    },
    /// What is in pages is written to new ones.
    Compact {
        page_bytes: u64,
    },
    Crash,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// At most so many unsettled.
    Limit(u32),
    /// As many as the session's window allows.
    Shared,
    /// So many and no more.
    Explicit(u32),
    /// As settled, without limit.
    Settled,
    /// Shown so many, and the end of it.
    Shown(u32),
}

impl Kind {
    fn credit(self) -> Credit {
        match self {
            Kind::Limit(n) => Credit::Window { limit: Some(n), shared: None },
            Kind::Shared => Credit::Window { limit: None, shared: Some(WindowId(WINDOW)) },
            Kind::Explicit(credit) => {
                Credit::Explicit { credit, drain: false, deadline: Time::NEVER }
            }
            Kind::Settled => Credit::Unlimited,
            Kind::Shown(credit) => Credit::Explicit { credit, drain: true, deadline: Time(0) },
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let session = || 0..SESSIONS.len();
    let queue = || 0..QUEUES.len();
    let kind = || {
        prop_oneof![
            (0u32..4).prop_map(Kind::Limit),
            Just(Kind::Shared),
            (1u32..4).prop_map(Kind::Explicit),
            Just(Kind::Settled)
        ]
    };
    let outcome = prop_oneof![
        4 => Just(Outcome::Accept),
        2 => Just(Outcome::Requeue),
        2 => Just(Outcome::Reject),
        1 => any::<bool>().prop_map(|delivery_failed| Outcome::Modify {
            delivery_failed,
            undeliverable_here: false
        }),
    ];
    let tx = || prop::bool::weighted(0.2);
    let class = || prop::option::of(0..CLASSES);
    prop_oneof![
        6 => (session(), tx(), vec((0usize..4, any::<bool>()), 1..5))
            .prop_map(|(session, tx, messages)| Op::Publish { session, tx, messages }),
        3 => (session(), 0u64..3, queue(), kind(), class()).prop_map(
            |(session, consumer, queue, credit, class)| {
                Op::Attach { session, consumer, queue, credit, class }
            }
        ),
        1 => (session(), 0u64..3, queue(), class(), 1u32..9).prop_map(
            |(session, consumer, queue, class, credit)| {
                Op::Browse { session, consumer, queue, class, credit }
            }
        ),
        1 => (session(), 0u64..3).prop_map(|(session, consumer)| Op::Detach { session, consumer }),
        1 => (session(), 0u64..3, kind())
            .prop_map(|(session, consumer, credit)| Op::Credit { session, consumer, credit }),
        1 => (session(), prop::option::of(0u32..4))
            .prop_map(|(session, limit)| Op::Window { session, limit }),
        6 => (session(), tx(), 0usize..12, 1usize..6, outcome)
            .prop_map(|(session, tx, back, len, outcome)| Op::Settle { session, tx, back, len, outcome }),
        1 => session().prop_map(|session| Op::CommitTx { session }),
        1 => session().prop_map(|session| Op::Rollback { session }),
        1 => (session(), queue()).prop_map(|(session, queue)| Op::Purge { session, queue }),
        1 => session().prop_map(|session| Op::Close { session }),
        1 => (session(), prop::option::of(0u32..3))
            .prop_map(|(session, limit)| Op::Limit { session, limit }),
        3 => Just(Op::Propose),
        4 => Just(Op::Commit),
        8 => Just(Op::Dispatch),
        2 => (0u64..6, 0usize..4)
            .prop_map(|(page_bytes, young)| Op::PageOut { page_bytes, young }),
        1 => (0u64..6).prop_map(|page_bytes| Op::Compact { page_bytes }),
        1 => Just(Op::Crash),
    ]
}

/// A message in a queue.
#[derive(Clone, Debug)]
struct Copy {
    queue: usize,
    body: String,
    /// As its queue sees it.
    priority: u8,
    /// Who published it, and as which of all messages; `None` for dead letters.
    published: Option<(SessionId, u64)>,
    /// Whether message and queue are durable.
    logged: bool,
    /// What is committed: it is in the log, with so many failed deliveries.
    in_log: bool,
    count_in_log: u32,
    /// Failed deliveries as consumers see them.
    count: u32,
    /// It may have been delivered before.
    delivered: bool,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// On its way in.
    Coming,
    Ready,
    Held(Hold),
    /// On its way back.
    Returning,
    /// Out of the queue; out of the log once that is committed.
    Gone,
}

#[derive(Clone, Debug)]
struct Hold {
    got: Got,
    session: SessionId,
    /// The number of the consumer.
    consumer: u64,
    shared: bool,
}

/// What an entry does once it is committed, by the index of the message.
#[derive(Clone, Copy, Debug)]
enum Change {
    Enqueue(usize),
    /// Not in the log, but waits for it.
    Arrive(usize),
    Settle(usize),
    Count(usize),
    Limit(Option<u32>),
    Move {
        from: usize,
        to: usize,
    },
}

#[derive(Debug)]
struct Consumer {
    number: u64,
    queue: usize,
    mode: AttachMode,
    kind: Kind,
    unsettled: u32,
    class: Option<u64>,
    /// Of one that is only shown messages: what was ready when it came and has not been shown.
    to_show: BTreeSet<usize>,
}

impl Consumer {
    fn wants(&self, copy: &Copy) -> bool {
        self.class.is_none_or(|class| class == class_of(&copy.body))
    }
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    /// The latest entry with a change of this session.
    last_entry: u64,
    consumers: BTreeMap<u64, Consumer>,
    window: Option<u32>,
    window_used: u32,
    tx_messages: Vec<Vec<(usize, bool, String)>>,
    tx_settled: Vec<(Got, Outcome)>,
}

impl Session {
    /// How many more deliveries a consumer may get.
    fn credit(&self, consumer: &Consumer) -> u32 {
        let settles = consumer.mode == AttachMode::Consume;
        match consumer.kind {
            Kind::Shown(n) => n,
            Kind::Limit(n) if settles => n.saturating_sub(consumer.unsettled),
            Kind::Shared if settles => {
                self.window.map_or(u32::MAX, |n| n.saturating_sub(self.window_used))
            }
            Kind::Explicit(n) => n,
            _ => u32::MAX,
        }
    }
}

/// An answer that is owed.
#[derive(Debug)]
struct Owed {
    session: SessionId,
    /// Not before this entry is committed.
    entry: u64,
    /// How many messages it tells of, if it does.
    messages: Option<u64>,
}

struct Model {
    rig: Rig,
    sessions: Vec<Session>,
    copies: Vec<Copy>,
    gathered: Vec<Change>,
    in_flight: VecDeque<Vec<Change>>,
    proposed: u64,
    committed: u64,
    owed: BTreeMap<Token, Owed>,
    /// Every delivery of every term.
    deliveries: Vec<Got>,
    /// Messages with a name, and messages that took effect: later in a transaction.
    published: u64,
    taken_in: u64,
    consumers: u64,
    /// How many deliveries of a message of "a" may fail.
    limit: Option<u32>,
    /// The latest message of a publisher, a priority and a class that a queue delivered for the
    /// first time.
    first_deliveries: BTreeMap<(usize, SessionId, u8, u64), u64>,
    /// Messages that one queue is looked through for in a turn.
    looks: u64,
}

impl Model {
    fn new(looks: u64) -> Model {
        let mut rig = Rig::new();
        rig.open("admin");
        rig.declare("admin", queue("a"));
        let b = queue_with("b", |o| {
            dead_letters_to(o, "dead");
            o.priority_max = Some(PRIORITY_MAX);
        });
        rig.declare("admin", b);
        rig.declare("admin", queue("dead"));
        rig.declare_exchange("admin", exchange("both", ExchangeKind::Fanout));
        rig.bind("admin", "both", "", "a");
        rig.run();
        let mut model = Model {
            rig,
            sessions: Vec::new(),
            copies: Vec::new(),
            gathered: Vec::new(),
            in_flight: VecDeque::new(),
            proposed: 0,
            committed: 0,
            owed: BTreeMap::new(),
            deliveries: Vec::new(),
            published: 0,
            taken_in: 0,
            consumers: 0,
            limit: None,
            first_deliveries: BTreeMap::new(),
            looks,
        };
        model.begin_term();
        model
    }

    /// What is not in the log is made anew.
    fn begin_term(&mut self) {
        self.rig.dispatcher.looks_of_queue = self.looks;
        self.rig.open("admin");
        self.rig.declare("admin", volatile_queue("v"));
        self.rig.bind("admin", "both", "", "v");
        self.rig.run();
        self.sessions = SESSIONS.iter().map(|name| open(&mut self.rig, name)).collect();
    }

    fn owe(&mut self, session: usize, token: Token, messages: Option<u64>) {
        let Session { id, last_entry, .. } = self.sessions[session];
        let owed = Owed { session: id, entry: last_entry, messages };
        assert!(self.owed.insert(token, owed).is_none());
    }

    fn carry_out(&mut self, op: &Op) {
        match op {
            Op::Publish { session, tx, messages } => self.publish(*session, *tx, messages),
            Op::Attach { session, consumer, queue, credit, class } => {
                self.attach(*session, *consumer, *queue, *credit, *class);
            }
            Op::Browse { session, consumer, queue, class, credit } => {
                self.attach(*session, *consumer, *queue, Kind::Shown(*credit), *class);
            }
            Op::Detach { session, consumer } => {
                let token = self.rig.detach(SESSIONS[*session], *consumer);
                self.sessions[*session].consumers.remove(consumer);
                self.owe(*session, token, None);
            }
            Op::Credit { session, consumer, credit } => {
                self.rig.credit(SESSIONS[*session], *consumer, credit.credit());
                if let Some(consumer) = self.sessions[*session].consumers.get_mut(consumer) {
                    // Whatever is asked for now, the end is not.
                    consumer.kind = *credit;
                }
            }
            Op::Window { session, limit } => {
                self.rig.window(SESSIONS[*session], WINDOW, *limit);
                self.sessions[*session].window = *limit;
            }
            Op::Settle { session, tx, back, len, outcome } => {
                let from = self.deliveries.len().saturating_sub(back + 1);
                let chosen: Vec<Got> = self.deliveries[from..].iter().take(*len).cloned().collect();
                self.settle(*session, *tx, &chosen, *outcome);
            }
            Op::CommitTx { session } => {
                let token = self.rig.commit_tx(SESSIONS[*session], TX);
                for messages in std::mem::take(&mut self.sessions[*session].tx_messages) {
                    self.take_in(*session, &messages);
                }
                let settled = std::mem::take(&mut self.sessions[*session].tx_settled);
                self.settle_now(*session, &settled);
                self.owe(*session, token, None);
            }
            Op::Rollback { session } => {
                let token = self.rig.rollback(SESSIONS[*session], TX);
                self.sessions[*session].tx_messages.clear();
                self.sessions[*session].tx_settled.clear();
                self.owe(*session, token, None);
            }
            Op::Purge { session, queue } => self.purge(*session, *queue),
            Op::Close { session } => self.close(*session),
            Op::Limit { session, limit } => self.set_limit(*session, *limit),
            Op::Propose => self.propose(),
            Op::Commit => self.commit(),
            Op::Dispatch => self.dispatch(),
            Op::PageOut { page_bytes, young } => {
                // Deliveries of pages that have been forgotten are for other tests: here what is
                // done with them happens at once.
                let held: BTreeSet<_> = self
                    .copies
                    .iter()
                    .filter_map(|copy| match &copy.place {
                        Place::Held(hold) => Some((hold.got.queue, hold.got.sequence)),
                        _ => None,
                    })
                    .collect();
                self.rig.page_out(*page_bytes, *young, |queue, sequence| {
                    held.contains(&(queue, sequence))
                });
            }
            Op::Compact { page_bytes } => self.rig.compact(*page_bytes),
            Op::Crash => self.crash(),
        }
    }

    // What sessions ask for.

    fn publish(&mut self, session: usize, tx: bool, messages: &[(usize, bool)]) {
        let named: Vec<(usize, bool, String)> = messages
            .iter()
            .map(|(target, is_durable)| {
                self.published += 1;
                (*target, *is_durable, self.published.to_string())
            })
            .collect();
        let batch = named.iter().map(|(target, is_durable, body)| {
            let key = ["a", "b", "v", "both"][*target];
            let message = if *is_durable { durable(key, body) } else { transient(key, body) };
            let message = message.priority(priority(body));
            if key == "both" { message.through("both") } else { message }
        });
        let name = SESSIONS[session];
        let token = if tx {
            let token = self.rig.publish_in(name, TX, batch);
            self.sessions[session].tx_messages.push(named);
            token
        } else {
            let token = self.rig.publish(name, batch);
            self.take_in(session, &named);
            token
        };
        self.owe(session, token, None);
    }

    fn take_in(&mut self, session: usize, messages: &[(usize, bool, String)]) {
        let id = self.sessions[session].id;
        let mut arriving = Vec::new();
        for (target, is_durable, body) in messages {
            self.taken_in += 1;
            let queues: &[usize] = if *target == 3 { &[0, V] } else { &[*target] };
            for queue in queues {
                let logged = *is_durable && *queue != V;
                let published = Some((id, self.taken_in));
                let copy = self.enter(*queue, body, published, logged);
                if logged {
                    self.change(session, Change::Enqueue(copy));
                } else {
                    arriving.push(copy);
                }
            }
        }
        let last = self.sessions[session].last_entry;
        for copy in arriving {
            match last.checked_sub(self.committed + 1) {
                None => self.copies[copy].place = Place::Ready,
                Some(ahead) => match self.in_flight.get_mut(ahead as usize) {
                    Some(entry) => entry.push(Change::Arrive(copy)),
                    None => self.gathered.push(Change::Arrive(copy)),
                },
            }
        }
    }

    fn enter(
        &mut self,
        queue: usize,
        body: &str,
        published: Option<(SessionId, u64)>,
        logged: bool,
    ) -> usize {
        self.copies.push(Copy {
            queue,
            body: body.into(),
            priority: if queue == B { priority(body).min(PRIORITY_MAX) } else { 0 },
            published,
            logged,
            in_log: false,
            count_in_log: 0,
            count: 0,
            delivered: false,
            place: Place::Coming,
        });
        self.copies.len() - 1
    }

    fn change(&mut self, session: usize, change: Change) {
        self.gathered.push(change);
        self.sessions[session].last_entry = self.proposed + 1;
    }

    fn attach(
        &mut self,
        session: usize,
        consumer: u64,
        queue: usize,
        kind: Kind,
        class: Option<u64>,
    ) {
        self.commit_all(); // an attachment waits for that, and so would what comes after it
        let mode = match kind {
            Kind::Settled => AttachMode::ConsumeSettled,
            Kind::Shown(_) => AttachMode::Browse,
            _ => AttachMode::Consume,
        };
        let credit = kind.credit();
        let look = mode == AttachMode::Browse;
        let filter = class.map(|class| SharedFilter(Arc::new(OfClass(class))));
        let attach = Attach { mode, credit, look, filter, ..consuming(consumer, QUEUES[queue]) };
        let token = self.rig.attach(SESSIONS[session], attach);
        self.consumers += 1;
        let number = self.consumers;
        let consumers = &mut self.sessions[session].consumers;
        consumers.entry(consumer).or_insert_with(|| Consumer {
            number,
            queue,
            mode,
            kind,
            unsettled: 0,
            class,
            to_show: (0..self.copies.len())
                .filter(|i| look && self.copies[*i].queue == queue)
                .filter(|i| matches!(self.copies[*i].place, Place::Ready))
                .collect(),
        });
        self.owe(session, token, None);
    }

    fn settle(&mut self, session: usize, tx: bool, chosen: &[Got], outcome: Outcome) {
        let settled: Vec<_> = chosen.iter().map(|got| (got.clone(), outcome)).collect();
        let name = SESSIONS[session];
        let token = if tx {
            self.sessions[session].tx_settled.extend(settled);
            self.rig.settle_in(name, Some(TX), outcome, chosen)
        } else {
            self.settle_now(session, &settled);
            self.rig.settle(name, outcome, chosen)
        };
        self.owe(session, token, None);
    }

    fn settle_now(&mut self, session: usize, settled: &[(Got, Outcome)]) {
        for (got, outcome) in settled {
            let held = self.copies.iter().position(|c| {
                matches!(&c.place, Place::Held(hold)
                    if (hold.got.queue, hold.got.sequence) == (got.queue, got.sequence)
                        && hold.got.epoch == got.epoch)
            });
            // Settled before, or delivered again since.
            let Some(copy) = held else { continue };
            self.release(copy);
            if let Some(change) = self.end(copy, *outcome) {
                self.change(session, change);
            }
        }
    }

    /// Gives credit back.
    fn release(&mut self, copy: usize) {
        let Place::Held(hold) = &self.copies[copy].place else { unreachable!() };
        let Some(session) = self.sessions.iter_mut().find(|s| s.id == hold.session) else { return };
        if hold.shared {
            session.window_used -= 1;
        }
        if let Some(c) = session.consumers.values_mut().find(|c| c.number == hold.consumer) {
            c.unsettled -= 1;
        }
    }

    /// Ends the delivery of a message; returns what the log has to say of it.
    fn end(&mut self, index: usize, outcome: Outcome) -> Option<Change> {
        let copy = &mut self.copies[index];
        let failed = match outcome {
            Outcome::Requeue => true,
            Outcome::Modify { delivery_failed, .. } => delivery_failed,
            Outcome::Accept => {
                copy.place = Place::Gone;
                return copy.logged.then_some(Change::Settle(index));
            }
            Outcome::Reject => {
                copy.place = Place::Gone;
                let (queue, logged, body) = (copy.queue, copy.logged, copy.body.clone());
                if queue != B {
                    return logged.then_some(Change::Settle(index));
                }
                let to = self.enter(DEAD, &body, None, logged);
                if logged {
                    return Some(Change::Move { from: index, to });
                }
                self.copies[to].place = Place::Ready;
                return None;
            }
        };
        if failed && copy.queue == A && self.limit.is_some_and(|limit| copy.count >= limit) {
            copy.place = Place::Gone;
            return copy.logged.then_some(Change::Settle(index));
        }
        match (failed, copy.logged) {
            (false, _) => copy.place = Place::Ready,
            (true, false) => {
                copy.count += 1;
                copy.place = Place::Ready;
            }
            (true, true) => {
                copy.place = Place::Returning;
                return Some(Change::Count(index));
            }
        }
        None
    }

    fn purge(&mut self, session: usize, queue: usize) {
        self.commit_all();
        let token = self.rig.purge(SESSIONS[session], QUEUES[queue]);
        let mut purged = 0;
        for index in 0..self.copies.len() {
            let copy = &mut self.copies[index];
            if copy.queue == queue && matches!(copy.place, Place::Ready) {
                purged += 1;
                copy.place = Place::Gone;
                if copy.logged {
                    self.change(session, Change::Settle(index));
                }
            }
        }
        self.owe(session, token, Some(purged));
    }

    /// A policy holds once it is committed, and is answered once everything before it is.
    fn set_limit(&mut self, session: usize, limit: Option<u32>) {
        let value = limit.map(|limit| {
            let limit = table(&[("delivery-limit", Value::Int(i64::from(limit)))]);
            table(&[("pattern", Value::String("^a$".into())), ("definition", Value::Map(limit))])
        });
        let token = self.rig.set(SESSIONS[session], SettingKind::Policy, "limit", value);
        self.change(session, Change::Limit(limit));
        self.owe(session, token, None);
    }

    fn close(&mut self, session: usize) {
        self.rig.close(SESSIONS[session]);
        let id = self.sessions[session].id;
        for index in 0..self.copies.len() {
            let copy = &self.copies[index];
            if matches!(&copy.place, Place::Held(hold) if hold.session == id)
                && let Some(change) = self.end(index, Outcome::Requeue)
            {
                self.gathered.push(change);
            }
        }
        self.owed.retain(|_, owed| owed.session != id);
        self.sessions[session] = open(&mut self.rig, SESSIONS[session]);
    }

    // The log.

    fn propose(&mut self) {
        let proposed = self.rig.propose();
        assert_eq!(proposed, !self.gathered.is_empty(), "facts: {:?}", self.gathered);
        if proposed {
            self.proposed += 1;
            self.in_flight.push_back(std::mem::take(&mut self.gathered));
        }
    }

    fn commit(&mut self) {
        assert_eq!(self.rig.commit(), !self.in_flight.is_empty());
        let Some(changes) = self.in_flight.pop_front() else { return };
        self.committed += 1;
        for change in changes {
            match change {
                Change::Enqueue(copy) => {
                    self.copies[copy].in_log = true;
                    self.copies[copy].place = Place::Ready;
                }
                Change::Arrive(copy) => self.copies[copy].place = Place::Ready,
                Change::Settle(copy) => self.copies[copy].in_log = false,
                Change::Limit(limit) => self.limit = limit,
                Change::Count(copy) => {
                    let copy = &mut self.copies[copy];
                    copy.count += 1;
                    copy.count_in_log += 1;
                    copy.place = Place::Ready;
                }
                Change::Move { from, to } => {
                    self.copies[from].in_log = false;
                    self.copies[to].in_log = true;
                    self.copies[to].place = Place::Ready;
                }
            }
        }
    }

    fn commit_all(&mut self) {
        self.propose();
        while !self.in_flight.is_empty() {
            self.commit();
        }
    }

    fn crash(&mut self) {
        self.rig.crash();
        for copy in &mut self.copies {
            copy.delivered = true;
            copy.count = copy.count_in_log;
            copy.place = if copy.in_log { Place::Ready } else { Place::Gone };
        }
        self.gathered.clear();
        self.in_flight.clear();
        self.committed = self.proposed;
        self.owed.clear();
        self.begin_term();
    }

    // What comes of it.

    fn dispatch(&mut self) {
        let mut outputs = self.rig.turn();
        // What is to be looked through may take several turns.
        while self.rig.dispatcher.next_timeout() <= self.rig.clock.monotonic {
            outputs.extend(self.rig.turn());
        }
        for (id, output) in outputs {
            let Some(session) = self.sessions.iter().position(|s| s.id == id) else { continue };
            for got in Got::of(&output) {
                self.delivered(session, got);
            }
            if let Output::CreditState { consumer, drained: true, .. } = &output {
                self.has_seen_all(session, consumer.0);
            }
            if let Output::Done { token, result } = output {
                let owed = self.owed.remove(&token).expect("every answer is owed, once");
                assert_eq!(owed.session, id);
                assert!(owed.entry <= self.committed, "answered before its entry is committed");
                if let Some(messages) = owed.messages {
                    assert!(matches!(result, Ok(Reply::Messages(n)) if n == messages));
                }
            }
        }
        self.check_progress();
    }

    fn delivered(&mut self, session: usize, got: Got) {
        let state = &self.sessions[session];
        let consumer = &state.consumers[&got.consumer.0];
        assert!(state.credit(consumer) > 0, "no credit for {got:?}");
        let queue = consumer.queue;
        let index = self
            .copies
            .iter()
            .position(|c| (c.queue, &c.body) == (queue, &got.body) && !is_gone(c))
            .unwrap_or_else(|| panic!("{got:?} is settled, lost or was never there"));
        assert!(consumer.wants(&self.copies[index]), "{got:?} is not wanted");
        if consumer.mode == AttachMode::Browse {
            return self.shown(session, &got, index);
        }
        let first = self.copies.iter().filter(|c| c.queue == queue && consumer.wants(c));
        let ready = first.filter(|c| matches!(c.place, Place::Ready));
        let highest = ready.map(|c| c.priority).max();
        let copy = &mut self.copies[index];
        assert!(Some(copy.priority) >= highest, "{got:?} before one of priority {highest:?}");
        assert!(matches!(copy.place, Place::Ready), "{got:?}, but it is {:?}", copy.place);
        assert_eq!(got.redelivered, copy.delivered, "{got:?}");
        assert_eq!(got.delivery_count, copy.count, "{got:?}");
        if let Some((publisher, number)) = copy.published
            && !copy.delivered
        {
            let of = (queue, publisher, copy.priority, class_of(&copy.body));
            let last = self.first_deliveries.insert(of, number);
            assert!(last < Some(number), "{got:?} after {last:?} of the same publisher");
        }
        copy.delivered = true;
        let shared = consumer.kind == Kind::Shared;
        let (id, number, mode) = (state.id, consumer.number, consumer.mode);
        let consumer = self.sessions[session].consumers.get_mut(&got.consumer.0).unwrap();
        if let Kind::Explicit(credit) = &mut consumer.kind {
            *credit -= 1;
        }
        if mode == AttachMode::ConsumeSettled {
            let logged = copy.logged;
            copy.place = Place::Gone;
            if logged {
                self.gathered.push(Change::Settle(index));
            }
            return;
        }
        consumer.unsettled += 1;
        self.sessions[session].window_used += u32::from(shared);
        let copy = &mut self.copies[index];
        copy.place = Place::Held(Hold { got: got.clone(), session: id, consumer: number, shared });
        self.deliveries.push(got);
    }

    /// A consumer is shown a message, and nothing changes.
    fn shown(&mut self, session: usize, got: &Got, index: usize) {
        let copy = &self.copies[index];
        assert!(matches!(copy.place, Place::Ready), "{got:?}, but it is {:?}", copy.place);
        assert_eq!((got.redelivered, got.delivery_count), (copy.delivered, copy.count), "{got:?}");
        let state = &mut self.sessions[session];
        let Some(consumer) = state.consumers.get_mut(&got.consumer.0) else { return };
        consumer.to_show.remove(&index);
        if let Kind::Shown(credit) | Kind::Explicit(credit) = &mut consumer.kind {
            *credit -= 1;
        }
    }

    /// A consumer that is shown messages is told that there are no more.
    fn has_seen_all(&mut self, session: usize, consumer: u64) {
        let Some(consumer) = self.sessions[session].consumers.get_mut(&consumer) else { return };
        let missed = consumer.to_show.iter().map(|i| &self.copies[*i]);
        let missed: Vec<_> =
            missed.filter(|c| matches!(c.place, Place::Ready) && consumer.wants(c)).collect();
        assert!(missed.is_empty(), "{consumer:?} was not shown {missed:?}");
        consumer.kind = Kind::Explicit(0);
    }

    /// After a turn nothing is ready that somebody has credit for.
    fn check_progress(&self) {
        let consumers =
            self.sessions.iter().flat_map(|s| s.consumers.values().map(move |c| (s, c)));
        for (session, consumer) in consumers {
            if consumer.mode == AttachMode::Browse {
                let ended = !matches!(consumer.kind, Kind::Shown(n) if n > 0);
                assert!(ended, "{consumer:?} is not told of the end");
            } else {
                let ready = self.copies.iter().filter(|c| c.queue == consumer.queue);
                let ready = ready.filter(|c| matches!(c.place, Place::Ready) && consumer.wants(c));
                let ready: Vec<_> = ready.map(|c| c.body.as_str()).collect();
                assert!(
                    ready.is_empty() || session.credit(consumer) == 0,
                    "{consumer:?} could have {ready:?}"
                );
            }
        }
    }

    fn in_place(&self, queue: usize, is: impl Fn(&Place) -> bool) -> Vec<&str> {
        let of_queue = self.copies.iter().filter(|c| c.queue == queue);
        of_queue.filter(|c| is(&c.place)).map(|c| c.body.as_str()).collect()
    }

    /// The counters of every queue are exact.
    fn check_counts(&self) {
        for (queue, name) in QUEUES.iter().enumerate() {
            let ready = self.in_place(queue, |p| matches!(p, Place::Ready));
            let held = self.in_place(queue, |p| matches!(p, Place::Held(_)));
            let status = self.rig.status(name);
            assert_eq!((status.ready, status.unacked), (ready.len() as u64, held.len() as u64));
            let bytes: usize = ready.iter().map(|body| body.len()).sum();
            assert_eq!(status.ready_bytes, bytes as u64);
        }
    }

    /// Everything comes to rest, everything owed is answered, and after a restart there is what
    /// is in the log and nothing else.
    fn finish(mut self) {
        self.dispatch();
        while !self.gathered.is_empty() || !self.in_flight.is_empty() {
            self.commit_all();
            self.dispatch();
        }
        assert!(self.owed.is_empty(), "without an answer: {:?}", self.owed);
        self.check_counts();
        self.crash();
        self.check_counts();
        for (queue, name) in QUEUES.iter().enumerate() {
            let expected: BTreeSet<String> = self
                .copies
                .iter()
                .filter(|c| c.queue == queue && c.in_log)
                .map(|c| c.body.clone())
                .collect();
            let there = self.rig.drain(name);
            assert_eq!(there.len(), expected.len());
            assert_eq!(there.into_iter().collect::<BTreeSet<_>>(), expected, "queue {name}");
        }
    }
}

/// Wants the messages of one class.
#[derive(Debug)]
struct OfClass(u64);

impl Filter for OfClass {
    fn wants(&self, candidate: &Candidate<'_>) -> bool {
        let body = candidate.batch.body(candidate.record);
        class_of(std::str::from_utf8(body).unwrap_or_default()) == self.0
    }
}

fn class_of(body: &str) -> u64 {
    body.parse::<u64>().unwrap_or_default() / 2 % CLASSES
}

/// The priority that a message is published with.
fn priority(body: &str) -> u8 {
    body.bytes().last().unwrap_or_default() % 4
}

fn is_gone(copy: &Copy) -> bool {
    matches!(copy.place, Place::Gone)
}

fn open(rig: &mut Rig, name: &str) -> Session {
    let id = rig.open(name);
    rig.dispatcher.begin(&rig.ledger, id, Token::SILENT, isthmus_model::TransactionId(TX));
    Session {
        id,
        last_entry: 0,
        consumers: BTreeMap::new(),
        window: None,
        window_used: 0,
        tx_messages: Vec::new(),
        tx_settled: Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(160)))]

    #[test]
    fn every_message_is_where_it_should_be(ops in vec(op(), 1..100), looks in 1u64..8) {
        let mut model = Model::new(looks);
        for op in &ops {
            model.carry_out(op);
            model.check_counts();
        }
        model.finish();
    }
}
