//! Ledger and dispatcher, driven in turns.
//!
//! Every node has a [`Replica`]: the ledger, brought up to what is committed. The node that leads is
//! [`Leading`] as well: it has a dispatcher, serves sessions and proposes. A node that is alone
//! leads from the start; in a cluster the shard is told when it leads and when no more
//! ([`Input::Lead`], [`Input::Follow`]), and goes through these states:
//!
//! 1. standby: entries are applied as they are committed; sessions are refused;
//! 2. elected: all that was proposed before is applied once the term's blank entry is; then the
//!    shard proposes the entry that begins its own term;
//! 3. leading, once that is committed: a dispatcher is made over the ledger as it is then.
//!
//! While the lease does not hold, a leading shard holds back what sessions say, delivers nothing and
//! says nothing.

mod leading;
mod replica;

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use isthmus_cluster::SingleNode;
use isthmus_cluster::member::{Committed, Content, Lease, Proposer};
use isthmus_contract::Command;
use isthmus_core::codec::DecodeError;
use isthmus_core::paging::{Page, PageContent, PageKey, Written};
use isthmus_core::{Dispatcher, DispatcherOptions, Ledger, Place, codec};
use isthmus_model::{Batch, CommandError, SessionId, Time, Token};
use isthmus_storage::threads::{Sender, Threads};
use tokio::sync::{OwnedSemaphorePermit, mpsc as async_mpsc, watch};
use tokio::time::Instant;

use self::leading::{ENTRIES_IN_FLIGHT_MAX, Leading, Way};
use self::replica::{Applied, Replica};
use crate::clock::ClockSource;
use crate::mailbox::Mailbox;
use crate::pressure::Pressure;

pub(crate) use self::leading::Proposal;
pub use self::replica::OnSettings;
pub(crate) use self::replica::{Recovered, point_of};

/// Something for a shard's turn.
pub enum Input {
    /// A session enters a virtual host.
    Open {
        /// The session.
        session: SessionId,
        /// Names the answer.
        token: Token,
        /// The user's name; empty for the broker's own sessions.
        user: Arc<str>,
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
    /// The log of a node that is alone is durable, and so committed, up to this index.
    Committed {
        /// The index.
        index: u64,
    },
    /// Entries of a cluster's log are committed.
    Apply {
        /// The entries, in order.
        entries: Vec<Committed>,
        /// Given back once they are applied.
        room: OwnedSemaphorePermit,
    },
    /// The node was elected, and may act as the leader for as long as the lease holds.
    Lead(Election),
    /// The node leads no more, or has had no majority's word for too long.
    Follow,
    /// A timer has run out.
    Tick,
    /// Something to be done with the shard between commands.
    Inspect(Box<dyn FnOnce(&mut Shard) + Send>),
}

/// An election that the node has won.
pub struct Election {
    /// The consensus term.
    pub(crate) term: u64,
    pub(crate) proposer: Proposer<Proposal>,
    pub(crate) lease: Arc<Lease>,
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
            Input::Apply { .. } => "Apply",
            Input::Lead(_) => "Lead",
            Input::Follow => "Follow",
            Input::Tick => "Tick",
            Input::Inspect(_) => "Inspect",
        })
    }
}

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

/// What a shard works with.
pub(crate) struct Around {
    /// The zero of monotonic time.
    pub(crate) start: Instant,
    /// What the dispatcher of each term is made with.
    pub(crate) dispatcher: DispatcherOptions,
    /// Virtual hosts of a broker that begins without data.
    pub(crate) vhosts: Vec<String>,
    /// When it wants a turn.
    pub(crate) timer: watch::Sender<Time>,
    /// Where pages are asked for.
    pub(crate) pages: Sender<PageKey>,
    /// In a cluster: told of checkpoints, by their index and the last entry that the log may forget.
    pub(crate) checkpoints: Option<async_mpsc::UnboundedSender<(u64, u64)>>,
    /// Whether the node leads, told after it has begun to and before it has ceased to.
    pub(crate) leads: watch::Sender<bool>,
    /// Bytes in memory alone at which publishers are held until pages have caught up.
    pub(crate) unpaged_bytes_held: u64,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) on_settings: OnSettings,
    /// How its last thread is executed.
    pub(crate) threads: Threads,
}

enum Role {
    Standby(Option<Elected>),
    Leading(Box<Leading>),
}

