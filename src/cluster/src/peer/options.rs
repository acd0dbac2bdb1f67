//! What the embedder decides about the connections between nodes.

use std::{fmt, ops::RangeInclusive, time::Duration};

use bytes::Bytes;

use super::{handshake::Random, identity::Directory, tls::PeerTls};

/// What this node can read and write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// Versions of the protocol between peers.
    pub protocol: RangeInclusive<u16>,
    /// Formats of the log, which is also the format of entries and snapshots on their way.
    pub log_format: RangeInclusive<u16>,
}

impl Default for Versions {
    fn default() -> Self {
        // The format's number is small and never shrinks.
        Self { protocol: 1..=1, log_format: 1..=isthmus_storage::FORMAT_VERSION as u16 }
    }
}

/// The highest number that is in both ranges.
pub(super) fn highest_common(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> Option<u16> {
    let highest = *a.end().min(b.end());
    (highest >= *a.start() && highest >= *b.start()).then_some(highest)
}

/// Limits and times.
#[derive(Debug, Clone)]
pub struct PeerOptions {
    /// What this node can read and write.
    pub versions: Versions,
    /// How long a handshake may take, with that of TLS; 10 s by default.
    pub handshake: Duration,
    /// How long it may take to connect, with the handshake; 10 s by default.
    pub dial: Duration,
    /// Connections in their handshake at once, further ones are closed; 64 by default.
    pub strangers_max: usize,
    /// How long appends may go without an answer while nothing can be written either; then the
    /// connection counts as dead. 3 s by default. A disk that takes longer to sync looks the same.
    pub stall: Duration,
    /// Appends that may be without an answer on a connection, in bytes; 16 MiB by default. At least
    /// one is, however large.
    pub window_bytes: usize,
    /// How many appends may be without an answer on a connection; 256 by default.
    pub window_requests: usize,
    /// How long the answer to a control request may take; 30 s by default.
    pub control: Duration,
    /// How long a connection may be without use before the accepting side closes it; 5 minutes by
    /// default. The dialling side lets go of it after half of that.
    pub idle: Duration,
}

impl Default for PeerOptions {
    fn default() -> Self {
        Self {
            versions: Versions::default(),
            handshake: Duration::from_secs(10),
            dial: Duration::from_secs(10),
            strangers_max: 64,
            stall: Duration::from_secs(3),
            window_bytes: 16 << 20,
            window_requests: 256,
            control: Duration::from_secs(30),
            idle: Duration::from_secs(300),
        }
    }
}

/// A secret that all nodes of a cluster share. Use 16 random bytes or more: a node that dials a
/// false address gives away what a short one can be guessed from.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub Bytes);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What protects the connections between nodes.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// Mutual TLS; without it connections are plain.
    pub tls: Option<PeerTls>,
    /// Proved by both ends of every connection if given.
    pub token: Option<Token>,
}

/// What both directions share.
#[derive(Clone)]
pub struct Local {
    /// Who is who.
    pub directory: Directory,
    /// What protects the connections.
    pub security: Security,
    /// Limits and times.
    pub options: PeerOptions,
    /// Fills a nonce. In production from the operating system.
    pub random: Random,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local")
            .field("directory", &self.directory)
            .field("security", &self.security)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::highest_common;

    #[test]
    fn the_highest_version_that_both_know() {
        assert_eq!(highest_common(&(1..=3), &(2..=5)), Some(3));
        assert_eq!(highest_common(&(2..=5), &(1..=3)), Some(3));
        assert_eq!(highest_common(&(1..=1), &(1..=1)), Some(1));
        assert_eq!(highest_common(&(1..=2), &(3..=4)), None);
        // A range that is none, as an attacker may send.
        #[expect(clippy::reversed_empty_ranges, reason = "it is what is tested")]
        let reversed = 4..=1;
        assert_eq!(highest_common(&reversed, &(1..=9)), None);
    }
}
