//! Password hashes. Everything here blocks for as long as a hash takes.

use std::fmt;

use argon2::password_hash::{self, Output, PasswordHash as Phc, PasswordHasher, Salt, SaltString};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};

use crate::AuthError;

/// The most memory that verifying a hash may take, in KiB, and the most passes: a hash from
/// elsewhere with absurd parameters should be an error when it is set, not an outage at login.
const HASH_MEMORY_KIB_MAX: u32 = 256 * 1024;
const HASH_ITERATIONS_MAX: u32 = 16;

/// Bytes of salt in RabbitMQ's hashes.
const RABBIT_SALT_BYTES: usize = 4;

/// How a password is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum PasswordHash {
    /// argon2id, as a PHC string.
    Argon2id(String),
    /// RabbitMQ's: four bytes of salt, and SHA-256 of salt and password. For users who came with
    /// their hashes.
    RabbitSha256(Vec<u8>),
    /// The same with SHA-512.
    RabbitSha512(Vec<u8>),
    /// No password is right: the user logs in by other means.
    None,
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm())
    }
}

impl PasswordHash {
    /// The name of the algorithm, as RabbitMQ's definitions call theirs.
    pub fn algorithm(&self) -> &'static str {
        match self {
            PasswordHash::Argon2id(_) => "argon2id",
            PasswordHash::RabbitSha256(_) => "rabbit_password_hashing_sha256",
            PasswordHash::RabbitSha512(_) => "rabbit_password_hashing_sha512",
            PasswordHash::None => "none",
        }
    }

    /// The hash as text: a PHC string, or RabbitMQ's base64.
    pub fn text(&self) -> String {
        match self {
            PasswordHash::Argon2id(phc) => phc.clone(),
            PasswordHash::RabbitSha256(bytes) | PasswordHash::RabbitSha512(bytes) => {
                STANDARD.encode(bytes)
            }
            PasswordHash::None => String::new(),
        }
    }

    /// Reads a hash of `algorithm`, which may be left out for argon2id and RabbitMQ's SHA-256.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence, without quoting it.
    pub fn read(text: &str, algorithm: Option<&str>) -> Result<PasswordHash, String> {
        if text.is_empty() {
            return Ok(PasswordHash::None);
        }
        let default =
            if text.starts_with('$') { "argon2id" } else { "rabbit_password_hashing_sha256" };
        let rabbit = |digest_bytes: usize| {
            let bytes = STANDARD.decode(text).ok();
            bytes.filter(|bytes| bytes.len() == RABBIT_SALT_BYTES + digest_bytes).ok_or_else(|| {
                format!(
                    "is not base64 of {RABBIT_SALT_BYTES} bytes of salt and {digest_bytes} of hash"
                )
            })
        };
        match algorithm.unwrap_or(default) {
            "argon2id" => check_phc(text).map(|()| PasswordHash::Argon2id(text.to_owned())),
            "rabbit_password_hashing_sha256" => rabbit(32).map(PasswordHash::RabbitSha256),
            "rabbit_password_hashing_sha512" => rabbit(64).map(PasswordHash::RabbitSha512),
            other => Err(format!(
                "is of an algorithm that is not known: '{other}'; known are argon2id, \
                 rabbit_password_hashing_sha256 and rabbit_password_hashing_sha512"
            )),
        }
    }
}

/// What a new hash costs.
#[derive(Clone, Copy, Debug)]
pub struct HashCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub iterations: u32,
    /// Lanes it is divided into.
    pub lanes: u32,
    /// The longest password in bytes; a longer one is refused before it is hashed.
    pub password_bytes_max: usize,
    /// Called when the memory of a hash may go back to the system.
    pub give_back: fn(),
}

/// How passwords are hashed and verified.
#[derive(Clone)]
pub struct Hashing {
    argon2: Argon2<'static>,
    cost: HashCost,
    /// Verified in place of an unknown user's hash, so that unknown users take as long as known.
    dummy: PasswordHash,
}

/// The memory in which hashes are computed, kept from one to the next.
#[derive(Default)]
pub struct HashMemory {
    blocks: Vec<Block>,
    /// That of the last hash.
    give_back: Option<fn()>,
}

impl HashMemory {
    /// Whether it holds none.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Gives it back to the system.
    pub(crate) fn give_back(&mut self) {
        self.blocks = Vec::new();
        if let Some(give_back) = self.give_back.take() {
            give_back();
        }
    }

    /// So many blocks, with whatever was in them.
    pub(crate) fn blocks(&mut self, count: usize, give_back: fn()) -> &mut [Block] {
        self.give_back = Some(give_back);
        if self.blocks.len() < count {
            // Not grown, which would copy what nobody reads.
            self.blocks = Vec::new();
            self.blocks.resize(count, Block::default());
        }
        &mut self.blocks[..count]
    }
}

