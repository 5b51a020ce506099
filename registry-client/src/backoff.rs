//! The delays between attempts at the same thing.

use std::time::Duration;

/// A ceiling that grows with each failure, and the jitter below or around it.
///
/// Everything in this crate that tries again backs off by this type; only the
/// numbers differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    initial: Duration,
    multiplier: f64,
    max: Duration,
    jitter: Jitter,
    /// The ceiling of the next delay.
    ceiling: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Jitter {
    None,
    /// Up to this share of the ceiling more or less.
    Around(f64),
    /// Any delay from 0 to the ceiling.
    Full,
}

const CONNECT_INITIAL: Duration = Duration::from_secs(1);
const CONNECT_MAX: Duration = Duration::from_secs(120);
const CONNECT_MULTIPLIER: f64 = 1.6;
const CONNECT_JITTER: f64 = 0.2;

impl Backoff {
    /// gRPC's connection backoff: 1 s, then × 1.6 each time up to 120 s, each
    /// ± 20 %.
    ///
    /// Source: gRPC "Connection Backoff Protocol".
    pub(crate) fn connect() -> Self {
        let jitter = Jitter::Around(CONNECT_JITTER);
        Self::new(CONNECT_INITIAL, CONNECT_MULTIPLIER, CONNECT_MAX, jitter)
    }

    /// Any delay from 0 to a ceiling that doubles from `initial` to `max`, which
    /// spreads callers that failed together.
    ///
    /// Source: M. Brooker, "Exponential Backoff and Jitter" (full jitter).
    pub(crate) fn full_jitter(initial: Duration, max: Duration) -> Self {
        Self::new(initial, 2.0, max, Jitter::Full)
    }

    /// Delays that double from `initial` to `max`, without jitter: for a process
    /// that waits for itself.
    pub(crate) fn exact(initial: Duration, max: Duration) -> Self {
        Self::new(initial, 2.0, max, Jitter::None)
    }

    fn new(initial: Duration, multiplier: f64, max: Duration, jitter: Jitter) -> Self {
        Self { initial, multiplier, max, jitter, ceiling: initial }
    }

    /// The delay after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        self.next_at_most(self.max)
    }

    /// The delay after one more failure, with a ceiling of at most `max`.
    pub(crate) fn next_at_most(&mut self, max: Duration) -> Duration {
        let ceiling = self.ceiling.min(max);
        self.ceiling = self.ceiling.mul_f64(self.multiplier).min(self.max);
        match self.jitter {
            Jitter::None => ceiling,
            Jitter::Around(share) => ceiling.mul_f64(1.0 + share * (fastrand::f64() * 2.0 - 1.0)),
            Jitter::Full => ceiling.mul_f64(fastrand::f64()),
        }
    }

    /// The delay after one more failure where the next attempt is expected to
    /// succeed: about the initial one, and never below it.
    pub(crate) fn next_expecting_success(&mut self) -> Duration {
        self.next();
        match self.jitter {
            Jitter::Around(share) => self.initial.mul_f64(1.0 + share * fastrand::f64()),
            Jitter::None | Jitter::Full => self.initial,
        }
    }

    /// Returns whether no delay was given since the last reset.
    pub(crate) fn is_reset(&self) -> bool {
        self.ceiling == self.initial
    }

    /// Begins with the initial delay again: the last attempt succeeded.
    pub(crate) fn reset(&mut self) {
        self.ceiling = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_delays_grow_from_one_second_to_two_minutes() {
        let mut backoff = Backoff::connect();
        let mut expected = 1.0;
        for _ in 0..40 {
            let delay = backoff.next().as_secs_f64();
            assert!(
                (expected * 0.799..=expected * 1.201).contains(&delay),
                "{delay} is not {expected} ± 20 %"
            );
            expected = f64::min(expected * 1.6, 120.0);
        }
    }

    #[test]
    fn a_connection_that_is_expected_to_succeed_is_tried_about_once_a_second() {
        let mut backoff = Backoff::connect();
        for _ in 0..40 {
            let delay = backoff.next_expecting_success().as_secs_f64();
            assert!((1.0..=1.2).contains(&delay), "{delay}");
        }
        assert!(
            backoff.next() > Duration::from_secs(90),
            "an instance that failed for long is tried seldom again"
        );
    }

    #[test]
    fn full_jitter_doubles_to_its_limit_and_begins_again() {
        let mut backoff = Backoff::full_jitter(Duration::from_millis(500), Duration::from_secs(30));
        for ceiling in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            assert!(backoff.next() <= Duration::from_millis(ceiling));
        }
        assert!(backoff.next_at_most(Duration::from_secs(5)) <= Duration::from_secs(5));
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(500));
    }
}
