//! Damage that was met while a broker ran: noted before the process ends, and verified first by the
//! next start.

use std::collections::BTreeSet;

use isthmus_core::Ledger;
use isthmus_storage::damage::{self, NOTE_NAME, Note};
use isthmus_storage::pages::{self, PageFile};
use isthmus_storage::{Error, SharedStorage};

use crate::broker::FailureHook;
use crate::offline::{BadPage, check_pages};
use crate::recovery::RecoveryError;

/// Has the place of damage noted, if the failure is that, before `then` is called.
pub(crate) fn noting(storage: SharedStorage, then: FailureHook) -> FailureHook {
    Box::new(move |error| {
        match damage::note(&*storage, &error) {
            Ok(true) => tracing::error!(
                "noted in {NOTE_NAME}: the next start verifies this place first, and refuses \
                 while it is damaged"
            ),
            Ok(false) => {}
            Err(failed) => tracing::error!(
                error = %failed,
                "the place of the damage could not be noted: the next start may not know of it"
            ),
        }
        then(error);
    })
}

/// Verifies the page files that damage is noted in, as far as `ledger` needs them, and removes the
/// note if they are whole. Returns their numbers.
///
/// # Errors
/// If one of them is damaged still, with file and offset; the note stays.
pub(crate) fn verify(
    storage: &SharedStorage,
    ledger: &Ledger,
) -> Result<BTreeSet<u64>, RecoveryError> {
    let needed = ledger.page_files();
    let files: BTreeSet<u64> = match damage::read(&**storage)? {
        Note::Nothing => return Ok(BTreeSet::new()),
        Note::Places(places) => places.into_iter().map(|place| place.number).collect(),
        Note::Unreadable => needed.keys().copied().collect(),
    };
    let files: BTreeSet<u64> = files.into_iter().filter(|n| needed.contains_key(n)).collect();
    for number in &files {
        PageFile::open(&**storage, *number)
            .and_then(|file| file.verify())
            .map_err(RecoveryError::Noted)?;
    }
    // Whole, and yet not what the ledger expects there.
    let mut bad = None;
    check_pages(ledger, &files, storage, &mut |page| bad = bad.take().or(Some(page)));
    if let Some(BadPage { file, offset, what }) = bad {
        let reason = format!("the page does not belong to the checkpoint: {what}");
        let file = pages::file_name(file);
        return Err(RecoveryError::Noted(Error::Corrupt { file, offset, reason }));
    }
    damage::clear(&**storage)?;
    tracing::info!(files = files.len(), "what damage was noted in is whole: the note is removed");
    Ok(files)
}
