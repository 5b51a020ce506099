//! Who is ejected, and when they return: the algorithm of [`OutlierConfig`],
//! on given times.

use std::{fmt, num::NonZeroU32, time::Duration};

use tokio::time::Instant;

use super::{
    OutlierConfig, Record,
    outlier::{FailurePercentage, SuccessRate},
    record::Tally,
};

/// Up to this share is added to an ejection time at random.
const JITTER: f64 = 0.1;
/// A run of failures that is less likely than this at the others' rate is the
/// instance's own.
const MAX_CHANCE: f64 = 1e-9;
/// So many standard errors apart, two shares of failures differ.
const MIN_STANDARD_ERRORS: f64 = 4.0;

/// Where an instance stands with outlier detection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing speaks against it.
    #[default]
    In,
    /// It is out for a time.
    Ejected,
    /// The time is over; a call is to show whether it returns.
    Probation,
}

/// One instance's standing; kept across registry updates.
#[derive(Debug, Default)]
pub(crate) struct EjectionState {
    phase: Phase,
    /// When the phase began, or, of an ejection, when it ends.
    at: Option<Instant>,
    /// How often it was ejected, less one for each quiet interval since.
    ejections: u32,
    losses: u32,
    lost_in_interval: bool,
    /// Why it was ejected last.
    cause: Option<EjectionCause>,
}

/// Why an instance is ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
enum EjectionCause {
    Run(u32),
    Losses(u32),
    /// Its success rate and the least that was tolerated, in percent.
    SuccessRate(f64, f64),
    /// Its failures in percent.
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
            Self::Probe => f.write_str("the call that tried it failed"),
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

    /// When something is due by time alone.
    pub(crate) fn ends_at(&self) -> Option<Instant> {
        self.at.filter(|_| self.phase == Phase::Ejected)
    }

    /// An ejection whose time is over becomes probation; whether it did.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        let over = self.ends_at().is_some_and(|until| until <= now);
        if over {
            self.phase = Phase::Probation;
        }
        over
    }

    /// The probe succeeded.
    pub(crate) fn restore(&mut self, record: &Record, now: Instant) {
        record.clear();
        (self.phase, self.at, self.losses) = (Phase::In, Some(now), 0);
    }

    /// Its connection broke or fell silent.
    pub(crate) fn lost_connection(&mut self) {
        self.losses = self.losses.saturating_add(1);
        self.lost_in_interval = true;
    }

    /// Why it is out, in words.
    pub(crate) fn reason(&self) -> Option<String> {
        let cause = self.cause?;
        match self.phase {
            Phase::In => None,
            Phase::Ejected => Some(format!("ejected: {cause}")),
            Phase::Probation => Some(format!("ejected: {cause}; the next call tries it")),
        }
    }

    fn has_been_quiet_since(&self, then: Instant) -> bool {
        self.phase == Phase::In && self.at.is_none_or(|since| since <= then)
    }
}

/// An instance as it is judged.
#[derive(Debug)]
pub(crate) struct OutlierCandidate<'a> {
    pub(crate) record: &'a Record,
    pub(crate) ejection: &'a mut EjectionState,
}

/// What a judgement led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// Who is ejected now, by place.
    pub(crate) ejected: Vec<usize>,
    /// How many would have been if not too many were, or by enforcement.
    pub(crate) unenforced: u32,
    /// True if anything that is told of an instance is different now.
    pub(crate) changed: bool,
}

/// Judges the instances of one service.
#[derive(Debug)]
pub(crate) struct Detector {
    config: OutlierConfig,
    last_sweep: Instant,
}

impl Detector {
    pub(crate) fn new(config: OutlierConfig, now: Instant) -> Self {
        Self { config, last_sweep: now }
    }

    /// When the next sweep is due.
    pub(crate) fn next_sweep(&self) -> Instant {
        self.last_sweep + self.config.interval
    }

    /// Looks for what acts at once: runs of failures and lost connections.
    pub(crate) fn check_acute(&self, candidates: &mut [OutlierCandidate<'_>], now: Instant) -> Sweep {
        let mut sweep = Sweep::default();
        for i in 0..candidates.len() {
            if let Some((cause, enforcement)) = self.acute_cause(candidates, i) {
                self.try_eject(candidates, i, cause, enforcement, now, &mut sweep);
            }
        }
        sweep
    }

    /// Looks at what the past interval has told, and begins the next.
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

    /// The probe failed: out again, for longer.
    pub(crate) fn eject_again(&self, candidate: &mut OutlierCandidate<'_>, now: Instant) {
        self.eject(candidate, EjectionCause::Probe, now);
    }

    /// The probe showed nothing: out for as long again.
    pub(crate) fn extend(&self, candidate: &mut OutlierCandidate<'_>, now: Instant) {
        let ejection = &mut *candidate.ejection;
        ejection.phase = Phase::Ejected;
        ejection.at = Some(now + self.time(ejection.ejections.max(1)));
        candidate.record.clear();
    }

    /// Why `i` is to be ejected at once, if it is.
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

    /// Whom the interval's numbers speak against.
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

    /// How long the `n`th ejection lasts.
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

/// A50's success rate: below the mean by so many standard deviations.
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

/// A50's failure percentage: above a fixed one.
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

/// Returns whether `run` failures in a row are unlikely for an instance that
/// fails as the others do: lately, which tells of a fault that has just begun,
/// or in all that is remembered, which tells of one that comes and goes.
fn is_unlikely<'a>(run: u32, others: impl Iterator<Item = &'a OutlierCandidate<'a>> + Clone) -> bool {
    let share = |depth: u32| {
        let failed = others.clone().map(|other| other.record.failed_of_last(depth));
        let (failed, n) = failed.fold((0, 0), |(sum, n), failed| (sum + failed, n + 1));
        f64::from(failed) / f64::from((n * depth).max(1))
    };
    share(run).max(share(64)).powf(f64::from(run)) < MAX_CHANCE
}

/// Returns whether the others lose connections, too: on average half as many.
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
