//! Who a connection's client is, and the virtual host that it enters.

use std::future::Future;
use std::sync::Arc;

use isthmus_contract::{CloseReason, Credentials, Event};
use isthmus_model::{CommandError, Reply, Token};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use crate::access::{Access, User};
use crate::shard::{Input, MailboxHandle};

impl<S, C> Connection<S, C>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Future<Output = ()> + Unpin,
{
    /// Begins to find out who the client is, or whether it still is who it was.
    pub(super) fn authenticate(&mut self, token: Token, credentials: Credentials) {
        let login = match (&self.user, &credentials) {
            (Some(user), Credentials::Password { password, .. }) => {
                user.refresh(&password.0).unwrap_or_else(|| {
                    // What was verified once is not verified again.
                    Box::pin(std::future::ready(Ok(Arc::clone(user))))
                })
            }
            _ => self.common.authenticate.login(credentials, &self.registered.place.peer),
        };
        self.login = Some(Box::new((token, login)));
    }

    /// The client is who he says.
    pub(super) fn logged_in(&mut self, user: Arc<dyn User>) -> Result<Reply, CommandError> {
        let name = Arc::clone(user.name());
        match &self.user {
            None => self.registered.logged_in(&name, self.session.protocol()),
            Some(before) if before.name() == &name => {}
            Some(before) => {
                let text = format!("this connection is of user '{}'", before.name());
                return Err(CommandError::Refused(text));
            }
        }
        self.expiry = user.expires_at().map(|at| {
            let left = at.duration_since(self.common.threads.wall_clock()).unwrap_or_default();
            Box::pin(tokio::time::sleep(left))
        });
        // What he may do may have changed with the secret.
        if let (Some(vhost), true) = (&self.vhost, self.entered) {
            let entering = (Token::SILENT, Arc::clone(vhost), user.enter(vhost));
            self.entering = Some(Box::new(entering));
        }
        self.user = Some(user);
        Ok(Reply::Authenticated { user: name })
    }

    pub(super) fn enter(&mut self, token: Token, vhost: Arc<str>) {
        match &self.user {
            Some(user) if !self.entered && self.entering.is_none() => {
                let entering = user.enter(&vhost);
                self.entering = Some(Box::new((token, vhost, entering)));
            }
            _ => {
                let error = CommandError::Refused("log in first, and enter once".to_owned());
                let now = self.now();
                self.session.handle_event(now, Event::Done { token, result: Err(error) });
            }
        }
    }

    /// Whether the user may enter is known; whether there is such a virtual host the shard knows.
    pub(super) fn may_enter(&mut self, result: Result<Box<dyn Access>, CommandError>) {
        let Some((token, vhost, _)) = self.entering.take().map(|entering| *entering) else {
            return;
        };
        let Some(user) = &self.user else { return };
        if self.entered {
            // Refreshed: he is in already, and stays with what he may do now.
            match result {
                Ok(mut access) => {
                    if let Some(client) = self.owned.client() {
                        access.identify(client);
                    }
                    self.access = Some(access);
                }
                Err(error) => {
                    tracing::info!(peer = %self.registered.place.peer.address, %error, "closed");
                    let now = self.now();
                    self.session.handle_event(now, Event::Closed(CloseReason::Expired));
                    self.leave();
                }
            }
            return;
        }
        let result = result.and_then(|access| {
            self.share = self.registered.enter(&vhost, user.limits(&vhost))?;
            if let Some(share) = &self.share {
                self.session.set_places(Arc::clone(&share.places));
            }
            Ok(access)
        });
        let refusal = match result {
            Ok(access) => {
                self.access = Some(access);
                None
            }
            Err(error) => Some(error),
        };
        self.entered = true;
        self.entry = token;
        self.vhost = Some(Arc::clone(&vhost));
        let session = self.id();
        let mailbox = MailboxHandle(Arc::clone(&self.registered.place.mailbox));
        let (user, vhost) = (Arc::clone(user.name()), Some(vhost));
        self.common.driver.submit(Input::Open { session, token, user, vhost, refusal, mailbox });
    }

    /// There is no such virtual host, or not for this user. The session may try another.
    pub(super) fn not_entered(&mut self) {
        self.entered = false;
        self.vhost = None;
        self.access = None;
        self.share = None;
        self.registered.leave();
    }
}
