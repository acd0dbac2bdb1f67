//! Declarations and deletions.

use std::fmt::Write;
use std::sync::Arc;

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use isthmus_model::{
    BindingDef, CommandError, Destination, DetachReason, Lifetime, QueueDef, QueueId,
    REPLY_QUEUE_PREFIX, Reply, SessionId, SettingKey, SettingKind, SharedOptions, Table, Token,
    TopologyChange,
};

use super::Dispatcher;
use super::queue::Queue;
use super::session::Deferred;
use crate::codec::LEVELS_MAX;
use crate::dedup::{DedupOptions, WindowOf};
use crate::topology::{Declared, DeclaredQueue, Removed, TopologyError, holding_queue};
use crate::{Fact, Ledger};

/// About what a declaration costs in the log.
const DECLARATION_BYTES: u64 = 256;

/// What the names of queues begin with that clients declare without a name.
const GENERATED_PREFIX: &str = "amq.gen-";

impl Dispatcher {
    /// Declares, binds, looks up or deletes.
    pub fn change_topology(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        change: TopologyChange,
    ) {
        let request = Deferred::Topology { token, change };
        if let Some(Deferred::Topology { token, change }) = self.defer(ledger, session, request) {
            self.do_topology(ledger, session, token, change);
        }
    }

    pub(super) fn do_topology(
        &mut self,
        ledger: &Ledger,
        id: SessionId,
        token: Token,
        change: TopologyChange,
    ) {
        let written = self.gather.written;
        if !self.sessions.contains_key(&id) {
            return;
        }
        let result = match self.vhost_of(id) {
            Ok(vhost) => self.try_topology(ledger, id, &vhost, change),
            Err(error) => Err(error),
        };
        self.touch_log_since(written, id);
        // What is found to exist may exist by an entry that is not committed yet, of whomever.
        self.answer_committed(ledger, id, token, result);
    }

    fn try_topology(
        &mut self,
        ledger: &Ledger,
        id: SessionId,
        vhost: &Arc<str>,
        change: TopologyChange,
    ) -> Result<Reply, CommandError> {
        match change {
            TopologyChange::DeclareExchange(def) => {
                check_nesting(&def.arguments)?;
                let declared = self.topology.declare_exchange(vhost, def.clone())?;
                if declared == Declared::New {
                    self.govern_exchange(vhost, &def.name);
                }
                let holding = def.delayed.then(|| holding_queue_of(&def.name, def.durable));
                if declared == Declared::New && def.durable {
                    let vhost = Arc::clone(vhost);
                    self.propose(Fact::DeclareExchange { vhost, def }, DECLARATION_BYTES);
                }
                if let Some(holding) = holding {
                    self.declare_holding(vhost, holding)?;
                }
                Ok(Reply::Ok)
            }
            TopologyChange::LookUpExchange { name } => {
                self.topology.exchange(vhost, &name)?;
                Ok(Reply::Ok)
            }
            TopologyChange::DeleteExchange { name, if_unused } => {
                match self.topology.delete_exchange(vhost, &name, if_unused) {
                    Err(TopologyError::NotFound { .. }) => {}
                    removed => self.log_removed(vhost, &removed?),
                }
                Ok(Reply::Ok)
            }
            TopologyChange::DeclareQueue(def) if def.name.is_empty() => {
                self.make_queue(ledger, vhost, GENERATED_PREFIX, def)
            }
            TopologyChange::DeclareQueue(def) | TopologyChange::DeclareQueueFor { def, .. } => {
                self.declare_queue(ledger, vhost, def, Declarer::Client)
            }
            TopologyChange::DeclareOwnQueue(def) => {
                let name = Arc::clone(&def.name);
                let reply = self.declare_queue(ledger, vhost, def, Declarer::Broker)?;
                let queue = self.topology.queue(vhost, &name)?.id;
                self.hold_own(id, queue);
                Ok(reply)
            }
            TopologyChange::MakeQueue { prefix, def } => {
                self.make_queue(ledger, vhost, &prefix, def)
            }
            TopologyChange::LookUpQueue { name } => {
                // Whoever was told where to send replies may ask whether they are still awaited.
                if name.starts_with(REPLY_QUEUE_PREFIX) {
                    let entry = self.topology.queue(vhost, &name)?;
                    return Ok(self.queue_reply(entry.id, Arc::clone(&entry.def.name), false));
                }
                let (queue, name) = self.usable_queue(id, &name)?;
                Ok(self.queue_reply(queue, name, false))
            }
            TopologyChange::DeleteQueue { name, if_unused, if_empty } => {
                self.delete_queue(id, vhost, &name, if_unused, if_empty)
            }
            TopologyChange::HoldQueue { name } => {
                let (queue, _) = self.usable_queue(id, &name)?;
                self.hold(id, queue)?;
                Ok(Reply::Ok)
            }
            TopologyChange::ReleaseQueue { name } => {
                match self.topology.queue_for(vhost, &name, id) {
                    Err(TopologyError::NotFound { .. }) => {}
                    entry => {
                        let queue = entry?.id;
                        self.release_held(id, queue)?;
                    }
                }
                Ok(Reply::Ok)
            }
            TopologyChange::Bind(def) => {
                check_nesting(&def.arguments)?;
                self.check_destination(id, &def)?;
                let declared = self.topology.bind(vhost, &def)?;
                if declared == Declared::New && self.topology.is_durable(vhost, &def)? {
                    let vhost = Arc::clone(vhost);
                    self.propose(Fact::Bind { vhost, def }, DECLARATION_BYTES);
                }
                Ok(Reply::Ok)
            }
            TopologyChange::Unbind(def) => {
                check_nesting(&def.arguments)?;
                self.check_destination(id, &def)?;
                let durable = self.topology.is_durable(vhost, &def)?;
                let removed = self.topology.unbind(vhost, &def)?;
                if durable && !removed.bindings.is_empty() {
                    let vhost = Arc::clone(vhost);
                    self.propose(Fact::Unbind { vhost, def }, DECLARATION_BYTES);
                }
                self.log_removed(vhost, &removed);
                Ok(Reply::Ok)
            }
        }
    }

