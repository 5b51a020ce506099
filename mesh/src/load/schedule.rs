//! The due time of each call, and the loop that keeps to it.

use std::{
    ops::ControlFlow,
    thread,
    time::{Duration, Instant},
};

/// Calls at a fixed rate for a fixed time. The n-th call is due n / rate
/// seconds after the start, whatever became of the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    rate: f64,
    calls: u64,
}

impl Schedule {
    /// `rate` calls per second, more than 0, for `duration`; at least one.
    pub(crate) fn new(rate: f64, duration: Duration) -> Self {
        // Both are bounded by the command line, so that the product fits.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let calls = (rate * duration.as_secs_f64()).round() as u64;
        Self { rate, calls: calls.max(1) }
    }

    /// The due time of call `n`, counted from 0, after the start.
    pub(crate) fn due(&self, n: u64) -> Duration {
        #[allow(clippy::cast_precision_loss)]
        let n = n as f64;
        Duration::from_secs_f64(n / self.rate)
    }

    /// Calls `send` with the number and due time of each call when it is due,
    /// late ones without delay, until all are sent or `send` breaks. Blocks: a
    /// thread's sleep is off by some 60 µs, a runtime's timer by a millisecond,
    /// which would count as latency.
    ///
    /// Sleeps at most 20 ms at a stretch between calls to `is_stopped`.
    pub(crate) fn run(
        &self,
        start: Instant,
        mut is_stopped: impl FnMut() -> bool,
        mut send: impl FnMut(u64, Duration) -> ControlFlow<()>,
    ) {
        const MAX_SLEEP: Duration = Duration::from_millis(20);
        for n in 0..self.calls {
            let due = self.due(n);
            loop {
                if is_stopped() {
                    return;
                }
                let early = due.saturating_sub(start.elapsed());
                if early.is_zero() {
                    break;
                }
                thread::sleep(early.min(MAX_SLEEP));
            }
            if send(n, due).is_break() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_and_a_time_make_a_number_of_calls_evenly_apart() {
        let schedule = Schedule::new(200.0, Duration::from_secs(30));
        assert_eq!(schedule.calls, 6000);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(200), Duration::from_secs(1));
        assert_eq!(Schedule::new(0.5, Duration::from_secs(1)).calls, 1, "at least one");
    }

    #[test]
    fn a_call_that_blocks_delays_no_due_time() {
        let schedule = Schedule::new(1000.0, Duration::from_millis(5));
        let mut dues = Vec::new();
        schedule.run(
            Instant::now(),
            || false,
            |n, due| {
                if n == 0 {
                    thread::sleep(Duration::from_millis(10));
                }
                dues.push(due);
                ControlFlow::Continue(())
            },
        );
        let expected: Vec<_> = (0..5).map(Duration::from_millis).collect();
        assert_eq!(dues, expected);
    }

    #[test]
    fn stopping_ends_it_before_the_last_call() {
        let schedule = Schedule::new(1.0, Duration::from_secs(3600));
        let started = Instant::now();
        let mut sent = 0;
        schedule.run(
            started,
            || started.elapsed() > Duration::from_millis(30),
            |_, _| {
                sent += 1;
                ControlFlow::Continue(())
            },
        );
        assert_eq!(sent, 1);
    }
}
