//! The messages of consensus as frames.

use bytes::{BufMut, Bytes};
use isthmus_storage::EntryMeta;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::{
    frame::{Kind, Outbox},
    wire::{Malformed, Reader, Writer},
};
use crate::raft::{
    Entry, RaftTypes, Vote,
    convert::{entry_from_parts, entry_to_log, proposal_meta},
    membership,
};

pub(super) type Append = AppendEntriesRequest<RaftTypes>;
pub(super) type Appended = StreamAppendResult<RaftTypes>;
type Stored = openraft::type_config::alias::StoredMembershipOf<RaftTypes>;

/// Bit 0 of an append's flags.
const BEGINS: u8 = 1;
/// Flags, vote, two positions and the number of entries.
const APPEND_HEAD: usize = 1 + 17 + 16 + 16 + 4;
/// Term, index, kind and length.
const ENTRY_HEAD: usize = 8 + 8 + 1 + 4;

/// Adds an append to what is to be sent and returns its size in bytes. `begins` a run.
///
/// # Errors
/// The size, if it is beyond the limit of a frame; then nothing was added.
pub(super) fn put_append(
    out: &mut Outbox,
    request: u64,
    append: &Append,
    begins: bool,
) -> Result<usize, usize> {
    let entries: Vec<(EntryMeta, Bytes)> = append
        .entries
        .iter()
        .map(|entry| {
            let (meta, body) = entry_to_log(entry);
            (meta, body.into())
        })
        .collect();
    let payloads: usize = entries.iter().map(|(_, payload)| ENTRY_HEAD + payload.len()).sum();
    let len = APPEND_HEAD + payloads;
    if len > Kind::Append.limit() {
        return Err(len);
    }
    out.header(Kind::Append, request, len);
    let mut head = Vec::with_capacity(APPEND_HEAD);
    head.put_u8(if begins { BEGINS } else { 0 });
    head.put_vote(&append.vote);
    head.put_position(append.prev_log_id.as_ref());
    head.put_position(append.leader_commit.as_ref());
    head.put_u32_le(entries.len() as u32);
    out.put(&head);
    for (meta, payload) in entries {
        let mut head = [0; ENTRY_HEAD];
        let mut rest = head.as_mut_slice();
        rest.put_u64_le(meta.term);
        rest.put_u64_le(meta.index);
        rest.put_u8(meta.kind);
        // Less than the limit of a frame.
        rest.put_u32_le(payload.len() as u32);
        out.put(&head);
        out.share(payload);
    }
    Ok(len)
}

/// The append in a body, and whether it begins a run. Payloads share the body's memory.
pub(super) fn append(body: Bytes) -> Result<(Append, bool), Malformed> {
    let mut reader = Reader::new(body);
    let begins = match reader.u8()? {
        0 => false,
        BEGINS => true,
        value => return Err(Malformed::Unknown { what: "the flags of an append", value }),
    };
    let vote = reader.vote()?;
    let prev_log_id = reader.position()?;
    let leader_commit = reader.position()?;
    let mut entries = Vec::new();
    for _ in 0..reader.u32()? {
        entries.push(entry(&mut reader)?);
    }
    reader.end()?;
    let last = prev_log_id.map_or(0, |id| id.index + 1);
    if !entries.iter().zip(last..).all(|(entry, index)| entry.log_id.index == index) {
        return Err(Malformed::Content("its entries do not follow on each other".to_owned()));
    }
    Ok((Append { vote, prev_log_id, entries, leader_commit }, begins))
}

fn entry(reader: &mut Reader) -> Result<Entry, Malformed> {
    let (term, index) = (reader.u64()?, reader.u64()?);
    let kind = reader.u8()?;
    let payload = reader.long()?;
    let meta = EntryMeta { kind, ..proposal_meta(term, index) };
    entry_from_parts(meta, payload).map_err(|e| Malformed::Content(e.to_string()))
}

pub(super) fn put_appended(appended: &Appended) -> Bytes {
    let mut out = Vec::with_capacity(18);
    match appended {
        Ok(matching) => {
            out.put_u8(0);
            out.put_position(matching.as_ref());
        }
        Err(StreamAppendError::Conflict(position)) => {
            out.put_u8(1);
            out.put_position(Some(position));
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.put_u8(2);
            out.put_vote(vote);
        }
    }
    out.into()
}

pub(super) fn appended(body: Bytes) -> Result<Appended, Malformed> {
    let mut reader = Reader::new(body);
    let appended = match reader.u8()? {
        0 => Ok(reader.position()?),
        1 => {
            let position = reader.position()?;
            Err(StreamAppendError::Conflict(position.ok_or_else(|| {
                Malformed::Content("the beginning of the log conflicts".to_owned())
            })?))
        }
        2 => Err(StreamAppendError::HigherVote(reader.vote()?)),
        value => return Err(Malformed::Unknown { what: "the answer to an append", value }),
    };
    reader.end()?;
    Ok(appended)
}

