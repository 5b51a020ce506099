//! How many pieces of a product there are.
//!
//! A product whose stock was never set has no row. One that was deleted keeps
//! its row, with nothing available: pieces that were sold may come back, and
//! are there again should the product be.

use service_kit::{
    database::{Error as DatabaseError, Row, Sql, Transaction, Value},
    value::{Etag, Sku},
};

use super::{Store, json, lock_product, read_sku};
use crate::{
    Error,
    domain::{Count, Items, Move, Place, Stock},
};

macro_rules! stock {
    ($which:literal) => {
        concat!(
            "SELECT p.product_id, COALESCE(s.available, 0) AS available, \
             COALESCE(s.reserved, 0) AS reserved, COALESCE(s.sold, 0) AS sold, \
             COALESCE(s.version, 0) AS version, COALESCE(s.counted, 0) AS counted \
             FROM products p LEFT JOIN stock s ON s.product_id = p.product_id WHERE ",
            $which
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

/// Moves pieces, unless too few can be reserved or nobody sells them any more.
const MOVE: &str = "UPDATE stock SET available = available + $2, reserved = reserved + $3, sold = sold + $4 \
     WHERE product_id = $1 AND ($2 >= 0 OR (available + $2 >= 0 AND gone = 0))";

const GONE: &str = "INSERT INTO stock (product_id, available, reserved, sold, counted, version, gone) \
     VALUES ($1, 0, 0, 0, 0, 0, $2) ON CONFLICT (product_id) DO UPDATE \
     SET available = 0, counted = 0, version = 0, gone = $2";

const BACK: &str = "UPDATE stock SET gone = 0 WHERE product_id = $1 AND gone > 0";

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

    /// Sets how many pieces can be reserved from now on.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::StockChanged`] when it is not the version
    /// that it must be, unless this very setting made it that.
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
    // Whoever reserves locks the stock and not the product.
    open.row(LOCK, &[sku.as_str().into()]).await?;
    let row = open.row(BY_ID, &[sku.as_str().into()]).await?.ok_or_else(missing)?;
    let stock = read(&row)?;
    if etag.is_some_and(|seen| seen != stock.etag) {
        let same = row.get::<i64>("counted")? == available.get();
        // Another sending of this request may have come through unheard.
        if same && etag.is_some_and(|seen| stock.etag.follows(seen)) {
            open.set_rollback_only();
            return Ok(stock);
        }
        return Err(Error::StockChanged(sku.clone()));
    }
    open.post(SET, &[sku.as_str().into(), available.get().into()]).await?;
    Ok(Stock { available: available.get(), etag: stock.etag.next(), ..stock })
}

/// Moves all pieces of `items`. When there are too few of some, nothing must be
/// committed; says of which, and how many there are.
pub(super) async fn move_pieces(
    open: &mut Transaction,
    items: &Items,
    Move { from, to }: Move,
) -> Result<Result<(), Short>, DatabaseError> {
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
        if open.execute(MOVE, &values).await? == 0 {
            short.push(item.sku.clone());
        }
    }
    match (short.is_empty(), from) {
        (true, _) => Ok(Ok(())),
        (false, Place::Available) => Ok(Err(left(open, short).await?)),
        (false, _) => Err(DatabaseError::corrupt("reservation", "is of a product without stock")),
    }
}

/// Products of which there are too few pieces.
pub(super) struct Short {
    /// Those that are not in the catalogue.
    pub(super) missing: Vec<Sku>,
    /// The others, with how many pieces can be reserved.
    pub(super) left: Vec<(Sku, i64)>,
}

async fn left(open: &mut Transaction, short: Vec<Sku>) -> Result<Short, DatabaseError> {
    let rows = open.rows(BY_IDS, &[json(&short)]).await?;
    let there: Result<Vec<Stock>, _> = rows.iter().map(read).collect();
    let there = there?;
    let of = |sku: &Sku| there.iter().find(|stock| stock.sku == *sku).map(|stock| stock.available);
    let (mut missing, mut left) = (Vec::new(), Vec::new());
    for sku in short {
        match of(&sku) {
            Some(available) => left.push((sku, available)),
            None => missing.push(sku),
        }
    }
    Ok(Short { missing, left })
}

/// Writes off what is available of a product that goes as this version.
pub(super) async fn product_is_gone(open: &mut Transaction, sku: &Sku, end: Etag) -> Result<(), Error> {
    let row = open.row(LOCK, &[sku.as_str().into()]).await?;
    let reserved: i64 = row.map_or(Ok(0), |row| row.get("reserved"))?;
    if reserved > 0 {
        return Err(Error::Reserved { sku: sku.clone(), pieces: reserved });
    }
    open.post(GONE, &[sku.as_str().into(), end.version().into()]).await?;
    Ok(())
}

/// Lets pieces of a product that was gone be reserved again.
pub(super) async fn product_is_back(open: &mut Transaction, sku: &Sku) -> Result<(), DatabaseError> {
    open.post(BACK, &[sku.as_str().into()]).await
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
