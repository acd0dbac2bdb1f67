//! Keeping memory and the log small: from time to time what survives is written to pages, and a
//! checkpoint that refers to them, whereupon the log forgets what came before.
//!
//! A round goes in this order, and each step is durable before the next begins:
//! 1. messages that are not young any more are gathered, a page's worth at a time, each in a turn
//!    of its own, and written to a page file;
//! 2. the ledger refers to the pages instead of the bodies, again a page a turn;
//! 3. a copy of the ledger is written as the checkpoint: it names the pages, and the log entries
//!    that still hold the bodies of what is young;
//! 4. the log forgets entries before those, and page files that the checkpoint does not name are
//!    removed.
//!
//! A round blocks while it waits for turns and for the disk, so it runs beside the runtime's tasks,
//! on a thread that may be simulated.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Write};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Weak};
use std::time::Duration;

use isthmus_core::paging::{Gathered, Page, PageContent, PageKey, Unwritten, Written};
use isthmus_core::{Entry, Ledger, Wanted, codec};
use isthmus_model::{Encodings, QueueId};
use isthmus_storage::fs::Pace;
use isthmus_storage::pages::{self, PageOptions, PageWriter};
use isthmus_storage::threads::{Receiver, Sender, Threads};
use isthmus_storage::{Error, SharedStorage, checkpoint};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::blocking::blocking;
use crate::broker::OnFailure;
use crate::driver::Driver;
use crate::durable::Durable;
use crate::pager::Pager;
use crate::rounds::{Latest, Rounds};
use crate::shard::{Due, Input, Shard, Snapshot, point_of};

/// How often it is asked whether a round is due.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A log that has grown at all is followed by a round after this time, if there are page files:
/// what was consumed since the last one may have emptied them.
const TIDY_AFTER: Duration = Duration::from_secs(30);

/// The same where half of what was in pages is gone, or disk space is short.
const TIDY_SOON_AFTER: Duration = Duration::from_secs(1);

/// How long a turn is waited for before it is asked whether there are still any.
const PATIENCE: Duration = Duration::from_millis(20);

/// Bytes of bodies in one entry of a checkpoint, about.
pub(crate) const ENTRY_BYTES: u64 = 1 << 20;

/// Bytes of live messages that one round moves out of sparse page files at the most.
const MOVED_BYTES_MAX: u64 = 64 << 20;

/// When rounds are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingOptions {
    /// Bytes in the log since the last checkpoint.
    pub checkpoint_after_bytes: u64,
    /// Bytes of messages in memory alone, about.
    pub unpaged_bytes_max: u64,
    /// Bytes of bodies in one page, about.
    pub page_bytes: u64,
    /// Bytes of one page file, about.
    pub file_bytes: u64,
    /// Bytes of the log that are kept, in a cluster, though a checkpoint holds what is in them: a
    /// node that lags by less is given the entries, one that lags by more all there is.
    pub log_kept_bytes: u64,
}

/// What the checkpointer works with.
pub(crate) struct Checkpointer {
    pub(crate) driver: Weak<dyn Driver>,
    pub(crate) storage: SharedStorage,
    pub(crate) pager: Arc<Pager>,
    pub(crate) encodings: Encodings,
    pub(crate) options: PagingOptions,
    /// Bytes of the checkpoint there is.
    pub(crate) last_bytes: u64,
    /// The number of the next page file.
    pub(crate) next_file: u64,
    /// True once the broker stops; gone if it was dropped.
    pub(crate) stop: watch::Receiver<bool>,
    /// Called if the disk cannot be relied on any more.
    pub(crate) on_failure: Arc<OnFailure>,
    /// In a cluster: how far the log is durable here.
    pub(crate) durable: Option<Arc<Durable>>,
    /// Dropped at the end, when nothing is written any more.
    pub(crate) running: Sender<()>,
    /// How rounds are executed.
    pub(crate) threads: Threads,
    /// Held by whoever writes page files and checkpoints.
    pub(crate) rounds: Rounds,
    /// The newest checkpoint.
    pub(crate) checkpoint: Arc<Latest>,
}

/// What a round needs; it may outlive the task that began it.
struct Round {
    driver: Arc<dyn Driver>,
    storage: SharedStorage,
    pager: Arc<Pager>,
    encodings: Encodings,
    options: PagingOptions,
    next_file: u64,
    /// Files that are to become empty.
    sparse: HashSet<u64>,
    /// How fast to write: where memory is needed, as fast as the disk allows.
    pace: Pace,
    stop: watch::Receiver<bool>,
    checkpoint: Arc<Latest>,
    threads: Threads,
    durable: Option<Arc<Durable>>,
}

