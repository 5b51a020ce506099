//! The retry budget: the bound on attempts beyond the first of each call.
//!
//! Without it, every call would be sent three times while everything fails, and
//! a service that is down for lack of capacity would get three times the load.
//! Each channel has one budget, which retries and hedges share.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    throttle::{SLOT, SLOTS},
    window::Window,
};

/// The settings of a retry budget.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum BudgetConfig {
    /// Over 10 s no more than the larger of two numbers: a quarter of it at
    /// once, for example when an instance dies with its calls, and the rest
    /// evenly. The default, with 0.2 and 2.
    ///
    /// Source: linkerd's retry budget, which adds the two and may be spent at
    /// once; the larger one keeps attempts at 1.2 times the calls. Each channel
    /// of each process has a budget of its own, so the minimum counts once per
    /// process: at 2 a second it exceeds the share only of processes that make
    /// fewer than 10 calls a second.
    Share {
        /// Retries and hedges per call; 0.2 unless set, 0 or more.
        ratio: f64,
        /// Retries and hedges per second that are always allowed; 2 unless set.
        min_per_second: u32,
    },
    /// A token bucket: a failed attempt costs one token, a successful call
    /// returns `token_ratio`, and while no more than half are left there are no
    /// retries.
    ///
    /// Source: gRFC A6, "Throttling Retry Attempts and Hedged RPCs".
    Tokens {
        /// The most tokens, which is also their initial number; above 0, at
        /// most 1,000.
        max_tokens: u32,
        /// The tokens that a success returns; above 0, to three decimal places.
        token_ratio: f64,
    },
}

pub(super) const RATIO: f64 = 0.2;
pub(super) const MIN_PER_SECOND: u32 = 2;

impl Default for BudgetConfig {
    fn default() -> Self {
        Self::Share { ratio: RATIO, min_per_second: MIN_PER_SECOND }
    }
}

/// The budget of one channel, shared by its retries and hedges. Lock-free.
#[derive(Debug)]
pub struct Budget {
    /// The calls of the channel, for its throttle too.
    calls: Window<SLOTS>,
    kind: BudgetKind,
}

#[derive(Debug)]
enum BudgetKind {
    Share(Share),
    Tokens(Tokens),
}

impl Budget {
    /// A full budget.
    #[must_use]
    pub fn new(config: BudgetConfig) -> Self {
        Self::at(Instant::now(), config)
    }

    fn at(start: Instant, config: BudgetConfig) -> Self {
        let kind = match config {
            BudgetConfig::Share { ratio, min_per_second } => {
                BudgetKind::Share(Share::new(ratio, min_per_second, start))
            }
            BudgetConfig::Tokens { max_tokens, token_ratio } => {
                BudgetKind::Tokens(Tokens::new(max_tokens, token_ratio))
            }
        };
        Self { calls: Window::new(start, SLOT), kind }
    }

    /// Counts a call. To be called once for each; an atomic add.
    pub fn deposit(&self, now: Instant) {
        self.calls.add(now);
    }

    /// The number of calls in the last `slots` slots of time.
    pub(super) fn calls(&self, slots: u64, now: Instant) -> u64 {
        self.calls.sum_of(slots, now)
    }

    /// Returns whether another attempt may be sent, and withdraws it.
    #[must_use]
    pub fn withdraw(&self, now: Instant) -> bool {
        match &self.kind {
            BudgetKind::Share(share) => share.withdraw(now, self.calls.sum(now)),
            BudgetKind::Tokens(tokens) => tokens.has_enough(),
        }
    }

    /// Records that an attempt failed in a retryable way, or that the server
    /// forbade a retry. To be called before [`withdraw`](Self::withdraw).
    pub fn record_failure(&self) {
        if let BudgetKind::Tokens(tokens) = &self.kind {
            tokens.record_failure();
        }
    }

    /// Returns whether [`record_success`](Self::record_success) changes anything.
    pub(crate) fn counts_successes(&self) -> bool {
        matches!(self.kind, BudgetKind::Tokens(_))
    }

    /// Records that a call succeeded. An atomic load while nothing fails.
    pub fn record_success(&self) {
        if let BudgetKind::Tokens(tokens) = &self.kind {
            tokens.record_success();
        }
    }
}

/// The time over which a share is taken: all slots.
const WINDOW: Duration = Duration::from_secs(10);
/// The part of a window's share that may be spent at once: with the minimum, as
/// many as an instance may fail in a row before it is ejected.
const BURST_SHARE: f32 = 0.25;
/// A leaky bucket: retries fill it, and it drains evenly by what may not be
/// spent at once in a window. Its size is proportional to the number of calls.
#[derive(Debug)]
struct Share {
    ratio: f64,
    /// The retries per window that are always allowed.
    min: f64,
    start: Instant,
    /// The level of the bucket, an `f32`, in the lower half; its time, in
    /// milliseconds after `start`, which may wrap around, in the upper half.
    spent: AtomicU64,
}

