//! Messages on their way to a consumer.

use std::sync::Arc;

use crate::{Annotations, Batch, ConsumerId, LeaseEpoch, QueueId, Sequence, Time};

/// A run of messages for one consumer: consecutive sequences of one queue, consecutive records of
/// one batch, one epoch. At speed a run is hundreds of messages long, and the broker's work is
/// counted in runs.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// For whom.
    pub consumer: ConsumerId,
    /// From which queue.
    pub queue: QueueId,
    /// The sequence of the first message.
    pub first: Sequence,
    /// How many messages.
    pub len: u32,
    /// The lease under which they may be settled; meaningless to a consumer that takes messages
    /// as settled.
    pub epoch: LeaseEpoch,
    /// When the lease ends, [`Time::NEVER`] if it does not.
    pub deadline: Time,
    /// Where the messages are.
    pub batch: Arc<Batch>,
    /// The first message's record in the batch.
    pub record: u32,
    /// Whether they may have been delivered before.
    pub redelivered: bool,
    /// Deliveries known to have failed before this one.
    pub delivery_count: u32,
    /// How long they have been in the queue, in milliseconds: for protocols that tell what is left
    /// of a message's time to live.
    pub waited_ms: u64,
    /// What the broker wrote beside them.
    pub annotations: Option<Arc<Annotations>>,
}
