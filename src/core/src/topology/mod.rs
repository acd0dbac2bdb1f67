//! Routing: exchanges, bindings and queues by name.
//!
//! A [`Topology`] is persistent: `clone` costs two reference counts and gives a snapshot that
//! never changes, while the owner goes on changing its own; what both have in common is shared.
//! Publishers route with snapshots and wait for nobody. A change copies the few nodes on the way
//! to what it changes, whether or not a snapshot is outstanding.
//!
//! A change is a function of the topology and its arguments and of nothing else, so replicas that
//! apply the same changes have the same topology; wherever several things are removed or listed,
//! their order is defined. Hashed maps are only ever looked up in, or sorted when listed.
//!
//! | file | what it knows |
//! |---|---|
//! | `vhost` | both ends of every binding, and what goes with what when something is removed |
//! | `exchange` | which structure each kind of exchange routes with |
//! | `holding` | which messages are delayed, and where they wait |
//! | `trie`, `headers`, `hash`, `targets` | those structures |
//! | `equivalence`, `values` | when two declarations, or two values, mean the same |

mod equivalence;
mod error;
mod exchange;
mod hash;
mod headers;
mod holding;
mod targets;
#[cfg(test)]
mod tests;
mod trie;
mod values;
mod vhost;

use std::sync::Arc;

use isthmus_model::{BindingDef, Destination, ExchangeDef, QueueDef, QueueId, SessionId, Table};
use rpds::HashTrieMapSync;

pub use error::{ResourceKind, TopologyError};
pub use trie::WORDS_MAX;
pub(crate) use values::write_value;
use vhost::{Declarer, VirtualHost};

pub(crate) use holding::{HOLDING_PREFIX, delay_ms, holding_queue};

use crate::dedup::DedupOptions;

/// What of a message, beside its routing keys, can decide where it goes.
pub trait Properties {
    /// Its headers.
    fn headers(&mut self) -> Table;

    /// The property called so ([`Encoding::property`](isthmus_model::Encoding::property)).
    fn property(&mut self, name: &str) -> Option<String>;
}

/// Headers alone.
impl<F: FnMut() -> Table> Properties for F {
    fn headers(&mut self) -> Table {
        self()
    }

    fn property(&mut self, _: &str) -> Option<String> {
        None
    }
}

/// A message on its way.
struct Message<'m> {
    /// Its own routing key first.
    keys: &'m [&'m str],
    properties: &'m mut dyn Properties,
    /// Its headers, once they were asked for.
    headers: Option<Table>,
    /// Whether exchanges may hold it for as long as it asks for.
    may_wait: bool,
    /// Whether the broker tells of itself by it.
    is_own: bool,
}

impl Message<'_> {
    fn headers(&mut self) -> &Table {
        self.headers.get_or_insert_with(|| self.properties.headers())
    }
}

/// What became of a declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// It is there now.
    New,
    /// It was there already, and the same.
    Existing,
}

/// What became of a queue's declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclaredQueue {
    /// It is there now, under the id that was given.
    New,
    /// It was there already, and the same, under this id.
    Existing(QueueId),
}

/// A queue by its name and by its id.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueEntry {
    /// Its id.
    pub id: QueueId,
    /// As it was declared.
    pub def: Arc<QueueDef>,
}

/// What one change removed, in the order of its removal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Removed {
    /// The queue, if one was deleted.
    pub queue: Option<QueueEntry>,
    /// The bindings: those that the change names or that led to what it deleted, then those of
    /// exchanges that went with their last binding.
    pub bindings: Vec<BindingDef>,
    /// The exchanges: the deleted one, and those that went with their last binding.
    pub exchanges: Vec<Arc<ExchangeDef>>,
}

impl Removed {
    /// Whether nothing was removed.
    pub fn is_empty(&self) -> bool {
        self.queue.is_none() && self.bindings.is_empty() && self.exchanges.is_empty()
    }
}

/// Virtual hosts with their exchanges, queues and bindings.
///
/// Every operation but [`Topology::vhosts`] fails with
/// [`TopologyError::NotFound`] if its virtual host does not exist. A change that fails has changed
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    vhosts: HashTrieMapSync<Arc<str>, VirtualHost>,
}

impl Topology {
    /// A topology without virtual hosts.
    pub fn new() -> Topology {
        Topology::default()
    }