impl Share {
    fn new(ratio: f64, min_per_second: u32, start: Instant) -> Self {
        let min = f64::from(min_per_second) * WINDOW.as_secs_f64();
        Self { ratio, min, start, spent: AtomicU64::new(0) }
    }

    /// Withdraws a retry, given the number of `calls` in the window.
    #[allow(clippy::cast_possible_truncation, reason = "the halves of a number, and what wraps around")]
    fn withdraw(&self, now: Instant, calls: u64) -> bool {
        let share = self.min.max(calls as f64 * self.ratio) as f32;
        if share < 1.0 {
            return false;
        }
        let now = now.saturating_duration_since(self.start).as_millis() as u32;
        let spend = |held: u64| {
            let (since, spent) = ((held >> 32) as u32, f32::from_bits(held as u32));
            // When another thread was faster, no time has passed.
            let passed = now.wrapping_sub(since).cast_signed().max(0);
            let run_out = share * (1.0 - BURST_SHARE) * passed as f32 / WINDOW.as_millis() as f32;
            let spent = (spent - run_out).max(0.0) + 1.0;
            // A small share allows at least one at once.
            let since = since.wrapping_add(passed.cast_unsigned());
            (spent <= (share * BURST_SHARE).max(1.0))
                .then(|| u64::from(since) << 32 | u64::from(spent.to_bits()))
        };
        self.spent.fetch_update(Relaxed, Relaxed, spend).is_ok()
    }
}

/// A token bucket in thousandths of a token, as in gRPC's own clients.
#[derive(Debug)]
struct Tokens {
    max: u32,
    refund: u32,
    tokens: AtomicU32,
}

const TOKEN: u32 = 1_000;

