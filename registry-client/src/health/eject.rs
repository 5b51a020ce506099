//! The ejection of outliers: the algorithm of [`OutlierConfig`], on given
//! times.

use std::{fmt, num::NonZeroU32, time::Duration};

use tokio::time::Instant;

use super::{
    OutlierConfig, Record,
    outlier::{FailurePercentage, SuccessRate},
    record::Tally,
};

/// The largest share of an ejection time that is added to it at random.
const JITTER: f64 = 0.1;
/// The probability, at the others' failure rate, below which a run of failures
/// is the instance's own.
const MAX_CHANCE: f64 = 1e-9;
/// The distance in standard errors from which two shares of failures differ.
const MIN_STANDARD_ERRORS: f64 = 4.0;

/// The phase of an instance in outlier detection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The instance is not ejected.
    #[default]
    In,
    /// The instance is ejected for a time.
    Ejected,
    /// The ejection is over; a probe decides whether the instance returns.
    Probation,
}

/// The ejection state of one instance; kept across registry updates.
#[derive(Debug, Default)]
pub(crate) struct EjectionState {
    phase: Phase,
    /// The start of the phase, or, of an ejection, its end.
    at: Option<Instant>,
    /// The number of ejections, less one for each quiet interval since.
    ejections: u32,
    losses: u32,
    lost_in_interval: bool,
    /// The cause of the last ejection.
    cause: Option<EjectionCause>,
}

/// The cause of an ejection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum EjectionCause {
    Run(u32),
    Losses(u32),
    /// The success rate and the least that was tolerated, in percent.
    SuccessRate(f64, f64),
    /// The share of failures, in percent.
    Failures(f64),
    Probe,
}

impl fmt::Display for EjectionCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(n) => write!(f, "{n} failures in a row"),
            Self::Losses(1) => f.write_str("its connection was lost again"),
            Self::Losses(n) => write!(f, "its connection was lost {n} times"),
            Self::SuccessRate(own, least) => {
                write!(f, "{own:.1} % of its calls succeed, {least:.1} % are the least among its peers")
            }
            Self::Failures(percent) => write!(f, "{percent:.0} % of its calls fail"),
            Self::Probe => f.write_str("its probe failed"),
        }
    }
}

impl EjectionState {
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn ejections(&self) -> u32 {
        self.ejections
    }

    /// The end of the current ejection.
    pub(crate) fn ends_at(&self) -> Option<Instant> {
        self.at.filter(|_| self.phase == Phase::Ejected)
    }

    /// Turns an ejection whose time is over into probation; returns whether it
    /// did.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        let over = self.ends_at().is_some_and(|until| until <= now);
        if over {
            self.phase = Phase::Probation;
        }
        over
    }

    /// Ends the ejection: the probe succeeded.
    pub(crate) fn restore(&mut self, record: &Record, now: Instant) {
        record.clear();
        (self.phase, self.at, self.losses) = (Phase::In, Some(now), 0);
    }

    /// Records that the connection broke or timed out.
    pub(crate) fn lost_connection(&mut self) {
        self.losses = self.losses.saturating_add(1);
        self.lost_in_interval = true;
    }

    /// The reason for which the instance is out.
    pub(crate) fn reason(&self) -> Option<String> {
        let cause = self.cause?;
        match self.phase {
            Phase::In => None,
            Phase::Ejected => Some(format!("ejected: {cause}")),
            Phase::Probation => Some(format!("ejected: {cause}; the next call probes it")),
        }
    }

    fn has_been_quiet_since(&self, then: Instant) -> bool {
        self.phase == Phase::In && self.at.is_none_or(|since| since <= then)
    }
}

/// An instance that outlier detection examines.
#[derive(Debug)]
pub(crate) struct OutlierCandidate<'a> {
    pub(crate) record: &'a Record,
    pub(crate) ejection: &'a mut EjectionState,
}

/// The result of a step of outlier detection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// The candidates that were ejected, by index.
    pub(crate) ejected: Vec<usize>,
    /// The number of ejections that the limit or the enforcement percentage
    /// prevented.
    pub(crate) unenforced: u32,
    /// True if the visible state of an instance changed.
    pub(crate) changed: bool,
}

/// The outlier detection of one service.
#[derive(Debug)]
pub(crate) struct Detector {
    config: OutlierConfig,
    last_sweep: Instant,
}

impl Detector {
    pub(crate) fn new(config: OutlierConfig, now: Instant) -> Self {
        Self { config, last_sweep: now }
    }

    /// The time of the next sweep.
    pub(crate) fn next_sweep(&self) -> Instant {
        self.last_sweep + self.config.interval
    }

