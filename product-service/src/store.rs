//! Where products are kept.

use service_kit::{
    database::{Database, Error as DatabaseError, Row, Sql, Value},
    money::Money,
    value::{Etag, Sku},
};

use crate::{
    Error,
    domain::{Description, Price, Product, Stored, Title},
};

const COLUMNS: usize = 5;

const INSERT: &str = "INSERT INTO products (product_id, title, description, price, currency, version) \
     VALUES ($1, $2, $3, $4, $5, 1) ON CONFLICT (product_id) DO NOTHING";

const BY_ID: &str = "SELECT product_id, title, description, price, currency, version \
     FROM products WHERE product_id = $1";

const BY_IDS: Sql = Sql::each(
    "SELECT product_id, title, description, price, currency, version \
     FROM products WHERE product_id IN (SELECT value FROM json_each($1))",
    "SELECT product_id, title, description, price, currency, version \
     FROM products WHERE product_id IN (SELECT jsonb_array_elements_text($1::jsonb))",
);

const LIST: &str = "SELECT product_id, title, description, price, currency, version \
     FROM products WHERE product_id > $1 ORDER BY product_id LIMIT $2";

/// The products in the database.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
}

impl Store {
    /// The products of `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Adds a product; one that is there already and the same is as good.
    ///
    /// # Errors
    /// [`Error::Taken`] when it differs.
    ///
    /// # Cancel safety
    /// It may have been added.
    pub async fn create(&self, product: Product) -> Result<Stored, Error> {
        let Product { sku, title, description, price } = &product;
        let values: [Value; COLUMNS] = [
            sku.as_str().into(),
            title.as_str().into(),
            description.as_str().into(),
            price.amount().minor().into(),
            price.amount().currency().code().into(),
        ];
        let mut open = self.database.begin().await?;
        if open.execute(INSERT, &values).await? == 1 {
            open.commit().await?;
            return Ok(Stored { product, etag: Etag::of(1) });
        }
        open.rollback().await?;
        match self.get(sku).await? {
            Some(stored) if stored.product == product => Ok(stored),
            _ => Err(Error::Taken(product.sku)),
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
        // No character of a SKU needs escaping in JSON.
        let list: Vec<_> = skus.iter().map(|sku| format!("\"{sku}\"")).collect();
        let rows = self.database.rows(BY_IDS, &[format!("[{}]", list.join(",")).into()]).await?;
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

fn read(row: &Row) -> Result<Stored, DatabaseError> {
    let text = |column| row.get::<String>(column);
    let currency = text("currency")?.parse().map_err(|why| DatabaseError::corrupt("currency", why))?;
    let amount = Money::new(row.get("price")?, currency);
    let amount = amount.map_err(|why| DatabaseError::corrupt("price", why))?;
    let product = Product {
        sku: Sku::parse(&text("product_id")?).map_err(|why| DatabaseError::corrupt("product_id", why))?,
        title: Title::parse(&text("title")?).map_err(|why| DatabaseError::corrupt("title", why))?,
        description: Description::parse(&text("description")?)
            .map_err(|why| DatabaseError::corrupt("description", why))?,
        price: Price::of(amount).map_err(|why| DatabaseError::corrupt("price", why))?,
    };
    Ok(Stored { product, etag: Etag::of(row.get("version")?) })
}
