//! The connections of now, for operators and for limits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use isthmus_contract::{CloseReason, Event, Places};
use isthmus_model::{CommandError, SessionId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::access::Limits;
use crate::mailbox::Mailbox;
use crate::peer::Peer;
use crate::quota::{Bucket, Share};

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
    /// Each on its own: a tree's nodes are half empty, where ids only grow.
    open: BTreeMap<SessionId, Arc<Place>>,
    /// Bytes read from and written to those that have ended.
    received_bytes: u64,
    sent_bytes: u64,
    of_users: Groups,
    of_vhosts: Groups,
}

impl Connections {
    /// A connection gives its place back, if it has one: that of a user in a virtual host.
    fn give_back(&mut self, place: (Option<Arc<str>>, Option<Arc<str>>)) {
        if let (Some(user), Some(vhost)) = place {
            self.of_users.leave(&user);
            self.of_vhosts.leave(&vhost);
        }
    }
}

/// The connections that have entered, by user or by virtual host.
#[derive(Debug, Default)]
struct Groups {
    by_name: HashMap<Arc<str>, Group>,
    /// Groups of nobody that are kept for their debts: who connects anew must not be rid of them.
    indebted: VecDeque<Arc<str>>,
}

/// What the connections of a user, or in a virtual host, have in common.
#[derive(Debug, Default)]
struct Group {
    connections: u64,
    bucket: Arc<Bucket>,
    /// Places for channels.
    places: Arc<Places>,
}

impl Groups {
    fn connections(&self, name: &str) -> u64 {
        self.by_name.get(name).map_or(0, |group| group.connections)
    }

    /// One connection more.
    fn join(&mut self, name: &Arc<str>) -> &Group {
        self.forget();
        let group = self.by_name.entry(Arc::clone(name)).or_default();
        group.connections += 1;
        group
    }

    /// One connection less.
    fn leave(&mut self, name: &Arc<str>) {
        let Some(group) = self.by_name.get_mut(name) else { return };
        group.connections -= 1;
        if group.connections > 0 {
            return;
        }
        if group.bucket.is_in_debt(Instant::now()) {
            self.indebted.push_back(Arc::clone(name));
        } else {
            self.by_name.remove(name);
        }
    }

    /// Looks at the two that were kept longest; more come in no faster than one at a time.
    fn forget(&mut self) {
        for _ in 0..self.indebted.len().min(2) {
            let Some(name) = self.indebted.pop_front() else { return };
            match self.by_name.get(&name) {
                Some(group) if group.connections == 0 => {
                    if group.bucket.is_in_debt(Instant::now()) {
                        self.indebted.push_back(name);
                    } else {
                        self.by_name.remove(&name);
                    }
                }
                // It is in use again, and is looked at when the last one leaves.
                _ => {}
            }
        }
    }
}

/// One connection, as it and the registry see it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: SessionId,
    pub(crate) peer: Peer,
    since: SystemTime,
    pub(crate) traffic: Traffic,
    pub(crate) mailbox: Arc<Mailbox>,
    said: Mutex<Said>,
}

/// What a client has said of itself by now.
#[derive(Clone, Debug)]
struct Said {
    protocol: &'static str,
    user: Option<Arc<str>>,
    vhost: Option<Arc<str>>,
}

/// What went through a connection, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

impl Traffic {
    /// Received and sent.
    fn totals(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }
}

/// A connection's place among the others, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    registry: Arc<Registry>,
    pub(crate) place: Arc<Place>,
}

impl Registry {
    /// Takes a new connection in.
    pub(crate) fn add(
        self: &Arc<Self>,
        id: SessionId,
        peer: Peer,
        protocol: &'static str,
        since: SystemTime,
    ) -> Registered {
        let place = Arc::new(Place {
            id,
            peer,
            since,
            traffic: Traffic::default(),
            mailbox: Arc::default(),
            said: Mutex::new(Said { protocol, user: None, vhost: None }),
        });
        self.connections.lock().open.insert(id, Arc::clone(&place));
        Registered { registry: Arc::clone(self), place }
    }

    /// Every connection, oldest first.
    pub(crate) fn statuses(&self) -> Vec<ConnectionStatus> {
        let status = |place: &Arc<Place>| {
            let Said { protocol, user, vhost } = place.said.lock().clone();
            let (received_bytes, sent_bytes) = place.traffic.totals();
            let (id, peer, since) = (place.id, place.peer.clone(), place.since);
            ConnectionStatus { id, peer, protocol, since, user, vhost, received_bytes, sent_bytes }
        };
        self.connections.lock().open.values().map(status).collect()
    }

    /// Bytes read from all connections since the start, and bytes written to them.
    pub(crate) fn traffic_bytes(&self) -> (u64, u64) {
        let connections = self.connections.lock();
        let before = (connections.received_bytes, connections.sent_bytes);
        connections.open.values().fold(before, |(received, sent), place| {
            let own = place.traffic.totals();
            (received + own.0, sent + own.1)
        })
    }

    /// Lets a connection close in its protocol's way; `false` if it is not there.
    pub(crate) fn close(&self, id: SessionId) -> bool {
        let place = self.connections.lock().open.get(&id).cloned();
        if let Some(place) = &place {
            place.mailbox.send(Event::Closed(CloseReason::Forced));
        }
        place.is_some()
    }
}

impl Registered {
    /// The client has logged in, and by now has said which version of `protocol` it speaks.
    pub(crate) fn logged_in(&self, user: &Arc<str>, protocol: &'static str) {
        let mut said = self.place.said.lock();
        said.protocol = protocol;
        said.user = Some(Arc::clone(user));
    }

