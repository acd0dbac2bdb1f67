//! openraft's network.

use std::{collections::HashMap, future::Future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use openraft::{
    BasicNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Timeout},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
    type_config::alias::SnapshotOf,
};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{
    append::{Run, unreachable},
    dial::Dialer,
    frame::Kind,
    identity::MemberId,
    pool::Peer,
    returning::{Question, Returning},
    rpc::{self, Append, Appended},
    snapshot,
    wire::Malformed,
};
use crate::raft::{RaftLogId, RaftTypes, SnapshotData, Vote};

type RpcResult<T> = Result<T, RPCError<RaftTypes>>;

/// How long openraft waits after an error; connections have their own pauses.
const BACKOFF: Duration = Duration::from_millis(50);

/// As [`BACKOFF`], where a snapshot was to be sent: it is taken before it is known whether the other
/// node is there, and costs a copy of the ledger.
const SNAPSHOT_BACKOFF: Duration = Duration::from_secs(1);

/// What openraft is run with: connections to the other members. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Network {
    dialer: Dialer,
    peers: Arc<Mutex<HashMap<u64, Arc<Peer>>>>,
    /// What keeps this node from elections without need, if that was asked for.
    returning: Option<Arc<Returning>>,
}

impl Network {
    /// Connects by `dialer`.
    #[must_use]
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, peers: Arc::default(), returning: None }
    }

    /// Has this node not stand for election while a leader answers it, and only with everybody's
    /// word until it has run for `election_timeout`. The future is to be polled for as long as the
    /// node runs, where openraft does: it notices when the process was stopped.
    pub fn returning(self, election_timeout: Duration) -> (Self, impl Future<Output = ()> + use<>) {
        let returning = Returning::new(election_timeout);
        let watch = Returning::watch(Arc::downgrade(&returning));
        (Self { returning: Some(returning), ..self }, watch)
    }

    fn link(&self, peer: &Arc<Peer>) -> Link {
        let (peer, returning) = (Arc::clone(peer), self.returning.clone());
        Link { peer, returning, is_for_snapshots: false }
    }
}

impl RaftNetworkFactory<RaftTypes> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Link {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(&target)
            && peer.address() == node.addr
        {
            return self.link(peer);
        }
        let peer = Peer::new(self.dialer.clone(), MemberId(target), node.addr.clone());
        peers.insert(target, Arc::clone(&peer));
        self.link(&peer)
    }
}

/// What openraft reaches one member by. Each use has a connection to itself.
#[derive(Debug)]
pub struct Link {
    peer: Arc<Peer>,
    returning: Option<Arc<Returning>>,
    /// Whether a snapshot was to be sent by it.
    is_for_snapshots: bool,
}

impl Link {
    fn timeout(&self, action: RPCTypes, timeout: Duration) -> RPCError<RaftTypes> {
        let id = self.peer.dialer().local().directory.own().member.0;
        RPCError::Timeout(Timeout { action, id, target: self.peer.member().0, timeout })
    }

    /// One request and its answer, which `decode` reads. Once there is a connection, `ready` is waited
    /// for, and nothing asked if it fails.
    async fn ask<T>(
        &self,
        kinds: [Kind; 2],
        body: Bytes,
        decode: impl FnOnce(Bytes) -> Result<T, Malformed>,
        (action, option): (RPCTypes, &RPCOption),
        ready: impl Future<Output = io::Result<()>>,
    ) -> RpcResult<T> {
        match self.try_ask(kinds, body, decode, option, ready).await {
            Some(answer) => answer.map_err(|e| unreachable(&e)),
            None => Err(self.timeout(action, option.soft_ttl())),
        }
    }

    /// As [`Link::ask`]; none if it took too long.
    async fn try_ask<T>(
        &self,
        [kind, answer]: [Kind; 2],
        body: Bytes,
        decode: impl FnOnce(Bytes) -> Result<T, Malformed>,
        option: &RPCOption,
        ready: impl Future<Output = io::Result<()>>,
    ) -> Option<io::Result<T>> {
        let asked = timeout(option.soft_ttl(), async {
            let mut conn = self.peer.take().await?;
            if let Err(error) = ready.await {
                self.peer.put(conn);
                return Err(error);
            }
            match conn.ask(kind, body, answer).await {
                Ok(body) => {
                    self.peer.put(conn);
                    decode(body).map_err(io::Error::from)
                }
                Err(e) => {
                    self.peer.failed();
                    Err(e)
                }
            }
        });
        let asked = asked.await.ok();
        if asked.is_none() {
            self.peer.failed();
        }
        asked
    }

