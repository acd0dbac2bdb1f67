//! What lasting sessions hold and note.

use isthmus_model::{
    CommandError, NOTE_KEY_BYTES_MAX, NOTE_VALUE_BYTES_MAX, Note, NotesOf, QueueId, Reply,
    SessionId, Token, TransactionId,
};

use super::Dispatcher;
use super::clients::OpenClient;
use super::session::Deferred;
use crate::Ledger;
use crate::clients::ClientChange;

impl Dispatcher {
    /// Lets the lasting session that is open hold a queue. One that ends with its connection
    /// holds nothing.
    pub(super) fn hold(&mut self, id: SessionId, queue: QueueId) -> Result<(), CommandError> {
        self.open_client_of(id)?;
        if let Some(q) = self.queues.get(&queue).filter(|q| !q.is_durable()) {
            return Err(CommandError::Precondition(format!(
                "queue '{}' in vhost '{}' is not durable: no lasting session can hold it",
                q.def.name, q.vhost
            )));
        }
        self.hold_durable(id, queue);
        Ok(())
    }

    /// As [`Dispatcher::hold`], for a queue that the session has declared as its own: where it
    /// cannot be held, it is not.
    pub(super) fn hold_own(&mut self, id: SessionId, queue: QueueId) {
        if self.queues.get(&queue).is_some_and(|queue| queue.is_durable()) {
            self.hold_durable(id, queue);
        }
    }

    /// Whether the lasting session that is open holds a queue.
    pub(super) fn holds(&self, id: SessionId, queue: QueueId) -> bool {
        let open = self.sessions.get(&id).and_then(|session| session.client.as_ref());
        let client = open.and_then(|open| self.clients.lasting.get(&open.key));
        client.is_some_and(|client| client.held.contains(&queue))
    }

    fn hold_durable(&mut self, id: SessionId, queue: QueueId) {
        let Ok(OpenClient { key, notes: None }) = self.open_client_of(id) else { return };
        let key = key.clone();
        if self.clients.lasting.get(&key).is_some_and(|client| !client.held.contains(&queue)) {
            self.change_client(&key, ClientChange::Held(queue));
        }
    }

    /// Lets the lasting session that is open hold a queue no longer.
    pub(super) fn release_held(
        &mut self,
        id: SessionId,
        queue: QueueId,
    ) -> Result<(), CommandError> {
        let key = self.open_client_of(id)?.key.clone();
        let client = self.clients.lasting.get(&key);
        if client.is_some_and(|client| client.held.contains(&queue)) {
            self.change_client(&key, ClientChange::Released(queue));
            self.let_go(queue);
        }
        Ok(())
    }

    /// A queue is held by one session less: it is deleted if that was the last and nobody
    /// consumes, or when nobody does any more.
    pub(super) fn let_go(&mut self, id: QueueId) {
        if self.clients.lasting.is_held(id) {
            return;
        }
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.was_let_go = true;
        }
        self.in_use(id);
        self.delete_if_abandoned(id);
    }
}

impl Dispatcher {
    /// Notes something in the lasting session that is open.
    pub fn note(
        &mut self,
        ledger: &Ledger,
        session: SessionId,
        token: Token,
        notes: Vec<Note>,
        of: Option<NotesOf>,
        transaction: Option<TransactionId>,
    ) {
        let request = Deferred::Note { token, notes, of, transaction };
        if let Some(Deferred::Note { token, notes, of, transaction }) =
            self.defer(ledger, session, request)
        {
            self.do_note(ledger, session, token, notes, of, transaction);
        }
    }

    pub(super) fn do_note(
        &mut self,
        ledger: &Ledger,
        id: SessionId,
        token: Token,
        notes: Vec<Note>,
        of: Option<NotesOf>,
        transaction: Option<TransactionId>,
    ) {
        let written = self.gather.written;
        let result = check_sizes(&notes).and_then(|()| match transaction {
            Some(transaction) => {
                self.open_client_of(id)?;
                self.transaction(id, transaction)?.note(notes, of)
            }
            None if of.is_some() => Err(CommandError::Invalid(
                "notes about messages belong to the transaction of these".to_owned(),
            )),
            None => {
                self.check_notes(id, &notes)?;
                self.note_now(id, notes);
                Ok(())
            }
        });
        self.answer_since(ledger, written, id, token, result.map(|()| Reply::Ok));
    }

    /// Whether all of `notes` may be noted.
    pub(super) fn check_notes(&self, id: SessionId, notes: &[Note]) -> Result<(), CommandError> {
        if notes.is_empty() {
            return Ok(());
        }
        let open = self.open_client_of(id)?;
        match &open.notes {
            Some(own) => own.check(notes),
            None => self.clients.lasting.get(&open.key).map_or(Ok(()), |c| c.notes.check(notes)),
        }
    }

    /// Notes what was checked before.
    pub(super) fn note_now(&mut self, id: SessionId, notes: Vec<Note>) {
        let client = self.sessions.get_mut(&id).and_then(|session| session.client.as_mut());
        let Some(open) = client.filter(|_| !notes.is_empty()) else { return };
        if let Some(own) = &mut open.notes {
            return notes.iter().for_each(|note| own.set(note));
        }
        let key = open.key.clone();
        self.change_client(&key, ClientChange::Noted(notes));
        self.touch_log(id);
    }
}

fn check_sizes(notes: &[Note]) -> Result<(), CommandError> {
    for note in notes {
        if note.key.len() > NOTE_KEY_BYTES_MAX {
            return Err(CommandError::Limit(format!(
                "the key of a note has {} bytes, more than {NOTE_KEY_BYTES_MAX}",
                note.key.len()
            )));
        }
        let value = note.value.as_ref().map_or(0, |value| value.len());
        if value > NOTE_VALUE_BYTES_MAX {
            return Err(CommandError::Limit(format!(
                "a note has {value} bytes, more than {NOTE_VALUE_BYTES_MAX}"
            )));
        }
    }
    Ok(())
}
