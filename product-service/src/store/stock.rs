//! The stock of a product.
//!
//! A product whose stock was never set has no row. A deleted product keeps its row
//! without available pieces: sold pieces may be returned, and are available again
//! when the product is.

use service_kit::{
    database::{Error as DatabaseError, Row, Sql, Transaction, Value},
    value::{Etag, Sku},
};

use super::{Store, json, lock_product, read_sku};
use crate::{
    Error,
    domain::{Count, Items, Place, Stock, Transfer},
};

macro_rules! stock {
    ($condition:literal) => {
        concat!(
            "SELECT p.product_id, COALESCE(s.available, 0) AS available, \
             COALESCE(s.reserved, 0) AS reserved, COALESCE(s.sold, 0) AS sold, \
             COALESCE(s.version, 0) AS version, COALESCE(s.counted, 0) AS counted \
             FROM products p LEFT JOIN stock s ON s.product_id = p.product_id WHERE ",
            $condition
        )
    };
}

const BY_ID: &str = stock!("p.product_id = $1");

const BY_IDS: Sql = Sql::each(
    stock!("p.product_id IN (SELECT value FROM json_each($1))"),
    stock!("p.product_id IN (SELECT jsonb_array_elements_text($1::jsonb))"),
);

/// Locks the row, if there is one.
const LOCK: &str = "UPDATE stock SET version = version WHERE product_id = $1 RETURNING reserved";

const SET: &str = "INSERT INTO stock (product_id, available, reserved, sold, counted, version) \
     VALUES ($1, $2, 0, 0, $2, 1) ON CONFLICT (product_id) DO UPDATE \
     SET available = $2, counted = $2, version = stock.version + 1";

/// Transfers pieces, unless too few are available or the product was deleted.
const TRANSFER: &str = "UPDATE stock SET available = available + $2, reserved = reserved + $3, sold = sold + $4 \
     WHERE product_id = $1 AND ($2 >= 0 OR (available + $2 >= 0 AND gone = 0))";

const WRITE_OFF: &str = "INSERT INTO stock (product_id, available, reserved, sold, counted, version, gone) \
     VALUES ($1, 0, 0, 0, 0, 0, $2) ON CONFLICT (product_id) DO UPDATE \
     SET available = 0, counted = 0, version = 0, gone = $2";

const RESTORE: &str = "UPDATE stock SET gone = 0 WHERE product_id = $1 AND gone > 0";

impl Store {
    /// The stock of a product.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Database`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn stock(&self, sku: &Sku) -> Result<Stock, Error> {
        let row = self.database.row(BY_ID, &[sku.as_str().into()]).await?;
        let row = row.ok_or_else(|| Error::Missing(vec![sku.clone()]))?;
        Ok(read(&row)?)
    }

    /// Sets the number of pieces that can be reserved.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::StockChanged`] when it has another version than
    /// the etag, unless this same call made it.
    ///
    /// # Cancel safety
    /// It may have been set.
    pub async fn set_stock(&self, sku: &Sku, available: Count, etag: Option<Etag>) -> Result<Stock, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = set(&mut open, sku, available, etag).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }
}

async fn set(
    open: &mut Transaction,
    sku: &Sku,
    available: Count,
    etag: Option<Etag>,
) -> Result<Stock, Error> {
    let missing = || Error::Missing(vec![sku.clone()]);
    if !lock_product(open, sku).await? {
        return Err(missing());
    }
    // A reservation locks the stock and not the product.
    open.row(LOCK, &[sku.as_str().into()]).await?;
    let row = open.row(BY_ID, &[sku.as_str().into()]).await?.ok_or_else(missing)?;
    let stock = read(&row)?;
    if etag.is_some_and(|seen| seen != stock.etag) {
        let same = row.get::<i64>("counted")? == available.get();
        // An earlier attempt of this request may have been committed.
        if same && etag.is_some_and(|seen| stock.etag.follows(seen)) {
            open.set_rollback_only();
            return Ok(stock);
        }
        return Err(Error::StockChanged(sku.clone()));
    }
    open.post(SET, &[sku.as_str().into(), available.get().into()]).await?;
    Ok(Stock { available: available.get(), etag: stock.etag.next(), ..stock })
}

/// Transfers all pieces of `items`. On a [`Shortage`] the caller must not commit.
pub(super) async fn transfer_pieces(
    open: &mut Transaction,
    items: &Items,
    Transfer { from, to }: Transfer,
) -> Result<Result<(), Shortage>, DatabaseError> {
    let mut short = Vec::new();
    for item in items.iter() {
        let change = |place: Place| {
            let pieces = i64::from(item.quantity.get());
            Value::from(if place == to { pieces } else { 0 } - if place == from { pieces } else { 0 })
        };
        let values = [
            item.sku.as_str().into(),
            change(Place::Available),
            change(Place::Reserved),
            change(Place::Sold),
        ];
        if open.execute(TRANSFER, &values).await? == 0 {
            short.push(item.sku.clone());
        }
    }
    match (short.is_empty(), from) {
        (true, _) => Ok(Ok(())),
        (false, Place::Available) => Ok(Err(shortage(open, short).await?)),
        (false, _) => Err(DatabaseError::corrupt("reservation", "has a product without stock")),
    }
}

/// Products of which there are too few pieces.
pub(super) struct Shortage {
    /// The products that are not in the catalogue.
    pub(super) missing: Vec<Sku>,
    /// The others, with the pieces available.
    pub(super) available: Vec<(Sku, i64)>,
}

async fn shortage(open: &mut Transaction, short: Vec<Sku>) -> Result<Shortage, DatabaseError> {
    let rows = open.rows(BY_IDS, &[json(&short)]).await?;
    let stocks: Vec<Stock> = rows.iter().map(read).collect::<Result<_, _>>()?;
    let (mut missing, mut available) = (Vec::new(), Vec::new());
    for sku in short {
        match stocks.iter().find(|stock| stock.sku == sku) {
            Some(stock) => available.push((sku, stock.available)),
            None => missing.push(sku),
        }
    }
    Ok(Shortage { missing, available })
}

/// Writes off the available pieces of a product that is deleted as version `end`.
pub(super) async fn write_off(open: &mut Transaction, sku: &Sku, end: Etag) -> Result<(), Error> {
    let row = open.row(LOCK, &[sku.as_str().into()]).await?;
    let reserved: i64 = row.map_or(Ok(0), |row| row.get("reserved"))?;
    if reserved > 0 {
        return Err(Error::Reserved { sku: sku.clone(), pieces: reserved });
    }
    open.post(WRITE_OFF, &[sku.as_str().into(), end.version().into()]).await?;
    Ok(())
}

/// Makes the pieces of a product that was deleted before available again.
pub(super) async fn restore(open: &mut Transaction, sku: &Sku) -> Result<(), DatabaseError> {
    open.post(RESTORE, &[sku.as_str().into()]).await
}

fn read(row: &Row) -> Result<Stock, DatabaseError> {
    Ok(Stock {
        sku: read_sku(row)?,
        available: row.get("available")?,
        reserved: row.get("reserved")?,
        sold: row.get("sold")?,
        etag: Etag::of(row.get("version")?),
    })
}
