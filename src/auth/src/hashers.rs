//! The threads on which passwords are verified.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::HashMemory;
use crate::scheduling::{self, Priority};

/// How long the memory of the last hashes is kept when there is nothing to do. To take and give back
/// megabytes for each hash of a flood would cost page faults, and interrupts on every processor
/// that forget the pages.
const KEEPS_MEMORY_FOR: Duration = Duration::from_secs(1);

/// How long work may wait for an idle thread, none of which has other work, until the processors
/// have no time left for them. A thread that gets any is there within microseconds; a burst of
/// hundreds of connections may keep all processors busy for a tenth of a second.
const PICKED_UP_WITHIN: Duration = Duration::from_millis(400);

/// A hash by an idle thread that took longer than this, and more than so many times the time of a
/// processor, tells the same. Two that share a processor with messaging take a few times as long.
const LATE_AFTER: Duration = Duration::from_millis(500);
const LATE_TIMES: u32 = 8;

/// A thread that wakes up gets a slice at once, some milliseconds, even where there is no time for
/// more. So before an idle one takes work after a pause, it runs for longer than that with nothing
/// at stake, while the work waits for whoever comes first.
const TRIAL: Duration = Duration::from_millis(6);
const TRIED_FOR: Duration = Duration::from_secs(1);

/// For how long idle threads are not asked again then.
const BUSY_FOR: Duration = Duration::from_secs(3);

/// Threads that do one piece of work each at a time, and yield to messaging. The runtime's own for
/// work that blocks would not do: a thread that has lowered its priority cannot raise it again.
///
/// Of each priority there are as many as may work at once; who asks sees to it that no more do.
/// Idle threads do the work as long as they get a processor. They delay nobody, since Linux has
/// any other thread that wakes up take the processor at once, where a thread that is only nicer
/// keeps it for the rest of its slice, some milliseconds. But where two threads are busy for each
/// processor, a hash on an idle one would take a quarter of a minute, longer than a login may.
/// There the nicer ones do the work, with a tenth of a processor: a login takes about a second.
pub(crate) struct Hashers {
    queue: Arc<Queue>,
}

type Work = Box<dyn FnOnce(&mut HashMemory) -> Answer + Send>;

/// Tells who asked. After the memory is back: he may let the next one in.
type Answer = Box<dyn FnOnce()>;

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    work: VecDeque<(Instant, Work)>,
    /// Of hashes that are done, for those to come. Not each thread's own: one that gets no
    /// processor could not give it back.
    memory: Vec<HashMemory>,
    /// Until when idle threads leave the work to the nicer ones.
    busy_until: Option<Instant>,
    /// Nothing more will come.
    is_closed: bool,
}

impl Hashers {
    /// Starts threads for up to `at_once` pieces of work. They end when this is dropped and what
    /// was asked for is done.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub(crate) fn start(at_once: usize) -> io::Result<Hashers> {
        let hashers = Hashers { queue: Arc::default() };
        for priority in [Priority::Idle, Priority::Nice].repeat(at_once) {
            let queue = Arc::clone(&hashers.queue);
            let name = "passwords".to_owned();
            thread::Builder::new().name(name).spawn(move || serve(&queue, priority))?;
        }
        Ok(hashers)
    }

    /// Has one of the threads do it, and waits for what comes of it; `None` if it panicked. It is
    /// done also if nobody waits any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut HashMemory) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::new(move |memory| {
            let done = work(memory);
            // Who asked may have gone.
            Box::new(move || drop(answer.send(done)))
        });
        self.queue.waiting.lock().work.push_back((Instant::now(), work));
        self.queue.changed.notify_all();
        answered.await.ok()
    }
}

impl Drop for Hashers {
    fn drop(&mut self) {
        self.queue.waiting.lock().is_closed = true;
        self.queue.changed.notify_all();
    }
}

impl Waiting {
    /// The first piece of work, if a thread of this priority should do it now; otherwise until
    /// when the thread should wait, `None` if for a change.
    fn take(&mut self, priority: Priority, now: Instant) -> Result<Work, Option<Instant>> {
        let Some((since, _)) = self.work.front() else { return Err(None) };
        let picked_up_until = *since + PICKED_UP_WITHIN;
        let busy_until = self.busy_until.filter(|until| now < *until);
        match (priority, busy_until) {
            (Priority::Idle, Some(until)) => return Err(Some(until)),
            (Priority::Nice, None) if now < picked_up_until => return Err(Some(picked_up_until)),
            (Priority::Nice, None) => self.busy_until = Some(now + BUSY_FOR),
            (Priority::Idle, None) | (Priority::Nice, Some(_)) => {}
        }
        self.work.pop_front().map(|(_, work)| work).ok_or(None)
    }
}

