//! The retries of failed attempts.

use std::time::Duration;

use super::hedge::HedgingPolicy;
use crate::{
    code::{Code, Codes},
    outcome::{Cause, Outcome},
};

/// The retry policy of a method. A request that was provably not processed is
/// sent again regardless of it.
///
/// Source: gRFC A6, "Retry Policy"; delays are fully jittered.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The most attempts that may have been processed, the first included; 3
    /// unless set. 1 is no retry, and above 5 counts as 5.
    pub max_attempts: u32,
    /// The longest delay before the second attempt; 25 ms unless set.
    pub initial_backoff: Duration,
    /// The longest delay; 1 s unless set.
    pub max_backoff: Duration,
    /// The factor by which the longest delay grows; 2 unless set, above 0.
    pub multiplier: f64,
    /// The retryable status codes; UNAVAILABLE unless set. A lost connection
    /// counts as UNAVAILABLE.
    pub codes: Codes,
    /// The longest time of one attempt; after it the attempt is abandoned and
    /// counts as UNAVAILABLE. None unless set, but half of the call's time
    /// where the method is hedged.
    pub attempt_timeout: Option<Duration>,
    /// True if an attempt that may have been processed may be retried. In a
    /// configuration, `false` forbids it. In a
    /// [`MethodPolicy`](super::MethodPolicy) it is `true` only where the method
    /// is idempotent, or where the configuration names this method alone.
    pub applies: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_backoff: Duration::from_millis(25),
            max_backoff: Duration::from_secs(1),
            multiplier: 2.0,
            codes: Codes::of(&[Code::UNAVAILABLE]),
            attempt_timeout: None,
            applies: true,
        }
    }
}

impl RetryPolicy {
    /// A policy that retries no request that may have been processed.
    #[must_use]
    pub fn off() -> Self {
        Self { max_attempts: 1, applies: false, ..Self::default() }
    }

    /// Any delay from 0 to `initial_backoff × multiplier^(turn − 1)`, at most
    /// `max_backoff`; `turn` counts from 1.
    fn delay(&self, turn: u32) -> Duration {
        let exponent = i32::try_from(turn.saturating_sub(1)).unwrap_or(i32::MAX);
        let max = self.initial_backoff.as_secs_f64() * self.multiplier.powi(exponent);
        let max = Duration::try_from_secs_f64(max).unwrap_or(self.max_backoff).min(self.max_backoff);
        max.mul_f64(fastrand::f64())
    }
}

/// The most counted attempts of any policy (gRFC A6).
pub(super) const MAX_ATTEMPTS: u32 = 5;
/// The most attempts in all. Requests that were provably not processed are not
/// counted, but bounded by this and by the deadline.
const MAX_SENDS: u32 = 8;

/// The kind of a failure, for the decision about a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// The request never left this process.
    NotSent,
    /// The server reported that it did not process the request
    /// (`REFUSED_STREAM`, or a GOAWAY with a lower stream).
    Refused,
    /// The server's admission control rejected the request before it began.
    /// Another instance may have capacity, so one more attempt is allowed.
    Rejected,
    /// The connection broke or the attempt timed out: the request may or may
    /// not have been processed.
    Unavailable,
    /// The attempt ended with this code, or maps to it.
    Status(Code),
    /// Any other failure; a retry would not help.
    Final,
}

impl From<Outcome> for FailureKind {
    fn from(Outcome { code, cause }: Outcome) -> Self {
        match cause {
            Cause::NotSent => Self::NotSent,
            Cause::Refused => Self::Refused,
            Cause::ConnectionLost | Cause::AttemptTimeout => Self::Unavailable,
            Cause::Status | Cause::WrongService | Cause::Reset | Cause::NotGrpc | Cause::Malformed => {
                Self::Status(code)
            }
            Cause::TooLarge
            | Cause::RequestFailed
            | Cause::DeadlineExceeded
            | Cause::StreamExpired
            | Cause::Cancelled
            | Cause::CancelledLate => Self::Final,
        }
    }
}

/// The metadata key of a server's pushback (gRFC A6).
pub(crate) const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// A value of [`PUSHBACK`] that forbids retries: any negative one.
pub(crate) const NEVER: &str = "-1";
/// The metadata key that marks a `RESOURCE_EXHAUSTED` of this library's server
/// that was sent before the call began; see [`FailureKind::Rejected`].
pub(crate) const REJECTED: &str = "consort-refused";

/// The server's pushback, in `grpc-retry-pushback-ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Retry after exactly this delay.
    After(Duration),
    /// Do not retry.
    Never,
}

