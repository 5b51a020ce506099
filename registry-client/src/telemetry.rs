//! The telemetry of calls and channels.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crate::instance::{Address, InstanceId};

mod counters;
mod meters;
mod observed;
mod state;

pub use counters::{Counter, Counters};
pub use meters::{Meters, RetryCounts};
pub(crate) use observed::{ChannelSnapshot, observe};
pub use state::{ChannelState, InstanceState};

/// An extension of a request that records where each attempt went and why. A
/// request without one pays nothing.
///
/// ```
/// use registry_client::telemetry::Explain;
///
/// let explain = Explain::default();
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(explain.clone());
/// // … after the call:
/// for attempt in explain.attempts() {
///     println!("{attempt}");
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Explain(Arc<Mutex<Vec<Attempt>>>);

/// One attempt of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The instance it was sent to.
    pub instance: InstanceId,
    /// The address of the instance.
    pub address: Address,
    /// The reason for this instance: the policy and its candidates.
    pub why: String,
    /// The outcome, in words; empty while the attempt is in flight.
    pub outcome: String,
    /// True if the instance responded, with any status.
    pub answered: bool,
}

impl Explain {
    /// The attempts so far, in order. Empty when the call never reached an
    /// instance.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.with(|attempts| attempts.clone())
    }

    /// Records a new attempt; returns its index.
    pub(crate) fn begin(&self, instance: InstanceId, address: Address, why: String) -> usize {
        let attempt = Attempt { instance, address, why, outcome: String::new(), answered: false };
        self.with(|attempts| {
            attempts.push(attempt);
            attempts.len() - 1
        })
    }

    /// Records that the attempt at `index` ended without a response.
    pub(crate) fn end(&self, index: usize, outcome: impl fmt::Display) {
        self.with(|attempts| {
            if let Some(attempt) = attempts.get_mut(index) {
                attempt.outcome = outcome.to_string();
            }
        });
    }

    /// Records that the attempt at `index` got a response.
    pub(crate) fn answered(&self, index: usize, outcome: impl fmt::Display) {
        self.with(|attempts| {
            if let Some(attempt) = attempts.get_mut(index) {
                attempt.outcome = outcome.to_string();
                attempt.answered = true;
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Attempt>) -> T) -> T {
        // A poisoned list is valid: every change of it is one step.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.outcome.is_empty() { "under way" } else { &self.outcome };
        write!(f, "{} at {} ({}): {outcome}", self.instance, self.address, self.why)
    }
}
