//! Calls that are not sent because the service has just been refusing them.
//!
//! Source: "Site Reliability Engineering" (Google), chapter 21, "Client-Side
//! Throttling".

use std::time::Duration;

use tokio::time::Instant;

use super::window::Window;
use crate::code::Code;

/// When a channel refuses calls of its own accord.
///
/// Off unless configured. It saves a service that is overloaded the cost of
/// refusing, and pays for it after an outage: for up to `window` after the
/// cure, calls are still refused that would have succeeded. A server that
/// sheds load cheaply, as this library's does, and a retry budget do most of
/// the same without that price.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ThrottleConfig {
    /// How many calls are sent for each that is accepted, at least; 2 unless
    /// set, 1 or more. The smaller, the sooner calls are refused.
    pub k: f64,
    /// The time that is looked back on; 2 min unless set, above 0.
    pub window: Duration,
}

impl Default for ThrottleConfig {
    fn default() -> Self {
        Self { k: 2.0, window: Duration::from_secs(120) }
    }
}

const SLOTS: u32 = 12;

/// What one channel knows of how willing its service is. Lock-free.
#[derive(Debug)]
pub struct Throttle {
    k: f64,
    requests: Window<{ SLOTS as usize }>,
    accepts: Window<{ SLOTS as usize }>,
}

impl Throttle {
    /// A throttle that has seen nothing, and so admits everything.
    #[must_use]
    pub fn new(config: ThrottleConfig) -> Self {
        let (start, slot) = (Instant::now(), config.window / SLOTS);
        Self { k: config.k, requests: Window::new(start, slot), accepts: Window::new(start, slot) }
    }

    /// Whether a call may be sent; asked once of each. `random` is drawn evenly
    /// from 0 to 1. Refused with the probability
    /// `max(0, (requests − k × accepts) / (requests + 1))`, where those that
    /// were refused here count as requests too.
    #[must_use]
    pub fn admit(&self, now: Instant, random: f64) -> bool {
        let requests = self.requests.sum(now) as f64;
        let accepts = self.accepts.sum(now) as f64;
        self.requests.add(now);
        random >= (requests - self.k * accepts) / (requests + 1.0)
    }

    /// How an admitted call ended; told of each, also of one that its caller
    /// gave up (as [`Code::CANCELLED`]), for what is not told counts as
    /// refused. Only `RESOURCE_EXHAUSTED` and UNAVAILABLE are refusals.
    pub fn observe(&self, now: Instant, code: Code) {
        if !matches!(code, Code::RESOURCE_EXHAUSTED | Code::UNAVAILABLE) {
            self.accepts.add(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    /// The share of 100 calls a second that is admitted in a minute in which
    /// the service answers each with `code`.
    fn admitted(throttle: &Throttle, from: Instant, code: Code) -> f64 {
        let mut rng = fastrand::Rng::with_seed(7);
        let one = |call: &u32| {
            let now = from + STEP * *call;
            let admitted = throttle.admit(now, rng.f64());
            if admitted {
                throttle.observe(now, code);
            }
            admitted
        };
        (0..6_000).filter(one).count() as f64 / 6_000.0
    }

    #[test]
    fn a_willing_service_gets_every_call() {
        let throttle = Throttle::new(ThrottleConfig::default());
        let start = Instant::now();
        assert_eq!(admitted(&throttle, start, Code::OK), 1.0);
        let next = start + STEP * 6_000;
        assert_eq!(admitted(&throttle, next, Code::UNKNOWN), 1.0);
    }

    #[test]
    fn a_service_that_refuses_everything_gets_next_to_nothing() {
        let throttle = Throttle::new(ThrottleConfig::default());
        let share = admitted(&throttle, Instant::now(), Code::RESOURCE_EXHAUSTED);
        assert!(share < 0.01, "{share}");
    }

    #[test]
    fn a_service_that_accepts_half_is_left_alone() {
        let throttle = Throttle::new(ThrottleConfig::default());
        let start = Instant::now();
        let refused = (0..6_000u32).filter(|call| {
            let now = start + STEP * *call;
            let admitted = throttle.admit(now, 0.01);
            throttle.observe(now, if call % 2 == 0 { Code::OK } else { Code::UNAVAILABLE });
            !admitted
        });
        assert_eq!(refused.count(), 0);
    }

    #[test]
    fn two_minutes_after_the_cure_everything_is_forgotten() {
        let throttle = Throttle::new(ThrottleConfig::default());
        let start = Instant::now();
        admitted(&throttle, start, Code::UNAVAILABLE);
        assert!(!throttle.admit(start + Duration::from_secs(100), 0.5));
        assert!(throttle.admit(start + Duration::from_secs(230), 0.0));
    }

    proptest! {
        /// However little is accepted, who draws high enough gets through: a
        /// cure is noticed.
        #[test]
        fn nobody_is_refused_for_certain(calls in 1u32..5_000) {
            let throttle = Throttle::new(ThrottleConfig::default());
            let start = Instant::now();
            for call in 0..calls {
                let _ = throttle.admit(start + STEP * call, 0.0);
            }
            prop_assert!(throttle.admit(start + STEP * calls, 0.999_9));
        }
    }
}