/// An election that was won, and what has come of it.
struct Elected {
    election: Election,
    /// The term of its own that it has proposed to begin.
    proposed: Option<u64>,
}

/// Ledger, dispatcher, and the way into the log.
pub struct Shard {
    replica: Replica,
    role: Role,
    /// The last entry known to be committed. Behind what is applied only while the first entry of a
    /// node that is alone is on its way.
    committed: u64,
    /// The latest log time of what this node has proposed. Entries of a time that it led before may
    /// still be on their way when it leads again, and log time must not go back behind theirs.
    proposed_time: Time,
    /// The disk cannot be relied on: nothing is proposed and nothing committed any more.
    failed: bool,
    start: Instant,
    dispatcher: DispatcherOptions,
    vhosts: Vec<String>,
    timer: watch::Sender<Time>,
    pages: Sender<PageKey>,
    checkpoints: Option<async_mpsc::UnboundedSender<(u64, u64)>>,
    leads: watch::Sender<bool>,
    unpaged_bytes_held: u64,
    /// Whether publishers are held until pages have caught up.
    is_held: bool,
    pressure: Arc<Pressure>,
    threads: Threads,
}

/// What a node that leads has, to look at.
#[derive(Clone, Copy)]
pub struct Leader<'a> {
    ledger: &'a Ledger,
    dispatcher: &'a Dispatcher,
}

impl<'a> Leader<'a> {
    /// The ledger.
    pub fn ledger(&self) -> &'a Ledger {
        self.ledger
    }

    /// The dispatcher.
    pub fn dispatcher(&self) -> &'a Dispatcher {
        self.dispatcher
    }
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

/// A copy of the ledger, and where it stands in the log.
pub(crate) struct Snapshot {
    pub(crate) ledger: Ledger,
    /// The last entry that it has applied.
    pub(crate) index: u64,
    /// The consensus term of that entry.
    pub(crate) term: u64,
}

impl Shard {
    /// A shard that leads alone: the term's first entry is proposed here, and nothing else takes
    /// effect before it is committed.
    pub(crate) fn lead(
        recovered: Recovered,
        mut node: SingleNode<Proposal>,
        around: Around,
    ) -> Shard {
        let options = around.dispatcher;
        let mut shard = Shard::follow(recovered, around);
        let (first, clock) = (shard.clock(), shard.clock());
        let replica = &mut shard.replica;
        shard.committed = replica.applied;
        // The dispatcher is built over a ledger that has this entry applied. Nothing is said to
        // anybody before later entries are committed, and those come behind it in the log.
        let entry = Arc::new(Leading::first_entry(node.term(), first));
        let index = node.propose(Proposal::unplaced(&entry));
        replica.apply(index, None, &entry);
        replica.applied_term = node.term();
        let way = Way::Single(Some(node));
        let leading = Leading::new(way, &replica.ledger, options, clock);
        shard.begin(leading);
        shard
    }

    /// A shard that follows until it is told that it leads.
    pub(crate) fn follow(recovered: Recovered, around: Around) -> Shard {
        let Around { start, dispatcher, vhosts, timer, pages, checkpoints, leads, .. } = around;
        let committed = recovered.applied;
        Shard {
            replica: Replica::new(recovered, around.on_settings),
            role: Role::Standby(None),
            committed,
            proposed_time: Time(0),
            failed: false,
            start,
            dispatcher,
            vhosts,
            timer,
            pages,
            checkpoints,
            leads,
            unpaged_bytes_held: around.unpaged_bytes_held,
            is_held: false,
            pressure: around.pressure,
            threads: around.threads,
        }
    }

    /// A clock that goes on from the ledger's.
    fn clock(&self) -> ClockSource {
        let from = self.replica.ledger.time().max(self.proposed_time);
        ClockSource::new(self.start, from, self.threads.clone())
    }

    fn begin(&mut self, mut leading: Leading) {
        if self.replica.ledger.topology().vhosts().is_empty() {
            for name in &self.vhosts {
                leading.dispatcher.declare_vhost(name);
            }
        }
        self.role = Role::Leading(Box::new(leading));
        self.leads.send_replace(true);
    }

