//! The thread that writes the log, with group commit and without timers.
//!
//! What is submitted while a sync runs is the next group: under load groups grow by themselves, and
//! alone an entry waits for nobody. Entries are encoded on this thread, straight into the log's
//! buffer. Everything is done in the order in which it was submitted, and completed in that order
//! after the sync that covers it.
//!
//! How the thread is executed, for real or in a simulation, is [`WriterOptions::threads`]' affair.
//!
//! The first failure is the last thing that happens: everything submitted and not yet completed,
//! and everything submitted later, completes with that error.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    log::{EntryMeta, HardState, Log, LogId, LogReader, Spares},
    threads::{Signal, Thread, Threads},
};

/// After a spare could not be made (a full disk), the next attempt waits this long.
const SPARE_RETRY: Duration = Duration::from_secs(1);

/// The payload of an entry, encoded on the writer's thread.
pub trait EncodeEntry: Send + 'static {
    /// Appends the payload to `out`, changing nothing of what is there.
    fn encode(&self, out: &mut Vec<u8>);
}

impl EncodeEntry for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

/// What became durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// The last index that is on stable storage.
    pub index: u64,
}

/// What the writer reports besides the completions.
#[derive(Debug, Clone)]
pub enum WriterEvent {
    /// A group is durable. Comes before the completions of its jobs.
    Durable(Durable),
    /// The log is over; comes once, and nothing is reported durable after it.
    Failed(Error),
}

/// Called once when a job is durable or has failed, on the writer's thread (on the caller's if the
/// writer has failed already). It must not block: the next sync waits for it.
pub type Completion = Box<dyn FnOnce(Result<Durable>) + Send>;

/// How the writer works.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// A group is synced when its payloads reach this, in bytes, even if more is waiting; 8 MiB by
    /// default.
    pub group_bytes_max: usize,
    /// A log without work for this long is sealed; 100 ms by default. No append waits for it.
    pub idle_before_seal: Duration,
    /// How the writer's threads are executed; real ones by default.
    pub threads: Threads,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            group_bytes_max: 8 << 20,
            idle_before_seal: Duration::from_millis(100),
            threads: Threads::real(),
        }
    }
}

enum Work<P> {
    Append(Vec<(EntryMeta, P)>),
    Truncate(u64),
    Purge(LogId),
    SaveHardState(HardState),
}

struct Job<P> {
    work: Work<P>,
    done: Completion,
}

struct Queue<P> {
    jobs: VecDeque<Job<P>>,
    stopping: bool,
    failed: Option<Error>,
    /// The writer waits, so it must be woken.
    waiting: bool,
}

struct Shared<P> {
    queue: Mutex<Queue<P>>,
    wake: Signal,
    spares: SpareSignal,
}

/// Wakes the thread that makes spares.
struct SpareSignal {
    state: Mutex<SpareState>,
    wake: Signal,
}

#[derive(Default)]
struct SpareState {
    asked: bool,
    stopping: bool,
    error: Option<Error>,
}

/// The log on its own thread. Another thread makes spare segments beside it.
///
/// The queue is not bounded here: whoever submits holds back by what was not yet completed.
/// Dropping the writer shuts it down; [`LogWriter::shutdown`] tells how that went.
pub struct LogWriter<P: EncodeEntry> {
    shared: Arc<Shared<P>>,
    reader: LogReader,
    spares: Spares,
    writer: Option<Thread<Result<()>>>,
    spare_maker: Option<Thread<()>>,
}

impl<P: EncodeEntry> std::fmt::Debug for LogWriter<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter").field("queued", &self.queued()).finish_non_exhaustive()
    }
}

