//! Lasting sessions: who has which open, when they end, and what becomes of their wills.
//!
//! What is decided here is decided on the leader's own copy of the sessions, which is ahead of the
//! ledger by what is proposed and not committed; whoever opens a session is answered when all of
//! that is committed. A session that neither outlives its connection nor has a will is known here
//! alone, and the log never hears of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use isthmus_model::{
    Batch, CommandError, OpenSession, QueueId, Reply, SessionId, Time, Token, Will,
};

use super::session::Deferred;
use super::{Dispatcher, Output};
use crate::clients::{Client, ClientChange, ClientKey, Clients, Notes, Presence};
use crate::ledger::client_bytes;
use crate::{Fact, Ledger};

/// Sessions that are looked after in one turn: a million that end at once are not to be one.
const LOOKED_AFTER_MAX: usize = 1000;

/// Lasting sessions as the leader knows them.
#[derive(Debug, Default)]
pub(super) struct OpenClients {
    /// Those of the log, as they will be when all that is proposed is committed.
    pub(super) lasting: Clients,
    /// Who has which open, in the log or not.
    open: HashMap<ClientKey, SessionId>,
    /// When something is to be done about those that are closed, in log time.
    due: BTreeSet<(Time, ClientKey)>,
    /// The time under which each stands in `due`.
    armed: HashMap<ClientKey, Time>,
}

impl OpenClients {
    /// What a term begins with: nobody is connected.
    pub(super) fn recovered(lasting: &Clients) -> OpenClients {
        let mut clients = OpenClients { lasting: lasting.clone(), ..OpenClients::default() };
        for (key, client) in lasting.iter() {
            clients.arm(key, client);
        }
        clients
    }

    /// The log time at which something is to be done.
    pub(super) fn next_due(&self) -> Time {
        self.due.first().map_or(Time::NEVER, |(at, _)| *at)
    }

    /// Sees to it that `client` is looked at when its will is due or its time is over.
    fn arm(&mut self, key: &ClientKey, client: &Client) {
        self.disarm(key);
        let at = client.will_at().min(client.ends_at());
        if at != Time::NEVER {
            self.due.insert((at, key.clone()));
            self.armed.insert(key.clone(), at);
        }
    }

    fn disarm(&mut self, key: &ClientKey) {
        if let Some(at) = self.armed.remove(key) {
            self.due.remove(&(at, key.clone()));
        }
    }
}

/// The lasting session that a connection has open.
#[derive(Debug)]
pub(super) struct OpenClient {
    pub(super) key: ClientKey,
    /// Its notes, if it ends with the connection: the log does not have them.
    pub(super) notes: Option<Notes>,
}

/// How the session of a client is, for operators.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientStatus {
    /// Whose it is.
    pub key: ClientKey,
    /// The user who began it.
    pub user: Arc<str>,
    /// The connection that has it open.
    pub connection: Option<SessionId>,
    /// Milliseconds that it is kept after its connection has ended, or
    /// [`NEVER_EXPIRES`](isthmus_model::NEVER_EXPIRES).
    pub expiry_ms: u64,
    /// When it ends if its client stays away, in log time; [`Time::NEVER`] while it is there.
    pub ends_at: Time,
    /// How many notes it has.
    pub notes: usize,
    /// Whether it has a will that is yet to be published.
    pub has_will: bool,
    /// The queues that it holds.
    pub queues: Vec<Arc<str>>,
}

/// How a connection comes to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself. Its lasting session, if it has said no goodbye, is closed.
    Own,
    /// Somebody else takes its lasting session, and decides what becomes of that.
    TakenOver,
}

impl Dispatcher {
    /// Lasting sessions, what is not committed yet included.
    pub fn clients(&self) -> &Clients {
        &self.clients.lasting
    }

    /// How many connections have a lasting session open, whether it outlives them or not.
    pub fn open_clients(&self) -> usize {
        self.clients.open.len()
    }

    /// How many lasting sessions are kept for clients that are away.
    pub fn kept_clients(&self) -> usize {
        self.clients.lasting.len() - self.clients.lasting.connected()
    }

