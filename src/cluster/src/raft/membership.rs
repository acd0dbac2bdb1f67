//! The membership as it is stored in the log.
//!
//! ```text
//! u8   version, 1
//! u32  voter sets: one, or two while the membership changes
//!        u32  voters, then u64 node id of each
//! u32  nodes, voters and learners
//!        u64 node id, u32 length of the address, the address in UTF-8
//! ```
//!
//! All numbers are little-endian. A later version may add to a node; this one refuses it, because a
//! membership that is read in part would elect with the wrong quorum.

use std::collections::{BTreeMap, BTreeSet};

use openraft::impls::BasicNode;

use super::Membership;

const VERSION: u8 = 1;

/// Why bytes are no membership.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("it ends too early")]
    Short,
    #[error("{0} bytes follow behind its end")]
    Long(usize),
    #[error("it has version {0}, this build knows version {VERSION}")]
    Version(u8),
    #[error("an address is not UTF-8")]
    Address,
    #[error("a node is in it twice")]
    Twice,
    #[error("nobody in it votes")]
    NoVoters,
    #[error("{0}")]
    Invalid(String),
}

/// Encodes a membership.
pub(crate) fn encode(membership: &Membership) -> Vec<u8> {
    let mut out = vec![VERSION];
    let sets = membership.get_joint_config();
    put_len(&mut out, sets.len());
    for voters in sets {
        put_len(&mut out, voters.len());
        for node in voters {
            out.extend_from_slice(&node.to_le_bytes());
        }
    }
    let nodes: Vec<_> = membership.nodes().collect();
    put_len(&mut out, nodes.len());
    for (id, node) in nodes {
        out.extend_from_slice(&id.to_le_bytes());
        put_len(&mut out, node.addr.len());
        out.extend_from_slice(node.addr.as_bytes());
    }
    out
}

/// Decodes a membership. Any bytes are allowed; memory used is in proportion to them.
pub(crate) fn decode(mut bytes: &[u8]) -> Result<Membership, DecodeError> {
    let [version] = take(&mut bytes)?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let mut sets = Vec::new();
    for _ in 0..take_u32(&mut bytes)? {
        let mut voters = BTreeSet::new();
        for _ in 0..take_u32(&mut bytes)? {
            if !voters.insert(u64::from_le_bytes(take(&mut bytes)?)) {
                return Err(DecodeError::Twice);
            }
        }
        if voters.is_empty() {
            return Err(DecodeError::NoVoters);
        }
        sets.push(voters);
    }
    if sets.is_empty() {
        return Err(DecodeError::NoVoters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..take_u32(&mut bytes)? {
        let id = u64::from_le_bytes(take(&mut bytes)?);
        let len = usize::try_from(take_u32(&mut bytes)?).map_err(|_| DecodeError::Short)?;
        let (address, rest) = bytes.split_at_checked(len).ok_or(DecodeError::Short)?;
        bytes = rest;
        let address = std::str::from_utf8(address).map_err(|_| DecodeError::Address)?;
        if nodes.insert(id, BasicNode::new(address)).is_some() {
            return Err(DecodeError::Twice);
        }
    }
    if !bytes.is_empty() {
        return Err(DecodeError::Long(bytes.len()));
    }
    Membership::new(sets, nodes).map_err(|e| DecodeError::Invalid(e.to_string()))
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("a membership has fewer than 2^32 parts");
    out.extend_from_slice(&len.to_le_bytes());
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], DecodeError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(DecodeError::Short)?;
    *bytes = rest;
    Ok(*head)
}

fn take_u32(bytes: &mut &[u8]) -> Result<u32, DecodeError> {
    Ok(u32::from_le_bytes(take(bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint() -> Membership {
        let nodes = [(1, "a:1"), (2, "b:2"), (u64::MAX, ""), (9, "learner")];
        let nodes: BTreeMap<_, _> =
            nodes.into_iter().map(|(id, addr)| (id, BasicNode::new(addr))).collect();
        Membership::new(vec![[1, 2].into(), [2, u64::MAX].into()], nodes).expect("valid")
    }

    #[test]
    fn round_trip() {
        assert_eq!(decode(&encode(&joint())), Ok(joint()));
    }

    #[test]
    fn the_encoding_does_not_change() {
        let nodes = BTreeMap::from([(7, BasicNode::new("h"))]);
        let one = Membership::new(vec![[7].into()], nodes).expect("valid");
        let expected = b"\x01\
            \x01\0\0\0\x01\0\0\0\x07\0\0\0\0\0\0\0\
            \x01\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0h";
        assert_eq!(encode(&one), expected);
    }

    #[test]
    fn every_cut_and_every_tail_is_refused() {
        let whole = encode(&joint());
        for end in 0..whole.len() {
            assert_eq!(decode(&whole[..end]), Err(DecodeError::Short), "cut at {end}");
        }
        let longer = [whole.as_slice(), b"x"].concat();
        assert_eq!(decode(&longer), Err(DecodeError::Long(1)));
    }

    #[test]
    fn what_cannot_elect_is_refused() {
        assert_eq!(decode(&[2]), Err(DecodeError::Version(2)));
        // A voter that is no node.
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(b"\x01\0\0\0\x01\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0");
        assert!(matches!(decode(&bytes), Err(DecodeError::Invalid(_))));
        // No voters at all, and more than are there.
        assert_eq!(decode(b"\x01\0\0\0\0\0\0\0\0"), Err(DecodeError::NoVoters));
        assert_eq!(decode(b"\x01\x01\0\0\0\0\0\0\0"), Err(DecodeError::NoVoters));
        assert_eq!(decode(b"\x01\xff\xff\xff\xff"), Err(DecodeError::Short));
    }
}
