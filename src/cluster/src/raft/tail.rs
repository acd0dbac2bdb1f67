//! The end of the log in memory.
//!
//! openraft reads an entry as soon as `append` has returned: to send it to the followers, and to
//! apply it. The file has it later, when the writer's thread has come to it. So every entry stays
//! here until the file has it, and beyond that until newer entries need the room: on a node that
//! keeps up, replication and apply read no file.

use std::{collections::VecDeque, io, sync::Arc};

use isthmus_storage::{EntryMeta, HardState, LogId};
use openraft::EntryPayload;
use parking_lot::Mutex;

use super::{
    Entry,
    convert::{Body, entry_to_log, id_to_log},
};

/// What an entry costs in memory besides its payload, in bytes.
const ENTRY_BYTES: usize = size_of::<Entry>();

/// What is shared between the log store, its readers and the completions on the writer's thread.
/// The lock is held for moving entries and never across I/O, and no other lock is taken under it.
pub(super) type SharedState = Arc<Mutex<State>>;

/// The log as openraft must see it: what was asked for, whether or not it is written yet.
/// All indexes are those of the log.
#[derive(Debug)]
pub(super) struct State {
    /// The vote as saved last, and the committed index as last heard.
    pub(super) hard: HardState,
    /// The last entry; the last purged one if there is none.
    pub(super) last: LogId,
    pub(super) purged: LogId,
    /// The last index that is on stable storage, and so can be read from the file.
    pub(super) durable: u64,
    /// The entries up to `last`, without gaps.
    entries: VecDeque<Entry>,
    /// What `entries` costs.
    bytes: usize,
    /// Entries that the file has go when `bytes` is beyond this.
    bytes_max: usize,
}

impl State {
    /// The state of a log that was just opened: everything in it is durable.
    pub(super) fn new(hard: HardState, last: LogId, purged: LogId, bytes_max: usize) -> Self {
        let entries = VecDeque::new();
        Self { hard, last, purged, durable: last.index, entries, bytes: 0, bytes_max }
    }

    /// The index of the first entry in memory; one more than the last entry's if there is none.
    fn first(&self) -> u64 {
        self.last.index + 1 - self.entries.len() as u64
    }

    /// Adds entries, and returns them as they are to be written. Nothing is added if one of them
    /// does not follow on the one before it.
    pub(super) fn append(&mut self, entries: Vec<Entry>) -> io::Result<Vec<(EntryMeta, Body)>> {
        let mut last = self.last;
        for entry in &entries {
            let id = id_to_log(&entry.log_id);
            if id.index != last.index + 1 || id.term < last.term {
                // The writer would end the log over this; here it ends openraft only.
                let reason = format!("entry {id:?} does not follow on entry {last:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
            }
            last = id;
        }
        let records = entries.iter().map(entry_to_log).collect();
        self.bytes += entries.iter().map(cost).sum::<usize>();
        self.entries.extend(entries);
        self.last = last;
        Ok(records)
    }

    /// Notes that the entries up to `index` are durable.
    pub(super) fn durable(&mut self, index: u64) {
        self.durable = self.durable.max(index);
        while self.bytes > self.bytes_max && self.first() <= self.durable {
            self.drop_first();
        }
    }

    /// Removes the entries behind `last`. Call it when the writer has done so too: until then the
    /// completions of earlier appends may still come, and speak of the entries removed.
    pub(super) fn truncate(&mut self, last: LogId) {
        while self.last.index > last.index {
            let Some(entry) = self.entries.pop_back() else { break };
            self.bytes -= cost(&entry);
            self.last.index -= 1;
        }
        self.last = last;
        self.durable = self.durable.min(last.index);
    }

    /// Forgets the entries up to `purged`, which may be beyond the last one.
    pub(super) fn purge(&mut self, purged: LogId) {
        self.purged = purged;
        while self.first() <= purged.index && !self.entries.is_empty() {
            self.drop_first();
        }
        if self.last.index < purged.index {
            self.last = purged;
        }
        self.durable = self.durable.max(purged.index);
        self.hard.committed = self.hard.committed.max(purged.index);
    }

    /// The range of entries there are within `from..to`, where the part in memory begins, and that
    /// part up to `bytes_max`, at least one entry.
    pub(super) fn read(&self, from: u64, to: u64, bytes_max: usize) -> Part {
        let from = from.max(self.purged.index + 1);
        let to = to.min(self.last.index + 1);
        let memory_from = self.first().clamp(from, to.max(from));
        let mut entries = Vec::new();
        let mut bytes = 0;
        // The offsets fit: they are within what is in memory.
        let skip = memory_from.saturating_sub(self.first()) as usize;
        for entry in self.entries.iter().skip(skip).take(to.saturating_sub(memory_from) as usize) {
            if !entries.is_empty() && bytes >= bytes_max {
                break;
            }
            bytes += payload_bytes(entry);
            entries.push(entry.clone());
        }
        Part { from, to: to.max(from), memory_from, entries }
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= cost(&entry);
        }
    }
}

