//! Snapshots on their way to another node.

use std::{future::poll_fn, io, pin::pin, task::Poll, time::Duration};

use bytes::Bytes;
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use tokio::{
    sync::mpsc,
    time::{interval, timeout},
};

use super::{
    conn::{Conn, expect, unexpected},
    dial::late,
    frame::{DATA_MAX, Frame, Kind, REASON_MAX},
    identity::MemberId,
    pool::Peer,
    preface::Purpose,
    rpc,
    serve_raft::Consensus,
    server::Handler,
    wire::cut,
};
use crate::raft::{Chunk, Chunks, Install, RaftTypes, SnapshotData, Vote};

/// What a snapshot says of itself: the last entry in it, and the last membership.
pub type SnapshotMeta = SnapshotMetaOf<RaftTypes>;

/// Pieces that the receiver may be behind with.
const CHUNKS_AHEAD: usize = 4;
/// How often a receiver that is busy says that it is.
const AT_WORK: Duration = Duration::from_secs(1);
/// How long a receiver may say nothing and take nothing: it may have been cut from the power without a
/// word, and be back, and is sent nothing else as long as this one is on its way.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Sends a snapshot over a connection of its own, no faster than the other end takes it. Returns
/// the vote that the other end answers with. `patience` is how long the next piece may take.
pub(super) async fn send(
    peer: &Peer,
    vote: &Vote,
    snapshot: SnapshotOf<RaftTypes, SnapshotData>,
    patience: Duration,
) -> io::Result<Vote> {
    let SnapshotData::Outgoing(chunks) = snapshot.snapshot else {
        return Err(io::Error::other("the snapshot is one that was received"));
    };
    let (dialer, member) = (peer.dialer(), peer.member());
    let (mut conn, _) = dialer.connect(peer.address(), Purpose::Snapshot, member).await?;
    conn.out.frame(Kind::SnapshotBegin, 1, rpc::put_snapshot(vote, &snapshot.meta));
    let sent = send_chunks(&mut conn, chunks, patience).await;
    let patience = patience.min(SILENCE_MAX);
    if let Err(Ended::Source(error)) = &sent {
        let reason = error.to_string();
        let reason = Bytes::copy_from_slice(cut(&reason, REASON_MAX).as_bytes());
        conn.out.frame(Kind::SnapshotAbort, 1, reason);
        // The receiver also notices the end of the connection.
        drop(timeout(patience, conn.flush()).await);
    }
    let frame = match sent {
        Ok(()) => next(&mut conn, patience).await?,
        Err(Ended::Early(frame)) => frame,
        Err(Ended::Source(error) | Ended::Conn(error)) => return Err(error),
    };
    rpc::vote(expect(frame, Kind::SnapshotInstalled)?).map_err(io::Error::from)
}

/// Why a snapshot was not sent to its end.
enum Ended {
    /// It could not be made.
    Source(io::Error),
    Conn(io::Error),
    /// The receiver answered before the end.
    Early(Frame),
}

async fn send_chunks(conn: &mut Conn, mut chunks: Chunks, patience: Duration) -> Result<(), Ended> {
    let lacks = || io::Error::other("the snapshot ended before its end");
    let silence = patience.min(SILENCE_MAX);
    loop {
        let chunk = timeout(patience, chunks.recv()).await;
        let chunk = chunk.map_err(|_| Ended::Source(late("the next piece of the snapshot")))?;
        match chunk.unwrap_or_else(|| Err(lacks())).map_err(Ended::Source)? {
            Chunk::Data(mut data) => {
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(DATA_MAX));
                    conn.out.frame(Kind::SnapshotData, 1, piece);
                    flush(conn, silence).await?;
                }
            }
            Chunk::End => {
                conn.out.frame(Kind::SnapshotEnd, 1, Bytes::new());
                return flush(conn, silence).await;
            }
        }
    }
}

/// Writes what is to be sent, or returns why that is in vain.
async fn flush(conn: &mut Conn, patience: Duration) -> Result<(), Ended> {
    loop {
        let moved = conn.moved;
        let flushed = timeout(
            patience,
            poll_fn(|cx| {
                // A receiver that fails says so while it is being sent to.
                match conn.poll_frame(cx) {
                    Poll::Ready(Ok(frame)) => return Poll::Ready(Err(Ok(frame))),
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(Err(e))),
                    Poll::Pending => {}
                }
                conn.poll_flush(cx).map(|flushed| flushed.map_err(Err))
            }),
        );
        match flushed.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Ok(frame))) if frame.kind == Kind::AtWork => {}
            Ok(Err(Ok(frame))) => return Err(Ended::Early(frame)),
            Ok(Err(Err(error))) => return Err(Ended::Conn(error)),
            Err(_) if conn.moved > moved => {}
            Err(_) => return Err(Ended::Conn(late("the next piece of a snapshot"))),
        }
    }
}

