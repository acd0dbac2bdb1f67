//! Logging in from async code: two at a time, beside messaging, with successes remembered.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blake2::Blake2sMac256;
use blake2::digest::{KeyInit, Mac};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::hashers::Hashers;
use crate::{AuthError, Hashing, SharedDirectory, User};

/// Verifications at once. Each takes a core and the hash's memory, so a flood of logins must not
/// take all of either from messaging.
const VERIFICATIONS_MAX: usize = 2;

/// Successes remembered at once; beyond it the oldest is forgotten.
const CACHE_ENTRIES_MAX: usize = 4096;

/// How long a success is remembered.
const CACHE_LIFETIME: Duration = Duration::from_secs(300);

/// Why nobody can be verified.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// The system starts no threads.
    #[error("cannot start the threads that verify passwords: {0}")]
    Threads(#[from] io::Error),
}

/// Verifies logins against the users of a directory.
pub struct Authenticator {
    directory: SharedDirectory,
    hashing: Hashing,
    cache: Mutex<Cache>,
    hashers: Hashers,
    permits: Arc<Semaphore>,
}

impl Authenticator {
    /// Verifies against the users of `directory`.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn new(directory: SharedDirectory, hashing: Hashing) -> Result<Authenticator, StartError> {
        Ok(Authenticator {
            directory,
            hashing,
            cache: Mutex::new(Cache::new()?),
            hashers: Hashers::start(VERIFICATIONS_MAX)?,
            permits: Arc::new(Semaphore::new(VERIFICATIONS_MAX)),
        })
    }

    /// The user called `name`, if `password` is his and he may log in from `peer`. A login that
    /// succeeded within the last five minutes is answered from memory for as long as the user's
    /// password is the same; others wait for one of two places to be verified in, and give it up
    /// when the future is dropped.
    ///
    /// # Errors
    /// [`AuthError`]
    pub async fn log_in(
        &self,
        name: &str,
        password: &[u8],
        peer: IpAddr,
    ) -> Result<Arc<User>, AuthError> {
        if !self.hashing.accepts(password) {
            return Err(AuthError::Refused);
        }
        let key = self.cache.lock().key(name, password);
        if let Some(user) = self.remembered(name, &key) {
            return allowed_from(user, peer);
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| AuthError::Unavailable)?;
        // When a thousand clients of one user reconnect together, the first to be verified has
        // answered for those that waited.
        if let Some(user) = self.remembered(name, &key) {
            return allowed_from(user, peer);
        }
        let user = self.directory.load().user(name).cloned();
        let (hashing, password) = (self.hashing.clone(), password.to_owned());
        let verification = self.hashers.run(move |memory| {
            let hash = user.as_ref().map(|user| &user.password_hash);
            let verified = hashing.verify(&password, hash, memory);
            // The permit lives as long as the work: dropping the future does not stop a thread.
            (verified.and_then(|()| user.ok_or(AuthError::Refused)), permit)
        });
        let (user, permit) = verification.await.ok_or(AuthError::Unavailable)?;
        let user = user?;
        // Here and not on a thread that may be kept waiting with the lock in its hand. Failures
        // are not remembered: guesses would push the successes out.
        self.cache.lock().insert(key, Arc::clone(&user), Instant::now());
        // Whoever has waited for the place finds that.
        drop(permit);
        allowed_from(user, peer)
    }

    /// The user of a name that something else has proven: a certificate that was verified.
    ///
    /// # Errors
    /// [`AuthError`], if there is no such user or he may not log in from `peer`.
    pub fn trust(&self, name: &str, peer: IpAddr) -> Result<Arc<User>, AuthError> {
        let user = self.directory.load().user(name).cloned().ok_or(AuthError::Refused)?;
        allowed_from(user, peer)
    }

    /// The user of now whose success is remembered, if his password is still what it was.
    fn remembered(&self, name: &str, key: &Key) -> Option<Arc<User>> {
        let verified = self.cache.lock().get(key, Instant::now())?;
        let user = self.directory.load().user(name).cloned()?;
        (user.password_hash == verified.password_hash).then_some(user)
    }
}

fn allowed_from(user: Arc<User>, peer: IpAddr) -> Result<Arc<User>, AuthError> {
    // Also when an IPv4 address is mapped into IPv6.
    let loopback = peer.to_canonical().is_loopback();
    if user.loopback_only && !loopback { Err(AuthError::LoopbackOnly) } else { Ok(user) }
}

/// Logins that succeeded.
struct Cache {
    /// Keyed with random bytes of this process, so that memory holds nothing from which a
    /// password could be guessed later.
    mac: Blake2sMac256,
    entries: HashMap<Key, (Arc<User>, Instant)>,
}

/// The keyed hash of a name and a password.
type Key = [u8; 32];

