//! Transactions: what takes effect as one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use isthmus_model::{
    Batch, CommandError, Note, NotesOf, PublishException, Reply, SessionId, Settlement, Token,
    TransactionId,
};

use super::Dispatcher;
use super::session::Deferred;
use crate::Ledger;

/// What was done under a transaction since it began or was last committed or rolled back.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    batches: Vec<(Token, Arc<Batch>)>,
    pub(super) settlements: Vec<Settlement>,
    /// For the lasting session that is open.
    notes: Vec<Note>,
    /// Of which notes (by their place) there will be none if a message is not taken: the record of
    /// the publish.
    conditions: Vec<(usize, Token, u32)>,
    /// Bytes of heads and bodies in the batches, with something for each settlement.
    bytes: u64,
}

/// What a transaction may gather, in bytes: it becomes one entry of the log, which has a limit.
const TRANSACTION_BYTES_MAX: u64 = 512 << 20;

/// What a settlement counts in a transaction, in bytes.
const SETTLEMENT_BYTES: u64 = 64;

/// What a note counts in a transaction beside its key and value, in bytes.
const NOTE_BYTES: u64 = 64;

impl Transaction {
    /// Makes room for `bytes` more.
    ///
    /// # Errors
    /// If that is more than a transaction may gather.
    fn grow(&mut self, bytes: u64) -> Result<(), CommandError> {
        self.bytes += bytes;
        if self.bytes > TRANSACTION_BYTES_MAX {
            return Err(CommandError::Limit(format!(
                "the transaction is larger than {} MiB; commit more often",
                TRANSACTION_BYTES_MAX >> 20
            )));
        }
        Ok(())
    }

    /// Adds messages.
    ///
    /// # Errors
    /// As [`Transaction::grow`].
    pub(super) fn publish(&mut self, token: Token, batch: Arc<Batch>) -> Result<(), CommandError> {
        self.grow(batch.payload_bytes(0, batch.records.len() as u32))?;
        self.batches.push((token, batch));
        Ok(())
    }

    /// Adds notes.
    ///
    /// # Errors
    /// As [`Transaction::grow`].
    pub(super) fn note(
        &mut self,
        notes: Vec<Note>,
        of: Option<NotesOf>,
    ) -> Result<(), CommandError> {
        let size = |note: &Note| note.key.len() + note.value.as_ref().map_or(0, |v| v.len());
        let bytes = notes.iter().map(|note| size(note) as u64 + NOTE_BYTES).sum();
        self.grow(bytes)?;
        if let Some(NotesOf { publish, records }) = of {
            let places = self.notes.len()..;
            self.conditions.extend(places.zip(records).map(|(at, record)| (at, publish, record)));
        }
        self.notes.extend(notes);
        Ok(())
    }

    /// The notes, without those about messages that were not taken.
    fn notes_of_taken(&mut self, exceptions: &[PublishException]) -> Vec<Note> {
        let notes = std::mem::take(&mut self.notes);
        if self.conditions.is_empty() {
            return notes;
        }
        // What was refused before it came here has no batch here.
        let batches: HashMap<Token, &Arc<Batch>> =
            self.batches.iter().map(|(token, batch)| (*token, batch)).collect();
        let is_refused = |token: &Token, record: u32| match batches.get(token) {
            Some(batch) => {
                exceptions.iter().any(|e| e.record == record && Arc::ptr_eq(&e.batch, batch))
            }
            None => true,
        };
        let conditions = self.conditions.iter();
        let refused: HashSet<usize> = conditions
            .filter(|(_, token, record)| is_refused(token, *record))
            .map(|c| c.0)
            .collect();
        let taken = notes.into_iter().enumerate().filter(|(at, _)| !refused.contains(at));
        taken.map(|(_, note)| note).collect()
    }
}

impl Dispatcher {
    /// Starts a transaction; one that is open stays as it is.
    pub fn begin(&mut self, ledger: &Ledger, id: SessionId, token: Token, tx: TransactionId) {
        let request = Deferred::Begin { token, transaction: tx };
        if self.defer(ledger, id, request).is_some() {
            self.do_begin(ledger, id, token, tx);
        }
    }

