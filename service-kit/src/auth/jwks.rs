//! The keys of user-service and the tokens that it has revoked, as it publishes
//! them.
//!
//! One task asks: at the start, before the keys are old, and when a token names
//! a key that is not known, though for that no more often than
//! [`Pace::unknown`] says, whatever tokens come. Who needs the answer waits for
//! it, a bounded time. While user-service is away the last good keys stay.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_proto::shop::user::v1::{
    self as wire, GetJwksRequest, Jwk, Revocation, user_service_client::UserServiceClient,
};
use registry_client::Channel;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tonic::Request;
use tracing::{info, warn};

use super::{
    PublicKey,
    revoked::Revoked,
    token::{Issuer, Key},
};

/// The most keys that are taken from an answer, and how large it may be.
pub(super) const MOST_KEYS: usize = 16;
const MOST_BYTES: usize = 1024 * 1024;

/// When user-service is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// When keys are asked for again: after 0.8 to 1.0 of this. With `answer` it
    /// bounds how long a revoked token is still believed.
    refresh: Duration,
    /// For how long keys are good while user-service is away.
    keep: Duration,
    /// How often an unknown key makes user-service be asked, at most.
    unknown: Duration,
    /// How long an answer is waited for.
    answer: Duration,
    /// The first and the longest wait after an answer that did not come.
    retry: (Duration, Duration),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(3),
            keep: Duration::from_secs(24 * 3_600),
            unknown: Duration::from_secs(10),
            answer: Duration::from_secs(2),
            retry: (Duration::from_millis(250), Duration::from_secs(3)),
        }
    }
}

/// What is known of the keys.
#[derive(Clone, Debug, Default)]
struct State {
    keys: Arc<[Key]>,
    /// Grows when the keys change.
    generation: u64,
    /// Until when they are good.
    until: Option<Instant>,
    /// Given by the service itself, which is user-service.
    own: bool,
    /// How often user-service was asked, and how often that came to an end.
    asked: u64,
    ended: u64,
}

impl State {
    fn are_good(&self) -> bool {
        self.own || self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Takes these keys; changes nothing that is the same.
    fn take(&mut self, keys: Vec<PublicKey>) {
        let same =
            self.keys.len() == keys.len() && keys.iter().all(|key| self.keys.iter().any(|k| k.is(key)));
        if !same {
            self.keys = keys.into_iter().map(|key| Key::new(key, Issuer::Users)).collect();
            self.generation += 1;
        }
    }
}

/// What user-service answers.
pub(super) struct Published {
    keys: Vec<PublicKey>,
    revocations: Vec<Revocation>,
}

impl From<Vec<PublicKey>> for Published {
    fn from(keys: Vec<PublicKey>) -> Self {
        Self { keys, revocations: Vec::new() }
    }
}

/// The keys of user-service.
#[derive(Debug)]
pub(super) struct Jwks {
    state: watch::Sender<State>,
    revoked: Revoked,
    pace: Pace,
    wanted: Notify,
    /// When an unknown key may be asked for again.
    next: Mutex<Option<Instant>>,
}

impl Jwks {
    pub(super) fn new(pace: Pace) -> Self {
        let (state, revoked) = (watch::Sender::default(), Revoked::default());
        Self { state, revoked, pace, wanted: Notify::new(), next: Mutex::new(None) }
    }

    /// Takes the keys from who makes them. From then on nobody is asked.
    pub(super) fn publish(&self, keys: Vec<PublicKey>) {
        self.state.send_modify(|now| {
            now.take(keys);
            now.own = true;
        });
    }

    /// The tokens that are believed no longer.
    pub(super) fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// The keys, and their generation, if they are good.
    pub(super) fn keys(&self) -> Option<(Arc<[Key]>, u64)> {
        let now = self.state.borrow();
        now.are_good().then(|| (now.keys.clone(), now.generation))
    }

    /// Waits until there are good keys, or no longer than for an answer.
    pub(super) async fn good(&self) {
        let mut state = self.state.subscribe();
        let _ = timeout(self.pace.answer, state.wait_for(State::are_good)).await;
    }

    /// Has user-service asked for a key that is not known, unless that was just
    /// done, and waits for the end of the question that is under way.
    pub(super) async fn ask(&self) {
        let mut state = self.state.subscribe();
        let (own, asked, ended) = {
            let now = state.borrow();
            (now.own, now.asked, now.ended)
        };
        if own {
            return;
        }
        let awaited = if asked > ended {
            asked
        } else if self.may_ask() {
            self.wanted.notify_one();
            asked + 1
        } else {
            return;
        };
        let _ = timeout(self.pace.answer, state.wait_for(|now| now.ended >= awaited)).await;
    }

