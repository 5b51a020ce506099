//! The store of orders. It is also the log of their sagas, from which any replica
//! resumes what another has begun.

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
    domain::{CREATE_ORDER, Order, OrderId, OrderProgress, OrderRequest, OrderState},
};

mod claimed;
mod lines;
mod read;
mod sql;

pub(crate) use sql::MAX_AHEAD;

pub use claimed::{ClaimedOrder, OrderSnapshot};
use read::{read_all, read_one};

/// The subscribers to the events of orders.
pub const SUBSCRIBERS: &[&str] = &["user-service"];

/// Greater than every id: the first page begins there.
const AFTER_ALL_IDS: &str = "~";

/// The outcome of placing an order.
#[derive(Debug)]
pub enum PlaceOutcome {
    /// The order is recorded and claimed.
    Placed(Box<ClaimedOrder>),
    /// The request is known.
    KnownRequest(Claim),
    /// Another request has ordered this version of the cart, as this order.
    CartOrdered(OrderId),
}

/// The decision on an order that is locked.
#[derive(Debug)]
pub enum Decision {
    /// Keep it as it is.
    Keep,
    /// Change it to this, and claim it.
    Claim(Box<Order>),
}

/// The outcome of a decision.
#[derive(Debug)]
pub enum ChangeOutcome {
    /// The order was kept as it is.
    Kept(Box<OrderSnapshot>),
    /// The order was changed and claimed.
    Claimed(Box<ClaimedOrder>),
}

/// The orders in the database.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    outbox: Outbox,
}

impl Store {
    /// The orders of `database`, whose changes go to `outbox`.
    #[must_use]
    pub fn new(database: Database, outbox: Outbox) -> Self {
        Self { database, outbox }
    }

    /// The database, for subscriptions to changes. The key of an order is its id.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Reads the order of that id.
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

