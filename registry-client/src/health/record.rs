//! The record of attempts on one instance.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use tokio::sync::Notify;

use super::OutlierConfig;
use crate::{
    balance::Load,
    code::Codes,
    outcome::{Evidence, Outcome},
};

/// The rules for what counts as a failure, and for waking outlier detection.
#[derive(Debug)]
pub(crate) struct FailureRules {
    failures: Codes,
    /// True if weak evidence counts: only where an instance is compared with
    /// the others before it is ejected.
    counts_weak: bool,
    /// The failures in a row that wake outlier detection; 0 for none.
    run: u32,
    pub(crate) wake: Notify,
}

impl FailureRules {
    pub(crate) fn new(config: &OutlierConfig) -> Self {
        Self {
            failures: config.failures,
            counts_weak: config.compare,
            run: config.consecutive.as_ref().map_or(0, |rule| rule.failures.get()),
            wake: Notify::new(),
        }
    }

    /// The evidence of `outcome` about its instance.
    pub(super) fn evidence(&self, outcome: Outcome) -> Evidence {
        match outcome.evidence(self.failures) {
            Evidence::WeakFailure if !self.counts_weak => Evidence::Nothing,
            evidence => evidence,
        }
    }

    /// Returns whether a run of this length wakes outlier detection: at the
    /// threshold, and each time that it has doubled.
    fn wakes_detection(&self, run: u32) -> bool {
        self.run > 0 && run.is_multiple_of(self.run) && (run / self.run).is_power_of_two()
    }
}

/// The outcomes of the attempts on one instance. Written at the end of each,
/// read by outlier detection; kept across registry updates.
#[derive(Debug)]
pub struct Record {
    rules: Arc<FailureRules>,
    successes: AtomicU32,
    failures: AtomicU32,
    /// Holds the newest outcomes, which pickers read too.
    load: Arc<Load>,
}

/// The number of attempts that succeeded and that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) successes: u32,
    pub(super) failures: u32,
}

impl Record {
    pub(crate) fn new(rules: Arc<FailureRules>, load: Arc<Load>) -> Self {
        Self { rules, successes: AtomicU32::new(0), failures: AtomicU32::new(0), load }
    }

    /// Records an outcome. Lock-free; costs an addition while attempts succeed.
    pub fn observe(&self, outcome: Outcome) {
        match self.rules.evidence(outcome) {
            Evidence::Success => {
                self.successes.fetch_add(1, Relaxed);
                self.load.record_success();
            }
            Evidence::Failure | Evidence::WeakFailure => self.fail(),
            Evidence::Nothing => {}
        }
    }

    #[cold]
    fn fail(&self) {
        self.failures.fetch_add(1, Relaxed);
        if self.rules.wakes_detection(self.load.record_failure()) {
            self.rules.wake.notify_one();
        }
    }

    /// Failures in a row up to now, at most 64.
    pub(super) fn run(&self) -> u32 {
        self.load.failures_in_a_row()
    }

    /// The failures among the last `n` attempts; `n` is at most 64.
    pub(super) fn failed_of_last(&self, n: u32) -> u32 {
        self.load.failed_of_last(n)
    }

    /// The counts since the last call, which begin again at 0.
    pub(super) fn take(&self) -> Tally {
        Tally { successes: self.successes.swap(0, Relaxed), failures: self.failures.swap(0, Relaxed) }
    }

    /// Clears the record.
    pub(super) fn clear(&self) {
        self.take();
        self.load.clear_history();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{code::Code, outcome::Cause};

    const OK: Outcome = Outcome::status(Code::OK);
    const LOST: Outcome = Outcome { code: Code::UNAVAILABLE, cause: Cause::ConnectionLost };
    const LATE: Outcome = Outcome { code: Code::CANCELLED, cause: Cause::CancelledLate };

    fn record() -> Record {
        Record::new(Arc::new(FailureRules::new(&OutlierConfig::default())), Arc::default())
    }

    fn woken(record: &Record) -> bool {
        let mut notified = std::pin::pin!(record.rules.wake.notified());
        notified.as_mut().enable()
    }

    #[test]
    fn a_run_of_failures_alarms_at_five_and_at_each_doubling() {
        let record = record();
        let wakes: Vec<u32> = (1..=64)
            .filter(|_| {
                record.observe(LOST);
                woken(&record)
            })
            .collect();
        assert_eq!(wakes, [5, 10, 20, 40]);
    }

    #[test]
    fn a_success_ends_a_run_and_stays_within_the_last_outcomes() {
        let record = record();
        for outcome in [LOST, LOST, OK, LOST] {
            record.observe(outcome);
        }
        assert_eq!((record.run(), record.failed_of_last(2), record.failed_of_last(64)), (1, 1, 3));
        assert_eq!(record.take(), Tally { successes: 1, failures: 3 });
        assert_eq!(record.take(), Tally::default());
    }

    #[test]
    fn only_what_is_the_instances_own_fault_counts_against_it() {
        let record = record();
        for code in [Code::OK, Code::CANCELLED, Code::RESOURCE_EXHAUSTED, Code::from_number(5)] {
            record.observe(Outcome::status(code));
        }
        for code in [Code::UNAVAILABLE, Code::INTERNAL, Code::UNKNOWN] {
            record.observe(Outcome::status(code));
        }
        record.observe(Outcome { code: Code::CANCELLED, cause: Cause::Cancelled });
        assert_eq!(record.take(), Tally { successes: 4, failures: 3 });
    }

    #[test]
    fn weak_evidence_counts_only_where_instances_are_compared() {
        let compared = record();
        compared.observe(LATE);
        assert_eq!(compared.take(), Tally { successes: 0, failures: 1 });
        let alone = Record::new(Arc::new(FailureRules::new(&OutlierConfig::a50())), Arc::default());
        alone.observe(LATE);
        assert_eq!(alone.take(), Tally::default());
    }
}