    fn check_destination(&self, id: SessionId, def: &BindingDef) -> Result<(), CommandError> {
        match &def.destination {
            Destination::Queue(name) => self.usable_queue(id, name).map(drop),
            Destination::Exchange(_) => Ok(()),
        }
    }

    /// A queue that the session may use.
    pub(super) fn usable_queue(
        &self,
        id: SessionId,
        name: &str,
    ) -> Result<(QueueId, Arc<str>), CommandError> {
        let vhost = self.vhost_of(id)?;
        let entry = self.topology.queue_for(&vhost, name, id)?;
        Ok((entry.id, Arc::clone(&entry.def.name)))
    }

    fn queue_reply(&self, id: QueueId, name: Arc<str>, is_new: bool) -> Reply {
        let queue = self.queues.get(&id);
        Reply::Queue {
            name,
            ready: queue.map_or(0, |q| q.ready.len()),
            consumers: queue.map_or(0, |q| q.consumers.len() as u32),
            is_new,
        }
    }

    fn make_queue(
        &mut self,
        ledger: &Ledger,
        vhost: &Arc<str>,
        prefix: &str,
        def: QueueDef,
    ) -> Result<Reply, CommandError> {
        let name = self.make_name(prefix);
        let def = QueueDef { name, ..def };
        self.declare_queue(ledger, vhost, def, Declarer::Broker)
    }

    fn declare_queue(
        &mut self,
        ledger: &Ledger,
        vhost: &Arc<str>,
        mut def: QueueDef,
        by: Declarer,
    ) -> Result<Reply, CommandError> {
        check_nesting(&def.arguments)?;
        let id = self.next_queue;
        if self.topology.queue(vhost, &def.name).is_err() {
            self.check_queue_limit(ledger, vhost, &def.name)?;
            DedupOptions::of(&def.arguments).map_err(CommandError::Precondition)?;
        }
        // Neighbours are mostly declared alike.
        def.options.share(&self.declared_last);
        self.declared_last = def.options.clone();
        // One declaration for the routing, the queue and the log.
        let def = Arc::new(def);
        let declared = match by {
            Declarer::Broker => self.topology.declare_system_queue(vhost, Arc::clone(&def), id)?,
            Declarer::Client => self.topology.declare_queue(vhost, Arc::clone(&def), id)?,
        };
        let name = Arc::clone(&def.name);
        if let DeclaredQueue::Existing(id) = declared {
            self.in_use(id);
            return Ok(self.queue_reply(id, name, false));
        }
        self.add_queue(vhost, def);
        Ok(self.queue_reply(id, name, true))
    }

