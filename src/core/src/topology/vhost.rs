//! One virtual host: its exchanges, queues and bindings, and how they change together.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use isthmus_model::{BindingDef, Destination, ExchangeDef, Lifetime, QueueDef, QueueId, SessionId};
use rpds::HashTrieMapSync;

use super::equivalence;
use super::exchange::{self, Binding, Bindings, Exchange};
use super::holding::{HOLDING_PREFIX, delay_ms, holding_queue};
use super::targets::{Reached, Target};
use super::{Declared, DeclaredQueue, Message, QueueEntry, Removed, ResourceKind, TopologyError};

/// The names that only the broker gives.
const RESERVED_PREFIX: &str = "amq.";

/// A queue and what is bound to it.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) entry: QueueEntry,
    pub(super) inbound: Bindings,
}

/// Who wants a name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Declarer {
    Client,
    Broker,
}

/// A virtual host.
///
/// A binding is in its source's `outbound` and in its destination's `inbound`, and both ends
/// exist: [`VirtualHost::attach`] and [`VirtualHost::detach`] alone change either.
#[derive(Clone, Debug)]
pub(super) struct VirtualHost {
    pub(super) name: Arc<str>,
    exchanges: HashTrieMapSync<Arc<str>, Exchange>,
    queues: HashTrieMapSync<Arc<str>, Queue>,
    /// How many of the queues hold what exchanges delay.
    holding: usize,
}

impl VirtualHost {
    pub(super) fn new(name: &str) -> VirtualHost {
        let mut exchanges = HashTrieMapSync::new_sync();
        for exchange in Exchange::predeclared() {
            exchanges.insert_mut(exchange.def.name.clone(), exchange);
        }
        VirtualHost {
            name: name.into(),
            exchanges,
            queues: HashTrieMapSync::new_sync(),
            holding: 0,
        }
    }

    pub(super) fn exchange(&self, name: &str) -> Result<&Exchange, TopologyError> {
        self.exchanges.get(name).ok_or_else(|| self.not_found(ResourceKind::Exchange, name))
    }

    pub(super) fn queue(&self, name: &str) -> Result<&Queue, TopologyError> {
        self.queues.get(name).ok_or_else(|| self.not_found(ResourceKind::Queue, name))
    }

    fn not_found(&self, kind: ResourceKind, name: &str) -> TopologyError {
        TopologyError::NotFound { kind, name: name.into(), vhost: self.name.clone() }
    }

    /// The exchanges in the order of their names.
    pub(super) fn exchanges(&self) -> Vec<&Exchange> {
        let mut all: Vec<&Exchange> = self.exchanges.values().collect();
        all.sort_unstable_by(|a, b| a.def.name.cmp(&b.def.name));
        all
    }

    /// The queues in the order of their names.
    pub(super) fn queues(&self) -> Vec<&QueueEntry> {
        let mut all: Vec<&QueueEntry> = self.queues.values().map(|queue| &queue.entry).collect();
        all.sort_unstable_by(|a, b| a.def.name.cmp(&b.def.name));
        all
    }

    pub(super) fn queue_count(&self) -> usize {
        self.queues.size() - self.holding
    }

    pub(super) fn set_policy_alternate(&mut self, exchange: &str, alternate: Option<&Arc<str>>) {
        if let Some(exchange) = self.exchanges.get_mut(exchange)
            && !exchange.is_default()
        {
            exchange.policy_alternate = alternate.cloned();
        }
    }

    /// The bindings that lead to `destination`.
    pub(super) fn inbound(&self, destination: &Destination) -> Result<&Bindings, TopologyError> {
        Ok(match destination {
            Destination::Queue(name) => &self.queue(name)?.inbound,
            Destination::Exchange(name) => &self.exchange(name)?.inbound,
        })
    }