    /// How every session is, in the order of virtual hosts and clients: those that are kept, and
    /// those that end with a connection.
    pub fn client_statuses(&self) -> Vec<ClientStatus> {
        let name = |id: &QueueId| Some(Arc::clone(&self.queues.get(id)?.def.name));
        let kept = self.clients.lasting.iter().map(|(key, client)| ClientStatus {
            key: key.clone(),
            user: Arc::clone(&client.user),
            connection: self.clients.open.get(key).copied(),
            expiry_ms: client.expiry_ms,
            ends_at: client.ends_at(),
            notes: client.notes.len(),
            has_will: client.will.is_some(),
            queues: client.held.iter().filter_map(name).collect(),
        });
        let passing = self.clients.open.iter().filter_map(|(key, id)| {
            let session = self.sessions.get(id)?;
            if self.clients.lasting.get(key).is_some() {
                return None;
            }
            let notes = session.client.as_ref().and_then(|client| client.notes.as_ref());
            Some(ClientStatus {
                key: key.clone(),
                user: Arc::clone(&session.user),
                connection: Some(*id),
                expiry_ms: 0,
                ends_at: Time::NEVER,
                notes: notes.map_or(0, Notes::len),
                has_will: false,
                queues: Vec::new(),
            })
        });
        let mut statuses: Vec<ClientStatus> = kept.chain(passing).collect();
        statuses.sort_by(|a, b| a.key.cmp(&b.key));
        statuses
    }

    /// Ends the session of a client for an operator, and the connection that has it open.
    pub fn end_session_of(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        key: &ClientKey,
    ) {
        let holder = self.clients.open.get(key).copied();
        if let Some(holder) = holder {
            self.say(holder, Output::SessionEnded);
            self.end_connection(ledger, holder, Ending::TakenOver);
        }
        let result = if holder.is_some() || self.clients.lasting.get(key).is_some() {
            self.end_client(key, true);
            Ok(Reply::Ok)
        } else {
            let ClientKey { vhost, client } = key;
            Err(CommandError::NotFound(format!("no session '{client}' in vhost '{vhost}'")))
        };
        self.answer_committed(ledger, session, token, result);
    }

    /// Opens the lasting session of a client.
    pub fn open_client(&mut self, ledger: &Ledger, session: SessionId, open: OpenSession) {
        let request = Deferred::OpenClient(Box::new(open));
        if let Some(Deferred::OpenClient(open)) = self.defer(ledger, session, request) {
            self.do_open_client(ledger, session, *open);
        }
    }

    pub(super) fn do_open_client(&mut self, ledger: &Ledger, id: SessionId, open: OpenSession) {
        let token = open.token;
        let written = self.gather.written;
        match self.try_open_client(ledger, id, open) {
            Ok((reply, waits)) => {
                self.touch_log_since(written, id);
                if waits {
                    // What the connection before has noted may not be committed yet, and what it
                    // held may not be back.
                    self.answer_committed(ledger, id, token, Ok(reply));
                } else {
                    self.answer_since(ledger, written, id, token, Ok(reply));
                }
            }
            Err(error) => self.answer(ledger, id, token, Err(error)),
        }
    }

    /// Returns the answer, and whether it must wait for what others have done.
    fn try_open_client(
        &mut self,
        ledger: &Ledger,
        id: SessionId,
        open: OpenSession,
    ) -> Result<(Reply, bool), CommandError> {
        let vhost = self.vhost_of(id)?;
        let Some(session) = self.sessions.get(&id) else {
            return Err(CommandError::Invalid("the session is over".into()));
        };
        if session.client.is_some() {
            let text = "a lasting session is open on this connection already";
            return Err(CommandError::Invalid(text.into()));
        }
        if open.will.as_ref().is_some_and(|will| will.batch.records.len() != 1) {
            return Err(CommandError::Invalid("a will is one message".into()));
        }
        let user = Arc::clone(&session.user);
        let key = ClientKey { vhost, client: open.client };
        // What is over by now is over, whether its timer has run or not.
        self.look_after(&key);
        self.check_owner(&key, &user)?;
        let holder = self.clients.open.get(&key).copied();
        if let Some(holder) = holder {
            self.say(holder, Output::TakenOver);
            self.end_connection(ledger, holder, Ending::TakenOver);
        }
        let before = self.clients.lasting.get(&key).cloned();
        let waits = holder.is_some() || before.is_some();
        let notes = match before.filter(|client| !open.clean && client.expiry_ms > 0) {
            Some(client) => {
                self.publish_overtaken_will(&key, &client);
                Some(client.notes.clone())
            }
            None => {
                self.end_overtaken(&key);
                None
            }
        };
        let (present, expiry_ms) = (notes.is_some(), open.expiry_ms);
        if present || expiry_ms > 0 || open.will.is_some() {
            let will = open.will.map(|Will { batch, delay_ms }| Will {
                batch: Arc::new(batch.compacted(0, 1)),
                delay_ms,
            });
            self.change_client(&key, ClientChange::Opened { user, expiry_ms, will });
        }
        self.clients.disarm(&key);
        self.clients.open.insert(key.clone(), id);
        self.counters.sessions_opened += 1;
        if let Some(session) = self.sessions.get_mut(&id) {
            let ends_with_it = !present && expiry_ms == 0;
            session.client = Some(OpenClient { key, notes: ends_with_it.then(Notes::default) });
        }
        let notes = notes.iter().flat_map(Notes::iter).collect();
        Ok((Reply::Session { present, notes }, waits))
    }

