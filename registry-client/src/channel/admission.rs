//! The checks that a call passes before it is sent: the service's concurrency
//! limit, the throttle and the retry budget.

use std::sync::Arc;

use tokio::time::Instant;

use super::failure::Failure;
use crate::{
    code::Code,
    instance::ServiceName,
    policy::{
        ServiceConfig,
        budget::Budget,
        limit::{CallLimit, CallPermit},
        throttle::Throttle,
    },
    telemetry::Counters,
};

/// The limits on calls to one service. Without a configured limit they cost
/// nothing.
#[derive(Debug)]
pub(super) struct ClientLimits {
    limit: Option<CallLimit>,
    throttle: Option<Throttle>,
}

/// A call that was admitted; dropped at the end of its response. Empty unless a
/// limit is configured.
#[derive(Debug, Default)]
pub(super) struct AdmittedCall(Option<Box<HeldPermit>>);

#[derive(Debug, Default)]
struct HeldPermit {
    /// The permit of the concurrency limit; `None` without one.
    permit: Option<CallPermit>,
    /// The retry budget, if it counts successes.
    budget: Option<Arc<Budget>>,
}

impl ClientLimits {
    pub(super) fn new(service: &ServiceName, config: &ServiceConfig) -> Self {
        Self {
            limit: config.service_limit.map(|limit| CallLimit::new(service.as_str(), limit)),
            throttle: config.throttle.map(Throttle::new),
        }
    }

    /// Admits a call. The returned limit, if any, is one that the call has to
    /// wait for.
    ///
    /// # Errors
    /// [`Failure::Throttled`].
    #[inline]
    pub(super) fn admit(
        &self,
        service: &ServiceName,
        now: Instant,
        (counters, budget): (&Counters, &Arc<Budget>),
    ) -> Result<(AdmittedCall, Option<CallLimit>), Failure> {
        if let Some(throttle) = &self.throttle
            && !throttle.admit(now, budget, fastrand::f64)
        {
            counters.throttled.add();
            return Err(Failure::Throttled { service: service.clone() });
        }
        budget.deposit(now);
        let counted = budget.counts_successes();
        if self.limit.is_none() && !counted {
            return Ok((AdmittedCall::default(), None));
        }
        let mut held = HeldPermit { budget: counted.then(|| budget.clone()), ..HeldPermit::default() };
        held.permit = self.limit.as_ref().and_then(CallLimit::try_enter);
        let wait = self.limit.clone().filter(|_| held.permit.is_none());
        Ok((AdmittedCall(Some(Box::new(held))), wait))
    }

    /// Records that the service rejected a call because it was overloaded.
    #[cold]
    pub(super) fn record_rejection(&self) {
        if let Some(throttle) = &self.throttle {
            throttle.record_rejection(Instant::now());
        }
    }
}

impl AdmittedCall {
    /// Keeps the permit that the call has waited for.
    pub(super) fn hold(&mut self, permit: CallPermit) {
        self.0.get_or_insert_default().permit = Some(permit);
    }

    /// Records the status of the call. A call that its caller dropped has none.
    #[inline]
    pub(super) fn ended(&mut self, code: Code) {
        let Some(held) = &mut self.0 else { return };
        if let Some(budget) = held.budget.take_if(|_| code == Code::OK) {
            budget.record_success();
        }
    }
}