impl Pushback {
    /// Reads the value of `grpc-retry-pushback-ms`. A value that is negative,
    /// above `i32::MAX` or no number means [`Never`](Self::Never) (gRFC A6).
    #[must_use]
    pub fn parse(value: &[u8]) -> Self {
        let millis = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i32>().ok());
        let delay = millis.and_then(|millis| u64::try_from(millis).ok());
        delay.map_or(Self::Never, |millis| Self::After(Duration::from_millis(millis)))
    }
}

/// The counts of a call's attempts.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttemptCounts {
    /// Attempts beyond the first that may have been processed.
    counted: u32,
    /// Attempts beyond the first.
    sends: u32,
    /// Delays since the call began, or since the last pushback with a delay.
    delays: u32,
    /// True if the server forbade further attempts.
    is_forbidden: bool,
    /// True if a server has refused the stream once.
    was_refused: bool,
}

impl AttemptCounts {
    /// The attempts before the next or current one; with hedging, before the
    /// last one begun. The value of `grpc-previous-rpc-attempts`.
    #[must_use]
    pub fn sends(self) -> u32 {
        self.sends
    }

    /// Records a failed attempt and decides: `Some(delay)` for another attempt
    /// after that delay, `None` for none.
    ///
    /// Source: gRFC A6 (transparent retries, retry policy, pushback). The first
    /// retry of a request that was not processed has no delay. A refused stream
    /// is retried once regardless of the policy; after that the policy decides,
    /// because servers that refuse would get a multiple of the load otherwise.
    pub fn retry_delay(
        &mut self,
        failure: FailureKind,
        policy: &RetryPolicy,
        pushback: Option<Pushback>,
    ) -> Option<Duration> {
        self.is_forbidden |= pushback == Some(Pushback::Never);
        let code = match failure {
            FailureKind::Rejected if self.sends > 0 => return None,
            FailureKind::Refused if self.was_refused => Some(Code::UNAVAILABLE),
            FailureKind::NotSent | FailureKind::Refused | FailureKind::Rejected => None,
            FailureKind::Unavailable => Some(Code::UNAVAILABLE),
            FailureKind::Status(code) => Some(code),
            FailureKind::Final => return None,
        };
        self.was_refused |= failure == FailureKind::Refused;
        let counts = code.is_some();
        let is_retryable = code.is_none_or(|code| policy.applies && policy.codes.contains(code));
        if !is_retryable || !self.allows_another(counts.then_some(policy.max_attempts)) {
            return None;
        }
        let first = self.sends == 0;
        self.sends += 1;
        self.counted += u32::from(counts);
        Some(match pushback {
            Some(Pushback::After(delay)) => {
                self.delays = 0;
                delay
            }
            _ if first && !counts => Duration::ZERO,
            _ => {
                self.delays += 1;
                policy.delay(self.delays)
            }
        })
    }

    /// Returns whether another attempt may be sent while others are in flight,
    /// and records it.
    pub fn hedge(&mut self, policy: &HedgingPolicy) -> bool {
        let room = self.allows_another(Some(policy.max_attempts));
        if room {
            self.sends += 1;
            self.counted += 1;
        }
        room
    }

    /// Returns whether another attempt stays within every bound; `max` bounds
    /// the counted attempts, if this one counts.
    fn allows_another(self, max: Option<u32>) -> bool {
        let counted = max.is_none_or(|max| self.counted + 1 < max.min(MAX_ATTEMPTS));
        !self.is_forbidden && counted && self.sends + 1 < MAX_SENDS
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy::default()
    }

    #[test]
    fn an_idempotent_call_gets_two_more_attempts() {
        let mut counts = AttemptCounts::default();
        assert!(counts.retry_delay(FailureKind::Unavailable, &policy(), None).is_some());
        assert!(counts.retry_delay(FailureKind::Status(Code::UNAVAILABLE), &policy(), None).is_some());
        assert_eq!(counts.retry_delay(FailureKind::Unavailable, &policy(), None), None);
        assert_eq!(counts.sends(), 2);
    }

    #[test]
    fn a_call_that_is_not_idempotent_is_repeated_only_if_provably_not_processed() {
        let mut counts = AttemptCounts::default();
        let off = RetryPolicy { applies: false, ..policy() };
        assert_eq!(counts.retry_delay(FailureKind::Refused, &off, None), Some(Duration::ZERO));
        assert_eq!(counts.retry_delay(FailureKind::Unavailable, &off, None), None);
        assert_eq!(counts.retry_delay(FailureKind::Status(Code::UNAVAILABLE), &off, None), None);
    }

