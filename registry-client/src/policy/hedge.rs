//! Sending a call to a second instance before the first has answered.
//!
//! Source: gRFC A6, "Hedging Policy"; J. Dean and L. Barroso, "The Tail at
//! Scale", for the delay that is a percentile of what was observed.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::code::{Code, Codes};

/// When further attempts of a call are begun while earlier ones are under way.
/// The first response counts; the others are cancelled. Only ever in force for
/// a method that may be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HedgingPolicy {
    /// The most attempts of a call, the first included; 2 unless set, and above
    /// 5 counts as 5.
    pub max_attempts: u32,
    /// How long after the last attempt the next begins; the 95th percentile
    /// unless set.
    pub delay: HedgeDelay,
    /// Codes after which the next attempt begins at once; UNAVAILABLE unless
    /// set. Any other ends the call.
    pub non_fatal: Codes,
}

/// How long a hedge waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeDelay {
    /// Always this long.
    Fixed(Duration),
    /// As long as that many of 100 recent attempts at the method took; 1 to 99.
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

/// Each power of two of microseconds is cut in as many parts (2^BITS), so that
/// a bucket is at most an eighth wide.
const BITS: u32 = 3;
const PARTS: u64 = 1 << BITS;
/// What takes longer counts as this long: 134 s.
const LONGEST: u64 = (1 << 27) - 1;
const BUCKETS: usize = 200;
/// Fewer attempts than this say nothing about a percentile.
const ENOUGH: u64 = 100;
/// After how many attempts the percentile is looked up again.
const REFRESH: u32 = 32;
/// After how many attempts every count is halved, so that the past fades.
const FADE: u32 = 1_024;

/// How long recent attempts at one method took: a histogram of fixed size that
/// forgets. Lock-free.
#[derive(Debug)]
pub(super) struct Latencies {
    percentile: u8,
    buckets: Box<[AtomicU32; BUCKETS]>,
    seen: AtomicU32,
    /// In microseconds; 0 is "not known yet".
    delay: AtomicU64,
}

impl Latencies {
    /// Nothing seen yet; `percentile` counts as 1 to 99.
    pub(super) fn new(percentile: u8) -> Self {
        Self {
            percentile: percentile.clamp(1, 99),
            buckets: Box::new([const { AtomicU32::new(0) }; BUCKETS]),
            seen: AtomicU32::new(0),
            delay: AtomicU64::new(0),
        }
    }

    /// An attempt took this long, or was given up after this long. Of those
    /// given up because another was faster too, or the slow ones would never
    /// be seen and the percentile sink from hedge to hedge.
    pub(super) fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].fetch_add(1, Relaxed);
        let seen = self.seen.fetch_add(1, Relaxed).wrapping_add(1);
        if seen.is_multiple_of(REFRESH) {
            self.refresh();
        }
        if seen.is_multiple_of(FADE) {
            self.fade();
        }
    }

    /// The percentile; `None` before enough attempts were seen.
    pub(super) fn delay(&self) -> Option<Duration> {
        let micros = self.delay.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    fn refresh(&self) {
        let counts = self.buckets.each_ref().map(|count| u64::from(count.load(Relaxed)));
        let total: u64 = counts.iter().sum();
        if total < ENOUGH {
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

    fn fade(&self) {
        for count in &*self.buckets {
            // Taken off, not stored: what others add meanwhile stays.
            count.fetch_sub(count.load(Relaxed) / 2, Relaxed);
        }
    }
}

/// The bucket that holds a latency.
#[allow(clippy::cast_possible_truncation, reason = "below BUCKETS, as a test holds")]
fn bucket(micros: u64) -> usize {
    let micros = micros.min(LONGEST);
    if micros < PARTS {
        return micros as usize;
    }
    let top = micros.ilog2();
    let part = (micros >> (top - BITS)) & (PARTS - 1);
    (u64::from(top - BITS + 1) * PARTS + part) as usize
}

/// What every latency of the bucket is below, in microseconds.
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
        assert!(held <= 3 * FADE, "{held} are held");
        assert!(latencies.delay().unwrap() >= millis(5));
    }

    proptest! {
        #[test]
        fn every_latency_is_in_a_bucket_an_eighth_wide(micros in prop_oneof![0..1_000_000_000u64, Just(u64::MAX)]) {
            let at = bucket(micros);
            prop_assert!(at < BUCKETS);
            let micros = micros.min(LONGEST);
            let end = end(at);
            prop_assert!(micros < end && end as f64 <= (micros + 1) as f64 * 1.125, "{micros} ends at {end}");
        }
    }
}