pub(super) fn put_vote_request(request: &VoteRequest<RaftTypes>) -> Bytes {
    let mut out = Vec::with_capacity(34);
    out.put_vote(&request.vote);
    out.put_position(request.last_log_id.as_ref());
    out.put_u8(request.leadership_transfer.into());
    out.into()
}

pub(super) fn vote_request(body: Bytes) -> Result<VoteRequest<RaftTypes>, Malformed> {
    let mut reader = Reader::new(body);
    let mut request = VoteRequest::new(reader.vote()?, reader.position()?);
    request.leadership_transfer = reader.bool("whether leadership is transferred")?;
    reader.end()?;
    Ok(request)
}

pub(super) fn put_vote_response(response: &VoteResponse<RaftTypes>) -> Bytes {
    let mut out = Vec::with_capacity(34);
    out.put_vote(&response.vote);
    out.put_u8(response.vote_granted.into());
    out.put_position(response.last_log_id.as_ref());
    out.into()
}

pub(super) fn vote_response(body: Bytes) -> Result<VoteResponse<RaftTypes>, Malformed> {
    let mut reader = Reader::new(body);
    let vote = reader.vote()?;
    let granted = reader.bool("whether a vote was granted")?;
    let last = reader.position()?;
    reader.end()?;
    Ok(VoteResponse::new(vote, last, granted))
}

pub(super) fn put_transfer(request: &TransferLeaderRequest<RaftTypes>) -> Bytes {
    let mut out = Vec::with_capacity(41);
    out.put_vote(request.from_leader());
    out.put_u64_le(*request.to_node_id());
    out.put_position(request.last_log_id());
    out.into()
}

pub(super) fn transfer(body: Bytes) -> Result<TransferLeaderRequest<RaftTypes>, Malformed> {
    let mut reader = Reader::new(body);
    let (from, to, last) = (reader.vote()?, reader.u64()?, reader.position()?);
    reader.end()?;
    Ok(TransferLeaderRequest::new(from, to, last))
}

pub(super) fn put_transferred(response: &TransferLeaderResponse<RaftTypes>) -> Bytes {
    let mut out = Vec::with_capacity(35);
    match response {
        Ok(()) => out.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.put_u8(1);
            out.put_vote(expected);
            out.put_vote(actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.put_u8(2);
            out.put_position(expected.as_ref());
            out.put_position(actual.as_ref());
        }
    }
    out.into()
}

pub(super) fn transferred(body: Bytes) -> Result<TransferLeaderResponse<RaftTypes>, Malformed> {
    let mut reader = Reader::new(body);
    let response = match reader.u8()? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged {
            expected: reader.vote()?,
            actual: reader.vote()?,
        }),
        2 => Err(TransferLeaderError::LogNotFlushed {
            expected: reader.position()?,
            actual: reader.position()?,
        }),
        value => return Err(Malformed::Unknown { what: "the answer to a transfer", value }),
    };
    reader.end()?;
    Ok(response)
}

/// The beginning of a snapshot.
pub(super) fn put_snapshot(vote: &Vote, meta: &super::SnapshotMeta) -> Bytes {
    let mut out = Vec::new();
    out.put_vote(vote);
    out.put_position(meta.last_log_id.as_ref());
    let members = meta.last_membership.membership();
    out.put_position(meta.last_membership.log_id().as_ref());
    // Nobody votes before the first membership, which has no encoding.
    let members = match members.voter_ids().next() {
        Some(_) => membership::encode(members),
        None => Vec::new(),
    };
    out.put_u32_le(members.len() as u32);
    out.put_slice(&members);
    out.into()
}

pub(super) fn snapshot(body: Bytes) -> Result<(Vote, super::SnapshotMeta), Malformed> {
    let mut reader = Reader::new(body);
    let vote = reader.vote()?;
    let last_log_id = reader.position()?;
    let position = reader.position()?;
    let members = reader.long()?;
    reader.end()?;
    let members = match members.is_empty() {
        true => crate::raft::Membership::default(),
        false => membership::decode(&members).map_err(|e| {
            Malformed::Content(format!("the snapshot's membership is not valid: {e}"))
        })?,
    };
    let last_membership = Stored::new(position, members);
    Ok((vote, super::SnapshotMeta { last_log_id, last_membership }))
}

pub(super) fn put_vote(vote: &Vote) -> Bytes {
    let mut out = Vec::with_capacity(17);
    out.put_vote(vote);
    out.into()
}

pub(super) fn vote(body: Bytes) -> Result<Vote, Malformed> {
    let mut reader = Reader::new(body);
    let vote = reader.vote()?;
    reader.end()?;
    Ok(vote)
}

#[cfg(test)]
mod tests;
