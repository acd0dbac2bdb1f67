//! Sessions as the dispatcher knows them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use isthmus_model::{
    Attach, Batch, CommandError, ConsumerId, Credit, Note, NotesOf, OpenSession, QueueId,
    SessionId, Settlement, Token, TopologyChange, TransactionId, WindowId,
};

use super::clients::{Ending, OpenClient};
use super::consumer::Window;
use super::kept::Recalling;
use super::transaction::Transaction;
use super::{After, Dispatcher};
use crate::Ledger;
use crate::few::FewMap;

/// One session's part of the dispatcher.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) vhost: Arc<str>,
    pub(super) user: Arc<str>,
    /// The lasting session that it has open.
    pub(super) client: Option<OpenClient>,
    /// Whether its virtual host is gone. A new one of the same name is none of its business.
    pub(super) has_lost_vhost: bool,
    /// Places in the table of consumers.
    pub(super) consumers: FewMap<ConsumerId, usize>,
    pub(super) windows: FewMap<WindowId, Window>,
    /// Bytes handed to the session and not written to its client yet.
    pub(super) outbox_bytes: u64,
    /// A consumer was passed over because of them.
    pub(super) passed_over: bool,
    /// The number of the latest entry that holds an effect of this session.
    pub(super) last_entry: u64,
    /// Requests that wait for earlier ones, in order.
    pub(super) deferred: VecDeque<Deferred>,
    /// Whether the first of them was begun and goes on with the next turn.
    pub(super) unfinished: bool,
    /// Whether it is being closed: nothing is left for later.
    pub(super) closing: bool,
    pub(super) transactions: BTreeMap<TransactionId, Transaction>,
    /// Queues that go with the session.
    pub(super) exclusive_queues: FewMap<QueueId, ()>,
    /// Queues from which the session has taken messages to settle.
    pub(super) checked_out_from: BTreeSet<QueueId>,
    /// How many these may be before those that are gone are forgotten.
    pub(super) checked_out_max: usize,
    /// Queues that what it publishes passes by.
    pub(super) no_local: BTreeSet<QueueId>,
}

/// A request that waits until what its session did before it is committed.
#[derive(Debug)]
pub(super) enum Deferred {
    Topology { token: Token, change: TopologyChange },
    Publish { token: Token, batch: Arc<Batch>, transaction: Option<TransactionId> },
    Attach(Attach),
    Detach { token: Token, consumer: ConsumerId },
    Credit { consumer: ConsumerId, credit: Credit },
    Settle { token: Token, settlements: Vec<Settlement>, transaction: Option<TransactionId> },
    Begin { token: Token, transaction: TransactionId },
    Commit { token: Token, transaction: TransactionId },
    Rollback { token: Token, transaction: TransactionId },
    Purge { token: Token, queue: Arc<str> },
    Refuse { token: Token, error: CommandError },
    OpenClient(Box<OpenSession>),
    CloseClient { token: Token, expiry_ms: Option<u64>, publish_will: bool },
    Note { token: Token, notes: Vec<Note>, of: Option<NotesOf>, transaction: Option<TransactionId> },
    Recall(Box<Recalling>),
}

impl Dispatcher {
    /// A session of `user` that may use `vhost`.
    pub fn open_session(&mut self, id: SessionId, vhost: &Arc<str>, user: &Arc<str>) {
        let session = Session {
            vhost: Arc::clone(vhost),
            user: Arc::clone(user),
            client: None,
            has_lost_vhost: false,
            consumers: FewMap::default(),
            windows: FewMap::default(),
            outbox_bytes: 0,
            passed_over: false,
            last_entry: 0,
            deferred: VecDeque::new(),
            unfinished: false,
            closing: false,
            transactions: BTreeMap::new(),
            exclusive_queues: FewMap::default(),
            checked_out_from: BTreeSet::new(),
            checked_out_max: 0,
            no_local: BTreeSet::new(),
        };
        self.sessions.insert(id, Box::new(session));
    }

    /// The virtual host that a session may use.
    pub(super) fn vhost_of(&self, id: SessionId) -> Result<Arc<str>, CommandError> {
        match self.sessions.get(&id) {
            None => Err(CommandError::Invalid("the session is over".into())),
            Some(session) if session.has_lost_vhost => {
                Err(CommandError::NotFound(format!("vhost '{}' is deleted", session.vhost)))
            }
            Some(session) => Ok(Arc::clone(&session.vhost)),
        }
    }

    /// The session is over: what it holds goes back, its consumers end, its transactions are
    /// rolled back and its exclusive queues are deleted. What it asked for before is carried out,
    /// also what is deferred: what it published stays published. Its lasting session, if it has
    /// one open, is closed without a goodbye.
    pub fn close_session(&mut self, ledger: &Ledger, id: SessionId) {
        self.end_connection(ledger, id, Ending::Own);
    }

    pub(super) fn end_connection(&mut self, ledger: &Ledger, id: SessionId, ending: Ending) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.closing = true;
        for request in std::mem::take(&mut session.deferred) {
            // Too late to see what is not committed yet, but nobody is left to be told of it.
            self.carry_out(ledger, id, request);
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.transactions.clear();
        let consumers = std::mem::take(&mut session.consumers);
        let queues = std::mem::take(&mut session.checked_out_from);
        let exclusive = std::mem::take(&mut session.exclusive_queues);
        let served: BTreeSet<QueueId> =
            consumers.values().map(|key| self.end_consumer(*key)).collect();
        for queue in queues {
            self.return_all_of(ledger, queue, id);
        }
        for queue in served {
            self.delete_if_abandoned(queue);
        }
        for (queue, ()) in exclusive.iter() {
            self.remove_queue(queue);
        }
        let Some(session) = self.sessions.remove(&id) else { return };
        match (&session.client, ending) {
            (None, _) => {}
            (Some(client), Ending::Own) => self.leave_client(client, None, true),
            (Some(client), Ending::TakenOver) => self.lose_client(client),
        }
    }