/// What came of a round.
#[derive(Default)]
struct Outcome {
    checkpoint_bytes: u64,
    next_file: u64,
    sparse: HashSet<u64>,
    has_pages: bool,
    /// Messages in pages.
    paged_len: u64,
}

/// Why a round ended early.
#[derive(Debug)]
enum Ended {
    /// The broker stops.
    Stopped,
    /// The term's own entry is on its way to the disk, and may never arrive.
    TooEarly,
    Storage(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Storage(error)
    }
}

/// Messages that were written to one file and are not referred to yet.
type Placed = Vec<(Arc<Page>, Vec<Written>)>;

impl Checkpointer {
    /// Works until the driver is gone or the broker stops.
    pub(crate) async fn run(mut self) {
        let mut sparse = HashSet::new();
        let mut has_pages = !self.pager.sizes().is_empty();
        let mut last = Instant::now();
        let mut paged_len = 0;
        loop {
            tokio::select! {
                // In this order, so that a simulation replays.
                biased;
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = self.stop.wait_for(|stop| *stop) => return,
            }
            let Some(driver) = self.driver.upgrade() else { return };
            let young_bytes = self.options.checkpoint_after_bytes / 2;
            let Some(due) = look(&driver, young_bytes).await else { return };
            let is_much = due.is_disk_short || due.paged_len < paged_len / 2;
            let after = if is_much { TIDY_SOON_AFTER } else { TIDY_AFTER };
            let is_tidy = !has_pages || due.log_bytes == 0 || last.elapsed() < after;
            let Some(logged_upto) = self.upto(due, is_tidy && sparse.is_empty()) else { continue };
            let is_urgent = due.unpaged_bytes >= self.options.unpaged_bytes_max;
            last = Instant::now();
            let round = Round {
                driver,
                storage: self.storage.clone(),
                pager: Arc::clone(&self.pager),
                encodings: self.encodings,
                options: self.options,
                next_file: self.next_file,
                sparse: std::mem::take(&mut sparse),
                pace: if is_urgent {
                    Pace { rest_percent: 0, ..Pace::default() }
                } else {
                    Pace::default()
                },
                stop: self.stop.clone(),
                checkpoint: Arc::clone(&self.checkpoint),
                durable: self.durable.clone(),
                threads: self.threads.clone(),
            };
            let turn = tokio::select! {
                // As above.
                biased;
                turn = self.rounds.turn() => turn,
                _ = self.stop.wait_for(|stop| *stop) => return,
            };
            // Not given up before it has ended, also if this task is.
            let running = self.running.clone();
            let outcome = blocking(&self.threads, "checkpoint", move || {
                let mut outcome = Outcome { next_file: round.next_file, ..Outcome::default() };
                let result = round.run(logged_upto, &mut outcome);
                drop(round);
                drop(turn);
                drop(running);
                (result, outcome)
            });
            let Some((result, outcome)) = outcome.await else { return };
            self.next_file = outcome.next_file;
            match result {
                Ok(()) => {
                    self.last_bytes = outcome.checkpoint_bytes;
                    has_pages = outcome.has_pages;
                    paged_len = outcome.paged_len;
                    sparse = outcome.sparse;
                }
                Err(Ended::Stopped) => return,
                Err(Ended::TooEarly) => {}
                Err(Ended::Storage(_)) if *self.stop.borrow() => return,
                Err(Ended::Storage(error)) if is_final(&error) => return self.fail(error),
                Err(Ended::Storage(error)) => {
                    // The log still holds everything; the next one may have the room it needs.
                    tracing::error!(%error, "no checkpoint was written, the log goes on growing");
                }
            }
        }
    }

    /// Up to which entry messages go into pages, if a round is due.
    fn upto(&self, due: Due, is_tidy: bool) -> Option<u64> {
        if !due.is_committed {
            return None;
        }
        if due.unpaged_bytes >= self.options.unpaged_bytes_max {
            return Some(due.applied);
        }
        // A checkpoint is worth its I/O only after a multiple of that has gone into the log.
        let after = self.options.checkpoint_after_bytes.max(4 * self.last_bytes);
        (due.log_bytes >= after || !is_tidy).then_some(due.old_upto)
    }

