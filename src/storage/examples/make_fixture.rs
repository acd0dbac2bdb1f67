//! Writes a small data directory in the current format, for `tests/fixtures`: run once for each
//! format version, commit what it wrote, and never write over it.
//!
//! `cargo run -p isthmus-storage --example make_fixture -- src/storage/tests/fixtures/v1`

use std::{error::Error, sync::Arc};

use isthmus_storage::{
    AppendEntry, EntryMeta, HardState, Log, LogId, LogOptions, RealStorage, SharedStorage,
    checkpoint,
};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("say which directory to write")?;
    let storage: SharedStorage = Arc::new(RealStorage::open(path)?);
    let options = LogOptions { segment_bytes: 8 << 10, spares: 1, ..LogOptions::default() };
    let (mut log, _) = Log::open(Arc::clone(&storage), options)?;
    log.prepare_spare()?;
    for index in 1..=40 {
        let text = format!("entry {index} of the fixture; ").repeat(index as usize % 7 + 1);
        let meta = EntryMeta { group: 0, term: 1 + index / 20, index, kind: (index % 3) as u8 };
        log.append(&[AppendEntry { meta, payload: &[text.as_bytes()] }])?;
    }
    log.sync()?;
    checkpoint::write(&*storage, 10, 1, |out| out.write_all(b"the state at entry 10"))?;
    log.purge_to(LogId { term: 1, index: 10 })?;
    log.save_hard_state(HardState {
        term: 4,
        voted_for: Some(2),
        vote_committed: true,
        committed: 35,
    })?;
    log.truncate_from(39)?;
    let meta = EntryMeta { group: 0, term: 4, index: 39, kind: 9 };
    log.append(&[AppendEntry { meta, payload: &[b"in place of ", b"what was truncated"] }])?;
    log.close()?;
    Ok(())
}
