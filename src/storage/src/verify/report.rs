//! What verifying a data directory reports.

use crate::{
    damage::NotedPlace,
    fs::Storage,
    log::{HardState, LogId, Saved, Segment},
};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The next start puts it right and nothing is lost by it.
    Harmless,
    /// Something that was durable is missing or does not read back.
    Damage,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Name of the file within the data directory.
    pub file: String,
    /// Byte offset within the file, where there is one.
    pub offset: Option<u64>,
    /// What was found there.
    pub what: String,
    /// What to do about it.
    pub advice: &'static str,
}

/// What is in a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The format of the directory; `None` if it says none, or cannot be read.
    pub format: Option<u32>,
    /// Whether there is any data. Without data and a format it is no data directory, or a new one.
    pub has_data: bool,
    /// What the state file says; `None` if there is none, or it cannot be read.
    pub state: Option<StateReport>,
    /// The segments of the log, oldest first.
    pub segments: Vec<SegmentReport>,
    /// The index of the last entry of the log; `None` if damage hides it.
    pub last_index: Option<u64>,
    /// Checkpoints, oldest first: the last one counts.
    pub checkpoints: Vec<CheckpointReport>,
    /// Page files by number.
    pub pages: Vec<PageReport>,
    /// Damage in page files that was met while a broker ran.
    pub noted: Vec<NotedPlace>,
    /// Files that wait to become segments.
    pub spares: Vec<FileReport>,
    /// Temporary files that a crash left; they are removed or written over in time.
    pub leftovers: Vec<FileReport>,
    /// Findings that are damage.
    pub damage: u64,
    /// Findings that are harmless.
    pub harmless: u64,
}

/// What the state file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateReport {
    /// Term, vote and committed index.
    pub hard: HardState,
    /// The last entry that was purged.
    pub purged: LogId,
    /// The last sequence of the log that was durable when it was saved.
    pub durable_sequence: u64,
}

impl StateReport {
    pub(crate) fn of(saved: &Saved) -> Self {
        Self { hard: saved.hard, purged: saved.purged, durable_sequence: saved.durable }
    }
}

/// How a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Whole; the log goes on in the next one.
    Full,
    /// The last one, and everything in it is known to be durable.
    Sealed,
    /// The last one, not sealed: the process was killed or the power went.
    Open,
    /// The last one, with a torn tail.
    Torn,
    /// The last one, without a record.
    Empty,
    /// Holds nothing that is needed; the next start recycles it.
    Purged,
    /// Damaged.
    Damaged,
}

impl Condition {
    /// The condition in a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Sealed => "sealed",
            Self::Open => "open",
            Self::Torn => "torn",
            Self::Empty => "empty",
            Self::Purged => "purged",
            Self::Damaged => "damaged",
        }
    }
}

/// A segment of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// Name of the file.
    pub file: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// How it is.
    pub condition: Condition,
    /// Whole entries, including those that were truncated later.
    pub entries: u64,
    /// Index of the first of them.
    pub first_index: Option<u64>,
    /// Index of the last of them.
    pub last_index: Option<u64>,
    /// Sequence of the last whole record; of the last one before the segment if it has none.
    pub last_sequence: u64,
    /// Offset behind that record, in bytes.
    pub end_offset: u64,
}

impl SegmentReport {
    pub(crate) fn new(segment: &Segment, condition: Condition) -> Self {
        Self {
            file: segment.name.clone(),
            incarnation: segment.header.incarnation,
            bytes: segment.file.size().unwrap_or(0),
            condition,
            entries: 0,
            first_index: None,
            last_index: None,
            last_sequence: segment.header.first_sequence.saturating_sub(1),
            end_offset: 0,
        }
    }

    /// One whose header cannot be read.
    pub(crate) fn unreadable(storage: &dyn Storage, name: &str, incarnation: u64) -> Self {
        Self {
            file: name.to_owned(),
            incarnation,
            bytes: size_of(storage, name),
            condition: Condition::Damaged,
            entries: 0,
            first_index: None,
            last_index: None,
            last_sequence: 0,
            end_offset: 0,
        }
    }
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Name of the file.
    pub file: String,
    /// The last index whose effects are in it.
    pub index: u64,
    /// The term of that entry; `None` if it cannot be read.
    pub term: Option<u64>,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Whether it is the newest one, which alone counts.
    pub newest: bool,
    /// Whether damage was found in it.
    pub damaged: bool,
}

/// A page file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageReport {
    /// Name of the file.
    pub file: String,
    /// Its number.
    pub number: u64,
    /// Pages in it; the whole ones if they were verified.
    pub pages: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Whether the newest checkpoint names it; `None` if that is not known.
    pub needed: Option<bool>,
    /// Whether damage was found in it.
    pub damaged: bool,
}

/// Another file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// Its name.
    pub file: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The size of a file in bytes, 0 if it cannot be told.
pub(super) fn size_of(storage: &dyn Storage, name: &str) -> u64 {
    storage.open(name).and_then(|file| file.size()).unwrap_or(0)
}