impl<P: EncodeEntry> LogWriter<P> {
    /// Starts the threads. `on_event` is called on the writer's thread and must not block.
    ///
    /// # Errors
    /// If the operating system has no more threads.
    pub fn start(
        log: Log,
        options: WriterOptions,
        on_event: impl FnMut(WriterEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let threads = options.threads.clone();
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                stopping: false,
                failed: None,
                waiting: false,
            }),
            wake: threads.signal(),
            spares: SpareSignal { state: Mutex::default(), wake: threads.signal() },
        });
        let (reader, spares) = (log.reader(), log.spares());
        let mut writer = Self {
            shared: Arc::clone(&shared),
            reader,
            spares: spares.clone(),
            writer: None,
            spare_maker: None,
        };
        let maker = Arc::clone(&shared);
        let make = move || maker.spares.make(&spares);
        writer.spare_maker = Some(threads.spawn("log-spares", make)?);
        let worker = Worker { log, options, shared, pending: Vec::new(), on_event };
        writer.writer = Some(threads.spawn("log-writer", move || worker.run())?);
        Ok(writer)
    }

    /// Appends entries; `done` is called when the last of them is durable.
    pub fn append(&self, entries: Vec<(EntryMeta, P)>, done: Completion) {
        self.submit(Work::Append(entries), done);
    }

    /// Makes the entries from `index` on void; see [`Log::truncate_from`].
    pub fn truncate_from(&self, index: u64, done: Completion) {
        self.submit(Work::Truncate(index), done);
    }

    /// Forgets the entries up to `id`; see [`Log::purge_to`].
    pub fn purge_to(&self, id: LogId, done: Completion) {
        self.submit(Work::Purge(id), done);
    }

    /// Saves the hard state; see [`Log::save_hard_state`].
    pub fn save_hard_state(&self, hard: HardState, done: Completion) {
        self.submit(Work::SaveHardState(hard), done);
    }

    /// A reader of what was written, for any thread. What is still in the writer's queue cannot be
    /// read yet.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// How many jobs wait to be written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.queue.lock().jobs.len()
    }

    /// How many spare segments are ready: the reserve that remains when the disk fills.
    #[must_use]
    pub fn spares_ready(&self) -> usize {
        self.spares.ready()
    }

    /// Why the last attempt to make a spare failed, if it did.
    #[must_use]
    pub fn spare_error(&self) -> Option<Error> {
        self.shared.spares.state.lock().error.clone()
    }

    /// Does what was submitted, seals the log and stops.
    ///
    /// # Errors
    /// The error that ended the log, or why sealing failed.
    pub fn shutdown(mut self) -> Result<()> {
        self.stop()
    }

    fn submit(&self, work: Work<P>, done: Completion) {
        let mut queue = self.shared.queue.lock();
        if let Some(error) = queue.failed.clone() {
            drop(queue);
            return done(Err(error));
        }
        queue.jobs.push_back(Job { work, done });
        // Only from empty to non-empty: a writer at work looks into the queue by itself.
        if std::mem::take(&mut queue.waiting) {
            drop(queue);
            self.shared.wake.notify_one();
        }
    }

    fn stop(&mut self) -> Result<()> {
        self.shared.queue.lock().stopping = true;
        self.shared.wake.notify_one();
        let result = match self.writer.take() {
            Some(writer) => writer.join().unwrap_or(Err(Error::Stopped)),
            None => Ok(()),
        };
        // After the writer, which may still ask for spares.
        self.shared.spares.state.lock().stopping = true;
        self.shared.spares.wake.notify_one();
        if let Some(maker) = self.spare_maker.take()
            && maker.join().is_err()
        {
            return result.and(Err(Error::Stopped));
        }
        result
    }
}

impl<P: EncodeEntry> Drop for LogWriter<P> {
    fn drop(&mut self) {
        // Failures were reported to the completions; there is nobody else to tell.
        drop(self.stop());
    }
}

impl SpareSignal {
    fn ask(&self) {
        self.state.lock().asked = true;
        self.wake.notify_one();
    }

    fn make(&self, spares: &Spares) {
        loop {
            let made = spares.prepare();
            let again = matches!(made, Ok(true));
            let mut state = self.state.lock();
            state.error = made.err();
            while !again && !state.asked && !state.stopping {
                if state.error.is_none() {
                    self.wake.wait(&mut state);
                } else if self.wake.wait_for(&mut state, SPARE_RETRY) {
                    break;
                }
            }
            if state.stopping {
                return;
            }
            state.asked = false;
        }
    }
}

/// What the writer found in its queue.
enum Taken<P> {
    Jobs(VecDeque<Job<P>>),
    Idle,
    Stop,
}

struct Worker<P, F> {
    log: Log,
    options: WriterOptions,
    shared: Arc<Shared<P>>,
    /// Completions of the group being written.
    pending: Vec<Completion>,
    on_event: F,
}

