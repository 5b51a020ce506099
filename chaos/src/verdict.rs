//! The figures of a scenario, measured and promised.

use std::{borrow::Cow, time::Duration};

use serde::Serialize;

use crate::load::CallLog;

/// The outcome of one scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ScenarioOutcome {
    /// The fault in words and numbers.
    pub(crate) fault: String,
    pub(crate) calls: usize,
    pub(crate) failed_idempotent: usize,
    pub(crate) failed_other: usize,
    /// The longest time from a fault until no call was sent there any more.
    pub(crate) detect_seconds: Option<f64>,
    /// The longest time from a fault's end until all was as before.
    pub(crate) recover_seconds: Option<f64>,
    pub(crate) attempts_per_call: f64,
    pub(crate) figures: Vec<Figure>,
    /// The first failures.
    pub(crate) failures: Vec<String>,
}

/// One figure and its promise.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: Cow<'static, str>,
    pub(crate) measured: String,
    pub(crate) promised: String,
    pub(crate) held: bool,
    /// The place in the code to look at when it was missed.
    pub(crate) look: &'static str,
}

impl ScenarioOutcome {
    /// The outcome with the load's totals, without figures.
    pub(crate) fn of(fault: impl Into<String>, call_log: &CallLog) -> Self {
        Self {
            fault: fault.into(),
            calls: call_log.calls(),
            failed_idempotent: call_log.failed(true),
            failed_other: call_log.failed(false),
            attempts_per_call: call_log.attempts_per_call(),
            failures: call_log.failures(),
            ..Self::default()
        }
    }

    /// Returns whether every figure held.
    pub(crate) fn held(&self) -> bool {
        self.figures.iter().all(|figure| figure.held)
    }

    /// Records a detection time; the longest counts.
    pub(crate) fn detected(&mut self, after: Option<Duration>) {
        self.detect_seconds = longest(self.detect_seconds, after);
    }

    /// Records a recovery time; the longest counts.
    pub(crate) fn recovered(&mut self, after: Option<Duration>) {
        self.recover_seconds = longest(self.recover_seconds, after);
    }

    /// Adds a count with an upper limit.
    pub(crate) fn at_most(&mut self, what: &'static str, count: usize, max: usize, look: &'static str) {
        self.figure(what, count.to_string(), format!("≤ {max}"), count <= max, look);
    }

    /// Adds a number with an upper limit.
    pub(crate) fn below(&mut self, what: &'static str, is: f64, max: f64, look: &'static str) {
        self.figure(what, format!("{is:.3}"), format!("≤ {max}"), is <= max, look);
    }

    /// Adds a number with a lower limit.
    pub(crate) fn above(&mut self, what: &'static str, is: f64, min: f64, look: &'static str) {
        self.figure(what, format!("{is:.4}"), format!("≥ {min}"), is >= min, look);
    }

    /// Adds a time with an upper limit; `None` misses it.
    pub(crate) fn within(
        &mut self,
        what: &'static str,
        took: Option<Duration>,
        max: Duration,
        look: &'static str,
    ) {
        let measured = took.map_or_else(|| "never".to_owned(), |took| format!("{:.3} s", took.as_secs_f64()));
        let held = took.is_some_and(|took| took <= max);
        self.figure(what, measured, format!("≤ {:.3} s", max.as_secs_f64()), held, look);
    }

    /// Adds any other figure.
    pub(crate) fn figure(
        &mut self,
        what: &'static str,
        measured: String,
        promised: String,
        held: bool,
        look: &'static str,
    ) {
        self.figures.push(Figure { what: what.into(), measured, promised, held, look });
    }

    /// Adds the outcome of a part, with its figures named after it.
    pub(crate) fn add(&mut self, name: &str, part: Self) {
        let attempts = self.attempts() + part.attempts();
        self.calls += part.calls;
        #[allow(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
        let calls = self.calls.max(1) as f64;
        self.attempts_per_call = attempts / calls;
        self.failed_idempotent += part.failed_idempotent;
        self.failed_other += part.failed_other;
        self.detect_seconds = self.detect_seconds.into_iter().chain(part.detect_seconds).reduce(f64::max);
        self.recover_seconds = self.recover_seconds.into_iter().chain(part.recover_seconds).reduce(f64::max);
        if !part.held() {
            self.failures.extend(part.failures.iter().map(|failure| format!("{name}: {failure}")));
        }
        let named = |figure: Figure| Figure { what: format!("{name}: {}", figure.what).into(), ..figure };
        self.figures.extend(part.figures.into_iter().map(named));
    }