    /// The disk has failed: nothing is confirmed any more.
    fn fail(self, error: Error) {
        let Some(driver) = self.driver.upgrade() else { return };
        driver.submit(Input::Inspect(Box::new(move |shard| {
            shard.fail();
            self.on_failure.call(error);
        })));
    }
}

/// Whether nothing can be relied on after `error`: what a failed sync was to make durable may be
/// lost and count as clean, and the directory is the log's as well; a page that is damaged holds
/// messages. A full disk loses nothing but the checkpoint.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Io { action: "sync" | "sync directory", .. } => !error.is_disk_full(),
        Error::Corrupt { .. } => true,
        _ => false,
    }
}

async fn look(driver: &Arc<dyn Driver>, young_bytes: u64) -> Option<Due> {
    let (tell, told) = tokio::sync::oneshot::channel();
    driver.submit(Input::Inspect(Box::new(move |shard| {
        // Nobody listens any more only if this task is gone.
        tell.send(shard.due(young_bytes)).ok();
    })));
    told.await.ok()
}

impl Round {
    fn run(&self, logged_upto: u64, outcome: &mut Outcome) -> Result<(), Ended> {
        let wanted = Arc::new(Wanted {
            logged_upto,
            files: self.sparse.clone(),
            page_bytes: self.options.page_bytes,
        });
        self.page_out(&wanted, outcome)?;
        let Snapshot { ledger, index, term } = self.snapshot()?;
        if let Some(durable) = &self.durable
            && !durable.wait(index, || self.has_stopped())
        {
            return Err(Ended::Stopped);
        }
        let kept_from = ledger.logged_from().map_or(index, |first| (first - 1).min(index));
        #[cfg(feature = "planted-bugs")]
        if crate::planted::purges_log_first() {
            self.ask(move |shard| shard.checkpointed(index, kept_from, 0))?;
        }
        let content =
            |out: &mut dyn Write| write_entries(ledger.entries(ENTRY_BYTES), out, &self.stop);
        let meta = checkpoint::write(&*self.storage, index, term, content)?;
        self.checkpoint.set(point_of(&ledger, index, term));
        outcome.checkpoint_bytes = meta.bytes;
        tracing::debug!(index, kept_from, bytes = meta.bytes, "checkpoint");
        let kept_bytes = self.options.log_kept_bytes;
        let purge = move |shard: &mut Shard| shard.checkpointed(index, kept_from, kept_bytes);
        self.driver.submit(Input::Inspect(Box::new(purge)));
        self.tidy_up(&ledger, outcome)
    }

