//! What becomes of a delivered message: one model for every protocol.

use crate::{LeaseEpoch, QueueId, Sequence};

/// The fate of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done with: the message leaves the queue (basic.ack, PUBACK, DeleteMessage, accepted).
    Accept,
    /// Not done: back to its place in the queue, delivery count raised (basic.nack with requeue,
    /// released, visibility 0).
    Requeue,
    /// Refused: dead-lettered where the queue has a target, else dropped (basic.reject).
    Reject,
    /// AMQP 1.0's modified: back to its place with the count raised only if the delivery failed;
    /// `undeliverable_here` keeps it from the consumer that said so.
    Modify {
        /// Count this delivery as failed.
        delivery_failed: bool,
        /// Do not deliver it to this consumer again.
        undeliverable_here: bool,
    },
}

/// The outcome of one checkout, or of a run of them that share queue and epoch.
///
/// It names (queue, sequence, epoch) and not the connection, so that whoever holds a receipt may
/// settle from anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The queue that the messages were delivered from.
    pub queue: QueueId,
    /// The first sequence of the run.
    pub first: Sequence,
    /// How many consecutive sequences, at least one.
    pub len: u32,
    /// The epoch under which they were delivered.
    pub epoch: LeaseEpoch,
    /// What becomes of them.
    pub outcome: Outcome,
}
