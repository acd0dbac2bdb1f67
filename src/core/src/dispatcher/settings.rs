//! Virtual hosts, and what operators define.

use std::sync::Arc;

use isthmus_model::{CommandError, Reply, SessionId, SettingKey, Table, Token};

use super::{Dispatcher, Output};
use crate::topology::Declared;
use crate::{Fact, Ledger};

/// About what a setting costs in the log.
const SETTING_BYTES: u64 = 256;

impl Dispatcher {
    /// Declares a virtual host, if it is new.
    pub fn declare_vhost(&mut self, name: &str) {
        if self.topology.declare_vhost(name) == Declared::New {
            self.propose(Fact::DeclareVhost(name.into()), name.len() as u64);
        }
    }

    /// Whether there is such a virtual host.
    pub fn has_vhost(&self, name: &str) -> bool {
        self.topology.exchange(name, "").is_ok()
    }

    /// Deletes a virtual host with everything in it and ends the sessions that use it.
    pub fn delete_vhost(&mut self, ledger: &Ledger, session: SessionId, token: Token, name: &str) {
        if let Ok(queues) = self.topology.queues(name) {
            let ids: Vec<_> = queues.into_iter().map(|queue| queue.id).collect();
            for id in ids {
                self.remove_queue(id);
            }
        }
        // One that does not exist counts as deleted.
        if self.topology.delete_vhost(name).is_ok() {
            self.propose(Fact::DeleteVhost(name.into()), name.len() as u64);
            let mut users: Vec<SessionId> = self
                .sessions
                .iter()
                .filter(|(_, s)| &*s.vhost == name)
                .map(|(id, _)| *id)
                .collect();
            users.sort_unstable();
            for user in users {
                self.say(user, Output::VhostDeleted);
            }
        }
        self.answer_committed(ledger, session, token, Ok(Reply::Ok));
    }

    /// Gives a setting a value, or none.
    pub fn set_setting(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        key: SettingKey,
        value: Option<Arc<Table>>,
    ) {
        let result = if key.kind.is_of_vhost() && !self.has_vhost(&key.vhost) {
            Err(CommandError::NotFound(format!("vhost '{}' not found", key.vhost)))
        } else {
            self.propose(Fact::Setting { key, value }, SETTING_BYTES);
            Ok(Reply::Ok)
        };
        self.answer_committed(ledger, session, token, result);
    }
}
