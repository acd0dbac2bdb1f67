//! Logins.

use std::sync::Arc;

use ldap3::ldap_escape;

use crate::config::{Bind, Config};
use crate::connection::{Connection, Connector, Credentials, OpenError};
use crate::error::{ConfigError, Error};
use crate::evaluate::Evaluator;
use crate::identity::Identity;
use crate::secret::Secret;
use crate::template::{Place, Values, fill};

/// The directory. Cheap to clone; runs on Tokio.
#[derive(Clone)]
pub struct Directory {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) connector: Connector,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Directory {
    /// Prepares the use of a directory. Reads the CA file, and blocks for that; no server is
    /// asked before the first login.
    ///
    /// # Errors
    /// Mistakes in the configuration, and certificates that cannot be read.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let connector = Connector::new(&config)?;
        Ok(Self { shared: Arc::new(Shared { config, connector }) })
    }

    /// Checks a user's password and reads the user's tags.
    ///
    /// # Errors
    /// [`Error::is_refusal`] tells wrong names and passwords from a directory out of order. The
    /// messages are for logs and hold no password.
    pub async fn login(&self, username: &str, password: &str) -> Result<Identity, Error> {
        if username.is_empty() {
            return Err(Error::EmptyUser);
        }
        if password.is_empty() {
            return Err(Error::EmptyPassword);
        }
        let config = &self.shared.config;
        let password = Secret::new(password);
        let is_search_first =
            config.dn_lookup_attribute.is_some() && config.dn_lookup_bind != Bind::AsUser;
        let bind_dn = if is_search_first {
            let credentials = self.credentials(&config.dn_lookup_bind, "", &password);
            let mut connection =
                self.shared.connector.open(&credentials).await.map_err(|error| match error {
                    OpenError::Refused => Error::ServiceAccount(match &credentials {
                        Credentials::Anonymous => "anonymous".to_owned(),
                        Credentials::Account { dn, .. } => dn.clone(),
                    }),
                    OpenError::Unavailable(reason) => Error::Unavailable(reason),
                })?;
            let dn = self.look_up(&mut connection, username).await;
            connection.close().await;
            dn?
        } else {
            let values = Values { username, ..Values::default() };
            // A bare `${username}` is no distinguished name but what the server takes for one,
            // such as the principal names of Active Directory.
            let is_name = config.user_dn_pattern.contains('=');
            let place = if is_name { Place::Dn } else { Place::Plain };
            fill(&config.user_dn_pattern, &values, place)
        };
        let own = Credentials::Account { dn: bind_dn.clone(), password: password.clone() };
        let mut connection =
            self.shared.connector.open(&own).await.map_err(|error| match error {
                OpenError::Refused => Error::Refused(username.to_owned()),
                OpenError::Unavailable(reason) => Error::Unavailable(reason),
            })?;
        let dn = if config.dn_lookup_attribute.is_some() && !is_search_first {
            self.look_up(&mut connection, username).await?
        } else {
            bind_dn.clone()
        };
        let credentials = self.credentials(&config.other_bind, &bind_dn, &password);
        let connection = if config.other_bind == Bind::AsUser {
            Some(connection)
        } else {
            connection.close().await;
            None
        };
        let mut evaluator =
            Evaluator::new(config, &self.shared.connector, credentials.clone(), connection);
        let values = Values { username, user_dn: &dn, ..Values::default() };
        let mut tags = Vec::new();
        for (tag, query) in &config.tag_queries {
            if evaluator.ask(query, &values).await? {
                tags.push(tag.clone());
            }
        }
        evaluator.close().await;
        Ok(Identity::new(username.to_owned(), dn, tags, credentials, Arc::clone(&self.shared)))
    }

    fn credentials(&self, bind: &Bind, user_dn: &str, password: &Secret) -> Credentials {
        match bind {
            Bind::AsUser => {
                Credentials::Account { dn: user_dn.to_owned(), password: password.clone() }
            }
            Bind::Anonymous => Credentials::Anonymous,
            Bind::Account(account) => {
                Credentials::Account { dn: account.dn.clone(), password: account.password.clone() }
            }
        }
    }

    /// Searches for the user's entry.
    async fn look_up(&self, connection: &mut Connection, username: &str) -> Result<String, Error> {
        let config = &self.shared.config;
        let attribute = config.dn_lookup_attribute.as_deref().unwrap_or_default();
        let base = config.dn_lookup_base.as_deref().unwrap_or_default();
        let values = Values { username, ..Values::default() };
        // As in RabbitMQ, the pattern is the value that is looked for, `${username}` as a rule.
        let value = fill(&config.user_dn_pattern, &values, Place::Plain);
        let filter = format!("({attribute}={})", ldap_escape(value));
        let mut found =
            connection.search(base, ldap3::Scope::Subtree, &filter, "1.1").await?.into_iter();
        match (found.next(), found.next()) {
            (Some(entry), None) => Ok(entry.dn),
            (None, _) => Err(Error::NoSuchUser(username.to_owned())),
            (Some(_), Some(_)) => Err(Error::Ambiguous(username.to_owned())),
        }
    }
}