    /// Creates a virtual host, with the exchanges that each has: the default exchange `""`,
    /// `amq.direct`, `amq.fanout`, `amq.headers`, `amq.match` and `amq.topic`.
    pub fn declare_vhost(&mut self, name: &str) -> Declared {
        if self.vhosts.contains_key(name) {
            return Declared::Existing;
        }
        let vhost = VirtualHost::new(name);
        self.vhosts.insert_mut(vhost.name.clone(), vhost);
        Declared::New
    }

    /// Deletes a virtual host and all that is in it; returns its queues in the order of their
    /// names.
    pub fn delete_vhost(&mut self, name: &str) -> Result<Vec<QueueEntry>, TopologyError> {
        let queues: Vec<QueueEntry> = self.vhost(name)?.queues().into_iter().cloned().collect();
        self.vhosts.remove_mut(name);
        Ok(queues)
    }

    /// The names of the virtual hosts, in order.
    pub fn vhosts(&self) -> Vec<&Arc<str>> {
        let mut names: Vec<&Arc<str>> = self.vhosts.keys().collect();
        names.sort_unstable();
        names
    }

    fn vhost(&self, name: &str) -> Result<&VirtualHost, TopologyError> {
        self.vhosts.get(name).ok_or_else(|| no_vhost(name))
    }

    fn vhost_mut(&mut self, name: &str) -> Result<&mut VirtualHost, TopologyError> {
        self.vhosts.get_mut(name).ok_or_else(|| no_vhost(name))
    }

    /// Declares an exchange for a client.
    ///
    /// Fails with [`TopologyError::Inequivalent`] if it is there and not the same, with
    /// [`TopologyError::Reserved`] if it is not there and only the broker gives such names, and
    /// with [`TopologyError::DefaultExchange`] for `""`.
    pub fn declare_exchange(
        &mut self,
        vhost: &str,
        def: ExchangeDef,
    ) -> Result<Declared, TopologyError> {
        self.vhost_mut(vhost)?.declare_exchange(def, Declarer::Client)
    }

    /// As [`Topology::declare_exchange`], for the broker itself: reserved names are free.
    pub fn declare_system_exchange(
        &mut self,
        vhost: &str,
        def: ExchangeDef,
    ) -> Result<Declared, TopologyError> {
        self.vhost_mut(vhost)?.declare_exchange(def, Declarer::Broker)
    }

    /// The exchange called `name`.
    pub fn exchange(&self, vhost: &str, name: &str) -> Result<&Arc<ExchangeDef>, TopologyError> {
        Ok(&self.vhost(vhost)?.exchange(name)?.def)
    }

    /// Deletes an exchange and its bindings; `if_unused`, only if it is the source of none.
    ///
    /// Fails with [`TopologyError::NotFound`], [`TopologyError::InUse`],
    /// [`TopologyError::Reserved`] for names that start with `amq.`, and
    /// [`TopologyError::DefaultExchange`].
    pub fn delete_exchange(
        &mut self,
        vhost: &str,
        name: &str,
        if_unused: bool,
    ) -> Result<Removed, TopologyError> {
        self.vhost_mut(vhost)?.delete_exchange(name, if_unused)
    }

    /// Declares a queue for a client, under `id` if it is new: one that no queue had before.
    ///
    /// Fails with [`TopologyError::Locked`] if it is there and exclusive to another session, or
    /// exclusive in one declaration only; with [`TopologyError::Inequivalent`] if it is not the
    /// same otherwise; and with [`TopologyError::Reserved`] if it is not there and only the broker
    /// gives such names.
    pub fn declare_queue(
        &mut self,
        vhost: &str,
        def: impl Into<Arc<QueueDef>>,
        id: QueueId,
    ) -> Result<DeclaredQueue, TopologyError> {
        self.declare_queue_by(vhost, def.into(), id, Declarer::Client)
    }

    /// As [`Topology::declare_queue`], where the broker chose the name: reserved ones are free.
    pub fn declare_system_queue(
        &mut self,
        vhost: &str,
        def: impl Into<Arc<QueueDef>>,
        id: QueueId,
    ) -> Result<DeclaredQueue, TopologyError> {
        self.declare_queue_by(vhost, def.into(), id, Declarer::Broker)
    }

    fn declare_queue_by(
        &mut self,
        vhost: &str,
        def: Arc<QueueDef>,
        id: QueueId,
        by: Declarer,
    ) -> Result<DeclaredQueue, TopologyError> {
        self.vhost_mut(vhost)?.declare_queue(def, id, by)
    }

