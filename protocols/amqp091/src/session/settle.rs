//! Acknowledgements: ack, nack, reject, recover (specification section 1.8.3.13 and on,
//! RabbitMQ's `basic.nack`).

use amq_protocol::protocol::{AMQPClass, basic};
use isthmus_contract::{Command, UnackedTag};
use isthmus_model::{Outcome, Token};

use crate::fault::{Fault, ReplyCode};

use super::channel::Mode;
use super::transaction::Ack;
use super::{Amqp091Session, Handled};

fn refused(requeue: bool) -> Outcome {
    if requeue { Outcome::Requeue } else { Outcome::Reject }
}

fn unknown(UnackedTag(tag): UnackedTag) -> Fault {
    Fault::new(ReplyCode::PreconditionFailed, format!("unknown delivery tag {tag}"))
}

impl Amqp091Session {
    pub(super) fn ack(&mut self, number: u16, ack: &basic::Ack) -> Handled {
        let (tag, multiple) = (ack.delivery_tag, ack.multiple);
        self.settle(number, Ack { tag, multiple, outcome: Outcome::Accept })
    }

    pub(super) fn nack(&mut self, number: u16, nack: &basic::Nack) -> Handled {
        let (tag, multiple) = (nack.delivery_tag, nack.multiple);
        self.settle(number, Ack { tag, multiple, outcome: refused(nack.requeue) })
    }

    pub(super) fn reject(&mut self, number: u16, reject: &basic::Reject) -> Handled {
        let tag = reject.delivery_tag;
        self.settle(number, Ack { tag, multiple: false, outcome: refused(reject.requeue) })
    }

    /// Settles at once, or with the transaction.
    fn settle(&mut self, number: u16, ack: Ack) -> Handled {
        self.close_batch();
        let Some(channel) = self.open_channel(number) else { return Ok(()) };
        if let Mode::Transaction(transaction) = &mut channel.mode {
            return transaction.ack(&channel.unacked, ack).map_err(unknown);
        }
        if ack.multiple {
            let settlements =
                channel.unacked.settle_up_to(ack.tag, ack.outcome).map_err(unknown)?;
            for settlement in settlements {
                self.out.stage_settlement(settlement);
            }
        } else {
            let settlement = channel.unacked.settle_one(ack.tag, ack.outcome).map_err(unknown)?;
            self.out.stage_settlement(settlement);
        }
        Ok(())
    }

    /// basic.recover and basic.recover-async: everything unsettled goes back to its queue.
    pub(super) fn recover(&mut self, number: u16, requeue: bool, answered: bool) -> Handled {
        if !requeue {
            return Err(Fault::new(ReplyCode::NotImplemented, "requeue=false"));
        }
        self.close_batch();
        if let Some(channel) = self.open_channel(number) {
            let settlements = channel.unacked.settle_all(Outcome::Requeue);
            if !settlements.is_empty() {
                self.command(Command::Settle {
                    token: Token::SILENT,
                    settlements,
                    transaction: None,
                });
            }
        }
        if answered {
            let ok = basic::AMQPMethod::RecoverOk(basic::RecoverOk {});
            self.reply(number, AMQPClass::Basic(ok));
        }
        Ok(())
    }
}
