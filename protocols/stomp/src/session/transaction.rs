//! Transactions (1.2, "BEGIN", "COMMIT", "ABORT"): what is sent and acknowledged in one takes
//! effect as one, or not at all.

use std::collections::{HashMap, HashSet};

use isthmus_contract::{Command as Ask, TransactOp};
use isthmus_model::{ConsumerId, Outcome, Token, TransactionId};

use super::StompSession;
use crate::codec::{Command, Frame};
use crate::fault::Fault;

/// An acknowledgement as the client gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) consumer: ConsumerId,
    pub(super) tag: u64,
    /// Of everything up to it, too.
    pub(super) cumulative: bool,
    pub(super) outcome: Outcome,
}

/// Acknowledgements stay here until the transaction is committed: until then, and after an abort,
/// the deliveries are unacknowledged like any others.
#[derive(Debug)]
struct Open {
    id: TransactionId,
    acks: Vec<Ack>,
    /// What they cover: single messages, and everything up to one.
    singles: HashSet<(ConsumerId, u64)>,
    up_to: HashMap<ConsumerId, u64>,
}

impl Open {
    fn new(id: TransactionId) -> Open {
        Open { id, acks: Vec::new(), singles: HashSet::new(), up_to: HashMap::new() }
    }

    fn covers(&self, Ack { consumer, tag, .. }: Ack) -> bool {
        self.up_to.get(&consumer).is_some_and(|up_to| tag <= *up_to)
            || self.singles.contains(&(consumer, tag))
    }

    fn add(&mut self, ack: Ack) {
        if ack.cumulative {
            self.up_to.insert(ack.consumer, ack.tag);
        } else {
            self.singles.insert((ack.consumer, ack.tag));
        }
        self.acks.push(ack);
    }
}

/// The transactions that are open, by the client's names for them.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: HashMap<String, Open>,
    /// Ids that were used and can be again.
    free: Vec<TransactionId>,
    last_id: u32,
}

impl Transactions {
    /// The id of the transaction called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn id_of(&self, name: &str) -> Result<TransactionId, Fault> {
        self.open.get(name).map(|open| open.id).ok_or_else(|| unknown(name))
    }

    /// Notes an acknowledgement.
    ///
    /// # Errors
    /// If there is no such transaction, or it holds one of that message already.
    pub(super) fn ack(&mut self, name: &str, ack: Ack) -> Result<(), Fault> {
        let open = self.open.get_mut(name).ok_or_else(|| unknown(name))?;
        if open.covers(ack) {
            return Err(Fault::new(
                "Acknowledged already",
                format!("the message is acknowledged in transaction '{name}' already"),
            ));
        }
        open.add(ack);
        Ok(())
    }
}

fn unknown(name: &str) -> Fault {
    let detail = format!("header 'transaction': '{name}' is not open: BEGIN opens it");
    Fault::new("Unknown transaction", detail)
}

impl StompSession {
    pub(super) fn transact(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        let name = frame.headers.get("transaction").ok_or_else(|| {
            let detail = format!("it is missing: {} names its transaction", frame.command);
            Fault::header("transaction", detail)
        })?;
        match frame.command {
            Command::Begin => self.begin_transaction(frame, &name),
            Command::Commit => self.commit(frame, &name),
            _ => self.abort(frame, &name),
        }
    }

    fn begin_transaction(&mut self, frame: &Frame<'_>, name: &str) -> Result<(), Fault> {
        let transactions = &mut self.transactions;
        if transactions.open.contains_key(name) {
            let detail = format!("header 'transaction': '{name}' is open already");
            return Err(Fault::new("Transaction exists", detail));
        }
        let max = self.config.transactions_max;
        if transactions.open.len() >= max {
            let detail = format!("{max} transactions are open: COMMIT or ABORT some of them first");
            return Err(Fault::new("Limit reached", detail));
        }
        let id = transactions.free.pop().unwrap_or_else(|| {
            transactions.last_id += 1;
            TransactionId(transactions.last_id)
        });
        transactions.open.insert(name.to_owned(), Open::new(id));
        let number = self.begin(frame);
        self.ask(number, |token| Ask::Transact { token, transaction: id, op: TransactOp::Begin });
        Ok(())
    }

    fn close(&mut self, name: &str) -> Result<Open, Fault> {
        let open = self.transactions.open.remove(name).ok_or_else(|| unknown(name))?;
        self.transactions.free.push(open.id);
        Ok(open)
    }

    fn commit(&mut self, frame: &Frame<'_>, name: &str) -> Result<(), Fault> {
        let Open { id: transaction, acks, .. } = self.close(name)?;
        let mut settlements = Vec::new();
        for ack in acks {
            // What another acknowledgement has settled meanwhile is not there any more.
            settlements.extend(self.subscriptions.settle(ack).unwrap_or_default());
        }
        if !settlements.is_empty() {
            self.commands.push_back(Ask::Settle {
                token: Token::SILENT,
                settlements,
                transaction: Some(transaction),
            });
        }
        let number = self.begin(frame);
        self.ask(number, |token| Ask::Transact { token, transaction, op: TransactOp::Commit });
        Ok(())
    }

    fn abort(&mut self, frame: &Frame<'_>, name: &str) -> Result<(), Fault> {
        let transaction = self.close(name)?.id;
        let number = self.begin(frame);
        self.ask(number, |token| Ask::Transact { token, transaction, op: TransactOp::Rollback });
        Ok(())
    }
}
