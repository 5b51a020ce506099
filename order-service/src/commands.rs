//! Commands on an existing order.

use service_kit::timestamp::Timestamp;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::{
    Error,
    domain::{CancelReason, Order, OrderState, PaymentMethod},
    saga::{BUSY_TIMEOUT, SagaEnd, SagaOutcome, Sagas},
    store::{ChangeOutcome, Decision, OrderSnapshot},
};

/// The most rounds in which a command waits for the order to change.
const MAX_ROUNDS: u32 = 8;

/// A command on an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderCommand {
    /// Pay with this method.
    Pay(PaymentMethod),
    /// Ship it.
    Ship,
    /// Complete it.
    Complete,
    /// Cancel it.
    Cancel,
}

/// The effect of a command on an order.
#[derive(Debug)]
enum Effect {
    /// The order is as commanded already.
    Done,
    /// A step in progress must end first, or is the one commanded.
    Wait,
    /// The order becomes this.
    Change(Box<Order>),
}

impl OrderCommand {
    fn effect_on(&self, order: &Order, now: Timestamp) -> Result<Effect, Error> {
        let is_refused = matches!(order.progress().reason, Some(CancelReason::ShippingRefused));
        let changed = match (self, order.state()) {
            (
                Self::Pay(_),
                OrderState::Paid | OrderState::Shipping | OrderState::Shipped | OrderState::Completed,
            )
            | (Self::Ship, OrderState::Shipped | OrderState::Completed)
            | (Self::Complete, OrderState::Completed)
            | (Self::Cancel, OrderState::Cancelled) => return Ok(Effect::Done),
            (Self::Ship, OrderState::Cancelling | OrderState::Cancelled) if is_refused => {
                return Err(Error::ShippingRefused);
            }
            (Self::Pay(_), OrderState::Pending | OrderState::Paying)
            | (Self::Ship, OrderState::Paying | OrderState::Shipping)
            | (Self::Cancel, OrderState::Pending | OrderState::Cancelling) => return Ok(Effect::Wait),
            // Confirmed by an earlier version, before its goods were committed.
            (Self::Pay(_) | Self::Cancel, OrderState::Confirmed) if order.next_step().is_some() => {
                return Ok(Effect::Wait);
            }
            (Self::Pay(method), _) => order.pay(method.clone(), now),
            (Self::Ship, _) => order.ship(now),
            (Self::Complete, _) => order.complete(now),
            // Also while it is being paid: the refund closes the key of the charge,
            // whatever its outcome.
            (Self::Cancel, _) => order.cancel(now),
        };
        Ok(Effect::Change(Box::new(changed?)))
    }

    /// Executes the command on an order that was just read as `snapshot`. Waits a
    /// moment for another replica that works on the order, and resumes an abandoned
    /// one.
    ///
    /// # Errors
    /// When the state of the order does not allow it, another replica works on it,
    /// it was declined or refused, or a dependency fails.
    ///
    /// # Cancel safety
    /// An order in progress is resumed when its lease expires.
    pub async fn execute(&self, sagas: &Sagas, snapshot: OrderSnapshot) -> Result<Order, Error> {
        let (store, id) = (sagas.store(), snapshot.order().id());
        let mut changes = store.database().changes().subscribe(&id.to_string());
        let give_up = Instant::now() + BUSY_TIMEOUT;
        let mut latest = Some(snapshot);
        for _ in 0..MAX_ROUNDS {
            let mut snapshot = match latest.take() {
                Some(snapshot) => snapshot,
                None => store.snapshot(id).await?,
            };
            // Read before locking: the locks of many waiting callers would slow down
            // the one that works on the order.
            if matches!(self.decide(&snapshot, Timestamp::now())?, Decision::Claim(_)) {
                let command = self.checked(sagas, snapshot.order()).await?;
                let was = snapshot.order().state();
                let is_unchecked = |snapshot: &OrderSnapshot| {
                    let is = snapshot.order().state();
                    *self == Self::Ship && is == OrderState::Paid && was != OrderState::Paid
                };
                let decide = |snapshot: &OrderSnapshot, now| {
                    if is_unchecked(snapshot) { Ok(Decision::Keep) } else { command.decide(snapshot, now) }
                };
                match store.change(id, decide).await? {
                    ChangeOutcome::Kept(kept) if is_unchecked(&kept) => {
                        latest = Some(*kept);
                        continue;
                    }
                    ChangeOutcome::Kept(kept) => snapshot = *kept,
                    ChangeOutcome::Claimed(claimed) => {
                        let outcome = Box::pin(sagas.run_steps(*claimed)).await;
                        match self.response(outcome) {
                            Some(response) => return response,
                            None => continue,
                        }
                    }
                }
            }
            match self.effect_on(snapshot.order(), Timestamp::now())? {
                Effect::Done => return Ok(snapshot.order().clone()),
                _ if timeout_at(give_up, changes.changed()).await.is_err() => break,
                _ => {}
            }
        }
        Err(Error::Busy(id))
    }

    /// The command to execute after a check of the order: one that is to be shipped
    /// is cancelled instead when another call has refunded its charge or released
    /// its goods. An order that is SHIPPING is shipped regardless, because the
    /// carrier may have it.
    async fn checked(&self, sagas: &Sagas, order: &Order) -> Result<Self, Error> {
        if *self != Self::Ship || order.state() != OrderState::Paid {
            return Ok(self.clone());
        }
        if sagas.is_intact(order).await.map_err(Error::Dependency)? {
            return Ok(Self::Ship);
        }
        let id = order.id();
        warn!(order = %id, "cancelling order {id} instead of shipping it: its charge was refunded or its goods released");
        Ok(Self::Cancel)
    }

    fn decide(&self, snapshot: &OrderSnapshot, now: Timestamp) -> Result<Decision, Error> {
        Ok(match self.effect_on(snapshot.order(), now)? {
            Effect::Change(order) => Decision::Claim(order),
            Effect::Wait if !snapshot.is_claimed => Decision::Claim(Box::new(snapshot.order().clone())),
            Effect::Wait | Effect::Done => Decision::Keep,
        })
    }

    /// The response to the caller; `None` when the order has to be read again.
    fn response(&self, outcome: SagaOutcome) -> Option<Result<Order, Error>> {
        match (self, outcome.end) {
            (Self::Pay(method), SagaEnd::Declined(declined)) if *method == declined => {
                Some(Err(Error::Declined))
            }
            (_, SagaEnd::ClaimLost | SagaEnd::Declined(_)) => None,
            (_, end) => match (self.effect_on(&outcome.order, Timestamp::now()), end) {
                (Ok(Effect::Done), _) => Some(Ok(outcome.order)),
                // The error that follows from the state is more precise than the fault.
                (Err(error), _) => Some(Err(error)),
                (_, SagaEnd::Failed(fault)) => Some(Err(Error::Dependency(fault))),
                _ => None,
            },
        }
    }
}
