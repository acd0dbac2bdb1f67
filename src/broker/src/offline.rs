//! What the data of a broker that does not run means: read by the rules of the start, without a
//! start and without a change.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_cluster::SingleOptions;
use isthmus_core::paging::{self, PageContent, PageKey, PagedRun};
use isthmus_core::{Ledger, Part, QueueLedger};
use isthmus_model::{QueueId, Sequence};
use isthmus_storage::fs::OverlayStorage;
use isthmus_storage::pages::{PageAddress, PageFile};
use isthmus_storage::{Error, LogOptions, SharedStorage};

use crate::recovery::{RecoveryError, read_ledger};

/// The data as a broker would find it that starts on it.
pub struct Offline {
    ledger: Ledger,
    applied: u64,
}

/// What is in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueContent {
    /// Its virtual host.
    pub vhost: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Messages in it.
    pub messages: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Those of the messages that are in pages.
    pub in_pages: u64,
    /// Those that are in the log, or in a checkpoint.
    pub in_log: u64,
    /// The sequence that the next message gets at least.
    pub next: Sequence,
}

/// A page that does not hold what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPage {
    /// The number of the page file.
    pub file: u64,
    /// The offset of the page in it, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

impl Offline {
    /// Reads checkpoint and log of the data in `storage`, whose lock the caller holds, and decodes
    /// every entry that counts. What a start would write stays in memory.
    ///
    /// # Errors
    /// Why a broker would not start on it. Pages are not looked at.
    pub fn read(storage: SharedStorage) -> Result<Offline, RecoveryError> {
        let overlay: SharedStorage = Arc::new(OverlayStorage::new(storage));
        let log = LogOptions { spares: 0, ..LogOptions::default() };
        let options = SingleOptions { log, ..SingleOptions::default() };
        let (read, _) = read_ledger(&overlay, options)?;
        Ok(Offline { ledger: read.ledger, applied: read.applied.index })
    }

    /// The last entry of the log.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The numbers of the page files that are needed. The next start removes the others.
    pub fn page_files(&self) -> BTreeSet<u64> {
        self.ledger.page_files().into_keys().collect()
    }

    /// Every durable queue, by virtual host and name.
    pub fn queues(&self) -> Vec<QueueContent> {
        let mut queues: Vec<QueueContent> = each_queue(&self.ledger)
            .map(|(_, queue)| {
                let mut content = QueueContent {
                    vhost: Arc::clone(&queue.vhost),
                    name: Arc::clone(&queue.def.name),
                    messages: queue.runs.len(),
                    body_bytes: 0,
                    in_pages: 0,
                    in_log: 0,
                    next: queue.next,
                };
                for part in queue.runs.iter() {
                    content.body_bytes += part.body_bytes();
                    match part {
                        Part::Here(_) => content.in_log += part.len(),
                        Part::Paged(run) => content.in_pages += u64::from(run.left()),
                    }
                }
                content
            })
            .collect();
        queues.sort_by(|a, b| (&a.vhost, &a.name).cmp(&(&b.vhost, &b.name)));
        queues
    }

    /// Reads every page that is needed and compares it with what is known of its messages. A file
    /// or a page that cannot be read or is damaged is passed over: verifying the storage tells of
    /// it.
    pub fn check_pages(&self, storage: &SharedStorage, tell: &mut dyn FnMut(BadPage)) {
        check_pages(&self.ledger, &self.page_files(), storage, tell);
    }
}

fn each_queue(ledger: &Ledger) -> impl Iterator<Item = (QueueId, &QueueLedger)> {
    let ids = (1..ledger.next_queue().0).map(QueueId);
    ids.filter_map(|id| ledger.queue(id).map(|queue| (id, queue)))
}

/// Reads every page of `files` that `ledger` needs and compares it with what is known of its
/// messages. A file or a page that cannot be read or is damaged is passed over.
pub(crate) fn check_pages(
    ledger: &Ledger,
    files: &BTreeSet<u64>,
    storage: &SharedStorage,
    tell: &mut dyn FnMut(BadPage),
) {
    let mut runs: Vec<(QueueId, &PagedRun)> = each_queue(ledger)
        .flat_map(|(id, queue)| queue.runs.iter().map(move |part| (id, part)))
        .filter_map(|(id, part)| match part {
            Part::Paged(run) if files.contains(&run.page.key.file) => Some((id, run)),
            _ => None,
        })
        .collect();
    // Each file is opened once, and each page read once.
    runs.sort_by_key(|(_, run)| run.page.key);
    let mut file: Option<Arc<PageFile>> = None;
    let mut is_whole: Option<bool> = None;
    for of_page in runs.chunk_by(|(_, a), (_, b)| a.page.key == b.page.key) {
        let Some((_, first)) = of_page.first() else { continue };
        let key = first.page.key;
        if file.as_ref().is_none_or(|file| file.number() != key.file) {
            file = PageFile::open(&**storage, key.file).ok();
            is_whole = None;
        }
        let Some(file) = &file else { continue };
        let bad = |what| BadPage { file: key.file, offset: key.offset, what };
        match read(file, key) {
            Read::Failed => {}
            // Nobody tells of a page that is not there in a file that has no damage.
            Read::NotThere => {
                if *is_whole.get_or_insert_with(|| file.verify().is_ok()) {
                    tell(bad("the file is whole and has no such page there".to_owned()));
                }
            }
            Read::Nonsense(what) => tell(bad(what)),
            Read::Page(content) => {
                for (id, run) in of_page.iter().filter(|(_, run)| !holds(&content, run)) {
                    let first = run.first;
                    tell(bad(format!("it does not hold message {first} of queue {id}")));
                }
            }
        }
    }
}

/// What comes of reading a page.
enum Read {
    Page(PageContent),
    /// It is whole and cannot be understood.
    Nonsense(String),
    /// It is damaged, or there is none at its place.
    NotThere,
    /// The disk says no.
    Failed,
}

fn read(file: &PageFile, key: PageKey) -> Read {
    let address = PageAddress { file: key.file, offset: key.offset, len: key.len };
    match file.read(address) {
        Ok(bytes) => match paging::read(&Bytes::from(bytes)) {
            Ok(content) => Read::Page(content),
            Err(error) => Read::Nonsense(format!("its content makes no sense: {error}")),
        },
        Err(Error::Corrupt { .. }) => Read::NotThere,
        Err(_) => Read::Failed,
    }
}

/// Whether a page holds every message of a run.
fn holds(content: &PageContent, run: &PagedRun) -> bool {
    run.parts().all(|stretch| {
        let mut at = stretch.first;
        while let Some(rest) = stretch.part(at, u64::MAX) {
            match rest.read(content) {
                Some(here) => at = here.end(),
                None => return false,
            }
        }
        true
    })
}
