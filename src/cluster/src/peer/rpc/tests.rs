use std::fmt::Debug;
use std::io::IoSlice;

use openraft::{BasicNode, EntryPayload, vote::leader_id_std::CommittedLeaderId};
use proptest::prelude::*;

use super::*;
use crate::{
    peer::{
        SnapshotMeta,
        frame::{Frame, HEADER, Inbox},
    },
    raft::{Membership, Proposal, RaftLogId},
};

fn votes() -> impl Strategy<Value = Vote> {
    any::<(u64, u64, bool)>().prop_map(|(term, member, committed)| match committed {
        true => Vote::new_committed(term, member),
        false => Vote::new(term, member),
    })
}

fn position() -> impl Strategy<Value = Option<RaftLogId>> {
    proptest::option::of(id())
}

fn id() -> impl Strategy<Value = RaftLogId> {
    (any::<u64>(), 0..u64::MAX - 1000)
        .prop_map(|(term, index)| RaftLogId::new(CommittedLeaderId::new(term), index))
}

fn members() -> Membership {
    let nodes = [(1, BasicNode::new("a:1")), (65538, BasicNode::new("b:2"))];
    Membership::new(
        vec![[1].into(), [1, 65538].into()],
        nodes.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    )
    .expect("valid")
}

fn payload() -> impl Strategy<Value = EntryPayload<Proposal, u64, BasicNode>> {
    prop_oneof![
        Just(EntryPayload::Blank),
        Just(EntryPayload::Membership(members())),
        proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| EntryPayload::Normal(Proposal(bytes.into()))),
        // One that is written from where it is.
        Just(EntryPayload::Normal(Proposal(vec![7; 2100].into()))),
    ]
}

fn appends() -> impl Strategy<Value = Append> {
    let entries = proptest::collection::vec((any::<u64>(), payload()), 0..4);
    (votes(), position(), position(), entries).prop_map(
        |(vote, prev_log_id, leader_commit, entries)| {
            let first = prev_log_id.map_or(0, |id| id.index + 1);
            let entries = entries
                .into_iter()
                .zip(first..)
                .map(|((term, payload), index)| Entry {
                    log_id: RaftLogId::new(CommittedLeaderId::new(term), index),
                    payload,
                })
                .collect();
            Append { vote, prev_log_id, entries, leader_commit }
        },
    )
}

fn all(mut out: Outbox) -> Bytes {
    let mut bytes = Vec::new();
    while out.len() > 0 {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = out.slices(&mut slices);
        let piece = slices[..filled].iter().flat_map(|s| s.to_vec()).collect::<Vec<_>>();
        out.advance(piece.len());
        bytes.extend(piece);
    }
    bytes.into()
}

/// What was encoded is decoded again, whole or not at all.
fn passes<T: PartialEq + Debug>(
    encoded: &Bytes,
    value: &T,
    decode: impl Fn(Bytes) -> Result<T, Malformed>,
) -> Result<(), TestCaseError> {
    let decoded = decode(encoded.clone());
    prop_assert_eq!(decoded.as_ref(), Ok(value));
    for end in 0..encoded.len() {
        let cut = decode(encoded.slice(..end));
        prop_assert_eq!(cut, Err(Malformed::Short), "cut at {}", end);
    }
    let longer = Bytes::from([encoded, b"x".as_slice()].concat());
    prop_assert_eq!(decode(longer), Err(Malformed::Long(1)));
    Ok(())
}

/// Appends cannot be compared themselves.
fn content(append: &Append) -> (Vote, Option<RaftLogId>, Vec<Entry>, Option<RaftLogId>) {
    (append.vote, append.prev_log_id, append.entries.clone(), append.leader_commit)
}