    /// `bytes` of what was handed to the session are written to its client.
    pub fn written(&mut self, id: SessionId, bytes: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.outbox_bytes = session.outbox_bytes.saturating_sub(bytes);
        if std::mem::take(&mut session.passed_over) {
            self.give_turns(id);
        }
    }

    /// The credit of all of the session's consumers may have grown.
    pub(super) fn give_turns(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let keys: Vec<usize> = session.consumers.values().copied().collect();
        for key in keys {
            self.give_turn(key);
        }
    }

    /// Answers a request that was refused elsewhere, in its turn.
    pub fn refuse(&mut self, ledger: &Ledger, id: SessionId, token: Token, error: CommandError) {
        let request = Deferred::Refuse { token, error };
        if let Some(request) = self.defer(ledger, id, request) {
            self.carry_out(ledger, id, request);
        }
    }

    /// Puts `request` behind what the session has outstanding, if it must wait for that or if an
    /// earlier request already does; gives it back if it may go on.
    pub(super) fn defer(
        &mut self,
        ledger: &Ledger,
        id: SessionId,
        request: Deferred,
    ) -> Option<Deferred> {
        let waits = self.is_outstanding(id) && self.waits(id, &request);
        let session = self.sessions.get_mut(&id)?;
        let first = session.deferred.is_empty();
        if first && !waits {
            return Some(request);
        }
        session.deferred.push_back(request);
        if first {
            self.behind(ledger, id, After::Resume { session: id });
        }
        None
    }

    /// Whether `request` cannot be carried out while effects of its session are outstanding: it
    /// sees which messages are in a queue, and so must see those that its own session has
    /// published before.
    fn waits(&self, id: SessionId, request: &Deferred) -> bool {
        match request {
            Deferred::Topology { change, .. } => match change {
                TopologyChange::LookUpQueue { .. } | TopologyChange::DeleteQueue { .. } => true,
                TopologyChange::DeclareQueue(def) => self
                    .sessions
                    .get(&id)
                    .is_some_and(|s| self.topology.queue(&s.vhost, &def.name).is_ok()),
                _ => false,
            },
            // Its answer must come before its first delivery.
            Deferred::Attach(_) | Deferred::Purge { .. } => true,
            // Its copies lie behind what its session has published; and no more of them are on
            // their way through the log than one step makes.
            Deferred::Recall(_) => true,
            Deferred::Publish { .. }
            | Deferred::Detach { .. }
            | Deferred::Credit { .. }
            | Deferred::Settle { .. }
            | Deferred::Begin { .. }
            | Deferred::Commit { .. }
            | Deferred::Rollback { .. }
            | Deferred::OpenClient(_)
            | Deferred::CloseClient { .. }
            | Deferred::Note { .. }
            | Deferred::Refuse { .. } => false,
        }
    }

    /// Goes on with what was deferred, up to the next request that must wait itself.
    pub(super) fn resume(&mut self, ledger: &Ledger, id: SessionId) {
        loop {
            let Some(session) = self.sessions.get_mut(&id).filter(|s| !s.unfinished) else {
                return;
            };
            let Some(request) = session.deferred.pop_front() else { return };
            if self.is_outstanding(id) && self.waits(id, &request) {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.deferred.push_front(request);
                }
                self.behind(ledger, id, After::Resume { session: id });
                return;
            }
            self.carry_out(ledger, id, request);
        }
    }

    /// Puts back what is left to do of a request, ahead of all that its session asked for since.
    pub(super) fn go_on_later(&mut self, id: SessionId, rest: Deferred) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.deferred.push_front(rest);
        session.unfinished = true;
        self.unfinished.push(id);
    }

    /// Goes on with the requests that were too much for one turn.
    pub(super) fn go_on(&mut self, ledger: &Ledger) {
        for id in std::mem::take(&mut self.unfinished) {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.unfinished = false;
                self.resume(ledger, id);
            }
        }
    }

    fn carry_out(&mut self, ledger: &Ledger, id: SessionId, request: Deferred) {
        match request {
            Deferred::Topology { token, change } => self.do_topology(ledger, id, token, change),
            Deferred::Publish { token, batch, transaction } => {
                self.do_publish(ledger, id, token, batch, transaction);
            }
            Deferred::Attach(attach) => self.do_attach(ledger, id, &attach),
            Deferred::Detach { token, consumer } => self.do_detach(ledger, id, token, consumer),
            Deferred::Credit { consumer, credit } => self.do_set_credit(id, consumer, credit),
            Deferred::Settle { token, settlements, transaction } => {
                self.do_settle(ledger, id, token, settlements, transaction);
            }
            Deferred::Begin { token, transaction } => self.do_begin(ledger, id, token, transaction),
            Deferred::Commit { token, transaction } => {
                self.do_commit(ledger, id, token, transaction);
            }
            Deferred::Rollback { token, transaction } => {
                self.do_rollback(ledger, id, token, transaction);
            }
            Deferred::Purge { token, queue } => self.do_purge(ledger, id, token, &queue),
            Deferred::Refuse { token, error } => self.answer(ledger, id, token, Err(error)),
            Deferred::OpenClient(open) => self.do_open_client(ledger, id, *open),
            Deferred::CloseClient { token, expiry_ms, publish_will } => {
                self.do_close_client(ledger, id, token, expiry_ms, publish_will);
            }
            Deferred::Note { token, notes, of, transaction } => {
                self.do_note(ledger, id, token, notes, of, transaction);
            }
            Deferred::Recall(recalling) => self.do_recall(ledger, id, recalling),
        }
    }
}
