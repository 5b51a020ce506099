//! What attempts have told of one instance.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use tokio::sync::Notify;

use super::{Ended, OutlierConfig};
use crate::code::Codes;

/// What counts as a failure, and when whoever judges is woken for it.
#[derive(Debug)]
pub(crate) struct Rules {
    failures: Codes,
    /// So many failures in a row are worth a look; 0 for none.
    run: u32,
    pub(crate) alarm: Notify,
}

impl Rules {
    pub(crate) fn new(config: &OutlierConfig) -> Self {
        Self {
            failures: config.failures,
            run: config.consecutive.as_ref().map_or(0, |rule| rule.failures.get()),
            alarm: Notify::new(),
        }
    }

    pub(super) fn is_failure(&self, ended: Ended) -> bool {
        match ended {
            Ended::Answered(code) => self.failures.contains(code),
            Ended::Broken | Ended::Expired => true,
        }
    }

    /// At the first so many in a row, and each time that they have doubled.
    fn is_alarming(&self, run: u32) -> bool {
        self.run > 0 && run.is_multiple_of(self.run) && (run / self.run).is_power_of_two()
    }
}

/// What attempts have told of one instance. Written at the end of each, read
/// by whoever judges; kept across registry updates.
#[derive(Debug)]
pub struct Record {
    rules: Arc<Rules>,
    successes: AtomicU32,
    failures: AtomicU32,
    /// The newest outcomes, a bit each, the last lowest; 1 for a failure.
    history: AtomicU64,
}

/// How many attempts ended well and badly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) successes: u32,
    pub(super) failures: u32,
}

impl Record {
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self { rules, successes: AtomicU32::new(0), failures: AtomicU32::new(0), history: AtomicU64::new(0) }
    }

    /// Takes note of an attempt's end. Lock-free; costs an addition while all
    /// is well.
    pub fn observe(&self, ended: Ended) {
        if self.rules.is_failure(ended) {
            return self.fail();
        }
        self.successes.fetch_add(1, Relaxed);
        // Most of the time it is 0 already, and a load costs other cores
        // nothing. Two that end at once may count as one here.
        let history = self.history.load(Relaxed);
        if history != 0 {
            self.history.store(history << 1, Relaxed);
        }
    }

    #[cold]
    fn fail(&self) {
        self.failures.fetch_add(1, Relaxed);
        let history = self.history.load(Relaxed) << 1 | 1;
        self.history.store(history, Relaxed);
        if self.rules.is_alarming(history.trailing_ones()) {
            self.rules.alarm.notify_one();
        }
    }

    /// Failures in a row up to now, at most 64.
    pub(super) fn run(&self) -> u32 {
        self.history.load(Relaxed).trailing_ones()
    }

    /// How many of the last `n` attempts failed; `n` is at most 64.
    pub(super) fn failed_of_last(&self, n: u32) -> u32 {
        let newest = u64::MAX.checked_shr(64 - n).unwrap_or(0);
        (self.history.load(Relaxed) & newest).count_ones()
    }

    /// Counts since the last time, which begin again at 0.
    pub(super) fn take(&self) -> Tally {
        Tally { successes: self.successes.swap(0, Relaxed), failures: self.failures.swap(0, Relaxed) }
    }

    /// Forgets everything: what comes is judged afresh.
    pub(super) fn clear(&self) {
        self.take();
        self.history.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Code;

    const OK: Ended = Ended::Answered(Code::OK);

    fn record() -> Record {
        Record::new(Arc::new(Rules::new(&OutlierConfig::default())))
    }

    fn alarmed(record: &Record) -> bool {
        let mut notified = std::pin::pin!(record.rules.alarm.notified());
        notified.as_mut().enable()
    }

    #[test]
    fn a_run_of_failures_alarms_at_five_and_at_each_doubling() {
        let record = record();
        let alarms: Vec<u32> = (1..=64)
            .filter(|_| {
                record.observe(Ended::Expired);
                alarmed(&record)
            })
            .collect();
        assert_eq!(alarms, [5, 10, 20, 40]);
    }

    #[test]
    fn a_success_ends_a_run_and_stays_within_the_last_outcomes() {
        let record = record();
        for ended in [Ended::Broken, Ended::Broken, OK, Ended::Expired] {
            record.observe(ended);
        }
        assert_eq!((record.run(), record.failed_of_last(2), record.failed_of_last(64)), (1, 1, 3));
        assert_eq!(record.take(), Tally { successes: 1, failures: 3 });
        assert_eq!(record.take(), Tally::default());
    }

    #[test]
    fn only_what_is_the_instances_own_fault_counts_against_it() {
        let record = record();
        for code in [Code::OK, Code::CANCELLED, Code::RESOURCE_EXHAUSTED, Code::from_number(5)] {
            record.observe(Ended::Answered(code));
        }
        for code in [Code::UNAVAILABLE, Code::INTERNAL, Code::UNKNOWN] {
            record.observe(Ended::Answered(code));
        }
        assert_eq!(record.take(), Tally { successes: 4, failures: 3 });
    }
}