    /// Waits until it is known what this node owes, and fails if it may not be elected with `last` as
    /// its last entry.
    fn may_stand(&self, last: Option<RaftLogId>) -> impl Future<Output = io::Result<()>> + use<> {
        let debts = Arc::clone(self.peer.dialer().local().directory.debts());
        async move {
            debts.known().await;
            match debts.allows(last.as_ref()) {
                true => Ok(()),
                false => Err(io::Error::other("this node lacks what it had acknowledged")),
            }
        }
    }

    async fn run<S>(&self, input: S, option: &RPCOption) -> RpcResult<Run<S>>
    where
        S: Stream<Item = Append> + Unpin,
    {
        match timeout(option.soft_ttl(), self.peer.take()).await {
            Ok(Ok(conn)) => Ok(Run::new(conn, Arc::clone(&self.peer), input)),
            Ok(Err(e)) => Err(unreachable(&e)),
            Err(_) => Err(self.timeout(RPCTypes::AppendEntries, option.soft_ttl())),
        }
    }
}

impl RaftNetworkV2<RaftTypes> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: Append,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<RaftTypes>> {
        let once = stream::iter([request]);
        let answer = timeout(option.soft_ttl(), async {
            let mut run = self.run(once, &option).await?;
            let answer = run.next().await.transpose()?;
            // Puts the connection back.
            drop(run.next().await);
            Ok(answer)
        });
        match answer.await {
            Ok(Ok(Some(appended))) => Ok(appended.into()),
            Ok(Ok(None)) => Err(unreachable(&io::ErrorKind::UnexpectedEof.into())),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(self.timeout(RPCTypes::AppendEntries, option.soft_ttl())),
        }
    }

    /// Pipelined over one connection.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<Appended>>>>
    where
        S: Stream<Item = Append> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let run = self.run(input, &option).await?;
            Ok(Box::pin(run) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<RaftTypes>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<RaftTypes>> {
        let body = rpc::put_vote_request(&request);
        let kinds = [Kind::Vote, Kind::Voted];
        let may_stand = self.may_stand(request.last_log_id);
        self.ask(kinds, body, rpc::vote_response, (RPCTypes::Vote, &option), may_stand).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<RaftTypes>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<RaftTypes>> {
        let body = rpc::put_vote_request(&request);
        let kinds = [Kind::PreVote, Kind::PreVoted];
        // Before anything is waited for: all questions of a round are put at once.
        let may_stand = self.may_stand(request.last_log_id);
        let question = self.returning.as_ref().map(Returning::ask);
        let asked = self.try_ask(kinds, body, rpc::vote_response, &option, may_stand).await;
        match (asked, question) {
            (None, _) => Err(self.timeout(RPCTypes::Vote, option.soft_ttl())),
            (Some(Ok(answer)), None) => Ok(answer),
            (Some(Ok(answer)), Some(question)) => {
                Ok(question.answered(self.peer.member().0, answer).await)
            }
            (Some(Err(error)), question) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    question.map(Question::refused).unwrap_or_default();
                }
                Err(unreachable(&error))
            }
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<RaftTypes, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<RaftTypes>, StreamingError<RaftTypes>> {
        self.is_for_snapshots = true;
        let sent = snapshot::send(&self.peer, &vote, snapshot, option.soft_ttl());
        tokio::select! {
            // In this order, so that a simulation replays.
            biased;
            closed = cancel => Err(closed.into()),
            sent = sent => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(e) => Err(unreachable(&e).into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<RaftTypes>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<RaftTypes>> {
        let body = rpc::put_transfer(&request);
        let kinds = [Kind::Transfer, Kind::Transferred];
        let action = (RPCTypes::TransferLeader, &option);
        self.ask(kinds, body, rpc::transferred, action, async { Ok(()) }).await
    }

    fn backoff(&self) -> Option<Backoff> {
        let pause = if self.is_for_snapshots { SNAPSHOT_BACKOFF } else { BACKOFF };
        Some(Backoff::new(std::iter::repeat(pause)))
    }
}