    fn attempts(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
        let calls = self.calls as f64;
        self.attempts_per_call * calls
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let seconds = |s: Option<f64>| s.map_or_else(|| "–".to_owned(), |s| format!("{s:.2} s"));
        let mut text = format!(
            "    {}\n    {} calls, failed: {} idempotent, {} other; detected {}, recovered {}, \
             {:.3} attempts per call\n",
            self.fault,
            self.calls,
            self.failed_idempotent,
            self.failed_other,
            seconds(self.detect_seconds),
            seconds(self.recover_seconds),
            self.attempts_per_call,
        );
        for Figure { what, measured, promised, held, look } in &self.figures {
            let mark = if *held { "held  " } else { "MISSED" };
            text += &format!("    {mark} {what}: {measured} ({promised})\n");
            if !held {
                text += &format!("           look at {look}\n");
            }
        }
        if !self.held() {
            for failure in &self.failures {
                text += &format!("           failed: {failure}\n");
            }
        }
        text
    }

    /// The row in the table, without the id.
    pub(crate) fn row(&self) -> String {
        let seconds = |s: Option<f64>| s.map_or_else(|| "–".to_owned(), |s| format!("{s:.2} s"));
        let missed: Vec<_> = self.figures.iter().filter(|f| !f.held).map(|f| &*f.what).collect();
        let verdict =
            if missed.is_empty() { "held".to_owned() } else { format!("missed: {}", missed.join("; ")) };
        format!(
            "{} | {} of {} ({} idempotent) | {} | {} | {:.3} | {verdict}",
            self.fault,
            self.failed_idempotent + self.failed_other,
            self.calls,
            self.failed_idempotent,
            seconds(self.detect_seconds),
            seconds(self.recover_seconds),
            self.attempts_per_call,
        )
    }
}

fn longest(current: Option<f64>, new: Option<Duration>) -> Option<f64> {
    let new = new.map(|time| time.as_secs_f64());
    current.into_iter().chain(new).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_missed_figure_is_a_missed_scenario_and_says_where_to_look() {
        let mut outcome = ScenarioOutcome::default();
        outcome.at_most("failed calls", 0, 0, "the retries");
        assert!(outcome.held());
        outcome.within("out", None, Duration::from_secs(2), "the keep-alive");
        assert!(!outcome.held());
        assert!(outcome.text().contains("look at the keep-alive"), "{}", outcome.text());
        assert!(outcome.row().ends_with("missed: out"), "{}", outcome.row());
    }

    #[test]
    fn a_part_that_was_missed_is_named_and_misses_the_whole() {
        let mut whole = ScenarioOutcome { calls: 10, attempts_per_call: 1.0, ..ScenarioOutcome::default() };
        let mut part = ScenarioOutcome {
            calls: 10,
            attempts_per_call: 2.0,
            failed_other: 3,
            ..ScenarioOutcome::default()
        };
        part.at_most("failed calls", 3, 0, "the retries");
        whole.add("R6", part);
        assert!(!whole.held() && whole.row().ends_with("missed: R6: failed calls"), "{}", whole.row());
        assert_eq!((whole.calls, whole.failed_other), (20, 3));
        assert!((whole.attempts_per_call - 1.5).abs() < 1e-9);
    }

    #[test]
    fn the_longest_time_counts() {
        let mut outcome = ScenarioOutcome::default();
        outcome.recovered(None);
        assert_eq!(outcome.recover_seconds, None);
        for seconds in [1, 3, 2] {
            outcome.recovered(Some(Duration::from_secs(seconds)));
        }
        assert_eq!(outcome.recover_seconds, Some(3.0));
    }
}
