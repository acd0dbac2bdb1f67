//! What the broker says to a session.

use isthmus_model::{CommandError, ConsumerId, Delivery, DetachReason, Reply, Token};

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
    /// What the node is short of has changed: while that is anything, publishers are to be held
    /// back in the protocol's own way (see [`Session::is_holding`](crate::Session::is_holding)),
    /// and only they.
    Pressure(Shortage),
    /// The broker ends the connection: the session says goodbye in its own words and closes.
    Closed(CloseReason),
}

/// What a node is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    /// Memory is above its limit.
    pub memory: bool,
    /// Free disk space is below its limit.
    pub disk: bool,
    /// Messages come in faster than the disk takes the pages that they go to. It is over within
    /// moments, and not told to clients.
    pub paging: bool,
}

impl Shortage {
    /// Short of nothing.
    pub const NONE: Shortage = Shortage { memory: false, disk: false, paging: false };

    /// Whether anything is short.
    pub fn is_any(self) -> bool {
        self.is_lasting() || self.paging
    }

    /// Whether anything is short of which clients are told: it lasts until somebody consumes, or
    /// an operator does something.
    pub fn is_lasting(self) -> bool {
        self.memory || self.disk
    }

    /// The shortage in the words that clients of RabbitMQ know; empty if there is none.
    pub fn reason(self) -> &'static str {
        match (self.memory, self.disk) {
            (true, true) => "low on memory & disk",
            (true, false) => "low on memory",
            (false, true) => "low on disk",
            (false, false) => "",
        }
    }
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
    /// What the client has logged in with has run out.
    Expired,
    /// The lasting session that it had open was opened by another connection.
    TakenOver,
    /// Its virtual host was deleted.
    VhostDeleted,
}