    /// Takes what came in, lets it take effect, proposes what must be logged, and posts what
    /// there is to say.
    pub fn turn(&mut self, inputs: &mut Vec<Input>, wakes: &mut Wakes) {
        // Once for the whole turn, which is far shorter than the lease's margin.
        let is_frozen = self.is_frozen();
        let mut now = Time(0);
        if let Role::Leading(leading) = &mut self.role
            && !is_frozen
        {
            let held;
            (held, now) = leading.begin_turn();
            held.into_iter().for_each(|input| self.handle(input, false));
        }
        for input in inputs.drain(..) {
            self.handle(input, is_frozen);
            if !is_frozen && matches!(&self.role, Role::Leading(leading) if leading.has_enough()) {
                self.propose(usize::MAX);
            }
        }
        self.replica.tell_settings();
        let mut timeout = Time::NEVER;
        if !is_frozen && let Role::Leading(leading) = &mut self.role {
            leading.dispatcher.dispatch(&self.replica.ledger);
            timeout = leading.dispatcher.next_timeout();
            match leading.wait_until(now) {
                Some(until) => timeout = timeout.min(until),
                None => self.propose(ENTRIES_IN_FLIGHT_MAX),
            }
        }
        if let Role::Leading(leading) = &mut self.role {
            for key in leading.dispatcher.take_wanted_pages() {
                // Nobody listens any more only when the process is about to end.
                self.pages.send(key).ok();
            }
            if !is_frozen {
                leading.post(wakes);
            }
            leading.log_notes();
        }
        self.hold_publishers();
        self.timer.send_if_modified(|armed| std::mem::replace(armed, timeout) != timeout);
    }

    fn is_frozen(&self) -> bool {
        matches!(&self.role, Role::Leading(leading) if leading.is_frozen())
    }

    /// Holds publishers while messages come in faster than they go to pages: from the bound until
    /// an eighth of it is free again, so that they do not stop and start with every page.
    fn hold_publishers(&mut self) {
        let bound = self.unpaged_bytes_held;
        let bound = if self.is_held { bound - bound / 8 } else { bound };
        let is_held = self.replica.ledger.unpaged_bytes() > bound;
        if std::mem::replace(&mut self.is_held, is_held) != is_held {
            self.pressure.set_paging(is_held);
        }
    }

    fn handle(&mut self, input: Input, is_frozen: bool) {
        match input {
            Input::Committed { index } => self.committed(index),
            Input::Apply { entries, room } => {
                for committed in entries {
                    self.apply(committed);
                }
                drop(room);
            }
            Input::Lead(election) => {
                self.abandon();
                self.role = Role::Standby(Some(Elected { election, proposed: None }));
                self.begin_term();
            }
            Input::Follow => self.abandon(),
            Input::Tick => {}
            Input::Inspect(inspect) => inspect(self),
            session => match &mut self.role {
                Role::Leading(leading) => leading.session(&self.replica.ledger, is_frozen, session),
                Role::Standby(_) => {
                    if let Input::Open { token, mailbox, .. } = session {
                        leading::refuse(&mailbox.0, token);
                    }
                }
            },
        }
    }

    /// Proposes the entry that begins a term of this node's own, once all that came before its
    /// election is applied.
    fn begin_term(&mut self) {
        let Role::Standby(Some(elected)) = &self.role else { return };
        if elected.proposed.is_some() || self.replica.applied_term != elected.election.term {
            return;
        }
        let clock = self.clock();
        let Role::Standby(Some(elected)) = &mut self.role else { return };
        let ledger = &self.replica.ledger;
        let term = elected.election.term.max(ledger.term() + 1);
        elected.proposed = Some(term);
        let entry = Arc::new(Leading::first_entry(term, clock));
        let place = Place { term, number: 0 };
        elected.election.proposer.propose(Proposal::placed(place, &entry));
        self.proposed_time = self.proposed_time.max(entry.time);
    }

    /// The node leads no more.
    fn abandon(&mut self) {
        if let Role::Leading(leading) = std::mem::replace(&mut self.role, Role::Standby(None)) {
            self.leads.send_replace(false);
            self.proposed_time = self.proposed_time.max(leading.log_time());
            leading.abandon();
        }
    }

    /// Applies what is committed where the node is alone, in order.
    fn committed(&mut self, index: u64) {
        if self.failed {
            return;
        }
        self.committed = self.committed.max(index);
        let Role::Leading(leading) = &mut self.role else { return };
        while self.replica.applied < index
            && let Some(entry) = leading.arrived(self.replica.applied + 1)
        {
            self.replica.apply(self.replica.applied + 1, None, &entry);
            leading.dispatcher.committed(&self.replica.ledger);
        }
    }

