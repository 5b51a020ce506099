//! product-service's stock, as orders see it: goods are taken in two phases,
//! under the id of the order.

use std::time::Duration;

use mesh_proto::shop::product::v1::{
    CommitReservationRequest, ReleaseReservationRequest, ReserveStockRequest, ReservedItem,
    product_service_client::ProductServiceClient,
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

    /// Sets the goods of an order aside.
    ///
    /// # Errors
    /// When product-service fails: they may be set aside.
    ///
    /// # Cancel safety
    /// They may be set aside.
    pub async fn reserve(&self, order: &Order) -> Result<Goods, Fault> {
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

    /// Makes the goods of an order its own. Where their reservation is gone it
    /// is made anew, if there still are pieces.
    ///
    /// # Errors
    /// When product-service fails: they may be its own.
    ///
    /// # Cancel safety
    /// They may be its own.
    pub async fn commit(&self, order: &Order) -> Result<Goods, Fault> {
        match self.try_commit(order).await {
            Err(status) if status.code() == Code::NotFound => {}
            done => return done.or_else(|status| short(order, &status)),
        }
        match self.reserve(order).await? {
            Goods::Had => self.try_commit(order).await.or_else(|status| short(order, &status)),
            short => Ok(short),
        }
    }

    async fn try_commit(&self, order: &Order) -> Result<Goods, Status> {
        let request = CommitReservationRequest { reservation_id: order.id().to_string() };
        self.products.clone().commit_reservation(limited(request)).await.map(|_| Goods::Had)
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
