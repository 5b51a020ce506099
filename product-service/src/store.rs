//! Where products, their stock and their reservations are kept.
//!
//! Who changes more than one row locks a product before its stock, a
//! reservation before any stock, and stock by SKU: nobody waits in a circle.

use service_kit::{
    database::{Database, Error as DatabaseError, Row, Sql, Transaction, Value},
    events::Outbox,
    money::Money,
    value::{Etag, Sku},
};

use crate::{
    Error,
    domain::{Change, Description, Price, Product, Stored, Title},
};

mod products;
mod reservations;
mod stock;

pub(crate) use reservations::FORGET_BATCH;
pub use reservations::Swept;

macro_rules! products {
    ($which:literal) => {
        concat!(
            "SELECT product_id, title, description, price, currency, version FROM products WHERE ",
            $which
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
    /// The catalogue of `database`, whose changes are told by `outbox`.
    #[must_use]
    pub fn new(database: Database, outbox: Outbox) -> Self {
        Self { database, outbox }
    }

    /// Adds a product; one that is there already and the same is as good.
    ///
    /// # Errors
    /// [`Error::Taken`] when it differs.
    ///
    /// # Cancel safety
    /// It may have been added.
    pub async fn create(&self, product: Product) -> Result<Stored, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = products::create(&mut open, &self.outbox, &product).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Changes a product. One that is after the change as it was before stays
    /// the version that it is.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::ProductChanged`] when it is not the version
    /// that it must be, unless this very change made it that.
    ///
    /// # Cancel safety
    /// It may have been changed.
    pub async fn update(&self, change: &Change) -> Result<Stored, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = products::update(&mut open, &self.outbox, change).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Takes a product out of the catalogue and writes off what is available
    /// of it. What is sold stays so, and may be returned.
    ///
    /// # Errors
    /// [`Error::Reserved`] while pieces are; [`Error::ProductChanged`] when it
    /// is not the version that it must be.
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
    pub async fn get(&self, sku: &Sku) -> Result<Option<Stored>, DatabaseError> {
        let row = self.database.row(BY_ID, &[sku.as_str().into()]).await?;
        row.as_ref().map(read).transpose()
    }

    /// The products of those SKUs that exist, in any order.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get_all(&self, skus: &[Sku]) -> Result<Vec<Stored>, DatabaseError> {
        let rows = self.database.rows(BY_IDS, &[json(skus)]).await?;
        rows.iter().map(read).collect()
    }

    /// Up to `most` products after the SKU `after`, by SKU.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn list(&self, after: Option<String>, most: usize) -> Result<Vec<Stored>, DatabaseError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self.database.rows(LIST, &[after.unwrap_or_default().into(), most.into()]).await?;
        rows.iter().map(read).collect()
    }
}

/// SKUs as one parameter. No character of a SKU needs escaping in JSON.
fn json<'a>(skus: impl IntoIterator<Item = &'a Sku>) -> Value {
    let list: Vec<_> = skus.into_iter().map(|sku| format!("\"{sku}\"")).collect();
    format!("[{}]", list.join(",")).into()
}

/// Locks a product until the transaction ends; whether there is one.
async fn lock_product(open: &mut Transaction, sku: &Sku) -> Result<bool, DatabaseError> {
    const LOCK: &str = "UPDATE products SET version = version WHERE product_id = $1";
    Ok(open.execute(LOCK, &[sku.as_str().into()]).await? == 1)
}

fn read_sku(row: &Row) -> Result<Sku, DatabaseError> {
    Sku::parse(&row.get::<String>("product_id")?).map_err(|why| DatabaseError::corrupt("product_id", why))
}

fn read(row: &Row) -> Result<Stored, DatabaseError> {
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
    Ok(Stored { product, etag: Etag::of(row.get("version")?) })
}
