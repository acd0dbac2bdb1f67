//! The threads on which passwords are verified.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{io, thread};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// By how much their threads are nicer than the broker's: where both have something to do, they
/// get about a tenth of a processor. Messaging hardly feels a flood of logins then, and a login
/// on a machine that has no time left takes half a second to two, less than it may.
#[cfg(target_os = "linux")]
const NICER_BY: i32 = 10;

/// A few threads of low priority that do one piece of work each at a time. The runtime's own for
/// work that blocks would not do: a thread that has become nicer cannot take it back.
pub(crate) struct Hashers {
    work: Sender<Work>,
}

type Work = Box<dyn FnOnce() + Send>;

impl Hashers {
    /// Starts `threads` of them. They end when this is dropped and what was asked for is done.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub(crate) fn start(threads: usize) -> io::Result<Hashers> {
        let (work, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name("passwords".to_owned()).spawn(move || serve(&queue))?;
        }
        Ok(Hashers { work })
    }

    /// Has one of the threads do it, and waits for what comes of it; `None` if it panicked. It is
    /// done also if nobody waits any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let asked = self.work.send(Box::new(move || {
            // Who asked may have gone.
            drop(answer.send(work()));
        }));
        asked.ok()?;
        answered.await.ok()
    }
}

fn serve(queue: &Mutex<Receiver<Work>>) {
    be_nice();
    loop {
        // Whoever waits for work holds the lock; the others wait for that.
        let Ok(work) = queue.lock().recv() else { return };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            let why = words(&*panic);
            tracing::error!(why, "verifying a password failed");
        }
    }
}

/// Lowers the priority of the calling thread; on Linux alone is that possible for a thread.
fn be_nice() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICER_BY) {
        tracing::warn!(%error, "passwords are verified at the priority of messaging");
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_by_threads_that_survive_a_panic() {
        let hashers = Hashers::start(1).expect("threads");
        let name = hashers.run(|| thread::current().name().map(str::to_owned)).await;
        assert_eq!(name, Some(Some("passwords".to_owned())));
        let failed: Option<()> = hashers.run(|| panic!("as it must")).await;
        assert_eq!(failed, None);
        assert_eq!(hashers.run(|| 7).await, Some(7));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn they_alone_are_nicer() {
        let niceness = || rustix::process::getpriority_process(None).expect("known");
        let before = niceness();
        let hashers = Hashers::start(2).expect("threads");
        let theirs = hashers.run(niceness).await.expect("no panic");
        assert_eq!(theirs, (before + NICER_BY).min(19));
        assert_eq!(niceness(), before);
    }
}
