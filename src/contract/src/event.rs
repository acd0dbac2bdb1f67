//! What the broker says to a session.

use std::sync::Arc;

use isthmus_model::{Annotations, Batch, ConsumerId, LeaseEpoch, QueueId, Sequence, Time, Token};
use thiserror::Error;

/// News for a session, in order.
#[derive(Debug)]
pub enum Event {
    /// The command of this token is committed, or refused.
    Done {
        /// The command's token.
        token: Token,
        /// What came of it.
        result: Result<Reply, CommandError>,
    },
    /// Messages for the session's consumers.
    Deliveries(Vec<Delivery>),
    /// A consumer with explicit credit has used it up, or what it could not use is given up.
    CreditState {
        /// Whose credit.
        consumer: ConsumerId,
        /// What is left; 0 after a drain.
        credit: u32,
        /// Whether credit was given up because nothing was ready.
        drained: bool,
        /// Messages still ready in its queue.
        ready: u64,
    },
    /// The broker ended a consumer that the session did not detach.
    Detached {
        /// Which.
        consumer: ConsumerId,
        /// Why.
        reason: DetachReason,
    },
    /// Memory or disk is short (`true`) or no longer so: publishers are to be held back in the
    /// protocol's own way.
    Pressure(bool),
    /// The broker ends the connection: the session says goodbye in its own words and closes.
    Closed(CloseReason),
}

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
    /// What the broker wrote beside them.
    pub annotations: Option<Arc<Annotations>>,
}

/// The good outcome of a command.
#[derive(Clone, Debug)]
pub enum Reply {
    /// It is done.
    Ok,
    /// The client is this user.
    Authenticated {
        /// The user's name.
        user: Arc<str>,
    },
    /// A queue, as declared or looked up.
    Queue {
        /// Its name.
        name: Arc<str>,
        /// Messages ready in it.
        ready: u64,
        /// Its consumers.
        consumers: u32,
    },
    /// A consumer is attached.
    Attached,
    /// How many messages were purged or deleted.
    Messages(u64),
    /// Every message of the batch (or of the transaction) is where it should be, save these.
    Published {
        /// What was not taken, in order.
        exceptions: Vec<PublishException>,
    },
}

/// A message that no queue took.
#[derive(Clone, Debug)]
pub struct PublishException {
    /// Where the message is.
    pub batch: Arc<Batch>,
    /// Its record in the batch.
    pub record: u32,
    /// Why it was not taken.
    pub refusal: PublishRefusal,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishRefusal {
    /// No queue is bound for it. Reported for mandatory messages only: others are dropped.
    Unroutable,
    /// A queue is full and refuses.
    Full,
    /// There is no such exchange.
    NoExchange,
    /// The exchange is internal.
    InternalExchange,
}

/// Why a consumer was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachReason {
    /// Its queue was deleted.
    QueueDeleted,
}

/// Why the broker ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The broker is going down.
    Shutdown,
    /// This node does not lead any more; what was published and not answered has an unknown
    /// outcome.
    NotLeader,
    /// An operator asked for it.
    Forced,
}

/// The kinds of things that have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
    /// A virtual host.
    VirtualHost,
}

/// Why a command was refused. Each protocol maps the variant to its own code and passes the text
/// on where it can.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// It does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It exists and is different, or is in use, or not empty.
    #[error("{0}")]
    Precondition(String),
    /// It belongs to another connection.
    #[error("{0}")]
    Locked(String),
    /// The user may not do this, or nobody may.
    #[error("{0}")]
    Refused(String),
    /// An argument is wrong.
    #[error("{0}")]
    Invalid(String),
    /// It is not available in this version or configuration.
    #[error("{0}")]
    NotImplemented(String),
    /// A limit of the broker is reached.
    #[error("{0}")]
    Limit(String),
}
