//! Calls that are not sent because the service has just been refusing them.
//!
//! Source: "Site Reliability Engineering" (Google), chapter 21, "Client-Side
//! Throttling". What differs, and why:
//!
//! - Only what an overloaded server of this library refused before it began it
//!   counts as refused. A service that is down or fails is tried like any other,
//!   so an outage costs nothing after its end.
//! - A call without a response yet counts as accepted, so that neither the
//!   first calls of a process nor slow ones are refused.
//! - Seconds are looked back on and not minutes, and where nothing was refused
//!   within them everything is sent: that is all that an overload costs after its
//!   end.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::{budget::Budget, window::Window};

/// When a channel refuses calls of its own accord.
///
/// It saves a service that is overloaded the cost of refusing. For up to
/// `window` after the overload, calls are still refused that would have
/// succeeded.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ThrottleConfig {
    /// How many calls are sent for each that is accepted, at least; 1.25 unless
    /// set, 1 or more. The smaller, the sooner calls are refused.
    pub k: f64,
    /// The time that is looked back on; 3 s unless set, above 0 and no more than
    /// 10 s.
    pub window: Duration,
}

impl Default for ThrottleConfig {
    fn default() -> Self {
        Self { k: 1.25, window: Duration::from_secs(3) }
    }
}

/// What is looked back on is counted in slots, which those of the budget's
/// calls are too.
pub(super) const SLOT: Duration = Duration::from_millis(250);
pub(super) const SLOTS: usize = 40;
/// All slots.
pub(super) const MAX_WINDOW: Duration = Duration::from_secs(10);

/// What one channel knows of how willing its service is. Lock-free, and an
/// atomic load for each call while nothing is refused.
#[derive(Debug)]
pub struct Throttle {
    k: f64,
    /// How many slots are looked back on.
    slots: u64,
    /// True if anything was refused of late.
    is_active: AtomicBool,
    /// What the service refused.
    refused: Window<SLOTS>,
    /// What was not sent.
    throttled: Window<SLOTS>,
}

impl Throttle {
    /// A throttle that has seen nothing, and so admits everything.
    #[must_use]
    pub fn new(config: ThrottleConfig) -> Self {
        let start = Instant::now();
        let slots = config.window.as_nanos().div_ceil(SLOT.as_nanos());
        Self {
            k: config.k,
            slots: u64::try_from(slots).unwrap_or(u64::MAX).clamp(1, SLOTS as u64),
            is_active: AtomicBool::new(false),
            refused: Window::new(start, SLOT),
            throttled: Window::new(start, SLOT),
        }
    }

    /// Returns whether a call may be sent; asked once of each. `budget` knows
    /// how many were. `random` draws evenly from 0 to 1. Refused with the
    /// probability `max(0, (requests − k × accepts) / (requests + 1))`, where
    /// those that were refused here count as requests too.
    #[must_use]
    #[inline]
    pub fn admit(&self, now: Instant, budget: &Budget, random: impl FnOnce() -> f64) -> bool {
        !self.is_active.load(Relaxed) || self.admit_some(now, budget, random())
    }

    #[cold]
    fn admit_some(&self, now: Instant, budget: &Budget, random: f64) -> bool {
        let refused = self.refused.sum_of(self.slots, now);
        if refused == 0 {
            self.is_active.store(false, Relaxed);
            return true;
        }
        let sent = budget.calls(self.slots, now);
        let requests = (sent + self.throttled.sum_of(self.slots, now)) as f64;
        let accepts = sent.saturating_sub(refused) as f64;
        let admitted = random >= (requests - self.k * accepts) / (requests + 1.0);
        if !admitted {
            self.throttled.add(now);
        }
        admitted
    }

    /// The service has refused a call for lack of room.
    #[cold]
    pub fn refused(&self, now: Instant) {
        self.refused.add(now);
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

    /// What became of the calls of some time.
    #[derive(Debug, Default)]
    struct Became {
        accepted: u32,
        refused: u32,
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
        fn call(&mut self, seconds: f64, capacity: f64) -> Became {
            let (mut became, mut room) = (Became::default(), 1.0);
            for _ in 0..(seconds * f64::from(PER_SECOND)) as u32 {
                self.calls += 1;
                room = f64::min(room + capacity / f64::from(PER_SECOND), 5.0);
                let now = self.start + Duration::from_secs(1) * self.calls / PER_SECOND;
                if !self.throttle.admit(now, &self.budget, || self.rng.f64()) {
                    became.throttled += 1;
                    continue;
                }
                self.budget.deposit(now);
                if room >= 1.0 {
                    room -= 1.0;
                    became.accepted += 1;
                } else {
                    self.throttle.refused(now);
                    became.refused += 1;
                }
            }
            became
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
        let became = caller.call(30.0, 33.0);
        assert!(became.accepted >= 940, "{became:?}");
        assert!(became.refused <= became.accepted / 3, "{became:?}");
    }

    #[test]
    fn a_service_that_refuses_everything_gets_next_to_nothing() {
        let mut caller = Caller::new(ThrottleConfig::default());
        let became = caller.call(60.0, 0.0);
        assert!(became.refused < 100, "{became:?}");
    }

    #[test]
    fn a_service_that_refuses_few_is_left_alone() {
        let mut caller = Caller::new(ThrottleConfig::default());
        caller.call(5.0, 85.0);
        let became = caller.call(30.0, 85.0);
        assert!(became.throttled < 30, "{became:?}");
    }

    #[test]
    fn within_a_window_of_the_last_refusal_everything_is_sent_again() {
        for (overload, seconds) in [(0.0, 60.0), (33.0, 10.0), (10.0, 600.0)] {
            let mut caller = Caller::new(ThrottleConfig::default());
            caller.call(seconds, overload);
            caller.call(3.25, 100.0);
            let became = caller.call(10.0, 100.0);
            assert_eq!(became.accepted, 1_000, "after {overload} a second: {became:?}");
        }
    }

    proptest! {
        /// However little is accepted, who draws high enough gets through: a
        /// cure is noticed.
        #[test]
        fn nobody_is_refused_for_certain(calls in 1u32..1_000) {
            let mut caller = Caller::new(ThrottleConfig::default());
            caller.call(f64::from(calls) / f64::from(PER_SECOND), 0.0);
            let now = caller.start + Duration::from_secs(1) * calls / PER_SECOND;
            prop_assert!(caller.throttle.admit(now, &caller.budget, || 0.999_9));
        }
    }
}
