//! Orders that somebody works on: by a claim, for the time of a lease.
//!
//! Every write of who works on an order carries the claim by which they hold
//! it, and fails when the order was taken on by another claim since. So two
//! replicas never write the same step, whatever their clocks say and however
//! long one of them was asleep.

use std::time::Duration;

use service_kit::{
    database::{Error as DatabaseError, Row, Transaction},
    idempotency::StoredResponse,
    value::Etag,
};

use super::{Store, Verdict, sql};
use crate::{
    Error,
    domain::{Order, OrderId},
    store::Changed,
};

/// For how long an order is held: longer than a step may take, and so short
/// that what a replica left behind when it crashed is carried on soon. Every
/// write renews it.
const LEASE: Duration = Duration::from_secs(10);
const _: () = assert!(LEASE.as_secs() <= sql::MAX_AHEAD.as_secs());

/// An order that is held by a claim.
#[derive(Clone, Debug)]
pub struct Held {
    /// The order.
    pub order: Order,
    /// The version of the cart that it was made of.
    pub cart: Etag,
    /// Whether that cart is still to be emptied.
    pub cart_full: bool,
    /// How often in a row its present step has failed.
    pub attempts: u32,
    pub(crate) claim: i64,
}

/// An order, and whether somebody works on it.
#[derive(Clone, Debug)]
pub struct Present {
    /// As it is; held by nobody known.
    pub(super) held: Held,
    /// Whether it is held.
    pub busy: bool,
    /// Whether it waits to be taken on.
    pub due: bool,
}

impl Held {
    /// A new order, held by who makes it.
    pub(super) fn first(order: Order, cart: Etag) -> Self {
        Self { order, cart, cart_full: true, attempts: 0, claim: 1 }
    }

    /// Whether something is left to do.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.order.next_step().is_some() || self.cart_full
    }
}

impl Present {
    pub(super) fn read(order: Order, row: &Row) -> Result<Self, DatabaseError> {
        let cart = Etag::parse(&row.get::<String>("cart_etag")?);
        let cart = cart.map_err(|why| DatabaseError::corrupt("cart_etag", why))?.unwrap_or_default();
        let held = Held {
            order,
            cart,
            cart_full: row.get::<i64>("cart_full")? == 1,
            attempts: row.get::<i64>("attempts")?.try_into().unwrap_or(u32::MAX),
            claim: row.get("claim")?,
        };
        Ok(Self { held, busy: row.get::<i64>("busy")? == 1, due: row.get::<i64>("due")? == 1 })
    }

    /// The order.
    #[must_use]
    pub fn order(&self) -> &Order {
        &self.held.order
    }
}

pub(super) fn lease() -> i64 {
    micros(LEASE)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Store {
    /// Writes what a step has made of an order, and with it the answer to the
    /// request that made the order, when there is one now. It is held on while
    /// something is left to do. `None` when it was taken on by another claim:
    /// nothing was written.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been written.
    pub async fn advance(
        &self,
        held: &Held,
        after: Held,
        answer: Option<StoredResponse>,
    ) -> Result<Option<Held>, DatabaseError> {
        let after = Held { attempts: 0, ..after };
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = self.advance_in(&mut open, held, &after, answer.clone()).await;
            match unit.end(open, done).await {
                None => {}
                Some(Ok(())) => return Ok(Some(after)),
                Some(Err(DatabaseError::Missed)) => return Ok(None),
                Some(Err(why)) => return Err(why),
            }
        }
    }

    /// Lets go of an order whose step has failed: it is taken on again in
    /// `delay`, or sooner by who wants something of it.
    ///
    /// # Errors
    /// When the database fails: then it is held until the lease runs out.
    ///
    /// # Cancel safety
    /// As an error.
    pub async fn postpone(&self, held: &Held, delay: Duration) -> Result<(), DatabaseError> {
        let id = held.order.id().to_string();
        let values = [id.as_str().into(), held.claim.into(), micros(delay).into()];
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

    /// Up to `most` orders that wait to be taken on, the longest first.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn due(&self, most: i64) -> Result<Vec<OrderId>, DatabaseError> {
        let rows = self.database.rows(sql::DUE, &[most.into()]).await?;
        let id = |row: &Row| {
            OrderId::parse(&row.get::<String>("order_id")?)
                .map_err(|why| DatabaseError::corrupt("order_id", why))
        };
        rows.iter().map(id).collect()
    }

    /// Takes on an order that waits for it; `None` when another was faster.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been taken on; it is then held until the lease runs out.
    pub async fn take(&self, id: OrderId) -> Result<Option<Held>, Error> {
        let decide = |present: &Present, _| {
            Ok(if present.due { Verdict::Take(Box::new(present.order().clone())) } else { Verdict::Leave })
        };
        Ok(match self.change(id, decide).await? {
            Changed::Taken(held) => Some(*held),
            Changed::Left(_) => None,
        })
    }

    async fn advance_in(
        &self,
        open: &mut Transaction,
        held: &Held,
        after: &Held,
        answer: Option<StoredResponse>,
    ) -> Result<(), DatabaseError> {
        self.write(open, held, after).await?;
        match answer {
            Some(answer) => Self::settle(open, &after.order, answer).await,
            None => Ok(()),
        }
    }
}
