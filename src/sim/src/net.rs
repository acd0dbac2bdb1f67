//! The network between nodes: streams in memory, with delays that a seed chooses.
//!
//! What a partition does is what it does to TCP: bytes on a way that is blocked stay where they are
//! and arrive when it is open again, unless the connection was given up by then.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use isthmus_cluster::peer::{BoxedStream, Dial, Listen};
use isthmus_storage::fs::Rng;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, Sleep};

/// Bytes that fit on one way of a connection, as they fit into the buffers of sockets.
const PIPE_BYTES: usize = 256 << 10;

type Accepted = (BoxedStream, String);

/// The network. Clones share it.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<State>>);

struct State {
    rng: Rng,
    /// Where new connections to a node go, for as long as it runs.
    listeners: BTreeMap<usize, mpsc::UnboundedSender<Accepted>>,
    /// From whom to whom nothing passes.
    blocked: Vec<(usize, usize)>,
    pipes: Vec<Weak<Pipe>>,
    /// Somebody may pass who could not before.
    opened: Arc<Notify>,
}

/// One way of a connection.
struct Pipe {
    from: usize,
    to: usize,
    flow: Mutex<Flow>,
}

#[derive(Default)]
struct Flow {
    /// Pieces on their way, with when they arrive.
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// The writer has ended it.
    ended: bool,
    /// Both ends are told that the connection is broken.
    broken: bool,
    /// Nothing passes any more, and nobody is told.
    silent: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Flow {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

/// What becomes of the connections of a node that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// The operating system resets them.
    Reset,
    /// Nothing is heard any more.
    Silence,
}

impl Net {
    pub(crate) fn new(seed: u64) -> Net {
        Net(Arc::new(Mutex::new(State {
            rng: Rng::new(seed),
            listeners: BTreeMap::new(),
            blocked: Vec::new(),
            pipes: Vec::new(),
            opened: Arc::new(Notify::new()),
        })))
    }

    /// Node `node` is there and accepts connections.
    pub(crate) fn listen(&self, node: usize) -> Accepting {
        let (sender, accepted) = mpsc::unbounded_channel();
        self.0.lock().listeners.insert(node, sender);
        Accepting(accepted)
    }

    /// How node `node` connects.
    pub(crate) fn dialling(&self, node: usize) -> Dialling {
        Dialling { net: self.clone(), from: node }
    }

    /// Node `node` is gone.
    pub(crate) fn end(&self, node: usize, farewell: Farewell) {
        let mut state = self.0.lock();
        state.listeners.remove(&node);
        state.each(|pipe| pipe.from == node || pipe.to == node, farewell);
    }

    /// Breaks some of the connections.
    pub(crate) fn lose_some(&self, percent: u64) {
        let mut state = self.0.lock();
        let mut rng = Rng::new(state.rng.next_u64());
        state.each(|_| rng.chance(percent), Farewell::Reset);
    }

    /// From now on nothing passes from one to the other of each pair.
    pub(crate) fn block(&self, pairs: Vec<(usize, usize)>) {
        let mut state = self.0.lock();
        state.blocked = pairs;
        state.opened.notify_waiters();
        for pipe in state.pipes.iter().filter_map(Weak::upgrade) {
            pipe.flow.lock().wake();
        }
    }

    fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.0.lock().blocked.contains(&(from, to))
    }

    fn delay(&self) -> Duration {
        let rng = &mut self.0.lock().rng;
        Duration::from_micros(match rng.below(20) {
            0..14 => 50 + rng.below(200),
            14..19 => 500 + rng.below(3000),
            _ => 10_000 + rng.below(30_000),
        })
    }

