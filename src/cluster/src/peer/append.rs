//! The pipeline of appends, from the leader's side.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt};
use openraft::{entry::RaftEntry, errors::RPCError, errors::Unreachable};
use tokio::time::{Instant, Sleep};

use super::{
    conn::{Conn, answers, expect, unexpected},
    dial::late,
    frame::{Frame, Kind},
    pool::Peer,
    rpc::{self, Append, Appended},
};
use crate::raft::{RaftLogId, RaftTypes};

/// No append is taken from openraft while this much waits to be written: what is taken is copied
/// or pinned, and openraft can gather more entries into one append the later it is asked.
const UNSENT_MAX: usize = 256 << 10;

struct InFlight {
    request: u64,
    bytes: usize,
    last: Option<RaftLogId>,
}

/// A run of appends: takes requests from `input` while the window is open, and yields the answers.
/// It ends after the last answer, or after an error. Dropped in between it closes its connection,
/// because answers to what was sent may still come.
pub(super) struct Run<S> {
    /// Taken when the run is over.
    conn: Option<Conn>,
    peer: Arc<Peer>,
    input: Option<S>,
    in_flight: VecDeque<InFlight>,
    /// What is in flight, in bytes.
    bytes: usize,
    begins: bool,
    /// When the connection counts as dead, and how much it had moved when that was set.
    deadline: Pin<Box<Sleep>>,
    moved: u64,
}

impl<S: Stream<Item = Append> + Unpin> Run<S> {
    pub(super) fn new(conn: Conn, peer: Arc<Peer>, input: S) -> Self {
        Self {
            moved: conn.moved,
            conn: Some(conn),
            deadline: Box::pin(tokio::time::sleep(peer.options().stall)),
            peer,
            input: Some(input),
            in_flight: VecDeque::new(),
            bytes: 0,
            begins: true,
        }
    }

    /// Takes appends until the window is closed or openraft has none. Whether there may be more.
    fn take(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> io::Result<bool> {
        loop {
            let options = self.peer.options();
            let open = self.in_flight.len() < options.window_requests
                && (self.bytes < options.window_bytes || self.in_flight.is_empty());
            let Some(input) = &mut self.input else { return Ok(false) };
            if !open || conn.out.len() >= UNSENT_MAX {
                return Ok(open);
            }
            let append = match input.poll_next_unpin(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(None) => {
                    self.input = None;
                    return Ok(false);
                }
                Poll::Ready(Some(append)) => append,
            };
            conn.request += 1;
            let put = rpc::put_append(&mut conn.out, conn.request, &append, self.begins);
            let bytes = put.map_err(|bytes| {
                io::Error::other(format!("an append of {bytes} bytes is longer than allowed"))
            })?;
            if self.in_flight.is_empty() {
                // The clock runs from the first request that waits.
                self.deadline.as_mut().reset(Instant::now() + options.stall);
            }
            self.begins = false;
            self.bytes += bytes;
            let last = append.entries.last().map(RaftEntry::log_id).or(append.prev_log_id);
            self.in_flight.push_back(InFlight { request: conn.request, bytes, last });
        }
    }

    fn answer(&mut self, frame: Frame) -> io::Result<Appended> {
        let Some(expected) = self.in_flight.pop_front() else { return Err(unexpected(&frame)) };
        let frame = answers(frame, expected.request)?;
        self.bytes -= expected.bytes;
        let appended = rpc::appended(expect(frame, Kind::Appended)?).map_err(io::Error::from)?;
        if let Ok(matching) = &appended {
            if *matching > expected.last {
                let text = "the peer says it has more than it was sent".to_owned();
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            let debts = self.peer.dialer().local().directory.debts();
            debts.acknowledged_by(self.peer.member(), matching.as_ref());
        }
        Ok(appended)
    }

    /// The next answer; `None` after the last one.
    fn poll(
        &mut self,
        conn: &mut Conn,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Appended>>> {
        loop {
            let more = self.take(conn, cx)?;
            if let Poll::Ready(Err(e)) = conn.poll_flush(cx) {
                return Poll::Ready(Err(e));
            }
            if more && conn.out.len() < UNSENT_MAX {
                continue;
            }
            if self.input.is_none() && self.in_flight.is_empty() {
                return Poll::Ready(Ok(None));
            }
            if let Poll::Ready(frame) = conn.poll_frame(cx) {
                return Poll::Ready(frame.and_then(|frame| self.answer(frame)).map(Some));
            }
            if self.in_flight.is_empty() {
                return Poll::Pending;
            }
            if self.moved != conn.moved {
                self.moved = conn.moved;
                self.deadline.as_mut().reset(Instant::now() + self.peer.options().stall);
            }
            if self.deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(late("the answer to an append")));
            }
            return Poll::Pending;
        }
    }
}

/// Who drops a run that waits for answers has lost patience with the connection, as openraft does
/// with heartbeats. Those that are put aside may be as dead, and must not be tried one by one.
impl<S> Drop for Run<S> {
    fn drop(&mut self) {
        if self.conn.is_some() && !self.in_flight.is_empty() {
            self.peer.failed();
        }
    }
}

impl<S: Stream<Item = Append> + Unpin> Stream for Run<S> {
    type Item = Result<Appended, RPCError<RaftTypes>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(mut conn) = this.conn.take() else { return Poll::Ready(None) };
        match this.poll(&mut conn, cx) {
            Poll::Pending => {
                this.conn = Some(conn);
                Poll::Pending
            }
            Poll::Ready(Ok(None)) => {
                this.peer.put(conn);
                Poll::Ready(None)
            }
            Poll::Ready(Ok(Some(Ok(matching)))) => {
                this.conn = Some(conn);
                Poll::Ready(Some(Ok(Ok(matching))))
            }
            Poll::Ready(Ok(Some(Err(refused)))) => {
                // What was or will be sent behind it gets no answer: the next run may begin.
                this.input = None;
                this.peer.put(conn);
                Poll::Ready(Some(Ok(Err(refused))))
            }
            Poll::Ready(Err(e)) => {
                this.input = None;
                this.peer.failed();
                Poll::Ready(Some(Err(unreachable(&e))))
            }
        }
    }
}

/// openraft waits a moment before it tries again.
pub(super) fn unreachable(error: &io::Error) -> RPCError<RaftTypes> {
    RPCError::Unreachable(Unreachable::from_string(error))
}
