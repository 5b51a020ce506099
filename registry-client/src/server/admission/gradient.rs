//! The adaptive concurrency limit of one method, learnt from latencies. Plain
//! arithmetic: the time is a parameter, nothing waits.
//!
//! The gradient of Netflix's `concurrency-limits` (`Gradient2Limit`): the limit
//! is multiplied by *tolerated latency / observed latency*. The differences,
//! and their reasons:
//!
//! - One limit per method instead of one per server, so that a slow method, a
//!   long poll, or one whose dependency hangs does not take capacity from the
//!   others, and a changed mix of methods is no change of latency.
//! - The baseline is the latency of calls that began while few were in flight,
//!   which Envoy's adaptive concurrency measures on purpose. A moving average
//!   of all calls, as in `Gradient2Limit`, learns a long overload as normal. A
//!   few calls are always admitted, so a lasting change is learnt even at the
//!   lowest limit.
//! - Only a standing queue counts, one that lasts for [`STANDING_QUEUE_TIME`],
//!   as in `CoDel` (RFC 8289): a burst that drains by itself is no overload.
//! - Without calls in flight there is no queue: the congestion is over, and the
//!   limit starts anew. An idle server never rejects.

use std::time::{Duration, Instant};

/// The time for which latency must be too high before the limit shrinks.
const STANDING_QUEUE_TIME: Duration = Duration::from_secs(1);
/// The time for which calls must have been rejected without a break for a queue
/// to count as standing. A burst is rejected at once, or within less.
const STANDING_REJECTION_TIME: Duration = Duration::from_millis(250);
/// The bounds of the interval between two adjustments, which is the mean
/// latency.
const MIN_WINDOW: Duration = Duration::from_millis(250);
const MAX_WINDOW: Duration = Duration::from_secs(1);
/// The time without a baseline sample after which a standing queue is drained
/// to measure the baseline again (Envoy: 60 s).
const BASELINE_TIMEOUT: Duration = Duration::from_secs(10);
/// The least number of calls between two adjustments.
const MIN_WINDOW_CALLS: u32 = 10;
/// The tolerated latency as a multiple of the baseline (Netflix: 1.5), plus a
/// slack in seconds (that of `CoDel`), because fast methods vary by more.
const TOLERANCE: f64 = 2.0;
const SLACK: f64 = 0.005;
/// The tolerated latency as a share of the caller's timeout, where that is more
/// and the limit has not shrunk: a call that is done in a quarter of its time
/// is useful work. A machine that is slow for a while then rejects nothing that
/// can still be done. A larger share would not leave enough margin for the
/// oscillation of the limit: admitted calls would expire.
const CALLER_TIMEOUT_SHARE: f64 = 0.25;
/// The assumed timeout of a caller without one.
const DEFAULT_CALLER_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest factor of one adjustment, up or down.
const MAX_STEP: f64 = 2.0;
/// The largest weight of one call, so that a few outliers are not a trend.
const MAX_STRAIN: f64 = 10.0;

/// The bounds of the limit, in concurrent calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) min: usize,
    pub(super) max: usize,
    pub(super) initial: usize,
}

/// The start of an admitted call.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallStart {
    at: Instant,
    /// The calls in flight then, this one included.
    in_flight: usize,
    /// The caller's timeout in seconds.
    caller_timeout: f64,
}

/// The end of a call, for the meaning of its duration.
#[derive(Clone, Copy, Debug)]
pub(super) enum CallEnd {
    /// The handler has completed.
    Completed,
    /// The caller gave up, or the deadline passed: the call would have taken
    /// longer.
    CutOff,
    /// The call failed, which may be fast or slow for reasons other than load.
    Failed,
}

/// The adaptive limit of one method.
#[derive(Debug)]
pub(super) struct Gradient {
    bounds: Bounds,
    limit: f64,
    /// The latency in seconds of calls that began with at most `bounds.min` in
    /// flight.
    baseline: Mean,
    /// The end of the last such call.
    baseline_at: Instant,
    /// The time at which the limit was last lowered to measure the baseline
    /// again.
    drained_at: Option<Instant>,
    /// A slow moving average of all latencies in seconds: corrects a `baseline`
    /// that was learnt during a cold start if no further sample comes.
    recent: Mean,
    window: Window,
    /// The time since which latency has been too high without a break.
    overloaded_since: Option<Instant>,
    /// The times of the first and the last rejection above the limit, without a
    /// break longer than [`MAX_WINDOW`] in between.
    rejections: Option<(Instant, Instant)>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    length: Duration,
    calls: u32,
    /// The sum of latencies, each as a multiple of the tolerated one.
    strain: f64,
    /// The sum of latencies in seconds.
    latency: f64,
    /// The most concurrent calls.
    peak: usize,
}

impl Gradient {
    pub(super) fn new(bounds: Bounds, now: Instant) -> Self {
        Self {
            bounds,
            limit: bounds.initial as f64,
            baseline: Mean::new(64),
            baseline_at: now,
            drained_at: None,
            recent: Mean::new(256),
            window: Window::new(now, MIN_WINDOW, 0),
            overloaded_since: None,
            rejections: None,
        }
    }

    /// The current limit.
    pub(super) fn limit(&self) -> usize {
        self.limit.ceil() as usize
    }

    /// The recent latency of a call in seconds; `None` before the first.
    pub(super) fn latency(&self) -> Option<f64> {
        self.recent.value()
    }

