//! The accounting of an attempt: in flight until it is dropped, and its
//! outcome.

use std::sync::Arc;

use tokio::time::Instant;

use super::{connection::Connection, peer::Peer};
use crate::{
    code::Code,
    outcome::{Cause, Outcome},
    policy::{MethodPolicy, limit::CallPermit},
    telemetry::Counters,
};

/// One in this many attempts on a connection is a sample of the method's usual
/// latency.
const SAMPLE_INTERVAL: u32 = 16;

/// The destination of an attempt.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) connection: Arc<Connection>,
    /// The permit of the instance's concurrency limit, where there is one.
    pub(super) permit: Option<CallPermit>,
}

/// Counts an attempt as in flight on its instance until it is dropped, and
/// reports its one outcome to the record, the policy and the meters.
#[derive(Debug)]
pub(super) struct InFlight {
    connection: Arc<Connection>,
    /// The permit of the instance's concurrency limit.
    _permit: Option<CallPermit>,
    policy: Arc<MethodPolicy>,
    began: Instant,
    /// `None` without meters, so that unmeasured calls pay nothing.
    counters: Option<Arc<Counters>>,
    /// True if the latency is a sample of the usual one.
    is_sample: bool,
    /// True if the whole request was sent and the part of the response with a
    /// usual latency has not arrived: the head, or the message of a unary
    /// response.
    awaits_response: bool,
    has_ended: bool,
}

impl InFlight {
    /// Counts an attempt that began at `began`.
    #[inline]
    pub(super) fn start(
        Target { connection, permit }: Target,
        policy: &Arc<MethodPolicy>,
        counters: &Arc<Counters>,
        began: Instant,
    ) -> Self {
        let earlier = connection.begin();
        Self {
            connection,
            _permit: permit,
            policy: policy.clone(),
            began,
            counters: counters.meters().is_some().then(|| counters.clone()),
            is_sample: earlier.is_multiple_of(SAMPLE_INTERVAL) || policy.usual().is_learning(),
            awaits_response: false,
            has_ended: false,
        }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.connection.peer
    }

    /// Records that the whole request was sent.
    pub(super) fn request_sent(&mut self) {
        self.awaits_response = true;
    }

    /// Records that the response has begun without a status.
    pub(super) fn response_began(&mut self) {
        if !self.policy.unary_response {
            // A stream may end at any time; its head is all that can be waited
            // for.
            self.learn_usual();
            self.awaits_response = false;
            self.connection.stream_began();
        }
    }

    /// Records the latency of what was awaited.
    fn learn_usual(&self) {
        if self.is_sample && self.awaits_response {
            self.policy.usual().record(self.began.elapsed());
        }
    }

    /// Records the outcome; the first one counts. Returns the outcome that was
    /// recorded.
    #[inline]
    pub(super) fn end(&mut self, outcome: Outcome) -> Outcome {
        if std::mem::replace(&mut self.has_ended, true) {
            return outcome;
        }
        let outcome = self.detect_wrong_service(outcome);
        self.connection.observe(outcome);
        if outcome == Outcome::status(Code::OK) {
            self.learn_usual();
        }
        if self.counters.is_some() || self.policy.is_timed() {
            self.measure(outcome);
        }
        outcome
    }

    fn measure(&self, outcome: Outcome) {
        let took = self.began.elapsed();
        self.policy.observe(took);
        if let Some(meters) = self.counters.as_ref().and_then(|counters| counters.meters()) {
            meters.attempt(took, outcome.code);
        }
    }

    /// Detects another program at the instance's address: it answers
    /// UNIMPLEMENTED to a method that other instances serve, and has answered
    /// nothing else on this connection.
    fn detect_wrong_service(&self, outcome: Outcome) -> Outcome {
        if outcome.cause != Cause::Status {
            return outcome;
        }
        if outcome.code != Code::UNIMPLEMENTED {
            self.policy.set_implemented();
            self.connection.set_served();
        } else if self.policy.is_implemented() && !self.connection.has_served() {
            return Outcome { cause: Cause::WrongService, ..outcome };
        }
        outcome
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.end();
        if !self.has_ended {
            let late = self.awaits_response && self.policy.usual().is_exceeded_by(self.began.elapsed());
            let cause = if late { Cause::CancelledLate } else { Cause::Cancelled };
            self.end(Outcome { code: Code::CANCELLED, cause });
        }
    }
}
