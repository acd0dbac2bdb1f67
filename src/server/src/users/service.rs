//! Logging in from async code: off the runtime, two at a time, with successes remembered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use blake2::Blake2sMac256;
use blake2::digest::{KeyInit, Mac};
use tokio::sync::Semaphore;

use super::store::{AuthError, PasswordStore, UserRecord, is_loopback};

/// Verifications at once. Each takes a core and the hash's memory, so a flood of logins must not
/// take all of either from messaging.
const VERIFICATIONS_MAX: usize = 2;

/// Successes remembered at once; beyond it the oldest is forgotten.
const CACHE_ENTRIES_MAX: usize = 4096;

/// How long a success is remembered.
const CACHE_LIFETIME: Duration = Duration::from_secs(300);

/// Verifies logins.
pub(crate) struct Authenticator {
    /// The users of now with the logins verified against them. Replaced as one, so that a
    /// verification that outlives a reload leaves its success in the cache nobody asks any more.
    users: RwLock<Arc<Users>>,
    permits: Arc<Semaphore>,
}

struct Users {
    store: PasswordStore,
    cache: Mutex<Cache>,
}

impl Authenticator {
    /// Verifies against the users of `store`.
    ///
    /// # Errors
    ///
    /// If the system gives no random numbers.
    pub(crate) fn new(store: PasswordStore) -> Result<Self, getrandom::Error> {
        Ok(Self {
            users: RwLock::new(Arc::new(Users::new(store)?)),
            permits: Arc::new(Semaphore::new(VERIFICATIONS_MAX)),
        })
    }

    /// Replaces the users, and forgets every remembered login.
    ///
    /// # Errors
    ///
    /// If the system gives no random numbers; the users are then as before.
    pub(crate) fn reload(&self, store: PasswordStore) -> Result<(), getrandom::Error> {
        let users = Arc::new(Users::new(store)?);
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = users;
        Ok(())
    }

    /// The record of the user called `name`, if `password` is his and he may log in from `peer`.
    /// A login that succeeded within the last five minutes is answered from memory; others wait
    /// for one of two places to be verified in, and give it up when the future is dropped.
    ///
    /// # Errors
    ///
    /// [`AuthError`]
    pub(crate) async fn authenticate(
        &self,
        name: &str,
        password: &[u8],
        peer: IpAddr,
    ) -> Result<Arc<UserRecord>, AuthError> {
        let users = Arc::clone(&self.users.read().unwrap_or_else(PoisonError::into_inner));
        let loopback = is_loopback(peer);
        if !users.store.accepts(password) {
            return Err(AuthError::Refused);
        }
        let key = users.cache().key(name, password);
        if let Some(record) = users.cache().get(&key, Instant::now()) {
            return record.allowed_from(loopback);
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| AuthError::Unavailable)?;
        // When a thousand clients of one user reconnect together, the first to be verified has
        // answered for those that waited.
        if let Some(record) = users.cache().get(&key, Instant::now()) {
            return record.allowed_from(loopback);
        }
        let (name, password) = (name.to_owned(), password.to_owned());
        let verification = tokio::task::spawn_blocking(move || {
            // The permit lives as long as the work: dropping the future does not stop a thread.
            let _permit = permit;
            let record = users.store.verify(&name, &password, loopback)?;
            // Failures are not remembered: guesses would push the successes out.
            users.cache().insert(key, Arc::clone(&record), Instant::now());
            Ok(record)
        });
        verification.await.unwrap_or(Err(AuthError::Unavailable))
    }
}

impl Users {
    fn new(store: PasswordStore) -> Result<Self, getrandom::Error> {
        Ok(Self { store, cache: Mutex::new(Cache::new()?) })
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // Every change of the cache is a single call on a map; a panic leaves it whole.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logins that succeeded.
struct Cache {
    /// Keyed with random bytes of this process, so that memory holds nothing from which a
    /// password could be guessed later.
    mac: Blake2sMac256,
    entries: HashMap<Key, (Arc<UserRecord>, Instant)>,
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

    fn get(&self, key: &Key, now: Instant) -> Option<Arc<UserRecord>> {
        let (record, since) = self.entries.get(key)?;
        (now.duration_since(*since) < CACHE_LIFETIME).then(|| Arc::clone(record))
    }

    fn insert(&mut self, key: Key, record: Arc<UserRecord>, now: Instant) {
        if self.entries.len() >= CACHE_ENTRIES_MAX {
            self.entries.retain(|_, (_, since)| now.duration_since(*since) < CACHE_LIFETIME);
        }
        if self.entries.len() >= CACHE_ENTRIES_MAX
            && let Some(oldest) =
                self.entries.iter().min_by_key(|(_, (_, since))| *since).map(|(key, _)| *key)
        {
            self.entries.remove(&oldest);
        }
        self.entries.insert(key, (record, now));
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::{User, UserFile};
    use super::super::store::test_hashing;
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const REMOTE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn store(password: &str, loopback_only: bool) -> PasswordStore {
        let user = User {
            name: "alice".to_owned(),
            password_hash: test_hashing().hash(password.as_bytes()).expect("hashed"),
            tags: Vec::new(),
            loopback_only,
        };
        let file = UserFile { users: vec![user] };
        PasswordStore::new(Some(file), false, test_hashing()).expect("store")
    }

    fn cached(authenticator: &Authenticator) -> usize {
        authenticator.users.read().expect("not poisoned").cache().entries.len()
    }

    #[tokio::test]
    async fn successes_are_remembered_until_a_reload() {
        let authenticator = Authenticator::new(store("one", false)).expect("random");
        assert!(authenticator.authenticate("alice", b"one", REMOTE).await.is_ok());
        assert_eq!(cached(&authenticator), 1);
        // With no place to verify in, only a remembered login is answered.
        let places = authenticator.permits.acquire_many(2).await.expect("open");
        assert!(authenticator.authenticate("alice", b"one", REMOTE).await.is_ok());
        drop(places);
        authenticator.reload(store("two", false)).expect("random");
        assert_eq!(cached(&authenticator), 0);
        let refused = authenticator.authenticate("alice", b"one", REMOTE).await;
        assert_eq!(refused, Err(AuthError::Refused));
        assert_eq!(cached(&authenticator), 0);
    }

    #[tokio::test]
    async fn a_remembered_login_still_checks_where_the_peer_is() {
        let authenticator = Authenticator::new(store("one", true)).expect("random");
        assert!(authenticator.authenticate("alice", b"one", LOCAL).await.is_ok());
        let remote = authenticator.authenticate("alice", b"one", REMOTE).await;
        assert_eq!(remote, Err(AuthError::LoopbackOnly));
    }

    #[tokio::test]
    async fn a_crowd_is_verified_once() {
        let authenticator = Authenticator::new(store("one", false)).expect("random");
        let authenticator = Arc::new(authenticator);
        let places = authenticator.permits.acquire_many(1).await.expect("open");
        let logins: Vec<_> = (0..100)
            .map(|_| {
                let authenticator = Arc::clone(&authenticator);
                tokio::spawn(
                    async move { authenticator.authenticate("alice", b"one", LOCAL).await },
                )
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
        let record = Arc::new(UserRecord {
            name: "alice".to_owned(),
            tags: Vec::new(),
            loopback_only: false,
        });
        let start = Instant::now();
        for index in 0..=CACHE_ENTRIES_MAX {
            let key = cache.key("alice", &index.to_le_bytes());
            cache.insert(key, Arc::clone(&record), start + Duration::from_millis(index as u64));
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
