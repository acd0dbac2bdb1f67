//! One exchange: what was declared, what is bound to it, and how it routes.

use std::sync::Arc;

use isthmus_model::{BindingDef, Destination, ExchangeDef, ExchangeKind, Table};
use rpds::{HashTrieMapSync, RedBlackTreeSetSync};

use super::hash::{self, Hash, HashOn, HashRoutes};
use super::headers::HeaderRoutes;
use super::targets::{Reached, Target, Targets};
use super::trie::{self, Trie, WORDS_MAX};
use super::values::Canonical;
use super::{Message, TopologyError, headers};
use crate::dedup::DedupOptions;

/// A binding, ordered by its source, destination, key and the meaning of its arguments.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) def: BindingDef,
    arguments: Canonical,
}

impl Binding {
    pub(super) fn new(def: BindingDef) -> Binding {
        let arguments = Canonical::of(&def.arguments);
        Binding { def, arguments }
    }

    fn key(&self) -> (&str, &Destination, &str, &Canonical) {
        (&self.def.source, &self.def.destination, &self.def.routing_key, &self.arguments)
    }
}

impl PartialEq for Binding {
    fn eq(&self, other: &Binding) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Binding {}

impl PartialOrd for Binding {
    fn partial_cmp(&self, other: &Binding) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Binding {
    fn cmp(&self, other: &Binding) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Bindings in their order.
pub(super) type Bindings = RedBlackTreeSetSync<Arc<Binding>>;

/// An exchange and what is bound to it.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) def: Arc<ExchangeDef>,
    /// Where a message goes that follows no binding, as declared.
    declared_alternate: Option<Arc<str>>,
    /// The same, as a policy says where nothing is declared.
    pub(super) policy_alternate: Option<Arc<str>>,
    /// If messages that were seen before are not to be routed.
    pub(super) dedup: Option<Arc<DedupOptions>>,
    /// Of which it is the source.
    pub(super) outbound: Bindings,
    /// Of which it is the destination.
    pub(super) inbound: Bindings,
    /// Whether only the broker itself sends through it.
    pub(super) is_own: bool,
    routes: Routes,
}

/// The outbound bindings, arranged for the question that the exchange's kind asks.
#[derive(Clone, Debug)]
enum Routes {
    /// The default exchange's: every queue by its name.
    Implicit,
    Direct(HashTrieMapSync<Arc<str>, Targets>),
    Fanout(Targets),
    Topic(Trie),
    Headers(HeaderRoutes),
    Hash(HashOn, HashRoutes),
}

impl Exchange {
    /// An exchange without bindings. Arguments that [`check_declaration`] would refuse mean
    /// nothing: it is not asked about what is in the log.
    pub(super) fn new(def: ExchangeDef) -> Exchange {
        let routes = match def.kind {
            _ if def.name.is_empty() => Routes::Implicit,
            ExchangeKind::Direct => Routes::Direct(HashTrieMapSync::new_sync()),
            ExchangeKind::Fanout | ExchangeKind::Deduplication => {
                Routes::Fanout(Targets::default())
            }
            ExchangeKind::Topic => Routes::Topic(Trie::default()),
            ExchangeKind::Headers => Routes::Headers(HeaderRoutes::default()),
            ExchangeKind::ConsistentHash => {
                let on = HashOn::of(&def).unwrap_or(HashOn::RoutingKey);
                Routes::Hash(on, HashRoutes::default())
            }
        };
        Exchange {
            dedup: DedupOptions::of_exchange(&def).ok().flatten().map(Arc::new),
            policy_alternate: None,
            declared_alternate: def
                .arguments
                .get("alternate-exchange")
                .and_then(|value| value.as_str())
                .map(Arc::from),
            def: Arc::new(def),
            outbound: Bindings::new_sync(),
            inbound: Bindings::new_sync(),
            is_own: false,
            routes,
        }
    }

    /// The topic exchange by which the broker tells of itself. It is made anew with each term: it
    /// is not in the log.
    pub(super) fn own(name: &str) -> Exchange {
        let def = ExchangeDef {
            name: name.into(),
            kind: ExchangeKind::Topic,
            durable: false,
            auto_delete: false,
            internal: true,
            delayed: false,
            arguments: Table::default(),
        };
        Exchange { is_own: true, ..Exchange::new(def) }
    }

    /// Where a message goes that follows no binding.
    pub(super) fn alternate(&self) -> Option<&Arc<str>> {
        self.declared_alternate.as_ref().or(self.policy_alternate.as_ref())
    }

