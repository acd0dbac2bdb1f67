//! What leaves a session: commands for the broker, bytes for the client.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_contract::{Command, Outbox, Publish};
use isthmus_model::{Batch, EncodingId, Record, Settlement, Token, TransactionId};

/// Both ways out, and the tokens.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) outbox: Outbox,
    /// Ready for the broker.
    pub(super) commands: VecDeque<Command>,
    /// In order, some of them waiting for the chunk of the input that is being walked.
    staged: Vec<Staged>,
    /// The batch that the next publish may join.
    pub(super) open: Option<OpenBatch>,
    /// Commands made so far.
    count: u64,
}

#[derive(Debug)]
enum Staged {
    Ready(Command),
    /// Records of offsets into the chunk to come.
    Batch {
        token: Token,
        transaction: Option<TransactionId>,
        records: Vec<Record>,
    },
}

/// Consecutive publishes of one channel.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub(super) channel: u16,
    pub(super) token: Token,
    pub(super) transaction: Option<TransactionId>,
    pub(super) records: Vec<Record>,
}

/// Tokens tell their channel (so that a completion finds it without a map), whether they stand
/// for a publish, and when they were made (so that a channel opened again under the same number
/// does not take another's completions for its own).
const CHANNEL_BITS: u32 = 16;
const PUBLISH_BIT: u64 = 1 << CHANNEL_BITS;

/// The channel that `token` was made for; 0 for the connection.
pub(super) fn channel_of(token: Token) -> u16 {
    token.0 as u16
}

/// Whether `token` stands for a publish.
pub(super) fn is_publish(token: Token) -> bool {
    token.0 & PUBLISH_BIT != 0
}

/// How many tokens were made before `token`.
pub(super) fn age(token: Token) -> u64 {
    token.0 >> (CHANNEL_BITS + 1)
}

impl Outgoing {
    /// Gives back what is held for commands while there are none.
    pub(super) fn rest(&mut self) {
        if self.commands.is_empty() && self.staged.is_empty() {
            self.commands = VecDeque::new();
            self.staged = Vec::new();
        }
    }

    /// A new token for a command of `channel`.
    pub(super) fn token(&mut self, channel: u16) -> Token {
        // The count starts from 1, so that no token is the silent one.
        self.count += 1;
        Token(self.count << (CHANNEL_BITS + 1) | u64::from(channel))
    }

    /// A new token for a publish of `channel`.
    pub(super) fn publish_token(&mut self, channel: u16) -> Token {
        Token(self.token(channel).0 | PUBLISH_BIT)
    }

    /// Tokens made so far.
    pub(super) fn tokens(&self) -> u64 {
        self.count
    }

    /// Queues a command; the open batch must have been closed.
    pub(super) fn stage(&mut self, command: Command) {
        self.staged.push(Staged::Ready(command));
    }

    /// Queues the records of a closed batch.
    pub(super) fn stage_batch(&mut self, batch: OpenBatch) {
        let OpenBatch { token, transaction, records, .. } = batch;
        self.staged.push(Staged::Batch { token, transaction, records });
    }

    /// Queues a settlement that is not answered, as part of the last command where that is one,
    /// too, and as part of its last run where they touch.
    pub(super) fn stage_settlement(&mut self, settlement: Settlement) {
        let Some(Staged::Ready(Command::Settle {
            token: Token::SILENT,
            settlements,
            transaction: None,
        })) = self.staged.last_mut()
        else {
            self.stage(Command::Settle {
                token: Token::SILENT,
                settlements: vec![settlement],
                transaction: None,
            });
            return;
        };
        match settlements.last_mut() {
            Some(last)
                if last.queue == settlement.queue
                    && last.epoch == settlement.epoch
                    && last.outcome == settlement.outcome
                    && last.first + u64::from(last.len) == settlement.first
                    && last.len.checked_add(settlement.len).is_some() =>
            {
                last.len += settlement.len;
            }
            _ => settlements.push(settlement),
        }
    }

    /// Whether a staged batch waits for its chunk.
    pub(super) fn needs_chunk(&self) -> bool {
        self.staged.iter().any(|s| matches!(s, Staged::Batch { .. }))
    }

    /// Passes what is staged on; batches are of `chunk`.
    pub(super) fn release(&mut self, chunk: &Bytes) {
        self.commands.extend(self.staged.drain(..).map(|staged| match staged {
            Staged::Ready(command) => command,
            Staged::Batch { token, transaction, records } => {
                publish(token, transaction, chunk.clone(), records)
            }
        }));
    }
}

/// The command that publishes `records` of `chunk`.
pub(super) fn publish(
    token: Token,
    transaction: Option<TransactionId>,
    chunk: Bytes,
    records: Vec<Record>,
) -> Command {
    let batch = Arc::new(Batch::new(EncodingId::AMQP_0_9_1, chunk, records));
    Command::Publish(Publish { token, batch, transaction })
}
