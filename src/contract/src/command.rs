//! What a session asks of the broker.

use std::fmt;
use std::sync::Arc;

use isthmus_model::{
    Batch, BindingDef, ConsumerId, ExchangeDef, QueueDef, Settlement, Table, Time, Token,
    TransactionId, WindowId,
};

/// A request of a session. The set is as large as the protocols need together, and no protocol
/// has one of its own.
#[derive(Debug)]
pub enum Command {
    /// Prove who the client is. Answer: [`Reply::Authenticated`].
    ///
    /// [`Reply::Authenticated`]: crate::Reply::Authenticated
    Authenticate {
        /// Names the answer.
        token: Token,
        /// The proof.
        credentials: Credentials,
    },
    /// Enter a virtual host, in which every later command acts.
    Enter {
        /// Names the answer.
        token: Token,
        /// The virtual host's name.
        vhost: Arc<str>,
    },
    /// Declare, bind, look up or delete.
    Topology {
        /// Names the answer.
        token: Token,
        /// What is asked for.
        change: TopologyChange,
    },
    /// Publish a batch of messages. Answer: [`Reply::Published`].
    ///
    /// [`Reply::Published`]: crate::Reply::Published
    Publish(Publish),
    /// Begin to receive.
    Attach(Attach),
    /// Stop receiving. What is checked out stays so.
    Detach {
        /// Names the answer.
        token: Token,
        /// Whom to stop.
        consumer: ConsumerId,
    },
    /// Change a consumer's credit; acts at once and is not answered.
    Credit {
        /// Whose.
        consumer: ConsumerId,
        /// What it has from now on.
        credit: Credit,
    },
    /// Set the size of a window that consumers share; acts at once and is not answered.
    Window {
        /// Which.
        window: WindowId,
        /// Unsettled deliveries at the most; `None` for no limit.
        limit: Option<u32>,
    },
    /// Settle deliveries.
    Settle {
        /// Names the answer, sent once every settlement is durable.
        token: Token,
        /// The deliveries and their outcomes.
        settlements: Vec<Settlement>,
        /// To take effect with this transaction only.
        transaction: Option<TransactionId>,
    },
    /// Move the deadline of leases (ChangeMessageVisibility).
    Extend {
        /// Names the answer.
        token: Token,
        /// The deliveries; their outcome is not looked at.
        deliveries: Vec<Settlement>,
        /// The new deadline.
        deadline: Time,
    },
    /// Begin or end a transaction: what was done under it takes effect as one, or not at all.
    Transact {
        /// Names the answer.
        token: Token,
        /// Which transaction.
        transaction: TransactionId,
        /// What to do with it.
        op: TransactOp,
    },
    /// Act on a queue as an operator would.
    Manage {
        /// Names the answer.
        token: Token,
        /// What to do.
        op: ManageOp,
    },
}

/// Text that must not be logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Proof of who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: Secret,
    },
}

/// Messages to route and store.
#[derive(Debug)]
pub struct Publish {
    /// Names the answer, sent once every queue that keeps it durably has it on stable storage.
    pub token: Token,
    /// The messages.
    pub batch: Arc<Batch>,
    /// To take effect with this transaction only.
    pub transaction: Option<TransactionId>,
}

/// Declarations and deletions.
#[derive(Clone, Debug, PartialEq)]
pub enum TopologyChange {
    /// Declare an exchange; an equal one may exist.
    DeclareExchange(ExchangeDef),
    /// Ask whether an exchange exists.
    LookUpExchange {
        /// Its name.
        name: Arc<str>,
    },
    /// Delete an exchange; one that does not exist counts as deleted.
    DeleteExchange {
        /// Its name.
        name: Arc<str>,
        /// Only if nothing is bound from it.
        if_unused: bool,
    },
    /// Declare a queue; an equal one may exist. An empty name asks for a name to be made.
    /// Answer: [`Reply::Queue`](crate::Reply::Queue).
    DeclareQueue(QueueDef),
    /// Ask how a queue is. Answer: [`Reply::Queue`](crate::Reply::Queue).
    LookUpQueue {
        /// Its name.
        name: Arc<str>,
    },
    /// Delete a queue with what is in it; one that does not exist counts as deleted.
    /// Answer: [`Reply::Messages`](crate::Reply::Messages), how many went with it.
    DeleteQueue {
        /// Its name.
        name: Arc<str>,
        /// Only if nobody consumes from it.
        if_unused: bool,
        /// Only if no message is ready in it.
        if_empty: bool,
    },
    /// Bind; an equal binding may exist.
    Bind(BindingDef),
    /// Unbind; a binding that does not exist counts as unbound.
    Unbind(BindingDef),
}

/// How a consumer takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// Checks messages out; each is settled once.
    Consume,
    /// Takes messages as settled on delivery (no-ack, QoS 0, pre-settled).
    ConsumeSettled,
}

/// Permission to deliver, in one of three forms; every protocol's flow control is one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// So many unsettled deliveries at a time; settlement refills it. `limit: None` does not
    /// limit this consumer by itself. A `shared` window limits all of its consumers together.
    Window {
        /// Unsettled deliveries of this consumer at the most.
        limit: Option<u32>,
        /// The window it shares with others of its session.
        shared: Option<WindowId>,
    },
    /// So many deliveries, once. With `drain`, what cannot be delivered by `deadline` is given
    /// up, and [`Event::CreditState`](crate::Event::CreditState) says so; a deadline that has
    /// passed gives up as soon as nothing is ready.
    Explicit {
        /// Deliveries still allowed.
        credit: u32,
        /// Whether credit that cannot be used is given up.
        drain: bool,
        /// Until when it waits before it does.
        deadline: Time,
    },
    /// No limit but the bytes that wait in the outbox.
    Unlimited,
}

/// A request to receive from a queue. Answer: [`Reply::Attached`](crate::Reply::Attached).
#[derive(Clone, Debug, PartialEq)]
pub struct Attach {
    /// Names the answer.
    pub token: Token,
    /// The session's name for this consumer, in use by no other of its consumers.
    pub consumer: ConsumerId,
    /// The queue's name.
    pub queue: Arc<str>,
    /// How it takes messages.
    pub mode: AttachMode,
    /// Its credit to begin with.
    pub credit: Credit,
    /// Refuse if others consume, and refuse others from now on.
    pub exclusive: bool,
    /// Options of the protocol that the broker understands (`x-priority` …).
    pub arguments: Table,
    /// The name under which operators see it.
    pub tag: Arc<str>,
}

/// What to do with a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactOp {
    /// Start gathering under its id.
    Begin,
    /// Everything gathered takes effect in one log entry; then gathering starts anew.
    /// Answer: [`Reply::Published`](crate::Reply::Published).
    Commit,
    /// Everything gathered is forgotten; then gathering starts anew.
    Rollback,
}

/// What an operator does to a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManageOp {
    /// Drop every ready message. Answer: [`Reply::Messages`](crate::Reply::Messages).
    Purge {
        /// The queue's name.
        queue: Arc<str>,
    },
}
