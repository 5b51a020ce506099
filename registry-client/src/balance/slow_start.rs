//! Slow start: the growing weight of an instance that has just joined.

use std::time::Duration;

/// The full weight, in tenths.
pub(crate) const FULL_TENTHS: u16 = 10;

/// The weight of an instance after `elapsed` of its slow start, in tenths: one
/// at first, then more at even steps, ten when `window` is over.
///
/// Source: Envoy's slow start mode, with aggression 1 and 10 % as the least.
pub(crate) fn tenths(elapsed: Duration, window: Duration) -> u16 {
    if elapsed >= window {
        return FULL_TENTHS;
    }
    let steps = u32::from(FULL_TENTHS) - 1;
    let done = (elapsed.as_secs_f64() / window.as_secs_f64() * f64::from(steps)) as u16;
    1 + done.min(FULL_TENTHS - 2)
}

/// The time in the slow start at which the next step comes; `None` after the
/// last.
pub(crate) fn next_step(elapsed: Duration, window: Duration) -> Option<Duration> {
    let done = u32::from(tenths(elapsed, window));
    // Rounded up, so that the step is reached at its time.
    let step = window / u32::from(FULL_TENTHS - 1) + Duration::from_nanos(1);
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
        assert_eq!(tenths(Duration::ZERO, Duration::ZERO), FULL_TENTHS);
        assert_eq!(next_step(Duration::ZERO, Duration::ZERO), None);
    }
}
