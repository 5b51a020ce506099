//! How many calls of one method may be under way at once, learnt from how long
//! they take. Plain arithmetic: the time is passed in, nothing waits.
//!
//! The gradient of Netflix's `concurrency-limits` (`Gradient2Limit`): the limit
//! is multiplied by *tolerated latency / observed latency*. What differs, and
//! why:
//!
//! - One limit per method and not one per server, so that a slow method, a
//!   long poll, or one whose dependency hangs takes no room from the others,
//!   and a changed mix of methods is no change of latency.
//! - The latency to compare with is that of calms (calls begun while few were
//!   under way), as Envoy's adaptive concurrency measures it on purpose. A
//!   moving average of everything, as in `Gradient2Limit`, comes to take a
//!   long overload for normal. Few calls are always let in, so a lasting
//!   change is learnt even when the limit has shrunk to its least.
//! - Only a standing queue counts, one that is there for [`STANDING`], as in
//!   `CoDel` (RFC 8289): a burst that drains by itself is not overload.
//! - Nothing under way means no queue: what was learnt of congestion is over,
//!   and the limit starts anew. So an idle server never refuses.

use std::time::{Duration, Instant};

/// How long latency must be too high before the limit shrinks.
const STANDING: Duration = Duration::from_secs(1);
/// How often the limit is looked at: after the mean latency, within these.
const WINDOW_MIN: Duration = Duration::from_millis(250);
const WINDOW_MAX: Duration = Duration::from_secs(1);
/// After how long without a calm call a standing queue is drained to measure
/// anew what is normal (Envoy: 60 s).
const STALE: Duration = Duration::from_secs(10);
/// And after no fewer calls than this, for fewer say nothing.
const WINDOW_CALLS: u32 = 10;
/// How many times the calm latency is tolerated (Netflix: 1.5), plus a slack
/// that no caller notices (that of `CoDel`), for fast methods vary by more.
const TOLERANCE: f64 = 2.0;
const SLACK: f64 = 0.005;
/// And, where that is more and the limit has not shrunk yet, this part of what its
/// caller allows: a call that is done in a quarter of its time is good work, and
/// refusing it would be none. So a machine that is slow for a while refuses nothing
/// that can still be done. More would leave no room for the limit's swing: calls were
/// let in that expired.
const OF_CALLER_TIMEOUT: f64 = 0.25;
/// What a caller is taken to allow who does not say.
const DEFAULT_CALLER_TIMEOUT: Duration = Duration::from_secs(1);
/// The most by which one look changes the limit, up or down.
const STEP: f64 = 2.0;
/// The most that one call weighs, so that few outliers are not a trend.
const OUTLIER: f64 = 10.0;

/// Between what the limit moves, in calls under way at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) min: usize,
    pub(super) max: usize,
    pub(super) initial: usize,
}

/// A call that was let in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    at: Instant,
    /// How many were under way then, this one included.
    among: usize,
    /// Seconds that its caller allows.
    caller_timeout: f64,
}

/// How a call ended, as far as its duration tells of load.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended {
    /// The handler has done its work.
    Answered,
    /// Its caller gave up, or its time was over: it would have taken longer.
    CutOff,
    /// With an error, which may be quick or slow for reasons other than load.
    Failed,
}

/// The limit of one method.
#[derive(Debug)]
pub(super) struct Gradient {
    bounds: Bounds,
    limit: f64,
    /// Seconds a call takes when it begins among at most `bounds.min`.
    calm: Mean,
    /// When the last such call ended.
    calm_at: Instant,
    /// When the limit was last taken down to measure anew what is normal.
    drained_at: Option<Instant>,
    /// Seconds a call has taken of late, slowly followed: corrects a `calm`
    /// that was learnt from a cold start when it is never calm again.
    recent: Mean,
    window: Window,
    /// Since when calls have taken too long without a break.
    strained: Option<Instant>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    length: Duration,
    calls: u32,
    /// Sum of each call's latency, as a multiple of what is tolerated.
    strain: f64,
    /// Sum of seconds.
    latency: f64,
    /// The most calls under way at once.
    peak: usize,
}

impl Gradient {
    pub(super) fn new(bounds: Bounds, now: Instant) -> Self {
        Self {
            bounds,
            limit: bounds.initial as f64,
            calm: Mean::new(64),
            calm_at: now,
            drained_at: None,
            recent: Mean::new(256),
            window: Window::new(now, WINDOW_MIN, 0),
            strained: None,
        }
    }

    /// The most calls that may be under way now.
    pub(super) fn limit(&self) -> usize {
        self.limit.ceil() as usize
    }

