//! What a snapshot consists of, on its way between two nodes.

use std::fmt;
use std::io;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

/// Pieces of a snapshot in order, each 1 MiB at the most; an error or the end of the channel without
/// [`Chunk::End`] means that the rest does not come.
pub type Chunks = mpsc::Receiver<io::Result<Chunk>>;

/// A piece of a snapshot. Consensus does not look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes that follow on those before.
    Data(Bytes),
    /// All of it has been sent.
    End,
}

/// Puts a snapshot that was received as a whole in the place of what the node has.
pub type Install = Box<dyn FnOnce() -> BoxFuture<'static, io::Result<()>> + Send>;

/// The content of a snapshot.
pub enum SnapshotData {
    /// On the sending side: what is to be sent, made while it is sent.
    Outgoing(Chunks),
    /// On the receiving side: all of it is on stable storage, beside what the node has.
    Staged(Install),
}

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SnapshotData::Outgoing(_) => "Outgoing",
            SnapshotData::Staged(_) => "Staged",
        })
    }
}