    pub(super) fn declare_exchange(
        &mut self,
        def: ExchangeDef,
        by: Declarer,
    ) -> Result<Declared, TopologyError> {
        if def.name.is_empty() {
            return Err(TopologyError::DefaultExchange);
        }
        if let Some(existing) = self.exchanges.get(&def.name) {
            equivalence::check_exchange(&self.name, &existing.def, &def)?;
            return Ok(Declared::Existing);
        }
        check_name(ResourceKind::Exchange, &def.name, by)?;
        if by == Declarer::Client {
            exchange::check_declaration(&def)?;
        }
        self.exchanges.insert_mut(def.name.clone(), Exchange::new(def));
        Ok(Declared::New)
    }

    /// Declares the exchange by which the broker tells of itself, if it is not there.
    pub(super) fn declare_own_exchange(&mut self, name: &str) {
        if !self.exchanges.contains_key(name) {
            self.exchanges.insert_mut(name.into(), Exchange::own(name));
        }
    }

    pub(super) fn delete_exchange(
        &mut self,
        name: &str,
        if_unused: bool,
    ) -> Result<Removed, TopologyError> {
        if name.is_empty() {
            return Err(TopologyError::DefaultExchange);
        }
        let exchange = self.exchange(name)?;
        check_name(ResourceKind::Exchange, &exchange.def.name, Declarer::Client)?;
        if if_unused && !exchange.outbound.is_empty() {
            return Err(TopologyError::InUse {
                kind: ResourceKind::Exchange,
                name: exchange.def.name.clone(),
                vhost: self.name.clone(),
            });
        }
        let mut removed = Removed::default();
        self.remove_exchange(name, &mut removed);
        self.cascade(&mut removed);
        Ok(removed)
    }

    pub(super) fn declare_queue(
        &mut self,
        def: Arc<QueueDef>,
        id: QueueId,
        by: Declarer,
    ) -> Result<DeclaredQueue, TopologyError> {
        let holds = is_holding(&def.name);
        if by == Declarer::Client && holds {
            let (kind, name) = (ResourceKind::Queue, Arc::clone(&def.name));
            return Err(TopologyError::Reserved { kind, name });
        }
        if let Some(Queue { entry, .. }) = self.queues.get(&def.name) {
            equivalence::check_queue(&self.name, &entry.def, &def)?;
            return Ok(DeclaredQueue::Existing(entry.id));
        }
        check_name(ResourceKind::Queue, &def.name, by)?;
        let name = def.name.clone();
        let entry = QueueEntry { id, def };
        self.queues.insert_mut(name, Queue { entry, inbound: Bindings::new_sync() });
        self.holding += usize::from(holds);
        Ok(DeclaredQueue::New)
    }

    pub(super) fn delete_queue(&mut self, name: &str) -> Result<Removed, TopologyError> {
        self.queue(name)?;
        let mut removed = Removed::default();
        self.remove_queue(name, &mut removed);
        self.cascade(&mut removed);
        Ok(removed)
    }

    /// The queue `name`, unless it is exclusive to another session. Queues that hold what exchanges
    /// delay are not there for anybody.
    pub(super) fn accessible(
        &self,
        name: &str,
        session: SessionId,
    ) -> Result<&QueueEntry, TopologyError> {
        if is_holding(name) {
            return Err(self.not_found(ResourceKind::Queue, name));
        }
        let entry = &self.queue(name)?.entry;
        match entry.def.lifetime {
            Lifetime::Exclusive(owner) if owner != session => Err(TopologyError::Locked {
                queue: entry.def.name.clone(),
                vhost: self.name.clone(),
            }),
            _ => Ok(entry),
        }
    }

    /// The names of a binding's ends as they are kept, and where it leads; refused if an end is
    /// missing or is the default exchange.
    fn resolve(&self, def: &BindingDef) -> Result<(Binding, Target), TopologyError> {
        let source = self.exchange(&def.source)?;
        if source.is_default() {
            return Err(TopologyError::DefaultExchange);
        }
        let (destination, target) = match &def.destination {
            Destination::Queue(name) => {
                let entry = &self.queue(name)?.entry;
                (Destination::Queue(entry.def.name.clone()), Target::Queue(entry.id))
            }
            Destination::Exchange(name) => {
                let exchange = self.exchange(name)?;
                if exchange.is_default() {
                    return Err(TopologyError::DefaultExchange);
                }
                let name = &exchange.def.name;
                // What the broker does not say of itself does not come from there.
                if exchange.is_own {
                    let (kind, name) = (ResourceKind::Exchange, name.clone());
                    return Err(TopologyError::Reserved { kind, name });
                }
                (Destination::Exchange(name.clone()), Target::Exchange(name.clone()))
            }
        };
        // Ten thousand bindings of one queue share its name instead of a copy each.
        let def = BindingDef { source: source.def.name.clone(), destination, ..def.clone() };
        Ok((Binding::new(def), target))
    }

