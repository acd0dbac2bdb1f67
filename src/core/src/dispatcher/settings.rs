//! Virtual hosts, and what operators define.

use std::sync::Arc;

use isthmus_model::{CommandError, Reply, SessionId, SettingKey, SettingKind, Table, Token};

use super::topology::check_nesting;
use super::{After, Dispatcher, Output};
use crate::policy::Policy;
use crate::topology::Declared;
use crate::{Fact, Ledger};

/// About what a setting costs in the log.
const SETTING_BYTES: u64 = 256;

impl Dispatcher {
    /// Declares a virtual host, if it is new.
    pub fn declare_vhost(&mut self, name: &str) {
        if self.topology.declare_vhost(name) == Declared::New {
            self.propose(Fact::DeclareVhost(name.into()), name.len() as u64);
            self.declare_own_exchange(name);
        }
    }

    /// Whether there is such a virtual host.
    pub fn has_vhost(&self, name: &str) -> bool {
        self.topology.exchange(name, "").is_ok()
    }

    /// Deletes a virtual host with everything in it and ends the sessions that use it.
    pub fn delete_vhost(&mut self, ledger: &Ledger, session: SessionId, token: Token, name: &str) {
        if let Ok(queues) = self.topology.all_queues(name) {
            let ids: Vec<_> = queues.into_iter().map(|queue| queue.id).collect();
            for id in ids {
                self.remove_queue(id);
            }
        }
        // One that does not exist counts as deleted.
        if self.topology.delete_vhost(name).is_ok() {
            self.propose(Fact::DeleteVhost(name.into()), name.len() as u64);
            self.forget_windows_of(name);
            self.forget_clients_of(name);
            self.keeping.forget_vhost(name);
            self.gather.after.push(After::VhostForgotten { vhost: name.into() });
            let mut users: Vec<SessionId> = self
                .sessions
                .iter()
                .filter(|(_, s)| &*s.vhost == name && !s.has_lost_vhost)
                .map(|(id, _)| *id)
                .collect();
            users.sort_unstable();
            for user in users {
                if let Some(session) = self.sessions.get_mut(&user) {
                    session.has_lost_vhost = true;
                    session.client = None;
                }
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
        let result = self.check_setting(&key, value.as_deref()).map(|()| {
            let is_policy = matches!(key.kind, SettingKind::Policy | SettingKind::OperatorPolicy);
            self.propose(Fact::Setting { key: key.clone(), value }, SETTING_BYTES);
            if is_policy {
                self.gather.after.push(After::Policy { key });
            }
            Reply::Ok
        });
        self.answer_committed(ledger, session, token, result);
    }

    fn check_setting(&self, key: &SettingKey, value: Option<&Table>) -> Result<(), CommandError> {
        if key.kind.is_of_vhost() && !self.has_vhost(&key.vhost) {
            return Err(CommandError::NotFound(format!("vhost '{}' not found", key.vhost)));
        }
        let Some(value) = value else { return Ok(()) };
        check_nesting(value)?;
        match key.kind {
            SettingKind::Policy | SettingKind::OperatorPolicy => Policy::parse(key.kind, value)
                .map(drop)
                .map_err(|error| CommandError::Invalid(error.to_string())),
            SettingKind::VhostLimit => {
                let is_number = |name| value.get(name).is_none_or(|v| v.as_i64().is_some());
                match ["max-queues", "max-connections"].into_iter().find(|name| !is_number(name)) {
                    None => Ok(()),
                    Some(name) => {
                        Err(CommandError::Invalid(format!("'{name}' must be an integer")))
                    }
                }
            }
            _ => Ok(()),
        }
    }
}
