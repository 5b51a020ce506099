//! The report of a load run: a line per call, a line per second, a summary.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
    time::Duration,
};

use hdrhistogram::{CreationError, Histogram};
use serde::Serialize;

/// The code of a call that was due while too many others were in flight.
const NOT_SENT: &str = "NOT_SENT";

/// The precision of the latency histogram in decimal digits.
const SIGNIFICANT_DIGITS: u8 = 3;
const MAX_LATENCY: Duration = Duration::from_secs(86_400);

/// The outcome of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallRecord {
    /// The due time, after the start.
    pub(crate) due: Duration,
    /// The gRPC code as it is written, or [`NOT_SENT`].
    pub(crate) code: &'static str,
    /// The latency, from the due time to the end.
    pub(crate) took: Duration,
    /// The instance that responded.
    pub(crate) endpoint: Option<String>,
    /// The number of attempts.
    pub(crate) attempts: u32,
    /// The message of a failed call.
    pub(crate) message: Option<Box<str>>,
}

impl CallRecord {
    /// The record of a call that was due while too many others were in flight.
    pub(crate) fn not_sent(due: Duration) -> Self {
        let message = Some("too many calls were in flight; raise --in-flight-max".into());
        Self { due, code: NOT_SENT, took: Duration::ZERO, endpoint: None, attempts: 0, message }
    }

    /// Returns whether the call succeeded.
    pub(crate) fn is_ok(&self) -> bool {
        self.code == "OK"
    }
}

/// A call's line under `--json`.
#[derive(Serialize)]
struct CallLine<'a> {
    t: f64,
    ok: bool,
    code: &'a str,
    ms: f64,
    endpoint: Option<&'a str>,
    attempts: u32,
    idempotent: bool,
}

/// The last line under `--json`.
#[derive(Serialize)]
struct SummaryLine<'a> {
    summary: &'a Summary,
}

/// The totals of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) calls: u64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) attempts: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    /// Calls answered, by instance.
    pub(crate) by_endpoint: BTreeMap<String, u64>,
    /// Calls, by code.
    pub(crate) by_code: BTreeMap<&'static str, u64>,
}

/// Counts and latencies of calls.
#[derive(Debug)]
struct Tally {
    calls: u64,
    failed: u64,
    attempts: u64,
    /// In microseconds; of calls that were sent.
    times: Histogram<u64>,
    max: Duration,
}

impl Tally {
    fn new() -> Result<Self, CreationError> {
        Ok(Self {
            calls: 0,
            failed: 0,
            attempts: 0,
            times: Histogram::new(SIGNIFICANT_DIGITS)?,
            max: Duration::ZERO,
        })
    }

    fn reset(&mut self) {
        (self.calls, self.failed, self.attempts, self.max) = (0, 0, 0, Duration::ZERO);
        self.times.reset();
    }

    fn add(&mut self, record: &CallRecord) {
        self.calls += 1;
        self.failed += u64::from(!record.is_ok());
        self.attempts += u64::from(record.attempts);
        if record.code != NOT_SENT {
            self.max = self.max.max(record.took);
            // The histogram grows to hold it, up to a day: no more is measured.
            let micros = record.took.min(MAX_LATENCY).as_micros();
            self.times += u64::try_from(micros).unwrap_or(u64::MAX);
        }
    }

    fn ms(&self, quantile: f64) -> f64 {
        // A bucket's upper end may lie above the longest time in it.
        millis(Duration::from_micros(self.times.value_at_quantile(quantile)).min(self.max))
    }

    fn max_ms(&self) -> f64 {
        millis(self.max)
    }
}

/// Collects records and writes lines in the chosen format.
pub(crate) struct Report<W> {
    out: W,
    json: bool,
    idempotent: bool,
    all: Tally,
    /// Since the last progress line.
    second: Tally,
    by_endpoint: BTreeMap<String, u64>,
    by_code: BTreeMap<&'static str, u64>,
    /// The last message, by code.
    last_messages: BTreeMap<&'static str, Box<str>>,
}

impl<W: Write> Report<W> {
    /// A report of calls that are all `idempotent` or all not, onto `out`.
    ///
    /// # Errors
    /// When there is no memory for its histograms.
    pub(crate) fn new(out: W, json: bool, idempotent: bool) -> Result<Self, CreationError> {
        Ok(Self {
            out,
            json,
            idempotent,
            all: Tally::new()?,
            second: Tally::new()?,
            by_endpoint: BTreeMap::new(),
            by_code: BTreeMap::new(),
            last_messages: BTreeMap::new(),
        })
    }