    pub(super) fn bind(&mut self, def: &BindingDef) -> Result<Declared, TopologyError> {
        let (binding, target) = self.resolve(def)?;
        let source = self.exchange(&def.source)?;
        source.check(&binding.def)?;
        if source.outbound.contains(&binding) {
            return Ok(Declared::Existing);
        }
        self.attach(&Arc::new(binding), &target);
        Ok(Declared::New)
    }

    pub(super) fn unbind(&mut self, def: &BindingDef) -> Result<Removed, TopologyError> {
        let (binding, _) = self.resolve(def)?;
        let mut removed = Removed::default();
        if self.detach(&binding, &mut removed) {
            self.cascade(&mut removed);
        }
        Ok(removed)
    }

    /// Whether both ends of `def` outlive a restart.
    pub(super) fn is_durable(&self, def: &BindingDef) -> Result<bool, TopologyError> {
        let source = self.exchange(&def.source)?.def.durable;
        let destination = match &def.destination {
            Destination::Queue(name) => self.queue(name)?.entry.def.lifetime == Lifetime::Durable,
            Destination::Exchange(name) => self.exchange(name)?.def.durable,
        };
        Ok(source && destination)
    }

    /// Removes what `removed` says, as far as it is here, and nothing else.
    pub(super) fn retract(&mut self, removed: &Removed) -> Removed {
        let mut gone = Removed::default();
        for def in &removed.bindings {
            self.detach(&Binding::new(def.clone()), &mut gone);
        }
        // A namesake that was declared since is another queue.
        if let Some(QueueEntry { id, def }) = &removed.queue
            && self.queue(&def.name).is_ok_and(|here| here.entry.id == *id)
        {
            self.remove_queue(&def.name, &mut gone);
        }
        for exchange in &removed.exchanges {
            if self.exchanges.contains_key(&exchange.name) {
                self.remove_exchange(&exchange.name, &mut gone);
            }
        }
        gone
    }

    fn attach(&mut self, binding: &Arc<Binding>, target: &Target) {
        let source = self.exchanges.get_mut(&binding.def.source).expect("the source was resolved");
        source.add(binding, target);
        self.inbound_mut(&binding.def.destination).insert_mut(binding.clone());
    }

    /// Removes `binding` from both of its ends and notes it, if it is there.
    fn detach(&mut self, binding: &Binding, removed: &mut Removed) -> bool {
        let Some(source) = self.exchanges.get(&binding.def.source) else { return false };
        let Some(kept) = source.outbound.get(binding) else { return false };
        let def = kept.def.clone();
        let target = match &def.destination {
            Destination::Queue(name) => {
                Target::Queue(self.queues.get(name).expect("a binding's ends exist").entry.id)
            }
            Destination::Exchange(name) => Target::Exchange(name.clone()),
        };
        let source = self.exchanges.get_mut(&def.source).expect("it was just found");
        source.remove(binding, &target);
        let was_there = self.inbound_mut(&def.destination).remove_mut(binding);
        assert!(was_there, "a binding is at both of its ends");
        removed.bindings.push(def);
        true
    }

    fn inbound_mut(&mut self, destination: &Destination) -> &mut Bindings {
        match destination {
            Destination::Queue(name) => self.queues.get_mut(name).map(|queue| &mut queue.inbound),
            Destination::Exchange(name) => {
                self.exchanges.get_mut(name).map(|exchange| &mut exchange.inbound)
            }
        }
        .expect("a binding's ends exist")
    }

