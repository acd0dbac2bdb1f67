//! The connections of a kind that are open: how many there may be, and how they end.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

/// How long tasks get to unwind after they were told to stop at once.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// Connections should close in their protocol's way.
    Draining,
    /// Connections are dropped.
    Aborting,
}

/// The open connections. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// One permit for every connection that may still open.
    permits: Arc<Semaphore>,
    connections_max: u32,
    phase: watch::Sender<Phase>,
    opened: AtomicU64,
    refused: AtomicU64,
}

/// Tells one connection that it should close.
#[derive(Clone, Debug)]
pub(crate) struct Closing(watch::Receiver<Phase>);

impl Closing {
    /// Completes when the connection should close in its protocol's way.
    pub(crate) async fn requested(mut self) {
        // An error means that nobody is left to ask.
        self.0.wait_for(|phase| *phase >= Phase::Draining).await.ok();
    }
}

/// What serves a connection after what has prepared it (handshakes, finding out what is spoken), if
/// anything does. What has prepared it is gone by then: a connection that lasts does not hold the
/// space of its beginnings, some KiB.
pub(crate) struct Next(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Next {
    /// The connection is over.
    pub(crate) const NOTHING: Next = Next(None);

    /// Goes on with `serving`.
    pub(crate) fn new(serving: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(Box::pin(serving)))
    }

    /// Serves the connection until it ends.
    pub(crate) async fn run(self) {
        if let Some(serving) = self.0 {
            serving.await;
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

impl Connections {
    /// None, of which at most `connections_max` may be open at once.
    pub(crate) fn new(connections_max: u32) -> Self {
        let shared = Shared {
            permits: Arc::new(Semaphore::new(connections_max as usize)),
            connections_max,
            phase: watch::Sender::new(Phase::Open),
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
        let Ok(permit) = Arc::clone(&self.shared.permits).try_acquire_owned() else {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        let mut aborted = self.shared.phase.subscribe();
        // Where it stays: the task would hold the space twice, as what came in and as what runs.
        let begun = Box::pin(serve(Closing(self.shared.phase.subscribe())));
        tokio::spawn(async move {
            // Released last, also when serving panics: draining waits for it.
            let _permit = permit;
            let serving = async {
                // What has begun is dropped before the rest runs.
                let next: Next = begun.await.into();
                next.run().await;
            };
            tokio::select! {
                () = serving => {}
                _ = aborted.wait_for(|phase| *phase == Phase::Aborting) => {}
            }
        });
        true
    }

    /// Asks every connection to close, waits up to `timeout`, drops those that are left and
    /// returns how many those were. Nothing may be spawned any more.
    pub(crate) async fn drain(&self, timeout: Duration) -> usize {
        self.shared.phase.send_replace(Phase::Draining);
        if tokio::time::timeout(timeout, self.all_closed()).await.is_ok() {
            return 0;
        }
        let left = self.open();
        self.shared.phase.send_replace(Phase::Aborting);
        // A task that never yields cannot be dropped; it must not keep the broker from stopping.
        tokio::time::timeout(ABORT_TIMEOUT, self.all_closed()).await.ok();
        left
    }

    async fn all_closed(&self) {
        // The semaphore is never closed, so the result is always a permit.
        drop(self.shared.permits.acquire_many(self.shared.connections_max).await);
    }

    /// Connections open.
    pub(crate) fn open(&self) -> usize {
        self.shared.connections_max as usize - self.shared.permits.available_permits()
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
                pending().await
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