impl<P: EncodeEntry, F: FnMut(WriterEvent)> Worker<P, F> {
    fn run(mut self) -> Result<()> {
        // A panic in an encoder or a completion must not leave others waiting for ever.
        let result = catch_unwind(AssertUnwindSafe(|| self.work())).unwrap_or(Err(Error::Stopped));
        let Err(error) = result else {
            let result = self.log.close();
            if let Err(error) = &result {
                (self.on_event)(WriterEvent::Failed(error.clone()));
            }
            fail_queue(&self.shared, &result.as_ref().err().cloned().unwrap_or(Error::Stopped));
            return result;
        };
        (self.on_event)(WriterEvent::Failed(error.clone()));
        for done in self.pending.drain(..) {
            done(Err(error.clone()));
        }
        fail_queue(&self.shared, &error);
        Err(error)
    }

    fn work(&mut self) -> Result<()> {
        let mut sealed = false;
        loop {
            match self.take(!sealed) {
                Taken::Jobs(jobs) => {
                    self.write(jobs)?;
                    sealed = false;
                }
                Taken::Idle => {
                    self.log.seal()?;
                    sealed = true;
                }
                Taken::Stop => return Ok(()),
            }
        }
    }

    /// Takes everything that waits; says so if nothing came for a while and that matters.
    fn take(&self, tell_idle: bool) -> Taken<P> {
        let mut queue = self.shared.queue.lock();
        loop {
            if !queue.jobs.is_empty() {
                return Taken::Jobs(std::mem::take(&mut queue.jobs));
            }
            if queue.stopping {
                return Taken::Stop;
            }
            queue.waiting = true;
            if !tell_idle {
                self.shared.wake.wait(&mut queue);
            } else if self.shared.wake.wait_for(&mut queue, self.options.idle_before_seal)
                && queue.jobs.is_empty()
                && !queue.stopping
            {
                queue.waiting = false;
                return Taken::Idle;
            }
            queue.waiting = false;
        }
    }

    fn write(&mut self, jobs: VecDeque<Job<P>>) -> Result<()> {
        let mut bytes = 0;
        let mut jobs = jobs.into_iter();
        let mut result = Ok(());
        for Job { work, done } in jobs.by_ref() {
            // Entries that are truncated in the group that appended them would be reported with an
            // index before them, so a truncation begins a group.
            if matches!(work, Work::Truncate(_)) && !self.pending.is_empty() {
                result = self.commit();
            }
            self.pending.push(done);
            result = result.and_then(|()| {
                bytes += self.execute(work)?;
                if bytes < self.options.group_bytes_max {
                    return Ok(());
                }
                bytes = 0;
                self.commit()
            });
            if result.is_err() {
                break;
            }
        }
        // What comes behind a failure is not written, but its completions are due.
        self.pending.extend(jobs.map(|job| job.done));
        result?;
        if self.pending.is_empty() { Ok(()) } else { self.commit() }
    }

    /// Does one job up to the sync; returns the bytes it added to the log.
    fn execute(&mut self, work: Work<P>) -> Result<usize> {
        let mut bytes = 0;
        match work {
            Work::Append(entries) => {
                for (meta, payload) in &entries {
                    let buffer = self.log.begin();
                    let before = buffer.len();
                    payload.encode(buffer);
                    bytes += buffer.len().saturating_sub(before);
                    self.log.finish(*meta)?;
                }
            }
            Work::Truncate(index) => self.log.truncate_from(index)?,
            Work::Purge(id) => self.log.purge_to(id)?,
            Work::SaveHardState(hard) => self.log.save_hard_state(hard)?,
        }
        Ok(bytes)
    }

    /// Syncs the group and reports it.
    fn commit(&mut self) -> Result<()> {
        let durable = Durable { index: self.log.sync()? };
        (self.on_event)(WriterEvent::Durable(durable));
        for done in self.pending.drain(..) {
            done(Ok(durable));
        }
        if self.log.spares_wanted() {
            self.shared.spares.ask();
        }
        Ok(())
    }
}

/// Refuses what is submitted from now on, and completes what was submitted and not taken.
fn fail_queue<P>(shared: &Shared<P>, error: &Error) {
    let jobs = {
        let mut queue = shared.queue.lock();
        queue.failed = Some(error.clone());
        std::mem::take(&mut queue.jobs)
    };
    for job in jobs {
        (job.done)(Err(error.clone()));
    }
}
