//! What follows from the end of an attempt: an answer, another attempt, or
//! the call's failure.

use std::{fmt::Display, task::Poll, time::Duration};

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, metadata::MetadataValue};

use super::{
    super::{
        answer::{Answer, Bounds},
        failure::Failure,
        response::{ResponseHead, screen_head, screen_status},
        upload::{RequestBody, Rest},
    },
    Attempt, Stage, State,
};
use crate::{
    code::Code,
    framing::Rules,
    outcome::{Cause, Outcome},
    policy::retry::{self, Pushback, RetryPolicy},
};

const PUSHBACK: HeaderName = HeaderName::from_static(retry::PUSHBACK);

const REFUSED: HeaderName = HeaderName::from_static(retry::REFUSED);

impl State {
    /// Takes the end of the attempt at `index`: the end of the call, or pending
    /// when the call is at its next stage.
    pub(super) fn take(
        &mut self,
        index: usize,
        ended: Result<http::Response<h2::RecvStream>, Failure>,
    ) -> Poll<Result<http::Response<Answer>, Status>> {
        let failure = match ended {
            Ok(head) => {
                let accepted = self.head.accepted_encodings();
                match screen_head(&head, self.attempts[index].in_flight.peer(), accepted) {
                    Ok(ResponseHead::Messages { compressed }) => {
                        let attempt = &mut self.attempts[index];
                        attempt.in_flight.response_began();
                        let attempt_index = attempt.attempt_index;
                        self.note_answer(attempt_index, "answered");
                        return Poll::Ready(Ok(self.hand_over(index, head, compressed, false)));
                    }
                    Ok(ResponseHead::Status(code)) => return self.accept_status(index, head, code),
                    Err(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        let attempt = self.attempts.swap_remove(index);
        self.note(attempt.attempt_index, &failure);
        match self.fail(attempt, failure) {
            Ok(()) => Poll::Pending,
            Err(failure) => Poll::Ready(Err(self.status(failure))),
        }
    }

    /// Takes an answer that is a status: gives it to the caller, or, where
    /// another attempt may help, begins or awaits that one.
    fn accept_status(
        &mut self,
        index: usize,
        mut head: http::Response<h2::RecvStream>,
        code: Code,
    ) -> Poll<Result<http::Response<Answer>, Status>> {
        let attempt = &mut self.attempts[index];
        let outcome = attempt.in_flight.end(Outcome::status(code));
        let (attempt_index, id) = (attempt.attempt_index, attempt.in_flight.peer().id.clone());
        self.note_answer(attempt_index, outcome);
        if code != Code::OK {
            self.tried.push(id);
            if self.goes_on(index, code, &head) {
                return Poll::Pending;
            }
            if is_refused(code, &head) {
                self.core.admission.refused();
            }
            if self.is_exhausted && self.is_nested {
                head.headers_mut().insert(PUSHBACK, HeaderValue::from_static(retry::NEVER));
            }
        }
        self.admitted.ended(code);
        screen_status(head.headers_mut());
        Poll::Ready(Ok(self.hand_over(index, head, false, true)))
    }

    /// Makes the caller's answer of what the attempt at `index` got;
    /// `has_status`: of a head that is all of it.
    #[inline]
    fn hand_over(
        &mut self,
        index: usize,
        head: http::Response<h2::RecvStream>,
        compressed: bool,
        has_status: bool,
    ) -> http::Response<Answer> {
        let Attempt { upload, in_flight, .. } = self.attempts.swap_remove(index);
        let upload = upload.map(|upload| {
            let body = std::mem::replace(&mut self.body, RequestBody::ended());
            AbortOnDropHandle::new(tokio::spawn(Rest::new(body, upload)))
        });
        let bounds = Bounds {
            deadline: self.bounds_answer.then_some(self.deadline),
            streams: self.policy.streams_answer,
            has_status,
        };
        let rules = Rules {
            max_bytes: self.policy.max_response_bytes.unwrap_or(self.core.config.max_response_bytes),
            compressed,
            single: self.policy.unary_answer,
        };
        let admitted = std::mem::take(&mut self.admitted);
        head.map(|frames| Answer::new(frames, in_flight, (bounds, rules), admitted, upload))
    }

    /// Whether the call goes on after the attempt at `index` was answered with
    /// an error; it is gone then.
    fn goes_on(&mut self, index: usize, code: Code, head: &http::Response<h2::RecvStream>) -> bool {
        let pushback = head.headers().get(PUSHBACK).map(|value| Pushback::parse(value.as_bytes()));
        let fatal = self.policy.hedging.as_ref().is_none_or(|policy| !policy.non_fatal.contains(code));
        if self.attempts.len() > 1 && !fatal {
            self.attempts.swap_remove(index);
            self.hurry_hedge(pushback);
            return true;
        }
        let failure = if is_refused(code, head) && self.has_unused() {
            retry::Failure::Rejected
        } else {
            retry::Failure::Answered(code)
        };
        let Some(stage) = self.decide(failure, pushback) else { return false };
        self.attempts.swap_remove(index);
        self.stage = stage;
        true
    }

    /// Ends an attempt that failed without an answer: others may still be
    /// under way, or another follows.
    fn fail(&mut self, mut attempt: Attempt, failure: Failure) -> Result<(), Failure> {
        attempt.in_flight.end(failure.outcome());
        self.tried.push(attempt.in_flight.peer().id.clone());
        if !self.attempts.is_empty() && failure.kind() != retry::Failure::Final {
            self.hurry_hedge(None);
            return Ok(());
        }
        self.stage = self.retry(&failure).ok_or(failure)?;
        Ok(())
    }

    /// Gives up an attempt that has taken as long as one may, `limit`, if
    /// another is under way or may be sent in its place; the latter is the
    /// stage that follows.
    pub(super) fn abandon(&mut self, index: usize, limit: Duration) -> Option<Stage> {
        let stage = match self.attempts.len() {
            // Without another, the one that is under way is the best there is;
            // a hedged call has asked each instance already.
            1 if self.policy.retry.attempt_timeout.is_none() && !self.has_unused() => return None,
            1 => Some(Stage::after(self.delay(retry::Failure::Unavailable, None)?)),
            _ => None,
        };
        let mut attempt = self.attempts.remove(index);
        let failure = Failure::AttemptTimeout { to: attempt.in_flight.peer().clone(), limit };
        self.note(attempt.attempt_index, &failure);
        attempt.in_flight.end(failure.outcome());
        self.tried.push(attempt.in_flight.peer().id.clone());
        self.hurry_hedge(None);
        stage
    }

    /// After a failure the next hedge comes at once, or when the server says.
    fn hurry_hedge(&mut self, pushback: Option<Pushback>) {
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

    /// What comes after a failed attempt; `None` when nothing does.
    fn decide(&mut self, failure: retry::Failure, pushback: Option<Pushback>) -> Option<Stage> {
        let Some(delay) = self.delay(failure, pushback) else {
            self.is_exhausted |= self.is_repeatable(failure);
            return None;
        };
        Some(Stage::after(delay))
    }

    /// Whether the method's policy answers such a failure with another attempt.
    fn is_repeatable(&self, failure: retry::Failure) -> bool {
        let RetryPolicy { applies, codes, .. } = self.policy.retry;
        match failure {
            retry::Failure::Unavailable => applies && codes.contains(Code::UNAVAILABLE),
            retry::Failure::Answered(code) => applies && codes.contains(code),
            _ => false,
        }
    }

    /// How long to wait before the next attempt; `None` when there is none.
    fn delay(&mut self, failure: retry::Failure, pushback: Option<Pushback>) -> Option<Duration> {
        if self.is_repeatable(failure) || pushback == Some(Pushback::Never) {
            self.core.budget.failed();
        }
        let delay = self.tries.again(failure, &self.policy.retry, pushback)?;
        let now = Instant::now();
        // One that would start after the deadline helps nobody: let the
        // failure be told, it is a better cause than "too late".
        if now + delay >= self.deadline.at || !self.body.is_replayable() {
            return None;
        }
        // What never left costs no server anything; all else is bounded.
        if failure != retry::Failure::NotSent && !self.core.budget.withdraw(now) {
            self.core.counters.budget_refused.add();
            return None;
        }
        if matches!(failure, retry::Failure::NotSent | retry::Failure::Refused) {
            self.core.counters.transparent_retries.add();
            self.retried.transparent += 1;
        } else {
            self.core.counters.retries.add();
            self.retried.retries += 1;
        }
        self.retried.delay += delay;
        Some(delay)
    }

    /// What the caller is told of the call's failure.
    #[cold]
    pub(super) fn status(&mut self, failure: Failure) -> Status {
        self.admitted.ended(failure.outcome().code);
        let mut status = Status::from(failure);
        if self.is_exhausted && self.is_nested {
            status.metadata_mut().insert(retry::PUSHBACK, MetadataValue::from_static(retry::NEVER));
        }
        status
    }

    /// The call's time is up.
    pub(super) fn expired(&mut self) -> Failure {
        self.core.counters.expired.add();
        for attempt in &mut self.attempts {
            attempt.in_flight.end(Outcome { code: Code::DEADLINE_EXCEEDED, cause: Cause::DeadlineExceeded });
        }
        for attempt in &self.attempts {
            self.note(attempt.attempt_index, "deadline exceeded");
        }
        let service = &self.core.service;
        let while_ = match self.attempts.first() {
            Some(attempt) => format!("waiting for the answer of {}", attempt.in_flight.peer()),
            None if self.core.view.snapshot().ready.is_empty() => {
                format!("waiting for an instance of `{service}`: {}", self.core.view.snapshot().why)
            }
            None => format!("between attempts, {} made to `{service}`", self.tries.sends()),
        };
        Failure::Expired { limit: self.deadline.limit, while_ }
    }

    fn note_answer(&self, attempt_index: Option<usize>, outcome: impl Display) {
        if let (Some(explain), Some(attempt_index)) = (&self.explain, attempt_index) {
            explain.answered(attempt_index, outcome);
        }
    }

    pub(super) fn note(&self, attempt_index: Option<usize>, outcome: impl Display) {
        if let (Some(explain), Some(attempt_index)) = (&self.explain, attempt_index) {
            explain.end(attempt_index, outcome);
        }
    }
}

/// Whether the server had no room for the call and did not begin it.
fn is_refused(code: Code, head: &http::Response<h2::RecvStream>) -> bool {
    code == Code::RESOURCE_EXHAUSTED && head.headers().contains_key(REFUSED)
}

impl Stage {
    /// Another attempt after `delay`.
    fn after(delay: Duration) -> Self {
        if delay == Duration::ZERO { Self::Pick } else { Self::Wait(Box::pin(tokio::time::sleep(delay))) }
    }
}