    /// The connection enters a virtual host, if as many as may be there are not there yet; returns
    /// what it shares with others from now on.
    ///
    /// # Errors
    /// [`CommandError::Limit`], in RabbitMQ's words.
    pub(crate) fn enter(
        &self,
        vhost: &Arc<str>,
        limits: Limits,
    ) -> Result<Option<Share>, CommandError> {
        let mut connections = self.registry.connections.lock();
        let Connections { of_users, of_vhosts, .. } = &mut *connections;
        let mut said = self.place.said.lock();
        let Some(user) = said.user.clone() else { return Ok(None) };
        let in_vhost = of_vhosts.connections(vhost);
        if let Some(max) = limits.vhost_connections.filter(|max| in_vhost >= *max) {
            return Err(CommandError::Limit(format!(
                "access to vhost '{vhost}' refused for user '{user}': connection limit ({max}) is \
                 reached"
            )));
        }
        let of_user = of_users.connections(&user);
        if let Some(max) = limits.user_connections.filter(|max| of_user >= *max) {
            return Err(CommandError::Limit(format!(
                "connection refused for user '{user}': user connection limit ({max}) is reached"
            )));
        }
        let in_vhost = of_vhosts.join(vhost);
        let of_user = of_users.join(&user);
        said.vhost = Some(Arc::clone(vhost));
        let (user, vhost) = (Arc::clone(&of_user.bucket), Arc::clone(&in_vhost.bucket));
        Ok(Some(Share::new(user, vhost, Arc::clone(&of_user.places))))
    }

    /// The connection is in no virtual host after all, and counts in none.
    pub(crate) fn leave(&self) {
        let mut connections = self.registry.connections.lock();
        let mut said = self.place.said.lock();
        let place = (said.user.clone(), said.vhost.take());
        connections.give_back(place);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut connections = self.registry.connections.lock();
        let (received, sent) = self.place.traffic.totals();
        connections.received_bytes += received;
        connections.sent_bytes += sent;
        connections.open.remove(&self.place.id);
        let Said { user, vhost, .. } = self.place.said.lock().clone();
        connections.give_back((user, vhost));
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::{Batch, EncodingId, NO_TTL, Record, RecordFlags, Span};

    use super::*;
    use crate::access::Rates;

    fn connect(registry: &Arc<Registry>, id: u64, user: &str) -> Registered {
        let peer = Peer::plain(([127, 0, 0, 1], 1).into());
        let registered = registry.add(SessionId(id), peer, "test", SystemTime::UNIX_EPOCH);
        registered.logged_in(&user.into(), "AMQP 0-9-1");
        registered
    }

    #[test]
    fn limits_hold_for_as_many_as_are_there() {
        let registry = Arc::new(Registry::default());
        let limits =
            Limits { user_connections: Some(2), vhost_connections: Some(3), ..Limits::default() };
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
        third.leave();
        third.enter(&vhost, limits).expect("it has left its own place");
        let late = connect(&registry, 5, "carl");
        let error = late.enter(&vhost, limits).expect_err("too many in the virtual host");
        assert!(error.to_string().contains("connection limit (3)"), "{error}");
        drop((second, third, bert, late));
        let connections = registry.connections.lock();
        assert!(connections.open.is_empty() && connections.of_users.by_name.is_empty());
        assert!(connections.of_vhosts.by_name.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_connects_anew_is_not_rid_of_debts() {
        let registry = Arc::new(Registry::default());
        let user_rates = Rates { messages: None, bytes: Some(1000) };
        let limits = Limits { user_rates, ..Limits::default() };
        let vhost: Arc<str> = "/".into();
        let enter = |id| {
            let connection = connect(&registry, id, "anna");
            let share = connection.enter(&vhost, limits).expect("may enter").expect("logged in");
            (connection, share)
        };
        let (connection, share) = enter(1);
        assert_eq!(share.allowance(&limits), Ok(u64::MAX));
        let record = Record { body: Span::new(0, 2000), ..RECORD };
        share.charge(&batch(record));
        drop((share, connection));
        let (connection, share) = enter(2);
        assert!(share.allowance(&limits).is_err());
        drop((share, connection));
        tokio::time::advance(std::time::Duration::from_secs(3)).await;
        // Whoever comes next clears away what is not needed any more.
        drop(connect(&registry, 3, "bert").enter(&vhost, limits));
        assert!(registry.connections.lock().of_users.by_name.is_empty());
    }

    const RECORD: Record = Record {
        exchange: Span { start: 0, len: 0 },
        routing_key: Span { start: 0, len: 0 },
        head: Span { start: 0, len: 0 },
        body: Span { start: 0, len: 0 },
        ttl_ms: NO_TTL,
        priority: 0,
        flags: RecordFlags::DURABLE,
    };

    fn batch(record: Record) -> Batch {
        let chunk = vec![0; record.body.len as usize].into();
        Batch::new(EncodingId::AMQP_0_9_1, chunk, vec![record])
    }

    #[test]
    fn a_connection_is_closed_by_its_id() {
        let registry = Arc::new(Registry::default());
        let peer = Peer::plain(([127, 0, 0, 1], 1).into());
        let registered = registry.add(SessionId(7), peer, "test", SystemTime::UNIX_EPOCH);
        assert!(registry.close(SessionId(7)));
        let mut events = Vec::new();
        registered.place.mailbox.take(&mut events);
        assert!(matches!(events[..], [Event::Closed(CloseReason::Forced)]));
        drop(registered);
        assert!(!registry.close(SessionId(7)));
    }
}
