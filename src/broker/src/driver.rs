//! On which thread a turn runs.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::shard::{Input, Shard, Wakes};

/// Brings inputs to the shard. Never blocks for longer than a turn.
pub trait Driver: Send + Sync + 'static {
    /// Hands `input` over; inputs of one caller are taken in order.
    fn submit(&self, input: Input);

    /// As [`Driver::submit`], from a thread that has better things to do than to run a turn: the
    /// one that writes the log.
    fn submit_elsewhere(&self, input: Input);
}

/// An inbox, and a lock around the shard: whoever submits tries the lock and, if it is free, runs
/// the turns until the inbox is empty. So under low load a message goes from its publisher to its
/// consumer's mailbox on one thread without any wake in between, and under high load one thread
/// does the work of many while the others go on reading and writing sockets.
pub struct Combining {
    inbox: Mutex<Vec<Input>>,
    shard: Mutex<Work>,
    /// Wakes the task that runs turns for those who will not.
    helper: Arc<Notify>,
}

struct Work {
    shard: Shard,
    inputs: Vec<Input>,
}

/// Turns that one submitter runs for others before it leaves the rest to the helper, so that no
/// connection's task is kept from its own socket.
const TURNS_MAX: usize = 16;

impl Combining {
    /// Drives `shard`; its helper runs on the current tokio runtime until the driver is dropped.
    pub fn start(shard: Shard) -> Arc<Combining> {
        let helper = Arc::new(Notify::new());
        let driver = Arc::new(Combining {
            inbox: Mutex::new(Vec::new()),
            shard: Mutex::new(Work { shard, inputs: Vec::new() }),
            helper: Arc::clone(&helper),
        });
        tokio::spawn(help(Arc::downgrade(&driver), helper));
        driver
    }

    /// Runs turns until the inbox is empty, somebody else is at it, or it is enough.
    ///
    /// Nothing is left behind: an input is in the inbox before its submitter tries the lock. If
    /// the lock is taken, its holder looks into the inbox again *after* it has given the lock
    /// back, and so sees the input.
    fn drain(&self) {
        let mut wakes = Wakes::default();
        for _ in 0..TURNS_MAX {
            {
                let Some(mut work) = self.shard.try_lock() else { return };
                let Work { shard, inputs } = &mut *work;
                std::mem::swap(&mut *self.inbox.lock(), inputs);
                abort_on_panic(|| shard.turn(inputs, &mut wakes));
            }
            wakes.wake();
            if self.inbox.lock().is_empty() {
                return;
            }
        }
        self.helper.notify_one();
    }
}

impl Driver for Combining {
    fn submit(&self, input: Input) {
        self.inbox.lock().push(input);
        self.drain();
    }

    fn submit_elsewhere(&self, input: Input) {
        let mut inbox = self.inbox.lock();
        inbox.push(input);
        let first = inbox.len() == 1;
        drop(inbox);
        // Behind others, it is taken with them: they are drained by whoever submitted them.
        if first {
            self.helper.notify_one();
        }
    }
}

async fn help(driver: Weak<Combining>, helper: Arc<Notify>) {
    loop {
        helper.notified().await;
        let Some(driver) = driver.upgrade() else { return };
        driver.drain();
    }
}

impl Drop for Combining {
    fn drop(&mut self) {
        self.helper.notify_one();
    }
}

/// Runs a turn. A turn that panics has broken an invariant of ledger or dispatcher half-way:
/// nothing may be confirmed or delivered from such a state, so the process ends.
pub fn abort_on_panic<T>(turn: impl FnOnce() -> T) -> T {
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            tracing::error!("the core has failed: the process ends rather than go on in doubt");
            std::process::abort();
        }
    }
    let guard = Guard;
    let result = turn();
    std::mem::forget(guard);
    result
}