    /// The queue called `name`.
    pub fn queue(&self, vhost: &str, name: &str) -> Result<&QueueEntry, TopologyError> {
        Ok(&self.vhost(vhost)?.queue(name)?.entry)
    }

    /// The queue called `name`, for `session`: fails with [`TopologyError::Locked`] if the queue
    /// is exclusive to another.
    pub fn queue_for(
        &self,
        vhost: &str,
        name: &str,
        session: SessionId,
    ) -> Result<&QueueEntry, TopologyError> {
        self.vhost(vhost)?.accessible(name, session)
    }

    /// Deletes a queue and its bindings.
    pub fn delete_queue(&mut self, vhost: &str, name: &str) -> Result<Removed, TopologyError> {
        self.vhost_mut(vhost)?.delete_queue(name)
    }

    /// Adds a binding; one that differs from it in nothing but the order or the integer types of
    /// its arguments is the same.
    ///
    /// Fails with [`TopologyError::NotFound`] for the first end that is missing,
    /// [`TopologyError::DefaultExchange`] if either is `""`, [`TopologyError::InvalidMatch`] and
    /// [`TopologyError::TooManyWords`]. Whether the session may use the queue is for
    /// [`Topology::queue_for`] to say.
    pub fn bind(&mut self, vhost: &str, binding: &BindingDef) -> Result<Declared, TopologyError> {
        self.vhost_mut(vhost)?.bind(binding)
    }

    /// Removes a binding; if it is not there, nothing.
    ///
    /// Fails with [`TopologyError::NotFound`] for the first end that is missing, and with
    /// [`TopologyError::DefaultExchange`] if either is `""`.
    pub fn unbind(&mut self, vhost: &str, binding: &BindingDef) -> Result<Removed, TopologyError> {
        self.vhost_mut(vhost)?.unbind(binding)
    }

    /// Removes what another topology's change removed, as far as it is here, and nothing that
    /// would go with it: for a topology that holds a part of the other, where an exchange may
    /// seem to have lost its last binding and has not. Returns what was here.
    pub fn retract(&mut self, vhost: &str, removed: &Removed) -> Result<Removed, TopologyError> {
        Ok(self.vhost_mut(vhost)?.retract(removed))
    }

    /// Whether a binding outlives a restart: if both of its ends do.
    pub fn is_durable(&self, vhost: &str, binding: &BindingDef) -> Result<bool, TopologyError> {
        self.vhost(vhost)?.is_durable(binding)
    }

    /// Adds to `out` the queues that a message with `keys` (its routing key, and more if it names
    /// more) takes from `exchange`. All of `out` is then in ascending order and without
    /// repetition, with what was in it before.
    ///
    /// Properties are asked for only if an exchange is met that routes by them or delays messages,
    /// headers once at the most. An exchange that delays the message takes it into its holding
    /// queue instead. A message that follows no binding of an exchange by any of its keys goes to its
    /// `alternate-exchange`, if that exists. Neither the default exchange nor a direct, a fanout or
    /// a consistent hash exchange of routing keys allocates, but for what `out` grows.
    pub fn route(
        &self,
        vhost: &str,
        exchange: &str,
        keys: &[&str],
        properties: &mut dyn Properties,
        out: &mut Vec<QueueId>,
    ) -> Result<(), TopologyError> {
        let (may_wait, is_own) = (true, false);
        let mut message = Message { keys, properties, headers: None, may_wait, is_own };
        self.vhost(vhost)?.route(exchange, &mut message, out)
    }

    /// As [`Topology::route`], for a message that no exchange is to hold (any more).
    pub(crate) fn route_now(
        &self,
        vhost: &str,
        exchange: &str,
        keys: &[&str],
        properties: &mut dyn Properties,
        out: &mut Vec<QueueId>,
    ) -> Result<(), TopologyError> {
        let (may_wait, is_own) = (false, false);
        let mut message = Message { keys, properties, headers: None, may_wait, is_own };
        self.vhost(vhost)?.route(exchange, &mut message, out)
    }

    /// Declares the topic exchange by which the broker tells of itself, if it is not there. Nobody
    /// else's messages go through it, whether they are published to it or reach it by a binding,
    /// as its alternate or as dead letters.
    ///
    /// # Errors
    /// [`TopologyError::NotFound`] if there is no such virtual host.
    pub fn declare_own_exchange(&mut self, vhost: &str, name: &str) -> Result<(), TopologyError> {
        self.vhost_mut(vhost)?.declare_own_exchange(name);
        Ok(())
    }