impl Tokens {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "such a cast saturates")]
    fn new(max_tokens: u32, token_ratio: f64) -> Self {
        let max = max_tokens.saturating_mul(TOKEN);
        let refund = (token_ratio * f64::from(TOKEN)) as u32;
        Self { max, refund, tokens: AtomicU32::new(max) }
    }

    fn has_enough(&self) -> bool {
        self.tokens.load(Relaxed) > self.max / 2
    }

    fn record_failure(&self) {
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, |tokens| Some(tokens.saturating_sub(TOKEN)));
    }

    fn record_success(&self) {
        let more =
            |tokens: u32| (tokens < self.max).then(|| tokens.saturating_add(self.refund).min(self.max));
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, more);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(start: Instant) -> Budget {
        Budget::at(start, BudgetConfig::default())
    }

    fn withdrawn(budget: &Budget, now: Instant) -> u32 {
        (0..10_000).take_while(|_| budget.withdraw(now)).map(|_| 1).sum()
    }

    #[test]
    fn few_calls_may_be_repeated_twice_a_second_and_not_all_at_once() {
        let start = Instant::now();
        let budget = share(start);
        assert_eq!(withdrawn(&budget, start), 5, "a quarter of twenty");
        let later: u32 = (1..=100).map(|n| withdrawn(&budget, start + Duration::from_millis(100) * n)).sum();
        assert_eq!(later, 15, "the others come evenly");
        assert_eq!(withdrawn(&budget, start + Duration::from_secs(100)), 5, "nothing more is saved up");
    }

    #[test]
    fn many_calls_may_be_repeated_by_a_fifth_and_not_all_at_once() {
        let start = Instant::now();
        let budget = share(start);
        for _ in 0..2_000 {
            budget.deposit(start);
        }
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert_eq!(withdrawn(&budget, at(1.0)), 100, "a quarter of 400");
        let each: Vec<_> = (2..=9).map(|second| withdrawn(&budget, at(f64::from(second)))).collect();
        assert_eq!(each, [30; 8], "as many each second");
    }

    #[test]
    fn what_was_called_long_ago_gives_nothing() {
        let start = Instant::now();
        let budget = share(start);
        for _ in 0..10_000 {
            budget.deposit(start);
        }
        assert_eq!(withdrawn(&budget, start + Duration::from_secs(10)), 5);
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let start = Instant::now();
        let budget = share(start);
        withdrawn(&budget, start);
        for _ in 0..1_000 {
            assert!(!budget.withdraw(start));
        }
        assert_eq!(withdrawn(&budget, start + WINDOW / 3), 4, "but for what time rounds off");
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing_and_a_small_one_one_at_a_time() {
        let start = Instant::now();
        let of = |ratio, min_per_second| Budget::at(start, BudgetConfig::Share { ratio, min_per_second });
        let none = of(0.0, 0);
        none.deposit(start);
        assert_eq!(withdrawn(&none, start + Duration::from_secs(1)), 0);
        let small = of(0.2, 0);
        (0..5).for_each(|_| small.deposit(start));
        assert_eq!(withdrawn(&small, start), 1);
    }

    #[test]
    fn threads_together_get_no_more_than_one_would() {
        let start = Instant::now();
        let budget = share(start);
        (0..5_000).for_each(|_| budget.deposit(start));
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
        assert_eq!(got.load(Relaxed), 250);
    }

    /// The attempts for each call in an outage below so many processes with so
    /// many calls a second together: in the worst ten seconds, and in the worst
    /// second. They called as often before it.
    fn outage(processes: u32, per_second: u32) -> (f64, f64) {
        let start = Instant::now();
        let budgets: Vec<_> = (0..processes).map(|_| share(start)).collect();
        let mut retries = vec![0u32; 60];
        for call in 0..per_second * 60 {
            let at = Duration::from_secs(1) * call / per_second;
            let budget = &budgets[(call % processes) as usize];
            budget.deposit(start + at);
            if at >= Duration::from_secs(20) {
                let spent = (0..2).filter(|_| budget.withdraw(start + at)).count();
                retries[at.as_secs() as usize] += spent as u32;
            }
        }
        let worst = |seconds: usize| {
            let max = retries.windows(seconds).map(|window| window.iter().sum::<u32>()).max();
            1.0 + f64::from(max.unwrap()) / (per_second as usize * seconds) as f64
        };
        (worst(10), worst(1))
    }

    #[test]
    fn in_an_outage_attempts_stay_below_1_2_times_the_calls_however_many_processes_call() {
        for processes in [1, 2, 3, 5] {
            for per_second in [50, 100, 200] {
                let (ten_seconds, second) = outage(processes, per_second);
                // A process counts no fractions.
                assert!((1.18..=1.21).contains(&ten_seconds), "{processes}, {per_second}: {ten_seconds}");
                assert!(second <= 1.7, "{processes}, {per_second}: {second}");
            }
        }
    }

    #[test]
    fn tokens_stop_at_half_and_come_back_with_successes() {
        let budget = Budget::new(BudgetConfig::Tokens { max_tokens: 10, token_ratio: 0.1 });
        let now = Instant::now();
        for failures in 1..=4 {
            budget.record_failure();
            assert!(budget.withdraw(now), "after {failures} failures");
        }
        budget.record_failure();
        assert!(!budget.withdraw(now));
        budget.record_success();
        assert!(budget.withdraw(now));
        (0..1_000).for_each(|_| budget.record_success());
        (0..4).for_each(|_| budget.record_failure());
        assert!(budget.withdraw(now), "there were never more than ten");
        budget.record_failure();
        assert!(!budget.withdraw(now));
        (0..1_000).for_each(|_| budget.record_failure());
        (0..50).for_each(|_| budget.record_success());
        assert!(!budget.withdraw(now), "half is not more than half");
        budget.record_success();
        assert!(budget.withdraw(now));
    }

    proptest! {
        /// However calls and retries come, no ten seconds hold more retries than
        /// the share of the busiest ten that end within them.
        #[test]
        fn no_ten_seconds_exceed_the_share(steps in prop::collection::vec((0u64..800, 0u32..60, 0u32..40), 1..120)) {
            let start = Instant::now();
            let budget = share(start);
            let mut now = start;
            // Of each moment: when, what the ten seconds before it allow, what was spent.
            let (mut calls, mut moments) = (Vec::new(), Vec::<(Instant, f64, usize)>::new());
            for (pause, begun, requested) in steps {
                now += Duration::from_millis(pause);
                for _ in 0..begun {
                    budget.deposit(now);
                    calls.push(now);
                }
                let granted = (0..requested).filter(|_| budget.withdraw(now)).count();
                let lately = calls.iter().filter(|at| now - **at < WINDOW).count() as f64;
                moments.push((now, f64::max(lately * 0.2, 20.0), granted));
                let window = || moments.iter().filter(|(at, ..)| now - *at < WINDOW);
                let bound = window().map(|(_, allowed, _)| *allowed).fold(0.0, f64::max);
                let spent = window().map(|(.., spent)| *spent).sum::<usize>() as f64;
                prop_assert!(spent <= bound, "{spent} > {bound}");
            }
        }
    }
}
