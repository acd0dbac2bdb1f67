//! What permissions are about.

use std::sync::Arc;

/// What is to be done to a resource (<https://www.rabbitmq.com/docs/access-control>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Declare or delete it.
    Configure,
    /// Put something into it.
    Write,
    /// Take something out of it.
    Read,
}

impl Action {
    /// The word for it in refusals.
    pub fn name(self) -> &'static str {
        match self {
            Action::Configure => "configure",
            Action::Write => "write",
            Action::Read => "read",
        }
    }
}

/// What somebody goes on to do to a queue that is declared for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// Something is done to a queue.
    Queue(Action, Arc<str>),
    /// An exchange is written to, or read from, with a routing key: exchange, key.
    Topic(Action, Arc<str>, Arc<str>),
}

/// A queue or an exchange by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A queue.
    Queue(&'a str),
    /// An exchange; the default exchange is empty.
    Exchange(&'a str),
}

impl<'a> Resource<'a> {
    /// The word for it in refusals.
    pub fn kind(self) -> &'static str {
        match self {
            Resource::Queue(_) => "queue",
            Resource::Exchange(_) => "exchange",
        }
    }

    /// The name that patterns are compared with.
    pub fn name(self) -> &'a str {
        match self {
            Resource::Exchange("") => "amq.default",
            Resource::Exchange(name) | Resource::Queue(name) => name,
        }
    }
}
