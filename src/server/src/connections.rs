//! The connections of a kind that are open: how many there may be, and how they end.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How long tasks get to unwind after they were told to stop at once.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The open connections. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    shared: Arc<Shared>,
}

/// An idle connection has a place in each of the tables, some 40 bytes, and nothing else here: there
/// may be hundreds of thousands.
#[derive(Debug)]
struct Shared {
    connections_max: usize,
    open: Mutex<Slab<Open>>,
    /// Told when the last of them has ended.
    all_closed: Notify,
    /// Connections should close in their protocol's way.
    is_draining: AtomicBool,
    /// Whom to wake then.
    waiting: Mutex<Slab<Waker>>,
    opened: AtomicU64,
    refused: AtomicU64,
}

/// A connection that is open.
#[derive(Debug)]
struct Open {
    /// Never given twice, unlike its place in the table.
    serial: u64,
    /// What serves it; `None` while that is being spawned.
    task: Option<AbortHandle>,
}

/// Tells one connection that it should close.
#[derive(Clone, Debug)]
pub(crate) struct Closing(Arc<Shared>);

impl Closing {
    /// Completes when the connection should close in its protocol's way.
    pub(crate) fn requested(self) -> Requested {
        Requested { shared: self.0, waits: None }
    }
}

/// See [`Closing::requested`].
#[derive(Debug)]
pub(crate) struct Requested {
    shared: Arc<Shared>,
    /// Its place among those who wait, and whom it has left there.
    waits: Option<(u32, Waker)>,
}

impl Future for Requested {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let is_draining = || this.shared.is_draining.load(Ordering::Acquire);
        let is_known = this.waits.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker()));
        if is_known || is_draining() {
            return if is_draining() { Poll::Ready(()) } else { Poll::Pending };
        }
        let mut waiting = this.shared.waiting.lock();
        let place = match &this.waits {
            Some((place, _)) => {
                waiting[*place as usize] = cx.waker().clone();
                *place
            }
            None => waiting.insert(cx.waker().clone()) as u32,
        };
        this.waits = Some((place, cx.waker().clone()));
        // Asked for in between: whoever asks wakes those that it finds here afterwards.
        if is_draining() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Requested {
    fn drop(&mut self) {
        if let Some((place, _)) = self.waits.take() {
            let waker = self.shared.waiting.lock().remove(place as usize);
            // Outside of the lock: it may be the last reference to a task.
            drop(waker);
        }
    }
}

/// What serves a connection after what has prepared it (handshakes, finding out what is spoken), if
/// anything does. What has prepared it is gone by then: a connection that lasts does not hold the
/// space of its beginnings, some KiB.
pub(crate) struct Next(Option<Serving>);

/// Serves a connection for a while; what comes then.
type Serving = Pin<Box<dyn Future<Output = Next> + Send>>;

impl Next {
    /// The connection is over.
    pub(crate) const NOTHING: Next = Next(None);

    /// Goes on with `serving`.
    pub(crate) fn new(serving: impl Future<Output: Into<Next>> + Send + 'static) -> Self {
        Self(Some(Box::pin(serving.map(Into::into))))
    }

    /// Serves the connection until it ends.
    pub(crate) async fn run(mut self) {
        while let Some(serving) = self.0 {
            self = serving.await;
        }
    }
}

impl From<()> for Next {
    fn from((): ()) -> Self {
        Self::NOTHING
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("is_something", &self.0.is_some()).finish()
    }
}

/// The task of a connection. Of 24 bytes: with tokio's own part that is 128, which such tasks are
/// a multiple of, and idle ones are many.
struct Task {
    serving: Serving,
    /// Given back last, also when serving panics: draining waits for it.
    _place: Box<Place>,
}

