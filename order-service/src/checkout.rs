//! Creating an order, and the saga of its life.
//!
//! An order changes three systems that are not ours: the stock in
//! product-service, the charge in payment-service, the parcel of the carrier. No
//! transaction spans them. So the order's row records each step before and after
//! it is taken, and every call to a dependency carries the order's id as its key:
//! any process that finds the row can repeat the call, at any time, with one
//! effect. The row is the coordinator's log of a two-phase commit.
//!
//! # `CreateOrder`
//!
//! 1. **Read the cart**, with current prices. A cart that cannot be ordered, or is
//!    not the version that the caller has seen, is rejected, unless the request is
//!    known (step 3); the request id is not used up.
//! 2. **Record** the order PENDING with lines, prices and the version of the cart,
//!    and the claim on the request id: one transaction. From here on it proceeds
//!    without its caller. A crash before leaves nothing.
//! 3. **A known request** makes that transaction fail, which then writes nothing;
//!    a known request is also looked up when the cart is rejected, or reading it
//!    fails or takes long. One with a response gets it again, byte for byte. One in
//!    progress is waited for, for a moment (`REQUEST_IN_PROGRESS`), or resumed here
//!    when no replica works on it.
//! 4. **Commit the stock**: reserve the goods under the order's id and commit the
//!    reservation. Both can be repeated. If its lease expires between the two, it
//!    is made again, if there are pieces left. Too few of them → CANCELLING, and
//!    the error is stored as the request's response, in one transaction; then key
//!    and reservation are closed → CANCELLED. **Clear the cart**, unless it has
//!    changed since it was read.
//! 5. **Confirm**: CONFIRMED, its event and the response, one transaction. Event,
//!    response, `GetOrder` and `WatchOrder` report it from then on: the goods of a
//!    confirmed order are committed.
//!
//! A cart that could not be cleared in step 4 does not delay the response: clearing
//! is retried for ten minutes, and then given up.
//!
//! **One version of a cart is ordered once**: the transaction of step 2 claims it
//! for the order, too. Another request fails (`CART_ORDERED`) until the cart has
//! another version, or the order was cancelled because its goods were out of stock.
//!
//! # `PayOrder`, `ShipOrder`, `CancelOrder`
//!
//! - **Pay**: CONFIRMED → PAYING with the payment method, durable → `Charge` →
//!   PAID; declined → CONFIRMED. While the outcome of the charge is unknown, the
//!   order stays PAYING and the same charge is sent again: its key makes that both
//!   a retry and a query. Each charge carries the claim of its sender as a fencing
//!   token: a message that was delayed in the network while a later one was
//!   declined charges nothing.
//! - **Ship**: first checks that the charge and the goods are still the order's; if
//!   another call has returned them → CANCELLING. PAID → SHIPPING, durable → the
//!   carrier's booking → SHIPPED; refused → CANCELLING.
//! - **Cancel**: → CANCELLING, durable → `Refund` and `ReleaseReservation`, even if
//!   nothing was charged or reserved → CANCELLED. Both are final: a charge or a
//!   reservation that is still in flight, or that others make under the order's id,
//!   finds its key closed. So a charge with an unknown outcome can be cancelled.
//!
//! # Failures
//!
//! - **A dependency fails or does not respond**: it may have done the work or not.
//!   The caller gets UNAVAILABLE or `DEADLINE_EXCEEDED`, and the order is due again
//!   after a backoff that doubles up to 5 s. A repeated request, or
//!   [`recovery`](crate::recovery), takes the same step again.
//! - **This process dies**, or loses its database: the lease on the order expires
//!   after 10 s and another replica, or the next process, resumes.
//! - **Two replicas work on one order**: each write carries a claim, and that of
//!   the older claim fails; see [`crate::store`]. Calls that both have sent to
//!   dependencies took effect once, because of their key.

use std::{pin::pin, time::Duration};

use mesh_proto::shop::order::v1 as wire;
use service_kit::{
    idempotency::{Claim, StoredResponse, id_reused},
    timestamp::Timestamp,
    value::Etag,
};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    Error,
    carts::CartSnapshot,
    domain::{Order, OrderId, OrderRequest},
    saga::{BUSY_TIMEOUT, SagaEnd, SagaOutcome, Sagas},
    store::{ChangeOutcome, Decision, OrderSnapshot, PlaceOutcome},
};

/// The time to wait for a cart before looking the request up.
const LOOKUP_DELAY: Duration = Duration::from_millis(50);

/// A request after step 1, for which nothing was written yet.
#[derive(Debug)]
pub enum PreparedOrder {
    /// The request is known.
    Known(Claim),
    /// The order to record, and the version of its cart, unless the request is known.
    New(Box<Order>, Etag),
}

