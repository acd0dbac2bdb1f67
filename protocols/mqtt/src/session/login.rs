//! Who a client says it is, and where it wants to go (section 3.1.3.5, 3.1.3.6).
//!
//! MQTT has no field for a virtual host. As in RabbitMQ a user name may begin with one, before its
//! last colon: `things:sensor` is the user `sensor` in the virtual host `things`. A client whom its
//! certificate logs in gives no password, and no user name, or a virtual host alone (`things:`).

use isthmus_contract::{Credentials, Secret};

use crate::ReasonCode;
use crate::codec::Connect;

/// What a CONNECT says of its client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Login<'a> {
    /// The virtual host that it names; `None` for the one that is configured.
    pub(super) vhost: Option<&'a str>,
    pub(super) credentials: Credentials,
}

impl<'a> Login<'a> {
    /// Reads `connect`, of a client that has shown a certificate or has not.
    pub(super) fn of(connect: &Connect<'a>, has_certificate: bool) -> Result<Self, ReasonCode> {
        let (vhost, user) = match connect.user_name.map(|name| (name, name.rsplit_once(':'))) {
            None => (None, None),
            Some((_, Some((vhost, user)))) => (Some(vhost), Some(user)),
            Some((user, None)) => (None, Some(user)),
        };
        // Before the colon stands a name, if anything does.
        let vhost = vhost.filter(|vhost| !vhost.is_empty());
        let credentials = match (user, connect.password) {
            (None | Some(""), None) if has_certificate => Credentials::Certificate,
            (Some(user), Some(password)) => {
                let password = std::str::from_utf8(password)
                    .map_err(|_| ReasonCode::BAD_USER_NAME_OR_PASSWORD)?;
                Credentials::Password {
                    user: user.to_owned(),
                    password: Secret(password.to_owned()),
                }
            }
            // Nobody is let in without saying who they are.
            _ => return Err(ReasonCode::NOT_AUTHORIZED),
        };
        Ok(Login { vhost, credentials })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Properties, Version};

    fn login(
        user_name: Option<&str>,
        password: Option<&[u8]>,
        has_certificate: bool,
    ) -> Result<(Option<String>, Option<String>), ReasonCode> {
        let connect = Connect {
            version: Version::V5,
            clean_start: true,
            keep_alive_s: 0,
            properties: Properties::NONE,
            client_id: "",
            will: None,
            user_name,
            password,
        };
        let login = Login::of(&connect, has_certificate)?;
        let user = match login.credentials {
            Credentials::Password { user, .. } => Some(user),
            Credentials::Certificate => None,
        };
        Ok((login.vhost.map(str::to_owned), user))
    }

    #[test]
    fn a_user_name_may_begin_with_a_virtual_host() {
        let names =
            |vhost: Option<&str>, user: &str| Ok((vhost.map(str::to_owned), Some(user.to_owned())));
        let password = Some(&b"secret"[..]);
        assert_eq!(login(Some("ann"), password, false), names(None, "ann"));
        assert_eq!(login(Some("v:ann"), password, true), names(Some("v"), "ann"));
        assert_eq!(login(Some("/:ann"), password, false), names(Some("/"), "ann"));
        assert_eq!(login(Some("a:b:ann"), password, false), names(Some("a:b"), "ann"));
        assert_eq!(login(Some(":ann"), password, false), names(None, "ann"));
        assert_eq!(login(Some(""), password, false), names(None, ""), "a token names its user");
    }

    #[test]
    fn a_certificate_takes_the_place_of_a_name_and_not_of_another() {
        assert_eq!(login(None, None, true), Ok((None, None)));
        assert_eq!(login(Some("v:"), None, true), Ok((Some("v".to_owned()), None)));
        for (user, password, has_certificate) in [
            (Some("ann"), None, true),
            (Some("v:ann"), None, true),
            (None, None, false),
            (Some("v:"), None, false),
            (None, Some(&b"x"[..]), true),
        ] {
            assert_eq!(login(user, password, has_certificate), Err(ReasonCode::NOT_AUTHORIZED));
        }
        assert_eq!(
            login(Some("ann"), Some(b"\xFF"), false),
            Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD)
        );
    }
}
