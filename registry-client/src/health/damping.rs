//! Delays the return of an instance that goes out of service and comes back
//! again and again.
//!
//! This is BGP's route-flap damping (RFC 2439) for instances: taking one out is
//! never delayed; its return is, and for longer the more often it returned
//! lately. A count within a window replaces the RFC's decaying penalty, because
//! "returned 4 times within a minute" is readable in a log. Envoy and pingora
//! require several good checks in a row instead, which delays every return, the
//! one after a deployment too.

use std::{collections::VecDeque, fmt, time::Duration};

use tokio::time::Instant;

/// Returns that are older than this no longer count.
const WINDOW: Duration = Duration::from_secs(60);
/// The time that each return within the window after the first adds to the
/// hold.
const HOLD_STEP: Duration = Duration::from_secs(2);
/// The longest hold.
const MAX_HOLD: Duration = Duration::from_secs(30);
/// The most returns that are remembered; with so many the hold has reached
/// [`MAX_HOLD`].
const MAX_RETURNS: usize = 16;

/// The returns of one instance; kept across registry updates.
#[derive(Debug, Default)]
pub(crate) struct Damping {
    /// The last observation; `None` before the instance was first in service.
    in_service: Option<bool>,
    /// The returns within the window, the oldest first; at most [`MAX_RETURNS`].
    returns: VecDeque<Instant>,
    hold: Option<Hold>,
}

/// The delay of a return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    /// The returns within the window, this one included.
    pub(crate) returns: usize,
    /// When calls may go to the instance again.
    pub(crate) until: Instant,
}

impl Damping {
    /// Records whether the registry and the health check have the instance in
    /// service now. Returns the hold that begins now, if one does.
    pub(crate) fn observe(&mut self, in_service: bool, now: Instant) -> Option<Hold> {
        let before = self.in_service;
        match (before, in_service) {
            // The instance was not in service before.
            (None, false) => return None,
            // The hold of its last return is void; the next return has its own.
            (_, false) => self.hold = None,
            (Some(false), true) => self.hold = self.record_return(now),
            (None | Some(true), true) => {}
        }
        self.in_service = Some(in_service);
        self.hold.filter(|_| before == Some(false))
    }

    /// Ends the hold when its time is over; returns whether it did.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        self.hold.take_if(|hold| hold.until <= now).is_some()
    }

    pub(crate) fn hold(&self) -> Option<Hold> {
        self.hold
    }

    fn record_return(&mut self, now: Instant) -> Option<Hold> {
        self.returns.retain(|at| now.duration_since(*at) < WINDOW);
        if self.returns.len() == MAX_RETURNS {
            self.returns.pop_front();
        }
        self.returns.push_back(now);
        let returns = self.returns.len();
        let steps = u32::try_from(returns - 1).unwrap_or(u32::MAX);
        let length = HOLD_STEP.saturating_mul(steps).min(MAX_HOLD);
        (!length.is_zero()).then_some(Hold { returns, until: now + length })
    }
}

impl Hold {
    /// The reason, and what is left of the hold.
    pub(crate) fn reason(&self, now: Instant) -> String {
        let left = self.until.saturating_duration_since(now).as_secs_f64().ceil();
        format!("{self}; held for {left:.0} s more")
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_least = if self.returns == MAX_RETURNS { "at least " } else { "" };
        write!(f, "returned {at_least}{} times within a minute", self.returns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets an instance go out and come back, `flips` times, `every` so often;
    /// the lengths of the holds in seconds.
    async fn holds(damping: &mut Damping, flips: usize, every: Duration) -> Vec<u64> {
        let mut held = Vec::new();
        for _ in 0..flips {
            tokio::time::advance(every / 2).await;
            assert_eq!(damping.observe(false, Instant::now()), None, "it goes out at once");
            assert_eq!(damping.hold(), None);
            tokio::time::advance(every / 2).await;
            let now = Instant::now();
            let hold = damping.observe(true, now);
            assert_eq!(hold, damping.hold());
            held.push(hold.map_or(0, |hold| (hold.until - now).as_secs()));
        }
        held
    }

    #[tokio::test(start_paused = true)]
    async fn the_more_often_it_returned_within_a_minute_the_longer_it_is_held() {
        for (flips, every, lengths) in [
            (1, 1, vec![0]),
            (4, 1, vec![0, 2, 4, 6]),
            (4, 14, vec![0, 2, 4, 6]),
            // The first has left the window when the fifth comes.
            (5, 15, vec![0, 2, 4, 6, 6]),
            (4, 29, vec![0, 2, 4, 4]),
            (4, 30, vec![0, 2, 2, 2]),
            (3, 60, vec![0, 0, 0]),
        ] {
            let mut damping = Damping::default();
            damping.observe(true, Instant::now());
            let found = holds(&mut damping, flips, Duration::from_secs(every)).await;
            assert_eq!(found, lengths, "{flips} returns, one each {every} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_is_at_most_thirty_seconds_and_its_memory_is_bounded() {
        let mut damping = Damping::default();
        damping.observe(true, Instant::now());
        let held = holds(&mut damping, 100, Duration::from_millis(100)).await;
        assert_eq!(held[14..17], [28, 30, 30]);
        assert!(held[16..].iter().all(|length| *length == 30), "{held:?}");
        assert_eq!(damping.returns.len(), MAX_RETURNS);
        let reason = damping.hold().unwrap().reason(Instant::now());
        assert_eq!(reason, "returned at least 16 times within a minute; held for 30 s more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_ends_when_its_time_is_over_and_not_before() {
        let mut damping = Damping::default();
        damping.observe(true, Instant::now());
        holds(&mut damping, 4, Duration::from_secs(1)).await;
        // Nothing changes while the same is seen again.
        assert_eq!(damping.observe(true, Instant::now()), None);
        let hold = damping.hold().unwrap();
        assert_eq!(hold.reason(Instant::now()), "returned 4 times within a minute; held for 6 s more");
        tokio::time::advance(Duration::from_millis(5_900)).await;
        assert!(!damping.advance(Instant::now()));
        assert_eq!(hold.reason(Instant::now()), "returned 4 times within a minute; held for 1 s more");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(damping.advance(Instant::now()));
        assert_eq!(damping.hold(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_appearance_is_no_return() {
        let mut damping = Damping::default();
        for _ in 0..5 {
            assert_eq!(damping.observe(false, Instant::now()), None);
        }
        assert_eq!(damping.observe(true, Instant::now()), None);
        // Nor is its first restart delayed.
        assert_eq!(holds(&mut damping, 2, Duration::from_secs(5)).await, [0, 2]);
    }
}