/// The next frame that says something.
async fn next(conn: &mut Conn, patience: Duration) -> io::Result<Frame> {
    loop {
        let frame = timeout(patience, conn.frame()).await;
        let frame = frame.unwrap_or_else(|_| Err(late("the answer to a snapshot")))?;
        if frame.kind != Kind::AtWork {
            return Ok(frame);
        }
    }
}

/// Receives a snapshot: `handler` stages it, then `consensus` decides whether it takes the place of
/// what the node has.
pub(super) async fn receive(
    mut conn: Conn,
    from: MemberId,
    handler: &dyn Handler,
    consensus: &dyn Consensus,
    idle: Duration,
) -> io::Result<()> {
    let begin = piece(&mut conn, idle).await?;
    let request = begin.request;
    let (vote, meta) =
        rpc::snapshot(expect(begin, Kind::SnapshotBegin)?).map_err(io::Error::from)?;
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    let staging = handler.stage_snapshot(meta.clone(), chunks);
    let staged = match stage(&mut conn, request, sender, staging, idle).await {
        Ok(install) => install,
        Err(error) => {
            let reason = format!("the snapshot could not be stored: {error}");
            conn.fail(request, &reason).await;
            return Err(io::Error::new(error.kind(), format!("from member {from}: {reason}")));
        }
    };
    let snapshot =
        SnapshotOf::<RaftTypes, SnapshotData> { meta, snapshot: SnapshotData::Staged(staged) };
    let installing = consensus.install(vote, snapshot);
    match busy(&mut conn, request, installing).await? {
        Ok(vote) => {
            conn.out.frame(Kind::SnapshotInstalled, request, rpc::put_vote(&vote));
            conn.flush().await
        }
        Err(error) => {
            conn.fail(request, &format!("the snapshot could not be installed: {error}")).await;
            Err(error)
        }
    }
}

/// Hands the pieces to who stages them, and waits until that is done.
async fn stage(
    conn: &mut Conn,
    request: u64,
    sender: mpsc::Sender<io::Result<Chunk>>,
    staging: impl Future<Output = io::Result<Install>>,
    idle: Duration,
) -> io::Result<Install> {
    tokio::pin!(staging);
    let handing = hand_over(conn, request, &sender, idle);
    let handed = tokio::select! {
        biased;
        handed = handing => handed,
        staged = &mut staging => {
            drop(staged?);
            return Err(io::Error::other("it was done before all of it had come"));
        }
    };
    if let Err(error) = handed {
        let copy = io::Error::new(error.kind(), error.to_string());
        // Who stages clears up, or has gone already.
        let told = async { drop(sender.send(Err(copy)).await) };
        let (_, ()) = tokio::join!(staging, told);
        return Err(error);
    }
    drop(sender);
    busy(conn, request, staging).await?
}

/// Reads pieces to the end. A full channel is a reason not to read: then the connection fills, and
/// the other end waits, and is told that this one is at work.
async fn hand_over(
    conn: &mut Conn,
    request: u64,
    sender: &mpsc::Sender<io::Result<Chunk>>,
    idle: Duration,
) -> io::Result<()> {
    loop {
        let frame = piece(conn, idle).await?;
        let chunk = match frame.kind {
            Kind::SnapshotData => Chunk::Data(frame.body),
            Kind::SnapshotEnd => Chunk::End,
            Kind::SnapshotAbort => {
                let reason = String::from_utf8_lossy(&frame.body);
                return Err(io::Error::other(format!("the sender gave up: {reason}")));
            }
            _ => return Err(unexpected(&frame)),
        };
        let end = chunk == Chunk::End;
        let mut sending = pin!(sender.send(Ok(chunk)));
        let sent = loop {
            match timeout(AT_WORK, &mut sending).await {
                Ok(sent) => break sent,
                Err(_) => {
                    conn.out.frame(Kind::AtWork, request, Bytes::new());
                    let flushed = timeout(idle, conn.flush()).await;
                    flushed.unwrap_or_else(|_| Err(late("the next piece of the snapshot")))?;
                }
            }
        };
        if sent.is_err() {
            // The result of who stages says why.
            return std::future::pending().await;
        }
        if end {
            return Ok(());
        }
    }
}

/// The next frame, unless none comes for `idle`.
async fn piece(conn: &mut Conn, idle: Duration) -> io::Result<Frame> {
    let frame = timeout(idle, conn.frame()).await;
    frame.unwrap_or_else(|_| Err(late("the next piece of the snapshot")))
}

/// Waits for `work` and tells the other end from time to time that it goes on. An error if the
/// other end does not wait for it.
async fn busy<T>(conn: &mut Conn, request: u64, work: impl Future<Output = T>) -> io::Result<T> {
    tokio::pin!(work);
    let mut ticks = interval(AT_WORK);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            frame = conn.frame() => return Err(unexpected(&frame?)),
            _ = ticks.tick() => if conn.out.len() == 0 {
                conn.out.frame(Kind::AtWork, request, Bytes::new());
            },
        }
    }
}