    /// The exchanges that every virtual host has from its start.
    pub(super) fn predeclared() -> impl Iterator<Item = Exchange> {
        [
            ("", ExchangeKind::Direct),
            ("amq.direct", ExchangeKind::Direct),
            ("amq.fanout", ExchangeKind::Fanout),
            ("amq.headers", ExchangeKind::Headers),
            ("amq.match", ExchangeKind::Headers),
            ("amq.topic", ExchangeKind::Topic),
        ]
        .into_iter()
        .map(|(name, kind)| {
            Exchange::new(ExchangeDef {
                name: name.into(),
                kind,
                durable: true,
                auto_delete: false,
                internal: false,
                delayed: false,
                arguments: Table::default(),
            })
        })
    }

    /// Whether this exchange can route by a binding such as `def`.
    pub(super) fn check(&self, def: &BindingDef) -> Result<(), TopologyError> {
        match &self.routes {
            Routes::Implicit => Err(TopologyError::DefaultExchange),
            Routes::Direct(_) | Routes::Fanout(_) => Ok(()),
            Routes::Topic(_) => match trie::words(&def.routing_key) {
                words if words > WORDS_MAX => Err(TopologyError::TooManyWords { words }),
                _ => Ok(()),
            },
            Routes::Headers(_) => headers::check(&def.arguments),
            Routes::Hash(..) => hash::weight(&def.routing_key).map(drop),
        }
    }

    /// Adds `binding`, which was checked and is not there yet, to `target`.
    pub(super) fn add(&mut self, binding: &Arc<Binding>, target: &Target) {
        let def = &binding.def;
        match &mut self.routes {
            Routes::Implicit => unreachable!("the default exchange's bindings are refused"),
            Routes::Direct(by_key) => match by_key.get_mut(&def.routing_key) {
                Some(targets) => targets.add(target),
                None => {
                    let mut targets = Targets::default();
                    targets.add(target);
                    by_key.insert_mut(def.routing_key.clone(), targets);
                }
            },
            Routes::Fanout(targets) => targets.add(target),
            Routes::Topic(trie) => trie.add(&def.routing_key, target),
            Routes::Headers(routes) => routes.add(&def.arguments, target),
            Routes::Hash(_, routes) => routes.add(def, target),
        }
        self.outbound.insert_mut(binding.clone());
    }

    /// Removes `binding`, which is there, and leads to `target`.
    pub(super) fn remove(&mut self, binding: &Binding, target: &Target) {
        let def = &binding.def;
        match &mut self.routes {
            Routes::Implicit => unreachable!("the default exchange's bindings are refused"),
            Routes::Direct(by_key) => {
                let targets = by_key.get_mut(&def.routing_key).expect("the binding was added");
                targets.remove(target);
                if targets.is_empty() {
                    by_key.remove_mut(&def.routing_key);
                }
            }
            Routes::Fanout(targets) => targets.remove(target),
            Routes::Topic(trie) => trie.remove(&def.routing_key, target),
            Routes::Headers(routes) => routes.remove(&def.arguments, target),
            Routes::Hash(_, routes) => routes.remove(def, target),
        }
        let was_there = self.outbound.remove_mut(binding);
        assert!(was_there, "a binding is listed as long as it routes");
    }

    /// Adds what a message follows from here.
    ///
    /// The default exchange has no bindings; its queues are its virtual host's to find.
    pub(super) fn reach<'t>(&'t self, message: &mut Message<'_>, reached: &mut Reached<'t, '_>) {
        match &self.routes {
            Routes::Implicit => {}
            Routes::Direct(by_key) => {
                for key in message.keys {
                    if let Some(targets) = by_key.get(*key) {
                        targets.reach(reached);
                    }
                }
            }
            Routes::Fanout(targets) => targets.reach(reached),
            Routes::Topic(trie) => message.keys.iter().for_each(|key| trie.reach(key, reached)),
            Routes::Headers(routes) => routes.reach(message.headers(), reached),
            Routes::Hash(on, routes) => {
                let hash = match on {
                    // Of several keys only the message's own counts: it goes to one place.
                    HashOn::RoutingKey => {
                        Hash::of(message.keys.first().copied().unwrap_or_default().as_bytes())
                    }
                    HashOn::Header(name) => Hash::of_header(message.headers(), name),
                    HashOn::Property(name) => {
                        let value = message.properties.property(name).unwrap_or_default();
                        Hash::of(value.as_bytes())
                    }
                };
                routes.reach(hash, reached);
            }
        }
    }

    /// Whether this is the default exchange.
    pub(super) fn is_default(&self) -> bool {
        matches!(self.routes, Routes::Implicit)
    }
}

/// Refuses a declaration whose arguments do not make sense for its kind.
pub(super) fn check_declaration(def: &ExchangeDef) -> Result<(), TopologyError> {
    if def.kind == ExchangeKind::ConsistentHash {
        HashOn::of(def)?;
    }
    let dedup = DedupOptions::of_exchange(def);
    dedup.map(drop).map_err(|why| TopologyError::InvalidArgument { why: why.into() })
}
