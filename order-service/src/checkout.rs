//! How a cart becomes an order.
//!
//! 1. Look the request up. A request that was answered is answered the same
//!    again, whatever has become of the cart.
//! 2. Read the cart from cart-service, with the prices of this moment.
//! 3. Write the order. One request id makes one order: the database holds it
//!    unique, and of several that come at once the first to commit is the
//!    answer to all.
//! 4. After the commit, empty the cart, unless it has changed since it was
//!    read. This is best effort: an order whose cart could not be emptied is an
//!    order all the same. A repetition of the request tries again.
//!
//! A process that dies before the commit leaves nothing; one that dies after it
//! leaves an order that a repetition of the request finds in step 1. When the
//! database is lost while it commits, the caller is told UNAVAILABLE and the
//! repetition finds out which it was.

use service_kit::{
    timestamp::Timestamp,
    value::{CustomerId, Etag},
};

use crate::{
    Error,
    carts::{Carts, Snapshot},
    domain::{Order, RequestId},
    store::{Placed, Store},
};

/// What a caller asks for: the body of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose cart, and who buys.
    pub customer: CustomerId,
    /// What tells this request from others.
    pub request: RequestId,
    /// The version of the cart that the caller has seen, when it says so.
    pub seen: Option<Etag>,
}

/// Makes an order of a cart, or finds the one that this request made.
///
/// # Errors
/// When the request id was used with another body, the cart is empty, cannot
/// be priced or is not the one that the caller has seen, or something failed.
///
/// # Cancel safety
/// The order may have been made; the same request finds out.
pub async fn check_out(store: &Store, carts: &Carts, wanted: &Wanted) -> Result<Order, Error> {
    let placed = match store.find(wanted).await? {
        Some(placed) => placed,
        None => place(store, carts, wanted).await?,
    };
    carts.clear(&wanted.customer, placed.cart).await;
    Ok(placed.order.as_placed())
}

async fn place(store: &Store, carts: &Carts, wanted: &Wanted) -> Result<Placed, Error> {
    let cart = carts.get(&wanted.customer).await.map_err(Error::Carts)?;
    match order_of(wanted, cart) {
        Ok(placed) => store.place(wanted, placed).await,
        // Another sending of this very request may have ordered the cart and
        // emptied it since we looked.
        Err(refused) => store.find(wanted).await?.ok_or(refused),
    }
}

fn order_of(wanted: &Wanted, cart: Snapshot) -> Result<Placed, Error> {
    if wanted.seen.is_some_and(|seen| seen != cart.etag) {
        return Err(Error::CartChanged);
    }
    let order = Order::place(wanted.customer.clone(), cart.lines, Timestamp::now())?;
    Ok(Placed { order, cart: cart.etag })
}
