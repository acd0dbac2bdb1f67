//! Users of a directory (LDAP): it checks their passwords, and answers what they may do.

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_broker::{Access, Asking, Denied, Entering, Limits, Login, Peer, User};
use isthmus_contract::Credentials;
use isthmus_ldap::{Directory, Error, Identity, Permission, Resource as Kind};
use isthmus_model::{Action, Resource};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::SharedDirectory;
use crate::access::refused_action;
use crate::backend::{self, Attempt, Backend, Refusal, RefusalKind};

/// Logins at once: each has a connection to the directory, and a flood of strangers must not
/// become a flood there.
const LOGINS_MAX: usize = 16;

/// Answers remembered of one user's session, beside those that a command still needs.
const ANSWERS_MAX: usize = 1024;

/// Finds out who a client is by asking a directory.
pub struct Ldap {
    shared: Arc<Shared>,
}

struct Shared {
    ldap: Directory,
    directory: SharedDirectory,
    places: Semaphore,
}

impl Ldap {
    /// Users of `ldap`; limits are those of `directory`.
    pub fn new(ldap: Directory, directory: SharedDirectory) -> Ldap {
        let places = Semaphore::new(LOGINS_MAX);
        Ldap { shared: Arc::new(Shared { ldap, directory, places }) }
    }
}

impl Backend for Ldap {
    fn name(&self) -> &'static str {
        "ldap"
    }

    fn log_in(&self, credentials: &Credentials, _: &Peer) -> Attempt {
        let Credentials::Password { user, password } = credentials else {
            let why = "a certificate cannot be shown to a directory";
            return Box::pin(ready(Err(Refusal::unknown(why))));
        };
        let (shared, user, password) = (Arc::clone(&self.shared), user.clone(), password.clone());
        Box::pin(async move {
            let user = log_in(shared, &user, &password.0).await;
            user.map(|user| Arc::new(user) as Arc<dyn User>).map_err(|error| {
                let refused = error.is_refusal();
                let kind = if refused { RefusalKind::Unknown } else { RefusalKind::OutOfOrder };
                Refusal { why: error.to_string(), kind }
            })
        })
    }
}

async fn log_in(shared: Arc<Shared>, user: &str, password: &str) -> Result<LdapUser, Error> {
    // The semaphore is never closed.
    let _place = shared.places.acquire().await;
    let identity = Arc::new(shared.ldap.login(user, password).await?);
    Ok(LdapUser { name: identity.user.as_str().into(), identity, shared: Arc::clone(&shared) })
}

/// A user whom the directory knows.
struct LdapUser {
    name: Arc<str>,
    identity: Arc<Identity>,
    shared: Arc<Shared>,
}

impl User for LdapUser {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn tags(&self) -> Vec<String> {
        self.identity.tags.clone()
    }

    fn refresh(&self, secret: &str) -> Option<Login> {
        let (shared, name) = (Arc::clone(&self.shared), Arc::clone(&self.name));
        let password = secret.to_owned();
        Some(Box::pin(async move {
            match log_in(shared, &name, &password).await {
                Ok(user) => Ok(Arc::new(user) as Arc<dyn User>),
                Err(error) => {
                    tracing::info!(user = %name.escape_debug(), %error, "a new password is refused");
                    Err(backend::refused())
                }
            }
        }))
    }

    fn enter(&self, vhost: &Arc<str>) -> Entering {
        let (identity, name) = (Arc::clone(&self.identity), Arc::clone(&self.name));
        let vhost = Arc::clone(vhost);
        Box::pin(async move {
            let may_enter = match identity.may_enter(&vhost).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::warn!(user = %name.escape_debug(), %vhost, %error, "access refused");
                    false
                }
            };
            if !may_enter {
                return Err(backend::no_entry(&name, &vhost));
            }
            Ok(Box::new(LdapAccess::new(identity, name, vhost)) as Box<dyn Access>)
        })
    }

    fn limits(&self, vhost: &str) -> Limits {
        backend::limits(&self.shared.directory, &self.name, vhost)
    }
}

/// What was asked in a virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    /// About a queue, if it is one, or else an exchange.
    Resource(Action, bool, Box<str>),
    /// Of an exchange with a routing key, asked by one of the user's clients.
    Topic(Action, Box<str>, Box<str>, Box<str>),
}

#[derive(Clone, Copy)]
struct Answer {
    allowed: bool,
    /// `None` if the directory did not answer: then it is asked again for the next command.
    at: Option<Instant>,
}

