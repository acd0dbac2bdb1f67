//! Messages, identifiers, outcomes and limits: what every other crate of Isthmus speaks of.
//!
//! Nothing here knows of a protocol, of a queue's behaviour, of files or of sockets. A message is
//! kept as its publisher encoded it: a [`Batch`] holds one reference-counted chunk of bytes and
//! small fixed [`Record`]s of offsets into it, so that messages move in batches and a body is
//! never copied on its way from one connection to any number of others.

mod access;
mod client;
mod delivery;
mod encoding;
mod filter;
mod forms;
mod ids;
mod message;
mod outcome;
mod properties;
mod reply;
mod request;
mod setting;
mod time;
mod topology;
mod value;

pub use access::{Action, Resource, Use};
pub use client::{
    NEVER_EXPIRES, NOTE_KEY_BYTES_MAX, NOTE_VALUE_BYTES_MAX, Note, NotesOf, OpenSession, Will,
};
pub use delivery::Delivery;
pub use encoding::{Encoding, EncodingId, Encodings};
pub use filter::{Candidate, Filter, SharedFilter};
pub use forms::{Form, Forms};
pub use ids::{
    ConsumerId, LeaseEpoch, QueueId, Sequence, SessionId, Token, TransactionId, WindowId,
};
pub use message::{Annotations, Batch, Death, DeathReason, NO_TTL, Record, RecordFlags, Span};
pub use outcome::{Outcome, Settlement};
pub use properties::Properties;
pub use reply::{CommandError, DetachReason, PublishException, PublishRefusal, Reply};
pub use request::{Attach, AttachMode, Credit, Recall, TopologyChange};
pub use setting::{SettingKey, SettingKind};
pub use time::Time;
pub use topology::{
    BindingDef, Destination, ExchangeDef, ExchangeKind, Lifetime, Overflow, QueueDef, QueueOptions,
    REPLY_QUEUE_PREFIX, SharedOptions,
};
pub use value::{Table, Value};