/// What of a range is in memory.
#[derive(Debug)]
pub(super) struct Part {
    /// The first index there is.
    pub(super) from: u64,
    /// One more than the last index there is.
    pub(super) to: u64,
    /// Entries from `from` up to this are in the file only.
    pub(super) memory_from: u64,
    /// Entries from `memory_from` on.
    pub(super) entries: Vec<Entry>,
}

/// The payload of an entry in bytes. A membership counts as nothing: it is small and rare.
pub(super) fn payload_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

fn cost(entry: &Entry) -> usize {
    ENTRY_BYTES + payload_bytes(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::convert::id_from_log;

    fn entry(term: u64, index: u64) -> Entry {
        let log_id = id_from_log(LogId { term, index }).expect("the first index is 1");
        Entry { log_id, payload: EntryPayload::Normal(vec![0; 100].into()) }
    }

    fn empty(bytes_max: usize) -> State {
        State::new(HardState::default(), LogId::ZERO, LogId::ZERO, bytes_max)
    }

    fn indexes(part: &Part) -> Vec<u64> {
        part.entries.iter().map(|e| id_to_log(&e.log_id).index).collect()
    }

    #[test]
    fn entries_stay_until_they_are_durable_and_need_room() {
        let mut state = empty(2 * (ENTRY_BYTES + 100));
        state.append((1..=5).map(|i| entry(1, i)).collect()).expect("in order");
        assert_eq!(indexes(&state.read(1, 9, usize::MAX)), [1, 2, 3, 4, 5]);
        state.durable(1);
        let part = state.read(1, 9, usize::MAX);
        assert_eq!((part.from, part.memory_from, part.to), (1, 2, 6));
        state.durable(5);
        assert_eq!(indexes(&state.read(1, 9, usize::MAX)), [4, 5], "two fit");
        assert_eq!(state.bytes, 2 * (ENTRY_BYTES + 100));
    }

    #[test]
    fn a_read_is_bounded_and_is_not_empty() {
        let mut state = empty(usize::MAX);
        state.append((1..=5).map(|i| entry(1, i)).collect()).expect("in order");
        assert_eq!(indexes(&state.read(2, 6, 150)), [2, 3]);
        assert_eq!(indexes(&state.read(2, 6, 0)), [2]);
        assert_eq!(indexes(&state.read(6, 9, 0)), [0; 0]);
        assert_eq!(indexes(&state.read(4, 2, 0)), [0; 0]);
    }

    #[test]
    fn gaps_and_older_terms_are_refused_and_change_nothing() {
        let mut state = empty(usize::MAX);
        state.append(vec![entry(2, 1)]).expect("the first");
        for wrong in [entry(2, 1), entry(2, 3), entry(1, 2)] {
            assert!(state.append(vec![wrong]).is_err());
        }
        assert!(state.append(vec![entry(2, 2), entry(2, 4)]).is_err());
        assert_eq!(state.last, LogId { term: 2, index: 1 });
        assert_eq!(state.bytes, ENTRY_BYTES + 100);
    }

    #[test]
    fn truncate_and_purge_keep_the_books() {
        let mut state = empty(usize::MAX);
        state.append((1..=6).map(|i| entry(1, i)).collect()).expect("in order");
        state.durable(6);
        state.truncate(LogId { term: 1, index: 4 });
        assert_eq!((state.last.index, state.durable), (4, 4));
        state.append(vec![entry(2, 5)]).expect("follows");
        state.purge(LogId { term: 1, index: 2 });
        assert_eq!(indexes(&state.read(1, 9, usize::MAX)), [3, 4, 5]);
        state.purge(LogId { term: 3, index: 9 });
        assert_eq!((state.last.index, state.bytes, state.first()), (9, 0, 10));
        state.append(vec![entry(3, 10)]).expect("follows on what was purged");
    }

    #[test]
    fn truncation_reaches_below_what_is_in_memory() {
        let mut state = empty(0);
        state.append((1..=6).map(|i| entry(1, i)).collect()).expect("in order");
        state.durable(5);
        state.truncate(LogId { term: 1, index: 3 });
        assert_eq!((state.last.index, state.bytes, state.first()), (3, 0, 4));
    }
}