    /// Adds a queue that the topology has under the next id.
    fn add_queue(&mut self, vhost: &Arc<str>, def: Arc<QueueDef>) {
        let id = self.next_queue;
        self.next_queue = QueueId(id.0 + 1);
        match def.lifetime {
            Lifetime::Durable => {
                let (vhost, def) = (Arc::clone(vhost), Arc::clone(&def));
                self.propose(Fact::DeclareQueue { vhost, id, def }, DECLARATION_BYTES);
            }
            Lifetime::Volatile => {}
            Lifetime::Exclusive(owner) => {
                if let Some(session) = self.sessions.get_mut(&owner) {
                    session.exclusive_queues.insert(id, ());
                }
            }
        }
        let mut queue = Queue::new(vhost, def, id, self.options.encodings);
        queue.set_policies(self.policies.of_queue(vhost, &queue.def));
        self.queues.insert(id, Box::new(queue));
        self.in_use(id);
    }

    /// Sees to it that a virtual host has the queue in which it holds messages itself. It comes with
    /// the first of them, in the same entry, and stays.
    pub(super) fn declare_own_holding(&mut self, vhost: &Arc<str>) {
        // It fails where there is no such virtual host, which the message is told of.
        self.declare_holding(vhost, holding_queue_of("", true)).ok();
    }

    fn declare_holding(&mut self, vhost: &Arc<str>, def: QueueDef) -> Result<(), TopologyError> {
        if self.topology.queue(vhost, &def.name).is_err() {
            let def = Arc::new(def);
            self.topology.declare_system_queue(vhost, Arc::clone(&def), self.next_queue)?;
            self.add_queue(vhost, def);
        }
        Ok(())
    }

    /// Refuses a queue more where a virtual host has as many as it may have.
    fn check_queue_limit(
        &self,
        ledger: &Ledger,
        vhost: &Arc<str>,
        name: &str,
    ) -> Result<(), CommandError> {
        let limits = SettingKey::of_vhost(SettingKind::VhostLimit, vhost, "");
        let limit = ledger.settings().get(&limits).and_then(|limits| limits.get("max-queues"));
        // A negative number stands for no limit.
        let Some(max) = limit.and_then(|max| usize::try_from(max.as_i64()?).ok()) else {
            return Ok(());
        };
        if self.topology.queue_count(vhost)? < max {
            return Ok(());
        }
        Err(CommandError::Limit(format!(
            "cannot declare queue '{name}': queue limit in vhost '{vhost}' ({max}) is reached"
        )))
    }

    /// A queue name that was not given out before, and that nobody can guess without knowing the
    /// seed: a reply queue is open to whoever knows its name.
    fn make_name(&mut self, prefix: &str) -> Arc<str> {
        self.names_made += 1;
        let seed = (&self.options.name_seed).into();
        let mut mac = <Blake2sMac<U16> as KeyInit>::new(seed);
        mac.update(&self.term.to_le_bytes());
        mac.update(&self.names_made.to_le_bytes());
        let mut name = String::from(prefix);
        for byte in mac.finalize().into_bytes() {
            // Writing to a string does not fail.
            let _ = write!(name, "{byte:02x}");
        }
        name.into()
    }

