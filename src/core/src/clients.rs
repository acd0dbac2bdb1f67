//! Lasting sessions of clients: what outlives their connections.
//!
//! The ledger keeps them by facts alone; the dispatcher keeps a copy that is ahead of it by what is
//! proposed and not committed, and decides by that. Both go the same way through
//! [`Clients::apply`], and share what they have in common.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::{CommandError, NEVER_EXPIRES, Note, QueueId, Time, Will};
use rpds::RedBlackTreeMapSync;

/// Notes of one session at the most.
pub const NOTES_MAX: usize = 200_000;

/// Bytes of the keys and values of one session's notes at the most: all of them are in memory.
pub const NOTES_BYTES_MAX: u64 = 64 << 20;

/// For how long at least a client that was connected to a leader that is no more may come back
/// before its session ends or its will is published.
const GRACE: Duration = Duration::from_secs(5);

/// Whose session it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey {
    /// The virtual host.
    pub vhost: Arc<str>,
    /// The client's identifier, unique there.
    pub client: Arc<str>,
}

/// Something that happened to a session.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientChange {
    /// It is open. One that is there goes on, with what it holds and its notes.
    Opened {
        /// Who began it.
        user: Arc<str>,
        /// Milliseconds that it is kept after it is closed, or [`NEVER_EXPIRES`].
        expiry_ms: u64,
        /// Its will, in the place of any before.
        will: Option<Will>,
    },
    /// It is closed, or something was decided on a closed one.
    Closed {
        /// Since when, in log time.
        at: Time,
        /// Whether its leader was lost, and not its connection.
        lost: bool,
        /// How long it is kept from now on.
        expiry_ms: u64,
        /// Whether its will is yet to be published.
        keeps_will: bool,
    },
    /// It is over: nothing of it is left.
    Ended,
    /// Something was noted, in order.
    Noted(Vec<Note>),
    /// It holds a queue.
    Held(QueueId),
    /// It holds a queue no longer.
    Released(QueueId),
}

/// Whether a client is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Connected,
    /// It is not, since this log time.
    Closed(Time),
    /// It was when its leader was lost, and another began at this log time.
    Lost(Time),
}

/// A session that outlives its connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// Who began it: it is nobody else's.
    pub user: Arc<str>,
    /// Milliseconds that it is kept after it is closed, or [`NEVER_EXPIRES`].
    pub expiry_ms: u64,
    /// What is published if its connection ends without a goodbye, or has ended so.
    pub will: Option<Will>,
    /// Whether its client is there.
    pub presence: Presence,
    /// What its protocol has noted.
    pub notes: Notes,
    /// The queues that it holds.
    pub held: BTreeSet<QueueId>,
}

impl Client {
    /// When it ends if its client does not come back, in log time; [`Time::NEVER`] while it is
    /// there.
    pub fn ends_at(&self) -> Time {
        if self.expiry_ms == NEVER_EXPIRES { Time::NEVER } else { self.after_ms(self.expiry_ms) }
    }

    /// When its will is published if its client does not come back, and the session does not end
    /// before; [`Time::NEVER`] if it has none.
    pub fn will_at(&self) -> Time {
        self.will.as_ref().map_or(Time::NEVER, |will| self.after_ms(will.delay_ms))
    }

    fn after_ms(&self, ms: u64) -> Time {
        let after = Duration::from_millis(ms);
        match self.presence {
            Presence::Connected => Time::NEVER,
            Presence::Closed(at) => at + after,
            Presence::Lost(at) => at + after.max(GRACE),
        }
    }
}

/// Notes of one session, in the order of their keys. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    map: RedBlackTreeMapSync<Arc<[u8]>, Arc<[u8]>>,
    bytes: u64,
}

impl Notes {
    /// How many.
    pub fn len(&self) -> usize {
        self.map.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Every note.
    pub fn iter(&self) -> impl Iterator<Item = Note> + '_ {
        let note = |(key, value): (&Arc<[u8]>, &Arc<[u8]>)| Note {
            key: Arc::clone(key),
            value: Some(Arc::clone(value)),
        };
        self.map.iter().map(note)
    }

    /// Notes `note`.
    pub(crate) fn set(&mut self, note: &Note) {
        if let Some(old) = self.map.get(&*note.key) {
            self.bytes -= bytes_of(&note.key, old);
        }
        match &note.value {
            Some(value) => {
                self.bytes += bytes_of(&note.key, value);
                self.map.insert_mut(Arc::clone(&note.key), Arc::clone(value));
            }
            None => {
                self.map.remove_mut(&*note.key);
            }
        }
    }

    /// Whether all of `notes` may be noted.
    ///
    /// # Errors
    /// [`CommandError::Limit`] if that were too many, or too much.
    pub(crate) fn check(&self, notes: &[Note]) -> Result<(), CommandError> {
        let values = || notes.iter().filter_map(|note| Some((&note.key, note.value.as_ref()?)));
        let bytes: u64 = values().map(|(key, value)| bytes_of(key, value)).sum();
        let fits = self.len() + values().count() <= NOTES_MAX;
        if fits && self.bytes + bytes <= NOTES_BYTES_MAX {
            return Ok(());
        }
        // Near the limits it counts what they replace and remove.
        let mut after = self.clone();
        notes.iter().for_each(|note| after.set(note));
        if after.len() > NOTES_MAX {
            return Err(CommandError::Limit(format!(
                "a session has {NOTES_MAX} notes at the most"
            )));
        }
        if after.bytes > NOTES_BYTES_MAX {
            return Err(CommandError::Limit(format!(
                "the notes of a session are {} MiB at the most",
                NOTES_BYTES_MAX >> 20
            )));
        }
        Ok(())
    }
}

