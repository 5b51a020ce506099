//! Requests, parsed into valid values.

use mesh_proto::shop::product::v1::{
    DeleteProductRequest, ReserveStockRequest, ReservedItem, SetStockRequest,
};
use service_kit::{
    error::{Fault, Fields, invalid},
    value::{Etag, Quantity, Sku},
};

use crate::domain::{Count, Item, Items, Lease, MAX_PRODUCTS, ReservationId};

pub(crate) fn sku(text: &str) -> Result<Sku, Fault> {
    Sku::parse(text).map_err(|why| invalid("product_id", why))
}

pub(crate) fn reservation_id(text: &str) -> Result<ReservationId, Fault> {
    ReservationId::parse(text).map_err(|why| invalid("reservation_id", why))
}

/// A request to delete a product, with the version that it must have.
pub(crate) struct Deletion {
    pub(crate) sku: Sku,
    pub(crate) etag: Option<Etag>,
}

impl TryFrom<DeleteProductRequest> for Deletion {
    type Error = Fault;

    fn try_from(from: DeleteProductRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let sku = fields.take("product_id", Sku::parse(&from.product_id));
        let etag = fields.take("etag", Etag::parse(&from.etag));
        let (Some(sku), Some(etag)) = (sku, etag) else { return Err(fields.fault()) };
        Ok(Self { sku, etag })
    }
}

/// A request to set the stock of a product, with the version that it must have.
pub(crate) struct StockUpdate {
    pub(crate) sku: Sku,
    pub(crate) available: Count,
    pub(crate) etag: Option<Etag>,
}

impl TryFrom<SetStockRequest> for StockUpdate {
    type Error = Fault;

    fn try_from(from: SetStockRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let sku = fields.take("product_id", Sku::parse(&from.product_id));
        let available = fields.take("available", Count::parse(from.available));
        let etag = fields.take("etag", Etag::parse(&from.etag));
        let (Some(sku), Some(available), Some(etag)) = (sku, available, etag) else {
            return Err(fields.fault());
        };
        Ok(Self { sku, available, etag })
    }
}

/// A request to reserve pieces.
pub(crate) struct ReservationRequest {
    pub(crate) id: ReservationId,
    pub(crate) items: Items,
    pub(crate) lease: Lease,
}

impl TryFrom<ReserveStockRequest> for ReservationRequest {
    type Error = Fault;

    fn try_from(from: ReserveStockRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let id = fields.take("reservation_id", ReservationId::parse(&from.reservation_id));
        let items = items(&mut fields, &from.items);
        let lease = fields.take("lease", Lease::parse(from.lease));
        let (Some(id), Some(items), Some(lease)) = (id, items, lease) else { return Err(fields.fault()) };
        Ok(Self { id, items, lease })
    }
}

fn items(fields: &mut Fields, wire: &[ReservedItem]) -> Option<Items> {
    if wire.is_empty() || wire.len() > MAX_PRODUCTS {
        return fields.take("items", Err(format_args!("must be 1 to {MAX_PRODUCTS}")));
    }
    let mut items = Vec::with_capacity(wire.len());
    for (index, item) in wire.iter().enumerate() {
        let sku = fields.take(format!("items[{index}].product_id"), Sku::parse(&item.product_id));
        let quantity = fields.take(format!("items[{index}].quantity"), Quantity::parse(item.quantity));
        if let (Some(sku), Some(quantity)) = (sku, quantity) {
            items.push(Item { sku, quantity });
        }
    }
    if items.len() < wire.len() {
        return None;
    }
    match Items::of(items) {
        Ok(items) => Some(items),
        Err(index) => fields.take(format!("items[{index}].product_id"), Err("is a duplicate")),
    }
}
