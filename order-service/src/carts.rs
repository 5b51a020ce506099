//! cart-service, as orders see it.

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

use crate::domain::Line;

/// The service that keeps the carts.
pub const SERVICE: &str = "cart-service";

/// How long reading a cart may take with everything it waits for, when our own
/// caller gave more time or none.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// What of our caller's time it may take: so that they learn who did not answer.
const READ_SHARE: f64 = 0.8;
/// How long emptying a cart may take: an answer waits for it.
const CLEAR_LIMIT: Duration = Duration::from_millis(500);

/// The carts that orders are made of. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Carts {
    carts: CartServiceClient<Outgoing>,
}

/// A cart as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it held.
    pub lines: Vec<Line>,
    /// Its version.
    pub etag: Etag,
}

impl Carts {
    /// The carts behind `channel`.
    #[must_use]
    pub fn new(channel: Outgoing) -> Self {
        Self { carts: CartServiceClient::new(channel) }
    }

    /// A customer's cart, with the prices of this moment.
    ///
    /// # Errors
    /// What the caller is told, when cart-service fails or does not answer in
    /// time, or the cart cannot be priced.
    ///
    /// # Cancel safety
    /// Cancel safe: the call is cancelled.
    pub async fn get(&self, customer: &CustomerId) -> Result<Snapshot, Fault> {
        let mut request = Request::new(GetCartRequest { customer_id: customer.as_str().to_owned() });
        let left = Incoming::current().and_then(|call| call.left());
        request.set_timeout(left.map_or(READ_LIMIT, |left| left.mul_f64(READ_SHARE).min(READ_LIMIT)));
        match self.carts.clone().get_cart(request).await {
            Ok(cart) => read(&cart.into_inner())
                .map_err(|why| internal(&format_args!("{SERVICE} sent a cart that is none: {why}"))),
            // A product of the cart is no longer sold: for the customer to mend.
            Err(status) if status.code() == Code::FailedPrecondition => {
                let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
                let fault = Fault::new(Code::FailedPrecondition, "CART_NOT_ORDERABLE", status.message());
                Err(fault.with("cart_reason", reason))
            }
            Err(status) => Err(downstream(SERVICE, &status)),
        }
    }

    /// Empties a cart that was ordered, unless it has changed since; `false`
    /// when that shall be tried again.
    ///
    /// # Cancel safety
    /// It may have been emptied.
    pub async fn clear(&self, customer: &CustomerId, etag: Etag) -> bool {
        let mut request = Request::new(ClearCartRequest {
            customer_id: customer.as_str().to_owned(),
            etag: etag.to_string(),
        });
        request.set_timeout(CLEAR_LIMIT);
        let mut carts = self.carts.clone();
        match timeout(CLEAR_LIMIT, carts.clear_cart(request)).await {
            Ok(Ok(_)) => true,
            Ok(Err(status)) if status.code() == Code::Aborted => {
                debug!("the cart has changed since it was ordered and stays as it is");
                true
            }
            Ok(Err(status)) => {
                let (code, cause) = (status.code(), status.message());
                warn!(?code, cause, "a cart that was ordered could not be emptied yet: {cause}");
                false
            }
            Err(_) => {
                warn!("a cart that was ordered could not be emptied within {CLEAR_LIMIT:?}");
                false
            }
        }
    }
}

fn read(cart: &Cart) -> Result<Snapshot, String> {
    let lines = cart.items.iter().map(read_line).collect::<Result<_, _>>()?;
    let etag = Etag::parse(&cart.etag).map_err(|why| format!("its etag {why}"))?;
    Ok(Snapshot { lines, etag: etag.ok_or("it has no etag")? })
}

fn read_line(item: &CartItem) -> Result<Line, String> {
    Ok(Line {
        sku: Sku::parse(&item.product_id).map_err(|why| format!("a product_id {why}"))?,
        title: line(&item.title, 200).map_err(|why| format!("a title {why}"))?,
        price: Money::parse(item.unit_price.as_ref()).map_err(|why| format!("a price: {why}"))?,
        quantity: Quantity::parse(item.quantity).map_err(|why| format!("a quantity {why}"))?,
    })
}
