//! What the node that leads has beside the ledger: the dispatcher, and what is on its way into the
//! log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use isthmus_cluster::SingleNode;
use isthmus_cluster::member::{Encode, Lease, Proposer};
use isthmus_contract::{CloseReason, Command, Event, ManageOp, Publish, TransactOp};
use isthmus_core::clients::ClientKey;
use isthmus_core::{
    Dispatcher, DispatcherOptions, Entry, Fact, Ledger, Note, Output, Place, codec,
};
use isthmus_model::{CommandError, Reply, SessionId, Time};
use isthmus_storage::EncodeEntry;

use super::{Input, Wakes};
use crate::clock::ClockSource;
use crate::mailbox::Mailbox;

/// Entries on their way to stable storage at the most. The log's thread takes all that have come
/// while it synced as one group, so many small entries cost no more syncs than one large one;
/// beyond this many, what comes in is gathered for the next.
pub(super) const ENTRIES_IN_FLIGHT_MAX: usize = 64;

/// Facts that nobody waits for (acknowledgements, mostly) are proposed with the next entry that
/// somebody does wait for, after this time at the latest. It halves the syncs of a queue with one
/// publisher and one consumer, and is far below the 200 ms within which an acknowledgement may be
/// forgotten by a broker that is killed.
const UNAWAITED_MAX: Duration = Duration::from_millis(5);

/// An entry is proposed when it has gathered this much, however many are on their way: an entry
/// that grew for as long as the disk is slow would one day be larger than the log takes.
const ENTRY_BYTES_ENOUGH: u64 = 4 << 20;

/// An entry on its way into the log; encoded by a thread that has the time.
pub(crate) struct Proposal {
    /// Where it stands among the node's entries, in a cluster.
    place: Option<Place>,
    entry: Arc<Entry>,
}

impl Proposal {
    pub(super) fn unplaced(entry: &Arc<Entry>) -> Proposal {
        Proposal { place: None, entry: Arc::clone(entry) }
    }

    pub(super) fn placed(place: Place, entry: &Arc<Entry>) -> Proposal {
        Proposal { place: Some(place), entry: Arc::clone(entry) }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self.place {
            Some(place) => codec::encode_placed(place, &self.entry, out),
            None => codec::encode(&self.entry, out),
        }
    }
}

impl EncodeEntry for Proposal {
    fn encode(&self, out: &mut Vec<u8>) {
        self.write(out);
    }
}

impl Encode for Proposal {
    fn encode(&self, out: &mut Vec<u8>) {
        self.write(out);
    }
}

/// The way of the node's entries into the log.
pub(crate) enum Way {
    /// It is alone; none once it was stopped.
    Single(Option<SingleNode<Proposal>>),
    /// It leads a cluster for as long as the lease holds.
    Cluster {
        /// Takes what it proposes.
        proposer: Proposer<Proposal>,
        /// Until when it may act as the leader.
        lease: Arc<Lease>,
    },
}

/// What is on its way, by what tells that it has arrived: its index where the node is alone, its
/// number within the term in a cluster.
type InFlight = VecDeque<(u64, Arc<Entry>)>;

/// See the module's documentation.
pub(crate) struct Leading {
    pub(super) dispatcher: Dispatcher,
    pub(super) way: Way,
    pub(super) in_flight: InFlight,
    mailboxes: BTreeMap<SessionId, Arc<Mailbox>>,
    clock: ClockSource,
    /// The term of its entries' places.
    term: u64,
    /// The number of the latest entry that it has proposed.
    number: u64,
    /// Since when facts are gathered that nobody waits for.
    unawaited_since: Option<Time>,
    pub(super) entries_proposed: u64,
    /// What came in while the lease did not hold, in order.
    held: Vec<Input>,
}

impl Leading {
    /// Begins to lead over a ledger that has the term's first entry applied.
    pub(super) fn new(
        way: Way,
        ledger: &Ledger,
        options: DispatcherOptions,
        mut clock: ClockSource,
    ) -> Leading {
        let dispatcher = Dispatcher::new(options, ledger, clock.now());
        Leading {
            dispatcher,
            way,
            in_flight: InFlight::new(),
            mailboxes: BTreeMap::new(),
            clock,
            term: ledger.term(),
            number: 0,
            unawaited_since: None,
            entries_proposed: 1,
            held: Vec::new(),
        }
    }

    /// The entry that begins a term.
    pub(super) fn first_entry(term: u64, mut clock: ClockSource) -> Entry {
        Entry { time: clock.now().log, facts: vec![Fact::Term(term)] }
    }

    /// Whether nothing may be accepted, confirmed or delivered now: somebody else may lead.
    pub(super) fn is_frozen(&self) -> bool {
        match &self.way {
            Way::Single(_) => false,
            Way::Cluster { lease, .. } => !lease.holds(),
        }
    }

    /// The log time that it has come to, which no entry that it has proposed is beyond.
    pub(super) fn log_time(&self) -> Time {
        self.clock.latest()
    }

