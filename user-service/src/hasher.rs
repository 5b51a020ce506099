//! The hashing of passwords.

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

/// The most calls that wait, for each core.
const MAX_WAITING_PER_CORE: usize = 32;

/// The reason why there is no hash.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// Too many calls wait.
    #[error("too many passwords wait to be hashed")]
    Busy,
    /// A stored hash is invalid, or hashing failed.
    #[error("{0}")]
    Failed(String),
}

/// A hashed password, as a PHC string: algorithm, parameters, salt and hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash(String);

impl Hash {
    /// A hash from the database.
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

/// The hasher of passwords. It runs Argon2id on blocking threads, as many at once as
/// there are cores: each takes 19 MiB and a whole core. A bounded number of calls
/// waits. Cheap to clone; clones share the cores.
#[derive(Clone, Debug)]
pub struct Hasher {
    params: Params,
    cores: Arc<Semaphore>,
    /// The places of running and waiting calls.
    queue: Arc<Semaphore>,
    hashed: Arc<AtomicU64>,
}

/// The permit to hash once.
#[derive(Debug)]
#[must_use = "a dropped permit is given to another call"]
pub struct HashPermit {
    hasher: Hasher,
    permits: [OwnedSemaphorePermit; 2],
}

impl Hasher {
    /// A hasher with OWASP's parameters: 19 MiB, two passes, one lane.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Params::DEFAULT)
    }

    /// A hasher with these parameters.
    #[must_use]
    pub fn with(params: Params) -> Self {
        let cores = available_parallelism().map_or(1, Into::into);
        Self {
            params,
            cores: Arc::new(Semaphore::new(cores)),
            queue: Arc::new(Semaphore::new(cores * (1 + MAX_WAITING_PER_CORE))),
            hashed: Arc::default(),
        }
    }

    /// The number of passwords hashed so far, to store or to compare them.
    #[must_use]
    pub fn hashed(&self) -> u64 {
        self.hashed.load(Relaxed)
    }

    /// Waits for a permit, behind a bounded number of calls.
    ///
    /// # Errors
    /// [`HashError::Busy`] when too many wait.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn acquire(&self) -> Result<HashPermit, HashError> {
        let place = self.queue.clone().try_acquire_owned().map_err(|_| HashError::Busy)?;
        let core = self.cores.clone().acquire_owned().await.map_err(|_| HashError::Busy)?;
        Ok(HashPermit { hasher: self.clone(), permits: [core, place] })
    }

    /// Hashes `password` with a new salt.
    ///
    /// # Errors
    /// [`HashError::Busy`] when too many wait.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn hash(&self, password: &Candidate) -> Result<Hash, HashError> {
        self.acquire().await?.hash(password).await
    }

    /// True when the hash was made with other than the current parameters.
    #[must_use]
    pub fn is_outdated(&self, hash: &Hash) -> bool {
        let read = PasswordHash::new(hash.as_str()).ok();
        let params = read.and_then(|hash| Params::try_from(&hash).ok());
        let costs = |params: &Params| (params.m_cost(), params.t_cost(), params.p_cost());
        params.is_none_or(|params| costs(&params) != costs(&self.params))
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

impl HashPermit {
    /// Hashes `password` with a new salt.
    ///
    /// # Errors
    /// When the operating system returns no random numbers.
    ///
    /// # Cancel safety
    /// Cancel safe; a running hash occupies its core until it ends.
    pub async fn hash(self, password: &Candidate) -> Result<Hash, HashError> {
        let (argon, password) = (self.hasher.argon(), password.clone());
        let hash = move || -> Result<PasswordHash, _> { argon.hash_password(password.expose().as_bytes()) };
        let hash = self.run(hash).await?.map_err(|why| HashError::Failed(why.to_string()))?;
        Ok(Hash(hash.to_string()))
    }

    /// Checks `password` against a hash. Without a hash it returns false, after the
    /// same time.
    ///
    /// # Errors
    /// When `hash` is invalid.
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
        match self.run(verify).await? {
            Ok(()) => Ok(true),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
            Err(why) => Err(HashError::Failed(why.to_string())),
        }
    }

    async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, HashError> {
        let Self { hasher, permits } = self;
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            hasher.hashed.fetch_add(1, Relaxed);
            drop(permits);
            result
        });
        task.await.map_err(|why| HashError::Failed(why.to_string()))
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
    async fn a_hash_has_its_parameters_and_matches_its_password() {
        let hasher = Hasher::new();
        let hash = hasher.hash(&candidate("correct horse battery")).await.unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.as_str());
        assert_eq!(format!("{hash:?}"), "Hash(…)");
        for (text, is_it) in [("correct horse battery", true), ("correct horse batterz", false)] {
            let turn = hasher.acquire().await.unwrap();
            assert_eq!(turn.verify(&candidate(text), Some(&hash)).await.unwrap(), is_it);
        }
        assert_ne!(hasher.hash(&candidate("correct horse battery")).await.unwrap(), hash);
    }

    #[tokio::test]
    async fn an_unknown_account_costs_a_hash_too() {
        let hasher = quick();
        assert!(!hasher.acquire().await.unwrap().verify(&candidate("a"), None).await.unwrap());
        assert_eq!(hasher.hashed(), 1);
    }

    #[tokio::test]
    async fn a_hash_with_other_parameters_is_outdated_and_still_valid() {
        let old = quick().hash(&candidate("a")).await.unwrap();
        let hasher = Hasher::new();
        assert!(hasher.is_outdated(&old) && !quick().is_outdated(&old));
        assert!(hasher.acquire().await.unwrap().verify(&candidate("a"), Some(&old)).await.unwrap());
    }

    #[tokio::test]
    async fn a_flood_is_rejected() {
        let hasher = quick();
        let all = hasher.cores.available_permits();
        let mut turns = Vec::new();
        for _ in 0..all {
            turns.push(hasher.acquire().await.unwrap());
        }
        let waiting: Vec<_> = (0..all * MAX_WAITING_PER_CORE)
            .map(|_| {
                let hasher = hasher.clone();
                tokio::spawn(async move { hasher.acquire().await.map(drop) })
            })
            .collect();
        while hasher.queue.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(hasher.acquire().await, Err(HashError::Busy)));
        drop(turns);
        for one in waiting {
            one.await.unwrap().unwrap();
        }
        assert!(hasher.acquire().await.is_ok());
    }
}
