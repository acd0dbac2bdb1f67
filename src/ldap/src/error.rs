//! What can go wrong.

use std::path::PathBuf;

/// Why a configuration cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is nobody to ask.
    #[error("servers is empty")]
    NoServer,
    /// Not an address of an LDAP server.
    #[error("server {0:?} must be ldap://HOST[:PORT] or ldaps://HOST[:PORT]")]
    Server(String),
    /// TLS inside TLS.
    #[error("starttls is for ldap://, but server {0:?} is ldaps://")]
    StartTls(String),
    /// One of the two settings of a search is missing.
    #[error("dn_lookup_attribute and dn_lookup_base belong together")]
    Lookup,
    /// Not a name of an attribute.
    #[error("{0:?} is not the name of an attribute")]
    Attribute(String),
    /// A pattern does not mention the user.
    #[error("user_dn_pattern must contain ${{username}}")]
    UserDnPattern,
    /// A placeholder that nothing fills in.
    #[error("{0:?} has a placeholder that is unknown or not closed")]
    Placeholder(String),
    /// A query needs to know where groups are.
    #[error("in_group_nested needs group_lookup_base or dn_lookup_base")]
    GroupBase,
    /// A regular expression is wrong.
    #[error("{pattern:?} is not a regular expression: {reason}")]
    Regex {
        /// The expression.
        pattern: String,
        /// Why.
        reason: String,
    },
    /// A service account without a password would bind without authentication.
    #[error("the password of {0:?} is empty")]
    EmptyPassword(String),
    /// The CA file cannot be read.
    #[error("cannot read certificates from {path}: {reason}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The TLS library refuses.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// Why a login or a question failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An empty password would be an unauthenticated bind (RFC 4513 section 5.1.2), which servers
    /// may answer with success.
    #[error("the password is empty")]
    EmptyPassword,
    /// Nobody has no name.
    #[error("the user name is empty")]
    EmptyUser,
    /// The directory refused the user's name or password.
    #[error("the directory refused {0:?}")]
    Refused(String),
    /// The search found nobody.
    #[error("the directory has no user {0:?}")]
    NoSuchUser(String),
    /// The search found several.
    #[error("the directory has more than one user {0:?}")]
    Ambiguous(String),
    /// No server answered as it should; the reasons of each.
    #[error("no LDAP server could be used: {0}")]
    Unavailable(String),
    /// The directory refused the broker's own account.
    #[error("the directory refused the account {0:?}")]
    ServiceAccount(String),
    /// A search failed.
    #[error("the search below {base:?} failed: {reason}")]
    Search {
        /// Where it looked.
        base: String,
        /// Why.
        reason: String,
    },
    /// A `for` query has no case for the question.
    #[error("no case of the query concerns the question")]
    NoCase,
    /// The groups of a user go on and on.
    #[error("more than {0} groups in a search for nested groups")]
    TooManyGroups(usize),
    /// A regular expression is wrong, once filled in.
    #[error("not a regular expression: {0}")]
    Regex(String),
}

impl Error {
    /// Whether the user was refused, rather than the directory out of order.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::EmptyPassword
                | Self::EmptyUser
                | Self::Refused(_)
                | Self::NoSuchUser(_)
                | Self::Ambiguous(_)
        )
    }
}
