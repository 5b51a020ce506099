//! Where orders are kept: also the log of their sagas, from which any replica
//! carries on what another has begun.

use mesh_proto::shop::{
    events::v1::{OrderChanged, event::Payload},
    order::v1 as wire,
};
use service_kit::{
    database::{Database, Error as DatabaseError, Transaction, Value},
    events::Outbox,
    idempotency::{self, Claim, StoredResponse},
    timestamp::Timestamp,
    value::{CustomerId, Etag},
};

use crate::{
    Error,
    checkout::{METHOD, Wanted},
    domain::{Changing, Order, OrderId, State},
};

mod held;
mod lines;
mod read;
mod sql;

pub(crate) use sql::MAX_AHEAD;

pub use held::{Held, Present};
use read::{read_all, read_one};

/// Who hears of orders.
pub const SUBSCRIBERS: &[&str] = &["user-service"];

/// After every id: the first page begins there.
const LAST: &str = "~";

/// What became of an order that was to be recorded.
#[derive(Debug)]
pub enum Placed {
    /// It is, and is held.
    New(Box<Held>),
    /// Its request is known: this one or another.
    Known(Claim),
    /// This version of the cart was ordered by another request, as this.
    Ordered(OrderId),
}

/// What shall become of an order.
#[derive(Debug)]
pub enum Verdict {
    /// It stays as it is.
    Leave,
    /// It becomes this, and is held.
    Take(Box<Order>),
}

/// What became of an order.
#[derive(Debug)]
pub enum Changed {
    /// It stayed as it is.
    Left(Box<Present>),
    /// It was changed, and is held.
    Taken(Box<Held>),
}

/// The orders in the database.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    outbox: Outbox,
}

impl Store {
    /// The orders of `database`, whose changes `outbox` tells of.
    #[must_use]
    pub fn new(database: Database, outbox: Outbox) -> Self {
        Self { database, outbox }
    }

    /// The database, for who wants to hear of changes. The key of an order is
    /// its id.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The order of that id.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get(&self, id: OrderId) -> Result<Order, Error> {
        let rows = self.database.rows(sql::BY_ID, &[id.to_string().into()]).await?;
        read_one(&rows)?.ok_or(Error::NotFound(id))
    }

    /// The order of that id, and whether somebody works on it, as it was a
    /// moment ago: nobody is waited for, and nobody waits.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn present(&self, id: OrderId) -> Result<Present, Error> {
        let rows = self.database.rows(sql::PRESENT, &[id.to_string().into()]).await?;
        match (read_one(&rows)?, rows.first()) {
            (Some(order), Some(row)) => Ok(Present::read(order, row)?),
            _ => Err(Error::NotFound(id)),
        }
    }

    /// Up to `most` orders of a customer before the id `after`, newest first.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn list(
        &self,
        customer: &CustomerId,
        after: Option<String>,
        most: usize,
    ) -> Result<Vec<Order>, DatabaseError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let before = after.unwrap_or_else(|| LAST.to_owned());
        let values = [customer.as_str().into(), before.into(), most.into()];
        read_all(&self.database.rows(sql::OF_CUSTOMER, &values).await?)
    }

    /// What is known of a request, unless it is one of the first version's:
    /// those [`look`](Self::look) and [`place`](Self::place) find, too.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn glance(&self, wanted: &Wanted) -> Result<Claim, Error> {
        Ok(idempotency::lookup(&self.database, &wanted.asked).await?)
    }

    /// What is known of a request.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn look(&self, wanted: &Wanted) -> Result<Claim, Error> {
        match self.glance(wanted).await? {
            Claim::New => {
                let rows = self.database.rows(sql::BY_REQUEST, &[wanted.request.to_string().into()]).await?;
                answered_before(wanted, &rows)
            }
            known => Ok(known),
        }
    }

    /// Records an order that this request asks for, durably, and holds it;
    /// unless the request is known, or has another ordered this version of the
    /// cart.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been recorded; [`look`](Self::look) tells.
    pub async fn place(&self, wanted: &Wanted, order: Order, cart: Etag) -> Result<Placed, Error> {
        let held = Held::first(order, cart);
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = place(&mut open, wanted, &held).await;
            match unit.end(open, done).await {
                None => {}
                Some(Ok(())) => return Ok(Placed::New(Box::new(held))),
                Some(Err(DatabaseError::Missed)) => return self.placed_before(wanted, cart).await,
                Some(Err(why)) => return Err(why.into()),
            }
        }
    }

    /// What stands in the way of an order.
    async fn placed_before(&self, wanted: &Wanted, cart: Etag) -> Result<Placed, Error> {
        let known = self.look(wanted).await?;
        if known != Claim::New {
            return Ok(Placed::Known(known));
        }
        let key = [wanted.customer.as_str().into(), cart.to_string().into()];
        let Some(row) = self.database.row(sql::CLAIMED_CART, &key).await? else {
            return Ok(Placed::Known(known));
        };
        let order = OrderId::parse(&row.get::<String>("order_id")?);
        Ok(Placed::Ordered(order.map_err(|why| DatabaseError::corrupt("order_id", why))?))
    }

    /// Changes an order as `decide` says. No other writer comes between the
    /// decision and the change.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`], what `decide` says.
    ///
    /// # Cancel safety
    /// The change may have been made; the order is then held until its lease
    /// runs out.
    pub async fn change(
        &self,
        id: OrderId,
        decide: impl Fn(&Present, Timestamp) -> Result<Verdict, Error>,
    ) -> Result<Changed, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = self.change_in(&mut open, id, &decide).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }
}

