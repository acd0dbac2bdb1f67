//! What a session asks of the broker.

use std::fmt;
use std::sync::Arc;

use isthmus_model::{
    Attach, Batch, ConsumerId, Credit, Note, NotesOf, OpenSession, Recall, SettingKey, Settlement,
    Table, Time, Token, TopologyChange, TransactionId, WindowId,
};

/// A request of a session. The set is as large as the protocols need together, and no protocol
/// has one of its own.
#[derive(Debug)]
pub enum Command {
    /// Prove who the client is, again if it already has (its secret is about to run out): it
    /// must be the same user. Answer: [`Reply::Authenticated`].
    ///
    /// [`Reply::Authenticated`]: crate::Reply::Authenticated
    Authenticate {
        /// Names the answer.
        token: Token,
        /// The proof.
        credentials: Credentials,
    },
    /// Enter a virtual host, in which every later command acts. Where it is refused, another may be
    /// tried once the answer is there.
    Enter {
        /// Names the answer.
        token: Token,
        /// The virtual host's name.
        vhost: Arc<str>,
    },
    /// Open the lasting session of a client, once in a connection and after [`Command::Enter`].
    OpenSession(OpenSession),
    /// The client says goodbye: its lasting session is closed before its connection is.
    CloseSession {
        /// Names the answer.
        token: Token,
        /// Another expiry than it was opened with, in milliseconds. One that was opened with 0 stays
        /// at that.
        expiry_ms: Option<u64>,
        /// Whether its will is published as if there had been no goodbye.
        publish_will: bool,
    },
    /// Note something in the lasting session.
    Note {
        /// Names the answer.
        token: Token,
        /// What, in order.
        notes: Vec<Note>,
        /// If each is about a message of the same transaction: one that is not taken is not noted.
        of: Option<NotesOf>,
        /// To take effect with this transaction only.
        transaction: Option<TransactionId>,
    },
    /// Put copies of what an exchange keeps into a queue.
    Recall(Recall),
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
    /// The client certificate that the connection's TLS has verified (SASL EXTERNAL).
    Certificate,
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

/// What an operator does.
#[derive(Clone, Debug, PartialEq)]
pub enum ManageOp {
    /// Drop every ready message. Answer: [`Reply::Messages`](crate::Reply::Messages).
    Purge {
        /// The queue's name.
        queue: Arc<str>,
    },
    /// Give a setting a value, or none.
    Set {
        /// Which.
        key: SettingKey,
        /// Its value; `None` removes it, whether it is there or not.
        value: Option<Arc<Table>>,
    },
    /// Create a virtual host; it may exist.
    DeclareVhost {
        /// Its name.
        name: Arc<str>,
    },
    /// Delete a virtual host with everything in it and close the connections that use it; one
    /// that does not exist counts as deleted.
    DeleteVhost {
        /// Its name.
        name: Arc<str>,
    },
    /// End the lasting session of a client, whoever has it open.
    EndSession {
        /// Its virtual host.
        vhost: Arc<str>,
        /// The client's identifier.
        client: Arc<str>,
    },
}
