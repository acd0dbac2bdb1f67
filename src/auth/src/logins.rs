//! Logging in, as the broker asks for it: one backend after the other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_broker::{Authenticate, Login, Peer, User};
use isthmus_contract::Credentials;
use isthmus_model::CommandError;

use crate::backend::{Backend, Refusal, RefusalKind, refused};

/// Finds out who a client is: each backend is asked, in order, until one accepts him. What he may
/// do then is for that one to say.
pub struct Logins {
    backends: Arc<[Box<dyn Backend>]>,
    /// How long a login may take, over all backends.
    timeout: Duration,
}

impl Logins {
    /// Logins by `backends`, each given up after `timeout`.
    pub fn new(backends: Vec<Box<dyn Backend>>, timeout: Duration) -> Logins {
        Logins { backends: backends.into(), timeout }
    }
}

impl Authenticate for Logins {
    fn login(&self, credentials: Credentials, peer: &Peer) -> Login {
        let (backends, timeout, peer) = (Arc::clone(&self.backends), self.timeout, peer.clone());
        Box::pin(async move {
            let asked = ask_all(&backends, &credentials, &peer);
            if let Ok(result) = tokio::time::timeout(timeout, asked).await {
                return result;
            }
            let user = shown(&credentials);
            tracing::warn!(%user, peer = %peer.address.ip(), ?timeout, "login given up: no answer in time");
            Err(refused())
        })
    }
}

async fn ask_all(
    backends: &[Box<dyn Backend>],
    credentials: &Credentials,
    peer: &Peer,
) -> Result<Arc<dyn User>, CommandError> {
    let mut reasons = String::new();
    let mut out_of_order = false;
    for backend in backends {
        let Refusal { why, kind } = match backend.log_in(credentials, peer).await {
            Ok(user) => return Ok(user),
            Err(refusal) => refusal,
        };
        if !reasons.is_empty() {
            reasons.push_str("; ");
        }
        reasons.extend([backend.name(), ": ", &why]);
        out_of_order |= kind == RefusalKind::OutOfOrder;
        if kind == RefusalKind::Forbidden {
            break;
        }
    }
    let (user, peer): (_, IpAddr) = (shown(credentials), peer.address.ip());
    if out_of_order {
        tracing::warn!(%user, %peer, error = %reasons, "login refused");
    } else {
        tracing::info!(%user, %peer, error = %reasons, "login refused");
    }
    Err(refused())
}

/// The user's name for the log, where it is a client's word.
fn shown(credentials: &Credentials) -> String {
    match credentials {
        Credentials::Password { user, .. } => user.escape_debug().to_string(),
        Credentials::Certificate => "(certificate)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use isthmus_broker::{Entering, Limits};
    use isthmus_contract::Secret;
    use parking_lot::Mutex;

    use super::*;
    use crate::backend::Attempt;

    struct Fake {
        name: &'static str,
        answer: Option<RefusalKind>,
        asked: Arc<Mutex<Vec<&'static str>>>,
    }

    struct Known(Arc<str>);

    impl User for Known {
        fn name(&self) -> &Arc<str> {
            &self.0
        }

        fn tags(&self) -> Vec<String> {
            Vec::new()
        }

        fn enter(&self, _: &Arc<str>) -> Entering {
            Box::pin(std::future::ready(Err(refused())))
        }

        fn limits(&self, _: &str) -> Limits {
            Limits::default()
        }
    }

    impl Backend for Fake {
        fn name(&self) -> &'static str {
            self.name
        }

        fn log_in(&self, _: &Credentials, _: &Peer) -> Attempt {
            self.asked.lock().push(self.name);
            let result: Result<Arc<dyn User>, Refusal> = match self.answer {
                None => Ok(Arc::new(Known(self.name.into()))),
                Some(kind) => Err(Refusal { why: "no".to_owned(), kind }),
            };
            Box::pin(std::future::ready(result))
        }
    }

    /// Who was asked in which order, and who accepted.
    async fn ask(answers: [Option<RefusalKind>; 3]) -> (Vec<&'static str>, Option<String>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let names = ["first", "second", "third"].into_iter().zip(answers);
        let backends = names.map(|(name, answer)| {
            Box::new(Fake { name, answer, asked: Arc::clone(&asked) }) as Box<dyn Backend>
        });
        let logins = Logins::new(backends.collect(), Duration::from_secs(5));
        let secret = Secret("hush".to_owned());
        let credentials = Credentials::Password { user: "anna".to_owned(), password: secret };
        let peer = Peer::plain(([127, 0, 0, 1], 1).into());
        let user = logins.login(credentials, &peer).await;
        if let Err(error) = &user {
            assert_eq!(error, &refused(), "one message, whatever the reason");
        }
        let order = asked.lock().clone();
        (order, user.ok().map(|user| user.name().to_string()))
    }

    #[tokio::test]
    async fn each_is_asked_in_order_until_one_accepts() {
        use RefusalKind::{Forbidden, OutOfOrder, Unknown};
        let accepted = |name: &str| Some(name.to_owned());
        assert_eq!(ask([None, None, None]).await, (vec!["first"], accepted("first")));
        let (order, user) = ask([Some(Unknown), Some(OutOfOrder), None]).await;
        assert_eq!((order.len(), user), (3, accepted("third")));
        let (order, user) = ask([Some(Unknown), Some(Unknown), Some(OutOfOrder)]).await;
        assert_eq!((order.len(), user), (3, None));
        let (order, user) = ask([Some(Unknown), Some(Forbidden), None]).await;
        assert_eq!((order, user), (vec!["first", "second"], None));
    }
}