    /// Refuses a session that is another user's.
    fn check_owner(&self, key: &ClientKey, user: &Arc<str>) -> Result<(), CommandError> {
        let holder = self.clients.open.get(key).and_then(|id| self.sessions.get(id));
        let owner = match holder {
            Some(session) => Some(&session.user),
            None => self.clients.lasting.get(key).map(|client| &client.user),
        };
        if owner.is_none_or(|owner| owner == user) {
            return Ok(());
        }
        let ClientKey { vhost, client } = key;
        Err(CommandError::Refused(format!(
            "client identifier '{client}' in vhost '{vhost}' is in use by another user"
        )))
    }

    /// A client takes its session over from another connection and goes on with it: the will of
    /// the other is published, unless it was to wait for a return such as this (MQTT 5, 3.1.3.2.2).
    fn publish_overtaken_will(&mut self, key: &ClientKey, client: &Client) {
        if client.presence == Presence::Connected
            && let Some(will) = client.will.as_ref().filter(|will| will.delay_ms == 0)
        {
            self.publish_will(&key.vhost, &will.batch);
        }
    }

    /// A client begins anew. The will of a connection that ended with its leader is dropped: the
    /// client is back.
    fn end_overtaken(&mut self, key: &ClientKey) {
        let presence = self.clients.lasting.get(key).map(|client| client.presence);
        self.end_client(key, !matches!(presence, Some(Presence::Lost(_))));
    }

    /// Closes the lasting session of a client that says goodbye.
    pub fn close_client(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        expiry_ms: Option<u64>,
        publish_will: bool,
    ) {
        let request = Deferred::CloseClient { token, expiry_ms, publish_will };
        if self.defer(ledger, session, request).is_some() {
            self.do_close_client(ledger, session, token, expiry_ms, publish_will);
        }
    }

    pub(super) fn do_close_client(
        &mut self,
        ledger: &Ledger,
        id: SessionId,
        token: Token,
        expiry_ms: Option<u64>,
        publish_will: bool,
    ) {
        let written = self.gather.written;
        let result = self.check_expiry(id, expiry_ms).map(|()| {
            let client = self.sessions.get_mut(&id).and_then(|session| session.client.take());
            if let Some(client) = client {
                self.leave_client(&client, expiry_ms, publish_will);
            }
            Reply::Ok
        });
        self.touch_log_since(written, id);
        self.answer_since(ledger, written, id, token, result);
    }

    fn check_expiry(&self, id: SessionId, expiry_ms: Option<u64>) -> Result<(), CommandError> {
        let client = self.open_client_of(id)?;
        let before = self.clients.lasting.get(&client.key).map_or(0, |client| client.expiry_ms);
        if before == 0 && expiry_ms.is_some_and(|ms| ms > 0) {
            let text = "a session that ends with its connection cannot be kept any longer";
            return Err(CommandError::Invalid(text.into()));
        }
        Ok(())
    }

    /// The lasting session that a connection has open.
    pub(super) fn open_client_of(&self, id: SessionId) -> Result<&OpenClient, CommandError> {
        let client = self.sessions.get(&id).and_then(|session| session.client.as_ref());
        client.ok_or_else(|| {
            CommandError::Precondition("no lasting session is open on this connection".into())
        })
    }

