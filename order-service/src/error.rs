//! The errors of orders.

use std::time::Duration;

use mesh_proto::shop::order::v1 as wire;
use service_kit::{database, error::Fault, idempotency, money::Money};
use tonic::{Code, Status};

use crate::domain::{NotOrderable, OrderId, RequestId, WrongState};

/// The delay before a retry on a busy order.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// The reason why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed, or its caller may not make it.
    #[error("the request is rejected")]
    Invalid(Fault),
    /// The stored response to the request is this error.
    #[error("the stored response is an error")]
    Stored(Box<Status>),
    /// The same request is in progress.
    #[error("the request {0} is in progress")]
    InProgress(RequestId),
    /// The cart cannot be ordered.
    #[error(transparent)]
    NotOrderable(#[from] NotOrderable),
    /// The cart is not the one that the caller has seen.
    #[error("the cart has changed since; read it again")]
    CartChanged,
    /// Another request has ordered this version of the cart, as this order.
    #[error("this version of the cart was ordered already; read the cart again")]
    CartOrdered(OrderId),
    /// The total is not the one that the caller expects.
    #[error("the total of the order is {total}, not {expected}; read the cart again")]
    TotalChanged {
        /// The total that the caller expects.
        expected: Money,
        /// The total of the order.
        total: Money,
    },
    /// The goods are out of stock, of these SKUs.
    #[error("there are too few pieces of the ordered products: {0}")]
    OutOfStock(String),
    /// There is no such order, or none for this caller.
    #[error("there is no order {0}")]
    NotFound(OrderId),
    /// The state of the order does not allow it.
    #[error(transparent)]
    WrongState(#[from] WrongState),
    /// The payment method was declined.
    #[error("the payment was declined; try another payment method")]
    Declined,
    /// The carrier refused it.
    #[error("the carrier refuses the order; it is cancelled and refunded")]
    ShippingRefused,
    /// Another replica works on the order.
    #[error("the order {0} is busy; try again")]
    Busy(OrderId),
    /// Too many orders are in progress.
    #[error("too many orders are in progress; try again")]
    Overloaded,
    /// This replica is shutting down.
    #[error("this replica is shutting down; call again to reach another")]
    Stopping,
    /// A dependency failed.
    #[error("a dependency failed")]
    Dependency(Fault),
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
    /// The fault for the caller.
    #[must_use]
    pub fn into_fault(self) -> Fault {
        let words = self.to_string();
        let precondition = |reason| Fault::new(Code::FailedPrecondition, reason, words.clone());
        match self {
            Self::Invalid(fault) | Self::Dependency(fault) => fault,
            Self::Stored(status) => Fault::new(status.code(), "SETTLED", status.message()),
            Self::InProgress(id) => idempotency::in_progress(id),
            Self::NotOrderable(NotOrderable::EmptyCart) => precondition("CART_EMPTY"),
            Self::NotOrderable(NotOrderable::NoTotal(_)) => precondition("CART_HAS_NO_TOTAL"),
            Self::CartChanged => Fault::new(Code::Aborted, "CART_CHANGED", words),
            Self::CartOrdered(id) => Fault::new(Code::Aborted, "CART_ORDERED", words).with("order_id", id),
            Self::TotalChanged { total, .. } => precondition("TOTAL_CHANGED").with("total", total),
            Self::OutOfStock(skus) => precondition("OUT_OF_STOCK").with("product_ids", skus),
            Self::NotFound(id) => Fault::new(Code::NotFound, "ORDER_NOT_FOUND", words).with("order_id", id),
            Self::WrongState(WrongState(state)) => {
                precondition("WRONG_STATE").with("state", wire::OrderState::from(state).as_str_name())
            }
            Self::Declined => precondition("PAYMENT_DECLINED"),
            Self::ShippingRefused => precondition("SHIPPING_REFUSED"),
            Self::Busy(id) => {
                Fault::new(Code::Aborted, "ORDER_BUSY", words).with("order_id", id).retry_in(RETRY_DELAY)
            }
            Self::Overloaded => Fault::new(Code::Unavailable, "TOO_MANY_ORDERS", words).retry_in(RETRY_DELAY),
            Self::Stopping => Fault::new(Code::Unavailable, "DRAINING", words),
            Self::Database(error) => error.fault(),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Stored(status) => *status,
            error => error.into_fault().into_status(crate::NAME),
        }
    }
}