    /// As [`Topology::route`], for what the broker tells of itself with `key`.
    pub(crate) fn route_own(
        &self,
        vhost: &str,
        exchange: &str,
        key: &str,
        properties: &mut dyn Properties,
        out: &mut Vec<QueueId>,
    ) -> Result<(), TopologyError> {
        let (keys, may_wait, is_own) = (&[key][..], false, true);
        let mut message = Message { keys, properties, headers: None, may_wait, is_own };
        self.vhost(vhost)?.route(exchange, &mut message, out)
    }

    /// How many bindings have `exchange` as their source; 0 if there is no such exchange.
    pub fn binding_count(&self, vhost: &str, exchange: &str) -> usize {
        let exchange = self.vhost(vhost).and_then(|vhost| vhost.exchange(exchange));
        exchange.map_or(0, |exchange| exchange.outbound.size())
    }

    /// The exchange that a message is published to, and whether it routes messages only that were
    /// not seen before.
    pub(crate) fn entrance(
        &self,
        vhost: &str,
        exchange: &str,
    ) -> Result<(&Arc<ExchangeDef>, Option<&Arc<DedupOptions>>), TopologyError> {
        let exchange = self.vhost(vhost)?.exchange(exchange)?;
        Ok((&exchange.def, exchange.dedup.as_ref()))
    }

    /// Lets messages that follow no binding of an exchange go to `alternate`, where its
    /// declaration does not say where. The default exchange has none.
    pub(crate) fn set_policy_alternate(
        &mut self,
        vhost: &str,
        exchange: &str,
        alternate: Option<&Arc<str>>,
    ) {
        if let Some(vhost) = self.vhosts.get_mut(vhost) {
            vhost.set_policy_alternate(exchange, alternate);
        }
    }

    /// How many queues a virtual host has, without those that hold what exchanges delay.
    pub fn queue_count(&self, vhost: &str) -> Result<usize, TopologyError> {
        Ok(self.vhost(vhost)?.queue_count())
    }

    /// The exchanges of a virtual host in the order of their names.
    pub fn exchanges(&self, vhost: &str) -> Result<Vec<&Arc<ExchangeDef>>, TopologyError> {
        Ok(self.vhost(vhost)?.exchanges().into_iter().map(|exchange| &exchange.def).collect())
    }

    /// The queues of a virtual host in the order of their names, without those that hold what
    /// exchanges delay.
    pub fn queues(&self, vhost: &str) -> Result<Vec<&QueueEntry>, TopologyError> {
        let mut queues = self.vhost(vhost)?.queues();
        queues.retain(|queue| !queue.def.name.starts_with(HOLDING_PREFIX));
        Ok(queues)
    }

    /// Every queue of a virtual host in the order of their names.
    pub(crate) fn all_queues(&self, vhost: &str) -> Result<Vec<&QueueEntry>, TopologyError> {
        Ok(self.vhost(vhost)?.queues())
    }

    /// The bindings of a virtual host in the order of their source, destination (queues before
    /// exchanges), key and arguments; without those that the default exchange implies.
    pub fn bindings<'t>(
        &'t self,
        vhost: &str,
    ) -> Result<impl Iterator<Item = &'t BindingDef> + use<'t>, TopologyError> {
        let exchanges = self.vhost(vhost)?.exchanges();
        Ok(exchanges.into_iter().flat_map(|exchange| exchange.outbound.iter()).map(|b| &b.def))
    }

    /// The bindings whose source is `exchange`, ordered as in [`Topology::bindings`].
    pub fn bindings_from<'t>(
        &'t self,
        vhost: &str,
        exchange: &str,
    ) -> Result<impl Iterator<Item = &'t BindingDef> + use<'t>, TopologyError> {
        Ok(self.vhost(vhost)?.exchange(exchange)?.outbound.iter().map(|b| &b.def))
    }

    /// The bindings that lead to `destination`, ordered as in [`Topology::bindings`].
    pub fn bindings_to<'t>(
        &'t self,
        vhost: &str,
        destination: &Destination,
    ) -> Result<impl Iterator<Item = &'t BindingDef> + use<'t>, TopologyError> {
        Ok(self.vhost(vhost)?.inbound(destination)?.iter().map(|b| &b.def))
    }
}

fn no_vhost(name: &str) -> TopologyError {
    TopologyError::not_found(ResourceKind::VirtualHost, name, name)
}