    /// Adds one call.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub(crate) fn add(&mut self, record: CallRecord) -> io::Result<()> {
        self.all.add(&record);
        *self.by_code.entry(record.code).or_default() += 1;
        if self.json {
            serde_json::to_writer(
                &mut self.out,
                &CallLine {
                    t: rounded(record.due.as_secs_f64(), 1e6),
                    ok: record.is_ok(),
                    code: record.code,
                    ms: millis(record.took),
                    endpoint: record.endpoint.as_deref(),
                    attempts: record.attempts,
                    idempotent: self.idempotent,
                },
            )?;
            self.out.write_all(b"\n")?;
        } else {
            self.second.add(&record);
        }
        if let Some(message) = record.message {
            self.last_messages.insert(record.code, message);
        }
        if let Some(endpoint) = record.endpoint {
            *self.by_endpoint.entry(endpoint).or_default() += 1;
        }
        Ok(())
    }

    /// Writes the line of the last second, `elapsed` after the start.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub(crate) fn tick(&mut self, elapsed: Duration) -> io::Result<()> {
        if !self.json {
            let second = &self.second;
            writeln!(
                self.out,
                "{:>5.0} s {:>8} calls {:>7} failed   p50 {:>9.3} ms   p99 {:>9.3} ms   max {:>9.3} ms",
                elapsed.as_secs_f64(),
                second.calls,
                second.failed,
                second.ms(0.5),
                second.ms(0.99),
                second.max_ms(),
            )?;
            self.second.reset();
        }
        self.out.flush()
    }

    /// Writes the summary.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn finish(mut self) -> io::Result<Summary> {
        let summary = Summary {
            calls: self.all.calls,
            ok: self.all.calls - self.all.failed,
            failed: self.all.failed,
            attempts: self.all.attempts,
            p50_ms: self.all.ms(0.5),
            p99_ms: self.all.ms(0.99),
            p999_ms: self.all.ms(0.999),
            max_ms: self.all.max_ms(),
            by_endpoint: self.by_endpoint,
            by_code: self.by_code,
        };
        if self.json {
            serde_json::to_writer(&mut self.out, &SummaryLine { summary: &summary })?;
            self.out.write_all(b"\n")?;
        } else {
            write!(self.out, "{summary}")?;
            for (code, message) in self.last_messages.iter().filter(|(_, message)| !message.is_empty()) {
                writeln!(self.out, "\nlast {code}: {message}")?;
            }
        }
        self.out.flush()?;
        Ok(summary)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, ok, failed, attempts, .. } = self;
        writeln!(f, "\ncalls {calls}   ok {ok}   failed {failed}   attempts {attempts}")?;
        writeln!(
            f,
            "p50 {:.3} ms   p99 {:.3} ms   p99.9 {:.3} ms   max {:.3} ms",
            self.p50_ms, self.p99_ms, self.p999_ms, self.max_ms
        )?;
        let mut table = |title: &str, rows: Vec<(&str, u64)>| -> fmt::Result {
            let width = rows.iter().map(|(name, _)| name.len()).chain([title.len()]).max().unwrap_or(0);
            writeln!(f, "\n{title:width$} {:>10} {:>7}", "CALLS", "SHARE")?;
            for (name, count) in rows {
                #[allow(clippy::cast_precision_loss)]
                let share = 100.0 * count as f64 / (*calls).max(1) as f64;
                writeln!(f, "{name:width$} {count:>10} {share:>6.1}%")?;
            }
            Ok(())
        };
        table("ANSWERED BY", self.by_endpoint.iter().map(|(k, n)| (k.as_str(), *n)).collect())?;
        table("CODE", self.by_code.iter().map(|(k, n)| (*k, *n)).collect())
    }
}

fn millis(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3, 1e3)
}

/// Rounds `value` to the nearest 1/`parts`.
fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(code: &'static str, ms: u64, endpoint: Option<&str>) -> CallRecord {
        CallRecord {
            due: Duration::from_millis(1500),
            code,
            took: Duration::from_millis(ms),
            endpoint: endpoint.map(str::to_owned),
            attempts: u32::from(code != NOT_SENT),
            message: (code != "OK").then(|| "no reason".into()),
        }
    }

    #[test]
    fn json_lines_have_exactly_the_promised_keys() {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, true, true).unwrap();
        report.add(record("OK", 2, Some("cart-1"))).unwrap();
        report.add(record("UNAVAILABLE", 7, None)).unwrap();
        report.tick(Duration::from_secs(1)).unwrap();
        report.finish().unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"t":1.5,"ok":true,"code":"OK","ms":2.0,"endpoint":"cart-1","attempts":1,"idempotent":true}"#
        );
        assert_eq!(
            lines[1],
            r#"{"t":1.5,"ok":false,"code":"UNAVAILABLE","ms":7.0,"endpoint":null,"attempts":1,"idempotent":true}"#
        );
        let last: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
        let summary = last["summary"].as_object().unwrap();
        let keys = [
            "calls",
            "ok",
            "failed",
            "attempts",
            "p50_ms",
            "p99_ms",
            "p999_ms",
            "max_ms",
            "by_endpoint",
            "by_code",
        ];
        assert!(keys.iter().all(|k| summary.contains_key(*k)), "{last}");
        assert_eq!(summary["by_code"], serde_json::json!({"OK": 1, "UNAVAILABLE": 1}));
        assert_eq!(summary["by_endpoint"], serde_json::json!({"cart-1": 1}));
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_call_that_was_not_sent_fails_without_touching_the_times() {
        let mut report = Report::new(Vec::new(), true, false).unwrap();
        report.add(record("OK", 5, Some("a"))).unwrap();
        report.add(record(NOT_SENT, 0, None)).unwrap();
        let summary = report.finish().unwrap();
        assert_eq!((summary.calls, summary.ok, summary.failed, summary.attempts), (2, 1, 1, 1));
        assert!((summary.p50_ms - 5.0).abs() < 0.1, "{}", summary.p50_ms);
    }

    #[test]
    fn text_shows_each_second_and_who_answered() {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, false, true).unwrap();
        report.add(record("OK", 2, Some("cart-1"))).unwrap();
        report.add(record("NOT_FOUND", 2, Some("cart-1"))).unwrap();
        report.tick(Duration::from_secs(1)).unwrap();
        report.tick(Duration::from_secs(2)).unwrap();
        report.finish().unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].contains("2 calls") && lines[1].contains("0 calls"), "{text}");
        assert!(text.contains("cart-1") && text.contains("100.0%"), "{text}");
        assert!(text.ends_with("last NOT_FOUND: no reason\n"), "{text}");
    }
}