    /// Begins a turn; returns what was held, if it need not be any more, and the time.
    pub(super) fn begin_turn(&mut self) -> (Vec<Input>, Time) {
        let now = self.clock.now();
        self.dispatcher.set_clock(now);
        (std::mem::take(&mut self.held), now.monotonic)
    }

    /// Takes what a session says.
    pub(super) fn session(&mut self, ledger: &Ledger, is_frozen: bool, input: Input) {
        if is_frozen {
            return self.held.push(input);
        }
        match input {
            Input::Open { session, token, user, vhost, refusal, mailbox } => {
                let result = self.open(session, &user, vhost.as_ref(), refusal, &mailbox.0);
                mailbox.0.send(Event::Done { token, result });
            }
            Input::Close { session } => {
                self.mailboxes.remove(&session);
                self.dispatcher.close_session(ledger, session);
            }
            Input::Commands { session, commands } => {
                for command in commands {
                    self.command(ledger, session, command);
                }
            }
            Input::Refuse { session, token, error } => {
                self.dispatcher.refuse(ledger, session, token, error);
            }
            Input::Written { session, bytes } => self.dispatcher.written(session, bytes),
            _ => {}
        }
    }

    fn open(
        &mut self,
        session: SessionId,
        user: &Arc<str>,
        vhost: Option<&Arc<str>>,
        refusal: Option<CommandError>,
        mailbox: &Arc<Mailbox>,
    ) -> Result<Reply, CommandError> {
        if let Some(vhost) = vhost
            && !self.dispatcher.has_vhost(vhost)
        {
            return Err(CommandError::NotFound(format!("vhost {vhost} not found")));
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let nowhere = Arc::from("");
        self.dispatcher.open_session(session, vhost.unwrap_or(&nowhere), user);
        self.mailboxes.insert(session, Arc::clone(mailbox));
        Ok(Reply::Ok)
    }

    fn command(&mut self, ledger: &Ledger, session: SessionId, command: Command) {
        let dispatcher = &mut self.dispatcher;
        match command {
            // The connection answers these itself.
            Command::Authenticate { .. } | Command::Enter { .. } => {}
            Command::OpenSession(open) => dispatcher.open_client(ledger, session, open),
            Command::CloseSession { token, expiry_ms, publish_will } => {
                dispatcher.close_client(ledger, session, token, expiry_ms, publish_will);
            }
            Command::Note { token, notes, of, transaction } => {
                dispatcher.note(ledger, session, token, notes, of, transaction);
            }
            Command::Recall(recall) => dispatcher.recall(ledger, session, &recall),
            Command::Topology { token, change } => {
                dispatcher.change_topology(ledger, session, token, change);
            }
            Command::Publish(Publish { token, batch, transaction }) => {
                dispatcher.publish(ledger, session, token, batch, transaction);
            }
            Command::Attach(attach) => dispatcher.attach(ledger, session, attach),
            Command::Detach { token, consumer } => {
                dispatcher.detach(ledger, session, token, consumer);
            }
            Command::Credit { consumer, credit } => {
                dispatcher.set_credit(ledger, session, consumer, credit);
            }
            Command::Window { window, limit } => dispatcher.set_window(session, window, limit),
            Command::Settle { token, settlements, transaction } => {
                dispatcher.settle(ledger, session, token, settlements, transaction);
            }
            Command::Extend { token, deliveries, deadline } => {
                dispatcher.extend(ledger, session, token, &deliveries, deadline);
            }
            Command::Transact { token, transaction, op } => match op {
                TransactOp::Begin => dispatcher.begin(ledger, session, token, transaction),
                TransactOp::Commit => dispatcher.commit(ledger, session, token, transaction),
                TransactOp::Rollback => dispatcher.rollback(ledger, session, token, transaction),
            },
            Command::Manage { token, op } => match op {
                ManageOp::Purge { queue } => dispatcher.purge(ledger, session, token, &queue),
                ManageOp::Set { key, value } => {
                    dispatcher.set_setting(ledger, session, token, key, value);
                }
                ManageOp::DeclareVhost { name } => {
                    dispatcher.declare_vhost(&name);
                    dispatcher.answer_committed(ledger, session, token, Ok(Reply::Ok));
                }
                ManageOp::DeleteVhost { name } => {
                    dispatcher.delete_vhost(ledger, session, token, &name);
                }
                ManageOp::EndSession { vhost, client } => {
                    let key = ClientKey { vhost, client };
                    dispatcher.end_session_of(ledger, session, token, &key);
                }
            },
        }
    }

    /// The entry that is on its way with the mark `at`, if it is the next.
    pub(super) fn arrived(&mut self, at: u64) -> Option<Arc<Entry>> {
        self.in_flight.pop_front_if(|(next, _)| *next == at).map(|(_, entry)| entry)
    }

    /// Whether `place` is of one of the entries that this node has proposed as it leads.
    pub(super) fn is_own(&self, place: Place) -> bool {
        place.term == self.term
    }

    /// Whether the log is still in the term that this node has begun.
    pub(super) fn leads(&self, term: u64) -> bool {
        term == self.term
    }

    /// Whether more is gathered than an entry should have.
    pub(super) fn has_enough(&self) -> bool {
        self.dispatcher.gathered_bytes() >= ENTRY_BYTES_ENOUGH
    }

    /// Until when what is gathered may wait for company; `None` if it is to be proposed now.
    pub(super) fn wait_until(&mut self, now: Time) -> Option<Time> {
        let waits =
            self.dispatcher.has_gathered() && !self.dispatcher.is_awaited() && !self.has_enough();
        if !waits {
            self.unawaited_since = None;
            return None;
        }
        let until = *self.unawaited_since.get_or_insert(now) + UNAWAITED_MAX;
        if until <= now {
            self.unawaited_since = None;
            return None;
        }
        Some(until)
    }

    /// Proposes what is gathered, unless too much is on its way; returns the index of the entry and
    /// its size, where the index is known.
    pub(super) fn propose(&mut self, in_flight_max: usize) -> Option<(u64, u64)> {
        if self.in_flight.len() >= in_flight_max {
            return None;
        }
        if let Way::Single(None) = self.way {
            return None;
        }
        let bytes = self.dispatcher.gathered_bytes();
        let entry = Arc::new(self.dispatcher.take_entry()?);
        self.entries_proposed += 1;
        let (at, index) = match &mut self.way {
            Way::Single(node) => {
                let node = node.as_mut()?;
                let index = node.propose(Proposal::unplaced(&entry));
                (index, Some((index, bytes)))
            }
            Way::Cluster { proposer, .. } => {
                self.number += 1;
                let place = Place { term: self.term, number: self.number };
                proposer.propose(Proposal::placed(place, &entry));
                (self.number, None)
            }
        };
        self.in_flight.push_back((at, entry));
        index
    }

    /// Leaves what there is to say in the sessions' mailboxes.
    pub(super) fn post(&mut self, wakes: &mut Wakes) {
        let mut outputs = self.dispatcher.take_outputs();
        let mut rest = outputs.drain(..).peekable();
        while let Some((session, first)) = rest.next() {
            let Some(mailbox) = self.mailboxes.get(&session) else { continue };
            let waker = mailbox.post(|post| {
                let mut output = Some(first);
                while let Some(next) = output {
                    match next {
                        Output::Deliver { delivery, bytes } => post.delivery(delivery, bytes),
                        Output::Done { token, result } => post.event(Event::Done { token, result }),
                        Output::CreditState { consumer, credit, drained, ready } => {
                            post.event(Event::CreditState { consumer, credit, drained, ready });
                        }
                        Output::VhostDeleted => {
                            post.event(Event::Closed(CloseReason::VhostDeleted));
                        }
                        Output::TakenOver => {
                            post.event(Event::Closed(CloseReason::TakenOver));
                        }
                        Output::SessionEnded => {
                            post.event(Event::Closed(CloseReason::Forced));
                        }
                        Output::Detached { consumer, reason } => {
                            post.event(Event::Detached { consumer, reason });
                        }
                    }
                    output = rest.next_if(|(s, _)| *s == session).map(|(_, output)| output);
                }
            });
            wakes.0.extend(waker);
        }
        drop(rest);
        self.dispatcher.give_back(outputs);
    }

    /// Tells operators what they should hear of; at each doubling, lest one poisoned queue drown
    /// the rest of the log.
    pub(super) fn log_notes(&mut self) {
        for note in self.dispatcher.take_notes() {
            match note {
                Note::Undeliverable { vhost, queue, total } if total.is_power_of_two() => {
                    tracing::warn!(
                        %vhost, %queue, total,
                        "dropped a message that was delivered as often as the queue allows: \
                         it has no dead-letter exchange"
                    );
                }
                Note::NotKept { vhost, exchange, total } if total.is_power_of_two() => {
                    tracing::warn!(
                        %vhost, %exchange, total,
                        "did not keep a dead letter or delayed message that is to be retained: \
                         its vhost has reached limits.retained_bytes"
                    );
                }
                Note::Undeliverable { .. } | Note::NotKept { .. } => {}
            }
        }
    }

    /// Leads no more. What was held was never proposed, and its publishers are told so; then every
    /// session ends: what was proposed and is not committed has an outcome that nobody here knows.
    pub(super) fn abandon(mut self) {
        for input in std::mem::take(&mut self.held) {
            match input {
                Input::Open { token, mailbox, .. } => refuse(&mailbox.0, token),
                Input::Commands { session, commands } => {
                    let Some(mailbox) = self.mailboxes.get(&session) else { continue };
                    for command in commands {
                        if let Command::Publish(Publish { token, transaction: None, .. }) = command
                        {
                            refuse(mailbox, token);
                        }
                    }
                }
                _ => {}
            }
        }
        for mailbox in self.mailboxes.values() {
            mailbox.send(Event::Closed(CloseReason::NotLeader));
        }
    }
}

/// Answers that this node does not lead.
pub(super) fn refuse(mailbox: &Mailbox, token: isthmus_model::Token) {
    mailbox.send(Event::Done { token, result: Err(CommandError::NotLeader) });
}
