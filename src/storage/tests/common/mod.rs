//! What the tests of the storage share: seeds, and a model of what a log must hold.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod oracle;

use std::{ops::ControlFlow, sync::Arc};

use isthmus_storage::{
    AppendEntry, EntryMeta, Log, LogId, LogOptions, LogReader, SharedStorage, SimStorage, fs::Rng,
};

/// Segments so small that a short run rolls through many of them.
pub(crate) fn tiny() -> LogOptions {
    LogOptions { segment_bytes: 8 << 10, entry_bytes_max: 1 << 20, spares: 1, spares_max: 3 }
}

pub(crate) fn shared(sim: &SimStorage) -> SharedStorage {
    Arc::new(sim.clone())
}

/// The seeds to run: `short` by default, more if the environment says so.
pub(crate) fn seeds(short: u64) -> std::ops::Range<u64> {
    let wanted = std::env::var("ISTHMUS_SEEDS").ok().and_then(|n| n.parse().ok());
    let first = std::env::var("ISTHMUS_SEED").ok().and_then(|n| n.parse().ok());
    match first {
        Some(seed) => seed..seed + 1,
        None => 0..wanted.unwrap_or(short),
    }
}

/// Says how to repeat a seed if the test fails in it.
pub(crate) struct Announce(pub(crate) u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failing seed {0}; repeat with ISTHMUS_SEED={0}", self.0);
        }
    }
}

/// The payload of an entry, told by its place and a mark that differs between lives of an index.
pub(crate) fn payload(index: u64, mark: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(index ^ (mark << 32));
    let mut bytes: Vec<u8> = [index.to_le_bytes(), mark.to_le_bytes()].concat();
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len.max(16));
    bytes
}

pub(crate) fn append(log: &mut Log, id: LogId, payload: &[u8]) -> isthmus_storage::Result<()> {
    let meta = EntryMeta { group: 0, term: id.term, index: id.index, kind: 7 };
    log.append(&[AppendEntry { meta, payload: &[payload] }])
}

/// Everything a log holds, from behind what was purged.
pub(crate) fn contents(reader: &LogReader) -> Vec<(LogId, Vec<u8>)> {
    let mut found = Vec::new();
    let first = reader.last_purged().index + 1;
    reader
        .visit(first, u64::MAX, |meta, payload| {
            assert_eq!(meta.kind, 7);
            assert_eq!(reader.term_of(meta.index), Some(meta.term));
            found.push((LogId { term: meta.term, index: meta.index }, payload.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    let last = found.last().map_or(reader.last_purged(), |(id, _)| *id);
    assert_eq!(reader.last_log_id(), last, "the last id is not that of the last entry");
    found
}
