//! What clients say of messages that they got (1.2, "ACK", "NACK").
//!
//! A message has an id that says all that is needed to find it again: the session, the consumer
//! and a number that counts. 1.0 and 1.1 call it `message-id` in an acknowledgement, 1.2 `id`.

use isthmus_contract::Command as Ask;
use isthmus_model::{ConsumerId, Outcome, SessionId, Settlement, Token};

use super::StompSession;
use super::queues::switch;
use super::subscribe::AckMode;
use super::transaction::Ack;
use crate::codec::{Command, Frame, Version};
use crate::fault::Fault;

/// Appends the id of a message.
pub(super) fn write_id(out: &mut Vec<u8>, session: SessionId, consumer: ConsumerId, tag: u64) {
    let mut digits = itoa::Buffer::new();
    for (before, number) in [("", session.0), ("-", consumer.0), ("-", tag)] {
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(digits.format(number).as_bytes());
    }
}

/// The consumer and number of a message of `session`.
fn read_id(text: &str, session: SessionId) -> Option<(ConsumerId, u64)> {
    let mut numbers = text.split('-').map(|number| number.parse::<u64>().ok());
    let (own, consumer, tag) = (numbers.next()??, numbers.next()??, numbers.next()??);
    (own == session.0 && numbers.next().is_none()).then_some((ConsumerId(consumer), tag))
}

impl StompSession {
    /// Takes an ACK or NACK.
    pub(super) fn settle(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        let (headers, command) = (frame.headers, frame.command);
        if command == Command::Nack && self.peer.version == Version::V1_0 {
            let detail = "NACK came with STOMP 1.1: CONNECT with 'accept-version:1.1,1.2'";
            return Err(Fault::new("Unknown command", detail));
        }
        let name = if self.peer.version == Version::V1_2 { "id" } else { "message-id" };
        let id = headers.get(name).ok_or_else(|| {
            let from = if name == "id" { "ack" } else { name };
            let detail = format!("it is missing: it is the header '{from}' of the MESSAGE");
            Fault::header(name, detail)
        })?;
        let unknown = || {
            let detail = format!(
                "header '{name}': no message '{id}' of this connection waits for an \
                 acknowledgement: it never was there, or has been acknowledged"
            );
            Fault::new("Unknown message", detail)
        };
        let (consumer, tag) = read_id(&id, self.config.id).ok_or_else(unknown)?;
        let known = self.subscriptions.get(consumer).ok_or_else(unknown)?;
        if self.peer.version == Version::V1_1 {
            let of = headers.get("subscription").ok_or_else(|| {
                let detail = "it is missing: it is the header 'subscription' of the MESSAGE";
                Fault::header("subscription", detail)
            })?;
            if *of != *known.id {
                let detail =
                    format!("message '{id}' is of subscription '{}', not '{of}'", known.id);
                return Err(Fault::header("subscription", detail));
            }
        }
        if known.browses.is_some() {
            // Nothing was taken. ActiveMQ's clients that acknowledge what they are shown do no harm.
            self.begin(frame);
            return Ok(());
        }
        let cumulative = match known.mode {
            AckMode::Auto => {
                let detail = format!(
                    "subscription '{}' has the ack mode 'auto', in which messages are done with \
                     when they are sent: SUBSCRIBE with 'ack:client' or 'ack:client-individual'",
                    known.id
                );
                return Err(Fault::new("Nothing to acknowledge", detail));
            }
            AckMode::Client => true,
            AckMode::Individual => false,
        };
        let outcome = match command {
            Command::Ack => Outcome::Accept,
            _ if switch(headers, "requeue", true)? => Outcome::Requeue,
            _ => Outcome::Reject,
        };
        if !known.unacked.contains(tag) {
            return Err(unknown());
        }
        let ack = Ack { consumer, tag, cumulative, outcome };
        if let Some(transaction) = headers.get("transaction") {
            self.transactions.ack(&transaction, ack)?;
            self.begin(frame);
            return Ok(());
        }
        let settlements = self.subscriptions.settle(ack).ok_or_else(unknown)?;
        if headers.get("receipt").is_some() {
            let number = self.begin(frame);
            self.ask(number, |token| Ask::Settle { token, settlements, transaction: None });
        } else {
            settlements.into_iter().for_each(|settlement| self.settle_quietly(settlement));
        }
        Ok(())
    }

    /// Settles deliveries, as part of the command before where that settles, too, and of its last
    /// run where they touch.
    pub(super) fn settle_quietly(&mut self, settlement: Settlement) {
        let Some(Ask::Settle { token: Token::SILENT, settlements, transaction: None }) =
            self.commands.back_mut()
        else {
            self.commands.push_back(Ask::Settle {
                token: Token::SILENT,
                settlements: vec![settlement],
                transaction: None,
            });
            return;
        };
        match settlements.last_mut() {
            Some(last)
                if (last.queue, last.epoch, last.outcome)
                    == (settlement.queue, settlement.epoch, settlement.outcome)
                    && last.first + u64::from(last.len) == settlement.first =>
            {
                last.len += settlement.len;
            }
            _ => settlements.push(settlement),
        }
    }
}
