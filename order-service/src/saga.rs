//! The sagas, which take the steps of orders.

use std::{future::Future, sync::Arc, time::Duration};

use mesh_proto::shop::order::v1 as wire;
use service_kit::{
    error::{Fault, internal},
    idempotency::StoredResponse,
    timestamp::Timestamp,
};
use tokio::{join, sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{debug, warn};

use crate::{
    Error,
    carrier::{Booking, Carrier},
    carts::Carts,
    domain::{Order, PaymentMethod, Step, WrongState},
    payments::{ChargeOutcome, Payments},
    stock::{Stock, StockOutcome},
    store::{ClaimedOrder, MAX_AHEAD, Store},
};

/// The time a caller waits for another replica that works on the same order.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// The timeout of a step with all its calls: so much less than the lease that the
/// result can be written before it expires.
const STEP_TIMEOUT: Duration = Duration::from_secs(8);
const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const _: () = assert!(MAX_BACKOFF.as_secs() <= MAX_AHEAD.as_secs());
/// The age of an order after which its cart is no longer cleared: the customer has
/// long seen its contents.
const CLEAR_CART_TIMEOUT: Duration = Duration::from_secs(600);
/// The most requests of callers in progress.
const MAX_CONCURRENT_REQUESTS: usize = 1_024;

/// The sagas of all orders. Cheap to clone; clones share their limits.
#[derive(Clone, Debug)]
pub struct Sagas {
    store: Store,
    dependencies: Arc<Dependencies>,
    slots: Arc<Semaphore>,
    end: CancellationToken,
}

/// The services that orders need.
#[derive(Clone, Debug)]
pub struct Dependencies {
    /// The carts.
    pub carts: Carts,
    /// The stock.
    pub stock: Stock,
    /// The payments.
    pub payments: Payments,
    /// The carrier.
    pub carrier: Carrier,
}

/// The outcome of the steps of an order.
#[derive(Debug)]
pub struct SagaOutcome {
    /// The order at the end.
    pub order: Order,
    /// The response to the request that created the order, if a step has stored it.
    pub response: Option<StoredResponse>,
    /// The reason why no further step was taken.
    pub end: SagaEnd,
}

/// The reason why no further step of an order was taken.
#[derive(Debug)]
pub enum SagaEnd {
    /// The order is settled.
    Settled,
    /// The order is settled, because this payment method was declined.
    Declined(PaymentMethod),
    /// A step failed; it is retried later.
    Failed(Fault),
    /// Another replica has claimed the order.
    ClaimLost,
}

/// The result of a step.
struct StepResult {
    claimed: ClaimedOrder,
    response: Option<StoredResponse>,
    declined: Option<PaymentMethod>,
}

impl Sagas {
    /// The sagas of the orders in `store`.
    #[must_use]
    pub fn new(store: Store, dependencies: Dependencies) -> Self {
        let slots = Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS));
        Self { store, dependencies: Arc::new(dependencies), slots, end: CancellationToken::new() }
    }

    /// The store of the orders.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The carts.
    #[must_use]
    pub fn carts(&self) -> &Carts {
        &self.dependencies.carts
    }

    /// A guard that ends the work of [`run`](Self::run) when it is dropped.
    pub(crate) fn owner(&self) -> tokio_util::sync::DropGuard {
        self.end.clone().drop_guard()
    }

    /// Runs `work` to its end, even when the caller cancels.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when too much is in progress, [`Error::Stopping`] when
    /// this process ends first.
    ///
    /// # Cancel safety
    /// The work continues.
    pub fn run<T: Send + 'static, W: Future<Output = T> + Send + 'static>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, Error>> + Send + use<T, W> {
        // Boxed at once: it is large, and would be moved several times.
        let work = Box::pin(work);
        let (slot, end) = (self.slots.clone().try_acquire_owned(), self.end.clone());
        async move {
            let slot = slot.map_err(|_| Error::Overloaded)?;
            let task = tokio::spawn(async move {
                let _slot = slot;
                end.run_until_cancelled(work).await
            });
            task.await.ok().flatten().ok_or(Error::Stopping)
        }
    }

    /// Takes the steps of an order until it is settled, a step fails, or another
    /// replica claims it.
    ///
    /// # Cancel safety
    /// The order is resumed when its lease expires.
    pub async fn run_steps(&self, mut claimed: ClaimedOrder) -> SagaOutcome {
        let (mut declined, mut response) = (None, None);
        while let Some(step) = claimed.order.next_step() {
            let order = claimed.order.clone();
            debug!(order = %order.id(), ?step, "taking a step");
            let result = match timeout(STEP_TIMEOUT, Box::pin(self.run_step(&claimed, step))).await {
                Ok(result) => result,
                Err(_) => Err(timed_out(step)),
            };
            let result = match result {
                Ok(result) => result,
                Err(fault) => {
                    self.postpone(&claimed).await;
                    return SagaOutcome { order, response, end: SagaEnd::Failed(fault) };
                }
            };
            declined = result.declined;
            claimed = match self.store.advance(&claimed, result.claimed, result.response.clone()).await {
                Ok(Some(claimed)) => claimed,
                Ok(None) => return SagaOutcome { order, response, end: SagaEnd::ClaimLost },
                Err(why) => return SagaOutcome { order, response, end: SagaEnd::Failed(why.fault()) },
            };
            response = result.response.or(response);
        }
        let order = claimed.order.clone();
        if claimed.cart_pending {
            self.clear_cart(claimed).await;
        }
        SagaOutcome { order, response, end: declined.map_or(SagaEnd::Settled, SagaEnd::Declined) }
    }

    async fn run_step(&self, claimed: &ClaimedOrder, step: Step) -> Result<StepResult, Fault> {
        let (order, dependencies) = (&claimed.order, &self.dependencies);
        let mut result = StepResult { claimed: claimed.clone(), response: None, declined: None };
        let changed = match step {
            Step::CommitStock => match dependencies.stock.reserve_and_commit(order).await? {
                StockOutcome::Committed => {
                    let customer = &order.facts().customer;
                    result.claimed.cart_pending = !dependencies.carts.clear(customer, claimed.cart).await;
                    let confirmed = order.stock_committed(Timestamp::now());
                    result.response = confirmed
                        .as_ref()
                        .ok()
                        .map(|order| StoredResponse::message(&wire::Order::from(order)));
                    confirmed
                }
                StockOutcome::Insufficient(skus) => out_of_stock(&mut result, skus),
            },
            Step::Charge => self.charge(order, &mut result).await?,
            Step::Book => match dependencies.carrier.book(order).await? {
                Booking::Accepted(tracking) => order.booked(tracking, Timestamp::now()),
                Booking::Refused => order.refused(Timestamp::now()),
            },
            Step::Compensate => {
                // Even what this row does not record: a charge that another call has
                // made under the order's id, or that is still in flight.
                let (refunded, released) =
                    join!(dependencies.payments.refund(order), dependencies.stock.release(order));
                refunded.and(released)?;
                order.compensated(Timestamp::now())
            }
        };
        result.claimed.order =
            changed.map_err(|why| internal(&format_args!("the step {step:?} is not possible: {why}")))?;
        Ok(result)
    }

    async fn charge(
        &self,
        order: &Order,
        result: &mut StepResult,
    ) -> Result<Result<Order, WrongState>, Fault> {
        let Some(method) = &order.progress().payment else {
            return Err(internal(&"an order in state paying has no payment method"));
        };
        Ok(match self.dependencies.payments.charge(order, method, result.claimed.claim).await? {
            ChargeOutcome::Made(charge) => order.charged(charge, Timestamp::now()),
            ChargeOutcome::Declined => {
                result.declined = Some(method.clone());
                order.declined(Timestamp::now())
            }
            // Another call has refunded it: it can never be paid.
            ChargeOutcome::Voided => order.cancel(Timestamp::now()),
        })
    }

    /// Checks that a paid order still has its charge and its goods: no other call
    /// than the order's has refunded or released them.
    ///
    /// # Errors
    /// When a dependency fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_intact(&self, order: &Order) -> Result<bool, Fault> {
        let Dependencies { payments, stock, .. } = &*self.dependencies;
        let (is_charged, is_unreleased) = join!(payments.is_charged(order), stock.is_unreleased(order));
        Ok(is_charged? && is_unreleased?)
    }

    /// Clears the cart of a settled order. A failure does not fail the order.
    async fn clear_cart(&self, claimed: ClaimedOrder) {
        let facts = claimed.order.facts();
        let age = Timestamp::now().micros().saturating_sub(facts.created.micros());
        let is_too_late = u128::try_from(age).unwrap_or_default() > CLEAR_CART_TIMEOUT.as_micros();
        if is_too_late {
            let id = facts.id;
            warn!(order = %id, "gave up clearing the cart of order {id} after {CLEAR_CART_TIMEOUT:?}");
        }
        if !is_too_late && !self.dependencies.carts.clear(&facts.customer, claimed.cart).await {
            return self.postpone(&claimed).await;
        }
        let after = ClaimedOrder { cart_pending: false, ..claimed.clone() };
        if let Err(why) = self.store.advance(&claimed, after, None).await {
            // The cart is cleared once more when the lease expires.
            warn!(order = %facts.id, error = %why, "failed to record that a cart was cleared: {why}");
        }
    }

    async fn postpone(&self, claimed: &ClaimedOrder) {
        if let Err(why) = self.store.postpone(claimed, backoff(claimed.attempts)).await {
            let id = claimed.order.id();
            warn!(order = %id, error = %why, "failed to release order {id}, which waits for its lease to expire: {why}");
        }
    }
}

