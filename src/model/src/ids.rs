//! Identifiers. None of them is ever reused for something else while anybody may hold it.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A queue, for as long as the cluster lives: ids of deleted queues are not given out again,
    /// so a late settlement can never reach a namesake.
    QueueId(u64)
}

id! {
    /// A client's connection, unique within one run of one node.
    SessionId(u64)
}

id! {
    /// A consumer, chosen by its session and unique within it.
    ConsumerId(u64)
}

id! {
    /// A shared credit window of a session (an AMQP 0-9-1 channel's global prefetch).
    WindowId(u32)
}

id! {
    /// A transaction of a session, chosen by the session; reusable after commit or rollback.
    TransactionId(u32)
}

id! {
    /// Names one command of a session; its `Done` event carries the same token.
    Token(u64)
}

impl Token {
    /// For a command whose completion the session's protocol never tells the client (an AMQP
    /// 0-9-1 acknowledgement, a publish without confirms): no `Done` is sent for it unless it
    /// fails.
    pub const SILENT: Token = Token(0);
}

/// The position of a message in its queue, counted from 1. Assigned once, never reused, the same
/// on every replica.
pub type Sequence = u64;

/// Tells one checkout of a message from every other one: the leader's term above, a count below.
///
/// A settlement that names an older epoch is stale and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseEpoch(pub u64);

impl LeaseEpoch {
    /// Checkouts counted within one term; 2^40 of them at ten million a second last 30 hours of
    /// *runs*, and a run holds many messages, so a wrap inside one lease is out of reach.
    const COUNT_BITS: u32 = 40;

    /// The epoch of the `count`-th checkout in `term`.
    pub fn new(term: u64, count: u64) -> Self {
        LeaseEpoch((term << Self::COUNT_BITS) | (count & ((1 << Self::COUNT_BITS) - 1)))
    }
}
