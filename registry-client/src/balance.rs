//! Balancing: the choice of a ready instance for each attempt.
//!
//! A [`Picker`] returns an index into an immutable [`ReadySet`]. It runs once
//! for every attempt, so it takes no lock, does not allocate and never waits.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    instance::{InstanceId, ParseError},
    policy::limit::CallLimit,
};

mod least_request;
mod random;
mod round_robin;
pub(crate) mod slow_start;
mod weighted;

pub use least_request::LeastRequest;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use weighted::Weighted;

/// The name of a balancing policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Balancer {
    /// `round_robin`: one after the other.
    RoundRobin,
    /// `random`: any, with equal probability.
    Random,
    /// `weighted`: one after the other, in proportion to the weights.
    Weighted,
    /// `least_request`: of two drawn at random, the one with fewer requests in
    /// flight.
    #[default]
    LeastRequest,
}

impl Balancer {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::RoundRobin, Self::Random, Self::Weighted, Self::LeastRequest];

    /// The name in configuration, such as `round_robin`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::Weighted => "weighted",
            Self::LeastRequest => "least_request",
        }
    }

    /// A picker of this policy, for one channel.
    #[must_use]
    pub fn picker(self) -> Box<dyn Picker> {
        match self {
            Self::RoundRobin => Box::new(RoundRobin::default()),
            Self::Random => Box::new(Random),
            Self::Weighted => Box::new(Weighted::default()),
            Self::LeastRequest => Box::new(LeastRequest),
        }
    }
}

impl FromStr for Balancer {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::ALL.into_iter().find(|b| b.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            ParseError(format!("there is no balancing policy `{text}`; there are {known}"))
        })
    }
}

impl fmt::Display for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Chooses the instance for an attempt.
pub trait Picker: Send + Sync + fmt::Debug {
    /// The index of the chosen candidate, below `ready.len()`; `None` when the
    /// set is empty, which means "wait". Must not block, lock or allocate. Sets
    /// come and go: the picker's own state must be valid for any set.
    fn pick(&self, ready: &ReadySet) -> Option<usize>;
}

/// The instances that can take a call right now. Immutable: a change makes a
/// new set.
#[derive(Clone, Debug, Default)]
pub struct ReadySet {
    candidates: Box<[Candidate]>,
    /// The running sums of the weights, when the weights differ.
    sums: Option<Box<[u32]>>,
}

/// One instance of a [`ReadySet`].
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The id of the instance.
    pub id: InstanceId,
    /// The share of the load relative to the others; at least 1.
    pub weight: u16,
    /// The current load; outlives the set.
    pub load: Arc<Load>,
}

/// The load of one instance by this process, and the newest outcomes.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    /// The newest outcomes, a bit each, the last lowest; 1 for a failure.
    history: AtomicU64,
    limit: Option<CallLimit>,
}

/// The newest outcomes that decide whether an instance is failing.
const RECENT_OUTCOMES: u32 = 16;
/// The failures among them from which an instance is failing.
const MIN_FAILURES: u32 = 4;

impl Load {
    /// The load of an instance with a limit on concurrent calls.
    pub(crate) fn limited(limit: Option<CallLimit>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// The limit on concurrent calls, if any.
    pub(crate) fn limit(&self) -> Option<&CallLimit> {
        self.limit.as_ref()
    }

    /// Requests whose response is not complete.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Returns whether at least a quarter of the newest attempts failed. Few
    /// requests in flight are no sign of capacity then: failures end sooner
    /// than work.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        let history = self.history.load(Relaxed);
        history != 0 && (history & newest(RECENT_OUTCOMES)).count_ones() >= MIN_FAILURES
    }

    pub(crate) fn record_success(&self) {
        // Most of the time it is 0 already, and a load does not take the cache
        // line from other cores. Two concurrent outcomes may count as one.
        let history = self.history.load(Relaxed);
        if history != 0 {
            self.history.store(history << 1, Relaxed);
        }
    }

