//! The connections of a kind that are open: how many there may be, and how they end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

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

    /// Spawns what serves a connection, unless too many are open: then `serve` is dropped
    /// uncalled, which closes the socket it holds, and the answer is false.
    pub(crate) fn spawn<F>(&self, serve: impl FnOnce(Closing) -> F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.shared.permits).try_acquire_owned() else {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        let mut aborted = self.shared.phase.subscribe();
        let serving = serve(Closing(self.shared.phase.subscribe()));
        tokio::spawn(async move {
            // Released last, also when serving panics: draining waits for it.
            let _permit = permit;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_bound_holds_and_places_are_given_back() {
        let connections = Connections::new(1);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        assert!(connections.spawn(|_| async { drop(ended.await) }));
        assert!(!connections.spawn(|_| std::future::pending()));
        assert_eq!((connections.open(), connections.opened_total()), (1, 1));
        assert_eq!(connections.refused_total(), 1);
        end.send(()).expect("serving");
        connections.all_closed().await;
        assert!(connections.spawn(|_| std::future::pending()));
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
        connections.spawn(|_| std::future::pending());
        connections.spawn(Closing::requested);
        assert_eq!(connections.drain(Duration::from_millis(50)).await, 1);
        assert_eq!(connections.open(), 0);
    }

    #[tokio::test]
    async fn a_panic_gives_the_place_back() {
        let connections = Connections::new(1);
        connections.spawn(|_| async { panic!("a session's bug") });
        connections.all_closed().await;
        assert_eq!(connections.open(), 0);
    }
}
