//! Hedging: sending a call to a second instance before the first has responded.
//!
//! Source: gRFC A6, "Hedging Policy"; J. Dean and L. Barroso, "The Tail at
//! Scale", for the delay that is a percentile of what was observed.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::code::{Code, Codes};

/// The hedging policy of a method: further attempts begin while earlier ones
/// are in flight. The first response counts; the other attempts are cancelled.
/// Applies only to methods that are safe to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HedgingPolicy {
    /// The most attempts of a call, the first included; 2 unless set, and above
    /// 5 counts as 5.
    pub max_attempts: u32,
    /// The delay between attempts; the 95th percentile unless set.
    pub delay: HedgeDelay,
    /// Codes after which the next attempt begins at once; UNAVAILABLE unless
    /// set. Any other ends the call.
    pub non_fatal: Codes,
}

/// The delay of a hedge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeDelay {
    /// Always this long.
    Fixed(Duration),
    /// This percentile of the method's recent latencies; 1 to 99.
    Percentile(u8),
}

impl Default for HedgingPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 2,
            delay: HedgeDelay::Percentile(95),
            non_fatal: Codes::of(&[Code::UNAVAILABLE]),
        }
    }
}

/// Each power of two of microseconds is divided into 2^BITS buckets, so that a
/// bucket is at most an eighth wide.
const BITS: u32 = 3;
const PARTS: u64 = 1 << BITS;
/// The longest latency that is distinguished: 134 s.
const MAX_MICROS: u64 = (1 << 27) - 1;
const BUCKETS: usize = 200;
/// The least number of samples for a percentile.
const MIN_SAMPLES: u64 = 100;
/// The attempts between two computations of the percentile.
const REFRESH_INTERVAL: u32 = 32;
/// The attempts after which every count is halved, so that old latencies decay.
const DECAY_INTERVAL: u32 = 1_024;

/// The latencies of recent attempts at one method: a decaying histogram of
/// fixed size. Lock-free.
#[derive(Debug)]
pub(super) struct Latencies {
    percentile: u8,
    buckets: Box<[AtomicU32; BUCKETS]>,
    samples: AtomicU32,
    /// In microseconds; 0 is "not known yet".
    delay: AtomicU64,
}

impl Latencies {
    /// An empty histogram; `percentile` is clamped to 1 to 99.
    pub(super) fn new(percentile: u8) -> Self {
        Self {
            percentile: percentile.clamp(1, 99),
            buckets: Box::new([const { AtomicU32::new(0) }; BUCKETS]),
            samples: AtomicU32::new(0),
            delay: AtomicU64::new(0),
        }
    }

    /// Records the latency of an attempt, or its age when it was abandoned
    /// because another was faster: without those, slow attempts would be
    /// missing and the percentile would sink from hedge to hedge.
    pub(super) fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].fetch_add(1, Relaxed);
        let samples = self.samples.fetch_add(1, Relaxed).wrapping_add(1);
        if samples.is_multiple_of(REFRESH_INTERVAL) {
            self.refresh();
        }
        if samples.is_multiple_of(DECAY_INTERVAL) {
            self.decay();
        }
    }

    /// The percentile; `None` before there are enough samples.
    pub(super) fn delay(&self) -> Option<Duration> {
        let micros = self.delay.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    fn refresh(&self) {
        let counts = self.buckets.each_ref().map(|count| u64::from(count.load(Relaxed)));
        let total: u64 = counts.iter().sum();
        if total < MIN_SAMPLES {
            return;
        }
        let rank = (total * u64::from(self.percentile)).div_ceil(100);
        let mut below = 0;
        let reaches = |count: &u64| {
            below += count;
            below >= rank
        };
        if let Some(bucket) = counts.iter().position(reaches) {
            self.delay.store(end(bucket), Relaxed);
        }
    }

    fn decay(&self) {
        for count in &*self.buckets {
            // Subtracted, not stored, so that concurrent additions are kept.
            count.fetch_sub(count.load(Relaxed) / 2, Relaxed);
        }
    }
}

/// The bucket that holds a latency.
#[allow(clippy::cast_possible_truncation, reason = "below BUCKETS, as a test holds")]
fn bucket(micros: u64) -> usize {
    let micros = micros.min(MAX_MICROS);
    if micros < PARTS {
        return micros as usize;
    }
    let top = micros.ilog2();
    let part = (micros >> (top - BITS)) & (PARTS - 1);
    (u64::from(top - BITS + 1) * PARTS + part) as usize
}

/// The exclusive upper bound of the bucket, in microseconds.
fn end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PARTS {
        return bucket + 1;
    }
    let shift = bucket / PARTS - 1;
    (PARTS + bucket % PARTS + 1) << shift
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn before_enough_attempts_there_is_no_delay() {
        let latencies = Latencies::new(95);
        (0..96).for_each(|_| latencies.record(millis(10)));
        assert_eq!(latencies.delay(), None);
        (0..32).for_each(|_| latencies.record(millis(10)));
        assert!(latencies.delay().is_some());
    }

    #[test]
    fn the_delay_is_the_percentile_within_an_eighth() {
        for (percentile, expected) in [(50, 50), (95, 95), (99, 99)] {
            let latencies = Latencies::new(percentile);
            (0..800u64).for_each(|n| latencies.record(millis(n % 100 + 1)));
            let delay = latencies.delay().unwrap().as_secs_f64() * 1_000.0;
            let expected = f64::from(expected);
            assert!((expected..=expected * 1.13).contains(&delay), "p{percentile}: {delay} ms");
        }
    }

    #[test]
    fn the_past_fades() {
        let latencies = Latencies::new(50);
        (0..5_000).for_each(|_| latencies.record(millis(100)));
        (0..3_000).for_each(|_| latencies.record(millis(1)));
        assert!(latencies.delay().unwrap() < millis(2), "{:?}", latencies.delay());
    }

    #[test]
    fn threads_can_record_at_the_same_time() {
        let latencies = Latencies::new(95);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20_000).for_each(|_| latencies.record(millis(5))));
            }
        });
        let held: u32 = latencies.buckets.iter().map(|count| count.load(Relaxed)).sum();
        assert!(held <= 3 * DECAY_INTERVAL, "{held} are held");
        assert!(latencies.delay().unwrap() >= millis(5));
    }

    proptest! {
        #[test]
        fn every_latency_is_in_a_bucket_an_eighth_wide(micros in prop_oneof![0..1_000_000_000u64, Just(u64::MAX)]) {
            let at = bucket(micros);
            prop_assert!(at < BUCKETS);
            let micros = micros.min(MAX_MICROS);
            let end = end(at);
            prop_assert!(micros < end && end as f64 <= (micros + 1) as f64 * 1.125, "{micros} ends at {end}");
        }
    }
}