/// Cancels an order whose goods are out of stock: that error is the request's
/// response, and the cart stays as it is.
fn out_of_stock(result: &mut StepResult, skus: String) -> Result<Order, WrongState> {
    result.claimed.cart_pending = false;
    result.response = Some(StoredResponse::error(Error::OutOfStock(skus).into_fault(), crate::NAME));
    result.claimed.order.out_of_stock(Timestamp::now())
}

fn timed_out(step: Step) -> Fault {
    warn!(?step, "the step {step:?} of an order timed out after {STEP_TIMEOUT:?}");
    let words = "a dependency did not respond in time; try again";
    Fault::new(Code::DeadlineExceeded, "DEPENDENCY_SLOW", words)
}

/// The backoff after so many earlier failures. It is between half of the full value
/// and all of it, so that orders that failed together are not retried together.
fn backoff(failures: u32) -> Duration {
    let full = INITIAL_BACKOFF.saturating_mul(1 << failures.min(10)).min(MAX_BACKOFF);
    full.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoffs_double_up_to_5_s() {
        for (failures, full) in [(0, 200), (1, 400), (4, 3_200), (5, 5_000), (31, 5_000), (u32::MAX, 5_000)] {
            let full = Duration::from_millis(full);
            assert!((full / 2..=full).contains(&backoff(failures)), "{failures}");
        }
    }
}
