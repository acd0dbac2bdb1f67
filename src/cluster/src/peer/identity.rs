//! Who a node is, and who may speak to whom.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::BufMut;
use parking_lot::Mutex;

use super::{
    debts::Debts,
    preface::{Purpose, Refusal, RefusalCode},
    wire::{Malformed, Reader},
};

/// The id of a cluster, drawn when it begins. Zeros are no cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// Of a node that belongs to no cluster yet.
    pub const NONE: Self = Self([0; 16]);
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id that consensus knows a node by: its number, and which life of it this is.
///
/// A node that lost its data has another life: it comes back under the next incarnation, so that
/// nobody takes it for the one that had acknowledged what it no longer has. As a number it is
/// `incarnation * 65536 + node`; node numbers begin at 1, so 0 is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MemberId(pub u64);

impl MemberId {
    /// Of a node that is no member yet.
    pub const NONE: Self = Self(0);

    /// The id of the life `incarnation` of `node`; `None` if `incarnation` is 2^48 or more.
    #[must_use]
    pub fn new(node: u16, incarnation: u64) -> Option<Self> {
        if incarnation >= 1 << 48 {
            return None;
        }
        Some(Self(incarnation << 16 | u64::from(node)))
    }

    /// The node's number.
    #[must_use]
    pub fn node(self) -> u16 {
        // The low 16 bits.
        self.0 as u16
    }

    /// Which life of the node it is, from 0.
    #[must_use]
    pub fn incarnation(self) -> u64 {
        self.0 >> 16
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.node())?;
        match self.incarnation() {
            0 => Ok(()),
            incarnation => write!(f, " (incarnation {incarnation})"),
        }
    }
}

/// Who a node says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// Its cluster; [`ClusterId::NONE`] if it belongs to none yet.
    pub cluster: ClusterId,
    /// Its id in consensus; [`MemberId::NONE`] if it has none yet.
    pub member: MemberId,
    /// Its number by its configuration.
    pub node: u16,
}

impl Identity {
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.cluster.0);
        out.put_u64_le(self.member.0);
        out.put_u16_le(self.node);
    }

    pub(super) fn decode(reader: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            cluster: ClusterId(reader.array()?),
            member: MemberId(reader.u64()?),
            node: reader.u16()?,
        })
    }
}

/// Who this node is, and which members are known. Clones share it.
///
/// The embedder keeps it up to date: [`Directory::set_own`] when the node joins a cluster,
/// [`Directory::learn`] for every member of every membership it hears of.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Mutex<Known>>, Arc<Debts>);

#[derive(Debug)]
struct Known {
    own: Identity,
    /// The latest member id of each node.
    newest: BTreeMap<u16, MemberId>,
}

impl Directory {
    /// Knows this node only.
    #[must_use]
    pub fn new(own: Identity) -> Self {
        let known = Known { own, newest: BTreeMap::new() };
        Self(Arc::new(Mutex::new(known)), Arc::default())
    }

    /// Who this node is.
    #[must_use]
    pub fn own(&self) -> Identity {
        self.0.lock().own
    }

    /// Says who this node is from now on. Connections that are open are not affected.
    pub fn set_own(&self, own: Identity) {
        self.0.lock().own = own;
    }

    /// Notes that `member` is or was in the membership: earlier incarnations of its node are
    /// refused from now on, and cut if they are connected.
    pub fn learn(&self, member: MemberId) {
        let mut known = self.0.lock();
        let newest = known.newest.entry(member.node()).or_default();
        *newest = member.max(*newest);
    }

    /// Whether a later incarnation of the node is known.
    #[must_use]
    pub fn is_replaced(&self, member: MemberId) -> bool {
        self.newest(member.node()) > member
    }

    fn newest(&self, node: u16) -> MemberId {
        self.0.lock().newest.get(&node).copied().unwrap_or_default()
    }

    /// Whether `member` has said, since this process began, what this node had acknowledged before.
    #[must_use]
    pub fn has_heard(&self, member: MemberId) -> bool {
        self.1.has_heard(member)
    }

    /// What members had before they came back.
    pub(super) fn debts(&self) -> &Arc<Debts> {
        &self.1
    }

