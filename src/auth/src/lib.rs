//! Users, what they may do, and whether they are who they say.
//!
//! - [`User`], [`Permission`], [`TopicPermission`], [`Limits`]: what operators define, with their
//!   form as settings of the broker ([`isthmus_model::SettingKey`]).
//! - [`Hashing`], [`PasswordHash`]: how passwords are kept.
//! - [`Directory`]: all of that as it is now, arranged to be asked.
//! - [`Authenticator`]: logging in, two at a time, on threads of low priority.
//! - [`Logins`]: who a client is, by asking one [`Backend`] after the other: [`Internal`], the users
//!   above, by password or certificate; [`OAuth2`], by access token; [`Ldap`], by a directory.
//! - [`Access`]: what one user of the first kind may do in one virtual host, asked for every action.

mod access;
mod authenticator;
mod backend;
mod directory;
mod hashers;
mod internal;
mod ldap;
mod logins;
mod oauth2;
mod password;
mod scheduling;
mod user;

pub use access::Access;
pub use authenticator::{Authenticator, StartError};
pub use backend::{Attempt, Backend, Refusal, RefusalKind};
pub use directory::{Directory, SharedDirectory};
pub use internal::{CertificateName, Internal};
pub use ldap::Ldap;
pub use logins::Logins;
pub use oauth2::OAuth2;
pub use password::{HashCost, HashError, HashMemory, Hashing, PasswordHash};
pub use user::{FormError, Limits, Patterns, Permission, TopicPermission, User};

/// Why a login is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The name or the password is wrong; which of them is not told.
    #[error("the name or the password is wrong")]
    Refused,
    /// The password is right, but the user may only log in from the broker's machine.
    #[error("this user may log in only from the machine the broker runs on")]
    LoopbackOnly,
    /// The verification itself failed, for want of memory or because the broker is stopping.
    #[error("the password could not be verified")]
    Unavailable,
}
