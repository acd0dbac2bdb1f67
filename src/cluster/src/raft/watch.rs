//! Watched values for openraft. tokio's own wake those who wait in an order that it draws from a
//! generator which cannot be seeded; these wake whoever has waited longest first, so that a
//! simulation replays.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

/// The kind of watched values that openraft is run with.
#[derive(Debug)]
pub struct OrderedWatch;

struct Shared<T> {
    value: RwLock<T>,
    /// Counts changes; changed under the lock of the value.
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    changed: Notify,
}

/// Changes a value.
pub struct Sender<T>(Arc<Shared<T>>);

/// Sees a value change.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Receiver<T> {
    fn new(shared: &Arc<Shared<T>>, seen: u64) -> Self {
        shared.receivers.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), seen }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self::new(&self.shared, self.seen)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            changed: Notify::new(),
        });
        let receiver = Receiver::new(&shared, 0);
        (Sender(shared), receiver)
    }
}

impl<T> WatchSender<OrderedWatch, T> for Sender<T>
where
    T: OptionalSend + OptionalSync,
{
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::Acquire) == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let mut value = self.0.value.write();
        let is_modified = modify(&mut value);
        if is_modified {
            self.0.version.fetch_add(1, Ordering::Release);
        }
        drop(value);
        if is_modified {
            self.0.changed.notify_waiters();
        }
        is_modified
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.value.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver::new(&self.0, self.0.version.load(Ordering::Acquire))
    }
}

impl<T> WatchReceiver<OrderedWatch, T> for Receiver<T>
where
    T: OptionalSend + OptionalSync,
{
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            // Made first: it hears of what happens after the version was looked at.
            let changed = pin!(self.shared.changed.notified());
            let version = self.shared.version.load(Ordering::Acquire);
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.shared.senders.load(Ordering::Acquire) == 0 {
                return Err(RecvError(()));
            }
            changed.await;
        }
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.shared.value.read()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.value.read();
        self.seen = self.shared.version.load(Ordering::Acquire);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_seen_once_in_the_order_of_waiting_and_then_the_end() {
        let (sender, mut first) = OrderedWatch::channel(1);
        let mut second = sender.subscribe();
        let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..20 {
            let (mut receiver, seen) = (sender.subscribe(), Arc::clone(&seen));
            waiting.push(tokio::spawn(async move {
                receiver.changed().await.expect("it changes");
                seen.lock().push(number);
            }));
        }
        tokio::task::yield_now().await;
        assert!(!sender.send_if_modified(|_| false));
        sender.send(2).expect("somebody sees it");
        for task in waiting {
            task.await.expect("it ends");
        }
        assert_eq!(*seen.lock(), (0..20).collect::<Vec<_>>());
        first.changed().await.expect("it has changed");
        assert_eq!(*first.borrow_watched(), 2);
        assert_eq!(*second.borrow_and_update(), 2);
        let other = sender.clone();
        drop(sender);
        let waits = tokio::spawn(async move { second.changed().await.is_err() });
        tokio::task::yield_now().await;
        drop(other);
        assert!(waits.await.expect("it ends"), "nothing can change any more");
        assert!(first.changed().await.is_err());
    }

    #[test]
    fn what_nobody_sees_comes_back() {
        let (sender, receiver) = OrderedWatch::channel(1);
        drop(receiver);
        assert!(matches!(sender.send(7), Err(SendError(7))));
        assert_eq!(*sender.borrow_watched(), 1);
    }
}
