//! Transactions (specification section 1.9).

use amq_protocol::protocol::{AMQPClass, tx};
use isthmus_contract::{Command, TransactOp, Unacked, UnackedTag};
use isthmus_model::{Outcome, Token, TransactionId};

use crate::fault::{Fault, ReplyCode};

use super::channel::{Channel, Mode, Op};
use super::{Amqp091Session, Handled};

/// An acknowledgement as the client gave it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    pub(super) tag: u64,
    pub(super) multiple: bool,
    pub(super) outcome: Outcome,
}

/// What a channel gathers for its transaction beside the publishes, which the broker gathers.
///
/// Acknowledgements stay here until commit: until then, and after a rollback, the deliveries are
/// unacknowledged ones of this channel like any others.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    acks: Vec<Ack>,
}

impl Transaction {
    /// Notes an acknowledgement of something in `unacked`.
    ///
    /// # Errors
    /// If there is no such delivery, or it is acknowledged in this transaction already.
    pub(super) fn ack(&mut self, unacked: &Unacked, mut ack: Ack) -> Result<(), UnackedTag> {
        let covered =
            |tag: u64| self.acks.iter().any(|a| a.tag == tag || (a.multiple && tag <= a.tag));
        let known = if !ack.multiple {
            unacked.contains(ack.tag) && !covered(ack.tag)
        } else if ack.tag == 0 {
            // All of now, not of the commit.
            ack.tag = unacked.last_tag();
            true
        } else {
            ack.tag <= unacked.last_tag()
        };
        if !known {
            return Err(UnackedTag(ack.tag));
        }
        self.acks.push(ack);
        Ok(())
    }
}

impl Amqp091Session {
    pub(super) fn tx_select(&mut self, number: u16) -> Handled {
        self.close_batch();
        let Some(channel) = self.open_channel(number) else { return Ok(()) };
        match channel.mode {
            Mode::Plain => {
                channel.mode = Mode::Transaction(Transaction::default());
                self.command(Command::Transact {
                    token: Token::SILENT,
                    transaction: TransactionId(u32::from(number)),
                    op: TransactOp::Begin,
                });
            }
            Mode::Transaction(_) => {}
            Mode::Confirm(_) => {
                return Err(Fault::new(
                    ReplyCode::PreconditionFailed,
                    "cannot switch from confirm to tx mode",
                ));
            }
        }
        self.reply(number, AMQPClass::Tx(tx::AMQPMethod::SelectOk(tx::SelectOk {})));
        Ok(())
    }

    pub(super) fn tx_commit(&mut self, number: u16) -> Handled {
        self.close_batch();
        let Channel { mode: Mode::Transaction(transaction), unacked, .. } =
            self.channel_in_transaction(number)?
        else {
            return Ok(());
        };
        let mut settlements = Vec::new();
        for ack in std::mem::take(&mut transaction.acks) {
            // What recover gave back meanwhile is not there to be settled any more.
            if ack.multiple {
                settlements.extend(unacked.settle_up_to(ack.tag, ack.outcome).unwrap_or_default());
            } else {
                settlements.extend(unacked.settle_one(ack.tag, ack.outcome).ok());
            }
        }
        let transaction = TransactionId(u32::from(number));
        if !settlements.is_empty() {
            self.command(Command::Settle {
                token: Token::SILENT,
                settlements,
                transaction: Some(transaction),
            });
        }
        let token = self.out.token(number);
        self.pend(number, token, (90, 20), Op::Commit, None);
        self.command(Command::Transact { token, transaction, op: TransactOp::Commit });
        Ok(())
    }

    pub(super) fn tx_rollback(&mut self, number: u16) -> Handled {
        self.close_batch();
        if let Mode::Transaction(transaction) = &mut self.channel_in_transaction(number)?.mode {
            transaction.acks.clear();
        }
        let token = self.out.token(number);
        let ok = AMQPClass::Tx(tx::AMQPMethod::RollbackOk(tx::RollbackOk {}));
        self.pend(number, token, (90, 30), Op::Say(ok), None);
        self.command(Command::Transact {
            token,
            transaction: TransactionId(u32::from(number)),
            op: TransactOp::Rollback,
        });
        Ok(())
    }

    fn channel_in_transaction(&mut self, number: u16) -> Result<&mut Channel, Fault> {
        self.open_channel(number).filter(|c| matches!(c.mode, Mode::Transaction(_))).ok_or_else(
            || Fault::new(ReplyCode::PreconditionFailed, "channel is not transactional"),
        )
    }
}