impl Queue {
    /// The next piece of work, and memory for it; `None` when there will be none. Waits for it,
    /// and gives memory back if that takes long.
    fn next(&self, priority: Priority, tried: &mut Option<Instant>) -> Option<(Work, HashMemory)> {
        let mut waiting = self.waiting.lock();
        loop {
            let is_tried = tried.is_some_and(|at| at.elapsed() < TRIED_FOR);
            if priority == Priority::Idle && !waiting.work.is_empty() && !is_tried {
                MutexGuard::unlocked(&mut waiting, run_on_trial);
                *tried = Some(Instant::now());
            }
            match waiting.take(priority, Instant::now()) {
                Ok(work) => return Some((work, waiting.memory.pop().unwrap_or_default())),
                Err(None) if waiting.is_closed => return None,
                Err(None) if waiting.memory.is_empty() => self.changed.wait(&mut waiting),
                Err(None) => {
                    if self.changed.wait_for(&mut waiting, KEEPS_MEMORY_FOR).timed_out() {
                        let unused = mem::take(&mut waiting.memory);
                        MutexGuard::unlocked(&mut waiting, || {
                            unused.into_iter().for_each(|mut memory| memory.give_back());
                        });
                    }
                }
                Err(Some(until)) => {
                    self.changed.wait_until(&mut waiting, until);
                }
            }
        }
    }

    /// Has the nicer threads do what comes next.
    fn processors_are_busy(&self) {
        self.waiting.lock().busy_until = Some(Instant::now() + BUSY_FOR);
        self.changed.notify_all();
    }
}

fn serve(queue: &Queue, priority: Priority) {
    if let Err(error) = scheduling::lower(priority) {
        tracing::warn!(%error, "passwords are verified at the priority of messaging");
    }
    let mut tried = None;
    while let Some((work, mut memory)) = queue.next(priority, &mut tried) {
        let (began, spent_before) = (Instant::now(), scheduling::time_spent());
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut memory)));
        queue.waiting.lock().memory.push(memory);
        match done {
            Ok(answer) => answer(),
            Err(panic) => {
                let why = words(&*panic);
                tracing::error!(why, "verifying a password failed");
            }
        }
        tried = Some(Instant::now());
        let spent = scheduling::time_spent().saturating_sub(spent_before);
        if priority == Priority::Idle && is_late(began.elapsed(), spent) {
            queue.processors_are_busy();
        }
    }
}

/// Takes [`TRIAL`] of a processor.
fn run_on_trial() {
    let spent_before = scheduling::time_spent();
    while cfg!(target_os = "linux") && scheduling::time_spent().saturating_sub(spent_before) < TRIAL
    {
        std::hint::spin_loop();
    }
}

/// Whether work that took so long, and so much time of a processor, was kept waiting.
fn is_late(took: Duration, spent: Duration) -> bool {
    took > LATE_AFTER && took > spent * LATE_TIMES
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
        let name = hashers.run(|_| thread::current().name().map(str::to_owned)).await;
        assert_eq!(name, Some(Some("passwords".to_owned())));
        let failed: Option<()> = hashers.run(|_| panic!("as it must")).await;
        assert_eq!(failed, None);
        assert_eq!(hashers.run(|_| 7).await, Some(7));
    }

    fn waiting(since: Instant, pieces: usize) -> Waiting {
        let work = (0..pieces)
            .map(|_| (since, Box::new(|_: &mut HashMemory| Box::new(|| {}) as Answer) as Work));
        Waiting { work: work.collect(), ..Waiting::default() }
    }

    #[test]
    fn idle_threads_do_the_work_as_long_as_they_get_a_processor() {
        let now = Instant::now();
        let mut waiting = waiting(now, 3);
        let late = now + PICKED_UP_WITHIN;
        assert_eq!(waiting.take(Priority::Nice, now).err(), Some(Some(late)));
        assert!(waiting.take(Priority::Idle, now).is_ok());
        // None of them came for the next piece.
        assert!(waiting.take(Priority::Nice, late).is_ok());
        assert_eq!(waiting.take(Priority::Idle, late).err(), Some(Some(late + BUSY_FOR)));
        assert!(waiting.take(Priority::Nice, late).is_ok());
        assert_eq!(waiting.take(Priority::Nice, late).err(), Some(None));
        waiting.work = self::waiting(late + BUSY_FOR, 1).work;
        assert!(waiting.take(Priority::Idle, late + BUSY_FOR).is_ok());
    }

    #[test]
    fn late_is_what_waited_for_a_processor_and_not_what_is_a_lot_of_work() {
        let ms = Duration::from_millis;
        assert!(is_late(ms(600), ms(22)));
        assert!(!is_late(ms(400), ms(22)));
        assert!(!is_late(ms(3000), ms(2500)));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_the_idle_leave_is_done_by_the_nicer() {
        let hashers = Hashers::start(1).expect("threads");
        let priority = |_: &mut HashMemory| scheduling::priority();
        hashers.queue.processors_are_busy();
        assert_eq!(hashers.run(priority).await, Some(Some(Priority::Nice)));
    }

    #[tokio::test]
    async fn memory_is_kept_from_hash_to_hash_and_given_back_when_none_comes() {
        let hashers = Hashers::start(1).expect("threads");
        hashers.queue.processors_are_busy();
        hashers.run(|memory| memory.blocks(8, || {}).len()).await;
        assert_eq!(hashers.run(|memory| memory.is_empty()).await, Some(false));
        tokio::time::sleep(KEEPS_MEMORY_FOR * 2).await;
        assert_eq!(hashers.run(|memory| memory.is_empty()).await, Some(true));
    }
}