    /// Removes an exchange that is there, and its bindings.
    fn remove_exchange(&mut self, name: &str, removed: &mut Removed) {
        let exchange = self.exchanges.get(name).expect("the exchange was found").clone();
        // One that leads from the exchange to itself is in both sets; detached once, it is gone.
        for binding in exchange.outbound.iter().chain(exchange.inbound.iter()) {
            self.detach(binding, removed);
        }
        self.exchanges.remove_mut(name);
        removed.exchanges.push(exchange.def);
    }

    /// Removes a queue that is there, and its bindings.
    fn remove_queue(&mut self, name: &str, removed: &mut Removed) {
        let queue = self.queues.get(name).expect("the queue was found").clone();
        for binding in queue.inbound.iter() {
            self.detach(binding, removed);
        }
        self.queues.remove_mut(name);
        self.holding -= usize::from(is_holding(name));
        removed.queue = Some(queue.entry);
    }

    /// Removes the exchanges that go with the last of their bindings, where `removed` had it; and
    /// those that went with the bindings of these.
    ///
    /// Of several, the first by name goes first: every replica notes them in the same order.
    fn cascade(&mut self, removed: &mut Removed) {
        let mut seen = 0;
        let mut sources = BTreeSet::new();
        loop {
            sources.extend(removed.bindings[seen..].iter().map(|def| def.source.clone()));
            seen = removed.bindings.len();
            let Some(name) = sources.pop_first() else { return };
            let spent = |e: &Exchange| e.def.auto_delete && e.outbound.is_empty();
            if self.exchanges.get(&name).is_some_and(spent) {
                self.remove_exchange(&name, removed);
            }
        }
    }

    pub(super) fn route(
        &self,
        exchange: &str,
        message: &mut Message<'_>,
        out: &mut Vec<QueueId>,
    ) -> Result<(), TopologyError> {
        let start = self.exchange(exchange)?;
        if start.is_own && !message.is_own {
            return Err(self.not_found(ResourceKind::Exchange, exchange));
        }
        let mut reached = Reached { queues: out, exchanges: Vec::new(), any: false };
        self.follow(start, message, &mut reached);
        if !reached.exchanges.is_empty() {
            let mut visited = HashSet::from([exchange]);
            while let Some(name) = reached.exchanges.pop() {
                if !visited.insert(name) {
                    continue;
                }
                // An alternate exchange need not exist.
                if let Some(exchange) = self.exchanges.get(name).filter(|e| !e.is_own) {
                    self.follow(exchange, message, &mut reached);
                }
            }
        }
        if !out.is_sorted_by(|a, b| a < b) {
            out.sort_unstable();
            out.dedup();
        }
        Ok(())
    }

    /// Adds what a message follows from `exchange`: its bindings, or else its alternate.
    fn follow<'t>(
        &'t self,
        exchange: &'t Exchange,
        message: &mut Message<'_>,
        reached: &mut Reached<'t, '_>,
    ) {
        reached.any = false;
        if exchange.def.delayed
            && message.may_wait
            && delay_ms(message.headers()).is_some()
            && let Some(queue) = self.queues.get(&*holding_queue(&exchange.def.name))
        {
            reached.queues.push(queue.entry.id);
            return;
        }
        if exchange.is_default() {
            let keys = message.keys.iter().filter(|key| !is_holding(key));
            for queue in keys.filter_map(|key| self.queues.get(*key)) {
                reached.any = true;
                reached.queues.push(queue.entry.id);
            }
        } else {
            exchange.reach(message, reached);
        }
        if !reached.any
            && let Some(alternate) = exchange.alternate()
        {
            reached.exchanges.push(alternate);
        }
    }
}

/// Whether a queue holds what an exchange delays.
fn is_holding(queue: &str) -> bool {
    queue.starts_with(HOLDING_PREFIX)
}

/// Keeps reserved names from clients.
fn check_name(kind: ResourceKind, name: &Arc<str>, by: Declarer) -> Result<(), TopologyError> {
    if by == Declarer::Client && name.starts_with(RESERVED_PREFIX) {
        return Err(TopologyError::Reserved { kind, name: name.clone() });
    }
    Ok(())
}
