//! The client of product-service's stock: goods are reserved and committed in two
//! phases, under the id of the order.

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

/// The service of the stock.
pub const SERVICE: &str = "product-service";

/// The timeout of one call, so that the two of a step end within its timeout.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The most SKUs that an error names, since details are sent in a header.
const MAX_NAMED_SKUS: usize = 20;

/// The stock. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stock {
    products: ProductServiceClient<Outgoing>,
}

/// The outcome of committing stock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StockOutcome {
    /// The goods are reserved or committed.
    Committed,
    /// There are too few pieces of these SKUs.
    Insufficient(String),
}

impl Stock {
    /// The stock behind `channel`.
    #[must_use]
    pub fn new(channel: Outgoing) -> Self {
        Self { products: ProductServiceClient::new(channel) }
    }

    async fn reserve(&self, order: &Order) -> Result<StockOutcome, Fault> {
        let items = order.facts().lines.iter().map(|line| ReservedItem {
            product_id: line.sku.to_string(),
            quantity: line.quantity.get().into(),
        });
        let request = ReserveStockRequest {
            reservation_id: order.id().to_string(),
            items: items.collect(),
            lease: None,
        };
        match self.products.clone().reserve_stock(with_timeout(request)).await {
            Ok(_) => Ok(StockOutcome::Committed),
            Err(status) => insufficient(order, &status),
        }
    }

    /// Reserves the goods of an order and commits the reservation. Both calls can be
    /// repeated.
    ///
    /// # Errors
    /// When product-service fails: the goods may be reserved or committed.
    ///
    /// # Cancel safety
    /// The goods may be reserved or committed.
    pub async fn reserve_and_commit(&self, order: &Order) -> Result<StockOutcome, Fault> {
        match self.reserve(order).await? {
            StockOutcome::Committed => {}
            insufficient => return Ok(insufficient),
        }
        let request = CommitReservationRequest { reservation_id: order.id().to_string() };
        match self.products.clone().commit_reservation(with_timeout(request)).await {
            Ok(_) => Ok(StockOutcome::Committed),
            // The reservation existed a moment ago, so this does not mean out of stock.
            Err(status) if status.code() == Code::NotFound => Err(downstream(SERVICE, &status)),
            Err(status) => insufficient(order, &status),
        }
    }

    /// Checks that the goods of an order were not released.
    ///
    /// # Errors
    /// When product-service fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_unreleased(&self, order: &Order) -> Result<bool, Fault> {
        let request = GetReservationRequest { reservation_id: order.id().to_string() };
        match self.products.clone().get_reservation(with_timeout(request)).await {
            Ok(found) => Ok(found.get_ref().state() != ReservationState::Released),
            // Orders of the first version have none.
            Err(status) if status.code() == Code::NotFound => Ok(true),
            Err(status) => Err(downstream(SERVICE, &status)),
        }
    }

    /// Releases the goods of an order for ever, even if it has none.
    ///
    /// # Errors
    /// When product-service fails: they may have been released.
    ///
    /// # Cancel safety
    /// They may have been released.
    pub async fn release(&self, order: &Order) -> Result<(), Fault> {
        let request = ReleaseReservationRequest { reservation_id: order.id().to_string() };
        let released = self.products.clone().release_reservation(with_timeout(request)).await;
        released.map(drop).map_err(|status| downstream(SERVICE, &status))
    }
}

fn with_timeout<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// The outcome of a call that failed for lack of goods: too few pieces, a deleted
/// product, a reservation that another call has released, or an invalid request. A
/// retry would not help.
fn insufficient(order: &Order, status: &Status) -> Result<StockOutcome, Fault> {
    match status.code() {
        Code::FailedPrecondition | Code::NotFound => {}
        Code::InvalidArgument => {
            let (id, why) = (order.id(), status.message());
            error!(order = %id, "product-service rejected the lines of order {id}: {why}");
        }
        _ => return Err(downstream(SERVICE, status)),
    }
    let info = status.get_details_error_info().map(|info| info.metadata).unwrap_or_default();
    Ok(StockOutcome::Insufficient(info.get("product_ids").cloned().unwrap_or_else(|| skus(order))))
}

/// The first SKUs of an order.
fn skus(order: &Order) -> String {
    let skus = order.facts().lines.iter().take(MAX_NAMED_SKUS).map(|line| line.sku.as_str());
    skus.collect::<Vec<_>>().join(",")
}
