//! Password hashes and their verification. Everything here blocks for as long as a hash takes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};

use super::file::{User, UserFile};
use crate::config::Auth;

/// The name and the password of the user that exists while there is no user file.
const GUEST: &str = "guest";

/// The most memory a hash in the user file may ask for. The file is trusted, but a hash from
/// elsewhere with absurd parameters should be an error at start, not an outage at login.
const HASH_MEMORY_KIB_MAX: u32 = 256 * 1024;
const HASH_ITERATIONS_MAX: u32 = 16;

/// A user who has proven who he is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserRecord {
    /// The name.
    pub(crate) name: String,
    /// What the user is, such as `administrator`.
    pub(crate) tags: Vec<String>,
    /// Whether the user may log in from this machine alone.
    pub(crate) loopback_only: bool,
}

impl UserRecord {
    /// The record, if it may be used from where the peer is.
    ///
    /// # Errors
    ///
    /// [`AuthError::LoopbackOnly`]
    pub(crate) fn allowed_from(self: Arc<Self>, loopback: bool) -> Result<Arc<Self>, AuthError> {
        if self.loopback_only && !loopback { Err(AuthError::LoopbackOnly) } else { Ok(self) }
    }
}

/// Why a login is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    /// The name or the password is wrong; which of them is not told.
    #[error("the name or the password is wrong")]
    Refused,
    /// The password is right, but the user may only log in from the broker's machine.
    #[error("this user may log in only from the machine the broker runs on")]
    LoopbackOnly,
    /// The verification itself failed, for want of memory or because the broker is stopping.
    #[error("the password could not be verified")]
    Unavailable,
}

/// How passwords are hashed.
#[derive(Clone)]
pub(crate) struct Hashing {
    argon2: Argon2<'static>,
    password_bytes_max: usize,
}

/// Why a password cannot be hashed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HashError {
    /// It is empty or too long.
    #[error("the password must be 1 to {0} bytes")]
    Length(usize),
    /// The hash function or the system's random numbers failed.
    #[error("hashing the password failed: {0}")]
    Failed(String),
}

impl Hashing {
    /// Hashing as configured.
    ///
    /// # Errors
    ///
    /// If argon2 does not take the parameters together.
    pub(crate) fn new(auth: &Auth) -> Result<Self, HashError> {
        let memory_kib = u32::try_from(auth.argon2_memory_bytes.0 / 1024).unwrap_or(u32::MAX);
        let (iterations, lanes) = (auth.argon2_iterations, auth.argon2_parallelism);
        let params = Params::new(memory_kib, iterations, lanes, None)
            .map_err(|error| HashError::Failed(error.to_string()))?;
        Ok(Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            password_bytes_max: auth.password_bytes_max as usize,
        })
    }

    /// The PHC string of a new hash of `password`.
    ///
    /// # Errors
    ///
    /// If the password is empty or too long, or hashing fails.
    pub(crate) fn hash(&self, password: &[u8]) -> Result<String, HashError> {
        if !self.accepts(password) {
            return Err(HashError::Length(self.password_bytes_max));
        }
        let failed = |error: &dyn std::fmt::Display| HashError::Failed(error.to_string());
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| failed(&error))?;
        let salt = SaltString::encode_b64(&bytes).map_err(|error| failed(&error))?;
        let hash = self.argon2.hash_password(password, &salt).map_err(|error| failed(&error))?;
        Ok(hash.to_string())
    }

    /// Whether a password has a length that is hashed at all.
    pub(crate) fn accepts(&self, password: &[u8]) -> bool {
        (1..=self.password_bytes_max).contains(&password.len())
    }
}

/// The users with their hashes.
pub(crate) struct PasswordStore {
    hashing: Hashing,
    users: HashMap<String, (Arc<UserRecord>, String)>,
    /// Verified in place of an unknown user's hash, so that unknown users take as long as known.
    dummy_hash: String,
}

impl PasswordStore {
    /// The users of the file, or without one guest/guest if `guest` is set. Hashes once.
    ///
    /// # Errors
    ///
    /// If hashing fails.
    pub(crate) fn new(
        file: Option<UserFile>,
        guest: bool,
        hashing: Hashing,
    ) -> Result<Self, HashError> {
        let dummy_hash = hashing.hash(GUEST.as_bytes())?;
        let users = match file {
            Some(file) => file.users,
            None if guest => vec![User {
                name: GUEST.to_owned(),
                password_hash: dummy_hash.clone(),
                tags: vec!["administrator".to_owned()],
                loopback_only: true,
            }],
            None => Vec::new(),
        };
        let users = users.into_iter().map(|user| {
            let User { name, password_hash, tags, loopback_only } = user;
            (name.clone(), (Arc::new(UserRecord { name, tags, loopback_only }), password_hash))
        });
        Ok(Self { users: users.collect(), hashing, dummy_hash })
    }

    /// The number of users.
    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether a password has a length that is hashed at all.
    pub(crate) fn accepts(&self, password: &[u8]) -> bool {
        self.hashing.accepts(password)
    }