    fn may_ask(&self) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may = next.is_none_or(|next| next <= now);
        if may {
            *next = Some(now + self.pace.unknown);
        }
        may
    }

    /// Keeps the keys as new as [`Pace`] says, by asking for them with `fetch`.
    /// Goes on until it is dropped.
    pub(super) async fn keep_new<F, P>(&self, fetch: impl Fn() -> F)
    where
        F: Future<Output = Result<P, String>>,
        P: Into<Published>,
    {
        let mut failed = 0_u32;
        while !self.state.borrow().own {
            self.state.send_modify(|now| now.asked += 1);
            let answer = timeout(self.pace.answer, fetch()).await;
            let answer = answer.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
            failed = self.told(answer.map(P::into), failed);
            let pause = self.pause(failed);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
        }
        pending::<()>().await;
    }

    /// Takes an answer, after so many that failed; how many have failed then.
    /// Only what is believable replaces what is known.
    fn told(&self, answer: Result<Published, String>, failed: u32) -> u32 {
        let answer = answer.and_then(|published| {
            if published.keys.is_empty() { Err("it has none".to_owned()) } else { Ok(published) }
        });
        let failed = match &answer {
            Ok(_) if failed > 0 => {
                info!("user-service gives its keys again");
                0
            }
            Ok(_) => 0,
            Err(error) => {
                let keys = self.state.borrow().keys.len();
                if failed == 0 {
                    warn!(%error, keys, "user-service does not give its keys, keeping {keys}: {error}");
                }
                failed.saturating_add(1)
            }
        };
        self.state.send_modify(|now| {
            if let (Ok(published), false) = (answer, now.own) {
                // Before who waits for keys goes on.
                self.revoked.replace(&published.revocations);
                now.take(published.keys);
                now.until = Some(Instant::now() + self.pace.keep);
            }
            now.ended = now.asked;
        });
        failed
    }

    fn pause(&self, failed: u32) -> Duration {
        let (first, longest) = self.pace.retry;
        let full = match failed {
            0 => self.pace.refresh,
            failed => first.saturating_mul(1 << (failed - 1).min(16)).min(longest),
        };
        full.mul_f64(0.8 + 0.2 * fastrand::f64())
    }
}

/// Asks user-service for its keys and what it has revoked.
pub(super) async fn fetch(channel: Channel) -> Result<Published, String> {
    let mut users = UserServiceClient::new(channel).max_decoding_message_size(MOST_BYTES);
    let mut request = Request::new(GetJwksRequest {});
    request.set_timeout(Pace::default().answer);
    let answer = users.get_jwks(request).await;
    let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
    let wire::Jwks { keys, revocations } = answer.into_inner();
    Ok(Published { keys: usable(&keys), revocations })
}