    /// Asks the shard; stopped if it is gone.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> Result<T, Ended> {
        if *self.stop.borrow() {
            return Err(Ended::Stopped);
        }
        let told = put(&self.threads, &*self.driver, question);
        loop {
            match told.recv_timeout(PATIENCE) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(Ended::Stopped),
                // Where the runtime has ended there are no turns any more.
                Err(RecvTimeoutError::Timeout) if self.has_stopped() => return Err(Ended::Stopped),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Whether the broker stops, or was dropped.
    fn has_stopped(&self) -> bool {
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    /// Writes to pages what is wanted, and lets the ledger refer to them.
    fn page_out(&self, wanted: &Arc<Wanted>, outcome: &mut Outcome) -> Result<(), Ended> {
        let asked = Arc::clone(wanted);
        let queues = self.ask(move |shard| {
            let mut queues: BTreeSet<QueueId> =
                shard.ledger().unpaged_queues().into_iter().collect();
            queues.extend(shard.ledger().queues_in(&asked.files));
            queues
        })?;
        let mut open: Option<(PageWriter, Placed)> = None;
        for queue in queues {
            let mut from = 0;
            loop {
                let asked = Arc::clone(wanted);
                let next = self.ask(move |shard| shard.ledger().gather(queue, from, &asked))?;
                let Some((gathered, next)) = next else { break };
                from = next;
                let Some(page) = self.make(&gathered)? else { continue };
                let (writer, placed) = match &mut open {
                    Some(open) => open,
                    None => {
                        let number = outcome.next_file;
                        outcome.next_file += 1;
                        let options = PageOptions { pace: self.pace };
                        let writer = PageWriter::create(&self.storage, number, options)?;
                        open.insert((writer, Placed::new()))
                    }
                };
                let at = writer.append(&page.content)?;
                placed.push(page.placed(PageKey { file: at.file, offset: at.offset, len: at.len }));
                if writer.bytes() >= self.options.file_bytes
                    && let Some((writer, placed)) = open.take()
                {
                    self.refer_to(writer, placed)?;
                }
            }
        }
        match open {
            Some((writer, placed)) => self.refer_to(writer, placed),
            None => Ok(()),
        }
    }

    /// Makes a page of what was gathered, some of which may have to be read first.
    fn make(&self, gathered: &Gathered) -> Result<Option<Unwritten>, Ended> {
        let mut sources: Vec<(PageKey, PageContent)> = Vec::new();
        for key in gathered.sources() {
            if !sources.iter().any(|(known, _)| *known == key) {
                let content = self.pager.read(key)?.ok_or_else(|| mismatch(key))?;
                sources.push((key, content));
            }
        }
        let content = |key| sources.iter().find(|(known, _)| *known == key).map(|(_, c)| c);
        gathered.write(self.encodings, content).map_err(|key| Ended::Storage(mismatch(key)))
    }

    /// Makes a file durable, and lets the ledger refer to its pages.
    fn refer_to(&self, writer: PageWriter, placed: Placed) -> Result<(), Ended> {
        self.pager.add(writer.finish()?);
        for (page, written) in placed {
            self.ask(move |shard| shard.page_out(&page, &written))?;
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, Ended> {
        self.ask(Shard::snapshot)?.ok_or(Ended::TooEarly)
    }

    /// Removes page files that the checkpoint does not name, and finds those that are sparse.
    fn tidy_up(&self, ledger: &Ledger, outcome: &mut Outcome) -> Result<(), Ended> {
        let live = ledger.page_files();
        let needed: BTreeSet<u64> = live.keys().copied().collect();
        self.pager.keep(&needed);
        let unneeded = pages::list(&*self.storage)?.into_iter().filter(|n| !needed.contains(n));
        pages::remove(&*self.storage, unneeded.collect::<Vec<u64>>())?;
        outcome.has_pages = !needed.is_empty();
        outcome.paged_len = ledger.paged_len();
        let sizes = self.pager.sizes();
        let mut sparse: Vec<(u64, u64)> = live
            .into_iter()
            .filter(|(number, live)| sizes.get(number).is_some_and(|size| live * 2 < *size))
            .map(|(number, live)| (live, number))
            .collect();
        sparse.sort_unstable();
        let mut moved = 0;
        outcome.sparse = sparse
            .into_iter()
            .take_while(|(live, _)| {
                moved += live;
                moved <= MOVED_BYTES_MAX
            })
            .map(|(_, number)| number)
            .collect();
        Ok(())
    }
}

/// The ledger refers to a page for messages that it does not hold.
fn mismatch(key: PageKey) -> Error {
    Error::Corrupt {
        file: pages::file_name(key.file),
        offset: key.offset,
        reason: "the page does not hold the messages that it should".to_owned(),
    }
}

/// Writes the entries of a checkpoint: each behind its length, four bytes, low ones first.
pub(crate) fn write_entries(
    entries: impl Iterator<Item = Entry>,
    out: &mut dyn Write,
    stop: &watch::Receiver<bool>,
) -> io::Result<()> {
    let mut payload = Vec::new();
    for entry in entries {
        if *stop.borrow() {
            return Err(io::Error::other("the broker stops"));
        }
        payload.clear();
        codec::encode(&entry, &mut payload);
        let len = u32::try_from(payload.len())
            .map_err(|_| io::Error::other("an entry of a checkpoint is larger than 4 GiB"))?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(&payload)?;
    }
    Ok(())
}

/// Runs `inspect` on the shard and waits for what it says; from a thread that may block.
pub(crate) fn ask<T: Send + 'static>(
    threads: &Threads,
    driver: &dyn Driver,
    inspect: impl FnOnce(&mut Shard) -> T + Send + 'static,
) -> Option<T> {
    put(threads, driver, inspect).recv().ok()
}

/// Has `inspect` run on the shard; what it says will be there.
fn put<T: Send + 'static>(
    threads: &Threads,
    driver: &dyn Driver,
    inspect: impl FnOnce(&mut Shard) -> T + Send + 'static,
) -> Receiver<T> {
    let (tell, told) = threads.channel();
    driver.submit(Input::Inspect(Box::new(move |shard| drop(tell.send(inspect(shard))))));
    told
}
