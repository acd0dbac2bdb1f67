//! What every node of a cluster has: the ledger, and how far in the log it has come.

use bytes::Bytes;
use isthmus_cluster::member::Point;
use isthmus_core::{Entry, Fact, Ledger, Members, Place};
use isthmus_storage::Extent;

use crate::marks::Marks;

/// Told the settings whenever they have changed, before anybody is told that they have.
pub type OnSettings = Box<dyn FnMut(&Ledger) + Send>;

/// What a shard begins with.
pub(crate) struct Recovered {
    pub(crate) ledger: Ledger,
    /// The last entry that the ledger has applied.
    pub(crate) applied: u64,
    /// The consensus term of that entry.
    pub(crate) applied_term: u64,
    /// What the log takes on disk, oldest first.
    pub(crate) extents: Vec<Extent>,
    /// Bytes of the log since the last checkpoint.
    pub(crate) log_bytes: u64,
}

/// The ledger, and how far it has come.
pub(crate) struct Replica {
    pub(crate) ledger: Ledger,
    /// The last entry that the ledger has applied.
    pub(crate) applied: u64,
    /// The consensus term of that entry.
    pub(crate) applied_term: u64,
    /// How far the log was at which entry.
    pub(crate) marks: Marks,
    /// Bytes of the log at the last checkpoint, by the same count.
    pub(crate) checkpointed_at_bytes: u64,
    on_settings: OnSettings,
    /// The version of the settings that were last told.
    settings_told: u64,
}

/// What came of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It counts.
    Counts,
    /// It does not follow on the entry before, and changed nothing.
    Void,
}

impl Replica {
    pub(crate) fn new(recovered: Recovered, mut on_settings: OnSettings) -> Replica {
        let Recovered { ledger, applied, applied_term, extents, log_bytes } = recovered;
        let marks = Marks::new(&extents);
        on_settings(&ledger);
        Replica {
            settings_told: ledger.settings().version(),
            checkpointed_at_bytes: marks.bytes().saturating_sub(log_bytes),
            ledger,
            applied,
            applied_term,
            marks,
            on_settings,
        }
    }

    /// Applies the entry at `index`, the next of the log.
    pub(crate) fn apply(&mut self, index: u64, place: Option<Place>, entry: &Entry) -> Applied {
        assert_eq!(index, self.applied + 1, "entries are applied one after the other");
        self.applied = index;
        match place {
            Some(place) if !self.ledger.apply_placed(index, place, entry) => Applied::Void,
            Some(_) => Applied::Counts,
            None => {
                self.ledger.apply_at(index, entry);
                Applied::Counts
            }
        }
    }

    /// Passes over the entry at `index`, which is consensus' own.
    pub(crate) fn pass(&mut self, index: u64) {
        assert_eq!(index, self.applied + 1, "entries are applied one after the other");
        self.applied = index;
    }

    /// The entry at `index` says who takes part.
    pub(crate) fn set_members(&mut self, index: u64, term: u64, members: &Bytes) {
        let members = Members { index, term, members: members.as_ref().into() };
        let facts = vec![Fact::Members(members.into())];
        self.apply(index, None, &Entry { time: self.ledger.time(), facts });
    }

    /// Tells what is new of the settings.
    pub(crate) fn tell_settings(&mut self) {
        let version = self.ledger.settings().version();
        if std::mem::replace(&mut self.settings_told, version) != version {
            (self.on_settings)(&self.ledger);
        }
    }

    /// Another node's state comes in the place of this one's.
    pub(crate) fn install(&mut self, ledger: Ledger, index: u64, term: u64) {
        self.ledger = ledger;
        self.applied = index;
        self.applied_term = term;
        self.marks = Marks::new(&[]);
        self.checkpointed_at_bytes = 0;
        self.settings_told = self.ledger.settings().version();
        (self.on_settings)(&self.ledger);
    }
}

/// Where a ledger stands that has applied entry `index` of consensus term `term`.
pub(crate) fn point_of(ledger: &Ledger, index: u64, term: u64) -> Point {
    let members = ledger
        .members()
        .map(|members| (members.index, members.term, Bytes::copy_from_slice(&members.members)));
    Point { index, term, members }
}
