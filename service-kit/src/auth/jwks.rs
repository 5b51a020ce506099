//! The keys and revocations that user-service publishes.
//!
//! One task fetches them: at the start, at intervals, and when a token names an
//! unknown key, though for that no more often than
//! [`JwksSettings::unknown_key_interval`]. Calls that need the response wait for
//! it, a bounded time. While user-service is unavailable the last valid keys stay.

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
    revoked::RevocationList,
    token::{Issuer, VerificationKey},
};

/// The most keys that are taken from a response.
pub(super) const MAX_KEYS: usize = 16;
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// The settings of the refresh.
#[derive(Clone, Copy, Debug)]
pub(super) struct JwksSettings {
    /// The interval between requests, of which 0.8 to 1.0 is used. Together with
    /// `timeout` it bounds how long a revoked token is still accepted.
    refresh_interval: Duration,
    /// The time for which keys stay valid while user-service is unavailable.
    max_age: Duration,
    /// The minimum interval between requests because of unknown keys.
    unknown_key_interval: Duration,
    /// The timeout of a request.
    timeout: Duration,
    initial_backoff: Duration,
    max_backoff: Duration,
}

impl Default for JwksSettings {
    fn default() -> Self {
        Self {
            refresh_interval: Duration::from_secs(3),
            max_age: Duration::from_secs(24 * 3_600),
            unknown_key_interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            initial_backoff: Duration::from_millis(250),
            max_backoff: Duration::from_secs(3),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct JwksState {
    keys: Arc<[VerificationKey]>,
    /// Grows when the keys change.
    generation: u64,
    valid_until: Option<Instant>,
    /// The keys are this service's own, which is user-service.
    is_own: bool,
    /// The numbers of requests to user-service that were sent and completed.
    sent: u64,
    completed: u64,
}

impl JwksState {
    fn are_valid(&self) -> bool {
        self.is_own || self.valid_until.is_some_and(|until| Instant::now() < until)
    }

    /// Sets the keys, if they differ.
    fn set_keys(&mut self, keys: Vec<PublicKey>) {
        let same =
            self.keys.len() == keys.len() && keys.iter().all(|key| self.keys.iter().any(|k| k.is(key)));
        if !same {
            self.keys = keys.into_iter().map(|key| VerificationKey::new(key, Issuer::Users)).collect();
            self.generation += 1;
        }
    }
}

/// A response of user-service.
pub(super) struct JwksResponse {
    keys: Vec<PublicKey>,
    revocations: Vec<Revocation>,
}

impl From<Vec<PublicKey>> for JwksResponse {
    fn from(keys: Vec<PublicKey>) -> Self {
        Self { keys, revocations: Vec::new() }
    }
}

/// The keys of user-service.
#[derive(Debug)]
pub(super) struct Jwks {
    state: watch::Sender<JwksState>,
    revoked: RevocationList,
    settings: JwksSettings,
    refresh_request: Notify,
    /// The earliest time of the next request because of an unknown key.
    next_unknown: Mutex<Option<Instant>>,
}

impl Jwks {
    pub(super) fn new(settings: JwksSettings) -> Self {
        let (state, revoked) = (watch::Sender::default(), RevocationList::default());
        Self { state, revoked, settings, refresh_request: Notify::new(), next_unknown: Mutex::new(None) }
    }

    /// Sets the keys of the service itself, and stops fetching.
    pub(super) fn publish(&self, keys: Vec<PublicKey>) {
        self.state.send_modify(|now| {
            now.set_keys(keys);
            now.is_own = true;
        });
    }

    /// The revoked tokens.
    pub(super) fn revoked(&self) -> &RevocationList {
        &self.revoked
    }

    /// The keys and their generation, while they are valid.
    pub(super) fn keys(&self) -> Option<(Arc<[VerificationKey]>, u64)> {
        let now = self.state.borrow();
        now.are_valid().then(|| (now.keys.clone(), now.generation))
    }

    /// Waits for valid keys, at most as long as a request may take.
    pub(super) async fn wait_for_keys(&self) {
        let mut state = self.state.subscribe();
        let _ = timeout(self.settings.timeout, state.wait_for(JwksState::are_valid)).await;
    }

    /// Requests a refresh because of an unknown key, unless the last one was
    /// recent, and waits for the request in progress.
    pub(super) async fn refresh(&self) {
        let mut state = self.state.subscribe();
        let (is_own, sent, completed) = {
            let now = state.borrow();
            (now.is_own, now.sent, now.completed)
        };
        if is_own {
            return;
        }
        let awaited = if sent > completed {
            sent
        } else if self.may_refresh() {
            self.refresh_request.notify_one();
            sent + 1
        } else {
            return;
        };
        let _ = timeout(self.settings.timeout, state.wait_for(|now| now.completed >= awaited)).await;
    }

    fn may_refresh(&self) -> bool {
        let mut next = self.next_unknown.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may = next.is_none_or(|next| next <= now);
        if may {
            *next = Some(now + self.settings.unknown_key_interval);
        }
        may
    }

    /// Fetches the keys at intervals, until it is dropped.
    pub(super) async fn run_refresh<F, P>(&self, fetch: impl Fn() -> F)
    where
        F: Future<Output = Result<P, String>>,
        P: Into<JwksResponse>,
    {
        let mut failures = 0_u32;
        while !self.state.borrow().is_own {
            self.state.send_modify(|now| now.sent += 1);
            let response = timeout(self.settings.timeout, fetch()).await;
            let response = response.unwrap_or_else(|_| Err("the request timed out".to_owned()));
            failures = self.record_response(response.map(P::into), failures);
            tokio::select! {
                () = sleep(self.delay(failures)) => {}
                () = self.refresh_request.notified() => {}
            }
        }
        pending::<()>().await;
    }

    /// Records a response after so many consecutive failures; returns their new
    /// number. A response without keys counts as a failure.
    fn record_response(&self, response: Result<JwksResponse, String>, failures: u32) -> u32 {
        let response = response.and_then(|published| {
            if published.keys.is_empty() { Err("the response has no keys".to_owned()) } else { Ok(published) }
        });
        let failures = match &response {
            Ok(_) if failures > 0 => {
                info!("fetched the keys of user-service again");
                0
            }
            Ok(_) => 0,
            Err(error) => {
                let keys = self.state.borrow().keys.len();
                if failures == 0 {
                    warn!(%error, keys, "failed to fetch the keys of user-service, keeping {keys}: {error}");
                }
                failures.saturating_add(1)
            }
        };
        self.state.send_modify(|now| {
            if let (Ok(published), false) = (response, now.is_own) {
                // Before calls that wait for keys continue.
                self.revoked.replace(&published.revocations);
                now.set_keys(published.keys);
                now.valid_until = Some(Instant::now() + self.settings.max_age);
            }
            now.completed = now.sent;
        });
        failures
    }

    /// The delay before the next request, after so many consecutive failures.
    fn delay(&self, failures: u32) -> Duration {
        let JwksSettings { refresh_interval, initial_backoff, max_backoff, .. } = self.settings;
        let delay = match failures {
            0 => refresh_interval,
            failures => initial_backoff.saturating_mul(1 << (failures - 1).min(16)).min(max_backoff),
        };
        delay.mul_f64(0.8 + 0.2 * fastrand::f64())
    }
}

/// Fetches the keys and revocations of user-service.
pub(super) async fn fetch(channel: Channel) -> Result<JwksResponse, String> {
    let mut users = UserServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let mut request = Request::new(GetJwksRequest {});
    request.set_timeout(JwksSettings::default().timeout);
    let response = users.get_jwks(request).await;
    let response = response.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
    let wire::Jwks { keys, revocations } = response.into_inner();
    Ok(JwksResponse { keys: valid_keys(&keys), revocations })
}

/// The valid keys among the first [`MAX_KEYS`].
fn valid_keys(jwks: &[Jwk]) -> Vec<PublicKey> {
    if jwks.len() > MAX_KEYS {
        warn!(keys = jwks.len(), "user-service published {} keys, using the first {MAX_KEYS}", jwks.len());
    }
    let read = |jwk| {
        let key = PublicKey::from_jwk(jwk);
        key.inspect_err(|error| warn!(%error, "ignoring an invalid key of user-service: {error}")).ok()
    };
    jwks.iter().take(MAX_KEYS).filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::auth::Signer;

    /// A user-service with scripted responses.
    #[derive(Clone)]
    struct Users {
        response: Arc<Mutex<Result<Vec<PublicKey>, String>>>,
        requests: Arc<AtomicUsize>,
        delay: Duration,
    }

    impl Users {
        fn with(keys: &[PublicKey]) -> Self {
            let response = Arc::new(Mutex::new(Ok(keys.to_vec())));
            Self { response, requests: Arc::default(), delay: Duration::from_millis(10) }
        }

        fn set_keys(&self, keys: &[PublicKey]) {
            *self.response.lock().unwrap() = Ok(keys.to_vec());
        }

        fn fail(&self) {
            *self.response.lock().unwrap() = Err("down".to_owned());
        }

        fn requests(&self) -> usize {
            self.requests.load(Relaxed)
        }

        /// Starts a refresh from it.
        fn refresh(&self) -> Arc<Jwks> {
            let jwks = Arc::new(Jwks::new(JwksSettings::default()));
            let (refreshed, users) = (jwks.clone(), self.clone());
            tokio::spawn(async move {
                let fetch = || async {
                    users.requests.fetch_add(1, Relaxed);
                    sleep(users.delay).await;
                    users.response.lock().unwrap().clone()
                };
                refreshed.run_refresh(fetch).await;
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
        let jwks = users.refresh();
        jwks.wait_for_keys().await;
        assert!(knows(&jwks, &old));
        let generation = jwks.keys().unwrap().1;
        users.set_keys(&[old.clone(), new.clone()]);
        sleep(JwksSettings::default().refresh_interval).await;
        assert!(knows(&jwks, &old) && knows(&jwks, &new));
        users.set_keys(std::slice::from_ref(&new));
        sleep(JwksSettings::default().refresh_interval).await;
        assert!(!knows(&jwks, &old) && knows(&jwks, &new));
        assert_eq!(jwks.keys().unwrap().1, generation + 2);
        sleep(10 * JwksSettings::default().refresh_interval).await;
        assert_eq!(jwks.keys().unwrap().1, generation + 2, "nothing has changed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_key_is_fetched_at_once() {
        let (old, new) = (key(), key());
        let users = Users::with(std::slice::from_ref(&old));
        let jwks = users.refresh();
        jwks.wait_for_keys().await;
        users.set_keys(&[old, new.clone()]);
        jwks.refresh().await;
        assert!(knows(&jwks, &new));
        assert_eq!(users.requests(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_unknown_keys_sends_one_request_in_ten_seconds() {
        let users = Users::with(&[key()]);
        let jwks = users.refresh();
        jwks.wait_for_keys().await;
        let began = Instant::now();
        for _ in 0..10 {
            futures_util::future::join_all((0..1_000).map(|_| jwks.refresh())).await;
            sleep(Duration::from_secs(1)).await;
        }
        // Besides the regular requests.
        let interval = JwksSettings::default().refresh_interval.mul_f64(0.8);
        let regular = began.elapsed().div_duration_f64(interval);
        let max = 3 + began.elapsed().as_secs() / 10 + regular as u64;
        assert!(users.requests() as u64 <= max, "{} requests", users.requests());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_valid_keys_stay_for_a_day_while_user_service_is_down() {
        let known = key();
        let users = Users::with(std::slice::from_ref(&known));
        let jwks = users.refresh();
        jwks.wait_for_keys().await;
        users.fail();
        sleep(Duration::from_secs(23 * 3_600)).await;
        assert!(knows(&jwks, &known));
        sleep(Duration::from_secs(3_600 + 300)).await;
        assert!(jwks.keys().is_none());
        users.set_keys(std::slice::from_ref(&known));
        sleep(JwksSettings::default().max_backoff).await;
        sleep(users.delay).await;
        assert!(knows(&jwks, &known));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_before_the_first_keys_waits_for_them_for_a_bounded_time() {
        let users = Users { delay: Duration::from_secs(1), ..Users::with(&[key()]) };
        let jwks = users.refresh();
        jwks.wait_for_keys().await;
        assert!(jwks.keys().is_some());
        let users = Users::with(&[]);
        users.fail();
        let jwks = users.refresh();
        let began = Instant::now();
        jwks.wait_for_keys().await;
        assert!(jwks.keys().is_none());
        assert_eq!(began.elapsed(), JwksSettings::default().timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_without_keys_is_ignored() {
        let known = key();
        let users = Users::with(std::slice::from_ref(&known));
        let jwks = users.refresh();
        jwks.wait_for_keys().await;
        users.set_keys(&[]);
        sleep(Duration::from_secs(3_600)).await;
        assert!(knows(&jwks, &known) && users.requests() > 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_with_its_own_keys_sends_no_request() {
        let users = Users::with(&[key()]);
        let own = key();
        let jwks = Jwks::new(JwksSettings::default());
        jwks.publish(vec![own.clone()]);
        let fetch = || async {
            users.requests.fetch_add(1, Relaxed);
            Ok(Vec::new())
        };
        assert!(timeout(Duration::from_secs(3_600), jwks.run_refresh(fetch)).await.is_err());
        jwks.refresh().await;
        assert!(knows(&jwks, &own) && users.requests() == 0);
    }

    #[test]
    fn the_number_of_keys_is_bounded_and_invalid_ones_are_ignored() {
        let mut jwks: Vec<_> = (0..20).map(|_| key().to_jwk()).collect();
        jwks[0].kid = "other".into();
        jwks[1].kty = "oct".into();
        assert_eq!(valid_keys(&jwks).len(), MAX_KEYS - 2);
    }
}
