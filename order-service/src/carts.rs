//! cart-service, as orders see it.

use std::time::Duration;

use mesh_proto::shop::cart::v1::{
    Cart, CartItem, ClearCartRequest, GetCartRequest, cart_service_client::CartServiceClient,
};
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

/// How long reading a cart may take with everything it waits for: well below
/// the time that callers usually give, so that they learn who did not answer.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long emptying a cart may take altogether.
const CLEAR_LIMIT: Duration = Duration::from_secs(2);
/// How long an order's answer waits for it.
const CLEAR_WAIT: Duration = Duration::from_millis(500);

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
    /// What the caller is told, when cart-service fails or does not answer
    /// within 5 s, or the cart cannot be priced.
    ///
    /// # Cancel safety
    /// Cancel safe: the call is cancelled.
    pub async fn get(&self, customer: &CustomerId) -> Result<Snapshot, Fault> {
        let mut request = Request::new(GetCartRequest { customer_id: customer.as_str().to_owned() });
        request.set_timeout(READ_LIMIT);
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

    /// Empties a cart that was ordered, unless it has changed since. Best
    /// effort: it goes on when the caller leaves, and neither its failure nor
    /// its slowness is the order's.
    ///
    /// # Cancel safety
    /// Cancel safe: it goes on by itself, for 2 s at most.
    pub async fn clear(&self, customer: &CustomerId, etag: Etag) {
        let mut carts = self.carts.clone();
        let mut request = Request::new(ClearCartRequest {
            customer_id: customer.as_str().to_owned(),
            etag: etag.to_string(),
        });
        request.set_timeout(CLEAR_LIMIT);
        let clearing = tokio::spawn(async move {
            match timeout(CLEAR_LIMIT, carts.clear_cart(request)).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) if status.code() == Code::Aborted => {
                    debug!("the cart has changed since it was ordered and stays as it is");
                }
                Ok(Err(status)) => {
                    let (code, cause) = (status.code(), status.message());
                    warn!(?code, cause, "a cart that was ordered could not be cleared: {cause}");
                }
                Err(_) => warn!("a cart that was ordered could not be cleared within {CLEAR_LIMIT:?}"),
            }
        });
        let _ = timeout(CLEAR_WAIT, clearing).await;
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
