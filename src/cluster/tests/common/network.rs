//! A transport within the process: calls go straight into the other node's openraft, and a node
//! can be unplugged at any moment.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{Stream, StreamExt};
use isthmus_cluster::raft::{RaftTypes, Vote};
use openraft::{
    AnyError, BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    base::{BoxFuture, BoxStream},
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    type_config::alias::SnapshotOf,
};
use parking_lot::Mutex;

use super::fold::{Fold, Folded};

/// openraft with the tests' state machine.
pub(crate) type Raft = openraft::Raft<RaftTypes, Fold>;
type RpcResult<T> = Result<T, RPCError<RaftTypes>>;

/// A node's cable. Nothing passes it in either direction once it is cut.
#[derive(Debug, Clone)]
struct Cable(Arc<AtomicBool>);

impl Cable {
    fn plugged() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    fn is_plugged(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Connects the nodes of one process.
#[derive(Clone, Default)]
pub(crate) struct Switch {
    nodes: Arc<Mutex<BTreeMap<u64, (Raft, Cable)>>>,
}

impl Switch {
    /// Plugs a node in.
    pub(crate) fn plug(&self, id: u64, raft: Raft) {
        self.nodes.lock().insert(id, (raft, Cable::plugged()));
    }

    /// Unplugs a node: what it has answered and the other side has not seen yet is lost.
    pub(crate) fn unplug(&self, id: u64) {
        if let Some((_, cable)) = self.nodes.lock().remove(&id) {
            cable.0.store(false, Ordering::SeqCst);
        }
    }

    /// The factory of the connections that node `from` makes.
    pub(crate) fn port(&self, from: u64) -> Port {
        Port { switch: self.clone(), from }
    }
}

/// Where a node is plugged in.
pub(crate) struct Port {
    switch: Switch,
    from: u64,
}

impl RaftNetworkFactory<RaftTypes> for Port {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Link {
        Link { switch: self.switch.clone(), from: self.from, target }
    }
}

/// A connection from one node to another.
pub(crate) struct Link {
    switch: Switch,
    from: u64,
    target: u64,
}

/// Both ends of a connection in use.
#[derive(Clone)]
struct Open {
    target: Raft,
    cables: [Cable; 2],
}

impl Open {
    /// Lets an answer pass if both ends are still plugged in.
    fn pass<T, E: std::error::Error + 'static>(&self, answer: Result<T, E>) -> RpcResult<T> {
        if !self.cables.iter().all(Cable::is_plugged) {
            return Err(unreachable("the cable was pulled"));
        }
        // The other node has stopped: here nothing else can fail.
        answer.map_err(|e| unreachable(&e.to_string()))
    }
}

fn unreachable(reason: &str) -> RPCError<RaftTypes> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(reason)))
}

impl Link {
    fn open(&self) -> RpcResult<Open> {
        let nodes = self.switch.nodes.lock();
        match (nodes.get(&self.from), nodes.get(&self.target)) {
            (Some((_, near)), Some((raft, far))) => {
                Ok(Open { target: raft.clone(), cables: [near.clone(), far.clone()] })
            }
            _ => Err(unreachable("a node is not plugged in")),
        }
    }
}

impl RaftNetworkV2<RaftTypes> for Link {
    type SnapshotData = Folded;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<RaftTypes>,
        _option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<RaftTypes>> {
        let open = self.open()?;
        open.pass(open.target.append_entries(rpc).await)
    }

    /// Pipelined: openraft takes the next request while earlier ones are being written.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<RaftTypes>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<RaftTypes>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let open = self.open()?;
            let requests = open.clone();
            let input = input.take_while(move |_| {
                std::future::ready(requests.cables.iter().all(Cable::is_plugged))
            });
            let answers = open.target.stream_append(input);
            let answers: BoxStream<'s, _> = Box::pin(answers.map(move |answer| open.pass(answer)));
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftTypes>,
        _option: RPCOption,
    ) -> RpcResult<VoteResponse<RaftTypes>> {
        let open = self.open()?;
        open.pass(open.target.vote(rpc).await)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<RaftTypes>,
        _option: RPCOption,
    ) -> RpcResult<VoteResponse<RaftTypes>> {
        let open = self.open()?;
        open.pass(open.target.pre_vote(rpc).await)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<RaftTypes, Folded>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<RaftTypes>, StreamingError<RaftTypes>> {
        let gone = |e: &dyn std::error::Error| {
            StreamingError::Unreachable(Unreachable::new(&AnyError::error(e.to_string())))
        };
        let open = self.open().map_err(|e| gone(&e))?;
        let answer = open.target.install_full_snapshot(vote, snapshot).await;
        open.pass(answer).map_err(|e| gone(&e))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<RaftTypes>,
        _option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<RaftTypes>> {
        let open = self.open()?;
        open.pass(open.target.handle_transfer_leader(req).await)
    }
}
