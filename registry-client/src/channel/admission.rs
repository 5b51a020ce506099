//! Whether a call may begin, and what is learnt from how it ended: the
//! service's limit, the throttle, the budget.

use std::sync::Arc;

use tokio::time::Instant;

use super::failure::Failure;
use crate::{
    code::Code,
    instance::ServiceName,
    policy::{
        ServiceConfig,
        budget::Budget,
        limit::{Limit, Permit},
        throttle::Throttle,
    },
    telemetry::Counters,
};

/// What calls pass before they are sent. Costs nothing where nothing is
/// configured.
#[derive(Debug)]
pub(super) struct Admission {
    limit: Option<Limit>,
    throttle: Option<Throttle>,
}

/// A call that has passed; dropped with the end of its answer. Holds nothing
/// where nothing is configured.
#[derive(Debug, Default)]
pub(super) struct Admitted(Option<Box<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// A place under the limit; `None` without one.
    permit: Option<Permit>,
    /// Learns of successes, where it counts them.
    budget: Option<Arc<Budget>>,
}

impl Admission {
    pub(super) fn new(service: &ServiceName, config: &ServiceConfig) -> Self {
        Self {
            limit: config.service_limit.map(|limit| Limit::new(service.as_str(), limit)),
            throttle: config.throttle.map(Throttle::new),
        }
    }

    /// Admits a call, which may have to wait for its turn at the limit.
    ///
    /// # Errors
    /// When it is throttled.
    #[inline]
    pub(super) fn admit(
        &self,
        service: &ServiceName,
        now: Instant,
        (counters, budget): (&Counters, &Arc<Budget>),
    ) -> Result<(Admitted, Option<Limit>), Failure> {
        if let Some(throttle) = &self.throttle
            && !throttle.admit(now, budget, fastrand::f64)
        {
            counters.throttled.add();
            return Err(Failure::Throttled { service: service.clone() });
        }
        budget.deposit(now);
        let counted = budget.counts_successes();
        if self.limit.is_none() && !counted {
            return Ok((Admitted::default(), None));
        }
        let mut held = Held { budget: counted.then(|| budget.clone()), ..Held::default() };
        held.permit = self.limit.as_ref().and_then(Limit::try_enter);
        let wait = self.limit.clone().filter(|_| held.permit.is_none());
        Ok((Admitted(Some(Box::new(held))), wait))
    }

    /// The service has refused a call for lack of room.
    #[cold]
    pub(super) fn refused(&self) {
        if let Some(throttle) = &self.throttle {
            throttle.refused(Instant::now());
        }
    }
}

impl Admitted {
    /// The call's turn at the limit has come.
    pub(super) fn hold(&mut self, permit: Permit) {
        self.0.get_or_insert_default().permit = Some(permit);
    }

    /// The call ended so; one that ends without this was dropped by its caller.
    #[inline]
    pub(super) fn ended(&mut self, code: Code) {
        let Some(held) = &mut self.0 else { return };
        if let Some(budget) = held.budget.take_if(|_| code == Code::OK) {
            budget.succeeded();
        }
    }
}
