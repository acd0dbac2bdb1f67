//! What can be asked of the broker's core, in the words that every protocol shares.

use std::sync::Arc;

use crate::{
    BindingDef, ConsumerId, ExchangeDef, QueueDef, SharedFilter, Table, Time, Token, Use, WindowId,
};

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
    /// As [`TopologyChange::DeclareQueue`], unless the user may not do what the queue is for:
    /// otherwise it would be left behind by the refusal of that.
    DeclareQueueFor {
        /// The queue.
        def: QueueDef,
        /// What is going to be asked for once it is there.
        uses: Vec<Use>,
    },
    /// Declare a queue under a name that the broker makes: the prefix, and after it what nobody
    /// can guess. Answer: [`Reply::Queue`](crate::Reply::Queue).
    MakeQueue {
        /// What the name begins with; names that only the broker gives are allowed here.
        prefix: Arc<str>,
        /// The queue; its name does not matter.
        def: QueueDef,
    },
    /// Declare a queue that the session needs for itself; its name may be a reserved one, and must
    /// be new. Answer: [`Reply::Queue`](crate::Reply::Queue).
    DeclareOwnQueue(QueueDef),
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
    /// Hold a queue for the lasting session that is open: a queue that sessions hold is in use
    /// ([`QueueOptions::expires_ms`](crate::QueueOptions)), is not deleted with its last consumer,
    /// and is deleted when the last that holds it releases it or ends, unless somebody consumes.
    /// A durable queue of [`TopologyChange::DeclareOwnQueue`] is held from the beginning. A session
    /// that ends with its connection holds nothing durably, and need not: it consumes. A queue that
    /// is not the session's own may be held by whoever may read from it; it must be durable.
    HoldQueue {
        /// Its name.
        name: Arc<str>,
    },
    /// Hold a queue no longer.
    ReleaseQueue {
        /// Its name.
        name: Arc<str>,
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
    /// Is shown what is ready at the time, in order and once each, and takes nothing: what it
    /// sees stays as it is. Meant with [`Attach::look`] and draining credit, whose end says that
    /// there is no more.
    Browse,
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
    /// up, and the consumer's credit state says so; a deadline that has
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
    /// How long it may hold a message, in milliseconds: one that it has not settled by then goes
    /// back as a failed delivery. `None` for as long as it likes.
    pub lease_ms: Option<u64>,
    /// Refuse if others consume, and refuse others from now on.
    pub exclusive: bool,
    /// A look at the queue and no consumer of it (AMQP 0-9-1's basic.get): it takes what is there
    /// within its credit, past those who have the queue for themselves or are served alone, and
    /// nobody counts it: an auto-delete queue neither begins nor ends with it. `exclusive` means
    /// nothing then.
    pub look: bool,
    /// Messages that this session publishes pass its queue by.
    pub no_local: bool,
    /// What it wants; `None` for everything. The rest stays for others, in its order.
    pub filter: Option<SharedFilter>,
    /// Options of the protocol that the broker understands (`x-priority` …).
    pub arguments: Table,
    /// The name under which operators see it.
    pub tag: Arc<str>,
}

/// A request for what a topic exchange keeps ([`RecordFlags::RETAIN`](crate::RecordFlags)): copies
/// of the messages whose routing key matches come into a queue, marked as
/// [`recalled`](crate::Annotations), with what is left of their time to live. Answer:
/// [`Reply::Messages`](crate::Reply::Messages), how many.
#[derive(Clone, Debug, PartialEq)]
pub struct Recall {
    /// Names the answer.
    pub token: Token,
    /// The exchange.
    pub exchange: Arc<str>,
    /// A binding key: words between dots, `*` for one, `#` for any number.
    pub pattern: Arc<str>,
    /// The queue's name.
    pub queue: Arc<str>,
}
