//! What a channel counts, as plain atomics that a call adds to and a reader
//! of metrics looks at.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::Meters;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one channel has counted since it was made.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Calls begun.
    pub calls: Counter,
    /// Attempts sent, hedges among them.
    pub attempts: Counter,
    /// Attempts that followed a failed one which may have been processed.
    pub retries: Counter,
    /// Attempts that followed one which provably was not processed.
    pub transparent_retries: Counter,
    /// Attempts sent while an earlier one was still under way.
    pub hedges: Counter,
    /// Retries and hedges that the budget did not allow.
    pub budget_refused: Counter,
    /// Calls that were not sent because the service refuses too many.
    pub throttled: Counter,
    /// Calls that were not sent because too many were under way.
    pub limited: Counter,
    /// Calls whose deadline passed.
    pub expired: Counter,
    /// Instances taken out because their attempts failed.
    pub ejections: Counter,
    /// Instances that should have been, but too many were out already.
    pub ejections_unenforced: Counter,
    /// Connections established.
    pub connections_opened: Counter,
    /// Connections that ended.
    pub connections_closed: Counter,
    /// Tries to connect that failed.
    pub connections_failed: Counter,
    meters: OnceLock<Meters>,
}

impl Counters {
    /// Records the channel's attempts by these too, from now on; the first
    /// given stay.
    pub fn measure(&self, meters: Meters) {
        let _ = self.meters.set(meters);
    }

    /// What records attempts; `None` where nobody measures, so that nobody
    /// pays for it.
    #[must_use]
    pub fn meters(&self) -> Option<&Meters> {
        self.meters.get()
    }
}
