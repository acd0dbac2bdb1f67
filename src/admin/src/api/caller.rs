//! Who asks, and what he is.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isthmus_broker::{Client, Peer, User};
use isthmus_contract::{Credentials, Secret};
use isthmus_model::CommandError;

use super::{Api, ApiError};

/// What a user must be to do something (RabbitMQ's tags). Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tag {
    /// Sees his own, in virtual hosts that he may enter.
    Management,
    /// Manages policies there.
    Policymaker,
    /// Sees everything.
    Monitoring,
    /// May do everything.
    Administrator,
}

/// A user who asks.
pub(super) struct Caller {
    pub(super) user: Arc<dyn User>,
    pub(super) tags: Vec<String>,
}

impl Caller {
    fn has(&self, tag: &str) -> bool {
        self.tags.iter().any(|t| t == tag)
    }

    /// Whether he may do what needs `tag`.
    pub(super) fn is(&self, tag: Tag) -> bool {
        let administrator = self.has("administrator");
        administrator
            || match tag {
                Tag::Management => {
                    self.has("management") || self.has("policymaker") || self.has("monitoring")
                }
                Tag::Policymaker => self.has("policymaker"),
                Tag::Monitoring => self.has("monitoring"),
                Tag::Administrator => false,
            }
    }

    /// Refuses unless he may do what needs `tag`.
    pub(super) fn must_be(&self, tag: Tag) -> Result<(), ApiError> {
        if self.is(tag) {
            return Ok(());
        }
        let word = match tag {
            Tag::Management => "a management user",
            Tag::Policymaker => "a policymaker",
            Tag::Monitoring => "a monitor user",
            Tag::Administrator => "an administrator",
        };
        Err(ApiError::Forbidden(format!("Not {word}")))
    }

    /// A session of his in `vhost`.
    pub(super) async fn client(&self, api: &Api, vhost: &str) -> Result<Client, ApiError> {
        let vhost: Arc<str> = vhost.into();
        let exists = Arc::clone(&vhost);
        if !api.inspect(move |shard| shard.dispatcher().has_vhost(&exists)).await? {
            return Err(ApiError::NotFound);
        }
        let access = self.user.enter(&vhost).await?;
        Ok(api.broker()?.client(vhost, access).await?)
    }

    /// Whether he may see what is in `vhost`.
    pub(super) async fn sees(&self, vhost: &str) -> bool {
        self.is(Tag::Monitoring) || self.user.enter(&vhost.into()).await.is_ok()
    }

    /// Refuses unless he may see what is in `vhost`, and it is there.
    pub(super) async fn must_see(&self, api: &Api, vhost: &str) -> Result<(), ApiError> {
        let exists: Arc<str> = vhost.into();
        if !api.inspect(move |shard| shard.dispatcher().has_vhost(&exists)).await? {
            return Err(ApiError::NotFound);
        }
        if self.sees(vhost).await {
            return Ok(());
        }
        Err(CommandError::Refused(format!("User not authorised to access virtual host {vhost}"))
            .into())
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Caller, ApiError> {
        // Without a peer the request did not come through a listener of ours.
        let peer = parts.extensions.get::<Peer>().cloned().ok_or(ApiError::Unauthorized)?;
        let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let credentials = given.and_then(credentials).ok_or(ApiError::Unauthorized)?;
        let user =
            api.logins.login(credentials, &peer).await.map_err(|_| ApiError::Unauthorized)?;
        let tags = user.tags();
        let caller = Caller { user, tags };
        caller.must_be(Tag::Management)?;
        Ok(caller)
    }
}

/// What a header of HTTP basic authentication (RFC 7617) says.
fn credentials(header: &str) -> Option<Credentials> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credentials::Password { user: user.to_owned(), password: Secret(password.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_read_and_nothing_else() {
        let read = |header: &str| match credentials(header) {
            Some(Credentials::Password { user, password }) => Some((user, password.0)),
            _ => None,
        };
        let expected = Some(("anna".to_owned(), "a:b".to_owned()));
        assert_eq!(read(&format!("Basic {}", STANDARD.encode("anna:a:b"))), expected);
        assert_eq!(read(&format!("basic  {} ", STANDARD.encode("anna:a:b"))), expected);
        for bad in
            ["", "Basic", "Basic !", "Bearer YTpi", &format!("Basic {}", STANDARD.encode("a"))]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
