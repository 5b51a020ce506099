//! Carts in the database.

use service_kit::{
    currency::Currency,
    database::{Database, Error as DatabaseError, Row, Transaction},
    money::Money,
    timestamp::Timestamp,
    value::{CustomerId, Etag, Quantity, Sku},
};

use crate::{
    Error,
    domain::{Cart, Change, Line, Rejection},
};

/// One row per line, and one without a line for an empty cart.
const CART: &str = "SELECT c.version, c.update_time, l.product_id, l.quantity, l.currency, l.price, p.changes \
     FROM carts c LEFT JOIN cart_lines l ON l.customer_id = c.customer_id \
     LEFT JOIN product_news p ON p.product_id = l.product_id \
     WHERE c.customer_id = $1 ORDER BY l.added, l.product_id";

/// Ensures that there is a row and locks it, so that writers of a new cart are serialized
/// too.
const LOCK: &str = "INSERT INTO carts (customer_id, version, update_time) VALUES ($1, 0, 0) \
     ON CONFLICT (customer_id) DO UPDATE SET version = carts.version";

const INCREMENT_VERSION: &str =
    "UPDATE carts SET version = version + 1, update_time = $2 WHERE customer_id = $1";

const PUT: &str = "INSERT INTO cart_lines (customer_id, product_id, quantity, currency, price, added) \
     SELECT $1, $2, $3, $4, NULLIF($5, 0), version FROM carts WHERE customer_id = $1 \
     ON CONFLICT (customer_id, product_id) DO UPDATE \
     SET quantity = excluded.quantity, currency = excluded.currency, price = excluded.price";

const REMOVE: &str = "DELETE FROM cart_lines WHERE customer_id = $1 AND product_id = $2";

const CLEAR: &str = "DELETE FROM cart_lines WHERE customer_id = $1";

const DELETE: &str = "DELETE FROM carts WHERE customer_id = $1";

const RECORD_PRODUCT_CHANGE: &str = "INSERT INTO product_news (product_id, changes) VALUES ($1, 1) \
     ON CONFLICT (product_id) DO UPDATE SET changes = product_news.changes + 1";

/// The key of changes of products. No customer's id has a control character.
pub const PRODUCT_CHANGES: &str = "\u{1}news";

/// The carts in the database.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
}

impl Store {
    /// The carts in `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// The database, for subscriptions to changes. The key of a cart is its customer's
    /// id.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// A customer's cart.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get(&self, customer: &CustomerId) -> Result<Cart, DatabaseError> {
        let rows = self.database.rows(CART, &[customer.as_str().into()]).await?;
        read(customer, &rows)
    }

    /// Changes a cart as `decide` returns, and returns the new cart; see
    /// [`Cart::decide`] for `seen`. Decision and change are one transaction.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Database`].
    ///
    /// # Cancel safety
    /// The change may have been made.
    pub async fn change(
        &self,
        customer: &CustomerId,
        seen: Option<Etag>,
        decide: impl Fn(&Cart) -> Result<Option<Change>, Rejection>,
    ) -> Result<Cart, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = change(&mut open, customer, seen, &decide).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }
}

/// Records that a product has changed, for watches of carts with it.
///
/// # Errors
/// When the database fails.
///
/// # Cancel safety
/// As [`Transaction::execute`].
pub(crate) async fn record_product_change(open: &mut Transaction, sku: &Sku) -> Result<(), DatabaseError> {
    open.post(RECORD_PRODUCT_CHANGE, &[sku.as_str().into()]).await?;
    open.changed(PRODUCT_CHANGES).await
}

/// Deletes a customer's cart without a trace.
///
/// # Errors
/// When the database fails.
///
/// # Cancel safety
/// As [`Transaction::execute`].
pub(crate) async fn delete(open: &mut Transaction, customer: &CustomerId) -> Result<(), DatabaseError> {
    for statement in [LOCK, CLEAR, DELETE] {
        open.post(statement, &[customer.as_str().into()]).await?;
    }
    open.changed(customer.as_str()).await
}

async fn change(
    open: &mut Transaction,
    customer: &CustomerId,
    seen: Option<Etag>,
    decide: impl Fn(&Cart) -> Result<Option<Change>, Rejection>,
) -> Result<Cart, Error> {
    open.post(LOCK, &[customer.as_str().into()]).await?;
    let rows = open.rows(CART, &[customer.as_str().into()]).await?;
    let cart = read(customer, &rows)?;
    let Some(change) = cart.decide(seen, decide)? else {
        open.set_rollback_only();
        return Ok(cart);
    };
    let cart = cart.changed(&change, Timestamp::now());
    write(open, &cart, &change).await?;
    open.changed(customer.as_str()).await?;
    Ok(cart)
}

/// Writes the change that has led to `cart`.
async fn write(open: &mut Transaction, cart: &Cart, change: &Change) -> Result<(), DatabaseError> {
    let customer = cart.customer.as_str();
    let updated = cart.updated.map(Timestamp::micros).unwrap_or_default();
    open.post(INCREMENT_VERSION, &[customer.into(), updated.into()]).await?;
    match change {
        Change::Put(line) => {
            let values = [
                customer.into(),
                line.sku.as_str().into(),
                line.quantity.get().into(),
                line.currency.code().into(),
                // 0 means none: a price is positive.
                line.price.map_or(0, Money::minor).into(),
            ];
            open.post(PUT, &values).await
        }
        Change::Remove(sku) => open.post(REMOVE, &[customer.into(), sku.as_str().into()]).await,
        Change::Clear => open.post(CLEAR, &[customer.into()]).await,
    }
}

fn read(customer: &CustomerId, rows: &[Row]) -> Result<Cart, DatabaseError> {
    let mut cart = Cart::empty(customer.clone());
    for row in rows {
        cart.etag = Etag::of(row.get("version")?);
        let updated = Timestamp::of_micros(row.get("update_time")?);
        cart.updated = (cart.etag != Etag::default()).then_some(updated);
        if let Some(sku) = row.get::<Option<String>>("product_id")? {
            cart.lines.push(read_line(&sku, row)?);
            cart.product_changes += row.get::<Option<i64>>("changes")?.unwrap_or_default();
        }
    }
    Ok(cart)
}

fn read_line(sku: &str, row: &Row) -> Result<Line, DatabaseError> {
    let currency: String = row.get("currency")?;
    let currency: Currency = currency.parse().map_err(|why| DatabaseError::corrupt("currency", why))?;
    let price = row.get::<Option<i64>>("price")?.map(|minor| Money::new(minor, currency)).transpose();
    Ok(Line {
        sku: Sku::parse(sku).map_err(|why| DatabaseError::corrupt("product_id", why))?,
        quantity: Quantity::parse(row.get::<i64>("quantity")?)
            .map_err(|why| DatabaseError::corrupt("quantity", why))?,
        currency,
        price: price.map_err(|why| DatabaseError::corrupt("price", why))?,
    })
}
