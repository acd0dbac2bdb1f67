//! The messages of consensus, from the receiving side.

use std::{collections::VecDeque, future::poll_fn, io, task::Poll, time::Duration};

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use openraft::{
    Raft, ServerState,
    async_runtime::watch::WatchReceiver,
    raft::{TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse},
    storage::RaftStateMachine,
    type_config::alias::SnapshotOf,
};
use tokio::{sync::mpsc, time::sleep};

use super::{
    conn::{Conn, unexpected},
    debts::Debts,
    frame::{Frame, Kind},
    handshake::Agreed,
    identity::MemberId,
    rpc::{self, Append, Appended},
    server::Shared,
};
use crate::raft::{RaftTypes, SnapshotData, Vote, convert::id_from_log};

/// Appends without an answer on one connection: their bytes, and how many. Beyond either nothing is
/// read. A sender of this release stays below by itself.
const WINDOW_BYTES: usize = 32 << 20;
const WINDOW_APPENDS: usize = 1024;
/// Other requests without an answer on one connection.
const WINDOW_REQUESTS: usize = 16;

/// Answers that the other end does not take, in bytes. Beyond it nothing is read.
const ANSWERS_MAX: usize = 1 << 20;

/// openraft, whatever its state machine is.
pub(super) trait Consensus: Send + Sync {
    fn append(&self, input: BoxStream<'static, Append>)
    -> BoxStream<'static, io::Result<Appended>>;
    fn vote(&self, request: VoteRequest<RaftTypes>, pre: bool) -> Reply<VoteResponse<RaftTypes>>;
    /// What this node votes for at the moment, granted by a quorum only if it leads.
    fn current_vote(&self) -> Vote;
    fn transfer(
        &self,
        request: TransferLeaderRequest<RaftTypes>,
    ) -> Reply<TransferLeaderResponse<RaftTypes>>;
    fn install(&self, vote: Vote, snapshot: SnapshotOf<RaftTypes, SnapshotData>) -> Reply<Vote>;
}

type Reply<T> = BoxFuture<'static, io::Result<T>>;

impl<SM> Consensus for Raft<RaftTypes, SM>
where
    SM: RaftStateMachine<RaftTypes, SnapshotData = SnapshotData>,
{
    fn append(
        &self,
        input: BoxStream<'static, Append>,
    ) -> BoxStream<'static, io::Result<Appended>> {
        self.stream_append(input).map(|answer| answer.map_err(io::Error::other)).boxed()
    }

    fn vote(&self, request: VoteRequest<RaftTypes>, pre: bool) -> Reply<VoteResponse<RaftTypes>> {
        let raft = self.clone();
        async move {
            if !pre {
                return Raft::vote(&raft, request).await.map_err(io::Error::other);
            }
            let mut answer = raft.pre_vote(request).await.map_err(io::Error::other)?;
            // Who led before it was started again still has the vote that made it the leader. Who
            // asks is to learn from it who leads now.
            answer.vote.committed &= raft.metrics().borrow_watched().state == ServerState::Leader;
            Ok(answer)
        }
        .boxed()
    }

    fn current_vote(&self) -> Vote {
        let metrics = self.metrics();
        let metrics = metrics.borrow_watched();
        let mut vote = metrics.vote;
        vote.committed &= metrics.state == ServerState::Leader;
        vote
    }

    fn transfer(
        &self,
        request: TransferLeaderRequest<RaftTypes>,
    ) -> Reply<TransferLeaderResponse<RaftTypes>> {
        let raft = self.clone();
        async move { raft.handle_transfer_leader(request).await.map_err(io::Error::other) }.boxed()
    }

    fn install(&self, vote: Vote, snapshot: SnapshotOf<RaftTypes, SnapshotData>) -> Reply<Vote> {
        let raft = self.clone();
        async move {
            let answer = raft.install_full_snapshot(vote, snapshot).await;
            answer.map(|answer| answer.vote).map_err(io::Error::other)
        }
        .boxed()
    }
}

/// A run of appends, from its first one to its end or the first refusal.
struct Run {
    input: mpsc::UnboundedSender<Append>,
    answers: BoxStream<'static, io::Result<Appended>>,
}

impl Run {
    fn begin(consensus: &dyn Consensus) -> Self {
        let (input, mut appends) = mpsc::unbounded_channel();
        let appends = stream::poll_fn(move |cx| appends.poll_recv(cx)).boxed();
        Self { input, answers: consensus.append(appends) }
    }
}

/// A connection on which consensus is served.
struct Session<'a> {
    consensus: &'a dyn Consensus,
    debts: &'a Debts,
    /// Who calls.
    peer: MemberId,
    run: Option<Run>,
    /// The appends without an answer: request id and size.
    appends: VecDeque<(u64, usize)>,
    bytes: usize,
    requests: FuturesUnordered<BoxFuture<'a, io::Result<(u64, Kind, Bytes)>>>,
}

