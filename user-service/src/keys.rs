//! The keys that access tokens are signed with, and when each is what.
//!
//! ```text
//!  published            signs                     still published   removed
//! ├─────────┼───────────────────────────────────┼─────────────────┤
//! add     from                                until       until + lifetime + grace
//! ```
//!
//! A key is there before it signs, so that whoever verifies knows it in time,
//! and stays until the last token signed with it has expired. The next begins
//! where it ends. Every replica looks at the keys now and then; the first that
//! sees that one is due adds it, the others follow.
//!
//! The secret half of a key is in the database, encrypted where the operator
//! gives a key to encrypt with (`AUTH_ENCRYPTION_KEYS`). Otherwise it is guarded
//! only by what guards the database, the permissions of its file or the
//! server's: who can read it can make tokens.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use mesh_proto::shop::user::v1::{Jwk, Revocation};
use service_kit::{
    auth::{Auth, Signer},
    timestamp::Timestamp,
};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    Error,
    clock::{Clock, after, between},
    store::{Store, StoredKey},
};

/// How long a key does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long it is published before it signs; 10 min.
    pub ahead: Duration,
    /// How long it signs; 24 h.
    pub signs: Duration,
    /// How long a token that it signed is good for; 15 min.
    pub lifetime: Duration,
    /// How long it stays published after that, as clocks differ; 5 min.
    pub grace: Duration,
    /// How often each replica looks; 3 s. For so long it may believe a token that
    /// another replica has revoked.
    pub look: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            ahead: Duration::from_secs(10 * 60),
            signs: Duration::from_secs(24 * 3_600),
            lifetime: Duration::from_secs(15 * 60),
            grace: Duration::from_secs(5 * 60),
            look: Duration::from_secs(3),
        }
    }
}

/// Which key it is, and from when until when it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// One more than that of the key before.
    pub number: i64,
    /// Signs from here on.
    pub from: Timestamp,
    /// Signs no more from here on.
    pub until: Timestamp,
}

/// What shall be done about the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Plan {
    add: Option<Times>,
    /// All before this number have done their work.
    remove_before: Option<i64>,
}

impl Terms {
    /// What shall be done about `keys`, the newest first.
    fn plan(&self, keys: &[Times], now: Timestamp) -> Plan {
        let add = match keys.first() {
            None => Some((1, now)),
            Some(newest) if between(now, newest.until) > self.ahead => None,
            // After a long sleep there is none that signs, and no time to wait.
            Some(newest) => Some((newest.number + 1, newest.until.max(now))),
        };
        let done = |key: &&Times| after(key.until, self.lifetime + self.grace) <= now;
        // The newest stays: its number is where the next goes on.
        let last_done = keys.iter().skip(1).find(done);
        Plan {
            add: add.map(|(number, from)| Times { number, from, until: after(from, self.signs) }),
            remove_before: last_done.map(|key| key.number + 1),
        }
    }
}

/// The key of `keys`, the newest first, that signs: the oldest whose time has
/// not ended. So also for a replica whose clock is behind that of the one that
/// made the first key.
fn signs<K>(keys: &[K], times: impl Fn(&K) -> Times, now: Timestamp) -> Option<&K> {
    keys.iter().rev().find(|key| now < times(key).until)
}

/// A replica's view of the keys. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Keyring {
    store: Store,
    clock: Clock,
    terms: Terms,
    auth: Auth,
    held: Arc<RwLock<Arc<[StoredKey]>>>,
}

impl Keyring {
    /// The keys that `store` has, by which `auth` verifies the tokens that come
    /// back; there is one that signs when this returns.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// A key may have been added.
    pub async fn open(store: Store, clock: Clock, terms: Terms, auth: Auth) -> Result<Self, Error> {
        let keyring = Self { store, clock, terms, auth, held: Arc::new(RwLock::new(Arc::new([]))) };
        keyring.look().await?;
        // Only now: replicas that differ in their lists while they are
        // restarted one after the other would undo each other's work for ever.
        for key in keyring.held().iter().filter(|key| !key.is_current) {
            keyring.store.encrypt_again(key).await?;
            info!(
                kid = key.signer.kid(),
                "the secret half of a signing key is stored as the new settings say"
            );
        }
        Ok(keyring)
    }