    #[test]
    fn attempts_that_never_left_come_to_an_end() {
        let mut counts = AttemptCounts::default();
        let more = (0..100)
            .take_while(|_| counts.retry_delay(FailureKind::NotSent, &policy(), None).is_some())
            .count();
        assert_eq!(more, 7);
    }

    #[test]
    fn a_refused_stream_is_sent_again_once_and_then_as_the_policy_says() {
        let more = |policy: &RetryPolicy| {
            let mut counts = AttemptCounts::default();
            (0..100).take_while(|_| counts.retry_delay(FailureKind::Refused, policy, None).is_some()).count()
        };
        assert_eq!(more(&RetryPolicy::off()), 1);
        assert_eq!(more(&policy()), 3, "once, and the two retries of an idempotent method");
    }

    #[test]
    fn a_rejection_is_worth_one_more_attempt() {
        let mut counts = AttemptCounts::default();
        let off = RetryPolicy::off();
        assert_eq!(counts.retry_delay(FailureKind::Rejected, &off, None), Some(Duration::ZERO));
        assert_eq!(counts.retry_delay(FailureKind::Rejected, &off, None), None);
    }

    #[test]
    fn a_final_failure_is_never_repeated() {
        assert_eq!(AttemptCounts::default().retry_delay(FailureKind::Final, &policy(), None), None);
    }

    #[test]
    fn only_the_codes_of_the_policy_are_repeated() {
        let codes = Codes::of(&[Code::INTERNAL]);
        let policy = RetryPolicy { codes, ..policy() };
        assert!(
            AttemptCounts::default()
                .retry_delay(FailureKind::Status(Code::INTERNAL), &policy, None)
                .is_some()
        );
        assert_eq!(
            AttemptCounts::default().retry_delay(FailureKind::Status(Code::UNAVAILABLE), &policy, None),
            None
        );
        assert_eq!(
            AttemptCounts::default().retry_delay(FailureKind::Unavailable, &policy, None),
            None,
            "broken"
        );
    }

    #[test]
    fn a_policy_cannot_ask_for_more_than_five_attempts() {
        let policy = RetryPolicy { max_attempts: 100, ..policy() };
        let mut counts = AttemptCounts::default();
        let more = (0..100)
            .take_while(|_| counts.retry_delay(FailureKind::Unavailable, &policy, None).is_some())
            .count();
        assert_eq!(more, 4);
    }

    #[test]
    fn one_attempt_is_no_retry() {
        let policy = RetryPolicy { max_attempts: 1, ..policy() };
        assert_eq!(AttemptCounts::default().retry_delay(FailureKind::Unavailable, &policy, None), None);
        assert_eq!(
            AttemptCounts::default().retry_delay(FailureKind::Unavailable, &RetryPolicy::off(), None),
            None
        );
    }

    #[test]
    fn a_server_may_say_when_or_never() {
        let wait = Duration::from_millis(700);
        let mut counts = AttemptCounts::default();
        let after = Some(Pushback::After(wait));
        assert_eq!(counts.retry_delay(FailureKind::Unavailable, &policy(), after), Some(wait));
        let mut counts = AttemptCounts::default();
        assert_eq!(counts.retry_delay(FailureKind::Unavailable, &policy(), Some(Pushback::Never)), None);
        let hedging = HedgingPolicy::default();
        assert!(!counts.hedge(&hedging), "never is never, for a hedge too");
    }

    #[test]
    fn every_outcome_has_its_place_in_the_policy() {
        for (cause, code, failure) in [
            (Cause::Status, Code::from_number(10), FailureKind::Status(Code::from_number(10))),
            (Cause::Reset, Code::INTERNAL, FailureKind::Status(Code::INTERNAL)),
            (Cause::NotGrpc, Code::UNAVAILABLE, FailureKind::Status(Code::UNAVAILABLE)),
            (Cause::Malformed, Code::INTERNAL, FailureKind::Status(Code::INTERNAL)),
            (Cause::Refused, Code::UNAVAILABLE, FailureKind::Refused),
            (Cause::NotSent, Code::UNAVAILABLE, FailureKind::NotSent),
            (Cause::ConnectionLost, Code::UNAVAILABLE, FailureKind::Unavailable),
            (Cause::AttemptTimeout, Code::DEADLINE_EXCEEDED, FailureKind::Unavailable),
            (Cause::DeadlineExceeded, Code::DEADLINE_EXCEEDED, FailureKind::Final),
            (Cause::RequestFailed, Code::UNAVAILABLE, FailureKind::Final),
            (Cause::TooLarge, Code::RESOURCE_EXHAUSTED, FailureKind::Final),
        ] {
            assert_eq!(FailureKind::from(Outcome { code, cause }), failure, "{cause:?}");
        }
    }

