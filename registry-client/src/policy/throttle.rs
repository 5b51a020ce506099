//! Client-side throttling: calls that are not sent because the service has been
//! rejecting too many.
//!
//! Source: "Site Reliability Engineering" (Google), chapter 21, "Client-Side
//! Throttling". The differences, and their reasons:
//!
//! - Only calls that an overloaded server of this library rejected before they
//!   began count as rejected. A service that is down or fails is called like
//!   any other, so an outage costs nothing after its end.
//! - A call without a response yet counts as accepted, so that neither the
//!   first calls of a process nor slow ones are throttled.
//! - The window is seconds, not minutes, and without a rejection within it
//!   every call is sent, which bounds the cost of an overload after its end.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::{budget::Budget, window::Window};

/// The settings of client-side throttling.
///
/// Throttling saves an overloaded service the cost of rejecting. For up to
/// `window` after the overload, calls are throttled that would have succeeded.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ThrottleConfig {
    /// The calls that are sent for each accepted one, at least; 1.25 unless
    /// set, 1 or more. The smaller, the sooner calls are throttled.
    pub k: f64,
    /// The window of the counts; 3 s unless set, above 0 and no more than 10 s.
    pub window: Duration,
}

impl Default for ThrottleConfig {
    fn default() -> Self {
        Self { k: 1.25, window: Duration::from_secs(3) }
    }
}

/// The length of a slot, here and in the budget.
pub(super) const SLOT: Duration = Duration::from_millis(250);
pub(super) const SLOTS: usize = 40;
/// The length of all slots.
pub(super) const MAX_WINDOW: Duration = Duration::from_secs(10);

/// The throttle of one channel. Lock-free; costs an atomic load per call while
/// nothing is rejected.
#[derive(Debug)]
pub struct Throttle {
    k: f64,
    /// The number of slots in the window.
    slots: u64,
    /// True if a call was rejected within the window.
    is_active: AtomicBool,
    /// The calls that the service rejected.
    rejected: Window<SLOTS>,
    /// The calls that were not sent.
    throttled: Window<SLOTS>,
}

impl Throttle {
    /// A throttle without rejections, which admits every call.
    #[must_use]
    pub fn new(config: ThrottleConfig) -> Self {
        let start = Instant::now();
        let slots = config.window.as_nanos().div_ceil(SLOT.as_nanos());
        Self {
            k: config.k,
            slots: u64::try_from(slots).unwrap_or(u64::MAX).clamp(1, SLOTS as u64),
            is_active: AtomicBool::new(false),
            rejected: Window::new(start, SLOT),
            throttled: Window::new(start, SLOT),
        }
    }

    /// Returns whether a call may be sent; to be called once for each. `budget`
    /// has the number of calls, `random` draws evenly from 0 to 1. A call is
    /// throttled with the probability `max(0, (requests − k × accepts) /
    /// (requests + 1))`, where throttled calls count as requests too.
    #[must_use]
    #[inline]
    pub fn admit(&self, now: Instant, budget: &Budget, random: impl FnOnce() -> f64) -> bool {
        !self.is_active.load(Relaxed) || self.admit_some(now, budget, random())
    }

    #[cold]
    fn admit_some(&self, now: Instant, budget: &Budget, random: f64) -> bool {
        let rejected = self.rejected.sum_of(self.slots, now);
        if rejected == 0 {
            self.is_active.store(false, Relaxed);
            return true;
        }
        let sent = budget.calls(self.slots, now);
        let requests = (sent + self.throttled.sum_of(self.slots, now)) as f64;
        let accepts = sent.saturating_sub(rejected) as f64;
        let admitted = random >= (requests - self.k * accepts) / (requests + 1.0);
        if !admitted {
            self.throttled.add(now);
        }
        admitted
    }

