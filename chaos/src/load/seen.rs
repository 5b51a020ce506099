//! What a load saw, and what can be read out of it.

use std::{ops::Range, time::Duration};

use registry_client::instance::InstanceId;
use tonic::Code;

/// What became of one call.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// When it was due, after the load's start.
    pub(crate) due: Duration,
    /// From when it was due until its end.
    pub(crate) took: Duration,
    /// Whether it may be sent again.
    pub(crate) idempotent: bool,
    /// How it failed, if it did.
    pub(crate) failure: Option<(Code, Box<str>)>,
    /// Where it was sent to, in order.
    pub(crate) attempts: Vec<Attempt>,
}

/// One send of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) instance: InstanceId,
    /// Whether the instance answered, with whatever status.
    pub(crate) answered: bool,
}

impl Record {
    /// When it ended, after the load's start.
    pub(crate) fn end(&self) -> Duration {
        self.due + self.took
    }

    /// Whether it was sent to that instance.
    pub(crate) fn went_to(&self, instance: &InstanceId) -> bool {
        self.attempts.iter().any(|attempt| attempt.instance == *instance)
    }

    /// Whether that instance gave the good answer.
    pub(crate) fn answered_by(&self, instance: &InstanceId) -> bool {
        let last = self.attempts.last();
        self.failure.is_none() && last.is_some_and(|a| a.answered && a.instance == *instance)
    }
}

/// The calls of a load, or of a part of it, in the order of their ends.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    records: Vec<Record>,
}

impl Seen {
    pub(crate) fn new(records: Vec<Record>) -> Self {
        Self { records }
    }

    /// The calls.
    pub(crate) fn all(&self) -> &[Record] {
        &self.records
    }

    /// Those that were due within `time`.
    pub(crate) fn due(&self, time: Range<Duration>) -> Self {
        self.only(|record| time.contains(&record.due))
    }

    /// Those that are as `wanted` says.
    pub(crate) fn only(&self, wanted: impl Fn(&Record) -> bool) -> Self {
        Self::new(self.records.iter().filter(|r| wanted(r)).cloned().collect())
    }

    /// How many there are.
    pub(crate) fn calls(&self) -> usize {
        self.records.len()
    }

    /// How many failed, of those that may be sent again or of the others.
    pub(crate) fn failed(&self, idempotent: bool) -> usize {
        self.records.iter().filter(|r| r.failure.is_some() && r.idempotent == idempotent).count()
    }

    /// The part that did not fail, 0 to 1; 1 where there was no call.
    pub(crate) fn success(&self) -> f64 {
        let failed = self.failed(true) + self.failed(false);
        1.0 - ratio(failed, self.calls())
    }

    /// Sends per call.
    pub(crate) fn attempts_per_call(&self) -> f64 {
        ratio(self.attempts(), self.calls())
    }

    /// Sends.
    pub(crate) fn attempts(&self) -> usize {
        self.records.iter().map(|r| r.attempts.len()).sum()
    }

    /// The most sends of one call.
    pub(crate) fn most_attempts(&self) -> usize {
        self.records.iter().map(|r| r.attempts.len()).max().unwrap_or(0)
    }

    /// The part of all sends that went to that instance, 0 to 1.
    pub(crate) fn share(&self, instance: &InstanceId) -> f64 {
        let sent = self.records.iter().flat_map(|r| &r.attempts);
        ratio(sent.filter(|a| a.instance == *instance).count(), self.attempts())
    }

    /// When the last call was due that was sent to that instance.
    pub(crate) fn last_sent_to(&self, instance: &InstanceId) -> Option<Duration> {
        self.records.iter().filter(|r| r.went_to(instance)).map(|r| r.due).max()
    }

    /// Every time longer than `least` within `time` in which no call was sent
    /// to that instance.
    pub(crate) fn gaps(
        &self,
        instance: &InstanceId,
        time: Range<Duration>,
        least: Duration,
    ) -> Vec<Range<Duration>> {
        let mut sent: Vec<_> = self
            .records
            .iter()
            .filter(|r| time.contains(&r.due) && r.went_to(instance))
            .map(|r| r.due)
            .collect();
        sent.sort_unstable();
        let marks: Vec<_> = std::iter::once(time.start).chain(sent).chain([time.end]).collect();
        let pairs = marks.windows(2).map(|pair| pair[0]..pair[1]);
        pairs.filter(|gap| gap.end.saturating_sub(gap.start) >= least).collect()
    }

    /// The time within which that part of the calls ended; nothing when there
    /// was none.
    pub(crate) fn percentile(&self, part: f64) -> Duration {
        let mut times: Vec<_> = self.records.iter().map(|r| r.took).collect();
        times.sort_unstable();
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rank = (times.len() as f64 * part).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// The first few failures, in words.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = self.records.iter().filter_map(|r| Some((r, r.failure.as_ref()?)));
        let line = |(record, (code, said)): (&Record, &(Code, Box<str>))| {
            let kind = if record.idempotent { "idempotent" } else { "other" };
            let at = record.due.as_secs_f64();
            format!("{at:.3} s, {kind}, {} attempts, {code:?}: {said}", record.attempts.len())
        };
        failed.map(line).take(5).collect()
    }
}

/// `part` of `whole`; 0 of nothing.
pub(crate) fn ratio(part: usize, whole: usize) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
    let (part, whole) = (part as f64, whole.max(1) as f64);
    part / whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(due_ms: u64, took_ms: u64, to: &[&str], failed: bool) -> Record {
        let attempt = |(n, id): (usize, &&str)| Attempt {
            instance: InstanceId::new(id),
            answered: !failed && n + 1 == to.len(),
        };
        Record {
            due: Duration::from_millis(due_ms),
            took: Duration::from_millis(took_ms),
            idempotent: true,
            failure: failed.then(|| (Code::Unavailable, "gone".into())),
            attempts: to.iter().enumerate().map(attempt).collect(),
        }
    }

    fn seen() -> Seen {
        Seen::new(vec![
            call(0, 5, &["a"], false),
            call(100, 5, &["a", "b"], false),
            call(200, 50, &["b"], true),
            call(3000, 5, &["a"], false),
        ])
    }

    #[test]
    fn a_retried_call_counts_for_both_instances() {
        let (a, b) = (InstanceId::new("a"), InstanceId::new("b"));
        assert!((seen().share(&a) - 0.6).abs() < 1e-9 && (seen().share(&b) - 0.4).abs() < 1e-9);
        assert!((seen().attempts_per_call() - 1.25).abs() < 1e-9);
        assert_eq!(seen().only(|call| call.answered_by(&b)).calls(), 1, "b failed the last one");
        assert_eq!((seen().failed(true), seen().failed(false)), (1, 0));
    }

    #[test]
    fn a_gap_is_a_time_without_a_send() {
        let second = Duration::from_secs(1);
        let gaps = seen().gaps(&InstanceId::new("a"), Duration::ZERO..4 * second, second);
        assert_eq!(gaps, [Duration::from_millis(100)..3 * second, 3 * second..4 * second]);
    }

    #[test]
    fn a_percentile_is_of_the_calls_that_were_made() {
        assert_eq!(seen().percentile(0.5), Duration::from_millis(5));
        assert_eq!(seen().percentile(1.0), Duration::from_millis(50));
        assert_eq!(seen().due(Duration::ZERO..Duration::ZERO).percentile(0.99), Duration::ZERO);
    }
}
