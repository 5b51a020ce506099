//! The errors of the service and their statuses.

use service_kit::{database, error::Fault, money::MoneyError, value::Sku};
use tonic::{Code, Status};

use crate::domain::Rejection;

/// The reason why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed.
    #[error("the request is malformed")]
    Invalid(Fault),
    /// A rule of the cart forbids it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The product to add does not exist.
    #[error("there is no product {0}")]
    ProductNotFound(Sku),
    /// Products in the cart are no longer sold.
    #[error("{} products of the cart are no longer sold", .0.len())]
    Withdrawn(Vec<String>),
    /// The prices have no sum in one currency.
    #[error("the cart has no total: {0}")]
    NoTotal(#[source] MoneyError),
    /// product-service failed.
    #[error("product-service failed")]
    Catalogue(Fault),
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
        let message = error.to_string();
        let fault = match error {
            Error::Invalid(fault) | Error::Catalogue(fault) => fault,
            Error::Rejected(rejection) => rejection_fault(&rejection, message),
            Error::ProductNotFound(sku) => {
                Fault::new(Code::NotFound, "PRODUCT_NOT_FOUND", message).with("product_id", sku)
            }
            Error::Withdrawn(skus) => {
                let skus = skus.join(",");
                let message = format!("no longer sold: {skus}; remove them with RemoveItem");
                Fault::new(Code::FailedPrecondition, "PRODUCT_WITHDRAWN", message).with("product_ids", skus)
            }
            Error::NoTotal(_) => Fault::new(Code::FailedPrecondition, "CART_HAS_NO_TOTAL", message),
            Error::Database(error) => error.fault(),
        };
        fault.into_status(crate::NAME)
    }
}

fn rejection_fault(rejection: &Rejection, message: String) -> Fault {
    match rejection {
        Rejection::TooMany { sku, held: pieces, .. } => {
            Fault::new(Code::FailedPrecondition, "TOO_MANY_PIECES", message)
                .with("product_id", sku)
                .with("held", pieces)
        }
        Rejection::Full => Fault::new(Code::FailedPrecondition, "CART_FULL", message),
        Rejection::Mixed { sku, held: currency, other } => {
            Fault::new(Code::FailedPrecondition, "CURRENCY_MIXED", message)
                .with("product_id", sku)
                .with("cart_currency", currency)
                .with("product_currency", other)
        }
        Rejection::NotInCart(sku) => {
            Fault::new(Code::NotFound, "ITEM_NOT_FOUND", message).with("product_id", sku)
        }
        Rejection::Changed => Fault::new(Code::Aborted, "CART_CHANGED", message),
    }
}
