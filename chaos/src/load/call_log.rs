//! The calls of a load, and statistics of them.

use std::{ops::Range, time::Duration};

use registry_client::instance::InstanceId;
use tonic::Code;

/// The outcome of one call.
#[derive(Clone, Debug)]
pub(crate) struct CallRecord {
    /// The due time after the load's start.
    pub(crate) due: Duration,
    /// The latency, from the due time to the end.
    pub(crate) took: Duration,
    /// True if the call may be sent again.
    pub(crate) idempotent: bool,
    /// The code and message of a failed call.
    pub(crate) failure: Option<(Code, Box<str>)>,
    /// The attempts in order.
    pub(crate) attempts: Vec<Attempt>,
}

/// One attempt of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) instance: InstanceId,
    /// True if the instance responded, with any status.
    pub(crate) answered: bool,
}

impl CallRecord {
    /// The end of the call after the load's start.
    pub(crate) fn end(&self) -> Duration {
        self.due + self.took
    }

    /// Returns whether it was sent to that instance.
    pub(crate) fn was_sent_to(&self, instance: &InstanceId) -> bool {
        self.attempts.iter().any(|attempt| attempt.instance == *instance)
    }

    /// Returns whether it succeeded on that instance.
    pub(crate) fn succeeded_on(&self, instance: &InstanceId) -> bool {
        let last = self.attempts.last();
        self.failure.is_none() && last.is_some_and(|a| a.answered && a.instance == *instance)
    }
}

/// The calls of a load, or of a part of it, in the order in which they ended.
#[derive(Clone, Debug)]
pub(crate) struct CallLog {
    records: Vec<CallRecord>,
}

impl CallLog {
    pub(crate) fn new(records: Vec<CallRecord>) -> Self {
        Self { records }
    }

    /// The calls.
    pub(crate) fn all(&self) -> &[CallRecord] {
        &self.records
    }

    /// The calls that were due within `time`.
    pub(crate) fn due(&self, time: Range<Duration>) -> Self {
        self.filter(|record| time.contains(&record.due))
    }

    /// The calls that match.
    pub(crate) fn filter(&self, is_match: impl Fn(&CallRecord) -> bool) -> Self {
        Self::new(self.records.iter().filter(|r| is_match(r)).cloned().collect())
    }

    /// The number of calls.
    pub(crate) fn calls(&self) -> usize {
        self.records.len()
    }

    /// The number of failed calls, of the idempotent or of the other ones.
    pub(crate) fn failed(&self, idempotent: bool) -> usize {
        self.records.iter().filter(|r| r.failure.is_some() && r.idempotent == idempotent).count()
    }

    /// The share of calls that succeeded, 0 to 1; 1 without calls.
    pub(crate) fn success_ratio(&self) -> f64 {
        let failed = self.failed(true) + self.failed(false);
        1.0 - ratio(failed, self.calls())
    }

    /// The mean number of attempts per call.
    pub(crate) fn attempts_per_call(&self) -> f64 {
        ratio(self.attempts(), self.calls())
    }

    /// The number of attempts.
    pub(crate) fn attempts(&self) -> usize {
        self.records.iter().map(|r| r.attempts.len()).sum()
    }

    /// The largest number of attempts of one call.
    pub(crate) fn max_attempts(&self) -> usize {
        self.records.iter().map(|r| r.attempts.len()).max().unwrap_or(0)
    }

    /// The share of attempts that went to that instance, 0 to 1.
    pub(crate) fn share(&self, instance: &InstanceId) -> f64 {
        let sent = self.records.iter().flat_map(|r| &r.attempts);
        ratio(sent.filter(|a| a.instance == *instance).count(), self.attempts())
    }

    /// The due time of the last call that was sent to that instance.
    pub(crate) fn last_sent_to(&self, instance: &InstanceId) -> Option<Duration> {
        self.records.iter().filter(|r| r.was_sent_to(instance)).map(|r| r.due).max()
    }

