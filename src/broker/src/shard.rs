//! Ledger and dispatcher, driven in turns.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use isthmus_cluster::SingleNode;
use isthmus_contract::{CloseReason, Command, Event, ManageOp, Publish, TransactOp};
use isthmus_core::paging::{Page, PageContent, PageKey, Written};
use isthmus_core::{Dispatcher, DispatcherOptions, Entry, Fact, Ledger, Note, Output, codec};
use isthmus_model::{CommandError, Reply, SessionId, Time, Token};
use isthmus_storage::threads::{Sender, Threads};
use isthmus_storage::{EncodeEntry, Extent};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::ClockSource;
use crate::mailbox::Mailbox;
use crate::marks::Marks;
use crate::pressure::Pressure;

/// Entries on their way to stable storage at the most. The log's thread takes all that have come
/// while it synced as one group, so many small entries cost no more syncs than one large one;
/// beyond this many, what comes in is gathered for the next.
const ENTRIES_IN_FLIGHT_MAX: usize = 64;

/// Facts that nobody waits for (acknowledgements, mostly) are proposed with the next entry that
/// somebody does wait for, after this time at the latest. It halves the syncs of a queue with one
/// publisher and one consumer, and is far below the 200 ms within which an acknowledgement may be
/// forgotten by a broker that is killed.
const UNAWAITED_MAX: Duration = Duration::from_millis(5);

/// An entry is proposed when it has gathered this much, however many are on their way: an entry
/// that grew for as long as the disk is slow would one day be larger than the log takes.
const ENTRY_BYTES_ENOUGH: u64 = 4 << 20;

/// Something for a shard's turn.
pub enum Input {
    /// A session enters a virtual host.
    Open {
        /// The session.
        session: SessionId,
        /// Names the answer.
        token: Token,
        /// The virtual host; `None` for the broker's own sessions, which are in none.
        vhost: Option<Arc<str>>,
        /// Why it may not enter, if it may not: told if there is such a virtual host.
        refusal: Option<CommandError>,
        /// Where its events go.
        mailbox: MailboxHandle,
    },
    /// A session is over.
    Close {
        /// The session.
        session: SessionId,
    },
    /// What a session asks for, in order.
    Commands {
        /// The session.
        session: SessionId,
        /// The commands.
        commands: Vec<Command>,
    },
    /// A request of a session that was refused; answered in its turn.
    Refuse {
        /// The session.
        session: SessionId,
        /// Names the answer.
        token: Token,
        /// Why.
        error: CommandError,
    },
    /// Bytes delivered to a session have been written to its client.
    Written {
        /// The session.
        session: SessionId,
        /// How many.
        bytes: u64,
    },
    /// The log is durable, and so committed, up to this index.
    Committed {
        /// The index.
        index: u64,
    },
    /// A timer has run out.
    Tick,
    /// Something to be done with the shard between commands.
    Inspect(Box<dyn FnOnce(&mut Shard) + Send>),
}

/// A mailbox, opaque to drivers.
#[derive(Clone)]
pub struct MailboxHandle(pub(crate) Arc<Mailbox>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Input::Open { .. } => "Open",
            Input::Close { .. } => "Close",
            Input::Commands { .. } => "Commands",
            Input::Refuse { .. } => "Refuse",
            Input::Written { .. } => "Written",
            Input::Committed { .. } => "Committed",
            Input::Tick => "Tick",
            Input::Inspect(_) => "Inspect",
        })
    }
}

/// Told the settings whenever they have changed, before anybody is told that they have.
pub type OnSettings = Box<dyn FnMut(&Ledger) + Send>;

/// Tasks to be woken once the shard is no longer locked.
#[derive(Debug, Default)]
pub struct Wakes(Vec<Waker>);

