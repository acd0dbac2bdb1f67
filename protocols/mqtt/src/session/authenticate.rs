//! Enhanced authentication (section 4.12): methods of one step, in which the client says all there
//! is to say at once.

use isthmus_contract::{Command, CommandError, Credentials, Reply, Secret, Token};

use super::MqttSession;
use super::gather::reason_of;
use crate::ReasonCode;
use crate::codec::{Auth, Kind, Properties, PropertiesBuf, Property};
use crate::fault::{Fault, Problem};

/// A method that the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// Name and password (RFC 4616).
    Plain,
    /// An OAuth 2.0 token (RFC 7628).
    OauthBearer,
}

impl Method {
    const NAMES: [(Method, &'static str); 2] =
        [(Method::Plain, "PLAIN"), (Method::OauthBearer, "OAUTHBEARER")];

    fn from_name(name: &str) -> Option<Method> {
        Method::NAMES.iter().find(|(_, own)| *own == name).map(|(method, _)| *method)
    }

    pub(super) fn name(self) -> &'static str {
        Method::NAMES.iter().find(|(own, _)| *own == self).map_or("", |(_, name)| name)
    }

    /// The user's name and password (or token) in `data`; `None` if it is not what the method
    /// says.
    pub(super) fn read(self, data: &[u8]) -> Option<(&str, &str)> {
        let data = std::str::from_utf8(data).ok()?;
        match self {
            Method::Plain => {
                let mut parts = data.split('\0');
                // On whose behalf: as nobody but oneself, which is what nothing says as well.
                let behalf = parts.next()?;
                let (user, password) = (parts.next()?, parts.next()?);
                if parts.next().is_some() || user.is_empty() || !["", user].contains(&behalf) {
                    return None;
                }
                Some((user, password))
            }
            Method::OauthBearer => {
                let mut parts = data.split('\u{1}');
                // `n,,` or `n,a=user,`: no channel binding, and who the token is of.
                let mut header = parts.next()?.split(',');
                let binding = header.next()?;
                let user = header.next()?;
                if !["n", "y"].contains(&binding) {
                    return None;
                }
                let user = if user.is_empty() { user } else { user.strip_prefix("a=")? };
                Some((user, parts.find_map(|part| part.strip_prefix("auth=Bearer "))?))
            }
        }
    }
}

/// What an authentication proves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof<'a> {
    pub(super) method: Method,
    pub(super) user: &'a str,
    pub(super) password: &'a str,
}

/// What `properties` of a CONNECT or AUTH prove; `None` if they name no method.
///
/// # Errors
/// The reason to refuse it for: the method is unknown, or its data is not what it should be.
pub(super) fn proof(properties: Properties<'_>) -> Result<Option<Proof<'_>>, ReasonCode> {
    let name = properties.find(|p| match p {
        Property::AuthenticationMethod(name) => Some(name),
        _ => None,
    });
    let Some(name) = name else { return Ok(None) };
    // [MQTT-4.12.0-1].
    let method = Method::from_name(name).ok_or(ReasonCode::BAD_AUTHENTICATION_METHOD)?;
    let data = properties.find(|p| match p {
        Property::AuthenticationData(data) => Some(data),
        _ => None,
    });
    let read = method.read(data.unwrap_or_default());
    let (user, password) = read.ok_or(ReasonCode::BAD_USER_NAME_OR_PASSWORD)?;
    Ok(Some(Proof { method, user, password }))
}

impl MqttSession {
    /// Takes an AUTH: the client authenticates again, with the method that it began with
    /// [MQTT-4.12.1-1].
    pub(super) fn authenticate_again(&mut self, auth: &Auth<'_>) -> Result<(), Fault> {
        let fault = |field, problem| Err(Fault::protocol(Kind::Auth, field, problem));
        let Some(method) = self.peer.method else {
            // [MQTT-4.12.0-7].
            return fault("packet type", Problem::Conflict("without a method in the CONNECT"));
        };
        if auth.reason != ReasonCode::RE_AUTHENTICATE || self.peer.authenticating.is_some() {
            return fault("Reason Code", Problem::Value(u64::from(auth.reason.0)));
        }
        let is_same = |p| matches!(p, Property::AuthenticationMethod(n) if n == method.name());
        if !auth.properties.iter().any(is_same) {
            let problem = Problem::Conflict("to another one than in the CONNECT");
            return fault("Authentication Method", problem);
        }
        match proof(auth.properties) {
            Ok(Some(Proof { user, password, .. })) => {
                let token = self.token();
                // It stays in the virtual host that the name may begin with.
                let user = user.rsplit_once(':').map_or(user, |(_, user)| user).to_owned();
                let password = Secret(password.to_owned());
                let credentials = Credentials::Password { user, password };
                self.peer.authenticating = Some(token);
                self.commands.push_back(Command::Authenticate { token, credentials });
            }
            // [MQTT-4.12.1-2].
            _ => self.disconnect(ReasonCode::NOT_AUTHORIZED, None),
        }
        Ok(())
    }

    /// Takes in what came of it; returns whether `token` was its.
    pub(super) fn authenticated_again(
        &mut self,
        token: Token,
        result: &Result<Reply, CommandError>,
    ) -> bool {
        if self.peer.authenticating != Some(token) {
            return false;
        }
        self.peer.authenticating = None;
        match (result, self.peer.method) {
            (Ok(_), Some(method)) => {
                let mut properties = PropertiesBuf::new();
                // Names of methods are short.
                let _ = properties.push(Property::AuthenticationMethod(method.name()));
                let reason = ReasonCode::SUCCESS;
                let auth = Auth { reason, properties: properties.as_properties() };
                let _ = auth.write(self.outbox.buf());
            }
            (Err(error @ CommandError::NotLeader), _) => self.disconnect(reason_of(error), None),
            _ => self.disconnect(ReasonCode::NOT_AUTHORIZED, None),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_read_their_data() {
        let read = |method: Method, data: &'static str| method.read(data.as_bytes());
        assert_eq!(read(Method::Plain, "\0ann\0secret"), Some(("ann", "secret")));
        assert_eq!(read(Method::Plain, "ann\0ann\0"), Some(("ann", "")));
        let token = "n,a=ann,\u{1}host=h\u{1}auth=Bearer ey.J\u{1}\u{1}";
        assert_eq!(read(Method::OauthBearer, token), Some(("ann", "ey.J")));
        assert_eq!(read(Method::OauthBearer, "n,,\u{1}auth=Bearer t\u{1}\u{1}"), Some(("", "t")));
        for data in ["", "ann", "\0ann", "bob\0ann\0secret", "\0\0secret", "\0a\0b\0c"] {
            assert_eq!(read(Method::Plain, data), None, "{data:?}");
        }
        for data in
            ["", "n", "n,,", "p=x,,\u{1}auth=Bearer t", "n,x,\u{1}auth=Bearer t", "n,,\u{1}"]
        {
            assert_eq!(read(Method::OauthBearer, data), None, "{data:?}");
        }
        assert_eq!(Method::Plain.read(&[0, 0xFF, 0, 1]), None);
    }
}