    /// Records that the service rejected a call because it was overloaded.
    #[cold]
    pub fn record_rejection(&self, now: Instant) {
        self.rejected.add(now);
        self.is_active.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::budget::BudgetConfig;

    const PER_SECOND: u32 = 100;

    /// A channel whose calls come at an even rate, each answered `DELAY` later.
    struct Caller {
        throttle: Throttle,
        budget: Budget,
        start: Instant,
        calls: u32,
        rng: fastrand::Rng,
    }

    /// The results of calls.
    #[derive(Debug, Default)]
    struct CallCounts {
        accepted: u32,
        rejected: u32,
        throttled: u32,
    }

    impl Caller {
        fn new(config: ThrottleConfig) -> Self {
            Self {
                throttle: Throttle::new(config),
                budget: Budget::new(BudgetConfig::default()),
                start: Instant::now(),
                calls: 0,
                rng: fastrand::Rng::with_seed(7),
            }
        }

        /// Calls for so long, of which the service accepts so many a second.
        fn call(&mut self, seconds: f64, capacity: f64) -> CallCounts {
            let (mut counts, mut room) = (CallCounts::default(), 1.0);
            for _ in 0..(seconds * f64::from(PER_SECOND)) as u32 {
                self.calls += 1;
                room = f64::min(room + capacity / f64::from(PER_SECOND), 5.0);
                let now = self.start + Duration::from_secs(1) * self.calls / PER_SECOND;
                if !self.throttle.admit(now, &self.budget, || self.rng.f64()) {
                    counts.throttled += 1;
                    continue;
                }
                self.budget.deposit(now);
                if room >= 1.0 {
                    room -= 1.0;
                    counts.accepted += 1;
                } else {
                    self.throttle.record_rejection(now);
                    counts.rejected += 1;
                }
            }
            counts
        }
    }

    #[test]
    fn a_willing_service_gets_every_call() {
        let mut caller = Caller::new(ThrottleConfig::default());
        assert_eq!(caller.call(30.0, 100.0).accepted, 3_000);
    }

    #[test]
    fn an_overloaded_service_is_sent_little_more_than_it_accepts() {
        let mut caller = Caller::new(ThrottleConfig::default());
        caller.call(5.0, 33.0);
        let counts = caller.call(30.0, 33.0);
        assert!(counts.accepted >= 940, "{counts:?}");
        assert!(counts.rejected <= counts.accepted / 3, "{counts:?}");
    }

    #[test]
    fn a_service_that_refuses_everything_gets_next_to_nothing() {
        let mut caller = Caller::new(ThrottleConfig::default());
        let counts = caller.call(60.0, 0.0);
        assert!(counts.rejected < 100, "{counts:?}");
    }

    #[test]
    fn a_service_that_refuses_few_is_left_alone() {
        let mut caller = Caller::new(ThrottleConfig::default());
        caller.call(5.0, 85.0);
        let counts = caller.call(30.0, 85.0);
        assert!(counts.throttled < 30, "{counts:?}");
    }

    #[test]
    fn within_a_window_of_the_last_refusal_everything_is_sent_again() {
        for (overload, seconds) in [(0.0, 60.0), (33.0, 10.0), (10.0, 600.0)] {
            let mut caller = Caller::new(ThrottleConfig::default());
            caller.call(seconds, overload);
            caller.call(3.25, 100.0);
            let counts = caller.call(10.0, 100.0);
            assert_eq!(counts.accepted, 1_000, "after {overload} a second: {counts:?}");
        }
    }

    proptest! {
        /// A high enough draw is always admitted, so that a recovery is
        /// detected.
        #[test]
        fn no_call_is_throttled_for_certain(calls in 1u32..1_000) {
            let mut caller = Caller::new(ThrottleConfig::default());
            caller.call(f64::from(calls) / f64::from(PER_SECOND), 0.0);
            let now = caller.start + Duration::from_secs(1) * calls / PER_SECOND;
            prop_assert!(caller.throttle.admit(now, &caller.budget, || 0.999_9));
        }
    }
}
