//! The rotation of the keys that sign access tokens.
//!
//! ```text
//!  published            signs                     still published   removed
//! ├─────────┼───────────────────────────────────┼─────────────────┤
//! add     from                                until       until + lifetime + grace
//! ```
//!
//! A key is published before it signs, so that verifiers know it in time, and stays
//! until the last token signed with it has expired. The next key begins where it
//! ends. Every replica reads the keys at intervals; the first to see that a new one
//! is due adds it.
//!
//! The secret half of a key is in the database, encrypted if the operator sets
//! `AUTH_ENCRYPTION_KEYS`. Otherwise only the permissions of the database protect
//! it: every reader can forge tokens.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use mesh_proto::shop::user::v1::{Jwk, Revocation};
use service_kit::auth::{Auth, Signer};
use tokio::time::sleep;
use tracing::{info, warn};

pub use crate::key_schedule::KeySchedule;
use crate::{
    Error,
    clock::{Clock, after, between},
    key_schedule::{KeyPlan, signing_key},
    store::{Store, StoredKey},
};

/// A replica's copy of the keys. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Keyring {
    store: Store,
    clock: Clock,
    schedule: KeySchedule,
    auth: Auth,
    keys: Arc<RwLock<Arc<[StoredKey]>>>,
}

impl Keyring {
    /// Reads the keys of `store`, with which `auth` verifies tokens, and adds one if
    /// none signs.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// A key may have been added.
    pub async fn open(store: Store, clock: Clock, schedule: KeySchedule, auth: Auth) -> Result<Self, Error> {
        let keyring = Self { store, clock, schedule, auth, keys: Arc::new(RwLock::new(Arc::new([]))) };
        keyring.refresh().await?;
        // Only at the start: replicas with different lists, during a rolling restart,
        // would encrypt against each other for ever.
        for key in keyring.keys().iter().filter(|key| !key.is_current) {
            keyring.store.re_encrypt(key).await?;
            info!(
                kid = key.signer.kid(),
                "a signing key is encrypted under the first of AUTH_ENCRYPTION_KEYS now"
            );
        }
        Ok(keyring)
    }

    /// The lifetime of a token that is signed now.
    #[must_use]
    pub fn token_lifetime(&self) -> Duration {
        self.schedule.token_lifetime
    }

    /// Calls `sign` with the current signing key.
    ///
    /// # Errors
    /// When there is none and the database fails.
    ///
    /// # Cancel safety
    /// As [`refresh`](Self::refresh).
    pub async fn sign<T>(&self, sign: impl Fn(&Signer) -> T) -> Result<T, Error> {
        let signing = |keys: &[StoredKey]| {
            let now = self.clock.now();
            signing_key(keys, |key| key.period, now).map(|key| sign(&key.signer))
        };
        if let Some(signed) = signing(&self.keys()) {
            return Ok(signed);
        }
        // The refresh is late, or the clock has jumped.
        self.refresh().await?;
        signing(&self.keys()).ok_or_else(|| Error::Token("no key signs at this time".into()))
    }

    /// The keys that verify tokens: past, current and future signing keys.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn published(&self) -> Result<Vec<Jwk>, Error> {
        let now = self.clock.now();
        let keys = self.store.keys().await?;
        let KeySchedule { token_lifetime, grace, .. } = self.schedule;
        let is_published = |key: &&StoredKey| now < after(key.period.until, token_lifetime + grace);
        Ok(keys.iter().filter(is_published).map(|key| key.signer.jwk()).collect())
    }

    /// The revocations of the last token lifetime.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn revocations(&self) -> Result<Vec<Revocation>, Error> {
        let age = self.schedule.token_lifetime + self.schedule.grace;
        Ok(self.store.revocations(self.clock.now(), age).await?)
    }

    /// Reads the keys and revocations, adds the key that is due, and removes expired
    /// ones.
    ///
    /// # Errors
    /// When the database fails; the replica keeps its copy.
    ///
    /// # Cancel safety
    /// A key may have been added or removed.
    pub async fn refresh(&self) -> Result<(), Error> {
        let now = self.clock.now();
        let mut keys = self.store.keys().await?;
        let periods: Vec<_> = keys.iter().map(|key| key.period).collect();
        let plan = self.schedule.plan(&periods, now);
        if let Some(period) = plan.add {
            let signer = Signer::generate().map_err(|why| Error::Token(why.to_string()))?;
            let key = StoredKey { period, signer, is_current: true };
            if self.store.add_key(&key, now).await? {
                let wait_s = between(now, period.from).as_secs();
                info!(kid = key.signer.kid(), wait_s, "added a key that signs tokens in {wait_s} s");
            }
        }
        if let Some(number) = plan.remove_before {
            self.store.remove_keys_before(number).await?;
        }
        if plan != KeyPlan::default() {
            keys = self.store.keys().await?;
        }
        self.auth.revoke(&self.revocations().await?);
        self.auth.publish(keys.iter().map(|key| key.signer.public().clone()));
        *self.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner) = keys.into();
        Ok(())
    }

    /// Refreshes at intervals, until it is dropped.
    pub async fn run_refresh(self) {
        let mut failing = false;
        loop {
            // Random, so that replicas that start together do not coincide.
            sleep(self.schedule.refresh_interval.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            match self.refresh().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    warn!(%error, "failed to read the signing keys, keeping the last ones: {error}");
                    failing = true;
                }
                Err(_) => {}
            }
        }
    }

    fn keys(&self) -> Arc<[StoredKey]> {
        self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}