impl Wakes {
    /// Wakes them all.
    pub fn wake(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

/// An entry on its way into the log; encoded by the log's own thread.
pub(crate) struct Proposal(Arc<Entry>);

impl EncodeEntry for Proposal {
    fn encode(&self, out: &mut Vec<u8>) {
        codec::encode(&self.0, out);
    }
}

/// What a shard begins with.
pub(crate) struct Recovered {
    pub(crate) ledger: Ledger,
    /// The last entry that the ledger has applied.
    pub(crate) applied: u64,
    /// What the log takes on disk, oldest first.
    pub(crate) extents: Vec<Extent>,
    /// Bytes of the log since the last checkpoint.
    pub(crate) log_bytes: u64,
}

/// What a shard works with.
pub(crate) struct Around {
    /// When it wants a turn.
    pub(crate) timer: watch::Sender<Time>,
    /// Where pages are asked for.
    pub(crate) pages: Sender<PageKey>,
    /// Bytes in memory alone at which publishers are held until pages have caught up.
    pub(crate) unpaged_bytes_held: u64,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) on_settings: OnSettings,
    /// How its last thread is executed.
    pub(crate) threads: Threads,
}

/// Ledger, dispatcher, and the way into the log.
pub struct Shard {
    ledger: Ledger,
    dispatcher: Dispatcher,
    node: Option<SingleNode<Proposal>>,
    /// The last entry that the ledger has applied.
    applied: u64,
    /// The last entry known to be committed. Behind `applied` only while the term's own entry is on
    /// its way.
    committed: u64,
    /// The disk cannot be relied on: nothing is proposed and nothing committed any more.
    failed: bool,
    in_flight: VecDeque<(u64, Arc<Entry>)>,
    mailboxes: HashMap<SessionId, Arc<Mailbox>>,
    clock: ClockSource,
    timer: watch::Sender<Time>,
    on_settings: OnSettings,
    /// The version of the settings that were last told.
    settings_told: u64,
    /// Since when facts are gathered that nobody waits for.
    unawaited_since: Option<Time>,
    entries_proposed: u64,
    /// How far the log was at which entry.
    marks: Marks,
    /// Bytes of the log at the last checkpoint, by the same count.
    checkpointed_at_bytes: u64,
    /// Where pages are asked for.
    pages: Sender<PageKey>,
    /// Bytes in memory alone at which publishers are held until pages have caught up.
    unpaged_bytes_held: u64,
    /// Whether they are.
    is_held: bool,
    pressure: Arc<Pressure>,
    threads: Threads,
}

/// What a checkpoint is for, now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    /// Bytes that the log has got since the last, about.
    pub(crate) log_bytes: u64,
    /// About what is in memory alone, in bytes.
    pub(crate) unpaged_bytes: u64,
    /// Messages in pages.
    pub(crate) paged_len: u64,
    /// Whether disk space is short.
    pub(crate) is_disk_short: bool,
    /// The last entry that is applied.
    pub(crate) applied: u64,
    /// The last entry that is no longer young.
    pub(crate) old_upto: u64,
    /// Whether all that is applied is committed.
    pub(crate) is_committed: bool,
}

impl Shard {
    /// A shard that begins to lead: the term's first entry is proposed here, and nothing else
    /// takes effect before it is committed.
    pub(crate) fn lead(
        Recovered { mut ledger, applied, extents, log_bytes }: Recovered,
        node: SingleNode<Proposal>,
        options: DispatcherOptions,
        start: Instant,
        around: Around,
    ) -> Shard {
        let Around { timer, pages, unpaged_bytes_held, pressure, mut on_settings, threads } =
            around;
        let mut clock = ClockSource::new(start, ledger.time(), threads.clone());
        let now = clock.now();
        let mut node = node;
        // The dispatcher is built over a ledger that has this entry applied. Nothing is said to
        // anybody before later entries are committed, and those come behind it in the log.
        let entry = Arc::new(Entry { time: now.log, facts: vec![Fact::Term(node.term())] });
        let index = node.propose(Proposal(Arc::clone(&entry)));
        assert_eq!(index, applied + 1, "the term's entry follows on what was applied");
        ledger.apply_at(index, &entry);
        let dispatcher = Dispatcher::new(options, &ledger, now);
        let marks = Marks::new(&extents);
        on_settings(&ledger);
        let settings_told = ledger.settings().version();
        Shard {
            ledger,
            dispatcher,
            node: Some(node),
            applied: index,
            committed: applied,
            failed: false,
            in_flight: VecDeque::new(),
            mailboxes: HashMap::new(),
            clock,
            timer,
            on_settings,
            settings_told,
            unawaited_since: None,
            entries_proposed: 1,
            checkpointed_at_bytes: marks.bytes().saturating_sub(log_bytes),
            marks,
            pages,
            unpaged_bytes_held,
            is_held: false,
            pressure,
            threads,
        }
    }

