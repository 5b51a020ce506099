//! How many attempts may be sent beyond the first of each call.
//!
//! When everything fails, every call would be sent three times, and a service
//! that is down for lack of capacity would get three times the load. One
//! budget per channel, which retries and hedges share, keeps that from
//! happening.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::window::Window;

/// What bounds a channel's retries and hedges together.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum BudgetConfig {
    /// Over any 10 s no more than the larger of two figures. The default, with
    /// 0.2 and 10.
    ///
    /// Source: linkerd's retry budget, which adds the two up; the larger keeps
    /// attempts at 1.2 times the calls.
    Share {
        /// Retries and hedges for each call; 0.2 unless set, 0 or more.
        ratio: f64,
        /// How many a second are allowed however few calls there are; 10 unless
        /// set.
        min_per_second: u32,
    },
    /// As many as there are tokens for: a failed attempt costs one, a
    /// successful call gives `token_ratio` back, and while no more than half
    /// are left nothing is sent again.
    ///
    /// Source: gRFC A6, "Throttling Retry Attempts and Hedged RPCs".
    Tokens {
        /// The most tokens there can be, which is also how many there are at
        /// first; above 0, at most 1,000.
        max_tokens: u32,
        /// What a success gives back; above 0, to three decimal places.
        token_ratio: f64,
    },
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self::Share { ratio: 0.2, min_per_second: 10 }
    }
}

/// The budget of one channel, shared by its retries and hedges. Lock-free.
#[derive(Debug)]
pub struct Budget(Kind);

#[derive(Debug)]
enum Kind {
    Share(Box<Share>),
    Tokens(Tokens),
}

impl Budget {
    /// A budget of which nothing is spent.
    #[must_use]
    pub fn new(config: BudgetConfig) -> Self {
        Self(match config {
            BudgetConfig::Share { ratio, min_per_second } => {
                Kind::Share(Box::new(Share::new(ratio, min_per_second, Instant::now())))
            }
            BudgetConfig::Tokens { max_tokens, token_ratio } => {
                Kind::Tokens(Tokens::new(max_tokens, token_ratio))
            }
        })
    }

    /// A call begins. Told once of each; an atomic add.
    pub fn deposit(&self, now: Instant) {
        if let Kind::Share(share) = &self.0 {
            share.calls.add(now);
        }
    }

    /// Whether one more attempt may be sent; it is spent then.
    #[must_use]
    pub fn withdraw(&self, now: Instant) -> bool {
        match &self.0 {
            Kind::Share(share) => share.withdraw(now),
            Kind::Tokens(tokens) => tokens.enough(),
        }
    }

    /// An attempt failed in a way that could be tried again, or the server
    /// asked not to. Told before [`withdraw`](Self::withdraw).
    pub fn failed(&self) {
        if let Kind::Tokens(tokens) = &self.0 {
            tokens.failed();
        }
    }

    /// Whether [`succeeded`](Self::succeeded) changes anything.
    pub(crate) fn counts_successes(&self) -> bool {
        matches!(self.0, Kind::Tokens(_))
    }

    /// A call succeeded. An atomic load while nothing fails.
    pub fn succeeded(&self) {
        if let Kind::Tokens(tokens) = &self.0 {
            tokens.succeeded();
        }
    }
}

/// The time that a share is taken of.
const WINDOW: Duration = Duration::from_secs(10);
const SLOTS: usize = 40;

#[derive(Debug)]
struct Share {
    ratio: f64,
    /// What is allowed in the window however few calls there are.
    least: u64,
    calls: Window<SLOTS>,
    /// One slot more than `calls`: the present slot is not over, so fewer
    /// would reach back less than the whole time, and the bound not hold.
    spent: Window<{ SLOTS + 1 }>,
}

impl Share {
    #[allow(clippy::cast_possible_truncation, reason = "SLOTS is 40")]
    fn new(ratio: f64, min_per_second: u32, start: Instant) -> Self {
        let slot = WINDOW / SLOTS as u32;
        Self {
            ratio,
            least: u64::from(min_per_second) * WINDOW.as_secs(),
            calls: Window::new(start, slot),
            spent: Window::new(start, slot),
        }
    }

    /// Spends first and looks then, so that threads at the same time cannot
    /// both take the last one.
    fn withdraw(&self, now: Instant) -> bool {
        self.spent.add(now);
        let spent = self.spent.sum(now);
        let enough = spent <= self.least || spent as f64 <= self.calls.sum(now) as f64 * self.ratio;
        if !enough {
            self.spent.take_back(now);
        }
        enough
    }
}

/// Counted in thousandths, as gRPC's own clients do.
#[derive(Debug)]
struct Tokens {
    most: u32,
    back: u32,
    left: AtomicU32,
}

const TOKEN: u32 = 1_000;