impl Cache {
    fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self { mac: KeyInit::new(&key.into()), entries: HashMap::new() })
    }

    fn key(&self, name: &str, password: &[u8]) -> Key {
        let mut mac = self.mac.clone();
        // The length keeps ("ab", "c") apart from ("a", "bc").
        mac.update(&(name.len() as u64).to_le_bytes());
        mac.update(name.as_bytes());
        mac.update(password);
        mac.finalize().into_bytes().into()
    }

    fn get(&self, key: &Key, now: Instant) -> Option<Arc<User>> {
        let (user, since) = self.entries.get(key)?;
        (now.duration_since(*since) < CACHE_LIFETIME).then(|| Arc::clone(user))
    }

    fn insert(&mut self, key: Key, user: Arc<User>, now: Instant) {
        if self.entries.len() >= CACHE_ENTRIES_MAX {
            self.entries.retain(|_, (_, since)| now.duration_since(*since) < CACHE_LIFETIME);
        }
        if self.entries.len() >= CACHE_ENTRIES_MAX
            && let Some(oldest) =
                self.entries.iter().min_by_key(|(_, (_, since))| *since).map(|(key, _)| *key)
        {
            self.entries.remove(&oldest);
        }
        self.entries.insert(key, (user, now));
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use isthmus_model::{SettingKey, SettingKind};

    use super::*;
    use crate::Directory;
    use crate::password::test_hashing;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const REMOTE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn directory(password: &str, loopback_only: bool) -> Arc<Directory> {
        let user = User {
            password_hash: test_hashing().hash(password.as_bytes()).expect("hashed"),
            tags: Vec::new(),
            loopback_only,
        };
        let key = SettingKey::global(SettingKind::User, "alice");
        let table = Arc::new(user.table());
        Arc::new(Directory::new(&Directory::default(), [(&key, &table)], |key, error| {
            panic!("{key}: {error}")
        }))
    }

    fn authenticator(password: &str, loopback_only: bool) -> Authenticator {
        let directory = Arc::new(ArcSwap::new(directory(password, loopback_only)));
        Authenticator::new(directory, test_hashing()).expect("random")
    }

    #[tokio::test]
    async fn successes_are_remembered_until_the_password_changes() {
        let authenticator = authenticator("one", false);
        assert!(authenticator.log_in("alice", b"one", REMOTE).await.is_ok());
        assert_eq!(authenticator.cache.lock().entries.len(), 1);
        // With no place to verify in, only a remembered login is answered.
        let places = authenticator.permits.acquire_many(2).await.expect("open");
        assert!(authenticator.log_in("alice", b"one", REMOTE).await.is_ok());
        drop(places);
        authenticator.directory.store(directory("two", false));
        let refused = authenticator.log_in("alice", b"one", REMOTE).await;
        assert_eq!(refused, Err(AuthError::Refused));
        authenticator.directory.store(Arc::default());
        let gone = authenticator.log_in("alice", b"two", REMOTE).await;
        assert_eq!(gone, Err(AuthError::Refused));
    }

    #[tokio::test]
    async fn loopback_users_come_from_loopback_peers_alone_remembered_or_not() {
        let authenticator = authenticator("one", true);
        let remote = authenticator.log_in("alice", b"one", REMOTE).await;
        assert_eq!(remote, Err(AuthError::LoopbackOnly));
        for (address, allowed) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("fe80::1", false),
        ] {
            let peer = address.parse().expect("address");
            assert_eq!(authenticator.log_in("alice", b"one", peer).await.is_ok(), allowed);
            assert_eq!(authenticator.trust("alice", peer).is_ok(), allowed, "{address}");
        }
        // A wrong password learns nothing about the user.
        let wrong = authenticator.log_in("alice", b"two", REMOTE).await;
        assert_eq!(wrong, Err(AuthError::Refused));
    }

    #[tokio::test]
    async fn unknown_users_and_long_passwords_are_refused() {
        let authenticator = authenticator("one", false);
        for (name, password) in [("bob", "one"), ("", "one"), ("alice", ""), ("bob", "nobody")] {
            let refused = authenticator.log_in(name, password.as_bytes(), LOCAL).await;
            assert_eq!(refused, Err(AuthError::Refused));
        }
        let long = authenticator.log_in("alice", &[b'x'; 257], LOCAL).await;
        assert_eq!(long, Err(AuthError::Refused));
        assert_eq!(authenticator.trust("bob", LOCAL), Err(AuthError::Refused));
    }

    #[tokio::test]
    async fn a_crowd_is_verified_once() {
        let authenticator = Arc::new(authenticator("one", false));
        let places = authenticator.permits.acquire_many(1).await.expect("open");
        let logins: Vec<_> = (0..100)
            .map(|_| {
                let authenticator = Arc::clone(&authenticator);
                tokio::spawn(async move { authenticator.log_in("alice", b"one", LOCAL).await })
            })
            .collect();
        for login in logins {
            assert!(login.await.expect("no panic").is_ok());
        }
        drop(places);
        assert_eq!(authenticator.permits.available_permits(), VERIFICATIONS_MAX);
    }

    #[test]
    fn the_cache_is_bounded_and_forgets() {
        let mut cache = Cache::new().expect("random");
        let user = Arc::new(User {
            password_hash: crate::PasswordHash::None,
            tags: Vec::new(),
            loopback_only: false,
        });
        let start = Instant::now();
        for index in 0..=CACHE_ENTRIES_MAX {
            let key = cache.key("alice", &index.to_le_bytes());
            cache.insert(key, Arc::clone(&user), start + Duration::from_millis(index as u64));
        }
        assert_eq!(cache.entries.len(), CACHE_ENTRIES_MAX);
        let first = cache.key("alice", &0_usize.to_le_bytes());
        let second = cache.key("alice", &1_usize.to_le_bytes());
        assert!(cache.get(&first, start).is_none());
        assert!(cache.get(&second, start).is_some());
        assert!(cache.get(&second, start + CACHE_LIFETIME + Duration::from_secs(1)).is_none());
        assert_ne!(cache.key("ab", b"c"), cache.key("a", b"bc"));
    }
}
