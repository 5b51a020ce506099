//! What follows from the end of an attempt: an answer, another attempt, or
//! the call's failure.

use std::{fmt::Display, time::Duration};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::{
        answer::{Answer, Bounds, GRPC_STATUS, drop_malformed_details},
        failure::Failure,
        head::find,
        upload::{RequestBody, Rest},
    },
    Attempt, Stage, State,
};
use crate::{
    code::Code,
    health::Ended,
    policy::retry::{self, Pushback, RetryPolicy},
};

const PUSHBACK: http::HeaderName = http::HeaderName::from_static(retry::PUSHBACK);

const REFUSED: http::HeaderName = http::HeaderName::from_static(retry::REFUSED);

impl State {
    /// Takes the end of an attempt: gives the caller its answer, or begins what
    /// follows.
    pub(super) fn take(
        &mut self,
        attempt: Attempt,
        ended: Result<http::Response<h2::RecvStream>, Failure>,
    ) -> Result<Option<http::Response<Answer>>, Failure> {
        match ended {
            Ok(head) => Ok(self.accept(attempt, head)),
            Err(failure) => {
                self.note(attempt.slip, &failure);
                self.fail(attempt, failure).map(|()| None)
            }
        }
    }

    /// Takes an answer's head: gives it to the caller, or, where it says that
    /// the call failed and another attempt may help, begins or awaits that one.
    fn accept(
        &mut self,
        mut attempt: Attempt,
        mut head: http::Response<h2::RecvStream>,
    ) -> Option<http::Response<Answer>> {
        // A head with a status is the whole answer.
        let ended = find(head.headers(), &GRPC_STATUS).map(|code| Code::from_header(code.as_bytes()));
        let code = ended.or_else(|| code_of(head.status()));
        if let Some(code) = code {
            attempt.in_flight.observe(Ended::Answered(code));
            if code != Code::OK {
                self.tried.push(attempt.in_flight.peer().id.clone());
                if self.goes_on(code, &head) {
                    self.note_answer(attempt.slip, format_args!("answered {code}"));
                    return None;
                }
            }
        }
        if code.is_none_or(|code| code == Code::OK) {
            self.core.budget.succeeded();
        }
        if ended.is_some() {
            drop_malformed_details(head.headers_mut());
        }
        self.note_answer(attempt.slip, "answered");
        let upload = attempt.upload.map(|upload| {
            let body = std::mem::replace(&mut self.body, RequestBody::ended());
            AbortOnDropHandle::new(tokio::spawn(Rest::new(body, upload)))
        });
        let mut admitted = std::mem::take(&mut self.admitted);
        admitted.ended(code.unwrap_or(Code::OK));
        let bounds = Bounds {
            deadline: self.bounds_answer.then_some(self.deadline),
            message: self.policy.max_response_bytes,
            blames: !self.policy.streams_answer,
        };
        Some(head.map(|frames| Answer::new(frames, attempt.in_flight, bounds, admitted, upload)))
    }

    /// Whether the call goes on after an instance answered with an error.
    fn goes_on(&mut self, code: Code, head: &http::Response<h2::RecvStream>) -> bool {
        let pushback = head.headers().get(PUSHBACK).map(|value| Pushback::parse(value.as_bytes()));
        let fatal = self.policy.hedging.as_ref().is_none_or(|policy| !policy.non_fatal.contains(code));
        if !self.attempts.is_empty() && !fatal {
            self.hurry_hedge(pushback);
            return true;
        }
        let refused = code == Code::RESOURCE_EXHAUSTED && head.headers().contains_key(REFUSED);
        let failure = if refused && self.has_unused() {
            retry::Failure::Refused
        } else {
            retry::Failure::Answered(code)
        };
        if let Some(stage) = self.decide(failure, pushback) {
            self.stage = stage;
            return true;
        }
        false
    }

    /// Ends an attempt that failed without an answer: others may still be
    /// under way, or another follows.
    fn fail(&mut self, mut attempt: Attempt, failure: Failure) -> Result<(), Failure> {
        if failure.kind() == retry::Failure::Unavailable {
            attempt.in_flight.observe(Ended::Broken);
        }
        self.tried.push(attempt.in_flight.peer().id.clone());
        if !self.attempts.is_empty() && failure.kind() != retry::Failure::Final {
            self.hurry_hedge(None);
            return Ok(());
        }
        self.stage = self.retry(&failure).ok_or(failure)?;
        Ok(())
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
            if let Some(incoming) = &self.incoming
                && self.is_repeatable(failure)
            {
                incoming.exhaust();
            }
            return None;
        };
        Some(if delay == Duration::ZERO {
            Stage::Pick
        } else {
            Stage::Wait(Box::pin(tokio::time::sleep(delay)))
        })
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
        if failure == retry::Failure::NotProcessed {
            self.core.counters.transparent_retries.add();
            self.retried.transparent += 1;
        } else if self.core.budget.withdraw(now) {
            self.core.counters.retries.add();
            self.retried.retries += 1;
        } else {
            self.core.counters.budget_refused.add();
            return None;
        }
        self.retried.delay += delay;
        Some(delay)
    }

    /// The call's time is up.
    pub(super) fn expired(&mut self) -> Failure {
        self.core.counters.expired.add();
        for attempt in &mut self.attempts {
            attempt.in_flight.observe(Ended::Expired);
        }
        for attempt in &self.attempts {
            self.note(attempt.slip, "deadline exceeded");
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

    fn note_answer(&self, slip: Option<usize>, outcome: impl Display) {
        if let (Some(explain), Some(slip)) = (&self.explain, slip) {
            explain.answered(slip, outcome);
        }
    }

    pub(super) fn note(&self, slip: Option<usize>, outcome: impl Display) {
        if let (Some(explain), Some(slip)) = (&self.explain, slip) {
            explain.end(slip, outcome);
        }
    }
}

/// What an answer without a gRPC status means, as a proxy gives it ("HTTP to
/// gRPC Status Code Mapping"); `None` when it says that the call goes well.
fn code_of(http: http::StatusCode) -> Option<Code> {
    matches!(http.as_u16(), 429 | 502 | 503 | 504).then_some(Code::UNAVAILABLE)
}
