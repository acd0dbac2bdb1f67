//! What outlives a client's connection.

use std::sync::Arc;

use crate::{Batch, Token};

/// [`OpenSession::expiry_ms`] of a session that is kept until it is ended.
pub const NEVER_EXPIRES: u64 = u64::MAX;

/// A request to open the lasting session of a client (a session of MQTT, a durable subscriber of
/// JMS). It has the queues that it holds ([`TopologyChange::HoldQueue`]) and what its protocol
/// notes in it ([`Note`]), outlives the connection by its expiry, and is open on one connection at
/// a time: the connection that has it is closed, and what that held is ready again before this one
/// is answered. Answer: [`Reply::Session`].
///
/// [`Reply::Session`]: crate::Reply::Session
/// [`TopologyChange::HoldQueue`]: crate::TopologyChange::HoldQueue
#[derive(Clone, Debug, PartialEq)]
pub struct OpenSession {
    /// Names the answer.
    pub token: Token,
    /// The client's identifier, unique in its virtual host. A session belongs to the user who
    /// began it: others are refused.
    pub client: Arc<str>,
    /// Whether to begin anew: the session that is there is ended first, its will published and
    /// the queues that it alone holds deleted.
    pub clean: bool,
    /// Milliseconds that it is kept after its connection has ended; 0 for a session that ends with
    /// its connection, [`NEVER_EXPIRES`].
    pub expiry_ms: u64,
    /// What is published if the connection ends without a goodbye.
    pub will: Option<Will>,
}

/// A message that a client leaves behind.
#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    /// One message, with its address.
    pub batch: Arc<Batch>,
    /// Milliseconds from the end of the connection until it is published; sooner if the session
    /// ends before, and not at all if the client is back before.
    pub delay_ms: u64,
}

/// Something that a protocol notes in a session, durably if the session is kept: a key of its own
/// and what stands under it. The broker does not look into either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Under which it stands; at most [`NOTE_KEY_BYTES_MAX`] bytes.
    pub key: Arc<[u8]>,
    /// What stands there from now on; `None` to remove it.
    pub value: Option<Arc<[u8]>>,
}

/// The longest key of a note, in bytes: a topic filter and something more.
pub const NOTE_KEY_BYTES_MAX: usize = 66_000;

/// Messages that notes of the same transaction are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotesOf {
    /// The publish that they are in.
    pub publish: Token,
    /// The record of each note's message.
    pub records: Vec<u32>,
}

/// The longest value of a note, in bytes.
pub const NOTE_VALUE_BYTES_MAX: usize = 64 << 10;
