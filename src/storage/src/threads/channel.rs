//! A queue between threads, real or simulated.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        mpsc::{RecvError, RecvTimeoutError, SendError},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use super::{Signal, pause};

struct Queue<T> {
    items: VecDeque<T>,
    senders: usize,
    has_receiver: bool,
}

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    /// Something has come, or nothing can come any more.
    news: Signal,
}

/// The end of a queue that puts in.
pub struct Sender<T>(Arc<Shared<T>>);

/// The end of a queue that takes out.
pub struct Receiver<T>(Arc<Shared<T>>);

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

pub(super) fn channel<T>(news: Signal) -> (Sender<T>, Receiver<T>) {
    let queue = Queue { items: VecDeque::new(), senders: 1, has_receiver: true };
    let shared = Arc::new(Shared { queue: Mutex::new(queue), news });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Puts `item` in. Never blocks.
    ///
    /// # Errors
    /// If nobody takes anything out any more: `item` itself.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        let mut queue = self.0.queue.lock();
        if !queue.has_receiver {
            drop(queue);
            return Err(SendError(item));
        }
        queue.items.push_back(item);
        drop(queue);
        self.0.news.notify_one();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.queue.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.senders -= 1;
        let is_last = queue.senders == 0;
        drop(queue);
        if is_last {
            self.0.news.notify_one();
        }
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest out, and waits for it if there is none.
    ///
    /// # Errors
    /// If there is none and nothing can come any more.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.take(|news, queue| {
            news.wait(queue);
            true
        })
        .map_err(|_| RecvError)
    }

    /// As [`Receiver::recv`], and waits for `time` about.
    ///
    /// # Errors
    /// If nothing has come, or can come any more.
    pub fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
        self.take(|news, queue| !news.wait_for(queue, time))
    }

    fn take(
        &self,
        wait: impl Fn(&Signal, &mut MutexGuard<'_, Queue<T>>) -> bool,
    ) -> Result<T, RecvTimeoutError> {
        // What is there already might have come a little later.
        pause();
        let mut queue = self.0.queue.lock();
        let mut goes_on = true;
        loop {
            if let Some(item) = queue.items.pop_front() {
                return Ok(item);
            }
            if queue.senders == 0 {
                return Err(RecvTimeoutError::Disconnected);
            }
            if !goes_on {
                return Err(RecvTimeoutError::Timeout);
            }
            goes_on = wait(&self.0.news, &mut queue);
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let items = {
            let mut queue = self.0.queue.lock();
            queue.has_receiver = false;
            std::mem::take(&mut queue.items)
        };
        // Outside of the lock: what was sent may hold anything.
        drop(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Threads;

    #[test]
    fn what_was_sent_comes_out_in_order_and_then_the_end() {
        let (sender, receiver) = Threads::real().channel();
        let other = sender.clone();
        sender.send(1).expect("somebody takes");
        other.send(2).expect("somebody takes");
        drop(sender);
        assert_eq!(receiver.recv(), Ok(1));
        assert_eq!(receiver.recv(), Ok(2));
        let soon = Duration::from_millis(1);
        assert_eq!(receiver.recv_timeout(soon), Err(RecvTimeoutError::Timeout));
        drop(other);
        assert_eq!(receiver.recv(), Err(RecvError));
    }

    #[test]
    fn whoever_waits_hears_of_what_comes_and_of_the_end() {
        let (sender, receiver) = Threads::real().channel();
        let (told, tell) = Threads::real().channel();
        let waits = std::thread::spawn(move || {
            while let Ok(item) = receiver.recv() {
                told.send(item).expect("somebody takes");
            }
        });
        for i in 0..100 {
            sender.send(i).expect("somebody takes");
            assert_eq!(tell.recv(), Ok(i));
        }
        drop(sender);
        waits.join().expect("it ends");
        assert_eq!(tell.recv(), Err(RecvError));
    }

    #[test]
    fn what_nobody_takes_comes_back() {
        let (sender, receiver) = Threads::real().channel();
        drop(receiver);
        assert_eq!(sender.send(7), Err(SendError(7)));
    }
}