    /// Lets everything done under the transaction take effect, as one entry of the log.
    pub fn commit(&mut self, ledger: &Ledger, id: SessionId, token: Token, tx: TransactionId) {
        let request = Deferred::Commit { token, transaction: tx };
        if self.defer(ledger, id, request).is_some() {
            self.do_commit(ledger, id, token, tx);
        }
    }

    /// Forgets everything done under the transaction.
    pub fn rollback(&mut self, ledger: &Ledger, id: SessionId, token: Token, tx: TransactionId) {
        let request = Deferred::Rollback { token, transaction: tx };
        if self.defer(ledger, id, request).is_some() {
            self.do_rollback(ledger, id, token, tx);
        }
    }

    pub(super) fn do_begin(
        &mut self,
        ledger: &Ledger,
        id: SessionId,
        token: Token,
        tx: TransactionId,
    ) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.transactions.entry(tx).or_default();
        }
        self.answer(ledger, id, token, Ok(Reply::Ok));
    }

    /// All of it happens in this call and so goes into one entry: entries are only taken between
    /// calls.
    pub(super) fn do_commit(
        &mut self,
        ledger: &Ledger,
        id: SessionId,
        token: Token,
        tx: TransactionId,
    ) {
        if self.waits_for_pages(ledger, id, tx) {
            return self.go_on_later(id, Deferred::Commit { token, transaction: tx });
        }
        let mut gathered = match self.take_transaction(id, tx) {
            Ok(transaction) => transaction,
            Err(error) => return self.answer(ledger, id, token, Err(error)),
        };
        let written = self.gather.written;
        let mut exceptions = Vec::new();
        for (_, batch) in &gathered.batches {
            exceptions.extend(self.take_in(ledger, id, batch));
        }
        self.settle_now(ledger, id, &gathered.settlements);
        let notes = gathered.notes_of_taken(&exceptions);
        self.note_now(id, notes);
        self.answer_since(ledger, written, id, token, Ok(Reply::Published { exceptions }));
    }

    /// What a transaction has gathered; it begins anew. One whose notes are too many for the
    /// session stays as it is: nothing of it may take effect.
    fn take_transaction(
        &mut self,
        id: SessionId,
        tx: TransactionId,
    ) -> Result<Transaction, CommandError> {
        let gathered = std::mem::take(self.transaction(id, tx)?);
        let checked = self.check_notes(id, &gathered.notes);
        if checked.is_err() {
            *self.transaction(id, tx)? = gathered;
            return checked.map(|()| Transaction::default());
        }
        Ok(gathered)
    }

    /// Whether pages must be read before all of a transaction can go into one entry.
    fn waits_for_pages(&mut self, ledger: &Ledger, id: SessionId, tx: TransactionId) -> bool {
        let Some(session) = self.sessions.get_mut(&id).filter(|s| !s.closing) else { return false };
        let Some(transaction) = session.transactions.get_mut(&tx) else { return false };
        let settlements = std::mem::take(&mut transaction.settlements);
        let waits = self.lacks_pages(ledger, &settlements);
        if let Ok(transaction) = self.transaction(id, tx) {
            transaction.settlements = settlements;
        }
        waits
    }

    pub(super) fn do_rollback(
        &mut self,
        ledger: &Ledger,
        id: SessionId,
        token: Token,
        tx: TransactionId,
    ) {
        let result = self.transaction(id, tx).map(|transaction| {
            // What was delivered stays delivered: the session may settle it again.
            *transaction = Transaction::default();
            Reply::Ok
        });
        self.answer(ledger, id, token, result);
    }

    /// An open transaction of a session.
    pub(super) fn transaction(
        &mut self,
        id: SessionId,
        tx: TransactionId,
    ) -> Result<&mut Transaction, CommandError> {
        let transactions = self.sessions.get_mut(&id).map(|s| &mut s.transactions);
        transactions
            .and_then(|t| t.get_mut(&tx))
            .ok_or_else(|| CommandError::Precondition(format!("transaction {tx} was not begun")))
    }

    /// Keeps settlements until their transaction is committed.
    pub(super) fn settle_in(
        &mut self,
        id: SessionId,
        tx: TransactionId,
        settlements: Vec<Settlement>,
    ) -> Result<Reply, CommandError> {
        let transaction = self.transaction(id, tx)?;
        transaction.grow(settlements.len() as u64 * SETTLEMENT_BYTES)?;
        transaction.settlements.extend(settlements);
        Ok(Reply::Ok)
    }
}
