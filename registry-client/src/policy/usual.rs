//! The usual latency of a method, learnt from successful attempts.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// An attempt that is dropped earlier is never late, however fast the others
/// are.
const MIN_LATENESS: Duration = Duration::from_millis(10);
/// The least number of samples before any latency counts as usual.
const MIN_SAMPLES: u64 = 8;

/// Bits of the mean and of the deviation, in microseconds; the count has the
/// rest.
const BITS: u32 = 28;
const MASK: u64 = (1 << BITS) - 1;

/// The smoothed latency of a method and its smoothed deviation. Lock-free; of
/// two samples at the same moment one may be lost.
///
/// Source: RFC 6298, which bounds by them how long a response may be awaited
/// before its packet counts as lost; mean plus four deviations.
#[derive(Debug, Default)]
pub(crate) struct UsualLatency(AtomicU64);

impl UsualLatency {
    /// Returns whether there are too few samples yet.
    pub(crate) fn is_learning(&self) -> bool {
        self.0.load(Relaxed) >> (2 * BITS) < MIN_SAMPLES
    }

    /// Records the latency of a successful attempt.
    pub(crate) fn record(&self, took: Duration) {
        let sample = u64::try_from(took.as_micros()).unwrap_or(MASK).min(MASK);
        let packed = self.0.load(Relaxed);
        let (count, deviation, mean) = (packed >> (2 * BITS), packed >> BITS & MASK, packed & MASK);
        let (mean, deviation) = match count {
            0 => (sample, sample / 2),
            _ => ((mean * 7 + sample) / 8, (deviation * 3 + mean.abs_diff(sample)) / 4),
        };
        self.0.store((count + 1).min(MIN_SAMPLES) << (2 * BITS) | deviation << BITS | mean, Relaxed);
    }

    /// Returns whether `elapsed` is longer than usual; `false` until there are
    /// enough samples.
    pub(crate) fn is_exceeded_by(&self, elapsed: Duration) -> bool {
        let packed = self.0.load(Relaxed);
        let usual = Duration::from_micros((packed & MASK) + 4 * (packed >> BITS & MASK));
        !self.is_learning() && elapsed > usual.max(MIN_LATENESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn nothing_is_late_before_enough_is_known() {
        let usual = UsualLatency::default();
        for _ in 0..7 {
            usual.record(MS);
            assert!(usual.is_learning() && !usual.is_exceeded_by(Duration::from_secs(60)));
        }
        usual.record(MS);
        assert!(!usual.is_learning() && usual.is_exceeded_by(Duration::from_secs(60)));
    }

    #[test]
    fn late_is_what_takes_longer_than_nearly_all() {
        let usual = UsualLatency::default();
        let mut random = fastrand::Rng::with_seed(7);
        (0..1_000).for_each(|_| usual.record(MS * random.u32(15..25)));
        assert!(!usual.is_exceeded_by(MS * 25), "{usual:?}");
        assert!(usual.is_exceeded_by(MS * 60), "{usual:?}");
        (0..1_000).for_each(|_| usual.record(MS * 200));
        assert!(!usual.is_exceeded_by(MS * 200), "the past fades");
    }

    #[test]
    fn what_is_dropped_at_once_is_never_late() {
        let usual = UsualLatency::default();
        (0..100).for_each(|_| usual.record(Duration::from_micros(50)));
        assert!(!usual.is_exceeded_by(MS * 9));
        assert!(usual.is_exceeded_by(MS * 11));
    }
}
