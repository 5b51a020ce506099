//! The end of an attempt, and what follows: a response, another attempt, or the
//! failure of the call.

use std::{fmt::Display, task::Poll, time::Duration};

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, metadata::MetadataValue};

use super::{
    super::{
        failure::Failure,
        response::{ResponseHead, repair_status, validate_head},
        response_body::{Bounds, ResponseBody},
        upload::{RemainingUpload, RequestBody},
    },
    Attempt, CallState, Stage,
};
use crate::{
    code::Code,
    framing::MessageRules,
    outcome::{Cause, Outcome},
    policy::retry::{self, Pushback, RetryPolicy},
};

const PUSHBACK: HeaderName = HeaderName::from_static(retry::PUSHBACK);

const REJECTED: HeaderName = HeaderName::from_static(retry::REJECTED);

impl CallState {
    /// Handles the end of the attempt at `index`. Ready with the end of the
    /// call; pending when the call has moved to its next stage.
    pub(super) fn finish_attempt(
        &mut self,
        index: usize,
        ended: Result<http::Response<h2::RecvStream>, Failure>,
    ) -> Poll<Result<http::Response<ResponseBody>, Status>> {
        let failure = match ended {
            Ok(head) => {
                let accepted = self.head.accepted_encodings();
                match validate_head(&head, self.attempts[index].in_flight.peer(), accepted) {
                    Ok(ResponseHead::Messages { compressed }) => {
                        let attempt = &mut self.attempts[index];
                        attempt.in_flight.response_began();
                        let attempt_index = attempt.attempt_index;
                        self.explain_response(attempt_index, "answered");
                        return Poll::Ready(Ok(self.hand_over(index, head, compressed, false)));
                    }
                    Ok(ResponseHead::Status(code)) => return self.accept_status(index, head, code),
                    Err(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        let attempt = self.attempts.swap_remove(index);
        self.explain_end(attempt.attempt_index, &failure);
        match self.fail_attempt(attempt, failure) {
            Ok(()) => Poll::Pending,
            Err(failure) => Poll::Ready(Err(self.status(failure))),
        }
    }

    /// Handles a response that is only a status: returns it to the caller, or
    /// continues with another attempt where that may help.
    fn accept_status(
        &mut self,
        index: usize,
        mut head: http::Response<h2::RecvStream>,
        code: Code,
    ) -> Poll<Result<http::Response<ResponseBody>, Status>> {
        let attempt = &mut self.attempts[index];
        let outcome = attempt.in_flight.end(Outcome::status(code));
        let (attempt_index, id) = (attempt.attempt_index, attempt.in_flight.peer().id.clone());
        self.explain_response(attempt_index, outcome);
        if code != Code::OK {
            self.failed_on.push(id);
            if self.continues(index, code, &head) {
                return Poll::Pending;
            }
            if is_rejected(code, &head) {
                self.core.admission.record_rejection();
            }
            if self.is_exhausted && self.is_nested {
                head.headers_mut().insert(PUSHBACK, HeaderValue::from_static(retry::NEVER));
            }
        }
        self.admitted.ended(code);
        repair_status(head.headers_mut());
        Poll::Ready(Ok(self.hand_over(index, head, false, true)))
    }

    /// Turns the response of the attempt at `index` into the caller's.
    /// `has_status`: the head is all of it.
    #[inline]
    fn hand_over(
        &mut self,
        index: usize,
        head: http::Response<h2::RecvStream>,
        compressed: bool,
        has_status: bool,
    ) -> http::Response<ResponseBody> {
        let Attempt { upload, in_flight, .. } = self.attempts.swap_remove(index);
        let upload = upload.map(|upload| {
            let body = std::mem::replace(&mut self.body, RequestBody::ended());
            AbortOnDropHandle::new(tokio::spawn(RemainingUpload::new(body, upload)))
        });
        let bounds = Bounds {
            deadline: self.bounds_body.then_some(self.deadline),
            streams: self.policy.server_streaming,
            has_status,
        };
        let rules = MessageRules {
            max_bytes: self.policy.max_response_bytes.unwrap_or(self.core.config.max_response_bytes),
            compressed,
            single: self.policy.unary_response,
        };
        let admitted = std::mem::take(&mut self.admitted);
        head.map(|frames| ResponseBody::new(frames, in_flight, (bounds, rules), admitted, upload))
    }

    /// Returns whether the call continues after the attempt at `index` got an
    /// error status; that attempt is removed then.
    fn continues(&mut self, index: usize, code: Code, head: &http::Response<h2::RecvStream>) -> bool {
        let pushback = head.headers().get(PUSHBACK).map(|value| Pushback::parse(value.as_bytes()));
        let fatal = self.policy.hedging.as_ref().is_none_or(|policy| !policy.non_fatal.contains(code));
        if self.attempts.len() > 1 && !fatal {
            self.attempts.swap_remove(index);
            self.reset_hedge_timer(pushback);
            return true;
        }
        let failure = if is_rejected(code, head) && self.has_unused() {
            retry::FailureKind::Rejected
        } else {
            retry::FailureKind::Status(code)
        };
        let Some(stage) = self.decide(failure, pushback) else { return false };
        self.attempts.swap_remove(index);
        self.stage = stage;
        true
    }

    /// Ends an attempt that failed without a response. The call continues if
    /// others are in flight or a retry follows.
    fn fail_attempt(&mut self, mut attempt: Attempt, failure: Failure) -> Result<(), Failure> {
        attempt.in_flight.end(failure.outcome());
        self.failed_on.push(attempt.in_flight.peer().id.clone());
        if !self.attempts.is_empty() && failure.kind() != retry::FailureKind::Final {
            self.reset_hedge_timer(None);
            return Ok(());
        }
        self.stage = self.retry(&failure).ok_or(failure)?;
        Ok(())
    }

    /// Abandons an attempt that exceeded its `timeout`, if another is in flight
    /// or may be sent in its place. Returns the next stage in the latter case.
    pub(super) fn abandon(&mut self, index: usize, timeout: Duration) -> Option<Stage> {
        let stage = match self.attempts.len() {
            // Without another instance, the attempt in flight is the best there
            // is; a hedged call has tried each instance already.
            1 if self.policy.retry.attempt_timeout.is_none() && !self.has_unused() => return None,
            1 => Some(Stage::after(self.delay(retry::FailureKind::Unavailable, None)?)),
            _ => None,
        };
        let mut attempt = self.attempts.remove(index);
        let failure = Failure::AttemptTimeout { to: attempt.in_flight.peer().clone(), timeout };
        self.explain_end(attempt.attempt_index, &failure);
        attempt.in_flight.end(failure.outcome());
        self.failed_on.push(attempt.in_flight.peer().id.clone());
        self.reset_hedge_timer(None);
        stage
    }

    /// After a failure the next hedge is sent at once, or when the server's
    /// pushback says.
    fn reset_hedge_timer(&mut self, pushback: Option<Pushback>) {
        match (pushback, &mut self.hedging) {
            (Some(Pushback::Never), hedging) => *hedging = None,
            (Some(Pushback::After(delay)), Some(hedging)) => {
                hedging.timer.as_mut().reset(Instant::now() + delay);
            }
            (None, Some(hedging)) => hedging.timer.as_mut().reset(Instant::now()),
            (_, None) => {}
        }
    }

    pub(super) fn retry(&mut self, failure: &Failure) -> Option<Stage> {
        self.decide(failure.kind(), None)
    }

    /// The stage after a failed attempt; `None` if the call fails.
    fn decide(&mut self, failure: retry::FailureKind, pushback: Option<Pushback>) -> Option<Stage> {
        let Some(delay) = self.delay(failure, pushback) else {
            self.is_exhausted |= self.is_repeatable(failure);
            return None;
        };
        Some(Stage::after(delay))
    }

    /// Returns whether the method's policy retries such a failure.
    fn is_repeatable(&self, failure: retry::FailureKind) -> bool {
        let RetryPolicy { applies, codes, .. } = self.policy.retry;
        match failure {
            retry::FailureKind::Unavailable => applies && codes.contains(Code::UNAVAILABLE),
            retry::FailureKind::Status(code) => applies && codes.contains(code),
            _ => false,
        }
    }

    /// The delay before the next attempt; `None` when there is none.
    fn delay(&mut self, failure: retry::FailureKind, pushback: Option<Pushback>) -> Option<Duration> {
        if self.is_repeatable(failure) || pushback == Some(Pushback::Never) {
            self.core.budget.record_failure();
        }
        let delay = self.counts.retry_delay(failure, &self.policy.retry, pushback)?;
        let now = Instant::now();
        // A retry after the deadline is useless: this failure is a better cause
        // than DEADLINE_EXCEEDED.
        if now + delay >= self.deadline.at || !self.body.is_replayable() {
            return None;
        }
        // A request that was never sent costs no server anything; the budget
        // bounds all others.
        if failure != retry::FailureKind::NotSent && !self.core.budget.withdraw(now) {
            self.core.counters.budget_refused.add();
            return None;
        }
        if matches!(failure, retry::FailureKind::NotSent | retry::FailureKind::Refused) {
            self.core.counters.transparent_retries.add();
            self.retry_counts.transparent += 1;
        } else {
            self.core.counters.retries.add();
            self.retry_counts.retries += 1;
        }
        self.retry_counts.delay += delay;
        Some(delay)
    }

    /// The status that the caller gets for the failure of the call.
    #[cold]
    pub(super) fn status(&mut self, failure: Failure) -> Status {
        self.admitted.ended(failure.outcome().code);
        let mut status = Status::from(failure);
        if self.is_exhausted && self.is_nested {
            status.metadata_mut().insert(retry::PUSHBACK, MetadataValue::from_static(retry::NEVER));
        }
        status
    }

    /// Ends every attempt with `DEADLINE_EXCEEDED`; the deadline has passed.
    pub(super) fn expire(&mut self) -> Failure {
        self.core.counters.expired.add();
        for attempt in &mut self.attempts {
            attempt.in_flight.end(Outcome { code: Code::DEADLINE_EXCEEDED, cause: Cause::DeadlineExceeded });
        }
        for attempt in &self.attempts {
            self.explain_end(attempt.attempt_index, "deadline exceeded");
        }
        let service = &self.core.service;
        let while_ = match self.attempts.first() {
            Some(attempt) => format!("waiting for the response of {}", attempt.in_flight.peer()),
            None if self.core.view.snapshot().ready.is_empty() => {
                format!("waiting for an instance of `{service}`: {}", self.core.view.snapshot().no_instance)
            }
            None => format!("between attempts, {} made to `{service}`", self.counts.sends()),
        };
        Failure::Expired { timeout: self.deadline.timeout, while_ }
    }

    fn explain_response(&self, attempt_index: Option<usize>, outcome: impl Display) {
        if let (Some(explain), Some(attempt_index)) = (&self.explain, attempt_index) {
            explain.answered(attempt_index, outcome);
        }
    }

    pub(super) fn explain_end(&self, attempt_index: Option<usize>, outcome: impl Display) {
        if let (Some(explain), Some(attempt_index)) = (&self.explain, attempt_index) {
            explain.end(attempt_index, outcome);
        }
    }
}

/// Returns whether the server rejected the call before it began: its
/// concurrency limit was reached.
fn is_rejected(code: Code, head: &http::Response<h2::RecvStream>) -> bool {
    code == Code::RESOURCE_EXHAUSTED && head.headers().contains_key(REJECTED)
}

impl Stage {
    /// Another attempt after `delay`.
    fn after(delay: Duration) -> Self {
        if delay == Duration::ZERO { Self::Pick } else { Self::Wait(Box::pin(tokio::time::sleep(delay))) }
    }
}
