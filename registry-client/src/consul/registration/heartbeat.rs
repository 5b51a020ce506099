//! The heartbeat of a TTL check.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{DesiredState, RegistrationState, agents::Agents};
use crate::consul::{CheckSpec, CheckStatus, Client, Error, ServiceSpec, watch::pace::jittered};

/// The delay before a failed heartbeat is repeated, without its jitter.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The sender of TTL heartbeats: every third of the TTL, and at once when the
/// status changes or the instance was registered again; one at a time, because
/// more would slow down a slow agent further.
pub(super) struct Heartbeat {
    pub(super) client: Client,
    pub(super) spec: Arc<ServiceSpec>,
    pub(super) agents: Agents,
    pub(super) state: watch::Receiver<RegistrationState>,
    pub(super) desired: watch::Receiver<DesiredState>,
    /// Notified when the agent does not know the check.
    pub(super) check_missing: Arc<Notify>,
}

impl Heartbeat {
    /// Sends heartbeats; never completes. A gRPC check needs none.
    pub(super) async fn run(mut self) {
        let CheckSpec::Ttl { ttl, .. } = self.spec.check else { return std::future::pending().await };
        let check = self.spec.check_id();
        if self.state.wait_for(|state| *state == RegistrationState::Registered).await.is_err() {
            return;
        }
        let mut was_failing = false;
        // From now on heartbeats do not depend on the reconciler.
        loop {
            let DesiredState { status, output, .. } = self.desired.borrow_and_update().clone();
            let result = self.send(&check, status, &output).await;
            let delay = match &result {
                Ok(()) => ttl / 3,
                Err(e) if is_missing(e) => {
                    self.check_missing.notify_one();
                    jittered(RETRY_INTERVAL)
                }
                Err(e) => {
                    // The reconciler logs an unreachable agent.
                    if !was_failing && *self.state.borrow() == RegistrationState::Registered {
                        tracing::warn!(%check, "failed to send the TTL heartbeat for check `{check}`: {e}");
                    }
                    if e.is_retryable() { jittered(RETRY_INTERVAL) } else { ttl / 3 }
                }
            };
            was_failing = result.is_err();
            tokio::select! {
                () = sleep(delay) => {}
                Ok(()) = self.desired.changed() => {}
                Ok(()) = self.state.changed() => {}
            }
        }
    }
}

impl Heartbeat {
    async fn send(&self, check: &str, status: CheckStatus, output: &str) -> Result<(), Error> {
        if !self.agents.has_several() {
            return self.client.update_check(check, status, output).await;
        }
        let send = |client: Client| async move { client.update_check(check, status, output).await };
        self.agents.on_every_agent(send).await
    }
}

/// Returns whether the agent does not know the check: 404, or on old agents a
/// text that newer ones use for a check of another type.
fn is_missing(error: &Error) -> bool {
    match error {
        Error::NotFound { .. } => true,
        Error::BadRequest { message, .. } => message.contains("does not have associated TTL"),
        _ => false,
    }
}