/// The keys that can be used, the first few.
fn usable(jwks: &[Jwk]) -> Vec<PublicKey> {
    if jwks.len() > MOST_KEYS {
        warn!(keys = jwks.len(), "user-service has {} keys; {MOST_KEYS} are taken", jwks.len());
    }
    let read = |jwk| {
        let key = PublicKey::from_jwk(jwk);
        key.inspect_err(|error| warn!(%error, "a key of user-service is passed over: {error}")).ok()
    };
    jwks.iter().take(MOST_KEYS).filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::auth::Signer;

    /// A user-service whose answers the test decides.
    #[derive(Clone)]
    struct Users {
        answer: Arc<Mutex<Result<Vec<PublicKey>, String>>>,
        asked: Arc<AtomicUsize>,
        takes: Duration,
    }

    impl Users {
        fn with(keys: &[PublicKey]) -> Self {
            let answer = Arc::new(Mutex::new(Ok(keys.to_vec())));
            Self { answer, asked: Arc::default(), takes: Duration::from_millis(10) }
        }

        fn has(&self, keys: &[PublicKey]) {
            *self.answer.lock().unwrap() = Ok(keys.to_vec());
        }

        fn is_away(&self) {
            *self.answer.lock().unwrap() = Err("away".to_owned());
        }

        fn asked(&self) -> usize {
            self.asked.load(Relaxed)
        }

        /// Keys that are kept new from it.
        fn follow(&self) -> Arc<Jwks> {
            let jwks = Arc::new(Jwks::new(Pace::default()));
            let (kept, users) = (jwks.clone(), self.clone());
            tokio::spawn(async move {
                let fetch = || async {
                    users.asked.fetch_add(1, Relaxed);
                    sleep(users.takes).await;
                    users.answer.lock().unwrap().clone()
                };
                kept.keep_new(fetch).await;
            });
            jwks
        }
    }

    fn key() -> PublicKey {
        Signer::generate().unwrap().public().clone()
    }

    fn knows(jwks: &Jwks, key: &PublicKey) -> bool {
        jwks.keys().is_some_and(|(keys, _)| keys.iter().any(|known| known.is(key)))
    }

    #[tokio::test(start_paused = true)]
    async fn keys_rotate_with_an_overlap() {
        let (old, new) = (key(), key());
        let users = Users::with(std::slice::from_ref(&old));
        let jwks = users.follow();
        jwks.good().await;
        assert!(knows(&jwks, &old));
        let generation = jwks.keys().unwrap().1;
        users.has(&[old.clone(), new.clone()]);
        sleep(Pace::default().refresh).await;
        assert!(knows(&jwks, &old) && knows(&jwks, &new));
        users.has(std::slice::from_ref(&new));
        sleep(Pace::default().refresh).await;
        assert!(!knows(&jwks, &old) && knows(&jwks, &new));
        assert_eq!(jwks.keys().unwrap().1, generation + 2);
        sleep(10 * Pace::default().refresh).await;
        assert_eq!(jwks.keys().unwrap().1, generation + 2, "nothing has changed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_new_is_asked_for_at_once() {
        let (old, new) = (key(), key());
        let users = Users::with(std::slice::from_ref(&old));
        let jwks = users.follow();
        jwks.good().await;
        users.has(&[old, new.clone()]);
        jwks.ask().await;
        assert!(knows(&jwks, &new));
        assert_eq!(users.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_unknown_keys_asks_once_in_ten_seconds() {
        let users = Users::with(&[key()]);
        let jwks = users.follow();
        jwks.good().await;
        let began = Instant::now();
        for _ in 0..10 {
            futures_util::future::join_all((0..1_000).map(|_| jwks.ask())).await;
            sleep(Duration::from_secs(1)).await;
        }
        // Beside those that come whatever is unknown.
        let regular = began.elapsed().div_duration_f64(Pace::default().refresh.mul_f64(0.8));
        let most = 3 + began.elapsed().as_secs() / 10 + regular as u64;
        assert!(users.asked() as u64 <= most, "asked {} times", users.asked());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_keys_stay_for_a_day_while_user_service_is_away() {
        let known = key();
        let users = Users::with(std::slice::from_ref(&known));
        let jwks = users.follow();
        jwks.good().await;
        users.is_away();
        sleep(Duration::from_secs(23 * 3_600)).await;
        assert!(knows(&jwks, &known));
        sleep(Duration::from_secs(3_600 + 300)).await;
        assert!(jwks.keys().is_none());
        users.has(std::slice::from_ref(&known));
        sleep(Pace::default().retry.1).await;
        sleep(users.takes).await;
        assert!(knows(&jwks, &known));
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_before_the_keys_waits_for_them_but_not_long() {
        let users = Users { takes: Duration::from_secs(1), ..Users::with(&[key()]) };
        let jwks = users.follow();
        jwks.good().await;
        assert!(jwks.keys().is_some());
        let users = Users::with(&[]);
        users.is_away();
        let jwks = users.follow();
        let began = Instant::now();
        jwks.good().await;
        assert!(jwks.keys().is_none());
        assert_eq!(began.elapsed(), Pace::default().answer);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_keys_is_not_believed() {
        let known = key();
        let users = Users::with(std::slice::from_ref(&known));
        let jwks = users.follow();
        jwks.good().await;
        users.has(&[]);
        sleep(Duration::from_secs(3_600)).await;
        assert!(knows(&jwks, &known) && users.asked() > 5);
    }

    #[tokio::test(start_paused = true)]
    async fn who_makes_the_keys_asks_nobody() {
        let users = Users::with(&[key()]);
        let own = key();
        let jwks = Jwks::new(Pace::default());
        jwks.publish(vec![own.clone()]);
        let fetch = || async {
            users.asked.fetch_add(1, Relaxed);
            Ok(Vec::new())
        };
        assert!(timeout(Duration::from_secs(3_600), jwks.keep_new(fetch)).await.is_err());
        jwks.ask().await;
        assert!(knows(&jwks, &own) && users.asked() == 0);
    }

    #[test]
    fn so_many_keys_are_taken_and_no_bad_one() {
        let mut jwks: Vec<_> = (0..20).map(|_| key().to_jwk()).collect();
        jwks[0].kid = "other".into();
        jwks[1].kty = "oct".into();
        assert_eq!(usable(&jwks).len(), MOST_KEYS - 2);
    }
}