async fn place(open: &mut Transaction, wanted: &Wanted, held: &Held) -> Result<(), DatabaseError> {
    let order = held.order.facts();
    let key = order.id.to_string();
    // Waits for another that is claiming the same request.
    idempotency::claim(open, &wanted.asked, &key).await?;
    let cart = [order.customer.as_str().into(), held.cart.to_string().into(), key.as_str().into()];
    open.require(sql::CLAIM_CART, &cart).await?;
    let values: [Value; 8] = [
        key.as_str().into(),
        order.customer.as_str().into(),
        held.cart.to_string().into(),
        held.order.state().as_str().into(),
        order.total.minor().into(),
        order.total.currency().code().into(),
        order.created.micros().into(),
        held::lease().into(),
    ];
    open.require(sql::INSERT, &values).await?;
    // Announced to nobody: who would wait for it does not know its id yet.
    let values = [key.into(), lines::json(&order.lines)?, wanted.request.to_string().into()];
    open.require(lines::INSERT, &values).await
}

fn columns(id: &str, before: i64, after: &Held) -> [Value; 14] {
    let Changing { state, updated, etag, sold, reason, payment, charge, tracking } = after.order.changing();
    let unsettled = after.is_unsettled();
    [
        id.into(),
        before.into(),
        after.claim.into(),
        if unsettled { held::lease() } else { 0 }.into(),
        i64::from(unsettled).into(),
        i64::from(after.cart_full).into(),
        state.as_str().into(),
        updated.micros().into(),
        etag.version().into(),
        i64::from(sold).into(),
        reason.map(|reason| reason.as_str()).unwrap_or_default().into(),
        payment.as_ref().map(|method| method.as_str()).unwrap_or_default().into(),
        charge.unwrap_or_default().into(),
        tracking.unwrap_or_default().into(),
    ]
}

/// The request of an order of the first version, which stands with the order.
fn answered_before(wanted: &Wanted, rows: &[service_kit::database::Row]) -> Result<Claim, Error> {
    let Some(first) = rows.first() else { return Ok(Claim::New) };
    let seen = Etag::parse(&first.get::<String>("request_etag")?);
    let seen = seen.map_err(|why| DatabaseError::corrupt("request_etag", why))?;
    Ok(match read_one(rows)? {
        Some(order)
            if order.facts().customer == wanted.customer && seen == wanted.seen && wanted.total.is_none() =>
        {
            let facts = order.facts();
            let placed = Changing {
                state: State::Confirmed,
                updated: facts.created,
                etag: Etag::default().next(),
                sold: true,
                reason: None,
                payment: None,
                charge: None,
                tracking: None,
            };
            Claim::Stored(StoredResponse::message(&wire::Order::from(Order::kept(facts.clone(), placed))))
        }
        _ => Claim::IdReused,
    })
}

impl Store {
    async fn change_in(
        &self,
        open: &mut Transaction,
        id: OrderId,
        decide: impl Fn(&Present, Timestamp) -> Result<Verdict, Error>,
    ) -> Result<Changed, Error> {
        let key: Value = id.to_string().into();
        let lock = open.row(sql::LOCK, std::slice::from_ref(&key)).await?.ok_or(Error::NotFound(id))?;
        let order = read_one(&open.rows(sql::BY_ID, &[key]).await?)?.ok_or(Error::NotFound(id))?;
        let present = Present::read(order, &lock)?;
        match decide(&present, Timestamp::now())? {
            Verdict::Leave => {
                open.set_rollback_only();
                Ok(Changed::Left(Box::new(present)))
            }
            Verdict::Take(order) => {
                let claim = present.held.claim + 1;
                let taken = Held { order: *order, claim, ..present.held.clone() };
                self.write(open, &present.held, &taken).await?;
                Ok(Changed::Taken(Box::new(taken)))
            }
        }
    }

    /// Writes what `before` has become, and tells of it; the transaction fails
    /// with [`DatabaseError::Missed`] when it is held by another claim.
    async fn write(&self, open: &mut Transaction, before: &Held, after: &Held) -> Result<(), DatabaseError> {
        let id = after.order.id().to_string();
        open.require(sql::WRITE, &columns(&id, before.claim, after)).await?;
        if after.order.etag() != before.order.etag() {
            let payload = Payload::OrderChanged(OrderChanged { order: Some((&after.order).into()) });
            self.outbox.append(open, &id, after.order.etag().version(), payload).await?;
        }
        open.changed(&id).await
    }

    /// Stores the answer of the request that made this order.
    async fn settle(
        open: &mut Transaction,
        order: &Order,
        answer: StoredResponse,
    ) -> Result<(), DatabaseError> {
        idempotency::complete(open, METHOD, &order.id().to_string(), answer).await
    }
}
