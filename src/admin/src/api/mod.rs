//! The management API, under `/api`: RabbitMQ's paths, bodies and tags
//! (<https://www.rabbitmq.com/docs/http-api-reference>), so that its tools work here.
//!
//! Who asks is found out by HTTP basic authentication ([`caller`]); what he asks for within a
//! virtual host is carried out by a session of his own, under his permissions.

mod backup;
mod bindings;
mod caller;
mod connections;
mod definitions;
mod error;
mod exchanges;
mod json;
mod limits;
mod overview;
mod permissions;
mod policies;
mod queues;
mod retained;
mod sessions;
mod users;
mod vhosts;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::routing::{delete, get, post};
use isthmus_auth::{Hashing, SharedDirectory};
use isthmus_broker::{Authenticate, Broker, Client, Leader};
use isthmus_contract::{Command, ManageOp};
use isthmus_model::{SettingKey, Table};

pub(crate) use self::definitions::BYTES_MAX as DEFINITIONS_BYTES_MAX;
pub use self::error::ApiError;

/// What the management API works on.
pub struct Api {
    broker: OnceLock<Broker>,
    logins: Arc<dyn Authenticate>,
    directory: SharedDirectory,
    hashing: Hashing,
    version: &'static str,
}

type ApiState = axum::extract::State<Arc<Api>>;

impl Api {
    /// An API without a broker, which answers that it is not there yet.
    pub fn new(
        logins: Arc<dyn Authenticate>,
        directory: SharedDirectory,
        hashing: Hashing,
        version: &'static str,
    ) -> Api {
        Api { broker: OnceLock::new(), logins, directory, hashing, version }
    }

    /// From now on the API works on `broker`. It is set once.
    pub fn set_broker(&self, broker: Broker) {
        self.broker.set(broker).ok();
    }

    /// Imports definitions, as the file of a configuration has them.
    ///
    /// # Errors
    /// What cannot be imported, and why; what comes before it is in effect.
    pub async fn import(&self, json: &[u8]) -> Result<(), ApiError> {
        definitions::import_all(self, json).await
    }

    fn broker(&self) -> Result<&Broker, ApiError> {
        self.broker.get().ok_or(ApiError::Unavailable)
    }

    /// Looks at the shard between commands.
    async fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Leader<'_>) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.broker()?.inspect(look).await.ok_or(ApiError::Unavailable)
    }

    async fn operator(&self) -> Result<Client, ApiError> {
        Ok(self.broker()?.operator().await?)
    }

    /// Gives a setting a value, or none.
    async fn set(&self, key: SettingKey, value: Option<Table>) -> Result<(), ApiError> {
        let mut operator = self.operator().await?;
        set_with(&mut operator, key, value).await
    }
}

/// Checks a setting and gives it its value.
async fn set_with(
    operator: &mut Client,
    key: SettingKey,
    value: Option<Table>,
) -> Result<(), ApiError> {
    let value = value.map(Arc::new);
    if let Some(value) = &value {
        isthmus_auth::Directory::check(&key, value)
            .map_err(|error| ApiError::Invalid(error.to_string()))?;
    }
    let op = ManageOp::Set { key, value };
    operator.ask(|token| Command::Manage { token, op }).await?;
    Ok(())
}

/// The routes under `/api`.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/api/whoami", get(overview::whoami))
        .route("/api/overview", get(overview::overview))
        .route("/api/health/checks/alarms", get(overview::alarms))
        .route("/api/health/checks/local-alarms", get(overview::alarms))
        .route("/api/health/checks/virtual-hosts", get(overview::alarms))
        .route("/api/aliveness-test/{vhost}", get(overview::aliveness))
        .route("/api/backup", post(backup::post))
        .route("/api/connections", get(connections::list))
        .route("/api/connections/{name}", get(connections::get).delete(connections::close))
        .route("/api/vhosts/{vhost}/connections", get(connections::list_of_vhost))
        .route("/api/connections/username/{user}", delete(connections::close_of_user))
        .route("/api/sessions", get(sessions::list))
        .route("/api/sessions/{vhost}", get(sessions::list_of_vhost))
        .route("/api/sessions/{vhost}/{client}", get(sessions::get).delete(sessions::end))
        .route("/api/vhosts", get(vhosts::list))
        .route("/api/vhosts/{vhost}", get(vhosts::get).put(vhosts::put).delete(vhosts::delete))
        .route("/api/vhosts/{vhost}/permissions", get(permissions::list_of_vhost))
        .route("/api/users", get(users::list))
        .route("/api/users/{user}", get(users::get).put(users::put).delete(users::delete))
        .route("/api/users/{user}/permissions", get(permissions::list_of_user))
        .route("/api/permissions", get(permissions::list))
        .route(
            "/api/permissions/{vhost}/{user}",
            get(permissions::get).put(permissions::put).delete(permissions::delete),
        )
        .route("/api/topic-permissions", get(permissions::list_topics))
        .route(
            "/api/topic-permissions/{vhost}/{user}",
            get(permissions::get_topics)
                .put(permissions::put_topics)
                .delete(permissions::delete_topics),
        )
        .route("/api/user-limits", get(limits::list_users))
        .route("/api/user-limits/{name}", get(limits::list_user))
        .route(
            "/api/user-limits/{name}/{limit}",
            axum::routing::put(limits::put_user).delete(limits::delete_user),
        )
        .route("/api/vhost-limits", get(limits::list_vhosts))
        .route("/api/vhost-limits/{name}", get(limits::list_vhost))
        .route(
            "/api/vhost-limits/{name}/{limit}",
            axum::routing::put(limits::put_vhost).delete(limits::delete_vhost),
        )
        .route("/api/{kind}/{vhost}", get(policies::list_of_vhost))
        .route(
            "/api/{kind}/{vhost}/{name}",
            get(policies::get).put(policies::put).delete(policies::delete),
        )
        .route("/api/policies", get(policies::list))
        .route("/api/operator-policies", get(policies::list_of_operators))
        .route("/api/exchanges", get(exchanges::list))
        .route("/api/exchanges/{vhost}", get(exchanges::list_of_vhost))
        .route(
            "/api/exchanges/{vhost}/{name}",
            get(exchanges::get).put(exchanges::put).delete(exchanges::delete),
        )
        .route("/api/exchanges/{vhost}/{name}/bindings/source", get(bindings::list_from))
        .route("/api/exchanges/{vhost}/{name}/bindings/destination", get(bindings::list_to))
        .route("/api/retained/{vhost}/{exchange}", get(retained::list))
        .route("/api/queues", get(queues::list))
        .route("/api/queues/{vhost}", get(queues::list_of_vhost))
        .route(
            "/api/queues/{vhost}/{name}",
            get(queues::get).put(queues::put).delete(queues::delete),
        )
        .route("/api/queues/{vhost}/{name}/contents", delete(queues::purge))
        .route("/api/queues/{vhost}/{name}/bindings", get(bindings::list_of_queue))
        .route("/api/bindings", get(bindings::list))
        .route("/api/bindings/{vhost}", get(bindings::list_of_vhost))
        .route(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}",
            get(bindings::list_between).post(bindings::post),
        )
        .route(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{properties}",
            get(bindings::get).delete(bindings::delete),
        )
        .route("/api/definitions", get(definitions::export).post(definitions::import))
        .route(
            "/api/definitions/{vhost}",
            get(definitions::export_vhost).post(definitions::import_vhost),
        )
        .fallback(post(error::not_found).get(error::not_found))
        .with_state(api)
}
