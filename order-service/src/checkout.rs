//! How a cart becomes an order, and how an order lives: the saga.
//!
//! An order is a promise about three databases that are not ours: the goods in
//! product-service, the money in payment-service, the parcel with the carrier.
//! No transaction spans them. So each step is written to the order's row before
//! and after it is taken, and every call to a neighbour carries the order's id
//! as its key: it can be sent again by whoever finds the row, at any time, with
//! the same effect as once. The row is the coordinator's log of a two-phase
//! commit.
//!
//! # `CreateOrder`
//!
//! 1. **Read the cart**, with the prices of this moment. A cart that makes no
//!    order, or is not the one that the caller has seen, is refused, unless the
//!    request is known (step 3); the request id is not used up.
//! 2. **Record** the order PENDING with lines, prices and the version of the
//!    cart, and the claim on the request id: one transaction. From here on it
//!    goes on without its caller. A crash before leaves nothing.
//! 3. **A request that is known** is what that transaction finds, which then
//!    writes nothing; it is looked up when the cart is refused, fails or is long
//!    in coming, too. One that was answered is answered the same again, byte for
//!    byte. One that is being worked on is waited for, for a moment
//!    (`REQUEST_IN_PROGRESS`), or carried on here when nobody does.
//! 4. **Secure** the goods: reserve them under the order's id and commit that.
//!    Either can be done again. A lease that ran out between the two is had anew,
//!    if there still are pieces. Too few of them → CANCELLING, and the refusal is
//!    stored as the request's answer, in one transaction; then key and reservation
//!    are closed → CANCELLED. **Empty the cart**, unless it has changed since it
//!    was read.
//! 5. **Confirm**: CONFIRMED, its event and the answer, one transaction. Event,
//!    answer, `GetOrder` and `WatchOrder` say so from then on: what is confirmed owns
//!    its goods.
//!
//! A cart that could not be emptied in step 4 does not hold up the answer: it is
//! tried again for ten minutes, and then left as it is.
//!
//! **One version of a cart is ordered once**: the transaction of step 2 claims it
//! for the order, too. Another request finds it claimed (`CART_ORDERED`) until
//! the cart has another version, or the order was cancelled for want of goods.
//!
//! # `PayOrder`, `ShipOrder`, `CancelOrder`
//!
//! - **Pay**: CONFIRMED → PAYING with the payment method, durable → `Charge` →
//!   PAID; declined → CONFIRMED. When it is not known whether the charge was
//!   made, the order stays PAYING and the same charge is asked for again: its
//!   key makes asking and finding out one thing. Each charge carries the claim by
//!   which it is asked for as its fencing token: what was held in the network
//!   while a later one was declined charges nothing any more.
//! - **Ship**: whether charge and goods still are the order's is asked; if
//!   somebody gave them back → CANCELLING. PAID → SHIPPING, durable → the
//!   carrier's booking → SHIPPED; refused → CANCELLING.
//! - **Cancel**: → CANCELLING, durable → `Refund` and `ReleaseReservation`, also
//!   of what was never tried → CANCELLED. Both are final where they happen: a
//!   charge or a reservation that was still on its way, or that others make under
//!   the order's id, finds its key closed. So a charge whose outcome is unknown
//!   can be cancelled without knowing it.
//!
//! # When a step fails
//!
//! - **A neighbour fails or is silent**: nobody knows whether it did what it
//!   was asked. The caller is told UNAVAILABLE or `DEADLINE_EXCEEDED`, and the
//!   order is due again after a pause that doubles up to 5 s. Whoever sends the
//!   same request, or looks for work ([`recovery`](crate::recovery)), takes the
//!   same step again.
//! - **This process dies**, or its database is lost: the lease on the order
//!   runs out after 10 s and another replica, or the next process, goes on.
//! - **Two replicas believe that an order is theirs**: each write carries a
//!   claim, and the older claim's is refused; see [`crate::store`]. What both
//!   have asked neighbours for happened once, because of its key.

use std::{pin::pin, time::Duration};

use mesh_proto::shop::order::v1 as wire;
use service_kit::{
    idempotency::{Claim, IdempotentRequest, StoredResponse, id_reused},
    money::Money,
    timestamp::Timestamp,
    value::{CustomerId, Etag},
};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    Error,
    carts::Snapshot,
    domain::{Order, OrderId, RequestId},
    saga::{Driven, End, PATIENCE, Sagas},
    store::{Changed, Placed, Present, Verdict},
};

/// How long a cart may take before it is asked whether there is a need for it.
const GLANCE: Duration = Duration::from_millis(50);

/// The method that request ids are of.
pub const METHOD: &str = "shop.order.v1.OrderService/CreateOrder";

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose cart, and who buys.
    pub customer: CustomerId,
    /// What tells this request from others.
    pub request: RequestId,
    /// The version of the cart that the caller has seen, when it says so.
    pub seen: Option<Etag>,
    /// What the order must come to, when the caller says so.
    pub total: Option<Money>,
    /// The whole request.
    pub asked: IdempotentRequest,
}

/// A request whose cart was read: nothing was written for it.
#[derive(Debug)]
pub enum Begun {
    /// It is known.
    Known(Claim),
    /// It asks for this order, of that version of the cart, unless it is known.
    New(Box<Order>, Etag),
}

