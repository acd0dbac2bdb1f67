//! Policies in effect.

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::{QueueId, SettingKey, Time};

use super::Dispatcher;
use crate::Ledger;
use crate::policy::Effective;

impl Dispatcher {
    /// Lets the policies of every virtual host hold, at the beginning of a term.
    pub(super) fn govern_everything(&mut self, ledger: &Ledger) {
        for vhost in ledger.topology().vhosts() {
            if !self.policies.is_empty(vhost) {
                self.govern_exchanges(vhost);
            }
        }
    }

    /// A policy has a new value, or none any more, which is committed.
    pub(super) fn policy_changed(&mut self, ledger: &Ledger, key: &SettingKey) {
        let changed = self.policies.set(key, ledger.settings().get(key));
        if changed.of_exchanges {
            self.govern_exchanges(&key.vhost);
        }
        for id in self.queues_of(&key.vhost) {
            let concerned = self
                .queues
                .get(&id)
                .is_some_and(|queue| changed.may_concern(&queue.def, &queue.policies));
            if concerned {
                self.govern(id);
            }
        }
    }

    /// A virtual host is gone, and its settings with it; there may be a new one of its name.
    pub(super) fn vhost_forgotten(&mut self, vhost: &Arc<str>) {
        self.policies.forget_vhost(vhost);
        self.govern_exchanges(vhost);
        for id in self.queues_of(vhost) {
            self.govern(id);
        }
    }

    fn queues_of(&self, vhost: &str) -> Vec<QueueId> {
        let queues = self.topology.queues(vhost).unwrap_or_default();
        queues.into_iter().map(|queue| queue.id).collect()
    }

    /// Lets the policies hold that apply to a queue.
    pub(super) fn govern(&mut self, id: QueueId) {
        let now = self.clock.monotonic;
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let before = queue.options().expires_ms;
        queue.set_policies(self.policies.of_queue(&queue.vhost, &queue.def));
        let expires_ms = queue.options().expires_ms;
        if expires_ms != before {
            queue.used_at = now;
            queue.expiry_at = Time::NEVER;
            if let Some(ms) = expires_ms {
                queue.expiry_at = now + Duration::from_millis(ms);
                self.timers.look_at(queue.expiry_at, id);
            }
        }
        // What is over a limit now, or has expired, leaves at once.
        self.mark_dirty(id);
    }

    fn govern_exchanges(&mut self, vhost: &str) {
        let exchanges = self.topology.exchanges(vhost).unwrap_or_default();
        let names: Vec<Arc<str>> = exchanges.into_iter().map(|def| Arc::clone(&def.name)).collect();
        for name in names {
            self.govern_exchange(vhost, &name);
        }
    }

    /// Lets the policies hold that apply to an exchange.
    pub(super) fn govern_exchange(&mut self, vhost: &str, name: &str) {
        let effective = self.policies.of_exchange(vhost, name);
        self.topology.set_policy_alternate(vhost, name, effective.alternate_exchange());
    }

    /// The policies that apply to an exchange.
    pub fn exchange_policies(&self, vhost: &str, name: &str) -> Effective {
        self.policies.of_exchange(vhost, name)
    }
}