    /// Whether `peer` may be spoken to. Both ends ask, each about the other.
    pub(super) fn check(&self, peer: &Identity, purpose: Purpose) -> Result<(), Refusal> {
        let own = self.own();
        let refuse = |code, reason: String| Err(Refusal { code, reason });
        if peer.member != MemberId::NONE && peer.member.node() != peer.node {
            let (member, of, node) = (peer.member, peer.member.node(), peer.node);
            let reason =
                format!("node {node} says it is member {member}, which is an id of node {of}");
            return refuse(RefusalCode::Member, reason);
        }
        let both = own.cluster != ClusterId::NONE && peer.cluster != ClusterId::NONE;
        if both && own.cluster != peer.cluster {
            let reason = format!(
                "node {} belongs to cluster {}, node {} to cluster {}: check the addresses of the \
                 peers, or empty the data directory of the one that is to move",
                peer.node, peer.cluster, own.node, own.cluster
            );
            return refuse(RefusalCode::Cluster, reason);
        }
        if peer.member != MemberId::NONE && self.is_replaced(peer.member) {
            let (member, newest) = (peer.member, self.newest(peer.node));
            let reason = format!(
                "member {member} has been replaced by member {newest}: its data is out of date; \
                 empty its data directory and let it join again"
            );
            return refuse(RefusalCode::Replaced, reason);
        }
        if purpose == Purpose::Control {
            return Ok(());
        }
        for (who, identity) in [("the caller", peer), ("this node", &own)] {
            if identity.cluster == ClusterId::NONE || identity.member == MemberId::NONE {
                let reason =
                    format!("{who}, node {}, is no member of a cluster yet", identity.node);
                return refuse(RefusalCode::NoMember, reason);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: u8, member: MemberId) -> Identity {
        Identity { cluster: ClusterId([cluster; 16]), member, node: member.node() }
    }

    #[test]
    fn a_member_is_a_life_of_a_node() {
        let member = MemberId::new(7, 3).expect("few lives");
        assert_eq!((member.0, member.node(), member.incarnation()), (3 * 65536 + 7, 7, 3));
        assert_eq!(member.to_string(), "7 (incarnation 3)");
        assert_eq!(MemberId(2).to_string(), "2");
        assert_eq!(MemberId::new(1, 1 << 48), None);
    }

    #[test]
    fn strangers_and_the_dead_are_refused() {
        let second_life = MemberId::new(2, 1).expect("few lives");
        let directory = Directory::new(identity(9, MemberId(1)));
        let code = |peer: Identity, purpose| {
            directory.check(&peer, purpose).map_err(|refusal| refusal.code)
        };
        assert_eq!(code(identity(9, MemberId(2)), Purpose::Raft), Ok(()));
        assert_eq!(code(identity(8, MemberId(2)), Purpose::Raft), Err(RefusalCode::Cluster));
        assert_eq!(code(identity(8, MemberId(2)), Purpose::Control), Err(RefusalCode::Cluster));
        assert_eq!(code(identity(0, MemberId(2)), Purpose::Raft), Err(RefusalCode::NoMember));
        assert_eq!(code(identity(9, MemberId(0)), Purpose::Raft), Err(RefusalCode::NoMember));
        let joins = Identity { node: 2, ..Identity::default() };
        assert_eq!(code(joins, Purpose::Control), Ok(()));
        assert_eq!(code(joins, Purpose::Client), Err(RefusalCode::NoMember));
        let liar = Identity { node: 3, ..identity(9, MemberId(2)) };
        assert_eq!(code(liar, Purpose::Raft), Err(RefusalCode::Member));

        directory.learn(second_life);
        directory.learn(MemberId(2));
        assert_eq!(code(identity(9, MemberId(2)), Purpose::Raft), Err(RefusalCode::Replaced));
        assert_eq!(code(identity(9, second_life), Purpose::Raft), Ok(()));
        assert!(directory.is_replaced(MemberId(2)) && !directory.is_replaced(second_life));
    }

    #[test]
    fn a_node_without_a_cluster_takes_no_part_in_one() {
        let directory = Directory::new(Identity { node: 1, ..Identity::default() });
        let refused = directory.check(&identity(9, MemberId(2)), Purpose::Raft);
        assert_eq!(refused.map_err(|r| r.code), Err(RefusalCode::NoMember));
        directory.set_own(identity(9, MemberId(1)));
        assert_eq!(directory.check(&identity(9, MemberId(2)), Purpose::Raft), Ok(()));
    }
}