    /// Seconds that a call may be expected to take; `None` before the first.
    pub(super) fn latency(&self) -> Option<f64> {
        self.recent.value()
    }

    /// A call begins, the `under_way`th with those that are; its caller allows
    /// `caller_timeout`.
    pub(super) fn begin(
        &mut self,
        under_way: usize,
        caller_timeout: Option<Duration>,
        now: Instant,
    ) -> Begun {
        // Empty because it was drained means nothing.
        let was_drained = self.drained_at.is_some_and(|at| now.saturating_duration_since(at) < STANDING);
        if under_way <= 1 && !was_drained {
            self.limit = self.bounds.initial as f64;
            self.strained = None;
            self.window = Window::new(now, WINDOW_MIN, 0);
        }
        self.window.peak = self.window.peak.max(under_way);
        Begun {
            at: now,
            among: under_way,
            caller_timeout: caller_timeout.unwrap_or(DEFAULT_CALLER_TIMEOUT).as_secs_f64(),
        }
    }

    /// A call has ended; `under_way` still are.
    pub(super) fn end(&mut self, begun: &Begun, ended: Ended, under_way: usize, now: Instant) {
        let latency = now.duration_since(begun.at).as_secs_f64();
        let Some(strain) = self.strain(begun, ended, latency, now) else { return };
        self.window.calls += 1;
        self.window.strain += strain;
        self.window.latency += latency;
        if self.window.calls >= WINDOW_CALLS && now >= self.window.began + self.window.length {
            self.adjust(now);
            let mean = self.window.latency / f64::from(self.window.calls);
            let length = Duration::try_from_secs_f64(mean).unwrap_or(WINDOW_MAX);
            self.window = Window::new(now, length.clamp(WINDOW_MIN, WINDOW_MAX), under_way);
        }
    }

    /// What a call took, as a multiple of what is tolerated; `None` when it
    /// says nothing of load.
    fn strain(&mut self, begun: &Begun, ended: Ended, latency: f64, now: Instant) -> Option<f64> {
        match ended {
            Ended::Answered => {
                self.recent.add(latency);
                if begun.among <= self.bounds.min || self.calm.value().is_none() {
                    self.calm.add(latency);
                    self.calm_at = now;
                }
                let mut tolerated = self.usual() * TOLERANCE + SLACK;
                if !self.is_shedding() {
                    tolerated = tolerated.max(begun.caller_timeout * OF_CALLER_TIMEOUT);
                }
                Some((latency / tolerated).min(OUTLIER))
            }
            // A shorter timeout than a call usually needs is the caller's affair.
            Ended::CutOff => (latency >= self.usual()).then_some(STEP),
            Ended::Failed => None,
        }
    }

    /// Returns whether the limit has shrunk. What is above it is refused anyway
    /// then, and calls that wait for the processor only keep others waiting:
    /// those that are done, and those that are refused.
    fn is_shedding(&self) -> bool {
        self.limit < self.bounds.initial as f64
    }

    /// Seconds that a call takes without a queue; 0 before the first.
    fn usual(&self) -> f64 {
        let both = self.calm.value().zip(self.recent.value());
        both.map_or(0.0, |(calm, recent)| calm.min(recent))
    }

    fn adjust(&mut self, now: Instant) {
        let strain = self.window.strain / f64::from(self.window.calls);
        let peak = self.window.peak as f64;
        if strain > 1.0 {
            let since = *self.strained.get_or_insert(self.window.began);
            if now.duration_since(since) < STANDING {
                return;
            }
            if now.duration_since(self.calm_at) >= STALE {
                self.calm = Mean::new(64);
                self.calm_at = now;
                self.drained_at = Some(now);
                self.limit = 0.0;
            } else {
                // From what there was, for a limit far above that has no effect.
                self.limit = self.limit.min(peak) / strain.min(STEP);
            }
        } else {
            self.strained = None;
            // A limit that is not nearly reached needs no more.
            if peak * 2.0 >= self.limit {
                self.limit *= (1.0 / strain).min(STEP);
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

/// A mean of the first values, then a moving one over about as many.
#[derive(Debug)]
struct Mean {
    value: f64,
    count: u32,
    most: u32,
}

impl Mean {
    fn new(most: u32) -> Self {
        Self { value: 0.0, count: 0, most }
    }

    fn add(&mut self, value: f64) {
        self.count = (self.count + 1).min(self.most);
        self.value += (value - self.value) / f64::from(self.count);
    }

    fn value(&self) -> Option<f64> {
        (self.count > 0).then_some(self.value)
    }
}

#[cfg(test)]
mod tests;
