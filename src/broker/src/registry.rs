//! The connections of now, for operators and for limits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use isthmus_contract::{CloseReason, Event};
use isthmus_model::{CommandError, SessionId};
use parking_lot::Mutex;

use crate::access::Limits;
use crate::mailbox::Mailbox;
use crate::peer::Peer;

/// A connection as operators see it.
#[derive(Clone, Debug)]
pub struct ConnectionStatus {
    /// Its session.
    pub id: SessionId,
    /// Who is at the other end.
    pub peer: Peer,
    /// Protocol and version.
    pub protocol: &'static str,
    /// Since when it is there.
    pub since: SystemTime,
    /// The user, once he has logged in.
    pub user: Option<Arc<str>>,
    /// The virtual host, once it has entered one.
    pub vhost: Option<Arc<str>>,
    /// Bytes read from it.
    pub received_bytes: u64,
    /// Bytes written to it.
    pub sent_bytes: u64,
}

/// Every connection.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    open: BTreeMap<SessionId, Entry>,
    /// How many have entered, by user and by virtual host.
    of_users: HashMap<Arc<str>, u64>,
    of_vhosts: HashMap<Arc<str>, u64>,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    protocol: &'static str,
    since: SystemTime,
    user: Option<Arc<str>>,
    vhost: Option<Arc<str>>,
    traffic: Arc<Traffic>,
    mailbox: Arc<Mailbox>,
}

/// What went through a connection, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

/// A connection's place among the others, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    registry: Arc<Registry>,
    id: SessionId,
    pub(crate) traffic: Arc<Traffic>,
}

impl Registry {
    /// Takes a new connection in.
    pub(crate) fn add(
        self: &Arc<Self>,
        id: SessionId,
        peer: &Peer,
        protocol: &'static str,
        mailbox: &Arc<Mailbox>,
    ) -> Registered {
        let traffic = Arc::new(Traffic::default());
        let entry = Entry {
            peer: peer.clone(),
            protocol,
            since: SystemTime::now(),
            user: None,
            vhost: None,
            traffic: Arc::clone(&traffic),
            mailbox: Arc::clone(mailbox),
        };
        self.connections.lock().open.insert(id, entry);
        Registered { registry: Arc::clone(self), id, traffic }
    }

    /// Every connection, oldest first.
    pub(crate) fn statuses(&self) -> Vec<ConnectionStatus> {
        let status = |(id, entry): (&SessionId, &Entry)| ConnectionStatus {
            id: *id,
            peer: entry.peer.clone(),
            protocol: entry.protocol,
            since: entry.since,
            user: entry.user.clone(),
            vhost: entry.vhost.clone(),
            received_bytes: entry.traffic.received.load(Ordering::Relaxed),
            sent_bytes: entry.traffic.sent.load(Ordering::Relaxed),
        };
        self.connections.lock().open.iter().map(status).collect()
    }

    /// Lets a connection close in its protocol's way; `false` if it is not there.
    pub(crate) fn close(&self, id: SessionId) -> bool {
        let mailbox = self.connections.lock().open.get(&id).map(|e| Arc::clone(&e.mailbox));
        if let Some(mailbox) = &mailbox {
            mailbox.send(Event::Closed(CloseReason::Forced));
        }
        mailbox.is_some()
    }
}

impl Registered {
    /// The client has logged in.
    pub(crate) fn logged_in(&self, user: &Arc<str>) {
        if let Some(entry) = self.registry.connections.lock().open.get_mut(&self.id) {
            entry.user = Some(Arc::clone(user));
        }
    }

    /// The connection enters a virtual host, if as many as may be there are not there yet.
    ///
    /// # Errors
    /// [`CommandError::Limit`], in RabbitMQ's words.
    pub(crate) fn enter(&self, vhost: &Arc<str>, limits: Limits) -> Result<(), CommandError> {
        let mut connections = self.registry.connections.lock();
        let Connections { open, of_users, of_vhosts } = &mut *connections;
        let Some(entry) = open.get_mut(&self.id) else { return Ok(()) };
        let Some(user) = entry.user.clone() else { return Ok(()) };
        let count = |counts: &HashMap<Arc<str>, u64>, name| counts.get(name).copied().unwrap_or(0);
        if let Some(max) = limits.vhost_connections.filter(|max| count(of_vhosts, vhost) >= *max) {
            return Err(CommandError::Limit(format!(
                "access to vhost '{vhost}' refused for user '{user}': connection limit ({max}) is \
                 reached"
            )));
        }
        if let Some(max) = limits.user_connections.filter(|max| count(of_users, &user) >= *max) {
            return Err(CommandError::Limit(format!(
                "connection refused for user '{user}': user connection limit ({max}) is reached"
            )));
        }
        *of_vhosts.entry(Arc::clone(vhost)).or_default() += 1;
        *of_users.entry(user).or_default() += 1;
        entry.vhost = Some(Arc::clone(vhost));
        Ok(())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut connections = self.registry.connections.lock();
        let Connections { open, of_users, of_vhosts } = &mut *connections;
        if let Some(Entry { user: Some(user), vhost: Some(vhost), .. }) = open.remove(&self.id) {
            for (counts, name) in [(of_users, user), (of_vhosts, vhost)] {
                if let Some(count) = counts.get_mut(&name) {
                    *count -= 1;
                    if *count == 0 {
                        counts.remove(&name);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(registry: &Arc<Registry>, id: u64, user: &str) -> Registered {
        let peer = Peer::plain(([127, 0, 0, 1], 1).into());
        let registered = registry.add(SessionId(id), &peer, "test", &Arc::default());
        registered.logged_in(&user.into());
        registered
    }

    #[test]
    fn limits_hold_for_as_many_as_are_there() {
        let registry = Arc::new(Registry::default());
        let limits = Limits { user_connections: Some(2), vhost_connections: Some(3) };
        let vhost: Arc<str> = "/".into();
        let first = connect(&registry, 1, "anna");
        let second = connect(&registry, 2, "anna");
        first.enter(&vhost, limits).expect("the first");
        second.enter(&vhost, limits).expect("the second");
        let third = connect(&registry, 3, "anna");
        let error = third.enter(&vhost, limits).expect_err("too many of anna");
        assert!(error.to_string().contains("user connection limit (2)"), "{error}");
        let bert = connect(&registry, 4, "bert");
        bert.enter(&vhost, limits).expect("the third of the virtual host");
        drop(first);
        third.enter(&vhost, limits).expect("there is room again");
        let late = connect(&registry, 5, "carl");
        let error = late.enter(&vhost, limits).expect_err("too many in the virtual host");
        assert!(error.to_string().contains("connection limit (3)"), "{error}");
        drop((second, third, bert, late));
        let connections = registry.connections.lock();
        assert!(connections.open.is_empty() && connections.of_users.is_empty());
        assert!(connections.of_vhosts.is_empty());
    }

    #[test]
    fn a_connection_is_closed_by_its_id() {
        let registry = Arc::new(Registry::default());
        let mailbox = Arc::new(Mailbox::default());
        let peer = Peer::plain(([127, 0, 0, 1], 1).into());
        let registered = registry.add(SessionId(7), &peer, "test", &mailbox);
        assert!(registry.close(SessionId(7)));
        let mut events = Vec::new();
        mailbox.take(&mut events);
        assert!(matches!(events[..], [Event::Closed(CloseReason::Forced)]));
        drop(registered);
        assert!(!registry.close(SessionId(7)));
    }
}
