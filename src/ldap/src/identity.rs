//! What a user may do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::connection::Credentials;
use crate::directory::Shared;
use crate::error::Error;
use crate::evaluate::Evaluator;
use crate::query::Query;
use crate::template::Values;

/// Answers remembered for one user.
const MAX_ANSWERS: usize = 1024;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Declare and delete.
    Configure,
    /// Publish, and bind to.
    Write,
    /// Consume, and bind from.
    Read,
}

impl Permission {
    fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// What it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Exchange => "exchange",
        }
    }
}

/// A user who has logged in.
pub struct Identity {
    /// The user's name.
    pub user: String,
    /// The distinguished name of the user's entry.
    pub dn: String,
    /// Tags such as `administrator`, sorted.
    pub tags: Vec<String>,
    credentials: Credentials,
    shared: Arc<Shared>,
    answers: Mutex<HashMap<Question, (Instant, bool)>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Question {
    Vhost(String),
    Resource(Permission, Resource, String, String),
    Topic(Permission, String, String, String, String),
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("user", &self.user)
            .field("dn", &self.dn)
            .field("tags", &self.tags)
            .finish_non_exhaustive()
    }
}

impl Identity {
    pub(crate) fn new(
        user: String,
        dn: String,
        tags: Vec<String>,
        credentials: Credentials,
        shared: Arc<Shared>,
    ) -> Self {
        Self { user, dn, tags, credentials, shared, answers: Mutex::default() }
    }

    /// Whether the user may enter the virtual host.
    ///
    /// # Errors
    /// The directory cannot answer; access must be refused.
    pub async fn may_enter(&self, vhost: &str) -> Result<bool, Error> {
        let values = Values { vhost, ..self.values() };
        let question = Question::Vhost(vhost.to_owned());
        self.answer(question, &self.shared.config.vhost_access_query, &values).await
    }

    /// Whether the user has the permission for the queue or exchange.
    ///
    /// # Errors
    /// The directory cannot answer; access must be refused.
    pub async fn allows(
        &self,
        permission: Permission,
        resource: Resource,
        vhost: &str,
        name: &str,
    ) -> Result<bool, Error> {
        let values = Values {
            vhost,
            name,
            resource: resource.name(),
            permission: permission.name(),
            ..self.values()
        };
        let question = Question::Resource(permission, resource, vhost.to_owned(), name.to_owned());
        self.answer(question, &self.shared.config.resource_access_query, &values).await
    }

    /// Whether the user has the permission for the topic exchange and the routing key.
    ///
    /// # Errors
    /// The directory cannot answer; access must be refused.
    pub async fn allows_topic(
        &self,
        permission: Permission,
        vhost: &str,
        exchange: &str,
        routing_key: &str,
        client_id: &str,
    ) -> Result<bool, Error> {
        let values = Values {
            vhost,
            name: exchange,
            resource: "topic",
            permission: permission.name(),
            routing_key,
            client_id,
            ..self.values()
        };
        let question = Question::Topic(
            permission,
            vhost.to_owned(),
            exchange.to_owned(),
            routing_key.to_owned(),
            client_id.to_owned(),
        );
        self.answer(question, &self.shared.config.topic_access_query, &values).await
    }

    /// What [`Identity::allows`] says of everything, if the directory need not be asked.
    #[must_use]
    pub fn allows_always(&self) -> Option<bool> {
        self.shared.config.resource_access_query.constant()
    }

    /// What [`Identity::allows_topic`] says of everything, if the directory need not be asked.
    #[must_use]
    pub fn allows_topic_always(&self) -> Option<bool> {
        self.shared.config.topic_access_query.constant()
    }

    /// How long an answer holds good.
    #[must_use]
    pub fn cache_lifetime(&self) -> Duration {
        Duration::from_secs(self.shared.config.cache_seconds)
    }

    fn values(&self) -> Values<'_> {
        Values { username: &self.user, user_dn: &self.dn, ..Values::default() }
    }

    async fn answer(
        &self,
        question: Question,
        query: &Query,
        values: &Values<'_>,
    ) -> Result<bool, Error> {
        if let Some(answer) = query.constant() {
            return Ok(answer);
        }
        let max_age = Duration::from_secs(self.shared.config.cache_seconds);
        let known = self.answers.lock().get(&question).copied();
        if let Some((at, answer)) = known
            && at.elapsed() < max_age
        {
            return Ok(answer);
        }
        let mut evaluator = Evaluator::new(
            &self.shared.config,
            &self.shared.connector,
            self.credentials.clone(),
            None,
        );
        let answer = evaluator.ask(query, values).await;
        evaluator.close().await;
        let answer = answer?;
        if !max_age.is_zero() {
            let mut answers = self.answers.lock();
            if answers.len() >= MAX_ANSWERS {
                answers.retain(|_, (at, _)| at.elapsed() < max_age);
            }
            if answers.len() >= MAX_ANSWERS {
                answers.clear();
            }
            answers.insert(question, (Instant::now(), answer));
        }
        Ok(answer)
    }
}
