//! Users as this node knows them: kept in step with the broker's settings, and made at the first
//! start.

use std::sync::Arc;

use arc_swap::ArcSwap;
use isthmus_auth::{
    Authenticator, Backend as Asked, Directory, HashCost, HashError, Hashing, Internal, Ldap,
    Logins, OAuth2, Permission, SharedDirectory, StartError, User,
};
use isthmus_broker::OnSettings;
use isthmus_contract::model::{CommandError, SettingKey, SettingKind};
use isthmus_contract::{Command, ManageOp};

use crate::config::{Auth, Backend, Config};

/// The name and the password of the user that is made at the first start.
const GUEST: &str = "guest";

/// Everything about users that is not in the broker's settings.
#[derive(Clone)]
pub(crate) struct Users {
    pub(crate) directory: SharedDirectory,
    pub(crate) hashing: Hashing,
    pub(crate) logins: Arc<Logins>,
}

/// Why users cannot be handled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsersError {
    /// A password cannot be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// Passwords cannot be verified.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Access tokens cannot be verified.
    #[error("auth.oauth2: {0}")]
    OAuth2(#[from] isthmus_oauth2::ConfigError),
    /// The directory cannot be asked.
    #[error("auth.ldap: {0}")]
    Ldap(#[from] isthmus_ldap::ConfigError),
    /// The broker does not take the first user.
    #[error("the user {GUEST} cannot be made: {0}")]
    First(CommandError),
}

/// Those who are asked when somebody logs in.
fn backends(
    auth: &Auth,
    directory: &SharedDirectory,
    hashing: &Hashing,
) -> Result<Vec<Box<dyn Asked>>, UsersError> {
    let mut backends: Vec<Box<dyn Asked>> = Vec::new();
    for backend in &auth.backends.0 {
        let directory = Arc::clone(directory);
        backends.push(match backend {
            Backend::Internal => {
                let users = Authenticator::new(Arc::clone(&directory), hashing.clone())?;
                Box::new(Internal::new(Arc::new(users), directory, auth.certificate_user.0))
            }
            Backend::OAuth2 => {
                let verifier = isthmus_oauth2::Verifier::new(auth.oauth2.config())?;
                Box::new(OAuth2::new(verifier, directory))
            }
            Backend::Ldap => {
                let ldap = isthmus_ldap::Directory::new(auth.ldap.config())?;
                Box::new(Ldap::new(ldap, directory))
            }
        });
    }
    Ok(backends)
}

impl Users {
    /// Nobody yet. Hashes once, which blocks for about 20 ms, and reads files that backends need.
    ///
    /// # Errors
    /// If hashing or random numbers fail, or a backend cannot be used.
    pub(crate) fn new(config: &Config) -> Result<Users, UsersError> {
        let auth = &config.auth;
        let cost = HashCost {
            memory_kib: u32::try_from(auth.argon2_memory_bytes.0 / 1024).unwrap_or(u32::MAX),
            iterations: auth.argon2_iterations,
            lanes: auth.argon2_parallelism,
            password_bytes_max: auth.password_bytes_max as usize,
            give_back: crate::memory::give_back,
        };
        let hashing = Hashing::new(cost)?;
        let directory = SharedDirectory::new(ArcSwap::default());
        let backends = backends(auth, &directory, &hashing)?;
        let logins = Logins::new(backends, config.limits.handshake_timeout.0);
        Ok(Users { directory, hashing, logins: Arc::new(logins) })
    }

    /// Keeps the directory in step with the broker's settings.
    pub(crate) fn follow(&self) -> OnSettings {
        let shared = Arc::clone(&self.directory);
        Box::new(move |ledger| {
            let before = shared.load();
            let directory = Directory::new(&before, ledger.settings().iter(), |key, error| {
                tracing::error!(%key, %error, "a setting cannot be read and has no effect");
            });
            shared.store(Arc::new(directory));
        })
    }

    /// Makes guest/guest, who may do everything but only from this machine, if there are no users.
    ///
    /// # Errors
    /// If the broker refuses.
    pub(crate) async fn make_first(
        &self,
        broker: &isthmus_broker::Broker,
        config: &Config,
    ) -> Result<(), UsersError> {
        if !self.directory.load().has_no_users() {
            return Ok(());
        }
        if !config.auth.backends.0.contains(&Backend::Internal) {
            return Ok(());
        }
        if !config.auth.guest {
            tracing::warn!("there are no internal users and auth.guest = false");
            return Ok(());
        }
        let user = User {
            password_hash: self.hashing.hash(GUEST.as_bytes())?,
            tags: vec!["administrator".to_owned()],
            loopback_only: true,
        };
        let vhost = &config.amqp.default_vhost;
        let settings = [
            (SettingKey::global(SettingKind::User, GUEST), user.table()),
            (
                SettingKey::of_vhost(SettingKind::Permission, vhost, GUEST),
                Permission::table(".*", ".*", ".*"),
            ),
        ];
        let mut operator = broker.operator().await.map_err(UsersError::First)?;
        for (key, table) in settings {
            let op = ManageOp::Set { key, value: Some(Arc::new(table)) };
            let made = operator.ask(|token| Command::Manage { token, op }).await;
            made.map_err(UsersError::First)?;
        }
        tracing::info!("there were no users: guest/guest may log in from this machine");
        Ok(())
    }
}
