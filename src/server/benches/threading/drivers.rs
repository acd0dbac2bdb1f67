//! The drivers that are compared: the broker's own, and the two that it could have been.

use std::mem;
use std::sync::{Arc, Weak};
use std::thread;

use isthmus_broker::{Driver, Input, Shard, Wakes, abort_on_panic};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

/// A way to decide on which thread a turn runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// [`isthmus_broker::Combining`].
    Combining,
    /// [`Locked`].
    Locked,
    /// [`ShardThread`].
    ShardThread,
}

impl Candidate {
    /// All there are.
    pub(crate) const ALL: [Candidate; 3] =
        [Candidate::Combining, Candidate::Locked, Candidate::ShardThread];

    /// What it is called in tables and on the child's command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Candidate::Combining => "inbox and lock",
            Candidate::Locked => "lock",
            Candidate::ShardThread => "thread",
        }
    }
}

/// A lock around the shard: whoever submits waits for it and runs a turn with its one input.
pub(crate) struct Locked {
    work: Mutex<Work>,
    /// Inputs of those who will not wait for the lock.
    left: Mutex<Vec<Input>>,
    /// Wakes the task that takes them to the shard.
    helper: Arc<Notify>,
}

struct Work {
    shard: Shard,
    inputs: Vec<Input>,
}

impl Locked {
    /// Drives `shard`; its helper runs on the current tokio runtime until the driver is dropped.
    pub(crate) fn start(shard: Shard) -> Arc<Locked> {
        let helper = Arc::new(Notify::new());
        let driver = Arc::new(Locked {
            work: Mutex::new(Work { shard, inputs: Vec::new() }),
            left: Mutex::default(),
            helper: Arc::clone(&helper),
        });
        tokio::spawn(help(Arc::downgrade(&driver), helper));
        driver
    }

    /// A turn with what `fill` puts into the inputs.
    fn turn(&self, fill: impl FnOnce(&mut Vec<Input>)) {
        let mut wakes = Wakes::default();
        {
            let mut work = self.work.lock();
            let Work { shard, inputs } = &mut *work;
            fill(inputs);
            abort_on_panic(|| shard.turn(inputs, &mut wakes));
        }
        wakes.wake();
    }
}

impl Driver for Locked {
    fn submit(&self, input: Input) {
        self.turn(|inputs| inputs.push(input));
    }

    fn submit_elsewhere(&self, input: Input) {
        self.left.lock().push(input);
        self.helper.notify_one();
    }
}

async fn help(driver: Weak<Locked>, helper: Arc<Notify>) {
    loop {
        helper.notified().await;
        let Some(driver) = driver.upgrade() else { return };
        driver.turn(|inputs| mem::swap(inputs, &mut driver.left.lock()));
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.helper.notify_one();
    }
}

/// A thread that owns the shard. Whoever submits leaves its input in the inbox, and wakes the
/// thread if the inbox was empty.
pub(crate) struct ShardThread(Arc<Shared>);

#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
}

#[derive(Default)]
struct Inbox {
    inputs: Vec<Input>,
    /// The driver is gone, nothing comes any more.
    closed: bool,
}

impl ShardThread {
    /// Drives `shard` on a thread of its own until the driver is dropped.
    pub(crate) fn start(shard: Shard) -> Arc<ShardThread> {
        let shared = Arc::new(Shared::default());
        let owner = Arc::clone(&shared);
        thread::Builder::new()
            .name("shard".to_owned())
            .spawn(move || owner.run(shard))
            .expect("the system gives a benchmark one thread");
        Arc::new(ShardThread(shared))
    }
}

impl Shared {
    fn run(&self, mut shard: Shard) {
        let mut inputs = Vec::new();
        let mut wakes = Wakes::default();
        loop {
            {
                let mut inbox = self.inbox.lock();
                while inbox.inputs.is_empty() {
                    if inbox.closed {
                        return;
                    }
                    self.arrived.wait(&mut inbox);
                }
                mem::swap(&mut inbox.inputs, &mut inputs);
            }
            abort_on_panic(|| shard.turn(&mut inputs, &mut wakes));
            wakes.wake();
        }
    }
}

impl Driver for ShardThread {
    fn submit(&self, input: Input) {
        let mut inbox = self.0.inbox.lock();
        inbox.inputs.push(input);
        let first = inbox.inputs.len() == 1;
        drop(inbox);
        if first {
            self.0.arrived.notify_one();
        }
    }

    fn submit_elsewhere(&self, input: Input) {
        self.submit(input);
    }
}

impl Drop for ShardThread {
    fn drop(&mut self) {
        self.0.inbox.lock().closed = true;
        self.0.arrived.notify_one();
    }
}