proptest! {
    // Each case is cut at every byte.
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn appends_pass(request in appends(), begins: bool) {
        let mut out = Outbox::default();
        let len = put_append(&mut out, 9, &request, begins).expect("short enough");
        prop_assert_eq!(out.len(), HEADER + len);
        let bytes = all(out);
        let mut inbox = Inbox::default();
        inbox.space().extend_from_slice(&bytes);
        let frame = inbox.next().expect("valid").expect("whole");
        let Frame { kind, request: id, body } = frame;
        prop_assert_eq!((kind, id, body.len()), (Kind::Append, 9, len));
        let decode = |body| append(body).map(|(a, begins)| (content(&a), begins));
        passes(&body, &(content(&request), begins), decode)?;
    }

    #[test]
    fn answers_pass(vote in votes(), other in votes(), position in position(), id in id(), granted: bool) {
        for value in [
            Ok(position),
            Err(StreamAppendError::Conflict(id)),
            Err(StreamAppendError::HigherVote(vote)),
        ] {
            passes(&put_appended(&value), &value, appended)?;
        }
        let mut request = VoteRequest::new(vote, position);
        request.leadership_transfer = granted;
        passes(&put_vote_request(&request), &request, vote_request)?;
        let response = VoteResponse::new(vote, position, granted);
        passes(&put_vote_response(&response), &response, vote_response)?;
        let request = TransferLeaderRequest::new(vote, id.index, position);
        passes(&put_transfer(&request), &request, transfer)?;
        for value in [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: vote, actual: other }),
            Err(TransferLeaderError::LogNotFlushed { expected: position, actual: Some(id) }),
        ] {
            passes(&put_transferred(&value), &value, transferred)?;
        }
        passes(&put_vote(&vote), &vote, super::vote)?;
    }

    #[test]
    fn snapshots_pass(vote in votes(), last_log_id in position(), at in position(), first: bool) {
        let members = if first { Membership::default() } else { members() };
        let meta = SnapshotMeta { last_log_id, last_membership: Stored::new(at, members) };
        passes(&put_snapshot(&vote, &meta), &(vote, meta), snapshot)?;
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut out = Outbox::default();
    let entry = |index| Entry {
        log_id: RaftLogId::new(CommittedLeaderId::new(1), index),
        payload: EntryPayload::Blank,
    };
    let gap = Append {
        vote: Vote::new_committed(1, 1),
        prev_log_id: None,
        entries: vec![entry(0), entry(2)],
        leader_commit: None,
    };
    put_append(&mut out, 1, &gap, true).expect("short enough");
    let body = all(out).slice(HEADER..);
    assert!(matches!(append(body.clone()), Err(Malformed::Content(_))));
    // As many entries as fit into no memory.
    let mut many = body.to_vec();
    many[APPEND_HEAD - 4..APPEND_HEAD].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(append(many.into()).map(|_| ()), Err(Malformed::Short));
    // The beginning of the log cannot conflict.
    assert!(appended(Bytes::from_static(&[1; 1])).is_err());
    assert!(appended(vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].into()).is_err());
    assert!(matches!(appended(vec![3].into()), Err(Malformed::Unknown { value: 3, .. })));
    assert!(matches!(vote(vec![2; 17].into()), Err(Malformed::Unknown { value: 2, .. })));
}

#[test]
fn an_append_beyond_the_limit_is_not_sent() {
    let entry = |index| Entry {
        log_id: RaftLogId::new(CommittedLeaderId::new(1), index),
        payload: EntryPayload::Normal(Proposal(vec![0; 40 << 20].into())),
    };
    let large = Append {
        vote: Vote::new_committed(1, 1),
        prev_log_id: None,
        entries: vec![entry(0), entry(1)],
        leader_commit: None,
    };
    let mut out = Outbox::default();
    assert!(put_append(&mut out, 1, &large, true).is_err());
    assert_eq!(out.len(), 0);
}

#[test]
fn the_encoding_does_not_change() {
    let append = Append {
        vote: Vote::new_committed(2, 65537),
        prev_log_id: None,
        entries: vec![Entry {
            log_id: RaftLogId::new(CommittedLeaderId::new(1), 0),
            payload: EntryPayload::Normal(Proposal(Bytes::from_static(b"hi"))),
        }],
        leader_commit: Some(RaftLogId::new(CommittedLeaderId::new(1), 0)),
    };
    let mut out = Outbox::default();
    put_append(&mut out, 3, &append, true).expect("short enough");
    let expected = b"\x56\0\0\0\x01\x03\0\0\0\0\0\0\0\
        \x01\x02\0\0\0\0\0\0\0\x01\0\x01\0\0\0\0\0\x01\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
        \x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\
        \x01\0\0\0\
        \x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\x02\0\0\0hi";
    assert_eq!(all(out).as_ref(), expected);
}
