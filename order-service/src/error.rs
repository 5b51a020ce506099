//! What can go wrong with an order.

use service_kit::{database, error::Fault};
use tonic::{Code, Status};

use crate::domain::{NoOrder, OrderId, RequestId};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed.
    #[error("the request is malformed")]
    Invalid(Fault),
    /// The request id was used for another request.
    #[error("the request id {0} was used with another body; choose a new one")]
    Reused(RequestId),
    /// What is in the cart makes no order.
    #[error(transparent)]
    NoOrder(#[from] NoOrder),
    /// The cart is not the one that the caller has seen.
    #[error("the cart has changed since; read it again")]
    CartChanged,
    /// There is no such order.
    #[error("there is no order {0}")]
    NotFound(OrderId),
    /// cart-service failed.
    #[error("cart-service failed")]
    Carts(Fault),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] database::Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let words = error.to_string();
        let held = Code::FailedPrecondition;
        let fault = match error {
            Error::Invalid(fault) | Error::Carts(fault) => fault,
            Error::Reused(id) => Fault::new(Code::InvalidArgument, "REQUEST_ID_REUSED", words)
                .with("request_id", id)
                .field("request_id", "was used with another body"),
            Error::NoOrder(NoOrder::Empty) => Fault::new(held, "CART_EMPTY", words),
            Error::NoOrder(NoOrder::NoTotal(_)) => Fault::new(held, "CART_HAS_NO_TOTAL", words),
            Error::CartChanged => Fault::new(Code::Aborted, "CART_CHANGED", words),
            Error::NotFound(id) => Fault::new(Code::NotFound, "ORDER_NOT_FOUND", words).with("order_id", id),
            Error::Database(error) => error.fault(),
        };
        fault.into_status(crate::NAME)
    }
}
