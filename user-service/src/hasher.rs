//! Passwords, hashed.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::available_parallelism,
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version, password_hash::phc::PasswordHash,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::Candidate;

/// How many may wait for each that is being hashed.
const WAITING_PER_CORE: usize = 32;

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// So many wait that one more would wait too long.
    #[error("too many passwords wait to be hashed")]
    Busy,
    /// What should be a hash is none, or hashing itself failed; says why.
    #[error("{0}")]
    Failed(String),
}

/// A hashed password, as a PHC string: algorithm, parameters, salt and hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash(String);

impl Hash {
    /// A hash that was stored.
    #[must_use]
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// The hash as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(…)")
    }
}

/// Hashes with Argon2id on threads of its own, as many at once as there are
/// cores: each takes 19 MiB and all of a core. A bounded number waits. Cheap to
/// clone; clones share the cores.
#[derive(Clone, Debug)]
pub struct Hasher {
    params: Params,
    cores: Arc<Semaphore>,
    /// Those that are hashed, and those that wait.
    places: Arc<Semaphore>,
    hashed: Arc<AtomicU64>,
}

/// The right to hash once, now.
#[derive(Debug)]
#[must_use = "a turn that is dropped is somebody else's"]
pub struct Turn {
    hasher: Hasher,
    held: [OwnedSemaphorePermit; 2],
}

impl Hasher {
    /// With OWASP's parameters: 19 MiB, two passes, one lane.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Params::DEFAULT)
    }

    /// With these parameters.
    #[must_use]
    pub fn with(params: Params) -> Self {
        let cores = available_parallelism().map_or(1, Into::into);
        Self {
            params,
            cores: Arc::new(Semaphore::new(cores)),
            places: Arc::new(Semaphore::new(cores * (1 + WAITING_PER_CORE))),
            hashed: Arc::default(),
        }
    }

    /// How many passwords were hashed, to store or to compare them.
    #[must_use]
    pub fn hashed(&self) -> u64 {
        self.hashed.load(Relaxed)
    }

    /// Waits for a turn: at most for as long as those before it take.
    ///
    /// # Errors
    /// [`HashError::Busy`] when too many wait.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn turn(&self) -> Result<Turn, HashError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| HashError::Busy)?;
        let core = self.cores.clone().acquire_owned().await.map_err(|_| HashError::Busy)?;
        Ok(Turn { hasher: self.clone(), held: [core, place] })
    }

    /// A hash of `password`, with a salt of its own.
    ///
    /// # Errors
    /// [`HashError::Busy`] when too many wait.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn hash(&self, password: &Candidate) -> Result<Hash, HashError> {
        self.turn().await?.hash(password).await
    }

    /// Whether the hash was made with other parameters than are used now.
    #[must_use]
    pub fn is_outdated(&self, hash: &Hash) -> bool {
        let read = PasswordHash::new(hash.as_str()).ok();
        let params = read.and_then(|hash| Params::try_from(&hash).ok());
        let used = |params: &Params| (params.m_cost(), params.t_cost(), params.p_cost());
        params.is_none_or(|params| used(&params) != used(&self.params))
    }

    fn argon(&self) -> Argon2<'static> {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone())
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl Turn {
    /// A hash of `password`, with a salt of its own.
    ///
    /// # Errors
    /// When there is no randomness for a salt.
    ///
    /// # Cancel safety
    /// Cancel safe; a hash that is begun keeps its core until it is done.
    pub async fn hash(self, password: &Candidate) -> Result<Hash, HashError> {
        let (argon, password) = (self.hasher.argon(), password.clone());
        let hash = move || -> Result<PasswordHash, _> { argon.hash_password(password.expose().as_bytes()) };
        let hash = self.work(hash).await?.map_err(|why| HashError::Failed(why.to_string()))?;
        Ok(Hash(hash.to_string()))
    }

    /// Whether `password` is the one that was hashed. Without a hash, no; which
    /// takes just as long.
    ///
    /// # Errors
    /// When `hash` is none.
    ///
    /// # Cancel safety
    /// As [`hash`](Self::hash).
    pub async fn verify(self, password: &Candidate, hash: Option<&Hash>) -> Result<bool, HashError> {
        let Some(hash) = hash else {
            self.hash(password).await?;
            return Ok(false);
        };
        let stored = PasswordHash::new(hash.as_str()).map_err(|why| HashError::Failed(why.to_string()))?;
        let (argon, password) = (self.hasher.argon(), password.clone());
        let verify = move || argon.verify_password(password.expose().as_bytes(), &stored);
        match self.work(verify).await? {
            Ok(()) => Ok(true),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
            Err(why) => Err(HashError::Failed(why.to_string())),
        }
    }

    async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HashError> {
        let Self { hasher, held } = self;
        let worked = tokio::task::spawn_blocking(move || {
            let done = work();
            hasher.hashed.fetch_add(1, Relaxed);
            drop(held);
            done
        });
        worked.await.map_err(|why| HashError::Failed(why.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(text: &str) -> Candidate {
        Candidate::parse(text.to_owned()).unwrap()
    }

    fn quick() -> Hasher {
        Hasher::with(Params::new(64, 1, 1, None).unwrap())
    }

    #[tokio::test]
    async fn a_hash_says_how_it_was_made_and_knows_its_password() {
        let hasher = Hasher::new();
        let hash = hasher.hash(&candidate("correct horse battery")).await.unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.as_str());
        assert_eq!(format!("{hash:?}"), "Hash(…)");
        for (text, is_it) in [("correct horse battery", true), ("correct horse batterz", false)] {
            let turn = hasher.turn().await.unwrap();
            assert_eq!(turn.verify(&candidate(text), Some(&hash)).await.unwrap(), is_it);
        }
        assert_ne!(hasher.hash(&candidate("correct horse battery")).await.unwrap(), hash);
    }

    #[tokio::test]
    async fn an_account_that_is_not_there_costs_a_hash_too() {
        let hasher = quick();
        assert!(!hasher.turn().await.unwrap().verify(&candidate("a"), None).await.unwrap());
        assert_eq!(hasher.hashed(), 1);
    }

    #[tokio::test]
    async fn a_hash_with_other_parameters_is_outdated_and_still_good() {
        let old = quick().hash(&candidate("a")).await.unwrap();
        let hasher = Hasher::new();
        assert!(hasher.is_outdated(&old) && !quick().is_outdated(&old));
        assert!(hasher.turn().await.unwrap().verify(&candidate("a"), Some(&old)).await.unwrap());
    }

    #[tokio::test]
    async fn a_flood_is_refused_and_not_kept() {
        let hasher = quick();
        let all = hasher.cores.available_permits();
        let mut turns = Vec::new();
        for _ in 0..all {
            turns.push(hasher.turn().await.unwrap());
        }
        let waiting: Vec<_> = (0..all * WAITING_PER_CORE)
            .map(|_| {
                let hasher = hasher.clone();
                tokio::spawn(async move { hasher.turn().await.map(drop) })
            })
            .collect();
        while hasher.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(hasher.turn().await, Err(HashError::Busy)));
        drop(turns);
        for one in waiting {
            one.await.unwrap().unwrap();
        }
        assert!(hasher.turn().await.is_ok());
    }
}