    /// Records a failure; returns the failures in a row with this one, at most
    /// 64.
    pub(crate) fn record_failure(&self) -> u32 {
        let history = self.history.load(Relaxed) << 1 | 1;
        self.history.store(history, Relaxed);
        history.trailing_ones()
    }

    /// Failures in a row up to now, at most 64.
    pub(crate) fn failures_in_a_row(&self) -> u32 {
        self.history.load(Relaxed).trailing_ones()
    }

    /// The failures among the last `n` attempts; `n` is at most 64.
    pub(crate) fn failed_of_last(&self, n: u32) -> u32 {
        (self.history.load(Relaxed) & newest(n)).count_ones()
    }

    /// Clears the outcomes.
    pub(crate) fn clear_history(&self) {
        self.history.store(0, Relaxed);
    }
}

/// The mask of the newest `n` outcomes.
fn newest(n: u32) -> u64 {
    u64::MAX.checked_shr(64 - n).unwrap_or(0)
}

impl ReadySet {
    /// A set of `candidates`, in this order. A weight of 0 counts as 1.
    #[must_use]
    pub fn new(candidates: impl Into<Box<[Candidate]>>) -> Self {
        let mut candidates = candidates.into();
        for candidate in &mut candidates {
            candidate.weight = candidate.weight.max(1);
        }
        let weights_differ = candidates.windows(2).any(|pair| pair[0].weight != pair[1].weight);
        let sums = weights_differ.then(|| {
            let add = |sum: &mut u32, c: &Candidate| {
                *sum = sum.saturating_add(u32::from(c.weight));
                Some(*sum)
            };
            candidates.iter().scan(0, add).collect()
        });
        Self { candidates, sums }
    }

    /// The candidates.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The number of candidates.
    #[must_use]
    pub fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Returns whether there is no candidate.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// A candidate at random, in proportion to the weights.
    fn draw(&self) -> Option<usize> {
        let n = self.candidates.len();
        match &self.sums {
            _ if n == 0 => None,
            None => Some(fastrand::usize(..n)),
            Some(sums) => {
                let drawn = fastrand::u32(..sums[n - 1]);
                Some(sums.partition_point(|&sum| sum <= drawn))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn ready(weights: &[u16]) -> ReadySet {
        let candidate = |(i, &weight): (usize, &u16)| Candidate {
            id: InstanceId::new(&i.to_string()),
            weight,
            load: Arc::default(),
        };
        ReadySet::new(weights.iter().enumerate().map(candidate).collect::<Vec<_>>())
    }

    pub(super) fn counts(picker: &dyn Picker, ready: &ReadySet, picks: usize) -> Vec<usize> {
        let mut counts = vec![0; ready.len()];
        for _ in 0..picks {
            counts[picker.pick(ready).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn every_policy_is_found_by_its_name_and_an_unknown_one_lists_them() {
        for balancer in Balancer::ALL {
            assert_eq!(balancer.name().parse(), Ok(balancer));
        }
        let error = "fastest".parse::<Balancer>().unwrap_err().to_string();
        assert!(error.contains("fastest") && error.contains("least_request"), "{error}");
    }

    #[test]
    fn every_policy_waits_on_an_empty_set_and_takes_the_only_one() {
        for balancer in Balancer::ALL {
            let picker = balancer.picker();
            assert_eq!(picker.pick(&ready(&[])), None, "{balancer}");
            assert_eq!(picker.pick(&ready(&[7])), Some(0), "{balancer}");
        }
    }

    #[test]
    fn every_policy_reaches_everyone_of_a_hundred() {
        let set = ready(&[1; 100]);
        for balancer in Balancer::ALL {
            let counts = counts(&*balancer.picker(), &set, 10_000);
            assert!(counts.iter().all(|&n| n > 0), "{balancer}: {counts:?}");
        }
    }

    #[test]
    fn policies_that_weigh_give_one_fifth_and_four_fifths() {
        let set = ready(&[20, 80]);
        for balancer in [Balancer::Weighted, Balancer::LeastRequest] {
            let counts = counts(&*balancer.picker(), &set, 10_000);
            assert!((1_500..=2_500).contains(&counts[0]), "{balancer}: {counts:?}");
        }
    }
}
