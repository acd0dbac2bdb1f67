//! The open connections to one peer, for consensus.

use std::{collections::VecDeque, fmt, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::{
    conn::Conn, dial::Dialer, handshake::Agreed, identity::MemberId, options::PeerOptions,
    preface::Purpose,
};

/// Connections that are kept though nobody uses them: for a run, a heartbeat, and votes.
const IDLE_MAX: usize = 4;
/// Attempts to connect at once.
const DIALS_MAX: usize = 2;
/// The pause after the first failure; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// A peer as openraft knows it: a member, and where its membership says it is.
pub(super) struct Peer {
    dialer: Dialer,
    member: MemberId,
    address: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Conn>,
    waiting: VecDeque<oneshot::Sender<io::Result<Conn>>>,
    dials: usize,
    /// Failures since the last connection.
    failures: u32,
    not_before: Option<Instant>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("member", &self.member)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Peer {
    pub(super) fn new(dialer: Dialer, member: MemberId, address: String) -> Arc<Self> {
        Arc::new(Self { dialer, member, address, state: Mutex::default() })
    }

    pub(super) fn options(&self) -> &PeerOptions {
        &self.dialer.local().options
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    pub(super) fn member(&self) -> MemberId {
        self.member
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// A connection that nobody else uses. It is dialled in the background: who gives up waiting,
    /// as heartbeats do sooner than a handshake may take, finds it the next time.
    pub(super) async fn take(self: &Arc<Self>) -> io::Result<Conn> {
        let receiver = {
            let mut state = self.state.lock();
            while let Some(mut conn) = state.idle.pop() {
                let fresh = conn.since.elapsed() < self.options().idle / 2;
                if fresh && conn.is_quiet() {
                    return Ok(conn);
                }
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.retain(|waiting| !waiting.is_closed());
            state.waiting.push_back(sender);
            if state.dials < DIALS_MAX && state.dials < state.waiting.len() {
                state.dials += 1;
                tokio::spawn(Arc::clone(self).dial(state.not_before));
            }
            receiver
        };
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the runtime stops")))
    }

    /// Dials until nobody waits whom no other attempt is for.
    async fn dial(self: Arc<Self>, mut not_before: Option<Instant>) {
        loop {
            if let Some(not_before) = not_before.take() {
                sleep_until(not_before).await;
            }
            let dialled = self.dialer.connect(&self.address, Purpose::Raft, self.member).await;
            if !self.dialled(dialled) {
                return;
            }
        }
    }

    /// Hands out what an attempt has brought. Whether another one is needed.
    fn dialled(&self, dialled: io::Result<(Conn, Agreed)>) -> bool {
        let mut state = self.state.lock();
        match dialled {
            Ok((conn, _)) => {
                state.failures = 0;
                state.not_before = None;
                self.give(&mut state, conn);
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.dialer.local().directory.debts().is_gone(self.member);
                }
                let pause = PAUSE_MIN * 2_u32.pow(state.failures.min(10));
                state.failures += 1;
                state.not_before = Some(Instant::now() + pause.min(PAUSE_MAX));
                for waiting in state.waiting.drain(..) {
                    let error = io::Error::new(error.kind(), error.to_string());
                    // It may have given up.
                    drop(waiting.send(Err(error)));
                }
            }
        }
        let again = state.dials <= state.waiting.len();
        if !again {
            state.dials -= 1;
        }
        again
    }

    /// Gives a connection to whoever waits first, or puts it aside.
    fn give(&self, state: &mut State, mut conn: Conn) {
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(Ok(conn)) {
                Ok(()) => return,
                Err(Ok(back)) => conn = back,
                Err(Err(_)) => return,
            }
        }
        if state.idle.len() < IDLE_MAX {
            conn.since = Instant::now();
            state.idle.push(conn);
        }
    }

    /// Takes back a connection on which nothing is under way.
    pub(super) fn put(&self, conn: Conn) {
        self.give(&mut self.state.lock(), conn);
    }

    /// A connection failed: those that are put aside most likely lead nowhere either.
    pub(super) fn failed(&self) {
        self.state.lock().idle.clear();
    }
}