    /// A connection has its lasting session open no longer.
    pub(super) fn leave_client(
        &mut self,
        open: &OpenClient,
        expiry_ms: Option<u64>,
        publish_will: bool,
    ) {
        let key = &open.key;
        self.clients.open.remove(key);
        let Some(client) = self.clients.lasting.get(key).cloned() else { return };
        let expiry_ms = expiry_ms.unwrap_or(client.expiry_ms);
        if expiry_ms == 0 {
            return self.end_client(key, publish_will);
        }
        let will = client.will.as_ref().filter(|_| publish_will);
        if let Some(will) = will.filter(|will| will.delay_ms == 0) {
            self.publish_will(&key.vhost, &will.batch);
        }
        let keeps_will = will.is_some_and(|will| will.delay_ms > 0);
        let (at, lost) = (self.clock.log, false);
        self.change_client(key, ClientChange::Closed { at, lost, expiry_ms, keeps_will });
        self.arm_client(key);
    }

    /// Somebody else has taken the session: what becomes of it is decided there.
    pub(super) fn lose_client(&mut self, open: &OpenClient) {
        self.clients.open.remove(&open.key);
    }

    /// Ends a lasting session: its will is published if it has one still and `publish_will`, the
    /// queues that it alone holds are deleted.
    fn end_client(&mut self, key: &ClientKey, publish_will: bool) {
        let Some(client) = self.clients.lasting.get(key).cloned() else { return };
        if let Some(will) = client.will.as_ref().filter(|_| publish_will) {
            self.publish_will(&key.vhost, &will.batch);
        }
        self.clients.disarm(key);
        self.change_client(key, ClientChange::Ended);
        for queue in &client.held {
            self.let_go(*queue);
        }
    }

    /// Publishes a will. The caller gathers a fact by which it is not published again.
    fn publish_will(&mut self, vhost: &Arc<str>, batch: &Arc<Batch>) {
        let effects = self.take_in_for_nobody(vhost, batch);
        self.gather.after.extend(effects);
    }

    /// Gathers something that happened to a session, and lets it have happened.
    pub(super) fn change_client(&mut self, key: &ClientKey, change: ClientChange) {
        self.clients.lasting.apply(key, &change);
        let bytes = client_bytes(key, &change);
        self.propose(Fact::Client { key: key.clone(), change }, bytes);
    }

    fn arm_client(&mut self, key: &ClientKey) {
        if let Some(client) = self.clients.lasting.get(key).cloned() {
            self.clients.arm(key, &client);
        }
    }

    /// Ends the sessions whose time is over, and publishes wills that are due.
    pub(super) fn look_after_clients(&mut self) {
        for _ in 0..LOOKED_AFTER_MAX {
            let Some((at, key)) = self.clients.due.first().cloned() else { return };
            if at > self.clock.log || self.has_gathered_enough() {
                return;
            }
            self.clients.disarm(&key);
            self.look_after(&key);
        }
    }

    /// Does what is due about a session whose client is away.
    fn look_after(&mut self, key: &ClientKey) {
        let Some(client) = self.clients.lasting.get(key).cloned() else { return };
        let (at, lost) = match client.presence {
            Presence::Connected => return,
            Presence::Closed(at) => (at, false),
            Presence::Lost(at) => (at, true),
        };
        if client.ends_at() <= self.clock.log {
            self.counters.sessions_expired += 1;
            return self.end_client(key, true);
        }
        if client.will_at() <= self.clock.log
            && let Some(will) = &client.will
        {
            self.publish_will(&key.vhost, &will.batch);
            let (expiry_ms, keeps_will) = (client.expiry_ms, false);
            self.change_client(key, ClientChange::Closed { at, lost, expiry_ms, keeps_will });
        }
        self.arm_client(key);
    }

    /// A virtual host is gone, with the sessions in it.
    pub(super) fn forget_clients_of(&mut self, vhost: &str) {
        self.clients.lasting.forget_vhost(vhost);
        self.clients.open.retain(|key, _| &*key.vhost != vhost);
        self.clients.due.retain(|(_, key)| &*key.vhost != vhost);
        self.clients.armed.retain(|key, _| &*key.vhost != vhost);
    }
}
