//! Reading pages: the files that are open, and the thread that reads what the shard asks for.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use isthmus_core::paging::{self, PageContent, PageKey};
use isthmus_storage::pages::{PageAddress, PageFile};
use isthmus_storage::threads::{Receiver, Threads};
use isthmus_storage::{Error, SharedStorage};
use parking_lot::Mutex;

use crate::broker::OnFailure;
use crate::driver::Driver;
use crate::shard::{Input, Shard};

/// Page files by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Pager {
    files: Mutex<HashMap<u64, Arc<PageFile>>>,
}

impl Pager {
    /// Opens every file that is needed.
    ///
    /// # Errors
    /// If one is missing, damaged or not whole.
    pub(crate) fn open(
        storage: &SharedStorage,
        needed: impl IntoIterator<Item = u64>,
    ) -> Result<Pager, Error> {
        let pager = Pager::default();
        for number in needed {
            pager.add(PageFile::open(&**storage, number)?);
        }
        Ok(pager)
    }

    /// Verifies every page of the first files, as many as have `bytes` together; returns which.
    ///
    /// # Errors
    /// If a page is damaged, with file and offset, and what the operating system says.
    pub(crate) fn verify(&self, bytes: u64) -> Result<BTreeSet<u64>, Error> {
        let mut files: Vec<_> = self.files.lock().values().cloned().collect();
        files.sort_by_key(|file| file.number());
        let mut left = bytes;
        let mut verified = BTreeSet::new();
        for file in files {
            let Some(rest) = left.checked_sub(file.bytes()) else { break };
            left = rest;
            file.verify()?;
            verified.insert(file.number());
        }
        Ok(verified)
    }

    /// A file was written.
    pub(crate) fn add(&self, file: Arc<PageFile>) {
        self.files.lock().insert(file.number(), file);
    }

    /// Forgets all files but `needed`.
    pub(crate) fn keep(&self, needed: &BTreeSet<u64>) {
        self.files.lock().retain(|number, _| needed.contains(number));
    }

    /// Those of the files that are among `numbers`, by number.
    pub(crate) fn files(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<Arc<PageFile>> {
        let files = self.files.lock();
        numbers.into_iter().filter_map(|number| files.get(&number).cloned()).collect()
    }

    /// The numbers and sizes of the files, in bytes.
    pub(crate) fn sizes(&self) -> HashMap<u64, u64> {
        self.files.lock().iter().map(|(number, file)| (*number, file.bytes())).collect()
    }

    /// Reads a page; `None` if its file is not needed any more.
    ///
    /// # Errors
    /// If it is damaged, with file and offset, and what the operating system says.
    pub(crate) fn read(&self, key: PageKey) -> Result<Option<PageContent>, Error> {
        let file = self.files.lock().get(&key.file).cloned();
        let Some(file) = file else { return Ok(None) };
        let address = PageAddress { file: key.file, offset: key.offset, len: key.len };
        let content = Bytes::from(file.read(address)?);
        paging::read(&content).map(Some).map_err(|error| Error::Corrupt {
            file: file.name().to_owned(),
            offset: key.offset,
            reason: format!("the page is not what it should be: {error}"),
        })
    }

    /// Starts the thread that reads what is asked for. It ends when nobody can ask any more.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn serve(
        self: &Arc<Self>,
        threads: &Threads,
        asked: Receiver<PageKey>,
        driver: Weak<dyn Driver>,
        on_failure: Arc<OnFailure>,
    ) -> std::io::Result<()> {
        let pager = Arc::clone(self);
        let serve = move || {
            while let Ok(key) = asked.recv() {
                let read = pager.read(key);
                let Some(driver) = driver.upgrade() else { return };
                let answer: Box<dyn FnOnce(&mut Shard) + Send> = match read {
                    Ok(Some(content)) => Box::new(move |shard| shard.page_read(key, content)),
                    // Since it was asked for, its messages have gone, or into another page.
                    Ok(None) => Box::new(move |shard| shard.page_gone(key)),
                    // What cannot be read cannot be delivered, nor passed over.
                    Err(error) => {
                        let on_failure = Arc::clone(&on_failure);
                        Box::new(move |shard| {
                            shard.fail();
                            on_failure.call(error);
                        })
                    }
                };
                driver.submit(Input::Inspect(answer));
            }
        };
        threads.spawn("pages", serve).map(drop)
    }
}
