//! The accepting side.

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isthmus_storage::LogId;
use openraft::{Raft, storage::RaftStateMachine};
use parking_lot::RwLock;
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use super::{
    client::{self, ClientHeader, ClientStream},
    conn::Conn,
    control,
    debts::Debts,
    dial::{BoxedStream, Listen},
    handshake::{self, Agreed, PeerError},
    identity::{Identity, MemberId},
    options::Local,
    preface::Purpose,
    serve_raft::{self, Consensus},
    snapshot::{self, SnapshotMeta},
};
use crate::raft::{Chunks, Install, RaftTypes, SnapshotData, convert::id_to_log};

/// For how many election timeouts a node that starts waits for the word of voters who do not answer.
/// Connections have to be made meanwhile, which are tried at least every 400 ms.
const PATIENCE: u32 = 3;

/// What the embedder does for its peers.
pub trait Handler: Send + Sync + 'static {
    /// Stores a snapshot beside what the node has, and returns what puts it in its place. All of it
    /// has come with [`Chunk::End`](crate::raft::Chunk::End); with an error it does not come, and
    /// what was stored is to be removed.
    fn stage_snapshot(
        &self,
        meta: SnapshotMeta,
        chunks: Chunks,
    ) -> BoxFuture<'_, io::Result<Install>>;

    /// Answers a control request, with 1 MiB at most. `peer` is who it says it is, by the join
    /// token and its certificate if there are such, and need not be a member.
    fn control(&self, peer: Identity, request: Bytes) -> BoxFuture<'_, Bytes>;

    /// Whether a client is taken that `peer` passes through.
    ///
    /// # Errors
    /// Why not, for the peer.
    fn admit(&self, peer: Identity, header: &ClientHeader) -> Result<(), String>;

    /// Serves a client that was admitted. The connection ends with the future.
    fn client(&self, header: ClientHeader, stream: ClientStream) -> BoxFuture<'_, ()>;

    /// A connection from `remote` was refused, or ended with an error. For the log.
    fn failed(&self, remote: &str, error: &PeerError);
}

/// Serves peers. Clones share it.
#[derive(Clone)]
pub struct PeerServer {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) local: Local,
    pub(super) handler: Arc<dyn Handler>,
    consensus: RwLock<Option<Arc<dyn Consensus>>>,
    strangers: Semaphore,
}

impl fmt::Debug for PeerServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerServer").field("local", &self.shared.local).finish_non_exhaustive()
    }
}

impl PeerServer {
    /// Serves peers as the node that `local` describes.
    pub fn new(local: Local, handler: Arc<dyn Handler>) -> Self {
        let strangers = Semaphore::new(local.options.strangers_max);
        let consensus = RwLock::new(None);
        Self { shared: Arc::new(Shared { local, handler, consensus, strangers }) }
    }

    /// Hands over openraft, within a tokio runtime. Until then its peers are told that the node starts,
    /// and it has no part in elections.
    pub fn set_raft<SM>(&self, raft: Raft<RaftTypes, SM>)
    where
        SM: RaftStateMachine<RaftTypes, SnapshotData = SnapshotData>,
    {
        tokio::spawn(begin(Arc::clone(self.shared.local.directory.debts()), raft.clone()));
        *self.shared.consensus.write() = Some(Arc::new(raft));
    }

    /// Takes openraft back. Connections that use it go on until they end by themselves.
    pub fn clear_raft(&self) {
        *self.shared.consensus.write() = None;
    }

    /// Serves what `listener` accepts, for ever. Dropping the future closes every connection.
    ///
    /// # Errors
    /// None that concerns one connection: these go to [`Handler::failed`]. So an error of the
    /// listener ends it.
    pub async fn listen(&self, mut listener: impl Listen) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                // In this order, so that a simulation replays.
                biased;
                accepted = listener.accept() => {
                    let (stream, remote) = accepted?;
                    let server = self.clone();
                    connections.spawn(async move { server.serve(stream, &remote).await });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Serves one connection to its end. What goes wrong is told to [`Handler::failed`].
    pub async fn serve(&self, stream: BoxedStream, remote: &str) {
        if let Err(error) = self.shared.serve(stream).await {
            self.shared.handler.failed(remote, &error);
        }
    }
}

/// Says with what consensus begins, and whose word is to be waited for.
async fn begin<SM>(debts: Arc<Debts>, raft: Raft<RaftTypes, SM>)
where
    SM: RaftStateMachine<RaftTypes>,
{
    let patience = Duration::from_millis(raft.config().election_timeout_max) * PATIENCE;
    let own = *raft.node_id();
    let state = raft.with_raft_state(move |state| {
        let members = state.membership_state.effective();
        let others = members.voter_ids().filter(|id| *id != own).map(MemberId).collect();
        (state.log_ids.last().map_or(LogId::ZERO, id_to_log), others)
    });
    // Otherwise it has ended already.
    if let Ok((had, others)) = state.await {
        debts.begin(had, others, patience);
    }
}

impl Shared {
    async fn serve(&self, stream: BoxedStream) -> Result<(), PeerError> {
        let (conn, agreed) = self.admit(stream).await?;
        Ok(match agreed.purpose {
            Purpose::Control => control::serve(conn, &agreed, self).await,
            Purpose::Client => client::serve(conn, &agreed, self).await,
            Purpose::Raft | Purpose::Snapshot => {
                let consensus = self.consensus.read().clone();
                let Some(consensus) = consensus else {
                    conn.fail(0, "the node starts").await;
                    return Ok(());
                };
                let (consensus, from) = (consensus.as_ref(), agreed.peer.member);
                if agreed.purpose == Purpose::Raft {
                    serve_raft::serve(conn, &agreed, consensus, self).await
                } else {
                    snapshot::receive(
                        conn,
                        from,
                        self.handler.as_ref(),
                        consensus,
                        self.local.options.idle,
                    )
                    .await
                }
            }
        }?)
    }

    /// Nothing of a stranger's is processed before it has shown who it is.
    async fn admit(&self, mut stream: BoxedStream) -> Result<(Conn, Agreed), PeerError> {
        let _stranger = self.strangers.try_acquire().map_err(|_| PeerError::Crowded)?;
        let handshake = async {
            if let Some(tls) = &self.local.security.tls {
                stream = tls.accept(stream).await?;
            }
            let agreed = handshake::accept(&self.local, &mut stream).await?;
            Ok((Conn::new(stream), agreed))
        };
        timeout(self.local.options.handshake, handshake).await.unwrap_or(Err(PeerError::Slow))
    }
}
