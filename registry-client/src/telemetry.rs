//! What happened to a call, for whoever asks.

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
pub use meters::{Meters, Retried};
pub(crate) use observed::{Observed, observe};
pub use state::{ChannelState, InstanceState};

/// A slip that a caller puts into a request's extensions to learn where each
/// attempt went and why. A request without one pays nothing for it.
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
    /// Where that instance listens.
    pub address: Address,
    /// Why this instance: the policy and what it chose from.
    pub why: String,
    /// How it ended, in words; empty while it is under way.
    pub outcome: String,
    /// True if the instance answered, with whatever status.
    pub answered: bool,
}

impl Explain {
    /// The attempts so far, in order. Empty when the call never reached an
    /// instance.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.with(|attempts| attempts.clone())
    }

    /// An attempt begins; gives its place in the list.
    pub(crate) fn begin(&self, instance: InstanceId, address: Address, why: String) -> usize {
        let attempt = Attempt { instance, address, why, outcome: String::new(), answered: false };
        self.with(|attempts| {
            attempts.push(attempt);
            attempts.len() - 1
        })
    }

    /// The attempt at `place` ended without a response.
    pub(crate) fn end(&self, place: usize, outcome: impl fmt::Display) {
        self.with(|attempts| {
            if let Some(attempt) = attempts.get_mut(place) {
                attempt.outcome = outcome.to_string();
            }
        });
    }

    /// The attempt at `place` was answered.
    pub(crate) fn answered(&self, place: usize, outcome: impl fmt::Display) {
        self.with(|attempts| {
            if let Some(attempt) = attempts.get_mut(place) {
                attempt.outcome = outcome.to_string();
                attempt.answered = true;
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Attempt>) -> T) -> T {
        // A poisoned list is still a list: every change of it is one step.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.outcome.is_empty() { "under way" } else { &self.outcome };
        write!(f, "{} at {} ({}): {outcome}", self.instance, self.address, self.why)
    }
}
