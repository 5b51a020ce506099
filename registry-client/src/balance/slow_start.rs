//! How an instance that has just joined gets its share of the load.

use std::time::Duration;

/// Weights are told in tenths while someone is warming up.
pub(crate) const WHOLE: u16 = 10;

/// How many tenths of its weight an instance has after so much of its warming
/// up: one at first, then more at even steps, all ten when `window` is over.
///
/// Source: Envoy's slow start mode, with aggression 1 and 10 % as the least.
pub(crate) fn tenths(elapsed: Duration, window: Duration) -> u16 {
    if elapsed >= window {
        return WHOLE;
    }
    let steps = u32::from(WHOLE) - 1;
    let done = (elapsed.as_secs_f64() / window.as_secs_f64() * f64::from(steps)) as u16;
    1 + done.min(WHOLE - 2)
}

/// After how much of its warming up the next step comes; `None` after the last.
pub(crate) fn next_step(elapsed: Duration, window: Duration) -> Option<Duration> {
    let done = u32::from(tenths(elapsed, window));
    // Rounded up, so that the step has been reached when its time has come.
    let step = window / u32::from(WHOLE - 1) + Duration::from_nanos(1);
    (elapsed < window).then(|| (step * done).min(window))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_from_a_tenth_to_the_whole_in_even_steps() {
        let window = Duration::from_secs(10);
        let (mut at, mut seen) = (Duration::ZERO, vec![(0, 1)]);
        while let Some(next) = next_step(at, window) {
            assert!(next > at);
            at = next;
            seen.push((at.as_millis(), tenths(at, window)));
        }
        let expected = [0, 1_111, 2_222, 3_333, 4_444, 5_555, 6_666, 7_777, 8_888, 10_000];
        assert_eq!(seen, expected.into_iter().zip(1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn without_a_window_the_share_is_whole_at_once() {
        assert_eq!(tenths(Duration::ZERO, Duration::ZERO), WHOLE);
        assert_eq!(next_step(Duration::ZERO, Duration::ZERO), None);
    }
}
