//! What can go wrong with an order.

use std::time::Duration;

use mesh_proto::shop::order::v1::OrderState;
use service_kit::{database, error::Fault, idempotency, money::Money};
use tonic::{Code, Status};

use crate::domain::{NoOrder, OrderId, RequestId, WrongState};

/// When to come again for an order that somebody works on.
const COME_AGAIN: Duration = Duration::from_millis(500);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed, or not for its caller to make.
    #[error("the request is refused")]
    Invalid(Fault),
    /// It was answered so before, or cannot be asked so.
    #[error("the answer is settled")]
    Told(Box<Status>),
    /// The same request is being worked on.
    #[error("the request {0} is being worked on")]
    InProgress(RequestId),
    /// What is in the cart makes no order.
    #[error(transparent)]
    NoOrder(#[from] NoOrder),
    /// The cart is not the one that the caller has seen.
    #[error("the cart has changed since; read it again")]
    CartChanged,
    /// Another request has ordered this version of the cart, as this order.
    #[error("this version of the cart was ordered already; read the cart again")]
    CartOrdered(OrderId),
    /// The order does not come to what the caller was shown.
    #[error("the order comes to {total}, not to {expected}; read the cart again")]
    TotalChanged {
        /// What the caller expects.
        expected: Money,
        /// What it comes to.
        total: Money,
    },
    /// The goods cannot be had; which, as product-service says.
    #[error("there are too few pieces of what was ordered: {0}")]
    OutOfStock(String),
    /// There is no such order, or none for this caller.
    #[error("there is no order {0}")]
    NotFound(OrderId),
    /// The order is in no state for it.
    #[error(transparent)]
    WrongState(#[from] WrongState),
    /// The payment method was declined.
    #[error("the payment was declined; try another payment method")]
    Declined,
    /// The carrier refused it.
    #[error("the carrier refuses the order; it is cancelled and refunded")]
    ShippingRefused,
    /// Somebody else works on the order.
    #[error("the order {0} is being worked on; try again")]
    Busy(OrderId),
    /// Too many orders are being worked on.
    #[error("too many orders are being worked on; try again")]
    Full,
    /// This replica ends.
    #[error("this replica is stopping; call again to go on with another")]
    Stopping,
    /// A service that is needed failed.
    #[error("a service that is needed failed")]
    Neighbour(Fault),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] database::Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

impl Error {
    /// What the caller is told.
    #[must_use]
    pub fn into_fault(self) -> Fault {
        let words = self.to_string();
        let held = |reason| Fault::new(Code::FailedPrecondition, reason, words.clone());
        match self {
            Self::Invalid(fault) | Self::Neighbour(fault) => fault,
            Self::Told(status) => Fault::new(status.code(), "SETTLED", status.message()),
            Self::InProgress(id) => idempotency::in_progress(id),
            Self::NoOrder(NoOrder::Empty) => held("CART_EMPTY"),
            Self::NoOrder(NoOrder::NoTotal(_)) => held("CART_HAS_NO_TOTAL"),
            Self::CartChanged => Fault::new(Code::Aborted, "CART_CHANGED", words),
            Self::CartOrdered(id) => Fault::new(Code::Aborted, "CART_ORDERED", words).with("order_id", id),
            Self::TotalChanged { total, .. } => held("TOTAL_CHANGED").with("total", total),
            Self::OutOfStock(skus) => held("OUT_OF_STOCK").with("product_ids", skus),
            Self::NotFound(id) => Fault::new(Code::NotFound, "ORDER_NOT_FOUND", words).with("order_id", id),
            Self::WrongState(WrongState(state)) => {
                held("WRONG_STATE").with("state", OrderState::from(state).as_str_name())
            }
            Self::Declined => held("PAYMENT_DECLINED"),
            Self::ShippingRefused => held("SHIPPING_REFUSED"),
            Self::Busy(id) => {
                Fault::new(Code::Aborted, "ORDER_BUSY", words).with("order_id", id).retry_in(COME_AGAIN)
            }
            Self::Full => Fault::new(Code::Unavailable, "TOO_MANY_ORDERS", words).retry_in(COME_AGAIN),
            Self::Stopping => Fault::new(Code::Unavailable, "DRAINING", words),
            Self::Database(error) => error.fault(),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Told(status) => *status,
            error => error.into_fault().into_status(crate::NAME),
        }
    }
}
