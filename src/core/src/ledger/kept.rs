//! What exchanges keep, as the log tells it.

use std::sync::Arc;

use super::Ledger;
use crate::Fact;
use crate::kept::{Kept, KeptMessage};

impl Ledger {
    /// What durable exchanges keep.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    pub(super) fn apply_kept(&mut self, fact: &Fact) {
        match fact {
            Fact::Kept { vhost, exchange, key, batch, since, annotations, .. } => {
                // One that was deleted before this was committed keeps nothing.
                if self.topology.exchange(vhost, exchange).is_ok() {
                    let message = KeptMessage::new(batch, 0, *since, annotations.clone());
                    self.kept.keep(vhost, exchange, key, message);
                }
            }
            Fact::Unkept { vhost, exchange, key } => {
                self.kept.remove(vhost, exchange, key);
            }
            _ => unreachable!("not a fact of what is kept: {fact:?}"),
        }
    }

    /// What is kept, for a checkpoint, with just its own bytes.
    pub(super) fn kept_facts(&self) -> impl Iterator<Item = Fact> {
        self.kept.iter().map(|(vhost, exchange, key, message)| Fact::Kept {
            vhost: Arc::clone(vhost),
            exchange: Arc::clone(exchange),
            key: key.into(),
            batch: Arc::clone(&message.batch),
            record: None,
            since: message.since,
            annotations: message.annotations.clone(),
        })
    }
}
