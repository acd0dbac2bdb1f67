//! What the log says: facts, gathered into entries.

use std::sync::Arc;

use isthmus_model::{
    Annotations, Batch, BindingDef, ExchangeDef, QueueDef, QueueId, Sequence, SettingKey, Table,
    Time,
};

use crate::clients::{ClientChange, ClientKey};
use crate::dedup::{DedupKey, WindowOf};
use crate::paging::{Over, Page, PageKey};

/// One log entry's contents: atomic, the facts in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Log time: never goes back from one entry to the next.
    pub time: Time,
    /// What happened.
    pub facts: Vec<Fact>,
}

/// Where an entry stands among those of its leader.
///
/// Several leaders write one log, and each may lose some of what it proposes. An entry counts only
/// if it belongs to the term that the log is in and follows on the entry before: whoever proposed
/// it decided it on top of that one. The others are void on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The term, as [`Fact::Term`] has begun it.
    pub term: u64,
    /// The entry's number within the term; the one that begins it has 0.
    pub number: u64,
}

/// Who takes part in consensus, as of an entry of the log; in an encoding of the consensus' own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The index of the entry that said so.
    pub index: u64,
    /// The consensus term of that entry.
    pub term: u64,
    /// Who.
    pub members: Arc<[u8]>,
}

/// One thing that happened. Facts say what was decided, never ask for a decision: applying them
/// routes nothing, compares no clocks and selects no message.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A leader's term begins: whatever is unsettled may have been delivered before.
    Term(u64),
    /// A virtual host exists.
    DeclareVhost(Arc<str>),
    /// A durable exchange exists.
    DeclareExchange {
        /// Its virtual host.
        vhost: Arc<str>,
        /// The exchange.
        def: ExchangeDef,
    },
    /// An exchange is gone, with its bindings.
    DeleteExchange {
        /// Its virtual host.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A durable queue exists.
    DeclareQueue {
        /// Its virtual host.
        vhost: Arc<str>,
        /// Its id.
        id: QueueId,
        /// The queue, which whoever proposes this has as well.
        def: Arc<QueueDef>,
    },
    /// A queue is gone, with its bindings and messages.
    DeleteQueue {
        /// Which.
        id: QueueId,
    },
    /// A binding between durable ends exists.
    Bind {
        /// Its virtual host.
        vhost: Arc<str>,
        /// The binding.
        def: BindingDef,
    },
    /// A binding is gone.
    Unbind {
        /// Its virtual host.
        vhost: Arc<str>,
        /// The binding.
        def: BindingDef,
    },
    /// Messages came into queues.
    Enqueue {
        /// The messages.
        batch: Arc<Batch>,
        /// Which of them went where.
        placements: Vec<Placement>,
        /// What is written beside them: a transient message can die into a durable queue.
        annotations: Option<Arc<Annotations>>,
    },
    /// Messages left a queue for good: accepted, expired, dropped, purged.
    Settle {
        /// The queue.
        queue: QueueId,
        /// The first sequence.
        first: Sequence,
        /// How many; those that are gone already do not matter.
        len: u64,
    },
    /// Deliveries failed: the count of each message goes up by one.
    Count {
        /// The queue.
        queue: QueueId,
        /// The first sequence.
        first: Sequence,
        /// How many.
        len: u64,
    },
    /// A message left a queue for others (dead-lettering). Nothing happens if it is gone.
    Move {
        /// The queue that it left.
        queue: QueueId,
        /// Its sequence there.
        sequence: Sequence,
        /// The queues it came into, with its sequences there.
        to: Vec<(QueueId, Sequence)>,
        /// What is written beside it from now on.
        annotations: Arc<Annotations>,
    },
    /// A queue's numbers, in a checkpoint.
    QueueState {
        /// Which queue.
        id: QueueId,
        /// The sequence that the next message gets at least.
        next: Sequence,
        /// Messages below may have been delivered before.
        redelivered_below: Sequence,
    },
    /// A message of a queue, in a checkpoint, with what happened to it so far.
    Restore {
        /// The queue.
        queue: QueueId,
        /// Its sequence.
        first: Sequence,
        /// The messages.
        batch: Arc<Batch>,
        /// When they came.
        enqueued_at: Time,
        /// Deliveries known to have failed.
        delivery_count: u32,
        /// What is written beside them.
        annotations: Option<Arc<Annotations>>,
    },
    /// A virtual host is gone, with everything in it.
    DeleteVhost(Arc<str>),
    /// A setting has a value, or none any more.
    Setting {
        /// Which.
        key: SettingKey,
        /// Its value from now on.
        value: Option<Arc<Table>>,
    },
    /// Keys were seen, and are remembered in this order, each until its end in log time.
    Remember {
        /// By whom.
        window: WindowOf,
        /// The keys.
        keys: Vec<(DedupKey, Time)>,
    },
    /// Keys are forgotten.
    Forget {
        /// By whom.
        window: WindowOf,
        /// The keys.
        keys: Vec<DedupKey>,
    },
    /// The next queue's id is at least this, in a checkpoint: ids are never reused.
    NextQueue(QueueId),
    /// Messages of a queue whose bodies are in the log still, in a checkpoint.
    Logged {
        /// The queue.
        queue: QueueId,
        /// The first sequence.
        first: Sequence,
        /// How many.
        len: u32,
        /// When they came.
        enqueued_at: Time,
        /// Deliveries known to have failed.
        delivery_count: u32,
        /// What is written beside them.
        annotations: Option<Arc<Annotations>>,
        /// The log entry that has them.
        logged_at: u64,
    },
    /// A page that later facts of the same checkpoint refer to.
    Page(Arc<Page>),
    /// Messages of a queue that are in a page, in a checkpoint.
    Paged {
        /// The queue.
        queue: QueueId,
        /// The first sequence.
        first: Sequence,
        /// How many sequences.
        len: u32,
        /// The page.
        page: PageKey,
        /// The position of the first message in the page.
        position: u32,
        /// What the page does not know of them.
        over: Option<Arc<Over>>,
        /// Positions of the page whose messages are gone, a bit each.
        gone: Option<Box<[u64]>>,
    },
    /// Who takes part in consensus from here on.
    Members(Arc<Members>),
    /// The number of the term's latest entry, in a checkpoint.
    EntryNumber(u64),
    /// Something happened to a lasting session.
    Client {
        /// Whose it is.
        key: ClientKey,
        /// What happened.
        change: ClientChange,
    },
    /// A topic exchange keeps a message as the latest of its routing key.
    Kept {
        /// The exchange's virtual host.
        vhost: Arc<str>,
        /// Its name.
        exchange: Arc<str>,
        /// The routing key.
        key: Arc<str>,
        /// The message alone.
        batch: Arc<Batch>,
        /// The record that it is of the messages of the latest [`Fact::Enqueue`] before in the
        /// entry, if it is one of those: it is not written again.
        record: Option<u32>,
        /// When it came, in log time.
        since: Time,
        /// What is written beside it.
        annotations: Option<Arc<Annotations>>,
    },
    /// A topic exchange keeps nothing under a routing key any more.
    Unkept {
        /// The exchange's virtual host.
        vhost: Arc<str>,
        /// Its name.
        exchange: Arc<str>,
        /// The routing key.
        key: Arc<str>,
    },
}

/// Consecutive records of a batch that came into one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The queue.
    pub queue: QueueId,
    /// The first message's sequence there.
    pub first: Sequence,
    /// The first record.
    pub record: u32,
    /// How many.
    pub len: u32,
}