/// Why a password cannot be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// It is empty or too long.
    #[error("the password must be 1 to {0} bytes")]
    Length(usize),
    /// The hash function or the system's random numbers failed.
    #[error("hashing the password failed: {0}")]
    Failed(String),
}

impl Hashing {
    /// Hashing at `cost`. Hashes once.
    ///
    /// # Errors
    /// If argon2 does not take the parameters together.
    pub fn new(cost: HashCost) -> Result<Hashing, HashError> {
        let params = Params::new(cost.memory_kib, cost.iterations, cost.lanes, None)
            .map_err(|error| HashError::Failed(error.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut hashing = Hashing { argon2, cost, dummy: PasswordHash::None };
        hashing.dummy = hashing.hash(b"nobody")?;
        Ok(hashing)
    }

    /// A new hash of `password`.
    ///
    /// # Errors
    /// If the password is empty or too long, or hashing fails.
    pub fn hash(&self, password: &[u8]) -> Result<PasswordHash, HashError> {
        if !self.accepts(password) {
            return Err(HashError::Length(self.cost.password_bytes_max));
        }
        let failed = |error: &dyn fmt::Display| HashError::Failed(error.to_string());
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| failed(&error))?;
        let salt = SaltString::encode_b64(&bytes).map_err(|error| failed(&error))?;
        let hash = self.argon2.hash_password(password, &salt).map(|hash| hash.to_string());
        (self.cost.give_back)();
        hash.map(PasswordHash::Argon2id).map_err(|error| failed(&error))
    }

    /// Whether a password has a length that is hashed at all.
    pub fn accepts(&self, password: &[u8]) -> bool {
        (1..=self.cost.password_bytes_max).contains(&password.len())
    }

    /// Verifies `password` against `hash`; against a hash that nothing matches if there is none,
    /// which takes as long. About 20 ms and the memory of the hash's parameters for argon2id.
    ///
    /// # Errors
    /// [`AuthError::Refused`], or [`AuthError::Unavailable`] if the hash could not be made.
    pub fn verify(
        &self,
        password: &[u8],
        hash: Option<&PasswordHash>,
        memory: &mut HashMemory,
    ) -> Result<(), AuthError> {
        if !self.accepts(password) {
            return Err(AuthError::Refused);
        }
        let known = hash.filter(|hash| **hash != PasswordHash::None);
        let right = match known.unwrap_or(&self.dummy) {
            PasswordHash::Argon2id(phc) => self.verify_phc(password, phc, memory)?,
            PasswordHash::RabbitSha256(bytes) => is_rabbit::<Sha256>(password, bytes),
            PasswordHash::RabbitSha512(bytes) => is_rabbit::<Sha512>(password, bytes),
            PasswordHash::None => false,
        };
        if right && known.is_some() { Ok(()) } else { Err(AuthError::Refused) }
    }

    fn verify_phc(
        &self,
        password: &[u8],
        phc: &str,
        memory: &mut HashMemory,
    ) -> Result<bool, AuthError> {
        let phc = Phc::new(phc).map_err(|_| AuthError::Unavailable)?;
        let computed = self.compute(password, &phc, memory).map_err(|_| AuthError::Unavailable)?;
        // The comparison of outputs takes the same time wherever they differ.
        Ok(phc.hash == Some(computed))
    }

    /// The hash of `password` with the parameters and the salt of `phc`.
    fn compute(
        &self,
        password: &[u8],
        phc: &Phc<'_>,
        memory: &mut HashMemory,
    ) -> password_hash::Result<Output> {
        let mut salt = [0; Salt::MAX_LENGTH];
        let salt = phc.salt.ok_or(password_hash::Error::Password)?.decode_b64(&mut salt)?;
        let params = Params::try_from(phc)?;
        let bytes = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
        let blocks = memory.blocks(params.block_count(), self.cost.give_back);
        let version = phc.version.map_or(Ok(Version::default()), Version::try_from)?;
        let argon2 = Argon2::new(Algorithm::try_from(phc.algorithm)?, version, params);
        Output::init_with(bytes, |output| {
            Ok(argon2.hash_password_into_with_memory(password, salt, output, blocks)?)
        })
    }
}

/// Whether `bytes` are salt and digest of `password`.
fn is_rabbit<D: Digest>(password: &[u8], bytes: &[u8]) -> bool {
    let (salt, digest) = bytes.split_at(RABBIT_SALT_BYTES.min(bytes.len()));
    let computed = D::new().chain_update(salt).chain_update(password).finalize();
    // Every byte is compared, wherever the first difference is.
    computed.len() == digest.len()
        && computed.iter().zip(digest).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Checks that a PHC string is an argon2id hash of sane cost.
fn check_phc(phc: &str) -> Result<(), String> {
    let malformed = || "is not an argon2id hash in PHC form".to_owned();
    let hash = Phc::new(phc).map_err(|_| malformed())?;
    let argon2id = hash.algorithm == Algorithm::Argon2id.ident();
    let params = Params::try_from(&hash).map_err(|_| malformed())?;
    if !argon2id || hash.salt.is_none() || hash.hash.is_none() {
        return Err(malformed());
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
pub(crate) fn test_hashing() -> Hashing {
    let cost = HashCost {
        memory_kib: 64,
        iterations: 2,
        lanes: 1,
        password_bytes_max: 256,
        give_back: || {},
    };
    Hashing::new(cost).expect("valid parameters")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(
        hashing: &Hashing,
        password: &[u8],
        hash: Option<&PasswordHash>,
    ) -> Result<(), AuthError> {
        hashing.verify(password, hash, &mut HashMemory::default())
    }

    #[test]
    fn the_right_password_is_accepted_and_no_other() {
        let hashing = test_hashing();
        let hash = hashing.hash(b"secret").expect("hashed");
        assert_eq!(verify(&hashing, b"secret", Some(&hash)), Ok(()));
        for wrong in [&b"Secret"[..], b"", b"secret ", &[b'x'; 257]] {
            assert_eq!(verify(&hashing, wrong, Some(&hash)), Err(AuthError::Refused));
        }
    }

    #[test]
    fn memory_that_others_used_changes_no_hash() {
        let hashing = test_hashing();
        let params = Params::new(256, 1, 2, None).expect("valid");
        let other = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let salt = SaltString::encode_b64(b"another's salt").expect("valid");
        let larger = other.hash_password(b"larger", &salt).expect("hashed").to_string();
        let hashes = [
            (&b"secret"[..], hashing.hash(b"secret").expect("hashed")),
            (&b"larger"[..], PasswordHash::read(&larger, None).expect("readable")),
            (&b"another"[..], hashing.hash(b"another").expect("hashed")),
        ];
        let mut memory = HashMemory::default();
        for (password, hash) in &hashes {
            assert_eq!(hashing.verify(b"wrong", Some(hash), &mut memory), Err(AuthError::Refused));
            assert_eq!(hashing.verify(password, Some(hash), &mut memory), Ok(()));
        }
    }

    #[test]
    fn rabbitmqs_hashes_are_understood() {
        // From RabbitMQ's documentation on credentials: "test12" with the salt 908D C60A.
        let text = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        let hash = PasswordHash::read(text, None).expect("readable");
        assert_eq!(hash.algorithm(), "rabbit_password_hashing_sha256");
        assert_eq!(hash.text(), text);
        let hashing = test_hashing();
        assert_eq!(verify(&hashing, b"test12", Some(&hash)), Ok(()));
        assert_eq!(verify(&hashing, b"test13", Some(&hash)), Err(AuthError::Refused));
        let sha512 = [&b"salt"[..], &Sha512::digest(b"salttest12")].concat();
        let text = STANDARD.encode(sha512);
        let hash = PasswordHash::read(&text, Some("rabbit_password_hashing_sha512"));
        assert_eq!(verify(&hashing, b"test12", hash.ok().as_ref()), Ok(()));
    }

    #[test]
    fn nobody_logs_in_without_a_hash_not_even_with_the_one_that_is_verified_instead() {
        let hashing = test_hashing();
        assert_eq!(verify(&hashing, b"nobody", None), Err(AuthError::Refused));
        assert_eq!(verify(&hashing, b"nobody", Some(&PasswordHash::None)), Err(AuthError::Refused));
        assert_eq!(PasswordHash::read("", None), Ok(PasswordHash::None));
    }

    #[test]
    fn hashes_of_other_kinds_or_absurd_cost_are_refused() {
        let hash = test_hashing().hash(b"secret").expect("hashed");
        let good = hash.text();
        assert_eq!(PasswordHash::read(&good, None), Ok(hash));
        let refused =
            |text: &str, algorithm| PasswordHash::read(text, algorithm).expect_err("refused");
        assert!(refused(&good.replace("argon2id", "argon2i"), None).contains("argon2id"));
        assert!(refused(&good.replace("m=64", "m=4000000"), None).contains("too much"));
        assert!(refused("$argon2id$v=19$m=64,t=1,p=1", None).contains("PHC"));
        assert!(refused("aGFzaA==", None).contains("4 bytes of salt and 32"));
        assert!(refused("no base64!", None).contains("base64"));
        assert!(refused(&good, Some("md5")).contains("'md5'"));
    }

    #[test]
    fn a_hash_is_not_shown() {
        let hash = test_hashing().hash(b"secret").expect("hashed");
        assert_eq!(format!("{hash:?}"), "argon2id");
    }
}
