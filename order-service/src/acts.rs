//! What callers ask of an order that there is.

use service_kit::timestamp::Timestamp;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::{
    Error,
    domain::{CancelReason, Order, PaymentMethod, State},
    saga::{Driven, End, Sagas},
    store::{Changed, Present, Verdict},
};

/// How often a caller's wish is weighed against what the order has become.
const ROUNDS: u32 = 8;

/// What is asked of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// To be paid with this.
    Pay(PaymentMethod),
    /// To be shipped.
    Ship,
    /// To be completed.
    Complete,
    /// To be cancelled.
    Cancel,
}

/// What an act means for an order as it is.
#[derive(Debug)]
enum Meaning {
    /// It is as it was asked to be.
    Done,
    /// What is under way must end first, or is what was asked for.
    Wait,
    /// It becomes this.
    Become(Box<Order>),
}

impl Act {
    fn on(&self, order: &Order, now: Timestamp) -> Result<Meaning, Error> {
        let refused = matches!(order.reason(), Some(CancelReason::ShippingRefused));
        let becomes = match (self, order.state()) {
            (Self::Pay(_), State::Paid | State::Shipping | State::Shipped | State::Completed)
            | (Self::Ship, State::Shipped | State::Completed)
            | (Self::Complete, State::Completed)
            | (Self::Cancel, State::Cancelled) => return Ok(Meaning::Done),
            (Self::Ship, State::Cancelling | State::Cancelled) if refused => {
                return Err(Error::ShippingRefused);
            }
            (Self::Pay(_), State::Pending | State::Paying)
            | (Self::Ship, State::Paying | State::Shipping)
            | (Self::Cancel, State::Pending | State::Cancelling) => return Ok(Meaning::Wait),
            // Confirmed, and its goods are on their way.
            (Self::Pay(_) | Self::Cancel, State::Confirmed) if order.next_step().is_some() => {
                return Ok(Meaning::Wait);
            }
            (Self::Pay(method), _) => order.pay(method.clone(), now),
            (Self::Ship, _) => order.ship(now),
            (Self::Complete, _) => order.complete(now),
            // Also while it is being paid: whether that was done or not, the
            // refund closes the key.
            (Self::Cancel, _) => order.cancel(now),
        };
        Ok(Meaning::Become(Box::new(becomes?)))
    }

    /// Does what is asked of an order that was just seen as `present`, or finds
    /// that it is done; waits a moment for who else works on it, and carries on
    /// what nobody does.
    ///
    /// # Errors
    /// When the order is in no state for it, somebody else works on it, it was
    /// declined or refused, or something failed.
    ///
    /// # Cancel safety
    /// What was begun goes on when its lease runs out.
    pub async fn perform(&self, sagas: &Sagas, present: Present) -> Result<Order, Error> {
        let (store, id) = (sagas.store(), present.order().id());
        let mut changes = store.database().changes().subscribe(&id.to_string());
        let patience = Instant::now() + crate::saga::PATIENCE;
        let mut seen = Some(present);
        for _ in 0..ROUNDS {
            let mut present = match seen.take() {
                Some(present) => present,
                None => store.present(id).await?,
            };
            // Of a crowd that waits for one order most only look: each lock of its
            // row would hold up who works on it.
            if matches!(self.verdict(&present, Timestamp::now())?, Verdict::Take(_)) {
                let act = self.effective(sagas, present.order()).await?;
                let was = present.order().state();
                let unchecked = |present: &Present| {
                    let is = present.order().state();
                    *self == Self::Ship && is == State::Paid && was != State::Paid
                };
                let decide = |present: &Present, now| {
                    if unchecked(present) { Ok(Verdict::Leave) } else { act.verdict(present, now) }
                };
                match store.change(id, decide).await? {
                    Changed::Left(left) if unchecked(&left) => {
                        seen = Some(*left);
                        continue;
                    }
                    Changed::Left(left) => present = *left,
                    Changed::Taken(held) => {
                        let driven = Box::pin(sagas.drive(*held)).await;
                        match self.outcome(driven) {
                            Some(done) => return done,
                            None => continue,
                        }
                    }
                }
            }
            match self.on(present.order(), Timestamp::now())? {
                Meaning::Done => return Ok(present.order().clone()),
                _ if timeout_at(patience, changes.changed()).await.is_err() => break,
                _ => {}
            }
        }
        Err(Error::Busy(id))
    }

    /// What this act does to an order that stands so: one that is to be shipped is
    /// cancelled instead when its charge was refunded or its goods were released by
    /// another call than the order's. An order that is SHIPPING is shipped whatever
    /// is given back, because the carrier may have it.
    async fn effective(&self, sagas: &Sagas, order: &Order) -> Result<Self, Error> {
        if *self != Self::Ship || order.state() != State::Paid {
            return Ok(self.clone());
        }
        if sagas.is_intact(order).await.map_err(Error::Neighbour)? {
            return Ok(Self::Ship);
        }
        let id = order.id();
        warn!(order = %id, "order {id} is cancelled, not shipped: its charge was refunded or its goods released");
        Ok(Self::Cancel)
    }

    fn verdict(&self, present: &Present, now: Timestamp) -> Result<Verdict, Error> {
        Ok(match self.on(present.order(), now)? {
            Meaning::Become(order) => Verdict::Take(order),
            Meaning::Wait if !present.busy => Verdict::Take(Box::new(present.order().clone())),
            Meaning::Wait | Meaning::Done => Verdict::Leave,
        })
    }

    /// What the caller is told; `None` when the order shall be looked at again.
    fn outcome(&self, driven: Driven) -> Option<Result<Order, Error>> {
        match (self, driven.end) {
            (Self::Pay(method), End::Declined(with)) if *method == with => Some(Err(Error::Declined)),
            (_, End::Lost | End::Declined(_)) => None,
            (_, end) => match (self.on(&driven.order, Timestamp::now()), end) {
                (Ok(Meaning::Done), _) => Some(Ok(driven.order)),
                // What follows from where it stands is truer than what failed.
                (Err(why), _) => Some(Err(why)),
                (_, End::Failed(fault)) => Some(Err(Error::Neighbour(fault))),
                _ => None,
            },
        }
    }
}