    /// Applies an entry of a cluster's log.
    fn apply(&mut self, Committed { index, term, content }: Committed) {
        if self.failed {
            return;
        }
        self.committed = index;
        let replica = &mut self.replica;
        match content {
            Content::Blank => replica.pass(index),
            Content::Members(members) => replica.set_members(index, term, &members),
            Content::Proposal(payload) => {
                replica.marks.add(index, payload.len() as u64);
                self.apply_proposal(index, &payload);
            }
        }
        self.replica.applied_term = term;
        self.begin_term();
    }

    /// # Panics
    /// If what a majority has in its logs cannot be read: another release wrote it, or memory is
    /// damaged. Going on without it would make this replica another one.
    fn apply_proposal(&mut self, index: u64, payload: &bytes::Bytes) {
        let unreadable =
            |error: DecodeError| -> ! { panic!("log entry {index} cannot be applied: {error}") };
        let place = codec::place_of(payload).unwrap_or_else(|error| unreadable(error));
        let own = match (&mut self.role, place) {
            (Role::Leading(leading), Some(place)) if leading.is_own(place) => {
                match leading.arrived(place.number) {
                    Some(entry) => Some(entry),
                    // One before it was refused, so this one is void, and all that follow.
                    None => {
                        self.abandon();
                        None
                    }
                }
            }
            _ => None,
        };
        let replica_applied = match &own {
            Some(entry) => self.replica.apply(index, place, entry),
            None => {
                let decoded = codec::decode_placed(payload);
                let (_, entry) = decoded.unwrap_or_else(|error| unreadable(error));
                self.replica.apply(index, place, &entry)
            }
        };
        let ledger = &self.replica.ledger;
        match &mut self.role {
            Role::Leading(leading) if own.is_some() => {
                assert_eq!(replica_applied, Applied::Counts, "what it proposed follows on itself");
                leading.dispatcher.committed(ledger);
            }
            Role::Leading(leading) => {
                // Somebody else's, and after the beginning of this node's term: a later term.
                if replica_applied == Applied::Counts && !leading.leads(ledger.term()) {
                    self.abandon();
                }
            }
            Role::Standby(elected) => {
                let has_begun = |elected: &mut Elected| {
                    replica_applied == Applied::Counts
                        && place.is_some_and(|place| Some(place.term) == elected.proposed)
                };
                if let Some(Elected { election, .. }) = elected.take_if(has_begun) {
                    let Election { proposer, lease, .. } = election;
                    let way = Way::Cluster { proposer, lease };
                    let leading = Leading::new(way, ledger, self.dispatcher, self.clock());
                    self.begin(leading);
                }
            }
        }
    }

    fn propose(&mut self, in_flight_max: usize) {
        if self.failed {
            return;
        }
        if let Role::Leading(leading) = &mut self.role
            && let Some((index, bytes)) = leading.propose(in_flight_max)
        {
            self.replica.marks.add(index, bytes);
        }
    }

    /// The ledger, to look at.
    pub fn ledger(&self) -> &Ledger {
        &self.replica.ledger
    }

