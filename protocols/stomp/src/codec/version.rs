//! The versions of STOMP, and how each writes its headers.

use std::fmt;

/// A version of STOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// STOMP 1.0.
    V1_0,
    /// STOMP 1.1.
    V1_1,
    /// STOMP 1.2.
    V1_2,
}

impl Version {
    /// Every version, the latest first.
    pub const ALL: [Version; 3] = [Version::V1_2, Version::V1_1, Version::V1_0];

    /// `versions`, the latest first, as the header `version` of an ERROR lists them.
    pub fn list(versions: &[Version]) -> String {
        let words: Vec<&str> = versions.iter().rev().map(|version| version.as_str()).collect();
        words.join(",")
    }

    /// As it stands in headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V1_0 => "1.0",
            Version::V1_1 => "1.1",
            Version::V1_2 => "1.2",
        }
    }

    /// The protocol's name with its version, for logs.
    pub fn protocol(self) -> &'static str {
        match self {
            Version::V1_0 => "STOMP 1.0",
            Version::V1_1 => "STOMP 1.1",
            Version::V1_2 => "STOMP 1.2",
        }
    }

    /// The latest version of `spoken`, itself the latest first, that is among those of the header
    /// `accept-version`; without one that is 1.0, which does not know the header. `None` if none of
    /// them is spoken.
    pub fn negotiate(accept_version: Option<&str>, spoken: &[Version]) -> Option<Version> {
        let accepted = accept_version.unwrap_or(Version::V1_0.as_str());
        let accepts = |v: &Version| accepted.split(',').any(|one| one.trim() == v.as_str());
        spoken.iter().copied().find(accepts)
    }

    /// As it is stored.
    pub(crate) fn bits(self) -> u8 {
        match self {
            Version::V1_0 => 0,
            Version::V1_1 => 1,
            Version::V1_2 => 2,
        }
    }

    /// The version that was stored as `bits`.
    pub(crate) fn from_bits(bits: u8) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.bits() == bits)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the headers of a frame are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// CONNECT and CONNECTED: nothing is escaped, so that 1.0 understands them (1.2, "Value
    /// Encoding").
    Verbatim,
    /// 1.0: nothing is escaped; blanks behind the colon are no part of the value.
    V1_0,
    /// 1.1: `\n`, `\c` and `\\`.
    V1_1,
    /// 1.2: those and `\r`; a carriage return stands before the end of a line alone.
    V1_2,
}

impl Rules {
    /// How frames of `version` other than CONNECT and CONNECTED are written.
    pub fn of(version: Version) -> Rules {
        match version {
            Version::V1_0 => Rules::V1_0,
            Version::V1_1 => Rules::V1_1,
            Version::V1_2 => Rules::V1_2,
        }
    }

    /// What stands for the character behind a backslash; `None` if nothing does.
    pub(crate) fn unescaped(self, behind: u8) -> Option<char> {
        match (self, behind) {
            (Rules::V1_1 | Rules::V1_2, b'n') => Some('\n'),
            (Rules::V1_1 | Rules::V1_2, b'c') => Some(':'),
            (Rules::V1_1 | Rules::V1_2, b'\\') => Some('\\'),
            (Rules::V1_2, b'r') => Some('\r'),
            _ => None,
        }
    }

    /// Whether a backslash begins an escape sequence.
    pub(crate) fn escapes(self) -> bool {
        matches!(self, Rules::V1_1 | Rules::V1_2)
    }
}