    /// Records the start of a call, with `in_flight` calls including it, and a
    /// caller that waits for `caller_timeout`.
    pub(super) fn begin(
        &mut self,
        in_flight: usize,
        caller_timeout: Option<Duration>,
        now: Instant,
    ) -> CallStart {
        // A limiter that was just drained is empty for that reason alone.
        let was_drained =
            self.drained_at.is_some_and(|at| now.saturating_duration_since(at) < STANDING_QUEUE_TIME);
        if in_flight <= 1 && !was_drained {
            self.limit = self.bounds.initial as f64;
            self.overloaded_since = None;
            self.window = Window::new(now, MIN_WINDOW, 0);
        }
        self.window.peak = self.window.peak.max(in_flight);
        CallStart {
            at: now,
            in_flight,
            caller_timeout: caller_timeout.unwrap_or(DEFAULT_CALLER_TIMEOUT).as_secs_f64(),
        }
    }

    /// Records the rejection of a call above the limit.
    pub(super) fn reject(&mut self, now: Instant) {
        let lasts = |(_, last): &(_, Instant)| now.saturating_duration_since(*last) < MAX_WINDOW;
        let since = self.rejections.filter(lasts).map_or(now, |(since, _)| since);
        self.rejections = Some((since, now));
    }

    /// Records the end of a call, with `in_flight` others left.
    pub(super) fn end(&mut self, start: &CallStart, ended: CallEnd, in_flight: usize, now: Instant) {
        let latency = now.duration_since(start.at).as_secs_f64();
        let Some(strain) = self.strain(start, ended, latency, now) else { return };
        self.window.calls += 1;
        self.window.strain += strain;
        self.window.latency += latency;
        if self.window.calls >= MIN_WINDOW_CALLS && now >= self.window.began + self.window.length {
            self.adjust(now);
            let mean = self.window.latency / f64::from(self.window.calls);
            let length = Duration::try_from_secs_f64(mean).unwrap_or(MAX_WINDOW);
            self.window = Window::new(now, length.clamp(MIN_WINDOW, MAX_WINDOW), in_flight);
        }
    }

    /// The latency of a call as a multiple of the tolerated one; `None` when it
    /// says nothing about load.
    fn strain(&mut self, start: &CallStart, ended: CallEnd, latency: f64, now: Instant) -> Option<f64> {
        match ended {
            CallEnd::Completed => {
                self.recent.add(latency);
                if start.in_flight <= self.bounds.min || self.baseline.value().is_none() {
                    self.baseline.add(latency);
                    self.baseline_at = now;
                }
                let mut tolerated = self.expected_latency() * TOLERANCE + SLACK;
                if !self.is_shedding(now) {
                    tolerated = tolerated.max(start.caller_timeout * CALLER_TIMEOUT_SHARE);
                }
                Some((latency / tolerated).min(MAX_STRAIN))
            }
            // A timeout below the expected latency says nothing about load.
            CallEnd::CutOff => (latency >= self.expected_latency()).then_some(MAX_STEP),
            CallEnd::Failed => None,
        }
    }

    /// Returns whether the limit has shrunk or calls above it are being rejected.
    /// Calls that wait for the processor only delay the others then.
    fn is_shedding(&self, now: Instant) -> bool {
        self.is_rejecting(now) || self.limit < self.bounds.initial as f64
    }

    /// Returns whether calls have been rejected for a while.
    fn is_rejecting(&self, now: Instant) -> bool {
        self.rejections.is_some_and(|(since, last)| {
            last.duration_since(since) >= STANDING_REJECTION_TIME
                && now.saturating_duration_since(last) < MAX_WINDOW
        })
    }

    /// The expected latency without a queue, in seconds; 0 before the first
    /// call.
    fn expected_latency(&self) -> f64 {
        let both = self.baseline.value().zip(self.recent.value());
        both.map_or(0.0, |(baseline, recent)| baseline.min(recent))
    }

    fn adjust(&mut self, now: Instant) {
        let strain = self.window.strain / f64::from(self.window.calls);
        let peak = self.window.peak as f64;
        if strain > 1.0 {
            let since = *self.overloaded_since.get_or_insert(self.window.began);
            if now.duration_since(since) < STANDING_QUEUE_TIME && !self.is_rejecting(now) {
                return;
            }
            if now.duration_since(self.baseline_at) >= BASELINE_TIMEOUT {
                self.baseline = Mean::new(64);
                self.baseline_at = now;
                self.drained_at = Some(now);
                self.limit = 0.0;
            } else {
                // From the peak, because a limit far above it has no effect.
                self.limit = self.limit.min(peak) / strain.min(MAX_STEP);
            }
        } else {
            self.overloaded_since = None;
            // A limit that is not nearly reached does not need to grow.
            if peak * 2.0 >= self.limit {
                self.limit *= (1.0 / strain).min(MAX_STEP);
            }
        }
        self.limit = self.limit.clamp(self.bounds.min as f64, self.bounds.max as f64);
    }
}

impl Window {
    fn new(began: Instant, length: Duration, peak: usize) -> Self {
        Self { began, length, calls: 0, strain: 0.0, latency: 0.0, peak }
    }
}

/// A mean of the first `max` values, then a moving average over about as many.
#[derive(Debug)]
struct Mean {
    value: f64,
    count: u32,
    max: u32,
}

impl Mean {
    fn new(max: u32) -> Self {
        Self { value: 0.0, count: 0, max }
    }

    fn add(&mut self, value: f64) {
        self.count = (self.count + 1).min(self.max);
        self.value += (value - self.value) / f64::from(self.count);
    }

    fn value(&self) -> Option<f64> {
        (self.count > 0).then_some(self.value)
    }
}

#[cfg(test)]
mod tests;
