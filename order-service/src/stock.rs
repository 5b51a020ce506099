//! product-service's stock, as orders see it: goods are taken in two phases,
//! under the id of the order.

use std::time::Duration;

use mesh_proto::shop::product::v1::{
    CommitReservationRequest, GetReservationRequest, ReleaseReservationRequest, ReservationState,
    ReserveStockRequest, ReservedItem, product_service_client::ProductServiceClient,
};
use service_kit::{
    auth::Outgoing,
    error::{Fault, downstream},
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use tracing::error;

use crate::domain::Order;

/// The service that keeps the stock.
pub const SERVICE: &str = "product-service";

/// How long one call may take: so that the two of a step end within it.
const LIMIT: Duration = Duration::from_secs(3);

/// The most SKUs that an error names: details travel in a header.
const MOST_NAMED: usize = 20;

/// The stock. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stock {
    products: ProductServiceClient<Outgoing>,
}

/// Whether goods could be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goods {
    /// They are the order's.
    Had,
    /// They are not and cannot be; of which SKUs there are too few, as
    /// product-service says.
    Short(String),
}

impl Stock {
    /// The stock behind `channel`.
    #[must_use]
    pub fn new(channel: Outgoing) -> Self {
        Self { products: ProductServiceClient::new(channel) }
    }

    async fn reserve(&self, order: &Order) -> Result<Goods, Fault> {
        let items = order.facts().lines.iter().map(|line| ReservedItem {
            product_id: line.sku.to_string(),
            quantity: line.quantity.get().into(),
        });
        let request = ReserveStockRequest {
            reservation_id: order.id().to_string(),
            items: items.collect(),
            lease: None,
        };
        match self.products.clone().reserve_stock(limited(request)).await {
            Ok(_) => Ok(Goods::Had),
            Err(status) => short(order, &status),
        }
    }

    /// Makes the goods of an order its own: sets them aside, and then says that
    /// they are sold. Whether either was done before makes no difference.
    ///
    /// # Errors
    /// When product-service fails: they may be its own.
    ///
    /// # Cancel safety
    /// They may be its own.
    pub async fn secure(&self, order: &Order) -> Result<Goods, Fault> {
        match self.reserve(order).await? {
            Goods::Had => {}
            short => return Ok(short),
        }
        let request = CommitReservationRequest { reservation_id: order.id().to_string() };
        match self.products.clone().commit_reservation(limited(request)).await {
            Ok(_) => Ok(Goods::Had),
            // It was there a moment ago: nothing that says that there are no goods.
            Err(status) if status.code() == Code::NotFound => Err(downstream(SERVICE, &status)),
            Err(status) => short(order, &status),
        }
    }

    /// Whether nobody has returned the goods of an order.
    ///
    /// # Errors
    /// When product-service fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_unreleased(&self, order: &Order) -> Result<bool, Fault> {
        let request = GetReservationRequest { reservation_id: order.id().to_string() };
        match self.products.clone().get_reservation(limited(request)).await {
            Ok(found) => Ok(found.get_ref().state() != ReservationState::Released),
            // Orders of the first version have none.
            Err(status) if status.code() == Code::NotFound => Ok(true),
            Err(status) => Err(downstream(SERVICE, &status)),
        }
    }

    /// Returns the goods of an order, whether or not it has any, for ever.
    ///
    /// # Errors
    /// When product-service fails: they may have been returned.
    ///
    /// # Cancel safety
    /// They may have been returned.
    pub async fn release(&self, order: &Order) -> Result<(), Fault> {
        let request = ReleaseReservationRequest { reservation_id: order.id().to_string() };
        let released = self.products.clone().release_reservation(limited(request)).await;
        released.map(drop).map_err(|status| downstream(SERVICE, &status))
    }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LIMIT);
    request
}

/// There are too few pieces, the product is gone, the reservation was released
/// by somebody else, or what is asked for can never be had: however it came,
/// there are no goods. To ask again would help nobody.
fn short(order: &Order, status: &Status) -> Result<Goods, Fault> {
    match status.code() {
        Code::FailedPrecondition | Code::NotFound => {}
        Code::InvalidArgument => {
            let (id, why) = (order.id(), status.message());
            error!(order = %id, "product-service does not understand what order {id} is of: {why}");
        }
        _ => return Err(downstream(SERVICE, status)),
    }
    let info = status.get_details_error_info().map(|info| info.metadata).unwrap_or_default();
    Ok(Goods::Short(info.get("product_ids").cloned().unwrap_or_else(|| skus(order))))
}

/// The first SKUs of an order.
fn skus(order: &Order) -> String {
    let skus = order.facts().lines.iter().take(MOST_NAMED).map(|line| line.sku.as_str());
    skus.collect::<Vec<_>>().join(",")
}