    /// The gaps of at least `least` within `time` in which no call was sent to
    /// that instance.
    pub(crate) fn gaps(
        &self,
        instance: &InstanceId,
        time: Range<Duration>,
        least: Duration,
    ) -> Vec<Range<Duration>> {
        let mut sent: Vec<_> = self
            .records
            .iter()
            .filter(|r| time.contains(&r.due) && r.was_sent_to(instance))
            .map(|r| r.due)
            .collect();
        sent.sort_unstable();
        let marks: Vec<_> = std::iter::once(time.start).chain(sent).chain([time.end]).collect();
        let pairs = marks.windows(2).map(|pair| pair[0]..pair[1]);
        pairs.filter(|gap| gap.end.saturating_sub(gap.start) >= least).collect()
    }

    /// The latency quantile `part`; zero without calls.
    pub(crate) fn percentile(&self, part: f64) -> Duration {
        let mut times: Vec<_> = self.records.iter().map(|r| r.took).collect();
        times.sort_unstable();
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rank = (times.len() as f64 * part).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// The first failures as text.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = self.records.iter().filter_map(|r| Some((r, r.failure.as_ref()?)));
        let line = |(record, (code, message)): (&CallRecord, &(Code, Box<str>))| {
            let kind = if record.idempotent { "idempotent" } else { "other" };
            let at = record.due.as_secs_f64();
            format!("{at:.3} s, {kind}, {} attempts, {code:?}: {message}", record.attempts.len())
        };
        failed.map(line).take(5).collect()
    }
}

/// The ratio of two counts; 0 if `whole` is 0.
pub(crate) fn ratio(part: usize, whole: usize) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
    let (part, whole) = (part as f64, whole.max(1) as f64);
    part / whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(due_ms: u64, took_ms: u64, to: &[&str], failed: bool) -> CallRecord {
        let attempt = |(n, id): (usize, &&str)| Attempt {
            instance: InstanceId::new(id),
            answered: !failed && n + 1 == to.len(),
        };
        CallRecord {
            due: Duration::from_millis(due_ms),
            took: Duration::from_millis(took_ms),
            idempotent: true,
            failure: failed.then(|| (Code::Unavailable, "gone".into())),
            attempts: to.iter().enumerate().map(attempt).collect(),
        }
    }

    fn call_log() -> CallLog {
        CallLog::new(vec![
            call(0, 5, &["a"], false),
            call(100, 5, &["a", "b"], false),
            call(200, 50, &["b"], true),
            call(3000, 5, &["a"], false),
        ])
    }

    #[test]
    fn a_retried_call_counts_for_both_instances() {
        let (a, b) = (InstanceId::new("a"), InstanceId::new("b"));
        assert!((call_log().share(&a) - 0.6).abs() < 1e-9 && (call_log().share(&b) - 0.4).abs() < 1e-9);
        assert!((call_log().attempts_per_call() - 1.25).abs() < 1e-9);
        assert_eq!(call_log().filter(|call| call.succeeded_on(&b)).calls(), 1, "b failed the last one");
        assert_eq!((call_log().failed(true), call_log().failed(false)), (1, 0));
    }

    #[test]
    fn a_gap_is_a_time_without_a_send() {
        let second = Duration::from_secs(1);
        let gaps = call_log().gaps(&InstanceId::new("a"), Duration::ZERO..4 * second, second);
        assert_eq!(gaps, [Duration::from_millis(100)..3 * second, 3 * second..4 * second]);
    }

    #[test]
    fn a_percentile_is_of_the_calls_that_were_made() {
        assert_eq!(call_log().percentile(0.5), Duration::from_millis(5));
        assert_eq!(call_log().percentile(1.0), Duration::from_millis(50));
        assert_eq!(call_log().due(Duration::ZERO..Duration::ZERO).percentile(0.99), Duration::ZERO);
    }
}
