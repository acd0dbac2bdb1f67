//! What the broker tells of itself.
//!
//! Each virtual host has a topic exchange for it, which is the leader's alone: it is not in the log,
//! and what goes through it is not either. The latest of each key is kept once for all virtual
//! hosts, so that who asks for it later gets it at once ([`Dispatcher::recall`]).

use std::sync::Arc;

use isthmus_model::Batch;

use super::Dispatcher;
use super::publish::{Head, Routed};
use crate::Ledger;
use crate::kept::{Kept, KeptMessage};

/// What is kept of them is in no virtual host, and of no exchange.
const NOWHERE: &str = "";

impl Dispatcher {
    /// Declares the exchange of a virtual host that is there.
    pub(super) fn declare_own_exchange(&mut self, vhost: &str) {
        if let Some(name) = self.options.own_exchange {
            // It fails where there is no such virtual host, and then nobody needs it.
            self.topology.declare_own_exchange(vhost, name).ok();
        }
    }

    /// Sends what the broker tells of itself to whoever is bound for it, in every virtual host, and
    /// keeps it: what is not the same as before under its key, and nothing else. The messages must
    /// be transient: nothing of this is for the log. Their times to live hold for what is sent;
    /// what is kept does not expire.
    pub fn announce(&mut self, ledger: &Ledger, batch: &Batch) {
        let Some(exchange) = self.options.own_exchange else { return };
        let nowhere: Arc<str> = NOWHERE.into();
        let before = |key: &str| self.announced.get(NOWHERE, NOWHERE, key);
        let is_news = |record: &&isthmus_model::Record| {
            before(batch.routing_key(record))
                .is_none_or(|m| m.batch.body(&m.batch.records[0]) != batch.body(record))
        };
        let records: Vec<_> = batch.records.iter().filter(is_news).copied().collect();
        if records.is_empty() {
            return;
        }
        let news = Batch { records, ..batch.clone() };
        let news = Arc::new(news.compacted(0, news.records.len() as u32));
        for (at, record) in news.records.iter().enumerate() {
            let key = news.routing_key(record);
            let lasting = Arc::new(without_ttl(&news, at as u32));
            let message = KeptMessage::new(&lasting, 0, self.clock.log, None);
            self.announced.keep(&nowhere, &nowhere, key, message);
        }
        let vhosts: Vec<Arc<str>> = self.topology.vhosts().into_iter().cloned().collect();
        for vhost in vhosts {
            if self.topology.binding_count(&vhost, exchange) > 0 {
                self.announce_in(ledger, &vhost, exchange, &news);
            }
        }
    }

    fn announce_in(&mut self, ledger: &Ledger, vhost: &str, exchange: &str, news: &Arc<Batch>) {
        let mut routed = Routed::default();
        for (at, record) in news.records.iter().enumerate() {
            let mut routes = std::mem::take(&mut self.routes);
            routes.clear();
            let mut head = Head::of(self.options.encodings, news, record);
            let key = news.routing_key(record);
            if self.topology.route_own(vhost, exchange, key, &mut head, &mut routes).is_ok() {
                for queue in &routes {
                    self.place_all(*queue, news, at as u32, 1, &mut routed);
                }
            }
            self.routes = routes;
        }
        for effect in routed.into_transient() {
            self.take_effect(ledger, effect);
        }
    }

    /// Where to look for what `exchange` of `vhost` keeps.
    pub(super) fn keeping_of<'d>(
        &'d self,
        vhost: &'d str,
        exchange: &'d str,
    ) -> (&'d Kept, (&'d str, &'d str)) {
        if self.options.own_exchange == Some(exchange) {
            (&self.announced, (NOWHERE, NOWHERE))
        } else {
            (self.kept(), (vhost, exchange))
        }
    }
}

/// A copy of one message that does not expire.
fn without_ttl(batch: &Batch, record: u32) -> Batch {
    let mut alone = batch.compacted(record, 1);
    for record in &mut alone.records {
        record.ttl_ms = isthmus_model::NO_TTL;
    }
    alone
}
