//! Users of an OAuth 2.0 provider: the password is an access token, and its scopes are what they
//! may do.

use std::future::ready;
use std::sync::Arc;
use std::time::SystemTime;

use isthmus_broker::{Access, Denied, Entering, Limits, Login, Peer, User};
use isthmus_contract::Credentials;
use isthmus_model::{Action, CommandError, Resource};
use isthmus_oauth2::{Error, Grant, Permission, Verifier};

use crate::SharedDirectory;
use crate::access::refused_action;
use crate::backend::{self, Attempt, Backend, Refusal, RefusalKind};

/// Decisions remembered of one user's session; beyond it all are forgotten.
const REMEMBERED_MAX: usize = 64;

/// Finds out who a client is by the token that it presents.
pub struct OAuth2 {
    verifier: Arc<Verifier>,
    directory: SharedDirectory,
}

impl OAuth2 {
    /// Tokens that `verifier` accepts; limits are those of `directory`.
    pub fn new(verifier: Verifier, directory: SharedDirectory) -> OAuth2 {
        OAuth2 { verifier: Arc::new(verifier), directory }
    }
}

impl Backend for OAuth2 {
    fn name(&self) -> &'static str {
        "oauth2"
    }

    fn log_in(&self, credentials: &Credentials, _: &Peer) -> Attempt {
        let Credentials::Password { password, .. } = credentials else {
            return Box::pin(ready(Err(Refusal::unknown("a certificate is not a token"))));
        };
        let (verifier, directory) = (Arc::clone(&self.verifier), Arc::clone(&self.directory));
        let token = password.clone();
        Box::pin(async move {
            let user = verify(verifier, directory, &token.0).await;
            user.map(|user| Arc::new(user) as Arc<dyn User>).map_err(|error| {
                let kind = match error {
                    Error::NoKeys(_) => RefusalKind::OutOfOrder,
                    _ => RefusalKind::Unknown,
                };
                Refusal { why: error.to_string(), kind }
            })
        })
    }
}

async fn verify(
    verifier: Arc<Verifier>,
    directory: SharedDirectory,
    token: &str,
) -> Result<TokenUser, Error> {
    let grant = Arc::new(verifier.verify(token).await?);
    Ok(TokenUser { name: grant.user.as_str().into(), grant, verifier, directory })
}

/// A user with a token.
struct TokenUser {
    name: Arc<str>,
    grant: Arc<Grant>,
    verifier: Arc<Verifier>,
    directory: SharedDirectory,
}

impl User for TokenUser {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn tags(&self) -> Vec<String> {
        self.grant.tags.clone()
    }

    fn refresh(&self, secret: &str) -> Option<Login> {
        let (verifier, directory) = (Arc::clone(&self.verifier), Arc::clone(&self.directory));
        let (token, name) = (secret.to_owned(), Arc::clone(&self.name));
        Some(Box::pin(async move {
            match verify(verifier, directory, &token).await {
                Ok(user) => Ok(Arc::new(user) as Arc<dyn User>),
                Err(error) => {
                    tracing::info!(user = %name.escape_debug(), %error, "a new token is refused");
                    Err(backend::refused())
                }
            }
        }))
    }

    fn expires_at(&self) -> Option<SystemTime> {
        Some(self.grant.expires_at)
    }

    fn enter(&self, vhost: &Arc<str>) -> Entering {
        let result: Result<Box<dyn Access>, CommandError> = if self.grant.may_enter(vhost) {
            Ok(Box::new(TokenAccess {
                user: Arc::clone(&self.name),
                vhost: Arc::clone(vhost),
                writes_everything: self.grant.writes_everything(vhost),
                grant: Arc::clone(&self.grant),
                allowed: Vec::new(),
            }))
        } else {
            Err(backend::no_entry(&self.name, vhost))
        };
        Box::pin(ready(result))
    }

    fn limits(&self, vhost: &str) -> Limits {
        backend::limits(&self.directory, &self.name, vhost)
    }
}

/// What a token allows in a virtual host; it does not change.
struct TokenAccess {
    user: Arc<str>,
    vhost: Arc<str>,
    grant: Arc<Grant>,
    writes_everything: bool,
    /// Names that were found to be allowed: of exchanges and queues alike, as scopes make no
    /// difference between them.
    allowed: Vec<(Action, Box<str>)>,
}

fn permission(action: Action) -> Permission {
    match action {
        Action::Configure => Permission::Configure,
        Action::Write => Permission::Write,
        Action::Read => Permission::Read,
    }
}

impl Access for TokenAccess {
    fn check(&mut self, action: Action, resource: Resource<'_>) -> Result<(), Denied> {
        let name = resource.name();
        if self.allowed.iter().any(|(a, n)| (*a, &**n) == (action, name)) {
            return Ok(());
        }
        if !self.grant.allows(permission(action), &self.vhost, name) {
            let what = format!("{} '{name}'", resource.kind());
            return Err(refused_action(action, &what, &self.vhost, &self.user).into());
        }
        if self.allowed.len() >= REMEMBERED_MAX {
            self.allowed.clear();
        }
        self.allowed.push((action, name.into()));
        Ok(())
    }

    fn check_topic(&mut self, action: Action, exchange: &str, key: &str) -> Result<(), Denied> {
        // The default exchange's routing keys are queues, which scopes name as such; its name in
        // scopes is as for `check`.
        let exchange = Resource::Exchange(exchange).name();
        if self.grant.allows_topic(permission(action), &self.vhost, exchange, key) {
            return Ok(());
        }
        let what = format!("topic '{key}' in exchange '{exchange}'");
        Err(refused_action(action, &what, &self.vhost, &self.user).into())
    }

    fn writes_everything(&mut self) -> bool {
        self.writes_everything
    }
}
