//! Where orders are kept.

use service_kit::{
    database::{Database, Error as DatabaseError, Row, Transaction, Value},
    timestamp::Timestamp,
    value::{CustomerId, Etag},
};

use crate::{
    Error,
    checkout::Wanted,
    domain::{Order, OrderId},
};

mod lines;
mod read;

use read::{read_all, read_one};

/// One row per line; an order has at least one.
macro_rules! orders {
    ($which:literal) => {
        concat!(
            "SELECT o.order_id, o.customer_id, o.request_etag, o.cart_etag, o.state, o.total, o.currency, \
             o.create_time, o.update_time, o.version, l.product_id, l.title, l.unit_price, l.quantity FROM ",
            $which,
            " o JOIN order_lines l ON l.order_id = o.order_id ORDER BY o.order_id DESC, l.position"
        )
    };
}

const BY_ID: &str = orders!("(SELECT * FROM orders WHERE order_id = $1)");

const BY_REQUEST: &str = orders!("(SELECT * FROM orders WHERE request_id = $1)");

const OF_CUSTOMER: &str = orders!(
    "(SELECT * FROM orders WHERE customer_id = $1 AND order_id < $2 ORDER BY order_id DESC LIMIT $3)"
);

const INSERT: &str = "INSERT INTO orders (order_id, customer_id, request_id, request_etag, cart_etag, state, \
     total, currency, create_time, update_time, version) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, 1) ON CONFLICT (request_id) DO NOTHING";

/// Locks the order: writers of it follow one another.
const LOCK: &str = "UPDATE orders SET version = version WHERE order_id = $1";

const UPDATE: &str =
    "UPDATE orders SET state = $2, update_time = $3, version = version + 1 WHERE order_id = $1";

/// After every id: the first page begins there.
const LAST: &str = "~";

/// An order with the version of the cart that it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The order.
    pub order: Order,
    /// The version of the cart.
    pub cart: Etag,
}

/// The orders in the database.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
}

impl Store {
    /// The orders of `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
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
        let rows = self.database.rows(BY_ID, &[id.to_string().into()]).await?;
        read_one(&rows)?.ok_or(Error::NotFound(id))
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
        read_all(&self.database.rows(OF_CUSTOMER, &values).await?)
    }

    /// The order that this request made, if it made one.
    ///
    /// # Errors
    /// [`Error::Reused`] when its id was used with another body.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn find(&self, wanted: &Wanted) -> Result<Option<Placed>, Error> {
        let rows = self.database.rows(BY_REQUEST, &[wanted.request.to_string().into()]).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let (seen, cart) = (etag(first, "request_etag")?, etag(first, "cart_etag")?.unwrap_or_default());
        match read_one(&rows)? {
            Some(order) if order.facts().customer == wanted.customer && seen == wanted.seen => {
                Ok(Some(Placed { order, cart }))
            }
            _ => Err(Error::Reused(wanted.request)),
        }
    }

    /// Keeps an order, durably, as the answer to a request; when another
    /// sending of it was faster, returns the order of that one.
    ///
    /// # Errors
    /// [`Error::Reused`], [`Error::Database`].
    ///
    /// # Cancel safety
    /// It may have been kept; [`find`](Self::find) tells.
    pub async fn place(&self, wanted: &Wanted, placed: Placed) -> Result<Placed, Error> {
        let mut open = self.database.begin().await?;
        // Waits for another that is inserting the same request id.
        if open.execute(INSERT, &columns(wanted, &placed)).await? == 0 {
            open.rollback().await?;
            return self.find(wanted).await?.ok_or_else(vanished);
        }
        let order = placed.order.facts();
        open.execute(lines::INSERT, &[order.id.to_string().into(), lines::json(&order.lines)?]).await?;
        // Announced to nobody: who would wait for it does not know its id yet.
        open.commit().await?;
        Ok(placed)
    }

    /// Changes an order as `decide` says and returns it as it then is. No other
    /// writer comes between the decision and the change.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    ///
    /// # Cancel safety
    /// The change may have been made.
    pub async fn change(
        &self,
        id: OrderId,
        decide: impl Fn(&Order, Timestamp) -> Option<Order>,
    ) -> Result<Order, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = change(&mut open, id, &decide).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }
}

async fn change(
    open: &mut Transaction,
    id: OrderId,
    decide: impl Fn(&Order, Timestamp) -> Option<Order>,
) -> Result<Order, Error> {
    let key = id.to_string();
    open.execute(LOCK, &[key.as_str().into()]).await?;
    let rows = open.rows(BY_ID, &[key.as_str().into()]).await?;
    let order = read_one(&rows)?.ok_or(Error::NotFound(id))?;
    let Some(changed) = decide(&order, Timestamp::now()) else {
        open.undo();
        return Ok(order);
    };
    let values = [key.as_str().into(), changed.state().as_str().into(), changed.updated().micros().into()];
    open.execute(UPDATE, &values).await?;
    open.changed(&key).await?;
    Ok(changed)
}

fn columns(wanted: &Wanted, placed: &Placed) -> [Value; 9] {
    let order = placed.order.facts();
    [
        order.id.to_string().into(),
        order.customer.as_str().into(),
        wanted.request.to_string().into(),
        wanted.seen.map(|etag| etag.to_string()).unwrap_or_default().into(),
        placed.cart.to_string().into(),
        placed.order.state().as_str().into(),
        order.total.minor().into(),
        order.total.currency().code().into(),
        order.created.micros().into(),
    ]
}

fn etag(row: &Row, column: &'static str) -> Result<Option<Etag>, DatabaseError> {
    Etag::parse(&row.get::<String>(column)?).map_err(|why| DatabaseError::corrupt(column, why))
}

/// Orders are never deleted, so what was in the way is there.
fn vanished() -> Error {
    DatabaseError::corrupt("request_id", "an order that was in the way is gone").into()
}