/// What a user may do in a virtual host, asked of the directory when it is not known.
struct LdapAccess {
    identity: Arc<Identity>,
    user: Arc<str>,
    vhost: Arc<str>,
    /// Which of the user's clients it is, empty as long as it has not said so.
    client: Box<str>,
    /// Filled by questions that are over.
    answers: Arc<Mutex<HashMap<Question, Answer>>>,
    lifetime: Duration,
    /// A command waits: no answer is forgotten before it is decided on, or it would never be.
    is_asking: bool,
}

impl LdapAccess {
    fn new(identity: Arc<Identity>, user: Arc<str>, vhost: Arc<str>) -> LdapAccess {
        let lifetime = identity.cache_lifetime();
        LdapAccess {
            identity,
            user,
            vhost,
            client: "".into(),
            answers: Arc::default(),
            lifetime,
            is_asking: false,
        }
    }

    /// The answer, or the way to it.
    fn ask(&mut self, question: Question) -> Result<bool, Asking> {
        let known = self.answers.lock().get(&question).copied();
        if let Some(answer) = known
            && (self.is_asking || answer.at.is_some_and(|at| at.elapsed() < self.lifetime))
        {
            return Ok(answer.allowed);
        }
        self.is_asking = true;
        let (identity, answers) = (Arc::clone(&self.identity), Arc::clone(&self.answers));
        let (user, vhost) = (Arc::clone(&self.user), Arc::clone(&self.vhost));
        Err(Box::pin(async move {
            let answer = match put(&identity, &vhost, &question).await {
                Ok(allowed) => Answer { allowed, at: Some(Instant::now()) },
                Err(error) => {
                    tracing::warn!(user = %user.escape_debug(), %vhost, %error, "access refused");
                    Answer { allowed: false, at: None }
                }
            };
            answers.lock().insert(question, answer);
        }))
    }

    fn refused(&self, action: Action, what: &str) -> Denied {
        refused_action(action, what, &self.vhost, &self.user).into()
    }
}

fn permission(action: Action) -> Permission {
    match action {
        Action::Configure => Permission::Configure,
        Action::Write => Permission::Write,
        Action::Read => Permission::Read,
    }
}

/// Puts a question to the directory.
async fn put(identity: &Identity, vhost: &str, question: &Question) -> Result<bool, Error> {
    match question {
        Question::Resource(action, is_queue, name) => {
            let kind = if *is_queue { Kind::Queue } else { Kind::Exchange };
            identity.allows(permission(*action), kind, vhost, name).await
        }
        Question::Topic(action, exchange, key, client) => {
            identity.allows_topic(permission(*action), vhost, exchange, key, client).await
        }
    }
}

impl Access for LdapAccess {
    fn check(&mut self, action: Action, resource: Resource<'_>) -> Result<(), Denied> {
        let name = resource.name();
        let answer = self.identity.allows_always().map_or_else(
            || {
                let is_queue = matches!(resource, Resource::Queue(_));
                self.ask(Question::Resource(action, is_queue, name.into()))
            },
            Ok,
        );
        match answer {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.refused(action, &format!("{} '{name}'", resource.kind()))),
            Err(asking) => Err(Denied::Asking(asking)),
        }
    }

    fn check_topic(&mut self, action: Action, exchange: &str, key: &str) -> Result<(), Denied> {
        let exchange = Resource::Exchange(exchange).name();
        let answer = self.identity.allows_topic_always().map_or_else(
            || {
                let client = self.client.clone();
                self.ask(Question::Topic(action, exchange.into(), key.into(), client))
            },
            Ok,
        );
        match answer {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(self.refused(action, &format!("topic '{key}' in exchange '{exchange}'")))
            }
            Err(asking) => Err(Denied::Asking(asking)),
        }
    }

    fn writes_everything(&mut self) -> bool {
        self.identity.allows_always() == Some(true)
            && self.identity.allows_topic_always() == Some(true)
    }

    fn identify(&mut self, client: &str) {
        if *self.client != *client {
            self.client = client.into();
        }
    }

    fn decided(&mut self) {
        if !std::mem::take(&mut self.is_asking) {
            return;
        }
        let mut answers = self.answers.lock();
        if answers.len() > ANSWERS_MAX {
            answers.clear();
        }
        answers.retain(|_, answer| answer.at.is_some_and(|at| at.elapsed() < self.lifetime));
    }
}
