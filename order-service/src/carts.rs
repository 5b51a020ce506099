//! The client of cart-service.

use std::time::Duration;

use mesh_proto::shop::cart::v1::{
    Cart, CartItem, ClearCartRequest, GetCartRequest, cart_service_client::CartServiceClient,
};
use registry_client::policy::incoming::Incoming;
use service_kit::{
    auth::Outgoing,
    error::{Fault, downstream, internal},
    money::Money,
    value::{CustomerId, Etag, Quantity, Sku, line},
};
use tokio::time::timeout;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use tracing::{debug, warn};

use crate::domain::OrderLine;

/// The service of the carts.
pub const SERVICE: &str = "cart-service";

/// The timeout of reading a cart, when the caller's deadline is later or none.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// The share of the caller's remaining time, so that the caller still gets the
/// error.
const READ_DEADLINE_SHARE: f64 = 0.8;
/// The timeout of clearing a cart, for which a response waits.
const CLEAR_TIMEOUT: Duration = Duration::from_millis(500);

/// The carts that orders are made of. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Carts {
    carts: CartServiceClient<Outgoing>,
}

/// A cart at one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CartSnapshot {
    /// The lines.
    pub lines: Vec<OrderLine>,
    /// The version.
    pub etag: Etag,
}

impl Carts {
    /// The carts behind `channel`.
    #[must_use]
    pub fn new(channel: Outgoing) -> Self {
        Self { carts: CartServiceClient::new(channel) }
    }

    /// Reads a customer's cart, with current prices.
    ///
    /// # Errors
    /// When cart-service fails or times out, or the cart cannot be priced.
    ///
    /// # Cancel safety
    /// Cancel safe: the call is cancelled.
    pub async fn get(&self, customer: &CustomerId) -> Result<CartSnapshot, Fault> {
        let mut request = Request::new(GetCartRequest { customer_id: customer.as_str().to_owned() });
        let left = Incoming::current().and_then(|call| call.left());
        request.set_timeout(
            left.map_or(READ_TIMEOUT, |left| left.mul_f64(READ_DEADLINE_SHARE).min(READ_TIMEOUT)),
        );
        match self.carts.clone().get_cart(request).await {
            Ok(cart) => read(&cart.into_inner())
                .map_err(|why| internal(&format_args!("{SERVICE} returned an invalid cart: {why}"))),
            // A product of the cart is no longer sold: the customer has to remove it.
            Err(status) if status.code() == Code::FailedPrecondition => {
                let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
                let fault = Fault::new(Code::FailedPrecondition, "CART_NOT_ORDERABLE", status.message());
                Err(fault.with("cart_reason", reason))
            }
            Err(status) => Err(downstream(SERVICE, &status)),
        }
    }

    /// Clears a cart that was ordered, unless it has changed since. Returns false
    /// when clearing is to be retried.
    ///
    /// # Cancel safety
    /// It may have been cleared.
    pub async fn clear(&self, customer: &CustomerId, etag: Etag) -> bool {
        let mut request = Request::new(ClearCartRequest {
            customer_id: customer.as_str().to_owned(),
            etag: etag.to_string(),
        });
        request.set_timeout(CLEAR_TIMEOUT);
        let mut carts = self.carts.clone();
        match timeout(CLEAR_TIMEOUT, carts.clear_cart(request)).await {
            Ok(Ok(_)) => true,
            Ok(Err(status)) if status.code() == Code::Aborted => {
                debug!("the cart has changed since it was ordered, keeping it");
                true
            }
            Ok(Err(status)) => {
                let (code, cause) = (status.code(), status.message());
                warn!(?code, cause, "failed to clear an ordered cart, retrying: {code:?}: {cause}");
                false
            }
            Err(_) => {
                warn!("failed to clear an ordered cart within {CLEAR_TIMEOUT:?}, retrying");
                false
            }
        }
    }
}

fn read(cart: &Cart) -> Result<CartSnapshot, String> {
    let lines = cart.items.iter().map(read_line).collect::<Result<_, _>>()?;
    let etag = Etag::parse(&cart.etag).map_err(|why| format!("its etag {why}"))?;
    Ok(CartSnapshot { lines, etag: etag.ok_or("it has no etag")? })
}

fn read_line(item: &CartItem) -> Result<OrderLine, String> {
    Ok(OrderLine {
        sku: Sku::parse(&item.product_id).map_err(|why| format!("a product_id {why}"))?,
        title: line(&item.title, 200).map_err(|why| format!("a title {why}"))?,
        price: Money::parse(item.unit_price.as_ref()).map_err(|why| format!("a price: {why}"))?,
        quantity: Quantity::parse(item.quantity).map_err(|why| format!("a quantity {why}"))?,
    })
}