    /// Takes what came in, lets it take effect, proposes what must be logged, and posts what
    /// there is to say.
    pub fn turn(&mut self, inputs: &mut Vec<Input>, wakes: &mut Wakes) {
        let now = self.clock.now();
        self.dispatcher.set_clock(now);
        for input in inputs.drain(..) {
            self.handle(input);
            if self.dispatcher.gathered_bytes() >= ENTRY_BYTES_ENOUGH {
                self.propose(usize::MAX);
            }
        }
        self.dispatcher.dispatch(&self.ledger);
        let mut timeout = self.dispatcher.next_timeout();
        match self.wait_until(now.monotonic) {
            Some(until) => timeout = timeout.min(until),
            None => self.propose(ENTRIES_IN_FLIGHT_MAX),
        }
        for key in self.dispatcher.take_wanted_pages() {
            // Nobody listens any more only when the process is about to end.
            self.pages.send(key).ok();
        }
        self.hold_publishers();
        self.post(wakes);
        self.log_notes();
        self.timer.send_if_modified(|armed| std::mem::replace(armed, timeout) != timeout);
    }

    /// Holds publishers while messages come in faster than they go to pages: from the bound until
    /// an eighth of it is free again, so that they do not stop and start with every page.
    fn hold_publishers(&mut self) {
        let bound = self.unpaged_bytes_held;
        let bound = if self.is_held { bound - bound / 8 } else { bound };
        let is_held = self.ledger.unpaged_bytes() > bound;
        if std::mem::replace(&mut self.is_held, is_held) != is_held {
            self.pressure.set_paging(is_held);
        }
    }

    /// Until when what is gathered may wait for company; `None` if it is to be proposed now.
    fn wait_until(&mut self, now: Time) -> Option<Time> {
        let waits = self.dispatcher.has_gathered()
            && !self.dispatcher.is_awaited()
            && self.dispatcher.gathered_bytes() < ENTRY_BYTES_ENOUGH;
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

    fn handle(&mut self, input: Input) {
        match input {
            Input::Open { session, token, vhost, refusal, mailbox } => {
                let result = self.open(session, vhost.as_ref(), refusal, &mailbox.0);
                mailbox.0.send(Event::Done { token, result });
            }
            Input::Close { session } => {
                self.mailboxes.remove(&session);
                self.dispatcher.close_session(&self.ledger, session);
            }
            Input::Commands { session, commands } => {
                for command in commands {
                    self.command(session, command);
                }
            }
            Input::Refuse { session, token, error } => {
                self.dispatcher.refuse(&self.ledger, session, token, error);
            }
            Input::Written { session, bytes } => self.dispatcher.written(session, bytes),
            Input::Committed { index } => self.committed(index),
            Input::Tick => {}
            Input::Inspect(inspect) => inspect(self),
        }
    }

    fn open(
        &mut self,
        session: SessionId,
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
        self.dispatcher.open_session(session, vhost.unwrap_or(&nowhere));
        self.mailboxes.insert(session, Arc::clone(mailbox));
        Ok(Reply::Ok)
    }

    fn command(&mut self, session: SessionId, command: Command) {
        let (dispatcher, ledger) = (&mut self.dispatcher, &self.ledger);
        match command {
            // The connection answers these itself.
            Command::Authenticate { .. } | Command::Enter { .. } => {}
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
            },
        }
    }

    /// Applies what is committed, in order.
    fn committed(&mut self, index: u64) {
        if self.failed {
            return;
        }
        self.committed = self.committed.max(index);
        while let Some((next, _)) = self.in_flight.front()
            && *next <= index
        {
            let Some((next, entry)) = self.in_flight.pop_front() else { return };
            assert_eq!(next, self.applied + 1, "entries are applied one after the other");
            self.ledger.apply_at(next, &entry);
            self.applied = next;
            self.dispatcher.committed(&self.ledger);
        }
        let version = self.ledger.settings().version();
        if std::mem::replace(&mut self.settings_told, version) != version {
            (self.on_settings)(&self.ledger);
        }
    }