/// A connection's place among those that are open.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    number: usize,
}

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            match this.serving.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                // What has served so far is dropped before the rest runs.
                Poll::Ready(Next(Some(next))) => this.serving = next,
                Poll::Ready(Next(None)) => return Poll::Ready(()),
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.shared.open.lock();
        let task = open.remove(self.number);
        let is_last = open.is_empty();
        drop(open);
        drop(task);
        if is_last {
            self.shared.all_closed.notify_waiters();
        }
    }
}

impl Connections {
    /// None, of which at most `connections_max` may be open at once.
    pub(crate) fn new(connections_max: u32) -> Self {
        let shared = Shared {
            connections_max: connections_max as usize,
            open: Mutex::default(),
            all_closed: Notify::new(),
            is_draining: AtomicBool::new(false),
            waiting: Mutex::default(),
            opened: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Spawns what serves a connection, and then what comes [`Next`], unless too many are open: then `serve` is dropped
    /// uncalled, which closes the socket it holds, and the answer is false.
    pub(crate) fn spawn<F>(&self, serve: impl FnOnce(Closing) -> F) -> bool
    where
        F: Future<Output: Into<Next>> + Send + 'static,
    {
        let shared = &self.shared;
        let mut open = shared.open.lock();
        if open.len() >= shared.connections_max {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let serial = shared.opened.fetch_add(1, Ordering::Relaxed);
        let number = open.insert(Open { serial, task: None });
        drop(open);
        let place = Box::new(Place { shared: Arc::clone(shared), number });
        let serving = Box::pin(serve(Closing(Arc::clone(shared))).map(Into::into));
        let task = tokio::spawn(Task { serving, _place: place }).abort_handle();
        // It may have ended already, and its place may be another's by now. Not spawned under the
        // lock: a runtime that is being shut down drops the task, and with it its place, at once.
        if let Some(open) = shared.open.lock().get_mut(number).filter(|o| o.serial == serial) {
            open.task = Some(task);
        }
        true
    }

    /// Asks every connection to close, waits up to `timeout`, drops those that are left and
    /// returns how many those were. Nothing may be spawned any more.
    pub(crate) async fn drain(&self, timeout: Duration) -> usize {
        self.shared.is_draining.store(true, Ordering::Release);
        let waiting: Vec<Waker> =
            self.shared.waiting.lock().iter().map(|(_, waker)| waker.clone()).collect();
        waiting.into_iter().for_each(Waker::wake);
        if tokio::time::timeout(timeout, self.all_closed()).await.is_ok() {
            return 0;
        }
        let left: Vec<Option<AbortHandle>> =
            self.shared.open.lock().iter().map(|(_, open)| open.task.clone()).collect();
        left.iter().flatten().for_each(AbortHandle::abort);
        // A task that never yields cannot be dropped; it must not keep the broker from stopping.
        tokio::time::timeout(ABORT_TIMEOUT, self.all_closed()).await.ok();
        left.len()
    }

    async fn all_closed(&self) {
        loop {
            // Before the look: what closes after it is heard of.
            let closed = self.shared.all_closed.notified();
            if self.open() == 0 {
                return;
            }
            closed.await;
        }
    }

    /// Connections open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.lock().len()
    }

    /// Connections opened since the start.
    pub(crate) fn opened_total(&self) -> u64 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// Connections refused since the start.
    pub(crate) fn refused_total(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

/// Connections of a protocol of requests and answers that ask for nothing at the moment, those that
/// have waited longest first. They are the ones to go when others need their places. Clones share
/// them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Idle(Arc<Mutex<IdleMap>>);

#[derive(Debug, Default)]
struct IdleMap {
    next: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

/// One connection among them, when it waits.
#[derive(Debug)]
pub(crate) struct IdlePlace {
    idle: Idle,
    /// Its number while it waits.
    number: Mutex<Option<u64>>,
    asked_to_go: Arc<Notify>,
}

impl Idle {
    /// A connection that has just been opened.
    pub(crate) fn enter(&self) -> Arc<IdlePlace> {
        let place = IdlePlace {
            idle: self.clone(),
            number: Mutex::new(None),
            asked_to_go: Arc::new(Notify::new()),
        };
        place.set_busy(false);
        Arc::new(place)
    }

    /// Closes the one that has waited longest, if any waits.
    pub(crate) fn close_oldest(&self) {
        if let Some((_, oldest)) = self.0.lock().waiting.pop_first() {
            oldest.notify_one();
        }
    }
}

impl IdlePlace {
    /// A request has come, or was answered.
    pub(crate) fn set_busy(&self, busy: bool) {
        let mut number = self.number.lock();
        let mut idle = self.idle.0.lock();
        if let Some(number) = number.take() {
            idle.waiting.remove(&number);
        }
        if !busy {
            idle.next += 1;
            let next = idle.next;
            idle.waiting.insert(next, Arc::clone(&self.asked_to_go));
            *number = Some(next);
        }
    }

    /// Completes when its place is needed.
    pub(crate) async fn asked_to_go(&self) {
        self.asked_to_go.notified().await;
    }
}

impl Drop for IdlePlace {
    fn drop(&mut self) {
        self.set_busy(true);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn what_has_begun_is_gone_when_the_rest_runs() {
        let connections = Connections::new(1);
        let begun = Arc::new(());
        let (held, seen) = (Arc::clone(&begun), Arc::downgrade(&begun));
        let (tell, told) = tokio::sync::oneshot::channel();
        connections.spawn(|_| {
            let mut next = Some(Next::new(async move {
                tell.send(seen.strong_count()).expect("somebody listens");
                pending::<()>().await
            }));
            // What a function captures goes with it, and not when it returns.
            poll_fn(move |_| {
                let _held = &held;
                Poll::Ready(next.take().expect("polled once"))
            })
        });
        drop(begun);
        assert_eq!(told.await, Ok(0));
        assert_eq!(connections.open(), 1);
    }

    #[tokio::test]
    async fn who_waits_longest_goes_first_and_who_is_answered_stays() {
        let goes = async |place: &IdlePlace| {
            tokio::time::timeout(Duration::from_millis(20), place.asked_to_go()).await.is_ok()
        };
        let idle = Idle::default();
        let (first, second, third) = (idle.enter(), idle.enter(), idle.enter());
        first.set_busy(true);
        idle.close_oldest();
        assert!(goes(&second).await);
        first.set_busy(false);
        idle.close_oldest();
        assert!(goes(&third).await, "the first has waited less");
        assert!(!goes(&first).await);
        idle.close_oldest();
        assert!(goes(&first).await);
        idle.close_oldest();
        drop((first, second, third));
        assert!(idle.0.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn the_bound_holds_and_places_are_given_back() {
        let connections = Connections::new(1);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        assert!(connections.spawn(|_| async { drop(ended.await) }));
        assert!(!connections.spawn(|_| pending::<()>()));
        assert_eq!((connections.open(), connections.opened_total()), (1, 1));
        assert_eq!(connections.refused_total(), 1);
        end.send(()).expect("serving");
        connections.all_closed().await;
        assert!(connections.spawn(|_| pending::<()>()));
    }

    #[tokio::test]
    async fn draining_waits_for_connections_that_close() {
        let connections = Connections::new(10);
        for _ in 0..5 {
            connections.spawn(Closing::requested);
        }
        assert_eq!(connections.drain(Duration::from_secs(30)).await, 0);
    }

    #[tokio::test]
    async fn draining_drops_connections_that_do_not_close() {
        let connections = Connections::new(10);
        connections.spawn(|_| pending::<()>());
        connections.spawn(Closing::requested);
        assert_eq!(connections.drain(Duration::from_millis(50)).await, 1);
        assert_eq!(connections.open(), 0);
    }

    #[tokio::test]
    async fn a_panic_gives_the_place_back() {
        let connections = Connections::new(1);
        async fn serve() {
            panic!("a session's bug");
        }
        connections.spawn(|_| serve());
        connections.all_closed().await;
        assert_eq!(connections.open(), 0);
    }
}
