//! Between openraft's types and those of the log.
//!
//! openraft counts entries from 0 and says "none" for what comes before; the log counts from 1 and
//! says 0. Every index is converted here and nowhere else.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use isthmus_storage::{EncodeEntry, EntryMeta, HardState, LogId};
use openraft::{EntryPayload, vote::leader_id_std::CommittedLeaderId};

use super::{Entry, Membership, Proposal, RaftLogId, Vote, membership};
use crate::member::MemberId;

/// The consensus group; there is one.
const GROUP: u32 = 0;

/// What an entry of the log is for, stored as the `kind` of its [`EntryMeta`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// Nothing: a new leader's first entry, which commits those before it.
    Blank = 1,
    /// A [`Proposal`].
    Normal = 2,
    /// Who takes part from here on.
    Membership = 3,
}

impl EntryKind {
    /// The kind that is stored as `byte`.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Blank),
            2 => Some(Self::Normal),
            3 => Some(Self::Membership),
            _ => None,
        }
    }
}

/// The payload of an entry as it is stored.
#[derive(Debug)]
pub(crate) struct Body(Bytes);

impl From<Body> for Bytes {
    fn from(body: Body) -> Self {
        body.0
    }
}

impl EncodeEntry for Body {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

/// The log's index of the entry that openraft calls `index`.
pub(super) fn index_to_log(index: u64) -> u64 {
    // 2^64 entries would take longer than anything that runs this.
    index.checked_add(1).expect("the log holds fewer than 2^64 entries")
}

/// The log's id of an entry.
pub(crate) fn id_to_log(id: &RaftLogId) -> LogId {
    LogId { term: id.leader_id.term, index: index_to_log(id.index) }
}

/// openraft's id of an entry; `None` for what comes before the first one.
pub(crate) fn id_from_log(id: LogId) -> Option<RaftLogId> {
    let index = id.index.checked_sub(1)?;
    Some(RaftLogId::new(CommittedLeaderId::new(id.term), index))
}

/// The hard state that holds `vote`.
pub(super) fn vote_to_hard(vote: &Vote, committed: u64) -> HardState {
    HardState {
        term: vote.leader_id.term,
        voted_for: Some(vote.leader_id.voted_for),
        vote_committed: vote.committed,
        committed,
    }
}

/// The vote that a hard state holds; `None` if this node never voted.
pub(super) fn vote_from_hard(hard: &HardState) -> io::Result<Option<Vote>> {
    let Some(node) = hard.voted_for else {
        if hard.term == 0 {
            return Ok(None);
        }
        // Taking it for "never voted" would let the node vote in a term it has seen.
        return Err(invalid(format!("the hard state is in term {} without a vote", hard.term)));
    };
    Ok(Some(if hard.vote_committed {
        Vote::new_committed(hard.term, node)
    } else {
        Vote::new(hard.term, node)
    }))
}

/// How an entry is stored.
pub(crate) fn entry_to_log(entry: &Entry) -> (EntryMeta, Body) {
    let LogId { term, index } = id_to_log(&entry.log_id);
    let (kind, body) = match &entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(proposal) => (EntryKind::Normal, proposal.0.clone()),
        EntryPayload::Membership(members) => {
            (EntryKind::Membership, membership::encode(members).into())
        }
    };
    (EntryMeta { group: GROUP, term, index, kind: kind as u8 }, Body(body))
}

/// The first entry of a log that one node begins by itself: it is the only voter. A cluster's
/// log begins the same way, which is what lets others join later.
pub(crate) fn first_entry(node: u64) -> (EntryMeta, Vec<u8>) {
    let meta = EntryMeta { group: GROUP, term: 0, index: 1, kind: EntryKind::Membership as u8 };
    (meta, alone(MemberId(node)))
}

/// The members of a cluster of which `member` is the only one, encoded.
#[must_use]
pub fn alone(member: MemberId) -> Vec<u8> {
    membership::encode(&Membership::new_with_defaults(vec![BTreeSet::from([member.0])], []))
}

/// What an entry of the broker's own says of itself.
pub(crate) fn proposal_meta(term: u64, index: u64) -> EntryMeta {
    EntryMeta { group: GROUP, term, index, kind: EntryKind::Normal as u8 }
}

/// The entry that was stored.
pub(super) fn entry_from_log(stored: isthmus_storage::Entry) -> io::Result<Entry> {
    entry_from_parts(stored.meta, stored.payload.into())
}

/// The entry that was stored, or came from another node, as `meta` and `payload`.
pub(crate) fn entry_from_parts(meta: EntryMeta, payload: Bytes) -> io::Result<Entry> {
    let wrong = |what: &str| invalid(format!("entry {} of the log {what}", meta.index));
    let payload = match EntryKind::from_byte(meta.kind) {
        Some(EntryKind::Blank) if payload.is_empty() => EntryPayload::Blank,
        Some(EntryKind::Blank) => return Err(wrong("is blank and has a payload")),
        Some(EntryKind::Normal) => EntryPayload::Normal(Proposal(payload)),
        Some(EntryKind::Membership) => {
            let members = membership::decode(&payload)
                .map_err(|e| wrong(&format!("holds no valid membership: {e}")))?;
            EntryPayload::Membership(members)
        }
        None => return Err(wrong(&format!("has the unknown kind {}", meta.kind))),
    };
    if meta.group != GROUP {
        return Err(wrong(&format!("is of consensus group {}", meta.group)));
    }
    let log_id = id_from_log(LogId { term: meta.term, index: meta.index });
    Ok(Entry { log_id: log_id.ok_or_else(|| wrong("has no index"))?, payload })
}

/// What was stored cannot be what this release wrote.
pub(crate) fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_survive_the_hard_state() {
        for vote in [Vote::new(0, 7), Vote::new(3, 0), Vote::new_committed(u64::MAX, 9)] {
            let hard = vote_to_hard(&vote, 5);
            assert_eq!(hard.committed, 5);
            assert_eq!(vote_from_hard(&hard).expect("a vote"), Some(vote));
        }
        assert_eq!(vote_from_hard(&HardState::default()).expect("no vote"), None);
    }

    #[test]
    fn a_term_without_a_vote_is_refused() {
        let hard = HardState { term: 2, ..HardState::default() };
        assert!(vote_from_hard(&hard).is_err());
    }

    #[test]
    fn openraft_counts_from_zero_and_the_log_from_one() {
        assert_eq!(id_from_log(LogId::ZERO), None);
        let first = RaftLogId::new(CommittedLeaderId::new(0), 0);
        assert_eq!(id_to_log(&first), LogId { term: 0, index: 1 });
        assert_eq!(id_from_log(id_to_log(&first)), Some(first));
    }

    #[test]
    fn stored_entries_that_make_no_sense_are_refused() {
        let meta = |kind| EntryMeta { group: GROUP, term: 1, index: 1, kind };
        let entry = |meta, payload: &[u8]| {
            entry_from_log(isthmus_storage::Entry { meta, payload: payload.to_vec() })
        };
        assert!(entry(meta(2), b"anything").is_ok());
        assert!(entry(meta(0), b"").is_err(), "an unknown kind");
        assert!(entry(meta(1), b"x").is_err(), "a blank entry with a payload");
        assert!(entry(meta(3), b"\x01").is_err(), "half a membership");
        assert!(entry(EntryMeta { group: 1, ..meta(1) }, b"").is_err(), "another group");
        assert!(entry(EntryMeta { index: 0, ..meta(1) }, b"").is_err(), "before the first index");
    }
}
