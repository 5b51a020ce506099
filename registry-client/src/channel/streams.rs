//! The number of streams on a connection.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counts of a connection's streams, in one word so that a call pays for
/// one addition: the total, and those that are open.
#[derive(Debug, Default)]
pub(super) struct Streams(AtomicU64);

const BEGUN: u64 = 1 << 32;

impl Streams {
    /// Counts a new stream; returns the total before it, modulo 2³².
    pub(super) fn begin(&self) -> u32 {
        (self.0.fetch_add(BEGUN + 1, Relaxed) >> 32) as u32
    }

    pub(super) fn end(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub(super) fn open(&self) -> u32 {
        self.0.load(Relaxed) as u32
    }

    /// The total, modulo 2³².
    pub(super) fn begun(&self) -> u32 {
        (self.0.load(Relaxed) >> 32) as u32
    }
}
