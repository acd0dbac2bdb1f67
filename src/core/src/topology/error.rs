//! Why a change of the topology, or a look-up in it, was refused.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// What a [`TopologyError`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// A virtual host.
    VirtualHost,
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResourceKind::VirtualHost => "vhost",
            ResourceKind::Exchange => "exchange",
            ResourceKind::Queue => "queue",
        })
    }
}

/// A refusal. Its text is what RabbitMQ tells its clients after the reply code's name, because
/// client libraries and their users match on it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// There is no such thing.
    #[error("{}", absent(*kind, name, vhost))]
    NotFound {
        /// What was looked for.
        kind: ResourceKind,
        /// Its name.
        name: Arc<str>,
        /// Where it was looked for; a virtual host's own name if that is what was looked for.
        vhost: Arc<str>,
    },
    /// It exists and was declared otherwise.
    #[error(
        "inequivalent arg '{argument}' for {kind} '{name}' in vhost '{vhost}': \
         received {given} but current is {existing}"
    )]
    Inequivalent {
        /// What was declared again.
        kind: ResourceKind,
        /// Its name.
        name: Arc<str>,
        /// Its virtual host.
        vhost: Arc<str>,
        /// The first property or argument that differs.
        argument: Arc<str>,
        /// Its value in the declaration that stands, in words.
        existing: Arc<str>,
        /// Its value in the declaration that was refused, in words.
        given: Arc<str>,
    },
    /// Names that start with `amq.` are the broker's to give, and such exchanges stay.
    #[error("{kind} name '{name}' contains reserved prefix 'amq.*'")]
    Reserved {
        /// What was to be declared or deleted.
        kind: ResourceKind,
        /// Its name.
        name: Arc<str>,
    },
    /// The default exchange can be neither declared nor deleted nor bound.
    #[error("operation not permitted on the default exchange")]
    DefaultExchange,
    /// To be deleted only if unused, and used.
    #[error("{kind} '{name}' in vhost '{vhost}' in use")]
    InUse {
        /// What was to be deleted.
        kind: ResourceKind,
        /// Its name.
        name: Arc<str>,
        /// Its virtual host.
        vhost: Arc<str>,
    },
    /// The queue is exclusive to another session, or the exclusiveness asked for is not the one
    /// it was declared with.
    #[error(
        "cannot obtain exclusive access to locked queue '{queue}' in vhost '{vhost}'. It could be \
         originally declared on another connection or the exclusive property value does not match \
         that of the original declaration."
    )]
    Locked {
        /// The queue's name.
        queue: Arc<str>,
        /// Its virtual host.
        vhost: Arc<str>,
    },
    /// An argument of a declaration, or the key of a binding that means a number, is not usable.
    #[error("{why}")]
    InvalidArgument {
        /// What is wrong with it.
        why: Arc<str>,
    },
    /// A headers exchange does not know this way of matching.
    #[error("invalid x-match field value {value}; expected all, any, all-with-x, or any-with-x")]
    InvalidMatch {
        /// The binding's `x-match`, in words.
        value: Arc<str>,
    },
    /// A topic exchange's binding key has more words than [`WORDS_MAX`].
    ///
    /// [`WORDS_MAX`]: super::WORDS_MAX
    #[error("binding key has {words} words, more than {}", super::WORDS_MAX)]
    TooManyWords {
        /// How many it has.
        words: usize,
    },
}

impl TopologyError {
    /// There is no exchange, queue or virtual host of that name.
    pub(super) fn not_found(kind: ResourceKind, name: &str, vhost: &str) -> TopologyError {
        TopologyError::NotFound { kind, name: name.into(), vhost: vhost.into() }
    }
}

fn absent(kind: ResourceKind, name: &str, vhost: &str) -> String {
    match kind {
        ResourceKind::VirtualHost => format!("vhost {name} not found"),
        kind => format!("no {kind} '{name}' in vhost '{vhost}'"),
    }
}
