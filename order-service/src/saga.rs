//! Takes an order from step to step until it is at rest.

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
    payments::{Charging, Payments},
    stock::{Goods, Stock},
    store::{Held, MAX_AHEAD, Store},
};

/// How long a caller waits for somebody else who works on the same order.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// How long a step may take with all its calls: so much less than the lease
/// that what follows is written in its time.
const STEP_LIMIT: Duration = Duration::from_secs(8);
/// What the pause after a failed step doubles from.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const _: () = assert!(LONGEST_PAUSE.as_secs() <= MAX_AHEAD.as_secs());
/// For how long after an order it is tried to empty its cart: later the
/// customer has long seen it full.
const CART_PATIENCE: Duration = Duration::from_secs(600);
/// How many callers' orders are worked on at once.
const MOST: usize = 1_024;

/// The sagas of all orders. Cheap to clone; clones share their bounds.
#[derive(Clone, Debug)]
pub struct Sagas {
    store: Store,
    neighbours: Arc<Neighbours>,
    slots: Arc<Semaphore>,
    end: CancellationToken,
}

/// Whom orders are made with.
#[derive(Clone, Debug)]
pub struct Neighbours {
    /// The carts that they are made of.
    pub carts: Carts,
    /// Where their goods come from.
    pub stock: Stock,
    /// Who charges for them.
    pub payments: Payments,
    /// Who takes them to the customer.
    pub carrier: Carrier,
}

/// How far an order was taken.
#[derive(Debug)]
pub struct Driven {
    /// As it then was.
    pub order: Order,
    /// What the request that made it was answered, if that was stored on the way.
    pub answer: Option<StoredResponse>,
    /// Why it was taken no further.
    pub end: End,
}

/// Why an order was taken no further.
#[derive(Debug)]
pub enum End {
    /// It is at rest.
    Rests,
    /// It is at rest, because this payment method was declined.
    Declined(PaymentMethod),
    /// A step failed; it is taken again later.
    Failed(Fault),
    /// Somebody else has taken it on.
    Lost,
}

/// What a step has made of an order.
struct Taken {
    held: Held,
    answer: Option<StoredResponse>,
    declined: Option<PaymentMethod>,
}

impl Sagas {
    /// The sagas of the orders in `store`.
    #[must_use]
    pub fn new(store: Store, neighbours: Neighbours) -> Self {
        let slots = Arc::new(Semaphore::new(MOST));
        Self { store, neighbours: Arc::new(neighbours), slots, end: CancellationToken::new() }
    }

    /// The orders.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The carts.
    #[must_use]
    pub fn carts(&self) -> &Carts {
        &self.neighbours.carts
    }

    /// Ends what [`run`](Self::run) runs when it is dropped.
    pub(crate) fn owner(&self) -> tokio_util::sync::DropGuard {
        self.end.clone().drop_guard()
    }

    /// Runs `work` to its end, also when the caller leaves.
    ///
    /// # Errors
    /// [`Error::Full`] when too much is under way, [`Error::Stopping`] when
    /// this process ends first.
    ///
    /// # Cancel safety
    /// The work goes on.
    pub fn run<T: Send + 'static, W: Future<Output = T> + Send + 'static>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, Error>> + Send + use<T, W> {
        // At once: it is large, and would be moved several times on its way.
        let work = Box::pin(work);
        let (slot, end) = (self.slots.clone().try_acquire_owned(), self.end.clone());
        async move {
            let slot = slot.map_err(|_| Error::Full)?;
            let task = tokio::spawn(async move {
                let _slot = slot;
                end.run_until_cancelled(work).await
            });
            task.await.ok().flatten().ok_or(Error::Stopping)
        }
    }

    /// Takes an order from step to step until it is at rest, a step fails, or
    /// somebody else has it.
    ///
    /// # Cancel safety
    /// It is carried on when its lease runs out.
    pub async fn drive(&self, mut held: Held) -> Driven {
        let (mut declined, mut answer) = (None, None);
        while let Some(step) = held.order.next_step() {
            let order = held.order.clone();
            debug!(order = %order.id(), ?step, "takes a step");
            let taken = match timeout(STEP_LIMIT, Box::pin(self.step(&held, step))).await {
                Ok(taken) => taken,
                Err(_) => Err(slow(step)),
            };
            let taken = match taken {
                Ok(taken) => taken,
                Err(fault) => {
                    self.postpone(&held).await;
                    return Driven { order, answer, end: End::Failed(fault) };
                }
            };
            declined = taken.declined;
            held = match self.store.advance(&held, taken.held, taken.answer.clone()).await {
                Ok(Some(held)) => held,
                Ok(None) => return Driven { order, answer, end: End::Lost },
                Err(why) => return Driven { order, answer, end: End::Failed(why.fault()) },
            };
            answer = taken.answer.or(answer);
        }
        let order = held.order.clone();
        if held.cart_full {
            self.empty_cart(held).await;
        }
        Driven { order, answer, end: declined.map_or(End::Rests, End::Declined) }
    }

