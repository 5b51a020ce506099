//! The scoreboard of a demo, and its verdict.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use serde::Serialize;

use crate::load::CallRecord;

/// The records of all calls.
#[derive(Debug, Default)]
pub(crate) struct Scoreboard {
    records: Vec<CallRecord>,
    /// The number of records at the last line.
    shown: usize,
}

/// One line of the scoreboard.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ScoreboardLine {
    /// Seconds since the start.
    pub(crate) t: u64,
    pub(crate) ok: usize,
    pub(crate) failed: usize,
    pub(crate) attempts: u32,
    pub(crate) by_endpoint: BTreeMap<String, usize>,
}

/// One target with its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Target {
    pub(crate) target: &'static str,
    pub(crate) measured: String,
    pub(crate) met: bool,
}

impl Scoreboard {
    pub(crate) fn add(&mut self, record: CallRecord) {
        self.records.push(record);
    }

    /// The line for the records since the last line.
    pub(crate) fn line(&mut self, t: u64) -> ScoreboardLine {
        let new = &self.records[self.shown..];
        let ok = new.iter().filter(|r| r.is_ok()).count();
        let mut by_endpoint = BTreeMap::new();
        for endpoint in new.iter().filter_map(|r| r.endpoint.clone()) {
            *by_endpoint.entry(endpoint).or_default() += 1;
        }
        let attempts = new.iter().map(|r| r.attempts).sum();
        let line = ScoreboardLine { t, ok, failed: new.len() - ok, attempts, by_endpoint };
        self.shown = self.records.len();
        line
    }

    /// The target that no call fails; counts the failures and quotes the first.
    pub(crate) fn no_failure(&self) -> Target {
        let failed: Vec<_> = self.records.iter().filter(|r| !r.is_ok()).collect();
        let mut codes = BTreeMap::<_, usize>::new();
        for record in &failed {
            *codes.entry(record.code).or_default() += 1;
        }
        let codes: Vec<_> = codes.iter().map(|(code, count)| format!(", {count} with {code}")).collect();
        let first = failed.first().and_then(|r| r.message.as_deref());
        let first = first.map(|message| format!("; the first: {message}")).unwrap_or_default();
        Target {
            target: "no call fails",
            measured: format!("{} of {} failed{}{first}", failed.len(), self.records.len(), codes.concat()),
            met: failed.is_empty() && !self.records.is_empty(),
        }
    }

    /// The target that `instance` responds to a call that was due after `from`,
    /// within `limit` of it.
    pub(crate) fn responds_again(
        &self,
        target: &'static str,
        instance: &str,
        from: Duration,
        limit: Duration,
    ) -> Target {
        let responses = self.responses(instance).filter(|r| r.due >= from);
        let took = responses.map(|r| r.due + r.took - from).min();
        let measured = took.map_or_else(|| "never".to_owned(), |t| format!("after {:.2} s", t.as_secs_f64()));
        Target { target, measured, met: took.is_some_and(|took| took <= limit) }
    }

    /// The target that `instance` responds to at most the share `max` of the
    /// calls due within `time`.
    pub(crate) fn max_share(
        &self,
        target: &'static str,
        instance: &str,
        time: &Range<Duration>,
        max: f64,
    ) -> Target {
        let all = self.records.iter().filter(|r| time.contains(&r.due)).count();
        let own = self.responses(instance).filter(|r| time.contains(&r.due)).count();
        #[allow(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
        let max_share = own as f64 / all.max(1) as f64;
        Target { target, measured: format!("{:.1} %", max_share * 100.0), met: all > 0 && max_share <= max }
    }

    /// The target that every call ends within `limit`.
    pub(crate) fn longest_call(&self, target: &'static str, limit: Duration) -> Target {
        let longest_call = self.records.iter().map(|r| r.took).max().unwrap_or_default();
        Target {
            target,
            measured: format!("{:.3} s", longest_call.as_secs_f64()),
            met: longest_call <= limit,
        }
    }

    /// The target that `expected` instances respond within `time`.
    pub(crate) fn all_respond(
        &self,
        target: &'static str,
        time: &Range<Duration>,
        expected: usize,
    ) -> Target {
        let records = self.records.iter().filter(|r| time.contains(&r.due));
        let endpoints = records.filter_map(|r| r.endpoint.as_deref());
        let count = endpoints.collect::<std::collections::BTreeSet<_>>().len();
        Target { target, measured: format!("{count} of {expected}"), met: count >= expected }
    }

    fn responses(&self, instance: &str) -> impl Iterator<Item = &CallRecord> {
        self.records.iter().filter(move |r| r.is_ok() && r.endpoint.as_deref() == Some(instance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scoreboard() -> Scoreboard {
        let call = |due: u64, endpoint: &str, ok: bool| CallRecord {
            due: Duration::from_secs(due),
            code: if ok { "OK" } else { "UNAVAILABLE" },
            took: Duration::from_millis(10),
            endpoint: Some(endpoint.to_owned()),
            attempts: 1,
            message: (!ok).then(|| "gone".into()),
        };
        let mut scoreboard = Scoreboard::default();
        for record in [call(1, "a", true), call(2, "b", true), call(3, "b", false), call(9, "a", true)] {
            scoreboard.add(record);
        }
        scoreboard
    }

    #[test]
    fn a_line_is_what_came_since_the_last() {
        let mut scoreboard = scoreboard();
        let line = scoreboard.line(1);
        assert_eq!((line.ok, line.failed, line.attempts), (3, 1, 4));
        assert_eq!(line.by_endpoint["b"], 2);
        assert_eq!(scoreboard.line(2).ok, 0);
    }

    #[test]
    fn a_failure_misses_its_target_and_says_why() {
        let target = scoreboard().no_failure();
        assert!(!target.met && target.measured.contains("gone"), "{target:?}");
        assert!(!Scoreboard::default().no_failure().met, "nothing was called");
    }

    #[test]
    fn an_instance_is_back_with_its_first_good_answer() {
        let second = Duration::from_secs(1);
        assert!(scoreboard().responds_again("", "a", 2 * second, 8 * second).met);
        assert!(!scoreboard().responds_again("", "a", 2 * second, 6 * second).met);
        assert!(
            !scoreboard().responds_again("", "b", 3 * second, 60 * second).met,
            "it answered with a failure"
        );
    }
}
