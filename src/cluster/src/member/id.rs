//! What nodes are called.

use std::fmt;

/// A member of a cluster: a node by its number, and which of its lives.
///
/// A node that has lost its data comes back under a later incarnation: the earlier one has
/// acknowledged what the node does not have any more, so it must never be heard again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// Bits of the node's number.
const NODE_BITS: u32 = 16;

impl MemberId {
    /// Node `node` in life `incarnation`, the first being 0.
    #[must_use]
    pub fn new(node: u16, incarnation: u32) -> MemberId {
        MemberId(u64::from(incarnation) << NODE_BITS | u64::from(node))
    }

    /// The node's number, as the configuration has it.
    #[must_use]
    pub fn node(self) -> u16 {
        self.0 as u16
    }

    /// Which of the node's lives, from 0.
    #[must_use]
    pub fn incarnation(self) -> u32 {
        (self.0 >> NODE_BITS) as u32
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incarnation() {
            0 => write!(f, "{}", self.node()),
            incarnation => write!(f, "{}.{incarnation}", self.node()),
        }
    }
}
