//! What happened in a simulation, as text and as a fingerprint.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex},
    time::Duration,
};

/// Every event of one run, in order. Clones are one trace.
#[derive(Clone, Default)]
pub(crate) struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    /// Notes an event at this simulated time.
    pub(crate) fn note(&self, at: Duration, event: impl std::fmt::Display) {
        self.0.lock().unwrap().push(format!("{:>8} {event}", at.as_millis()));
    }

    /// Two runs with the same events, at the same times and in the same
    /// order, have the same fingerprint.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.lock().unwrap().hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