fn bytes_of(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

/// Every lasting session, in the order of the keys. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    map: RedBlackTreeMapSync<ClientKey, Arc<Client>>,
    /// Who holds each queue that somebody holds.
    holders: RedBlackTreeMapSync<QueueId, Arc<BTreeSet<ClientKey>>>,
    /// How many are there.
    connected: usize,
}

impl Clients {
    /// How many.
    pub fn len(&self) -> usize {
        self.map.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// How many of them have a client that is there.
    pub fn connected(&self) -> usize {
        self.connected
    }

    /// The session of a client.
    pub fn get(&self, key: &ClientKey) -> Option<&Arc<Client>> {
        self.map.get(key)
    }

    /// Every session.
    pub fn iter(&self) -> impl Iterator<Item = (&ClientKey, &Arc<Client>)> {
        self.map.iter()
    }

    /// Whether a session holds the queue.
    pub fn is_held(&self, queue: QueueId) -> bool {
        self.holders.contains_key(&queue)
    }

    /// Lets something have happened. What happened to a session that is not there changes nothing.
    pub(crate) fn apply(&mut self, key: &ClientKey, change: &ClientChange) {
        self.connected -= usize::from(self.is_connected(key));
        self.take(key, change);
        self.connected += usize::from(self.is_connected(key));
    }

    fn is_connected(&self, key: &ClientKey) -> bool {
        self.map.get(key).is_some_and(|client| client.presence == Presence::Connected)
    }

    fn take(&mut self, key: &ClientKey, change: &ClientChange) {
        match change {
            ClientChange::Opened { user, expiry_ms, will } => {
                let before = self.map.get(key).map(|client| (**client).clone());
                let (notes, held) = before.map(|c| (c.notes, c.held)).unwrap_or_default();
                let client = Client {
                    user: Arc::clone(user),
                    expiry_ms: *expiry_ms,
                    will: will.as_ref().map(on_its_own),
                    presence: Presence::Connected,
                    notes,
                    held,
                };
                self.map.insert_mut(key.clone(), Arc::new(client));
            }
            ClientChange::Closed { at, lost, expiry_ms, keeps_will } => {
                self.change(key, |client| {
                    let presence = if *lost { Presence::Lost } else { Presence::Closed };
                    client.presence = presence(*at);
                    client.expiry_ms = *expiry_ms;
                    client.will = client.will.take().filter(|_| *keeps_will);
                })
            }
            ClientChange::Ended => self.end(key),
            ClientChange::Noted(notes) => {
                self.change(key, |client| notes.iter().for_each(|note| client.notes.set(note)));
            }
            ClientChange::Held(queue) => {
                if self.map.contains_key(key) {
                    let mut holders = self.holders.get(queue).cloned().unwrap_or_default();
                    Arc::make_mut(&mut holders).insert(key.clone());
                    self.holders.insert_mut(*queue, holders);
                }
                self.change(key, |client| {
                    client.held.insert(*queue);
                });
            }
            ClientChange::Released(queue) => {
                self.change(key, |client| {
                    client.held.remove(queue);
                });
                self.forget_holder(*queue, key);
            }
        }
    }

    fn change(&mut self, key: &ClientKey, change: impl FnOnce(&mut Client)) {
        if let Some(client) = self.map.get_mut(key) {
            change(Arc::make_mut(client));
        }
    }

    fn end(&mut self, key: &ClientKey) {
        let held = self.map.get(key).map(|client| client.held.clone()).unwrap_or_default();
        for queue in held {
            self.forget_holder(queue, key);
        }
        self.map.remove_mut(key);
    }

    fn forget_holder(&mut self, queue: QueueId, key: &ClientKey) {
        let Some(holders) = self.holders.get_mut(&queue) else { return };
        let holders = Arc::make_mut(holders);
        holders.remove(key);
        if holders.is_empty() {
            self.holders.remove_mut(&queue);
        }
    }

    /// A queue is gone.
    pub(crate) fn forget_queue(&mut self, queue: QueueId) {
        let Some(holders) = self.holders.get(&queue).cloned() else { return };
        for key in holders.iter() {
            self.change(key, |client| {
                client.held.remove(&queue);
            });
        }
        self.holders.remove_mut(&queue);
    }

    /// A virtual host is gone, with its queues.
    pub(crate) fn forget_vhost(&mut self, vhost: &str) {
        let from = ClientKey { vhost: vhost.into(), client: "".into() };
        let of_vhost = self.map.range(from..).map(|(key, _)| key);
        let keys: Vec<ClientKey> =
            of_vhost.take_while(|key| &*key.vhost == vhost).cloned().collect();
        for key in &keys {
            self.apply(key, &ClientChange::Ended);
        }
    }

    /// Another leader's term begins at log time `at`: every connection is lost.
    pub(crate) fn lose_connections(&mut self, at: Time) {
        let connected = self.map.iter().filter(|(_, c)| c.presence == Presence::Connected);
        let keys: Vec<ClientKey> = connected.map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.change(key, |client| client.presence = Presence::Lost(at));
        }
        self.connected = 0;
    }
}

/// A will that does not hold on to what it came with.
fn on_its_own(will: &Will) -> Will {
    let batch = Arc::new(will.batch.compacted(0, will.batch.records.len() as u32));
    Will { batch, delay_ms: will.delay_ms }
}