    fn propose(&mut self, in_flight_max: usize) {
        let Some(node) = &mut self.node else { return };
        if self.failed || self.in_flight.len() >= in_flight_max {
            return;
        }
        let bytes = self.dispatcher.gathered_bytes();
        if let Some(entry) = self.dispatcher.take_entry() {
            let entry = Arc::new(entry);
            let index = node.propose(Proposal(Arc::clone(&entry)));
            self.marks.add(index, bytes);
            self.entries_proposed += 1;
            self.in_flight.push_back((index, entry));
        }
    }

    /// Leaves what there is to say in the sessions' mailboxes.
    fn post(&mut self, wakes: &mut Wakes) {
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
    fn log_notes(&mut self) {
        for note in self.dispatcher.take_notes() {
            let Note::Undeliverable { vhost, queue, total } = note;
            if total.is_power_of_two() {
                tracing::warn!(
                    %vhost, %queue, total,
                    "dropped a message that was delivered as often as the queue allows: \
                     it has no dead-letter exchange"
                );
            }
        }
    }

    /// How many entries this shard has proposed, the term's own included.
    pub(crate) fn entries_proposed(&self) -> u64 {
        self.entries_proposed
    }

    /// The ledger, to look at.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The dispatcher, to look at.
    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// Whether nothing is on its way into the log, and no page on its way from the disk.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
            && !self.dispatcher.has_gathered()
            && self.dispatcher.pages_awaited() == 0
    }

    /// Declares virtual hosts that are not there yet.
    pub(crate) fn declare_vhosts(&mut self, names: &[String]) {
        for name in names {
            self.dispatcher.declare_vhost(name);
        }
    }

    /// What a checkpoint would be for. Entries are young for as long as less than `young_bytes` of
    /// the log came after them.
    pub(crate) fn due(&self, young_bytes: u64) -> Due {
        Due {
            log_bytes: self.marks.bytes() - self.checkpointed_at_bytes,
            unpaged_bytes: self.ledger.unpaged_bytes(),
            paged_len: self.ledger.paged_len(),
            is_disk_short: self.pressure.shortage().disk,
            applied: self.applied,
            is_committed: self.committed >= self.applied,
            old_upto: self.marks.index_before(young_bytes).min(self.applied),
        }
    }

    /// A copy of the ledger with the index of its last entry; `None` if that is not committed yet:
    /// durable before the log is, a checkpoint would be ahead of it after a power cut. Bodies are
    /// shared, not copied.
    pub(crate) fn copy(&self) -> Option<(Ledger, u64)> {
        (self.committed >= self.applied).then(|| (self.ledger.clone(), self.applied))
    }

    /// As [`Shard::copy`], for a checkpoint: what comes into the log from now on is behind it.
    pub(crate) fn snapshot(&mut self) -> Option<(Ledger, u64)> {
        let copy = self.copy()?;
        self.checkpointed_at_bytes = self.marks.bytes();
        Some(copy)
    }

    /// A page that was asked for is here.
    pub(crate) fn page_read(&mut self, key: PageKey, content: PageContent) {
        self.dispatcher.page_read(key, content);
    }

    /// A page that was asked for is not needed any more.
    pub(crate) fn page_gone(&mut self, key: PageKey) {
        self.dispatcher.page_gone(key);
    }

    /// A page is durable that holds what was gathered for it.
    pub(crate) fn page_out(&mut self, page: &Arc<Page>, written: &[Written]) {
        self.ledger.page_out(page, written);
    }

    /// The log may forget entries up to `index`: a durable checkpoint holds them.
    pub(crate) fn purge_log(&mut self, index: u64) {
        if let Some(node) = &self.node
            && let Some(term) = node.reader().term_of(index)
        {
            node.purge_to(index, term);
        }
    }

    /// Lets nothing take effect any more that goes through the log.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }

    /// Proposes all that is gathered and gives the node out, to be shut down by the caller.
    pub(crate) fn stop(&mut self) -> Option<SingleNode<Proposal>> {
        self.propose(usize::MAX);
        self.node.take()
    }
}

impl Drop for Shard {
    /// A broker that is dropped and not stopped. Whoever was the last to hold it may be the log's
    /// own thread, reporting a commit, or one of the runtime's: neither may wait for the log's
    /// thread to end.
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            // Should no thread start, the node is dropped here.
            drop(self.threads.spawn("log-end", || drop(node)));
        }
    }
}