    /// What a node that leads has; none if this one does not.
    pub fn leader(&self) -> Option<Leader<'_>> {
        match &self.role {
            Role::Leading(leading) => {
                Some(Leader { ledger: &self.replica.ledger, dispatcher: &leading.dispatcher })
            }
            Role::Standby(_) => None,
        }
    }

    /// How many entries this shard has proposed in its term, the term's own included.
    pub(crate) fn entries_proposed(&self) -> u64 {
        match &self.role {
            Role::Leading(leading) => leading.entries_proposed,
            Role::Standby(_) => 0,
        }
    }

    /// The last entry of the log that is applied.
    pub fn applied(&self) -> u64 {
        self.replica.applied
    }

    /// Whether nothing is on its way into the log, and no page on its way from the disk.
    pub fn is_quiet(&self) -> bool {
        match &self.role {
            Role::Leading(leading) => {
                leading.in_flight.is_empty()
                    && !leading.dispatcher.has_gathered()
                    && leading.dispatcher.pages_awaited() == 0
            }
            Role::Standby(_) => true,
        }
    }

    /// What a checkpoint would be for. Entries are young for as long as less than `young_bytes` of
    /// the log came after them.
    pub(crate) fn due(&self, young_bytes: u64) -> Due {
        let replica = &self.replica;
        Due {
            log_bytes: replica.marks.bytes() - replica.checkpointed_at_bytes,
            unpaged_bytes: replica.ledger.unpaged_bytes(),
            paged_len: replica.ledger.paged_len(),
            is_disk_short: self.pressure.shortage().disk,
            applied: replica.applied,
            is_committed: self.committed >= replica.applied,
            old_upto: replica.marks.index_before(young_bytes).min(replica.applied),
        }
    }

    /// A copy of the ledger; `None` if its last entry is not committed yet: durable before the log
    /// is, a checkpoint would be ahead of it after a power cut. Bodies are shared, not copied.
    pub(crate) fn copy(&self) -> Option<Snapshot> {
        let Replica { ledger, applied, applied_term, .. } = &self.replica;
        let is_committed = self.committed >= *applied;
        is_committed.then(|| Snapshot {
            ledger: ledger.clone(),
            index: *applied,
            term: *applied_term,
        })
    }

    /// As [`Shard::copy`], for a checkpoint: what comes into the log from now on is behind it.
    pub(crate) fn snapshot(&mut self) -> Option<Snapshot> {
        let copy = self.copy()?;
        self.replica.checkpointed_at_bytes = self.replica.marks.bytes();
        Some(copy)
    }

    /// Another node's state comes in the place of this one's, which is behind it.
    pub(crate) fn install(&mut self, snapshot: Snapshot) {
        self.abandon();
        let Snapshot { ledger, index, term } = snapshot;
        self.committed = index;
        self.replica.install(ledger, index, term);
    }

    /// Sends what the broker tells of itself, if this node leads.
    pub(crate) fn announce(&mut self, batch: &Batch) {
        if let Role::Leading(leading) = &mut self.role {
            leading.dispatcher.announce(&self.replica.ledger, batch);
        }
    }

    /// A page that was asked for is here.
    pub(crate) fn page_read(&mut self, key: PageKey, content: PageContent) {
        if let Role::Leading(leading) = &mut self.role {
            leading.dispatcher.page_read(key, content);
        }
    }

    /// A page that was asked for is not needed any more.
    pub(crate) fn page_gone(&mut self, key: PageKey) {
        if let Role::Leading(leading) = &mut self.role {
            leading.dispatcher.page_gone(key);
        }
    }

    /// A page is durable that holds what was gathered for it.
    pub(crate) fn page_out(&mut self, page: &Arc<Page>, written: &[Written]) {
        self.replica.ledger.page_out(page, written);
    }

    /// A checkpoint at `index` is durable: the log may forget entries up to `kept_from`, save for
    /// those with less than `kept_bytes` behind them, which nodes that lag are given.
    pub(crate) fn checkpointed(&mut self, index: u64, kept_from: u64, kept_bytes: u64) {
        if let Some(checkpoints) = &self.checkpoints {
            let kept_from = kept_from.min(self.replica.marks.index_before(kept_bytes));
            // Nobody listens any more only when the process is about to end.
            checkpoints.send((index, kept_from)).ok();
        } else if let Role::Leading(leading) = &mut self.role
            && let Way::Single(Some(node)) = &leading.way
            && let Some(term) = node.reader().term_of(kept_from)
        {
            node.purge_to(kept_from, term);
        }
    }

    /// Lets nothing take effect any more that goes through the log.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }

    /// Proposes all that is gathered. Where the node is alone, it is given out, to be shut down by
    /// the caller.
    pub(crate) fn stop(&mut self) -> Option<SingleNode<Proposal>> {
        self.propose(usize::MAX);
        match &mut self.role {
            Role::Leading(leading) => match &mut leading.way {
                Way::Single(node) => node.take(),
                Way::Cluster { .. } => None,
            },
            Role::Standby(_) => None,
        }
    }
}

impl Drop for Shard {
    /// A broker that is dropped and not stopped. Whoever was the last to hold it may be the log's
    /// own thread, reporting a commit, or one of the runtime's: neither may wait for the log's
    /// thread to end.
    fn drop(&mut self) {
        if let Role::Leading(leading) = &mut self.role
            && let Way::Single(node) = &mut leading.way
            && let Some(node) = node.take()
        {
            // Should no thread start, the node is dropped here.
            drop(self.threads.spawn("log-end", || drop(node)));
        }
    }
}
