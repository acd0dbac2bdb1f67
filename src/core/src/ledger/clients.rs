//! Lasting sessions in a checkpoint.

use std::sync::Arc;

use isthmus_model::Note;

use super::Ledger;
use crate::Fact;
use crate::clients::{Client, ClientChange, ClientKey, Clients, Presence};

/// Notes in one fact of a checkpoint at the most.
const NOTES_MAX: usize = 1024;

/// Bytes of notes in one fact of a checkpoint, about.
const NOTES_BYTES: usize = 64 << 10;

/// What a fact of a session takes beside what [`client_bytes`] counts of it, about.
const CHANGE_BYTES: u64 = 64;

impl Ledger {
    /// Lasting sessions.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Lasting sessions as facts. The queues that they hold must be there before.
    pub(super) fn client_facts(&self) -> impl Iterator<Item = Fact> + '_ {
        self.clients.iter().flat_map(|(key, client)| {
            let opened = ClientChange::Opened {
                user: Arc::clone(&client.user),
                expiry_ms: client.expiry_ms,
                will: client.will.clone(),
            };
            let mut notes = client.notes.iter().peekable();
            let noted = std::iter::from_fn(move || {
                let (mut some, mut bytes): (Vec<Note>, usize) = (Vec::new(), 0);
                while some.len() < NOTES_MAX
                    && bytes < NOTES_BYTES
                    && let Some(note) = notes.next()
                {
                    bytes += note_bytes(&note);
                    some.push(note);
                }
                (!some.is_empty()).then_some(ClientChange::Noted(some))
            });
            let held = client.held.iter().copied().map(ClientChange::Held);
            let changes = [opened].into_iter().chain(noted).chain(held).chain(closed(client));
            changes.map(|change| fact(key, change))
        })
    }
}

fn fact(key: &ClientKey, change: ClientChange) -> Fact {
    Fact::Client { key: key.clone(), change }
}

/// That a session is closed, if it is.
fn closed(client: &Client) -> Option<ClientChange> {
    let (at, lost) = match client.presence {
        Presence::Connected => return None,
        Presence::Closed(at) => (at, false),
        Presence::Lost(at) => (at, true),
    };
    let keeps_will = client.will.is_some();
    Some(ClientChange::Closed { at, lost, expiry_ms: client.expiry_ms, keeps_will })
}

fn note_bytes(note: &Note) -> usize {
    note.key.len() + note.value.as_ref().map_or(0, |value| value.len())
}

/// About how many bytes a fact of a session takes in an entry.
pub(crate) fn client_bytes(key: &ClientKey, change: &ClientChange) -> u64 {
    let own = match change {
        ClientChange::Opened { will: Some(will), .. } => {
            will.batch.payload_bytes(0, will.batch.records.len() as u32)
        }
        ClientChange::Noted(notes) => notes.iter().map(|note| note_bytes(note) as u64 + 8).sum(),
        _ => 0,
    };
    CHANGE_BYTES + (key.vhost.len() + key.client.len()) as u64 + own
}
