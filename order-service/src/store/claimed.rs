//! Claims on orders, for the time of a lease.
//!
//! Every write to an order carries the claim of its writer, and fails when another
//! one has claimed the order since. So two replicas never write the same step,
//! whatever their clocks show and however long one of them was suspended.

use std::time::Duration;

use service_kit::{
    database::{Error as DatabaseError, Row, Transaction},
    idempotency::StoredResponse,
    value::Etag,
};

use super::{Decision, Store, sql};
use crate::{
    Error,
    domain::{Order, OrderId},
    store::ChangeOutcome,
};

/// The time to live of a claim: longer than the timeout of a step, and so short
/// that the orders of a crashed replica are resumed soon. Every write renews it.
const LEASE: Duration = Duration::from_secs(10);
const _: () = assert!(LEASE.as_secs() <= sql::MAX_AHEAD.as_secs());

/// An order with the claim of the replica that works on it.
#[derive(Clone, Debug)]
pub struct ClaimedOrder {
    /// The order.
    pub order: Order,
    /// The version of its cart.
    pub cart: Etag,
    /// True until that cart is cleared.
    pub cart_pending: bool,
    /// The number of consecutive failures of its current step.
    pub attempts: u32,
    pub(crate) claim: i64,
}

/// An order with the state of its claim.
#[derive(Clone, Debug)]
pub struct OrderSnapshot {
    /// The order with its last claim, which any replica may have.
    last: ClaimedOrder,
    /// True while the claim is valid.
    pub is_claimed: bool,
    /// True when the order waits to be resumed.
    pub is_due: bool,
}

impl ClaimedOrder {
    /// A new order, with the claim of its creator.
    pub(super) fn first(order: Order, cart: Etag) -> Self {
        Self { order, cart, cart_pending: true, attempts: 0, claim: 1 }
    }

    /// True when a step is left, or the cart is to be cleared.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.order.next_step().is_some() || self.cart_pending
    }
}

impl OrderSnapshot {
    pub(super) fn read(order: Order, row: &Row) -> Result<Self, DatabaseError> {
        let cart = Etag::parse(&row.get::<String>("cart_etag")?);
        let cart = cart.map_err(|why| DatabaseError::corrupt("cart_etag", why))?.unwrap_or_default();
        let last = ClaimedOrder {
            order,
            cart,
            cart_pending: row.get::<i64>("cart_full")? == 1,
            attempts: row.get::<i64>("attempts")?.try_into().unwrap_or(u32::MAX),
            claim: row.get("claim")?,
        };
        Ok(Self { last, is_claimed: row.get::<i64>("busy")? == 1, is_due: row.get::<i64>("due")? == 1 })
    }

    /// The order.
    #[must_use]
    pub fn order(&self) -> &Order {
        &self.last.order
    }

    pub(super) fn into_claimed(self) -> ClaimedOrder {
        self.last
    }
}

pub(super) fn lease() -> i64 {
    micros(LEASE)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Store {
    /// Writes the order after a step and, if there is one, the response to the
    /// request that created it. The claim is renewed while a step is left. Returns
    /// `None`, and writes nothing, when another replica has claimed the order.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been written.
    pub async fn advance(
        &self,
        before: &ClaimedOrder,
        after: ClaimedOrder,
        response: Option<StoredResponse>,
    ) -> Result<Option<ClaimedOrder>, DatabaseError> {
        let after = ClaimedOrder { attempts: 0, ..after };
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = self.advance_in(&mut open, before, &after, response.clone()).await;
            match unit.end(open, done).await {
                None => {}
                Some(Ok(())) => return Ok(Some(after)),
                Some(Err(DatabaseError::Missed)) => return Ok(None),
                Some(Err(why)) => return Err(why),
            }
        }
    }

    /// Releases an order whose step has failed: it is due in `delay`, and a command
    /// may claim it sooner.
    ///
    /// # Errors
    /// When the database fails: it stays claimed until the lease expires.
    ///
    /// # Cancel safety
    /// As an error.
    pub async fn postpone(&self, claimed: &ClaimedOrder, delay: Duration) -> Result<(), DatabaseError> {
        let id = claimed.order.id().to_string();
        let values = [id.as_str().into(), claimed.claim.into(), micros(delay).into()];
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = async {
                open.post(sql::POSTPONE, &values).await?;
                open.changed(&id).await
            };
            let done = done.await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Reads up to `limit` due orders, the longest due first.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn due(&self, limit: i64) -> Result<Vec<OrderId>, DatabaseError> {
        let rows = self.database.rows(sql::DUE, &[limit.into()]).await?;
        let id = |row: &Row| {
            OrderId::parse(&row.get::<String>("order_id")?)
                .map_err(|why| DatabaseError::corrupt("order_id", why))
        };
        rows.iter().map(id).collect()
    }

    /// Claims a due order; returns `None` when another replica was faster.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been claimed; the claim expires then.
    pub async fn claim_due(&self, id: OrderId) -> Result<Option<ClaimedOrder>, Error> {
        let decide = |snapshot: &OrderSnapshot, _| {
            let claim = || Decision::Claim(Box::new(snapshot.order().clone()));
            Ok(if snapshot.is_due { claim() } else { Decision::Keep })
        };
        Ok(match self.change(id, decide).await? {
            ChangeOutcome::Claimed(claimed) => Some(*claimed),
            ChangeOutcome::Kept(_) => None,
        })
    }

    async fn advance_in(
        &self,
        open: &mut Transaction,
        before: &ClaimedOrder,
        after: &ClaimedOrder,
        response: Option<StoredResponse>,
    ) -> Result<(), DatabaseError> {
        self.write(open, before, after).await?;
        match response {
            Some(response) => Self::store_response(open, &after.order, response).await,
            None => Ok(()),
        }
    }
}