    /// Reads the order of that id with its claim, without a lock.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn snapshot(&self, id: OrderId) -> Result<OrderSnapshot, Error> {
        let rows = self.database.rows(sql::SNAPSHOT, &[id.to_string().into()]).await?;
        match (read_one(&rows)?, rows.first()) {
            (Some(order), Some(row)) => Ok(OrderSnapshot::read(order, row)?),
            _ => Err(Error::NotFound(id)),
        }
    }

    /// Lists up to `limit` orders of a customer before the id `after`, newest first.
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
        limit: usize,
    ) -> Result<Vec<Order>, DatabaseError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let before = after.unwrap_or_else(|| AFTER_ALL_IDS.to_owned());
        let values = [customer.as_str().into(), before.into(), limit.into()];
        read_all(&self.database.rows(sql::OF_CUSTOMER, &values).await?)
    }

    /// Looks up the claim of a request, except one of the first version, which
    /// [`lookup`](Self::lookup) and [`place`](Self::place) find, too.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lookup_claim(&self, request: &OrderRequest) -> Result<Claim, Error> {
        Ok(idempotency::lookup(&self.database, &request.idempotent).await?)
    }

    /// Looks up a request.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lookup(&self, request: &OrderRequest) -> Result<Claim, Error> {
        match self.lookup_claim(request).await? {
            Claim::New => {
                let rows = self.database.rows(sql::BY_REQUEST, &[request.id.to_string().into()]).await?;
                first_version_claim(request, &rows)
            }
            known => Ok(known),
        }
    }

    /// Records the order of a request, durably, and claims it, unless the request is
    /// known, or another one has ordered this version of the cart.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been recorded; [`lookup`](Self::lookup) finds it then.
    pub async fn place(
        &self,
        request: &OrderRequest,
        order: Order,
        cart: Etag,
    ) -> Result<PlaceOutcome, Error> {
        let claimed = ClaimedOrder::first(order, cart);
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = place(&mut open, request, &claimed).await;
            match unit.end(open, done).await {
                None => {}
                Some(Ok(())) => return Ok(PlaceOutcome::Placed(Box::new(claimed))),
                Some(Err(DatabaseError::Missed)) => return self.conflict(request, cart).await,
                Some(Err(why)) => return Err(why.into()),
            }
        }
    }

    /// Finds the claim that an order conflicts with.
    async fn conflict(&self, request: &OrderRequest, cart: Etag) -> Result<PlaceOutcome, Error> {
        let known = self.lookup(request).await?;
        if known != Claim::New {
            return Ok(PlaceOutcome::KnownRequest(known));
        }
        let key = [request.customer.as_str().into(), cart.to_string().into()];
        let Some(row) = self.database.row(sql::CLAIMED_CART, &key).await? else {
            return Ok(PlaceOutcome::KnownRequest(known));
        };
        let order = OrderId::parse(&row.get::<String>("order_id")?);
        Ok(PlaceOutcome::CartOrdered(order.map_err(|why| DatabaseError::corrupt("order_id", why))?))
    }

    /// Changes an order by a decision. The order is locked between the decision and
    /// the change.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`], the error of `decide`.
    ///
    /// # Cancel safety
    /// The change may have been made; the order is claimed then until its lease
    /// expires.
    pub async fn change(
        &self,
        id: OrderId,
        decide: impl Fn(&OrderSnapshot, Timestamp) -> Result<Decision, Error>,
    ) -> Result<ChangeOutcome, Error> {
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

async fn place(
    open: &mut Transaction,
    request: &OrderRequest,
    claimed: &ClaimedOrder,
) -> Result<(), DatabaseError> {
    let order = claimed.order.facts();
    let key = order.id.to_string();
    // Waits for another transaction that claims the same request.
    idempotency::claim(open, &request.idempotent, &key).await?;
    let cart = [order.customer.as_str().into(), claimed.cart.to_string().into(), key.as_str().into()];
    open.require(sql::CLAIM_CART, &cart).await?;
    let values: [Value; 8] = [
        key.as_str().into(),
        order.customer.as_str().into(),
        claimed.cart.to_string().into(),
        claimed.order.state().as_str().into(),
        order.total.minor().into(),
        order.total.currency().code().into(),
        order.created.micros().into(),
        claimed::lease().into(),
    ];
    open.require(sql::INSERT, &values).await?;
    // Not announced: no subscriber knows its id yet.
    let values = [key.into(), lines::json(&order.lines)?, request.id.to_string().into()];
    open.require(lines::INSERT, &values).await
}

fn columns(id: &str, before: i64, after: &ClaimedOrder) -> [Value; 14] {
    let OrderProgress { state, updated, etag, stock_committed, reason, payment, charge, tracking } =
        after.order.progress();
    let is_unsettled = after.is_unsettled();
    [
        id.into(),
        before.into(),
        after.claim.into(),
        if is_unsettled { claimed::lease() } else { 0 }.into(),
        i64::from(is_unsettled).into(),
        i64::from(after.cart_pending).into(),
        state.as_str().into(),
        updated.micros().into(),
        etag.version().into(),
        i64::from(*stock_committed).into(),
        reason.map(|reason| reason.as_str()).unwrap_or_default().into(),
        payment.as_ref().map(|method| method.as_str()).unwrap_or_default().into(),
        charge.clone().unwrap_or_default().into(),
        tracking.clone().unwrap_or_default().into(),
    ]
}

/// The claim of a request of the first version, which is in the order's row.
fn first_version_claim(request: &OrderRequest, rows: &[service_kit::database::Row]) -> Result<Claim, Error> {
    let Some(first) = rows.first() else { return Ok(Claim::New) };
    let seen = Etag::parse(&first.get::<String>("request_etag")?);
    let seen = seen.map_err(|why| DatabaseError::corrupt("request_etag", why))?;
    Ok(match read_one(rows)? {
        Some(order)
            if order.facts().customer == request.customer
                && seen == request.cart_etag
                && request.expected_total.is_none() =>
        {
            let facts = order.facts();
            let mut placed = OrderProgress::new(OrderState::Confirmed, facts.created);
            placed.stock_committed = true;
            Claim::Stored(StoredResponse::message(&wire::Order::from(Order::stored(facts.clone(), placed))))
        }
        _ => Claim::IdReused,
    })
}

impl Store {
    async fn change_in(
        &self,
        open: &mut Transaction,
        id: OrderId,
        decide: impl Fn(&OrderSnapshot, Timestamp) -> Result<Decision, Error>,
    ) -> Result<ChangeOutcome, Error> {
        let key: Value = id.to_string().into();
        let lock = open.row(sql::LOCK, std::slice::from_ref(&key)).await?.ok_or(Error::NotFound(id))?;
        let order = read_one(&open.rows(sql::BY_ID, &[key]).await?)?.ok_or(Error::NotFound(id))?;
        let snapshot = OrderSnapshot::read(order, &lock)?;
        match decide(&snapshot, Timestamp::now())? {
            Decision::Keep => {
                open.set_rollback_only();
                Ok(ChangeOutcome::Kept(Box::new(snapshot)))
            }
            Decision::Claim(order) => {
                let before = snapshot.into_claimed();
                let claimed = ClaimedOrder { order: *order, claim: before.claim + 1, ..before.clone() };
                self.write(open, &before, &claimed).await?;
                Ok(ChangeOutcome::Claimed(Box::new(claimed)))
            }
        }
    }

    /// Writes the change from `before` to `after`, and its event. The transaction
    /// fails with [`DatabaseError::Missed`] when another claim holds the order.
    async fn write(
        &self,
        open: &mut Transaction,
        before: &ClaimedOrder,
        after: &ClaimedOrder,
    ) -> Result<(), DatabaseError> {
        let id = after.order.id().to_string();
        open.require(sql::WRITE, &columns(&id, before.claim, after)).await?;
        if after.order.etag() != before.order.etag() {
            let payload = Payload::OrderChanged(OrderChanged { order: Some((&after.order).into()) });
            self.outbox.append(open, &id, after.order.etag().version(), payload).await?;
        }
        open.changed(&id).await
    }

    /// Stores the response to the request that created this order.
    async fn store_response(
        open: &mut Transaction,
        order: &Order,
        response: StoredResponse,
    ) -> Result<(), DatabaseError> {
        idempotency::complete(open, CREATE_ORDER, &order.id().to_string(), response).await
    }
}