    fn connect(&self, from: usize, to: usize) -> io::Result<BoxedStream> {
        let mut state = self.0.lock();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = state.listeners.get(&to).ok_or_else(refused)?.clone();
        let pipe = |from, to| Arc::new(Pipe { from, to, flow: Mutex::default() });
        let (there, back) = (pipe(from, to), pipe(to, from));
        state.pipes.retain(|pipe| pipe.strong_count() > 0);
        state.pipes.extend([Arc::downgrade(&there), Arc::downgrade(&back)]);
        drop(state);
        let end = |out: &Arc<Pipe>, input: &Arc<Pipe>| -> BoxedStream {
            let sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
            Box::new(End {
                net: self.clone(),
                out: Arc::clone(out),
                input: Arc::clone(input),
                sleep,
            })
        };
        let name = format!("node {from}");
        listener.send((end(&back, &there), name)).map_err(|_| refused())?;
        Ok(end(&there, &back))
    }
}

impl State {
    fn each(&mut self, mut which: impl FnMut(&Pipe) -> bool, farewell: Farewell) {
        for pipe in self.pipes.iter().filter_map(Weak::upgrade) {
            if which(&pipe) {
                let mut flow = pipe.flow.lock();
                match farewell {
                    Farewell::Reset => flow.broken = true,
                    Farewell::Silence => flow.silent = true,
                }
                flow.wake();
            }
        }
    }
}

/// Connects as a node.
#[derive(Clone)]
pub(crate) struct Dialling {
    net: Net,
    from: usize,
}

/// The address of a node.
pub(crate) fn address(node: usize) -> String {
    format!("node-{node}:5675")
}

impl Dial for Dialling {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxedStream>> {
        Box::pin(async move {
            let number = address.strip_prefix("node-").and_then(|rest| rest.split(':').next());
            let to = number.and_then(|number| number.parse().ok());
            let to: usize = to.ok_or_else(|| io::Error::other(format!("no node: {address}")))?;
            tokio::time::sleep(self.net.delay() + self.net.delay()).await;
            loop {
                let opened = Arc::clone(&self.net.0.lock().opened);
                let opened = opened.notified();
                let ways = [(self.from, to), (to, self.from)];
                if !ways.iter().any(|(from, to)| self.net.is_blocked(*from, *to)) {
                    break;
                }
                opened.await;
            }
            self.net.connect(self.from, to)
        })
    }
}

/// Accepts as a node.
pub(crate) struct Accepting(mpsc::UnboundedReceiver<Accepted>);

impl Listen for Accepting {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            match self.0.recv().await {
                Some(accepted) => Ok(accepted),
                // The node has ended; whoever listens is about to be told.
                None => std::future::pending().await,
            }
        })
    }
}

/// One end of a connection.
struct End {
    net: Net,
    out: Arc<Pipe>,
    input: Arc<Pipe>,
    sleep: Pin<Box<Sleep>>,
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let is_blocked = this.net.is_blocked(this.input.from, this.input.to);
        let mut flow = this.input.flow.lock();
        if flow.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        flow.reader = Some(cx.waker().clone());
        if is_blocked || flow.silent {
            return Poll::Pending;
        }
        let Some((due, piece)) = flow.pieces.front_mut() else {
            return if flow.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        if *due > Instant::now() {
            this.sleep.as_mut().reset(*due);
            if this.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        let len = piece.len().min(buf.remaining());
        buf.put_slice(&piece[..len]);
        piece.drain(..len);
        if piece.is_empty() {
            flow.pieces.pop_front();
        }
        flow.bytes -= len;
        flow.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let delay = self.net.delay();
        let mut flow = self.out.flow.lock();
        if flow.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = PIPE_BYTES.saturating_sub(flow.bytes).min(buf.len());
        if room == 0 && !buf.is_empty() {
            flow.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let last = flow.pieces.back().map(|(due, _)| *due);
        let due = last.unwrap_or_else(Instant::now).max(Instant::now() + delay);
        flow.pieces.push_back((due, buf[..room].to_vec()));
        flow.bytes += room;
        flow.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(room))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut flow = self.out.flow.lock();
        flow.ended = true;
        flow.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut flow = self.out.flow.lock();
        flow.ended = true;
        flow.wake();
        drop(flow);
        let mut flow = self.input.flow.lock();
        flow.broken = true;
        flow.wake();
    }
}