    fn delete_queue(
        &mut self,
        session: SessionId,
        vhost: &Arc<str>,
        name: &str,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<Reply, CommandError> {
        let id = match self.topology.queue_for(vhost, name, session) {
            Err(TopologyError::NotFound { .. }) => return Ok(Reply::Messages(0)),
            entry => entry?.id,
        };
        let Some(queue) = self.queues.get(&id) else { return Ok(Reply::Messages(0)) };
        let refused = |why| {
            Err(CommandError::Precondition(format!("queue '{name}' in vhost '{vhost}' {why}")))
        };
        if if_unused && !queue.consumers.is_empty() {
            return refused("in use");
        }
        if if_empty && !queue.ready.is_empty() {
            return refused("is not empty");
        }
        let messages = queue.ready.len();
        self.remove_queue(id);
        Ok(Reply::Messages(messages))
    }

    /// Deletes a queue with what is in it and ends its consumers.
    pub(super) fn remove_queue(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get(&id) else { return };
        let (vhost, name) = (Arc::clone(&queue.vhost), Arc::clone(&queue.def.name));
        for key in queue.receivers() {
            self.cancel_consumer(key, DetachReason::QueueDeleted);
        }
        self.windows.remove(&WindowOf::Queue(id));
        self.clients.lasting.forget_queue(id);
        // Unsettled deliveries are gone with the queue, and no longer count against anybody.
        if let Some(mut queue) = self.queues.remove(&id) {
            for checkout in queue.checkouts.take_everything() {
                self.give_credit_back(id, &checkout);
            }
            if let Lifetime::Exclusive(owner) = queue.def.lifetime
                && let Some(session) = self.sessions.get_mut(&owner)
            {
                session.exclusive_queues.remove(id);
            }
        }
        if let Ok(removed) = self.topology.delete_queue(&vhost, &name) {
            self.log_removed(&vhost, &removed);
        }
    }

    /// Gathers the facts of a removal: what was durable of it. What an exchange held goes with it.
    fn log_removed(&mut self, vhost: &Arc<str>, removed: &Removed) {
        if let Some(queue) = &removed.queue
            && queue.def.lifetime == Lifetime::Durable
        {
            self.propose(Fact::DeleteQueue { id: queue.id }, DECLARATION_BYTES);
        }
        for exchange in &removed.exchanges {
            let (vhost, name) = (Arc::clone(vhost), Arc::clone(&exchange.name));
            self.keeping.forget_exchange(&vhost, &name);
            self.windows.remove(&WindowOf::Exchange { vhost, name });
        }
        for exchange in removed.exchanges.iter().filter(|e| e.durable) {
            let (vhost, name) = (Arc::clone(vhost), Arc::clone(&exchange.name));
            self.propose(Fact::DeleteExchange { vhost, name }, DECLARATION_BYTES);
        }
        for exchange in removed.exchanges.iter().filter(|e| e.delayed) {
            if let Ok(entry) = self.topology.queue(vhost, &holding_queue(&exchange.name)) {
                self.remove_queue(entry.id);
            }
        }
    }

    /// Deletes a queue that was there for its consumers, or for lasting sessions, and has none of
    /// either any more.
    pub(super) fn delete_if_abandoned(&mut self, id: QueueId) {
        let abandoned = self.queues.get(&id).is_some_and(|q| {
            let was_used = q.def.auto_delete && q.had_consumer;
            (was_used || q.was_let_go) && q.consumers.is_empty()
        });
        if abandoned && !self.clients.lasting.is_held(id) {
            self.remove_queue(id);
        }
    }

    /// Drops every ready message of a queue.
    pub fn purge(&mut self, ledger: &Ledger, session: SessionId, token: Token, queue: &Arc<str>) {
        let request = Deferred::Purge { token, queue: Arc::clone(queue) };
        if self.defer(ledger, session, request).is_some() {
            self.do_purge(ledger, session, token, queue);
        }
    }

    pub(super) fn do_purge(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        queue: &str,
    ) {
        let written = self.gather.written;
        let result = self.usable_queue(session, queue).map(|(id, _)| {
            let mut messages = 0;
            while let Some(queue) = self.queues.get_mut(&id) {
                let Some(range) = queue.ready.peek() else { break };
                queue.ready.take(range.priority, range.len);
                messages += range.len;
                self.gone(id, range.first, range.len);
            }
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.ready_bytes = 0;
            }
            Reply::Messages(messages)
        });
        self.touch_log_since(written, session);
        self.answer_committed(ledger, session, token, result);
    }
}

/// The queue in which messages wait that an exchange delays: it lasts as long as the exchange. That
/// of the virtual host, for messages to any exchange, has no exchange's name.
fn holding_queue_of(exchange: &str, durable: bool) -> QueueDef {
    QueueDef {
        name: holding_queue(exchange).into(),
        lifetime: if durable { Lifetime::Durable } else { Lifetime::Volatile },
        auto_delete: false,
        options: SharedOptions::default(),
        arguments: Table::default(),
    }
}

/// Refuses values that are nested deeper than the log can be read.
pub(super) fn check_nesting(arguments: &Table) -> Result<(), CommandError> {
    if arguments.nests_deeper_than(LEVELS_MAX) {
        return Err(CommandError::Invalid(format!(
            "values are nested more than {LEVELS_MAX} levels deep"
        )));
    }
    Ok(())
}

/// Who gives a queue its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Declarer {
    Client,
    Broker,
}

impl From<TopologyError> for CommandError {
    fn from(error: TopologyError) -> CommandError {
        let text = error.to_string();
        match error {
            TopologyError::NotFound { .. } => CommandError::NotFound(text),
            TopologyError::Inequivalent { .. } | TopologyError::InUse { .. } => {
                CommandError::Precondition(text)
            }
            TopologyError::Reserved { .. } | TopologyError::DefaultExchange => {
                CommandError::Refused(text)
            }
            TopologyError::Locked { .. } => CommandError::Locked(text),
            TopologyError::InvalidMatch { .. } | TopologyError::InvalidArgument { .. } => {
                CommandError::Precondition(text)
            }
            TopologyError::TooManyWords { .. } => CommandError::Limit(text),
        }
    }
}
