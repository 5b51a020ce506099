//! Products, their stock and its reservations in the database.
//!
//! A transaction locks a product before its stock, a reservation before any stock,
//! and stock in the order of SKUs, which prevents deadlocks.

use service_kit::{
    database::{Database, Error as DatabaseError, Row, Sql, Transaction, Value},
    events::Outbox,
    money::Money,
    value::{Etag, Sku},
};

use crate::{
    Error,
    domain::{Change, Description, Price, Product, StoredProduct, Title},
};

mod products;
mod reservations;
mod stock;

pub(crate) use reservations::MAX_DELETED_RESERVATIONS;
pub use reservations::Sweep;

macro_rules! products {
    ($condition:literal) => {
        concat!(
            "SELECT product_id, title, description, price, currency, version FROM products WHERE ",
            $condition
        )
    };
}

const BY_ID: &str = products!("product_id = $1");

const BY_IDS: Sql = Sql::each(
    products!("product_id IN (SELECT value FROM json_each($1))"),
    products!("product_id IN (SELECT jsonb_array_elements_text($1::jsonb))"),
);

const LIST: &str = products!("product_id > $1 ORDER BY product_id LIMIT $2");

/// The catalogue in the database.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    outbox: Outbox,
}

impl Store {
    /// The catalogue in `database`, whose changes `outbox` publishes.
    #[must_use]
    pub fn new(database: Database, outbox: Outbox) -> Self {
        Self { database, outbox }
    }

    /// Adds a product, unless the same product exists.
    ///
    /// # Errors
    /// [`Error::SkuTaken`] when another product has the SKU.
    ///
    /// # Cancel safety
    /// It may have been added.
    pub async fn create(&self, product: Product) -> Result<StoredProduct, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = products::create(&mut open, &self.outbox, &product).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Changes a product. A change without an effect makes no new version.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::ProductChanged`] when it has another version than
    /// the etag, unless this same change made it.
    ///
    /// # Cancel safety
    /// It may have been changed.
    pub async fn update(&self, change: &Change) -> Result<StoredProduct, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = products::update(&mut open, &self.outbox, change).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Removes a product from the catalogue and writes off its available pieces. Sold
    /// pieces stay sold, and may be returned.
    ///
    /// # Errors
    /// [`Error::Reserved`] while pieces are; [`Error::ProductChanged`] when it has
    /// another version than the etag.
    ///
    /// # Cancel safety
    /// It may have been deleted.
    pub async fn delete(&self, sku: &Sku, etag: Option<Etag>) -> Result<(), Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = products::delete(&mut open, &self.outbox, sku, etag).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// The product of that SKU.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get(&self, sku: &Sku) -> Result<Option<StoredProduct>, DatabaseError> {
        let row = self.database.row(BY_ID, &[sku.as_str().into()]).await?;
        row.as_ref().map(read).transpose()
    }

    /// The products that exist of those SKUs, in any order.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get_all(&self, skus: &[Sku]) -> Result<Vec<StoredProduct>, DatabaseError> {
        let rows = self.database.rows(BY_IDS, &[json(skus)]).await?;
        rows.iter().map(read).collect()
    }

    /// Up to `limit` products after the SKU `after`, sorted by SKU.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn list(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<StoredProduct>, DatabaseError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.database.rows(LIST, &[after.unwrap_or_default().into(), limit.into()]).await?;
        rows.iter().map(read).collect()
    }
}

/// SKUs as one parameter. No character of a SKU needs escaping in JSON.
fn json<'a>(skus: impl IntoIterator<Item = &'a Sku>) -> Value {
    let list: Vec<_> = skus.into_iter().map(|sku| format!("\"{sku}\"")).collect();
    format!("[{}]", list.join(",")).into()
}

/// Locks a product until the transaction ends; returns false when there is none.
async fn lock_product(open: &mut Transaction, sku: &Sku) -> Result<bool, DatabaseError> {
    const LOCK: &str = "UPDATE products SET version = version WHERE product_id = $1";
    Ok(open.execute(LOCK, &[sku.as_str().into()]).await? == 1)
}

fn read_sku(row: &Row) -> Result<Sku, DatabaseError> {
    Sku::parse(&row.get::<String>("product_id")?).map_err(|why| DatabaseError::corrupt("product_id", why))
}

fn read(row: &Row) -> Result<StoredProduct, DatabaseError> {
    let text = |column| row.get::<String>(column);
    let currency = text("currency")?.parse().map_err(|why| DatabaseError::corrupt("currency", why))?;
    let amount = Money::new(row.get("price")?, currency);
    let amount = amount.map_err(|why| DatabaseError::corrupt("price", why))?;
    let product = Product {
        sku: read_sku(row)?,
        title: Title::parse(&text("title")?).map_err(|why| DatabaseError::corrupt("title", why))?,
        description: Description::parse(&text("description")?)
            .map_err(|why| DatabaseError::corrupt("description", why))?,
        price: Price::of(amount).map_err(|why| DatabaseError::corrupt("price", why))?,
    };
    Ok(StoredProduct { product, etag: Etag::of(row.get("version")?) })
}