    #[test]
    fn pushback_does_not_make_a_code_worth_repeating() {
        let after = Some(Pushback::After(Duration::ZERO));
        assert_eq!(
            AttemptCounts::default().retry_delay(FailureKind::Status(Code::INTERNAL), &policy(), after),
            None
        );
    }

    #[test]
    fn after_pushback_delays_begin_anew() {
        let policy = RetryPolicy {
            max_attempts: 5,
            initial_backoff: Duration::from_millis(1),
            max_backoff: Duration::from_secs(10),
            multiplier: 1_000.0,
            ..policy()
        };
        let longest = |pushback: Option<Pushback>| {
            let last = |_| {
                let mut counts = AttemptCounts::default();
                counts.retry_delay(FailureKind::Unavailable, &policy, None);
                counts.retry_delay(FailureKind::Unavailable, &policy, pushback);
                counts.retry_delay(FailureKind::Unavailable, &policy, None).unwrap()
            };
            (0..200).map(last).max().unwrap()
        };
        assert!(longest(None) > Duration::from_secs(1));
        assert!(longest(Some(Pushback::After(Duration::ZERO))) <= Duration::from_millis(1));
    }

    #[test]
    fn pushback_is_read_as_milliseconds_and_anything_odd_as_never() {
        assert_eq!(Pushback::parse(b"0"), Pushback::After(Duration::ZERO));
        assert_eq!(Pushback::parse(b"1500"), Pushback::After(Duration::from_millis(1_500)));
        for odd in ["-1", "", "1.5", "soon", "99999999999", " 1", "\u{fffd}"] {
            assert_eq!(Pushback::parse(odd.as_bytes()), Pushback::Never, "{odd}");
        }
        assert_eq!(Pushback::parse(b"\xff"), Pushback::Never);
    }

    #[test]
    fn hedges_and_retries_share_one_count() {
        let hedging = HedgingPolicy { max_attempts: 3, ..HedgingPolicy::default() };
        let mut counts = AttemptCounts::default();
        assert!(counts.hedge(&hedging));
        assert!(counts.retry_delay(FailureKind::Unavailable, &policy(), None).is_some());
        assert!(!counts.hedge(&hedging));
        assert_eq!(counts.retry_delay(FailureKind::Unavailable, &policy(), None), None);
        assert_eq!(counts.sends(), 2);
    }

    fn failures() -> impl Strategy<Value = FailureKind> {
        prop_oneof![
            Just(FailureKind::NotSent),
            Just(FailureKind::Refused),
            Just(FailureKind::Unavailable),
            (0..17).prop_map(|code| FailureKind::Status(Code::from_number(code))),
            Just(FailureKind::Final),
        ]
    }

    proptest! {
        /// Whatever happens to a call, it is sent at most 8 times, at most
        /// `max_attempts` of them counted, and no delay is above its bound.
        #[test]
        fn every_call_comes_to_an_end(
            events in prop::collection::vec((failures(), any::<bool>()), 0..40),
            max_attempts in 0u32..10,
            multiplier in prop_oneof![0.1..10.0f64, Just(f64::MAX), Just(f64::NAN)],
        ) {
            let policy = RetryPolicy { max_attempts, multiplier, ..policy() };
            let hedging = HedgingPolicy { max_attempts, ..HedgingPolicy::default() };
            let mut counts = AttemptCounts::default();
            let (mut sent, mut counted, mut was_refused) = (1, 1, false);
            for (failure, hedge) in events {
                let free = failure == FailureKind::NotSent || (failure == FailureKind::Refused && !was_refused);
                let is_counted = hedge || !free;
                was_refused |= !hedge && failure == FailureKind::Refused;
                let more = if hedge {
                    counts.hedge(&hedging)
                } else {
                    let delay = counts.retry_delay(failure, &policy, None);
                    prop_assert!(delay.is_none_or(|delay| delay <= policy.max_backoff));
                    delay.is_some()
                };
                sent += u32::from(more);
                counted += u32::from(more && is_counted);
            }
            prop_assert!(sent <= 8 && counted <= max_attempts.clamp(1, 5));
        }
    }
}