/// Reads the cart: step 1. Looks the request up only when reading the cart fails or
/// takes long, since nearly all requests are new.
///
/// # Errors
/// When the cart is empty, has no prices or is not the one that the caller has seen,
/// or a dependency fails.
///
/// # Cancel safety
/// Cancel safe.
pub async fn prepare(sagas: &Sagas, request: &OrderRequest) -> Result<PreparedOrder, Error> {
    let mut cart = pin!(sagas.carts().get(&request.customer));
    let cart = match timeout(LOOKUP_DELAY, cart.as_mut()).await {
        Ok(cart) => cart,
        // A repeated request must not wait for a cart that it does not need.
        Err(_) => match sagas.store().lookup_claim(request).await? {
            Claim::New => cart.await,
            known => return Ok(PreparedOrder::Known(known)),
        },
    };
    match cart.map_err(Error::Dependency).and_then(|cart| order_from(request, cart)) {
        Ok((order, cart)) => Ok(PreparedOrder::New(Box::new(order), cart)),
        // The same request, sent before, may have ordered the cart and cleared it.
        Err(error) => match sagas.store().lookup(request).await? {
            Claim::New => Err(error),
            known => Ok(PreparedOrder::Known(known)),
        },
    }
}

/// Creates the order, or finds the one of this request: all further steps. To take
/// them even when the caller cancels, run this by [`Sagas::run`].
///
/// # Errors
/// When the request id was used with another body or is in progress, another request
/// has ordered this version of the cart, the goods are out of stock, or a dependency
/// fails.
///
/// # Cancel safety
/// The order is resumed when its lease expires; the same request returns the outcome.
pub async fn execute(
    sagas: &Sagas,
    request: &OrderRequest,
    prepared: PreparedOrder,
) -> Result<wire::Order, Error> {
    let claim = match prepared {
        PreparedOrder::Known(claim) => claim,
        PreparedOrder::New(order, cart) => match sagas.store().place(request, *order, cart).await? {
            PlaceOutcome::KnownRequest(claim) => claim,
            PlaceOutcome::CartOrdered(order) => return Err(Error::CartOrdered(order)),
            PlaceOutcome::Placed(claimed) => {
                claim_after(sagas, request, sagas.run_steps(*claimed).await).await?
            }
        },
    };
    match claim {
        Claim::Stored(response) => read(&response),
        Claim::InProgress(order) => wait_for_response(sagas, request, &order).await,
        Claim::IdReused => Err(Error::Stored(Box::new(id_reused(request.id).into_status(crate::NAME)))),
        Claim::New => Err(Error::InProgress(request.id)),
    }
}

fn read(response: &StoredResponse) -> Result<wire::Order, Error> {
    response.read().map_err(|status| Error::Stored(Box::new(status)))
}

fn order_from(request: &OrderRequest, cart: CartSnapshot) -> Result<(Order, Etag), Error> {
    if request.cart_etag.is_some_and(|seen| seen != cart.etag) {
        return Err(Error::CartChanged);
    }
    let etag = cart.etag;
    let order = Order::place(request.customer.clone(), cart.lines, Timestamp::now())?;
    match request.expected_total {
        Some(expected) if expected != order.facts().total => {
            Err(Error::TotalChanged { expected, total: order.facts().total })
        }
        _ => Ok((order, etag)),
    }
}

/// The claim of a request after the steps of its order. A stored response counts,
/// even if a later step failed.
async fn claim_after(sagas: &Sagas, request: &OrderRequest, outcome: SagaOutcome) -> Result<Claim, Error> {
    if let Some(response) = outcome.response {
        return Ok(Claim::Stored(response));
    }
    match (sagas.store().lookup(request).await?, outcome.end) {
        (Claim::InProgress(_), SagaEnd::Failed(fault)) => Err(Error::Dependency(fault)),
        (known, _) => Ok(known),
    }
}

/// Waits a moment for the response to a request in progress; resumes it when no
/// replica works on it.
async fn wait_for_response(sagas: &Sagas, request: &OrderRequest, order: &str) -> Result<wire::Order, Error> {
    let id = OrderId::parse(order).map_err(|why| service_kit::database::Error::corrupt("reference", why))?;
    let mut changes = sagas.store().database().changes().subscribe(order);
    let give_up = Instant::now() + BUSY_TIMEOUT;
    loop {
        match resume(sagas, request, id).await? {
            Claim::Stored(response) => return read(&response),
            _ if timeout_at(give_up, changes.changed()).await.is_err() => {
                return Err(Error::InProgress(request.id));
            }
            _ => {}
        }
    }
}

/// Resumes the order of a request, unless another replica works on it; returns the
/// claim of the request.
async fn resume(sagas: &Sagas, request: &OrderRequest, id: OrderId) -> Result<Claim, Error> {
    let known = sagas.store().lookup(request).await?;
    if !matches!(known, Claim::InProgress(_)) {
        return Ok(known);
    }
    // Read before locking: the locks of many waiting callers would slow down the one
    // that works on the order.
    if !is_abandoned(&sagas.store().snapshot(id).await?) {
        return Ok(known);
    }
    let change = sagas.store().change(id, |snapshot, _| {
        let claim = || Decision::Claim(Box::new(snapshot.order().clone()));
        Ok(if is_abandoned(snapshot) { claim() } else { Decision::Keep })
    });
    match change.await? {
        ChangeOutcome::Kept(_) => sagas.store().lookup(request).await,
        ChangeOutcome::Claimed(claimed) => claim_after(sagas, request, sagas.run_steps(*claimed).await).await,
    }
}

/// True when an order has a next step and no replica works on it.
fn is_abandoned(snapshot: &OrderSnapshot) -> bool {
    !snapshot.is_claimed && snapshot.order().next_step().is_some()
}
