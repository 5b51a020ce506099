//! The counters of a channel: atomics that calls add to and metrics read.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::Meters;

/// A counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// The current count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters of one channel since its creation.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Calls begun.
    pub calls: Counter,
    /// Attempts sent, hedges among them.
    pub attempts: Counter,
    /// Attempts that followed a failed one which may have been processed.
    pub retries: Counter,
    /// Attempts that followed one which was provably not processed.
    pub transparent_retries: Counter,
    /// Attempts sent while an earlier one was in flight.
    pub hedges: Counter,
    /// Retries and hedges that the budget did not allow.
    pub budget_refused: Counter,
    /// Calls that were not sent because of client-side throttling.
    pub throttled: Counter,
    /// Calls that were not sent because of a concurrency limit.
    pub limited: Counter,
    /// Calls whose deadline passed.
    pub expired: Counter,
    /// Instances ejected by outlier detection.
    pub ejections: Counter,
    /// Ejections that were not enforced, because too many instances were
    /// ejected.
    pub ejections_unenforced: Counter,
    /// Connections established.
    pub connections_opened: Counter,
    /// Connections that ended.
    pub connections_closed: Counter,
    /// Attempts to connect that failed.
    pub connections_failed: Counter,
    meters: OnceLock<Meters>,
}

impl Counters {
    /// Sets the histograms of the channel; only the first call has an effect.
    pub fn measure(&self, meters: Meters) {
        let _ = self.meters.set(meters);
    }

    /// The histograms; `None` without a meter.
    #[must_use]
    pub fn meters(&self) -> Option<&Meters> {
        self.meters.get()
    }
}
