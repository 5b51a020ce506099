//! The heartbeat of a TTL check.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{RegistrationState, Wishes, spread::Spread};
use crate::consul::{CheckSpec, CheckStatus, Client, Error, ServiceSpec, watch::pace::jittered};

/// A beat that failed is repeated after this.
const RETRY: Duration = Duration::from_secs(2);

/// Tells a TTL check every third of its time what the instance reports, at
/// once when that changes or the instance has been registered anew; one beat
/// at a time, for a slow agent would only be slowed further.
pub(super) struct Beat {
    pub(super) client: Client,
    pub(super) spec: Arc<ServiceSpec>,
    pub(super) spread: Spread,
    pub(super) state: watch::Receiver<RegistrationState>,
    pub(super) wishes: watch::Receiver<Wishes>,
    /// Told when the agent does not know the check.
    pub(super) forgotten: Arc<Notify>,
}

impl Beat {
    /// For ever; a gRPC check needs no beat.
    pub(super) async fn run(mut self) {
        let CheckSpec::Ttl { ttl, .. } = self.spec.check else { return std::future::pending().await };
        let check = self.spec.check_id();
        if self.state.wait_for(|state| *state == RegistrationState::Registered).await.is_err() {
            return;
        }
        let mut failing = false;
        // From now on whatever hinders the reconciler does not concern us.
        loop {
            let Wishes { status, output, .. } = self.wishes.borrow_and_update().clone();
            let beaten = self.beat(&check, status, &output).await;
            let pause = match &beaten {
                Ok(()) => ttl / 3,
                Err(e) if is_forgotten(e) => {
                    self.forgotten.notify_one();
                    jittered(RETRY)
                }
                Err(e) => {
                    // Without an agent the reconciler has said so.
                    if !failing && *self.state.borrow() == RegistrationState::Registered {
                        tracing::warn!(%check, "check `{check}` cannot be beaten: {e}");
                    }
                    if e.is_retryable() { jittered(RETRY) } else { ttl / 3 }
                }
            };
            failing = beaten.is_err();
            tokio::select! {
                () = sleep(pause) => {}
                Ok(()) = self.wishes.changed() => {}
                Ok(()) = self.state.changed() => {}
            }
        }
    }
}

impl Beat {
    async fn beat(&self, check: &str, status: CheckStatus, output: &str) -> Result<(), Error> {
        if !self.spread.is_seen() {
            return self.client.update_check(check, status, output).await;
        }
        let beat = |client: Client| async move { client.update_check(check, status, output).await };
        self.spread.everywhere(beat).await
    }
}

/// Returns whether the agent does not know the check: 404, and on old agents
/// the text that newer ones have for a check of another type.
fn is_forgotten(error: &Error) -> bool {
    match error {
        Error::NotFound { .. } => true,
        Error::BadRequest { said, .. } => said.contains("does not have associated TTL"),
        _ => false,
    }
}
