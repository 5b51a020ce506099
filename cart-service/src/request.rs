//! Requests, parsed into valid values.

use mesh_proto::shop::cart::v1::{AddItemRequest, ClearCartRequest, RemoveItemRequest, UpdateItemRequest};
use service_kit::{
    error::{Fault, Fields, invalid},
    value::{CustomerId, Etag, Quantity, Sku},
};

/// A request to add or set an item, with the version that the caller has read.
pub(crate) struct ItemRequest {
    pub(crate) customer: CustomerId,
    pub(crate) sku: Sku,
    pub(crate) quantity: Quantity,
    pub(crate) seen: Option<Etag>,
}

/// A request to remove a product, with the version that the caller has read.
pub(crate) struct RemoveRequest {
    pub(crate) customer: CustomerId,
    pub(crate) sku: Sku,
    pub(crate) seen: Option<Etag>,
}

/// A request to clear a cart, with the version that the caller has read.
pub(crate) struct ClearRequest {
    pub(crate) customer: CustomerId,
    pub(crate) seen: Option<Etag>,
}

pub(crate) fn customer(text: &str) -> Result<CustomerId, Fault> {
    CustomerId::parse(text).map_err(|why| invalid("customer_id", why))
}

impl ItemRequest {
    fn parse(customer: &str, product: &str, quantity: i32, etag: &str) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let customer = fields.take("customer_id", CustomerId::parse(customer));
        let sku = fields.take("product_id", Sku::parse(product));
        let quantity = fields.take("quantity", Quantity::parse(quantity));
        let seen = fields.take("etag", Etag::parse(etag));
        let (Some(customer), Some(sku), Some(quantity), Some(seen)) = (customer, sku, quantity, seen) else {
            return Err(fields.fault());
        };
        Ok(Self { customer, sku, quantity, seen })
    }
}

impl TryFrom<AddItemRequest> for ItemRequest {
    type Error = Fault;

    fn try_from(from: AddItemRequest) -> Result<Self, Fault> {
        Self::parse(&from.customer_id, &from.product_id, from.quantity, &from.etag)
    }
}

impl TryFrom<UpdateItemRequest> for ItemRequest {
    type Error = Fault;

    fn try_from(from: UpdateItemRequest) -> Result<Self, Fault> {
        Self::parse(&from.customer_id, &from.product_id, from.quantity, &from.etag)
    }
}

impl TryFrom<RemoveItemRequest> for RemoveRequest {
    type Error = Fault;

    fn try_from(from: RemoveItemRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let customer = fields.take("customer_id", CustomerId::parse(&from.customer_id));
        let sku = fields.take("product_id", Sku::parse(&from.product_id));
        let seen = fields.take("etag", Etag::parse(&from.etag));
        let (Some(customer), Some(sku), Some(seen)) = (customer, sku, seen) else {
            return Err(fields.fault());
        };
        Ok(Self { customer, sku, seen })
    }
}

impl TryFrom<ClearCartRequest> for ClearRequest {
    type Error = Fault;

    fn try_from(from: ClearCartRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let customer = fields.take("customer_id", CustomerId::parse(&from.customer_id));
        let seen = fields.take("etag", Etag::parse(&from.etag));
        let (Some(customer), Some(seen)) = (customer, seen) else { return Err(fields.fault()) };
        Ok(Self { customer, seen })
    }
}
