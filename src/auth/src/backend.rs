//! What every authentication backend does.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use isthmus_broker::{Limits, Peer, Rates, User};
use isthmus_contract::Credentials;
use isthmus_model::CommandError;

use crate::SharedDirectory;

/// A backend at work: who the client is, or why it does not accept him.
pub type Attempt = Pin<Box<dyn Future<Output = Result<Arc<dyn User>, Refusal>> + Send>>;

/// Somebody who knows users.
pub trait Backend: Send + Sync + 'static {
    /// Its name in the configuration and in the log.
    fn name(&self) -> &'static str;

    /// Begins to verify `credentials` of the client at `peer`. Dropping the attempt gives it up.
    fn log_in(&self, credentials: &Credentials, peer: &Peer) -> Attempt;
}

/// Why a backend does not accept a client; for the log, and without a secret in it.
#[derive(Debug)]
pub struct Refusal {
    /// The reason.
    pub why: String,
    /// What it means for the other backends, and for whoever reads the log.
    pub kind: RefusalKind,
}

/// What a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// It does not know him, or not with this secret: somebody else may.
    Unknown,
    /// It knows him and he must not come in: nobody else is asked.
    Forbidden,
    /// It is out of order, or somebody it relies on is: somebody else may know him.
    OutOfOrder,
}

impl Refusal {
    pub(crate) fn unknown(why: impl fmt::Display) -> Refusal {
        Refusal { why: why.to_string(), kind: RefusalKind::Unknown }
    }
}

/// The client is not told why: that would help those who guess.
pub(crate) fn refused() -> CommandError {
    CommandError::Refused("login refused".to_owned())
}

/// He may not enter `vhost`.
pub(crate) fn no_entry(user: &str, vhost: &str) -> CommandError {
    CommandError::Refused(format!("access to vhost '{vhost}' refused for user '{user}'"))
}

/// What operators have set for the user of this name and for `vhost`, whoever knows the user.
pub(crate) fn limits(directory: &SharedDirectory, user: &str, vhost: &str) -> Limits {
    let directory = directory.load();
    let (of_user, of_vhost) = (directory.user_limits(user), directory.vhost_limits(vhost));
    let rates = |limits: &crate::Limits| Rates {
        messages: limits.publishes_per_second_max,
        bytes: limits.publish_bytes_per_second_max,
    };
    Limits {
        user_connections: of_user.connections_max,
        vhost_connections: of_vhost.connections_max,
        user_channels: of_user.channels_max,
        user_rates: rates(&of_user),
        vhost_rates: rates(&of_vhost),
    }
}
