//! An attempt's mark on its instance: under way until it is dropped, and how it
//! ended.

use std::sync::Arc;

use tokio::time::Instant;

use super::{connection::Connection, failure::Peer};
use crate::{
    code::Code,
    outcome::{Cause, Outcome},
    policy::{MethodPolicy, limit::Permit},
    telemetry::Counters,
};

/// Of so many attempts on a connection one is measured to learn what is usual.
const SAMPLED: u32 = 16;

/// Where an attempt goes.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) connection: Arc<Connection>,
    /// Its place under the instance's limit, where there is one.
    pub(super) permit: Option<Permit>,
}

/// Counts an attempt as under way on its instance until it is dropped, and
/// reports its one outcome to everyone who learns from it.
#[derive(Debug)]
pub(super) struct InFlight {
    connection: Arc<Connection>,
    /// Its place under the instance's limit.
    _permit: Option<Permit>,
    policy: Arc<MethodPolicy>,
    began: Instant,
    /// `None` where nobody measures, so that nobody pays for it.
    counters: Option<Arc<Counters>>,
    /// Whether its latency is recorded as an example of what is usual.
    is_sample: bool,
    /// Whether the instance has the whole request and owes what has a usual
    /// time: a response's head, or the one message of it.
    is_owed: bool,
    has_ended: bool,
}

impl InFlight {
    /// An attempt began at `began`.
    #[inline]
    pub(super) fn on(
        Choice { connection, permit }: Choice,
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
            is_sample: earlier.is_multiple_of(SAMPLED) || policy.usual().is_learning(),
            is_owed: false,
            has_ended: false,
        }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.connection.peer
    }

    /// The instance has the whole request.
    pub(super) fn request_sent(&mut self) {
        self.is_owed = true;
    }

    /// The response has begun without a status.
    pub(super) fn response_began(&mut self) {
        if !self.policy.unary_answer {
            // A stream ends when it likes, and one that begins shows as much
            // as can be waited for.
            self.learn_usual();
            self.is_owed = false;
            self.connection.stream_began();
        }
    }

    /// What was owed has come.
    fn learn_usual(&self) {
        if self.is_sample && self.is_owed {
            self.policy.usual().record(self.began.elapsed());
        }
    }

    /// The attempt has ended so; the first end counts. Gives what it is
    /// recorded as.
    #[inline]
    pub(super) fn end(&mut self, outcome: Outcome) -> Outcome {
        if std::mem::replace(&mut self.has_ended, true) {
            return outcome;
        }
        let outcome = self.recognise_stranger(outcome);
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

    /// UNIMPLEMENTED, for a method that others answer, from an instance that
    /// has answered nothing else on this connection, comes from another program
    /// at its address.
    fn recognise_stranger(&self, outcome: Outcome) -> Outcome {
        if outcome.cause != Cause::Status {
            return outcome;
        }
        if outcome.code != Code::UNIMPLEMENTED {
            self.policy.set_implemented();
            self.connection.set_serves();
        } else if self.policy.is_implemented() && !self.connection.serves() {
            return Outcome { cause: Cause::WrongService, ..outcome };
        }
        outcome
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.end();
        if !self.has_ended {
            let late = self.is_owed && self.policy.usual().is_exceeded_by(self.began.elapsed());
            let cause = if late { Cause::CancelledLate } else { Cause::Cancelled };
            self.end(Outcome { code: Code::CANCELLED, cause });
        }
    }
}