/// Serves consensus until the other end closes the connection, or does not use it any more, or has
/// been replaced.
pub(super) async fn serve(
    mut conn: Conn,
    agreed: &Agreed,
    consensus: &dyn Consensus,
    shared: &Shared,
) -> io::Result<()> {
    let mut session = Session {
        consensus,
        debts: shared.local.directory.debts(),
        peer: agreed.peer.member,
        run: None,
        appends: VecDeque::new(),
        bytes: 0,
        requests: FuturesUnordered::new(),
    };
    loop {
        match session.turn(&mut conn, shared.local.options.idle).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(Ended::Consensus(request, error)) => {
                // A node that stops: the other end tries again later.
                conn.fail(request, &error.to_string()).await;
                return Err(error);
            }
            Err(Ended::Conn(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(());
            }
            Err(Ended::Conn(error)) => return Err(error),
        }
        if shared.local.directory.is_replaced(agreed.peer.member) {
            let reason = format!("member {} has been replaced", agreed.peer.member);
            conn.fail(0, &reason).await;
            return Err(io::Error::other(reason));
        }
    }
}

enum Ended {
    /// The other end, or the way there, failed.
    Conn(io::Error),
    /// openraft failed, at this request.
    Consensus(u64, io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Conn(error)
    }
}

impl Session<'_> {
    /// Waits for one thing to happen and does what follows. False if nothing happened for `idle`.
    async fn turn(&mut self, conn: &mut Conn, idle: Duration) -> Result<bool, Ended> {
        let reads = self.bytes < WINDOW_BYTES
            && self.appends.len() < WINDOW_APPENDS
            && self.requests.len() < WINDOW_REQUESTS
            && conn.out.len() < ANSWERS_MAX;
        let pending = !self.appends.is_empty() || !self.requests.is_empty();
        let answers = async {
            match &mut self.run {
                Some(run) if !self.appends.is_empty() => run.answers.next().await,
                _ => std::future::pending().await,
            }
        };
        let frames = poll_fn(|cx| {
            if reads {
                return conn.poll_frame(cx);
            }
            match conn.poll_flush(cx) {
                Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            }
        });
        tokio::select! {
            biased;
            answer = answers => self.answer(conn, answer)?,
            Some(done) = self.requests.next() => {
                let (request, kind, body) = done.map_err(|e| Ended::Consensus(0, e))?;
                conn.out.frame(kind, request, body);
            }
            frame = frames => self.frame(frame?)?,
            () = sleep(idle), if !pending => return Ok(false),
        }
        Ok(true)
    }

    /// Sends an answer of openraft's.
    fn answer(
        &mut self,
        conn: &mut Conn,
        answer: Option<io::Result<Appended>>,
    ) -> Result<(), Ended> {
        let Some((request, bytes)) = self.appends.pop_front() else { return Ok(()) };
        self.bytes -= bytes;
        let answer = answer.unwrap_or_else(|| Err(io::Error::other("consensus has stopped")));
        let appended = answer.map_err(|error| Ended::Consensus(request, error))?;
        if let Ok(matching) = &appended {
            self.debts.acknowledged_to(self.peer, matching.as_ref());
        }
        conn.out.frame(Kind::Appended, request, rpc::put_appended(&appended));
        if appended.is_err() {
            // Nothing behind it counts, whether it is here already or still on its way.
            self.run = None;
            self.appends.clear();
            self.bytes = 0;
        }
        Ok(())
    }

    fn frame(&mut self, frame: Frame) -> io::Result<()> {
        let Frame { kind, request, body } = frame;
        match kind {
            Kind::Append => {
                let bytes = body.len();
                let (append, begins) = rpc::append(body).map_err(io::Error::from)?;
                if begins {
                    if !self.appends.is_empty() {
                        let text = "a run of appends begins before the one before it has ended";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                    self.run = Some(Run::begin(self.consensus));
                }
                if let Some(run) = &self.run {
                    self.appends.push_back((request, bytes));
                    self.bytes += bytes;
                    // If openraft does not take it any more, the answer says why.
                    drop(run.input.send(append));
                }
            }
            Kind::Vote | Kind::PreVote => {
                let pre = kind == Kind::PreVote;
                let vote = rpc::vote_request(body).map_err(io::Error::from)?;
                let answer = vote_of(self.consensus, self.debts, vote, pre);
                let kind = if pre { Kind::PreVoted } else { Kind::Voted };
                let done =
                    async move { Ok((request, kind, rpc::put_vote_response(&answer.await?))) };
                self.requests.push(done.boxed());
            }
            Kind::Transfer => {
                let transfer = rpc::transfer(body).map_err(io::Error::from)?;
                let answer = self.consensus.transfer(transfer);
                let done = async move {
                    Ok((request, Kind::Transferred, rpc::put_transferred(&answer.await?)))
                };
                self.requests.push(done.boxed());
            }
            _ => return Err(unexpected(&Frame { kind, request, body })),
        }
        Ok(())
    }
}

/// Asks openraft for its vote, unless this node would elect somebody with less than it owes.
async fn vote_of(
    consensus: &dyn Consensus,
    debts: &Debts,
    request: VoteRequest<RaftTypes>,
    pre: bool,
) -> io::Result<VoteResponse<RaftTypes>> {
    debts.known().await;
    if debts.allows(request.last_log_id.as_ref()) {
        return consensus.vote(request, pre).await;
    }
    // Whoever has less tries again later than others.
    Ok(VoteResponse::new(consensus.current_vote(), id_from_log(debts.owed()), false))
}
