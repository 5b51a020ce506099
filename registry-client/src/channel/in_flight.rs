//! An attempt's mark on its instance: under way until it is dropped, and how it
//! ended.

use std::sync::Arc;

use tokio::time::Instant;

use super::{connection::Connection, failure::Peer};
use crate::{
    code::Code,
    health::Ended,
    policy::{MethodPolicy, limit::Permit},
    telemetry::Counters,
};

/// Where an attempt goes.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) connection: Arc<Connection>,
    /// Its place under the instance's limit, where there is one.
    pub(super) permit: Option<Permit>,
}

/// Counts an attempt as under way on its instance until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    connection: Arc<Connection>,
    /// Its place under the instance's limit.
    _permit: Option<Permit>,
    /// `None` where nobody measures, so that nobody pays for it.
    timed: Option<Box<Timed>>,
}

/// Who wants to know how long an attempt took.
#[derive(Debug)]
struct Timed {
    began: Instant,
    policy: Arc<MethodPolicy>,
    counters: Arc<Counters>,
}

impl InFlight {
    /// An attempt begins.
    pub(super) fn on(
        Choice { connection, permit }: Choice,
        policy: &Arc<MethodPolicy>,
        counters: &Arc<Counters>,
    ) -> Self {
        connection.begin();
        let wanted = policy.is_timed() || counters.meters().is_some();
        let timed = wanted.then(|| {
            let (policy, counters) = (policy.clone(), counters.clone());
            Box::new(Timed { began: Instant::now(), policy, counters })
        });
        Self { connection, _permit: permit, timed }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.connection.peer
    }

    /// The attempt has ended, and how. One that is dropped without was given
    /// up by its caller, which says nothing about the instance.
    pub(super) fn observe(&mut self, ended: Ended) {
        self.connection.observe(ended);
        if let Some(timed) = self.timed.take() {
            timed.end(match ended {
                Ended::Answered(code) => code,
                Ended::Broken => Code::UNAVAILABLE,
                Ended::Expired => Code::DEADLINE_EXCEEDED,
            });
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.end();
        if let Some(timed) = self.timed.take() {
            timed.end(Code::CANCELLED);
        }
    }
}

impl Timed {
    fn end(&self, code: Code) {
        let took = self.began.elapsed();
        self.policy.observe(took);
        if let Some(meters) = self.counters.meters() {
            meters.attempt(took, code);
        }
    }
}