impl Tokens {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "such a cast saturates")]
    fn new(max_tokens: u32, token_ratio: f64) -> Self {
        let most = max_tokens.saturating_mul(TOKEN);
        let back = (token_ratio * f64::from(TOKEN)) as u32;
        Self { most, back, left: AtomicU32::new(most) }
    }

    fn enough(&self) -> bool {
        self.left.load(Relaxed) > self.most / 2
    }

    fn failed(&self) {
        let _ = self.left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(TOKEN)));
    }

    fn succeeded(&self) {
        let more = |left: u32| (left < self.most).then(|| left.saturating_add(self.back).min(self.most));
        let _ = self.left.fetch_update(Relaxed, Relaxed, more);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(start: Instant) -> Budget {
        Budget(Kind::Share(Box::new(Share::new(0.2, 10, start))))
    }

    fn withdrawn(budget: &Budget, now: Instant) -> u32 {
        (0..10_000).take_while(|_| budget.withdraw(now)).map(|_| 1).sum()
    }

    #[test]
    fn few_calls_may_be_repeated_ten_times_a_second() {
        let start = Instant::now();
        let budget = share(start);
        assert_eq!(withdrawn(&budget, start), 100);
        assert_eq!(withdrawn(&budget, start + Duration::from_secs(10)), 0, "all of them in the last 10 s");
        assert_eq!(withdrawn(&budget, start + Duration::from_secs(11)), 100);
    }

    #[test]
    fn many_calls_may_be_repeated_by_a_fifth() {
        let start = Instant::now();
        let budget = share(start);
        for _ in 0..2_000 {
            budget.deposit(start);
        }
        assert_eq!(withdrawn(&budget, start + Duration::from_secs(1)), 400);
    }

    #[test]
    fn what_was_called_long_ago_gives_nothing() {
        let start = Instant::now();
        let budget = share(start);
        for _ in 0..10_000 {
            budget.deposit(start);
        }
        assert_eq!(withdrawn(&budget, start + Duration::from_secs(10)), 100);
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let start = Instant::now();
        let budget = share(start);
        withdrawn(&budget, start);
        for _ in 0..1_000 {
            assert!(!budget.withdraw(start + Duration::from_secs(5)));
        }
        assert_eq!(withdrawn(&budget, start + Duration::from_secs(11)), 100);
    }

    #[test]
    fn threads_together_get_no_more_than_one_would() {
        let start = Instant::now();
        let budget = share(start);
        let got = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..1_000).filter(|_| budget.withdraw(start)).for_each(|_| {
                        got.fetch_add(1, Relaxed);
                    });
                });
            }
        });
        // Fewer only where two of them met over the last one.
        assert!((90..=100).contains(&got.load(Relaxed)), "{got:?}");
    }

    #[test]
    fn in_an_outage_at_two_hundred_a_second_attempts_stay_below_1_2_times_the_calls() {
        let start = Instant::now();
        let budget = share(start);
        let retries = (0..12_000u32)
            .map(|call| {
                let now = start + Duration::from_millis(5) * call;
                budget.deposit(now);
                (0..2).filter(|_| budget.withdraw(now)).count()
            })
            .sum::<usize>();
        let per_call = retries as f64 / 12_000.0;
        // Of the floor of 100 that is there before the first call, a little remains.
        assert!((0.18..=0.2).contains(&per_call), "{per_call}");
    }

    #[test]
    fn tokens_stop_at_half_and_come_back_with_successes() {
        let budget = Budget::new(BudgetConfig::Tokens { max_tokens: 10, token_ratio: 0.1 });
        let now = Instant::now();
        for failures in 1..=4 {
            budget.failed();
            assert!(budget.withdraw(now), "after {failures} failures");
        }
        budget.failed();
        assert!(!budget.withdraw(now));
        budget.succeeded();
        assert!(budget.withdraw(now));
        (0..1_000).for_each(|_| budget.succeeded());
        (0..4).for_each(|_| budget.failed());
        assert!(budget.withdraw(now), "there were never more than ten");
        budget.failed();
        assert!(!budget.withdraw(now));
        (0..1_000).for_each(|_| budget.failed());
        (0..50).for_each(|_| budget.succeeded());
        assert!(!budget.withdraw(now), "half is not more than half");
        budget.succeeded();
        assert!(budget.withdraw(now));
    }

    proptest! {
        /// However calls and retries come, the ten seconds before any retry
        /// hold the bound.
        #[test]
        fn no_ten_seconds_exceed_the_share(steps in prop::collection::vec((0u64..800, 0u32..60, 0u32..40), 1..120)) {
            let start = Instant::now();
            let budget = share(start);
            let mut now = start;
            let (mut calls, mut spent) = (Vec::new(), Vec::new());
            for (pause, begun, wanted) in steps {
                now += Duration::from_millis(pause);
                for _ in 0..begun {
                    budget.deposit(now);
                    calls.push(now);
                }
                let granted = (0..wanted).filter(|_| budget.withdraw(now)).count();
                if granted == 0 {
                    continue;
                }
                spent.extend(vec![now; granted]);
                let lately = |all: &[Instant]| all.iter().filter(|at| now - **at < WINDOW).count() as f64;
                let bound = f64::max(lately(&calls) * 0.2, 100.0);
                prop_assert!(lately(&spent) <= bound, "{} > {bound}", lately(&spent));
            }
        }
    }
}
