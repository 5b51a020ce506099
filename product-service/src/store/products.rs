//! Changes of the catalogue and their events.

use mesh_proto::shop::events::v1::{ProductChanged, ProductDeleted, event::Payload};
use service_kit::{
    database::{Error as DatabaseError, Transaction, Value},
    events::Outbox,
    value::{Etag, Sku},
};

use super::{BY_ID, lock_product, read, stock};
use crate::{
    Error,
    domain::{Change, Product, StoredProduct},
};

const INSERT: &str = "INSERT INTO products (product_id, title, description, price, currency, version) \
     VALUES ($1, $2, $3, $4, $5, 1) ON CONFLICT (product_id) DO NOTHING";

const UPDATE: &str = "UPDATE products SET title = $2, description = $3, price = $4, currency = $5, \
     version = version + 1 WHERE product_id = $1";

/// Continues the versions of a product that existed before, so that its events keep
/// their order.
const CONTINUE: &str = "UPDATE products SET version = stock.gone + 1 FROM stock \
     WHERE products.product_id = $1 AND stock.product_id = $1 AND stock.gone > 0";

const DELETE: &str = "DELETE FROM products WHERE product_id = $1";

pub(super) async fn create(
    open: &mut Transaction,
    outbox: &Outbox,
    product: &Product,
) -> Result<StoredProduct, Error> {
    if open.execute(INSERT, &columns(product)).await? == 0 {
        open.set_rollback_only();
        return match get(open, &product.sku).await? {
            Some(stored) if stored.product == *product => Ok(stored),
            _ => Err(Error::SkuTaken(product.sku.clone())),
        };
    }
    open.execute(CONTINUE, &[product.sku.as_str().into()]).await?;
    stock::restore(open, &product.sku).await?;
    let stored = get(open, &product.sku).await?;
    let stored = stored.ok_or_else(|| DatabaseError::corrupt("product", "is missing after its insertion"))?;
    append_event(open, outbox, &stored).await?;
    Ok(stored)
}

pub(super) async fn update(
    open: &mut Transaction,
    outbox: &Outbox,
    change: &Change,
) -> Result<StoredProduct, Error> {
    let missing = || Error::Missing(vec![change.sku.clone()]);
    if !lock_product(open, &change.sku).await? {
        return Err(missing());
    }
    let before = get(open, &change.sku).await?.ok_or_else(missing)?;
    let after = change.apply(&before.product);
    let same = after == before.product;
    let expected = change.etag.is_none_or(|seen| seen == before.etag);
    // An earlier attempt of this change may have been committed.
    let repeated = change.etag.is_some_and(|seen| same && before.etag.follows(seen));
    if !expected && !repeated {
        return Err(Error::ProductChanged(change.sku.clone()));
    }
    if same {
        open.set_rollback_only();
        return Ok(before);
    }
    open.execute(UPDATE, &columns(&after)).await?;
    let stored = StoredProduct { product: after, etag: before.etag.next() };
    append_event(open, outbox, &stored).await?;
    Ok(stored)
}

pub(super) async fn delete(
    open: &mut Transaction,
    outbox: &Outbox,
    sku: &Sku,
    etag: Option<Etag>,
) -> Result<(), Error> {
    lock_product(open, sku).await?;
    let Some(stored) = get(open, sku).await? else {
        open.set_rollback_only();
        return Ok(());
    };
    if etag.is_some_and(|seen| seen != stored.etag) {
        return Err(Error::ProductChanged(sku.clone()));
    }
    let end = stored.etag.next();
    stock::write_off(open, sku, end).await?;
    open.execute(DELETE, &[sku.as_str().into()]).await?;
    let payload = Payload::ProductDeleted(ProductDeleted { product_id: sku.to_string() });
    outbox.append(open, sku.as_str(), end.version(), payload).await?;
    Ok(())
}

async fn append_event(
    open: &mut Transaction,
    outbox: &Outbox,
    stored: &StoredProduct,
) -> Result<(), DatabaseError> {
    let payload = Payload::ProductChanged(ProductChanged { product: Some(stored.clone().into()) });
    outbox.append(open, stored.product.sku.as_str(), stored.etag.version(), payload).await
}

async fn get(open: &mut Transaction, sku: &Sku) -> Result<Option<StoredProduct>, DatabaseError> {
    let row = open.row(BY_ID, &[sku.as_str().into()]).await?;
    row.as_ref().map(read).transpose()
}

fn columns(product: &Product) -> [Value; 5] {
    let Product { sku, title, description, price } = product;
    [
        sku.as_str().into(),
        title.as_str().into(),
        description.as_str().into(),
        price.amount().minor().into(),
        price.amount().currency().code().into(),
    ]
}