/// Reads the cart: step 1. Looks the request up only when it does not help to
/// have the cart, since nearly all requests are new.
///
/// # Errors
/// When the cart is empty, cannot be priced or is not the one that the caller
/// has seen, or something failed.
///
/// # Cancel safety
/// Cancel safe.
pub async fn begin(sagas: &Sagas, wanted: &Wanted) -> Result<Begun, Error> {
    let mut cart = pin!(sagas.carts().get(&wanted.customer));
    let cart = match timeout(GLANCE, cart.as_mut()).await {
        Ok(cart) => cart,
        // Who asks again shall not wait for a cart that is not needed.
        Err(_) => match sagas.store().glance(wanted).await? {
            Claim::New => cart.await,
            known => return Ok(Begun::Known(known)),
        },
    };
    match cart.map_err(Error::Neighbour).and_then(|cart| order_of(wanted, cart)) {
        Ok((order, cart)) => Ok(Begun::New(Box::new(order), cart)),
        // Another sending of this very request has ordered the cart and emptied
        // it, perhaps.
        Err(refused) => match sagas.store().look(wanted).await? {
            Claim::New => Err(refused),
            known => Ok(Begun::Known(known)),
        },
    }
}

/// Makes the order, or finds the one that this request made: all further
/// steps. Whoever wants them taken also when the caller leaves runs this by
/// [`Sagas::run`].
///
/// # Errors
/// When the request id was used with another body or is being worked on, another
/// request has ordered this version of the cart, the goods cannot be had, or
/// something failed.
///
/// # Cancel safety
/// What was begun is carried on when its lease runs out; the same request finds
/// out.
pub async fn finish(sagas: &Sagas, wanted: &Wanted, begun: Begun) -> Result<wire::Order, Error> {
    let claim = match begun {
        Begun::Known(claim) => claim,
        Begun::New(order, cart) => match sagas.store().place(wanted, *order, cart).await? {
            Placed::Known(claim) => claim,
            Placed::Ordered(order) => return Err(Error::CartOrdered(order)),
            Placed::New(held) => known_after(sagas, wanted, sagas.drive(*held).await).await?,
        },
    };
    match claim {
        Claim::Stored(answer) => told(&answer),
        Claim::InProgress(order) => await_answer(sagas, wanted, &order).await,
        Claim::IdReused => Err(Error::Told(Box::new(id_reused(wanted.request).into_status(crate::NAME)))),
        Claim::New => Err(Error::InProgress(wanted.request)),
    }
}

fn told(answer: &StoredResponse) -> Result<wire::Order, Error> {
    answer.read().map_err(|status| Error::Told(Box::new(status)))
}

fn order_of(wanted: &Wanted, cart: Snapshot) -> Result<(Order, Etag), Error> {
    if wanted.seen.is_some_and(|seen| seen != cart.etag) {
        return Err(Error::CartChanged);
    }
    let etag = cart.etag;
    let order = Order::place(wanted.customer.clone(), cart.lines, Timestamp::now())?;
    match wanted.total {
        Some(expected) if expected != order.facts().total => {
            Err(Error::TotalChanged { expected, total: order.facts().total })
        }
        _ => Ok((order, etag)),
    }
}

/// What is known of a request whose order was driven: an answer that is stored
/// counts, whatever failed after it.
async fn known_after(sagas: &Sagas, wanted: &Wanted, driven: Driven) -> Result<Claim, Error> {
    if let Some(answer) = driven.answer {
        return Ok(Claim::Stored(answer));
    }
    match (sagas.store().look(wanted).await?, driven.end) {
        (Claim::InProgress(_), End::Failed(fault)) => Err(Error::Neighbour(fault)),
        (known, _) => Ok(known),
    }
}

/// Waits a moment for the answer to a request that is being worked on; works on
/// it where nobody does.
async fn await_answer(sagas: &Sagas, wanted: &Wanted, order: &str) -> Result<wire::Order, Error> {
    let id = OrderId::parse(order).map_err(|why| service_kit::database::Error::corrupt("reference", why))?;
    let mut changes = sagas.store().database().changes().subscribe(order);
    let patience = Instant::now() + PATIENCE;
    loop {
        match carry_on(sagas, wanted, id).await? {
            Claim::Stored(answer) => return told(&answer),
            _ if timeout_at(patience, changes.changed()).await.is_err() => {
                return Err(Error::InProgress(wanted.request));
            }
            _ => {}
        }
    }
}

/// Takes on the order of a request unless somebody has it; returns what is
/// known of the request then.
async fn carry_on(sagas: &Sagas, wanted: &Wanted, id: OrderId) -> Result<Claim, Error> {
    let known = sagas.store().look(wanted).await?;
    if !matches!(known, Claim::InProgress(_)) {
        return Ok(known);
    }
    // Of a crowd that waits for one order most only look: each lock of its row
    // would hold up who works on it.
    if !is_left(&sagas.store().present(id).await?) {
        return Ok(known);
    }
    let left = sagas.store().change(id, |present, _| {
        let take = || Verdict::Take(Box::new(present.order().clone()));
        Ok(if is_left(present) { take() } else { Verdict::Leave })
    });
    match left.await? {
        Changed::Left(_) => sagas.store().look(wanted).await,
        Changed::Taken(held) => known_after(sagas, wanted, sagas.drive(*held).await).await,
    }
}

/// Whether something is to be done and nobody does it.
fn is_left(present: &Present) -> bool {
    !present.busy && present.order().next_step().is_some()
}
