//! A connection that carries frames.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout},
};
use tokio_util::io::poll_read_buf;

use super::{
    dial::BoxedStream,
    frame::{Frame, Inbox, Kind, Outbox, REASON_MAX},
    wire::cut,
};

/// Pieces that one write gathers.
const SLICES: usize = 64;

/// How long the other end may take to hear why the connection ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// A connection behind its handshake. Nothing of it blocks: what is to be sent waits in `out` until
/// [`Conn::poll_flush`], which every other poll does too.
pub(super) struct Conn {
    stream: BoxedStream,
    inbox: Inbox,
    /// What is to be sent.
    pub(super) out: Outbox,
    /// Whether the stream may hold back something that was written to it, as TLS does.
    unflushed: bool,
    /// Bytes that were read or written so far. If it does not change the connection stands still.
    pub(super) moved: u64,
    /// The id of the last request.
    pub(super) request: u64,
    /// When it was last put aside.
    pub(super) since: Instant,
}

impl Conn {
    pub(super) fn new(stream: BoxedStream) -> Self {
        Self {
            stream,
            inbox: Inbox::default(),
            out: Outbox::default(),
            unflushed: false,
            moved: 0,
            request: 0,
            since: Instant::now(),
        }
    }

    /// Writes what is to be sent.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out.len() > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.out.slices(&mut slices);
            let stream = Pin::new(&mut self.stream);
            let sent = ready!(stream.poll_write_vectored(cx, &slices[..filled]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(sent);
            self.moved += sent as u64;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads a frame, and writes meanwhile. The end of the stream is an error.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Frame>> {
        if let Poll::Ready(Err(e)) = self.poll_flush(cx) {
            return Poll::Ready(Err(e));
        }
        loop {
            if let Some(frame) = self.inbox.next()? {
                return Poll::Ready(Ok(frame));
            }
            let space = self.inbox.space();
            match ready!(poll_read_buf(Pin::new(&mut self.stream), cx, space))? {
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                read => self.moved += read as u64,
            }
        }
    }

    /// The next frame. Losing the future loses nothing.
    pub(super) async fn frame(&mut self) -> io::Result<Frame> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Writes what is to be sent. Losing the future loses nothing.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends a request that is one piece and waits for the answer, which must be of kind `answer`.
    pub(super) async fn ask(&mut self, kind: Kind, body: Bytes, answer: Kind) -> io::Result<Bytes> {
        self.request += 1;
        self.out.frame(kind, self.request, body);
        let frame = self.frame().await?;
        expect(answers(frame, self.request)?, answer)
    }

    /// Tells the other end why this one closes the connection. It may not listen any more.
    pub(super) async fn fail(mut self, request: u64, reason: &str) {
        let reason = Bytes::copy_from_slice(cut(reason, REASON_MAX).as_bytes());
        self.out.frame(Kind::Failed, request, reason);
        let told = async {
            self.flush().await?;
            self.stream.shutdown().await
        };
        drop(timeout(FAREWELL, told).await);
    }

    /// The stream behind the frames, and what was read of it already.
    pub(super) fn into_parts(self) -> (BoxedStream, Bytes) {
        (self.stream, self.inbox.into_rest())
    }

    /// Whether nothing has come since the last answer: the end of the stream, above all.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.poll_frame(&mut cx).is_pending()
    }
}

/// The body of a frame that must be of kind `kind`; what the peer says if it failed.
pub(super) fn expect(frame: Frame, kind: Kind) -> io::Result<Bytes> {
    if frame.kind == kind {
        return Ok(frame.body);
    }
    if frame.kind == Kind::Failed {
        let reason = String::from_utf8_lossy(&frame.body);
        return Err(io::Error::other(format!("the peer says: {reason}")));
    }
    Err(unexpected(&frame))
}

/// A frame that must answer `request`, or say why the connection ends.
pub(super) fn answers(frame: Frame, request: u64) -> io::Result<Frame> {
    if frame.request != request && frame.kind != Kind::Failed {
        return Err(unexpected(&frame));
    }
    Ok(frame)
}

pub(super) fn unexpected(frame: &Frame) -> io::Error {
    let text = format!("the peer sent {:?} for request {} out of turn", frame.kind, frame.request);
    io::Error::new(io::ErrorKind::InvalidData, text)
}
