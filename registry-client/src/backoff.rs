//! How long to wait before trying again.

use std::time::Duration;

/// Exponential delays with jitter, as gRPC's connection backoff has them:
/// 1 s, then × 1.6 each time up to 120 s, each ± 20 %.
///
/// Source: gRPC "Connection Backoff Protocol".
#[derive(Debug)]
pub(crate) struct ConnectBackoff {
    next: Duration,
}

const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(120);
const FACTOR: f64 = 1.6;
const JITTER: f64 = 0.2;

impl ConnectBackoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// How long after the start of a failed try the next one begins; each
    /// delay is longer than the one before. `eager`: there is reason to expect
    /// that the next will succeed, so that the delay stays about the first,
    /// and never below it.
    pub(crate) fn delay(&mut self, eager: bool) -> Duration {
        let base = self.next;
        self.next = base.mul_f64(FACTOR).min(MOST);
        if eager {
            return FIRST.mul_f64(1.0 + JITTER * fastrand::f64());
        }
        base.mul_f64(1.0 + JITTER * (fastrand::f64() * 2.0 - 1.0))
    }
}

/// Any delay from 0 to `base × 2^(turn − 1)`, at most `cap`; `turn` counts
/// from 1. Spreads callers that failed together.
///
/// Source: M. Brooker, "Exponential Backoff and Jitter" (full jitter).
pub(crate) fn full_jitter(base: Duration, turn: u32, cap: Duration) -> Duration {
    let most = base.saturating_mul(1u32.checked_shl(turn.saturating_sub(1)).unwrap_or(u32::MAX));
    most.min(cap).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_delays_grow_from_one_second_to_two_minutes() {
        let mut backoff = ConnectBackoff::new();
        let mut expected = 1.0;
        for _ in 0..40 {
            let delay = backoff.delay(false).as_secs_f64();
            assert!(
                (expected * 0.799..=expected * 1.201).contains(&delay),
                "{delay} is not {expected} ± 20 %"
            );
            expected = f64::min(expected * 1.6, 120.0);
        }
    }

    #[test]
    fn an_eager_connection_is_tried_once_a_second_at_most_and_never_much_less() {
        let mut backoff = ConnectBackoff::new();
        for _ in 0..40 {
            let delay = backoff.delay(true).as_secs_f64();
            assert!((1.0..=1.2).contains(&delay), "{delay}");
        }
        assert!(backoff.delay(false) > Duration::from_secs(90), "what failed long is tried seldom again");
    }

    #[test]
    fn full_jitter_stays_below_its_cap_for_any_turn() {
        for turn in [0, 1, 2, 31, 32, 33, u32::MAX] {
            let delay = full_jitter(Duration::from_millis(25), turn, Duration::from_secs(1));
            assert!(delay <= Duration::from_secs(1), "turn {turn}: {delay:?}");
        }
        assert!(
            full_jitter(Duration::from_millis(25), 1, Duration::from_secs(1)) <= Duration::from_millis(25)
        );
    }
}
