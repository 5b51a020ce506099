//! The events that carts receive: changed products and deleted accounts.

use mesh_proto::shop::events::v1::{Event, ProductChanged, ProductDeleted, UserDeleted, event::Payload};
use service_kit::{
    database::Transaction,
    events::{HandleError, Subscriber},
    value::{CustomerId, InvalidValue, Sku},
};
use tonic::async_trait;

use crate::store;

/// The senders of these events.
pub(crate) const SOURCES: &[&str] = &["product-service", "user-service"];

/// Notifies watches of changed products, and deletes the carts of deleted accounts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News;

#[async_trait]
impl Subscriber for News {
    async fn handle(&self, open: &mut Transaction, event: &Event) -> Result<(), HandleError> {
        match &event.payload {
            Some(Payload::ProductChanged(ProductChanged { product: Some(product) })) => {
                Ok(store::record_product_change(open, &sku(&product.product_id)?).await?)
            }
            Some(Payload::ProductDeleted(ProductDeleted { product_id })) => {
                Ok(store::record_product_change(open, &sku(product_id)?).await?)
            }
            Some(Payload::UserDeleted(UserDeleted { user_id })) => {
                let customer = CustomerId::parse(user_id).map_err(|why| malformed("user_id", &why))?;
                Ok(store::delete(open, &customer).await?)
            }
            _ => Ok(()),
        }
    }
}

fn sku(text: &str) -> Result<Sku, HandleError> {
    Sku::parse(text).map_err(|why| malformed("product_id", &why))
}

fn malformed(field: &str, why: &InvalidValue) -> HandleError {
    HandleError::Permanent(format!("{field} {why}"))
}