    /// The record of the user called `name`, if `password` is his. Blocks for about 20 ms and
    /// takes the memory of the hash's parameters.
    ///
    /// # Errors
    ///
    /// [`AuthError`]. An unknown name takes as long as a wrong password.
    pub(crate) fn verify(
        &self,
        name: &str,
        password: &[u8],
        peer_is_loopback: bool,
    ) -> Result<Arc<UserRecord>, AuthError> {
        if !self.accepts(password) {
            return Err(AuthError::Refused);
        }
        let user = self.users.get(name);
        let hash = user.map_or(self.dummy_hash.as_str(), |(_, hash)| hash);
        let hash = PasswordHash::new(hash).map_err(|_| AuthError::Unavailable)?;
        let verified = self.hashing.argon2.verify_password(password, &hash);
        match (user, verified) {
            (Some((record, _)), Ok(())) => Arc::clone(record).allowed_from(peer_is_loopback),
            (_, Ok(()) | Err(argon2::password_hash::Error::Password)) => Err(AuthError::Refused),
            (_, Err(_)) => Err(AuthError::Unavailable),
        }
    }
}

/// Whether a peer is on this machine; also when its IPv4 address is mapped into IPv6.
pub(crate) fn is_loopback(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

/// Checks that a PHC string is an argon2id hash of sane cost.
///
/// # Errors
///
/// What is wrong, as the end of a sentence, without quoting the string.
pub(super) fn check_hash(phc: &str) -> Result<(), String> {
    let malformed = "is not an argon2id hash in PHC form; make one with `isthmus users add`";
    let hash = PasswordHash::new(phc).map_err(|_| malformed.to_owned())?;
    let argon2id = hash.algorithm == Algorithm::Argon2id.ident();
    let params = Params::try_from(&hash).map_err(|_| malformed.to_owned())?;
    if !argon2id || hash.salt.is_none() || hash.hash.is_none() {
        return Err(malformed.to_owned());
    }
    if params.m_cost() > HASH_MEMORY_KIB_MAX || params.t_cost() > HASH_ITERATIONS_MAX {
        return Err(format!(
            "costs too much to verify; at most m={HASH_MEMORY_KIB_MAX}, t={HASH_ITERATIONS_MAX}"
        ));
    }
    Ok(())
}

/// Hashing cheap enough for tests.
#[cfg(test)]
pub(super) fn test_hashing() -> Hashing {
    let auth = Auth { argon2_memory_bytes: crate::config::ByteSize::kib(64), ..Auth::default() };
    Hashing::new(&auth).expect("valid parameters")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(loopback_only: bool) -> PasswordStore {
        let user = User {
            name: "alice".to_owned(),
            password_hash: test_hashing().hash(b"secret").expect("hashed"),
            tags: vec!["monitoring".to_owned()],
            loopback_only,
        };
        let file = UserFile { users: vec![user] };
        PasswordStore::new(Some(file), true, test_hashing()).expect("store")
    }

    #[test]
    fn the_right_password_is_accepted_and_no_other() {
        let store = store(false);
        let record = store.verify("alice", b"secret", false).expect("accepted");
        assert_eq!((record.name.as_str(), record.tags.len()), ("alice", 1));
        for (name, password) in [("alice", "Secret"), ("alice", ""), ("bob", "secret"), ("", "")] {
            assert_eq!(store.verify(name, password.as_bytes(), true), Err(AuthError::Refused));
        }
    }

    #[test]
    fn the_dummy_hash_lets_no_unknown_user_in() {
        assert_eq!(store(false).verify("bob", GUEST.as_bytes(), true), Err(AuthError::Refused));
    }

    #[test]
    fn long_passwords_are_refused_before_hashing() {
        let store = store(false);
        assert!(store.accepts(&[b'x'; 256]));
        assert!(!store.accepts(&[b'x'; 257]));
        assert_eq!(store.verify("alice", &[b'x'; 257], true), Err(AuthError::Refused));
        assert!(matches!(test_hashing().hash(&[b'x'; 257]), Err(HashError::Length(256))));
    }

    #[test]
    fn loopback_users_come_from_loopback_peers_alone() {
        let store = store(true);
        assert!(store.verify("alice", b"secret", true).is_ok());
        assert_eq!(store.verify("alice", b"secret", false), Err(AuthError::LoopbackOnly));
        // A wrong password learns nothing about the user.
        assert_eq!(store.verify("alice", b"wrong", false), Err(AuthError::Refused));
    }

    #[test]
    fn loopback_is_told_by_the_peers_address() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_loopback(address.parse().expect("address")), expected, "{address}");
        }
    }

    #[test]
    fn guest_exists_only_without_a_file_and_when_allowed() {
        let store = |file, guest| PasswordStore::new(file, guest, test_hashing()).expect("store");
        assert!(store(None, true).verify("guest", b"guest", true).is_ok());
        assert_eq!(
            store(None, true).verify("guest", b"guest", false),
            Err(AuthError::LoopbackOnly)
        );
        assert!(store(None, false).verify("guest", b"guest", true).is_err());
        assert!(store(Some(UserFile::default()), true).verify("guest", b"guest", true).is_err());
    }

    #[test]
    fn hashes_of_other_kinds_or_absurd_cost_are_refused() {
        let good = test_hashing().hash(b"secret").expect("hashed");
        assert_eq!(check_hash(&good), Ok(()));
        assert!(check_hash("$argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo").is_err());
        assert!(
            check_hash(&good.replace("m=64", "m=4000000"))
                .expect_err("refused")
                .contains("too much")
        );
        assert!(check_hash("$argon2id$v=19$m=64,t=1,p=1").is_err());
    }
}