    /// Ejects for the causes that act at once: runs of failures and lost
    /// connections.
    pub(crate) fn check_acute(&self, candidates: &mut [OutlierCandidate<'_>], now: Instant) -> Sweep {
        let mut sweep = Sweep::default();
        for i in 0..candidates.len() {
            if let Some((cause, enforcement)) = self.acute_cause(candidates, i) {
                self.try_eject(candidates, i, cause, enforcement, now, &mut sweep);
            }
        }
        sweep
    }

    /// Ejects by the statistics of the past interval, and begins the next.
    pub(crate) fn sweep(&mut self, candidates: &mut [OutlierCandidate<'_>], now: Instant) -> Sweep {
        let mut sweep = self.check_acute(candidates, now);
        let tallies: Vec<Tally> = candidates.iter().map(|candidate| candidate.record.take()).collect();
        for (i, cause, enforcement) in self.statistical_outliers(candidates, &tallies) {
            self.try_eject(candidates, i, cause, enforcement, now, &mut sweep);
        }
        for candidate in &mut *candidates {
            let ejection = &mut *candidate.ejection;
            if ejection.ejections > 0 && ejection.has_been_quiet_since(self.last_sweep) {
                ejection.ejections -= 1;
                sweep.changed = true;
            }
            if !std::mem::take(&mut ejection.lost_in_interval) {
                ejection.losses = 0;
            }
        }
        self.last_sweep = now;
        sweep
    }

    /// Ejects again, for longer: the probe failed.
    pub(crate) fn eject_again(&self, candidate: &mut OutlierCandidate<'_>, now: Instant) {
        self.eject(candidate, EjectionCause::Probe, now);
    }

    /// Ejects again, for as long: the probe was inconclusive.
    pub(crate) fn extend(&self, candidate: &mut OutlierCandidate<'_>, now: Instant) {
        let ejection = &mut *candidate.ejection;
        ejection.phase = Phase::Ejected;
        ejection.at = Some(now + self.time(ejection.ejections.max(1)));
        candidate.record.clear();
    }

    /// The cause for which `i` is ejected at once, if any.
    fn acute_cause(&self, candidates: &[OutlierCandidate<'_>], i: usize) -> Option<(EjectionCause, u32)> {
        let OutlierCandidate { record, ejection } = &candidates[i];
        if ejection.phase != Phase::In {
            return None;
        }
        let run = record.run();
        if let Some(rule) = self.config.consecutive.as_ref().filter(|rule| run >= rule.failures.get())
            && (!self.config.compare || is_unlikely(run, others(candidates, i)))
        {
            return Some((EjectionCause::Run(run), rule.enforcement_percentage));
        }
        let most = self.config.lost_connections.map_or(u32::MAX, NonZeroU32::get);
        let most = if ejection.ejections > 0 { most.min(1) } else { most };
        let lost = ejection.losses;
        if lost > 0 && lost >= most && (!self.config.compare || !lose_alike(lost, others(candidates, i))) {
            return Some((EjectionCause::Losses(lost), 100));
        }
        None
    }

    /// The outliers by the statistics of the interval.
    fn statistical_outliers(
        &self,
        candidates: &[OutlierCandidate<'_>],
        tallies: &[Tally],
    ) -> Vec<(usize, EjectionCause, u32)> {
        let sweep = |i: &usize| candidates[*i].ejection.phase == Phase::In;
        let with_volume = |volume: u32| -> Vec<usize> {
            (0..tallies.len()).filter(sweep).filter(|&i| tallies[i].total() >= volume.max(1)).collect()
        };
        let mut found = Vec::new();
        if let Some(rule) = &self.config.success_rate {
            success_rate(rule, &with_volume(rule.request_volume), tallies, &mut found);
        }
        if let Some(rule) = &self.config.failure_percentage {
            failure_percentage(rule, &with_volume(rule.request_volume), tallies, &mut found);
        }
        let rest = |i: usize| {
            let others = (0..tallies.len()).filter(|j| *j != i).filter(sweep);
            others.fold(Tally::default(), |sum, j| sum.plus(tallies[j]))
        };
        found.retain(|&(i, _, _)| !self.config.compare || is_worse(tallies[i], rest(i)));
        found
    }

    fn try_eject(
        &self,
        candidates: &mut [OutlierCandidate<'_>],
        i: usize,
        cause: EjectionCause,
        enforcement: u32,
        now: Instant,
        sweep: &mut Sweep,
    ) {
        if candidates[i].ejection.phase != Phase::In {
            return;
        }
        let out = candidates.iter().filter(|candidate| candidate.ejection.phase != Phase::In).count();
        let room = match candidates.len() {
            0 | 1 => 0,
            n => (n * self.config.max_ejection_percent.min(100) as usize / 100).max(1),
        };
        if out >= room || (enforcement < 100 && fastrand::u32(..100) >= enforcement) {
            sweep.unenforced += 1;
            return;
        }
        self.eject(&mut candidates[i], cause, now);
        sweep.ejected.push(i);
        sweep.changed = true;
    }

    fn eject(&self, candidate: &mut OutlierCandidate<'_>, cause: EjectionCause, now: Instant) {
        let ejection = &mut *candidate.ejection;
        ejection.ejections = ejection.ejections.saturating_add(1);
        ejection.phase = Phase::Ejected;
        ejection.at = Some(now + self.time(ejection.ejections));
        ejection.cause = Some(cause);
        ejection.losses = 0;
        candidate.record.clear();
    }

    /// The length of the `n`th ejection.
    fn time(&self, n: u32) -> Duration {
        let (base, most) = (self.config.base_ejection_time, self.config.max_ejection_time);
        base.saturating_mul(n).min(most.max(base)).mul_f64(1.0 + JITTER * fastrand::f64())
    }
}

impl Tally {
    fn total(self) -> u32 {
        self.successes.saturating_add(self.failures)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            successes: self.successes.saturating_add(other.successes),
            failures: self.failures.saturating_add(other.failures),
        }
    }

    fn success_rate(self) -> f64 {
        100.0 * f64::from(self.successes) / f64::from(self.total())
    }

    fn failure_rate(self) -> f64 {
        100.0 * f64::from(self.failures) / f64::from(self.total())
    }
}

/// A50's success rate ejection: below the mean by so many standard deviations.
fn success_rate(
    rule: &SuccessRate,
    hosts: &[usize],
    tallies: &[Tally],
    found: &mut Vec<(usize, EjectionCause, u32)>,
) {
    if hosts.is_empty() || hosts.len() < rule.minimum_hosts as usize {
        return;
    }
    let rate = |&i: &usize| tallies[i].success_rate();
    let n = hosts.len() as f64;
    let mean = hosts.iter().map(rate).sum::<f64>() / n;
    let variance = hosts.iter().map(|i| (rate(i) - mean).powi(2)).sum::<f64>() / n;
    let least = mean - variance.sqrt() * f64::from(rule.stdev_factor) / 1000.0;
    let below = hosts.iter().filter(|i| rate(i) < least);
    found
        .extend(below.map(|i| (*i, EjectionCause::SuccessRate(rate(i), least), rule.enforcement_percentage)));
}

/// A50's failure percentage ejection: above a fixed threshold.
fn failure_percentage(
    rule: &FailurePercentage,
    hosts: &[usize],
    tallies: &[Tally],
    found: &mut Vec<(usize, EjectionCause, u32)>,
) {
    if hosts.len() < rule.minimum_hosts as usize {
        return;
    }
    let rate = |&i: &usize| tallies[i].failure_rate();
    let above = hosts.iter().filter(|i| rate(i) > f64::from(rule.threshold));
    found.extend(above.map(|i| (*i, EjectionCause::Failures(rate(i)), rule.enforcement_percentage)));
}

/// The instances beside `i` that are not ejected.
fn others<'a>(
    candidates: &'a [OutlierCandidate<'a>],
    i: usize,
) -> impl Iterator<Item = &'a OutlierCandidate<'a>> + Clone {
    let others = candidates.iter().enumerate().filter(move |(j, _)| *j != i);
    others.map(|(_, candidate)| candidate).filter(|candidate| candidate.ejection.phase == Phase::In)
}

/// Returns whether `run` failures in a row are unlikely at the others' failure
/// rate: their recent one, for a fault that has just begun, or the one of all
/// that is remembered, for a fault that comes and goes.
fn is_unlikely<'a>(run: u32, others: impl Iterator<Item = &'a OutlierCandidate<'a>> + Clone) -> bool {
    let share = |depth: u32| {
        let failed = others.clone().map(|other| other.record.failed_of_last(depth));
        let (failed, n) = failed.fold((0, 0), |(sum, n), failed| (sum + failed, n + 1));
        f64::from(failed) / f64::from((n * depth).max(1))
    };
    share(run).max(share(64)).powf(f64::from(run)) < MAX_CHANCE
}

/// Returns whether the others lose connections too: on average half as many.
fn lose_alike<'a>(lost: u32, others: impl Iterator<Item = &'a OutlierCandidate<'a>> + Clone) -> bool {
    let n = others.clone().count() as u64;
    let sum: u64 = others.map(|other| u64::from(other.ejection.losses)).sum();
    sum > 0 && sum * 2 >= u64::from(lost) * n
}

/// Returns whether `own` has a clearly larger share of failures than `rest`, by
/// a two-proportion z-test.
fn is_worse(own: Tally, rest: Tally) -> bool {
    let (n, m) = (f64::from(own.total()), f64::from(rest.total()));
    if n == 0.0 || m == 0.0 {
        return false;
    }
    let share = (f64::from(own.failures) + f64::from(rest.failures)) / (n + m);
    let error = (share * (1.0 - share) * (1.0 / n + 1.0 / m)).sqrt();
    f64::from(own.failures) / n - f64::from(rest.failures) / m > MIN_STANDARD_ERRORS * error
}

#[cfg(test)]
mod tests;
