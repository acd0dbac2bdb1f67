//! What comes of a request.

use std::sync::Arc;

use thiserror::Error;

use crate::{Batch, Note};

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
        /// Whether it was not there before.
        is_new: bool,
    },
    /// A lasting session is open.
    Session {
        /// Whether it was there before.
        present: bool,
        /// What its protocol has noted in it, in the order of the keys.
        notes: Vec<Note>,
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
    /// A queue is full and refuses, or its exchange would keep more than it may.
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
    /// The lasting session that its queue belongs to consumes from it itself again.
    Reclaimed,
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
    /// No node leads, or another one does: nothing was done, and it may be asked for again.
    #[error("no node of the cluster leads at the moment: try again")]
    NotLeader,
}