    async fn step(&self, held: &Held, step: Step) -> Result<Taken, Fault> {
        let (order, with) = (&held.order, &self.neighbours);
        let mut taken = Taken { held: held.clone(), answer: None, declined: None };
        let becomes = match step {
            Step::Secure => match with.stock.secure(order).await? {
                Goods::Had => {
                    taken.held.cart_full = !with.carts.clear(&order.facts().customer, held.cart).await;
                    let confirmed = order.secured(Timestamp::now());
                    taken.answer = confirmed
                        .as_ref()
                        .ok()
                        .map(|order| StoredResponse::message(&wire::Order::from(order)));
                    confirmed
                }
                Goods::Short(skus) => out_of_stock(&mut taken, skus),
            },
            Step::Charge => self.charge(order, &mut taken).await?,
            Step::Book => match with.carrier.book(order).await? {
                Booking::Taken(tracking) => order.booked(tracking, Timestamp::now()),
                Booking::Refused => order.refused(Timestamp::now()),
            },
            Step::Unwind => {
                // Also what this row knows nothing of: a charge that somebody else
                // has made under the order's id, or that is still on its way.
                let (refunded, released) = join!(with.payments.refund(order), with.stock.release(order));
                refunded.and(released)?;
                order.unwound(Timestamp::now())
            }
        };
        taken.held.order =
            becomes.map_err(|why| internal(&format_args!("{step:?} makes no sense: {why}")))?;
        Ok(taken)
    }

    async fn charge(&self, order: &Order, taken: &mut Taken) -> Result<Result<Order, WrongState>, Fault> {
        let Some(method) = order.payment() else {
            return Err(internal(&"an order is being paid with nothing"));
        };
        Ok(match self.neighbours.payments.charge(order, method, taken.held.claim).await? {
            Charging::Made(charge) => order.charged(charge, Timestamp::now()),
            Charging::Declined => {
                taken.declined = Some(method.clone());
                order.declined(Timestamp::now())
            }
            // Somebody has refunded it without asking us: it can never be paid.
            Charging::Voided => order.cancel(Timestamp::now()),
        })
    }

    /// Whether charge and goods still are a paid order's own: neither was given
    /// back by another call than the order's.
    ///
    /// # Errors
    /// When a neighbour fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_intact(&self, order: &Order) -> Result<bool, Fault> {
        let with = &self.neighbours;
        let (charged, owned) = join!(with.payments.is_charged(order), with.stock.is_unreleased(order));
        Ok(charged? && owned?)
    }

    /// The cart of an order that is at rest. Neither its failure nor its
    /// slowness is the order's.
    async fn empty_cart(&self, held: Held) {
        let facts = held.order.facts();
        let age = Timestamp::now().micros().saturating_sub(facts.created.micros());
        let given_up = u128::try_from(age).unwrap_or_default() > CART_PATIENCE.as_micros();
        if given_up {
            warn!(order = %facts.id, "the cart of an order could not be emptied and stays as it is");
        }
        if !given_up && !self.neighbours.carts.clear(&facts.customer, held.cart).await {
            return self.postpone(&held).await;
        }
        let after = Held { cart_full: false, ..held.clone() };
        if let Err(why) = self.store.advance(&held, after, None).await {
            // The cart is emptied once more when the lease has run out.
            warn!(order = %facts.id, error = %why, "an emptied cart could not be noted: {why}");
        }
    }

    async fn postpone(&self, held: &Held) {
        if let Err(why) = self.store.postpone(held, pause(held.attempts)).await {
            warn!(order = %held.order.id(), error = %why, "an order is held until its lease runs out: {why}");
        }
    }
}

/// The goods cannot be had: that is the request's answer, and the cart stays.
fn out_of_stock(taken: &mut Taken, skus: String) -> Result<Order, WrongState> {
    taken.held.cart_full = false;
    taken.answer = Some(StoredResponse::error(Error::OutOfStock(skus).into_fault(), crate::NAME));
    taken.held.order.out_of_stock(Timestamp::now())
}

fn slow(step: Step) -> Fault {
    warn!(?step, "a step of an order took longer than {STEP_LIMIT:?}");
    Fault::new(Code::DeadlineExceeded, "DEPENDENCY_SLOW", "a service did not answer in time; try again")
}

/// How long to wait after so many failures before the one that has just been;
/// between half of it and all, so that orders that failed together do not come
/// back together.
fn pause(failures: u32) -> Duration {
    let whole = PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_5_s() {
        for (failures, whole) in [(0, 200), (1, 400), (4, 3_200), (5, 5_000), (31, 5_000), (u32::MAX, 5_000)]
        {
            let whole = Duration::from_millis(whole);
            assert!((whole / 2..=whole).contains(&pause(failures)), "{failures}");
        }
    }
}