    /// How long a token that is signed now is good for.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.terms.lifetime
    }

    /// What `sign` makes of the key that signs now.
    ///
    /// # Errors
    /// When there is none and the database fails.
    ///
    /// # Cancel safety
    /// As [`look`](Self::look).
    pub async fn sign<T>(&self, sign: impl Fn(&Signer) -> T) -> Result<T, Error> {
        let signing = |keys: &[StoredKey]| {
            let now = self.clock.now();
            signs(keys, |key| key.times, now).map(|key| sign(&key.signer))
        };
        if let Some(signed) = signing(&self.held()) {
            return Ok(signed);
        }
        // The loop was held up, or time has jumped.
        self.look().await?;
        signing(&self.held()).ok_or_else(|| Error::Token("no key signs at this time".into()))
    }

    /// The keys that tokens are verified with: those that sign, did or will.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn published(&self) -> Result<Vec<Jwk>, Error> {
        let now = self.clock.now();
        let keys = self.store.keys().await?;
        let of_use = |key: &&StoredKey| now < after(key.times.until, self.terms.lifetime + self.terms.grace);
        Ok(keys.iter().filter(of_use).map(|key| key.signer.jwk()).collect())
    }

    /// The accounts whose tokens end before they expire, for as long as one may
    /// hold.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn revocations(&self) -> Result<Vec<Revocation>, Error> {
        let longest = self.terms.lifetime + self.terms.grace;
        Ok(self.store.revocations(self.clock.now(), longest).await?)
    }

    /// Looks at the keys: adds the one that is due, removes those that have
    /// done their work, and takes over what other replicas did. Looks at what
    /// was revoked besides.
    ///
    /// # Errors
    /// When the database fails; what is held stays.
    ///
    /// # Cancel safety
    /// A key may have been added or removed.
    pub async fn look(&self) -> Result<(), Error> {
        let now = self.clock.now();
        let mut keys = self.store.keys().await?;
        let times: Vec<_> = keys.iter().map(|key| key.times).collect();
        let plan = self.terms.plan(&times, now);
        if let Some(times) = plan.add {
            let signer = Signer::generate().map_err(|why| Error::Token(why.to_string()))?;
            let key = StoredKey { times, signer, is_current: true };
            if self.store.add_key(&key, now).await? {
                let wait_s = between(now, times.from).as_secs();
                info!(kid = key.signer.kid(), wait_s, "a new key will sign tokens in {wait_s} s");
            }
        }
        if let Some(number) = plan.remove_before {
            self.store.remove_keys_before(number).await?;
        }
        if plan != Plan::default() {
            keys = self.store.keys().await?;
        }
        self.auth.revoke(&self.revocations().await?);
        self.auth.publish(keys.iter().map(|key| key.signer.public().clone()));
        *self.held.write().unwrap_or_else(std::sync::PoisonError::into_inner) = keys.into();
        Ok(())
    }

    /// Looks at the keys again and again, until it is dropped.
    pub async fn tend(self) {
        let mut failing = false;
        loop {
            // Replicas that start together shall not look together.
            sleep(self.terms.look.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            match self.look().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    warn!(%error, "could not look at the signing keys, keeping those that are known");
                    failing = true;
                }
                Err(_) => {}
            }
        }
    }

    fn held(&self) -> Arc<[StoredKey]> {
        self.held.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(hours: f64) -> Timestamp {
        after(Timestamp::of_micros(0), HOUR.mul_f64(hours))
    }

    fn key(number: i64, from: f64, until: f64) -> Times {
        Times { number, from: at(from), until: at(until) }
    }

    fn plan(keys: &[Times], hours: f64) -> Plan {
        Terms::default().plan(keys, at(hours))
    }

    #[test]
    fn the_first_key_signs_at_once_for_a_day() {
        assert_eq!(plan(&[], 5.0), Plan { add: Some(key(1, 5.0, 29.0)), remove_before: None });
    }

    #[test]
    fn the_next_is_published_before_it_signs() {
        let keys = [key(1, 0.0, 24.0)];
        assert_eq!(plan(&keys, 23.8), Plan::default());
        let added = Some(key(2, 24.0, 48.0));
        assert_eq!(plan(&keys, 24.0 - 1.0 / 6.0), Plan { add: added, remove_before: None });
        assert_eq!(plan(&[key(2, 24.0, 48.0), key(1, 0.0, 24.0)], 23.9), Plan::default());
    }

    #[test]
    fn a_key_goes_when_its_last_token_has_expired() {
        let keys = [key(2, 24.0, 48.0), key(1, 0.0, 24.0)];
        assert_eq!(plan(&keys, 24.33), Plan::default());
        assert_eq!(plan(&keys, 24.34), Plan { add: None, remove_before: Some(2) });
    }

    #[test]
    fn after_a_long_sleep_there_is_a_key_at_once() {
        let plan = plan(&[key(2, 24.0, 48.0), key(1, 0.0, 24.0)], 100.0);
        assert_eq!(plan, Plan { add: Some(key(3, 100.0, 124.0)), remove_before: Some(2) });
    }

    #[test]
    fn at_every_time_of_a_week_one_key_signs_and_was_published_before() {
        let terms = Terms::default();
        let (mut keys, mut published) = (Vec::<(Times, Timestamp)>::new(), 0);
        for minute in 0..7 * 24 * 60 {
            let now = at(f64::from(minute) / 60.0);
            let times: Vec<_> = keys.iter().map(|(times, _)| *times).collect();
            let plan = terms.plan(&times, now);
            if let Some(add) = plan.add {
                keys.insert(0, (add, now));
                published += 1;
            }
            keys.retain(|(times, _)| plan.remove_before.is_none_or(|before| times.number >= before));
            let (times, since) = signs(&keys, |(times, _)| *times, now).unwrap();
            assert!(times.from <= now && now < times.until, "minute {minute}");
            assert!(times.number == 1 || between(*since, times.from) >= terms.ahead - HOUR / 60);
            assert!(keys.len() <= 2);
        }
        assert_eq!(published, 8);
    }
}
